#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh quick|full - runs the rows of tests/runners and prints one line each, and one sum at the very end.
#
# A row's command prints "N passed, N failed, N skipped" as its last such line; one that dies or prints none is one
# failure. Whole logs lie in $BUILD/check/NAME.log; what failed is shown at once. Exit 1 if anything failed. Rows whose set
# ends with + mostly wait: where several stand together, two of them run side by side. A row that is not over after
# ROW_SECONDS (1500) has failed too: a run always comes to its sum.
set -u
cd "$(dirname "$0")/.." || exit 1
which=${1:?quick or full}
export BUILD=${BUILD:-build}
logs=$BUILD/check
mkdir -p "$logs"
passed=0 failed=0 skipped=0

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

run_row() {
	local name=$1 command=$2 start=$EPOCHREALTIME rc=0
	# In the foreground: Ctrl-C reaches it.
	timeout --foreground --kill-after=10 "${ROW_SECONDS:-1500}" bash -c "$command" >"$logs/$name.log" 2>&1 </dev/null || rc=$?
	case $rc in 124 | 137) echo "was not over after ${ROW_SECONDS:-1500} s" >>"$logs/$name.log" ;; esac
	echo "$rc $(seconds_since "$start")" >"$logs/$name.end"
}

report_row() {
	local name=$1 log=$logs/$1.log rc=1 seconds=0 sum p=0 f=1 s=0
	read -r rc seconds <"$logs/$name.end"
	sum=$(grep -aE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1)
	[ -z "$sum" ] || read -r p f s <<<"${sum//[^0-9 ]/}"
	[ "$rc" -eq 0 ] || [ "$f" -gt 0 ] || f=1
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	printf '%-22s %5d passed %3d failed %3d skipped %7s s\n' "$name" "$p" "$f" "$s" "$seconds"
	[ "$f" -eq 0 ] || { echo "--- $log (exit $rc), last lines:"; tail -n 40 "$log"; echo "---"; }
	grep -ahE '^ *skip - ' "$log" | sed 's/^ */    /' | sort -u
}

# Those that run side by side, in the order in which they were started.
beside=()
end_beside() {
	local name
	wait
	for name in "${beside[@]}"; do report_row "$name"; done
	beside=()
}

while IFS='|' read -r name set command; do
	name=${name// /} set=${set// /}
	case $name in '' | '#'*) continue ;; esac
	[ "$which" = full ] || [ "${set%+}" = quick ] || continue
	[ -z "${R-}" ] || [[ $name == *"$R"* ]] || continue
	rm -f "$logs/$name.end"
	if [ "$set" != "${set%+}" ]; then
		[ "$(jobs -pr | wc -l)" -lt 2 ] || wait -n
		run_row "$name" "$command" &
		beside+=("$name")
	else
		end_beside
		run_row "$name" "$command"
		report_row "$name"
	fi
done <tests/runners
end_beside
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
