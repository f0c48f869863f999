/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c - results that stay on the broker's CUDA device, handed on as DLPack.
 *
 * A consumer names the stream that it is going to read in, and that stream waits for the request: no thread does. The
 * consumer's library lets go of a tensor as soon as its user does, when the stream may not have read it yet; that is when the
 * stream is marked, and the memory is used again once it has passed the mark (handle.c sweeps). So a request that is let go
 * in flight is not cancelled where a stream waits for it: its reader was promised the results.
 */
#include "client/python/core/core.h"
#include <errno.h>

/* What the array API says of CUDA streams: https://data-apis.org/array-api/latest, __dlpack__(). */
enum { STREAM_UNORDERED = -1, STREAM_AMBIGUOUS = 0, STREAM_LEGACY = 1, STREAM_PER_THREAD = 2 };

int device_open(struct session *session)
{
	struct inf_device_info info = { .size = sizeof(info) };
	int r;

	if (session->has_device)
		return 0;
	Py_BEGIN_ALLOW_THREADS
	r = inf_device_open(session->client, &info);
	Py_END_ALLOW_THREADS
	if (r) {
		session->is_lost |= r == -ECONNRESET || r == -EPROTO;
		return core_raise("no_device", "(is)", -r, inf_error(session->client));
	}
	session->device = info.ordinal;
	session->has_device = true;
	return 0;
}

/* Shape of output `idx` of a request in flight; false where only the answer tells. */
static bool known_shape(const struct request *request, uint32_t idx, struct inf_tensor *ret_output)
{
	const struct inf_tensor_spec *spec = &request->handle->signature->outputs[idx];

	*ret_output = (struct inf_tensor){ .dtype = spec->dtype, .rank = spec->rank };
	for (uint32_t i = 0; i < spec->rank; i++) {
		bool is_batch = i == 0 && spec->flags & INF_SPEC_BATCH;

		ret_output->dims[i] = is_batch ? request->rows : spec->dims[i];
		if (!is_batch && spec->dims[i] < 0)
			return false;
	}
	return true;
}

PyObject *device_output(struct request *request, uint32_t idx)
{
	struct inf_tensor output;
	uint64_t address;
	uint32_t skip;

	if (request->state == REQUEST_FLIGHT ? !known_shape(request, idx, &output) :
					       inf_output_tensor(request->req, idx, &output)) {
		core_raise("shape_unknown", "(O)", request->handle->outputs[idx].name);
		return NULL;
	}
	if (inf_output_device(request->req, idx, &address)) {
		core_raise("given_back", "()");
		return NULL;
	}
	request_see(request);
	skip = request->is_single && output.rank;
	return tensor_on_device(request, (uint8_t)output.dtype, address, output.rank - skip, output.dims + skip);
}

/* --- streams --- */

/* What follows in the stream finds the results. False with an error set. */
static bool order(struct request *request, void *stream)
{
	int r = inf_wait_stream(request->req, stream);

	if (r)
		core_raise("bad_stream", "(is)", -r, inf_error(request->handle->session->client));
	request->is_read |= !r;
	return !r;
}

/* A capsule whose end marks the stream. */
static PyObject *export_to(struct tensor *tensor, void *stream, int major)
{
	/* Which thread lets go is not known; the legacy stream comes after the default streams of all threads. */
	void *marked = stream == (void *)STREAM_PER_THREAD ? NULL : stream;
	struct tensor *held = tensor_again(tensor);
	PyObject *capsule = NULL;

	if (!held)
		return NULL;
	if (order(tensor->request, stream)) {
		held->is_export = true;
		held->stream = marked;
		capsule = tensor_export(held, major);
	}
	Py_DECREF(OBJECT(held));
	return capsule;
}

/* False with an error set. */
static bool read_stream(PyObject *object, bool *ret_is_ordered, void **ret_stream)
{
	long long value = STREAM_LEGACY;
	int overflow = 0;

	if (object != Py_None && !PyLong_Check(object)) {
		PyErr_Format(PyExc_TypeError, "stream must be an int or None, got %R", object);
		return false;
	}
	/* A handle is a pointer: where it is more than a signed number can be it is read as an unsigned one. */
	if (object != Py_None)
		value = PyLong_AsLongLongAndOverflow(object, &overflow);
	if (overflow > 0)
		value = (long long)PyLong_AsUnsignedLongLong(object);
	if (PyErr_Occurred())
		return false;
	if (overflow < 0 || (!overflow && value < STREAM_UNORDERED) || value == STREAM_AMBIGUOUS) {
		PyErr_Format(PyExc_ValueError,
			     "stream must be 1 (the legacy default stream), 2 (the thread's), a CUDA stream, or -1 (no order), got %R",
			     object);
		return false;
	}
	*ret_is_ordered = overflow || value != STREAM_UNORDERED;
	*ret_stream = value == STREAM_LEGACY ? NULL : (void *)(uintptr_t)value;
	return true;
}

/* --- the object --- */

static PyObject *to_dlpack(struct tensor *tensor, PyObject *args, PyObject *keywords)
{
	struct request *request = tensor->request;
	bool is_ordered;
	PyObject *named;
	void *stream;
	int major;

	if (!tensor_dlpack_arguments(tensor, args, keywords, &major, &named) || !read_stream(named, &is_ordered, &stream))
		return NULL;
	if (request->handle->session->epoch != core_epoch) {
		core_raise("from_errno", "(is)", EOWNERDEAD, "a result on the device");
		return NULL;
	}
	/* It may have ended, and badly, since the tensor was made. */
	if (request_is_over(request) &&
	    (request->state == REQUEST_CANCELLED || request->error || request->status != INF_OK)) {
		request_raise(request);
		return NULL;
	}
	return is_ordered ? export_to(tensor, stream, major) : tensor_export(tensor, major);
}

static PyObject *dlpack_device(struct tensor *tensor, PyObject *ignored)
{
	(void)ignored;
	return Py_BuildValue("(ii)", 2, (int)tensor->request->handle->session->device);
}

static PyObject *not_numpy(PyObject *self, PyObject *args, PyObject *keywords)
{
	(void)self, (void)args, (void)keywords;
	core_raise("not_numpy", "()");
	return NULL;
}

static PyObject *get_readonly(PyObject *self, void *closure)
{
	(void)self, (void)closure;
	Py_RETURN_FALSE;
}

static PyObject *represent(struct tensor *tensor)
{
	PyObject *shape = tensor_shape(tensor, NULL), *text;

	if (!shape)
		return NULL;
	text = PyUnicode_FromFormat("<infclient.DeviceTensor %s%R on cuda:%d>", inf_dtype_name((enum inf_dtype)tensor->dtype), shape,
				    (int)tensor->request->handle->session->device);
	Py_DECREF(shape);
	return text;
}

static PyMethodDef methods[] = {
	{ "__dlpack__", (PyCFunction)(void (*)(void))to_dlpack, METH_VARARGS | METH_KEYWORDS,
	  "A DLPack capsule of this memory. `stream` waits for the result, and the memory is not used again before it has\n"
	  "done what it was given until the consumer let go." },
	{ "__dlpack_device__", (PyCFunction)dlpack_device, METH_NOARGS, "(2, ordinal): a CUDA device." },
	{ "__array__", (PyCFunction)(void (*)(void))not_numpy, METH_VARARGS | METH_KEYWORDS, "Raises TypeError: see numpy()." },
	{ "numpy", (PyCFunction)(void (*)(void))not_numpy, METH_VARARGS | METH_KEYWORDS,
	  "numpy()\n--\n\nRaises TypeError: no copy to the host is made that nobody asked for." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "shape", (getter)tensor_shape, NULL, "Row-major dimensions.", NULL },
	{ "dtype", (getter)tensor_dtype, NULL, "Element type, as 'f32'.", NULL },
	{ "readonly", get_readonly, NULL, "False: it is the consumer's until it goes.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

PyTypeObject *device_tensor_init(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_dealloc, tensor_dealloc }, { Py_tp_methods, methods }, { Py_tp_getset, getset },
		{ Py_tp_repr, represent },	   { Py_tp_doc, "A result in the memory of the broker's CUDA device: DLPack." },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "infclient.DeviceTensor",
		.basicsize = sizeof(struct tensor),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	return (PyTypeObject *)PyType_FromSpec(&spec);
}
