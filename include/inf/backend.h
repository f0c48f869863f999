/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend.h - the plug-in interface between infbroker-executor and what runs models (plain C).
 *
 * A backend is a shared object in the plug-in directory that exports inf_backend_entry(). The executor
 * dlopens it, asks for its table, calls init() once, then load() per model file. Requests reach a
 * backend as batches: the executor has already gathered the rows of all clients into contiguous inputs
 * (or points at a client's own memory where in_place allows it) and values that the signature allows;
 * the backend runs the model and hands back where its outputs lie; the executor copies the rows out.
 *
 * Walk: entry() -> init() -> load() -> describe() -> [thread_begin() on each instance thread]
 *       -> run(), done(), run(), done(), ... -> unload().
 *
 * On a device the executor moves the rows itself and calls enqueue() instead of run(), with device memory on both sides.
 *
 * Errors: 0 or a negative errno, with one line of text in `error` (always NUL-terminated). No exception
 * and no exit() may leave a backend; a crash ends its executor process only.
 * Threads: init, load, describe and unload are called from one thread at a time; run and done from the
 * instance threads, several at once on the same model, but never twice at once with one instance number.
 */
#ifndef INF_BACKEND_H
#define INF_BACKEND_H

#include <inf/types.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define INF_BACKEND_ABI 3u
#define INF_BACKEND_ERROR_BYTES 256

/* An opaque loaded model, owned by the backend. */
struct inf_backend_model;

/*
 * A contiguous row-major tensor. For inputs `data` is borrowed from the executor and valid until run()
 * returns; 64-byte aligned. For outputs the backend fills every member; `data` stays valid and
 * unchanged until done() with the same instance.
 */
struct inf_backend_tensor {
	void *data;
	uint64_t bytes;
	uint8_t dtype; /* enum inf_dtype */
	uint8_t rank;
	uint8_t reserved[6];
	int64_t dims[INF_RANK_MAX];
};

struct CUctx_st;
struct CUstream_st;
struct inf_driver; /* shm/device/driver.h: for backends that live in this tree */

/* A CUDA device. Its primary context is current on every thread that calls the backend. */
struct inf_backend_device {
	size_t size;	 /* sizeof(struct inf_backend_device) of the caller */
	int32_t ordinal; /* among those that this process sees */
	uint32_t reserved;
	struct CUctx_st *context;
	const struct inf_driver *driver;
	uint64_t memory_bytes; /* that all models may have there; 0 = what there is */
};

/* What the executor grants a backend; size first, later members may follow. */
struct inf_backend_host {
	size_t size;		 /* sizeof(struct inf_backend_host) of the caller */
	uint32_t n_instances;	 /* instance threads that will call run(), numbered from 0 */
	uint32_t n_threads;	 /* intra-op threads that each run may use */
	uint64_t memory_bytes;	 /* what activations may keep cached; 0 = backend's choice */
	const struct inf_backend_device *device; /* where models run; NULL = the CPU. Lives as long as the process */
};

struct inf_backend_source {
	size_t size;	  /* sizeof(struct inf_backend_source) of the caller */
	const char *name; /* model name */
	const char *path; /* file to load; NULL for builtin models */
};

enum inf_record { INF_RECORD_BEGIN = 1, INF_RECORD_END = 2, INF_RECORD_DROP = 3 };

struct inf_backend_ops {
	uint32_t abi;	    /* INF_BACKEND_ABI */
	uint32_t bytes;	    /* sizeof(struct inf_backend_ops) */
	const char *name;   /* "torch", "builtin" */
	const char *suffix; /* file suffix served, with the dot (".pt"), or NULL */

	/* Prepares the process: called once, before any model is loaded. May be NULL. */
	int (*init)(const struct inf_backend_host *host, char *error, size_t error_bytes);

	/* Names of models that exist without a file; NULL after the last. May be NULL. */
	const char *(*builtin)(unsigned int idx);

	/* Loads a model; *ret_model is untouched on failure. May take seconds. */
	int (*load)(const struct inf_backend_source *source, struct inf_backend_model **ret_model, char *error,
		    size_t error_bytes);

	/*
	 * Says what the model takes. Either sets *ret_json to the text of the archive's `infbroker.json`
	 * (borrowed until unload), or fills *ret_signature and sets *ret_json to NULL, or returns -ENOENT:
	 * then the executor looks for NAME.json beside the file.
	 */
	int (*describe)(struct inf_backend_model *model, struct inf_signature *ret_signature, const char **ret_json);

	/* Called on each instance thread before its first run (thread-local settings). May be NULL. */
	void (*thread_begin)(uint32_t instance);

	/*
	 * Runs one batch of `rows` rows. inputs[] has n_inputs entries as in the signature, dims[0] == rows
	 * where batchable. Fills outputs[0..n_outputs). Blocks until the result is there.
	 */
	int (*run)(struct inf_backend_model *model, uint32_t instance, uint32_t rows,
		   const struct inf_backend_tensor *inputs, uint32_t n_inputs, struct inf_backend_tensor *outputs,
		   uint32_t n_outputs, char *error, size_t error_bytes);

	/*
	 * On a device: puts one run on `stream` and returns without waiting for it. inputs[] and outputs[] are device memory,
	 * aligned to 256 bytes; outputs[] come with the signature's shapes for these rows and room for the largest, are
	 * written in the order of `stream`, and the model says where a dimension that varies is smaller. Whatever it does on
	 * streams of its own it joins to `stream`. An error means that nothing was put there that still writes. NULL = no
	 * device support: its models are not served on one. done() is not called.
	 */
	int (*enqueue)(struct inf_backend_model *model, uint32_t instance, uint32_t rows, struct CUstream_st *stream,
		       const struct inf_backend_tensor *inputs, uint32_t n_inputs, struct inf_backend_tensor *outputs,
		       uint32_t n_outputs, char *error, size_t error_bytes);

	/*
	 * On a device: what enqueue() puts on `stream` between BEGIN and END is recorded as a CUDA graph, to be launched again
	 * and again in the order of that stream, with other contents of the same inputs[] and outputs[]. Memory that it uses
	 * besides belongs to the recordings of this instance and stream until as many were dropped (DROP, once for each) as
	 * were begun; all are before unload(). After an error of BEGIN there is no recording; the others' results are not looked
	 * at. NULL = its runs cannot be recorded.
	 */
	int (*record)(struct inf_backend_model *model, uint32_t instance, struct CUstream_st *stream, enum inf_record step,
		      char *error, size_t error_bytes);

	/*
	 * On a device: bytes of its memory that all models of this backend hold at the moment, cached ones too. Any thread. NULL =
	 * none but what it is given.
	 */
	uint64_t (*device_bytes)(void);

	/* Gives back the outputs of the last run() of this instance, also after a failed run. */
	void (*done)(struct inf_backend_model *model, uint32_t instance);

	/* True (1) where run() may read a client's memory in place: no op sizes its output from input data. */
	int (*in_place)(struct inf_backend_model *model);

	/* Frees the model. NULL is allowed. */
	void (*unload)(struct inf_backend_model *model);
};

/* The one exported symbol of a plug-in: inf_backend_entry. Returns a static table. */
typedef const struct inf_backend_ops *(*inf_backend_entry_fn)(void);
#define INF_BACKEND_ENTRY "inf_backend_entry"

#ifdef __cplusplus
}
#endif

#endif /* INF_BACKEND_H */
