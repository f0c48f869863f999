#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# hostile.sh - every row of the bad-input table, then bit flips in all that a client may write, while honest clients work and
# have every answer checked. INF_LONG=1: 10^6 flips; FLIPS= and SEED= choose otherwise.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
FLIPS=${FLIPS:-$([ -n "${INF_LONG-}" ] && echo 1000000 || echo 20000)}
SEED=${SEED:-$RANDOM}

broker_start --builtin --log-rate-max 100000 || { not_ok "start"; finish; }
"$BUILD/tests/verdicts" "$SOCKET" "$RUN/broker.log" >"$RUN/verdicts" 2>&1
cat "$RUN/verdicts"
n_passed=$((n_passed + $(grep -c '^ok - ' "$RUN/verdicts")))
n_failed=$((n_failed + $(grep -c '^NOT OK - ' "$RUN/verdicts")))
grep -q ' passed, ' "$RUN/verdicts" || not_ok "verdicts" "it did not get to its end"

"$BUILD/tests/checked_load" "$SOCKET" 2 8 3600 >"$RUN/load" 2>&1 &
load=$!
if "$BUILD/tests/flip" "$SOCKET" "$FLIPS" "$SEED" >"$RUN/flip" 2>&1; then
	ok "$(head -n 1 "$RUN/flip")"
else
	not_ok "flips" "$(cat "$RUN/flip")"
fi
kill -INT $load
rc=0
wait $load || rc=$?
if [ $rc -eq 0 ] && grep -q '"wrong": 0' "$RUN/load"; then ok "honest answers: $(cat "$RUN/load")"; else
	not_ok "honest answers" "exit $rc: $(cat "$RUN/load")"; fi
echo "how sessions ended:"
grep -oE 'ended: .*' "$RUN/broker.log" | sort | uniq -c | sort -rn | sed 's/^/    /'
check "the executor never died" bash -c "! grep -q 'died of' '$RUN/broker.log'"
check "the broker ends cleanly" broker_stop
check "no sanitizer report" bash -c "! grep -qE 'Sanitizer|runtime error' '$RUN/broker.log'"
finish
