/* SPDX-License-Identifier: Apache-2.0 */
/*
 * executor.h - the state of an executor process, in one page.
 *
 *	control thread (main)   messages of the front; maps regions; exits when the front hangs up
 *	loader thread           loads, describes, warms up and measures models, one after another
 *	instance threads        wait for batches, assemble, run, publish
 *	pins thread             on a device: registers clients' memory with the driver, behind the control thread
 *	the driver's threads    on a device: call when a batch is done (flight.c: on_done)
 *
 * Who writes what: the region table and the model table have one writer (control and loader thread) and are published by
 * release stores; an instance thread looks an entry up only because a batch names it, and the front dispatches such a batch
 * only after ATTACHED or LOADED. DETACH and UNLOAD come only when no batch names it any more.
 */
#ifndef BROKER_EXECUTOR_EXECUTOR_H
#define BROKER_EXECUTOR_EXECUTOR_H

#include "shm/control.h"
#include "shm/layout.h"
#include <inf/backend.h>
#include <pthread.h>
#include <stdbool.h>

#define EXECUTOR_SOCKET_FD 3
#define EXECUTOR_MODELS_MAX 64u
#define EXECUTOR_BACKENDS_MAX 8u

struct device;
struct graphs;

struct options {
	const char *device; /* "cuda:0"; NULL = the CPU */
	const char *models_path; /* NULL = none */
	const char *plugins_path; /* NULL = beside the program */
	bool builtin;
	bool is_importer; /* importer.h */
	bool verbose;
	bool no_graphs; /* models run call by call */
	uint64_t device_model_bytes; /* of device memory, that models may have; 0 = what there is */
	uint32_t n_instances; /* 0 = one per CPU that the process may use */
	uint32_t n_threads;   /* 0 = 1 */
	uint64_t memory_bytes;
	uint64_t spin_ns; /* how long an instance looks for a batch before it sleeps */
};

/* A loaded model; immutable once published. */
struct loaded_model {
	const struct inf_backend_ops *ops;
	struct inf_backend_model *handle;
	struct inf_signature signature;
	bool in_place;
	bool declared; /* no dimension of an output but the batch is open: INF_OUT_DECLARED */
	struct graphs *graphs; /* NULL = its runs are not recorded */
	uint64_t row_bytes[INF_INPUTS_MAX];
	uint64_t out_row_bytes[INF_OUTPUTS_MAX];
};

struct executor {
	struct options options;
	struct device *device; /* NULL = the CPU */
	const struct inf_backend_ops *backends[EXECUTOR_BACKENDS_MAX];
	uint32_t n_backends;
	uint32_t n_instances;
	uint32_t n_threads;
	struct loaded_model *models[EXECUTOR_MODELS_MAX]; /* by the front's id; atomic pointers */
	struct instance *instances[INF_INSTANCES];
	pthread_mutex_t send_lock; /* two threads talk to the front */
};

/* Sends a message to the front; ends the process where the front is gone. */
void executor_send(struct executor *executor, const void *msg);

/* One line to stderr, with the program's name. */
void executor_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif /* BROKER_EXECUTOR_EXECUTOR_H */
