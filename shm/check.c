/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c - pure validators. Hot file.
 *
 * Every argument called `copy` is private memory. Ranges are checked in subtract form, so that no client's value can
 * overflow; the order of checks is: what ends the session first, then what gets a status.
 */
#include "shm/check.h"
#include "shm/signature.h"
#include <string.h>

#define SESSION_END INF_SESSION_END
static const struct {
	const char *name;
	int effect;
	const char *text;
} verdicts[INF_VERDICT_N] = {
	[INF_VERDICT_OK] = { "OK", INF_OK, "nothing is wrong" },
#define ROW(name, effect, text) [INF_VERDICT_##name] = { #name, effect, text },
	INF_VERDICTS(ROW)
#undef ROW
};
#undef SESSION_END

int inf_verdict_effect(enum inf_verdict verdict)
{
	return (unsigned int)verdict < INF_VERDICT_N ? verdicts[verdict].effect : INF_SESSION_END;
}

const char *inf_verdict_name(enum inf_verdict verdict)
{
	return (unsigned int)verdict < INF_VERDICT_N ? verdicts[verdict].name : "?";
}

const char *inf_verdict_text(enum inf_verdict verdict)
{
	return (unsigned int)verdict < INF_VERDICT_N ? verdicts[verdict].text : "?";
}

enum inf_verdict inf_check_submission(const struct inf_submission *copy)
{
	if (copy->opcode != INF_OP_INFER && copy->opcode != INF_OP_PING)
		return INF_VERDICT_OPCODE;
	if (copy->mem_kind > INF_MEM_DEVICE)
		return INF_VERDICT_MEM_KIND_UNKNOWN;
	if (copy->flags & ~(copy->mem_kind == INF_MEM_DEVICE ? INF_SUB_FLAGS_DEVICE : INF_SUB_FLAGS_REGION))
		return INF_VERDICT_FLAGS;
	if (copy->priority > INF_PRIORITY_MAX + 1)
		return INF_VERDICT_RESERVED;
	if (copy->timeline > (copy->mem_kind == INF_MEM_DEVICE ? INF_TIMELINES : 0))
		return INF_VERDICT_TIMELINE;
	return INF_VERDICT_OK;
}

static const struct inf_check_region *find_region(const struct inf_check_region *regions, uint32_t n_regions, uint32_t region)
{
	for (uint32_t i = 0; i < n_regions; i++)
		if (regions[i].id == region && region != INF_CHECK_NO_REGION)
			return &regions[i];
	return NULL;
}

enum inf_verdict inf_check_range(const struct inf_check_region *regions, uint32_t n_regions, uint32_t region,
				 uint64_t offset, uint64_t length)
{
	const struct inf_check_region *found = find_region(regions, n_regions, region);

	if (!found)
		return INF_VERDICT_REGION;
	if (offset % INF_TENSOR_ALIGN)
		return INF_VERDICT_ALIGN;
	if (offset < found->arena_offset || offset > found->bytes || length > found->bytes - offset)
		return INF_VERDICT_OFFSET;
	return INF_VERDICT_OK;
}

/* What of it lies in twins, but for the extension tensors; its region is known to exist. */
static enum inf_verdict check_twins(const struct inf_submission *copy, const struct inf_check_model *model,
				    const struct inf_check_region *regions, uint32_t n_regions)
{
	uint32_t inputs = copy->flags >> INF_SUB_TWIN_SHIFT;
	const struct inf_check_region *region = find_region(regions, n_regions, copy->region);
	uint64_t end = copy->offset + inf_align64(copy->length); /* checked: within the region, but for the rounding */

	if (copy->flags & INF_SUB_TWIN_OUT &&
	    (!region->has_twin || end > region->bytes || inf_output_bytes(model->signature, copy->rows) > region->bytes - end))
		return INF_VERDICT_TWIN_OUT;
	if (inputs >> model->signature->n_inputs || (inputs && !(copy->flags & INF_SUB_EXT) && !region->has_twin))
		return INF_VERDICT_TWIN;
	return INF_VERDICT_OK;
}

enum inf_verdict inf_check_infer(const struct inf_submission *copy, const struct inf_check_model *model,
				 const struct inf_check_region *regions, uint32_t n_regions)
{
	bool ext = copy->flags & INF_SUB_EXT;
	enum inf_verdict verdict;

	if (copy->mem_kind == INF_MEM_OUTPUT)
		return INF_VERDICT_MEM_KIND;
	if (!model->signature)
		return INF_VERDICT_MODEL;
	if (!copy->rows || copy->rows > model->rows_max)
		return INF_VERDICT_ROWS;
	if (!ext && !model->packed)
		return INF_VERDICT_EXT_MISSING;
	if (ext && copy->length != model->signature->n_inputs * sizeof(struct inf_ext_tensor))
		return INF_VERDICT_EXT_COUNT;
	if (!ext && copy->length != (copy->rows == 1 ? model->row_bytes : inf_input_bytes(model->signature, copy->rows)))
		return INF_VERDICT_LENGTH;
	verdict = inf_check_range(regions, n_regions, copy->region, copy->offset, copy->length);
	if (!verdict && copy->mem_kind == INF_MEM_DEVICE)
		verdict = check_twins(copy, model, regions, n_regions);
	return verdict;
}

/* Shape of one extension tensor against its specification; its length must be exact. */
static enum inf_verdict check_ext_shape(const struct inf_ext_tensor *copy, const struct inf_tensor_spec *spec,
					uint32_t rows)
{
	uint64_t bytes = inf_dtype_size(spec->dtype);

	if (copy->dtype != spec->dtype)
		return INF_VERDICT_EXT_DTYPE;
	if (copy->rank != spec->rank)
		return INF_VERDICT_EXT_RANK;
	for (uint32_t i = 0; i < INF_RANK_MAX; i++) {
		int64_t dim = copy->dims[i], wanted = i < spec->rank ? spec->dims[i] : 0;

		if (i == 0 && spec->flags & INF_SPEC_BATCH)
			wanted = rows;
		if (wanted >= 0 ? dim != wanted : dim < 0 || dim > spec->dims_max[i])
			return INF_VERDICT_EXT_DIMS;
		/* No overflow: rows <= INF_ROWS_MAX and a row is bounded by the checked signature. */
		if (i < spec->rank)
			bytes *= (uint64_t)dim;
	}
	return copy->length == bytes ? INF_VERDICT_OK : INF_VERDICT_EXT_LENGTH;
}

/* The range verdicts of a tensor have names of their own. */
static enum inf_verdict as_ext(enum inf_verdict verdict)
{
	switch (verdict) {
	case INF_VERDICT_REGION:
		return INF_VERDICT_EXT_REGION;
	case INF_VERDICT_OFFSET:
		return INF_VERDICT_EXT_OFFSET;
	case INF_VERDICT_ALIGN:
		return INF_VERDICT_EXT_ALIGN;
	default:
		return verdict;
	}
}

static bool overlap(const struct inf_ext_tensor *a, const struct inf_ext_tensor *b)
{
	return a->region == b->region && a->length && b->length && a->offset < b->offset + b->length &&
	       b->offset < a->offset + a->length;
}

static enum inf_verdict check_ext_memory(const struct inf_ext_tensor *copy, bool in_twin, const struct inf_check_region *regions,
					 uint32_t n_regions)
{
	enum inf_verdict verdict = as_ext(inf_check_range(regions, n_regions, copy->region, copy->offset, copy->length));

	if (!verdict && in_twin && !find_region(regions, n_regions, copy->region)->has_twin)
		return INF_VERDICT_EXT_TWIN;
	return verdict;
}

enum inf_verdict inf_check_ext(const struct inf_ext_tensor *copies, uint32_t n_tensors, const struct inf_submission *copy,
			       const struct inf_check_model *model, const struct inf_check_region *regions,
			       uint32_t n_regions)
{
	if (n_tensors != model->signature->n_inputs)
		return INF_VERDICT_EXT_COUNT;
	for (uint32_t i = 0; i < n_tensors; i++)
		if (copies[i].reserved || copies[i].reserved1)
			return INF_VERDICT_EXT_RESERVED;
	for (uint32_t i = 0; i < n_tensors; i++) {
		enum inf_verdict verdict = check_ext_shape(&copies[i], &model->signature->inputs[i], copy->rows);

		if (!verdict)
			verdict = check_ext_memory(&copies[i], copy->flags >> INF_SUB_TWIN_SHIFT & 1u << i, regions,
						   n_regions);
		if (verdict)
			return verdict;
		for (uint32_t k = 0; k < i; k++)
			if (overlap(&copies[k], &copies[i]))
				return INF_VERDICT_EXT_OVERLAP;
	}
	return INF_VERDICT_OK;
}

enum inf_verdict inf_check_cq_head(uint64_t head, uint64_t old_head, uint64_t tail)
{
	/* Distances from the old head: positions never run backwards, so neither side can wrap. */
	return head - old_head <= tail - old_head && tail - head <= INF_SLOTS ? INF_VERDICT_OK : INF_VERDICT_CQ_HEAD;
}

enum inf_verdict inf_check_lanes(uint32_t n_lanes, uint32_t old_n_lanes)
{
	return n_lanes >= old_n_lanes && n_lanes <= INF_LANES ? INF_VERDICT_OK : INF_VERDICT_LANES;
}
