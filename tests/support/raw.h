/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.h - a client without the library: speaks the protocol by hand and may write whatever it likes into what it is
 * allowed to write. For adversaries and for tests of the front.
 */
#ifndef TESTS_SUPPORT_RAW_H
#define TESTS_SUPPORT_RAW_H

#include "shm/control.h"
#include "shm/lane.h"
#include "shm/layout.h"
#include <stdbool.h>

struct raw {
	int socket_fd, bell_fd, request_fd, response_fd;
	struct inf_request_region *request;
	struct inf_response_region *response;
	uint64_t start;
	uint32_t session;
	struct inf_sq_writer sq; /* lane 0 */
	struct inf_cq_reader cq;
	uint32_t handle; /* of the opened model */
	struct inf_signature signature;
};

/* Called with every region's fd at each step of its handshake, where not NULL: an attacker's chance. */
enum raw_step { RAW_OFFERED, RAW_POPULATED, RAW_MAPPED, RAW_READY };
extern void (*raw_region_hook)(enum inf_region_kind kind, enum raw_step step, int fd);

/* Connects and goes through the handshake up to READY(0), one lane in use. 0 or -errno / a positive fault. */
int raw_open(struct raw *raw, const char *path);
/* Connects only. */
int raw_connect(struct raw *raw, const char *path);
/* Opens a model with all its regions. */
int raw_model(struct raw *raw, const char *name, uint32_t depth);
/* Asks for the device, and for memory on it for region 0. 0, -ENODEV on the CPU, or as raw_open(). */
int raw_device(struct raw *raw, bool twin);
void raw_close(struct raw *raw);

/* A correct submission of one row at the start of the arena. */
struct inf_submission raw_submission(const struct raw *raw);
/* Puts it into the next slot, publishes, rings if asked to. */
void raw_submit(struct raw *raw, const struct inf_submission *body);
/* Waits for the next completion. 0, or -ECONNRESET where the session ended, or -ETIMEDOUT. */
int raw_wait(struct raw *raw, struct inf_completion *ret, unsigned int timeout_ms);
/* True where the front has ended this session (hang-up on the control socket). */
int raw_is_ended(struct raw *raw, unsigned int timeout_ms);
void raw_ring(struct raw *raw);

#endif /* TESTS_SUPPORT_RAW_H */
