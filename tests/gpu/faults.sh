#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# faults.sh - every call that the executor makes of the driver fails once, with an error that it can go on after and with one
# after which the device is lost: clients get right answers or named statuses, nobody hangs, the broker ends cleanly.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
export INF_CUDA_LIBRARY=$PWD/$BUILD/tests/libfakecuda.so FAKECUDA_REPORT=$RUN/violations INF_BUILTIN_COST=10,1
if [ -n "${DRIVER-}" ] || [ ! -e "$INF_CUDA_LIBRARY" ]; then
	skip "errors of the driver" "only the software driver makes them"
	finish
fi

# fails CALL:N:CODE: what became of the requests of a short load
fails() {
	local said
	rm -f "$RUN/violations" "$RUN/once"
	if ! FAKECUDA_FAULTS=$1 FAKECUDA_FAULTS_ONCE=$RUN/once broker_start --builtin --device cuda >"$RUN/out" 2>&1; then
		not_ok "$1" "the broker does not start: $(tail -n 2 "$RUN/out" | tr '\n' ' ')"
		broker_stop
		return
	fi
	said=$(timeout 30 "$BUILD/tests/checked_load" "$SOCKET" 2 64 0.15 identity 2>&1)
	case $? in
	124) not_ok "$1" "somebody waits for ever" ;;
	*)
		if ! grep -q '"wrong": 0,' <<<"$said"; then
			not_ok "$1" "$said"
		elif [ -s "$RUN/violations" ]; then
			not_ok "$1" "$(head -n 2 "$RUN/violations")"
		else
			ok "$1: $(sed -n 's/.*"status": \({[^}]*}\).*/\1/p; s/^checked_load: //p' <<<"$said" | tr '\n' ' ')$("$BUILD/shmctl" status | sed -n 's/.*\(device [a-z0-9:]*\).*, \([0-9]*\) death.*/\1, \2 died/p')"
		fi
		;;
	esac
	broker_stop || not_ok "$1" "the broker does not end cleanly"
}

# As tests/fakecuda/ counts them: which calls does the executor make at all?
calls=$(sed -n 's/.*X([a-z_]*, \(cu[A-Za-z0-9_]*\),.*/\1/p' shm/device/abi.h |
	grep -vE 'cuGetErrorName|cuMem(GetAlloc|Create|Release|AddressReserve|AddressFree|Map|Unmap|SetAccess|Export|Import|GetInfo|GetAddressRange)|cuCtxGet|cuCtxSync|cuPointer|Value64|Capture|cuGraph|cuMemsetD8|DtoDAsync|cuEventQuery|cuEventSync|cuMemHostGetDevicePointer|cuModuleUnload|cuDevicePrimaryCtxRelease|cuEventDestroy')
for call in $calls; do
	fails "$call:1:2"   # CUDA_ERROR_OUT_OF_MEMORY
	fails "$call:1:700" # CUDA_ERROR_ILLEGAL_ADDRESS
done
# While batches are on the device.
for call in cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuStreamWaitEvent cuEventRecord cuLaunchHostFunc cuLaunchKernel; do
	fails "$call:2000:2"
	fails "$call:2000:719" # CUDA_ERROR_LAUNCH_FAILED
done
finish
