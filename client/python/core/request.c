/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - one request: its memory, and its way to the broker and back.
 */
#include "client/python/core/core.h"
#include <errno.h>
#include <time.h>

/* --- memory --- */

struct request *request_new(struct handle *handle, uint32_t rows)
{
	struct request *request = PyObject_GC_New(struct request, request_type);

	if (!request)
		return NULL;
	memset((char *)request + sizeof(PyObject), 0, sizeof(*request) - sizeof(PyObject));
	request->handle = (struct handle *)Py_NewRef(OBJECT(handle));
	request->rows = rows;
	request->priority = INF_PRIORITY_DEFAULT;
	PyObject_GC_Track(request);
	return request;
}

/* Its results shall stay on the device. As fill_on_device(). */
static int keep_on_device(struct request *request)
{
	int r = inf_output_to_device(request->req);

	if (!r || r == -ENOBUFS)
		return r;
	core_raise("no_device", "(is)", -r, inf_error(request->handle->session->client));
	return -EIO;
}

/* A copy from device to device; the tensor is kept until the request goes. 0, -errno, or -EIO with an error set. */
static int fill_on_device(struct request *request, const struct source *source, uint32_t idx)
{
	struct inf_device_info info = { .size = sizeof(info) };
	struct session *session = request->handle->session;
	struct inf_client *client = session->client;
	int r = inf_device_open(client, &info);

	if (!r) {
		session->device = info.ordinal;
		session->has_device = true;
		r = inf_input_copy(request->req, idx, (uint64_t)(uintptr_t)source->data, source->bytes, NULL);
	}
	if (r == -ENOBUFS) /* it waits until others have ended */
		return r;
	if (r) {
		core_raise("device_input", "(is)", -r, inf_error(client));
		return -EIO;
	}
	if (!request->held)
		request->held = PyList_New(0);
	return request->held && !PyList_Append(request->held, source->capsule) ? 0 : -EIO;
}

static int fill(struct request *request, const struct source *sources)
{
	const struct inf_signature *signature = request->handle->signature;
	bool is_on_device = false;
	int r = 0;

	for (uint32_t i = 0; i < signature->n_inputs && !r; i++) {
		const struct inf_tensor_spec *spec = &signature->inputs[i];
		int64_t dims[INF_RANK_MAX] = { request->rows };
		bool varies = false;
		int skip = spec->rank - sources[i].rank;

		for (int k = skip; k < spec->rank; k++)
			dims[k] = sources[i].shape[k - skip];
		for (int k = spec->flags & INF_SPEC_BATCH ? 1 : 0; k < spec->rank; k++)
			varies |= spec->dims[k] < 0;
		if (varies)
			r = inf_input_describe(request->req, i, (enum inf_dtype)spec->dtype, spec->rank, dims);
		if (!r && sources[i].is_on_device)
			r = fill_on_device(request, &sources[i], i);
		else if (!r)
			source_copy(&sources[i], inf_input(request->req, i));
		is_on_device |= sources[i].is_on_device;
	}
	if (r || !is_on_device)
		return r;
	/* Where it is cancelled before, the copies still come: its memory, and what they read, must be there then. */
	r = inf_mark_stream(request->req, NULL);
	return r ? r : inf_request_commit(request->req, NULL);
}

int request_take(struct request *request, const struct source *sources)
{
	struct handle *handle = request->handle;
	int r;

	r = inf_request_take(handle->model, request->rows, &request->req);
	if (r == -ENOBUFS && handle->zombies) {
		handle_sweep(handle);
		r = inf_request_take(handle->model, request->rows, &request->req);
	}
	if (!r) {
		inf_request_set_data(request->req, request);
		handle->session->n_alive++;
		r = request->is_on_device ? keep_on_device(request) : 0;
		if (!r && sources)
			r = fill(request, sources);
		if (r)
			request_give(request);
	}
	if (!r || r == -ENOBUFS)
		return r;
	handle->session->is_lost |= r == -EOWNERDEAD;
	if (PyErr_Occurred())
		return -1;
	return core_raise("from_errno", "(is)", -r, "taking memory for a request");
}

void request_enlist(struct request *request, struct request **list)
{
	request->list = list;
	request->prev = NULL;
	request->next = *list;
	if (*list)
		(*list)->prev = request;
	*list = request;
}

void request_unlist(struct request *request)
{
	if (!request->list)
		return;
	if (request->prev)
		request->prev->next = request->next;
	else
		*request->list = request->next;
	if (request->next)
		request->next->prev = request->prev;
	request->next = request->prev = NULL;
	request->list = NULL;
}

/* It is FLIGHT no more. */
static void land(struct request *request, enum request_state state)
{
	request_unlist(request);
	request->state = state;
	request->handle->rows_flight -= request->rows;
}

void request_see(struct request *request)
{
	if (request->is_unseen)
		request->handle->rows_unseen -= request->rows;
	request->is_unseen = false;
}

/* Its batch has not ended, or streams still write its inputs or read its results. */
static bool must_stay(const struct request *request)
{
	if (request->is_charged && request->state == REQUEST_CANCELLED && !inf_poll(request->req))
		return true;
	return !inf_poll_marks(request->req);
}

/* After this it has no memory. */
void request_give(struct request *request)
{
	struct handle *handle = request->handle;

	if (!request->req)
		return;
	if (request->is_due)
		handle->rows_due -= request->rows;
	request->is_due = request->n_sleepers;
	if (request->is_due) {
		handle->rows_due += request->rows;
		return;
	}
	handle->session->n_alive--;
	handle->moved_ns = core_now_ns();
	request_see(request);
	if (request->state == REQUEST_FLIGHT)
		land(request, REQUEST_CANCELLED);
	request_unlist(request);
	if (must_stay(request)) {
		/* What is held may still be read on its way in. */
		handle_bury(handle, request->req, request->rows, request->is_read, request->held);
		request->held = NULL;
	} else {
		inf_request_give(request->req);
		if (request->is_charged)
			handle->rows_busy -= request->rows;
	}
	request->is_charged = false;
	request->req = NULL;
	lane_room(handle);
}

static bool has_views(const struct request *request)
{
	return request->n_views_in || request->n_views_out;
}

void request_drop_view(struct request *request, bool is_output)
{
	if (is_output && !--request->n_views_out)
		request->handle->rows_viewed -= request->rows;
	else if (!is_output)
		request->n_views_in--;
	if (request->is_closed && !has_views(request) && request->state != REQUEST_FLIGHT && request->state != REQUEST_QUEUED)
		request_give(request);
}

/* --- submission --- */

/* Will memory come free without anybody letting a view go? */
static bool is_progress(const struct handle *handle)
{
	return handle->rows_flight || handle->rows_due || handle->zombies;
}

/* Answers on the device cannot be copied out of the way, but those that they are for may be about to look at them. */
static bool is_hopeful(const struct request *request)
{
	const struct handle *handle = request->handle;
	uint64_t since_ns = handle->moved_ns > request->queued_ns ? handle->moved_ns : request->queued_ns;

	return handle->rows_unseen && (request->state == REQUEST_NEW || core_now_ns() - since_ns < UNSEEN_NS);
}

static void end_full(struct request *request)
{
	const struct handle *handle = request->handle;
	PyObject *error = PyObject_CallMethod(core_errors, "full", "(OInn)", handle->model_name, handle->depth,
					      handle->session->n_views, handle->session->n_alive);

	request_end_error(request, error);
	Py_XDECREF(error);
}

/* The world failed: its error, in the request. */
static void end_errno(struct request *request, int r)
{
	struct session *session = request->handle->session;
	PyObject *error = PyObject_CallMethod(core_errors, "from_errno", "(is)", -r, "submitting a request");

	session->is_lost |= r == -ECONNRESET || r == -EOWNERDEAD;
	request_end_error(request, error);
	Py_XDECREF(error);
}

static void leave_queue(struct request *request)
{
	if (request->state == REQUEST_QUEUED)
		lane_unqueue(request);
}

/* 0, or what stands in the way as request_try() says it. */
static int provide(struct request *request)
{
	enum request_state state = request->state;
	struct source *stash;
	int r;

	if (request->req)
		return 0;
	r = request_take(request, request->stash);
	if (r == -ENOBUFS)
		return -ENOBUFS;
	if (r) {
		PyObject *type, *error, *trace;

		PyErr_Fetch(&type, &error, &trace);
		PyErr_NormalizeException(&type, &error, &trace);
		if (request->state == state) {
			leave_queue(request);
			request_end_error(request, error);
		}
		Py_XDECREF(type);
		Py_XDECREF(error);
		Py_XDECREF(trace);
		return 1;
	}
	stash = request->stash;
	request->stash = NULL;
	sources_drop(stash, request->handle->signature->n_inputs);
	return 0;
}

/*
 * Ends what has been answered to other threads, which may have other things to do than to look. True
 * where some of it is still in flight.
 */
static bool look_around(struct request *request)
{
	struct request *other = request->handle->flights, *next;
	bool is_left = false;

	Py_XINCREF(OBJECT(other));
	for (; other; other = next) {
		next = other->next;
		Py_XINCREF(OBJECT(next));
		if (other->state == REQUEST_FLIGHT && other->lane != request->lane && !request_is_over(other))
			is_left = true;
		/* Ending one runs Python, which may have ended the next too: then the rest is for another time. */
		if (next && next->list != &request->handle->flights) {
			Py_DECREF(OBJECT(next));
			next = NULL;
			is_left = true;
		}
		Py_DECREF(OBJECT(other));
	}
	return is_left;
}

int request_try(struct request *request)
{
	struct handle *handle = request->handle;
	uint32_t rows = request->is_charged ? 0 : request->rows;
	const struct lane *lane = request->lane;
	enum request_state state = request->state;
	bool must_look = false;
	int r;

	/* Nothing will tell of room any more. */
	if (handle->session->is_lost && state == REQUEST_QUEUED) {
		leave_queue(request);
		end_errno(request, -ECONNRESET);
		return 1;
	}
	if (request->not_before_ns && core_now_ns() < request->not_before_ns) {
		lane_later(request->lane);
		return 0;
	}
	if (!handle_has_room(handle, rows) && (handle->session->lanes->next || handle->session->has_left))
		must_look = look_around(request) || handle->zombies;
	if (!handle_has_room(handle, rows))
		request_harvest(handle, rows);
	r = handle_has_room(handle, rows) ? provide(request) : -ENOBUFS;
	/* All of that may run Python (others' tensors let go, callbacks), which may have cancelled it or sent it on its way. */
	if (r == 1 || request->state != state || request->lane != lane)
		return 1;
	if (r == -ENOBUFS) {
		/* No descriptor of ours tells of what other threads wait for, nor of what streams have done. */
		if (must_look || handle->n_used || handle->rows_unseen)
			lane_later(request->lane);
		if (is_progress(handle) || is_hopeful(request))
			return 0;
		leave_queue(request);
		end_full(request);
		return 1;
	}
	if (request->deadline_ns)
		inf_request_set_deadline(request->req, request->deadline_ns);
	inf_request_set_priority(request->req, request->priority);
	r = inf_submit(request->req);
	if (r == -EAGAIN)
		return -1;
	leave_queue(request);
	if (r) {
		end_errno(request, r);
		return 1;
	}
	request->state = REQUEST_FLIGHT;
	request_enlist(request, &handle->flights);
	if (!request->is_charged)
		handle->rows_busy += request->rows;
	request->rows_beside = handle->rows_busy - request->rows;
	request->is_charged = true;
	handle->rows_flight += request->rows;
	handle->session->n_requests++;
	return 1;
}

/* Makes it a matter of the calling thread. NULL with an error set. */
static struct lane *adopt(struct request *request)
{
	struct lane *lane = session_lane(request->handle->session);
	bool was_queued = request->state == REQUEST_QUEUED;

	if (!lane || request->lane == lane)
		return lane;
	if (was_queued)
		lane_unqueue(request);
	if (request->callbacks) {
		request->lane->n_waited--;
		lane->n_waited++;
	}
	lane_unref(request->lane);
	request->lane = lane_ref(lane);
	if (was_queued)
		lane_queue(lane, request);
	return lane;
}

int request_adopt(struct request *request)
{
	const struct lane *lane = request->lane;

	/* A loop in the thread that submitted it will see to it, and to nobody else's. */
	if (request->state != REQUEST_QUEUED || (request->callbacks && lane_is_watched(lane, request->loop)))
		return 0;
	if (!adopt(request))
		return -1;
	return request->lane != lane;
}

int request_submit(struct request *request)
{
	struct lane *lane = adopt(request);

	if (!lane)
		return -1;
	if (request->handle->n_queued && lane->queue_first)
		lane_flush(lane);
	/* Behind those that wait for the same model already. */
	if (!(request->handle->n_queued && lane->queue_first) && request_try(request) == 1)
		return 0;
	lane_queue(lane, request);
	/* Nobody may be waiting for what ends: look for room once. */
	lane_collect(lane);
	lane_flush(lane);
	lane_arm(lane);
	return 0;
}

/* --- the end --- */

/* From another thread a loop does not let itself be touched but so. */
static PyObject *cancel_timer(struct request *request, PyObject *timer)
{
	PyObject *cancel, *result;

	if (request->lane && lane_is_mine(request->lane))
		return PyObject_CallMethod(timer, "cancel", NULL);
	cancel = PyObject_GetAttrString(timer, "cancel");
	result = cancel ? PyObject_CallMethod(request->loop, "call_soon_threadsafe", "O", cancel) : NULL;
	Py_XDECREF(cancel);
	return result;
}

static void run_callbacks(struct request *request)
{
	PyObject *callbacks = request->callbacks;

	request->callbacks = NULL;
	if (callbacks)
		request->lane->n_waited--;
	if (request->timer) {
		PyObject *type, *error, *trace, *timer, *result;

		PyErr_Fetch(&type, &error, &trace);
		timer = request->timer;
		request->timer = NULL;
		result = cancel_timer(request, timer);
		if (!result)
			PyErr_Clear();
		Py_XDECREF(result);
		Py_DECREF(timer);
		PyErr_Restore(type, error, trace);
	}
	if (!callbacks)
		return;
	for (Py_ssize_t i = 0; i < PyList_Size(callbacks); i++) {
		PyObject *pair = Py_NewRef(PyList_GetItem(callbacks, i));

		lane_call_soon(request, PyTuple_GetItem(pair, 2), PyTuple_GetItem(pair, 0), PyTuple_GetItem(pair, 1));
		Py_DECREF(pair);
	}
	Py_DECREF(callbacks);
	/* The reference that it had on itself while somebody waited: our caller has another one. */
	Py_DECREF(OBJECT(request));
}

void request_settle(struct request *request)
{
	if (request->state == REQUEST_ENDED || request->state == REQUEST_CANCELLED)
		run_callbacks(request);
}

/*
 * QUOTA although we counted enough rows: they must lie side by side, and some are still in use: by others
 * in flight, by what was let go since, by batches that go on without a request that was cancelled. It is
 * sent again a little later.
 */
static bool again(struct request *request)
{
	struct handle *handle = request->handle;
	uint64_t now_ns;

	/* Streams that wait for it have been let go: they would not wait again. */
	if (request->status != INF_QUOTA || !request->lane->session || request->is_read)
		return false;
	now_ns = core_now_ns();
	if (!is_progress(handle) && !is_hopeful(request) && handle->rows_busy - request->rows >= request->rows_beside &&
	    (!handle->buried_ns || now_ns - handle->buried_ns > PATIENCE_NS))
		return false;
	handle->rows_busy -= request->rows;
	request->is_charged = false;
	request->not_before_ns = now_ns + RETRY_NS;
	lane_queue(request->lane, request);
	lane_later(request->lane);
	return true;
}

void request_end(struct request *request)
{
	struct inf_request_info info = { .size = sizeof(info) };
	struct handle *handle = request->handle;

	request->status = inf_request_status(request->req);
	/* Runs Python, so before it is over for others, who may end it meanwhile. */
	if (request->status == INF_QUOTA && !request->is_read) {
		request_harvest(handle, handle->depth);
		if (request->state != REQUEST_FLIGHT || inf_poll(request->req) != 1)
			return;
	}
	land(request, REQUEST_ENDED);
	if (again(request))
		return;
	handle->session->n_ended[request->status]++;
	inf_request_get_info(request->req, &info);
	request->queue_us = info.queue_us;
	request->run_us = info.run_us;
	if (request->status == INF_OK) {
		if (request->is_on_device) {
			request->is_unseen = true;
			handle->rows_unseen += request->rows;
			handle->moved_ns = core_now_ns();
		} else if (!request->is_explicit) {
			request_enlist(request, &handle->ended);
		}
	} else {
		request->retry_after_us = info.retry_after_us;
		request->maybe_executed = info.maybe_executed;
		handle->is_stale |= request->status == INF_NO_MODEL;
		handle->session->is_lost |= request->status == INF_BROKER_LOST;
		/* There may be views of what was to be on the device. */
		if (!request->is_explicit && !has_views(request))
			request_give(request);
	}
	run_callbacks(request);
}

void request_end_error(struct request *request, PyObject *error)
{
	request->state = REQUEST_ENDED;
	request->error = Py_XNewRef(error ? error : Py_None);
	run_callbacks(request);
}

/* Looks once; true where it is over. */
bool request_is_over(struct request *request)
{
	struct session *session = request->handle->session;

	if (request->state == REQUEST_QUEUED && (session->epoch != core_epoch || session->is_lost)) {
		lane_unqueue(request);
		end_errno(request, session->epoch != core_epoch ? -EOWNERDEAD : -ECONNRESET);
	} else if (request->state == REQUEST_FLIGHT) {
		int r = session->epoch == core_epoch ? inf_poll(request->req) : -EOWNERDEAD;

		if (r == 1) {
			request_end(request);
		} else if (r < 0) {
			land(request, REQUEST_ENDED);
			end_errno(request, r);
		}
	} else if (request->state == REQUEST_QUEUED && lane_is_mine(request->lane)) {
		lane_collect(request->lane);
		lane_flush(request->lane);
		lane_arm(request->lane);
	}
	return request->state == REQUEST_ENDED || request->state == REQUEST_CANCELLED;
}

bool request_cancel(struct request *request)
{
	if (request->state == REQUEST_QUEUED) {
		lane_unqueue(request);
	} else if (request->state == REQUEST_FLIGHT) {
		inf_cancel(request->req);
		land(request, REQUEST_CANCELLED);
	} else {
		return false;
	}
	request->state = REQUEST_CANCELLED;
	run_callbacks(request);
	if (!request->is_explicit && !has_views(request))
		request_give(request);
	return true;
}

/* Its time is over: cancelled, and says why. False with an error set. */
bool request_expire(struct request *request)
{
	PyObject *error = PyObject_CallMethod(core_errors, "timed_out", "O", request->handle->model_name);

	if (!error)
		return false;
	core_set(&request->error, error);
	request_cancel(request);
	return true;
}

/* Sleeps, without the GIL, until something may have changed. */
static void sleep_once(struct request *request, uint64_t until_ns)
{
	uint64_t now_ns = core_now_ns(), end_ns = until_ns;
	struct inf_request *req = request->state == REQUEST_FLIGHT ? request->req : NULL;

	/* Signal handlers run in the main thread, and only when it asks. */
	if (PyThread_get_thread_ident() == core_main_thread && now_ns + SLICE_NS < end_ns)
		end_ns = now_ns + SLICE_NS;
	request->n_sleepers++;
	Py_BEGIN_ALLOW_THREADS
	if (req) {
		inf_wait(req, end_ns);
	} else {
		struct timespec pause = { .tv_nsec = RETRY_NS };

		nanosleep(&pause, NULL);
	}
	Py_END_ALLOW_THREADS
	request->n_sleepers--;
	if (request->is_due)
		request_give(request);
}

/*
 * The thread that it waits for room in may have other things to do, and so may a loop: it may be blocked, by
 * us, or not run again. Looks at once, so that of several threads that take it from each other one gets on.
 * False with an error set.
 */
static bool wait_for_room_here(struct request *request)
{
	const struct lane *before = request->lane;
	struct lane *lane = adopt(request);

	if (lane && lane != before)
		lane_flush(lane);
	return lane;
}

int request_wait(struct request *request, uint64_t until_ns)
{
	while (!request_is_over(request)) {
		if (request->state == REQUEST_QUEUED && !wait_for_room_here(request))
			return -1;
		sleep_once(request, until_ns);
		if (request_is_over(request))
			break;
		if (PyErr_CheckSignals()) {
			request_cancel(request);
			return -1;
		}
		if (core_now_ns() >= until_ns)
			return request_expire(request) ? 0 : -1;
	}
	return 0;
}

void request_close(struct request *request)
{
	request->is_closed = true;
	if (request->state == REQUEST_QUEUED || request->state == REQUEST_FLIGHT)
		request_cancel(request);
	if (!has_views(request))
		request_give(request);
}
