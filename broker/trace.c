/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.c - the traces that somebody watches.
 *
 * Clients stamp every submission while there are any (must_stamp), and only then: the clock is a fifth of a request's cost.
 */
#include "broker/trace.h"
#include "broker/clock.h"
#include "broker/quota.h"
#include "broker/session.h"
#include "shm/region.h"
#include "shm/trace.h"
#include <errno.h>
#include <unistd.h>

#define TRACERS_MAX	 16u
#define USER_TRACERS_MAX 4u

/* Never waits: a slow reader finds that it was overtaken. */
static void put(struct session *tracer, const struct inf_trace_record *record)
{
	struct inf_trace_record *slot = &tracer->trace->records[tracer->trace_next % INF_TRACE_RECORDS];
	const uint64_t *from = (const uint64_t *)(const void *)record;
	uint64_t *to = (uint64_t *)(void *)slot;

	inf_store64(&slot->seq, 0);
	/* Release fence: who reads a word of the new record sees that the old one is gone. */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	for (size_t i = 0; i < offsetof(struct inf_trace_record, seq) / sizeof(*to); i++)
		inf_store64(&to[i], from[i]);
	inf_store64_release(&slot->seq, ++tracer->trace_next);
	inf_store64_release(&tracer->trace->next.v, tracer->trace_next);
}

static bool sees(const struct session *tracer, uid_t uid)
{
	return tracer->trace->uid == UINT32_MAX || tracer->trace->uid == uid;
}

bool trace_is_wanted(const struct broker *broker, uid_t uid)
{
	const struct session *tracer = broker->tracers;

	while (tracer && !sees(tracer, uid))
		tracer = tracer->next_tracer;
	return tracer;
}

static void put_all(struct broker *broker, const struct inf_trace_record *record)
{
	for (struct session *tracer = broker->tracers; tracer; tracer = tracer->next_tracer)
		if (sees(tracer, record->uid))
			put(tracer, record);
}

static struct inf_trace_record record_of(const struct broker *broker, const struct lane *lane, uint64_t pos, uint32_t stamp,
					 uint64_t accepted_ns)
{
	return (struct inf_trace_record){
		.pos = pos,
		.session = lane->session->id,
		.pid = (uint32_t)lane->session->pid,
		.uid = lane->session->uid,
		.lane = (uint16_t)lane->idx,
		.model = INF_TRACE_NONE,
		.instance = INF_TRACE_NONE,
		.submitted_ns = inf_stamp_ns(stamp, accepted_ns),
		.accepted_ns = accepted_ns,
		.answered_ns = broker->now_ns,
	};
}

void trace_job(struct broker *broker, const struct job *job, enum inf_status status)
{
	struct inf_trace_record record;

	if (!trace_is_wanted(broker, job->session->uid))
		return;
	record = record_of(broker, job->lane, job->pos, job->stamp, job->accepted_ns);
	record.tag = job->tag;
	record.rows = job->rows;
	record.status = (uint16_t)status;
	record.model = (uint16_t)job->handle->model->id;
	record.deadline_ns = job->deadline_ns;
	record.dispatched_ns = job->dispatched_ns;
	if (job->dispatched_ns && job->rows_ended == job->rows) {
		record.instance = (uint16_t)job->instance;
		record.batch = job->batch;
		record.batch_rows = job->batch_rows;
		record.batch_parts = job->batch_parts;
		record.begun_ns = job->begun_ns;
		record.ended_ns = job->begun_ns + job->work_ns;
	}
	put_all(broker, &record);
}

void trace_answer(struct broker *broker, const struct lane *lane, const struct intake_result *result)
{
	struct inf_trace_record record;

	if (!trace_is_wanted(broker, lane->session->uid))
		return;
	/* Its position is the last one that was taken. */
	record = record_of(broker, lane, lane->sq.head - 1, result->stamp, broker->now_ns);
	record.tag = result->tag;
	record.rows = result->rows;
	record.status = (uint16_t)result->status;
	if (result->model < MODELS_MAX)
		record.model = result->model;
	put_all(broker, &record);
}

/* --- cold ------------------------------------------------------------------------------------------------- */

/* A user who traces what is his own costs nobody else anything. */
static void tell_clients(struct broker *broker)
{
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		struct session *session = broker->sessions[i];

		if (session && session->state == SESSION_READY)
			inf_store32(&session->response->head.must_stamp.v, trace_is_wanted(broker, session->uid));
	}
}

/* Each one is looked at for each request, of all users. */
static int check_room(const struct broker *broker, uid_t uid)
{
	uint32_t n = 0, n_own = 0;

	for (const struct session *tracer = broker->tracers; tracer; tracer = tracer->next_tracer) {
		n++;
		n_own += tracer->uid == uid;
	}
	return n < TRACERS_MAX && n_own < USER_TRACERS_MAX ? 0 : -EBUSY;
}

int trace_begin(struct broker *broker, struct session *session, bool all)
{
	void *map = NULL;
	int fd, r = check_room(broker, session->uid);

	if (r == 0)
		r = user_charge_bytes(session->user, broker->config, sizeof(struct inf_trace_region));
	if (r < 0)
		return r;
	fd = inf_region_create("infbroker-trace", sizeof(struct inf_trace_region));
	r = fd < 0 ? fd : inf_region_map(fd, sizeof(struct inf_trace_region), true, 0, &map);
	if (r == 0)
		r = inf_region_populate(map, sizeof(struct inf_trace_region), true);
	if (r == 0)
		r = inf_region_close_writes(fd);
	if (r < 0) {
		inf_region_unmap(map, sizeof(struct inf_trace_region), 0);
		if (fd >= 0)
			close(fd);
		user_discharge_bytes(session->user, sizeof(struct inf_trace_region));
		return r;
	}
	session->trace = map;
	session->trace->version = INF_TRACE_VERSION;
	session->trace->n_records = INF_TRACE_RECORDS;
	session->trace->uid = all ? UINT32_MAX : session->uid;
	session->trace->start_ns = clock_ns();
	inf_store64_release(&session->trace->magic, INF_TRACE_MAGIC);
	session->next_tracer = broker->tracers;
	broker->tracers = session;
	tell_clients(broker);
	return fd;
}

void trace_end(struct broker *broker, struct session *session)
{
	struct session **link = &broker->tracers;

	if (!session->trace)
		return;
	while (*link && *link != session)
		link = &(*link)->next_tracer;
	if (*link)
		*link = session->next_tracer;
	inf_region_unmap(session->trace, sizeof(*session->trace), 0);
	session->trace = NULL;
	user_discharge_bytes(session->user, sizeof(struct inf_trace_region));
	tell_clients(broker);
}
