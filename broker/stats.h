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

/* A build that counts no requests, to measure what that costs: the row stats.cost in `make bench`. */
#ifdef INF_NO_STATS
#define STATS_COUNTED false
#else
#define STATS_COUNTED true
#endif

/* What each request changes: kept true as it changes, so that the files of a sleeping broker are true without a refresh. */
static inline void stats_session_hot(const struct session *session)
{
	if (!STATS_COUNTED)
		return;
	inf_store64(&session->stats->in_flight, session->n_jobs);
	inf_store64(&session->stats->held_outputs, session->n_posted);
}

static inline void stats_model_hot(const struct model *model)
{
	if (!STATS_COUNTED)
		return;
	inf_store64(&model->stats->queued, model->queue.rows);
	inf_store64(&model->stats->in_flight, model->rows_running);
}

static inline void stats_lane_hot(const struct lane *lane)
{
	if (!STATS_COUNTED)
		return;
	inf_store64(&lane->stats->accepted, lane->sq.head);
	inf_store64(&lane->stats->posted, lane->cq.tail);
	inf_store32(&lane->stats->in_flight, lane->in_flight);
}

/* `n` more requests of an opened model have their answer; the first ones of a session are shown. */
static inline void stats_handle_hot(const struct handle *handle, uint32_t n)
{
	size_t at = (size_t)(handle - handle->session->handles);

	if (at < INF_STATS_HANDLES)
		handle->session->stats->handles[at].n_requests += n;
}

static inline void stats_instance_dispatched(const struct broker *broker, const struct instance *instance,
					     const struct model *model, uint32_t n_rows)
{
	struct inf_stats_instance *entry = &broker->stats->instances[instance->idx];

	if (!STATS_COUNTED)
		return;
	inf_store32(&entry->model, model->id);
	inf_store32(&entry->rows, n_rows);
	inf_store64(&entry->dispatched_ns, broker->now_ns);
	inf_store32(&entry->n_in_flight, (uint32_t)(instance->tail - instance->head));
}

static inline void stats_instance_ended(const struct broker *broker, const struct instance *instance, uint32_t n_rows,
					uint64_t took_ns)
{
	struct inf_stats_instance *entry = &broker->stats->instances[instance->idx];

	if (!STATS_COUNTED)
		return;
	entry->n_batches++;
	entry->n_rows += n_rows;
	inf_store64(&entry->busy_ns, entry->busy_ns + took_ns);
	inf_store32(&entry->n_in_flight, (uint32_t)(instance->tail - instance->head));
}

/* Something happened that is worth a line in `shmctl events`: `subject` as enum inf_event has it. Cold. */
void stats_event(struct broker *broker, enum inf_event kind, uint32_t subject, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* The same for the number of requests in flight. */
void stats_jobs_hot(const struct broker *broker);

#endif /* BROKER_STATS_H */
