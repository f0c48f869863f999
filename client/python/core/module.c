/* SPDX-License-Identifier: Apache-2.0 */
/* module.c - infclient._core: what is common to its files, and how it comes up. */
#include "client/python/core/core.h"
#include <math.h>
#include <stdarg.h>
#include <time.h>

uint64_t core_epoch;
PyObject *core_errors, *core_convert, *core_ndarray, *core_get_loop, *core_copy_context, *core_too_many_rows, *core_no_room;
unsigned long core_main_thread;
PyTypeObject *session_type, *handle_type, *request_type, *waiter_type, *tensor_type, *device_tensor_type, *model_type;

uint64_t core_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int core_raise(const char *name, const char *format, ...)
{
	PyObject *function = PyObject_GetAttrString(core_errors, name);
	PyObject *args = NULL, *error = NULL;
	va_list list;

	va_start(list, format);
	if (function)
		args = Py_VaBuildValue(format, list);
	va_end(list);
	if (args)
		error = PyObject_Call(function, args, NULL);
	if (error)
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_XDECREF(error);
	Py_XDECREF(args);
	Py_XDECREF(function);
	return -1;
}

/* Seconds from `from_ns` on, or absolute where that is 0. */
static bool seconds(PyObject *value, const char *what, uint64_t from_ns, uint64_t *ret_ns)
{
	double s = PyFloat_AsDouble(value);

	if (s == -1.0 && PyErr_Occurred())
		return false;
	if (isnan(s) || s < 0) {
		PyErr_Format(PyExc_ValueError, "%s must be a number of seconds that is not negative, got %R", what, value);
		return false;
	}
	/* 292 years is for ever, and 0 would mean none. */
	*ret_ns = s > 9.2e9 ? INF_FOREVER : from_ns + (uint64_t)(s * 1e9);
	if (!*ret_ns)
		*ret_ns = 1;
	return true;
}

bool core_deadline(PyObject *timeout, PyObject *deadline, uint64_t *ret_ns)
{
	bool has_timeout = timeout && timeout != Py_None;
	bool has_deadline = deadline && deadline != Py_None;

	*ret_ns = INF_FOREVER;
	if (has_timeout && has_deadline) {
		PyErr_SetString(PyExc_ValueError, "give timeout (seconds from now) or deadline (time.monotonic()), not both");
		return false;
	}
	if (has_timeout)
		return seconds(timeout, "timeout", core_now_ns(), ret_ns);
	return !has_deadline || seconds(deadline, "deadline", 0, ret_ns);
}

bool core_priority(PyObject *priority, uint32_t *ret_priority)
{
	long value = INF_PRIORITY_DEFAULT;

	if (priority && priority != Py_None)
		value = PyLong_AsLong(priority);
	if (value == -1 && PyErr_Occurred())
		return false;
	if (value < 0 || value > INF_PRIORITY_MAX) {
		PyErr_Format(PyExc_ValueError, "priority must be 0 to %d (the most urgent), got %ld", INF_PRIORITY_MAX, value);
		return false;
	}
	*ret_priority = (uint32_t)value;
	return true;
}

bool core_device(PyObject *device, bool *ret_is_on_device)
{
	/* "cpu" would be true. */
	if (device && device != Py_None && !PyBool_Check(device)) {
		PyErr_Format(PyExc_TypeError, "device must be True (results stay on the broker's CUDA device) or False, got %R", device);
		return false;
	}
	*ret_is_on_device = device == Py_True;
	return true;
}

static PyObject *forked(PyObject *self, PyObject *ignored)
{
	(void)self, (void)ignored;
	core_epoch++;
	core_main_thread = PyThread_get_thread_ident();
	Py_RETURN_NONE;
}

/* open(socket, name) -> Session */
static PyObject *open_session(PyObject *self, PyObject *args)
{
	char text[1024] = "";
	struct inf_options options = { .size = sizeof(options), .error = text, .error_bytes = sizeof(text) };
	PyObject *path, *encoded = NULL;
	struct session *session;
	int r;

	(void)self;
	if (!PyArg_ParseTuple(args, "Oz", &path, &options.name) ||
	    (path != Py_None && !PyUnicode_FSConverter(path, &encoded)))
		return NULL;
	options.socket = encoded ? PyBytes_AsString(encoded) : NULL;
	session = PyObject_New(struct session, session_type);
	if (!session) {
		Py_XDECREF(encoded);
		return NULL;
	}
	memset((char *)session + sizeof(PyObject), 0, sizeof(*session) - sizeof(PyObject));
	session->epoch = core_epoch;
	Py_BEGIN_ALLOW_THREADS
	r = inf_open(&session->client, &options);
	Py_END_ALLOW_THREADS
	Py_XDECREF(encoded);
	if (!r)
		return (PyObject *)session;
	Py_DECREF(OBJECT(session));
	/* The path in it need not be UTF-8, and may have been cut. */
	core_raise("cannot_connect", "(iN)", -r, PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace"));
	return NULL;
}

static PyMethodDef functions[] = {
	{ "open", open_session, METH_VARARGS, "open(socket, name): connects. None = the defaults." },
	{ "forked", forked, METH_NOARGS, "Tells that this process is a new child." },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "infclient._core",
	.m_doc = "The C half of infclient, over libinfclient.",
	.m_size = -1,
	.m_methods = functions,
};

static bool import(PyObject **ret, const char *module_name, const char *attribute)
{
	PyObject *module = PyImport_ImportModule(module_name);

	if (!module)
		return false;
	*ret = attribute ? PyObject_GetAttrString(module, attribute) : Py_NewRef(module);
	Py_DECREF(module);
	return *ret;
}

static bool add(PyObject *module, const char *name, PyTypeObject **type, PyTypeObject *made)
{
	*type = made;
	return made && PyModule_AddObjectRef(module, name, (PyObject *)made) == 0;
}

/* Not who imports us: that may be any thread. */
static bool find_main_thread(void)
{
	PyObject *main_thread_of, *thread, *ident = NULL;

	if (!import(&main_thread_of, "threading", "main_thread"))
		return false;
	thread = PyObject_CallNoArgs(main_thread_of);
	if (thread)
		ident = PyObject_GetAttrString(thread, "ident");
	if (ident)
		core_main_thread = PyLong_AsUnsignedLong(ident);
	Py_DECREF(main_thread_of);
	Py_XDECREF(thread);
	Py_XDECREF(ident);
	return !PyErr_Occurred();
}

PyMODINIT_FUNC PyInit__core(void)
{
	PyObject *module = PyModule_Create(&definition);

	if (!module)
		return NULL;
	if (!find_main_thread())
		return NULL;
	if (import(&core_errors, "infclient._errors", NULL) && import(&core_convert, "infclient._convert", NULL) &&
	    import(&core_too_many_rows, "infclient._errors", "TooManyRows") && import(&core_no_room, "infclient._errors", "NO_ROOM") &&
	    import(&core_ndarray, "numpy", "ndarray") && import(&core_get_loop, "asyncio", "get_running_loop") &&
	    import(&core_copy_context, "contextvars", "copy_context") &&
	    add(module, "Session", &session_type, session_init()) && add(module, "Handle", &handle_type, handle_init()) &&
	    add(module, "Request", &request_type, request_init()) && add(module, "Waiter", &waiter_type, waiter_init()) &&
	    add(module, "Tensor", &tensor_type, tensor_init()) &&
	    add(module, "DeviceTensor", &device_tensor_type, device_tensor_init()) && add(module, "Model", &model_type, model_init()) &&
	    PyModule_AddStringConstant(module, "version", inf_version()) == 0)
		return module;
	Py_DECREF(module);
	return NULL;
}
