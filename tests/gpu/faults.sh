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
	grep -vE 'cuGetErrorName|cuIpc|cuMem(GetAlloc|Create|Release|AddressReserve|AddressFree|Map|Unmap|SetAccess|Export|Import|GetInfo|GetAddressRange)|cuCtxGet|cuCtxSync|cuPointer|Value64|Capture|cuGraph|cuMemsetD8|DtoDAsync|cuEventQuery|cuEventSync|cuMemHostGetDevicePointer|cuModuleUnload|cuDevicePrimaryCtxRelease|cuEventDestroy')
for call in $calls; do
	fails "$call:1:2"   # CUDA_ERROR_OUT_OF_MEMORY
	fails "$call:1:700" # CUDA_ERROR_ILLEGAL_ADDRESS
done
# While batches are on the device.
for call in cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuStreamWaitEvent cuEventRecord cuLaunchHostFunc cuGraphLaunch; do
	for n in 500 600 2000; do fails "$call:$n:2"; done
	fails "$call:2000:719" # CUDA_ERROR_LAUNCH_FAILED
done
fails cuGraphLaunch:700:~214	   # CUDA_ERROR_ECC_UNCORRECTABLE, found while the batch runs
fails cuMemcpyDtoHAsync_v2:700:~214

# tensor_fails WHERE CALL:N:CODE: tensors on the device, while a call fails in the executor or in the client
tensor_fails() {
	local said
	rm -f "$RUN/violations" "$RUN/once"
	if [ "$1" = executor ]; then
		FAKECUDA_FAULTS=$2 FAKECUDA_FAULTS_ONCE=$RUN/once broker_start --builtin --device cuda >"$RUN/out" 2>&1
		said=$(timeout 30 "$BUILD/tests/tensor_ends" "$SOCKET" faulty 2>&1)
	else
		said=$(FAKECUDA_FAULTS=$2 timeout 30 "$BUILD/tests/tensor_ends" "$SOCKET" faulty 2>&1)
	fi
	case $? in
	0) ok "$1: $2: $(sed -n 's/^# //p' <<<"$said" | sort | uniq -c | tr -s ' \n' ' ')" ;;
	124) not_ok "$1: $2" "somebody waits for ever" ;;
	*) not_ok "$1: $2" "$said" ;;
	esac
	if [ -s "$RUN/violations" ]; then
		not_ok "$1: $2: the driver saw nothing wrong" "$(head -n 2 "$RUN/violations")"
	fi
	[ "$1" = client ] || broker_stop || not_ok "$1: $2" "the broker does not end cleanly"
}
slabs="cuMemGetAllocationGranularity cuMemCreate cuMemRelease cuMemAddressReserve cuMemMap cuMemSetAccess cuMemExportToShareableHandle
	cuMemsetD8Async cuMemUnmap cuMemAddressFree"
for call in $slabs cuMemHostGetDevicePointer_v2; do
	for code in 2 719; do tensor_fails executor "$call:1:$code"; done
done
for call in cuMemcpyDtoDAsync_v2 cuStreamWriteValue64_v2; do
	for n in 1 7; do for code in 2 719; do tensor_fails executor "$call:$n:$code"; done; done
done
broker_start --builtin --device cuda || { not_ok "start"; finish; }
calls="cuInit cuDriverGetVersion cuDeviceGetCount cuDeviceGet cuDeviceGetUuid_v2 cuDevicePrimaryCtxRetain cuCtxGetCurrent cuCtxSetCurrent
	cuMemHostRegister_v2 cuMemHostGetDevicePointer_v2 cuMemImportFromShareableHandle cuMemAddressReserve cuMemMap cuMemSetAccess
	cuMemRelease cuStreamWriteValue64_v2 cuStreamWaitValue64_v2 cuCtxSynchronize cuMemUnmap cuMemAddressFree cuMemHostUnregister"
for call in $calls; do
	for code in 2 719; do tensor_fails client "$call:1:$code"; done
done
check "the broker serves tensors as before" "$BUILD/tests/tensors" "$SOCKET" mixed
check "the broker ends cleanly" broker_stop
finish
