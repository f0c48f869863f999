/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - tensors that lie on the broker's CUDA device: no copy through the host, no wait on the host.
 *
 *	inf_device_open(client, NULL);
 *	inf_request_take(model, 1, &req);
 *	inf_output_to_device(req);			// first: it may move the request's memory
 *	inf_input_device(req, 0, &x);			// a CUdeviceptr of this process, where batches are gathered from
 *	preprocess<<<..., stream>>>((float *)x);
 *	inf_request_commit(req, stream);		// the inputs are there once the stream gets here
 *	inf_submit(req);
 *	inf_wait_stream(req, stream);			// what the stream does from here on finds the results
 *	inf_output_device(req, 0, &y);
 *	postprocess<<<..., stream>>>((const float *)y);
 *	inf_mark_stream(req, stream);			// so far its memory is in use
 *	inf_wait(req, INF_FOREVER);			// its status, at last
 *	inf_request_give(req);				// once inf_poll_marks(req) says 1
 *
 * The memory is the broker's, one piece of it for each client process, mapped here: no CUDA IPC handle, and nothing of one
 * client that another could reach. Any mix goes: some inputs on the host, results on either side. A program that calls
 * nothing of this loads no CUDA. The library makes its calls in the device's primary context (PyTorch's, CuPy's and the
 * runtime's) and leaves the thread's current one as it was; streams are CUstream or cudaStream_t of that context, NULL the
 * default stream.
 *
 * Everything else is as in client.h. `since` of all of it is 0.1.
 */
#ifndef INF_DEVICE_H
#define INF_DEVICE_H

#include <inf/client.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The broker's device, as this process sees it. */
struct inf_device_info {
	size_t size; /* in: sizeof(struct inf_device_info) */
	int32_t ordinal; /* CUDA's number of it in this process */
	uint32_t reserved;
	char uuid[48]; /* "GPU-..." */
};

/*
 * inf_device_open - prepares the client for device memory: loads the driver, finds the broker's device, and asks the broker
 * for what streams are signalled by. Once is enough; later calls only fill @ret_info (NULL is allowed).
 * Blocks: some ms, and a CUDA context is made where the process has none (that may take a second and some 100 MB of
 * device memory).
 * Errors, each with a sentence in inf_error(): -ENODEV (the broker's models run on a CPU, or its device is not visible in
 * this process), -ENOENT (no driver here), -ENOSYS (too old), -EACCES (no permission for the device files), -EAGAIN (the
 * broker's executor is just being started), -EDQUOT, -ENOMEM, -EOPNOTSUPP (an older broker), -EIO, -ECONNRESET, -EINVAL,
 * -EOWNERDEAD.
 */
INF_EXPORT int inf_device_open(struct inf_client *client, struct inf_device_info *ret_info);

/*
 * inf_input_device - device memory for input `idx`, as large as inf_input_room(), 64-byte aligned. From now on the request
 * takes this input from there, until it is given back; write it before the request is committed.
 * @ret_address: a CUdeviceptr, valid until the request is given back
 * Blocks: the first time in each piece of host memory for one message and the mapping (a ms or less); then never.
 * Errors: -EINVAL, -EBUSY (in flight), -ENODEV (inf_device_open() first), -ENOBUFS (1024 requests with device memory are
 * taken: give some back), -ENOMEM, -EDQUOT (device memory of the broker, or this user's share: inf_error()), -ESTALE (the
 * memory went with the broker's device: open a new client), -EAGAIN (the broker's executor is just being started), -EIO, -ECONNRESET, -EOWNERDEAD.
 */
INF_EXPORT int inf_input_device(struct inf_request *req, uint32_t idx, uint64_t *ret_address);

/*
 * inf_input_copy - queues a copy of @bytes device memory of this process into input `idx`: for tensors that were made
 * elsewhere. The request takes the input from its device memory then, as after inf_input_device(); after a failure it takes
 * it from where it did before.
 * @from: any device pointer of the same device, @bytes of it within one allocation; what is behind them in the input stays as
 * it was
 * Errors: as inf_input_device(); -EMSGSIZE (more than inf_input_room()), -EFAULT (no device memory, or not that much),
 * -EXDEV (of another device).
 */
INF_EXPORT int inf_input_copy(struct inf_request *req, uint32_t idx, uint64_t from, uint64_t bytes, void *stream);

/*
 * inf_input_import - has the broker open the memory at @from by its legacy CUDA IPC handle and copy @bytes of it into input
 * `idx`, after all that @stream has been given so far. The request takes the input from its device memory then; after a failure
 * it takes it from where it did before. No inf_request_commit() is needed for it.
 *
 * inf_input_copy() does the same faster, without the broker, and is the one to take. This one is for a process that cannot map the
 * broker's memory (no virtual memory management in its driver or container), and where the broker's administrator has allowed it
 * to this user (--cuda-ipc-users).
 * @from: device memory of cudaMalloc, where PyTorch and CuPy take theirs by default (not of cudaMallocAsync, not of expandable
 * segments), @bytes of it within one allocation, which stays allocated until the call returns. The broker's importer sees the whole
 * allocation meanwhile, and with a small one what lies beside it
 * @bytes: at least 1
 * Blocks: until the copy is done: some ms, the first time a second (a process and a context are made), and not longer than the
 * broker allows (10 s, --commit-ms-max). Other threads that ask the broker something (inf_model_open() and the like) wait.
 * Errors: as inf_input_copy(), and -EOPNOTSUPP (no memory of cudaMalloc, or broker or driver cannot), -EACCES (not
 * allowed to this user), -ETIMEDOUT (@stream did not get here in time), -EIO (the importer died: try again, three times at most),
 * -EAGAIN (the last one is just ending: try again); inf_error() says.
 */
INF_EXPORT int inf_input_import(struct inf_request *req, uint32_t idx, uint64_t from, uint64_t bytes, void *stream);

/*
 * inf_output_to_device - the results shall stay on the device; inf_output() is NULL then. Until the request is given back.
 * Call it right after inf_request_take(): it may move the request's memory, what was written is lost.
 * Errors: as inf_input_device(); the results go to the host then, as before.
 */
INF_EXPORT int inf_output_to_device(struct inf_request *req);

/*
 * inf_output_device - where output `idx` will be, or is. Known before the request is submitted; of an output whose shape
 * varies inf_output_tensor() tells the shape at the end.
 * Errors: -EINVAL (idx, or without inf_output_to_device()).
 */
INF_EXPORT int inf_output_device(const struct inf_request *req, uint32_t idx, uint64_t *ret_address);

/*
 * inf_request_commit - the next submission waits for everything that @stream has been given so far. Without it the inputs
 * must be complete when inf_submit() is called. One stream for a submission: join others to it by events first. A request
 * that waits longer than the broker allows (10 s) ends with INF_DEADLINE. Never blocks.
 * Errors: -EINVAL (no device memory in this request, or no such stream), -EBUSY (in flight), -EIO, -EOWNERDEAD.
 */
INF_EXPORT int inf_request_commit(struct inf_request *req, void *stream);

/*
 * inf_wait_stream - what @stream is given afterwards runs once the submitted request has ended, however: its status is
 * known by inf_wait() or inf_poll(). Never blocks. Should the broker die the stream goes on at the next call that notices
 * (inf_poll(), inf_wait(), inf_submit()): who only waits for the stream should call one now and then.
 * Errors: -EINVAL (never submitted, no device memory in it, or no such stream), -EIO, -EOWNERDEAD.
 */
INF_EXPORT int inf_wait_stream(struct inf_request *req, void *stream);

/*
 * inf_mark_stream - remembers how far @stream has been given work by now: work that uses the request's device memory, which
 * is why the request must not be given back yet. Any number of marks, of any streams, in flight too; they are forgotten when
 * it is given back. Never blocks.
 * Errors: -EINVAL (no device memory in this request, or no such stream), -ENOMEM, -EIO, -EOWNERDEAD.
 */
INF_EXPORT int inf_mark_stream(struct inf_request *req, void *stream);

/*
 * inf_poll_marks - 1 all marked streams have passed their marks (or there is none), 0 not yet. Never blocks; no event tells.
 * Errors: -EINVAL (no device memory in this request), -EIO (the device or its context is lost: nothing runs there any more),
 * -EOWNERDEAD.
 */
INF_EXPORT int inf_poll_marks(struct inf_request *req);

#ifdef __cplusplus
}
#endif

#endif /* INF_DEVICE_H */
