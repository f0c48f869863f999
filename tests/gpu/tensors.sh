#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tensors.sh - clients' tensors on the device, between real processes: right answers, no copy through the host, no foreign
# bytes, nothing left behind by whoever is killed. DRIVER=libcuda.so.1 runs what can be run on a real one.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
. tests/support/gpu.sh
# Fewer in each run than `make stress` asks for; an executor_dies kills six.
n_clients=${CLIENT_KILLS:-60} n_executors=$((${EXECUTOR_KILLS:-12} / 6)) n_fronts=${FRONT_KILLS:-1}

start() { FAKECUDA_LEDGER_LIVE=$RUN/ledger broker_start --builtin --commit-ms-max 500 "$@" || { not_ok "start"; finish; }; }
tensors() { timeout 60 "$BUILD/tests/tensors" "$SOCKET" "$@"; }
tensor_ends() { timeout 60 "$BUILD/tests/tensor_ends" "$SOCKET" "$@"; }
cases="mixed many_rows in_flight judged scrubbed varying normalised dlpack late_commit entries marks"
endings="never_committed cancelled told_late refused errors closed forked"
all_cases() { # NAME-PREFIX
	local case
	for case in $cases; do check "$1$case" tensors "$case"; done
	for case in $endings; do check "$1$case" tensor_ends "$case"; done
}

need_driver "tensors on a device"
start --device cuda
need_device "tensors"
all_cases ""
no_violation "cases"
[ -z "$is_software" ] || FAKECUDA_DEFAULT_STREAM=1 check "in the default stream" tensors mixed

# Two processes, each with its own memory, at the same time.
tensors in_flight >"$RUN/one" 2>&1 &
one=$!
check "two processes: mixed" tensors mixed
wait $one
check "two processes: in_flight" grep -q '^ok - ' "$RUN/one"
no_violation "two processes"

if [ -n "$is_software" ]; then
	held="device_bytes allocations pinned_allocations registrations streams events"
	# shellcheck disable=SC2086
	before=$(ledger $held) copied=$(ledger in_bytes out_bytes)
	check "from device to device" tensors in_flight
	check "the broker copied nothing through the host" [ "$(ledger in_bytes out_bytes)" = "$copied" ]
	check "bad input" "$BUILD/tests/verdicts" "$SOCKET" "$RUN/broker.log"
	while [ ! -e "$RUN/killed" ]; do tensors mixed; done >"$RUN/one" 2>&1 &
	other=$!
	for _ in $(seq $n_clients); do
		"$BUILD/tests/tensors" "$SOCKET" mixed >/dev/null 2>&1 &
		client=$!
		read -r -t "0.0$((RANDOM % 60 + 10))" <> <(:) || true
		kill -KILL $client
		wait $client 2>/dev/null
	done
	: >"$RUN/killed"
	wait $other
	check "somebody else while $n_clients clients are killed" [ "$(grep -c '^ok - ' "$RUN/one")" -gt 0 ]
	check "every time" [ "$(grep -c 'NOT OK' "$RUN/one")" = 0 ]
	check "and afterwards" tensors mixed
	check "nothing of them is to be seen" tensors scrubbed
	for _ in $(seq 100); do
		# shellcheck disable=SC2086
		[ "$(ledger $held)" != "$before" ] || break
		read -r -t 0.05 <> <(:) || true
	done
	# shellcheck disable=SC2086
	check "all that the executor held for them is given back ($held:$before)" [ "$(ledger $held)" = "$before" ]
	rm -f "$RUN/violations" # of clients that were killed
fi

for _ in $(seq $n_executors); do
	EXECUTOR="pkill -KILL -P $BROKER -f infbroker-executor" check "executors die" tensor_ends executor_dies
done
check "the broker ends cleanly" broker_stop
no_violation "executors die"

for _ in $(seq $n_fronts); do
	start --device cuda
	executor=$(executor_pid)
	KILL_BROKER="kill -KILL $BROKER" check "the broker dies" tensor_ends broker_dies
	wait "$BROKER" 2>/dev/null
	BROKER=
	check "its executor goes, with all that it held" within 5 has_ended "$executor"
done

start
check "a broker on the CPU says so" bash -c "'$BUILD/tests/tensors' '$SOCKET' mixed | grep -q 'No such device: models run on the CPU'"
check "the broker ends cleanly" broker_stop
[ -n "$is_software" ] || finish

FAKECUDA_VMM=0 start --device cuda
check "a device that shares no memory" bash -c "'$BUILD/tests/tensors' '$SOCKET' mixed | grep -q 'No such device: .*shares no memory'"
check "host tensors all the same" "$BUILD/tests/requests" "$SOCKET" identity
check "the broker ends cleanly" broker_stop
start --device cuda --user-device-memory-max 1
check "a quota of device memory" tensor_ends quota
check "the broker ends cleanly" broker_stop
start --device cuda --user-memory-max 24000000
check "no room for results" tensor_ends no_room
check "the broker ends cleanly" broker_stop
# The first batch's results are there and its streams told, and it does not end.
FAKECUDA_FAULTS=cuLaunchHostFunc:1:hang FAKECUDA_FAULTS_ONCE=$RUN/once start --device cuda --batch-ms-max 400
check "an executor that dies between telling the streams and telling the broker" tensor_ends told_late
# The other instance may have served the client to its end before the time is over.
check "it did" within 5 grep -q 'model sleep has not ended a batch' "$RUN/broker.log"
check "the broker ends cleanly" broker_stop
FAKECUDA_FAULTS=cuMemImportFromShareableHandle:1:801 start --device cuda
EXECUTOR="pkill -KILL -P $BROKER -f infbroker-executor" check "an executor that cannot map what there is" tensor_ends lost_memory
check "and says so" grep -q 'loses device memory: Operation not supported' "$RUN/broker.log"
check "the broker ends cleanly" broker_stop
start --device cuda
check "no driver in the client" bash -c "INF_CUDA_LIBRARY=libnowhere.so '$BUILD/tests/tensors' '$SOCKET' mixed | grep -q 'No such file or directory: no CUDA driver'"
FAKECUDA_FAULTS=cuMemHostRegister_v2:1:2 check "opened again after it could not be" tensors mixed
check "another device in the client" bash -c "FAKECUDA_DEVICES=0 '$BUILD/tests/tensors' '$SOCKET' mixed | grep -q 'No such device'"
check "the broker ends cleanly" broker_stop

# Slow and irregular: what waits for what shows.
FAKECUDA_JITTER_US=300 start --device cuda
FAKECUDA_JITTER_US=300 all_cases "jitter: "
check "the broker ends cleanly" broker_stop
no_violation "jitter"
check "no sanitizer has spoken in broker or executors" bash -c "! grep -A 12 -m 1 -E 'Sanitizer|runtime error' '$RUN/broker.log'"
finish
