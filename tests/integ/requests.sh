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
finish
