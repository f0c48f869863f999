/* SPDX-License-Identifier: Apache-2.0 */
/*
 * twins.c - device memory of sessions: DEVICE (the timeline region) and TWIN (memory on the device for a region).
 *
 * The executor makes the memory, the client maps it, and the front, which has no driver, charges for it and carries a pair
 * of sockets: what the executor writes into the one end (SLAB and the memory's fd) stays in the other, where the client
 * looks at it, and the next executor, should this one die. So clients' inputs outlive executors, no fd comes into the
 * front, and a client that takes the message away has only lost its own.
 *
 * Memory is of one session alone and goes with it. It is not given to another one, not of the same user either: whoever
 * had the fd may have sent it anywhere.
 *
 * One that a later executor cannot map is told of with RETIRE, and the requests that need it end with EXECUTOR_LOST: a
 * session does not end for it.
 */
#define _GNU_SOURCE 1
#include "broker/twins.h"
#include "broker/config.h"
#include "broker/log.h"
#include "broker/quota.h"
#include "broker/session.h"
#include "broker/session_internal.h"
#include "broker/timeline.h"
#include "shm/region.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What drivers give at least, and so what a twin costs. */
#define GRANULE_BYTES (2u << 20)

/* --- making --- */

static uint64_t charged(uint64_t bytes)
{
	return (bytes + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES;
}

static int open_pair(struct region *twin)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	twin->fd = pair[0];
	twin->make_fd = pair[1];
	return 0;
}

/* The twin of `region`, charged, not yet asked for. */
static int make(struct broker *broker, struct session *session, const struct region *region, struct region **ret_twin)
{
	struct region twin = {
		.id = region->id | INF_TWIN_BIT,
		.kind = INF_REGION_TWIN,
		.state = REGION_OFFERED,
		.bytes = region->bytes,
		.charge = charged(region->bytes),
		.generation = region->generation,
		.make_fd = -1,
	};
	struct region *entry = regions_entry(session);
	int r;

	if (!entry)
		return -ENOSPC;
	r = user_charge_device(session->user, broker->config, twin.charge);
	if (r < 0)
		return r;
	r = open_pair(&twin);
	if (r < 0) {
		user_discharge_device(session->user, twin.charge);
		return r;
	}
	*entry = twin;
	*ret_twin = entry;
	return 0;
}

/* --- there, or not --- */

/* Submissions may name it, or must not any more. */
static void admit(struct session *session, uint32_t region, bool is_there)
{
	for (uint32_t i = 0; i < session->n_check_regions; i++)
		if (session->check_regions[i].id == region)
			session->check_regions[i].has_twin = is_there;
}

void twins_lost(struct broker *broker, struct session *session, struct region *region, int error)
{
	bool was_shown = region->state == REGION_READY;
	struct inf_ctl_retire msg;

	log_line("%s loses %s: %s", session_text(session),
		 region->kind == INF_REGION_TIMELINE ? "its device's signals" : "device memory", strerror(-error));
	/* The front signals as well, only later. */
	if (region->kind == INF_REGION_TIMELINE)
		return;
	/* It has that memory mapped. */
	imports_stop(broker, session);
	inf_ctl_init(&msg, INF_CTL_RETIRE, 0);
	msg.region = region->id;
	admit(session, region->id & ~INF_TWIN_BIT, false);
	regions_drop(session, region);
	if (was_shown)
		session_send(broker, session, &msg, NULL, 0);
}

static bool has_twin(const struct session *session, uint32_t region)
{
	for (uint32_t i = 0; i < session->n_check_regions; i++)
		if (session->check_regions[i].id == region)
			return session->check_regions[i].has_twin;
	return false;
}

bool twins_are_there(const struct broker *broker, const struct job *job)
{
	uint32_t inputs = job->twin_flags >> INF_SUB_TWIN_SHIFT;

	if (!job->twin_flags)
		return true;
	if ((job->twin_flags & INF_SUB_TWIN_OUT || job->ext < 0) && !has_twin(job->session, job->in_region))
		return false;
	if (job->ext < 0)
		return true;
	for (uint32_t i = 0; inputs >> i; i++)
		if (inputs >> i & 1 && !has_twin(job->session, broker->ext_blocks[job->ext].tensors[i].region))
			return false;
	return true;
}

/* --- DEVICE, TWIN --- */

/* Refuses where no device could do it now. */
bool twins_check_executor(struct broker *broker, struct session *session, uint32_t cookie)
{
	const struct executor *executor = &broker->executor;

	if (!(session->features & INF_FEATURE_DEVICE)) {
		session_end(broker, session, "device memory without that feature");
		return false;
	}
	if (executor->state == EXECUTOR_READY && executor->uuid[0])
		return true;
	if (executor->state == EXECUTOR_READY || executor->state == EXECUTOR_FAILED)
		session_refuse(broker, session, cookie, -ENODEV, INF_NOT_ALLOWED,
			       "models run on the CPU, or on a device that shares no memory: host tensors only");
	else
		session_refuse(broker, session, cookie, -EAGAIN, INF_LOADING, "the executor is being started: try again");
	return false;
}

static void refuse(struct broker *broker, struct session *session, uint32_t cookie, int error, uint64_t bytes)
{
	const struct config *config = broker->config;

	open_drop(session);
	if (error == -EDQUOT)
		session_refuse(broker, session, cookie, -EDQUOT, INF_QUOTA,
			       "%" PRIu64 " more are over the quota (--user-device-memory-max %" PRIu64 ", --device-memory-max %" PRIu64
			       "; of the host --user-memory-max, --memory-max)",
			       charged(bytes), config->user_device_memory_max, config->device_memory_max);
	else if (error == -ENOSPC)
		session_refuse(broker, session, cookie, -EDQUOT, INF_QUOTA, "no more regions in this session: use a second connection");
	else
		session_refuse(broker, session, cookie, error, INF_BUSY, "no device memory: %s", strerror(-error));
}

static void ask_executor(struct broker *broker, struct session *session)
{
	session->opening->attaching = true;
	attach_want(broker, session, session->opening->device);
	attach_pump(broker);
}

static const struct region *find_timeline(const struct session *session)
{
	const struct region *region = session->regions;

	while (region->map != session->timeline)
		region++;
	return region;
}

static void send_timeline(struct broker *broker, struct session *session, const struct region *region, uint32_t cookie)
{
	struct inf_ctl_timeline answer;

	inf_ctl_init(&answer, INF_CTL_TIMELINE, cookie);
	answer.region = region->id;
	answer.bytes = region->bytes;
	memcpy(answer.uuid, broker->executor.uuid, sizeof(answer.uuid));
	session_send(broker, session, &answer, &region->fd, 1);
}

void twins_device(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	uint32_t cookie = msg->head.cookie;
	struct region *region;
	int r;

	if (!twins_check_executor(broker, session, cookie))
		return;
	if (!open_begin(broker, session, cookie))
		return;
	if (session->timeline) { /* it could not use it the last time */
		open_drop(session);
		send_timeline(broker, session, find_timeline(session), cookie);
		return;
	}
	r = regions_have_room(broker, session, 1) ? timeline_prepare(broker) : -ENOSPC;
	if (r == 0)
		r = regions_make(broker, session, INF_REGION_TIMELINE, INF_TIMELINE_BYTES, true, &region);
	if (r < 0) {
		refuse(broker, session, cookie, r, INF_TIMELINE_BYTES);
		return;
	}
	session->opening->device = region;
	ask_executor(broker, session);
}

void twins_twin(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	uint32_t cookie = msg->head.cookie, id = msg->twin.region;
	struct region *region = id & INF_TWIN_BIT ? NULL : regions_find(session, id), *twin;
	int r;

	if (msg->twin.reserved || !region || region->kind != INF_REGION_REQUEST ||
	    region->state != REGION_READY || !session->timeline) {
		session_end(broker, session, "TWIN of a region that it does not have, or before DEVICE");
		return;
	}
	if (!twins_check_executor(broker, session, cookie))
		return;
	if (!open_begin(broker, session, cookie))
		return;
	twin = regions_find(session, id | INF_TWIN_BIT);
	if (twin) { /* it could not map it the last time */
		open_drop(session);
		regions_send(broker, session, twin, cookie);
		return;
	}
	r = regions_have_room(broker, session, 1) ? make(broker, session, region, &session->opening->device) : -ENOSPC;
	if (r < 0)
		refuse(broker, session, cookie, r, region->bytes);
	else
		ask_executor(broker, session);
}

static int map_timeline(struct session *session, struct region *region)
{
	int r = inf_region_map(region->fd, region->bytes, true, 0, &region->map);

	if (r == 0)
		r = inf_region_populate(region->map, region->bytes, true);
	if (r < 0)
		return r;
	session->timeline_done = calloc(INF_TIMELINES, sizeof(*session->timeline_done));
	if (!session->timeline_done)
		return -ENOMEM;
	session->timeline = region->map;
	return 0;
}

static void finish_device(struct broker *broker, struct session *session, struct region *region, uint32_t cookie)
{
	int r = map_timeline(session, region);

	if (r == 0) {
		send_timeline(broker, session, region, cookie);
		return;
	}
	regions_drop(session, region);
	session_refuse(broker, session, cookie, r, INF_BUSY, "no memory for a timeline: %s", strerror(-r));
}

void twins_finish(struct broker *broker, struct session *session)
{
	struct region *region = session->opening->device;
	uint32_t cookie = session->opening->cookie;

	open_drop(session);
	region->state = REGION_READY;
	if (region->kind == INF_REGION_TIMELINE) {
		finish_device(broker, session, region, cookie);
		return;
	}
	/* SLAB is in the pair: later executors look for it there. */
	close(region->make_fd);
	region->make_fd = -1;
	admit(session, region->id & ~INF_TWIN_BIT, true);
	regions_send(broker, session, region, cookie);
}
