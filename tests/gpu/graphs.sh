#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# graphs.sh - CUDA graphs: tests/gpu/graphs.c on the software driver or on that of $DRIVER, then the broker with them and
# without, and with each call that they need failing once.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/gpu.sh
need_driver "recorded models"

FAKECUDA_LEDGER=$RUN/end "$BUILD/tests/graphs" "$INF_CUDA_LIBRARY" >"$RUN/said" 2>"$RUN/err"
cat "$RUN/said"
n_passed=$(grep -c '^ok' "$RUN/said") n_failed=$(grep -c '^NOT OK' "$RUN/said") n_skipped=$(grep -c '^skip' "$RUN/said")
check "it ended" grep -q ' skipped$' "$RUN/said"
if [ -n "$is_software" ]; then
	check "no graph is left over" grep -q '"graphs": *0, *"graph_execs": *0' "$RUN/end"
	no_violation "recorded runs"
fi

export FAKECUDA_LEDGER_LIVE=$RUN/ledger
start() {
	: >"$RUN/broker.log"
	broker_start --builtin --device cuda "$@" || { not_ok "start"; finish; }
}
start --verbose
need_device "recorded models"
check "models whose shapes vary are named" grep -q 'varying: runs call by call, not as CUDA graphs: its shapes vary' "$RUN/broker.log"
check "the others are recorded" bash -c "! grep 'call by call' '$RUN/broker.log' | grep -vE 'varying'"
check "2 threads x 16 in flight" "$BUILD/tests/checked_load" "$SOCKET" 2 16 1
[ -z "$is_software" ] || check "graphs were launched: $(ledger graph_launches)" [ "$(ledger graph_launches)" -gt 100 ]
check "the broker ends cleanly" broker_stop
start --no-graphs
check "without: 2 threads x 16 in flight" "$BUILD/tests/checked_load" "$SOCKET" 2 16 1
[ -z "$is_software" ] || check "no graph was launched" [ "$(ledger graph_launches)" = " 0 " ]
check "the broker ends cleanly" broker_stop
[ -n "$is_software" ] || finish

# A call that fails once: the model goes on call by call, or in another executor; a line says so.
for call in cuStreamBeginCapture cuStreamEndCapture cuGraphInstantiateWithFlags cuGraphDestroy cuGraphLaunch cuGraphExecDestroy; do
	for n in 1 30; do
		for code in 2 719; do
			rm -f "$RUN/once"
			FAKECUDA_FAULTS=$call:$n:$code FAKECUDA_FAULTS_ONCE=$RUN/once start
			check "$call:$n:$code: right answers" "$BUILD/tests/checked_load" "$SOCKET" 2 64 0.2 identity
			check "$call:$n:$code: it happened, and is named" grep -qE 'runs call by call|is lost to this process|forgetting a recorded' "$RUN/broker.log"
			check "the broker ends cleanly" broker_stop
		done
	done
done
no_violation "faults"
finish
