/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_executor_values.c - which values the executor lets through to a model: every 16-bit float against the
 * C library's own opinion, the edges of the wider ones, and the position of the one that is wrong.
 */
#include "broker/executor/values.h"
#include <check.h>
#include <float.h>
#include <inf/types.h>
#include <math.h>
#include <string.h>

/* By arithmetic: (1 + m / 2^10) x 2^(e - 15), and an exponent of 31 is none. */
static double half(uint16_t bits)
{
	int exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;

	if (exponent == 31)
		return mantissa ? NAN : INFINITY;
	return exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
}

START_TEST(every_16_bit_float)
{
	for (uint32_t i = 0; i <= UINT16_MAX; i++) {
		uint16_t bits = (uint16_t)i;
		uint32_t widened = i << 16; /* a bfloat16 is the upper half of a float */
		float brain;

		memcpy(&brain, &widened, sizeof(brain));
		ck_assert_int_eq(values_are_finite(&bits, INF_F16, 1), isfinite(half(bits)) != 0);
		ck_assert_int_eq(values_are_finite(&bits, INF_BF16, 1), isfinite(brain) != 0);
	}
}
END_TEST

START_TEST(edges_of_wide_floats)
{
	const float floats[] = { 0, -0.0f, FLT_MAX, -FLT_MAX, FLT_MIN, FLT_TRUE_MIN, NAN, -NAN, INFINITY, -INFINITY };
	const double doubles[] = { 0, -0.0, DBL_MAX, -DBL_MAX, DBL_MIN, DBL_TRUE_MIN, NAN, -NAN, INFINITY, -INFINITY };

	for (unsigned int i = 0; i < sizeof(floats) / sizeof(*floats); i++) {
		ck_assert_int_eq(values_are_finite(&floats[i], INF_F32, 1), i < 6);
		ck_assert_int_eq(values_are_finite(&doubles[i], INF_F64, 1), i < 6);
	}
}
END_TEST

START_TEST(one_wrong_value_anywhere)
{
	enum { N = 67 };
	float floats[N] = { 0 };
	int32_t ints[N] = { 0 };

	ck_assert(values_are_finite(floats, INF_F32, N) && values_in_range(ints, INF_I32, N, -1, 1));
	ck_assert(values_are_finite(floats, INF_F32, 0) && values_in_range(ints, INF_I32, 0, 1, 1));
	for (unsigned int i = 0; i < N; i++) {
		floats[i] = NAN;
		ints[i] = 2;
		ck_assert(!values_are_finite(floats, INF_F32, N) && values_are_finite(floats, INF_F32, i));
		ck_assert(!values_in_range(ints, INF_I32, N, -1, 1) && values_in_range(ints, INF_I32, i, -1, 1));
		floats[i] = 0;
		ints[i] = 0;
	}
	/* The other kind of type is not theirs to judge. */
	ck_assert(values_are_finite(ints, INF_I32, N) && values_in_range(floats, INF_F32, N, 1, 1));
}
END_TEST

Suite *suite_executor_values(void);
Suite *suite_executor_values(void)
{
	Suite *suite = suite_create("executor_values");
	TCase *tcase = tcase_create("values");

	tcase_add_test(tcase, every_16_bit_float);
	tcase_add_test(tcase, edges_of_wide_floats);
	tcase_add_test(tcase, one_wrong_value_anywhere);
	suite_add_tcase(suite, tcase);
	return suite;
}
