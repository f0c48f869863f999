/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_shm_check.c - the validators: one good descriptor, and what each single change to it gets.
 */
#include "shm/check.h"
#include "shm/signature.h"
#include <check.h>
#include <string.h>

#define ARENA 0x60000u
#define BYTES (1u << 20)

static struct inf_signature signature;
static struct inf_check_model model;
/* The session's first region, a later one, and a hole in the table. */
static const struct inf_check_region regions[] = {
	{ 0, true, ARENA, BYTES },
	{ INF_CHECK_NO_REGION, true, 0, 1ull << 40 },
	{ 7, false, 0, 4096 },
};
#define N_REGIONS 3u

static void setup(void)
{
	struct inf_tensor_spec spec = { .name = "x",
					.dtype = INF_F32,
					.rank = 2,
					.flags = INF_SPEC_BATCH,
					.dims = { -1, 16 },
					.dims_max = { 0, 16 } };

	signature = (struct inf_signature){ .name = "m",
					    .version = 1,
					    .flags = INF_SIG_BATCHABLE,
					    .n_inputs = 2,
					    .n_outputs = 1,
					    .batch_max = 8 };
	signature.inputs[0] = signature.inputs[1] = signature.outputs[0] = spec;
	signature.inputs[1].name[0] = 'y';
	ck_assert_ptr_null(inf_signature_check(&signature));
	model = (struct inf_check_model){ .signature = &signature,
					  .row_bytes = inf_input_bytes(&signature, 1),
					  .rows_max = INF_ROWS_MAX,
					  .packed = true };
}

static struct inf_submission good(void)
{
	return (struct inf_submission){
		.opcode = INF_OP_INFER, .offset = ARENA, .length = model.row_bytes, .rows = 1
	};
}

static enum inf_verdict judge(const struct inf_submission *sub)
{
	enum inf_verdict verdict = inf_check_submission(sub);

	return verdict ? verdict : inf_check_infer(sub, &model, regions, N_REGIONS);
}

#define AFTER(change, wanted)                                        \
	do {                                                         \
		struct inf_submission sub = good();                  \
		sub.change;                                          \
		ck_assert_int_eq(judge(&sub), INF_VERDICT_##wanted); \
	} while (0)

START_TEST(fields)
{
	AFTER(tag = UINT64_MAX, OK);
	AFTER(deadline_ns = UINT64_MAX, OK);
	AFTER(seq = UINT64_MAX, OK);
	AFTER(opcode = 0, OPCODE);
	AFTER(opcode = 3, OPCODE);
	AFTER(opcode = 255, OPCODE);
	AFTER(mem_kind = INF_MEM_OUTPUT, MEM_KIND);
	AFTER(mem_kind = 3, MEM_KIND_UNKNOWN);
	AFTER(mem_kind = 255, MEM_KIND_UNKNOWN);
	AFTER(flags = 2, FLAGS);
	AFTER(flags = 1u << 31, FLAGS);
	AFTER(flags = UINT32_MAX, FLAGS);
	AFTER(priority = INF_PRIORITY_MAX + 1, OK);
	AFTER(priority = INF_PRIORITY_MAX + 2, RESERVED);
	AFTER(priority = UINT16_MAX, RESERVED);
	AFTER(timeline = 1, TIMELINE);
	AFTER(timeline = 0x8000, TIMELINE);
	AFTER(stamp = UINT32_MAX, OK);
	AFTER(rows = 0, ROWS);
	AFTER(rows = 2, LENGTH); /* the length is one row's */
	AFTER(rows = INF_ROWS_MAX + 1, ROWS);
	AFTER(rows = UINT32_MAX, ROWS);
	AFTER(length = 0, LENGTH);
	AFTER(length -= 1, LENGTH);
	AFTER(length += 64, LENGTH);
	AFTER(length = UINT64_MAX, LENGTH);
	AFTER(region = 1, REGION);
	AFTER(region = INF_CHECK_NO_REGION, REGION);
	AFTER(offset += 64, OK);
	AFTER(offset += 1, ALIGN);
	AFTER(offset = 63, ALIGN);
	AFTER(offset = 0, OFFSET); /* control words */
	AFTER(offset = ARENA - 64, OFFSET);
	AFTER(offset = BYTES - model.row_bytes, OK);
	AFTER(offset = BYTES - model.row_bytes + 64, OFFSET);
	AFTER(offset = BYTES, OFFSET);
	AFTER(offset = BYTES + 64, OFFSET);
	AFTER(offset = 1ull << 63, OFFSET);
	AFTER(offset = UINT64_MAX - 63, OFFSET);
	AFTER(flags = INF_SUB_EXT, EXT_COUNT);
	AFTER(flags = INF_SUB_EXT; sub.length = 2 * sizeof(struct inf_ext_tensor), OK);
	AFTER(region = 7; sub.offset = 0, OK); /* a later region is arena from its start */
	AFTER(region = 7; sub.offset = 4096 - 64, OFFSET);
}
END_TEST

#define TWIN(input) (1u << (INF_SUB_TWIN_SHIFT + (input)))

/* The same of a submission that may use device memory; the first region has a twin. */
#define DEVICE_AFTER(change, wanted) AFTER(mem_kind = INF_MEM_DEVICE; sub.change, wanted)

START_TEST(device_memory)
{
	uint64_t out_bytes = inf_output_bytes(&signature, 1);

	DEVICE_AFTER(rows = 1, OK);
	DEVICE_AFTER(stamp = 1, OK);
	DEVICE_AFTER(timeline = INF_TIMELINES, OK);
	DEVICE_AFTER(timeline = INF_TIMELINES + 1, TIMELINE);
	DEVICE_AFTER(flags = 4, FLAGS);
	DEVICE_AFTER(flags = 0x8000, FLAGS);
	DEVICE_AFTER(flags = TWIN(0) | TWIN(1) | INF_SUB_TWIN_OUT, OK);
	DEVICE_AFTER(flags = TWIN(2), TWIN);
	DEVICE_AFTER(flags = TWIN(15), TWIN);
	DEVICE_AFTER(flags = TWIN(0); sub.offset = BYTES, OFFSET);
	DEVICE_AFTER(flags = TWIN(0); sub.region = 7; sub.offset = 0, TWIN);
	DEVICE_AFTER(flags = INF_SUB_TWIN_OUT; sub.region = 7; sub.offset = 0, TWIN_OUT);
	DEVICE_AFTER(flags = 0; sub.region = 7; sub.offset = 0, OK);
	/* Results lie behind the inputs. */
	DEVICE_AFTER(flags = INF_SUB_TWIN_OUT; sub.offset = BYTES - model.row_bytes - out_bytes, OK);
	DEVICE_AFTER(flags = INF_SUB_TWIN_OUT; sub.offset = BYTES - model.row_bytes - out_bytes + 64, TWIN_OUT);
	DEVICE_AFTER(flags = INF_SUB_TWIN_OUT; sub.offset = BYTES - model.row_bytes, TWIN_OUT);
	DEVICE_AFTER(flags = INF_SUB_TWIN_OUT | INF_SUB_EXT; sub.length = 2 * sizeof(struct inf_ext_tensor), OK);
	DEVICE_AFTER(flags = TWIN(0) | INF_SUB_EXT; sub.length = 2 * sizeof(struct inf_ext_tensor);
		     sub.region = 7; sub.offset = 0, OK); /* where its tensors are is inf_check_ext()'s to see */
	AFTER(flags = TWIN(0), FLAGS);
	AFTER(flags = INF_SUB_TWIN_OUT, FLAGS);
}
END_TEST

START_TEST(models)
{
	struct inf_submission sub = good();

	model.rows_max = 1;
	sub.rows = 2;
	sub.length = inf_input_bytes(&signature, 2);
	ck_assert_int_eq(judge(&sub), INF_VERDICT_ROWS);
	model.rows_max = INF_ROWS_MAX;
	ck_assert_int_eq(judge(&sub), INF_VERDICT_OK);
	model.packed = false;
	ck_assert_int_eq(judge(&sub), INF_VERDICT_EXT_MISSING);
	model.signature = NULL;
	ck_assert_int_eq(judge(&sub), INF_VERDICT_MODEL);
}
END_TEST

/* Every offset and length of a small region, against arithmetic that cannot overflow. */
START_TEST(ranges)
{
	static const uint64_t edges[] = { 0,
					  64,
					  4032,
					  4096,
					  4160,
					  8192,
					  1u << 31,
					  1ull << 32,
					  (1ull << 63) - 64,
					  1ull << 63,
					  UINT64_MAX - 63,
					  UINT64_MAX - 4095 };
	static const uint64_t lengths[] = { 0,
					    1,
					    64,
					    4032,
					    4095,
					    4096,
					    4097,
					    1u << 31,
					    1ull << 32,
					    1ull << 63,
					    UINT64_MAX - 63,
					    UINT64_MAX };

	for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++)
		for (size_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++) {
			bool inside = (unsigned __int128)edges[i] + lengths[k] <= 4096;

			ck_assert_int_eq(inf_check_range(regions, N_REGIONS, 7, edges[i],
							 lengths[k]),
					 inside ? INF_VERDICT_OK : INF_VERDICT_OFFSET);
		}
	ck_assert_int_eq(inf_check_range(regions, 0, 7, 0, 0), INF_VERDICT_REGION);
	ck_assert_int_eq(inf_check_range(regions, N_REGIONS, INF_CHECK_NO_REGION, 0, 0),
			 INF_VERDICT_REGION);
}
END_TEST

/* --- extension tensors --- */

static struct inf_ext_tensor ext[2];
static struct inf_submission of_ext;

static void good_ext(void)
{
	for (unsigned int i = 0; i < 2; i++)
		ext[i] = (struct inf_ext_tensor){ .dtype = INF_F32,
						  .rank = 2,
						  .offset = ARENA + 256 * i,
						  .length = 3 * 64,
						  .dims = { 3, 16 } };
	of_ext = (struct inf_submission){ .rows = 3 };
}

#define EXT_AFTER(change, wanted)                                                      \
	do {                                                                           \
		good_ext();                                                            \
		ext[1].change;                                                         \
		ck_assert_int_eq(inf_check_ext(ext, 2, &of_ext, &model, regions, N_REGIONS), \
				 INF_VERDICT_##wanted);                                \
	} while (0)

START_TEST(extension)
{
	EXT_AFTER(rank = 2, OK);
	EXT_AFTER(reserved = 1, EXT_RESERVED);
	EXT_AFTER(reserved1 = 1ull << 63, EXT_RESERVED);
	EXT_AFTER(dtype = INF_F64, EXT_DTYPE);
	EXT_AFTER(dtype = 0, EXT_DTYPE);
	EXT_AFTER(dtype = 255, EXT_DTYPE);
	EXT_AFTER(rank = 1, EXT_RANK);
	EXT_AFTER(rank = 255, EXT_RANK);
	EXT_AFTER(dims[0] = 2, EXT_DIMS);
	EXT_AFTER(dims[1] = 15, EXT_DIMS);
	EXT_AFTER(dims[1] = -16, EXT_DIMS);
	EXT_AFTER(dims[1] = INT64_MIN, EXT_DIMS);
	EXT_AFTER(dims[2] = 1, EXT_DIMS);
	EXT_AFTER(length -= 1, EXT_LENGTH);
	EXT_AFTER(length = UINT64_MAX, EXT_LENGTH);
	EXT_AFTER(region = 1, EXT_REGION);
	EXT_AFTER(offset = 0, EXT_OFFSET);
	EXT_AFTER(offset = BYTES - 128, EXT_OFFSET);
	EXT_AFTER(offset = UINT64_MAX - 63, EXT_OFFSET);
	EXT_AFTER(offset += 4, EXT_ALIGN);
	EXT_AFTER(offset = ARENA, EXT_OVERLAP);
	EXT_AFTER(offset = ARENA + 128, EXT_OVERLAP);
	EXT_AFTER(offset = ARENA + 192, OK); /* they touch */
	EXT_AFTER(offset = ARENA; ext[0].offset = ARENA + 192, OK);
	EXT_AFTER(region = 7; ext[1].offset = 0, OK);
	EXT_AFTER(region = 0; of_ext.flags = TWIN(0) | TWIN(1), OK);
	EXT_AFTER(region = 7; ext[1].offset = 0; of_ext.flags = TWIN(0), OK);
	EXT_AFTER(region = 7; ext[1].offset = 0; of_ext.flags = TWIN(1), EXT_TWIN);
	EXT_AFTER(region = 1; of_ext.flags = TWIN(1), EXT_REGION);
	good_ext();
	ck_assert_int_eq(inf_check_ext(ext, 1, &of_ext, &model, regions, N_REGIONS),
			 INF_VERDICT_EXT_COUNT);
	of_ext.rows = 4;
	ck_assert_int_eq(inf_check_ext(ext, 2, &of_ext, &model, regions, N_REGIONS),
			 INF_VERDICT_EXT_DIMS);
}
END_TEST

START_TEST(varying_extension)
{
	model.packed = false;
	signature.inputs[1].dims[1] = -1;
	EXT_AFTER(dims[1] = 16, OK);
	EXT_AFTER(dims[1] = 17; ext[1].length = 3 * 68, EXT_DIMS);
	EXT_AFTER(dims[1] = -1, EXT_DIMS);
	EXT_AFTER(dims[1] = 4; ext[1].length = 48, OK);
	/* Nothing overlaps nothing. */
	EXT_AFTER(dims[1] = 0; ext[1].length = 0; ext[1].offset = ARENA, OK);
}
END_TEST

/* --- words --- */

START_TEST(completion_head)
{
	ck_assert_int_eq(inf_check_cq_head(100, 100, 100), INF_VERDICT_OK);
	ck_assert_int_eq(inf_check_cq_head(150, 100, 200), INF_VERDICT_OK);
	ck_assert_int_eq(inf_check_cq_head(200, 100, 200), INF_VERDICT_OK);
	ck_assert_int_eq(inf_check_cq_head(201, 100, 200), INF_VERDICT_CQ_HEAD);
	ck_assert_int_eq(inf_check_cq_head(99, 100, 200), INF_VERDICT_CQ_HEAD);
	ck_assert_int_eq(inf_check_cq_head(0, 100, 200), INF_VERDICT_CQ_HEAD);
	ck_assert_int_eq(inf_check_cq_head(UINT64_MAX, 100, 200), INF_VERDICT_CQ_HEAD);
	ck_assert_int_eq(inf_check_cq_head(100 + INF_SLOTS, 100, 100 + INF_SLOTS), INF_VERDICT_OK);
	ck_assert_int_eq(inf_check_cq_head(100, 100, 101 + INF_SLOTS), INF_VERDICT_CQ_HEAD);
}
END_TEST

START_TEST(lanes)
{
	for (uint32_t old = 0; old <= INF_LANES; old++)
		for (uint32_t n = 0; n <= 2 * INF_LANES; n++)
			ck_assert_int_eq(inf_check_lanes(n, old), n >= old && n <= INF_LANES
									  ? INF_VERDICT_OK
									  : INF_VERDICT_LANES);
	ck_assert_int_eq(inf_check_lanes(UINT32_MAX, 0), INF_VERDICT_LANES);
}
END_TEST

START_TEST(table)
{
	for (int i = 0; i < INF_VERDICT_N; i++) {
		enum inf_verdict verdict = (enum inf_verdict)i;

		ck_assert_ptr_nonnull(inf_verdict_name(verdict));
		ck_assert_uint_gt(strlen(inf_verdict_text(verdict)), 5);
		if (verdict == INF_VERDICT_OK)
			ck_assert_int_eq(inf_verdict_effect(verdict), INF_OK);
		else
			ck_assert(inf_verdict_effect(verdict) == INF_SESSION_END ||
				  (inf_verdict_effect(verdict) > INF_OK &&
				   inf_verdict_effect(verdict) < INF_STATUS_N));
	}
	ck_assert_str_eq(inf_verdict_name((enum inf_verdict)INF_VERDICT_N), "?");
	ck_assert_int_eq(inf_verdict_effect((enum inf_verdict) - 1), INF_SESSION_END);
}
END_TEST

Suite *suite_shm_check(void);
Suite *suite_shm_check(void)
{
	Suite *suite = suite_create("shm_check");
	TCase *hostile = tcase_create("hostile");

	tcase_add_checked_fixture(hostile, setup, NULL);
	tcase_add_test(hostile, fields);
	tcase_add_test(hostile, device_memory);
	tcase_add_test(hostile, models);
	tcase_add_test(hostile, ranges);
	tcase_add_test(hostile, extension);
	tcase_add_test(hostile, varying_extension);
	tcase_add_test(hostile, completion_head);
	tcase_add_test(hostile, lanes);
	tcase_add_test(hostile, table);
	suite_add_tcase(suite, hostile);
	return suite;
}
