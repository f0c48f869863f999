/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - devices and primary contexts. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdio.h>
#include <string.h>

#define CONTEXT_FLAGS 0x7fu

struct device devices[DEVICES_MAX];

bool is_device_number(int device)
{
	return device >= 0 && (unsigned int)device < settings.n_devices;
}

CUresult cuInit(unsigned int flags)
{
	BEGIN(cuInit, NEEDS_NOTHING);
	if (flags)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	if (!settings.n_devices)
		return call_end(CUDA_ERROR_NO_DEVICE);
	if (!fake.is_initialized)
		for (unsigned int i = 0; i < DEVICES_MAX; i++) {
			devices[i].context.device = (int)i;
			for (unsigned int k = 0; k < ENGINES; k++)
				pthread_cond_init(&devices[i].engines[k].changed, NULL);
		}
	if (!fake.is_initialized)
		state_open();
	fake.is_initialized = true;
	return call_end(CUDA_SUCCESS);
}

CUresult cuDriverGetVersion(int *version)
{
	BEGIN(cuDriverGetVersion, NEEDS_NOTHING);
	*version = (int)settings.version;
	return call_end(CUDA_SUCCESS);
}

CUresult cuGetErrorName(CUresult error, const char **text)
{
	static const struct {
		CUresult error;
		const char *name;
	} known[] = {
#define NAME(error) { error, #error }
		NAME(CUDA_SUCCESS),
		NAME(CUDA_ERROR_INVALID_VALUE),
		NAME(CUDA_ERROR_OUT_OF_MEMORY),
		NAME(CUDA_ERROR_NOT_INITIALIZED),
		NAME(CUDA_ERROR_DEINITIALIZED),
		NAME(CUDA_ERROR_NO_DEVICE),
		NAME(CUDA_ERROR_INVALID_DEVICE),
		NAME(CUDA_ERROR_INVALID_IMAGE),
		NAME(CUDA_ERROR_INVALID_CONTEXT),
		NAME(CUDA_ERROR_NO_BINARY_FOR_GPU),
		NAME(CUDA_ERROR_ECC_UNCORRECTABLE),
		NAME(CUDA_ERROR_INVALID_HANDLE),
		NAME(CUDA_ERROR_NOT_FOUND),
		NAME(CUDA_ERROR_NOT_READY),
		NAME(CUDA_ERROR_ILLEGAL_ADDRESS),
		NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
		NAME(CUDA_ERROR_LAUNCH_TIMEOUT),
		NAME(CUDA_ERROR_CONTEXT_IS_DESTROYED),
		NAME(CUDA_ERROR_ASSERT),
		NAME(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED),
		NAME(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED),
		NAME(CUDA_ERROR_LAUNCH_FAILED),
		NAME(CUDA_ERROR_NOT_PERMITTED),
		NAME(CUDA_ERROR_NOT_SUPPORTED),
		NAME(CUDA_ERROR_SYSTEM_NOT_READY),
		NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
		NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
		NAME(CUDA_ERROR_UNKNOWN),
#undef NAME
		{ ERROR_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED" },
		{ ERROR_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED" },
		{ ERROR_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION" },
		{ ERROR_CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT" },
		{ ERROR_CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD" },
	};

	/* Not counted, and never failed: it says what failed. */
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].error == error) {
			*text = known[i].name;
			return CUDA_SUCCESS;
		}
	*text = NULL;
	return CUDA_ERROR_INVALID_VALUE;
}

/* --- devices ------------------------------------------------------------------------------------------------------- */

CUresult cuDeviceGetCount(int *count)
{
	BEGIN(cuDeviceGetCount, NEEDS_INIT);
	*count = (int)settings.n_devices;
	return call_end(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	BEGIN(cuDeviceGet, NEEDS_INIT);
	if (!is_device_number(ordinal))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	*device = ordinal;
	return call_end(CUDA_SUCCESS);
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device)
{
	BEGIN(cuDeviceGetName, NEEDS_INIT);
	if (!is_device_number(device))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	if (bytes <= 0)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	snprintf(name, (size_t)bytes, "software device %d (no GPU)", device);
	return call_end(CUDA_SUCCESS);
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	BEGIN(cuDeviceGetUuid_v2, NEEDS_INIT);
	if (!is_device_number(device))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	memset(uuid->bytes, 0xfa, sizeof(uuid->bytes));
	uuid->bytes[0] = (char)device;
	return call_end(CUDA_SUCCESS);
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
	BEGIN(cuDeviceGetAttribute, NEEDS_INIT);
	if (!is_device_number(device))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	switch (attribute) {
	case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
		*value = 2;
		break;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
		*value = 9;
		break;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
		*value = 0;
		break;
	case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
		*value = settings.has_vmm;
		break;
	case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
		*value = settings.has_vmm && settings.has_posix_fd;
		break;
	case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
		*value = settings.has_read_only;
		break;
	case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
		*value = 1;
		break;
	default:
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	return call_end(CUDA_SUCCESS);
}

/* --- contexts -------------------------------------------------------------------------------------------------------- */

struct context *context_find(uint64_t handle)
{
	for (unsigned int i = 0; handle && i < settings.n_devices; i++)
		if (devices[i].context.handle == handle)
			return &devices[i].context;
	return NULL;
}

void context_stick(struct context *context, CUresult error)
{
	if (!context->error)
		context->error = error;
	streams_wake(context);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *ret, CUdevice device)
{
	struct context *primary;

	BEGIN(cuDevicePrimaryCtxRetain, NEEDS_INIT);
	if (!is_device_number(device))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	primary = &devices[device].context;
	/* Only a new process helps: it stays even when everybody released it. */
	if (primary->error)
		return call_end(primary->error);
	if (!primary->n_retained++) {
		primary->handle = handle_new(KIND_CONTEXT);
		ledger->contexts++;
	}
	*ret = (CUcontext)(uintptr_t)primary->handle;
	return call_end(CUDA_SUCCESS);
}

/* Until all that is queued by now has run: streams may come and go meanwhile. */
static void drain(const struct context *context)
{
	struct object *object = NULL;
	struct record *marks[ENTITIES];
	unsigned int n = 0;

	while (n < ENTITIES && (object = object_next(KIND_STREAM, context, object)))
		if (!((struct stream *)object)->capture)
			marks[n++] = stream_mark((struct stream *)object);
	for (unsigned int i = 0; i < n; i++)
		record_wait(marks[i], context);
}

/* Everything in it goes, as on the real one. */
static void empty(struct context *context)
{
	struct object *object;
	struct range *range;

	drain(context);
	while ((object = object_next(KIND_EXEC, context, NULL)) && ++ledger->abandoned)
		exec_end((struct exec *)object);
	while ((object = object_next(KIND_GRAPH, context, NULL)) && ++ledger->abandoned)
		graph_end(object);
	while ((object = object_next(KIND_EVENT, context, NULL)) && ++ledger->abandoned)
		event_end((struct event *)object);
	while ((object = object_next(KIND_MODULE, context, NULL)) && ++ledger->abandoned)
		module_end(object);
	while ((object = object_next(KIND_STREAM, context, NULL))) {
		ledger->abandoned += !((struct stream *)object)->is_default;
		stream_end((struct stream *)object);
	}
	while ((range = range_of_context(context)) && ++ledger->abandoned)
		memory_drop(range, "the release of its context");
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
	struct context *primary;

	BEGIN(cuDevicePrimaryCtxRelease_v2, NEEDS_INIT);
	if (!is_device_number(device))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	primary = &devices[device].context;
	if (!primary->n_retained) {
		violation("cuDevicePrimaryCtxRelease: nobody has the context of device %d", device);
		return call_end(CUDA_ERROR_INVALID_CONTEXT);
	}
	if (primary->n_retained == 1) {
		/* It may wait; nobody shall begin anything there meanwhile. */
		primary->handle = 0;
		empty(primary);
		ledger->contexts--;
	}
	primary->n_retained--;
	return call_end(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags)
{
	BEGIN(cuDevicePrimaryCtxSetFlags_v2, NEEDS_INIT);
	if (!is_device_number(device))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	return call_end(flags & ~CONTEXT_FLAGS ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

CUresult cuCtxSetCurrent(CUcontext ret)
{
	uint64_t handle = (uintptr_t)ret;

	BEGIN(cuCtxSetCurrent, NEEDS_INIT);
	if (handle && !context_find(handle)) {
		violation("cuCtxSetCurrent: %#llx is no context now", (unsigned long long)handle);
		return call_end(CUDA_ERROR_INVALID_CONTEXT);
	}
	current_handle = handle;
	return call_end(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *ret)
{
	BEGIN(cuCtxGetCurrent, NEEDS_INIT);
	*ret = (CUcontext)(uintptr_t)current_handle;
	return call_end(CUDA_SUCCESS);
}

CUresult cuCtxSynchronize(void)
{
	BEGIN(cuCtxSynchronize, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	drain(context);
	return call_end(context->error);
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	BEGIN(cuCtxGetStreamPriorityRange, NEEDS_CONTEXT);
	*least = PRIORITY_LEAST;
	*greatest = PRIORITY_GREATEST;
	return call_end(CUDA_SUCCESS);
}
