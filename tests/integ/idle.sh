#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# idle.sh - ten connected clients that want nothing cost nothing: no CPU time and no system call in front and executor.
#
# A thread that makes a system call must run, and a sleeping thread that runs must be switched to: so "asleep at both ends
# and not one context switch in between" proves it, without a tracer that would wake it up.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
IDLE_SECONDS=${IDLE_SECONDS:-10}

broker_start --builtin --batch-ms-max 1000 || { not_ok "start"; finish; }
"$BUILD/tests/idlers" "$SOCKET" 10 >"$RUN/idlers" &
idlers=$!
for _ in $(seq 100); do
	grep -q ready "$RUN/idlers" && break
	read -r -t 0.1 <> <(:) || true
done
check "ten clients connect and are answered" grep -q ready "$RUN/idlers"

state() { # of every thread: id, state, context switches, CPU ticks
	local task
	for task in /proc/"$1"/task/*; do
		echo "${task##*/} $(awk '/^State/ {print $2} /ctxt_switches/ {print $2}' "$task/status" | tr '\n' ' ')" \
			"$(awk '{print $14, $15}' "$task/stat")"
	done
}
read -r -t 1 <> <(:) || true # let the last spin end, and the watchdog find out that nothing runs
executor=$(executor_pid)
state "$BROKER" >"$RUN/front.before"
state "$executor" >"$RUN/executor.before"
read -r -t "$IDLE_SECONDS" <> <(:) || true
state "$BROKER" >"$RUN/front.after"
state "$executor" >"$RUN/executor.after"
check "front: no context switch, no CPU in $IDLE_SECONDS s" diff "$RUN/front.before" "$RUN/front.after"
check "executor: no context switch, no CPU in $IDLE_SECONDS s" diff "$RUN/executor.before" "$RUN/executor.after"
check "everybody sleeps" bash -c "! grep -v ' S ' '$RUN/front.after' '$RUN/executor.after'"
kill $idlers
wait $idlers 2>/dev/null
check "the broker ends cleanly" broker_stop
finish
