/* SPDX-License-Identifier: Apache-2.0 */
/* range.c - the map of all memory that a device may touch, by address. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GONE 256u /* ranges that went last are remembered, for messages */

static struct range **ranges; /* by address; they never overlap */
static size_t n_ranges, n_max;
static uint64_t last_id;
static struct {
	uint64_t address;
	size_t bytes;
} gone[GONE];
static unsigned int n_gone;

/* The index of the first that ends after `address`. */
static size_t index_from(uint64_t address)
{
	size_t low = 0, high = n_ranges;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (ranges[middle]->address + ranges[middle]->bytes > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

struct range *range_from(uint64_t address)
{
	size_t i = index_from(address);

	return i < n_ranges ? ranges[i] : NULL;
}

struct range *range_at(uint64_t address)
{
	struct range *range = range_from(address);

	return range && range->address <= address ? range : NULL;
}

struct range *range_of_context(const struct context *context)
{
	for (size_t i = 0; i < n_ranges; i++)
		if (ranges[i]->context == context)
			return ranges[i];
	return NULL;
}

struct range *range_add(enum range_kind kind, uint64_t address, size_t bytes, struct context *context, int device)
{
	struct range *range = calloc(1, sizeof(*range));
	size_t i = index_from(address);

	if (!range || (i < n_ranges && ranges[i]->address < address + bytes))
		abort();
	if (n_ranges == n_max) {
		n_max = n_max ? 2 * n_max : 64;
		ranges = realloc(ranges, n_max * sizeof(ranges[0]));
		if (!ranges)
			abort();
	}
	memmove(&ranges[i + 1], &ranges[i], (n_ranges - i) * sizeof(ranges[0]));
	ranges[i] = range;
	n_ranges++;
	range->kind = kind;
	range->address = address;
	range->bytes = bytes;
	range->context = context;
	range->device = device;
	range->id = ++last_id;
	if (kind != RANGE_MAPPED)
		range->shadow = shadow_new();
	return range;
}

void range_settle(uint64_t address, size_t bytes, const char *what)
{
	if (!streams_use(address, bytes))
		return;
	violation("%s: [%#llx, +%zu) is still used by queued work", what, (unsigned long long)address, bytes);
	/* The real one would wait for the whole device. */
	while (streams_use(address, bytes))
		pthread_cond_wait(&fake.done, &fake.lock);
}

void range_remove(struct range *range, const char *what)
{
	size_t i;

	range_settle(range->address, range->bytes, what);
	i = index_from(range->address);
	memmove(&ranges[i], &ranges[i + 1], (n_ranges - i - 1) * sizeof(ranges[0]));
	n_ranges--;
	gone[n_gone % GONE].address = range->address;
	gone[n_gone++ % GONE].bytes = range->bytes;
	if (range->kind != RANGE_MAPPED)
		shadow_free(range->shadow);
	free(range);
}

static enum look look_at(const struct range *range, unsigned int kinds, int device, bool is_written)
{
	if (!(range->kind & kinds))
		return LOOK_NOTHING;
	if (range->kind & (RANGE_DEVICE | RANGE_OPENED) && range->device != device)
		return LOOK_OTHER_DEVICE;
	if (range->kind == RANGE_MAPPED)
		return range->access[device] >= (is_written ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ)
			       ? LOOK_GOOD
			       : LOOK_DENIED;
	return is_written && range->is_read_only ? LOOK_DENIED : LOOK_GOOD;
}

enum look range_look(unsigned int kinds, uint64_t address, size_t bytes, int device, bool is_written)
{
	uint64_t end = address + bytes, at = address;
	struct range *range = range_from(address);
	enum look look;

	if (end < address || !range || range->address >= end || !(range->kind & kinds))
		return LOOK_NOTHING;
	if (range->address > address)
		return LOOK_PARTLY;
	for (;;) {
		look = look_at(range, kinds, device, is_written);
		at = range->address + range->bytes;
		if (look != LOOK_GOOD)
			return look == LOOK_NOTHING ? LOOK_PARTLY : look;
		if (at >= end)
			return LOOK_GOOD;
		if (range->kind != RANGE_MAPPED)
			return LOOK_PARTLY;
		range = range_at(at);
		if (!range || range->kind != RANGE_MAPPED)
			return LOOK_PARTLY;
	}
}

const char *look_text(enum look look, uint64_t address, size_t bytes)
{
	switch (look) {
	case LOOK_GOOD:
		return "is there";
	case LOOK_PARTLY:
		return "crosses the end of what is there";
	case LOOK_DENIED:
		return "may not be accessed that way";
	case LOOK_OTHER_DEVICE:
		return "belongs to another device";
	case LOOK_NOTHING:
		break;
	}
	for (unsigned int i = 0; i < GONE; i++)
		if (gone[i].bytes && address < gone[i].address + gone[i].bytes && gone[i].address < address + bytes)
			return "is not there any more";
	return "is no such memory";
}
