/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.c - two-level segregated fit: free blocks hang in lists by size class (four per power of
 * two), a bitmap finds the first list that surely fits, neighbours merge at once. Taking and giving
 * are O(1).
 *
 * The bookkeeping lies in private memory: the region itself holds tensors only, so that nothing a
 * stray write of the program does to its inputs can confuse the allocator. All regions are one
 * pool; a block never spans two. Blocks that are in steady use do not come here: requests keep
 * theirs while they lie on a free list (request.c).
 */
#include "client/arena.h"
#include "shm/layout.h"
#include <errno.h>
#include <stdlib.h>

#define SLAB_BLOCKS 127u

struct arena_slab {
	struct arena_slab *next;
	struct arena_block blocks[SLAB_BLOCKS];
};

/* Class of a size: its top bit and the two bits below. Sizes are multiples of 64, so at least 64. */
static unsigned int class_of(uint64_t bytes)
{
	unsigned int top = 63u - (unsigned int)__builtin_clzll(bytes);

	return top * 4u + (unsigned int)(bytes >> (top - 2) & 3u);
}

/* The first class all of whose blocks hold `bytes`. */
static unsigned int class_for(uint64_t bytes)
{
	unsigned int top = 63u - (unsigned int)__builtin_clzll(bytes);

	return class_of(bytes + (1ull << (top - 2)) - 1);
}

static void list(struct arena *arena, struct arena_block *block)
{
	unsigned int class = class_of(block->bytes);

	block->is_free = true;
	block->prev_free = NULL;
	block->next_free = arena->classes[class];
	if (block->next_free)
		block->next_free->prev_free = block;
	arena->classes[class] = block;
	arena->class_map[class / 64] |= 1ull << (class % 64);
	arena->bytes_free += block->bytes;
}

static void unlist(struct arena *arena, struct arena_block *block)
{
	unsigned int class = class_of(block->bytes);

	if (block->prev_free)
		block->prev_free->next_free = block->next_free;
	else
		arena->classes[class] = block->next_free;
	if (block->next_free)
		block->next_free->prev_free = block->prev_free;
	if (!arena->classes[class])
		arena->class_map[class / 64] &= ~(1ull << (class % 64));
	block->is_free = false;
	arena->bytes_free -= block->bytes;
}

static bool refill_spare(struct arena *arena)
{
	struct arena_slab *slab = calloc(1, sizeof(*slab));

	if (!slab)
		return false;
	slab->next = arena->slabs;
	arena->slabs = slab;
	for (unsigned int i = 0; i < SLAB_BLOCKS; i++) {
		slab->blocks[i].next_free = arena->spare;
		arena->spare = &slab->blocks[i];
	}
	return true;
}

static struct arena_block *get_struct(struct arena *arena)
{
	struct arena_block *block = arena->spare;

	if (!block && !refill_spare(arena))
		return NULL;
	block = arena->spare;
	arena->spare = block->next_free;
	*block = (struct arena_block){ 0 };
	return block;
}

static void put_struct(struct arena *arena, struct arena_block *block)
{
	block->next_free = arena->spare;
	arena->spare = block;
}

/* A block that surely fits, else (the class of the size itself may hold one) the first that does. */
static struct arena_block *find(const struct arena *arena, uint64_t bytes)
{
	unsigned int class = class_for(bytes);

	for (unsigned int i = class / 64; i < ARENA_CLASSES / 64; i++) {
		uint64_t bits = arena->class_map[i];

		if (i == class / 64)
			bits &= ~0ull << (class % 64);
		if (bits)
			return arena->classes[i * 64 + (unsigned int)__builtin_ctzll(bits)];
	}
	for (struct arena_block *block = arena->classes[class_of(bytes)]; block;
	     block = block->next_free)
		if (block->bytes >= bytes)
			return block;
	return NULL;
}

/* Cuts what is left behind `bytes` off. Without a struct for it the whole block is given out. */
static void split(struct arena *arena, struct arena_block *block, uint64_t bytes)
{
	struct arena_block *rest;

	if (block->bytes == bytes)
		return;
	rest = get_struct(arena);
	if (!rest)
		return;
	rest->data = block->data + bytes;
	rest->offset = block->offset + bytes;
	rest->bytes = block->bytes - bytes;
	rest->region = block->region;
	rest->prev = block;
	rest->next = block->next;
	if (rest->next)
		rest->next->prev = rest;
	block->next = rest;
	block->bytes = bytes;
	list(arena, rest);
}

/* `block` swallows its next neighbour, which is on no list. */
static void swallow(struct arena *arena, struct arena_block *block)
{
	struct arena_block *gone = block->next;

	block->bytes += gone->bytes;
	block->next = gone->next;
	if (block->next)
		block->next->prev = block;
	put_struct(arena, gone);
}

void infc_arena_init(struct arena *arena)
{
	*arena = (struct arena){ 0 };
	pthread_mutex_init(&arena->lock, NULL);
}

void infc_arena_deinit(struct arena *arena)
{
	struct arena_slab *slab = arena->slabs;

	while (slab) {
		struct arena_slab *next = slab->next;

		free(slab);
		slab = next;
	}
	arena->slabs = NULL;
	pthread_mutex_destroy(&arena->lock);
}

int infc_arena_add(struct arena *arena, uint32_t region, uint8_t *base, uint64_t first,
		   uint64_t end)
{
	struct arena_block *block;

	first = inf_align64(first);
	if (end < ARENA_TAIL_BYTES || first >= end - ARENA_TAIL_BYTES)
		return 0;
	pthread_mutex_lock(&arena->lock);
	block = get_struct(arena);
	if (block) {
		block->data = base + first;
		block->offset = first;
		block->bytes = (end - ARENA_TAIL_BYTES - first) & ~63ull;
		block->region = region;
		arena->bytes_total += block->bytes;
		if (block->bytes)
			list(arena, block);
		else
			put_struct(arena, block);
	}
	pthread_mutex_unlock(&arena->lock);
	return block ? 0 : -ENOMEM;
}

struct arena_block *infc_arena_take(struct arena *arena, uint64_t bytes)
{
	struct arena_block *block;

	if (bytes > 1ull << 48)
		return NULL;
	bytes = bytes ? inf_align64(bytes) : INF_TENSOR_ALIGN;
	pthread_mutex_lock(&arena->lock);
	block = find(arena, bytes);
	if (block) {
		unlist(arena, block);
		split(arena, block, bytes);
	}
	pthread_mutex_unlock(&arena->lock);
	return block;
}

void infc_arena_give(struct arena *arena, struct arena_block *block)
{
	if (!block)
		return;
	pthread_mutex_lock(&arena->lock);
	if (block->next && block->next->is_free) {
		unlist(arena, block->next);
		swallow(arena, block);
	}
	if (block->prev && block->prev->is_free) {
		block = block->prev;
		unlist(arena, block);
		swallow(arena, block);
	}
	list(arena, block);
	pthread_mutex_unlock(&arena->lock);
}
