#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# pip.sh - a user's way to the Python package: a clean virtual environment, `pip install ./client/python`, and the program in
# its README as printed, on the demo's photograph.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh

if ! python3 -m venv "$RUN/venv" >"$RUN/out" 2>&1; then
	skip "pip install" "python3 has no venv here"
	finish
fi
if ! "$RUN/venv/bin/pip" install -q --disable-pip-version-check pillow >"$RUN/out" 2>&1; then
	skip "pip install" "no package index can be reached"
	finish
fi
check "pip install ./client/python" "$RUN/venv/bin/pip" install -q --disable-pip-version-check ./client/python
check "the wheel has the library in it" bash -c "! ldd '$RUN'/venv/lib/python*/site-packages/infclient/_core.abi3.so | grep -q infclient"
check "the wheel leaves the source tree clean" bash -c '[ ! -e client/python/build ] && [ ! -e client/python/core/convert.o ]'

check "pip wheel ./client/python" "$RUN/venv/bin/pip" wheel -q --disable-pip-version-check --no-deps -w "$RUN" ./client/python
wheel=$(echo "$RUN"/infclient-*-cp311-abi3-*.whl)
if "$RUN/venv/bin/pip" install -q --disable-pip-version-check abi3audit >"$RUN/out" 2>&1; then
	check "it asks for nothing beyond Python 3.11's stable ABI" "$RUN/venv/bin/abi3audit" --strict "$wheel"
else
	skip "the stable ABI" "abi3audit cannot be installed here"
fi

broker_start --builtin || { not_ok "start"; finish; }
# One wheel for all that come after: $INF_PYTHONS names others than those in the path.
for python in ${INF_PYTHONS:-python3.12 python3.13 python3.14}; do
	name=$(basename "$python")
	if ! "$python" -c 'import ensurepip' >"$RUN/out" 2>&1; then
		skip "the same wheel under $name" "no $name here"
	elif ! "$python" -m venv "$RUN/$name" >"$RUN/out" 2>&1 ||
		! "$RUN/$name/bin/pip" install -q --disable-pip-version-check numpy >"$RUN/out" 2>&1; then
		skip "the same wheel under $name" "no numpy for it here"
	else
		check "the same wheel installs under $name" "$RUN/$name/bin/pip" install -q --disable-pip-version-check "$wheel"
		check "calls and awaits work there" "$RUN/$name/bin/python" -X dev -W error -c "
import asyncio, infclient, numpy as np
model = infclient.connect()['identity']
x = np.arange(64, dtype=np.uint8).reshape(1, 64)
assert (model(x) == x).all()
async def main(): return await asyncio.gather(*[model.submit(x) for _ in range(1000)])
assert all((y == x).all() for y in asyncio.run(main()))"
	fi
done
check "python -m infclient ls" bash -c "'$RUN/venv/bin/python' -m infclient ls | grep -q '^identity '"
check "python -m infclient bench" "$RUN/venv/bin/python" -m infclient bench identity -n 100
check "the broker ends by itself" broker_stop

if [ ! -e "$BUILD/backends/libinf-backend-torch.so" ] || ! tools/demo/export.sh >"$RUN/out" 2>&1; then
	skip "the README's program" "built without the torch backend"
	finish
fi
broker_start --models "$BUILD/demo/models" || { not_ok "start with the demo's network"; finish; }
sed -n '/^# photograph$/,/^```$/p' client/python/README.md | grep -v '^```' | sed "s|build/demo|$BUILD/demo|" >"$RUN/photograph.py"
check "the README's program runs" bash -c "'$RUN/venv/bin/python' '$RUN/photograph.py' >'$RUN/said'"
check "and sees the palace" [ "$(cat "$RUN/said")" = 698 ]
check "the broker ends" broker_stop
finish
