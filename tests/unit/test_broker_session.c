/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_session.c - connecting, and what ends a session at once. */
#define _GNU_SOURCE 1
#include "broker/quota.h"
#include "broker/robust.h"
#include "broker/session.h"
#include "shm/region.h"
#include "tests/support/peers.h"
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

START_TEST(handshake_and_seals)
{
	struct session *session;
	int request_fd;
	void *map;

	ck_assert_int_eq(client_connect(), 0);
	ck_assert_int_eq(client_hear(), 0);
	client_hello();
	ck_assert_int_eq(client_hear(), INF_CTL_WELCOME);
	ck_assert_uint_eq(peers.answer.head.cookie, 77);
	ck_assert_uint_eq(peers.answer.welcome.features, INF_FEATURES_ALL);
	ck_assert_uint_eq(peers.answer.welcome.epoch, 12345);
	ck_assert_uint_lt(peers.answer.welcome.start, INF_SLOTS);
	ck_assert_uint_eq(peers.n_answer_fds, 3);
	ck_assert_int_eq(inf_region_check_received(peers.answer_fds[1], INF_RESPONSE_BYTES, true),
			 0);
	ck_assert(!peers_can_map_writable(peers.answer_fds[1]));
	map = client_map(peers.answer_fds[0], INF_REQUEST_BYTES);
	request_fd = dup(peers.answer_fds[0]);
	client_mapped(0);
	ck_assert_int_eq(client_hear(), INF_CTL_READY);
	ck_assert(!peers_can_map_writable(request_fd));
	ck_assert_int_lt(
		fallocate(request_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, INF_PAGE), 0);
	ck_assert_int_lt(ftruncate(request_fd, 0), 0);
	close(request_fd);

	session = session_find(&peers.broker, 1);
	ck_assert_ptr_nonnull(session);
	ck_assert_uint_eq(session->state, SESSION_READY);
	ck_assert_uint_eq(session->response->head.magic, INF_RESPONSE_MAGIC);
	ck_assert_uint_eq(session->response->liveness[0].v, peers.broker.tid | FUTEX_WAITERS);
	ck_assert_uint_eq(session->response->liveness[1].v, FUTEX_WAITERS);
	robust_lane_add(&peers.broker, session, 1);
	ck_assert_uint_eq(session->response->liveness[1].v, peers.broker.tid | FUTEX_WAITERS);
	ck_assert_uint_eq(robust_count(), 2);
	ck_assert_uint_eq(peers.broker.n_handshakes, 0);
	inf_region_unmap(map, INF_REQUEST_BYTES, 0);
}
END_TEST

START_TEST(another_version_is_told_both)
{
	struct inf_ctl_hello msg;
	char text[64];

	snprintf(text, sizeof(text), "speaks protocol %u..%u, the broker %u..%u", INF_CTL_VERSION + 1, INF_CTL_VERSION + 1,
		 INF_CTL_VERSION_MIN, INF_CTL_VERSION);
	inf_ctl_init(&msg, INF_CTL_HELLO, 1);
	msg.version_min = msg.version_max = INF_CTL_VERSION + 1;
	ck_assert_int_eq(client_connect(), 0);
	client_say(&msg);
	ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -EPROTONOSUPPORT);
	ck_assert_ptr_nonnull(strstr(peers.answer.error.text, text));
	ck_assert_int_eq(client_hear(), -1);
	ck_assert_uint_eq(peers.broker.n_sessions, 0);
}
END_TEST

START_TEST(unpopulated_request_region_ends_it)
{
	ck_assert_int_eq(client_connect(), 0);
	client_hello();
	ck_assert_int_eq(client_hear(), INF_CTL_WELCOME);
	client_mapped(0);
	client_assert_ended("did not populate");
}
END_TEST

START_TEST(quotas_turn_away_with_a_reason)
{
	int fds[3];

	for (int i = 0; i < 3; i++) {
		client_connect_ready();
		fds[i] = peers.client_fd;
	}
	ck_assert_int_eq(client_connect(), -EDQUOT);
	ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, -EDQUOT);
	ck_assert_int_eq(client_hear(), -1);
	close(peers.client_fd);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	peers_turn();
	ck_assert_uint_eq(peers.broker.n_sessions, 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(client_connect(), 0);
		fds[i] = peers.client_fd;
	}
	ck_assert_int_eq(client_connect(), -EDQUOT); /* handshakes */
	for (int i = 0; i < 2; i++)
		close(fds[i]);
}
END_TEST

START_TEST(slow_handshake_ends)
{
	ck_assert_int_eq(client_connect(), 0);
	ck_assert_uint_ne(peers.broker.handshake_timer.id, 0);
	peers.broker.sessions[0]->connected_ns -= 11000000000u;
	while (peers.broker.n_sessions) {
		ck_assert_int_ge(loop_wait(peers.broker.loop), 0);
		session_reap(&peers.broker);
	}
	client_assert_ended("did not finish its handshake");
	ck_assert_uint_eq(peers.broker.handshake_timer.id, 0); /* exists only while needed */
}
END_TEST

START_TEST(hang_up_gives_all_back)
{
	client_connect_ready();
	ck_assert_uint_eq(quota_bytes_used(), INF_REQUEST_BYTES + INF_RESPONSE_BYTES);
	close(peers.client_fd);
	peers.client_fd = -1;
	peers_turn();
	ck_assert_uint_eq(quota_bytes_used(), 0);
	ck_assert_uint_eq(peers.broker.n_sessions, 0);
	ck_assert_uint_eq(peers.broker.stats->n_sessions_ended, 0);
}
END_TEST

START_TEST(messages_out_of_order)
{
	static const uint16_t early[] = { INF_CTL_MAPPED, INF_CTL_OPEN, INF_CTL_GROW,
					  INF_CTL_LANE_FD, INF_CTL_LIST };
	union inf_ctl_any msg;

	for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		peers.broker.stats->n_sessions_ended = 0;
		ck_assert_int_eq(client_connect(), 0);
		inf_ctl_init(&msg, early[i], 1);
		client_say(&msg);
		client_assert_ended("before its handshake");
		close(peers.client_fd);
	}
	peers.broker.stats->n_sessions_ended = 0;
	client_connect_ready();
	client_hello();
	client_assert_ended("not allowed any more");
}
END_TEST

START_TEST(mapped_for_what_was_not_offered)
{
	client_connect_ready();
	client_mapped(1);
	client_assert_ended("not offered");
}
END_TEST

START_TEST(open_before_the_last_was_answered)
{
	client_connect_ready();
	client_open("large", 2);
	client_open("small", 2);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	client_assert_ended("before the last one");
}
END_TEST

START_TEST(endless_name_and_reserved_fields)
{
	struct inf_ctl_open msg;
	struct inf_ctl_list list;

	client_connect_ready();
	inf_ctl_init(&msg, INF_CTL_OPEN, 1);
	memset(msg.model, 'a', sizeof(msg.model));
	client_say(&msg);
	client_assert_ended("endless name");
	close(peers.client_fd);
	peers.broker.stats->n_sessions_ended = 0;
	client_connect_ready();
	inf_ctl_init(&list, INF_CTL_LIST, 1);
	list.reserved = 1;
	client_say(&list);
	client_assert_ended("reserved");
}
END_TEST

START_TEST(client_that_does_not_read)
{
	struct session *session = client_connect_ready();
	struct inf_ctl_list msg;
	uint32_t id = session->id;

	inf_ctl_init(&msg, INF_CTL_LIST, 1);
	for (int i = 0; i < 10000 && session_find(&peers.broker, id); i++) {
		inf_ctl_send(peers.client_fd, &msg, NULL, 0, true);
		peers_turn();
	}
	ck_assert_ptr_null(session_find(&peers.broker, id));
	ck_assert_uint_eq(peers.broker.stats->n_sessions_ended, 1);
}
END_TEST

/* More than one event's worth of messages at once: all are answered. */
START_TEST(burst_of_messages)
{
	struct inf_ctl_lane_fd msg;

	client_connect_ready();
	inf_ctl_init(&msg, INF_CTL_LANE_FD, 1);
	msg.lane = 3;
	for (int i = 0; i < 40; i++)
		ck_assert_int_eq(inf_ctl_send(peers.client_fd, &msg, NULL, 0, true), 0);
	peers_turn();
	ck_assert_int_eq(client_hear(), INF_CTL_FD);
	for (int i = 1; i < 40; i++) {
		ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
		ck_assert_int_eq(peers.answer.error.error, -EEXIST);
	}
	ck_assert_int_eq(client_hear(), 0);
}
END_TEST

Suite *suite_session(void);
Suite *suite_session(void)
{
	Suite *suite = suite_create("broker_session");
	TCase *handshake = tcase_create("handshake");
	TCase *hostile = tcase_create("hostile");

	tcase_add_checked_fixture(handshake, peers_setup, peers_teardown);
	tcase_add_test(handshake, handshake_and_seals);
	tcase_add_test(handshake, another_version_is_told_both);
	tcase_add_test(handshake, unpopulated_request_region_ends_it);
	tcase_add_test(handshake, quotas_turn_away_with_a_reason);
	tcase_add_test(handshake, slow_handshake_ends);
	tcase_add_test(handshake, hang_up_gives_all_back);
	suite_add_tcase(suite, handshake);
	tcase_add_checked_fixture(hostile, peers_setup, peers_teardown);
	tcase_add_test(hostile, messages_out_of_order);
	tcase_add_test(hostile, mapped_for_what_was_not_offered);
	tcase_add_test(hostile, open_before_the_last_was_answered);
	tcase_add_test(hostile, endless_name_and_reserved_fields);
	tcase_add_test(hostile, client_that_does_not_read);
	tcase_add_test(hostile, burst_of_messages);
	suite_add_tcase(suite, hostile);
	return suite;
}
