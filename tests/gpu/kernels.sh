#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernels.sh - tests/gpu/kernels.c on the software driver, or on that of $DRIVER: there also under each tool of
# compute-sanitizer (it lies beside nvcc: $CUDA_HOME), which must see two launches that are wrong. And what only the compiler
# can tell, where there is one: in what it makes of the kernels no step of floats is contracted, approximated or flushed to 0.
# Twins have none of that.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
library=${DRIVER:-$BUILD/tests/libfakecuda.so}
program=$BUILD/tests/kernels
SEEN=9 # exit status of a sanitizer that has seen something

# sanitize SANITIZER TOOL [HOW]: the kernels under it; HOW is a launch that is wrong
sanitize() {
	local leaks=()
	[ "$2" != memcheck ] || [ $# -gt 2 ] || leaks=(--leak-check full)
	timeout "${SANITIZER_SECONDS:-90}" "$1" --tool "$2" --error-exitcode $SEEN "${leaks[@]}" "$program" "$library" "${@:3}"
}
clean() { sanitize "$1" "$2" && return; local rc=$?; echo "$2 ended with $rc"; return 1; }
sees() { sanitize "$@" >"$RUN/seen" 2>&1; [ $? -eq $SEEN ] || { tail -n 3 "$RUN/seen"; return 1; }; }
fails() { ! "$@"; }

find_sanitizer() {
	local nvcc
	nvcc=$(command -v nvcc) && nvcc=$(readlink -f "$nvcc")
	ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" ${nvcc:+"${nvcc%/*}/compute-sanitizer"} 2>/dev/null | head -n 1 |
		grep . || command -v compute-sanitizer
}

"$program" "$library" >"$RUN/kernels"
rc=$?
while IFS= read -r line; do
	case $line in
	'ok - '*) ok "${line#ok - }" ;;
	'NOT OK - '*) not_ok "${line#NOT OK - }" ;;
	'skip - '*) skip "${line#skip - }" "NOTHING WAS TESTED" ;;
	esac
done <"$RUN/kernels"
[ $rc -eq 0 ] || [ $n_failed -gt 0 ] || not_ok "kernels" "it ended with $rc"

if [ -z "${DRIVER-}" ]; then
	FAKECUDA_REPORT=$RUN/violations "$program" "$library" beyond >/dev/null
	check "the software driver sees a launch past the end of its memory" grep -q 'inf_copy touches .* crosses the end' "$RUN/violations"
	# What stands in for the sanitizer runs the program, and ends as it is told.
	for ends in 0 $SEEN 1; do
		printf '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift 2; done\n"$@" >"%s/ran" && exit %s\n' "$RUN" $ends >"$RUN/ends-$ends"
	done
	chmod +x "$RUN"/ends-*
	check "a sanitizer that sees nothing passes" clean "$RUN/ends-0" racecheck
	check "and has run the kernels" grep -q ' 0 failed' "$RUN/ran"
	check "one that sees something does not" fails clean "$RUN/ends-$SEEN" memcheck
	check "one that sees something where it must passes" sees "$RUN/ends-$SEEN" memcheck unwritten
	for ends in 0 1; do
		check "one that ends with $ends there does not" fails sees "$RUN/ends-$ends" memcheck unwritten
	done
	skip "the kernels under compute-sanitizer" "only on a GPU (make check-gpu)"
elif [ $n_skipped -gt 0 ]; then
	skip "the kernels under compute-sanitizer: NOTHING WAS TESTED" "there is no device"
elif ! sanitizer=$(find_sanitizer); then
	skip "the kernels under compute-sanitizer: NOTHING WAS TESTED" "there is none beside nvcc or on the path (CUDA_HOME=)"
else
	for tool in memcheck racecheck initcheck synccheck; do
		check "the kernels under $tool" clean "$sanitizer" $tool
	done
	check "memcheck sees a launch past the end of its memory" sees "$sanitizer" memcheck beyond
	check "initcheck sees one of memory that nobody wrote" sees "$sanitizer" initcheck unwritten
fi

# PTX is where it shows: ptxas may contract a product that does not say how it is rounded with the sum that follows it, and must
# leave alone what says so. (Its own code for a division is full of products.)
NVCC=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
[ -x "$NVCC" ] || NVCC=$(command -v nvcc)
if [ -z "$NVCC" ]; then
	skip "each step of floats is rounded by itself" "there is no nvcc"
else
	check "PTX" "$NVCC" -I. -Iinclude -ptx -o "$RUN/ptx" broker/cuda/kernels.cu
	check "each step of floats is rounded by itself" \
		bash -c "! grep -nE '\\b(fma|mad)\\.(rn|rz|rm|rp|f)|\\bmul\\.f|\\.approx|\\.full|\\.ftz' '$RUN/ptx'"
	check "two divisions and a difference for each channel of inf_normalise" \
		bash -c "[ \"\$(grep -c 'div\.rn\.f32' '$RUN/ptx')\" = 8 ] && [ \"\$(grep -c 'sub\.rn\.f32' '$RUN/ptx')\" -ge 4 ]"
fi
finish
