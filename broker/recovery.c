/* SPDX-License-Identifier: Apache-2.0 */
/* recovery.c - see recovery.h. Called when something dies; only recovery_end_job() and the cancel check are hot. */
#include "broker/recovery.h"
#include "broker/wake.h"
#include "broker/collect.h"
#include "broker/completion.h"
#include "broker/config.h"
#include "broker/intake.h"
#include "broker/output.h"
#include "broker/session.h"
#include "broker/timeline.h"
#include "shm/probes.h"

static struct queue *queue_of(struct broker *broker, struct job *job)
{
	if (job->item.client == &broker->suspect_client)
		return &broker->suspects;
	if (job->item.client == &broker->uncommitted_client)
		return &broker->uncommitted;
	return &job->handle->model->queue;
}

void recovery_end_job(struct broker *broker, struct job *job, enum inf_status status)
{
	queue_remove(queue_of(broker, job), &job->item);
	job->instance = INF_PROBE_NONE; /* its last rows ran on none, be it that others did */
	completion_post(broker, job, status);
	if (!job->rows_running)
		intake_free_job(broker, job);
}

bool recovery_is_cancelled(const struct job *job)
{
	const struct lane *lane = job->lane;

	return lane && inf_load64(&lane->session->request->lanes[lane->idx].cancel[job->pos % INF_SLOTS]) == job->pos + 1;
}

/* Calls `visit` for every job in flight of a lane; it may free that job. */
static void each_job_of_lane(struct broker *broker, struct lane *lane, void (*visit)(struct broker *, struct job *))
{
	struct job *next;

	for (struct job *job = lane->jobs; job; job = next) {
		next = job->next;
		visit(broker, job);
	}
}

static void each_job(struct broker *broker, void (*visit)(struct broker *, struct job *))
{
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		struct session *session = broker->sessions[i];

		if (!session || session->state != SESSION_READY)
			continue;
		for (uint32_t k = 0; k < session->n_lanes; k++)
			each_job_of_lane(broker, &session->lanes[k], visit);
	}
}

bool recovery_may_end(const struct job *job)
{
	return !job->rows_running || !(job->twin_flags & INF_SUB_TWIN_OUT);
}

static void cancel_if_asked(struct broker *broker, struct job *job)
{
	if (recovery_is_cancelled(job) && recovery_may_end(job))
		recovery_end_job(broker, job, INF_CANCELLED);
}

void recovery_cancel(struct broker *broker, struct session *session)
{
	for (uint32_t k = 0; k < session->n_lanes; k++)
		each_job_of_lane(broker, &session->lanes[k], cancel_if_asked);
}

static void drop_job(struct broker *broker, struct job *job)
{
	queue_remove(queue_of(broker, job), &job->item);
	intake_unlink_job(job);
	if (!job->rows_running)
		intake_free_job(broker, job);
}

void recovery_drop_session(struct broker *broker, struct session *session)
{
	for (uint32_t k = 0; k < INF_LANES; k++)
		each_job_of_lane(broker, &session->lanes[k], drop_job);
}

/* --- death of the executor ---------------------------------------------------------------------- */

/* A batch that will not end: its jobs are not running any more. `started` = it is in the dying set. */
static void abandon_batch(struct broker *broker, struct batch *batch, bool started)
{
	for (uint32_t i = 0; i < batch->n_parts; i++) {
		struct job *job = (struct job *)batch->parts[i].item;

		job->rows_running -= batch->parts[i].rows;
		job->restart = true;
		if (!started)
			continue;
		job->poison = broker->suspect_running;
		job->alone = true;
	}
	batch->model->rows_running -= batch->n_rows;
	broker->n_running--;
}

/* Jobs whose client has left are in no lane's list: they are found through their batch. */
static void free_orphans(struct broker *broker, struct batch *batch)
{
	for (uint32_t i = 0; i < batch->n_parts; i++) {
		struct job *job = (struct job *)batch->parts[i].item;

		if (!job->restart || job->lane || job->rows_running)
			continue;
		struct session *session = job->session;

		job->restart = false;
		timeline_repeat(job);
		intake_free_job(broker, job);
		if (session->state == SESSION_ZOMBIE && !session->n_jobs)
			session_settle(broker, session);
	}
}

static void restart(struct broker *broker, struct job *job)
{
	if (!job->restart && !job->rows_ended)
		return;
	job->restart = false;
	if (job->poison) {
		recovery_end_job(broker, job, INF_POISON);
		return;
	}
	queue_remove(queue_of(broker, job), &job->item);
	job->item.first = 0;
	job->rows_ended = 0;
	job->status = INF_OK;
	if (job->alone)
		queue_push(&broker->suspects, &broker->suspect_client, &job->item);
	else
		queue_push_front(&job->handle->model->queue, &job->handle->clients[job->class], &job->item);
}

void recovery_executor_died(struct broker *broker)
{
	struct executor *executor = &broker->executor;

	/* What had ended is the pipeline's to collect; then the rest loses its rows, then every job is looked at. */
	for (uint32_t i = 0; i < executor->n_instances; i++) {
		struct instance *instance = &executor->instances[i];
		uint64_t started = instance->head != instance->tail ? collect_started(instance) : 0;

		for (uint64_t pos = instance->head; pos != instance->tail; pos++)
			abandon_batch(broker, &instance->batches[pos % INF_BATCHES], started > pos);
	}
	broker->suspect_running = false;
	for (uint32_t i = 0; i < executor->n_instances; i++) {
		struct instance *instance = &executor->instances[i];

		for (; instance->head != instance->tail; instance->head++)
			free_orphans(broker, &instance->batches[instance->head % INF_BATCHES]);
	}
	each_job(broker, restart);
}

static void lose(struct broker *broker, struct job *job)
{
	if (!job->rows_running)
		recovery_end_job(broker, job, INF_EXECUTOR_LOST);
}

void recovery_no_executor(struct broker *broker)
{
	each_job(broker, lose);
	wake_clients(broker);
}

/* --- new pools, new models ------------------------------------------------------------------------ */

void recovery_move_outputs(struct broker *broker, struct handle *handle)
{
	struct session *session = handle->session;

	for (uint32_t k = 0; k < session->n_lanes; k++) {
		struct job *next;

		for (struct job *job = session->lanes[k].jobs; job; job = next) {
			next = job->next;
			if (job->handle != handle || session->outputs[job->out_idx].pool == handle->pool)
				continue;
			/* The new pool is as large as the old one, which held all of them: this cannot fail. */
			if (!output_move(session, job->out_idx, handle->pool, job->rows))
				recovery_end_job(broker, job, INF_EXECUTOR_LOST);
		}
	}
}

void recovery_move_model(struct handle *handle, struct model *model)
{
	struct queue *from = &handle->model->queue;
	struct queue_client waiting[QUEUE_CLASSES] = { 0 };
	struct queue aside = { 0 }; /* keeps their order */
	struct queue_item *item;

	for (uint32_t i = 0; i < QUEUE_CLASSES; i++) {
		waiting[i].class = i;
		while ((item = handle->clients[i].head)) {
			queue_remove(from, item);
			queue_push(&aside, &waiting[i], item);
		}
	}
	handle->model = model;
	handle->check.signature = &model->signature;
	for (uint32_t i = 0; i < QUEUE_CLASSES; i++) {
		while ((item = waiting[i].head)) {
			queue_remove(&aside, item);
			queue_push(&model->queue, &handle->clients[i], item);
		}
	}
}

void recovery_drop_model(struct broker *broker, struct model *model, enum inf_status status)
{
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		struct session *session = broker->sessions[i];

		if (!session || session->state != SESSION_READY)
			continue;
		for (uint32_t k = 0; k < session->n_lanes; k++) {
			struct job *next;

			for (struct job *job = session->lanes[k].jobs; job; job = next) {
				next = job->next;
				if (job->handle->model == model && !job->rows_running)
					recovery_end_job(broker, job, status);
			}
		}
	}
	wake_clients(broker);
}
