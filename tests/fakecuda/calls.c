/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - the driver's symbols. See fake.h. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include "broker/cuda/kernels.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default"))) CUresult
#define BEGIN(name, needs_context)                                 \
	do {                                                       \
		CUresult early = call_begin(#name, needs_context); \
		if (early)                                         \
			return early;                              \
	} while (0)
#define DEVICES_MAX 16

_Thread_local bool has_context;
static unsigned int n_retained;

static int n_devices(void)
{
	uint64_t n = setting("FAKECUDA_DEVICES", 1);

	return n > DEVICES_MAX ? DEVICES_MAX : (int)n;
}

/* Prototypes as the table has them: each symbol is checked against it. */
#define PROTOTYPE(member, symbol, params) EXPORT symbol params;
INF_DRIVER_CALLS(PROTOTYPE)

/* --- the driver and its devices ---------------------------------------------------------------------------- */

EXPORT cuInit(unsigned int flags)
{
	(void)flags;
	BEGIN(cuInit, false);
	return call_end(n_devices() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE);
}

EXPORT cuDriverGetVersion(int *version)
{
	BEGIN(cuDriverGetVersion, false);
	*version = (int)setting("FAKECUDA_VERSION", 13000);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuGetErrorName(CUresult error, const char **text)
{
	static const struct {
		CUresult error;
		const char *name;
	} known[] = {
#define NAME(error) { error, #error }
		NAME(CUDA_SUCCESS),
		NAME(CUDA_ERROR_INVALID_VALUE),
		NAME(CUDA_ERROR_OUT_OF_MEMORY),
		NAME(CUDA_ERROR_NO_DEVICE),
		NAME(CUDA_ERROR_INVALID_DEVICE),
		NAME(CUDA_ERROR_INVALID_IMAGE),
		NAME(CUDA_ERROR_INVALID_CONTEXT),
		NAME(CUDA_ERROR_ECC_UNCORRECTABLE),
		NAME(CUDA_ERROR_INVALID_HANDLE),
		NAME(CUDA_ERROR_NOT_FOUND),
		NAME(CUDA_ERROR_NOT_READY),
		NAME(CUDA_ERROR_ILLEGAL_ADDRESS),
		NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
		NAME(CUDA_ERROR_LAUNCH_FAILED),
		NAME(CUDA_ERROR_NOT_PERMITTED),
		NAME(CUDA_ERROR_NOT_SUPPORTED),
		NAME(CUDA_ERROR_SYSTEM_NOT_READY),
		NAME(CUDA_ERROR_UNKNOWN),
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].error == error) {
			*text = known[i].name;
			return CUDA_SUCCESS;
		}
	return CUDA_ERROR_INVALID_VALUE;
}

EXPORT cuDeviceGetCount(int *count)
{
	BEGIN(cuDeviceGetCount, false);
	*count = n_devices();
	return call_end(CUDA_SUCCESS);
}

EXPORT cuDeviceGet(CUdevice *device, int ordinal)
{
	BEGIN(cuDeviceGet, false);
	if (ordinal < 0 || ordinal >= n_devices())
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	*device = ordinal;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuDeviceGetName(char *name, int bytes, CUdevice device)
{
	BEGIN(cuDeviceGetName, false);
	snprintf(name, (size_t)bytes, "software device %d (no GPU)", device);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	BEGIN(cuDeviceGetUuid_v2, false);
	memset(uuid->bytes, 0xfa, sizeof(uuid->bytes));
	uuid->bytes[0] = (char)device;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
	(void)device;
	BEGIN(cuDeviceGetAttribute, false);
	switch (attribute) {
	case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
		*value = 2;
		break;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
		*value = 9;
		break;
	case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
		*value = (int)setting("FAKECUDA_READ_ONLY", 1);
		break;
	default:
		*value = 0;
	}
	return call_end(CUDA_SUCCESS);
}

/* --- context ------------------------------------------------------------------------------------------------- */

EXPORT cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
	(void)device;
	BEGIN(cuDevicePrimaryCtxRetain, false);
	n_retained++;
	*context = (CUcontext)(void *)&n_retained;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
	(void)device;
	BEGIN(cuDevicePrimaryCtxRelease_v2, false);
	if (!n_retained)
		violation("a context is released that nobody has");
	n_retained -= n_retained > 0;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags)
{
	(void)device, (void)flags;
	BEGIN(cuDevicePrimaryCtxSetFlags_v2, false);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuCtxSetCurrent(CUcontext context)
{
	BEGIN(cuCtxSetCurrent, false);
	if (context && (context != (CUcontext)(void *)&n_retained || !n_retained)) {
		violation("a context is made current that is none");
		return call_end(CUDA_ERROR_INVALID_CONTEXT);
	}
	has_context = context;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuCtxGetCurrent(CUcontext *context)
{
	BEGIN(cuCtxGetCurrent, false);
	*context = has_context ? (CUcontext)(void *)&n_retained : NULL;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	BEGIN(cuCtxGetStreamPriorityRange, true);
	*least = 0;
	*greatest = -5;
	return call_end(CUDA_SUCCESS);
}

/* --- memory --------------------------------------------------------------------------------------------------- */

EXPORT cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
	BEGIN(cuMemGetInfo_v2, true);
	*total_bytes = setting("FAKECUDA_MEMORY", 1ull << 30);
	*free_bytes = *total_bytes - ledger->device_bytes;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
	void *at = NULL;
	CUresult result;

	BEGIN(cuMemAlloc_v2, true);
	result = memory_alloc(MEMORY_DEVICE, &at, bytes);
	*address = (uintptr_t)at;
	return call_end(result);
}

/* As on the real one, it waits for all work first: what is still queued and touches it is a violation all the same. */
EXPORT cuMemFree_v2(CUdeviceptr address)
{
	BEGIN(cuMemFree_v2, true);
	return call_end(memory_free(MEMORY_DEVICE, (void *)(uintptr_t)address));
}

EXPORT cuMemAllocHost_v2(void **address, size_t bytes)
{
	BEGIN(cuMemAllocHost_v2, true);
	return call_end(memory_alloc(MEMORY_PINNED, address, bytes));
}

EXPORT cuMemFreeHost(void *address)
{
	BEGIN(cuMemFreeHost, true);
	return call_end(memory_free(MEMORY_PINNED, address));
}

EXPORT cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags)
{
	BEGIN(cuMemHostRegister_v2, true);
	if (flags & CU_MEMHOSTREGISTER_READ_ONLY && !setting("FAKECUDA_READ_ONLY", 1))
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	return call_end(memory_register(address, bytes, flags & CU_MEMHOSTREGISTER_READ_ONLY));
}

EXPORT cuMemHostUnregister(void *address)
{
	BEGIN(cuMemHostUnregister, true);
	return call_end(memory_unregister(address));
}

EXPORT cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *host, unsigned int flags)
{
	(void)flags;
	BEGIN(cuMemHostGetDevicePointer_v2, true);
	if (!memory_has(MEMORY_PINNED | MEMORY_REGISTERED, host, 1, NULL))
		return call_end(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
	*device = (uintptr_t)host;
	return call_end(CUDA_SUCCESS);
}

/* --- operations ------------------------------------------------------------------------------------------------ */

static void add_touch(struct op *op, const void *address, size_t bytes, bool is_written)
{
	if (op->n_touches == TOUCHES)
		abort();
	op->touches[op->n_touches++] = (struct touch){ address, bytes, is_written };
}

static bool is_stream(CUstream stream, const char *what)
{
	if (stream && stream_is_known(stream))
		return true;
	violation("%s on a stream that is none", what);
	return false;
}

static bool is_device(const void *address, size_t bytes, const char *what)
{
	if (bytes && memory_has(MEMORY_DEVICE, address, bytes, NULL))
		return true;
	violation("%s of [%p, +%zu), which is no device memory", what, address, bytes);
	return false;
}

/* How the device sees a host address: pinned, not at all (pageable), or across the end of what is pinned. */
static CUresult look_at_host(const void *address, size_t bytes, bool is_written, bool *ret_pageable)
{
	unsigned int kinds = MEMORY_PINNED | MEMORY_REGISTERED;
	bool read_only = false;

	*ret_pageable = !memory_has(kinds, address, bytes, &read_only);
	if (*ret_pageable && memory_has_part(kinds, address, bytes)) {
		violation("a copy of [%p, +%zu) crosses the end of what is pinned", address, bytes);
		return CUDA_ERROR_INVALID_VALUE;
	}
	if (read_only && is_written) {
		violation("a copy to [%p, +%zu), which is registered read-only", address, bytes);
		return CUDA_ERROR_INVALID_VALUE;
	}
	return CUDA_SUCCESS;
}

EXPORT cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
	struct op op = { .kind = OP_COPY_IN, .to = (void *)(uintptr_t)to, .from = from, .bytes = bytes };
	CUresult result;
	bool is_pageable;

	BEGIN(cuMemcpyHtoDAsync_v2, true);
	if (!is_stream(stream, "a copy in"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!is_device(op.to, bytes, "a copy in"))
		return call_end(CUDA_ERROR_INVALID_VALUE);
	result = look_at_host(from, bytes, false, &is_pageable);
	if (result)
		return call_end(result);
	ledger->in_bytes += bytes;
	add_touch(&op, op.to, bytes, true);
	if (is_pageable) {
		/* The driver copies it aside before it returns. */
		ledger->pageable_bytes += bytes;
		op.owned = malloc(bytes);
		if (!op.owned)
			abort();
		op.from = memcpy(op.owned, from, bytes);
	} else {
		add_touch(&op, from, bytes, false);
	}
	stream_put(stream, &op);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	struct op op = { .kind = OP_COPY_OUT, .to = to, .from = (const void *)(uintptr_t)from, .bytes = bytes };
	CUresult result;
	bool is_pageable;

	BEGIN(cuMemcpyDtoHAsync_v2, true);
	if (!is_stream(stream, "a copy out"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!is_device(op.from, bytes, "a copy out"))
		return call_end(CUDA_ERROR_INVALID_VALUE);
	result = look_at_host(to, bytes, true, &is_pageable);
	if (result)
		return call_end(result);
	ledger->out_bytes += bytes;
	add_touch(&op, op.from, bytes, false);
	if (!is_pageable)
		add_touch(&op, to, bytes, true);
	stream_put(stream, &op);
	if (is_pageable) {
		ledger->pageable_bytes += bytes;
		stream_wait_idle(stream);
	}
	return call_end(CUDA_SUCCESS);
}

EXPORT cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	struct op op = { .kind = OP_COPY, .to = (void *)(uintptr_t)to, .from = (const void *)(uintptr_t)from, .bytes = bytes };

	BEGIN(cuMemcpyDtoDAsync_v2, true);
	if (!is_stream(stream, "a copy"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!is_device(op.to, bytes, "a copy") || !is_device(op.from, bytes, "a copy"))
		return call_end(CUDA_ERROR_INVALID_VALUE);
	ledger->device_copy_bytes += bytes;
	add_touch(&op, op.to, bytes, true);
	add_touch(&op, op.from, bytes, false);
	stream_put(stream, &op);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
	struct op op = { .kind = OP_FILL, .to = (void *)(uintptr_t)to, .bytes = bytes, .params = { value } };

	BEGIN(cuMemsetD8Async, true);
	if (!is_stream(stream, "a fill"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!is_device(op.to, bytes, "a fill"))
		return call_end(CUDA_ERROR_INVALID_VALUE);
	add_touch(&op, op.to, bytes, true);
	stream_put(stream, &op);
	return call_end(CUDA_SUCCESS);
}

/* --- streams ---------------------------------------------------------------------------------------------------- */

EXPORT cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int priority)
{
	(void)flags, (void)priority;
	BEGIN(cuStreamCreateWithPriority, true);
	*stream = stream_new();
	return call_end(CUDA_SUCCESS);
}

EXPORT cuStreamDestroy_v2(CUstream stream)
{
	BEGIN(cuStreamDestroy_v2, true);
	if (!is_stream(stream, "destroy"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	stream_end(stream);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuStreamSynchronize(CUstream stream)
{
	BEGIN(cuStreamSynchronize, true);
	if (!is_stream(stream, "synchronize"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	stream_wait_idle(stream);
	return call_end_waiting();
}

EXPORT cuStreamQuery(CUstream stream)
{
	BEGIN(cuStreamQuery, true);
	if (!is_stream(stream, "query"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (stream->n_done < stream->n_queued)
		return call_end(CUDA_ERROR_NOT_READY);
	clock_join(host_clock(), &stream->clock);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data)
{
	struct op op = { .kind = OP_CALL, .function = function, .data = data };

	BEGIN(cuLaunchHostFunc, true);
	if (!is_stream(stream, "a call"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	stream_put(stream, &op);
	return call_end(CUDA_SUCCESS);
}

/* --- events ------------------------------------------------------------------------------------------------------- */

EXPORT cuEventCreate(CUevent *event, unsigned int flags)
{
	(void)flags;
	BEGIN(cuEventCreate, true);
	*event = calloc(1, sizeof(**event));
	if (!*event)
		abort();
	ledger->events++;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuEventDestroy_v2(CUevent event)
{
	BEGIN(cuEventDestroy_v2, true);
	if (event->n_done < event->n_recorded) {
		/* Kept: a queued operation names it. */
		violation("an event is destroyed that was recorded and has not come");
		return call_end(CUDA_SUCCESS);
	}
	ledger->events--;
	free(event);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuEventRecord(CUevent event, CUstream stream)
{
	struct op op = { .kind = OP_RECORD, .event = event };

	BEGIN(cuEventRecord, true);
	if (!is_stream(stream, "a record"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	op.record = ++event->n_recorded;
	stream_put(stream, &op);
	event->clock = stream->clock;
	return call_end(CUDA_SUCCESS);
}

/* For the record that is the last one now. An event that was never recorded waits for nothing. */
EXPORT cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
	struct op op = { .kind = OP_WAIT, .event = event, .record = event->n_recorded };

	(void)flags;
	BEGIN(cuStreamWaitEvent, true);
	if (!is_stream(stream, "a wait"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!event->n_recorded)
		violation("a wait for an event that was never recorded");
	clock_join(&stream->clock, &event->clock);
	stream_put(stream, &op);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuEventQuery(CUevent event)
{
	BEGIN(cuEventQuery, true);
	if (event->n_done < event->n_recorded)
		return call_end(CUDA_ERROR_NOT_READY);
	clock_join(host_clock(), &event->clock);
	return call_end(CUDA_SUCCESS);
}

EXPORT cuEventSynchronize(CUevent event)
{
	struct clock clock;
	uint64_t record;

	BEGIN(cuEventSynchronize, true);
	record = event->n_recorded;
	clock = event->clock;
	while (event->n_done < record && !is_stuck())
		pthread_cond_wait(&event_done, &fake_lock);
	clock_join(host_clock(), &clock);
	return call_end_waiting();
}

/* --- kernels ------------------------------------------------------------------------------------------------------ */

EXPORT cuModuleLoadData(CUmodule *module, const void *image)
{
	BEGIN(cuModuleLoadData, true);
	if (!image)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	ledger->modules++;
	*module = (CUmodule)(uintptr_t)image;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuModuleUnload(CUmodule module)
{
	(void)module;
	BEGIN(cuModuleUnload, true);
	ledger->modules--;
	return call_end(CUDA_SUCCESS);
}

EXPORT cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
	(void)module;
	BEGIN(cuModuleGetFunction, true);
	for (const struct inf_kernel *kernel = inf_kernels; kernel->name; kernel++)
		if (!strcmp(kernel->name, name)) {
			*function = (CUfunction)(uintptr_t)kernel;
			return call_end(CUDA_SUCCESS);
		}
	return call_end(CUDA_ERROR_NOT_FOUND);
}

static void take_touch(void *data, const void *address, size_t bytes, bool is_written)
{
	if (bytes)
		add_touch(data, address, bytes, is_written);
}

EXPORT cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x,
		      unsigned int block_y, unsigned int block_z, unsigned int shared_bytes, CUstream stream, void **params, void **extra)
{
	struct op op = { .kind = OP_KERNEL, .kernel = (const struct inf_kernel *)(const void *)function };
	void *copies[8];

	(void)shared_bytes;
	BEGIN(cuLaunchKernel, true);
	if (!is_stream(stream, "a launch"))
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z || block_x * block_y * block_z > 1024 || extra) {
		violation("%s is launched with a shape that no device takes", op.kernel->name);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	for (unsigned int i = 0; i < op.kernel->n_params; i++) {
		memcpy(&op.params[i], params[i], sizeof(op.params[i]));
		copies[i] = &op.params[i];
	}
	op.kernel->touch(copies, take_touch, &op);
	for (unsigned int i = 0; i < op.n_touches; i++) {
		bool read_only = false;

		if (memory_has(MEMORY_DEVICE | MEMORY_PINNED | MEMORY_REGISTERED, op.touches[i].address, op.touches[i].bytes,
			       &read_only) &&
		    !(read_only && op.touches[i].is_written))
			continue;
		violation("%s touches [%p, +%zu), which is not the device's", op.kernel->name, (const void *)op.touches[i].address,
			  op.touches[i].bytes);
		stick(CUDA_ERROR_ILLEGAL_ADDRESS);
		/* The real one says so later. */
		return call_end(CUDA_SUCCESS);
	}
	ledger->kernels++;
	stream_put(stream, &op);
	return call_end(CUDA_SUCCESS);
}

/* --- not there yet ------------------------------------------------------------------------------------------------- */

#define MISSING(symbol, params)                                         \
	EXPORT symbol params                                            \
	{                                                               \
		BEGIN(symbol, false);                                   \
		violation(#symbol " is not in the software driver yet"); \
		return call_end(CUDA_ERROR_NOT_SUPPORTED);              \
	}
#pragma GCC diagnostic ignored "-Wunused-parameter"
MISSING(cuCtxSynchronize, (void))
MISSING(cuMemGetAllocationGranularity, (size_t *a, const CUmemAllocationProp *b, CUmemAllocationGranularity_flags c))
MISSING(cuMemCreate, (CUmemGenericAllocationHandle *a, size_t b, const CUmemAllocationProp *c, unsigned long long d))
MISSING(cuMemRelease, (CUmemGenericAllocationHandle a))
MISSING(cuMemAddressReserve, (CUdeviceptr *a, size_t b, size_t c, CUdeviceptr d, unsigned long long e))
MISSING(cuMemAddressFree, (CUdeviceptr a, size_t b))
MISSING(cuMemMap, (CUdeviceptr a, size_t b, size_t c, CUmemGenericAllocationHandle d, unsigned long long e))
MISSING(cuMemUnmap, (CUdeviceptr a, size_t b))
MISSING(cuMemSetAccess, (CUdeviceptr a, size_t b, const CUmemAccessDesc *c, size_t d))
MISSING(cuMemExportToShareableHandle, (void *a, CUmemGenericAllocationHandle b, CUmemAllocationHandleType c, unsigned long long d))
MISSING(cuMemImportFromShareableHandle, (CUmemGenericAllocationHandle *a, void *b, CUmemAllocationHandleType c))
MISSING(cuPointerGetAttributes, (unsigned int a, CUpointer_attribute *b, void **c, CUdeviceptr d))
MISSING(cuMemGetAddressRange_v2, (CUdeviceptr *a, size_t *b, CUdeviceptr c))
MISSING(cuStreamWriteValue64_v2, (CUstream a, CUdeviceptr b, cuuint64_t c, unsigned int d))
MISSING(cuStreamWaitValue64_v2, (CUstream a, CUdeviceptr b, cuuint64_t c, unsigned int d))
MISSING(cuStreamBeginCapture_v2, (CUstream a, CUstreamCaptureMode b))
MISSING(cuStreamEndCapture, (CUstream a, CUgraph *b))
MISSING(cuGraphInstantiateWithFlags, (CUgraphExec *a, CUgraph b, unsigned long long c))
MISSING(cuGraphLaunch, (CUgraphExec a, CUstream b))
MISSING(cuGraphExecDestroy, (CUgraphExec a))
MISSING(cuGraphDestroy, (CUgraph a))
