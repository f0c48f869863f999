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

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream handle)
{
	struct stream *stream;
	bool is_pageable;
	CUresult result;
	struct op *op;

	BEGIN(cuMemcpyHtoDAsync_v2, NEEDS_CONTEXT | IS_QUEUED);
	stream = stream_get(handle, context, "copy in", &result);
	if (!stream)
		return call_end(result);
	result = check(RANGE_OF_DEVICE, to, bytes, true, context, "copy in");
	if (!result)
		result = check_host((uintptr_t)from, bytes, false, context, "copy in", &is_pageable);
	if (result)
		return call_end(result);
	if (is_pageable && stream->capture)
		return call_end(capture_breaks(stream, "copy in of memory that is not pinned"));
	op = op_new(OP_COPY_IN);
	op->to = to;
	op->from = (uintptr_t)from;
	op->bytes = bytes;
	op->is_pageable = is_pageable;
	op_touch(op, to, bytes, true);
	if (!is_pageable) {
		op_touch(op, op->from, bytes, false);
		return call_end(stream_submit(stream, op));
	}
	/* The driver copies it aside before it returns. */
	op->staging = malloc(bytes);
	if (!op->staging)
		abort();
	memcpy(op->staging, from, bytes);
	return call_end(stream_submit(stream, op));
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream handle)
{
	struct stream *stream;
	bool is_pageable;
	CUresult result;
	struct op *op;

	BEGIN(cuMemcpyDtoHAsync_v2, NEEDS_CONTEXT | IS_QUEUED);
	stream = stream_get(handle, context, "copy out", &result);
	if (!stream)
		return call_end(result);
	result = check(RANGE_OF_DEVICE, from, bytes, false, context, "copy out");
	if (!result)
		result = check_host((uintptr_t)to, bytes, true, context, "copy out", &is_pageable);
	if (result)
		return call_end(result);
	if (is_pageable && stream->capture)
		return call_end(capture_breaks(stream, "copy out to memory that is not pinned"));
	op = op_new(OP_COPY_OUT);
	op->to = (uintptr_t)to;
	op->from = from;
	op->bytes = bytes;
	op->is_pageable = is_pageable;
	op_touch(op, from, bytes, false);
	op_touch(op, op->to, bytes, true);
	result = stream_submit(stream, op);
	/* cuda.h: to pageable memory it returns only once the copy has completed. */
	if (is_pageable)
		result = record_wait(stream_mark(stream), context);
	return call_end(result);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle)
{
	struct stream *stream;
	CUresult result;
	struct op *op;

	BEGIN(cuMemcpyDtoDAsync_v2, NEEDS_CONTEXT | IS_QUEUED);
	stream = stream_get(handle, context, "copy", &result);
	if (!stream)
		return call_end(result);
	result = check(RANGE_OF_DEVICE, to, bytes, true, context, "copy");
	if (!result)
		result = check(RANGE_OF_DEVICE, from, bytes, false, context, "copy");
	if (!result && to < from + bytes && from < to + bytes) {
		violation("copy of [%#llx, +%zu) over itself", from, bytes);
		result = CUDA_ERROR_INVALID_VALUE;
	}
	if (result)
		return call_end(result);
	op = op_new(OP_COPY);
	op->to = to;
	op->from = from;
	op->bytes = bytes;
	op_touch(op, to, bytes, true);
	op_touch(op, from, bytes, false);
	return call_end(stream_submit(stream, op));
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
