/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig.h - the broker's end of one session in the test's own process, for tests of libinfclient that
 * need to decide what the broker says, and when: a listening socket, the handshake with real sealed
 * regions, the broker's ends of the rings from shm/lane.h. No executor: answers are what the test
 * posts, or an echo.
 *
 * One thread of the rig serves the control socket. Rings belong to who calls rig_take() and
 * rig_post(), until rig_echo() gives them to the thread.
 */
#ifndef TESTS_SUPPORT_RIG_H
#define TESTS_SUPPORT_RIG_H

#include "shm/lane.h"
#include <inf/client.h>

struct rig;

/* Listens at a private path, starts the thread. */
struct rig *rig_new(void);
void rig_free(struct rig *rig);
const char *rig_path(const struct rig *rig);
/* inf_open() on it. */
struct inf_client *rig_open(struct rig *rig);

/*
 * Models: "echo" f32[-1][4] -> the same; "vary" i32[2][<=8] -> the same, no batches; "big" u8[-1][1
 * MiB] -> u8[-1][1]; "loading" and all others are refused. From here on the thread answers requests
 * with their input.
 */
void rig_echo(struct rig *rig);

/* The next submission of a lane; false = none. */
bool rig_take(struct rig *rig, uint32_t lane, struct inf_submission *ret_copy);
/* Posts completions as they are; rig_announce() moves the word and wakes. */
void rig_post(struct rig *rig, uint32_t lane, const struct inf_completion *body);
void rig_announce(struct rig *rig, uint32_t lane);
/* Writes a good output block for an "echo" request and fills in the completion that names it. */
void rig_make_output(struct rig *rig, const struct inf_submission *sub, uint32_t out_idx,
		     struct inf_completion *ret_body);
/* Its head, to be spoilt. */
struct inf_out_head *rig_output(struct rig *rig, uint32_t out_idx);

/* What the client wrote. */
const struct inf_request_region *rig_request(const struct rig *rig);
struct inf_response_region *rig_response(struct rig *rig);

/* Sends one more output region (id) without being asked, which rig_make_output() uses from now on. */
void rig_new_generation(struct rig *rig, uint32_t region);
void rig_retire(struct rig *rig, uint32_t region);
/* As the kernel and the front do it when the front dies, or ends the session. */
void rig_die(struct rig *rig);
void rig_end_session(struct rig *rig);
/* GROW is refused from now on. */
void rig_refuse_growth(struct rig *rig);
uint32_t rig_n_grows(struct rig *rig);
uint64_t rig_n_bells(struct rig *rig);

#endif /* TESTS_SUPPORT_RIG_H */
