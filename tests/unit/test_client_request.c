/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_request.c - the life of requests: answers, shapes, credits, cancel, any thread, many
 * threads. */
#define _GNU_SOURCE 1
#include "tests/support/rig.h"
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct rig *rig;
static struct inf_client *client;
static struct inf_model *echo, *vary;

static void setup(void)
{
	rig = rig_new();
	client = rig_open(rig);
	ck_assert_ptr_nonnull(client);
	ck_assert_int_eq(inf_model_open(client, "echo", 0, &echo), 0);
	ck_assert_int_eq(inf_model_open(client, "vary", 0, &vary), 0);
}

static void setup_echo(void)
{
	setup();
	rig_echo(rig);
}

static void teardown(void)
{
	inf_close(client);
	rig_free(rig);
}

static uint64_t in_ms(uint64_t ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec + ms * 1000000u;
}

static struct inf_request *take(struct inf_model *model, uint32_t rows)
{
	struct inf_request *req;

	ck_assert_int_eq(inf_request_take(model, rows, &req), 0);
	return req;
}

static void answer(uint32_t lane, uint32_t out_idx)
{
	struct inf_completion body;
	struct inf_submission sub;

	ck_assert(rig_take(rig, lane, &sub));
	rig_make_output(rig, &sub, out_idx, &body);
	rig_post(rig, lane, &body);
	rig_announce(rig, lane);
}

START_TEST(round_trips)
{
	for (unsigned int i = 0; i < 3000; i++) {
		uint32_t rows = 1 + i % 7;
		struct inf_request *req = take(echo, rows);
		struct inf_tensor tensor;
		float *x = inf_input(req, 0);

		for (unsigned int k = 0; k < rows * 4; k++)
			x[k] = (float)(i + k);
		ck_assert_int_eq(inf_submit(req), 0);
		ck_assert_int_eq(inf_wait(req, i % 2 ? INF_FOREVER : in_ms(10000)), 0);
		ck_assert_int_eq(inf_request_status(req), INF_OK);
		ck_assert_int_eq(inf_output_tensor(req, 0, &tensor), 0);
		ck_assert_int_eq(tensor.dims[0], rows);
		ck_assert_int_eq(tensor.bytes, rows * 16);
		ck_assert(!memcmp(tensor.data, x, rows * 16));
		ck_assert_ptr_null(inf_output(req, 1));
		inf_request_give(req);
	}
}
END_TEST

START_TEST(ping_and_infer)
{
	float x[4] = { 1, 2, 3, 4 }, y[4];
	const void *inputs[] = { x };
	void *outputs[] = { y };
	uint64_t rtt_ns = 0;

	ck_assert_int_eq(inf_ping(client, INF_FOREVER, &rtt_ns), 0);
	ck_assert_uint_gt(rtt_ns, 0);
	ck_assert_int_eq(inf_infer(echo, 1, inputs, outputs, INF_FOREVER), INF_OK);
	ck_assert(!memcmp(x, y, sizeof(x)));
	ck_assert_int_eq(inf_infer(echo, 0, inputs, outputs, INF_FOREVER), -EINVAL);
}
END_TEST

START_TEST(wrong_calls)
{
	struct inf_request *req = take(echo, 1);
	int64_t dims[INF_RANK_MAX] = { 1, 4 };
	struct inf_request *none;

	ck_assert_int_eq(inf_request_status(req), INF_STATUS_N);
	ck_assert_int_eq(inf_wait(req, 0), -EINVAL);
	ck_assert_int_eq(inf_poll(req), -EINVAL);
	ck_assert_int_eq(inf_cancel(req), -EINVAL);
	ck_assert_int_eq(inf_wait_any(client, INF_FOREVER, &none), -ENOENT);
	ck_assert_int_eq(inf_request_take(echo, 0, &none), -EINVAL);
	ck_assert_int_eq(inf_request_take(echo, INF_ROWS_MAX + 1, &none), -EINVAL);
	ck_assert_ptr_null(inf_input(req, 1));
	ck_assert_int_eq(inf_input_describe(req, 1, INF_F32, 2, dims), -EINVAL);
	ck_assert_int_eq(inf_input_describe(req, 0, INF_F32, 9, dims), -EINVAL);
	ck_assert_int_eq(inf_input_describe(req, 0, 99, 2, dims), -EINVAL);
	dims[1] = 5;
	ck_assert_int_eq(inf_input_describe(req, 0, INF_F32, 2, dims), -EMSGSIZE);
	dims[0] = dims[1] = INT64_MAX;
	ck_assert_int_eq(inf_input_describe(req, 0, INF_F32, 2, dims), -EMSGSIZE);
	dims[1] = -1;
	ck_assert_int_eq(inf_input_describe(req, 0, INF_F32, 2, dims), -EINVAL);
	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert_int_eq(inf_submit(req), -EBUSY);
	ck_assert_int_eq(inf_request_set_deadline(req, 1), -EBUSY);
	dims[0] = 1, dims[1] = 4;
	ck_assert_int_eq(inf_input_describe(req, 0, INF_F32, 2, dims), -EBUSY);
	ck_assert_int_eq(inf_wait(req, INF_NOWAIT), -ETIMEDOUT);
	ck_assert_int_eq(inf_wait(req, in_ms(5)), -ETIMEDOUT);
	ck_assert_int_eq(inf_poll(req), 0);
	ck_assert_int_eq(inf_request_status(req), INF_STATUS_N);
	inf_request_give(NULL);
}
END_TEST

START_TEST(described_inputs)
{
	struct inf_request *req = take(vary, 1);
	struct inf_submission sub;
	int64_t dims[2] = { 2, 3 };
	struct inf_ext_tensor ext;

	/* Varying shapes are always described, at first as the largest. */
	ck_assert_uint_eq(inf_input_room(req, 0), 64);
	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert(rig_take(rig, 0, &sub));
	ck_assert_uint_eq(sub.flags, INF_SUB_EXT);
	ck_assert_uint_eq(sub.length, sizeof(ext));
	memcpy(&ext, (const uint8_t *)rig_request(rig) + sub.offset, sizeof(ext));
	ck_assert_int_eq(ext.dims[1], 8);
	ck_assert_uint_eq(ext.length, 64);
	inf_request_give(req);

	req = take(vary, 1);
	ck_assert_int_eq(inf_input_describe(req, 0, INF_I32, 2, dims), 0);
	for (int i = 0; i < 6; i++)
		((int *)inf_input(req, 0))[i] = i;
	ck_assert_int_eq(inf_submit(req), 0);
	answer(0, 0);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);

	struct inf_tensor tensor;

	ck_assert_int_eq(inf_output_tensor(req, 0, &tensor), 0);
	ck_assert_int_eq(tensor.dims[1], 3);
	ck_assert_int_eq(((const int *)tensor.data)[5], 5);
	/* A packed model's input may be described as well. */
	inf_request_give(req);
	req = take(echo, 1);
	dims[0] = 1, dims[1] = 4;
	ck_assert_int_eq(inf_input_describe(req, 0, INF_F32, 2, dims), 0);
	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert(rig_take(rig, 0, &sub));
	ck_assert_uint_eq(sub.flags, INF_SUB_EXT);
}
END_TEST

START_TEST(credits)
{
	struct inf_request *reqs[INF_SLOTS + 1], *any;

	for (unsigned int i = 0; i <= INF_SLOTS; i++)
		reqs[i] = take(echo, 1);
	ck_assert_int_eq(inf_submit_many(reqs, INF_SLOTS + 1), INF_SLOTS);
	ck_assert_int_eq(inf_submit(reqs[INF_SLOTS]), -EAGAIN);
	for (unsigned int i = 0; i < 10; i++)
		answer(0, i);
	/* Unread completions are collected when their slots are needed. */
	ck_assert_int_eq(inf_submit(reqs[INF_SLOTS]), 0);
	for (unsigned int i = 0; i < 10; i++) {
		ck_assert_int_eq(inf_wait_any(client, INF_NOWAIT, &any), 0);
		ck_assert_ptr_eq(any, reqs[i]);
	}
	ck_assert_int_eq(inf_wait_any(client, INF_NOWAIT, &any), -ETIMEDOUT);
}
END_TEST

START_TEST(bell_only_when_asked)
{
	struct inf_request *reqs[4];

	for (unsigned int i = 0; i < 4; i++)
		reqs[i] = take(echo, 1);
	/* The rig's lanes start idle: sq_wake is the first position. */
	ck_assert_int_eq(inf_submit_many(reqs, 2), 2);
	ck_assert_uint_eq(rig_n_bells(rig), 1);
	ck_assert_int_eq(inf_submit(reqs[2]), 0);
	ck_assert_uint_eq(rig_n_bells(rig), 0);
	inf_store64(&rig_response(rig)->lanes[0].sq_wake.v,
		    inf_load64(&rig_response(rig)->lanes[0].sq_wake.v) + 3);
	ck_assert_int_eq(inf_submit(reqs[3]), 0);
	ck_assert_uint_eq(rig_n_bells(rig), 1);
}
END_TEST

START_TEST(release_words)
{
	struct inf_request *req = take(echo, 1);

	ck_assert_int_eq(inf_submit(req), 0);
	answer(0, 77);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->release[77]), 0);
	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->release[77]), 1);
	answer(0, 77);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	inf_request_give(req);
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->release[77]), 2);
}
END_TEST

START_TEST(cancel_words)
{
	struct inf_request *req = take(echo, 1);
	struct inf_submission sub;
	struct inf_completion body;
	uint64_t pos;

	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert(rig_take(rig, 0, &sub));
	pos = sub.seq - 1;
	rig_n_bells(rig);
	ck_assert_int_eq(inf_cancel(req), 0);
	ck_assert_int_eq(inf_cancel(req), 0);
	ck_assert_uint_eq(inf_load64(&rig_request(rig)->lanes[0].cancel[pos % INF_SLOTS]), pos + 1);
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->head.n_cancels.v), 2);
	ck_assert_uint_eq(rig_n_bells(rig), 2);
	body = (struct inf_completion){ .tag = sub.tag, .status = INF_CANCELLED, .rows = 1 };
	rig_post(rig, 0, &body);
	rig_announce(rig, 0);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	ck_assert_int_eq(inf_request_status(req), INF_CANCELLED);
	ck_assert_int_eq(inf_cancel(req), -EINVAL);
}
END_TEST

/* Given back in flight: its memory comes back with its completion, not before. */
START_TEST(given_in_flight)
{
	struct inf_request *req = take(echo, 1), *other;
	void *input = inf_input(req, 0);
	struct inf_request *any;

	ck_assert_int_eq(inf_submit(req), 0);
	inf_request_give(req);
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->head.n_cancels.v), 1);
	other = take(echo, 1);
	ck_assert_ptr_ne(inf_input(other, 0), input);
	answer(0, 5);
	ck_assert_int_eq(inf_wait_any(client, INF_FOREVER, &any), -ENOENT);
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->release[5]), 1);
	ck_assert_ptr_eq(inf_input(take(echo, 1), 0), input);
}
END_TEST

START_TEST(event_descriptor)
{
	struct inf_request *req = take(echo, 1), *any;
	struct pollfd poller = { .events = POLLIN };

	poller.fd = inf_fd(client);
	ck_assert_int_ge(poller.fd, 0);
	ck_assert_int_eq(inf_fd(client), poller.fd);
	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert_int_eq(inf_fd_arm(client), 0);
	ck_assert_int_eq(poll(&poller, 1, 0), 0);
	answer(0, 0);
	ck_assert_int_eq(poll(&poller, 1, 5000), 1);
	ck_assert_int_eq(inf_fd_arm(client), 1);
	ck_assert_int_eq(poll(&poller, 1, 0), 0);
	ck_assert_int_eq(inf_wait_any(client, INF_NOWAIT, &any), 0);
	ck_assert_ptr_eq(any, req);
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->lanes[0].event.v), 0);
	rig_die(rig);
	ck_assert_int_eq(inf_fd_arm(client), 1);
}
END_TEST

/* --- threads --- */

/* What a thread ends with: NULL, or what went wrong. */
static void *failed(const char *what)
{
	return (void *)(uintptr_t)what;
}

#define N_THREADS 20u
#define N_ROUNDS  400u

static void *hammer(void *context)
{
	unsigned int self = (unsigned int)(uintptr_t)context;
	struct inf_request *reqs[8];

	for (unsigned int i = 0; i < 8; i++)
		if (inf_request_take(echo, 1, &reqs[i]))
			return failed("take");
	for (unsigned int round = 0; round < N_ROUNDS; round++) {
		for (unsigned int i = 0; i < 8; i++) {
			((float *)inf_input(reqs[i], 0))[0] = (float)(self * 1000 + i);
			((float *)inf_input(reqs[i], 0))[1] = (float)round;
		}
		for (unsigned int n = 0; n < 8;) {
			int r = inf_submit_many(reqs + n, 8 - n);

			if (r < 0 && r != -EAGAIN)
				return failed("submit");
			n += r > 0 ? (unsigned int)r : 0;
		}
		for (unsigned int i = 0; i < 8; i++) {
			const float *y;

			if (inf_wait(reqs[i], in_ms(20000)))
				return failed("wait");
			y = inf_output(reqs[i], 0);
			if (!y || y[0] != (float)(self * 1000 + i) || y[1] != (float)round)
				return failed("answer");
		}
	}
	for (unsigned int i = 0; i < 8; i++)
		inf_request_give(reqs[i]);
	return NULL;
}

START_TEST(more_threads_than_lanes)
{
	pthread_t threads[N_THREADS];
	struct inf_request *any;

	for (unsigned int i = 0; i < N_THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, hammer, (void *)(uintptr_t)i),
				 0);
	for (unsigned int i = 0; i < N_THREADS; i++) {
		void *failure;

		pthread_join(threads[i], &failure);
		ck_assert_msg(!failure, "thread %u: %s", i, (const char *)failure);
	}
	ck_assert_uint_le(inf_load32(&rig_request(rig)->head.n_lanes.v), INF_LANES);
	ck_assert_int_eq(inf_wait_any(client, INF_FOREVER, &any), -ENOENT);
}
END_TEST

static void *one_round_trip(void *context)
{
	struct inf_request *req;
	int r = inf_request_take(echo, 1, &req);

	(void)context;
	if (!r)
		r = inf_submit(req);
	if (!r)
		r = inf_wait(req, INF_FOREVER);
	inf_request_give(req);
	return r ? failed("a call") : NULL;
}

START_TEST(lanes_come_back)
{
	for (unsigned int i = 0; i < 100; i++) {
		pthread_t thread;
		void *failure;

		ck_assert_int_eq(pthread_create(&thread, NULL, one_round_trip, NULL), 0);
		pthread_join(thread, &failure);
		ck_assert_ptr_null(failure);
	}
	ck_assert_uint_le(inf_load32(&rig_request(rig)->head.n_lanes.v), 2);
	inf_thread_leave(client);
	ck_assert_ptr_null(one_round_trip(NULL));
}
END_TEST

static void *submit_and_end(void *context)
{
	return inf_submit(context) ? failed("submit") : NULL;
}

/* What a thread left in flight is waited for as before, but does not come up for the next one on
 * its lane. */
START_TEST(lane_changes_hands)
{
	struct inf_request *left, *any;
	pthread_t thread;
	void *failure;

	ck_assert_int_eq(inf_request_take(echo, 1, &left), 0);
	inf_thread_leave(client);
	ck_assert_int_eq(pthread_create(&thread, NULL, submit_and_end, left), 0);
	pthread_join(thread, &failure);
	ck_assert_ptr_null(failure);
	ck_assert_int_eq(inf_wait_any(client, INF_NOWAIT, &any), -ETIMEDOUT);
	answer(0, 1);
	ck_assert_int_eq(inf_wait_any(client, INF_NOWAIT, &any), -ENOENT);
	ck_assert_int_eq(inf_poll(left), 1);
	ck_assert_int_eq(inf_request_status(left), INF_OK);
	/* And comes up where it is submitted next. */
	ck_assert_int_eq(inf_submit(left), 0);
	answer(0, 2);
	ck_assert_int_eq(inf_wait_any(client, INF_NOWAIT, &any), 0);
	ck_assert_ptr_eq(any, left);
}
END_TEST

static void *waiter(void *context)
{
	return inf_wait(context, in_ms(20000)) ? failed("timeout") : NULL;
}

/* A request of one lane is waited for by threads without one; two of them wait for the same. */
START_TEST(any_thread_waits)
{
	struct inf_request *reqs[4];
	pthread_t threads[5];

	for (unsigned int i = 0; i < 4; i++)
		reqs[i] = take(echo, 1);
	ck_assert_int_eq(inf_submit_many(reqs, 4), 4);
	for (unsigned int i = 0; i < 5; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, waiter, reqs[i % 4]), 0);
	for (unsigned int i = 0; i < 4; i++) {
		struct timespec ms = { .tv_nsec = 3000000 };

		nanosleep(&ms, NULL); /* lets some of them park: correct without it too */
		answer(0, i);
	}
	for (unsigned int i = 0; i < 5; i++) {
		void *failure;

		pthread_join(threads[i], &failure);
		ck_assert_ptr_null(failure);
	}
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->lanes[0].parked.v) & INF_PARKED_COUNT, 0);
}
END_TEST

Suite *suite_client_request(void);

Suite *suite_client_request(void)
{
	Suite *suite = suite_create("client_request");
	TCase *tc = tcase_create("echo");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup_echo, teardown);
	tcase_add_test(tc, round_trips);
	tcase_add_test(tc, ping_and_infer);
	tcase_add_test(tc, more_threads_than_lanes);
	tcase_add_test(tc, lanes_come_back);
	suite_add_tcase(suite, tc);
	tc = tcase_create("words");
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, wrong_calls);
	tcase_add_test(tc, described_inputs);
	tcase_add_test(tc, credits);
	tcase_add_test(tc, bell_only_when_asked);
	tcase_add_test(tc, release_words);
	tcase_add_test(tc, cancel_words);
	tcase_add_test(tc, given_in_flight);
	tcase_add_test(tc, event_descriptor);
	tcase_add_test(tc, lane_changes_hands);
	tcase_add_test(tc, any_thread_waits);
	suite_add_tcase(suite, tc);
	return suite;
}
