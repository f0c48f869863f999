#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench_networks.sh - that the part of `make bench-gpu` that needs torch can run: in small, on the CPU (networks.py,
# end_to_end.py). Most of what it does: `make bench-gpu DRY=1` does all of it.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
if [ -n "${DRIVER-}" ] || [ "$BUILD" != "${BUILD%san}" ]; then
	skip "networks of bench-gpu" "a rehearsal on the CPU, of what no sanitizer watches"
	finish
fi
if ! tools/setup/torch.sh --run -c '' 2>/dev/null; then
	skip "networks of bench-gpu" "no Python with torch here (make deps)"
	finish
fi

# said COMMAND...: its rows go to $RUN/said
said() { timeout 200 "$@" >"$RUN/said" 2>"$RUN/errors" || { tail -n 5 "$RUN/errors"; return 1; }; }
# says EXPR: holds of these rows
says() {
	python3 - "$RUN/said" "$1" <<-'PYTHON'
		import json, sys
		rows = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
		e8, e9 = ([row for row in rows if row["name"].startswith(name)] for name in ("E8 ", "E9 "))
		sys.exit(0 if eval("(" + sys.argv[2] + ")") else "\n".join(map(repr, rows)) or "no rows")
	PYTHON
}

for row in resnet50:eager resnet50:script bert:eager bert:script bert:aoti mlp:script; do
	network=${row%:*} engine=${row#*:}
	check "$network, $engine" said tools/setup/torch.sh --run tests/gpu/networks.py "$network" "$engine" --dry
	check "and a graph of it, of each size" says "sorted(row['name'] for row in rows) == sorted(f'{e} $network, $engine, batch {n}{graph}'
		for n in (1, 4) for e, graph in (('E8', ''), ('E9', ', graph'))) and all(row['value'] > 0 for row in rows)"
done

# What is measured must be the network, or it has no figure.
with() { # PYTHON: done to networks.py before it runs
	said tools/setup/torch.sh --run -c 'import sys
sys.path.insert(0, "tests/gpu")
import networks
exec(sys.argv[1])
networks.run("bert", "eager", networks.Rehearsal, True)' "$1"
}
others='"its results are not those of eager mode"'
check "an engine with other results" with 'networks.eager = lambda network, examples: (lambda x: network(x) + 1, network)'
check "has no figure" says "[row.get('why') for row in e8] == [$others] * 2 and all('value' in row for row in e9)"
check "a graph that does nothing" with 'networks.Rehearsal.capture = staticmethod(lambda call, example: (lambda: None, call(example)))'
check "has none" says "[row.get('why') for row in e9] == [$others] * 2 and all('value' in row for row in e8)"
check "a capture that is refused" with 'def refuse(call, example): raise RuntimeError("not while capturing\nand more")
networks.Rehearsal.capture = staticmethod(refuse)'
check "costs the graphs, and says why" says "[row.get('why') for row in e9] == ['RuntimeError: not while capturing'] * 2 and
	all('value' in row for row in e8)"
check "an engine that does not compile" with 'def refuse(network, examples): raise RuntimeError("no compiler")
networks.eager = refuse'
check "says so, once" says "rows == [{'name': 'E8 bert, eager', 'why': 'RuntimeError: no compiler'}]"
CUDA_VISIBLE_DEVICES='' check "no device" said tools/setup/torch.sh --run tests/gpu/networks.py bert eager
check "is said" says "len(rows) == 1 and 'sees no CUDA device' in rows[0]['why']"

if [ -e "$BUILD/backends/libinf-backend-torch.so" ]; then
	for network in bert mlp; do
		check "a broker that serves $network, beside the plug-in in a loop" said python3 tests/gpu/end_to_end.py --build "$BUILD" --dry $network
		check "has a ratio" says "[row['name'] for row in rows if 'why' in row] == ['E10 $network device tensors'] and
			[row['key'] for row in rows if row.get('ratio', 0) > 0 and 'ON THE CPU' in row['name']] == ['$network host']"
	done
else
	check "without the plug-in" said python3 tests/gpu/end_to_end.py --build "$BUILD" --dry bert
	check "that is said" says "len(rows) == 2 and all('was not built' in row['why'] for row in rows)"
fi
finish
