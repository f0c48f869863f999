/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.c - model(x) and model.submit(x): from a call's arguments to a request.
 *
 * infclient.Model derives from the type here and adds what is cold; `_renew`, which it defines, is called
 * where the handle is of no use any more (another connection, another process, another file).
 */
#include "client/python/core/core.h"
#include <errno.h>

struct model {
	PyObject_HEAD
	struct handle *handle; /* NULL = not opened yet */
};

static bool is_usable(const struct handle *handle)
{
	const struct session *session;

	if (!handle || handle->is_stale)
		return false;
	session = handle->session;
	return session->epoch == core_epoch && !session->is_lost;
}

/* The handle to use, opened again where it must be. Borrowed; NULL with an error set. */
static struct handle *usable_handle(struct model *model)
{
	PyObject *fresh;

	if (is_usable(model->handle))
		return session_is_usable(model->handle->session) ? model->handle : NULL;
	if (model->handle && model->handle->session->is_closed && model->handle->session->epoch == core_epoch) {
		core_raise("closed", "()");
		return NULL;
	}
	fresh = PyObject_CallMethod((PyObject *)model, "_renew", NULL);
	if (!fresh)
		return NULL;
	if (Py_TYPE(fresh) != handle_type) {
		Py_DECREF(fresh);
		PyErr_SetString(PyExc_TypeError, "_renew() must return a Handle");
		return NULL;
	}
	core_set((PyObject **)&model->handle, OBJECT(fresh));
	return model->handle;
}

/* --- arguments --- */

struct arguments {
	PyObject *inputs[INF_INPUTS_MAX]; /* borrowed from the call, or from `held` */
	PyObject *held; /* a copy of the dictionary of inputs: reading one of them may run Python, which may change it */
	PyObject *timeout, *deadline, *priority, *device; /* borrowed, or NULL */
	uint32_t n;
};

static int find_input(const struct handle *handle, PyObject *name)
{
	for (uint32_t i = 0; i < handle->signature->n_inputs; i++) {
		int same = PyObject_RichCompareBool(handle->inputs[i].name, name, Py_EQ);

		if (same)
			return same < 0 ? -1 : (int)i;
	}
	return (int)handle->signature->n_inputs;
}

static PyObject *signature_of(const struct handle *handle)
{
	return PyObject_CallMethod((PyObject *)(uintptr_t)handle, "signature", NULL);
}

static int bad_arguments(const struct handle *handle, const char *what, PyObject *name)
{
	PyObject *signature = signature_of(handle);

	if (signature)
		core_raise("bad_arguments", "(OsO)", signature, what, name ? name : Py_None);
	Py_XDECREF(signature);
	return -1;
}

static int take_named(struct arguments *arguments, const struct handle *handle, PyObject *name, PyObject *value)
{
	int idx = find_input(handle, name);

	if (idx < 0)
		return -1;
	if (idx == (int)handle->signature->n_inputs)
		return bad_arguments(handle, "unknown", name);
	if (arguments->inputs[idx])
		return bad_arguments(handle, "twice", name);
	arguments->inputs[idx] = value;
	arguments->n++;
	return 0;
}

static int take_keyword(struct arguments *arguments, const struct handle *handle, PyObject *name, PyObject *value)
{
	int idx = find_input(handle, name);

	if (idx < 0)
		return -1;
	/* An input of that name comes first: then the option is not to be had in this form. */
	if (idx == (int)handle->signature->n_inputs) {
		if (!PyUnicode_CompareWithASCIIString(name, "timeout")) {
			arguments->timeout = value;
			return 0;
		}
		if (!PyUnicode_CompareWithASCIIString(name, "deadline")) {
			arguments->deadline = value;
			return 0;
		}
		if (!PyUnicode_CompareWithASCIIString(name, "priority")) {
			arguments->priority = value;
			return 0;
		}
		if (!PyUnicode_CompareWithASCIIString(name, "device")) {
			arguments->device = value;
			return 0;
		}
	}
	return take_named(arguments, handle, name, value);
}

static int take_dict(struct arguments *arguments, const struct handle *handle, PyObject *dict)
{
	PyObject *name, *value;
	Py_ssize_t at = 0;

	while (PyDict_Next(dict, &at, &name, &value))
		if (take_named(arguments, handle, name, value))
			return -1;
	return 0;
}

static int take_arguments(struct arguments *arguments, const struct handle *handle, PyObject *args, PyObject *keywords)
{
	uint32_t n_inputs = handle->signature->n_inputs;
	Py_ssize_t n = PyTuple_Size(args), at = 0;
	PyObject *name, *value;

	*arguments = (struct arguments){ 0 };
	if (n == 1 && PyDict_Check(PyTuple_GetItem(args, 0))) {
		arguments->held = PyDict_Copy(PyTuple_GetItem(args, 0));
		if (!arguments->held || take_dict(arguments, handle, arguments->held))
			return -1;
	} else if (n > n_inputs) {
		return bad_arguments(handle, "many", NULL);
	} else {
		for (Py_ssize_t i = 0; i < n; i++)
			arguments->inputs[i] = PyTuple_GetItem(args, i);
		arguments->n = (uint32_t)n;
	}
	while (keywords && PyDict_Next(keywords, &at, &name, &value))
		if (take_keyword(arguments, handle, name, value))
			return -1;
	if (arguments->n == n_inputs)
		return 0;
	for (uint32_t i = 0; i < n_inputs; i++)
		if (!arguments->inputs[i])
			return bad_arguments(handle, "missing", handle->inputs[i].name);
	return bad_arguments(handle, "missing", NULL);
}

/* --- from arguments to a request in flight --- */

/* Memory and its contents: from the arena, or aside where others wait for that already. */
static int load(struct request *request, const struct source *sources)
{
	struct handle *handle = request->handle;

	if (handle->n_used)
		handle_sweep(handle);
	if (!handle->n_queued && handle_has_room(handle, request->rows)) {
		int r = request_take(request, sources);

		if (r != -ENOBUFS)
			return r;
	}
	request->stash = sources_stash(sources, handle->signature->n_inputs);
	return request->stash ? 0 : -1;
}

/* What is asked for besides the inputs. */
struct wishes {
	uint64_t deadline_ns; /* INF_FOREVER = none */
	uint32_t priority;
	bool is_on_device;
};

/* False with an error set. The device is looked for before anything is sent. */
static bool read_wishes(struct model *model, const struct handle *handle, const struct arguments *arguments, struct wishes *ret)
{
	PyObject *opened;

	if (!core_deadline(arguments->timeout, arguments->deadline, &ret->deadline_ns) ||
	    !core_priority(arguments->priority, &ret->priority) || !core_device(arguments->device, &ret->is_on_device))
		return false;
	if (!ret->is_on_device || handle->session->has_device)
		return true;
	opened = PyObject_CallMethod(OBJECT(model), "_open_device", "O", OBJECT(handle->session));
	Py_XDECREF(opened);
	return opened;
}

static struct request *make(struct handle *handle, const struct arguments *arguments, const struct wishes *wishes)
{
	struct source sources[INF_INPUTS_MAX];
	struct request *request = NULL;
	uint32_t n = 0, n_inputs = handle->signature->n_inputs, rows;
	bool is_single;
	int r = 0;

	sources[0].data = NULL; /* a model without inputs */
	while (n < n_inputs && !r) {
		r = source_open(&sources[n], arguments->inputs[n], handle, n);
		n++;
	}
	if (!r)
		r = sources_check(sources, arguments->inputs, handle, &rows, &is_single);
	if (!r)
		request = request_new(handle, rows);
	if (request) {
		request->is_single = is_single;
		request->is_on_device = wishes->is_on_device;
		request->priority = wishes->priority;
		request->deadline_ns = wishes->deadline_ns == INF_FOREVER ? 0 : wishes->deadline_ns;
		if (load(request, sources))
			Py_CLEAR(request);
	}
	while (n)
		source_close(&sources[--n]);
	return request;
}

/* Submits; a connection that turns out to be lost, or a parent's, is made anew and tried once more. */
static struct request *start(struct model *model, PyObject *args, PyObject *keywords)
{
	struct arguments arguments;
	struct request *request;
	struct wishes wishes;

	for (int attempt = 0;; attempt++) {
		struct handle *handle = usable_handle(model);
		bool is_lost;

		if (!handle)
			return NULL;
		/* What a caller passes may run Python, which may give the model another handle. */
		Py_INCREF(OBJECT(handle));
		request = NULL;
		if (!take_arguments(&arguments, handle, args, keywords) &&
		    read_wishes(model, handle, &arguments, &wishes))
			request = make(handle, &arguments, &wishes);
		Py_XDECREF(arguments.held);
		if (request && request_submit(request))
			Py_CLEAR(request);
		is_lost = !is_usable(handle) && (!request || request->error);
		Py_DECREF(OBJECT(handle));
		if (!is_lost || attempt)
			return request;
		/* Nothing was sent. */
		PyErr_Clear();
		Py_CLEAR(request);
	}
}

/* More rows than the model has memory for, or than there are side by side: model._in_parts() asks for fewer at a time. */
static PyObject *in_parts(struct model *model, PyObject *args, PyObject *keywords)
{
	PyObject *type, *error, *trace, *answer, *named;

	PyErr_Fetch(&type, &error, &trace);
	PyErr_NormalizeException(&type, &error, &trace);
	named = keywords ? Py_NewRef(keywords) : PyDict_New();
	answer = named ? PyObject_CallMethod(OBJECT(model), "_in_parts", "OOO", args, named, error) : NULL;
	Py_XDECREF(named);
	Py_XDECREF(type);
	Py_XDECREF(error);
	Py_XDECREF(trace);
	return answer;
}

static PyObject *model_call(struct model *model, PyObject *args, PyObject *keywords)
{
	struct request *request = start(model, args, keywords);
	PyObject *answer = NULL;
	bool is_short;

	if (request && !request_wait(request, request->deadline_ns ? request->deadline_ns : INF_FOREVER))
		answer = request_answer(request);
	is_short = !answer && (PyErr_ExceptionMatches(core_too_many_rows) ||
			       (request && request->rows > 1 && PyErr_ExceptionMatches(core_no_room)));
	Py_XDECREF(OBJECT(request));
	return answer || !is_short ? answer : in_parts(model, args, keywords);
}

static PyObject *model_submit(struct model *model, PyObject *args, PyObject *keywords)
{
	return (PyObject *)start(model, args, keywords);
}

/* _request(rows) -> Request to fill */
static PyObject *model_request(struct model *model, PyObject *args)
{
	struct handle *handle = usable_handle(model);
	struct request *request;
	unsigned int rows;
	int r;

	if (!handle || !PyArg_ParseTuple(args, "I", &rows) || !session_lane(handle->session))
		return NULL;
	if (rows < 1 || rows > handle->depth) {
		core_raise("bad_rows", "(OLI)", handle->model_name, (long long)rows, handle->depth);
		return NULL;
	}
	request = request_new(handle, rows);
	if (!request)
		return NULL;
	request->is_explicit = true;
	r = request_take(request, NULL);
	if (!r)
		return (PyObject *)request;
	if (r == -ENOBUFS)
		core_raise("raise_full", "(OInn)", handle->model_name, handle->depth, handle->session->n_views,
			   handle->session->n_alive);
	Py_DECREF(OBJECT(request));
	return NULL;
}

static PyObject *get_handle(struct model *model, void *closure)
{
	(void)closure;
	return Py_NewRef(model->handle ? (PyObject *)model->handle : Py_None);
}

static int set_handle(struct model *model, PyObject *value, void *closure)
{
	(void)closure;
	if (!value || Py_TYPE(value) != handle_type) {
		PyErr_SetString(PyExc_TypeError, "a Handle is needed");
		return -1;
	}
	core_set((PyObject **)&model->handle, OBJECT(Py_NewRef(value)));
	return 0;
}

/* The handle after a look at whether it must be opened again. */
static PyObject *model_usable(struct model *model, PyObject *ignored)
{
	struct handle *handle = usable_handle(model);

	(void)ignored;
	return handle ? Py_NewRef(OBJECT(handle)) : NULL;
}

static void model_dealloc(struct model *model)
{
	PyTypeObject *type = Py_TYPE(OBJECT(model));
	freefunc release = PyType_GetSlot(type, Py_tp_free);

	Py_XDECREF(OBJECT(model->handle));
	release(model);
	Py_DECREF(type);
}

static PyMethodDef methods[] = {
	{ "submit", (PyCFunction)(void (*)(void))model_submit, METH_VARARGS | METH_KEYWORDS,
	  "submit(*inputs, timeout=None, deadline=None, priority=None, device=False, **named_inputs)\n--\n\n"
	  "Hands one request to the broker and returns it at once: await it, or call result()." },
	{ "_request", (PyCFunction)model_request, METH_VARARGS, NULL },
	{ "_usable", (PyCFunction)model_usable, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "_handle", (getter)get_handle, (setter)set_handle, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

PyTypeObject *model_init(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_dealloc, model_dealloc },
		{ Py_tp_call, model_call },
		{ Py_tp_methods, methods },
		{ Py_tp_getset, getset },
		{ Py_tp_doc, "What infclient.Model is made of." },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "infclient._core.Model",
		.basicsize = sizeof(struct model),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
		.slots = slots,
	};

	return (PyTypeObject *)PyType_FromSpec(&spec);
}
