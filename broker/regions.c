/* SPDX-License-Identifier: Apache-2.0 */
/*
 * regions.c - the regions of a session. Each holds its charge, which goes back to the user with
 * it; each open model holds another one, for the output region that a respawned executor will need
 * (a respawn must not fail on quota).
 */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/quota.h"
#include "broker/session_internal.h"
#include "shm/region.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct region *regions_entry(struct session *session)
{
	for (uint32_t i = 0; i < INF_REGIONS; i++)
		if (session->regions[i].state == REGION_UNUSED)
			return &session->regions[i];
	return NULL;
}

static const char *region_name(uint32_t kind)
{
	if (kind == INF_REGION_TIMELINE)
		return "infbroker-timeline";
	return kind == INF_REGION_OUTPUT ? "infbroker-output" : "infbroker-request";
}

int regions_make(struct broker *broker, struct session *session, uint32_t kind, uint64_t bytes,
		 bool charge, struct region **ret_region)
{
	struct region *region = regions_entry(session);
	int r, fd;

	if (!region)
		return -ENOSPC;
	if (charge) {
		r = user_charge_bytes(session->user, broker->config, bytes);
		if (r < 0)
			return r;
	}
	fd = inf_region_create(region_name(kind), bytes);
	if (fd < 0) {
		if (charge)
			user_discharge_bytes(session->user, bytes);
		return fd;
	}
	*region = (struct region){
		.id = session->region_ids++,
		.kind = kind,
		.state = REGION_OFFERED,
		.fd = fd,
		.make_fd = -1,
		.bytes = bytes,
		.charge = charge ? bytes : 0,
	};
	*ret_region = region;
	return 0;
}

struct region *regions_find(struct session *session, uint32_t id)
{
	for (uint32_t i = 0; i < INF_REGIONS; i++)
		if (session->regions[i].state != REGION_UNUSED && session->regions[i].id == id)
			return &session->regions[i];
	return NULL;
}

static void region_free(struct session *session, struct region *region)
{
	struct handle *handle = region->handle;

	inf_region_unmap(region->map, region->bytes, 0);
	if (region->fd >= 0)
		close(region->fd);
	if (region->make_fd >= 0)
		close(region->make_fd);
	if (region->kind == INF_REGION_TWIN)
		user_discharge_device(session->user, region->charge);
	else if (handle && handle->model && !handle->reserve_bytes)
		handle->reserve_bytes = region->charge; /* pays for the next generation */
	else
		user_discharge_bytes(session->user, region->charge);
	*region = (struct region){ .state = REGION_UNUSED, .fd = -1, .make_fd = -1 };
}

void regions_drop(struct session *session, struct region *region)
{
	if (region->attach == ATTACH_SENT || region->attach == ATTACH_DONE) {
		region->state = REGION_RETIRED;
		region->handle = NULL;
		return;
	}
	region_free(session, region);
}

void regions_drop_kept(struct session *session)
{
	for (uint32_t i = 0; i < INF_REGIONS; i++) {
		struct region *region = &session->regions[i];

		if (region->state == REGION_RETIRED && !region->handle)
			region_free(session, region);
	}
}

void regions_free_all(struct session *session)
{
	for (uint32_t i = 0; i < INF_REGIONS; i++)
		if (session->regions[i].state != REGION_UNUSED)
			region_free(session, &session->regions[i]);
	session->request = NULL;
	session->timeline = NULL;
	free(session->timeline_done);
	session->timeline_done = NULL;
}

int regions_seal_request(struct session *session, struct region *region)
{
	int r = inf_region_close_writes(region->fd);

	(void)session;
	/* In this order: a hole that is punched between a check and the seal would stay. */
	if (r == 0)
		r = inf_region_check_populated(region->fd, region->bytes);
	if (r == 0 && !region->map)
		r = inf_region_map(region->fd, region->bytes, false, 0, &region->map);
	return r;
}

void regions_admit_request(struct session *session, struct region *region, uint64_t arena_offset)
{
	uint32_t at = session->n_check_regions++;

	region->state = REGION_READY;
	session->request_maps[at] = region->map;
	session->check_regions[at] = (struct inf_check_region){
		.id = region->id,
		.arena_offset = arena_offset,
		.bytes = region->bytes,
	};
}

bool regions_have_room(const struct broker *broker, const struct session *session, uint32_t n)
{
	uint64_t n_used = session->n_handles; /* the next generation of each */

	for (uint32_t i = 0; i < INF_REGIONS; i++)
		n_used += session->regions[i].state != REGION_UNUSED;
	return n_used + n <= broker->config->regions_max && n_used + n <= INF_REGIONS;
}

int regions_send(struct broker *broker, struct session *session, const struct region *region, uint32_t cookie)
{
	struct inf_ctl_region msg;

	inf_ctl_init(&msg, INF_CTL_REGION, cookie);
	msg.region = region->id;
	msg.kind = region->kind;
	msg.bytes = region->bytes;
	msg.generation = region->generation;
	return session_send(broker, session, &msg, &region->fd, 1);
}
