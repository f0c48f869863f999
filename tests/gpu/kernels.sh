#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernels.sh - tests/gpu/kernels.c on the software driver, or on that of $DRIVER; and what only the compiler can tell, where
# there is one: in what it makes of the kernels no step of floats is contracted, approximated or flushed to 0. Twins have
# none of that.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh

"$BUILD/tests/kernels" "${DRIVER:-$BUILD/tests/libfakecuda.so}" >"$RUN/kernels" 2>&1
cat "$RUN/kernels"
n_passed=$(grep -c '^ok - ' "$RUN/kernels")
n_failed=$(grep -c '^NOT OK - ' "$RUN/kernels")
n_skipped=$(grep -c '^skip - ' "$RUN/kernels")
tail -n 1 "$RUN/kernels" | grep -q ' skipped$' || not_ok "kernels" "it did not get to its end"

# PTX is where it shows: ptxas may contract a product that does not say how it is rounded with the sum that follows it, and must
# leave alone what says so. (Its own code for a division is full of products.)
NVCC=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
[ -x "$NVCC" ] || NVCC=$(command -v nvcc)
if [ -z "$NVCC" ]; then
	skip "each step of floats is rounded by itself" "there is no nvcc"
	finish
fi
check "PTX" "$NVCC" -I. -Iinclude -ptx -o "$RUN/ptx" broker/cuda/kernels.cu
check "each step of floats is rounded by itself" \
	bash -c "! grep -nE '\\b(fma|mad)\\.(rn|rz|rm|rp|f)|\\bmul\\.f|\\.approx|\\.full|\\.ftz' '$RUN/ptx'"
check "two divisions and a difference for each channel of inf_normalise" \
	bash -c "[ \"\$(grep -c 'div\.rn\.f32' '$RUN/ptx')\" = 8 ] && [ \"\$(grep -c 'sub\.rn\.f32' '$RUN/ptx')\" -ge 4 ]"
finish
