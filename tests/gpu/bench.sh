#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench.sh - that `make bench-gpu` can run: on the software driver, whose figures mean nothing, every row is there, the driver
# sees nothing wrong, and a call that it refuses costs the rows that need it.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
export INF_CUDA_LIBRARY=$PWD/$BUILD/tests/libfakecuda.so FAKECUDA_REPORT=$RUN/violations
if [ -n "${DRIVER-}" ] || [ ! -e "$INF_CUDA_LIBRARY" ]; then
	skip "a dry run of bench-gpu" "only on the software driver"
	finish
fi
costs() { timeout 120 "$BUILD/tests/gpu_costs" --quick "$RUN/costs.json" >"$RUN/costs.txt"; }
rows() { python3 -c "import json, sys
rows = json.load(open(sys.argv[1]))['rows']
sys.exit(0 if ($1) else '\n'.join(map(repr, rows)))" "$RUN/costs.json"; }
check "it runs to its end" costs
check "and says that its figures mean nothing" grep -q "THE FIGURES MEAN NOTHING" "$RUN/costs.txt"
for i in 1 2 3 4 5 7; do check "E$i has rows" rows "any(row['name'].startswith('E$i ') for row in rows)"; done
check "each has a figure" rows 'all("value" in row for row in rows)'
check "memory is shared" rows 'any(row["name"].startswith("E1 bytes there") and row["value"] == 1 for row in rows)'
check "the driver saw nothing wrong" [ ! -s "$RUN/violations" ]
FAKECUDA_FAULTS=cuMemExportToShareableHandle:1:801 check "no export: it runs to its end" costs
check "and only what needs it has no figure" rows 'sum("error" in row for row in rows) == 1'
FAKECUDA_FAULTS=cuMemHostRegister_v2:1:801,cuMemHostRegister_v2:2:801 check "no registration: it runs to its end" costs
check "and only what needs it has no figure" rows '[row["name"][:11] for row in rows if "error" in row] == ["E2 register", "E2 register", "E5 a word t"]'
check "no driver: a word, and no failure" bash -c "INF_CUDA_LIBRARY=libnowhere.so '$BUILD/tests/gpu_costs' | grep -q 'NOTHING WAS MEASURED: no CUDA driver'"
finish
