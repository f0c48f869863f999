#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# syscalls.sh - while client and front are busy, a request costs no system call: below 0.05 of them each, both processes
# together, counted by the kernel's tracepoints. sched_yield is how the two share cores and is counted apart.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
COUNTED_SECONDS=${COUNTED_SECONDS:-2}
EVENTS=raw_syscalls:sys_enter,syscalls:sys_enter_sched_yield

if ! command -v perf >/dev/null || ! perf stat -e $EVENTS -- true >/dev/null 2>&1; then
	skip "system calls per request" "perf cannot count tracepoints here (not installed, or not root)"
	finish
fi
if ldd "$BUILD/infbroker" 2>/dev/null | grep -q libasan; then
	skip "system calls per request" "a sanitizer makes calls of its own"
	finish
fi

broker_start --builtin || { not_ok "start"; finish; }
answered() { "$BUILD/shmctl" status -j | sed -n 's/^ *"OK": *\([0-9]*\),*/\1/p'; }
# Calls but sched_yield, out of perf's lines "COUNT,,EVENT,...".
calls() { awk -F, '/raw_syscalls/ { n += $1 } /sched_yield/ { n -= $1 } END { print n + 0 }' "$@"; }

"$BUILD/tests/checked_load" "$SOCKET" 1 256 3600 identity >"$RUN/load" 2>&1 &
load=$!
read -r -t 1 <> <(:) || true # both are at it
before=$(answered)
perf stat -x, -e $EVENTS -p "$BROKER" -o "$RUN/front" -- sleep "$COUNTED_SECONDS" &
front_count=$!
perf stat -x, -e $EVENTS -p $load -o "$RUN/client" -- sleep "$COUNTED_SECONDS" &
wait $front_count $!
after=$(answered)
kill -INT $load
rc=0
wait $load || rc=$?
check "every answer right" [ $rc -eq 0 ]
n=$((after - before))
echo "$n requests: front $(calls "$RUN/front") calls, client $(calls "$RUN/client") calls"
check "requests were answered" [ $n -gt 1000 ]
check "below 0.05 calls per request" awk -v calls="$(calls "$RUN/front" "$RUN/client")" -v n=$n 'BEGIN { exit !(calls < 0.05 * n) }'
check "the broker ends cleanly" broker_stop
finish
