/* SPDX-License-Identifier: Apache-2.0 */
/*
 * completion.c - from an end to a completion slot. Hot file.
 *
 * A lane that got something is marked: wake.c sees to its clients once per turn.
 */
#include "broker/completion.h"
#include "broker/intake.h"
#include "broker/output.h"
#include "broker/stats.h"
#include "broker/timeline.h"
#include "broker/trace.h"
#include "shm/probes.h"

static void mark_dirty(struct broker *broker, struct lane *lane)
{
	if (lane->dirty)
		return;
	lane->dirty = true;
	broker->dirty[broker->n_dirty++] = lane;
}

static void push(struct broker *broker, struct lane *lane, const struct inf_completion *body)
{
	inf_cq_push(&lane->cq, body);
	mark_dirty(broker, lane);
}

static void count_answers(struct broker *broker, struct inf_stats_session *stats, enum inf_status status, uint32_t n)
{
	if (!STATS_COUNTED)
		return;
	broker->stats->n_status[status] += n;
	stats->n_requests += n;
	if (status != INF_OK)
		stats->n_errors += n;
}

static uint32_t to_us(uint64_t ns)
{
	return ns / 1000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 1000);
}

/* In parts that add up to its time. Where the turn read its clock before the submission, RING is 0 (inf_stamp_ns()). */
static void add_stages(struct inf_histogram *stages, const struct job *job, uint64_t now_ns)
{
	uint64_t submitted_ns = inf_stamp_ns(job->stamp, job->accepted_ns);

	if (submitted_ns)
		inf_histogram_add_weighted(&stages[INF_STAGE_RING], job->accepted_ns - submitted_ns, job->weight);
	inf_histogram_add_weighted(&stages[INF_STAGE_QUEUE], job->dispatched_ns - job->accepted_ns, job->weight);
	/* One that ended early has its batch still before it. */
	if (job->rows_ended < job->rows)
		return;
	inf_histogram_add_weighted(&stages[INF_STAGE_WAIT], job->begun_ns - job->dispatched_ns, job->weight);
	inf_histogram_add_weighted(&stages[INF_STAGE_RUN], job->work_ns, job->weight);
	inf_histogram_add_weighted(&stages[INF_STAGE_POST], now_ns - job->begun_ns - job->work_ns, job->weight);
}

static void count_jobs(struct broker *broker, const struct handle *handle, enum inf_status status, uint32_t n)
{
	struct inf_stats_model *stats = handle->model->stats;

	count_answers(broker, handle->session->stats, status, n);
	stats->n_requests += n;
	if (status != INF_OK)
		stats->n_errors += n;
	stats_handle_hot(handle, n);
}

static void count_served(const struct handle *handle, uint64_t served_ns, uint32_t n)
{
	inf_histogram_add_weighted(&handle->model->stats->stages[INF_STAGE_SERVED], served_ns, n);
	inf_coarse_add_weighted(&handle->session->stats->served, served_ns, n);
}

void completion_count(struct broker *broker)
{
	struct tally *tally = &broker->tally;

	if (!tally->n)
		return;
	count_jobs(broker, tally->handle, INF_OK, tally->n);
	count_served(tally->handle, broker->now_ns - tally->accepted_ns, tally->n);
	tally->n = 0;
}

/* What one client sent in one turn, and gets its answers to in one, is counted at once. */
static void account(struct broker *broker, const struct job *job, enum inf_status status)
{
	struct tally *tally = &broker->tally;

	if (!STATS_COUNTED)
		return;
	if (job->weight && job->dispatched_ns)
		add_stages(job->handle->model->stats->stages, job, broker->now_ns);
	if (status != INF_OK) {
		count_jobs(broker, job->handle, status, 1);
		count_served(job->handle, broker->now_ns - job->accepted_ns, 1);
		return;
	}
	if (tally->handle != job->handle || tally->accepted_ns != job->accepted_ns) {
		completion_count(broker);
		tally->handle = job->handle;
		tally->accepted_ns = job->accepted_ns;
	}
	tally->n++;
}

void completion_post(struct broker *broker, struct job *job, enum inf_status status)
{
	struct lane *lane = job->lane;

	if (!lane)
		return;

	struct inf_completion body = {
		.tag = job->tag,
		.status = (uint16_t)status,
		.rows = job->rows,
	};

	INF_PROBE12(complete, job->session_id, job->pid, job->lane_idx, job->pos, job->accepted_ns, status, job->model_id,
		    job->instance, job->batch, job->work_ns, job->dispatched_ns, job->begun_ns);
	account(broker, job, status);
	if (broker->tracers)
		trace_job(broker, job, status);
	if (job->dispatched_ns) {
		body.queue_us = to_us(job->dispatched_ns - job->accepted_ns);
		body.run_us = to_us(broker->now_ns - job->dispatched_ns);
	}
	if (status == INF_OK) {
		const struct output *output = &job->session->outputs[job->out_idx];

		body.flags = INF_COMP_OUTPUT;
		body.region = output->pool->region;
		body.out_idx = job->out_idx;
		body.generation = output->generation;
		body.offset = output_offset(output);
		body.length = output_bytes(output);
		output_post(job->session, job->out_idx);
		job->out_idx = INF_OUTPUTS;
	} else if (job->executed) {
		body.flags = INF_COMP_MAYBE_EXECUTED;
	}
	intake_unlink_job(job);
	timeline_signal(job->session, job->timeline, job->done_at);
	push(broker, lane, &body);
}

void completion_answer(struct broker *broker, struct lane *lane, const struct intake_result *result)
{
	struct inf_completion body = {
		.tag = result->tag,
		.status = (uint16_t)result->status,
		.rows = result->rows,
		.retry_after_us = result->retry_after_us,
	};

	/* The one that was taken last. */
	INF_PROBE12(complete, lane->session_id, lane->pid, lane->idx, lane->sq.head - 1, broker->now_ns, result->status,
		    INF_PROBE_NONE, INF_PROBE_NONE, 0, 0, 0, 0);
	count_answers(broker, lane->session->stats, result->status, 1);
	if (broker->tracers)
		trace_answer(broker, lane, result);
	push(broker, lane, &body);
}
