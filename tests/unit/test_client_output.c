/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_output.c - heads of output blocks: as declared, with a table, and what neither may be. */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/signature.h"
#include <check.h>
#include <errno.h>
#include <string.h>

#define ROWS 3u

static struct inf_signature signature;
static uint8_t block[4096] __attribute__((aligned(64)));
static struct inf_out_head *head = (void *)block;
static struct inf_tensor tensors[2];

static void setup(void)
{
	memset(block, 0, sizeof(block));
	memset(tensors, 0, sizeof(tensors));
	signature = (struct inf_signature){ .flags = INF_SIG_BATCHABLE, .n_outputs = 2 };
	signature.outputs[0] = (struct inf_tensor_spec){
		.dtype = INF_F32, .rank = 2, .flags = INF_SPEC_BATCH, .dims = { -1, 5 }, .dims_max = { 0, 5 }
	};
	signature.outputs[1] = (struct inf_tensor_spec){
		.dtype = INF_I64, .rank = 1, .flags = INF_SPEC_BATCH, .dims = { -1 }
	};
	head->n_outputs = 2;
	head->rows = ROWS;
	head->flags = INF_OUT_DECLARED;
}

static int read_it(uint64_t length)
{
	return infc_output_read(&signature, ROWS, block, length, tensors);
}

START_TEST(declared)
{
	uint64_t least = inf_output_bytes(&signature, ROWS);

	ck_assert_int_eq(read_it(least), 1);
	for (uint32_t i = 0; i < 2; i++)
		ck_assert_ptr_eq(tensors[i].data, block + inf_output_offset(&signature, ROWS, i));
	ck_assert_uint_eq(tensors[0].bytes, ROWS * 5 * 4);
	ck_assert_uint_eq(tensors[1].bytes, ROWS * 8);
	ck_assert_int_eq(tensors[0].dims[0], ROWS);
	ck_assert_int_eq(tensors[0].dims[1], 5);
	ck_assert_uint_eq(tensors[0].dtype, INF_F32);
	ck_assert_uint_eq(tensors[1].rank, 1);
	ck_assert_int_eq(read_it(least - 1), -EBADMSG);
}
END_TEST

START_TEST(declared_where_a_dimension_is_open)
{
	signature.outputs[0].dims[1] = -1;
	ck_assert_int_eq(read_it(sizeof(block)), -EBADMSG);
}
END_TEST

START_TEST(other_flags)
{
	head->flags = INF_OUT_DECLARED << 1;
	ck_assert_int_eq(read_it(sizeof(block)), -EBADMSG);
	head->flags = UINT64_MAX;
	ck_assert_int_eq(read_it(sizeof(block)), -EBADMSG);
}
END_TEST

START_TEST(other_counts)
{
	head->rows = ROWS + 1;
	ck_assert_int_eq(read_it(sizeof(block)), -EBADMSG);
	head->rows = ROWS;
	head->n_outputs = 1;
	ck_assert_int_eq(read_it(sizeof(block)), -EBADMSG);
	ck_assert_int_eq(read_it(8), -EBADMSG);
}
END_TEST

/* Without the flag the table counts, and an empty one is none. */
START_TEST(a_table)
{
	struct inf_out_tensor *table = (void *)(head + 1);

	head->flags = 0;
	ck_assert_int_eq(read_it(sizeof(block)), -EBADMSG);
	for (uint32_t i = 0; i < 2; i++)
		table[i] = (struct inf_out_tensor){
			.dtype = signature.outputs[i].dtype,
			.rank = signature.outputs[i].rank,
			.offset = inf_output_offset(&signature, ROWS, i),
			.bytes = i ? ROWS * 8 : ROWS * 5 * 4,
			.dims = { ROWS, i ? 0 : 5 },
		};
	ck_assert_int_eq(read_it(sizeof(block)), 0);
	ck_assert_uint_eq(tensors[1].bytes, ROWS * 8);
}
END_TEST

Suite *suite_client_output(void);
Suite *suite_client_output(void)
{
	Suite *suite = suite_create("client_output");
	TCase *tcase = tcase_create("heads");

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_test(tcase, declared);
	tcase_add_test(tcase, declared_where_a_dimension_is_open);
	tcase_add_test(tcase, other_flags);
	tcase_add_test(tcase, other_counts);
	tcase_add_test(tcase, a_table);
	suite_add_tcase(suite, tcase);
	return suite;
}
