/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.c - the table at the head of an output block, and what it points at.
 *
 * An executor wrote it, and an executor may be broken or still writing: each word is loaded once
 * into private memory, the copy is checked against the signature and the completion, and pointers
 * are made from the copy alone. So a pointer that is given out covers mapped memory of the promised
 * shape, whatever happens to the bytes.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/signature.h"
#include <errno.h>

/* True where `dim` is what the signature allows at `axis`. */
static bool is_dim_allowed(const struct inf_tensor_spec *spec, uint32_t axis, uint32_t rows,
			   int64_t dim)
{
	if (axis == 0 && (spec->flags & INF_SPEC_BATCH))
		return dim == (int64_t)rows;
	if (spec->dims[axis] < 0)
		return dim >= 0 && dim <= spec->dims_max[axis];
	return dim == spec->dims[axis];
}

/* The products stay within the signature's bound, which was checked: no overflow. */
static bool is_tensor_allowed(const struct inf_tensor_spec *spec, uint32_t rows,
			      const struct inf_out_tensor *tensor)
{
	uint64_t bytes = inf_dtype_size(tensor->dtype);

	if (tensor->dtype != spec->dtype || tensor->rank != spec->rank)
		return false;
	for (uint32_t i = 0; i < spec->rank; i++) {
		if (!is_dim_allowed(spec, i, rows, tensor->dims[i]))
			return false;
		bytes *= (uint64_t)tensor->dims[i];
	}
	return tensor->bytes == bytes;
}

static bool is_range_allowed(const struct inf_out_tensor *tensor, uint64_t head_bytes,
			     uint64_t length)
{
	return tensor->offset % INF_TENSOR_ALIGN == 0 && tensor->offset >= head_bytes &&
	       tensor->offset <= length && tensor->bytes <= length - tensor->offset;
}

/* All outputs as the signature says. */
static int read_declared(const struct inf_signature *signature, uint32_t rows, const uint8_t *block,
			 uint64_t length, struct inf_tensor *ret_tensors)
{
	if (length < inf_output_bytes(signature, rows))
		return -EBADMSG;
	for (uint32_t i = 0; i < signature->n_outputs; i++) {
		const struct inf_tensor_spec *spec = &signature->outputs[i];
		uint64_t bytes = inf_dtype_size(spec->dtype);

		ret_tensors[i] = (struct inf_tensor){
			.data = block + inf_output_offset(signature, rows, i),
			.dtype = spec->dtype,
			.rank = spec->rank,
		};
		for (uint32_t k = 0; k < spec->rank; k++) {
			bool is_batch = k == 0 && (spec->flags & INF_SPEC_BATCH);

			if (!is_batch && spec->dims[k] < 0)
				return -EBADMSG;
			ret_tensors[i].dims[k] = is_batch ? (int64_t)rows : spec->dims[k];
			bytes *= (uint64_t)ret_tensors[i].dims[k];
		}
		ret_tensors[i].bytes = bytes;
	}
	return 1;
}

int infc_output_read(const struct inf_signature *signature, uint32_t rows, const uint8_t *block,
		     uint64_t length, struct inf_tensor *ret_tensors)
{
	uint64_t head_bytes = inf_out_head_bytes(signature->n_outputs);
	const uint8_t *table = block + sizeof(struct inf_out_head);
	uint64_t head[2];
	uint32_t n_outputs, n_rows;

	if (length < head_bytes)
		return -EBADMSG;
	inf_copy_in(head, (const inf_word_alias *)(const void *)block, 2);
	n_outputs = (uint32_t)head[0];
	n_rows = (uint32_t)(head[0] >> 32);
	if (n_outputs != signature->n_outputs || n_rows != rows || head[1] & ~INF_OUT_DECLARED)
		return -EBADMSG;
	if (head[1] & INF_OUT_DECLARED)
		return read_declared(signature, rows, block, length, ret_tensors);
	for (uint32_t i = 0; i < n_outputs; i++) {
		struct inf_out_tensor copy;

		inf_copy_in(
			(inf_word_alias *)(void *)&copy,
			(const inf_word_alias *)(const void *)(table +
							       i * sizeof(struct inf_out_tensor)),
			sizeof(copy) / 8);
		if (!is_tensor_allowed(&signature->outputs[i], rows, &copy) ||
		    !is_range_allowed(&copy, head_bytes, length))
			return -EBADMSG;
		ret_tensors[i] = (struct inf_tensor){
			.data = block + copy.offset,
			.bytes = copy.bytes,
			.dtype = copy.dtype,
			.rank = copy.rank,
		};
		for (uint32_t k = 0; k < copy.rank; k++)
			ret_tensors[i].dims[k] = copy.dims[k];
	}
	return 0;
}

static const struct inf_tensor *find(const struct inf_request *req, uint32_t idx)
{
	if (!req || inf_load32_acquire(&req->state) != INFC_ENDED || req->status != INF_OK)
		return NULL;
	return idx < req->model->signature.n_outputs ? &req->outputs[idx] : NULL;
}

const void *inf_output(const struct inf_request *req, uint32_t idx)
{
	const struct inf_tensor *tensor = find(req, idx);

	return tensor && !(req->twin_flags & INF_SUB_TWIN_OUT) ? tensor->data : NULL;
}

int inf_output_tensor(const struct inf_request *req, uint32_t idx, struct inf_tensor *ret_tensor)
{
	const struct inf_tensor *tensor = find(req, idx);

	if (!tensor || !ret_tensor)
		return -EINVAL;
	*ret_tensor = *tensor;
	if (req->twin_flags & INF_SUB_TWIN_OUT)
		ret_tensor->data = NULL;
	return 0;
}
