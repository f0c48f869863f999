#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# broker_lost.sh - the front is killed while threads of several processes sleep in waits: each must return BROKER_LOST within
# a second. Then a new broker takes over the socket.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh

broker_start --builtin || { not_ok "start"; finish; }
timeout 60 "$BUILD/tests/sleepers" "$SOCKET" 3 5 >"$RUN/sleepers" 2>&1 &
sleepers=$!
for _ in $(seq 100); do
	grep -q asleep "$RUN/sleepers" && break
	read -r -t 0.1 <> <(:) || true
done
check "15 threads sleep" grep -q asleep "$RUN/sleepers"
executor=$(executor_pid)
kill -KILL "$BROKER"
begin=$(date +%s%N)
rc=0
wait $sleepers || rc=$?
took=$((($(date +%s%N) - begin) / 1000000))
wait "$BROKER" 2>/dev/null
BROKER=
if [ $rc -eq 0 ] && [ $took -lt 1000 ]; then
	ok "$(tail -n 1 "$RUN/sleepers"), all after $took ms"
else
	not_ok "threads return within a second" "exit $rc after $took ms: $(tail -n 1 "$RUN/sleepers")"
fi
gone() {
	for _ in $(seq 20); do
		has_ended "$executor" && return 0
		read -r -t 0.1 <> <(:) || true
	done
	return 1
}
check "the executor goes with its front" gone
check "status still answers" bash -c "'$BUILD/shmctl' --socket '$SOCKET' status | grep -qi gone"
check "a new broker takes the socket over" broker_start --builtin
check "and ends cleanly" broker_stop
finish
