/* SPDX-License-Identifier: Apache-2.0 */
/* test_policy_timing.c - the batch size that t[b] asks for. */
#include "broker/policy/timing.h"
#include <check.h>
#include <string.h>

START_TEST(best)
{
	/* Measured on EfficientNet-Lite0 with default malloc (ns): batching hurts, so 1. */
	const uint64_t conv[TIMING_BUCKETS] = { 16000000, 34000000, 85000000, 275000000 };
	/* An MLP: batching helps up to the largest. */
	const uint64_t mlp[TIMING_BUCKETS] = { 1094000, 1070000, 1043000, 1291000, 1783000, 5407000 };
	/* As good at 8 as at 16: the smaller one answers sooner. */
	const uint64_t flat[TIMING_BUCKETS] = { 100, 150, 250, 400, 800 };
	const uint64_t none[TIMING_BUCKETS] = { 0 };

	ck_assert_uint_eq(timing_best_rows(conv, 16), 1);
	ck_assert_uint_eq(timing_best_rows(mlp, 256), 16);
	ck_assert_uint_eq(timing_best_rows(mlp, 8), 8);
	ck_assert_uint_eq(timing_best_rows(flat, 16), 8);
	ck_assert_uint_eq(timing_best_rows(none, 12), 12);
}
END_TEST

START_TEST(predict)
{
	const uint64_t time[TIMING_BUCKETS] = { 100, 150, 250, 450 };
	const uint64_t none[TIMING_BUCKETS] = { 0 };

	ck_assert_uint_eq(timing_predict_ns(time, 1), 100);
	ck_assert_uint_eq(timing_predict_ns(time, 3), 200);
	ck_assert_uint_eq(timing_predict_ns(time, 8), 450);
	ck_assert_uint_eq(timing_predict_ns(time, 16), 900);
	ck_assert_uint_eq(timing_predict_ns(none, 4), 0);
}
END_TEST

START_TEST(learn_and_relax)
{
	uint64_t time[TIMING_BUCKETS] = { 1000, 2000 };
	const uint64_t base[TIMING_BUCKETS] = { 1000, 2000 };

	timing_learn(time, 1, 2000);
	ck_assert_uint_eq(time[0], 1250); /* up by a quarter */
	timing_learn(time, 1, 450);
	ck_assert_uint_eq(time[0], 1200); /* down by a sixteenth */
	timing_learn(time, 3, 1);	  /* falls on no bucket */
	ck_assert_uint_eq(time[1], 2000);
	timing_learn(time, 0, 1);
	timing_learn(time, 1u << 31, 1);
	for (int i = 0; i < 100; i++)
		timing_relax(time, base);
	ck_assert_uint_lt(time[0], 1010);
}
END_TEST

/* Four rows of a slow model go to both idle instances; those of a fast one are not worth a wake-up. */
START_TEST(sharing)
{
	static const uint64_t slow[TIMING_BUCKETS] = { 19000000, 35000000, 70000000 };
	static const uint64_t fast[TIMING_BUCKETS] = { 40, 41, 43, 47 };
	static const uint64_t none[TIMING_BUCKETS] = { 0 };

	ck_assert_uint_eq(timing_share_rows(slow, 4, 2, 20000), 2);
	ck_assert_uint_eq(timing_share_rows(slow, 3, 2, 20000), 2);
	ck_assert_uint_eq(timing_share_rows(slow, 4, 4, 20000), 1);
	ck_assert_uint_eq(timing_share_rows(slow, 4, 9, 20000), 1);
	ck_assert_uint_eq(timing_share_rows(slow, 4, 1, 20000), 4);
	ck_assert_uint_eq(timing_share_rows(slow, 1, 2, 20000), 1);
	ck_assert_uint_eq(timing_share_rows(fast, 8, 2, 20000), 8);
	ck_assert_uint_eq(timing_share_rows(none, 8, 2, 20000), 8);
}
END_TEST

/* Noise slows everything down alike: the size in use must not look worse than the others for it. */
START_TEST(best_under_noise)
{
	static const uint64_t base[TIMING_BUCKETS] = { 18000000, 37000000, 76000000, 160000000 };
	struct timing_history history = { 0 };

	ck_assert_uint_eq(timing_history_best(&history, base, 8), 1);
	for (int i = 0; i < 200; i++)
		timing_history_add(&history, 1, 27000000);
	ck_assert_uint_eq(timing_history_best(&history, base, 8), 1);
}
END_TEST

/* Warm-up was wrong about the size that is used: seen often enough, another one is better. */
START_TEST(best_after_a_wrong_warm_up)
{
	static const uint64_t base[TIMING_BUCKETS] = { 24000000, 30000000, 120000000 };
	struct timing_history history = { 0 };

	ck_assert_uint_eq(timing_history_best(&history, base, 4), 2);
	for (int i = 0; i < 100; i++) {
		timing_history_add(&history, 2, 40000000);
		timing_history_add(&history, 1, 18000000);
		timing_history_add(&history, 3, 1); /* falls on no bucket */
	}
	ck_assert_uint_eq(timing_history_best(&history, base, 4), 1);
	/* What is not used any more is forgotten, and warm-up counts again. */
	for (int i = 0; i < 20; i++)
		timing_history_best(&history, base, 4);
	ck_assert_uint_eq(timing_history_best(&history, base, 4), 2);
}
END_TEST

Suite *suite_policy_timing(void);
Suite *suite_policy_timing(void)
{
	Suite *suite = suite_create("policy_timing");
	TCase *tcase = tcase_create("batch");

	tcase_add_test(tcase, best);
	tcase_add_test(tcase, predict);
	tcase_add_test(tcase, learn_and_relax);
	tcase_add_test(tcase, sharing);
	tcase_add_test(tcase, best_under_noise);
	tcase_add_test(tcase, best_after_a_wrong_warm_up);
	suite_add_tcase(suite, tcase);
	return suite;
}
