/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graphs.h - what a model puts on a stream for so many rows, recorded as a CUDA graph and launched as a whole from then on:
 * one call of the driver where a network makes hundreds.
 *
 * Recorded is what enqueue() does, with the addresses that it does it with: one graph for each model, place and number of
 * rows, where a place is memory that batches run in and the stream that they run on (a flight's, or the loader's). Backends
 * give all recordings of a stream the same memory besides (backend.h): launched on another one, two would run side by side
 * in it. No row is added to make a batch fit a graph: the sizes in use are few, and each that comes back is recorded. That is
 * done when it has run WARM times call by call: libraries make up their minds in a model's first runs.
 *
 * What cannot be recorded runs call by call, and a line says why: shapes that vary, a backend without record(), a model that
 * makes calls which a recording forbids. Nothing of that changes an answer.
 */
#ifndef BROKER_EXECUTOR_GRAPHS_H
#define BROKER_EXECUTOR_GRAPHS_H

#include "broker/executor/device.h"
#include "broker/executor/executor.h"

/* One run of a model. */
struct model_run {
	const struct loaded_model *model;
	uint32_t instance, rows;
	CUstream stream;
	const struct inf_backend_tensor *inputs;
	struct inf_backend_tensor *outputs; /* with the largest shapes for these rows */
	char *error;
	size_t error_bytes;
};

/*
 * For a model that was loaded, which it is a part of, in so many places; the last one is the loader's. NULL where its runs are not to be recorded;
 * `error` then says why.
 */
struct graphs *graphs_new(const struct device *device, const struct loaded_model *model, uint32_t n_places, char *error,
			  size_t error_bytes);
struct graphs *graphs_free(struct graphs *graphs);

/* Puts a run on its stream, call by call. 0, or a negative errno. */
int graphs_enqueue(const struct model_run *run);

/*
 * Puts a run on its stream: recorded, if that can be. @memory names the addresses of `place`: another name, or another stream,
 * and what was recorded there is forgotten. One thread at a time for each place. 0, or a negative errno as of enqueue().
 */
int graphs_run(const struct model_run *run, uint32_t place, uint64_t memory);

/* Forgets what was recorded in a place; none of it is on the device. Its thread. */
void graphs_forget(struct graphs *graphs, uint32_t place);

#endif /* BROKER_EXECUTOR_GRAPHS_H */
