/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_arena.c - blocks are aligned, never overlap, merge again; regions are one pool. */
#include "client/arena.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

#define REGION_BYTES (1u << 20)
#define N_BLOCKS     512u

static struct arena arena;
static uint8_t *memory;

static void setup(void)
{
	memory = aligned_alloc(4096, 2 * REGION_BYTES);
	ck_assert_ptr_nonnull(memory);
	memset(memory, 0, 2 * REGION_BYTES);
	infc_arena_init(&arena);
	ck_assert_int_eq(infc_arena_add(&arena, 0, memory, 4096, REGION_BYTES), 0);
}

static void teardown(void)
{
	infc_arena_deinit(&arena);
	free(memory);
}

START_TEST(every_size)
{
	static const uint64_t sizes[] = { 0,   1,    63,   64,	 65,	127,
					  128, 4095, 4096, 4097, 65536, 300000 };

	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct arena_block *block = infc_arena_take(&arena, sizes[i]);

		ck_assert_ptr_nonnull(block);
		ck_assert_uint_ge(block->bytes, sizes[i]);
		ck_assert_uint_eq(block->offset % 64, 0);
		ck_assert_uint_ge(block->offset, 4096);
		ck_assert_uint_le(block->offset + block->bytes, REGION_BYTES - ARENA_TAIL_BYTES);
		ck_assert_ptr_eq(block->data, memory + block->offset);
		infc_arena_give(&arena, block);
	}
	ck_assert_uint_eq(arena.bytes_free, arena.bytes_total);
}
END_TEST

START_TEST(whole_region_and_no_more)
{
	uint64_t all = REGION_BYTES - ARENA_TAIL_BYTES - 4096;
	struct arena_block *block = infc_arena_take(&arena, all);

	ck_assert_ptr_nonnull(block);
	ck_assert_ptr_null(infc_arena_take(&arena, 1));
	infc_arena_give(&arena, block);
	ck_assert_ptr_null(infc_arena_take(&arena, all + 64));
	ck_assert_ptr_null(infc_arena_take(&arena, UINT64_MAX));
}
END_TEST

/* Takes and gives at random; each block is filled with its number, which nobody may overwrite. */
START_TEST(random_blocks)
{
	struct arena_block *blocks[N_BLOCKS] = { 0 };
	unsigned int seed = 1;

	ck_assert_int_eq(infc_arena_add(&arena, 9, memory + REGION_BYTES, 0, REGION_BYTES), 0);
	for (unsigned int step = 0; step < 100000; step++) {
		unsigned int i;

		seed = seed * 1103515245u + 12345u;
		i = seed / 65536 % N_BLOCKS;
		if (blocks[i]) {
			ck_assert_int_eq(blocks[i]->data[0], (uint8_t)i);
			ck_assert_int_eq(blocks[i]->data[blocks[i]->bytes - 1], (uint8_t)i);
			infc_arena_give(&arena, blocks[i]);
			blocks[i] = NULL;
			continue;
		}
		blocks[i] = infc_arena_take(&arena, seed / 1024 % 9000);
		if (blocks[i])
			memset(blocks[i]->data, (int)(uint8_t)i, blocks[i]->bytes);
	}
	for (unsigned int i = 0; i < N_BLOCKS; i++)
		infc_arena_give(&arena, blocks[i]);
	ck_assert_uint_eq(arena.bytes_free, arena.bytes_total);
	/* Everything merged again. */
	ck_assert_ptr_nonnull(infc_arena_take(&arena, REGION_BYTES - ARENA_TAIL_BYTES));
	ck_assert_ptr_nonnull(infc_arena_take(&arena, REGION_BYTES - ARENA_TAIL_BYTES - 4096));
}
END_TEST

START_TEST(tiny_regions)
{
	ck_assert_int_eq(infc_arena_add(&arena, 2, memory + REGION_BYTES, 0, 0), 0);
	ck_assert_int_eq(infc_arena_add(&arena, 2, memory + REGION_BYTES, 0, 64), 0);
	ck_assert_int_eq(infc_arena_add(&arena, 2, memory + REGION_BYTES, 64, 128), 0);
	ck_assert_int_eq(infc_arena_add(&arena, 2, memory + REGION_BYTES, 1, 150), 0);
	ck_assert_uint_eq(arena.bytes_total, REGION_BYTES - ARENA_TAIL_BYTES - 4096);
}
END_TEST

Suite *suite_client_arena(void);

Suite *suite_client_arena(void)
{
	Suite *suite = suite_create("client_arena");
	TCase *tc = tcase_create("blocks");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, every_size);
	tcase_add_test(tc, whole_region_and_no_more);
	tcase_add_test(tc, random_blocks);
	tcase_add_test(tc, tiny_regions);
	suite_add_tcase(suite, tc);
	return suite;
}
