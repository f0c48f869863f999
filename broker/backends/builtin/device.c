/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - the kernels of builtin models, launched. */
#include "broker/backends/builtin/device.h"
#include "broker/cuda/image.h"
#include "shm/device/driver.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define THREADS	   256u
#define BLOCKS_MAX 1024u /* the kernels stride: more would only queue */

enum kernel { COPY, ADD_SUB, SPIN, SQUARE, TWICE, REVERSE, NORMALISE, KERNELS };

static const char *const names[KERNELS] = { "inf_copy",	 "inf_add_sub", "inf_spin",	"inf_square",
					    "inf_twice", "inf_reverse", "inf_normalise" };
const struct inf_scale device_scales[INF_CHANNELS_MAX] = { { 0.485f, 0.229f }, { 0.456f, 0.224f }, { 0.406f, 0.225f }, { 0, 1 } };

static const struct inf_driver *driver;
static CUfunction functions[KERNELS];
static _Thread_local CUresult last_error;

int builtin_device_init(const struct inf_backend_device *device, char *error, size_t error_bytes)
{
	CUmodule module;
	CUresult result;

	driver = device->driver;
	result = driver->module_load(&module, inf_kernels_image);
	for (int i = 0; !result && i < KERNELS; i++)
		result = driver->module_function(&functions[i], module, names[i]);
	if (!result)
		return 0;
	snprintf(error, error_bytes, "its kernels do not load: %s%s%.60s", inf_driver_error(driver, result),
		 result == CUDA_ERROR_INVALID_IMAGE ? "; " : "",
		 result == CUDA_ERROR_INVALID_IMAGE ? (const char *)inf_kernels_image : "");
	return inf_driver_errno(result);
}

const char *builtin_device_error(void)
{
	return inf_driver_error(driver, last_error);
}

/* `params` points at 8 bytes each. `n` in x, for each of `n_rows` in y. */
static int launch_rows(const struct device_call *call, enum kernel kernel, uint64_t n, uint32_t n_rows, void **params)
{
	uint64_t blocks = (n + THREADS - 1) / THREADS;

	if (!n || !n_rows)
		return 0;
	last_error = driver->launch(functions[kernel], blocks < BLOCKS_MAX ? (unsigned int)blocks : BLOCKS_MAX, n_rows, 1, THREADS, 1,
				    1, 0, call->stream, params, NULL);
	return inf_driver_errno(last_error);
}

static int launch(const struct device_call *call, enum kernel kernel, uint64_t n, void **params)
{
	return launch_rows(call, kernel, n, 1, params);
}

int device_copy(const struct device_call *call)
{
	for (uint32_t i = 0; i < call->n_inputs; i++) {
		uint64_t n = call->inputs[i].bytes;
		void *params[] = { &call->outputs[i].data, (void *)(uintptr_t)&call->inputs[i].data, &n };
		int r = launch(call, COPY, n, params);

		if (r)
			return r;
	}
	return 0;
}

int device_add_sub(const struct device_call *call)
{
	uint64_t n = call->inputs[0].bytes / sizeof(float);
	void *params[] = { &call->outputs[0].data, &call->outputs[1].data, (void *)(uintptr_t)&call->inputs[0].data,
			   (void *)(uintptr_t)&call->inputs[1].data, &n };

	return launch(call, ADD_SUB, n, params);
}

int device_spin(const struct device_call *call)
{
	uint64_t ns = call->cost_ns;
	void *params[] = { &ns };
	int r = launch(call, SPIN, 1, params);

	return r ? r : device_copy(call);
}

int device_square(const struct device_call *call)
{
	uint64_t n = call->inputs[0].bytes / sizeof(int64_t);
	void *params[] = { &call->outputs[0].data, (void *)(uintptr_t)&call->inputs[0].data, &n };

	return launch(call, SQUARE, n, params);
}

int device_twice(const struct device_call *call)
{
	void *params[] = { &call->outputs[0].data, (void *)(uintptr_t)&call->inputs[0].data };

	return launch(call, TWICE, 1, params);
}

int device_reverse(const struct device_call *call)
{
	uint64_t n = call->inputs[0].bytes / sizeof(float);
	void *params[] = { &call->outputs[0].data, (void *)(uintptr_t)&call->inputs[0].data, &n };

	call->outputs[0].bytes = call->inputs[0].bytes;
	call->outputs[0].dims[0] = call->inputs[0].dims[0];
	return launch(call, REVERSE, n, params);
}

int device_normalise(const struct device_call *call)
{
	uint64_t n_images = call->rows, n_pixels = DEVICE_IMAGE_SIDE * DEVICE_IMAGE_SIDE, n_channels = DEVICE_CHANNELS, is_planar = 0;
	void *params[6 + INF_CHANNELS_MAX] = { &call->outputs[0].data, (void *)(uintptr_t)&call->inputs[0].data, &n_images, &n_pixels,
					       &n_channels, &is_planar };

	for (unsigned int c = 0; c < INF_CHANNELS_MAX; c++)
		params[6 + c] = (void *)(uintptr_t)&device_scales[c];
	return launch_rows(call, NORMALISE, n_pixels, call->rows, params);
}
