/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - see device.h. */
#include "broker/executor/device.h"
#include "broker/cuda/image.h"
#include "broker/executor/assemble.h"
#include "broker/executor/executor.h"
#include "shm/signature.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * A DMA of its own costs a core some microseconds, however large; a copy costs by the byte, and shares one DMA with its
 * neighbours. The guess: reference/gpu-and-libtorch.md, section 2, "which path".
 */
#define DIRECT_BYTES_GUESS (32u << 10)
#define DIRECT_BYTES_LEAST (4u << 10)
#define DIRECT_BYTES_MOST  (256u << 10)
#define CALIBRATE_BYTES	   (64u << 10)
#define ROUNDS		   5
#define COPIES		   50

/* An older driver does not know the question: then the answer is no. */
static bool can(const struct device *device, CUdevice_attribute attribute)
{
	int value = 0;

	return !device->driver.device_attribute(&value, attribute, device->handle) && value;
}

static CUresult open_context(struct device *device)
{
	const struct inf_driver *driver = &device->driver;
	CUuuid uuid;
	CUresult result = driver->device_name(device->model, sizeof(device->model), device->handle);

	if (!result)
		result = driver->device_uuid(&uuid, device->handle);
	if (result)
		return result;
	inf_driver_uuid_text(&uuid, device->uuid);
	snprintf(device->name, sizeof(device->name), "cuda:%d", device->handle);
	device->can_register_read_only = can(device, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED);
	device->can_share = can(device, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) &&
			    can(device, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) &&
			    can(device, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS);
	/* Threads that wait for the device sleep: the cores belong to clients and to other instances. */
	result = driver->context_flags(device->handle, CU_CTX_SCHED_BLOCKING_SYNC);
	if (!result)
		result = driver->context_retain(&device->context, device->handle);
	if (!result)
		result = driver->context_set(device->context);
	return result ? result : driver->priority_range(&device->priority_least, &device->priority_greatest);
}

/* What clients' device memory needs: without that, none is shared. */
static void load_kernels(struct device *device)
{
	CUmodule module;
	CUresult result = device->driver.module_load(&module, inf_kernels_image);

	if (!result)
		result = device->driver.module_function(&device->judge, module, "inf_judge");
	if (!result)
		result = device->driver.module_function(&device->move, module, "inf_move");
	device->can_share = device_ok(device, result, "loading kernels, without which no device memory is shared");
}

int device_open(struct device *device, const char *name, char text[INF_DRIVER_TEXT_BYTES])
{
	CUresult result;
	int r = inf_driver_open(&device->driver, NULL, text);

	if (!r)
		r = inf_driver_find_device(&device->driver, name, &device->handle, text);
	if (r)
		return r;
	result = open_context(device);
	if (result)
		snprintf(text, INF_DRIVER_TEXT_BYTES, "%s cannot be used: %s", name, inf_driver_error(&device->driver, result));
	if (!result && device->can_share)
		load_kernels(device);
	device->backend = (struct inf_backend_device){
		.size = sizeof(device->backend),
		.ordinal = device->handle,
		.context = device->context,
		.driver = &device->driver,
	};
	return inf_driver_errno(result);
}

/* Core time of queueing one DMA, in ns: the least of several rounds. */
static uint64_t measure_dma_ns(const struct device *device, CUstream stream, CUdeviceptr to, const void *from)
{
	uint64_t best_ns = UINT64_MAX;

	for (int round = 0; round < ROUNDS; round++) {
		uint64_t begin_ns = assemble_now_ns(), ns;

		for (int i = 0; i < COPIES; i++)
			if (device->driver.copy_in(to, from, CALIBRATE_BYTES, stream))
				return 0;
		ns = (assemble_now_ns() - begin_ns) / COPIES;
		if (ns < best_ns)
			best_ns = ns;
		if (device->driver.stream_synchronize(stream))
			return 0;
	}
	return best_ns;
}

/* Bytes that a core copies in that time, within reason. */
static uint64_t bytes_in(uint64_t ns, uint8_t *to, const uint8_t *from)
{
	uint64_t best_ns = UINT64_MAX, bytes;

	for (int round = 0; round < ROUNDS; round++) {
		uint64_t begin_ns = assemble_now_ns(), took_ns;

		memcpy(to, from, CALIBRATE_BYTES);
		took_ns = assemble_now_ns() - begin_ns;
		if (took_ns < best_ns)
			best_ns = took_ns;
	}
	bytes = ns * CALIBRATE_BYTES / (best_ns ? best_ns : 1);
	if (bytes < DIRECT_BYTES_LEAST)
		return DIRECT_BYTES_LEAST;
	return bytes < DIRECT_BYTES_MOST ? bytes : DIRECT_BYTES_MOST;
}

void device_calibrate(struct device *device)
{
	const struct inf_driver *driver = &device->driver;
	uint8_t *from = malloc(CALIBRATE_BYTES);
	CUstream stream = NULL;
	CUdeviceptr to = 0;
	void *pinned = NULL;

	device->direct_bytes_min = DIRECT_BYTES_GUESS;
	if (from && !driver->stream_create(&stream, CU_STREAM_NON_BLOCKING, 0) && !driver->mem_alloc(&to, CALIBRATE_BYTES) &&
	    !driver->host_alloc(&pinned, CALIBRATE_BYTES)) {
		uint64_t ns = measure_dma_ns(device, stream, to, pinned);

		memset(from, 1, CALIBRATE_BYTES);
		if (ns)
			device->direct_bytes_min = bytes_in(ns, pinned, from);
	}
	/* A measurement that failed may have left copies behind that still use the memory. */
	if (stream)
		device_ok(device, driver->stream_synchronize(stream), "calibrating");
	if (pinned)
		device_ok(device, driver->host_free(pinned), "calibrating");
	if (to)
		device_ok(device, driver->mem_free(to), "calibrating");
	if (stream)
		device_ok(device, driver->stream_destroy(stream), "calibrating");
	free(from);
}

#define JUDGE_THREADS	 256u
#define JUDGE_BLOCKS_MAX 1024u /* the kernel strides: more would only queue */

/* The least of an integer type: what a value becomes that is not allowed must be one of its type. */
static int64_t least_of(uint8_t dtype)
{
	switch (dtype) {
	case INF_BOOL:
	case INF_U8:
		return 0;
	case INF_I8:
		return INT8_MIN;
	case INF_I16:
		return INT16_MIN;
	case INF_I32:
		return INT32_MIN;
	default:
		return INT64_MIN;
	}
}

CUresult device_judge(const struct device *device, const struct inf_tensor_spec *spec, CUdeviceptr values, uint64_t bytes,
		      CUdeviceptr verdict, uint64_t says, CUstream stream)
{
	uint64_t n = bytes / inf_dtype_size(spec->dtype), dtype = spec->dtype, blocks = (n + JUDGE_THREADS - 1) / JUDGE_THREADS;
	int64_t least = least_of(spec->dtype), max = spec->value_max;
	int64_t min = spec->value_min > least ? spec->value_min : least;
	void *params[] = { &values, &n, &dtype, &min, &max, &verdict, &says };

	if (!n)
		return CUDA_SUCCESS;
	return device->driver.launch(device->judge, blocks < JUDGE_BLOCKS_MAX ? (unsigned int)blocks : JUDGE_BLOCKS_MAX, 1, 1,
				     JUDGE_THREADS, 1, 1, 0, stream, params, NULL);
}

void device_enter(const struct device *device)
{
	device_ok(device, device->driver.context_set(device->context), "entering the context");
}

bool device_ok(const struct device *device, CUresult result, const char *what)
{
	if (!result)
		return true;
	executor_log("%s (%s): %s: %s", device->name, device->uuid, what, inf_driver_error(&device->driver, result));
	if (!inf_driver_is_fatal(result))
		return false;
	executor_log("%s is lost to this process, which ends", device->name);
	_exit(INF_EXIT_DEVICE_LOST);
}
