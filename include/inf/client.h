/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.h - libinfclient: answers from models that a broker on this machine serves.
 *
 *	struct inf_client *client;
 *	struct inf_model *model;
 *	struct inf_request *req;
 *
 *	inf_open(&client, NULL);			// $INFBROKER_SOCKET, else the default places
 *	inf_model_open(client, "classifier", 0, &model);
 *	inf_request_take(model, 1, &req);		// one row: memory for every input
 *	fill(inf_input(req, 0));			// float[1][3][224][224], where the model reads it
 *	if (inf_submit(req) == 0 &&			// a 64-byte store; a system call only if the broker sleeps
 *	    inf_wait(req, INF_FOREVER) == 0 && inf_request_status(req) == INF_OK)
 *		use(inf_output(req, 0));		// float[1][1000], where the executor wrote it
 *	inf_request_give(req);				// input and output memory go back
 *	inf_close(client);
 *
 * Two kinds of trouble, never mixed: a call that fails returns a negative errno; a request that was
 * accepted ends with one enum inf_status. The library never prints, never exits, starts no threads and
 * installs no signal handlers.
 *
 * Threads: every call may be made from any thread unless it says otherwise; one request is used by one
 * thread at a time, but any thread may wait for it, cancel it or give it back. Each thread that submits
 * gets a lane (a ring pair) of its own, up to 16; further threads share one.
 *
 * fork: in a child the parent's client is of no use; each call on it returns -EOWNERDEAD without harm to
 * the parent (inf_close frees the child's copy). Input memory stays readable. Open a new client there.
 *
 * Time is CLOCK_MONOTONIC, absolute, in nanoseconds. `since` of everything here is 0.1.
 */
#ifndef INF_CLIENT_H
#define INF_CLIENT_H

#include <inf/types.h>
#include <inf/version.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef INF_EXPORT
#define INF_EXPORT __attribute__((visibility("default")))
#endif

struct inf_client;
struct inf_model;
struct inf_request;

/* Deadlines for waits. */
#define INF_FOREVER UINT64_MAX
#define INF_NOWAIT 0u

/*
 * Options of inf_open(). Zero it, set `size`. Members that are 0 mean the default.
 * @size: sizeof(struct inf_options)
 * @socket: path of the broker's socket; NULL = $INFBROKER_SOCKET, else $XDG_RUNTIME_DIR/infbroker/socket,
 *	else /run/infbroker/socket
 * @name: shown in `shmctl sessions`; NULL = the program's name
 * @error: gets one line that says what failed, where it looked and what to do next, if not NULL
 * @error_bytes: room there
 */
struct inf_options {
	size_t size;
	const char *socket;
	const char *name;
	char *error;
	size_t error_bytes;
};

/*
 * inf_open - connects to the broker and maps a session's memory (about 1.4 MiB).
 * @ret_client: the client, closed by inf_close(); untouched on failure
 * @options: NULL for the defaults
 * Blocks: up to a few ms, or until a socket-activated broker has started.
 * Errors: -ENOENT, -ECONNREFUSED (no broker there: see options->error), -ENAMETOOLONG (socket path),
 * -EPROTONOSUPPORT (a broker of another version), -EDQUOT (too many sessions of this user), -EACCES,
 * -ECONNRESET, -EPROTO (the broker broke off the handshake), -EMFILE, -ENOMEM, -EAGAIN (no thread-specific
 * key is left in this process), -EINVAL (options->size, or a non-zero tail).
 */
INF_EXPORT int inf_open(struct inf_client **ret_client, const struct inf_options *options);

/*
 * inf_close - ends the session: requests in flight are dropped, their memory is unmapped. Every model and
 * request of the client is invalid afterwards. NULL is allowed. No other thread may be in a call, nor be
 * ending without having called inf_thread_leave().
 */
INF_EXPORT void inf_close(struct inf_client *client);

/*
 * inf_model_open - asks for a model by name and for memory to use it.
 * @depth: rows that shall be in flight or held at once; 0 = 64. Memory for that many inputs and outputs is
 *	charged to the user.
 * @ret_model: lives until inf_close(); untouched on failure. The same name gives the same model again, with
 *	the depth of the first time; after a request ended with INF_NO_MODEL, the one that took its place.
 * Blocks: some ms (memory is faulted in here, not on the first request); no timeout while the broker lives.
 * Errors: -ENOENT (no such model), -EAGAIN (still loading: try again), -ENOEXEC (its file failed to load),
 * -EDQUOT (memory quota: ask for less depth), -EHOSTDOWN (no executor can be started), -ENOMEM,
 * -ECONNRESET, -EPROTO (broker gone: open a new client), -EOWNERDEAD (after fork).
 * inf_error() has the broker's own words.
 */
INF_EXPORT int inf_model_open(struct inf_client *client, const char *name, uint32_t depth,
			      struct inf_model **ret_model);

/* inf_model_signature - names, dtypes, shapes, ranges. Never NULL; valid until inf_close(). Never blocks. */
INF_EXPORT const struct inf_signature *inf_model_signature(const struct inf_model *model);

/* inf_model_depth - rows that may be in flight or held at once, as granted by the broker. Never blocks. */
INF_EXPORT uint32_t inf_model_depth(const struct inf_model *model);

/* One model that the broker has: for listings. @state: 1 loading, 2 ready, 3 failed. */
struct inf_model_info {
	size_t size; /* in: sizeof(struct inf_model_info) */
	uint32_t state;
	uint32_t reserved;
	uint64_t time_ns[9]; /* time of a batch of 1, 2, 4, ... 256 rows; 0 = not measured */
	char text[160];	     /* why it failed */
	struct inf_signature signature;
};

/*
 * inf_model_list - the idx-th model. Blocks for one message there and back.
 * Errors: -ENOENT (past the last), -EAGAIN (the broker has just started and is still looking for its models: try
 * again), -ECONNRESET, -EPROTO (broker gone), -EOWNERDEAD (after fork), -EINVAL.
 */
INF_EXPORT int inf_model_list(struct inf_client *client, uint32_t idx, struct inf_model_info *ret_info);

/*
 * inf_request_take - takes a request of `rows` rows with memory for all inputs, 64-byte aligned, in
 * signature order. Contents are undefined until written.
 * @rows: 1..INF_ROWS_MAX; 1 where the model does not batch
 * @ret_req: owned by the caller until inf_request_give(); untouched on failure
 * Blocks: never (may ask the broker for more memory once: then a few ms).
 * Errors: -ENOBUFS (arena full: give requests back, or open the model with more depth), -EINVAL (rows),
 * -ENOMEM, -EOWNERDEAD.
 */
INF_EXPORT int inf_request_take(struct inf_model *model, uint32_t rows, struct inf_request **ret_req);

/*
 * inf_request_give - gives input and output memory back. In flight: it is cancelled first and its memory
 * is reused when its batch has ended. NULL is allowed. Never blocks. Pointers from inf_input() and
 * inf_output() are invalid afterwards.
 */
INF_EXPORT void inf_request_give(struct inf_request *req);

/*
 * inf_input - memory of input `idx`, row-major, dims[0] == rows where the model batches; the model reads
 * it there. Write it before inf_submit(); don't change it until the request has ended (the answer would
 * be undefined, nothing else would break). NULL where idx is out of range. Never blocks.
 */
INF_EXPORT void *inf_input(struct inf_request *req, uint32_t idx);

/* inf_input_room - bytes of that memory: for varying dimensions, of the largest shape. */
INF_EXPORT uint64_t inf_input_room(const struct inf_request *req, uint32_t idx);

/*
 * inf_input_describe - sets dtype and shape of an input explicitly; needed where dimensions vary, and a
 * check against the signature everywhere else: the broker judges them when the request is submitted
 * (INF_BAD_DTYPE, INF_BAD_SHAPE).
 * @dims: `rank` of them, batch dimension included
 * Errors: -EINVAL (idx, rank), -EMSGSIZE (the shape needs more memory than inf_input_room()), -EBUSY (in flight).
 */
INF_EXPORT int inf_input_describe(struct inf_request *req, uint32_t idx, enum inf_dtype dtype, uint32_t rank,
				  const int64_t *dims);

/* Deadline of the request, CLOCK_MONOTONIC ns; 0 = none. -EBUSY while in flight. */
INF_EXPORT int inf_request_set_deadline(struct inf_request *req, uint64_t deadline_ns);

/*
 * Who goes first: 0..INF_PRIORITY_MAX, where the broker takes all that wait of a higher one before any of a lower one,
 * over all models and clients. INF_PRIORITY_DEFAULT after inf_request_take(). -EINVAL out of range, -EBUSY while in flight.
 */
INF_EXPORT int inf_request_set_priority(struct inf_request *req, uint32_t priority);

/* The caller's own pointer, for inf_wait_any() loops. */
INF_EXPORT void inf_request_set_data(struct inf_request *req, void *data);
INF_EXPORT void *inf_request_data(const struct inf_request *req);

/*
 * inf_submit - hands the request to the broker from the calling thread's lane. A request that has ended may
 * be submitted again as it is; its former output is released.
 * Blocks: never.
 * Errors: -EBUSY (already in flight), -EAGAIN (256 in flight or unread on this lane: wait for some),
 * -ECONNRESET (the broker is gone), -EOWNERDEAD (after fork).
 */
INF_EXPORT int inf_submit(struct inf_request *req);

/*
 * inf_submit_many - the same for several requests with one look at the bell. Returns how many were
 * submitted (the first ones), or a negative errno if none was.
 */
INF_EXPORT int inf_submit_many(struct inf_request *const *reqs, uint32_t n_reqs);

/* inf_poll - 1 the request has ended, 0 not yet, negative errno. Never blocks, no system call. */
INF_EXPORT int inf_poll(struct inf_request *req);

/*
 * inf_wait - waits until the request has ended, however.
 * @until_ns: absolute CLOCK_MONOTONIC, INF_FOREVER, or INF_NOWAIT
 * Returns 0, -ETIMEDOUT, -EINVAL (never submitted), -EOWNERDEAD. A broker that dies ends the request with
 * INF_BROKER_LOST, so the wait returns 0. Signals are no reason to return.
 */
INF_EXPORT int inf_wait(struct inf_request *req, uint64_t until_ns);

/*
 * inf_wait_any - waits for any request submitted from the calling thread's lane that has ended and was not
 * returned by this call before.
 * Errors: -ETIMEDOUT, -ENOENT (nothing in flight on this lane), -EOWNERDEAD.
 */
INF_EXPORT int inf_wait_any(struct inf_client *client, uint64_t until_ns, struct inf_request **ret_req);

/*
 * inf_cancel - asks for an early end. The request still ends exactly once: CANCELLED, or whatever came
 * first. Idempotent, never blocks. Errors: -EINVAL (not in flight).
 */
INF_EXPORT int inf_cancel(struct inf_request *req);

/*
 * inf_request_status - how it ended, after inf_poll() == 1 or inf_wait() == 0. Before: INF_STATUS_N, which is no status. After a
 * failed inf_submit() it is still what it was.
 */
INF_EXPORT enum inf_status inf_request_status(const struct inf_request *req);

/* What the broker measured, and its advice; zeros before the end. */
struct inf_request_info {
	size_t size; /* in: sizeof(struct inf_request_info) */
	uint32_t queue_us;
	uint32_t run_us;
	uint32_t retry_after_us;
	uint32_t maybe_executed; /* 1 = the model may have run although the status is an error */
};
INF_EXPORT int inf_request_get_info(const struct inf_request *req, struct inf_request_info *ret_info);

/* One output, as produced: pointer into shared memory (read-only), row-major. */
struct inf_tensor {
	const void *data; /* 64-byte aligned; valid until the request is given back or submitted again */
	uint64_t bytes;
	uint32_t dtype; /* enum inf_dtype */
	uint32_t rank;
	int64_t dims[INF_RANK_MAX];
};

/* inf_output - data of output `idx`; NULL unless the status is INF_OK and idx is in range, and where results stay on a device. */
INF_EXPORT const void *inf_output(const struct inf_request *req, uint32_t idx);

/*
 * inf_output_tensor - the same with dtype and shape; of results on a device without data. -EINVAL where the status is not
 * INF_OK or idx is out of range.
 */
INF_EXPORT int inf_output_tensor(const struct inf_request *req, uint32_t idx, struct inf_tensor *ret_tensor);

/*
 * inf_infer - one line to use: copies `inputs` in, waits, copies the outputs out.
 * @inputs: one pointer per input, row-major, the shapes of the signature with dims[0] == rows
 * @outputs: one pointer per output; room for the signature's bound (inf_output_bound())
 * @until_ns: as in inf_wait()
 * Returns an enum inf_status (0 = INF_OK), or a negative errno.
 */
INF_EXPORT int inf_infer(struct inf_model *model, uint32_t rows, const void *const *inputs, void *const *outputs,
			 uint64_t until_ns);

/* inf_output_bound - most bytes that output `idx` of `rows` rows can have; 0 where out of range. */
INF_EXPORT uint64_t inf_output_bound(const struct inf_model *model, uint32_t rows, uint32_t idx);

/*
 * inf_ping - one empty request that the broker answers itself. Returns 0 and the round trip in ns.
 * Blocks until `until_ns`. Errors as inf_submit() and inf_wait().
 */
INF_EXPORT int inf_ping(struct inf_client *client, uint64_t until_ns, uint64_t *ret_rtt_ns);

/*
 * inf_fd - a descriptor for poll/epoll that is readable when the calling thread's lane has completions to
 * collect (a hint), or the broker is gone. Owned by the client. Use: submit; inf_fd_arm(); if that returns 1
 * collect with inf_wait_any(INF_NOWAIT) at once, else poll the fd.
 * Returns the fd or a negative errno (-EOPNOTSUPP, -ECONNRESET, -EMFILE). Blocks for one message the first time.
 */
INF_EXPORT int inf_fd(struct inf_client *client);
/* Empties the fd and asks for the next hint. 1 = there is something to collect already, 0 = poll now. */
INF_EXPORT int inf_fd_arm(struct inf_client *client);

/* inf_thread_leave - returns the calling thread's lane (also done when the thread ends). */
INF_EXPORT void inf_thread_leave(struct inf_client *client);

/*
 * inf_error - what the last inf_model_open() or call of inf/device.h of this thread had to say, if it failed: the broker's words
 * where it was asked, else a sentence of the library. Never NULL.
 */
INF_EXPORT const char *inf_error(const struct inf_client *client);

/* inf_session - number of the session, as in `shmctl sessions`. */
INF_EXPORT uint32_t inf_session(const struct inf_client *client);

/* "INF_OK" -> "OK"; "?" for an unknown number. Static strings. */
INF_EXPORT const char *inf_status_name(enum inf_status status);
/* One sentence with the next step. */
INF_EXPORT const char *inf_status_text(enum inf_status status);
/* "f32", ... */
INF_EXPORT const char *inf_dtype_name(enum inf_dtype dtype);
/* Bytes of one element; 0 where unknown. */
INF_EXPORT uint32_t inf_dtype_bytes(enum inf_dtype dtype);
/* Release of the library, "0.1.0". */
INF_EXPORT const char *inf_version(void);

#ifdef __cplusplus
}
#endif

#endif /* INF_CLIENT_H */
