/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - allocator of input blocks in request regions: client-private, all bookkeeping in
 * private memory. Any thread.
 */
#ifndef CLIENT_ARENA_H
#define CLIENT_ARENA_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define ARENA_CLASSES 256u
#define ARENA_TAIL_BYTES 64u /* end of a region: vector loads past a tensor stay mapped */

/* A piece of a region, free or taken. Members above `prev` are for who holds it; read-only. */
struct arena_block {
	uint8_t *data;
	uint64_t offset; /* in the region */
	uint64_t bytes;	 /* multiple of 64, at least what was asked for */
	uint32_t region;
	bool is_free;
	struct arena_block *prev, *next;	   /* neighbours in memory */
	struct arena_block *prev_free, *next_free; /* of one class */
};

struct arena {
	pthread_mutex_t lock;
	uint64_t bytes_free;
	uint64_t bytes_total;
	uint64_t class_map[ARENA_CLASSES / 64]; /* bit = list not empty */
	struct arena_block *classes[ARENA_CLASSES];
	struct arena_block *spare; /* unused block structs */
	struct arena_slab *slabs;
};

void infc_arena_init(struct arena *arena);
void infc_arena_deinit(struct arena *arena);

/* Adds [first, end) of a region mapped at `base`, less the tail. 0 or -ENOMEM. */
int infc_arena_add(struct arena *arena, uint32_t region, uint8_t *base, uint64_t first,
		   uint64_t end);

/* 64-byte aligned block of at least `bytes`; NULL = no room (or no private memory). */
struct arena_block *infc_arena_take(struct arena *arena, uint64_t bytes);

/* Gives a block back, merged with its free neighbours. NULL is allowed. */
void infc_arena_give(struct arena *arena, struct arena_block *block);

#endif /* CLIENT_ARENA_H */
