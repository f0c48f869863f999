/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - where the rows of a request lie, whether they may be used, and what is said about them. Hot file. */
#include "broker/executor/rows.h"
#include "broker/executor/regions.h"
#include "broker/executor/values.h"
#include "shm/signature.h"
#include <string.h>

const void *rows_input_at(const struct batch *batch, const struct inf_batch_entry *entry, const struct loaded_model *model,
			  uint32_t i, const struct inf_ext_tensor **ret_ext)
{
	uint64_t row_bytes = model->row_bytes[i];
	uint64_t bytes = entry->n_rows * row_bytes, skip = entry->first_row * row_bytes;
	uint32_t twin = rows_is_in_twin(entry, i) ? INF_TWIN_BIT : 0;

	*ret_ext = NULL;
	if (entry->flags & INF_ENTRY_EXT) {
		const struct inf_ext_tensor *ext = &batch->ext[entry->ext_idx + i];

		*ret_ext = ext;
		if (model->signature.flags & INF_SIG_BATCHABLE)
			return regions_at(entry->session, ext->region | twin, ext->offset + skip, bytes, false);
		return regions_at(entry->session, ext->region | twin, ext->offset, ext->length, false);
	}
	return regions_at(entry->session, entry->in_region | twin,
			  entry->in_offset + inf_input_offset(&model->signature, entry->rows_total, i) + skip, bytes, false);
}

void rows_set_shape(struct inf_backend_tensor *tensor, const struct inf_tensor_spec *spec, uint32_t rows,
		    const struct inf_ext_tensor *ext)
{
	tensor->dtype = spec->dtype;
	tensor->rank = spec->rank;
	tensor->bytes = inf_dtype_size(spec->dtype);
	for (uint32_t d = 0; d < spec->rank; d++) {
		tensor->dims[d] = ext ? ext->dims[d] : spec->dims[d];
		if (!d && spec->flags & INF_SPEC_BATCH)
			tensor->dims[d] = rows;
		tensor->bytes *= (uint64_t)tensor->dims[d];
	}
}

void rows_set_largest(struct inf_backend_tensor *tensor, const struct inf_tensor_spec *spec, uint32_t rows)
{
	tensor->dtype = spec->dtype;
	tensor->rank = spec->rank;
	tensor->bytes = rows * inf_spec_row_bytes(spec);
	for (uint32_t d = 0; d < spec->rank; d++)
		tensor->dims[d] = !d && spec->flags & INF_SPEC_BATCH ? (int64_t)rows : spec->dims_max[d];
}

bool rows_is_judged(const struct inf_tensor_spec *spec)
{
	return spec->flags & (INF_SPEC_RANGE | INF_SPEC_FINITE);
}

bool rows_must_judge(const struct loaded_model *model)
{
	for (uint32_t i = 0; i < model->signature.n_inputs; i++)
		if (rows_is_judged(&model->signature.inputs[i]))
			return true;
	return false;
}

bool rows_are_allowed(const void *data, const struct inf_tensor_spec *spec, uint64_t bytes)
{
	uint64_t n = bytes / inf_dtype_size(spec->dtype);

	if (spec->flags & INF_SPEC_RANGE)
		return values_in_range(data, spec->dtype, n, spec->value_min, spec->value_max);
	return !(spec->flags & INF_SPEC_FINITE) || values_are_finite(data, spec->dtype, n);
}

void rows_write_head(uint8_t *block, const struct inf_batch_entry *entry, const struct loaded_model *model,
		     const struct inf_backend_tensor *outputs)
{
	const struct inf_signature *sig = &model->signature;
	struct inf_out_head *head = (void *)block;
	struct inf_out_tensor *tensors = (void *)(block + sizeof(*head));

	head->n_outputs = sig->n_outputs;
	head->rows = entry->rows_total;
	head->flags = model->declared ? INF_OUT_DECLARED : 0;
	if (model->declared)
		return;
	for (uint32_t k = 0; k < sig->n_outputs; k++) {
		bool batch = sig->flags & INF_SIG_BATCHABLE;

		tensors[k] = (struct inf_out_tensor){
			.dtype = outputs[k].dtype,
			.rank = outputs[k].rank,
			.offset = inf_output_offset(sig, entry->rows_total, k),
			.bytes = batch ? entry->rows_total * model->out_row_bytes[k] : outputs[k].bytes,
		};
		memcpy(tensors[k].dims, outputs[k].dims, sizeof(tensors[k].dims));
		if (batch)
			tensors[k].dims[0] = entry->rows_total;
	}
}
