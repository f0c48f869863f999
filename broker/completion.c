/* SPDX-License-Identifier: Apache-2.0 */
/*
 * completion.c - from an end to a completion slot. Hot file.
 *
 * A lane that got something is marked: wake.c sees to its clients once per turn.
 */
#include "broker/completion.h"
#include "broker/intake.h"
#include "broker/output.h"
#include "broker/timeline.h"
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
	broker->stats->n_status[body->status]++;
	lane->session->stats->n_requests++;
	if (body->status != INF_OK)
		lane->session->stats->n_errors++;
}

static uint32_t to_us(uint64_t ns)
{
	return ns / 1000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 1000);
}

static void account(struct broker *broker, const struct job *job)
{
	struct inf_stats_model *stats = job->handle->model->stats;

	stats->n_requests++;
	if (!job->dispatched_ns)
		return;
	inf_histogram_add(&stats->queue, job->dispatched_ns - job->accepted_ns);
	inf_histogram_add(&stats->run, broker->now_ns - job->dispatched_ns);
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

	INF_PROBE3(complete, job->session->id, job->pos, status);
	account(broker, job);
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

void completion_answer(struct broker *broker, struct lane *lane, uint64_t tag, uint32_t rows, enum inf_status status,
		       uint32_t retry_after_us)
{
	struct inf_completion body = {
		.tag = tag,
		.status = (uint16_t)status,
		.rows = rows,
		.retry_after_us = retry_after_us,
	};

	push(broker, lane, &body);
}
