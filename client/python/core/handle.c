/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handle.c - a model opened by a session: its signature as Python sees it, and who uses its memory.
 *
 * The broker has output memory for `depth` rows and answers QUOTA beyond; so that nobody sees that,
 * requests that do not fit wait here. What was cancelled or let go in flight keeps its rows until its
 * batch has ended (a zombie): anything else would let more in than there is room for.
 */
#include "client/python/core/core.h"
#include <errno.h>
#include <time.h>

static PyObject *dtype_of(uint8_t dtype)
{
	return PyObject_CallMethod(core_convert, "dtype", "s", inf_dtype_name((enum inf_dtype)dtype));
}

static bool plan_init(struct plan *plan, const struct inf_tensor_spec *spec)
{
	plan->name = PyUnicode_FromString(spec->name);
	plan->dtype = dtype_of(spec->dtype);
	return plan->name && plan->dtype;
}

static void plan_deinit(struct plan *plan)
{
	Py_CLEAR(plan->name);
	Py_CLEAR(plan->dtype);
	Py_CLEAR(plan->shape);
}

struct handle *handle_open(struct session *session, const char *name, uint32_t depth)
{
	struct handle *handle = PyObject_New(struct handle, handle_type);
	const struct inf_signature *signature;
	bool ok = true;
	int r;

	if (!handle)
		return NULL;
	memset((char *)handle + sizeof(PyObject), 0, sizeof(*handle) - sizeof(PyObject));
	handle->session = (struct session *)Py_NewRef(OBJECT(session));
	Py_BEGIN_ALLOW_THREADS
	r = inf_model_open(session->client, name, depth, &handle->model);
	Py_END_ALLOW_THREADS
	if (r) {
		session->is_lost |= r == -ECONNRESET || r == -EPROTO;
		core_raise("cannot_open", "(iss)", -r, name, inf_error(session->client));
		Py_DECREF(OBJECT(handle));
		return NULL;
	}
	handle->signature = signature = inf_model_signature(handle->model);
	handle->model_name = PyUnicode_FromString(signature->name);
	handle->depth = inf_model_depth(handle->model);
	for (uint32_t i = 0; ok && i < signature->n_inputs; i++)
		ok = plan_init(&handle->inputs[i], &signature->inputs[i]);
	for (uint32_t i = 0; ok && i < signature->n_outputs; i++)
		ok = plan_init(&handle->outputs[i], &signature->outputs[i]);
	if (ok && handle->model_name)
		return handle;
	Py_DECREF(OBJECT(handle));
	return NULL;
}

/* Unlinks the first that has ended and is read no more. NULL where there is none. */
static struct zombie *exhume(struct handle *handle)
{
	for (struct zombie **at = &handle->zombies; *at; at = &(*at)->next) {
		struct zombie *zombie = *at;

		/* Without device memory there is an error instead of marks. */
		if (!inf_poll(zombie->req) || !inf_poll_marks(zombie->req))
			continue;
		*at = zombie->next;
		return zombie;
	}
	return NULL;
}

void handle_sweep(struct handle *handle)
{
	struct zombie *zombie;

	while ((zombie = exhume(handle))) {
		inf_request_give(zombie->req);
		handle->rows_busy -= zombie->rows;
		handle->n_used -= zombie->is_used;
		/* Runs Python, so the list is looked at anew. */
		core_drop(zombie->held);
		PyMem_Free(zombie);
	}
}

bool handle_has_room(struct handle *handle, uint32_t rows)
{
	if (handle->rows_busy + rows > handle->depth && handle->zombies)
		handle_sweep(handle);
	return handle->rows_busy + rows <= handle->depth;
}

void handle_bury(struct handle *handle, struct inf_request *req, uint32_t rows, bool is_read, PyObject *held)
{
	struct zombie *zombie = PyMem_Malloc(sizeof(*zombie));
	bool is_used = inf_poll_marks(req) != -EINVAL; /* which says that it has no device memory */

	if (!is_read) {
		handle->buried_ns = core_now_ns();
		inf_cancel(req);
	}
	inf_request_set_data(req, NULL);
	if (zombie) {
		*zombie = (struct zombie){ handle->zombies, req, rows, is_used, held };
		handle->zombies = zombie;
		handle->n_used += is_used;
		return;
	}
	/* What is used cannot go: it stays until the session ends, and so do its inputs. */
	if (is_used)
		return;
	inf_request_give(req);
	handle->rows_busy -= rows;
	core_drop(held);
}

/* Who was promised results gets them. Without the GIL, which what the streams run may want. */
static void wait_for_readers(struct handle *handle)
{
	uint64_t until_ns = core_now_ns() + PATIENCE_NS;

	for (handle_sweep(handle); handle->n_used && core_now_ns() < until_ns; handle_sweep(handle)) {
		struct timespec pause = { .tv_nsec = RETRY_NS };

		Py_BEGIN_ALLOW_THREADS
		nanosleep(&pause, NULL);
		Py_END_ALLOW_THREADS
	}
}

static void handle_dealloc(struct handle *handle)
{
	PyTypeObject *type = Py_TYPE(OBJECT(handle));
	struct zombie *zombies;

	wait_for_readers(handle);
	for (struct zombie *zombie = zombies = handle->zombies; zombie; zombie = zombie->next)
		/* What is still used goes with the session. */
		if (!zombie->is_used)
			inf_request_give(zombie->req);
	for (uint32_t i = 0; i < INF_INPUTS_MAX; i++)
		plan_deinit(&handle->inputs[i]);
	for (uint32_t i = 0; i < INF_OUTPUTS_MAX; i++)
		plan_deinit(&handle->outputs[i]);
	Py_XDECREF(handle->model_name);
	Py_XDECREF(OBJECT(handle->session));
	while (zombies) {
		struct zombie *zombie = zombies;

		zombies = zombie->next;
		core_drop(zombie->held);
		PyMem_Free(zombie);
	}
	PyObject_Free(handle);
	Py_DECREF(type);
}

/* (name, dtype name, shape with -1, largest shape, batch, range or None, finite) */
static PyObject *describe(const struct inf_tensor_spec *spec)
{
	PyObject *shape = PyTuple_New(spec->rank), *most = PyTuple_New(spec->rank), *range = NULL, *result = NULL;

	for (int i = 0; shape && most && i < spec->rank; i++) {
		PyObject *dim = PyLong_FromLongLong(spec->dims[i]), *max = PyLong_FromLongLong(spec->dims_max[i]);

		if (!dim || !max) {
			Py_XDECREF(dim);
			Py_XDECREF(max);
			goto out;
		}
		PyTuple_SetItem(shape, i, dim);
		PyTuple_SetItem(most, i, max);
	}
	if (spec->flags & INF_SPEC_RANGE)
		range = Py_BuildValue("(LL)", (long long)spec->value_min, (long long)spec->value_max);
	else
		range = Py_NewRef(Py_None);
	if (shape && most && range)
		result = Py_BuildValue("(ssOOOOO)", spec->name, inf_dtype_name((enum inf_dtype)spec->dtype), shape, most,
				       spec->flags & INF_SPEC_BATCH ? Py_True : Py_False, range,
				       spec->flags & INF_SPEC_FINITE ? Py_True : Py_False);
out:
	Py_XDECREF(shape);
	Py_XDECREF(most);
	Py_XDECREF(range);
	return result;
}

static PyObject *describe_all(const struct inf_tensor_spec *specs, uint32_t n)
{
	PyObject *tuple = PyTuple_New(n);

	for (uint32_t i = 0; tuple && i < n; i++) {
		PyObject *item = describe(&specs[i]);

		if (item)
			PyTuple_SetItem(tuple, i, item);
		else
			Py_CLEAR(tuple);
	}
	return tuple;
}

/* signature() -> (name, version, batchable, batch_max, hash, inputs, outputs) */
static PyObject *handle_signature(struct handle *handle, PyObject *ignored)
{
	const struct inf_signature *signature = handle->signature;
	PyObject *inputs = describe_all(signature->inputs, signature->n_inputs);
	PyObject *outputs = describe_all(signature->outputs, signature->n_outputs);
	PyObject *result = NULL;

	(void)ignored;
	if (inputs && outputs)
		result = Py_BuildValue("(sIOIKOO)", signature->name, signature->version,
				       signature->flags & INF_SIG_BATCHABLE ? Py_True : Py_False, signature->batch_max,
				       (unsigned long long)signature->hash, inputs, outputs);
	Py_XDECREF(inputs);
	Py_XDECREF(outputs);
	return result;
}

static PyObject *handle_is_stale(struct handle *handle, void *closure)
{
	(void)closure;
	return PyBool_FromLong(handle->is_stale);
}

static PyObject *handle_depth(struct handle *handle, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLong(handle->depth);
}

static PyObject *handle_busy(struct handle *handle, void *closure)
{
	(void)closure;
	handle_sweep(handle);
	return PyLong_FromUnsignedLong(handle->rows_busy);
}

static PyObject *handle_session(struct handle *handle, void *closure)
{
	(void)closure;
	return Py_NewRef(OBJECT(handle->session));
}

static PyMethodDef methods[] = {
	{ "signature", (PyCFunction)handle_signature, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "is_stale", (getter)handle_is_stale, NULL, NULL, NULL },
	{ "depth", (getter)handle_depth, NULL, NULL, NULL },
	{ "rows_busy", (getter)handle_busy, NULL, NULL, NULL },
	{ "session", (getter)handle_session, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

PyTypeObject *handle_init(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_dealloc, handle_dealloc },
		{ Py_tp_methods, methods },
		{ Py_tp_getset, getset },
		{ Py_tp_doc, "A model opened by a session." },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "infclient._core.Handle",
		.basicsize = sizeof(struct handle),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	return (PyTypeObject *)PyType_FromSpec(&spec);
}
