#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run-set.sh SET... - runs every test of some folders under tests/ (unit, integ, ...): the built programs in
# $BUILD/tests/SET and the scripts tests/SET/*.sh.
#
# Each prints "N passed, N failed, N skipped" as its last line; one that dies, hangs (TEST_TIMEOUT, 300 s) or says
# nothing is one failure. What a failed one said is shown, and every skip. The last line is the sum. T=REGEX
# runs only those whose path matches. SET_SECONDS limits all of them together: what it leaves no time for has failed.
set -u
cd "$(dirname "$0")/.." || exit 1
export BUILD=${BUILD:-build}
passed=0 failed=0 skipped=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# The cgroup-less way to leave nothing behind: the test and all it starts are one session, killed as one group.
run_one() {
	local name=$1 start=$EPOCHREALTIME rc=0 sum
	local limit=${TEST_TIMEOUT:-300} left=$((${SET_SECONDS:-86400} - SECONDS))
	if [ $left -le 0 ]; then
		echo "no time is left of $SET_SECONDS s" >"$out"
		rc=124
	else
		timeout --kill-after=5 $((left < limit ? left : limit)) "$@" >"$out" 2>&1 </dev/null || rc=$?
	fi
	sum=$(grep -aE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$out" | tail -n 1)
	local p=0 f=1 s=0
	[ -z "$sum" ] || read -r p f s <<<"${sum//[^0-9 ]/}"
	[ $rc -eq 0 ] || [ "$f" -gt 0 ] || f=1
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	printf '  %-44s %4d passed %3d failed %3d skipped %6.1f s\n' "${name#"$BUILD"/}" "$p" "$f" "$s" \
		"$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')"
	if [ "$f" -gt 0 ]; then
		echo "  --- $name ended with $rc:"
		# What failed, wherever it was said, and how it ended.
		head -n -60 "$out" | grep -aE -A 2 '^(NOT OK|[^ ]+:[0-9]+:[FE]:)' | sed 's/^/  | /'
		tail -n 60 "$out" | sed 's/^/  | /'
	else
		grep -a '^skip - ' "$out" | sed 's/^/    /'
	fi
}

for set in "$@"; do
	for test in "$BUILD/tests/$set"/test_* "tests/$set"/*.sh; do
		[ -f "$test" ] && [ -x "$test" ] || continue
		case $test in *.sh) ;; *) [ -e "tests/$set/${test##*/}.c" ] || continue ;; esac # built from what is gone
		[[ $test =~ ${T-} ]] || continue
		run_one "$test"
	done
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
