#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# check-headers.sh - each public header compiles alone and without a warning as C99, C11 and C++17; each private one as gnu17;
# what has probes compiles without systemtap-sdt-dev too.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
warnings='-Wall -Wextra -Wpedantic -Wundef -Wshadow -Werror'

alone() { # NAME COMPILER... : the header comes on stdin as one include
	local name=$1
	shift
	if "$@" -fsyntax-only - < <(cat; echo "extern int inf_header_is_alone;"); then passed=$((passed + 1)); else failed=$((failed + 1)); echo "failed: $name"; fi
}

for header in include/inf/*.h; do
	line="#include <${header#include/}>"
	for std in c99 c11; do
		alone "$header $std" "${CC:-gcc}" -std=$std $warnings -Iinclude -x c <<<"$line"
	done
	if command -v "${CXX:-g++}" >/dev/null; then
		alone "$header c++17" "${CXX:-g++}" -std=c++17 $warnings -Iinclude -x c++ <<<"$line"
	else
		skipped=$((skipped + 1))
		echo "skip - $header as C++17: no C++ compiler here"
	fi
done
for header in $(find shm client broker tools tests -name '*.h' -not -path '*/torch/*' -not -path 'client/python/*' | sort); do
	alone "$header" "${CC:-gcc}" -std=gnu17 -Wall -Wextra -Werror -I. -Iinclude -x c <<<"#include \"$header\""
done
for source in $(grep -lE '\bINF_(CLIENT_)?PROBE[0-9]+\(' client/*.c broker/*.c); do
	alone "$source without probes" "${CC:-gcc}" -std=gnu17 -Wall -Wextra -Werror -DINF_NO_PROBES -I. -Iinclude -x c <"$source"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
