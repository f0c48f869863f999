#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# client_calls.sh - every call of client.h, and every mistake that its user can make, against the real broker.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh

broker_start --builtin || { not_ok "start"; finish; }
timeout 120 "$BUILD/tests/client_calls" "$SOCKET" >"$RUN/calls" 2>&1
rc=$?
cat "$RUN/calls"
sum=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$RUN/calls")
n_passed=$(grep -c '^ok - ' "$RUN/calls") n_failed=$(grep -c '^NOT OK - ' "$RUN/calls")
[ -n "$sum" ] || not_ok "client_calls ran to its end" "it ended with $rc"
check "the broker ends by itself" broker_stop
finish
