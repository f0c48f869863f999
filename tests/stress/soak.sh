#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# soak.sh [N] - N parked round trips through the executor and back, all processes on one core, none lost.
#
# The front's spin budget is swept over 0 to 5 us: a wake-up that the executor loses shows only where the front goes to sleep
# about when the executor is done. Everybody else sleeps at once. N: 10^6 by default, 10^8 for `make soak`. Then as many
# again with 256 in flight, default budgets: sleeps that begin while the broker completes.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
N=${1:-1000000}
BUDGETS="0 500 1000 1500 2000 2500 3000 3500 4000 4500 5000"
CPU=$(taskset -cp $$ | sed 's/.*: *//; s/[,-].*//')

set -- $BUDGETS
each=$((N / $#))
for budget in $BUDGETS; do
	broker_start --builtin --no-spin --spin-ns "$budget" || { not_ok "start"; continue; }
	# Moved now: a front that starts with one core would count its executor's instances by that.
	taskset -acp "$CPU" "$BROKER" >/dev/null && taskset -acp "$CPU" "$(executor_pid)" >/dev/null
	if taskset -c "$CPU" "$BUILD/tests/parked" "$SOCKET" identity $each 36000 2000 >"$RUN/parked"; then
		ok "budget $budget ns, $(cat "$RUN/parked")"
	else
		not_ok "budget $budget ns" "$(cat "$RUN/parked")"
	fi
	broker_stop || not_ok "end" "not clean"
done
# A request that gets lost is found by the next one, or by infbench after 10 s.
broker_start --builtin || { not_ok "start"; finish; }
if "$BUILD/infbench" -q -j -w 0 -n "$N" -d 256 identity >"$RUN/many"; then
	check "$N requests, 256 in flight: none took a second" python3 -c '
import json, sys
d = json.load(open(sys.argv[1]))
sys.exit(d["errors"] or d["latency_us"]["max"] > 1e6)' "$RUN/many"
else
	not_ok "256 in flight" "infbench failed"
fi
check "the broker ends cleanly" broker_stop
finish
