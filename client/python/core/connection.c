/* SPDX-License-Identifier: Apache-2.0 */
/* connection.c - the object that is a connection: what it is asked, and how it goes. */
#include "client/python/core/core.h"
#include <errno.h>

/* Device work that has been queued is waited for, and it may want the GIL. */
static void close_client(struct session *session)
{
	if (session->has_device) {
		Py_BEGIN_ALLOW_THREADS
		inf_close(session->client);
		Py_END_ALLOW_THREADS
	} else {
		inf_close(session->client);
	}
}

static void session_dealloc(struct session *session)
{
	PyTypeObject *type = Py_TYPE(OBJECT(session));
	PyObject *threads = PyThreadState_GetDict();
	PyObject *key = threads ? PyLong_FromVoidPtr(session) : NULL;
	struct lane *lanes = session->lanes;

	/* Loops are told, which is Python: whoever comes by a lane then finds no session that is about to go. */
	session->lanes = NULL;
	for (struct lane *lane = lanes; lane; lane = lane->next) {
		lane_ref(lane)->session = NULL;
		lane->is_closing = true;
	}
	for (struct lane *lane = lanes; lane && session->epoch == core_epoch; lane = lane->next)
		lane_unwatch(lane);
	close_client(session);
	for (struct lane *lane = lanes, *next; lane; lane = next) {
		next = lane->next;
		lane->is_closing = false;
		lane_unref(lane);
	}
	if (key && PyDict_GetItemWithError(threads, key))
		PyDict_DelItem(threads, key);
	PyErr_Clear();
	Py_XDECREF(key);
	PyObject_Free(session);
	Py_DECREF(type);
}

static PyObject *session_close(struct session *session, PyObject *ignored)
{
	(void)ignored;
	session->is_closed = true;
	Py_RETURN_NONE;
}

/* model(name, depth) -> Handle */
static PyObject *session_model(struct session *session, PyObject *args)
{
	const char *name;
	unsigned int depth;

	if (!PyArg_ParseTuple(args, "sI", &name, &depth) || !session_is_usable(session))
		return NULL;
	return (PyObject *)handle_open(session, name, depth);
}

/* device() -> the ordinal; opens it */
static PyObject *session_device(struct session *session, PyObject *ignored)
{
	(void)ignored;
	if (!session_is_usable(session) || device_open(session))
		return NULL;
	return PyLong_FromLong(session->device);
}

static PyObject *info_of(const struct inf_model_info *info)
{
	PyObject *times = PyDict_New(), *result = NULL;

	for (unsigned int i = 0; times && i < 9; i++) {
		PyObject *rows, *ns;

		if (!info->time_ns[i])
			continue;
		rows = PyLong_FromUnsignedLong(1ul << i);
		ns = PyLong_FromUnsignedLongLong(info->time_ns[i]);
		if (!rows || !ns || PyDict_SetItem(times, rows, ns))
			Py_CLEAR(times);
		Py_XDECREF(rows);
		Py_XDECREF(ns);
	}
	if (times)
		result = Py_BuildValue("(sIIsO)", info->signature.name, info->signature.version, info->state, info->text, times);
	Py_XDECREF(times);
	return result;
}

/* models() -> [(name, version, state, text, {rows: ns})] */
static PyObject *session_models(struct session *session, PyObject *ignored)
{
	PyObject *list, *item;

	(void)ignored;
	if (!session_is_usable(session))
		return NULL;
	list = PyList_New(0);
	for (uint32_t i = 0; list; i++) {
		struct inf_model_info info = { .size = sizeof(info) };
		int r;

		Py_BEGIN_ALLOW_THREADS
		r = inf_model_list(session->client, i, &info);
		Py_END_ALLOW_THREADS
		if (r == -ENOENT)
			return list;
		if (r) {
			session->is_lost |= r == -ECONNRESET || r == -EPROTO;
			core_raise("from_errno", "(is)", -r, "listing the models");
			break;
		}
		item = info_of(&info);
		if (!item || PyList_Append(list, item)) {
			Py_XDECREF(item);
			break;
		}
		Py_DECREF(item);
	}
	Py_XDECREF(list);
	return NULL;
}

/* ping(timeout) -> seconds */
static PyObject *session_ping(struct session *session, PyObject *timeout)
{
	uint64_t until_ns, rtt_ns = 0;
	int r;

	if (!session_is_usable(session) || !core_deadline(timeout, NULL, &until_ns))
		return NULL;
	if (!session_lane(session))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	r = inf_ping(session->client, until_ns, &rtt_ns);
	Py_END_ALLOW_THREADS
	if (!r)
		return PyFloat_FromDouble((double)rtt_ns / 1e9);
	session->is_lost |= r == -ECONNRESET;
	core_raise("from_errno", "(is)", -r, "ping");
	return NULL;
}

static PyObject *session_stats(struct session *session, PyObject *ignored)
{
	PyObject *ended = PyDict_New(), *result = NULL;

	(void)ignored;
	for (int i = 0; ended && i < INF_STATUS_N; i++) {
		PyObject *n;

		if (!session->n_ended[i])
			continue;
		n = PyLong_FromUnsignedLongLong(session->n_ended[i]);
		if (!n || PyDict_SetItemString(ended, inf_status_name((enum inf_status)i), n))
			Py_CLEAR(ended);
		Py_XDECREF(n);
	}
	if (ended)
		result = Py_BuildValue("{sI,sK,sO,sn,sn}", "session", inf_session(session->client), "requests",
				       (unsigned long long)session->n_requests, "ended", ended, "live_views",
				       session->n_views, "live_requests", session->n_alive);
	Py_XDECREF(ended);
	return result;
}

/* True while requests can be sent: neither closed nor lost nor a parent's. */
static PyObject *session_is_up(struct session *session, void *closure)
{
	(void)closure;
	return PyBool_FromLong(!session->is_closed && !session->is_lost && session->epoch == core_epoch);
}

static PyMethodDef methods[] = {
	{ "device", (PyCFunction)session_device, METH_NOARGS, NULL },
	{ "close", (PyCFunction)session_close, METH_NOARGS, NULL },
	{ "model", (PyCFunction)session_model, METH_VARARGS, NULL },
	{ "models", (PyCFunction)session_models, METH_NOARGS, NULL },
	{ "ping", (PyCFunction)session_ping, METH_O, NULL },
	{ "stats", (PyCFunction)session_stats, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "is_up", (getter)session_is_up, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

PyTypeObject *session_init(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_dealloc, session_dealloc },
		{ Py_tp_methods, methods },
		{ Py_tp_getset, getset },
		{ Py_tp_doc, "One connection to the broker." },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "infclient._core.Session",
		.basicsize = sizeof(struct session),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	return (PyTypeObject *)PyType_FromSpec(&spec);
}
