/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intake.c - from a submission slot to a job. Hot file: no allocation, no lock, no log, no system call.
 *
 * The slot is copied once and never looked at again; shm/check.c judges the copy; whatever the answer will need is
 * reserved here (a job, an output block, room for extension tensors), so that nothing can fail for lack of room later.
 * A completion slot is always there: in flight + unread completions of a lane never exceed its slots.
 */
#include "broker/intake.h"
#include "broker/config.h"
#include "broker/output.h"
#include "broker/timeline.h"
#include "shm/check.h"
#include "shm/probes.h"
#include "shm/signature.h"

#define RETRY_AFTER_US 1000u /* a guess: some batches of a small model */

bool intake_has_work(const struct lane *lane)
{
	return inf_sq_peek(&lane->sq) != INF_PEEK_EMPTY;
}

void intake_credit(struct lane *lane)
{
	/* Release: the client may refill the slots that we have copied. */
	inf_store64_release(&lane->session->response->lanes[lane->idx].sq_head.v, lane->sq.head);
}

/* Is there a completion slot for one more? Reads the client's head only when our copy of it says no. */
static enum inf_verdict check_credit(struct lane *lane)
{
	if (lane->in_flight + (lane->cq.tail - lane->cq_head) < INF_SLOTS)
		return INF_VERDICT_OK;

	/* Acquire: pairs with inf_cq_done(), the client has read the slots that we shall reuse. */
	uint64_t head = inf_load64_acquire(&lane->session->request->lanes[lane->idx].cq_head.v);
	enum inf_verdict verdict = inf_check_cq_head(head, lane->cq_head, lane->cq.tail);

	if (verdict)
		return verdict;
	lane->cq_head = head;
	return lane->in_flight + (lane->cq.tail - head) < INF_SLOTS ? INF_VERDICT_OK : INF_VERDICT_CREDITS;
}

static void link_job(struct lane *lane, struct job *job)
{
	job->lane = lane;
	job->session_id = lane->session_id;
	job->pid = lane->pid;
	job->lane_idx = (uint16_t)lane->idx;
	job->prev = NULL;
	job->next = lane->jobs;
	if (lane->jobs)
		lane->jobs->prev = job;
	lane->jobs = job;
	lane->in_flight++;
}

void intake_unlink_job(struct job *job)
{
	struct lane *lane = job->lane;

	if (!lane)
		return;
	if (job->prev)
		job->prev->next = job->next;
	else
		lane->jobs = job->next;
	if (job->next)
		job->next->prev = job->prev;
	lane->in_flight--;
	job->lane = NULL;
}

void intake_free_job(struct broker *broker, struct job *job)
{
	intake_unlink_job(job);
	if (job->out_idx != INF_OUTPUTS)
		output_cancel(job->session, job->out_idx);
	if (job->ext >= 0)
		broker->free_ext[broker->n_free_ext++] = (uint16_t)job->ext;
	job->session->n_jobs--;
	job->next = broker->free_jobs;
	broker->free_jobs = job;
	broker->n_jobs--;
}

static struct job *take_job(struct broker *broker, const struct inf_submission *sub, struct handle *handle)
{
	struct job *job = broker->free_jobs;

	if (!job || broker->n_jobs >= broker->config->jobs_max)
		return NULL;
	broker->free_jobs = job->next;
	broker->n_jobs++;
	handle->session->n_jobs++;
	*job = (struct job){
		.item.rows = sub->rows,
		.session = handle->session,
		.handle = handle,
		.pos = sub->seq - 1,
		.tag = sub->tag,
		.stamp = sub->stamp,
		.accepted_ns = broker->now_ns,
		.deadline_ns = sub->deadline_ns,
		.in_offset = sub->offset,
		.in_region = sub->region,
		.twin_flags = sub->flags & ~INF_SUB_EXT,
		.rows = sub->rows,
		.class = sub->priority ? sub->priority - 1u : INF_PRIORITY_DEFAULT,
		.out_idx = INF_OUTPUTS,
		.ext = -1,
		.instance = INF_PROBE_NONE,
		.model_id = (uint16_t)handle->model->id,
	};
	return job;
}

/* The extension tensors, copied in once. inf_check_infer() has judged the memory of the block itself. */
static enum inf_verdict copy_ext(struct broker *broker, struct session *session, struct job *job,
				 const struct inf_submission *sub)
{
	const struct handle *handle = job->handle;
	struct ext_block *block = &broker->ext_blocks[job->ext];
	uint32_t n_inputs = handle->check.signature->n_inputs;
	const uint8_t *map = NULL;

	for (uint32_t i = 0; i < session->n_check_regions; i++)
		if (session->check_regions[i].id == sub->region)
			map = session->request_maps[i];
	if (!map)
		return INF_VERDICT_REGION;
	inf_copy_in((uint64_t *)(void *)block->tensors, (const uint64_t *)(const void *)(map + sub->offset),
		    n_inputs * (uint32_t)sizeof(struct inf_ext_tensor) / 8);
	return inf_check_ext(block->tensors, n_inputs, sub, &handle->check, session->check_regions,
			     session->n_check_regions);
}

/* What the broker itself may say no to, before any memory is looked at. */
static enum inf_status admission(const struct broker *broker, const struct handle *handle)
{
	if (broker->draining || broker->paused)
		return INF_BUSY;
	if (handle->model->superseded || handle->hash != handle->model->signature.hash)
		return INF_NO_MODEL;
	if (handle->model->state == INF_MODEL_LOADING)
		return INF_LOADING;
	if (handle->model->state != INF_MODEL_READY)
		return INF_NO_MODEL;
	return broker->executor.state == EXECUTOR_FAILED ? INF_EXECUTOR_LOST : INF_OK;
}

static enum intake refuse(struct intake_result *ret, enum inf_verdict verdict)
{
	int effect = inf_verdict_effect(verdict);

	ret->verdict = verdict;
	if (effect == INF_SESSION_END)
		return INTAKE_END;
	ret->status = (enum inf_status)effect;
	return INTAKE_ANSWER;
}

static enum intake answer(struct intake_result *ret, enum inf_status status)
{
	ret->status = status;
	ret->retry_after_us = status == INF_BUSY || status == INF_LOADING ? RETRY_AFTER_US : 0;
	return INTAKE_ANSWER;
}

static enum intake infer(struct broker *broker, struct lane *lane, const struct inf_submission *sub,
			 struct intake_result *ret)
{
	struct session *session = lane->session;
	struct handle *handle = sub->model < HANDLES_MAX ? &session->handles[sub->model] : NULL;

	if (sub->mem_kind == INF_MEM_DEVICE && !session->timeline)
		return refuse(ret, INF_VERDICT_MEM_KIND);
	ret->timeline = sub->timeline;
	if (!handle || !handle->model || !handle->check.signature)
		return refuse(ret, INF_VERDICT_MODEL);
	ret->model = (uint16_t)handle->model->id;

	enum inf_verdict verdict =
		inf_check_infer(sub, &handle->check, session->check_regions, session->n_check_regions);

	if (verdict)
		return refuse(ret, verdict);

	enum inf_status status = admission(broker, handle);

	if (status != INF_OK)
		return answer(ret, status);

	struct job *job = take_job(broker, sub, handle);

	if (!job)
		return answer(ret, INF_BUSY);
	if (sub->flags & INF_SUB_EXT) {
		if (!broker->n_free_ext) {
			intake_free_job(broker, job);
			return answer(ret, INF_BUSY);
		}
		job->ext = broker->free_ext[--broker->n_free_ext];
		verdict = copy_ext(broker, session, job, sub);
		if (verdict) {
			intake_free_job(broker, job);
			return refuse(ret, verdict);
		}
	}
	if (!handle->pool || !output_reserve(session, handle->pool, sub->rows, &job->out_idx)) {
		job->out_idx = INF_OUTPUTS;
		intake_free_job(broker, job);
		return answer(ret, INF_QUOTA);
	}
	timeline_read(job, sub->timeline);
	job->weight = !lane->in_flight ? 1 : job->pos % INF_STAMP_EVERY ? 0 : INF_STAMP_EVERY;
	link_job(lane, job);
	ret->job = job;
	return INTAKE_JOB;
}

enum intake intake_next(struct broker *broker, struct lane *lane, struct intake_result *ret)
{
	struct inf_submission sub;
	enum inf_verdict verdict;

	switch (inf_sq_peek(&lane->sq)) {
	case INF_PEEK_EMPTY:
		return INTAKE_NONE;
	case INF_PEEK_CORRUPT:
		return refuse(ret, INF_VERDICT_SEQ);
	case INF_PEEK_FULL:
		break;
	}
	verdict = check_credit(lane);
	if (verdict)
		return refuse(ret, verdict);
	inf_sq_take(&lane->sq, &sub);
	*ret = (struct intake_result){ .tag = sub.tag, .rows = sub.rows, .stamp = sub.stamp, .model = MODELS_MAX };
	verdict = inf_check_submission(&sub);
	if (verdict)
		return refuse(ret, verdict);
	if (sub.opcode == INF_OP_PING) {
		broker->stats->n_pings++;
		return answer(ret, INF_OK);
	}
	return infer(broker, lane, &sub, ret);
}
