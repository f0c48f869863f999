/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pipeline.c - the way of a request through the front, from slot to slot. Hot file.
 *
 *	submission slot ─ accept() ─► job in its model's queue ─ dispatch() ─► batch in a dispatch region
 *	completion slot ◄─ wake_clients() ◄─ finish() ◄─ collect() ◄─ done region
 *
 * One turn does all of that once for everything that is there, without a system call where nobody sleeps. When turns find
 * nothing, the front spins for about the cost of a wake-up (pausing while nothing is dispatched, yielding once something
 * is, never for a batch that is predicted to take longer), then parks.
 *
 * Park: arm every active lane and instance; seq_cst fence; look again at all of them; sleep only if all are empty. The
 * wait has no timeout. This file is the one that knows all stages; they do not know each other.
 */
#include "broker/pipeline.h"
#include "broker/clock.h"
#include "broker/collect.h"
#include "broker/completion.h"
#include "broker/config.h"
#include "broker/dispatch.h"
#include "broker/intake.h"
#include "broker/lanes.h"
#include "broker/log.h"
#include "broker/loop.h"
#include "broker/output.h"
#include "broker/policy/batch.h"
#include "broker/policy/timing.h"
#include "broker/recovery.h"
#include "broker/robust.h"
#include "broker/session.h"
#include "broker/stats.h"
#include "broker/supervisor.h"
#include "broker/timeline.h"
#include "broker/twins.h"
#include "broker/wake.h"
#include "broker/watchdog.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#define BURST_PASSES 4u
#define LANE_BURST 64u	      /* submissions of one lane per turn: nobody monopolises a turn */
#define TURNS_PER_RETIRE 256u /* busy turns between two looks for idle lanes */
#define STATS_EVERY_NS 100000000u
#define LEARN_PER_RELAX 256u
#define LOOKS_PER_TURN 8u

/* --- in: submission slots -> queues ---------------------------------------------------------------- */

static void enqueue(struct job *job)
{
	queue_push(&job->handle->model->queue, &job->handle->clients[job->class], &job->item);
	stats_model_hot(job->handle->model);
}

/* Takes what a lane has, up to a burst. Returns how many. */
static uint32_t accept_lane(struct broker *broker, struct lane *lane)
{
	struct session *session = lane->session;
	struct intake_result result;
	uint32_t n = 0;

	for (; n < LANE_BURST; n++) {
		switch (intake_next(broker, lane, &result)) {
		case INTAKE_NONE:
			goto out;
		case INTAKE_JOB:
			if (timeline_is_ready(result.job))
				enqueue(result.job);
			else
				timeline_wait(broker, result.job);
			break;
		case INTAKE_ANSWER:
			timeline_answer(session, result.timeline);
			completion_answer(broker, lane, &result);
			break;
		case INTAKE_END:
			session_end(broker, session, inf_verdict_text(result.verdict));
			return n + 1;
		}
	}
out:
	if (n) {
		stats_session_hot(session);
		stats_lane_hot(lane);
		lane->worked_ns = broker->now_ns;
		intake_credit(lane);
	}
	return n;
}

static uint32_t accept(struct broker *broker)
{
	uint32_t n = 0;

	/* Backwards: a session that ends takes its lanes off the list while we walk. */
	for (uint32_t i = broker->n_active; i-- > 0;)
		if (i < broker->n_active)
			n += accept_lane(broker, broker->active[i]);
	return n;
}

/* Requests that have waited for their inputs, which are there now, or never came. */
static uint32_t accept_committed(struct broker *broker)
{
	uint32_t n = 0, n_seen = 0;
	enum timeline_turn turn;
	struct job *job;

	for (; (turn = timeline_next(broker, &n_seen, &job)); n++)
		if (turn == TIMELINE_READY)
			enqueue(job);
		else
			recovery_end_job(broker, job, INF_DEADLINE);
	return n;
}

/* --- through: queues -> batches --------------------------------------------------------------------- */

/* May this part run? Ends its job otherwise. */
static bool admit(struct broker *broker, struct job *job)
{
	if (!recovery_may_end(job))
		return true;
	if (recovery_is_cancelled(job)) {
		recovery_end_job(broker, job, INF_CANCELLED);
		return false;
	}
	if (job->deadline_ns && broker->now_ns >= job->deadline_ns) {
		recovery_end_job(broker, job, INF_DEADLINE);
		return false;
	}
	if (!twins_are_there(broker, job)) {
		recovery_end_job(broker, job, INF_EXECUTOR_LOST);
		return false;
	}
	return true;
}

/* Forms one batch of `model` out of `queue` for `instance`. Returns false where nothing could be taken. */
static bool form_batch(struct broker *broker, struct instance *instance, struct model *model, struct queue *queue,
		       uint32_t rows_max, uint32_t n_parts_max)
{
	struct batch_part taken[PARTS_MAX], parts[PARTS_MAX];
	bool split = model->signature.flags & INF_SIG_BATCHABLE;
	uint32_t n_taken = batch_take(queue, rows_max, split, taken, n_parts_max);
	uint32_t n = 0, n_in;

	for (uint32_t i = 0; i < n_taken; i++)
		if (admit(broker, (struct job *)taken[i].item))
			parts[n++] = taken[i];
	if (!n)
		return n_taken > 0;
	n_in = dispatch_batch(broker, instance, model, parts, n);
	while (n > n_in) {
		struct job *job = (struct job *)parts[--n].item;
		bool suspect = queue == &broker->suspects;

		batch_untake(queue, suspect ? &broker->suspect_client : &job->handle->clients[job->class], &parts[n]);
	}
	stats_model_hot(model);
	return true;
}

/* A request that was in a dying batch runs with nothing beside it, so that the blame is its own. */
static void dispatch_suspect(struct broker *broker)
{
	bool full;
	struct instance *instance = dispatch_free_instance(broker, &full);
	struct job *job = (struct job *)broker->suspects.turns[0]->head;
	struct model *model = job->handle->model;

	if (!instance || !model->loaded)
		return;
	form_batch(broker, instance, model, &broker->suspects, model->signature.batch_max, 1);
	broker->suspect_running = broker->n_running > 0;
}

static void dispatch(struct broker *broker)
{
	struct instance *instance;
	struct model *model;
	bool full;

	if (!broker->n_jobs)
		return;
	if (broker->suspect_running || !queue_is_empty(&broker->suspects)) {
		if (!broker->n_running && !queue_is_empty(&broker->suspects))
			dispatch_suspect(broker);
		return;
	}
	while ((instance = dispatch_free_instance(broker, &full)) && (model = dispatch_pick_model(broker, full)))
		if (!form_batch(broker, instance, model, &model->queue,
				dispatch_rows(broker, model, full), PARTS_MAX))
			return;
}

/* --- out: done regions -> completions ----------------------------------------------------------------- */

static void learn(struct broker *broker, struct model *model, uint32_t rows, uint64_t took_ns)
{
	if (STATS_COUNTED) {
		model->stats->n_batches++;
		model->stats->n_rows += rows;
		inf_histogram_add(&model->stats->batch, took_ns);
	}
	broker->executor.n_deaths_in_row = 0;
	timing_learn(model->time_ns, rows, took_ns);
	timing_history_add(&model->history, rows, took_ns);
	if (++model->n_learned % LEARN_PER_RELAX == 0) {
		timing_relax(model->time_ns, model->base_ns);
		model->batch_best =
			timing_history_best(&model->history, model->base_ns, model->signature.batch_max);
	}
}

/* One part of a job has ended; the last part ends the job. */
static void finish(struct broker *broker, const struct instance *instance, const struct batch *batch,
		   const struct batch_part *part, const struct collect_result *result)
{
	struct job *job = (struct job *)part->item;
	enum inf_status status = (enum inf_status)result->status[part - batch->parts];

	/* All of the part that ended last: one that was dispatched later may have ended before. */
	job->dispatched_ns = batch->dispatched_ns;
	job->begun_ns = result->begun_ns;
	job->work_ns = result->ended_ns - result->begun_ns;
	job->instance = instance->idx;
	job->batch = instance->head - 1;
	job->batch_rows = (uint16_t)batch->n_rows;
	job->batch_parts = (uint16_t)batch->n_parts;
	job->rows_running -= part->rows;
	job->rows_ended += part->rows;
	if (status != INF_OK)
		job->status = (uint16_t)status;
	if (job->lane && job->rows_ended == job->rows)
		completion_post(broker, job, (enum inf_status)job->status);
	if (!job->lane && !job->rows_running && !job->item.client) {
		struct session *session = job->session;

		timeline_repeat(job);
		intake_free_job(broker, job);
		if (session->state == SESSION_ZOMBIE && !session->n_jobs)
			session_settle(broker, session);
	}
}

static uint32_t collect_instance(struct broker *broker, struct instance *instance)
{
	struct collect_result result;
	uint32_t n = 0;

	for (;; n++) {
		struct batch *batch = &instance->batches[instance->head % INF_BATCHES];

		switch (collect_next(broker, instance, &result)) {
		case COLLECT_NONE:
			return n;
		case COLLECT_GARBAGE:
			supervisor_kill(broker, "its done region holds garbage");
			return n;
		case COLLECT_DONE:
			break;
		}
		instance->head++;
		instance->ended_ns = broker->now_ns;
		broker->n_running--;
		broker->suspect_running = false;
		batch->model->rows_running -= batch->n_rows;
		stats_model_hot(batch->model);
		learn(broker, batch->model, batch->n_rows, result.work_ns);
		stats_instance_ended(broker, instance, batch->n_rows, result.ended_ns - result.begun_ns);
		for (uint32_t i = 0; i < batch->n_parts; i++)
			finish(broker, instance, batch, &batch->parts[i], &result);
		completion_count(broker);
	}
}

static uint32_t collect(struct broker *broker)
{
	uint32_t n = 0;

	if (!broker->n_running)
		return 0;
	for (uint32_t i = 0; i < broker->executor.n_instances; i++)
		if (broker->executor.instances[i].ready)
			n += collect_instance(broker, &broker->executor.instances[i]);
	return n;
}

/* --- turn, spin, park ------------------------------------------------------------------------------------ */

static bool done_have_work(const struct broker *broker)
{
	for (uint32_t i = 0; broker->n_running && i < broker->executor.n_instances; i++)
		if (broker->executor.instances[i].ready && collect_has_work(&broker->executor.instances[i]))
			return true;
	return false;
}

static uint32_t turn(struct broker *broker)
{
	uint32_t n = collect(broker), n_accepted = accept(broker);

	n += n_accepted;
	/* A client publishes a burst slot by slot: a batch of its first ones would keep the rest waiting. */
	for (uint32_t i = 0; n_accepted > 1 && i < BURST_PASSES; i++)
		n_accepted = accept(broker);
	if (!queue_is_empty(&broker->uncommitted))
		n += accept_committed(broker);
	dispatch(broker);
	wake_clients(broker);
	return n;
}

static void arm_instances(struct broker *broker)
{
	for (uint32_t i = 0; i < broker->executor.n_instances; i++) {
		struct instance *instance = &broker->executor.instances[i];

		if (instance->ready)
			inf_store64(&instance->dispatch->done_wake.v, instance->head);
	}
}

/* The files, brought up to date where requests alone do not keep them so. */
static void refresh(struct broker *broker)
{
	uint64_t news = loop_news(broker->loop);

	if (news == broker->news_refreshed && broker->now_ns - broker->refreshed_ns < STATS_EVERY_NS)
		return;
	broker->news_refreshed = news;
	broker->refreshed_ns = broker->now_ns;
	stats_refresh(broker);
	log_flush();
}

static int park(struct broker *broker)
{
	lanes_arm(broker);
	arm_instances(broker);
	/* sq_wake and done_wake before our last look; pairs with the fences of clients and executors who publish. */
	inf_fence(INF_FENCE_FRONT_PARK);
	if (lanes_have_work(broker) || done_have_work(broker))
		return 0;
	lanes_drop_idle(broker);
	refresh(broker);
	stats_jobs_hot(broker);
	timeline_arm(broker);
	watchdog_arm(broker);
	broker->stats->n_parks++;

	int r = loop_wait(broker->loop);

	return r < 0 ? r : 0;
}

/* Is every running batch one that takes longer than a park and a wake, be it nearly done? Unknown counts as long. Beside a
 * thread that computes a yield may last until the end of its time slice (4 ms); a wake-up preempts it at once. */
static bool only_long_batches(const struct broker *broker, uint64_t budget_ns)
{
	for (uint32_t i = 0; i < broker->executor.n_instances; i++) {
		const struct instance *instance = &broker->executor.instances[i];
		const struct batch *batch = &instance->batches[instance->head % INF_BATCHES];

		if (instance->head == instance->tail)
			continue;
		if (batch->predicted_ns && batch->predicted_ns <= budget_ns)
			return false;
	}
	return true;
}

static void yield(struct broker *broker)
{
	uint64_t before_ns = broker->now_ns;

	sched_yield();
	broker->now_ns = clock_ns();
	if (broker->now_ns - before_ns > INF_YIELD_LOST_NS)
		broker->no_spin_until_ns = broker->now_ns + INF_NO_SPIN_NS;
}

/* Nothing was found: wait a little, or sleep. *ret_fresh: something is there now, and now_ns is good for it. */
static int rest(struct broker *broker, uint64_t idle_ns, uint64_t budget_ns, bool *ret_fresh)
{
	*ret_fresh = false;
	if (idle_ns >= budget_ns || broker->now_ns < broker->no_spin_until_ns ||
	    (broker->n_running && only_long_batches(broker, budget_ns)))
		return park(broker);
	if (broker->n_running || broker->one_cpu) {
		yield(broker); /* the executor may share our core */
		*ret_fresh = true;
		return 0;
	}
	/* The clock, and what else a turn looks at, costs as much as several looks at the lanes. */
	for (uint32_t i = 0; i < LOOKS_PER_TURN; i++) {
		/* now_ns is some looks old, 0.2 us at most: not worth another clock before the answer. */
		*ret_fresh = lanes_have_work(broker);
		if (*ret_fresh)
			break;
		inf_pause();
	}
	return 0;
}

/* What needs doing now and then while the front is too busy to park. */
static void housekeep(struct broker *broker)
{
	lanes_retire(broker);
	watchdog_arm(broker);
	stats_jobs_hot(broker);
	refresh(broker);
}

int pipeline_run(struct broker *broker)
{
	uint64_t budget_ns = broker->config->spin_ns >= 0 ? (uint64_t)broker->config->spin_ns : broker->spin_ns;
	uint64_t idle_since_ns = 0;
	bool is_fresh = false;
	uint32_t turns = 0;
	int r = 0;

	broker->now_ns = clock_ns();
	while (!broker->stop && r >= 0) {
		if (loop_pending(broker->loop))
			r = loop_poll(broker->loop);
		if (!is_fresh)
			broker->now_ns = clock_ns();
		is_fresh = false;
		/* Who does not spin parks at once: parking looks again. */
		if (turn(broker) && budget_ns)
			idle_since_ns = 0;
		else if (!idle_since_ns)
			idle_since_ns = broker->now_ns;
		session_reap(broker);
		if (broker->draining && !broker->n_jobs)
			break;
		if (++turns % TURNS_PER_RETIRE == 0)
			housekeep(broker);
		if (r >= 0 && idle_since_ns)
			r = rest(broker, broker->now_ns - idle_since_ns, budget_ns, &is_fresh);
	}
	return r < 0 ? r : 0;
}

/* --- events -------------------------------------------------------------------------------------------------- */

/* Lanes beyond the known number are taken into use. Returns false where the count is a lie. */
static bool learn_lanes(struct broker *broker, struct session *session)
{
	/* Acquire: pairs with the client's release; what it prepared in the lane is visible. */
	uint32_t n_lanes = inf_load32_acquire(&session->request->head.n_lanes.v);
	enum inf_verdict verdict = inf_check_lanes(n_lanes, session->n_lanes);

	if (verdict) {
		session_end(broker, session, inf_verdict_text(verdict));
		return false;
	}
	for (uint32_t i = session->n_lanes; i < n_lanes; i++)
		robust_lane_add(broker, session, i);
	session->n_lanes = n_lanes;
	return true;
}

void pipeline_bell(struct broker *broker, struct session *session)
{
	if (session->state != SESSION_READY || !learn_lanes(broker, session))
		return;
	for (uint32_t i = 0; i < session->n_lanes; i++)
		lanes_activate(broker, &session->lanes[i]);

	uint32_t n_cancels = inf_load32_acquire(&session->request->head.n_cancels.v);

	if (n_cancels == session->n_cancels)
		return;
	session->n_cancels = n_cancels;
	/* What is cancelled may still be in its slot: take it first. */
	for (uint32_t i = 0; i < session->n_lanes && session->state == SESSION_READY; i++)
		accept_lane(broker, &session->lanes[i]);
	if (session->state == SESSION_READY)
		recovery_cancel(broker, session);
}

void pipeline_session_begin(struct broker *broker, struct session *session)
{
	(void)broker;
	output_session_init(session);
	for (uint32_t i = 0; i < INF_LANES; i++) {
		struct lane *lane = &session->lanes[i];

		lane->session = session;
		lane->idx = i;
		lane->stats = &session->stats->lanes[i];
		lane->session_id = session->id;
		lane->pid = session->pid;
		lane->event_fd = -1;
		lane->cq_head = session->start;
		inf_sq_reader_init(&lane->sq, &session->request->lanes[i], session->start);
		inf_cq_writer_init(&lane->cq, &session->response->lanes[i], session->start);
		/* IDLE: the very first submission rings. */
		inf_store64(&session->response->lanes[i].sq_head.v, session->start);
		inf_store64(&session->response->lanes[i].sq_wake.v, session->start);
		inf_store32(&session->response->lanes[i].cq_word.v, (uint32_t)session->start);
	}
}

void pipeline_session_end(struct broker *broker, struct session *session)
{
	for (uint32_t i = 0; i < INF_LANES; i++)
		lanes_forget(broker, &session->lanes[i]);
	recovery_drop_session(broker, session);
}

void pipeline_executor_died(struct broker *broker)
{
	broker->now_ns = clock_ns();
	for (uint32_t i = 0; i < broker->executor.n_instances; i++) {
		struct instance *instance = &broker->executor.instances[i];

		if (instance->ready && collect_has_work(instance))
			collect_instance(broker, instance);
	}
	recovery_executor_died(broker);
	wake_clients(broker);
}

void pipeline_executor_unavailable(struct broker *broker)
{
	recovery_no_executor(broker);
}

void pipeline_model_gone(struct broker *broker, struct model *model, enum inf_status status)
{
	recovery_drop_model(broker, model, status);
}

/* --- memory ----------------------------------------------------------------------------------------------------- */

int pipeline_init(struct broker *broker)
{
	uint64_t n_lanes = broker->config->sessions_max * INF_LANES;
	int r;

	broker->sessions = calloc(broker->config->sessions_max, sizeof(*broker->sessions));
	broker->active = calloc(n_lanes, sizeof(*broker->active));
	broker->dirty = calloc(n_lanes, sizeof(*broker->dirty));
	broker->jobs = aligned_alloc(alignof(struct job), JOBS_MAX * sizeof(*broker->jobs));
	broker->ext_blocks = calloc(EXT_BLOCKS_MAX, sizeof(*broker->ext_blocks));
	broker->free_ext = calloc(EXT_BLOCKS_MAX, sizeof(*broker->free_ext));
	if (!broker->sessions || !broker->active || !broker->dirty || !broker->jobs || !broker->ext_blocks ||
	    !broker->free_ext) {
		pipeline_deinit(broker);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < JOBS_MAX; i++) {
		broker->jobs[i].next = broker->free_jobs;
		broker->free_jobs = &broker->jobs[i];
	}
	for (uint32_t i = 0; i < EXT_BLOCKS_MAX; i++)
		broker->free_ext[broker->n_free_ext++] = (uint16_t)i;
	r = watchdog_prepare(broker);
	if (r < 0)
		pipeline_deinit(broker);
	return r;
}

void pipeline_deinit(struct broker *broker)
{
	timeline_deinit(broker);
	watchdog_deinit(broker);
	free(broker->sessions);
	free(broker->active);
	free(broker->dirty);
	free(broker->jobs);
	free(broker->ext_blocks);
	free(broker->free_ext);
	broker->sessions = NULL;
	broker->active = broker->dirty = NULL;
	broker->jobs = broker->free_jobs = NULL;
	broker->ext_blocks = NULL;
	broker->free_ext = NULL;
}
