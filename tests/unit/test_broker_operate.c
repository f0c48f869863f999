/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_operate.c - who may operate the broker, what it answers, and what a trace holds when its reader is slow. */
#define _GNU_SOURCE 1
#include "broker/quota.h"
#include "broker/session.h"
#include "broker/trace.h"
#include "shm/region.h"
#include "shm/trace.h"
#include "tests/support/peers.h"
#include <check.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

static void say(uint32_t operation, uint32_t subject)
{
	struct inf_ctl_operate msg;

	inf_ctl_init(&msg, INF_CTL_OPERATE, 5);
	msg.operation = operation;
	msg.subject = subject;
	client_say(&msg);
}

/* A connection of its own that asks for one operation; the type of the answer. */
static int ask(uint32_t operation, uint32_t subject)
{
	ck_assert_int_eq(client_connect(), 0);
	say(operation, subject);
	return client_hear();
}

/* Than the broker's. */
static struct session *connect_as_another_user(void)
{
	struct session *session;

	ck_assert_int_eq(client_connect(), 0);
	session = session_find(&peers.broker, peers.broker.session_ids);
	ck_assert_ptr_nonnull(session);
	session->uid = 4242;
	return session;
}

static const struct inf_trace_region *map_trace(void)
{
	void *map;

	ck_assert_uint_eq(peers.answer.trace.bytes, sizeof(struct inf_trace_region));
	ck_assert_uint_eq(peers.n_answer_fds, 1);
	ck_assert_int_eq(inf_region_check_received(peers.answer_fds[0], sizeof(struct inf_trace_region), true), 0);
	ck_assert(!peers_can_map_writable(peers.answer_fds[0]));
	ck_assert_int_eq(inf_region_map(peers.answer_fds[0], sizeof(struct inf_trace_region), false, 0, &map), 0);
	return map;
}

START_TEST(drain_and_resume)
{
	ck_assert_int_eq(ask(INF_OPERATION_DRAIN, 0), INF_CTL_OPERATED);
	ck_assert_uint_eq(peers.answer.head.cookie, 5);
	ck_assert_uint_eq(peers.answer.operated.in_flight, 0);
	ck_assert(peers.broker.paused && !peers.broker.draining);
	close(peers.client_fd);
	ck_assert_int_eq(ask(INF_OPERATION_RESUME, 0), INF_CTL_OPERATED);
	ck_assert(!peers.broker.paused);
	close(peers.client_fd);
	peers.broker.draining = true;
	ck_assert_int_eq(ask(INF_OPERATION_RESUME, 0), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -ESHUTDOWN);
	close(peers.client_fd);
	peers_turn();
}
END_TEST

START_TEST(who_has_given_up_changes_nothing)
{
	struct inf_ctl_operate msg;

	ck_assert_int_eq(client_connect(), 0);
	inf_ctl_init(&msg, INF_CTL_OPERATE, 5);
	msg.operation = INF_OPERATION_DRAIN;
	ck_assert_int_eq(inf_ctl_send(peers.client_fd, &msg, NULL, 0, true), 0);
	close(peers.client_fd);
	peers.client_fd = -1;
	peers_turn();
	ck_assert(!peers.broker.paused);
	ck_assert_uint_eq(peers.broker.n_sessions, 0);
}
END_TEST

START_TEST(kick)
{
	struct session *session = client_connect_ready();
	int victim_fd = peers.client_fd;

	ck_assert_int_eq(ask(INF_OPERATION_KICK, session->id + 100), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -ESRCH);
	/* The same connection may ask again. */
	say(INF_OPERATION_KICK, session->id);
	ck_assert_int_eq(client_hear(), INF_CTL_OPERATED);
	say(INF_OPERATION_KICK, peers.broker.session_ids);
	ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -EINVAL); /* itself */
	close(peers.client_fd);
	peers.client_fd = victim_fd;
	client_assert_ended("shmctl kick");
}
END_TEST

START_TEST(others_may_less)
{
	struct session *mine = client_connect_ready(), *operator;
	int mine_fd = peers.client_fd;

	operator = connect_as_another_user();
	for (uint32_t operation = INF_OPERATION_DRAIN; operation <= INF_OPERATION_RESUME; operation++) {
		say(operation, 0);
		ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
		ck_assert_int_eq(peers.answer.error.error, -EPERM);
	}
	say(INF_OPERATION_KICK, mine->id);
	ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -ESRCH);
	say(INF_OPERATION_TRACE, 0);
	ck_assert_int_eq(client_hear(), INF_CTL_TRACE);
	ck_assert_uint_eq(operator->trace->uid, 4242);
	close(peers.client_fd);
	peers.client_fd = mine_fd;
	peers_turn();
	ck_assert_uint_eq(peers.broker.n_sessions, 1);
}
END_TEST

START_TEST(unknown)
{
	ck_assert_int_eq(ask(0, 0), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -EOPNOTSUPP);
	say(UINT32_MAX, 0);
	ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
	client_hello(); /* it may still become a client */
	ck_assert_int_eq(client_hear(), INF_CTL_WELCOME);
	say(INF_OPERATION_DRAIN, 0);
	client_assert_ended("a message before its handshake allows it");
	ck_assert(!peers.broker.paused);
}
END_TEST

START_TEST(a_client_does_not_operate)
{
	client_connect_ready();
	say(INF_OPERATION_DRAIN, 0);
	client_assert_ended("a message that is not allowed any more");
	ck_assert(!peers.broker.paused);
}
END_TEST

START_TEST(a_tracer_does_nothing_else)
{
	ck_assert_int_eq(ask(INF_OPERATION_TRACE, 0), INF_CTL_TRACE);
	say(INF_OPERATION_TRACE, 0);
	client_assert_ended("a message before its handshake allows it");
	ck_assert_ptr_null(peers.broker.tracers);
}
END_TEST

/* An answer as trace_answer() sees it. */
static void answer(struct session *session, uint64_t n)
{
	struct intake_result result = { .tag = n, .rows = 1, .status = INF_BUSY, .model = MODELS_MAX };

	session->lanes[0].sq.head = n + 1;
	trace_answer(&peers.broker, &session->lanes[0], &result);
}

START_TEST(a_trace)
{
	struct session *session = client_connect_ready();
	const struct inf_trace_region *trace;
	int session_fd = peers.client_fd;
	uint64_t used = quota_bytes_used();

	ck_assert_uint_eq(session->response->head.must_stamp.v, 0);
	ck_assert_int_eq(ask(INF_OPERATION_TRACE, 0), INF_CTL_TRACE);
	trace = map_trace();
	ck_assert_uint_eq(trace->magic, INF_TRACE_MAGIC);
	ck_assert_uint_eq(trace->uid, UINT32_MAX);
	ck_assert_uint_eq(session->response->head.must_stamp.v, 1);
	ck_assert_uint_eq(quota_bytes_used(), used + sizeof(struct inf_trace_region));
	ck_assert_uint_eq(peers.broker.n_handshakes, 0);
	for (uint64_t n = 0; n < INF_TRACE_RECORDS + 10; n++)
		answer(session, n);
	ck_assert_uint_eq(trace->next.v, INF_TRACE_RECORDS + 10);
	for (uint64_t n = 10; n < INF_TRACE_RECORDS + 10; n++) {
		const struct inf_trace_record *record = &trace->records[n % INF_TRACE_RECORDS];

		ck_assert(record->seq == n + 1 && record->pos == n && record->tag == n && record->status == INF_BUSY &&
			  record->session == session->id && record->model == INF_TRACE_NONE);
	}
	/* It ends with its connection: nobody stamps, and its memory is back. */
	close(peers.client_fd);
	peers.client_fd = session_fd;
	peers_turn();
	ck_assert_ptr_null(peers.broker.tracers);
	ck_assert_uint_eq(session->response->head.must_stamp.v, 0);
	ck_assert_uint_eq(quota_bytes_used(), used);
	inf_region_unmap((void *)(uintptr_t)trace, sizeof(*trace), 0);
}
END_TEST

START_TEST(traces_of_two_and_of_others)
{
	struct session *session = client_connect_ready(), *second;
	int fds[2], session_fd = peers.client_fd;

	ck_assert_int_eq(ask(INF_OPERATION_TRACE, 0), INF_CTL_TRACE);
	fds[0] = peers.client_fd;
	ck_assert_int_eq(ask(INF_OPERATION_TRACE, 0), INF_CTL_TRACE);
	fds[1] = peers.client_fd;
	second = session_find(&peers.broker, peers.broker.session_ids);
	second->trace->uid = session->uid + 1; /* another user's */
	answer(session, 0);
	ck_assert_uint_eq(second->trace->next.v, 0);
	ck_assert_uint_eq(second->next_tracer->trace->next.v, 1);
	/* The one that came first goes first. */
	close(fds[0]);
	peers.client_fd = session_fd;
	peers_turn();
	ck_assert_ptr_eq(peers.broker.tracers, second);
	ck_assert_ptr_null(second->next_tracer);
	second->trace->uid = session->uid;
	answer(session, 1);
	ck_assert_uint_eq(second->trace->next.v, 1);
	close(fds[1]);
	peers_turn();
	ck_assert_ptr_null(peers.broker.tracers);
}
END_TEST

/* As many as `n` others watch, of that user: the next one's answer. */
static int ask_behind(uint32_t n, uid_t uid)
{
	static struct session others[32];
	int type;

	for (uint32_t i = 0; i < n; i++)
		others[i] = (struct session){ .uid = uid, .next_tracer = i ? &others[i - 1] : NULL };
	peers.broker.tracers = n ? &others[n - 1] : NULL;
	ck_assert_int_eq(client_connect(), 0);
	say(INF_OPERATION_TRACE, 0);
	type = client_hear();
	if (type == INF_CTL_TRACE) /* its own is the first of the list */
		peers.broker.tracers->next_tracer = NULL;
	else
		peers.broker.tracers = NULL;
	close(peers.client_fd);
	peers.client_fd = -1;
	peers_turn();
	ck_assert_ptr_null(peers.broker.tracers);
	return type;
}

START_TEST(not_too_many_traces)
{
	ck_assert_int_eq(ask_behind(3, geteuid()), INF_CTL_TRACE);
	ck_assert_int_eq(ask_behind(4, geteuid()), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -EBUSY);
	ck_assert_int_eq(ask_behind(15, 4242), INF_CTL_TRACE);
	ck_assert_int_eq(ask_behind(16, 4242), INF_CTL_ERROR);
	ck_assert_uint_eq(quota_bytes_used(), 0);
}
END_TEST

START_TEST(another_user_s_trace_costs_nothing)
{
	struct session *session = client_connect_ready(), *tracer;
	int session_fd = peers.client_fd;

	tracer = connect_as_another_user();
	say(INF_OPERATION_TRACE, 0);
	ck_assert_int_eq(client_hear(), INF_CTL_TRACE);
	ck_assert_uint_eq(session->response->head.must_stamp.v, 0);
	answer(session, 0);
	ck_assert_uint_eq(tracer->trace->next.v, 0);
	close(peers.client_fd);
	peers.client_fd = session_fd;
	peers_turn();
}
END_TEST

START_TEST(a_trace_is_charged)
{
	peers.config.user_memory_max = sizeof(struct inf_trace_region) - 1;
	ck_assert_int_eq(ask(INF_OPERATION_TRACE, 0), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -EDQUOT);
	ck_assert_ptr_null(peers.broker.tracers);
	ck_assert_uint_eq(quota_bytes_used(), 0);
	close(peers.client_fd);
	peers.client_fd = -1;
	peers_turn();
}
END_TEST

START_TEST(stamps)
{
	uint64_t now_ns = 0x123456789abcdef0ull;

	ck_assert_uint_eq(inf_stamp_ns(0, now_ns), 0);
	for (uint64_t age_ns = 0; age_ns < 30000000000u; age_ns = age_ns * 3 + 7) {
		uint64_t said_ns = inf_stamp_ns(inf_stamp(now_ns - age_ns), now_ns);

		ck_assert(said_ns + 16 > now_ns - age_ns && said_ns < now_ns - age_ns + 16);
	}
	/* By a clock that was read before; and a lie. */
	ck_assert_uint_eq(inf_stamp_ns(inf_stamp(now_ns + 5000), now_ns), now_ns);
	ck_assert_uint_eq(inf_stamp_ns(inf_stamp(now_ns) + 0x40000000u, now_ns), now_ns);
	ck_assert_uint_ne(inf_stamp(0), 0);
}
END_TEST

Suite *suite_operate(void);
Suite *suite_operate(void)
{
	Suite *suite = suite_create("broker_operate");
	TCase *operations = tcase_create("operate");
	TCase *traces = tcase_create("trace");

	tcase_add_checked_fixture(operations, peers_setup, peers_teardown);
	tcase_add_test(operations, drain_and_resume);
	tcase_add_test(operations, who_has_given_up_changes_nothing);
	tcase_add_test(operations, kick);
	tcase_add_test(operations, others_may_less);
	tcase_add_test(operations, unknown);
	tcase_add_test(operations, a_client_does_not_operate);
	tcase_add_test(operations, a_tracer_does_nothing_else);
	suite_add_tcase(suite, operations);
	tcase_add_checked_fixture(traces, peers_setup, peers_teardown);
	tcase_add_test(traces, a_trace);
	tcase_add_test(traces, traces_of_two_and_of_others);
	tcase_add_test(traces, not_too_many_traces);
	tcase_add_test(traces, another_user_s_trace_costs_nothing);
	tcase_add_test(traces, a_trace_is_charged);
	tcase_add_test(traces, stamps);
	suite_add_tcase(suite, traces);
	return suite;
}
