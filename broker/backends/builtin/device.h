/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - what builtin models put on a stream. */
#ifndef BROKER_BACKENDS_BUILTIN_DEVICE_H
#define BROKER_BACKENDS_BUILTIN_DEVICE_H

#include "broker/cuda/kernels.h"
#include <inf/backend.h>

struct device_call {
	struct CUstream_st *stream;
	uint32_t rows, n_inputs;
	const struct inf_backend_tensor *inputs;
	struct inf_backend_tensor *outputs;
	uint64_t cost_ns;
};

/* Of images, and what their channels are brought to: ImageNet's mean and deviation. */
#define DEVICE_IMAGE_SIDE 32u
#define DEVICE_CHANNELS	  3u
extern const struct inf_scale device_scales[INF_CHANNELS_MAX];

/* Loads the kernels. 0, or a negative errno with a text. Once, before any other. */
int builtin_device_init(const struct inf_backend_device *device, char *error, size_t error_bytes);

/* Each: 0, or a negative errno; the driver's error is in builtin_device_error(). */
int device_copy(const struct device_call *call);
int device_add_sub(const struct device_call *call);
int device_spin(const struct device_call *call);
int device_square(const struct device_call *call);
int device_twice(const struct device_call *call);
int device_reverse(const struct device_call *call);
int device_normalise(const struct device_call *call);

/* Of the last call in this thread that failed. */
const char *builtin_device_error(void);

#endif /* BROKER_BACKENDS_BUILTIN_DEVICE_H */
