/* SPDX-License-Identifier: Apache-2.0 */
/* stats.h - makes the statistics files of shm/stats.h; the counters are written in place by those who count. */
#ifndef BROKER_STATS_H
#define BROKER_STATS_H

#include "broker/job.h"
#include "shm/atomics.h"

/* SOCKET.stats, 0644, a new inode; falls back to private memory with one log line where it cannot be made. 0 or -ENOMEM. */
int stats_open(struct broker *broker);
void stats_close(struct broker *broker); /* unlinks */

/* An entry in SOCKET.stats.UID (made with the user's first session, unlinked with the last). Never NULL: falls back too. */
struct inf_stats_session *stats_session_add(struct broker *broker, const struct session *session);
void stats_session_del(struct broker *broker, struct session *session);

/* Copies what lives elsewhere (limits used, executor, models, sessions) into the files: some hundred loads, so at most every
 * 100 ms, or where something has happened that is no request. */
void stats_refresh(struct broker *broker);

/* What each request changes: kept true as it changes, so that the files of a sleeping broker are true without a refresh. */
static inline void stats_session_hot(const struct session *session)
{
	inf_store64(&session->stats->in_flight, session->n_jobs);
	inf_store64(&session->stats->held_outputs, session->n_posted);
}

static inline void stats_model_hot(const struct model *model)
{
	inf_store64(&model->stats->queued, model->queue.rows);
	inf_store64(&model->stats->in_flight, model->rows_running);
}

/* The same for the number of requests in flight. */
void stats_jobs_hot(const struct broker *broker);

#endif /* BROKER_STATS_H */
