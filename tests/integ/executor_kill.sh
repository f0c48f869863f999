#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# executor_kill.sh - the executor is killed again and again under load: every request ends in exactly one status, no answer is
# wrong, clients stay connected, and the broker serves again by itself. Then one that cannot be started at all.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
KILLS=${KILLS:-20}

broker_start --builtin --executor-deaths-max 1000 || { not_ok "start"; finish; }
"$BUILD/tests/checked_load" "$SOCKET" 2 32 600 >"$RUN/load" 2>&1 &
load=$!
done_kills=0
for _ in $(seq "$KILLS"); do
	# Wait until it serves again, then a random moment.
	for _ in $(seq 300); do
		"$BUILD/shmctl" models -j 2>/dev/null | grep -q '"state": *"ready"' && break
		read -r -t 0.05 <> <(:) || true
	done
	read -r -t "0.$((RANDOM % 3))$((RANDOM % 10))" <> <(:) || true
	pid=$(executor_pid)
	[ -n "$pid" ] && kill -KILL "$pid" && done_kills=$((done_kills + 1))
done
check "killed $KILLS times" [ "$done_kills" -eq "$KILLS" ]
read -r -t 2 <> <(:) || true
check "the load is still connected" kill -0 $load
kill -INT $load
rc=0
wait $load || rc=$?
cat "$RUN/load"
check "every request ended, every answer right" bash -c "[ $rc -eq 0 ] && grep -q '\"wrong\": 0' '$RUN/load'"
# A request whose second executor was killed as well, while it ran alone, is POISON by the rule: nothing else may happen.
check "no status but OK and POISON" bash -c "! grep -oE '\"[A-Z_]+\": [0-9]+' '$RUN/load' | grep -vE '\"(OK|POISON)\"'"
check "it serves by itself" "$BUILD/tests/checked_load" "$SOCKET" 1 8 0.5
check "the broker ends cleanly" broker_stop

# No executor can be started: named, and nothing hangs.
cat >"$RUN/dies" <<'X'
#!/bin/sh
exit 3
X
chmod +x "$RUN/dies"
"$BUILD/infbroker" --socket "$SOCKET" --builtin --executor "$RUN/dies" --executor-deaths-max 2 2>>"$RUN/broker.log" &
BROKER=$!
failed_state() {
	for _ in $(seq 100); do
		"$BUILD/shmctl" status 2>/dev/null | grep -qi 'executor.*failed' && return 0
		read -r -t 0.1 <> <(:) || true
	done
	return 1
}
check "an executor that cannot be started is named in status" failed_state
check "the broker ends cleanly without an executor" broker_stop
finish
