/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_shm_control.c - messages and descriptors over a SEQPACKET pair: every type there and back,
 * every kind of wrong message named, and no descriptor left open by any of them.
 */
#define _GNU_SOURCE 1
#include "shm/control.h"
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int ends[2];
static unsigned int n_fds_before;

static unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void setup(void)
{
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	n_fds_before = count_fds();
}

static void teardown(void)
{
	ck_assert_uint_eq(count_fds(), n_fds_before);
	close(ends[0]);
	close(ends[1]);
}

static const struct {
	uint16_t type;
	enum inf_ctl_peer from;
	unsigned int n_fds;
} types[] = {
	{ INF_CTL_HELLO, INF_CTL_FROM_CLIENT, 0 },
	{ INF_CTL_MAPPED, INF_CTL_FROM_CLIENT, 0 },
	{ INF_CTL_OPEN, INF_CTL_FROM_CLIENT, 0 },
	{ INF_CTL_GROW, INF_CTL_FROM_CLIENT, 0 },
	{ INF_CTL_LANE_FD, INF_CTL_FROM_CLIENT, 0 },
	{ INF_CTL_LIST, INF_CTL_FROM_CLIENT, 0 },
	{ INF_CTL_WELCOME, INF_CTL_FROM_FRONT_TO_CLIENT, 3 },
	{ INF_CTL_REGION, INF_CTL_FROM_FRONT_TO_CLIENT, 1 },
	{ INF_CTL_READY, INF_CTL_FROM_FRONT_TO_CLIENT, 0 },
	{ INF_CTL_MODEL, INF_CTL_FROM_FRONT_TO_CLIENT, 0 },
	{ INF_CTL_ERROR, INF_CTL_FROM_FRONT_TO_CLIENT, 0 },
	{ INF_CTL_FD, INF_CTL_FROM_FRONT_TO_CLIENT, 1 },
	{ INF_CTL_INFO, INF_CTL_FROM_FRONT_TO_CLIENT, 0 },
	{ INF_CTL_RETIRE, INF_CTL_FROM_FRONT_TO_CLIENT, 0 },
	{ INF_CTL_HELLO_EXECUTOR, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_INSTANCE_MAPPED, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_FOUND, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_SCANNED, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_LOADING, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_LOADED, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_FAILED, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_ATTACHED, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_DETACHED, INF_CTL_FROM_EXECUTOR, 0 },
	{ INF_CTL_INSTANCE, INF_CTL_FROM_FRONT_TO_EXECUTOR, 3 },
	{ INF_CTL_SCAN, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0 },
	{ INF_CTL_LOAD, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0 },
	{ INF_CTL_UNLOAD, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0 },
	{ INF_CTL_ATTACH, INF_CTL_FROM_FRONT_TO_EXECUTOR, 1 },
	{ INF_CTL_DETACH, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0 },
	{ INF_CTL_IMPORT, INF_CTL_FROM_CLIENT, 0 },
	{ INF_CTL_IMPORTED, INF_CTL_FROM_FRONT_TO_CLIENT, 0 },
	{ INF_CTL_FETCH, INF_CTL_FROM_FRONT_TO_IMPORTER, 1 },
	{ INF_CTL_FETCHED, INF_CTL_FROM_IMPORTER, 0 },
};
#define N_TYPES ((int)(sizeof(types) / sizeof(types[0])))

/* Bytes and descriptors as a hostile peer would send them. */
static void send_raw(const void *bytes, size_t n_bytes, unsigned int n_fds)
{
	union {
		char bytes[CMSG_SPACE(16 * sizeof(int))];
		struct cmsghdr align;
	} room = { 0 };
	struct iovec iov = { (void *)(uintptr_t)bytes, n_bytes };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds) {
		struct cmsghdr *head = &room.align;

		msg.msg_control = room.bytes;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		for (unsigned int i = 0; i < n_fds; i++)
			memcpy(CMSG_DATA(head) + i * sizeof(int), &ends[0], sizeof(int));
	}
	ck_assert_int_eq(sendmsg(ends[0], &msg, 0), (ssize_t)n_bytes);
}

static int receive(enum inf_ctl_peer peer, union inf_ctl_any *msg, int *fds, unsigned int *n_fds)
{
	*n_fds = 99;
	return inf_ctl_recv(ends[1], peer, msg, fds, n_fds, true);
}

/* What is received from a client, and that nothing of it is kept. */
static int fault_of(const void *bytes, size_t n_bytes, unsigned int n_fds, enum inf_ctl_peer peer)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX], r;
	unsigned int n;

	send_raw(bytes, n_bytes, n_fds);
	r = receive(peer, &msg, fds, &n);
	ck_assert_uint_eq(count_fds(), n_fds_before);
	return r;
}

START_TEST(there_and_back)
{
	union inf_ctl_any sent, got;
	int fds[INF_CTL_FDS_MAX] = { ends[0], ends[1], ends[0] }, received[INF_CTL_FDS_MAX];
	uint32_t bytes = inf_ctl_bytes(types[_i].type);
	unsigned int n_fds;

	memset(&sent, 0x5a, sizeof(sent));
	inf_ctl_init(&sent, (enum inf_ctl_type)types[_i].type, 77);
	ck_assert_uint_ge(bytes, sizeof(sent.head));
	ck_assert_uint_le(bytes, sizeof(sent));
	for (uint32_t i = sizeof(sent.head); i < bytes; i++)
		ck_assert_uint_eq(((uint8_t *)&sent)[i], 0); /* init leaves no stack bytes */
	memset((uint8_t *)&sent + sizeof(sent.head), 0xa5, bytes - sizeof(sent.head));
	ck_assert_int_eq(inf_ctl_send(ends[0], &sent, fds, types[_i].n_fds, true), 0);
	ck_assert_int_eq(receive(types[_i].from, &got, received, &n_fds), 0);
	ck_assert_int_eq(memcmp(&sent, &got, bytes), 0);
	ck_assert_uint_eq(got.head.cookie, 77);
	ck_assert_uint_eq(n_fds, types[_i].n_fds);
	for (unsigned int i = 0; i < n_fds; i++) {
		ck_assert_int_eq(fcntl(received[i], F_GETFD), FD_CLOEXEC);
		close(received[i]);
	}
}
END_TEST

/* The same message from everybody else, with a descriptor more, with one less, longer, shorter. */
START_TEST(everything_else_about_it)
{
	uint32_t bytes = inf_ctl_bytes(types[_i].type);
	unsigned int n_fds = types[_i].n_fds;
	union {
		union inf_ctl_any any;
		uint8_t bytes[sizeof(union inf_ctl_any) + 8];
	} msg;

	memset(&msg, 0, sizeof(msg));
	inf_ctl_init(&msg.any, (enum inf_ctl_type)types[_i].type, 0);
	for (int peer = INF_CTL_FROM_CLIENT; peer <= INF_CTL_FROM_FRONT_TO_EXECUTOR; peer++)
		if (peer != (int)types[_i].from)
			ck_assert_int_gt(fault_of(&msg, bytes, n_fds, (enum inf_ctl_peer)peer), 0);
	ck_assert_int_eq(fault_of(&msg, bytes, n_fds + 1, types[_i].from), INF_CTL_E_FDS);
	ck_assert_int_eq(fault_of(&msg, bytes, 16, types[_i].from), INF_CTL_E_FDS);
	if (n_fds)
		ck_assert_int_eq(fault_of(&msg, bytes, n_fds - 1, types[_i].from), INF_CTL_E_FDS);
	ck_assert_int_gt(fault_of(&msg, bytes - 1, n_fds, types[_i].from), 0);
	ck_assert_int_gt(fault_of(&msg, bytes + 8, n_fds, types[_i].from), 0);
	msg.any.head.bytes = bytes + 8;
	ck_assert_int_eq(fault_of(&msg, bytes, n_fds, types[_i].from), INF_CTL_E_SIZE);
	msg.any.head.bytes = bytes;
	msg.any.head.reserved = 1;
	ck_assert_int_eq(fault_of(&msg, bytes, n_fds, types[_i].from), INF_CTL_E_RESERVED);
	msg.any.head.reserved = 0;
	msg.any.head.reserved1 = 1u << 31;
	ck_assert_int_eq(fault_of(&msg, bytes, n_fds, types[_i].from), INF_CTL_E_RESERVED);
}
END_TEST

START_TEST(faults)
{
	static uint8_t bytes[1 << 16];
	struct inf_ctl_hello hello;

	inf_ctl_init(&hello, INF_CTL_HELLO, 0);
	for (size_t n = 1; n < sizeof(struct inf_ctl_head); n++)
		ck_assert_int_eq(fault_of(&hello, n, 0, INF_CTL_FROM_CLIENT), INF_CTL_E_SHORT);
	ck_assert_int_gt(fault_of(bytes, sizeof(bytes), 0, INF_CTL_FROM_CLIENT), 0);
	for (unsigned int type = 0; type < 1024; type++) {
		struct inf_ctl_head head = { .type = (uint16_t)type, .bytes = sizeof(head) };

		if (!inf_ctl_bytes((uint16_t)type))
			ck_assert_int_eq(fault_of(&head, sizeof(head), 0, INF_CTL_FROM_CLIENT),
					 INF_CTL_E_TYPE);
	}
	for (int fault = INF_CTL_E_CLOSED; fault <= INF_CTL_E_RESERVED; fault++)
		ck_assert_uint_gt(strlen(inf_ctl_fault_name(fault)), 3);
	ck_assert_ptr_nonnull(inf_ctl_fault_name(99));
}
END_TEST

START_TEST(nothing_and_too_much)
{
	union inf_ctl_any msg;
	struct inf_ctl_scan scan;
	int fds[INF_CTL_FDS_MAX], r = 0;
	unsigned int n_fds, n = 0;

	ck_assert_int_eq(receive(INF_CTL_FROM_CLIENT, &msg, fds, &n_fds), -EAGAIN);
	inf_ctl_init(&scan, INF_CTL_SCAN, 0);
	while (n < 1000000 && !(r = inf_ctl_send(ends[0], &scan, NULL, 0, true)))
		n++;
	ck_assert_int_eq(r, -EAGAIN);
	while (n--)
		ck_assert_int_eq(receive(INF_CTL_FROM_FRONT_TO_EXECUTOR, &msg, fds, &n_fds), 0);
	shutdown(ends[0], SHUT_RDWR);
	ck_assert_int_eq(receive(INF_CTL_FROM_CLIENT, &msg, fds, &n_fds), INF_CTL_E_CLOSED);
}
END_TEST

Suite *suite_shm_control(void);
Suite *suite_shm_control(void)
{
	Suite *suite = suite_create("shm_control");
	TCase *tcase = tcase_create("messages");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_loop_test(tcase, there_and_back, 0, N_TYPES);
	tcase_add_loop_test(tcase, everything_else_about_it, 0, N_TYPES);
	tcase_add_test(tcase, faults);
	tcase_add_test(tcase, nothing_and_too_much);
	suite_add_tcase(suite, tcase);
	return suite;
}
