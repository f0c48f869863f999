/* SPDX-License-Identifier: Apache-2.0 */
/* loop.c - the table of sources, and the choice between the two loops. */
#include "broker/loop_internal.h"

#include <errno.h>
#include <stdlib.h>

static int slots_init(struct loop *loop, uint32_t n_slots)
{
	loop->slots = calloc(n_slots, sizeof(*loop->slots));
	if (!loop->slots)
		return -ENOMEM;
	loop->n_slots = n_slots;
	for (uint32_t i = 0; i < n_slots; i++) {
		loop->slots[i].generation = 1;
		loop->slots[i].next_free = i + 1;
	}
	return 0;
}

static int slot_take(struct loop *loop, struct loop_source *source)
{
	struct loop_slot *slot;
	uint32_t idx = loop->free_slot;

	if (idx >= loop->n_slots)
		return -ENOSPC;
	slot = &loop->slots[idx];
	loop->free_slot = slot->next_free;
	slot->source = source;
	source->id = (uint64_t)slot->generation << 32 | idx;
	return 0;
}

static void slot_give(struct loop *loop, struct loop_source *source)
{
	uint32_t idx = (uint32_t)source->id;
	struct loop_slot *slot = &loop->slots[idx];

	slot->source = NULL;
	if (++slot->generation == 0)
		slot->generation = 1;
	slot->next_free = loop->free_slot;
	loop->free_slot = idx;
	source->id = 0;
}

struct loop_source *loop_find(struct loop *loop, uint64_t id)
{
	uint32_t idx = (uint32_t)id;
	const struct loop_slot *slot;

	if (idx >= loop->n_slots)
		return NULL;
	slot = &loop->slots[idx];
	return slot->generation == id >> 32 ? slot->source : NULL;
}

bool loop_fire(struct loop *loop, uint64_t id, uint32_t events)
{
	struct loop_source *source = loop_find(loop, id);

	if (!source)
		return false;
	source->events = events;
	loop->n_news += !source->is_bell;
	source->on_event(source, loop->context);
	return true;
}

int loop_new(struct loop **ret_loop, enum loop_kind kind, uint32_t n_sources, void *context)
{
	struct loop *loop = NULL;
	int r = -ENOSYS;

	if (kind != LOOP_EPOLL)
		r = loop_uring_new(&loop, n_sources);
	/* Whatever io_uring lacks (kernel, seccomp, sysctl, memlock), epoll needs none of it. */
	if (kind == LOOP_EPOLL || (kind == LOOP_AUTO && r < 0))
		r = loop_epoll_new(&loop, n_sources);
	if (r < 0)
		return r;
	loop->context = context;
	r = slots_init(loop, n_sources);
	if (r < 0) {
		loop_free(loop);
		return r;
	}
	*ret_loop = loop;
	return 0;
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	free(loop->slots);
	loop->ops->free(loop);
	return NULL;
}

const char *loop_name(const struct loop *loop)
{
	return loop->ops->name;
}

int loop_add(struct loop *loop, struct loop_source *source)
{
	int r;

	if (source->id)
		return -EEXIST;
	r = slot_take(loop, source);
	if (r < 0)
		return r;
	r = loop->ops->add(loop, source);
	if (r < 0)
		slot_give(loop, source);
	return r;
}

void loop_del(struct loop *loop, struct loop_source *source)
{
	if (!source->id)
		return;
	loop->ops->del(loop, source);
	slot_give(loop, source);
}

bool loop_pending(struct loop *loop)
{
	return loop->ops->pending(loop);
}

int loop_poll(struct loop *loop)
{
	return loop->ops->turn(loop, false);
}

uint64_t loop_news(const struct loop *loop)
{
	return loop->n_news;
}

int loop_wait(struct loop *loop)
{
	return loop->ops->turn(loop, true);
}
