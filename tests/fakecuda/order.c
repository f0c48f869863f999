/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c - a race detector over stream order, with vector clocks (as in FastTrack, Flanagan and Freund, PLDI 2009): what a
 * program orders is known when it queues an operation, so an order that is missing is found whatever the timing was.
 *
 * Edges: a stream's own order; host to stream by queueing; event record to stream wait, and to a host that saw it done; a
 * stream to a host that saw it idle; a host function to every host thread. What the host itself reads and writes is not seen.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>
#include <string.h>

#define HISTORY 2048u

static const char *const names[] = { "copy in", "copy out", "copy", "fill", "kernel", "record", "wait", "call" };

static struct access {
	const char *address;
	size_t bytes; /* 0 = unused */
	bool is_written;
	enum op_kind kind;
	unsigned int entity;
	uint64_t stamp; /* its entity's clock */
} history[HISTORY];
static unsigned int next_access;

static unsigned int n_entities;
static bool is_free[ENTITIES];
static uint64_t last_stamps[ENTITIES]; /* of who had the number before */
static struct clock published; /* by host functions */
static _Thread_local struct clock own;

unsigned int entity_new(struct clock *clock)
{
	unsigned int i = 0;

	while (i < n_entities && !is_free[i])
		i++;
	if (i == ENTITIES)
		abort();
	if (i == n_entities)
		n_entities++;
	is_free[i] = false;
	/* It goes on where the last one ended, which had nothing left to do. */
	clock->at[i] = last_stamps[i];
	return i;
}

void entity_end(unsigned int entity, const struct clock *clock)
{
	last_stamps[entity] = clock->at[entity];
	is_free[entity] = true;
}

void clock_join(struct clock *clock, const struct clock *other)
{
	for (unsigned int i = 0; i < ENTITIES; i++)
		if (clock->at[i] < other->at[i])
			clock->at[i] = other->at[i];
}

struct clock *host_clock(void)
{
	clock_join(&own, &published);
	return &own;
}

void order_publish(const struct clock *clock)
{
	clock_join(&published, clock);
}

static bool overlaps(const struct access *access, const char *address, size_t bytes)
{
	return access->bytes && address < access->address + access->bytes && access->address < address + bytes;
}

static void check_touch(const struct op *op, const struct touch *touch, unsigned int entity)
{
	for (unsigned int i = 0; i < HISTORY; i++) {
		struct access *access = &history[i];

		if (!overlaps(access, touch->address, touch->bytes))
			continue;
		if (op->clock.at[access->entity] >= access->stamp) {
			/* Ordered before us: what we write over whole is of no interest any more. */
			if (touch->is_written && touch->address <= access->address &&
			    touch->address + touch->bytes >= access->address + access->bytes)
				access->bytes = 0;
			continue;
		}
		if (touch->is_written || access->is_written)
			violation("race: %s in stream %u and %s in stream %u touch [%p, +%zu) without an order", names[access->kind],
				  access->entity, names[op->kind], entity, (const void *)touch->address, touch->bytes);
	}
	history[next_access++ % HISTORY] =
		(struct access){ touch->address, touch->bytes, touch->is_written, op->kind, entity, op->clock.at[entity] };
}

void order_check(const struct op *op, unsigned int entity)
{
	for (unsigned int i = 0; i < op->n_touches; i++)
		check_touch(op, &op->touches[i], entity);
}

void order_forget(const void *address, size_t bytes)
{
	for (unsigned int i = 0; i < HISTORY; i++)
		if (overlaps(&history[i], address, bytes))
			history[i].bytes = 0;
}
