#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lint.sh - what a script can see of the house style. Its own rules fail it; shellcheck too, where it is installed.
# What clang-format would change and clang-tidy's opinion (TIDY=1) are printed, and fail nothing.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
if git rev-parse --git-dir >/dev/null 2>&1; then
	mapfile -t files < <(git ls-files --cached --others --exclude-standard | while read -r f; do [ -f "$f" ] && echo "$f"; done)
else
	mapfile -t files < <(find . -path ./build -prune -o -type f -print | sed 's|^\./||')
fi
only() { printf '%s\n' "${files[@]}" | grep -E "$1"; }
mapfile -t code < <(only '\.(c|h|cc)$')
mapfile -t test_code < <(only '^tests/.*\.c$')
mapfile -t library < <(only '^(client|shm)/.*\.[ch]$')
mapfile -t tidy < <(only '^(shm|client|broker|tools)/.*\.c$')
mapfile -t scripts < <(only '(\.sh|^\.ci/run)$')

rule() { # WHAT: fails if stdin has lines
	local found
	found=$(cat)
	[ -n "$found" ] || return 0
	echo "$1:"
	sed 's/^/  /' <<<"$found"
	bad=$((bad + 1))
}

rule 'forbidden calls' < <(grep -nE '\b(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|alloca|rand|gets) *\(' "${code[@]}")
rule 'sleep in tests' < <(grep -nE '\bsleep\(' "${test_code[@]}")
rule 'the library never prints' < <(grep -nE '\b(v?f?printf|puts|perror|fputs|syslog)\(' "${library[@]}")
rule 'pointers or size_t in the layout' < <(grep -nwE 'size_t|void \*|char \*' shm/layout.h)
rule 'volatile is no synchronisation' < <(grep -nE 'volatile (int|bool|u?int[0-9]+_t|unsigned|size_t) [a-z_]+( =|;|\[)' "${code[@]}")
rule 'unfinished' < <(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' "${files[@]}" | grep -v '^tests/lint.sh')
rule 'paths of one machine' < <(grep -nE '(^|[^a-zA-Z0-9_.$}])/(home|root|work)/' "${files[@]}" | grep -v '^tests/lint.sh')
unlicensed() {
	for f in "${files[@]}"; do
		case $f in *.c | *.h | *.cc | *.sh | *.py | *.map | Makefile | .ci/run)
			head -n 3 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$f" ;;
		esac
	done
}
too_long() { for f in "${code[@]}" "${scripts[@]}"; do [ "$(wc -l <"$f")" -le 800 ] || echo "$f"; done; }
unparsable() { for f in "${scripts[@]}"; do bash -n "$f" 2>&1; done; }
rule 'no SPDX line at the top' < <(unlicensed)
rule 'longer than 800 lines' < <(too_long)
rule 'script that does not parse' < <(unparsable)
rule 'blanks at the end of a line' < <(grep -nE '[[:blank:]]+$' "${code[@]}" "${scripts[@]}" Makefile)
if command -v shellcheck >/dev/null; then
	rule shellcheck < <(shellcheck -S warning -x "${scripts[@]}")
else
	echo 'skip - shellcheck is not installed'
fi
if command -v clang-format >/dev/null; then
	n=$(for f in "${code[@]}"; do clang-format "$f" | cmp -s - "$f" || echo "$f"; done | wc -l)
	echo "clang-format would change $n of ${#code[@]} files (not a failure)"
fi
if [ "${TIDY-}" = 1 ] && command -v clang-tidy >/dev/null; then
	clang-tidy --quiet "${tidy[@]}" -- -std=gnu17 -I. -Iinclude 2>/dev/null
fi
[ $bad -eq 0 ] && echo 'lint: clean'
exit $((bad > 0))
