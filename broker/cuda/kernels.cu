/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.cu - what runs on a device besides models. For each there is a twin in twins.c that must do the same.
 *
 * Every parameter is 8 bytes, so that the software driver can copy them without knowing the types.
 */
#include <stdint.h>

#define EACH(i, n) \
	uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < (n); i += (uint64_t)gridDim.x * blockDim.x

extern "C" __global__ void inf_copy(uint8_t *to, const uint8_t *from, uint64_t n)
{
	/* Tensors are aligned to 256 bytes: all but the tail goes in vectors. */
	uint64_t n_vectors = n / sizeof(uint4);

	for (EACH(i, n_vectors))
		((uint4 *)to)[i] = ((const uint4 *)from)[i];
	for (EACH(i, n % sizeof(uint4)))
		to[n_vectors * sizeof(uint4) + i] = from[n_vectors * sizeof(uint4) + i];
}

extern "C" __global__ void inf_add_sub(float *sum, float *difference, const float *a, const float *b, uint64_t n)
{
	for (EACH(i, n)) {
		sum[i] = a[i] + b[i];
		difference[i] = a[i] - b[i];
	}
}

extern "C" __global__ void inf_square(float *to, const int64_t *from, uint64_t n)
{
	for (EACH(i, n))
		to[i] = (float)(from[i] * from[i]);
}

extern "C" __global__ void inf_twice(int32_t *to, const int32_t *from)
{
	if (!threadIdx.x && !blockIdx.x)
		*to = 2 * *from;
}

extern "C" __global__ void inf_reverse(float *to, const float *from, uint64_t n)
{
	for (EACH(i, n))
		to[i] = from[n - 1 - i];
}

/* Keeps the device busy for so long, as a model would. */
extern "C" __global__ void inf_spin(uint64_t ns)
{
	uint64_t begin, now;

	asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
	do
		asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
	while (now - begin < ns);
}
