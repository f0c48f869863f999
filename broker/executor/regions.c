/* SPDX-License-Identifier: Apache-2.0 */
/*
 * regions.c - a hash table from (session, region) to a mapping. One writer (the control thread), many readers without a lock:
 * an entry's key is stored last with release, and is taken away only when the front has promised that no batch names it.
 */
#include "broker/executor/regions.h"
#include "shm/atomics.h"
#include "shm/region.h"
#include <errno.h>
#include <stddef.h>

#define ENTRIES (1u << 17) /* 1,024 sessions x 64 regions, half full */
#define DEAD UINT64_MAX

static struct entry {
	uint64_t key; /* session << 32 | region, + 1; 0 = never used, DEAD = free again */
	uint8_t *address;
	uint64_t bytes;
	bool writable;
} entries[ENTRIES];

static uint64_t key_of(uint32_t session, uint32_t region)
{
	return ((uint64_t)session << 32 | region) + 1;
}

static uint32_t slot_of(uint64_t key)
{
	return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 47) % ENTRIES;
}

/* The entry of a key, or (for_new) the first one that can take it. */
static struct entry *find(uint64_t key, bool for_new)
{
	struct entry *free_entry = NULL;

	for (uint32_t i = 0, at = slot_of(key); i < ENTRIES; i++, at = (at + 1) % ENTRIES) {
		uint64_t have = inf_load64_acquire(&entries[at].key);

		if (have == key)
			return &entries[at];
		if ((have == DEAD || !have) && !free_entry)
			free_entry = &entries[at];
		if (!have)
			break;
	}
	return for_new ? free_entry : NULL;
}

int regions_attach(uint32_t session, uint32_t region, int fd, uint64_t bytes, bool writable)
{
	uint64_t key = key_of(session, region);
	struct entry *entry = find(key, true);
	void *address;
	int r;

	if (!entry || inf_load64(&entry->key) == key)
		return entry ? -EEXIST : -ENOSPC;
	r = inf_region_map(fd, bytes, writable, 0, &address);
	if (r)
		return r;
	/* What a client may read must exist before it may; what we read was populated by the client. */
	r = inf_region_populate(address, bytes, writable);
	if (r) {
		inf_region_unmap(address, bytes, 0);
		return r;
	}
	entry->address = address;
	entry->bytes = bytes;
	entry->writable = writable;
	/* Release: pairs with the acquire in find(). */
	inf_store64_release(&entry->key, key);
	return 0;
}

void regions_detach(uint32_t session)
{
	for (uint32_t i = 0; i < ENTRIES; i++) {
		uint64_t key = inf_load64(&entries[i].key);

		if (!key || key == DEAD || (key - 1) >> 32 != session)
			continue;
		inf_region_unmap(entries[i].address, entries[i].bytes, 0);
		inf_store64_release(&entries[i].key, DEAD);
	}
}

void *regions_at(uint32_t session, uint32_t region, uint64_t offset, uint64_t length, bool writable)
{
	const struct entry *entry = find(key_of(session, region), false);

	if (!entry || offset > entry->bytes || length > entry->bytes - offset || (writable && !entry->writable))
		return NULL;
	return entry->address + offset;
}
