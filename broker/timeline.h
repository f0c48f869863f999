/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timeline.h - requests whose inputs a device is still writing, and the words by which streams of a client learn that its
 * results are there (struct inf_timeline in shm/layout.h).
 *
 * The words are the client's to write: they decide when its own request is run, and nothing else.
 */
#ifndef BROKER_TIMELINE_H
#define BROKER_TIMELINE_H

#include "broker/job.h"

/* What the client says now of entry `idx1` - 1, read once into the job. Nothing where idx1 is 0. */
void timeline_read(struct job *job, uint32_t idx1);

/* Are the inputs there? */
bool timeline_is_ready(const struct job *job);

/* What waiting needs: cold, before the first session may. 0 or -errno. timeline_deinit() ends it, also where it never began. */
int timeline_prepare(struct broker *broker);
void timeline_deinit(struct broker *broker);

/* The job waits until they are; timeline_next() looks. */
void timeline_wait(struct broker *broker, struct job *job);

enum timeline_turn {
	TIMELINE_NOTHING, /* nobody, or enough for one turn of the front */
	TIMELINE_READY,	  /* may be queued */
	TIMELINE_LATE,	  /* has waited too long */
};

/* Looks at waiting jobs, from *n_seen on, which is 0 at first. *ret_job waits no longer. */
enum timeline_turn timeline_next(struct broker *broker, uint32_t *n_seen, struct job **ret_job);

/* Before the front sleeps: something looks again soon where jobs wait. */
void timeline_arm(struct broker *broker);

/* The job has its status: whoever waits for its results goes on. */
void timeline_signal(struct session *session, uint32_t idx1, uint64_t done_at);

/* A submission that never became a job has its status. */
void timeline_answer(struct session *session, uint32_t idx1);

/*
 * The batch of a job that had its status before (it was cancelled) has ended: what the device wrote for it may have
 * overwritten what was signalled since.
 */
void timeline_repeat(const struct job *job);

#endif /* BROKER_TIMELINE_H */
