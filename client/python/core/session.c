/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - what each thread has of a connection; connection.c has the object.
 *
 * The library gives each thread a lane, and wants a thread that ends to return it before inf_close()
 * runs. So the thread's own dictionary, which Python empties in the thread itself and before others
 * can join it, holds a capsule that returns the lane.
 *
 * An event loop watches the lane's descriptor: one readiness callback takes all completions there
 * are, submits what waited for room, and asks for the next hint. No thread, no executor.
 */
#include "client/python/core/core.h"
#include <errno.h>
#include <poll.h>
#include <time.h>

#define LANE_CAPSULE  "infclient.lane"
#define WATCH_CAPSULE "infclient.watch"

bool session_is_usable(const struct session *session)
{
	if (!session->is_closed)
		return true;
	core_raise("closed", "()");
	return false;
}

/* --- lanes --- */

bool lane_is_mine(const struct lane *lane)
{
	return lane->session && lane->thread == PyThread_get_thread_ident();
}

struct lane *lane_ref(struct lane *lane)
{
	lane->n_refs++;
	return lane;
}

void lane_unref(struct lane *lane)
{
	if (lane && !--lane->n_refs)
		PyMem_Free(lane);
}

static void forget(struct session *session, struct lane *lane)
{
	struct lane **at = &session->lanes;

	session->has_left = true;
	while (*at && *at != lane)
		at = &(*at)->next;
	if (*at)
		*at = lane->next;
	if (session->last == lane)
		session->last = NULL;
	lane->session = NULL;
}

/* The thread ends (or the interpreter, in some thread). */
static void on_thread_end(PyObject *capsule)
{
	struct lane *lane = PyCapsule_GetPointer(capsule, LANE_CAPSULE);
	struct session *session = lane->session;

	/* Requests that go below may be the last to hold it. */
	Py_XINCREF(OBJECT(session));
	if (session && lane_is_mine(lane)) {
		while (lane->queue_first) {
			struct request *request = lane->queue_first;

			Py_INCREF(OBJECT(request));
			lane_unqueue(request);
			core_raise("thread_ended", "()");
			PyObject *type, *error, *trace;

			PyErr_Fetch(&type, &error, &trace);
			PyErr_NormalizeException(&type, &error, &trace);
			request_end_error(request, error);
			Py_XDECREF(type);
			Py_XDECREF(error);
			Py_XDECREF(trace);
			Py_DECREF(OBJECT(request));
		}
		if (session->epoch == core_epoch)
			inf_thread_leave(session->client);
	}
	/* Also where another thread empties our dictionary: in a forked child, at the interpreter's end. */
	if (session)
		forget(session, lane);
	Py_XDECREF(OBJECT(session));
	while (lane->is_closing && lane->epoch == core_epoch) {
		struct timespec pause = { .tv_nsec = RETRY_NS };

		Py_BEGIN_ALLOW_THREADS
		nanosleep(&pause, NULL);
		Py_END_ALLOW_THREADS
	}
	lane_unref(lane);
}

static struct lane *lane_new(struct session *session, PyObject *threads, PyObject *key)
{
	struct lane *lane = PyMem_Calloc(1, sizeof(*lane));
	PyObject *capsule;

	if (!lane)
		return (struct lane *)PyErr_NoMemory();
	lane->n_refs = 1;
	lane->fd = -1;
	capsule = PyCapsule_New(lane, LANE_CAPSULE, on_thread_end);
	if (!capsule) {
		lane_unref(lane);
		return NULL;
	}
	lane->session = session;
	lane->epoch = session->epoch;
	lane->thread = PyThread_get_thread_ident();
	lane->next = session->lanes;
	session->lanes = lane;
	if (PyDict_SetItem(threads, key, capsule))
		lane = NULL;
	Py_DECREF(capsule);
	return lane;
}

struct lane *session_lane(struct session *session)
{
	unsigned long thread = PyThread_get_thread_ident();
	PyObject *threads, *key, *capsule;
	struct lane *lane;

	if (session->last && session->last_thread == thread)
		return session->last;
	threads = PyThreadState_GetDict();
	if (!threads) {
		PyErr_SetString(PyExc_RuntimeError, "this thread has no Python state");
		return NULL;
	}
	key = PyLong_FromVoidPtr(session);
	if (!key)
		return NULL;
	capsule = PyDict_GetItemWithError(threads, key);
	if (capsule) {
		lane = PyCapsule_GetPointer(capsule, LANE_CAPSULE);
		/* The address may have been another session's. */
		if (lane && lane->session != session)
			capsule = NULL;
	}
	if (!capsule)
		lane = PyErr_Occurred() ? NULL : lane_new(session, threads, key);
	Py_DECREF(key);
	session->last = lane;
	session->last_thread = thread;
	return lane;
}

/* --- requests that wait for room --- */

void lane_queue(struct lane *lane, struct request *request)
{
	request->next = NULL;
	request->prev = lane->queue_last;
	if (lane->queue_last)
		lane->queue_last->next = request;
	else
		lane->queue_first = request;
	lane->queue_last = request;
	request->state = REQUEST_QUEUED;
	request->queued_ns = core_now_ns();
	request->handle->n_queued++;
	lane->n_queued++;
}

void lane_unqueue(struct request *request)
{
	struct lane *lane = request->lane;

	if (request->prev)
		request->prev->next = request->next;
	else
		lane->queue_first = request->next;
	if (request->next)
		request->next->prev = request->prev;
	else
		lane->queue_last = request->prev;
	request->next = request->prev = NULL;
	request->handle->n_queued--;
	lane->n_queued--;
	request->state = REQUEST_NEW;
}

static void flush_once(struct lane *lane)
{
	struct request *request = lane->queue_first, *next;
	const struct handle *full = NULL;

	Py_XINCREF(OBJECT(request));
	while (request) {
		int r = 1;

		next = request->next;
		Py_XINCREF(OBJECT(next));
		/* What Python ran meanwhile may have changed the queue. */
		if (request->state != REQUEST_QUEUED || request->lane != lane) {
			Py_DECREF(OBJECT(request));
			Py_XDECREF(OBJECT(next));
			lane->must_flush = true;
			return;
		}
		/* If one has no room, others of the same model have none; as a rule there is but one model. */
		if (request->handle == full)
			r = full->n_queued >= lane->n_queued ? -1 : 0;
		else
			r = request_try(request);
		if (r == 0)
			full = request->handle;
		Py_DECREF(OBJECT(request));
		request = next;
		if (r < 0) {
			Py_XDECREF(OBJECT(next));
			return;
		}
	}
}

void lane_flush(struct lane *lane)
{
	if (lane->is_flushing) {
		lane->must_flush = true;
		return;
	}
	lane->is_flushing = true;
	lane_ref(lane);
	do {
		lane->must_flush = false;
		flush_once(lane);
	} while (lane->must_flush);
	lane->is_flushing = false;
	lane_unref(lane);
}

static PyObject *call_watch(PyObject *loop, PyObject *reader, const char *how)
{
	if (how)
		return PyObject_CallMethod(loop, how, "O", reader);
	return PyObject_CallMethod(loop, "call_later", "dO", RETRY_NS / 1e9, reader);
}

/*
 * Has the lane looked at by each loop that waits for it: nobody knows which of them will run next. `how` is a
 * method's name; NULL = after RETRY_NS. Needs a clear error indicator.
 */
static void call_watches(struct lane *lane, const char *how)
{
	struct watch *watch = lane->watches;

	lane_ref(lane);
	while (watch) {
		/* The call is Python, and so is letting go: meanwhile the lane's own thread may let go of loop and watch. */
		PyObject *loop = Py_NewRef(watch->loop), *reader = Py_NewRef(watch->reader), *result = NULL;

		bool *is_asked = how ? &watch->is_called : &watch->is_later;

		if (!*is_asked) {
			*is_asked = true;
			result = call_watch(loop, reader, how);
			/* A loop that was closed: its waiters went with it. Others may do it the next time. */
			if (!result) {
				PyErr_Clear();
				*is_asked = false;
			}
		}
		Py_XDECREF(result);
		Py_DECREF(loop);
		/* Where it left the list it does not know who is next: begin again, those that were called are skipped. */
		watch = watch->loop ? watch->next : lane->watches;
		Py_DECREF(reader);
	}
	lane_unref(lane);
}

void lane_room(struct handle *handle)
{
	struct session *session = handle->session;
	unsigned long thread;
	PyObject *type, *error, *trace;

	if (!handle->n_queued)
		return;
	thread = PyThread_get_thread_ident();
	PyErr_Fetch(&type, &error, &trace);
	for (struct lane *lane = session->lanes, *next; lane; lane = next) {
		lane_ref(lane);
		if (lane->queue_first && lane->thread == thread)
			lane_flush(lane);
		else if (lane->queue_first)
			call_watches(lane, "call_soon_threadsafe");
		/* All of that may run Python, and the lane's thread end meanwhile: begin again, as in call_watches(). */
		next = lane->session ? lane->next : session->lanes;
		lane_unref(lane);
	}
	PyErr_Restore(type, error, trace);
}

/* --- the event loop --- */

void lane_call_soon(struct request *request, PyObject *loop, PyObject *callback, PyObject *context)
{
	struct lane *lane = request->lane;
	/* The first one is the one that ran last here; another may be at work in another thread. */
	struct watch *watch = lane ? lane->watches : NULL;
	bool is_here = watch && watch->loop == loop && lane_is_mine(lane);
	PyObject *function, *args, *keywords, *result = NULL;
	PyObject *type, *error, *trace;

	PyErr_Fetch(&type, &error, &trace);
	function = is_here ? Py_NewRef(watch->call_soon) : PyObject_GetAttrString(loop, "call_soon_threadsafe");
	args = PyTuple_Pack(2, callback, (PyObject *)request);
	keywords = Py_BuildValue("{sO}", "context", context);
	if (function && args && keywords)
		result = PyObject_Call(function, args, keywords);
	/* The loop was closed with the request outstanding: nobody is left to be told. */
	if (!result)
		PyErr_Clear();
	Py_XDECREF(result);
	Py_XDECREF(keywords);
	Py_XDECREF(args);
	Py_XDECREF(function);
	PyErr_Restore(type, error, trace);
}

bool lane_collect(struct lane *lane)
{
	struct inf_client *client = lane->session->client;
	struct inf_request *req;

	for (uint32_t n = 0; n < COLLECT_MAX; n++) {
		struct request *request;

		/* Asking for completions tells the broker that no hints are needed: each time, as what ends may run Python, which arms. */
		lane->is_armed = false;
		if (inf_wait_any(client, INF_NOWAIT, &req))
			return false;
		request = inf_request_data(req);
		if (!request || request->state != REQUEST_FLIGHT)
			continue;
		Py_INCREF(OBJECT(request));
		request_end(request);
		Py_DECREF(OBJECT(request));
	}
	return true;
}

static void unwatch(struct watch **at)
{
	struct watch *watch = *at;
	PyObject *reader = watch->reader, *loop = watch->loop, *call_soon = watch->call_soon, *result;

	/* It is nobody's before anything is called that may look at it or at the list. */
	*at = watch->next;
	watch->next = NULL;
	watch->reader = watch->loop = watch->call_soon = NULL;
	result = PyObject_CallMethod(loop, "remove_reader", "i", watch->lane->fd);
	if (!result)
		PyErr_Clear(); /* closed: its selector is gone too */
	Py_XDECREF(result);
	Py_DECREF(loop);
	Py_DECREF(call_soon);
	/* It holds a reference on the lane: without this the two would keep each other. */
	Py_DECREF(reader);
}

void lane_unwatch(struct lane *lane)
{
	lane_ref(lane);
	while (lane->watches)
		unwatch(&lane->watches);
	lane_unref(lane);
}

static bool is_waited_for(const struct lane *lane)
{
	return lane->n_waited || lane->queue_first;
}

static void move_to_front(struct watch *watch)
{
	struct watch **at = &watch->lane->watches;

	while (*at && *at != watch)
		at = &(*at)->next;
	if (!*at)
		return;
	*at = watch->next;
	watch->next = watch->lane->watches;
	watch->lane->watches = watch;
}

/* The broker's end is closed, which keeps the descriptor readable for ever. */
static bool is_hung_up(const struct lane *lane)
{
	struct pollfd poller = { .fd = lane->fd };

	return poll(&poller, 1, 0) == 1 && poller.revents & (POLLHUP | POLLERR);
}

/*
 * Threads share a lane of the library, and its descriptor, where there are more of them than lanes. Who has
 * emptied it and found something tells the others: its own loop may not come to look. Needs a clear error
 * indicator.
 */
static void tell_sharers(struct lane *lane)
{
	struct session *session = lane->session;

	for (struct lane *other = session->lanes, *next; other; other = next) {
		lane_ref(other);
		if (other != lane && other->fd == lane->fd)
			call_watches(other, "call_soon_threadsafe");
		/* As in lane_room(). */
		next = other->session ? other->next : session->lanes;
		lane_unref(other);
	}
}

/* Nobody waits: asks for no more hints. */
static void rest(struct lane *lane)
{
	/* Arming empties the descriptor, asking for completions says that no more hints are needed. */
	if (inf_fd_arm(lane->session->client) == 1) {
		tell_sharers(lane);
		if (lane->session)
			lane_collect(lane);
		/* That there is still something may be what ended just now: only a hang-up says that nobody is there. */
		if (lane->session && is_hung_up(lane)) {
			lane->session->is_lost = true;
			lane_unwatch(lane);
		}
	}
	if (lane->session)
		lane_collect(lane);
}

/* What a loop calls when the descriptor is readable, or room came free in another thread. */
static PyObject *on_readable(PyObject *capsule, PyObject *ignored)
{
	struct watch *watch = PyCapsule_GetPointer(capsule, WATCH_CAPSULE);
	struct lane *lane;
	bool is_more;

	(void)ignored;
	if (!watch)
		return NULL;
	lane = watch->lane;
	watch->is_called = watch->is_later = false;
	if (!lane->session || lane->session->epoch != core_epoch)
		Py_RETURN_NONE;
	lane_ref(lane);
	Py_INCREF(OBJECT(lane->session));
	PyObject *session = (PyObject *)lane->session;

	if (lane->watches != watch)
		move_to_front(watch);
	is_more = lane_collect(lane);
	if (lane->session)
		lane_flush(lane);
	/* Not for the word of others alone: what is in flight has no other way to get here. */
	if (lane->session && lane->session->is_lost && !is_more && is_hung_up(lane))
		lane_unwatch(lane);
	else if (lane->session && is_waited_for(lane))
		lane_arm(lane);
	else if (lane->session)
		rest(lane);
	Py_DECREF(OBJECT(session));
	lane_unref(lane);
	if (PyErr_Occurred())
		return NULL;
	Py_RETURN_NONE;
}

static PyMethodDef on_readable_method = { "infclient_completions", on_readable, METH_NOARGS, NULL };

static void drop_watch(PyObject *capsule)
{
	struct watch *watch = PyCapsule_GetPointer(capsule, WATCH_CAPSULE);

	Py_XDECREF(watch->loop);
	Py_XDECREF(watch->call_soon);
	lane_unref(watch->lane);
	PyMem_Free(watch);
}

/* Its reader is a new reference, which owns it. */
static struct watch *watch_new(struct lane *lane, PyObject *loop)
{
	struct watch *watch = PyMem_Calloc(1, sizeof(*watch));
	PyObject *capsule;

	if (!watch)
		return (struct watch *)PyErr_NoMemory();
	watch->lane = lane_ref(lane);
	watch->loop = Py_NewRef(loop);
	capsule = PyCapsule_New(watch, WATCH_CAPSULE, drop_watch);
	if (!capsule) {
		lane_unref(lane);
		Py_DECREF(loop);
		PyMem_Free(watch);
		return NULL;
	}
	watch->reader = PyCFunction_NewEx(&on_readable_method, capsule, NULL);
	Py_DECREF(capsule);
	return watch->reader ? watch : NULL;
}

static bool is_closed(PyObject *loop)
{
	PyObject *closed = PyObject_CallMethod(loop, "is_closed", NULL);
	bool truth = closed && PyObject_IsTrue(closed) == 1;

	if (PyErr_Occurred())
		PyErr_Clear();
	Py_XDECREF(closed);
	return truth;
}

/* The first in the list whose loop was closed, as a new reference on its reader. */
static PyObject *find_closed(struct lane *lane)
{
	struct watch *watch = lane->watches;

	while (watch) {
		PyObject *reader = Py_NewRef(watch->reader), *loop = Py_NewRef(watch->loop);
		bool must_go = is_closed(loop);

		Py_DECREF(loop);
		if (must_go && watch->loop)
			return reader;
		/* The loop's own methods may be anything: as in call_watches(). */
		watch = watch->loop ? watch->next : lane->watches;
		Py_DECREF(reader);
	}
	return NULL;
}

/* Loops come and go (asyncio.run() makes one per call): those that were closed leave the list. */
static void drop_closed(struct lane *lane)
{
	PyObject *reader;

	while ((reader = find_closed(lane))) {
		struct watch **at = &lane->watches;

		while (*at && (*at)->reader != reader)
			at = &(*at)->next;
		if (*at)
			unwatch(at);
		Py_DECREF(reader);
	}
}

static int watch_start(struct lane *lane, PyObject *loop)
{
	struct watch *watch = watch_new(lane, loop);
	PyObject *result = NULL;

	if (!watch)
		return -1;
	watch->call_soon = PyObject_GetAttrString(loop, "call_soon");
	if (watch->call_soon)
		result = PyObject_CallMethod(loop, "add_reader", "iO", lane->fd, watch->reader);
	if (!result) {
		Py_DECREF(watch->reader);
		return -1;
	}
	Py_DECREF(result);
	watch->next = lane->watches;
	lane->watches = watch;
	lane->is_armed = false;
	return 0;
}

static struct watch *find_watch(const struct lane *lane, const PyObject *loop)
{
	struct watch *watch = lane->watches;

	while (watch && watch->loop != loop)
		watch = watch->next;
	return watch;
}

bool lane_is_watched(const struct lane *lane, const PyObject *loop)
{
	return find_watch(lane, loop);
}

int lane_watch(struct lane *lane, PyObject *loop)
{
	struct watch *watch;

	if (lane->watches && lane->watches->loop == loop)
		return 0;
	if (lane->fd < 0) {
		int fd;

		Py_BEGIN_ALLOW_THREADS
		fd = inf_fd(lane->session->client);
		Py_END_ALLOW_THREADS
		if (fd < 0) {
			lane->session->is_lost |= fd == -ECONNRESET;
			return core_raise("from_errno", "(is)", -fd, "no descriptor for the event loop");
		}
		lane->fd = fd;
	}
	drop_closed(lane);
	watch = find_watch(lane, loop);
	if (watch)
		move_to_front(watch);
	else if (watch_start(lane, loop))
		return -1;
	/* The look that another loop was to take may never come. */
	if (lane->queue_first)
		lane_later(lane);
	return 0;
}

void lane_arm(struct lane *lane)
{
	PyObject *type, *error, *trace;
	int r;

	if (!lane->session || !lane->watches || lane->is_armed || !is_waited_for(lane))
		return;
	r = inf_fd_arm(lane->session->client);
	lane->is_armed = r == 0;
	if (r <= 0)
		return;
	/* Something is there already: after what else the loop has to do. */
	PyErr_Fetch(&type, &error, &trace);
	tell_sharers(lane);
	call_watches(lane, "call_soon");
	PyErr_Restore(type, error, trace);
}

void lane_later(struct lane *lane)
{
	PyObject *type, *error, *trace;

	if (!lane->watches || !lane_is_mine(lane))
		return;
	PyErr_Fetch(&type, &error, &trace);
	call_watches(lane, NULL);
	PyErr_Restore(type, error, trace);
}
