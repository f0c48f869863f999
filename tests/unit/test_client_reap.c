/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_reap.c - a broker that lies, restarts its executor, ends the session or dies. */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "tests/support/rig.h"
#include <check.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

static struct rig *rig;
static struct inf_client *client;
static struct inf_model *echo;
static struct inf_request *req;
static struct inf_submission sub;
static struct inf_completion body;

/* A request in flight, with the good answer ready in `body`. */
static void setup(void)
{
	rig = rig_new();
	client = rig_open(rig);
	ck_assert_ptr_nonnull(client);
	ck_assert_int_eq(inf_model_open(client, "echo", 0, &echo), 0);
	ck_assert_int_eq(inf_request_take(echo, 2, &req), 0);
	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert(rig_take(rig, 0, &sub));
	rig_make_output(rig, &sub, 3, &body);
}

static void teardown(void)
{
	inf_close(client);
	rig_free(rig);
}

static void post(void)
{
	rig_post(rig, 0, &body);
	rig_announce(rig, 0);
}

static void expect(enum inf_status status)
{
	post();
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	ck_assert_int_eq(inf_request_status(req), status);
	if (status != INF_OK)
		ck_assert_ptr_null(inf_output(req, 0));
}

START_TEST(good_answer)
{
	expect(INF_OK);
	ck_assert_ptr_nonnull(inf_output(req, 0));
}
END_TEST

START_TEST(foreign_tags)
{
	static const uint64_t tags[] = { 0, 1, 70000, UINT64_MAX, 2ull << 32, 1ull << 63 };
	struct inf_completion good = body;

	for (unsigned int i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
		body = good;
		body.tag = tags[i];
		post();
		ck_assert_int_eq(inf_poll(req), 0);
	}
	body = good;
	ck_assert_uint_eq(body.tag, 1ull << 32);
	expect(INF_OK);
	/* Twice is once. */
	post();
	ck_assert_int_eq(inf_poll(req), 1);
}
END_TEST

START_TEST(named_statuses)
{
	body = (struct inf_completion){ .tag = sub.tag,
					.status = INF_BUSY,
					.rows = 2,
					.retry_after_us = 9,
					.flags = INF_COMP_MAYBE_EXECUTED };
	struct inf_request_info info = { .size = sizeof(info) };

	expect(INF_BUSY);
	ck_assert_int_eq(inf_request_get_info(req, &info), 0);
	ck_assert_uint_eq(info.retry_after_us, 9);
	ck_assert_uint_eq(info.maybe_executed, 1);
}
END_TEST

START_TEST(reloaded_model_is_asked_for_again)
{
	struct inf_model *again;

	body = (struct inf_completion){ .tag = sub.tag, .status = INF_NO_MODEL };
	expect(INF_NO_MODEL);
	ck_assert_int_eq(inf_model_open(client, "echo", 0, &again), 0);
	ck_assert_ptr_ne(again, echo);
}
END_TEST

/* Each lie about where the output lies, or how long it is. */
START_TEST(hostile_completion)
{
	switch (_i) {
	case 0:
		body.offset += 8;
		break;
	case 1:
		body.offset = UINT64_MAX & ~63ull;
		break;
	case 2:
		body.length = UINT64_MAX;
		break;
	case 3:
		body.length = 100;
		break;
	case 4:
		body.rows = 3;
		break;
	case 5:
		body.status = 999;
		break;
	case 6:
		body.flags = 0;
		break;
	case 7:
		body.offset = 1ull << 40;
		break;
	case 8:
		body.length = 0;
		break;
	}
	expect(INF_MODEL_ERROR);
}
END_TEST

START_TEST(hostile_table)
{
	struct inf_out_head *head = rig_output(rig, 3);
	struct inf_out_tensor *tensor = (void *)(head + 1);

	switch (_i) {
	case 0:
		head->n_outputs = 0;
		break;
	case 1:
		head->n_outputs = UINT32_MAX;
		break;
	case 2:
		head->rows = 1;
		break;
	case 3:
		tensor->dtype = INF_F64;
		break;
	case 4:
		tensor->rank = 255;
		break;
	case 5:
		tensor->offset = 4096 - 16;
		break;
	case 6:
		tensor->offset = UINT64_MAX - 63;
		break;
	case 7:
		tensor->offset = 64;
		break;
	case 8:
		tensor->bytes = 33;
		break;
	case 9:
		tensor->dims[0] = 1;
		break;
	case 10:
		tensor->dims[1] = -4;
		break;
	case 11:
		tensor->dims[1] = INT64_MAX;
		break;
	case 12:
		tensor->offset += 1;
		break;
	case 13:
		tensor->rank = 0;
		break;
	}
	expect(INF_MODEL_ERROR);
	/* What we cannot use is given back. */
	ck_assert_uint_eq(inf_load32(&rig_request(rig)->release[3]), body.generation);
}
END_TEST

START_TEST(out_of_the_table)
{
	body.out_idx = INF_OUTPUTS;
	expect(INF_BROKER_LOST);
	ck_assert_int_eq(inf_submit(req), -ECONNRESET);
}
END_TEST

START_TEST(memory_never_sent)
{
	body.region = _i ? 4711 : 0; /* 0 is a region, but no output */
	expect(INF_BROKER_LOST);
	ck_assert_int_eq(inf_submit(req), -ECONNRESET);
}
END_TEST

START_TEST(corrupt_slot)
{
	uint64_t pos = client->lanes[0].cq.head;

	inf_store64_release(&rig_response(rig)->lanes[0].slots[pos % INF_SLOTS].seq, 12345678);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	ck_assert_int_eq(inf_request_status(req), INF_BROKER_LOST);
}
END_TEST

START_TEST(new_executor_generation)
{
	rig_new_generation(rig, 500);
	rig_make_output(rig, &sub, 4, &body);
	ck_assert_uint_eq(body.region, 500);
	expect(INF_OK);
}
END_TEST

static bool is_mapped(uint32_t region)
{
	return infc_region_find(client, region, INF_REGION_OUTPUT);
}

/* An old region goes when the broker says so, but not under an output that is still held. */
START_TEST(old_generation_goes)
{
	uint32_t old = body.region;

	expect(INF_OK);
	rig_new_generation(rig, 500);
	rig_retire(rig, old);
	infc_control_drain(client);
	ck_assert(is_mapped(500));
	ck_assert(is_mapped(old));
	ck_assert_ptr_nonnull(inf_output(req, 0));
	inf_request_give(req);
	infc_control_drain(client);
	ck_assert(!is_mapped(old));
	rig_retire(rig, 500);
	infc_control_drain(client);
	ck_assert(!is_mapped(500));
}
END_TEST

/* --- death --- */

/* What a thread ends with: NULL, or what went wrong. */
static void *failed(const char *what)
{
	return (void *)(uintptr_t)what;
}

#define N_SLEEPERS 6u

static uint32_t n_ready;

static void *sleeper(void *own_lane)
{
	struct inf_request *mine = req;

	if (own_lane && (inf_request_take(echo, 1, &mine) || inf_submit(mine)))
		return failed("submit");
	__atomic_fetch_add(&n_ready, 1, __ATOMIC_RELEASE);
	if (inf_wait(mine, INF_FOREVER))
		return failed("wait");
	return inf_request_status(mine) == INF_BROKER_LOST ? NULL : failed("status");
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

/* Waits until all of them are counted as asleep. */
static void await_parked(void)
{
	uint32_t n;

	do {
		n = 0;
		for (uint32_t i = 0; i < INF_LANES; i++)
			n += inf_load32(&rig_request(rig)->lanes[i].parked.v) & INF_PARKED_COUNT;
	} while (__atomic_load_n(&n_ready, __ATOMIC_ACQUIRE) < N_SLEEPERS || n < N_SLEEPERS);
}

static void sleepers_and(void (*end)(struct rig *))
{
	pthread_t threads[N_SLEEPERS];
	uint64_t start_ms;

	for (uintptr_t i = 0; i < N_SLEEPERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, sleeper, (void *)(i % 2)), 0);
	await_parked();
	start_ms = now_ms();
	end(rig);
	for (unsigned int i = 0; i < N_SLEEPERS; i++) {
		void *failure;

		pthread_join(threads[i], &failure);
		ck_assert_msg(!failure, "thread %u: %s", i, (const char *)failure);
	}
	ck_assert_uint_lt(now_ms() - start_ms, 1000);
	ck_assert_int_eq(inf_submit(req), -ECONNRESET);
	ck_assert_int_eq(inf_model_open(client, "vary", 0, &echo), -ECONNRESET);
	ck_assert_ptr_nonnull(strstr(inf_error(client), "the broker is gone"));
}

START_TEST(broker_dies)
{
	sleepers_and(rig_die);
}
END_TEST

START_TEST(broker_ends_session)
{
	sleepers_and(rig_end_session);
}
END_TEST

/* Answers futex_waitv as a kernel before 5.16 does, for this thread and those it makes. */
static void refuse_futex_waitv(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex_waitv, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = code };

	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* The filter cannot be taken off again, so it needs a process of its own. */
static bool has_own_process(const char *name)
{
	const char *fork_mode = getenv("CK_FORK");

	if (!fork_mode || strcmp(fork_mode, "no"))
		return true;
	printf("skip - %s: needs a process of its own\n", name);
	return false;
}

START_TEST(broker_dies_on_an_old_kernel)
{
	if (!has_own_process("broker_dies_on_an_old_kernel"))
		return;
	refuse_futex_waitv();
	sleepers_and(rig_die);
}
END_TEST

static void *answer_late(void *context)
{
	(void)context;
	while (!(inf_load32(&rig_request(rig)->lanes[0].parked.v) & INF_PARKED_COUNT))
		;
	post();
	return NULL;
}

START_TEST(answers_on_an_old_kernel)
{
	pthread_t thread;

	if (!has_own_process("answers_on_an_old_kernel"))
		return;
	refuse_futex_waitv();
	ck_assert_int_eq(pthread_create(&thread, NULL, answer_late, NULL), 0);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	pthread_join(thread, NULL);
	ck_assert_int_eq(inf_request_status(req), INF_OK);
}
END_TEST

/* A lane that is not in the robust list: found by looking at the socket. */
START_TEST(broker_dies_untold)
{
	uint64_t start_ms = now_ms();

	for (uint32_t i = 0; i < INF_LANES; i++)
		inf_store32(&rig_response(rig)->liveness[i].v, 0x80000000u);
	shutdown(client->socket_fd, SHUT_RD);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	ck_assert_int_eq(inf_request_status(req), INF_BROKER_LOST);
	ck_assert_uint_lt(now_ms() - start_ms, 1000);
}
END_TEST

/* What was answered before the end stays answered. */
START_TEST(last_words)
{
	struct inf_request *any, *other;

	ck_assert_int_eq(inf_request_take(echo, 1, &other), 0);
	ck_assert_int_eq(inf_submit(other), 0);
	rig_post(rig, 0, &body);
	rig_die(rig);
	ck_assert_int_eq(inf_wait(other, INF_FOREVER), 0);
	ck_assert_int_eq(inf_request_status(other), INF_BROKER_LOST);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	ck_assert_int_eq(inf_request_status(req), INF_OK);
	ck_assert_int_eq(inf_wait_any(client, INF_FOREVER, &any), 0);
	ck_assert_ptr_eq(any, req);
	ck_assert_int_eq(inf_wait_any(client, INF_FOREVER, &any), 0);
	ck_assert_ptr_eq(any, other);
	ck_assert_int_eq(inf_wait_any(client, INF_FOREVER, &any), -ENOENT);
	ck_assert_int_eq(inf_poll(other), 1);
}
END_TEST

START_TEST(poller_learns_of_death)
{
	ck_assert_int_eq(inf_poll(req), 0);
	rig_die(rig);
	ck_assert_int_eq(inf_poll(req), 1);
	ck_assert_int_eq(inf_request_status(req), INF_BROKER_LOST);
}
END_TEST

Suite *suite_client_reap(void);

static TCase *add_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	suite_add_tcase(suite, tc);
	return tc;
}

Suite *suite_client_reap(void)
{
	Suite *suite = suite_create("client_reap");
	TCase *tc = add_case(suite, "hostile");

	tcase_add_test(tc, good_answer);
	tcase_add_test(tc, foreign_tags);
	tcase_add_test(tc, named_statuses);
	tcase_add_test(tc, reloaded_model_is_asked_for_again);
	tcase_add_loop_test(tc, hostile_completion, 0, 9);
	tcase_add_loop_test(tc, hostile_table, 0, 14);
	tcase_add_test(tc, out_of_the_table);
	tcase_add_loop_test(tc, memory_never_sent, 0, 2);
	tcase_add_test(tc, corrupt_slot);
	tc = add_case(suite, "generations");
	tcase_add_test(tc, new_executor_generation);
	tcase_add_test(tc, old_generation_goes);
	tc = add_case(suite, "death");
	tcase_add_test(tc, broker_dies);
	tcase_add_test(tc, broker_ends_session);
	tcase_add_test(tc, broker_dies_on_an_old_kernel);
	tcase_add_test(tc, answers_on_an_old_kernel);
	tcase_add_test(tc, broker_dies_untold);
	tcase_add_test(tc, last_words);
	tcase_add_test(tc, poller_learns_of_death);
	return suite;
}
