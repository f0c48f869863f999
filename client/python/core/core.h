/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core.h - the C half of the Python package: the objects, who keeps whom alive, and what the files
 * offer to each other. Only public calls of libinfclient are used.
 *
 *	Model ──► Handle ──► Session ──► inf_client      ndarray ──► Tensor ──► Request ──► Handle
 *	(Python)  inf_model                                          (a view)   inf_request
 *	                     lane, one per thread ◄───────────────────────────────┘
 *
 * A view keeps its request, the request its handle, the handle its session: inf_close() runs when the
 * last view of the last answer is gone, whatever was closed before. So no view ever points at unmapped
 * memory.
 *
 * All of this belongs to the GIL; it is released only where a call may block (inf_open,
 * inf_model_open, inf_wait). Everything that ends requests, gives them back or submits them runs with
 * it held, so the pointer that a request carries (inf_request_data) is valid when it is followed.
 *
 * States of a Request, and who moves it:
 *	NEW ──submit──► FLIGHT ──collected──► ENDED ──submit (of a request() that is used again)──► ...
 *	 └──no room──► QUEUED ──room──► FLIGHT     any of them ──cancel──► CANCELLED
 */
#ifndef CLIENT_PYTHON_CORE_H
#define CLIENT_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>
#include <inf/device.h>
#include <stdbool.h>
#include <string.h>

/* Guessed; everything else is the library's or the broker's. */
#define SLICE_NS     100000000ull /* the main thread looks for signals this often while it waits */
#define RETRY_NS     500000ull	  /* between tries, where no event tells of room */
#define PATIENCE_NS  30000000000ull /* for batches in which something was cancelled, and for streams when all is let go */
#define UNSEEN_NS    1000000000ull /* for whoever an answer on the device was for to look at it */
#define COLLECT_MAX  256u	  /* completions per turn of an event loop, so that others get theirs */

#define OBJECT(p) ((PyObject *)(p))

struct handle;
struct lane;
struct watch;
struct request;
struct source;

/* What could not be given back when it was let go: its batch has not ended, or streams still read its results. */
struct zombie {
	struct zombie *next;
	struct inf_request *req;
	uint32_t rows;
	bool is_used;	/* maybe, by streams: nothing tells when they have passed */
	PyObject *held; /* as a request's, or NULL */
};

/* One connection. */
struct session {
	PyObject_HEAD
	struct inf_client *client;
	uint64_t epoch; /* core_epoch when it was opened: another one means that we are a forked child */
	bool is_lost;	/* the broker is gone */
	bool is_closed; /* the user closed it; views may still be alive */
	bool has_left;	/* a thread that had a lane ended: what it left in flight is nobody's to look at */
	struct lane *lanes;
	struct lane *last; /* of last_thread: saves a look into the thread's dictionary */
	unsigned long last_thread;
	uint64_t n_requests; /* submitted */
	uint64_t n_ended[INF_STATUS_N];
	Py_ssize_t n_views; /* alive, of inputs and outputs */
	Py_ssize_t n_alive; /* Request objects that hold memory */
	bool has_device; /* inf_device_open() has been called: its end waits for the device */
	int32_t device; /* its ordinal */
};

/* A thread's share of a session. Counted: one by the thread's dictionary, one by each request. */
struct lane {
	struct session *session; /* NULL = gone; weak */
	struct lane *next;
	unsigned long thread;
	Py_ssize_t n_refs;
	struct request *queue_first, *queue_last; /* QUEUED */
	uint32_t n_queued;
	uint32_t n_waited; /* FLIGHT or QUEUED requests with callbacks */
	int fd;		   /* inf_fd(), -1 = none yet */
	uint64_t epoch;	   /* of its session */
	bool is_closing;   /* inf_close() is at work: who has the lane must not end meanwhile */
	bool is_armed;
	bool is_flushing, must_flush; /* lane_flush() is at work; was called meanwhile */
	struct watch *watches; /* the last one that ran first */
};

/* An event loop that waits for a lane's requests. A thread may run several in turns. Owned by `reader`. */
struct watch {
	struct watch *next;
	struct lane *lane; /* counted */
	PyObject *loop;	   /* whose selector watches the lane's fd; NULL = no more */
	PyObject *call_soon; /* its bound method */
	PyObject *reader;  /* the callable it calls, while it is in the lane's list */
	bool is_called;	   /* the loop was asked to call it soon */
	bool is_later;	   /* the same, in RETRY_NS */
};

/* One input or output as Python sees it. */
struct plan {
	PyObject *name;	 /* str */
	PyObject *dtype; /* numpy.dtype; NULL = bfloat16 and no ml_dtypes */
	PyObject *shape; /* tuple of the last view's shape, or NULL */
	int64_t dims[INF_RANK_MAX]; /* what that tuple holds */
	uint32_t rank;
};

/* A model opened by a session. */
struct handle {
	PyObject_HEAD
	struct session *session;
	struct inf_model *model;
	const struct inf_signature *signature;
	PyObject *model_name;
	uint32_t depth;
	uint32_t rows_busy;   /* of requests that were submitted and not given back, zombies included */
	uint32_t rows_flight; /* of them FLIGHT */
	uint32_t rows_viewed; /* of them held by views of outputs */
	uint32_t rows_due;    /* of them about to be given back by some thread */
	uint32_t n_queued;
	bool is_stale; /* an answer was NO_MODEL */
	struct zombie *zombies;
	uint32_t n_used; /* of them that streams may use */
	uint32_t rows_unseen; /* of answers on the device that nobody has looked at yet */
	uint64_t moved_ns; /* when a request ended or was given back */
	uint64_t buried_ns; /* the last of them that was cancelled */
	struct request *flights; /* FLIGHT */
	struct request *ended; /* answers in shared memory that can be copied out to make room */
	struct plan inputs[INF_INPUTS_MAX], outputs[INF_OUTPUTS_MAX];
};

enum request_state { REQUEST_NEW, REQUEST_QUEUED, REQUEST_FLIGHT, REQUEST_ENDED, REQUEST_CANCELLED };

struct request {
	PyObject_HEAD
	struct handle *handle;
	struct inf_request *req; /* NULL = given back */
	struct lane *lane;	 /* of its submission, or NULL */
	struct request *next, *prev; /* of the lane's queue, or of `list` */
	struct request **list; /* handle's `flights` or `ended`, or NULL */
	enum request_state state;
	uint32_t rows;
	uint32_t rows_beside; /* rows_busy of others when it was submitted */
	uint64_t queued_ns; /* when it was queued */
	uint64_t not_before_ns; /* after QUOTA: when to try again */
	bool is_explicit; /* from request(): the caller fills and reuses it */
	bool is_single;	  /* its row came without the batch dimension, and so go its outputs */
	bool is_closed;	  /* give its memory back with its last view */
	bool is_on_device; /* its results stay there */
	bool is_unseen;	   /* an answer on the device, in rows_unseen */
	bool is_read;	   /* a stream was told to wait for them: not cancelled with its last reference */
	bool is_charged;  /* in rows_busy */
	bool is_blocking; /* _asyncio_future_blocking */
	bool was_awaited; /* some loop waits or waited: cancelling means asyncio.CancelledError */
	enum inf_status status;
	uint32_t retry_after_us, queue_us, run_us;
	bool maybe_executed;
	uint32_t n_views_in, n_views_out;
	uint32_t n_copying; /* threads that copy the answer out just now, by way of views */
	uint32_t n_sleepers; /* threads in inf_wait(), without the GIL: it must not become another request meanwhile */
	bool is_due;	     /* to be given back when they are up */
	uint64_t deadline_ns; /* 0 = none */
	uint32_t priority;
	struct source *stash; /* inputs that wait for memory, or NULL */
	PyObject *held; /* list of DLPack capsules whose copies may not have run yet, or NULL */
	PyObject *answer;    /* copied out of shared memory, or NULL */
	PyObject *error;     /* what a submission that failed late says, or NULL */
	PyObject *loop;	     /* of the first of the callbacks */
	PyObject *callbacks; /* list of (callable, context, loop), or NULL */
	PyObject *timer;     /* asyncio handle that ends it at its deadline */
};

/* A view of one tensor: exports DLPack, and the buffer protocol where it is on the host. */
struct tensor {
	PyObject_HEAD
	struct request *request;
	Py_buffer copy; /* of an answer that was copied out; obj NULL = in shared memory */
	void *data; /* on the device: an address there */
	Py_ssize_t bytes;
	bool is_output;
	bool is_on_device;
	bool is_export; /* what a consumer's DLPack holds: `stream` reads it */
	void *stream;
	uint8_t dtype; /* enum inf_dtype */
	int rank;
	Py_ssize_t shape[INF_RANK_MAX], strides[INF_RANK_MAX];
};

/* --- module.c --- */

extern uint64_t core_epoch; /* counts the forks that this process came out of */
extern PyObject *core_errors, *core_convert; /* infclient._errors, infclient._convert */
extern PyObject *core_too_many_rows, *core_no_room; /* of infclient._errors: TooManyRows; (Full, Quota) */
extern PyObject *core_ndarray; /* numpy.ndarray */
extern PyObject *core_get_loop; /* asyncio.get_running_loop */
extern PyObject *core_copy_context; /* contextvars.copy_context */
extern unsigned long core_main_thread;
extern PyTypeObject *session_type, *handle_type, *request_type, *waiter_type, *tensor_type, *device_tensor_type, *model_type;

uint64_t core_now_ns(void);

/* Replaces a reference; steals `value`. */
static inline void core_set(PyObject **at, PyObject *value)
{
	PyObject *old = *at;

	*at = value;
	Py_XDECREF(old);
}

/* Lets go of what may run Python, which has no part in the error that is set now. NULL is allowed. */
static inline void core_drop(PyObject *object)
{
	PyObject *type, *error, *trace;

	PyErr_Fetch(&type, &error, &trace);
	Py_XDECREF(object);
	PyErr_Restore(type, error, trace);
}

/* Calls infclient._errors.NAME(args...) and raises what it returns. Returns -1. Steals nothing. */
int core_raise(const char *name, const char *format, ...);
/* "monotonic seconds" -> ns; None -> INF_FOREVER; false with an error set. */
bool core_deadline(PyObject *timeout, PyObject *deadline, uint64_t *ret_ns);

/* An int or None (the default) -> priority; false with an error set. */
bool core_priority(PyObject *priority, uint32_t *ret_priority);
/* A bool or None (false); false with an error set. */
bool core_device(PyObject *device, bool *ret_is_on_device);

/* --- connection.c --- */

PyTypeObject *session_init(void);

/* --- session.c --- */

/* False with an error set: closed. True: `is_lost` or another epoch may still hold. */
bool session_is_usable(const struct session *session);
/* The calling thread's lane; borrowed. NULL with an error set. */
struct lane *session_lane(struct session *session);
struct lane *lane_ref(struct lane *lane);
void lane_unref(struct lane *lane);
/* Of the calling thread? (The number of one that ended may be another's.) */
bool lane_is_mine(const struct lane *lane);
/* Makes the running loop watch the lane. 0, or -1 with an error set. */
int lane_watch(struct lane *lane, PyObject *loop);
/* No loop watches it any more. */
void lane_unwatch(struct lane *lane);
bool lane_is_watched(const struct lane *lane, const PyObject *loop);
/*
 * Where somebody waits in a loop: asks for a hint about the next completion, or schedules a look where
 * there is one already. Keeps the error indicator.
 */
void lane_arm(struct lane *lane);
/* A look at the queue after RETRY_NS, in whichever loop of the thread runs then. */
void lane_later(struct lane *lane);
/* Ends what has been answered; to be followed by lane_arm(). True where there may be more. Never blocks. */
bool lane_collect(struct lane *lane);
void lane_flush(struct lane *lane);
/* The queue owns no reference: a request that nobody wants any more leaves it. */
void lane_queue(struct lane *lane, struct request *request);
void lane_unqueue(struct request *request);
/* Memory of `handle` came free: whoever waits for it goes on. Keeps the error indicator. */
void lane_room(struct handle *handle);
/* Calls callback(request) in that context from the loop, soon. Keeps the error indicator. */
void lane_call_soon(struct request *request, PyObject *loop, PyObject *callback, PyObject *context);

/* --- handle.c --- */

PyTypeObject *handle_init(void);
struct handle *handle_open(struct session *session, const char *name, uint32_t depth);
bool handle_has_room(struct handle *handle, uint32_t rows);
/* Gives back what can be by now. Runs Python where inputs on a device were held. */
void handle_sweep(struct handle *handle);
/*
 * `req` is nobody's any more, but in flight, or used by streams. `is_read`: it goes on for those, else it is cancelled. Steals
 * `held`, which may be NULL.
 */
void handle_bury(struct handle *handle, struct inf_request *req, uint32_t rows, bool is_read, PyObject *held);

/* --- tensor.c --- */

PyTypeObject *tensor_init(void);
/* New references. `drop_batch`: without the first dimension. */
PyObject *tensor_input(struct request *request, uint32_t idx, const int64_t *dims, uint32_t rank);
PyObject *tensor_output(struct request *request, uint32_t idx, bool drop_batch);
/* Of the copy of that output which the request keeps. */
PyObject *tensor_copy(struct request *request, uint32_t idx);
/* Of a result on the device, at `address`. */
PyObject *tensor_on_device(struct request *request, uint8_t dtype, uint64_t address, uint32_t rank, const int64_t *dims);
/* Its DLPack capsule, versioned from major version 1 on. */
PyObject *tensor_export(struct tensor *tensor, int major);
/* Another one of the same result on the device. NULL with an error set. */
struct tensor *tensor_again(const struct tensor *tensor);
void tensor_dealloc(struct tensor *tensor);
PyObject *tensor_shape(struct tensor *tensor, void *closure);
PyObject *tensor_dtype(struct tensor *tensor, void *closure);
/* The arguments of __dlpack__(): *ret_major, *ret_stream (borrowed). False with an error set. */
bool tensor_dlpack_arguments(struct tensor *tensor, PyObject *args, PyObject *keywords, int *ret_major, PyObject **ret_stream);
/* A numpy array over it; steals `tensor`. */
PyObject *tensor_as_array(PyObject *tensor, struct plan *plan);
const char *tensor_format(uint8_t dtype);

/* --- device.c --- */

PyTypeObject *device_tensor_init(void);
/* Opens the device, without the GIL. 0, or -1 with an error set. */
int device_open(struct session *session);
/* Output `idx` of a request that is in flight or has ended well. NULL with an error set. */
PyObject *device_output(struct request *request, uint32_t idx);

/* --- convert.c --- */

/* One argument of a call, ready to be copied. */
struct source {
	Py_buffer buffer; /* held; obj NULL = none */
	PyObject *capsule; /* DLPack, or NULL */
	const void *data;
	int rank;
	int64_t shape[INF_RANK_MAX];
	int64_t strides[INF_RANK_MAX]; /* bytes */
	uint8_t dtype;
	bool is_packed; /* C-contiguous */
	bool is_on_device; /* `data` is a CUDA address; packed */
	uint64_t bytes;
};

/* tensor.c: reads an object that has __dlpack__. 0, or -1 with an error set. */
int source_open_dlpack(struct source *source, PyObject *object);
/* Reads what `object` is and holds it. 0, or -1 with an error set. */
int source_open(struct source *source, PyObject *object, const struct handle *handle, uint32_t idx);
void source_close(struct source *source);
void source_copy(const struct source *source, void *to);
/*
 * Are the sources what the signature asks for? *ret_rows, and whether one row came without its batch
 * dimension. 0, or -1 with an error set that says expected and got.
 */
int sources_check(const struct source *sources, PyObject *const *objects, const struct handle *handle,
		  uint32_t *ret_rows, bool *ret_single);
/* Private packed copies of n checked sources; what is on a device is only held. NULL with an error set. */
struct source *sources_stash(const struct source *sources, uint32_t n);
/* Frees them, where there are any. Returns NULL. */
struct source *sources_drop(struct source *stash, uint32_t n);

/* --- request.c --- */

/* A new request of the handle, without memory. */
struct request *request_new(struct handle *handle, uint32_t rows);
/* Takes memory from the arena and fills it (sources NULL: the caller does). 0, -ENOBUFS without, -1 with an error set. */
int request_take(struct request *request, const struct source *sources);
/* Submits, or queues where there is no room. 0, or -1 with an error set. */
int request_submit(struct request *request);
/* Where it waits for room in a thread that may not look: it waits in this one. 1 moved, 0 not, -1 with an error set. */
int request_adopt(struct request *request);
/* Tries to submit a NEW or QUEUED one: 1 done (or ended with an error of its own), 0 no room for its rows, -1 no credit. */
int request_try(struct request *request);
/* Its completion was seen: takes over the result, schedules callbacks. */
void request_end(struct request *request);
/* Schedules the callbacks of one that is over already. */
void request_settle(struct request *request);
void request_end_error(struct request *request, PyObject *error);
/* Looks once, never blocks; true where it has ended or was cancelled. */
bool request_is_over(struct request *request);
/* False where it was over before. */
bool request_cancel(struct request *request);
/* Its time is over: cancelled, and says why. False with an error set. */
bool request_expire(struct request *request);
/* Waits: 0 over (by a timeout too), -1 with an error set (a signal handler raised: it is cancelled). */
int request_wait(struct request *request, uint64_t until_ns);
/* Somebody looks at its answer. */
void request_see(struct request *request);
/* Its memory; later, where a thread sleeps on it. */
void request_give(struct request *request);
/* The same with the last view, or now; cancels it where it is in flight. */
void request_close(struct request *request);
/* A view of it went away. */
void request_drop_view(struct request *request, bool is_output);
/* Into one of its handle's lists, and out of the one it is in. */
void request_enlist(struct request *request, struct request **list);
void request_unlist(struct request *request);

/* --- answer.c --- */

/* Raises why it failed. Returns -1. */
int request_raise(struct request *request);
/* New reference: the answer, or NULL with the request's exception set. */
PyObject *request_answer(struct request *request);
/* Copies answers that nobody looks at out of shared memory, until `rows` are free or none is left. */
void request_harvest(struct handle *handle, uint32_t rows);

/* --- future.c --- */

PyTypeObject *request_init(void);
PyTypeObject *waiter_init(void);

/* --- model.c --- */

PyTypeObject *model_init(void);

#endif /* CLIENT_PYTHON_CORE_H */
