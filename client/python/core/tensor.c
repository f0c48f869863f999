/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tensor.c - a view of shared memory: the buffer protocol and DLPack over one input or output.
 *
 * numpy arrays are made over it, so slices, memoryviews and other libraries' tensors all end in a
 * reference on it. bfloat16, which the buffer protocol cannot name, is exported there as uint16; as an
 * array it has ml_dtypes' type, through DLPack its own.
 */
#include "client/python/core/core.h"
#include <stdlib.h>

/* dlpack.h version 1.1, the part that is needed here (github.com/dmlc/dlpack). */
enum { DL_CPU = 1, DL_CUDA = 2 };
enum { DL_INT = 0, DL_UINT = 1, DL_FLOAT = 2, DL_BFLOAT = 4, DL_BOOL = 6 };
#define DL_READ_ONLY 1ull

struct dl_type {
	uint8_t code, bits;
	uint16_t lanes;
};

struct dl_tensor {
	void *data;
	struct {
		int32_t type, id;
	} device;
	int32_t ndim;
	struct dl_type dtype;
	int64_t *shape, *strides;
	uint64_t byte_offset;
};

struct dl_managed {
	struct dl_tensor tensor;
	void *context;
	void (*deleter)(struct dl_managed *);
};

struct dl_versioned {
	struct {
		uint32_t major, minor;
	} version;
	void *context;
	void (*deleter)(struct dl_versioned *);
	uint64_t flags;
	struct dl_tensor tensor;
};

const char *tensor_format(uint8_t dtype)
{
	static const char *const formats[INF_DTYPE_N] = {
		[INF_BOOL] = "?", [INF_U8] = "B",  [INF_I8] = "b",   [INF_I16] = "h", [INF_I32] = "i",
		[INF_I64] = "q",  [INF_F16] = "e", [INF_BF16] = "H", [INF_F32] = "f", [INF_F64] = "d",
	};

	return dtype < INF_DTYPE_N && formats[dtype] ? formats[dtype] : "B";
}

static struct tensor *new_of(PyTypeObject *type, struct request *request, void *data, uint8_t dtype, uint32_t rank,
			     const int64_t *dims)
{
	struct tensor *tensor = PyObject_New(struct tensor, type);
	Py_ssize_t stride = inf_dtype_bytes((enum inf_dtype)dtype);

	if (!tensor)
		return NULL;
	tensor->request = (struct request *)Py_NewRef(OBJECT(request));
	tensor->copy.obj = NULL;
	tensor->data = data;
	tensor->is_on_device = tensor->is_export = false;
	tensor->dtype = dtype;
	tensor->rank = (int)rank;
	for (int i = (int)rank - 1; i >= 0; i--) {
		tensor->shape[i] = (Py_ssize_t)dims[i];
		tensor->strides[i] = stride;
		stride *= (Py_ssize_t)dims[i];
	}
	tensor->bytes = stride;
	return tensor;
}

static struct tensor *tensor_new(struct request *request, void *data, uint8_t dtype, uint32_t rank, const int64_t *dims)
{
	return new_of(tensor_type, request, data, dtype, rank, dims);
}

PyObject *tensor_input(struct request *request, uint32_t idx, const int64_t *dims, uint32_t rank)
{
	const struct inf_tensor_spec *spec = &request->handle->signature->inputs[idx];
	struct tensor *tensor = tensor_new(request, inf_input(request->req, idx), spec->dtype, rank, dims);

	if (!tensor)
		return NULL;
	tensor->is_output = false;
	request->handle->session->n_views++;
	request->n_views_in++;
	return (PyObject *)tensor;
}

static void add_output_view(struct tensor *tensor)
{
	struct request *request = tensor->request;

	tensor->is_output = true;
	request->handle->session->n_views++;
	if (!request->n_views_out++)
		request->handle->rows_viewed += request->rows;
}

PyObject *tensor_output(struct request *request, uint32_t idx, bool drop_batch)
{
	struct inf_tensor output;
	struct tensor *tensor;

	if (inf_output_tensor(request->req, idx, &output)) {
		PyErr_SetString(PyExc_IndexError, "no such output, or no answer");
		return NULL;
	}
	drop_batch = drop_batch && output.rank;
	tensor = tensor_new(request, (void *)(uintptr_t)output.data, (uint8_t)output.dtype, output.rank - drop_batch,
			    output.dims + drop_batch);
	if (!tensor)
		return NULL;
	add_output_view(tensor);
	return (PyObject *)tensor;
}

PyObject *tensor_on_device(struct request *request, uint8_t dtype, uint64_t address, uint32_t rank, const int64_t *dims)
{
	struct tensor *tensor = new_of(device_tensor_type, request, (void *)(uintptr_t)address, dtype, rank, dims);

	if (!tensor)
		return NULL;
	tensor->is_on_device = true;
	add_output_view(tensor);
	return (PyObject *)tensor;
}

PyObject *tensor_copy(struct request *request, uint32_t idx)
{
	uint8_t dtype = request->handle->signature->outputs[idx].dtype;
	bool is_one = request->handle->signature->n_outputs == 1;
	PyObject *array = is_one ? Py_NewRef(request->answer) : PySequence_GetItem(request->answer, idx);
	struct tensor *tensor = NULL;
	int64_t dims[INF_RANK_MAX];
	Py_buffer copy;

	/* The buffer protocol has no name for it. */
	if (array && dtype == INF_BF16)
		core_set(&array, PyObject_CallMethod(array, "view", "s", "uint16"));
	if (!array)
		return NULL;
	if (!PyObject_GetBuffer(array, &copy, PyBUF_ND)) {
		for (int i = 0; i < copy.ndim; i++)
			dims[i] = copy.shape[i];
		tensor = tensor_new(request, copy.buf, dtype, (uint32_t)copy.ndim, dims);
		if (tensor) {
			tensor->copy = copy;
			tensor->is_output = true;
		} else {
			PyBuffer_Release(&copy);
		}
	}
	Py_DECREF(array);
	return (PyObject *)tensor;
}

struct tensor *tensor_again(const struct tensor *tensor)
{
	int64_t dims[INF_RANK_MAX];

	for (int i = 0; i < tensor->rank; i++)
		dims[i] = tensor->shape[i];
	return (struct tensor *)tensor_on_device(tensor->request, tensor->dtype, (uint64_t)(uintptr_t)tensor->data,
						 (uint32_t)tensor->rank, dims);
}

/* The tuple of the last view, where it has the same shape. */
static PyObject *shape_of(const struct tensor *tensor, struct plan *plan)
{
	PyObject *shape;

	if (plan->shape && plan->rank == (uint32_t)tensor->rank) {
		int same = 0;

		while (same < tensor->rank && plan->dims[same] == tensor->shape[same])
			same++;
		if (same == tensor->rank)
			return Py_NewRef(plan->shape);
	}
	shape = PyTuple_New(tensor->rank);
	for (int i = 0; shape && i < tensor->rank; i++) {
		PyObject *dim = PyLong_FromSsize_t(tensor->shape[i]);

		if (!dim) {
			Py_DECREF(shape);
			return NULL;
		}
		PyTuple_SetItem(shape, i, dim);
		plan->dims[i] = tensor->shape[i];
	}
	if (!shape)
		return NULL;
	plan->rank = (uint32_t)tensor->rank;
	Py_XDECREF(plan->shape);
	plan->shape = Py_NewRef(shape);
	return shape;
}

PyObject *tensor_as_array(PyObject *object, struct plan *plan)
{
	struct tensor *tensor = (struct tensor *)object;
	PyObject *shape, *args = NULL, *array = NULL;

	if (!object)
		return NULL;
	if (plan->dtype == Py_None) {
		core_raise("needs_ml_dtypes", "()");
		Py_DECREF(object);
		return NULL;
	}
	shape = shape_of(tensor, plan);
	if (shape)
		args = PyTuple_Pack(3, shape, plan->dtype, object);
	if (args)
		array = PyObject_Call(core_ndarray, args, NULL);
	Py_XDECREF(args);
	Py_XDECREF(shape);
	Py_DECREF(object);
	return array;
}

void tensor_dealloc(struct tensor *tensor)
{
	PyTypeObject *type = Py_TYPE(OBJECT(tensor));
	struct request *request = tensor->request;

	if (tensor->is_export)
		inf_mark_stream(request->req, tensor->stream);
	if (tensor->copy.obj) {
		PyBuffer_Release(&tensor->copy);
	} else {
		request->handle->session->n_views--;
		request_drop_view(request, tensor->is_output);
	}
	PyObject_Free(tensor);
	Py_DECREF(type);
	Py_DECREF(OBJECT(request));
}

/* --- the buffer protocol --- */

static int get_buffer(struct tensor *tensor, Py_buffer *buffer, int flags)
{
	buffer->obj = NULL;
	if (flags & PyBUF_WRITABLE && tensor->is_output) {
		PyErr_SetString(PyExc_BufferError, "an answer is read-only: copy() it");
		return -1;
	}
	if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && tensor->rank > 1) {
		PyErr_SetString(PyExc_BufferError, "tensors are row-major");
		return -1;
	}
	*buffer = (Py_buffer){
		.buf = tensor->data,
		.obj = Py_NewRef(OBJECT(tensor)),
		.len = tensor->bytes,
		.itemsize = inf_dtype_bytes((enum inf_dtype)tensor->dtype),
		.readonly = tensor->is_output,
		.ndim = tensor->rank,
	};
	if (flags & PyBUF_FORMAT)
		buffer->format = (char *)(uintptr_t)tensor_format(tensor->dtype);
	if (flags & PyBUF_ND)
		buffer->shape = tensor->shape;
	if ((flags & PyBUF_STRIDES) == PyBUF_STRIDES)
		buffer->strides = tensor->strides;
	return 0;
}

/* --- DLPack --- */

static struct dl_type dl_type_of(uint8_t dtype)
{
	struct dl_type type = { .bits = (uint8_t)(inf_dtype_bytes((enum inf_dtype)dtype) * 8), .lanes = 1 };

	switch (dtype) {
	case INF_BOOL:
		type.code = DL_BOOL;
		break;
	case INF_U8:
		type.code = DL_UINT;
		break;
	case INF_BF16:
		type.code = DL_BFLOAT;
		break;
	case INF_F16:
	case INF_F32:
	case INF_F64:
		type.code = DL_FLOAT;
		break;
	default:
		type.code = DL_INT;
	}
	return type;
}

static uint8_t dtype_of_dl(struct dl_type type)
{
	for (uint8_t dtype = 1; dtype < INF_DTYPE_N; dtype++) {
		struct dl_type same = dl_type_of(dtype);

		if (same.code == type.code && same.bits == type.bits && type.lanes == 1)
			return dtype;
	}
	return INF_DTYPE_NONE;
}

/* Both kinds of managed tensor end in these: any thread, with or without the GIL. */
static void drop(void *tensor)
{
	PyGILState_STATE state;

	if (!Py_IsInitialized())
		return;
	state = PyGILState_Ensure();
	Py_DECREF((PyObject *)tensor);
	PyGILState_Release(state);
}

static void delete_managed(struct dl_managed *managed)
{
	drop(managed->context);
	free(managed);
}

static void delete_versioned(struct dl_versioned *versioned)
{
	drop(versioned->context);
	free(versioned);
}

/* Room for shape and strides lies behind the struct. */
static void fill(struct dl_tensor *dl, struct tensor *tensor, int64_t *room)
{
	*dl = (struct dl_tensor){ .data = tensor->data, .ndim = tensor->rank, .dtype = dl_type_of(tensor->dtype) };
	dl->device.type = tensor->is_on_device ? DL_CUDA : DL_CPU;
	dl->device.id = tensor->is_on_device ? tensor->request->handle->session->device : 0;
	dl->shape = room;
	dl->strides = room + INF_RANK_MAX;
	for (int i = 0; i < tensor->rank; i++) {
		dl->shape[i] = tensor->shape[i];
		dl->strides[i] = tensor->strides[i] / (Py_ssize_t)inf_dtype_bytes((enum inf_dtype)tensor->dtype);
	}
}

/* Nobody took it: a consumer renames the capsule. */
static void unused_managed(PyObject *capsule)
{
	if (PyCapsule_IsValid(capsule, "dltensor")) {
		struct dl_managed *managed = PyCapsule_GetPointer(capsule, "dltensor");

		managed->deleter(managed);
	}
}

static void unused_versioned(PyObject *capsule)
{
	if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
		struct dl_versioned *versioned = PyCapsule_GetPointer(capsule, "dltensor_versioned");

		versioned->deleter(versioned);
	}
}

static PyObject *export_versioned(struct tensor *tensor)
{
	struct dl_versioned *versioned = calloc(1, sizeof(*versioned) + 2 * INF_RANK_MAX * sizeof(int64_t));
	PyObject *capsule;

	if (!versioned)
		return PyErr_NoMemory();
	versioned->version.major = 1;
	/* What lies on the device is the client's own until it is given back. */
	versioned->flags = tensor->is_output && !tensor->is_on_device ? DL_READ_ONLY : 0;
	versioned->deleter = delete_versioned;
	fill(&versioned->tensor, tensor, (int64_t *)(versioned + 1));
	capsule = PyCapsule_New(versioned, "dltensor_versioned", unused_versioned);
	if (capsule)
		versioned->context = Py_NewRef(OBJECT(tensor));
	else
		free(versioned);
	return capsule;
}

static PyObject *export_managed(struct tensor *tensor)
{
	struct dl_managed *managed = calloc(1, sizeof(*managed) + 2 * INF_RANK_MAX * sizeof(int64_t));
	PyObject *capsule;

	if (!managed)
		return PyErr_NoMemory();
	managed->deleter = delete_managed;
	fill(&managed->tensor, tensor, (int64_t *)(managed + 1));
	capsule = PyCapsule_New(managed, "dltensor", unused_managed);
	if (capsule)
		managed->context = Py_NewRef(OBJECT(tensor));
	else
		free(managed);
	return capsule;
}

PyObject *tensor_export(struct tensor *tensor, int major)
{
	return major >= 1 ? export_versioned(tensor) : export_managed(tensor);
}

/* __dlpack__(*, stream=None, max_version=None, dl_device=None, copy=None) */
bool tensor_dlpack_arguments(struct tensor *tensor, PyObject *args, PyObject *keywords, int *ret_major, PyObject **ret_stream)
{
	static char *names[] = { "stream", "max_version", "dl_device", "copy", NULL };
	PyObject *stream = Py_None, *version = Py_None, *device = Py_None, *copy = Py_None;
	int own_type = tensor->is_on_device ? DL_CUDA : DL_CPU, own_id = 0, minor, type, id;

	*ret_major = 0;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$OOOO", names, &stream, &version, &device, &copy))
		return false;
	if (copy == Py_True) {
		PyErr_SetString(PyExc_BufferError, "this is a view, no copy");
		return false;
	}
	if (version != Py_None && !PyTuple_Check(version)) {
		PyErr_SetString(PyExc_TypeError, "max_version must be a tuple (major, minor)");
		return false;
	}
	if (version != Py_None && !PyArg_ParseTuple(version, "ii", ret_major, &minor))
		return false;
	if (device != Py_None && !PyTuple_Check(device)) {
		PyErr_SetString(PyExc_TypeError, "dl_device must be a tuple (type, id)");
		return false;
	}
	if (tensor->is_on_device)
		own_id = tensor->request->handle->session->device;
	type = own_type, id = own_id;
	if (device != Py_None && !PyArg_ParseTuple(device, "ii", &type, &id))
		return false;
	if (type != own_type || id != own_id) {
		core_raise("other_device", "(ii)", own_type, own_id);
		return false;
	}
	*ret_stream = stream;
	return true;
}

static PyObject *to_dlpack(struct tensor *tensor, PyObject *args, PyObject *keywords)
{
	PyObject *stream;
	int major;

	if (!tensor_dlpack_arguments(tensor, args, keywords, &major, &stream))
		return NULL;
	if (stream == Py_None)
		return tensor_export(tensor, major);
	PyErr_SetString(PyExc_BufferError, "host memory has no stream");
	return NULL;
}

static PyObject *dlpack_device(PyObject *self, PyObject *ignored)
{
	(void)self, (void)ignored;
	return Py_BuildValue("(ii)", DL_CPU, 0);
}

/* --- what is seen of it --- */

PyObject *tensor_shape(struct tensor *tensor, void *closure)
{
	PyObject *shape = PyTuple_New(tensor->rank);

	(void)closure;
	for (int i = 0; shape && i < tensor->rank; i++)
		PyTuple_SetItem(shape, i, PyLong_FromSsize_t(tensor->shape[i]));
	return shape;
}

PyObject *tensor_dtype(struct tensor *tensor, void *closure)
{
	(void)closure;
	return PyUnicode_FromString(inf_dtype_name((enum inf_dtype)tensor->dtype));
}

static PyObject *get_readonly(struct tensor *tensor, void *closure)
{
	(void)closure;
	return PyBool_FromLong(tensor->is_output);
}

static PyMethodDef methods[] = {
	{ "__dlpack__", (PyCFunction)(void (*)(void))to_dlpack, METH_VARARGS | METH_KEYWORDS,
	  "A DLPack capsule of this memory; answers are marked read-only (DLPack 1.0)." },
	{ "__dlpack_device__", dlpack_device, METH_NOARGS, "(1, 0): host memory." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "shape", (getter)tensor_shape, NULL, "Row-major dimensions.", NULL },
	{ "dtype", (getter)tensor_dtype, NULL, "Element type, as 'f32'.", NULL },
	{ "readonly", (getter)get_readonly, NULL, "True for answers.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

PyTypeObject *tensor_init(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_dealloc, tensor_dealloc },
		{ Py_bf_getbuffer, get_buffer },
		{ Py_tp_methods, methods },
		{ Py_tp_getset, getset },
		{ Py_tp_doc, "A view of one tensor in shared memory: buffer protocol, DLPack." },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "infclient.Tensor",
		.basicsize = sizeof(struct tensor),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	return (PyTypeObject *)PyType_FromSpec(&spec);
}

/* --- the other direction: a source in DLPack --- */

static int read_dl(struct source *source, const struct dl_tensor *dl)
{
	uint64_t bytes;

	if (dl->device.type != DL_CPU && dl->device.type != DL_CUDA)
		return core_raise("not_on_host", "()");
	source->is_on_device = dl->device.type == DL_CUDA;
	if (dl->ndim < 0 || dl->ndim > INF_RANK_MAX)
		return core_raise("bad_rank", "(ii)", (int)dl->ndim, INF_RANK_MAX);
	source->dtype = dtype_of_dl(dl->dtype);
	source->rank = dl->ndim;
	source->data = (const char *)dl->data + dl->byte_offset;
	source->is_packed = true;
	bytes = inf_dtype_bytes((enum inf_dtype)source->dtype);
	for (int i = dl->ndim - 1; i >= 0; i--) {
		source->shape[i] = dl->shape[i];
		source->strides[i] = dl->strides ? dl->strides[i] * inf_dtype_bytes((enum inf_dtype)source->dtype)
						 : (int64_t)bytes;
		if (source->shape[i] > 1 && source->strides[i] != (int64_t)bytes)
			source->is_packed = false;
		bytes *= (uint64_t)source->shape[i];
	}
	source->bytes = bytes;
	if (source->is_on_device && !source->is_packed)
		return core_raise("not_contiguous", "()");
	return 0;
}

/* 0 where it does not say. */
static int device_type(PyObject *object)
{
	PyObject *device = PyObject_CallMethod(object, "__dlpack_device__", NULL);
	int type = -1, id;

	if (!device || !PyTuple_Check(device) || !PyArg_ParseTuple(device, "ii", &type, &id)) {
		PyErr_Clear(); /* an old one: the tensor itself says */
		type = 0;
	}
	Py_XDECREF(device);
	return type;
}

/* What is on a device is read in its legacy default stream, number 1: the producer sees to it that it is there by then. */
static PyObject *dlpack_in_stream(PyObject *object)
{
	PyObject *method = PyObject_GetAttrString(object, "__dlpack__"), *args = PyTuple_New(0), *capsule = NULL;
	PyObject *keywords = Py_BuildValue("{si}", "stream", 1);

	if (method && args && keywords)
		capsule = PyObject_Call(method, args, keywords);
	Py_XDECREF(method);
	Py_XDECREF(args);
	Py_XDECREF(keywords);
	return capsule;
}

int source_open_dlpack(struct source *source, PyObject *object)
{
	/* The old protocol: every library speaks it, and nothing is written through it. */
	if (device_type(object) == DL_CUDA)
		source->capsule = dlpack_in_stream(object);
	else
		source->capsule = PyObject_CallMethod(object, "__dlpack__", NULL);
	if (!source->capsule)
		return -1;
	struct dl_managed *managed = PyCapsule_GetPointer(source->capsule, "dltensor");

	return managed ? read_dl(source, &managed->tensor) : -1;
}
