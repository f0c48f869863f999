/* SPDX-License-Identifier: Apache-2.0 */
/* warm.c - see warm.h. */
#include "broker/executor/warm.h"
#include "broker/executor/assemble.h"
#include "broker/executor/flight.h"
#include "broker/executor/graphs.h"
#include "broker/executor/rows.h"
#include "shm/signature.h"
#include <errno.h>
#include <stdio.h>

static CUresult fill(struct warm *warm, const struct inf_signature *signature, const struct inf_backend_tensor *inputs)
{
	const struct inf_driver *driver = &warm->device->driver;
	CUdeviceptr at = warm->memory;
	CUresult result = CUDA_SUCCESS;

	for (uint32_t i = 0; !result && i < signature->n_inputs; i++) {
		warm->inputs[i] = inputs[i];
		warm->inputs[i].data = (void *)(uintptr_t)at;
		result = driver->copy_in(at, inputs[i].data, inputs[i].bytes, warm->stream);
		at += device_align(inputs[i].bytes);
	}
	for (uint32_t k = 0; k < signature->n_outputs; k++) {
		warm->outputs[k].data = (void *)(uintptr_t)at;
		at += device_align(warm->rows * inf_spec_row_bytes(&signature->outputs[k]));
	}
	return result ? result : driver->stream_synchronize(warm->stream);
}

uint64_t warm_bytes(const struct inf_signature *signature, uint32_t rows)
{
	/* More than nothing: all tensors may be empty. */
	return DEVICE_ALIGN + flight_bytes(signature->inputs, signature->n_inputs, rows) +
	       flight_bytes(signature->outputs, signature->n_outputs, rows);
}

int warm_open(struct warm *warm, const struct device *device, const struct inf_signature *signature, uint32_t rows,
	      const struct inf_backend_tensor *inputs, char *error, size_t error_bytes)
{
	/* One for all: libraries keep what they cache by the stream that it was used on. */
	static CUstream stream;
	uint64_t bytes = warm_bytes(signature, rows);
	CUresult result = CUDA_SUCCESS;

	*warm = (struct warm){ .device = device, .rows = rows };
	if (!stream)
		result = device->driver.stream_create(&stream, CU_STREAM_NON_BLOCKING, 0);
	warm->stream = stream;
	if (!result)
		result = device->driver.mem_alloc(&warm->memory, bytes);
	if (!result)
		result = fill(warm, signature, inputs);
	if (result) {
		snprintf(error, error_bytes, "warming up %u rows (%llu bytes) on %s: %s", rows, (unsigned long long)bytes, device->name,
			 inf_driver_error(&device->driver, result));
		device_ok(device, result, "warming up");
		warm_close(warm);
	}
	return inf_driver_errno(result);
}

int warm_run(struct warm *warm, const struct loaded_model *model, uint32_t instance, uint32_t place, char *error,
	     size_t error_bytes)
{
	const struct inf_signature *sig = &model->signature;
	struct model_run run = {
		.model = model,
		.instance = instance,
		.rows = warm->rows,
		.stream = warm->stream,
		.inputs = warm->inputs,
		.outputs = warm->outputs,
		.error = error,
		.error_bytes = error_bytes,
	};
	CUresult result;
	int r;

	for (uint32_t k = 0; k < sig->n_outputs; k++)
		rows_set_largest(&warm->outputs[k], &sig->outputs[k], warm->rows);
	r = graphs_run(&run, place, warm->memory);
	result = warm->device->driver.stream_synchronize(warm->stream);
	if (!r && result) {
		snprintf(error, error_bytes, "%s", inf_driver_error(&warm->device->driver, result));
		r = inf_driver_errno(result);
	}
	device_ok(warm->device, result, "running a model");
	if (!r && assemble_check_outputs(sig, warm->rows, warm->outputs, error, error_bytes))
		r = -EINVAL;
	return r;
}

void warm_close(struct warm *warm)
{
	/* A run that failed may have left something behind that still works on the memory. */
	if (warm->stream)
		device_ok(warm->device, warm->device->driver.stream_synchronize(warm->stream), "ending the warm-up");
	if (warm->memory)
		device_ok(warm->device, warm->device->driver.mem_free(warm->memory), "freeing device memory");
	*warm = (struct warm){ 0 };
}
