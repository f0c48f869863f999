/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.cu - what runs on a device besides models. For each there is a twin in twins.c that must do the same.
 *
 * Every parameter is 8 bytes, so that the software driver can copy them without knowing the types.
 */
#include "broker/cuda/kernels.h"
#include <inf/types.h>
#include <stdint.h>

#define EACH(i, n) \
	uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < (n); i += (uint64_t)gridDim.x * blockDim.x

/* In vectors, all but the tail, where both ends are aligned: tensors are. */
static __device__ void copy_bytes(uint8_t *to, const uint8_t *from, uint64_t n)
{
	uint64_t n_vectors = ((uintptr_t)to | (uintptr_t)from) % sizeof(uint4) ? 0 : n / sizeof(uint4);

	for (EACH(i, n_vectors))
		((uint4 *)to)[i] = ((const uint4 *)from)[i];
	for (EACH(i, n - n_vectors * sizeof(uint4)))
		to[n_vectors * sizeof(uint4) + i] = from[n_vectors * sizeof(uint4) + i];
}

extern "C" __global__ void inf_copy(uint8_t *to, const uint8_t *from, uint64_t n)
{
	copy_bytes(to, from, n);
}

/* All of a list; blocks in y take a move each, those in x share it. */
extern "C" __global__ void inf_move(const struct inf_move *moves, uint64_t n)
{
	for (uint64_t k = blockIdx.y; k < n; k += gridDim.y)
		copy_bytes((uint8_t *)moves[k].to, (const uint8_t *)moves[k].from, moves[k].bytes);
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

/* inf_normalised() in steps that neither contraction nor fast mathematics may touch. */
static __device__ float normalised(uint8_t x, struct inf_scale scale)
{
	return __fdiv_rn(__fsub_rn(__fdiv_rn((float)x, 255.0f), scale.mean), scale.deviation);
}

/*
 * Images of 1 to 4 channels, as bytes: interleaved, as decoders give them, or (is_planar) in planes. They become floats in
 * planes, as networks take them. Blocks in y take an image each, those in x share it; a thread takes all channels of a pixel.
 */
extern "C" __global__ void inf_normalise(float *to, const uint8_t *from, uint64_t n_images, uint64_t n_pixels, uint64_t n_channels,
					 uint64_t is_planar, struct inf_scale scale_0, struct inf_scale scale_1,
					 struct inf_scale scale_2, struct inf_scale scale_3)
{
	const struct inf_scale scales[INF_CHANNELS_MAX] = { scale_0, scale_1, scale_2, scale_3 };
	uint64_t pixel_step = is_planar ? 1 : n_channels, channel_step = is_planar ? n_pixels : 1;

	for (uint64_t k = blockIdx.y; k < n_images; k += gridDim.y) {
		const uint8_t *in = from + k * n_pixels * n_channels;
		float *out = to + k * n_pixels * n_channels;

		for (EACH(i, n_pixels))
#pragma unroll
			for (uint64_t c = 0; c < INF_CHANNELS_MAX; c++)
				if (c < n_channels)
					out[c * n_pixels + i] = normalised(in[i * pixel_step + c * channel_step], scales[c]);
	}
}

/* What inf_judge does to values of one type. */
template <typename T> __device__ bool clamp_into(T *values, uint64_t n, int64_t min, int64_t max)
{
	bool is_bad = false;

	for (EACH(i, n))
		if ((int64_t)values[i] < min || (int64_t)values[i] > max) {
			values[i] = (T)min;
			is_bad = true;
		}
	return is_bad;
}

/* NaN and infinity have all bits of the exponent set (IEEE 754). */
template <typename T> __device__ bool clear_odd(T *bits, uint64_t n, T exponent)
{
	bool is_bad = false;

	for (EACH(i, n))
		if ((bits[i] & exponent) == exponent) {
			bits[i] = 0;
			is_bad = true;
		}
	return is_bad;
}

/*
 * Integers outside [min, max] become min, NaN and infinity 0; then *verdict becomes `says`. So a model may run with what it
 * must not be given, while whose fault it is comes out afterwards. `dtype` as in inf/types.h.
 */
extern "C" __global__ void inf_judge(void *values, uint64_t n, uint64_t dtype, int64_t min, int64_t max, uint32_t *verdict,
				     uint64_t says)
{
	bool is_bad = false;

	switch (dtype) {
	case INF_BOOL:
	case INF_U8:
		is_bad = clamp_into((uint8_t *)values, n, min, max);
		break;
	case INF_I8:
		is_bad = clamp_into((int8_t *)values, n, min, max);
		break;
	case INF_I16:
		is_bad = clamp_into((int16_t *)values, n, min, max);
		break;
	case INF_I32:
		is_bad = clamp_into((int32_t *)values, n, min, max);
		break;
	case INF_I64:
		is_bad = clamp_into((int64_t *)values, n, min, max);
		break;
	case INF_F16:
		is_bad = clear_odd((uint16_t *)values, n, (uint16_t)0x7c00);
		break;
	case INF_BF16:
		is_bad = clear_odd((uint16_t *)values, n, (uint16_t)0x7f80);
		break;
	case INF_F32:
		is_bad = clear_odd((uint32_t *)values, n, (uint32_t)0x7f800000);
		break;
	case INF_F64:
		is_bad = clear_odd((uint64_t *)values, n, (uint64_t)0x7ff0000000000000);
		break;
	}
	if (is_bad)
		*verdict = (uint32_t)says;
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
