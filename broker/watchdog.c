/* SPDX-License-Identifier: Apache-2.0 */
/* watchdog.c - see watchdog.h. watchdog_arm() is hot. */
#include "broker/watchdog.h"
#include "broker/clock.h"
#include "broker/collect.h"
#include "broker/config.h"
#include "broker/supervisor.h"
#include <inttypes.h>
#include <stdio.h>

#define TIMES_PREDICTED 50u
#define LOOKS		4u /* in the time that a batch may take: it is found out at most a quarter late */
#define MS		1000000u
#define LATE_NS		(20 * MS) /* a busy machine is late too */
#define BYTES_PER_MS	(1u << 20) /* a guess: memory is mapped, pinned and zeroed faster than that */

static const struct batch *oldest(const struct instance *instance)
{
	return &instance->batches[instance->head % INF_BATCHES];
}

static uint64_t limit_ns(const struct broker *broker)
{
	uint64_t limit = broker->config->batch_ms_max * MS;

	for (uint32_t i = 0; i < broker->executor.n_instances; i++) {
		const struct instance *instance = &broker->executor.instances[i];

		for (uint64_t at = instance->head; at != instance->tail; at++) {
			uint64_t predicted_ns = instance->batches[at % INF_BATCHES].predicted_ns;

			if (predicted_ns * TIMES_PREDICTED > limit)
				limit = predicted_ns * TIMES_PREDICTED;
		}
	}
	return limit;
}

/* Since it is the oldest one. What has ended without our having looked does not hang, however long we slept. */
static uint64_t runs_ns(const struct instance *instance, uint64_t now_ns)
{
	uint64_t since_ns = oldest(instance)->dispatched_ns;

	if (instance->head == instance->tail || collect_has_work(instance))
		return 0;
	if (instance->ended_ns > since_ns)
		since_ns = instance->ended_ns;
	return now_ns > since_ns ? now_ns - since_ns : 0;
}

static void check_batches(struct broker *broker, uint64_t now_ns)
{
	uint64_t limit = limit_ns(broker);
	char reason[160];

	for (uint32_t i = 0; i < broker->executor.n_instances; i++) {
		const struct instance *instance = &broker->executor.instances[i];
		const struct batch *batch = oldest(instance);

		if (runs_ns(instance, now_ns) <= limit)
			continue;
		snprintf(reason, sizeof(reason), "model %s has not ended a batch of %" PRIu32 " rows in %" PRIu64 " ms (--batch-ms-max)",
			 batch->model->name, batch->n_rows, limit / MS);
		supervisor_kill(broker, reason);
		return;
	}
}

/* What it is doing besides batches, since when, and how long it may; NULL = nothing. */
static const char *other_work(const struct broker *broker, uint64_t *ret_since_ns, uint64_t *ret_limit_ms)
{
	const struct executor *executor = &broker->executor;

	*ret_limit_ms = broker->config->start_s_max * 1000;
	*ret_since_ns = executor->started_ns;
	if (executor->state == EXECUTOR_STARTING)
		return "its start (--start-s-max)";
	*ret_limit_ms = broker->config->batch_ms_max + broker->config->region_max / BYTES_PER_MS;
	*ret_since_ns = broker->attach_ns;
	if (broker->n_attach_sent)
		return "a message about a session (--batch-ms-max, and 1 ms for each MiB of --region-max)";
	*ret_limit_ms = broker->config->load_s_max * 1000;
	*ret_since_ns = executor->loading_ns;
	return executor->loading >= 0 ? "loading a model (--load-s-max)" : NULL;
}

static void check_rest(struct broker *broker, uint64_t now_ns)
{
	uint64_t since_ns, limit_ms;
	const char *what = other_work(broker, &since_ns, &limit_ms);
	char reason[160];

	if (!what || now_ns - since_ns <= limit_ms * MS)
		return;
	snprintf(reason, sizeof(reason), "it has not ended %s in %" PRIu64 " ms", what, limit_ms);
	supervisor_kill(broker, reason);
}

/* From one look to the next. */
static uint64_t pause_ns(const struct config *config)
{
	uint64_t least_ms = config->batch_ms_max;

	if (config->start_s_max * 1000 < least_ms)
		least_ms = config->start_s_max * 1000;
	if (config->load_s_max * 1000 < least_ms)
		least_ms = config->load_s_max * 1000;
	return least_ms * MS / LOOKS;
}

static void on_timer(struct loop_source *source, void *context)
{
	struct broker *broker = context;
	uint64_t now_ns = clock_ns(), slept_ns = now_ns - broker->watchdog_set_ns;

	(void)source;
	broker->watchdog_set_ns = 0;
	if (slept_ns <= 2 * pause_ns(broker->config) + LATE_NS) {
		check_batches(broker, now_ns);
		check_rest(broker, now_ns);
	}
	watchdog_arm(broker);
}

int watchdog_prepare(struct broker *broker)
{
	broker->watchdog_timer.on_event = on_timer;
	return loop_timer_open(broker->loop, &broker->watchdog_timer);
}

void watchdog_deinit(struct broker *broker)
{
	loop_timer_close(broker->loop, &broker->watchdog_timer);
}

void watchdog_arm(struct broker *broker)
{
	uint64_t since_ns, limit_ms;

	if (broker->watchdog_set_ns || (!broker->n_running && !other_work(broker, &since_ns, &limit_ms)))
		return;
	broker->watchdog_set_ns = clock_ns();
	loop_timer_set(&broker->watchdog_timer, pause_ns(broker->config));
}
