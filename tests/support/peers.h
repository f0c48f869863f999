/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers.h - both peers of a front in the test's own process: the client at one end of a socketpair
 * and the executor at one end of another. The front's part is the shipped code on a real loop,
 * without a thread: it acts in peers_turn(). Uses Check: for unit tests.
 */
#ifndef TESTS_SUPPORT_PEERS_H
#define TESTS_SUPPORT_PEERS_H

#include "broker/config.h"
#include "broker/job.h"

#define PEERS_SMALL 4	    /* floats in a row of model "small": region 0 serves */
#define PEERS_LARGE 1048576 /* of model "large": 4 MiB */

struct peers {
	struct config config;
	struct broker broker;
	int executor_fd, client_fd;	 /* of the client that connected last */
	union inf_ctl_any answer;	 /* what the front said last */
	int answer_fds[INF_CTL_FDS_MAX]; /* closed by the next client_hear() */
	unsigned int n_answer_fds;
};

extern struct peers peers;

/* f32[-1][n] -> the same, checked. */
struct inf_signature peers_signature(const char *name, int64_t n);

/* Whether a descriptor allows what a sealed region must not. */
bool peers_can_map_writable(int fd);

/* A checked fixture: a broker with two models and a READY executor. The end checks that all is
 * given back. */
void peers_setup(void);
void peers_teardown(void);
void peers_turn(void);

/* What session_new() returned. */
int client_connect(void);
void client_say(const void *msg);
/* Type of the front's next message, 0 = none yet, -1 = it hung up. */
int client_hear(void);
void client_hello(void);
void client_mapped(uint32_t region);
void client_open(const char *name, uint32_t depth);
/* Maps and populates a region, as a client must. */
void *client_map(int fd, uint64_t bytes);
/* The whole handshake. */
struct session *client_connect_ready(void);
/* Opens model "small", the executor's part included. */
void client_open_small(void);
void client_assert_ended(const char *reason);
void client_assert_refused(int error, enum inf_status status, const char *text);

/* The executor answers every ATTACH that it was sent; how many. */
uint32_t executor_attach_all(int32_t error);
/* The same of the next one; false where there is none. */
bool executor_attach_next(int32_t error);
void executor_detach_all(void);
/* What the supervisor does then, and a new one. */
void executor_dies(void);

#endif /* TESTS_SUPPORT_PEERS_H */
