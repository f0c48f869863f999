/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.h - which lanes the front looks at.
 *
 * A lane is ACTIVE (in broker.active[], scanned each turn) or IDLE (not looked at until its session's bell rings). Scanning
 * 1,000 idle sessions would cost 26 times the round trip. Invariant: IDLE implies sq_wake == the front's position, stored
 * before the front's last look at the lane. Only ACTIVE lanes are armed when the front sleeps, and they stay ACTIVE.
 *
 * The client does the same in either state: publish, fence, read sq_wake, ring when it lies in what was published.
 */
#ifndef BROKER_LANES_H
#define BROKER_LANES_H

#include "broker/job.h"

#define LANE_RETIRE_NS 100000u /* without work for so long: IDLE */

void lanes_activate(struct broker *broker, struct lane *lane);
/* Takes a lane off the list for good (its session ends). */
void lanes_forget(struct broker *broker, struct lane *lane);

/* Between turns of a busy front: lanes without work for LANE_RETIRE_NS become IDLE. One fence for all of them. */
void lanes_retire(struct broker *broker);

/* Before sleeping: asks every ACTIVE lane to ring for its next slot. The caller fences and looks again. */
void lanes_arm(struct broker *broker);
bool lanes_have_work(const struct broker *broker);
/* After arming, fence and an empty look: what has been without work long enough becomes IDLE at no further cost. */
void lanes_drop_idle(struct broker *broker);

#endif /* BROKER_LANES_H */
