#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# requests.sh - runs tests/integ/requests.c against a broker of its own.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh

broker_start --builtin || { not_ok "start"; finish; }
"$BUILD/tests/requests" "$SOCKET" >"$RUN/requests" 2>&1
cat "$RUN/requests"
n_passed=$((n_passed + $(grep -c '^ok - ' "$RUN/requests")))
n_failed=$((n_failed + $(grep -c '^NOT OK - ' "$RUN/requests")))
grep -q ' passed, ' "$RUN/requests" || not_ok "requests" "it did not get to its end"
check "the broker ends cleanly" broker_stop

# Best in large batches, but two rows at once take 5 ms longer than one: two idle instances take one each.
INF_BUILTIN_COST=20000,5000 broker_start --builtin --instances 2 || { not_ok "start"; finish; }
check "pairs of requests" "$BUILD/tests/requests" "$SOCKET" pairs
check "idle instances share what waits" bash -c "'$BUILD/shmctl' models -j | python3 -c '
import json, sys
sleep = next(model for model in json.load(sys.stdin)[\"models\"] if model[\"name\"] == \"sleep\")
print(sleep[\"rows\"], \"rows in\", sleep[\"batches\"], \"batches\")
assert sleep[\"rows\"] == sleep[\"batches\"] == 40'"
check "the broker ends cleanly" broker_stop
finish
