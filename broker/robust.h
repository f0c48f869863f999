/* SPDX-License-Identifier: Apache-2.0 */
/* robust.h - liveness words: how clients that sleep learn that the front has died. */
#ifndef BROKER_ROBUST_H
#define BROKER_ROBUST_H

#include "broker/job.h"

/* Fills the liveness words of a session that becomes READY; its first lane goes into the list. */
void robust_session_begin(struct broker *broker, struct session *session);

/* A lane was taken into use: its word goes into the list, while there is room. Idempotent. */
void robust_lane_add(struct broker *broker, struct session *session, uint32_t lane);

/* Takes all words of a session off the list, sets them to 0 and wakes who sleeps there or on
 * completions. */
void robust_session_end(struct session *session);

/* Words in the list. */
uint32_t robust_count(void);

#endif /* BROKER_ROBUST_H */
