/* SPDX-License-Identifier: Apache-2.0 */
/*
 * regions.c - a hash table from (session, region) to a mapping. One writer (the control thread),
 * many readers without a lock: an entry's key is stored last with release, and is taken away only
 * when the front has promised that no batch names it.
 *
 * Linear probing; a key that goes leaves DEAD behind where the chain goes on, so that readers do
 * not stop short, and 0 where it does not. A table that is half full is followed by one of twice
 * the size; readers may still be in the old one, which therefore stays (all old ones together are
 * smaller than the present one).
 */
#include "broker/executor/regions.h"
#include "broker/executor/pins.h"
#include "broker/executor/slabs.h"
#include "shm/atomics.h"
#include "shm/layout.h"
#include "shm/region.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#define SLOTS_MIN 1024u	     /* a power of two; 32 KiB */
#define SLOTS_MAX (1u << 22) /* 32,768 sessions x 64 regions, half full */
#define DEAD	  UINT64_MAX

/* A session has one timeline: it is found without its number. */
#define TIMELINE_KEY (~INF_TWIN_BIT)

struct entry {
	uint64_t key; /* session << 32 | region, + 1; 0 = free, DEAD = free, but the chain goes on */
	uint8_t *address; /* of a twin that on the device */
	uint64_t bytes;
	bool writable;
	struct pin *pin; /* NULL = the device cannot reach it */
	struct inf_slab slab; /* of a twin */
	CUdeviceptr words;    /* where the device reaches a timeline, else 0 */
};

struct table {
	struct table *previous; /* kept for readers that are still in it */
	uint32_t n_slots;
	uint32_t n_used; /* slots that are not 0 */
	struct entry slots[];
};

static struct table *present; /* control thread stores, all load */

static uint64_t key_of(uint32_t session, uint32_t region)
{
	return ((uint64_t)session << 32 | region) + 1;
}

static bool is_live(uint64_t key)
{
	return key && key != DEAD;
}

static uint32_t slot_of(const struct table *table, uint64_t key)
{
	return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 32) & (table->n_slots - 1);
}

static struct entry *find(struct table *table, uint64_t key)
{
	if (!table)
		return NULL;
	for (uint32_t at = slot_of(table, key);; at = (at + 1) & (table->n_slots - 1)) {
		/* Acquire: pairs with the release in put(). */
		uint64_t have = inf_load64_acquire(&table->slots[at].key);

		if (have == key)
			return &table->slots[at];
		if (!have)
			return NULL;
	}
}

/* The key must not be there, and the table not be full. */
static void put(struct table *table, const struct entry *entry)
{
	uint32_t at = slot_of(table, entry->key);
	struct entry *slot;

	while (is_live(table->slots[at].key))
		at = (at + 1) & (table->n_slots - 1);
	slot = &table->slots[at];
	table->n_used += !slot->key;
	slot->address = entry->address;
	slot->bytes = entry->bytes;
	slot->writable = entry->writable;
	slot->pin = entry->pin;
	slot->slab = entry->slab;
	slot->words = entry->words;
	/* Release: pairs with the acquire in find(). */
	inf_store64_release(&slot->key, entry->key);
}

/* Where the next slot is free no chain goes on: this one, and DEAD ones before it, are free too. */
static void take_away(struct table *table, uint32_t at)
{
	inf_store64_release(&table->slots[at].key, DEAD);
	if (table->slots[(at + 1) & (table->n_slots - 1)].key)
		return;
	for (; table->slots[at].key == DEAD; at = (at - 1) & (table->n_slots - 1)) {
		inf_store64_release(&table->slots[at].key, 0);
		table->n_used--;
	}
}

static int make_room(void)
{
	uint32_t n_slots = present ? present->n_slots * 2 : SLOTS_MIN;
	struct table *table;

	if (present && present->n_used < present->n_slots / 2)
		return 0;
	if (n_slots > SLOTS_MAX)
		return -ENOSPC;
	table = calloc(1, sizeof(*table) + n_slots * sizeof(table->slots[0]));
	if (!table)
		return -ENOMEM;
	table->previous = present;
	table->n_slots = n_slots;
	for (uint32_t i = 0; present && i < present->n_slots; i++)
		if (is_live(present->slots[i].key))
			put(table, &present->slots[i]);
	/* Release: pairs with the acquire in regions_at(). */
	__atomic_store_n(&present, table, __ATOMIC_RELEASE);
	return 0;
}

static int map_host(struct entry *entry, int fd, bool is_timeline)
{
	void *address;
	int r = inf_region_map(fd, entry->bytes, entry->writable, 0, &address);

	if (r)
		return r;
	/* What a client may read must exist before it may; what we read was populated by the
	 * client. */
	r = inf_region_populate(address, entry->bytes, entry->writable);
	if (!r && is_timeline)
		r = words_attach(address, entry->bytes, &entry->words);
	if (r) {
		inf_region_unmap(address, entry->bytes, 0);
		return r;
	}
	entry->address = address;
	if (!is_timeline)
		entry->pin = pins_add(address, entry->bytes, entry->writable);
	return 0;
}

static int map_twin(struct entry *entry, int socket_fd)
{
	int r = slab_attach(socket_fd, entry->bytes, &entry->slab);

	entry->address = (uint8_t *)(uintptr_t)entry->slab.address;
	return r;
}

int regions_attach(uint32_t session, uint32_t region, uint32_t kind, int fd, uint64_t bytes)
{
	struct entry entry = {
		.key = key_of(session, kind == INF_REGION_TIMELINE ? TIMELINE_KEY : region),
		.bytes = bytes,
		.writable = kind != INF_REGION_REQUEST,
	};
	int r;

	if (find(present, entry.key))
		return -EEXIST;
	r = make_room();
	if (!r)
		r = kind == INF_REGION_TWIN ? map_twin(&entry, fd) : map_host(&entry, fd, kind == INF_REGION_TIMELINE);
	if (r)
		return r;
	put(present, &entry);
	return 0;
}

static void unmap(struct entry *entry)
{
	if (entry->slab.address) {
		slab_detach(&entry->slab);
		return;
	}
	pins_remove(entry->pin);
	if (entry->words)
		words_detach(entry->address);
	inf_region_unmap(entry->address, entry->bytes, 0);
}

void regions_detach(uint32_t session)
{
	for (uint32_t i = 0; present && i < present->n_slots; i++) {
		struct entry *entry = &present->slots[i];

		if (!is_live(entry->key) || (entry->key - 1) >> 32 != session)
			continue;
		unmap(entry);
		take_away(present, i);
	}
}

void *regions_at(uint32_t session, uint32_t region, uint64_t offset, uint64_t length, bool writable)
{
	/* Acquire: pairs with the release in make_room(). */
	struct table *table = __atomic_load_n(&present, __ATOMIC_ACQUIRE);
	const struct entry *entry = find(table, key_of(session, region));

	if (!entry || offset > entry->bytes || length > entry->bytes - offset ||
	    (writable && !entry->writable))
		return NULL;
	return entry->address + offset;
}

bool regions_are_pinned(uint32_t session, uint32_t region)
{
	const struct entry *entry = find(__atomic_load_n(&present, __ATOMIC_ACQUIRE), key_of(session, region));

	return entry && pin_is_done(entry->pin);
}

uint64_t regions_done_word(uint32_t session, uint32_t idx1)
{
	const struct entry *entry = find(__atomic_load_n(&present, __ATOMIC_ACQUIRE), key_of(session, TIMELINE_KEY));
	uint64_t at = (uint64_t)(idx1 - 1) * sizeof(struct inf_timeline) + offsetof(struct inf_timeline, done);

	return entry && at < entry->bytes ? entry->words + at : 0;
}
