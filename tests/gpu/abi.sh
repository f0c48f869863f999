#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# abi.sh - the types, values and prototypes of driver and NVML as shm/device has them, against cuda.h and nvml.h; and the
# kernels, compiled for every architecture of that toolkit and embedded. $CUDA_HOME names another toolkit; what it lacks
# comes from PyPI (tools/setup/venv.sh cuda).
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}

compile() { "${CC:-gcc}" -std=gnu17 -Wall -Wextra -Werror "$@" -I"$RUN" -I. -Iinclude; }

python=$(tools/setup/venv.sh --python cuda)
find_part() { # bin|include FILE: the toolkit's, else PyPI's
	ls "$CUDA_HOME/$1/$2" ${python:+"${python%/bin/python}"/lib/python3*/site-packages/nvidia/cu*/"$1/$2"} 2>/dev/null | head -n 1
}

# One program compiled with our header and with theirs; then with altered copies of ours, since the comparison must be able
# to fail.
compare() { # HEADER MACRO PROGRAM OURS OTHER-PROTOTYPE OTHER-VALUE (the last two for sed)
	local name=$1 macro=$2 program=$3 ours=$4 theirs
	theirs=$(find_part include "$name")
	if [ -z "$theirs" ]; then
		skip "types, values and prototypes of $name" "there is none here (tools/setup/venv.sh cuda)"
		return
	fi
	# Newer toolkits warn of calls for which older drivers have no other.
	local toolkit=("-D$macro" -Wno-deprecated-declarations -isystem "${theirs%/*}" "$program")
	check "ours compiles without $name" compile "$program" -o "$RUN/ours"
	check "each prototype is $name's" compile "${toolkit[@]}" -o "$RUN/theirs"
	"$RUN/ours" >"$RUN/ours.txt"
	"$RUN/theirs" >"$RUN/theirs.txt"
	check "each of $(wc -l <"$RUN/ours.txt") sizes, offsets and values is $name's" diff "$RUN/ours.txt" "$RUN/theirs.txt"
	mkdir -p "$RUN/shm/device"
	sed "$5" "$ours" >"$RUN/$ours"
	compile "${toolkit[@]}" -o "$RUN/wrong" 2>"$RUN/wrong.txt"
	check "another prototype in $ours would be found" grep -q "error: .* has another prototype in $name" "$RUN/wrong.txt"
	sed "$6" "$ours" >"$RUN/$ours"
	compile "$program" -o "$RUN/wrong" && "$RUN/wrong" >"$RUN/wrong.txt"
	check "another value in $ours would be found" [ "$(diff "$RUN/wrong.txt" "$RUN/theirs.txt" | grep -c '^<')" = 1 ]
	rm -rf "$RUN/shm"
}
compare cuda.h INF_CUDA_TOOLKIT tests/gpu/abi.c shm/device/abi.h \
	's/(CUevent event, CUstream stream)/(CUevent event, CUstream stream, int more)/' 's/CUDA_ERROR_NOT_READY = 600/CUDA_ERROR_NOT_READY = 601/'
compare nvml.h INF_NVML_HEADER tests/gpu/nvml_abi.c shm/device/nvml.h \
	's/unsigned int \*mw/unsigned long *mw/' 's/NVML_ERROR_NO_PERMISSION = 4/NVML_ERROR_NO_PERMISSION = 5/'

cuobjdump=$(find_part bin cuobjdump)
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
