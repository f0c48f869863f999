/* SPDX-License-Identifier: Apache-2.0 */
/*
 * future.c - a request as Python sees it: what to wait for.
 *
 * It is what asyncio takes for a Future: it has the methods and the flag `_asyncio_future_blocking` by
 * which a Task knows one (asyncio.isfuture() is true), so awaiting it costs no second object, and
 * gather(), wait() and wait_for() take it as it is. Outside of a loop result() blocks, without the GIL.
 */
#include "client/python/core/core.h"
#include <errno.h>

static PyObject *future_result(struct request *request, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "timeout", NULL };
	PyObject *timeout = Py_None;
	uint64_t until_ns;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O", names, &timeout) ||
	    !core_deadline(timeout, NULL, &until_ns))
		return NULL;
	if (request->state == REQUEST_NEW) {
		core_raise("not_submitted", "()");
		return NULL;
	}
	if (request->deadline_ns && request->deadline_ns < until_ns)
		until_ns = request->deadline_ns;
	return request_wait(request, until_ns) ? NULL : request_answer(request);
}

/* By somebody, and not for being late, which is an error like others. */
static bool is_cancelled(const struct request *request)
{
	return request->state == REQUEST_CANCELLED && !request->error;
}

static PyObject *future_exception(struct request *request, PyObject *args, PyObject *keywords)
{
	PyObject *result = future_result(request, args, keywords);
	PyObject *type, *error, *trace;

	if (result) {
		Py_DECREF(result);
		Py_RETURN_NONE;
	}
	/* A request that has not ended, or a cancelled one, raises as asyncio's does. */
	if (is_cancelled(request) || request->state == REQUEST_NEW)
		return NULL;
	PyErr_Fetch(&type, &error, &trace);
	PyErr_NormalizeException(&type, &error, &trace);
	Py_XDECREF(type);
	Py_XDECREF(trace);
	return error;
}

static PyObject *future_done(struct request *request, PyObject *ignored)
{
	(void)ignored;
	return PyBool_FromLong(request_is_over(request));
}

static PyObject *future_cancelled(struct request *request, PyObject *ignored)
{
	(void)ignored;
	return PyBool_FromLong(is_cancelled(request));
}

static PyObject *future_cancel(struct request *request, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "msg", NULL };
	PyObject *message;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O", names, &message))
		return NULL;
	return PyBool_FromLong(!request_is_over(request) && request_cancel(request));
}

/* The loop's timer: its deadline has passed. */
static PyObject *future_expire(struct request *request, PyObject *ignored)
{
	(void)ignored;
	Py_CLEAR(request->timer);
	if (!request_is_over(request) && !request_expire(request))
		return NULL;
	Py_RETURN_NONE;
}

/* What asyncio's own futures have for gather(): the message of a cancellation is not kept. */
static PyObject *get_cancel_message(struct request *request, void *closure)
{
	(void)request, (void)closure;
	Py_RETURN_NONE;
}

static PyObject *make_cancelled_error(struct request *request, PyObject *ignored)
{
	(void)ignored;
	return PyObject_CallMethod(core_errors, "cancelled", "OO", request->handle->model_name, Py_True);
}

static PyObject *running_loop(void)
{
	return PyObject_CallNoArgs(core_get_loop);
}

static PyObject *future_get_loop(struct request *request, PyObject *ignored)
{
	(void)ignored;
	return request->callbacks ? Py_NewRef(request->loop) : running_loop();
}

static int start_timer(struct request *request, PyObject *loop)
{
	uint64_t now_ns = core_now_ns();
	double delay = request->deadline_ns > now_ns ? (double)(request->deadline_ns - now_ns) / 1e9 : 0;
	PyObject *expire = PyObject_GetAttrString((PyObject *)request, "_expire");

	if (!expire)
		return -1;
	request->timer = PyObject_CallMethod(loop, "call_later", "dO", delay, expire);
	Py_DECREF(expire);
	return request->timer ? 0 : -1;
}

/* Makes the completion reach `loop`: the lane's descriptor, or, for a request of another thread, a thread that waits. */
static int wait_in_loop(struct request *request, PyObject *loop)
{
	struct lane *lane;
	int has_moved;

	if (request->state == REQUEST_NEW)
		return core_raise("not_submitted", "()");
	has_moved = request_adopt(request);
	if (has_moved < 0)
		return -1;
	lane = request->lane;
	if (!lane_is_mine(lane)) {
		PyObject *bridge = PyObject_CallMethod(core_convert, "bridge", "OO", loop, (PyObject *)request);

		Py_XDECREF(bridge);
		return bridge ? 0 : -1;
	}
	if (lane_watch(lane, loop))
		return -1;
	/* No completion of this thread's own may ever come and make it look. */
	if (has_moved)
		lane_flush(lane);
	return request->deadline_ns && !request->timer ? start_timer(request, loop) : 0;
}

/* Is one of the callbacks that loop's? */
static bool has_loop(PyObject *callbacks, const PyObject *loop)
{
	for (Py_ssize_t i = callbacks ? PyList_Size(callbacks) : 0; i > 0; i--)
		if (PyTuple_GetItem(PyList_GetItem(callbacks, i - 1), 2) == loop)
			return true;
	return false;
}

/* 0, or -1 with an error set. */
static int add_callback(struct request *request, PyObject *loop, PyObject *callback, PyObject *context)
{
	bool is_first;
	PyObject *pair, *list;

	request->was_awaited = true;
	if (request_is_over(request)) {
		lane_call_soon(request, loop, callback, context);
		return 0;
	}
	if (!has_loop(request->callbacks, loop) && wait_in_loop(request, loop)) {
		PyObject *type, *error, *trace;

		/* A broker that has died has no descriptor to give: that is the request's error. */
		PyErr_Fetch(&type, &error, &trace);
		if (!request_is_over(request)) {
			PyErr_Restore(type, error, trace);
			return -1;
		}
		Py_XDECREF(type);
		Py_XDECREF(error);
		Py_XDECREF(trace);
		lane_call_soon(request, loop, callback, context);
		return 0;
	}
	/* Making objects may collect garbage, which runs Python: from the look at the list on none is made. */
	pair = PyTuple_Pack(3, callback, context, loop);
	list = pair ? PyList_New(0) : NULL;
	/* Another thread may have added one meanwhile. */
	is_first = list && !request->callbacks;
	if (!list || PyList_Append(is_first ? list : request->callbacks, pair)) {
		Py_XDECREF(pair);
		Py_XDECREF(list);
		return -1;
	}
	Py_DECREF(pair);
	if (is_first) {
		core_set(&request->callbacks, list);
		/* While somebody waits it must not go: nobody else may know the task that does. */
		Py_INCREF(OBJECT(request));
		request->lane->n_waited++;
		core_set(&request->loop, Py_NewRef(loop));
	} else {
		Py_DECREF(list);
	}
	if (lane_is_mine(request->lane))
		lane_arm(request->lane);
	/* The GIL was released on the way here: another thread may have seen its end. */
	request_settle(request);
	return 0;
}

/* add_done_callback(fn, *, context=None) */
static PyObject *future_add_callback(struct request *request, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "", "context", NULL };
	PyObject *callback, *loop, *context = Py_None;
	int r;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$O", names, &callback, &context))
		return NULL;
	/* As asyncio's do: the context of who adds it, not of who sees the end. */
	context = context == Py_None ? PyObject_CallNoArgs(core_copy_context) : Py_NewRef(context);
	if (!context)
		return NULL;
	loop = running_loop();
	r = loop ? add_callback(request, loop, callback, context) : -1;
	Py_XDECREF(loop);
	Py_DECREF(context);
	return r ? NULL : Py_NewRef(Py_None);
}

static PyObject *future_remove_callback(struct request *request, PyObject *callback)
{
	PyObject *callbacks = request->callbacks;
	long n = 0;

	Py_XINCREF(callbacks);
	/* Comparing may run Python, which may end the request: then they were called. */
	for (Py_ssize_t i = callbacks ? PyList_Size(callbacks) - 1 : -1; i >= 0 && request->callbacks == callbacks; i--) {
		PyObject *pair = i < PyList_Size(callbacks) ? Py_NewRef(PyList_GetItem(callbacks, i)) : NULL;
		int same = pair ? PyObject_RichCompareBool(PyTuple_GetItem(pair, 0), callback, Py_EQ) : 0;

		if (same > 0 && request->callbacks != callbacks)
			same = 0;
		if (same > 0 && i < PyList_Size(callbacks) && PyList_GetItem(callbacks, i) == pair)
			same = PySequence_DelItem(callbacks, i) ? -1 : 1;
		Py_XDECREF(pair);
		if (same < 0) {
			Py_DECREF(callbacks);
			return NULL;
		}
		n += same;
	}
	Py_XDECREF(callbacks);
	return PyLong_FromLong(n);
}

/* submit(timeout=None, deadline=None, priority=None): again, or for the first time after request(). */
static PyObject *future_submit(struct request *request, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "timeout", "deadline", "priority", NULL };
	PyObject *timeout = Py_None, *deadline = Py_None, *priority = Py_None;
	uint32_t class;
	uint64_t until_ns;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "|$OOO", names, &timeout, &deadline, &priority) ||
	    !core_deadline(timeout, deadline, &until_ns) || !core_priority(priority, &class) || !session_is_usable(request->handle->session))
		return NULL;
	if (!request->is_explicit || request->is_closed || !request->req) {
		core_raise("given_back", "()");
		return NULL;
	}
	if (!request_is_over(request) && request->state != REQUEST_NEW) {
		core_raise("in_flight", "()");
		return NULL;
	}
	if (request->state == REQUEST_CANCELLED && !inf_poll(request->req)) {
		core_raise("in_flight", "()");
		return NULL;
	}
	if (request->n_views_out) {
		core_raise("answer_in_use", "(I)", request->n_views_out);
		return NULL;
	}
	request->was_awaited = false;
	Py_CLEAR(request->error);
	request->state = REQUEST_NEW;
	request->priority = class;
	request->deadline_ns = until_ns == INF_FOREVER ? 0 : until_ns;
	if (!request->deadline_ns)
		inf_request_set_deadline(request->req, 0);
	if (request_submit(request))
		return NULL;
	return Py_NewRef(OBJECT(request));
}

/* Gives the memory back, now or with the last view. */
static PyObject *future_close(struct request *request, PyObject *ignored)
{
	(void)ignored;
	request_close(request);
	Py_RETURN_NONE;
}

static PyObject *future_enter(struct request *request, PyObject *ignored)
{
	(void)ignored;
	return Py_NewRef(OBJECT(request));
}

static PyObject *future_exit(struct request *request, PyObject *args)
{
	(void)args;
	return future_close(request, NULL);
}

/* _input(idx, shape or None) -> writable array; _inputs_room is the signature's largest shape. */
static PyObject *future_input(struct request *request, PyObject *args)
{
	PyObject *shape;
	unsigned int idx;
	const struct inf_tensor_spec *spec;
	int64_t dims[INF_RANK_MAX];

	if (!PyArg_ParseTuple(args, "IO", &idx, &shape))
		return NULL;
	if (!request->req || request->is_closed) {
		core_raise("given_back", "()");
		return NULL;
	}
	if (idx >= request->handle->signature->n_inputs) {
		PyErr_SetString(PyExc_IndexError, "no such input");
		return NULL;
	}
	spec = &request->handle->signature->inputs[idx];
	for (uint32_t i = 0; i < spec->rank; i++)
		dims[i] = i == 0 && spec->flags & INF_SPEC_BATCH ? request->rows : spec->dims_max[i];
	if (shape != Py_None) {
		int r;

		if (PySequence_Size(shape) != spec->rank) {
			PyErr_SetString(PyExc_ValueError, "a shape of another rank than the signature's");
			return NULL;
		}
		for (int i = 0; i < spec->rank; i++) {
			PyObject *dim = PySequence_GetItem(shape, i);

			dims[i] = dim ? PyLong_AsLongLong(dim) : -1;
			Py_XDECREF(dim);
			if (PyErr_Occurred())
				return NULL;
		}
		r = inf_input_describe(request->req, idx, (enum inf_dtype)spec->dtype, spec->rank, dims);
		if (r) {
			core_raise("bad_described", "(iOO)", -r, request->handle->inputs[idx].name, shape);
			return NULL;
		}
	}
	return tensor_as_array(tensor_input(request, idx, dims, spec->rank), &request->handle->inputs[idx]);
}

/* By name or position. False with an error set. */
static bool find_output(const struct handle *handle, PyObject *which, uint32_t *ret_idx)
{
	uint32_t n = handle->signature->n_outputs, idx;

	if (PyLong_Check(which)) {
		unsigned long at = PyLong_AsUnsignedLong(which);

		if (PyErr_Occurred())
			return false;
		idx = at < n ? (uint32_t)at : n;
	} else {
		for (idx = 0; idx < n; idx++) {
			int same = PyObject_RichCompareBool(handle->outputs[idx].name, which, Py_EQ);

			if (same < 0)
				return false;
			if (same)
				break;
		}
	}
	*ret_idx = idx;
	if (idx >= n)
		PyErr_SetObject(PyExc_KeyError, which);
	return idx < n;
}

/* It has ended well, or is in flight and its results stay on the device. False with an error set. */
static bool has_tensors(struct request *request)
{
	if (!request_is_over(request)) {
		if (request->is_on_device && request->state == REQUEST_FLIGHT)
			return true;
		core_raise(request->state == REQUEST_NEW ? "not_submitted" :
			   request->state == REQUEST_FLIGHT ? "in_flight" : "in_queue", "()");
		return false;
	}
	if (request->state != REQUEST_ENDED || request->error || request->status != INF_OK) {
		request_raise(request);
		return false;
	}
	if (!request->req && !request->answer)
		core_raise("given_back", "()");
	return request->req || request->answer;
}

/* tensor(output) -> Tensor, for DLPack consumers and types that numpy lacks; on the device also before the answer. */
static PyObject *future_tensor(struct request *request, PyObject *which)
{
	uint32_t idx;

	if (!find_output(request->handle, which, &idx) || !has_tensors(request))
		return NULL;
	if (request->is_on_device)
		return device_output(request, idx);
	return request->req ? tensor_output(request, idx, request->is_single) : tensor_copy(request, idx);
}

/*
 * Outside of a loop None, by which asyncio.isfuture() says no and run_until_complete() and ensure_future()
 * take it for any awaitable: which loop will wait for it is not known yet, and a future must name its own.
 */
static PyObject *get_blocking(struct request *request, void *closure)
{
	PyObject *loop;

	(void)closure;
	if (request->is_blocking || request->callbacks)
		return PyBool_FromLong(request->is_blocking);
	loop = running_loop();
	if (!loop) {
		PyErr_Clear();
		Py_RETURN_NONE;
	}
	Py_DECREF(loop);
	Py_RETURN_FALSE;
}

static int set_blocking(struct request *request, PyObject *value, void *closure)
{
	int truth = value ? PyObject_IsTrue(value) : 0;

	(void)closure;
	if (truth < 0)
		return -1;
	request->is_blocking = truth;
	return 0;
}

static PyObject *get_rows(struct request *request, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLong(request->rows);
}

static PyObject *get_state(struct request *request, void *closure)
{
	static const char *const names[] = { "new", "queued", "in flight", "ended", "cancelled" };

	(void)closure;
	return PyUnicode_FromString(names[request->state]);
}

static PyObject *get_handle(struct request *request, void *closure)
{
	(void)closure;
	return Py_NewRef(OBJECT(request->handle));
}

/* (queue seconds, run seconds) as the broker measured them */
static PyObject *get_times(struct request *request, void *closure)
{
	(void)closure;
	return Py_BuildValue("(dd)", request->queue_us / 1e6, request->run_us / 1e6);
}

/* --- awaiting --- */

struct waiter {
	PyObject_HEAD
	struct request *request;
	bool has_yielded;
};

static PyObject *future_await(struct request *request)
{
	struct waiter *waiter = PyObject_GC_New(struct waiter, waiter_type);

	if (!waiter)
		return NULL;
	waiter->request = (struct request *)Py_NewRef(OBJECT(request));
	waiter->has_yielded = false;
	PyObject_GC_Track(waiter);
	return (PyObject *)waiter;
}

static PySendResult waiter_send(struct waiter *waiter, PyObject *ignored, PyObject **ret)
{
	struct request *request = waiter->request;

	(void)ignored;
	if (request->state == REQUEST_NEW) {
		core_raise("not_submitted", "()");
		*ret = NULL;
		return PYGEN_ERROR;
	}
	if (!request_is_over(request)) {
		if (waiter->has_yielded) {
			PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
			*ret = NULL;
			return PYGEN_ERROR;
		}
		waiter->has_yielded = true;
		request->is_blocking = true;
		*ret = Py_NewRef(OBJECT(request));
		return PYGEN_NEXT;
	}
	*ret = request_answer(request);
	return *ret ? PYGEN_RETURN : PYGEN_ERROR;
}

static PyObject *waiter_next(struct waiter *waiter)
{
	PyObject *value, *stop;

	switch (waiter_send(waiter, NULL, &value)) {
	case PYGEN_NEXT:
		return value;
	case PYGEN_RETURN:
		/* An instance, so that a tuple stays one value. */
		stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, value, NULL);
		Py_DECREF(value);
		if (stop)
			PyErr_SetObject(PyExc_StopIteration, stop);
		Py_XDECREF(stop);
		return NULL;
	default:
		return NULL;
	}
}

static int waiter_traverse(struct waiter *waiter, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(OBJECT(waiter)));
	Py_VISIT(waiter->request);
	return 0;
}

static int waiter_clear(struct waiter *waiter)
{
	Py_CLEAR(waiter->request);
	return 0;
}

static void waiter_dealloc(struct waiter *waiter)
{
	PyTypeObject *type = Py_TYPE(OBJECT(waiter));

	PyObject_GC_UnTrack(waiter);
	waiter_clear(waiter);
	PyObject_GC_Del(waiter);
	Py_DECREF(type);
}

PyTypeObject *waiter_init(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_dealloc, waiter_dealloc }, { Py_tp_traverse, waiter_traverse }, { Py_tp_clear, waiter_clear },
		{ Py_tp_iter, PyObject_SelfIter }, { Py_tp_iternext, waiter_next },	  { Py_am_send, waiter_send },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "infclient._core.Waiter",
		.basicsize = sizeof(struct waiter),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	return (PyTypeObject *)PyType_FromSpec(&spec);
}

/* --- the object --- */

static int future_traverse(struct request *request, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(OBJECT(request)));
	Py_VISIT(request->answer);
	Py_VISIT(request->error);
	Py_VISIT(request->loop);
	Py_VISIT(request->callbacks);
	Py_VISIT(request->timer);
	Py_VISIT(request->held);
	return 0;
}

static void clear_python(struct request *request)
{
	Py_CLEAR(request->callbacks);
	Py_CLEAR(request->answer);
	Py_CLEAR(request->error);
	Py_CLEAR(request->loop);
	Py_CLEAR(request->timer);
}

static int future_clear(struct request *request)
{
	clear_python(request);
	Py_CLEAR(request->held);
	return 0;
}

static void future_dealloc(struct request *request)
{
	PyTypeObject *type = Py_TYPE(OBJECT(request));
	PyObject *kind, *error, *trace;

	PyObject_GC_UnTrack(request);
	/* Off all lists before anything runs Python: who found it there would take a reference. */
	if (request->state == REQUEST_QUEUED)
		lane_unqueue(request);
	request_give(request);
	/* Somebody else's tensors go, which may run Python: the error that is set now stays. */
	PyErr_Fetch(&kind, &error, &trace);
	clear_python(request);
	PyErr_Restore(kind, error, trace);
	core_drop(request->held);
	sources_drop(request->stash, request->handle->signature->n_inputs);
	lane_unref(request->lane);
	Py_DECREF(OBJECT(request->handle));
	PyObject_GC_Del(request);
	Py_DECREF(type);
}

static PyMethodDef methods[] = {
	{ "result", (PyCFunction)(void (*)(void))future_result, METH_VARARGS | METH_KEYWORDS,
	  "result(timeout=None)\n--\n\nThe answer; waits for it without the GIL. A timeout (seconds) cancels the request and\n"
	  "raises DeadlineExceeded. Raises the status's exception where the request failed." },
	{ "exception", (PyCFunction)(void (*)(void))future_exception, METH_VARARGS | METH_KEYWORDS,
	  "exception(timeout=None)\n--\n\nWhat result() would raise, or None. Waits." },
	{ "done", (PyCFunction)future_done, METH_NOARGS, "done()\n--\n\nTrue when it has ended, however. Never blocks." },
	{ "cancel", (PyCFunction)(void (*)(void))future_cancel, METH_VARARGS | METH_KEYWORDS,
	  "cancel(msg=None)\n--\n\nAsks for an early end. False where it has ended already. Never blocks." },
	{ "cancelled", (PyCFunction)future_cancelled, METH_NOARGS, "cancelled()\n--\n\nTrue after cancel()." },
	{ "submit", (PyCFunction)(void (*)(void))future_submit, METH_VARARGS | METH_KEYWORDS,
	  "submit(*, timeout=None, deadline=None, priority=None)\n--\n\nHands a request() to the broker, the first time or again. Returns itself." },
	{ "close", (PyCFunction)future_close, METH_NOARGS,
	  "close()\n--\n\nGives its memory back: now, or when the last view of it goes." },
	{ "tensor", (PyCFunction)future_tensor, METH_O,
	  "tensor(output)\n--\n\nThe answer's output, by name or position, as a Tensor: buffer protocol and DLPack." },
	{ "add_done_callback", (PyCFunction)(void (*)(void))future_add_callback, METH_VARARGS | METH_KEYWORDS,
	  "add_done_callback(fn, *, context=None)\n--\n\nCalls fn(self) from the running event loop when it has ended." },
	{ "remove_done_callback", (PyCFunction)future_remove_callback, METH_O,
	  "remove_done_callback(fn)\n--\n\nHow many were removed." },
	{ "get_loop", (PyCFunction)future_get_loop, METH_NOARGS, "get_loop()\n--\n\nThe event loop of its callbacks." },
	{ "_make_cancelled_error", (PyCFunction)make_cancelled_error, METH_NOARGS, NULL },
	{ "_expire", (PyCFunction)future_expire, METH_NOARGS, NULL },
	{ "_input", (PyCFunction)future_input, METH_VARARGS, NULL },
	{ "__enter__", (PyCFunction)future_enter, METH_NOARGS, NULL },
	{ "__exit__", (PyCFunction)future_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef getset[] = {
	{ "_cancel_message", (getter)get_cancel_message, NULL, NULL, NULL },
	{ "_asyncio_future_blocking", (getter)get_blocking, (setter)set_blocking, NULL, NULL },
	{ "rows", (getter)get_rows, NULL, "Rows of the batch dimension.", NULL },
	{ "state", (getter)get_state, NULL, "'new', 'queued', 'in flight', 'ended' or 'cancelled'.", NULL },
	{ "times", (getter)get_times, NULL, "(queued, run) in seconds, measured by the broker.", NULL },
	{ "_handle", (getter)get_handle, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

PyTypeObject *request_init(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_dealloc, future_dealloc }, { Py_tp_traverse, future_traverse }, { Py_tp_clear, future_clear },
		{ Py_tp_methods, methods },	    { Py_tp_getset, getset },		  { Py_am_await, future_await },
		{ Py_tp_iter, future_await },
		{ Py_tp_doc, "A request: memory to fill, a future to wait for (result(), or await), and the answer." },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "infclient._core.Request",
		.basicsize = sizeof(struct request),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	return (PyTypeObject *)PyType_FromSpec(&spec);
}
