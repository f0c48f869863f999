#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# abi.sh - the types, values and prototypes of driver and NVML as shm/device has them, against cuda.h and nvml.h; and the
# kernels, compiled for every architecture of that toolkit and embedded. $CUDA_HOME names another toolkit.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}

compile() { "${CC:-gcc}" -std=gnu17 -Wall -Wextra -Werror "$@" -I"$RUN" -I. -Iinclude; }

if [ ! -e "$CUDA_HOME/include/cuda.h" ]; then
	skip "types, values and prototypes" "no cuda.h in $CUDA_HOME/include"
	finish
fi
toolkit=(-DINF_CUDA_TOOLKIT -isystem "$CUDA_HOME/include" tests/gpu/abi.c)
check "ours compiles without a toolkit" compile tests/gpu/abi.c -o "$RUN/ours"
check "each prototype is cuda.h's" compile "${toolkit[@]}" -o "$RUN/theirs"
"$RUN/ours" >"$RUN/ours.txt"
"$RUN/theirs" >"$RUN/theirs.txt"
check "each of $(wc -l <"$RUN/ours.txt") sizes, offsets and values is cuda.h's" diff "$RUN/ours.txt" "$RUN/theirs.txt"

# The comparison must be able to fail.
mkdir -p "$RUN/shm/device"
sed 's/(CUevent event, CUstream stream)/(CUevent event, CUstream stream, int more)/' shm/device/abi.h >"$RUN/shm/device/abi.h"
cp shm/device/driver.h "$RUN/shm/device/"
check "another prototype would be found" bash -c "! $(declare -f compile); RUN=$RUN; ! compile ${toolkit[*]} -o '$RUN/wrong'"
sed 's/CUDA_ERROR_NOT_READY = 600/CUDA_ERROR_NOT_READY = 601/' shm/device/abi.h >"$RUN/shm/device/abi.h"
check "another value would be found" bash -c "$(declare -f compile); RUN=$RUN; compile tests/gpu/abi.c -o '$RUN/wrong' &&
	'$RUN/wrong' >'$RUN/wrong.txt' && ! diff -q '$RUN/wrong.txt' '$RUN/theirs.txt'"

# Where the toolkit has none: PyPI's.
python=$(tools/setup/venv.sh --python cuda)
nvml=$(ls "$CUDA_HOME/include/nvml.h" ${python:+"${python%/bin/python}"/lib/python3*/site-packages/nvidia/cu*/include/nvml.h} 2>/dev/null | head -n 1)
if [ -n "$nvml" ]; then
	check "NVML's prototypes are nvml.h's" compile -DINF_NVML_HEADER -isystem "${nvml%/*}" tests/gpu/nvml_abi.c -o "$RUN/theirs"
	check "ours compiles without it" compile tests/gpu/nvml_abi.c -o "$RUN/ours"
	check "its values and types are nvml.h's" diff <("$RUN/ours") <("$RUN/theirs")
else
	skip "NVML's prototypes" "no nvml.h here (tools/setup/venv.sh cuda)"
fi
cuobjdump=$(ls "$CUDA_HOME/bin/cuobjdump" ${python:+"${python%/bin/python}"/lib/python3*/site-packages/nvidia/cu*/bin/cuobjdump} 2>/dev/null | head -n 1)
if [ ! -e "$BUILD/obj/broker/cuda/kernels.fatbin" ]; then
	skip "embedded kernels" "built without nvcc"
elif [ -z "$cuobjdump" ]; then
	skip "embedded kernels" "no cuobjdump here (tools/setup/venv.sh cuda)"
else
	for arch in $("$CUDA_HOME/bin/nvcc" --list-gpu-code); do
		check "the executor has kernels for $arch" bash -c "'$cuobjdump' --list-elf '$BUILD/infbroker-executor' | grep -q '\.$arch\.'"
	done
	check "and PTX for what comes after" bash -c "'$cuobjdump' --list-ptx '$BUILD/infbroker-executor' | grep -q 'PTX file'"
fi
for kernel in $(sed -n 's/.*__global__ void \(inf_[a-z_]*\).*/\1/p' broker/cuda/kernels.cu); do
	check "$kernel has a twin" grep -q "{ \"$kernel\"," broker/cuda/twins.c
done
finish
