/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach.c - what the present executor knows of the sessions' memory, and what a new one needs to
 * be told.
 *
 * ATTACH and its ATTACHED come before the first batch that names a region; DETACH and DETACHED
 * before anything of the session is used again. At most ATTACH_WINDOW of them are under way: after
 * a respawn there may be thousands to send, and the executor's socket holds some hundred (and the
 * kernel bounds fds in flight). Messages that wait are states in the table of regions, not a
 * queue.
 *
 * A new executor cannot map an old output region writable (it is sealed), so each open model gets
 * a new region, paid for in advance. Jobs in flight move there; blocks that the client still holds
 * keep the old region readable until the last one is released. Their release words are looked at
 * here when the front is awake anyway, not by a timer.
 */
#define _GNU_SOURCE 1
#include "broker/clock.h"
#include "broker/config.h"
#include "broker/log.h"
#include "broker/output.h"
#include "broker/quota.h"
#include "broker/recovery.h"
#include "broker/session.h"
#include "broker/session_internal.h"
#include "broker/supervisor.h"
#include "shm/region.h"

#include <errno.h>
#include <string.h>

#define ATTACH_WINDOW	 32u
#define RETIRED_EVERY_NS 100000000u

/* --- the window --- */

void attach_want(struct broker *broker, struct session *session, struct region *region)
{
	if (region->attach != ATTACH_NONE)
		return;
	region->attach = ATTACH_WANTED;
	session->n_unattached++;
	broker->n_attach_wanted++;
}

static int send_attach(struct broker *broker, struct session *session, struct region *region)
{
	struct inf_ctl_attach msg;

	inf_ctl_init(&msg, INF_CTL_ATTACH, 0);
	msg.session = session->id;
	msg.region = region->id;
	msg.kind = region->kind;
	msg.bytes = region->bytes;
	return supervisor_send(broker, &msg, region->make_fd >= 0 ? &region->make_fd : &region->fd, 1);
}

static int send_detach(struct broker *broker, const struct session *session)
{
	struct inf_ctl_detach msg;

	inf_ctl_init(&msg, INF_CTL_DETACH, 0);
	msg.session = session->id;
	return supervisor_send(broker, &msg, NULL, 0);
}

static struct region *wanted_region(struct session *session)
{
	if (!session->n_unattached)
		return NULL;
	for (uint32_t i = 0; i < INF_REGIONS; i++)
		if (session->regions[i].attach == ATTACH_WANTED)
			return &session->regions[i];
	return NULL;
}

static void count_sent(struct broker *broker)
{
	if (!broker->n_attach_sent++)
		broker->attach_ns = clock_ns();
	broker->n_attach_wanted--;
}

static void count_answer(struct broker *broker)
{
	broker->n_attach_sent--;
	broker->attach_ns = clock_ns();
}

/* Sends what waits for this session, while there is room. False where the executor does not take
 * it. */
static bool pump_session(struct broker *broker, struct session *session)
{
	struct region *region;

	while (broker->n_attach_sent < ATTACH_WINDOW && (region = wanted_region(session))) {
		if (send_attach(broker, session, region) < 0)
			return false;
		region->attach = ATTACH_SENT;
		session->attached = true;
		count_sent(broker);
	}
	if (broker->n_attach_sent < ATTACH_WINDOW && session->detach == ATTACH_WANTED) {
		if (send_detach(broker, session) < 0)
			return false;
		session->detach = ATTACH_SENT;
		count_sent(broker);
	}
	return true;
}

void attach_pump(struct broker *broker)
{
	uint32_t n_sessions = (uint32_t)broker->config->sessions_max;

	if (broker->executor.state != EXECUTOR_READY || broker->executor.killed)
		return;
	for (uint32_t i = 0; i < n_sessions; i++) {
		struct session *session = broker->sessions[broker->attach_cursor % n_sessions];

		if (!broker->n_attach_wanted || broker->n_attach_sent >= ATTACH_WINDOW)
			return;
		if (session && !pump_session(broker, session))
			return; /* it is being killed: all of this starts anew with the next one */
		if (broker->n_attach_sent < ATTACH_WINDOW)
			broker->attach_cursor++;
	}
}

/* --- answers --- */

/* The output region of a new generation: mapped by its executor, so it can be sealed and shown. */
static void show_output(struct broker *broker, struct session *session, struct region *region)
{
	if (inf_region_close_writes(region->fd) < 0) {
		session_end(broker, session, "its new output region cannot be sealed");
		return;
	}
	region->state = REGION_READY;
	regions_send(broker, session, region, 0);
}

static bool is_on_device(const struct region *region)
{
	return region->kind == INF_REGION_TWIN || region->kind == INF_REGION_TIMELINE;
}

int session_attached(struct broker *broker, uint32_t session_id, uint32_t region_id, int32_t error)
{
	struct session *session = session_find(broker, session_id);
	struct region *region = session ? regions_find(session, region_id) : NULL;

	if (!region || region->attach != ATTACH_SENT || error > 0)
		return -EPROTO;
	count_answer(broker);
	session->n_unattached--;
	region->attach = error ? ATTACH_NONE : ATTACH_DONE;
	if (session->state != SESSION_READY)
		goto out;
	if (error && region->state == REGION_RETIRED && !region->handle)
		regions_drop(session, region); /* its OPEN was undone meanwhile */
	else if (error && is_on_device(region) && !(session->opening && session->opening->device == region))
		twins_lost(broker, session, region, error);
	else if (error)
		open_attach_failed(broker, session, region, error);
	else if (region->kind == INF_REGION_OUTPUT && region->state == REGION_OFFERED &&
		 region->handle)
		show_output(broker, session, region);
	if (session->state == SESSION_READY)
		open_advance(broker, session);
out:
	attach_pump(broker);
	return 0;
}

int session_detached(struct broker *broker, uint32_t session_id)
{
	struct session *session = session_find(broker, session_id);

	if (!session || session->detach != ATTACH_SENT)
		return -EPROTO;
	session->detach = ATTACH_NONE;
	session->attached = false;
	count_answer(broker);
	session_settle(broker, session);
	attach_pump(broker);
	return 0;
}

bool session_is_reattached(const struct broker *broker)
{
	return !broker->n_attach_wanted && !broker->n_attach_sent;
}

bool session_handle_is_attached(const struct handle *handle)
{
	return handle->session->attached && !handle->session->n_unattached;
}

/* --- ends --- */

void attach_session_end(struct broker *broker, struct session *session)
{
	for (uint32_t i = 0; i < INF_REGIONS; i++) {
		if (session->regions[i].attach != ATTACH_WANTED)
			continue;
		session->regions[i].attach = ATTACH_NONE;
		session->n_unattached--;
		broker->n_attach_wanted--;
	}
}

bool attach_is_detached(struct broker *broker, struct session *session)
{
	if (!session->attached)
		return true;
	if (session->detach == ATTACH_NONE) {
		session->detach = ATTACH_WANTED;
		broker->n_attach_wanted++;
		attach_pump(broker);
	}
	return false;
}

static void executor_died(struct broker *broker, struct session *session)
{
	session->attached = false;
	session->detach = ATTACH_NONE;
	session->n_unattached = 0;
	for (uint32_t i = 0; i < INF_REGIONS; i++)
		session->regions[i].attach = ATTACH_NONE;
	regions_drop_kept(session);
	if (session->state == SESSION_READY)
		open_executor_died(broker, session);
	session_settle(broker, session);
}

void session_executor_died(struct broker *broker)
{
	broker->n_attach_wanted = broker->n_attach_sent = 0;
	for (uint32_t i = 0; i < broker->config->sessions_max; i++)
		if (broker->sessions[i])
			executor_died(broker, broker->sessions[i]);
}

/* --- output regions of earlier generations --- */

void attach_retire_pool(struct broker *broker, struct handle *handle)
{
	struct session *session = handle->session;
	struct output_pool *pool = handle->pool;

	if (!pool)
		return;
	pool->retired = true;
	pool->next_retired = session->retired;
	session->retired = pool;
	session->retire_due = true;
	broker->n_retired++;
	handle->pool = NULL;
}

static void send_retire(struct broker *broker, struct session *session, uint32_t region)
{
	struct inf_ctl_retire msg;

	inf_ctl_init(&msg, INF_CTL_RETIRE, 0);
	msg.region = region;
	session_send(broker, session, &msg, NULL, 0);
}

static void retire_region(struct broker *broker, struct session *session, uint32_t id)
{
	struct region *region = regions_find(session, id);
	bool shown;

	if (!region)
		return;
	shown = region->state == REGION_READY;
	regions_drop(session, region);
	if (shown && session->state == SESSION_READY)
		send_retire(broker, session, id);
}

void attach_retire_empty(struct broker *broker, struct session *session)
{
	struct output_pool **link = &session->retired;

	session->retire_due = false;
	while (*link) {
		struct output_pool *pool = *link;

		if (pool->n_free < pool->n_units) {
			link = &pool->next_retired;
			continue;
		}
		*link = pool->next_retired;
		broker->n_retired--;
		retire_region(broker, session, pool->region);
		output_pool_free(pool);
	}
}

void attach_retire_some(struct broker *broker)
{
	if (broker->now_ns - broker->retired_seen_ns < RETIRED_EVERY_NS)
		return;
	broker->retired_seen_ns = broker->now_ns;
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		struct session *session = broker->sessions[i];

		if (!session || session->state != SESSION_READY || !session->retired)
			continue;
		output_sweep(session);
		if (session->retire_due)
			attach_retire_empty(broker, session);
	}
}

/* --- a new executor --- */

/* A new output region for the handle; the old pool retires, what is in flight moves. 0 or
 * -errno. */
static int renew_output(struct broker *broker, struct session *session, struct handle *handle)
{
	struct output_pool *pool;
	struct region *region;
	uint64_t bytes = regions_find(session, handle->pool->region)->bytes;
	bool is_paid = handle->reserve_bytes > 0;
	int r = regions_make(broker, session, INF_REGION_OUTPUT, bytes, !is_paid, &region);

	if (r < 0)
		return r;
	pool = output_pool_new(region->id, bytes, handle->check.signature);
	if (!pool) {
		regions_drop(session, region);
		return -ENOMEM;
	}
	if (is_paid) {
		region->charge = handle->reserve_bytes;
		handle->reserve_bytes = 0;
	}
	region->generation = broker->executor.generation;
	region->handle = handle;
	attach_retire_pool(broker, handle);
	handle->pool = pool;
	recovery_move_outputs(broker, handle);
	attach_want(broker, session, region);
	return 0;
}

static void reattach(struct broker *broker, struct session *session)
{
	for (uint32_t i = 0; i < INF_REGIONS; i++) {
		struct region *region = &session->regions[i];

		if (region->state == REGION_READY && region->kind != INF_REGION_OUTPUT)
			attach_want(broker, session, region);
	}
	for (uint32_t i = 0; i < session->n_handles; i++) {
		int r = session->handles[i].model
				? renew_output(broker, session, &session->handles[i])
				: 0;

		if (r == 0)
			continue;
		log_line("%s: no output region for the new executor: %s", session_text(session),
			 strerror(-r));
		session_end(broker, session,
			    "there is no memory for its outputs in the new executor");
		return;
	}
	attach_retire_empty(broker, session);
}

void session_reattach_all(struct broker *broker)
{
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		struct session *session = broker->sessions[i];

		if (session && session->state == SESSION_READY && (session->n_handles > 0 || session->timeline))
			reattach(broker, session);
	}
	attach_pump(broker);
}
