#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# hang.sh - models and executors that hang: they are found out, only what hangs is lost, and nobody else is.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
LIMIT_MS=400
printf '\1' >"$RUN/bad.raw"
printf '\0' >"$RUN/good.raw"

ends_as() { # STATUS MODEL FILE
	local said
	said=$("$BUILD/shmctl" --timeout 30 infer "$2" "$3" 2>&1)
	grep -qw "$1" <<<"$said" || { echo "$said"; return 1; }
}
says() { grep -qE "$1" "$RUN/broker.log"; }

broker_start --builtin --instances 2 --batch-ms-max $LIMIT_MS || { not_ok "start"; finish; }
"$BUILD/tests/checked_load" "$SOCKET" 2 16 6 identity >"$RUN/load" 2>&1 &
load=$!
check "a request that hangs its model, and does so again alone, is POISON" ends_as POISON hang "$RUN/bad.raw"
check "one that does not is answered" "$BUILD/shmctl" --timeout 30 infer hang "$RUN/good.raw"
wait $load
check "requests of another model are all answered, none wrong: $(cat "$RUN/load")" grep -q '"wrong": 0.*"error": 0' "$RUN/load"
check "a line says which model, and what the limit was" says "is killed: model hang has not ended a batch of 1 rows in $LIMIT_MS ms"

# An executor that stands still as a whole.
kill -STOP "$(executor_pid)"
check "a stopped executor is replaced" "$BUILD/shmctl" --timeout 30 infer hang "$RUN/good.raw"

# The front was stopped itself: what ended meanwhile does not hang.
read -r -t 1 <> <(:) || true
pid=$(executor_pid)
"$BUILD/tests/checked_load" "$SOCKET" 2 16 3 >"$RUN/load" 2>&1 &
load=$!
for _ in 1 2 3; do
	read -r -t 0.2 <> <(:) || true
	kill -STOP "$BROKER"
	read -r -t 0.7 <> <(:) || true
	kill -CONT "$BROKER"
done
wait $load
check "a front that was stopped for longer blames nobody: $(cat "$RUN/load")" grep -q '"wrong": 0.*"error": 0' "$RUN/load"
check "the executor is the same" [ "$(executor_pid)" = "$pid" ]

# All of it was, as in a container that is paused.
"$BUILD/tests/checked_load" "$SOCKET" 2 16 4 >"$RUN/load" 2>&1 &
load=$!
for _ in 1 2 3; do
	read -r -t 0.2 <> <(:) || true
	kill -STOP "$pid" "$BROKER"
	read -r -t 0.7 <> <(:) || true
	kill -CONT "$BROKER" "$pid"
done
wait $load
check "front and executor that were stopped together: nobody is to blame: $(cat "$RUN/load")" grep -q '"wrong": 0.*"error": 0' "$RUN/load"
check "the executor is still the same" [ "$(executor_pid)" = "$pid" ]
kill -STOP "$(executor_pid)"
check "one that stops while it has batches is replaced" "$BUILD/tests/checked_load" "$SOCKET" 1 8 1
check "the broker ends cleanly" broker_stop

# One that hangs before it is ready.
cat >"$RUN/hangs" <<'X'
#!/bin/sh
exec sleep 1000
X
chmod +x "$RUN/hangs"
hangs_until() { # TENTHS WORDS OPTIONS...: until its log has these words
	: >"$RUN/broker.log"
	"$BUILD/infbroker" --socket "$SOCKET" --builtin --executor "$RUN/hangs" --start-s-max 1 "${@:3}" 2>>"$RUN/broker.log" &
	BROKER=$!
	for _ in $(seq "$1"); do
		says "$2" && break
		read -r -t 0.1 <> <(:) || true
	done
}
hangs_until 100 'no executor: it does not start' --executor-deaths-max 2 --batch-ms-max 100
check "an executor that hangs in its start is killed, and given up in the end" says 'has not ended its start .* in 1000 ms'
check "the broker ends cleanly" broker_stop
hangs_until 30 'has not ended its start' --batch-ms-max 1000000
check "as soon where batches may take very long" says 'has not ended its start .* in 1000 ms'
check "the broker ends cleanly" broker_stop

# Slow is not hung: a batch takes 20 ms where 5 ms are allowed, but 20 are what it should take.
: >"$RUN/broker.log"
INF_BUILTIN_COST=20000,100 broker_start --builtin --batch-ms-max 5 || { not_ok "start"; finish; }
head -c 64 /dev/zero >"$RUN/row.raw"
check "50 times what it should take is waited for" "$BUILD/shmctl" --timeout 30 infer sleep "$RUN/row.raw"
check "memory of its clients takes what it takes" "$BUILD/tests/requests" "$SOCKET" large_rows
check "nobody was killed" bash -c "! grep -q 'is killed' '$RUN/broker.log'"
check "the broker ends cleanly" broker_stop
finish
