#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernel.sh - `shmctl trace --kernel`, `shmctl latency --source=bpf`: delays that are put in on purpose are found in the stage that
# they belong to, the stages are the client's own time, and each step down says why. Needs root (or the rights), and skips by name.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
TIMED=$BUILD/tests/timed
stages() { "$PY" -I tests/support/kernel_stages.py "$@"; }

says "another source" 2 'takes statistics or bpf, not "tea"' "$CTL" latency --source=tea
says "a time that is none" 2 'slow takes a time, as 5s or 200ms, not "5parsecs"' "$CTL" trace --kernel --slow 5parsecs
says "another scheduler" 2 'takes btf, tracepoint or none' "$CTL" trace --kernel --sched tea
says "what does not go together" 2 'do not go with --source bpf' "$CTL" latency --source=bpf --dist
says "what goes with it alone" 2 '--client and --sched go with --kernel alone' "$CTL" trace --sched none
says "and of latency" 2 '--client and --sched go with --source bpf alone' "$CTL" latency --client /none
says "an option that is none" 2 '-x: what is that\?' "$CTL" trace --kernel -x
if "$CTL" trace --kernel 2>&1 | grep -q 'built without BPF'; then
	broker_start --builtin || { not_ok "start"; finish; }
	says "without BPF: the broker's own trace" 0 'built without BPF.*own trace' "$CTL" trace --kernel -d 0.1
	says "without BPF: statistics alone" 0 'built without BPF.*statistics alone' "$CTL" latency --source=bpf -d 0.1
	skip "requests from the kernel" "this build has no BPF"
	finish
fi
says "no broker" 3 'no broker runs' "$CTL" trace --kernel -d 1

INF_BUILTIN_COST=2000,0 broker_start --builtin --instances 1 || { not_ok "start"; finish; }
OTHER=(setpriv --reuid=65534 --regid=65534 --clear-groups "$RUN/bin/shmctl")
if other_user; then
	says "without rights: statistics alone, and what would give more" 0 'CAP_BPF and CAP_PERFMON' \
		"${OTHER[@]}" latency --source=bpf -d 0.2
	json "the same for programs" 0 "d['schema'] == 'infbroker.latency/1'" \
		"${OTHER[@]}" latency --source=bpf -d 0.2 -j
	says "without rights: the broker's own trace" 0 'source: the broker.s own trace' \
		"${OTHER[@]}" trace --kernel -d 0.2
	some=+bpf,+perfmon
	says "with CAP_BPF and CAP_PERFMON alone: what more it takes" 0 'CAP_SYS_ADMIN for probes.*CAP_SYS_PTRACE' \
		setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=$some --ambient-caps=$some "$RUN/bin/shmctl" latency --source=bpf -d 0.2
else
	skip "without rights" "there is no second user, or no setpriv"
fi
if ! "$CTL" latency --source=bpf -d 0.1 2>"$RUN/why" >/dev/null || ! grep -q 'source: probes' "$RUN/why"; then
	skip "requests from the kernel" "$(tail -n 2 "$RUN/why" | head -c 300 | tr '\n' ' ')"
	finish
fi

says "a closed pipe ends it, though nothing comes" 0 '^0$' bash -c "timeout 20 '$CTL' trace --kernel 2>/dev/null | true; echo \${PIPESTATUS[0]}"

# --- every request, with its time ------------------------------------------------------------------------------------

# trace OPTION... : starts one, and waits until it watches.
trace() {
	background "$CTL" trace --kernel -j --client "$TIMED" "$@" >"$RUN/trace" 2>"$RUN/trace.err"
	TRACE=$LAST
	within 20 grep -q 'source: ' "$RUN/trace.err"
}
# ... and ends it as people do.
traced() {
	read -r -t 0.3 <> <(:)
	kill -INT "$TRACE"
	ends "$TRACE"
}
# What else runs on this machine may take a CPU at the wrong moment, not three times.
thrice() { "$@" || "$@" || "$@"; }
# asked MODEL N [PAUSE_US] : that many requests, traced.
asked() { timeout 60 "${AT[@]}" "$TIMED" "$1" "$2" 0 "${3-0}" >"$RUN/timed"; }
# The rest of the machine keeps out: all of ours is real-time, a burst more so. With pauses, or what else there is gets its
# share all the same (sched_rt_runtime_us, the fair server).
FRONT=$BROKER EXECUTOR=$(executor_pid)
mapfile -t cpus < <(taskset -c -p $$ | sed 's/.*: //' | tr , '\n' | while IFS=- read -r a b; do seq "$a" "${b:-$a}"; done)
place() { # CPU-OF-FRONT CPU-OF-EXECUTOR CPU-OF-CLIENT
	taskset -p -c "$1" "$FRONT" && chrt -f -p 10 "$FRONT" && taskset -a -p -c "$2" "$EXECUTOR" && chrt -a -f -p 10 "$EXECUTOR" || return 1
	AT=(taskset -c "$3" chrt -f 10)
}
can_place() { [ ${#cpus[@]} -ge 2 ] && chrt -f 50 true 2>/dev/null; }
AT=()

compare() { # SCHED MODEL N PERCENT
	trace --sched "$1" && asked "$2" "$3" 1000 && traced && stages same "$RUN/trace" "$RUN/timed" "$4"
}
can_place && check "places" place "${cpus[1]}" "${cpus[0]}" "${cpus[1]}"
check "2000 requests, probes and typed tracepoints: the client's own time" thrice compare btf spin 2000 95
cat "$RUN/out"
check "probes alone" thrice compare none spin 500 95
says "and what that lacks" 0 'source: probes alone' cat "$RUN/trace.err"
if unshare -m true 2>/dev/null; then
	in_tracefs='mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"'
	no_tracefs='while umount -l /sys/kernel/tracing /sys/kernel/debug; do :; done 2>/dev/null; exec "$@"'
	classic() {
		background unshare -m bash -c "$in_tracefs" - "$CTL" trace --kernel -j --client "$TIMED" --sched tracepoint >"$RUN/trace" 2>"$RUN/trace.err"
		TRACE=$LAST
		within 20 grep -q 'source: ' "$RUN/trace.err" && asked spin 500 1000 && traced && grep -q classic "$RUN/trace.err" &&
			stages same "$RUN/trace" "$RUN/timed" 95 && stages most "$RUN/trace" 0.6 run_cpu+run_preempted+executor_runq+client_runq
	}
	check "classic tracepoints" thrice classic
	says "no tracefs: said, and probes alone" 0 'no classic tracepoints.*tracefs is not mounted' \
		unshare -m bash -c "$no_tracefs" - "$CTL" latency --source=bpf --sched tracepoint -d 0.1
	no_btf='mount -t tmpfs none /sys/kernel/btf || exit 9'
	says "a kernel without types: said" 0 'no typed tracepoints.*kernel tells no types' unshare -m bash -c "$no_btf; $in_tracefs" - "$CTL" latency --source=bpf -d 0.1
	check "and classic tracepoints" grep -q "source: probes, and the scheduler's classic" "$RUN/said"
	says "nor those: probes alone" 0 'source: probes alone' unshare -m bash -c "$no_btf; $no_tracefs" - "$CTL" latency --source=bpf -d 0.1
else
	skip "classic tracepoints" "no mount namespace of our own"
fi

# --- delays in their stages --------------------------------------------------------------------------------------------

# delayed NAME CPU MODEL FROM_NS STAGES : bursts of 5 ms on that CPU are found in those stages.
delayed() {
	background taskset -c "$1" chrt -f 50 "$BUILD/tests/bursts" 5 50
	local burst=$LAST rc=0
	trace && asked "$2" "$N" 200 && traced || rc=1
	kill -KILL "$burst"
	ends "$burst"
	[ $rc -eq 0 ] && stages share "$RUN/trace" "$3" 0.6 "$4"
}
if [ "${INF_LOOP-}" = epoll ]; then
	: # whose CPU is taken away is no matter of the loop
elif ! can_place; then
	skip "delays in their stages" "they take two CPUs and the right to real-time priorities"
else
	check "places" place "${cpus[0]}" "${cpus[1]}" "${cpus[1]}"
	N=4000 check "the front without a CPU" thrice delayed "${cpus[0]}" add_sub 3000000 broker_runq+done_runq
	cat "$RUN/out"
	check "places" place "${cpus[1]}" "${cpus[1]}" "${cpus[0]}"
	N=400 check "the client woken and without a CPU" thrice delayed "${cpus[0]}" sleep 4500000 client_runq
	cat "$RUN/out"
	check "places" place "${cpus[1]}" "${cpus[0]}" "${cpus[1]}"
	N=400 check "the executor without a CPU, in the middle of a batch" thrice delayed "${cpus[0]}" spin 4500000 run_preempted+executor_runq
	cat "$RUN/out"
	slow() { trace && asked "$1" 200 2000 && traced && stages most "$RUN/trace" 0.6 "$2"; }
	check "a slow batch that computes" thrice slow spin run_cpu
	check "a slow batch that sleeps" thrice slow sleep run_blocked
	behind() { # another client keeps the one instance busy
		background "$TIMED" spin 900000 >"$RUN/other"
		local other=$LAST rc=0
		trace -m sleep && asked sleep 100 && traced || rc=1
		kill -KILL "$other"
		ends "$other"
		[ $rc -eq 0 ] && stages most "$RUN/trace" 0.25 queued+batch_wait
	}
	check "behind other batches" behind
	chrt -o -p 0 "$FRONT" && chrt -a -o -p 0 "$EXECUTOR"
	AT=()
fi

# --- filters, tables, restarts ---------------------------------------------------------------------------------------

says "a model that is none" 1 'no model nosuch; shmctl models lists them' "$CTL" trace --kernel -m nosuch
says "nor here" 1 'no model nosuch; shmctl models lists them' "$CTL" latency nosuch --source=bpf -d 0.1
says "where nothing can be written it ends" 1 'cannot write' bash -c "('$BUILD/infbench' -q -n 50 -w 0 identity >/dev/null; sleep 0.5; '$BUILD/infbench' -q -n 50 -w 0 identity >/dev/null; sleep 0.5; exec '$BUILD/infbench' -q -n 50 -w 0 identity >/dev/null) & exec '$CTL' trace --kernel >/dev/full"
kill -STOP "$FRONT"
says "a broker that is stopped" 0 'the broker is stopped .pid [0-9]+.: nothing happens before kill -CONT' "$CTL" latency --source=bpf -d 0.2
kill -CONT "$FRONT"
slow_ones() {
	trace --slow 1900us && asked identity 200 && asked spin 20 && traced || return 1
	echo "$(grep -c '"spin"' "$RUN/trace") of 20 spin, $(grep -c '"identity"' "$RUN/trace") of 200 identity"
	[ "$(grep -c '"spin"' "$RUN/trace")" = 20 ] && [ "$(grep -c '"identity"' "$RUN/trace")" -lt 100 ]
}
check "--slow" slow_ones
one_model() { trace -m spin && asked identity 200 && asked spin 20 && traced && [ "$(wc -l <"$RUN/trace")" = 20 ]; }
check "-m" one_model
check "-n ends it" eval 'trace -n 10 && asked spin 30 && ends "$TRACE" && [ "$(wc -l <"$RUN/trace")" = 10 ]'
found() { # a static client that is connected already
	background "$TIMED" sleep 900000 >"$RUN/other"
	local other=$LAST rc=0
	within 10 eval '"$CTL" sessions -j | grep -q "\"pid\": $LAST"' || rc=1
	timeout 20 "$CTL" trace --kernel -j -p "$other" -n 10 >"$RUN/trace" 2>"$RUN/trace.err" || rc=1
	kill -KILL "$other"
	ends "$other"
	[ $rc -eq 0 ] && [ "$(grep -c "\"pid\":$other," "$RUN/trace")" = 10 ]
}
check "a client is found by its session, and -p" found
one_session() { # of two
	local first second rc=0
	background "$TIMED" sleep 900000 >"$RUN/other"
	first=$LAST
	background "$TIMED" sleep 900000 >"$RUN/other2"
	second=$LAST
	within 10 eval '[ "$("$CTL" sessions -j | jq ".sessions | length")" = 2 ]' || rc=1
	SESSION=$("$CTL" sessions -j | jq ".sessions[] | select(.pid == $second).id")
	timeout 20 "$CTL" trace --kernel -j -s "$SESSION" -n 10 >"$RUN/trace" 2>"$RUN/trace.err" || rc=1
	kill -KILL "$first" "$second"
	ends "$first"
	ends "$second"
	[ $rc -eq 0 ] && [ "$(grep -c "\"session\":$SESSION," "$RUN/trace")" = 10 ]
}
check "-s" one_session
many() { # of two processes with eight in flight each, through the shared library
	background "$CTL" trace --kernel -j >"$RUN/trace" 2>"$RUN/trace.err"
	TRACE=$LAST
	within 20 grep -q 'source: ' "$RUN/trace.err" && "$BUILD/infbench" -q -P 2 -d 8 -n 4000 -w 0 add_sub && traced || return 1
	cat "$RUN/trace.err"
	[ "$(grep -c '"add_sub"' "$RUN/trace")" -ge 4000 ] && "$PY" -I - "$RUN/trace" <<-'PYTHON'
		import json, sys
		events = [json.loads(line) for line in open(sys.argv[1])]
		sys.exit(any(sum(e["stages_ns"].values()) != e["total_ns"] or min(e["stages_ns"].values()) < 0 for e in events))
	PYTHON
}
check "many at once, in batches: all are seen, stages sum up" many

early() { # requests of three batches that end after the first of them, at their deadline
	trace -m sleep && { "$BUILD/infbench" -q -r 40 --deadline 3 -n 200 -w 0 sleep || true; } && traced || return 1
	cat "$RUN/trace.err"
	"$PY" -I - "$RUN/trace" <<-'PYTHON'
		import json, sys
		events = [json.loads(line) for line in open(sys.argv[1])]
		ended = [e for e in events if e["status"] == "DEADLINE"]
		print(len(events), len(ended), events[:1])
		sys.exit(len(ended) < 100 or any(sum(e["stages_ns"].values()) != e["total_ns"] for e in events) or
		         any(e["instance"] != -1 or e["batch"] != -1 for e in ended))
	PYTHON
}
check "requests that end in the middle have no batch" early

table() {
	background "$CTL" latency --source=bpf --client "$TIMED" "$@" >"$RUN/table" 2>"$RUN/table.err"
	TRACE=$LAST
	within 20 grep -q 'source: ' "$RUN/table.err" && asked spin 300 && kill -INT "$TRACE" && ends "$TRACE"
}
check "a table, until SIGINT" table -d 0
says "with its stages" 0 '^  run_cpu +[0-9.]+[um]s ' cat "$RUN/table"
# Times stand over the columns that begin with them: 64 ns is the first, behind the bar.
check "under a heading that fits" awk '/stage  +mean/ { head = index($0, "64n"); good = substr($0, head + 4, 3) == "16u" && substr($0, head + 8, 2) == "4m" && substr($0, head + 12) == "1s" }
	/^  total / { bar = index($0, "|") } END { exit !(good && head == bar + 1) }' "$RUN/table"
says "and its cost" 0 'cost per request: 3\.0 probes: traps [0-9.]+ (ns|us)' cat "$RUN/table.err"
check "the same for programs" table -d 0 -j
if SCHEMAS=$(tools/setup/venv.sh --python schemas); then
	check "its schema" "$SCHEMAS" tests/tools/validate.py tests/schemas kernel.latency "$RUN/table" kernel.trace "$RUN/trace"
	check "which refuses what is not in it" "$SCHEMAS" tests/tools/validate.py --broken tests/schemas kernel.latency "$RUN/table" kernel.trace "$RUN/trace"
else
	skip "its schema" "no jsonschema: tools/setup/venv.sh schemas"
fi
json "its sums" 0 "d['schema'] == 'infbroker.kernel.latency/1' and d['source'] == 'bpf' and d['sched'] == 'btf' and
	[(m['model'], m['requests']) for m in d['models']] == [('spin', 300)] and
	sum(s['sum_ns'] for n, s in d['models'][0]['stages'].items() if n != 'total') == d['models'][0]['stages']['total']['sum_ns'] and
	d['models'][0]['stages']['total']['p50_ns'] > 1000000 and d['cost']['probes'] == 3 * 300" cat "$RUN/table"

again() {
	trace && asked spin 10 && broker_stop && within 10 grep -q 'the broker is gone' "$RUN/trace.err" &&
		broker_start --builtin && within 10 grep -q 'another broker has started' "$RUN/trace.err" &&
		asked spin 20 && traced && [ "$(wc -l <"$RUN/trace")" = 30 ]
}
check "a broker that ends, and another one" again
killed() {
	trace && kill -KILL "$(executor_pid)" && within 20 asked spin 20 && traced && [ "$(wc -l <"$RUN/trace")" = 20 ]
}
check "an executor that is killed" killed
check "the broker ends cleanly" broker_stop
finish
