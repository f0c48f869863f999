/* SPDX-License-Identifier: Apache-2.0 */
/* twins.c - the kernels of kernels.cu in C, each as one loop. */
#include "broker/cuda/kernels.h"
#include "shm/signature.h"
#include <string.h>
#include <time.h>

/* Parameter i as what it is. */
#define P(type, i) (*(type const *)params[i])
#define N(i)	   P(uint64_t, i)
#define READS(i, bytes)	 touch(data, P(const void *, i), bytes, false)
#define WRITES(i, bytes) touch(data, P(const void *, i), bytes, true)

/* Not memcpy(), here and in move_run(): the software driver reports ranges that meet, and runs them all the same. */
static void copy_run(void *const *params)
{
	memmove(P(void *, 0), P(const void *, 1), N(2));
}

static bool copy_touch(void *const *params, inf_touch_fn touch, void *data)
{
	WRITES(0, N(2));
	READS(1, N(2));
	return true;
}

static void move_run(void *const *params)
{
	const struct inf_move *moves = P(const struct inf_move *, 0);

	for (uint64_t k = 0; k < N(1); k++)
		memmove((void *)(uintptr_t)moves[k].to, (const void *)(uintptr_t)moves[k].from, moves[k].bytes);
}

/* The list is complete when it is launched, and stays as it is until it has run. */
static bool move_touch(void *const *params, inf_touch_fn touch, void *data)
{
	const struct inf_move *moves = P(const struct inf_move *, 0);

	if (!READS(0, N(1) * sizeof(struct inf_move)))
		return false;
	for (uint64_t k = 0; k < N(1); k++) {
		touch(data, (const void *)(uintptr_t)moves[k].to, moves[k].bytes, true);
		touch(data, (const void *)(uintptr_t)moves[k].from, moves[k].bytes, false);
	}
	return true;
}

static void add_sub_run(void *const *params)
{
	float *sum = P(float *, 0), *difference = P(float *, 1);
	const float *a = P(const float *, 2), *b = P(const float *, 3);

	for (uint64_t i = 0; i < N(4); i++) {
		sum[i] = a[i] + b[i];
		difference[i] = a[i] - b[i];
	}
}

static bool add_sub_touch(void *const *params, inf_touch_fn touch, void *data)
{
	WRITES(0, N(4) * sizeof(float));
	WRITES(1, N(4) * sizeof(float));
	READS(2, N(4) * sizeof(float));
	READS(3, N(4) * sizeof(float));
	return true;
}

static void square_run(void *const *params)
{
	for (uint64_t i = 0; i < N(2); i++)
		P(float *, 0)[i] = (float)(P(const int64_t *, 1)[i] * P(const int64_t *, 1)[i]);
}

static bool square_touch(void *const *params, inf_touch_fn touch, void *data)
{
	WRITES(0, N(2) * sizeof(float));
	READS(1, N(2) * sizeof(int64_t));
	return true;
}

static void twice_run(void *const *params)
{
	*P(int32_t *, 0) = 2 * *P(const int32_t *, 1);
}

static bool twice_touch(void *const *params, inf_touch_fn touch, void *data)
{
	WRITES(0, sizeof(int32_t));
	READS(1, sizeof(int32_t));
	return true;
}

static void reverse_run(void *const *params)
{
	for (uint64_t i = 0; i < N(2); i++)
		P(float *, 0)[i] = P(const float *, 1)[N(2) - 1 - i];
}

static bool reverse_touch(void *const *params, inf_touch_fn touch, void *data)
{
	WRITES(0, N(2) * sizeof(float));
	READS(1, N(2) * sizeof(float));
	return true;
}

static void normalise_run(void *const *params)
{
	uint64_t n_pixels = N(3), n_channels = N(4), pixel_step = N(5) ? 1 : n_channels, channel_step = N(5) ? n_pixels : 1;

	for (uint64_t k = 0; k < N(2); k++) {
		const uint8_t *in = P(const uint8_t *, 1) + k * n_pixels * n_channels;
		float *out = P(float *, 0) + k * n_pixels * n_channels;

		for (uint64_t c = 0; c < n_channels; c++)
			for (uint64_t i = 0; i < n_pixels; i++)
				out[c * n_pixels + i] = inf_normalised(in[i * pixel_step + c * channel_step], P(struct inf_scale, 6 + c));
	}
}

static bool normalise_touch(void *const *params, inf_touch_fn touch, void *data)
{
	WRITES(0, N(2) * N(3) * N(4) * sizeof(float));
	READS(1, N(2) * N(3) * N(4));
	return true;
}

#define CLAMP_INTO(type)                                                           \
	for (uint64_t i = 0; i < N(1); i++) {                                      \
		type *value = &P(type *, 0)[i];                                    \
		if ((int64_t)*value < P(int64_t, 3) || (int64_t)*value > P(int64_t, 4)) { \
			*value = (type)P(int64_t, 3);                              \
			is_bad = true;                                             \
		}                                                                  \
	}
#define CLEAR_ODD(type, exponent)                              \
	for (uint64_t i = 0; i < N(1); i++) {                  \
		type *bits = &P(type *, 0)[i];                 \
		if ((*bits & (exponent)) == (exponent)) {      \
			*bits = 0;                             \
			is_bad = true;                         \
		}                                              \
	}

static void judge_run(void *const *params)
{
	bool is_bad = false;

	switch (N(2)) {
	case INF_BOOL:
	case INF_U8:
		CLAMP_INTO(uint8_t);
		break;
	case INF_I8:
		CLAMP_INTO(int8_t);
		break;
	case INF_I16:
		CLAMP_INTO(int16_t);
		break;
	case INF_I32:
		CLAMP_INTO(int32_t);
		break;
	case INF_I64:
		CLAMP_INTO(int64_t);
		break;
	case INF_F16:
		CLEAR_ODD(uint16_t, 0x7c00u);
		break;
	case INF_BF16:
		CLEAR_ODD(uint16_t, 0x7f80u);
		break;
	case INF_F32:
		CLEAR_ODD(uint32_t, 0x7f800000u);
		break;
	case INF_F64:
		CLEAR_ODD(uint64_t, 0x7ff0000000000000ull);
		break;
	}
	if (is_bad)
		*P(uint32_t *, 5) = (uint32_t)N(6);
}

static bool judge_touch(void *const *params, inf_touch_fn touch, void *data)
{
	WRITES(0, N(1) * inf_dtype_size((uint8_t)N(2)));
	WRITES(5, sizeof(uint32_t));
	return true;
}

/* It computes nothing, so its twin sleeps: a CPU that plays device has better things to do. */
static void spin_run(void *const *params)
{
	struct timespec pause = { .tv_sec = (time_t)(N(0) / 1000000000u), .tv_nsec = (long)(N(0) % 1000000000u) };

	nanosleep(&pause, NULL);
}

static bool spin_touch(void *const *params, inf_touch_fn touch, void *data)
{
	(void)params, (void)touch, (void)data;
	return true;
}

const struct inf_kernel inf_kernels[] = {
	{ "inf_copy", 3, copy_run, copy_touch, false },
	{ "inf_move", 2, move_run, move_touch, false },
	{ "inf_add_sub", 5, add_sub_run, add_sub_touch, true },
	{ "inf_square", 3, square_run, square_touch, false },
	{ "inf_twice", 2, twice_run, twice_touch, true },
	{ "inf_reverse", 3, reverse_run, reverse_touch, false },
	{ "inf_normalise", 6 + INF_CHANNELS_MAX, normalise_run, normalise_touch, false },
	{ "inf_judge", 7, judge_run, judge_touch, false },
	{ "inf_spin", 1, spin_run, spin_touch, false },
	{ NULL, 0, NULL, NULL, false },
};
