/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h - what runs on a device besides models: the kernels of kernels.cu, and for each a twin in C.
 *
 * A twin runs the whole grid on the CPU and says what memory it touches; tests compare twin and kernel, and the software
 * driver (tests/fakecuda/) launches twins, whose parameters are then plain addresses.
 */
#ifndef BROKER_CUDA_KERNELS_H
#define BROKER_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One copy of inf_move. */
struct inf_move {
	uint64_t to, from, bytes; /* addresses on the device */
};

/* What one channel of inf_normalise is brought to; as a parameter it is 8 bytes, as all are. */
struct inf_scale {
	float mean, deviation; /* of values in [0, 1]; a deviation is not 0 */
};

#define INF_CHANNELS_MAX 4u /* of inf_normalise */

/*
 * (x / 255 - mean) / deviation, each step rounded to a float, as torchvision's ToTensor and Normalize do it. There is no
 * product in it, so there is nothing that a compiler could contract: kernel, twin and model give the same bits.
 */
static inline float inf_normalised(uint8_t x, struct inf_scale scale)
{
	return ((float)x / 255.0f - scale.mean) / scale.deviation;
}

/* Called with each range of memory that a launch will touch. Returns whether a twin may look into it, to know what else. */
typedef bool (*inf_touch_fn)(void *data, const void *address, size_t bytes, bool is_written);

struct inf_kernel {
	const char *name;
	unsigned int n_params;
	/* params[i] points at the i-th parameter, as in cuLaunchKernel(). */
	void (*run)(void *const *params);
	/* Returns whether that was all of it: not where it could not look into a list. */
	bool (*touch)(void *const *params, inf_touch_fn touch, void *data);
	bool is_elementwise; /* an output may lie where an input lies; else no range that is written may meet another */
};

/* All of them; ended by one without a name. */
extern const struct inf_kernel inf_kernels[];

#endif /* BROKER_CUDA_KERNELS_H */
