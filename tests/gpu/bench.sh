#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench.sh - that `make bench-gpu` can run: on the software driver, whose figures mean nothing, every row is there and the driver
# sees nothing wrong; what is refused, lost, hung or dead costs what needs it, and is named. (Networks: bench_networks.sh.)
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
export FAKECUDA_REPORT=$RUN/violations
if [ -n "${DRIVER-}" ] || [ ! -e "$BUILD/tests/libfakecuda.so" ]; then
	skip "a dry run of bench-gpu" "only on the software driver"
	finish
fi

# A copy of what of the build folder it uses, so that it writes its results there.
mkdir -p "$RUN/build/tests"
for file in infbroker infbroker-executor infbench shmctl libinfclient.so.0; do ln -s "$PWD/$BUILD/$file" "$RUN/build/"; done
for file in gpu_costs device_loop device_load libfakecuda.so libfakenvml.so; do ln -s "$PWD/$BUILD/tests/$file" "$RUN/build/tests/"; done

small=E1,E2,E3,E4,E5,E6,E7 broker="E10 throughput,E10 latency,E10 bandwidth,E10 cpu,E10 busy"
bench() { timeout 250 python3 tests/gpu/bench.py --build "$RUN/build" --dry "$@" >"$RUN/bench.txt" 2>&1; }
# finds EXPR: holds of the results, with d all of them, rows, and state and why of each experiment
finds() {
	python3 - "$RUN/build/bench/gpu-dry.json" "$1" <<-'PYTHON'
		import json, sys
		d = json.load(open(sys.argv[1]))
		rows, ceilings = d["rows"], {line["metric"]: line for line in d["ceilings"]}
		state = {line["name"]: line["state"] for line in d["experiments"]}
		why = {line["name"]: line["why"] for line in d["experiments"]}
		lack = sorted(row["name"] for row in rows if "why" in row)
		sys.exit(0 if eval("(" + sys.argv[2] + ")") else f"{state} {why} {lack}")
	PYTHON
}
prints() { grep -qE -- "$1" "$RUN/bench.txt"; }
crossovers='[name for name in lack if not name.startswith("E3 crossover")]'
others_ran='all(s == "ran" and any(row["experiment"] == name for row in rows) for name, s in state.items() if name not in ("E5", "E6 under MPS"))'

# --- all of it ----------------------------------------------------------------------------------------------------------

check "it runs to its end" bench --only "$small,$broker"
check "its first and its last title say that the figures mean nothing" bash -c "[ \$(grep -c 'A SOFTWARE DRIVER, NOT A GPU: THE FIGURES MEAN NOTHING' '$RUN/bench.txt') = 2 ]"
check "so do its results" finds 'd["software"] and "FIGURES MEAN NOTHING" in d["title"] and all(c["holds"] is None for c in ceilings.values())'
check "which are no GPU's file" [ ! -e "$RUN/build/bench/gpu.json" ]
check "device, driver and clocks" finds '"software device 0" in d["title"] and "driver 580" in d["title"] and "SM clock 1980 MHz, memory clock 2619" in d["title"]'
check "each experiment has run and has rows" finds "$others_ran and state['E5'] == 'ran'"
check "all rows but crossovers have figures" finds "not $crossovers"
check "memory is shared" finds 'all(row["value"] == 1 for row in rows if row["name"] in ("E1 bytes there and back through another process",
	"E7 memory whose maker was killed is there all the same"))'
check "the executor's calibration stands beside six crossovers" finds 'sum(row["name"].startswith("E3 crossover") for row in rows) == 6 and
	any(row["name"].startswith("E3 the executor") and 4 <= row["value"] <= 256 for row in rows)'
check "every ceiling has a figure or says why not" finds 'len(ceilings) == 15 and all((c["found"] is None) != (c["why"] is None) for c in ceilings.values())'
check "all that the builtin models can say is said" finds 'sum(c["found"] is not None for c in ceilings.values()) == 8'
if command -v nvidia-cuda-mps-control >/dev/null; then
	skip "without MPS" "it is installed here"
else
	check "without MPS: a word" finds 'state["E6 under MPS"] == "skipped" and "not installed" in why["E6 under MPS"]'
fi
check "the driver saw nothing wrong" [ ! -s "$RUN/violations" ]
check "an experiment that there is not" bash -c "! python3 tests/gpu/bench.py --build '$RUN/build' --dry --only E99"

# --- calls that are refused -------------------------------------------------------------------------------------------------

FAKECUDA_FAULTS=cuMemExportToShareableHandle:1:801 check "no export: it runs to its end" bench --only "$small"
check "and only what needs it has no figure" finds "$crossovers == ['E1 bytes there and back through another process', 'E4 2 MiB', 'E7 memory',
	'E7 memory whose maker was killed is there all the same']"
FAKECUDA_FAULTS=cuMemHostRegister_v2:1:801,cuMemHostRegister_v2:2:801 check "no registration: it runs to its end" bench --only E2,E5
check "and only what needs it has no figure" finds "lack == ['E2 register a memfd that is not', 'E2 register a memfd that is populated',
	'E5 a word to another process\\'s CPU and back', 'E5 a word to another process\\'s stream and back',
	'E5 an event to another process\\'s stream and a word back']"
FAKECUDA_FAULTS=cuDevicePrimaryCtxRetain:1:2 check "no device: a word, and no failure" bench
check "which is this" prints 'NOTHING WAS MEASURED: CUDA_ERROR_OUT_OF_MEMORY'
check "no driver: a word, and no failure" bash -c "INF_CUDA_LIBRARY=libnowhere.so python3 tests/gpu/bench.py --build '$RUN/build' | grep -q 'NOTHING WAS MEASURED: no CUDA driver'"

# A kernel takes 9.2 ms whatever it gathers; four rows copied together 1.6 ms for each KiB of one: they meet between 4 and 8 KiB.
FAKECUDA_COPY_NS_PER_BYTE=400 FAKECUDA_KERNEL_US=inf_move=9200 check "delays of known size: it runs to its end" bench --only E3
check "the crossover is where it must be" finds '[row.get("value", row.get("why")) for row in rows if row["name"] in (
	"E3 crossover, time: a copy each is no worse than a kernel that reads host memory from",
	"E3 crossover, time: a kernel that reads host memory is no worse than CPU, then one copy from")] == ["not up to rows of 16 KiB", 8]'

# --- isolation ---------------------------------------------------------------------------------------------------------------

# Only E5 makes this call.
lost=cuLaunchHostFunc:3:719 hung=cuLaunchHostFunc:3:hang
FAKECUDA_FAULTS=$lost check "a context that is lost: it runs to its end" bench --only "$small"
check "it is named" finds 'state["E5"] == "lost" and why["E5"] == "the context was lost: CUDA_ERROR_LAUNCH_FAILED"'
check "and costs that experiment alone" finds "$others_ran"
in_one() { INF_CUDA_LIBRARY=$PWD/$BUILD/tests/libfakecuda.so timeout "$1" "$BUILD/tests/gpu_costs" --quick E5 E7 >"$RUN/one.txt" 2>&1; }
check "in one process there is more after it" bash -c "$(declare -f in_one); BUILD=$BUILD RUN=$RUN in_one 60; grep -q '\"E7 ' '$RUN/one.txt'"
FAKECUDA_FAULTS=$lost in_one 60
check "which the same error would cost" bash -c "grep -q '\"lost\"' '$RUN/one.txt' && ! grep -q '\"E7 ' '$RUN/one.txt'"

FAKECUDA_FAULTS=$hung check "an experiment that hangs: it runs to its end" bench --only "$small" --limit E5=2
check "it is named" finds 'state["E5"] == "hung" and why["E5"] == "it had not ended after 2 s"'
check "and costs that experiment alone" finds "$others_ran"
FAKECUDA_FAULTS=$hung in_one 2
check "which it would not in one process" bash -c "! grep -q '\"E7 ' '$RUN/one.txt'"

# A broker whose device hangs: its executor is in a process group of its own.
in_session() { setsid --wait bash -c "echo \$\$ >'$RUN/sid'; $(declare -f bench); RUN=$RUN; bench \"\$@\"" in_session "$@"; }
FAKECUDA_FAULTS=cuLaunchKernel:300:hang check "a device that hangs under a broker: it runs to its end" in_session --only "E10 busy,E1" --limit "E10 busy=4"
check "it is named, and costs that experiment alone" finds 'state == {"E1": "ran", "E10 busy": "hung"}'
check "nothing of it is left" bash -c "[ -z \"\$(ps -o pid= -s \$(cat '$RUN/sid'))\" ]"
FAKECUDA_FAULTS=cuLaunchKernel:300:719 check "one that is lost: it runs to its end" bench --only "E10 busy,E1"
check "it says what the broker says" finds 'state == {"E1": "ran", "E10 busy": "died"} and "CUDA_ERROR_LAUNCH_FAILED" in why["E10 busy"]'

# --- processes that behave badly, and MPS: programs of ours in their place --------------------------------------------------------

rm "$RUN/build/tests/gpu_costs"
cat >"$RUN/build/tests/gpu_costs" <<-SCRIPT
	#!/bin/bash
	case \$2 in
	E1) echo 'no JSON'; echo '{"name": "E1 said", "value": 1, "unit": ""}'; kill -SEGV \$\$ ;;
	E2) echo '{"name": "E2 said", "value": 2, "unit": ""}'; echo "what was wrong" >&2; exit 7 ;;
	E3) setsid sleep 3600 & echo \$! >"$RUN/sleeper"; exec 1>&-; exec sleep 3600 ;;
	E6) echo "{\"name\": \"E6 in \$CUDA_MPS_PIPE_DIRECTORY\", \"value\": 6, \"unit\": \"\"}" ;;
	*) exec "$PWD/$BUILD/tests/gpu_costs" "\$@" ;;
	esac
SCRIPT
mkdir "$RUN/bin"
cat >"$RUN/bin/nvidia-cuda-mps-control" <<-SCRIPT
	#!/bin/bash
	echo "\${1-\$(cat)} \$CUDA_MPS_PIPE_DIRECTORY" >>"$RUN/mps"
	[ -n "\${1-}" ] || exit 0
	[ -d "\$CUDA_MPS_PIPE_DIRECTORY" ] && [ ! -e "$RUN/mps-fails" ] || { echo "no MPS today" >&2; exit 1; }
	setsid sleep 3600 & # keeps its output open
SCRIPT
chmod +x "$RUN/build/tests/gpu_costs" "$RUN/bin/nvidia-cuda-mps-control"
PATH=$RUN/bin:$PATH check "programs that die: it runs to its end" bench --only E1,E2,E3,E6,E7 --limit E3=1
check "one that crashed is named, and what it said before counts" finds 'why["E1"] == "it ended with signal 11: and said nothing" and
	[row["value"] for row in rows if row["experiment"] == "E1"] == [1]'
check "one that failed says its last words" finds 'state["E2"] == "died" and why["E2"] == "it ended with status 7: what was wrong"'
check "one that closes its output and stays is hung" finds 'state["E3"] == "hung"'
check "and leaves nothing behind" has_ended "$(cat "$RUN/sleeper")"
check "the one after them runs" finds 'state["E7"] == "ran" and sum(row["experiment"] == "E7" for row in rows) == 5'
check "MPS is started for one experiment, and ended" bash -c "[ \"\$(sed 's/ .*//' '$RUN/mps' | tr '\n' ' ')\" = '-d quit ' ] && [ \$(sed 's/.* //' '$RUN/mps' | sort -u | wc -l) = 1 ]"
check "which knows where, and says so" finds "[row['name'] for row in rows if row['name'].endswith(', MPS on')] == ['E6 in $(sed 's/.* //;q' "$RUN/mps"), MPS on']"
: >"$RUN/mps-fails"
PATH=$RUN/bin:$PATH check "MPS that does not start: it runs to its end" bench --only E6
check "and is named" finds 'state["E6 under MPS"] == "skipped" and why["E6 under MPS"] == "nvidia-cuda-mps-control -d: no MPS today"'
check "the time of all of them is limited" bench --only E1,E7 --seconds 0.5
check "what is left out is named" finds 'all(s == "skipped" for s in state.values()) and "were over" in why["E7"]'

# --- ceilings ------------------------------------------------------------------------------------------------------------------

# Rows that are as good as they must be, and not.
check "ceilings hold and do not" python3 - tests/gpu <<-'PYTHON'
	import sys
	sys.path.insert(0, sys.argv[1])
	import ceilings
	def rows(good):
	    yield {"key": "mlp device", "name": "mlp device", "value": 7 if good else 6, "floor": 10, "ratio": 0.7 if good else 0.6, "unit": ""}
	    for key in ("resnet50 host", "resnet50 device", "bert host"):
	        yield {"key": key, "name": key, "value": 99 if good else 96, "floor": 100, "ratio": 0.99 if good else 0.96, "unit": ""}
	    for key in ("host latency p50", "host latency p99", "device latency p50", "sleeping p50"):
	        yield {"key": key, "name": key, "value": 109 if good else 130, "floor": 100, "ratio": 1, "unit": "us"}
	    for key, value in (("bandwidth 256 KiB", 19.5), ("bandwidth 64 KiB", 16.5), ("busy", 0.98)):
	        yield {"key": key, "name": key, "value": value if good else value * 0.95}
	    yield {"key": "cpu", "name": "cpu", "value": 2 if good else 4}
	    yield {"name": "E2 copy in, pinned, 1 MiB", "value": 10}
	    yield {"name": "E2 copy in, pinned, 64 MiB", "value": 20}
	    yield {"name": "E8 resnet50, script, batch 1", "value": 1000}
	    yield {"name": "E9 resnet50, script, batch 1, graph", "value": 500 if good else 600}
	for good in (True, False):
	    found = [line for line in ceilings.judge(list(rows(good)), {}, False) if line["found"] is not None]
	    assert len(found) == 13 and all(line["holds"] is good for line in found), found
	    assert all(line["holds"] is None for line in ceilings.judge(list(rows(good)), {}, True))
	why = {line["metric"]: line["why"] for line in ceilings.judge([], {"E10 latency": "it hung", "E2": None}, False)}
	assert all(why.values()) and why["the same, p99"] == "E10 latency: it hung", why
PYTHON
finish
