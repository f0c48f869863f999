/* SPDX-License-Identifier: Apache-2.0 */
/*
 * convert.c - from whatever a program passes as an input to bytes in shared memory.
 *
 * The buffer protocol first, then DLPack, then infclient._convert for what speaks neither (Python's own
 * numbers, arrays of ml_dtypes). Everything is checked against the signature before the first byte is
 * written. Strided sources are packed on the way: that copy is the only one.
 */
#include "client/python/core/core.h"

static uint8_t signed_of(Py_ssize_t bytes)
{
	return bytes == 1 ? INF_I8 : bytes == 2 ? INF_I16 : bytes == 4 ? INF_I32 : bytes == 8 ? INF_I64 : INF_DTYPE_NONE;
}

/* What a format of the struct module names; NONE where no model takes it, or its bytes are swapped. */
static uint8_t dtype_of(const char *format, Py_ssize_t bytes)
{
	if (!format)
		return INF_U8;
	if (strchr("@=<", *format) || (strchr(">!", *format) && bytes == 1))
		format++;
	if (!format[0] || format[1])
		return INF_DTYPE_NONE;
	switch (format[0]) {
	case '?':
		return INF_BOOL;
	case 'B':
		return INF_U8;
	case 'b':
	case 'h':
	case 'i':
	case 'l':
	case 'q':
	case 'n':
		return signed_of(bytes);
	case 'e':
		return INF_F16;
	case 'f':
		return INF_F32;
	case 'd':
		return INF_F64;
	default:
		return INF_DTYPE_NONE;
	}
}

static int read_buffer(struct source *source)
{
	const Py_buffer *buffer = &source->buffer;
	int64_t stride = buffer->itemsize;

	if (buffer->ndim > INF_RANK_MAX)
		return core_raise("bad_rank", "(ii)", buffer->ndim, INF_RANK_MAX);
	source->dtype = dtype_of(buffer->format, buffer->itemsize);
	source->data = buffer->buf;
	source->rank = buffer->ndim;
	source->is_packed = true;
	for (int i = buffer->ndim - 1; i >= 0; i--) {
		source->shape[i] = buffer->shape[i];
		source->strides[i] = buffer->strides ? buffer->strides[i] : stride;
		if (source->shape[i] > 1 && source->strides[i] != stride)
			source->is_packed = false;
		stride *= buffer->shape[i];
	}
	source->bytes = (uint64_t)buffer->len;
	return 0;
}

/* _convert.adapt(object, rank, dtype) -> (something with a buffer, its dtype or None) */
static int adapt(struct source *source, PyObject *object, const struct handle *handle, uint32_t idx)
{
	const struct inf_tensor_spec *spec = &handle->signature->inputs[idx];
	int rank = spec->rank - (spec->flags & INF_SPEC_BATCH ? 1 : 0);
	PyObject *pair = PyObject_CallMethod(core_convert, "adapt", "(Ois)", object, rank,
					     inf_dtype_name((enum inf_dtype)spec->dtype));
	PyObject *adapted;
	int is_bf16, r = -1;

	if (!pair)
		return -1;
	if (PyArg_ParseTuple(pair, "Op", &adapted, &is_bf16) &&
	    !PyObject_GetBuffer(adapted, &source->buffer, PyBUF_FORMAT | PyBUF_STRIDES))
		r = read_buffer(source);
	if (!r && is_bf16)
		source->dtype = INF_BF16;
	Py_DECREF(pair);
	return r;
}

int source_open(struct source *source, PyObject *object, const struct handle *handle, uint32_t idx)
{
	source->buffer.obj = NULL;
	source->capsule = NULL;
	source->is_on_device = false;
	if (PyObject_CheckBuffer(object)) {
		if (!PyObject_GetBuffer(object, &source->buffer, PyBUF_FORMAT | PyBUF_STRIDES))
			return read_buffer(source);
		if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_BufferError))
			return -1;
		PyErr_Clear();
	} else if (PyObject_HasAttrString(object, "__dlpack__")) {
		return source_open_dlpack(source, object);
	}
	return adapt(source, object, handle, idx);
}

/* Letting go of somebody else's tensor may run Python, which has no part in the error that is set now. */
void source_close(struct source *source)
{
	PyObject *type, *error, *trace;

	PyErr_Fetch(&type, &error, &trace);
	if (source->buffer.obj)
		PyBuffer_Release(&source->buffer);
	Py_CLEAR(source->capsule);
	PyErr_Restore(type, error, trace);
}

/* --- copying --- */

static void copy_strided(const struct source *source, int axis, const char *from, char **to, size_t item)
{
	int64_t n = source->shape[axis], stride = source->strides[axis];

	if (axis < source->rank - 1) {
		for (int64_t i = 0; i < n; i++)
			copy_strided(source, axis + 1, from + i * stride, to, item);
	} else if (stride == (int64_t)item) {
		memcpy(*to, from, (size_t)n * item);
		*to += (size_t)n * item;
	} else {
		/* A constant size makes each of these one move. */
		switch (item) {
		case 1:
			for (int64_t i = 0; i < n; i++, *to += 1)
				**to = from[i * stride];
			break;
		case 2:
			for (int64_t i = 0; i < n; i++, *to += 2)
				memcpy(*to, from + i * stride, 2);
			break;
		case 4:
			for (int64_t i = 0; i < n; i++, *to += 4)
				memcpy(*to, from + i * stride, 4);
			break;
		default:
			for (int64_t i = 0; i < n; i++, *to += 8)
				memcpy(*to, from + i * stride, 8);
		}
	}
}

void source_copy(const struct source *source, void *to)
{
	char *at = to;

	if (!source->bytes)
		return;
	if (source->is_packed)
		memcpy(to, source->data, source->bytes);
	else
		copy_strided(source, 0, source->data, &at, inf_dtype_bytes((enum inf_dtype)source->dtype));
}

struct source *sources_stash(const struct source *sources, uint32_t n)
{
	uint64_t bytes = n * sizeof(*sources);
	struct source *stash;
	char *at;

	for (uint32_t i = 0; i < n; i++)
		bytes += sources[i].is_on_device ? 0 : sources[i].bytes;
	stash = PyMem_Malloc(bytes ? bytes : 1);
	if (!stash)
		return (struct source *)PyErr_NoMemory();
	at = (char *)(stash + n);
	for (uint32_t i = 0; i < n; i++) {
		stash[i] = sources[i];
		stash[i].buffer.obj = NULL;
		stash[i].capsule = NULL;
		if (sources[i].is_on_device) {
			stash[i].capsule = Py_NewRef(sources[i].capsule);
			continue;
		}
		stash[i].is_packed = true;
		stash[i].data = at;
		source_copy(&sources[i], at);
		at += sources[i].bytes;
	}
	return stash;
}

struct source *sources_drop(struct source *stash, uint32_t n)
{
	for (uint32_t i = 0; stash && i < n; i++)
		source_close(&stash[i]);
	PyMem_Free(stash);
	return NULL;
}

/* --- checking --- */

static int bad_input(const char *what, const struct handle *handle, uint32_t idx, PyObject *object, PyObject *signature)
{
	if (!signature)
		return -1;
	core_raise("bad_input", "(sOIO)", what, signature, idx, object);
	(void)handle;
	Py_DECREF(signature);
	return -1;
}

static PyObject *signature_of(const struct handle *handle)
{
	return PyObject_CallMethod((PyObject *)(uintptr_t)handle, "signature", NULL);
}

/* Dimensions behind the batch one. */
static bool is_shape_right(const struct source *source, const struct inf_tensor_spec *spec, bool is_single)
{
	int skip = is_single ? 1 : 0;

	for (int i = spec->flags & INF_SPEC_BATCH ? 1 : 0; i < spec->rank; i++) {
		int64_t dim = source->shape[i - skip];

		if (spec->dims[i] < 0 ? dim < 0 || dim > spec->dims_max[i] : dim != spec->dims[i])
			return false;
	}
	return true;
}

int sources_check(const struct source *sources, PyObject *const *objects, const struct handle *handle,
		  uint32_t *ret_rows, bool *ret_single)
{
	const struct inf_signature *signature = handle->signature;
	bool is_batchable = signature->flags & INF_SIG_BATCHABLE, all_single = is_batchable;
	int64_t rows = -1;

	for (uint32_t i = 0; i < signature->n_inputs; i++) {
		const struct inf_tensor_spec *spec = &signature->inputs[i];
		const struct source *source = &sources[i];
		bool has_batch = spec->flags & INF_SPEC_BATCH;
		bool is_single = has_batch && source->rank == spec->rank - 1;
		int64_t n = !has_batch || is_single ? 1 : source->rank ? source->shape[0] : 0;

		if (source->dtype != spec->dtype)
			return bad_input("dtype", handle, i, objects[i], signature_of(handle));
		if ((source->rank != spec->rank && !is_single) || !is_shape_right(source, spec, is_single))
			return bad_input("shape", handle, i, objects[i], signature_of(handle));
		if (rows >= 0 && n != rows)
			return bad_input("rows", handle, i, objects[i], signature_of(handle));
		rows = n;
		all_single &= is_single;
	}
	rows = rows < 0 ? 1 : rows;
	if (rows < 1 || rows > handle->depth)
		return core_raise("bad_rows", "(OLI)", handle->model_name, (long long)rows, handle->depth);
	*ret_rows = (uint32_t)rows;
	*ret_single = all_single && signature->n_inputs;
	return 0;
}
