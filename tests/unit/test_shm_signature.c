/* SPDX-License-Identifier: Apache-2.0 */
/* test_shm_signature.c - tables of element types and shapes, and every rule of inf_signature_check() broken once. */
#include "shm/layout.h"
#include "shm/signature.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

#define N(array) (sizeof(array) / sizeof((array)[0]))

static struct inf_signature sig;

/* A good one: batchable, f32[-1,3,5] and i64[-1] with a range in, f32[-1,10] out. */
static void setup(void)
{
	sig = (struct inf_signature){ .name = "model", .version = 1, .flags = INF_SIG_BATCHABLE, .n_inputs = 2,
				      .n_outputs = 1, .batch_max = 8 };
	sig.inputs[0] = (struct inf_tensor_spec){ .name = "pixels", .dtype = INF_F32, .rank = 3, .flags = INF_SPEC_BATCH,
						  .dims = { -1, 3, 5 }, .dims_max = { 0, 3, 5 } };
	sig.inputs[1] = (struct inf_tensor_spec){ .name = "label", .dtype = INF_I64, .rank = 1,
						  .flags = INF_SPEC_BATCH | INF_SPEC_RANGE, .dims = { -1 },
						  .value_min = 0, .value_max = 9 };
	sig.outputs[0] = (struct inf_tensor_spec){ .name = "scores", .dtype = INF_F32, .rank = 2,
						   .flags = INF_SPEC_BATCH, .dims = { -1, 10 }, .dims_max = { 0, 10 } };
}

/* The same, one row per request, with a varying dimension. */
static void make_varying(void)
{
	setup();
	sig.flags = 0;
	sig.batch_max = 1;
	sig.inputs[0] = (struct inf_tensor_spec){ .name = "text", .dtype = INF_I32, .rank = 2, .dims = { 1, -1 },
						  .dims_max = { 1, 512 } };
	sig.inputs[1] = (struct inf_tensor_spec){ .name = "scale", .dtype = INF_F64 };
	sig.outputs[0] = (struct inf_tensor_spec){ .name = "out", .dtype = INF_F16, .rank = 1, .dims = { -1 },
						   .dims_max = { 100 } };
}

/* --- element types ----------------------------------------------------------------------------------------- */

static const struct {
	const char *text;
	uint32_t bytes;
} types[INF_DTYPE_N] = {
	[INF_BOOL] = { "bool", 1 }, [INF_U8] = { "u8", 1 },   [INF_I8] = { "i8", 1 },	  [INF_I16] = { "i16", 2 },
	[INF_I32] = { "i32", 4 },   [INF_I64] = { "i64", 8 }, [INF_F16] = { "f16", 2 },	  [INF_BF16] = { "bf16", 2 },
	[INF_F32] = { "f32", 4 },   [INF_F64] = { "f64", 8 }, [INF_DTYPE_NONE] = { "?", 0 },
};

START_TEST(dtype)
{
	uint8_t i = (uint8_t)_i;

	ck_assert_uint_eq(inf_dtype_size(i), i < INF_DTYPE_N ? types[i].bytes : 0);
	ck_assert_str_eq(inf_dtype_text(i), i < INF_DTYPE_N ? types[i].text : "?");
	if (inf_dtype_size(i))
		ck_assert_uint_eq(inf_dtype_parse(inf_dtype_text(i)), i);
}
END_TEST

START_TEST(dtype_unknown)
{
	const char *texts[] = { "", "?", "f", "f32 ", "F32", "float32", "u16", "f8" };

	for (size_t i = 0; i < N(texts); i++)
		ck_assert_uint_eq(inf_dtype_parse(texts[i]), INF_DTYPE_NONE);
}
END_TEST

/* --- sizes ------------------------------------------------------------------------------------------------- */

static const struct {
	uint8_t dtype, rank, flags;
	int64_t dims[INF_RANK_MAX];
	uint64_t row_bytes;
} shapes[] = {
	{ INF_F32, 0, 0, { 0 }, 4 },
	{ INF_U8, 0, 0, { 0 }, 1 },
	{ INF_F64, 1, 0, { 0 }, 0 },
	{ INF_F64, 1, 0, { 7 }, 56 },
	{ INF_F32, 3, 0, { 2, 0, 3 }, 0 },
	{ INF_F32, 1, INF_SPEC_BATCH, { -1 }, 4 },
	{ INF_BOOL, 4, INF_SPEC_BATCH, { -1, 3, 224, 224 }, 150528 },
	{ INF_BF16, 8, 0, { 1, 2, 1, 2, 1, 2, 1, 2 }, 32 },
	{ INF_I16, 2, INF_SPEC_BATCH, { -1, 0 }, 0 },
	{ INF_U8, 1, 0, { INF_ROW_BYTES_MAX }, INF_ROW_BYTES_MAX },
};

START_TEST(shape)
{
	static const uint32_t rows[] = { 1, 2, 3, 255, 256, INF_ROWS_MAX };
	bool batch = shapes[_i].flags & INF_SPEC_BATCH;
	uint64_t bytes = shapes[_i].row_bytes;
	struct inf_tensor_spec spec = { .name = "t", .dtype = shapes[_i].dtype, .rank = shapes[_i].rank,
					.flags = shapes[_i].flags };

	for (uint32_t i = 0; i < INF_RANK_MAX; i++) {
		spec.dims[i] = shapes[_i].dims[i];
		spec.dims_max[i] = i || !batch ? shapes[_i].dims[i] : 0;
	}
	sig = (struct inf_signature){ .name = "m", .n_inputs = 1, .n_outputs = 1, .batch_max = 1,
				      .flags = batch ? INF_SIG_BATCHABLE : 0, .inputs = { spec }, .outputs = { spec } };
	ck_assert_ptr_null(inf_signature_check(&sig));
	ck_assert_uint_eq(inf_spec_row_bytes(&spec), bytes);
	ck_assert(inf_spec_is_fixed(&spec));
	for (size_t i = 0; i < N(rows); i++) {
		uint64_t all = (rows[i] * bytes + 63) / 64 * 64;

		ck_assert_uint_eq(inf_input_bytes(&sig, rows[i]), all);
		ck_assert_uint_eq(inf_output_offset(&sig, rows[i], 0), 64 + 128);
		ck_assert_uint_eq(inf_output_bytes(&sig, rows[i]), 64 + 128 + all);
	}
}
END_TEST

START_TEST(packing)
{
	ck_assert(inf_signature_is_packed(&sig));
	ck_assert_uint_eq(inf_input_offset(&sig, 3, 0), 0);
	ck_assert_uint_eq(inf_input_offset(&sig, 3, 1), 192); /* 3 rows of 60 bytes, to the next 64 */
	ck_assert_uint_eq(inf_input_bytes(&sig, 3), 192 + 64);
	make_varying();
	ck_assert(!inf_signature_is_packed(&sig));
	ck_assert_uint_eq(inf_spec_row_bytes(&sig.inputs[0]), 512 * 4);
	ck_assert_uint_eq(inf_input_bytes(&sig, 1), 2048 + 64);
}
END_TEST

/* 16 outputs: heads, offsets and sizes agree with each other. */
START_TEST(offsets_follow)
{
	sig.n_outputs = INF_OUTPUTS_MAX;
	for (uint32_t i = 0; i < INF_OUTPUTS_MAX; i++) {
		sig.outputs[i] = sig.outputs[0];
		sig.outputs[i].name[0] = (char)('a' + i);
		sig.outputs[i].dims[1] = sig.outputs[i].dims_max[1] = i;
	}
	ck_assert_ptr_null(inf_signature_check(&sig));
	for (uint32_t rows = 1; rows < 40; rows++) {
		uint64_t at = inf_out_head_bytes(INF_OUTPUTS_MAX);

		for (uint32_t i = 0; i < INF_OUTPUTS_MAX; i++) {
			ck_assert_uint_eq(inf_output_offset(&sig, rows, i), at);
			ck_assert_uint_eq(at % INF_TENSOR_ALIGN, 0);
			at += inf_align64(rows * inf_spec_row_bytes(&sig.outputs[i]));
		}
		ck_assert_uint_eq(inf_output_bytes(&sig, rows), at);
	}
}
END_TEST

/* --- hash --------------------------------------------------------------------------------------------------- */

START_TEST(same_content_same_hash)
{
	uint64_t hash = inf_signature_hash(&sig);
	uint8_t *byte = (uint8_t *)&sig;

	sig.version = 77;
	sig.hash = 88;
	ck_assert_uint_eq(inf_signature_hash(&sig), hash);
	for (size_t i = 0; i < sizeof(sig); i++) {
		bool ignored = (i >= offsetof(struct inf_signature, version) &&
				i < offsetof(struct inf_signature, version) + sizeof(sig.version)) ||
			       (i >= offsetof(struct inf_signature, hash) &&
				i < offsetof(struct inf_signature, hash) + sizeof(sig.hash));

		byte[i] ^= 1;
		if (ignored)
			ck_assert_uint_eq(inf_signature_hash(&sig), hash);
		else
			ck_assert_uint_ne(inf_signature_hash(&sig), hash);
		byte[i] ^= 1;
	}
}
END_TEST

/* --- the check ------------------------------------------------------------------------------------------------ */

static void name_empty(void) { memset(sig.name, 0, sizeof(sig.name)); }
static void name_full(void) { memset(sig.name, 'a', sizeof(sig.name)); }
static void name_slash(void) { sig.name[2] = '/'; }
static void name_space(void) { sig.name[2] = ' '; }
static void name_newline(void) { sig.name[4] = '\n'; }
static void name_high(void) { sig.name[1] = (char)0xc3; }
static void name_tail(void) { sig.name[40] = 'x'; }
static void name_hidden(void) { sig.name[0] = '.'; }
static void name_option(void) { sig.name[0] = '-'; }
static void flag_unknown(void) { sig.flags |= 8; }
static void reserved(void) { sig.reserved = 1; }
static void no_inputs(void) { sig.n_inputs = 0; }
static void many_inputs(void) { sig.n_inputs = 17; }
static void all_inputs(void) { sig.n_inputs = UINT32_MAX; }
static void no_outputs(void) { sig.n_outputs = 0; }
static void many_outputs(void) { sig.n_outputs = 17; }
static void fewer_inputs(void) { sig.n_inputs = 1; }
static void unused_output(void) { sig.outputs[15].rank = 1; }
static void batch_zero(void) { sig.batch_max = 0; }
static void batch_many(void) { sig.batch_max = INF_BATCH_MAX + 1; }
static void batch_without(void) { sig.flags = 0; }
static void stateful(void) { sig.flags |= INF_SIG_STATEFUL; }
static void tensor_name(void) { sig.inputs[1].name[0] = '\0'; }
static void tensor_name_long(void) { memset(sig.outputs[0].name, 'a', INF_NAME_BYTES); }
static void tensor_twice(void) { memcpy(sig.inputs[1].name, sig.inputs[0].name, INF_NAME_BYTES); }
static void dtype_none(void) { sig.inputs[0].dtype = 0; }
static void dtype_past(void) { sig.inputs[0].dtype = INF_DTYPE_N; }
static void dtype_ones(void) { sig.outputs[0].dtype = 255; }
static void rank_past(void) { sig.inputs[0].rank = INF_RANK_MAX + 1; }
static void rank_ones(void) { sig.inputs[0].rank = 255; }
static void spec_flag(void) { sig.inputs[0].flags |= 8; }
static void spec_reserved(void) { sig.inputs[0].reserved[4] = 1; }
static void dims_unused(void) { sig.inputs[0].dims[3] = 1; }
static void dims_max_unused(void) { sig.inputs[0].dims_max[7] = 1; }
static void no_batch_flag(void) { sig.inputs[0].flags = 0; sig.inputs[0].dims[0] = sig.inputs[0].dims_max[0] = 1; }
static void batch_not_first(void) { sig.inputs[0].dims[0] = 1; }
static void batch_bound(void) { sig.inputs[0].dims_max[0] = 8; }
static void batch_scalar(void) { sig.inputs[1].rank = 0; sig.inputs[1].dims[0] = 0; }
static void batch_varies(void) { sig.inputs[0].dims[1] = -1; }
static void batch_output_varies(void) { sig.outputs[0].dims[1] = -1; }
static void dim_negative(void) { sig.inputs[0].dims[1] = -2; }
static void dim_min(void) { sig.inputs[0].dims[1] = sig.inputs[0].dims_max[1] = INT64_MIN; }
static void dim_bound(void) { sig.inputs[0].dims_max[1] = 4; }
static void dim_huge(void) { sig.inputs[0].dims[1] = sig.inputs[0].dims_max[1] = INT64_MAX; }
static void dim_wraps(void)
{
	/* 4 * 2^31 * 2^31 == 2^64, which is 0 in 64 bits. */
	sig.inputs[0].dims[1] = sig.inputs[0].dims_max[1] = 1ll << 31;
	sig.inputs[0].dims[2] = sig.inputs[0].dims_max[2] = 1ll << 31;
}
static void dim_huge_but_empty(void)
{
	sig.inputs[0].dims[1] = sig.inputs[0].dims_max[1] = 0;
	sig.inputs[0].dims[2] = sig.inputs[0].dims_max[2] = 1ll << 40;
}
static void row_large(void) { sig.outputs[0].dims[1] = sig.outputs[0].dims_max[1] = (1 << 28) + 1; }
static void sum_large(void) { sig.inputs[0].dims[1] = sig.inputs[0].dims_max[1] = (1 << 28) / 5; }
static void range_float(void) { sig.inputs[0].flags |= INF_SPEC_RANGE; }
static void finite_integer(void) { sig.inputs[1].flags |= INF_SPEC_FINITE; }
static void range_reversed(void) { sig.inputs[1].value_min = 10; }
static void range_unflagged(void) { sig.inputs[0].value_max = 1; }
static void range_lost(void) { sig.inputs[1].flags = INF_SPEC_BATCH; }

static void (*const bad[])(void) = {
	name_empty, name_full, name_slash, name_space, name_newline, name_high, name_tail, name_hidden, name_option,
	flag_unknown, reserved, no_inputs, many_inputs, all_inputs, no_outputs, many_outputs, fewer_inputs,
	unused_output, batch_zero, batch_many, batch_without, stateful, tensor_name, tensor_name_long, tensor_twice,
	dtype_none, dtype_past, dtype_ones, rank_past, rank_ones, spec_flag, spec_reserved, dims_unused,
	dims_max_unused, no_batch_flag, batch_not_first, batch_bound, batch_scalar, batch_varies,
	batch_output_varies, dim_negative, dim_min, dim_bound, dim_huge, dim_wraps, dim_huge_but_empty, row_large,
	sum_large, range_float, finite_integer, range_reversed, range_unflagged, range_lost,
};

START_TEST(refused)
{
	const char *text;

	ck_assert_ptr_null(inf_signature_check(&sig));
	bad[_i]();
	text = inf_signature_check(&sig);
	ck_assert_msg(text && *text, "rule %d passes", _i);
}
END_TEST

static void varying_bound(void) { sig.inputs[0].dims_max[1] = -1; }
static void varying_large(void) { sig.inputs[0].dims_max[1] = INT64_MAX; }
static void varying_batch(void) { sig.batch_max = 2; }
static void varying_flag(void) { sig.inputs[0].flags = INF_SPEC_BATCH; }
static void (*const bad_varying[])(void) = { varying_bound, varying_large, varying_batch, varying_flag };

START_TEST(refused_varying)
{
	make_varying();
	ck_assert_ptr_null(inf_signature_check(&sig));
	bad_varying[_i]();
	ck_assert_ptr_nonnull(inf_signature_check(&sig));
}
END_TEST

START_TEST(accepted)
{
	memset(sig.name, 'a', INF_NAME_BYTES - 1);
	sig.batch_max = INF_BATCH_MAX;
	ck_assert_ptr_null(inf_signature_check(&sig));
	sig.batch_max = 1;
	sig.flags |= INF_SIG_STATEFUL | INF_SIG_BUILTIN;
	sig.inputs[1].value_min = INT64_MIN;
	sig.inputs[1].value_max = INT64_MAX;
	ck_assert_ptr_null(inf_signature_check(&sig));
	/* Exactly the bound: 2^30 bytes. */
	sig.outputs[0].dims[1] = sig.outputs[0].dims_max[1] = 1 << 28;
	ck_assert_ptr_null(inf_signature_check(&sig));
}
END_TEST

/* Random bits never make the arithmetic of an accepted signature leave its bounds. */
START_TEST(flipped)
{
	unsigned int seed = 7;

	for (unsigned int round = 0; round < 100000; round++) {
		uint8_t *byte = (uint8_t *)&sig;

		round & 1 ? setup() : make_varying();
		for (unsigned int i = 0; i < 1 + round % 3; i++)
			byte[(unsigned int)rand_r(&seed) % (96 + 2 * 216)] ^= (uint8_t)(1u << (rand_r(&seed) & 7));
		if (inf_signature_check(&sig))
			continue;
		ck_assert_uint_le(inf_input_bytes(&sig, 1), INF_ROW_BYTES_MAX);
		ck_assert_uint_le(inf_output_bytes(&sig, INF_ROWS_MAX), INF_ROW_BYTES_MAX * INF_ROWS_MAX + (1 << 20));
	}
}
END_TEST

Suite *suite_shm_signature(void);
Suite *suite_shm_signature(void)
{
	Suite *suite = suite_create("shm_signature");
	TCase *tcase = tcase_create("signature");

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_loop_test(tcase, dtype, 0, 256);
	tcase_add_test(tcase, dtype_unknown);
	tcase_add_loop_test(tcase, shape, 0, N(shapes));
	tcase_add_test(tcase, packing);
	tcase_add_test(tcase, offsets_follow);
	tcase_add_test(tcase, same_content_same_hash);
	tcase_add_loop_test(tcase, refused, 0, N(bad));
	tcase_add_loop_test(tcase, refused_varying, 0, N(bad_varying));
	tcase_add_test(tcase, accepted);
	tcase_add_test(tcase, flipped);
	suite_add_tcase(suite, tcase);
	return suite;
}
