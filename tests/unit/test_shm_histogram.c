/* SPDX-License-Identifier: Apache-2.0 */
/* test_shm_histogram.c - buckets, edges and quantiles; and the texts of statuses, which need no file of their own. */
#include "shm/histogram.h"
#include "shm/status.h"
#include <check.h>
#include <inf/types.h>
#include <math.h>
#include <string.h>

static struct inf_histogram histogram;

static void setup(void)
{
	memset(&histogram, 0, sizeof(histogram));
}

START_TEST(empty)
{
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 0.5), 0);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 1), 0);
}
END_TEST

/* One value alone: its bucket's upper edge is at or above it, and within 1/16. */
static void one(uint64_t value)
{
	uint64_t edge;

	setup();
	inf_histogram_add(&histogram, value);
	edge = inf_histogram_quantile(&histogram, 0.5);
	ck_assert_uint_ge(edge, value);
	ck_assert_uint_le(edge - value, value / 16);
	ck_assert_uint_eq(histogram.max_ns, value);
	ck_assert_uint_eq(histogram.sum_ns, value);
}

START_TEST(width)
{
	for (uint64_t value = 0; value < 5000; value++)
		one(value);
	for (unsigned int log2 = 5; log2 < 40; log2++) {
		one((1ull << log2) - 1);
		one(1ull << log2);
		one((1ull << log2) + 1);
	}
	one((1ull << 40) - 1);
}
END_TEST

START_TEST(every_bucket_once)
{
	uint64_t last = 0;

	/* Walk up by each bucket's own edge: each next value falls into a new bucket, and all are met. */
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++) {
		setup();
		inf_histogram_add(&histogram, last);
		ck_assert_uint_eq(histogram.buckets[i], 1);
		last = inf_histogram_upper_edge(i) + 1;
	}
	ck_assert_uint_eq(last, 1ull << 40);
}
END_TEST

START_TEST(past_the_end)
{
	const uint64_t values[] = { 1ull << 40, (1ull << 40) + 1, 1ull << 63, UINT64_MAX };

	for (unsigned int i = 0; i < 4; i++)
		inf_histogram_add(&histogram, values[i]);
	ck_assert_uint_eq(histogram.buckets[INF_HISTOGRAM_BUCKETS - 1], 4);
	ck_assert_uint_eq(histogram.n, 4);
	ck_assert_uint_eq(histogram.max_ns, UINT64_MAX);
}
END_TEST

START_TEST(quantiles)
{
	for (uint64_t i = 1; i <= 10; i++)
		inf_histogram_add(&histogram, i);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 0), 1);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 0.1), 1);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 0.11), 2);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 0.5), 5);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 0.99), 10);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 1), 10);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, -1), 1);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, 7), 10);
	ck_assert_uint_eq(inf_histogram_quantile(&histogram, (double)NAN), 1);
}
END_TEST

START_TEST(weights_and_the_largest)
{
	struct inf_histogram some = { 0 };

	inf_histogram_add_weighted(&some, 1000, 16);
	inf_histogram_add(&some, 100000);
	ck_assert_uint_eq(some.n, 17);
	ck_assert_uint_eq(some.sum_ns, 116000);
	ck_assert(inf_histogram_quantile(&some, 0.9) >= 1000 && inf_histogram_quantile(&some, 0.9) < 1063);
	/* The edge of its bucket lies above it: 102399. */
	ck_assert_uint_eq(inf_histogram_quantile(&some, 1), 100000);
}
END_TEST

START_TEST(coarse)
{
	struct inf_coarse_histogram small = { 0 };
	uint64_t edge_ns = 0;

	ck_assert_uint_eq(inf_coarse_quantile(&small, 0.5), 0);
	for (uint32_t i = 0; i < INF_COARSE_BUCKETS; i++) {
		struct inf_coarse_histogram one = { 0 };

		/* The largest of each bucket, and the first one behind that of the bucket before. */
		inf_coarse_add_weighted(&one, inf_coarse_upper_edge(i), 1);
		inf_coarse_add_weighted(&one, i ? edge_ns + 1 : 0, 1);
		ck_assert_uint_eq(one.buckets[i], 2);
		ck_assert(i < 2 || inf_coarse_upper_edge(i) - edge_ns <= edge_ns / 4 + 1);
		edge_ns = inf_coarse_upper_edge(i);
	}
	ck_assert_uint_gt(edge_ns, 60000000000u);
	inf_coarse_add_weighted(&small, UINT64_MAX, 1);
	ck_assert_uint_eq(inf_coarse_quantile(&small, 0.5), edge_ns);
	inf_coarse_add_weighted(&small, 5000, 98);
	ck_assert(inf_coarse_quantile(&small, 0.98) < 6250);
	ck_assert_uint_eq(inf_coarse_quantile(&small, 0.995), edge_ns);
	inf_coarse_add_weighted(&small, 5000, 1);
	ck_assert(inf_coarse_quantile(&small, 0.99) >= 5000 && inf_coarse_quantile(&small, 0.99) < 6250);
	ck_assert_uint_eq(inf_coarse_quantile(&small, 1), edge_ns);
}
END_TEST

START_TEST(statuses)
{
	const char *name = inf_shm_status_name((uint32_t)_i);

	if (_i >= INF_STATUS_N) {
		ck_assert_str_eq(name, "?");
		ck_assert_str_eq(inf_shm_status_text((uint32_t)_i), "?");
		return;
	}
	ck_assert_uint_gt(strlen(name), 1);
	ck_assert_uint_gt(strlen(inf_shm_status_text((uint32_t)_i)), 20);
	for (uint32_t i = 0; i < (uint32_t)_i; i++)
		ck_assert_str_ne(name, inf_shm_status_name(i));
}
END_TEST

START_TEST(maybe_executed)
{
	const uint32_t never[] = { INF_BAD_SHAPE, INF_BAD_DTYPE, INF_BAD_RANGE, INF_BAD_MEMORY, INF_NO_MODEL, INF_LOADING,
				   INF_NOT_ALLOWED, INF_QUOTA, INF_BUSY, INF_SHED, INF_DEADLINE, INF_STATUS_N };
	const uint32_t maybe[] = { INF_OK, INF_MODEL_ERROR, INF_POISON, INF_EXECUTOR_LOST, INF_BROKER_LOST, INF_CANCELLED };

	for (unsigned int i = 0; i < sizeof(never) / sizeof(never[0]); i++)
		ck_assert(!inf_shm_status_maybe_executed(never[i]));
	for (unsigned int i = 0; i < sizeof(maybe) / sizeof(maybe[0]); i++)
		ck_assert(inf_shm_status_maybe_executed(maybe[i]));
}
END_TEST

Suite *suite_shm_histogram(void);
Suite *suite_shm_histogram(void)
{
	Suite *suite = suite_create("shm_histogram");
	TCase *tcase = tcase_create("histogram"), *status = tcase_create("status");

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_test(tcase, empty);
	tcase_add_test(tcase, width);
	tcase_add_test(tcase, every_bucket_once);
	tcase_add_test(tcase, past_the_end);
	tcase_add_test(tcase, quantiles);
	tcase_add_test(tcase, weights_and_the_largest);
	tcase_add_test(tcase, coarse);
	suite_add_tcase(suite, tcase);
	tcase_add_loop_test(status, statuses, 0, INF_STATUS_N + 3);
	tcase_add_test(status, maybe_executed);
	suite_add_tcase(suite, status);
	return suite;
}
