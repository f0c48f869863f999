#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh [PYTEST ARGS] - the Python package's tests: pytest, mypy --strict, and the tutorial as a doctest.
#
# $BUILD has the broker and the package to test; with $ASAN_BUILD the package (not the broker) is that build's, under ASan. The last line is
# "N passed, N failed, N skipped"; all is one skip where the virtual environment or the package cannot be had.
set -u
cd "$(dirname "$0")/../.." || exit 1
export BUILD=${BUILD:-build}
python=$(tools/setup/venv.sh --python python)
passed=0 failed=0 skipped=0

if [ -z "$python" ] || [ ! -e "${ASAN_BUILD:-$BUILD}/python/.built" ]; then
	echo "skip - python: no virtual environment with pytest here (tools/setup/venv.sh python)"
	echo "0 passed, 0 failed, 1 skipped"
	exit 0
fi

# pytest's own last line says "2 failed, 50 passed, 1 skipped in 3.2s".
count() { # WORD TEXT
	local n
	n=$(grep -oE "[0-9]+ $1" <<<"$2" | head -n 1)
	echo "${n%% *}"
}

# Not through a pipe, which a stopped process that a test left behind would keep open: those are killed. At the end of
# its time Python says where each of its threads is (SIGABRT, faulthandler).
run_pytest() {
	local log last pid rc=0
	log=$(mktemp)
	timeout --signal=ABRT --kill-after=10 "${PYTEST_SECONDS:-900}" "$@" >"$log" 2>&1 </dev/null &
	pid=$!
	wait "$pid" || rc=$?
	kill -KILL -- "-$pid" 2>/dev/null
	cat "$log"
	last=$(grep -aE '(passed|failed|error|skipped).* in [0-9.]+' "$log" | tail -n 1)
	rm -f "$log"
	local p f e s
	p=$(count passed "$last") f=$(count failed "$last") e=$(count error "$last") s=$(count skipped "$last")
	passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0} + ${e:-0})) skipped=$((skipped + ${s:-0}))
	[ $rc -eq 0 ] || [ $((${f:-0} + ${e:-0})) -gt 0 ] || failed=$((failed + 1))
}

check() { # NAME COMMAND...
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		passed=$((passed + 1))
		echo "ok - $name"
	else
		failed=$((failed + 1))
		printf 'NOT OK - %s\n%s\n' "$name" "$out"
	fi
}

if [ -n "${ASAN_BUILD-}" ]; then
	# Python itself leaks by design; what the package leaks is counted by the tests.
	run_pytest env INF_PYTHON_BUILD="$ASAN_BUILD" LD_PRELOAD="$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 "$python" -X faulthandler -m pytest tests/python --quick --ignore=tests/python/test_tutorial.py "$@"
else
	run_pytest "$python" -X faulthandler -m pytest tests/python "$@"
	(cd client/python && "$python" -m mypy --version >/dev/null 2>&1) &&
		check "mypy --strict is silent" bash -c "cd client/python && '$python' -m mypy --cache-dir=/dev/null"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
