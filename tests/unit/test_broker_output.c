/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_output.c - reservations never overlap, come back by the client's words alone, and survive lies. */
#include "broker/output.h"
#include "shm/signature.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

#define N_UNITS 100u

static struct session *session;
static struct inf_request_region *request;
static struct output_pool *pool;
static struct inf_signature signature;

static void setup(void)
{
	session = calloc(1, sizeof(*session));
	request = calloc(1, sizeof(*request));
	session->request = request;
	output_session_init(session);
	memset(&signature, 0, sizeof(signature));
	signature.n_inputs = signature.n_outputs = 1;
	signature.flags = INF_SIG_BATCHABLE;
	signature.batch_max = 8;
	signature.outputs[0] = (struct inf_tensor_spec){
		.dtype = INF_F32, .rank = 2, .flags = INF_SPEC_BATCH, .dims = { -1, 10 }, .dims_max = { 0, 10 }
	};
	pool = output_pool_new(7, N_UNITS * inf_output_bytes(&signature, 1), &signature);
}

static void teardown(void)
{
	output_pool_free(pool);
	free(request);
	free(session);
}

static void release(uint32_t out_idx)
{
	inf_store32_release(&request->release[out_idx], session->outputs[out_idx].generation);
}

START_TEST(full_and_back)
{
	uint32_t idx[N_UNITS], more;

	ck_assert_uint_eq(pool->n_units, N_UNITS);
	for (uint32_t i = 0; i < N_UNITS; i++) {
		ck_assert(output_reserve(session, pool, 1, &idx[i]));
		output_post(session, idx[i]);
	}
	ck_assert(!output_reserve(session, pool, 1, &more));
	release(idx[3]);
	ck_assert(output_reserve(session, pool, 1, &more));
	ck_assert_uint_eq(output_offset(&session->outputs[more]), 3 * pool->unit_bytes);
	ck_assert(!output_reserve(session, pool, 1, &idx[3]));
}
END_TEST

START_TEST(lies)
{
	uint32_t idx, more;

	ck_assert(output_reserve(session, pool, N_UNITS, &idx));
	/* Not posted yet: the client's word cannot free what is being written. */
	release(idx);
	ck_assert(!output_reserve(session, pool, 1, &more));
	output_post(session, idx);
	/* Every other generation means nothing. */
	for (uint32_t lie = 0; lie < 1000; lie++) {
		inf_store32(&request->release[idx], session->outputs[idx].generation + 1 + lie);
		ck_assert(!output_reserve(session, pool, 1, &more));
	}
	release(idx);
	ck_assert(output_reserve(session, pool, 1, &more));
	/* The word still stands: the index was used again, with another generation. */
	ck_assert_uint_eq(output_sweep(session), 0);
}
END_TEST

/* Random sizes; a private map of units proves that no two blocks share one. */
START_TEST(random_walk)
{
	static uint8_t owner[N_UNITS];
	uint32_t held[N_UNITS], n_held = 0;
	unsigned int seed = 2;

	for (int step = 0; step < 100000; step++) {
		uint32_t rows = 1 + (uint32_t)rand_r(&seed) % (rand_r(&seed) % 8 ? 1 : 20), idx;

		if (rand_r(&seed) % 2 && n_held < N_UNITS && output_reserve(session, pool, rows, &idx)) {
			const struct output *output = &session->outputs[idx];

			ck_assert_uint_le(output->first + output->n_units, N_UNITS);
			for (uint32_t k = output->first; k < output->first + rows; k++) {
				ck_assert_uint_eq(owner[k], 0);
				owner[k] = 1;
			}
			output_post(session, idx);
			held[n_held++] = idx;
		} else if (n_held) {
			uint32_t at = (uint32_t)rand_r(&seed) % n_held;
			const struct output *output = &session->outputs[held[at]];

			memset(&owner[output->first], 0, output->n_units);
			release(held[at]);
			held[at] = held[--n_held];
			output_sweep(session);
		}
	}
}
END_TEST

START_TEST(move_to_new_generation)
{
	struct output_pool *next = output_pool_new(8, N_UNITS * inf_output_bytes(&signature, 1), &signature);
	uint32_t held, running;

	ck_assert(output_reserve(session, pool, 2, &held));
	output_post(session, held);
	ck_assert(output_reserve(session, pool, 5, &running));
	pool->retired = true;
	ck_assert(output_move(session, running, next, 5));
	ck_assert_ptr_eq(session->outputs[running].pool, next);
	ck_assert_uint_eq(pool->n_free, N_UNITS - 2);
	ck_assert(!session->retire_due);
	release(held);
	ck_assert_uint_eq(output_sweep(session), 1);
	ck_assert(session->retire_due);
	output_cancel(session, running);
	ck_assert_uint_eq(next->n_free, N_UNITS);
	output_pool_free(next);
}
END_TEST

Suite *suite_broker_output(void);
Suite *suite_broker_output(void)
{
	Suite *suite = suite_create("broker_output");
	TCase *tcase = tcase_create("output");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, full_and_back);
	tcase_add_test(tcase, lies);
	tcase_add_test(tcase, random_walk);
	tcase_add_test(tcase, move_to_new_generation);
	suite_add_tcase(suite, tcase);
	return suite;
}
