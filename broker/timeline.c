/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timeline.c - see timeline.h. Hot file.
 *
 * A device rings no bell when it has written a word. While the front is busy it looks once per turn; before it sleeps it
 * sets a timer, the longer the longer nothing came: a request waits an eighth longer than it had to, and 5 ms at most.
 */
#include "broker/timeline.h"
#include "broker/config.h"
#include "shm/atomics.h"
#include <errno.h>

#define POLLS_PER_TURN 64u /* nobody monopolises a turn */
#define PAUSE_NS_MIN   50000u
#define PAUSE_NS_MAX   5000000u

static struct inf_timeline *entry_of(const struct session *session, uint32_t idx1)
{
	return &session->timeline[idx1 - 1];
}

void timeline_read(struct job *job, uint32_t idx1)
{
	const struct inf_timeline *entry;

	if (!idx1)
		return;
	entry = entry_of(job->session, idx1);
	job->timeline = (uint16_t)idx1;
	job->ready_at = inf_load64(&entry->ready_at);
	job->done_at = inf_load64(&entry->done_at);
}

bool timeline_is_ready(const struct job *job)
{
	/* Acquire: pairs with the system-wide fence that a stream's write implies. */
	return !job->timeline || (int64_t)(inf_load64_acquire(&entry_of(job->session, job->timeline)->ready) - job->ready_at) >= 0;
}

void timeline_wait(struct broker *broker, struct job *job)
{
	broker->timeline_pause_ns = PAUSE_NS_MIN;
	queue_push(&broker->uncommitted, &broker->uncommitted_client, &job->item);
}

static bool has_waited_enough(const struct broker *broker, const struct job *job)
{
	return (job->deadline_ns && broker->now_ns >= job->deadline_ns) ||
	       broker->now_ns - job->accepted_ns >= broker->config->commit_ms_max * 1000000u;
}

enum timeline_turn timeline_next(struct broker *broker, uint32_t *n_seen, struct job **ret_job)
{
	uint32_t n = broker->uncommitted.n_items < POLLS_PER_TURN ? (uint32_t)broker->uncommitted.n_items : POLLS_PER_TURN;

	/* Those that were looked at stand at the end. */
	for (; *n_seen < n; ++*n_seen) {
		struct job *job = (struct job *)broker->uncommitted_client.head;
		bool is_late = has_waited_enough(broker, job);

		queue_remove(&broker->uncommitted, &job->item);
		if (is_late || timeline_is_ready(job)) {
			broker->timeline_pause_ns = PAUSE_NS_MIN;
			*ret_job = job;
			return is_late ? TIMELINE_LATE : TIMELINE_READY;
		}
		queue_push(&broker->uncommitted, &broker->uncommitted_client, &job->item);
	}
	return TIMELINE_NOTHING;
}

static void on_timer(struct loop_source *source, void *context)
{
	(void)source, (void)context; /* the front is awake: it will look */
}

int timeline_prepare(struct broker *broker)
{
	broker->timeline_timer.on_event = on_timer;
	return loop_timer_open(broker->loop, &broker->timeline_timer);
}

void timeline_deinit(struct broker *broker)
{
	loop_timer_close(broker->loop, &broker->timeline_timer);
}

void timeline_arm(struct broker *broker)
{
	if (queue_is_empty(&broker->uncommitted))
		return;
	loop_timer_set(&broker->timeline_timer, broker->timeline_pause_ns);
	broker->timeline_pause_ns += broker->timeline_pause_ns / 8;
	if (broker->timeline_pause_ns > PAUSE_NS_MAX)
		broker->timeline_pause_ns = PAUSE_NS_MAX;
}

void timeline_signal(struct session *session, uint32_t idx1, uint64_t done_at)
{
	uint64_t *latest = session->timeline_done;

	if (!idx1)
		return;
	if ((int64_t)(done_at - latest[idx1 - 1]) > 0)
		latest[idx1 - 1] = done_at;
	inf_store64_release(&entry_of(session, idx1)->done.v, latest[idx1 - 1]);
}

void timeline_answer(struct session *session, uint32_t idx1)
{
	if (idx1)
		timeline_signal(session, idx1, inf_load64(&entry_of(session, idx1)->done_at));
}

void timeline_repeat(const struct job *job)
{
	if (job->timeline)
		timeline_signal(job->session, job->timeline, job->done_at);
}
