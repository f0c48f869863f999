/* SPDX-License-Identifier: Apache-2.0 */
/* copy.c - copies, fills and value words: what is checked before they are queued. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>
#include <string.h>

static CUresult check(unsigned int kinds, uint64_t address, size_t bytes, bool is_written, const struct context *context,
		      const char *what)
{
	enum look look = bytes ? range_look(kinds, address, bytes, context->device, is_written) : LOOK_NOTHING;

	if (look == LOOK_GOOD)
		return CUDA_SUCCESS;
	violation("%s of [%#llx, +%zu), which %s", what, (unsigned long long)address, bytes,
		  bytes ? look_text(look, address, bytes) : "is empty");
	return CUDA_ERROR_INVALID_VALUE;
}

/* How the device sees a host address: pinned; not at all, which is "pageable"; or not as a copy needs it. */
static CUresult check_host(uint64_t address, size_t bytes, bool is_written, const struct context *context, const char *what,
			   bool *ret_is_pageable)
{
	const struct range *range = range_from(address);

	*ret_is_pageable = bytes && address + bytes > address && address && (!range || range->address >= address + bytes);
	return *ret_is_pageable ? CUDA_SUCCESS : check(RANGE_OF_HOST, address, bytes, is_written, context, what);
}

/* With the lock; what the three directions have in common. */
static CUresult put_copy(enum op_kind kind, uint64_t to, uint64_t from, size_t bytes, CUstream handle, struct context *context)
{
	const char *what = op_names[kind];
	bool is_pageable = false;
	struct stream *stream;
	CUresult result;
	struct op *op;

	stream = stream_get(handle, context, what, &result);
	if (!stream)
		return result;
	result = kind == OP_COPY_OUT ? check_host(to, bytes, true, context, what, &is_pageable)
				     : check(RANGE_OF_DEVICE, to, bytes, true, context, what);
	if (!result)
		result = kind == OP_COPY_IN ? check_host(from, bytes, false, context, what, &is_pageable)
					    : check(RANGE_OF_DEVICE, from, bytes, false, context, what);
	if (!result && kind == OP_COPY && to < from + bytes && from < to + bytes) {
		violation("copy of [%#llx, +%zu) over itself", (unsigned long long)from, bytes);
		result = CUDA_ERROR_INVALID_VALUE;
	}
	if (result)
		return result;
	if (is_pageable && stream->capture)
		return capture_breaks(stream, kind == OP_COPY_IN ? "copy in of memory that is not pinned" :
								   "copy out to memory that is not pinned");
	op = op_new(kind);
	op->to = to;
	op->from = from;
	op->bytes = bytes;
	op->is_pageable = is_pageable;
	op_touch(op, to, bytes, true);
	/* Pageable memory is copied aside before the call returns. */
	if (kind == OP_COPY_IN && is_pageable) {
		op->staging = malloc(bytes);
		if (!op->staging)
			abort();
		memcpy(op->staging, (const void *)(uintptr_t)from, bytes);
	} else {
		op_touch(op, from, bytes, false);
	}
	result = stream_submit(stream, op);
	/* cuda.h: to pageable memory it returns only once the copy has completed. */
	return kind == OP_COPY_OUT && is_pageable ? record_wait(stream_mark(stream), context) : result;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
	BEGIN(cuMemcpyHtoDAsync_v2, NEEDS_CONTEXT | IS_QUEUED);
	return call_end(put_copy(OP_COPY_IN, to, (uintptr_t)from, bytes, stream, context));
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	BEGIN(cuMemcpyDtoHAsync_v2, NEEDS_CONTEXT | IS_QUEUED);
	return call_end(put_copy(OP_COPY_OUT, (uintptr_t)to, from, bytes, stream, context));
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
	BEGIN(cuMemcpyDtoDAsync_v2, NEEDS_CONTEXT | IS_QUEUED);
	return call_end(put_copy(OP_COPY, to, from, bytes, stream, context));
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream handle)
{
	struct stream *stream;
	CUresult result;
	struct op *op;

	BEGIN(cuMemsetD8Async, NEEDS_CONTEXT | IS_QUEUED);
	stream = stream_get(handle, context, "fill", &result);
	if (!stream)
		return call_end(result);
	result = check(RANGE_OF_DEVICE, to, bytes, true, context, "fill");
	if (result)
		return call_end(result);
	op = op_new(OP_FILL);
	op->to = to;
	op->bytes = bytes;
	op->value = value;
	op_touch(op, to, bytes, true);
	return call_end(stream_submit(stream, op));
}

/* --- value words ---------------------------------------------------------------------------------------------------- */

/* With the lock; what cuStreamWriteValue64() and cuStreamWaitValue64() have in common. */
static CUresult put_word(enum op_kind kind, CUstream handle, uint64_t address, uint64_t value, struct context *context)
{
	const char *what = op_names[kind];
	struct stream *stream;
	CUresult result;
	struct op *op;

	stream = stream_get(handle, context, what, &result);
	if (!stream)
		return result;
	if (address % sizeof(uint64_t)) {
		violation("%s at %#llx: not at a multiple of 8", what, (unsigned long long)address);
		return CUDA_ERROR_INVALID_VALUE;
	}
	result = check(RANGE_OF_DEVICE | RANGE_OF_HOST, address, sizeof(uint64_t), kind == OP_WRITE_WORD, context, what);
	if (result)
		return result;
	/* The real one can in newer versions. */
	if (stream->capture)
		return capture_breaks(stream, what);
	op = op_new(kind);
	op->to = address;
	op->value = value;
	op_touch(op, address, sizeof(uint64_t), kind == OP_WRITE_WORD);
	stream_put(stream, op);
	return CUDA_SUCCESS;
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags)
{
	BEGIN(cuStreamWriteValue64_v2, NEEDS_CONTEXT | IS_QUEUED);
	if (flags != CU_STREAM_WRITE_VALUE_DEFAULT)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	return call_end(put_word(OP_WRITE_WORD, stream, address, value, context));
}

CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags)
{
	BEGIN(cuStreamWaitValue64_v2, NEEDS_CONTEXT | IS_QUEUED);
	if (flags != CU_STREAM_WAIT_VALUE_GEQ)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	return call_end(put_word(OP_WAIT_WORD, stream, address, value, context));
}
