/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping.c - the regions of a session: a table that is read without a lock and changed under the
 * control lock.
 *
 * An entry is published by its id, stored last. It is taken away only when the broker retired the
 * region, which it does after all outputs in it were released: nobody can be looking the id up
 * then, unless the broker lies; against that, a region in which any request still holds an output
 * stays mapped.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/region.h"
#include <errno.h>

const struct region *infc_region_find(const struct inf_client *client, uint32_t id, uint32_t kind)
{
	if (id == INFC_REGION_NONE)
		return NULL;
	for (unsigned int i = 0; i < INF_REGIONS; i++) {
		const struct region *region = &client->regions[i];

		/* Acquire: pairs with the release in publish(), the other members are set. */
		if (inf_load32_acquire(&region->id) == id)
			return region->kind == kind ? region : NULL;
	}
	return NULL;
}

struct region *infc_region_at(struct inf_client *client, uint32_t id)
{
	for (unsigned int i = 0; i < INF_REGIONS; i++)
		if (client->regions[i].id == id)
			return &client->regions[i];
	return NULL;
}

static int publish(struct inf_client *client, uint32_t id, const struct region *filled)
{
	struct region *region = infc_region_at(client, INFC_REGION_NONE);

	if (!region)
		return -ENOSPC;
	region->kind = filled->kind;
	region->base = filled->base;
	region->bytes = filled->bytes;
	region->ready = false;
	region->retired = false;
	inf_store32_release(&region->id, id);
	return 0;
}

int infc_region_add(struct inf_client *client, uint32_t id, uint32_t kind, int fd, uint64_t bytes)
{
	bool writable = kind == INF_REGION_REQUEST;
	struct region region = { .kind = kind, .bytes = bytes };
	void *base;
	int r;

	if (id == INFC_REGION_NONE || infc_region_at(client, id))
		return -EPROTO;
	r = inf_region_check_received(fd, bytes, !writable);
	if (r)
		return r;
	r = inf_region_map(fd, bytes, writable, 0, &base);
	if (r)
		return r;
	r = inf_region_populate(base, bytes, writable);
	region.base = base;
	if (!r)
		r = publish(client, id, &region);
	if (r)
		inf_region_unmap(base, bytes, 0);
	return r;
}

int infc_region_ready(struct inf_client *client, uint32_t id)
{
	struct region *region = infc_region_at(client, id);

	if (!region || region->kind != INF_REGION_REQUEST || region->ready)
		return -EPROTO;
	region->ready = true;
	return infc_arena_add(&client->arena, id, region->base, id ? 0 : INF_ARENA_OFFSET,
			      region->bytes);
}

/* True where a request still holds an output in the region. */
static bool is_held(struct inf_client *client, uint32_t id)
{
	uint32_t n = inf_load32_acquire(&client->n_requests);

	for (uint32_t i = 0; i < n; i++) {
		/* Relaxed: an output that is being taken right now is one that the broker did not
		 * retire. */
		if (inf_load32(&client->requests[i]->out_held) == id)
			return true;
	}
	return false;
}

static void drop(struct region *region)
{
	inf_store32_release(&region->id, INFC_REGION_NONE);
	inf_region_unmap(region->base, region->bytes, 0);
	region->base = NULL;
}

void infc_region_retire(struct inf_client *client, uint32_t id)
{
	struct region *region = infc_region_at(client, id & ~INF_TWIN_BIT);

	if (region && id & INF_TWIN_BIT)
		inf_store32(&region->twin_lost, 1);
	else if (region && region->kind == INF_REGION_OUTPUT)
		region->retired = true;
	infc_region_sweep(client);
}

void infc_region_sweep(struct inf_client *client)
{
	for (unsigned int i = 0; i < INF_REGIONS; i++) {
		struct region *region = &client->regions[i];

		if (region->id != INFC_REGION_NONE && region->retired &&
		    !is_held(client, region->id))
			drop(region);
	}
}

/* In a forked child the rings' addresses may belong to something else by now: only the arena is
 * unmapped. */
void infc_region_unmap_all(struct inf_client *client)
{
	bool forked = infc_is_forked(client);

	for (unsigned int i = 0; i < INF_REGIONS; i++) {
		struct region *region = &client->regions[i];

		if (region->id == INFC_REGION_NONE)
			continue;
		if (region->id == 0 && forked) {
			region->base += INF_ARENA_OFFSET;
			region->bytes -= INF_ARENA_OFFSET;
		}
		drop(region);
	}
	if (client->response && !forked)
		inf_region_unmap((void *)(uintptr_t)client->response, INF_RESPONSE_BYTES, 0);
	client->response = NULL;
	client->request = NULL;
}
