/* SPDX-License-Identifier: Apache-2.0 */
/* graphs.c - see graphs.h. graphs_run() is hot. */
#include "broker/executor/graphs.h"
#include "shm/atomics.h"
#include "shm/signature.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define WARM	   2u
#define GRAPHS_MAX 32u /* in one place: each costs memory of the device by the kernel */

struct graph {
	CUgraphExec exec; /* NULL = not recorded */
	uint32_t n_runs;  /* call by call */
};

struct place {
	uint64_t memory;
	CUstream stream;
	uint32_t instance;
	uint32_t n_graphs;
	struct graph *by_rows; /* [rows - 1] */
};

struct graphs {
	const struct device *device;
	const struct loaded_model *model;
	uint32_t n_places, rows_max;
	uint32_t is_off; /* atomic: by whoever found that it cannot be */
	struct place *places;
	struct graph table[];
};

static const char *why_not(const struct loaded_model *model)
{
	if (!model->ops->record)
		return "its backend has no support for that";
	return model->declared && inf_signature_is_packed(&model->signature) ? NULL : "its shapes vary";
}

struct graphs *graphs_new(const struct device *device, const struct loaded_model *model, uint32_t n_places, char *error,
			  size_t error_bytes)
{
	const char *why = why_not(model);
	uint32_t rows_max = model->signature.batch_max;
	struct graphs *graphs = NULL;

	if (!why) {
		graphs = calloc(1, sizeof(*graphs) + (size_t)n_places * rows_max * sizeof(graphs->table[0]));
		why = "there is no memory for that";
	}
	if (graphs)
		graphs->places = calloc(n_places, sizeof(*graphs->places));
	if (!graphs || !graphs->places) {
		snprintf(error, error_bytes, "%s", why);
		free(graphs);
		return NULL;
	}
	graphs->device = device;
	graphs->model = model;
	graphs->n_places = n_places;
	graphs->rows_max = rows_max;
	for (uint32_t i = 0; i < n_places; i++)
		graphs->places[i].by_rows = &graphs->table[(size_t)i * rows_max];
	return graphs;
}

struct graphs *graphs_free(struct graphs *graphs)
{
	if (!graphs)
		return NULL;
	for (uint32_t i = 0; i < graphs->n_places; i++)
		graphs_forget(graphs, i);
	free(graphs->places);
	free(graphs);
	return NULL;
}

static int tell_backend(const struct loaded_model *model, uint32_t instance, CUstream stream, enum inf_record step, char *error,
			size_t error_bytes)
{
	return model->ops->record(model->handle, instance, stream, step, error, error_bytes);
}

void graphs_forget(struct graphs *graphs, uint32_t place_idx)
{
	struct place *place = graphs ? &graphs->places[place_idx] : NULL;
	char error[INF_BACKEND_ERROR_BYTES];

	for (uint32_t i = 0; place && i < graphs->rows_max; i++) {
		struct graph *graph = &place->by_rows[i];

		if (graph->exec) {
			device_ok(graphs->device, graphs->device->driver.graph_exec_destroy(graph->exec), "forgetting a recorded model");
			tell_backend(graphs->model, place->instance, place->stream, INF_RECORD_DROP, error, sizeof(error));
		}
		*graph = (struct graph){ 0 };
	}
	if (place)
		place->n_graphs = 0;
}

int graphs_enqueue(const struct model_run *run)
{
	const struct loaded_model *model = run->model;

	return model->ops->enqueue(model->handle, run->instance, run->rows, run->stream, run->inputs, model->signature.n_inputs,
				   run->outputs, model->signature.n_outputs, run->error, run->error_bytes);
}

static void turn_off(struct graphs *graphs, const struct model_run *run, CUresult result)
{
	inf_store32(&graphs->is_off, 1);
	executor_log("model %s cannot be recorded and runs call by call: %s", run->model->signature.name,
		     run->error[0] ? run->error : inf_driver_error(&graphs->device->driver, result));
	run->error[0] = 0;
}

/* True where the device said well; ends the process where it is lost. What else it says is turn_off()'s to tell. */
static bool is_good(const struct graphs *graphs, CUresult result)
{
	return !inf_driver_is_fatal(result) ? !result : device_ok(graphs->device, result, "recording a model");
}

/* Nothing of it has run afterwards. Thread-local: what other threads do is none of the recording's business. */
static CUresult capture(const struct graphs *graphs, const struct model_run *run, CUgraph *ret_graph)
{
	const struct inf_driver *driver = &graphs->device->driver;
	CUresult result = driver->capture_begin(run->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
	CUgraph graph = NULL;
	int r;

	if (result)
		return result;
	r = graphs_enqueue(run);
	/* Also where that failed, and once more where this fails: before, the stream is of no use. */
	result = driver->capture_end(run->stream, &graph);
	if (result && !driver->capture_end(run->stream, &graph))
		driver->graph_destroy(graph);
	if (!result && r) {
		driver->graph_destroy(graph);
		result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	}
	if (!result)
		*ret_graph = graph;
	return result;
}

static CUresult instantiate(const struct inf_driver *driver, CUgraph graph, CUgraphExec *ret_exec)
{
	CUgraphExec exec = NULL;
	CUresult result = driver->graph_instantiate(&exec, graph, 0), destroyed = driver->graph_destroy(graph);

	if (!result && destroyed)
		driver->graph_exec_destroy(exec);
	else if (!result)
		*ret_exec = exec;
	return result ? result : destroyed;
}

/* False where it cannot be: then none of this model is any more. */
static bool record(struct graphs *graphs, const struct model_run *run, CUgraphExec *ret_exec)
{
	CUgraph graph;
	CUresult result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	char ignored[INF_BACKEND_ERROR_BYTES];

	if (!tell_backend(run->model, run->instance, run->stream, INF_RECORD_BEGIN, run->error, run->error_bytes)) {
		result = capture(graphs, run, &graph);
		tell_backend(run->model, run->instance, run->stream, INF_RECORD_END, ignored, sizeof(ignored));
		if (!result)
			result = instantiate(&graphs->device->driver, graph, ret_exec);
		if (result)
			tell_backend(run->model, run->instance, run->stream, INF_RECORD_DROP, ignored, sizeof(ignored));
	}
	if (is_good(graphs, result))
		return true;
	turn_off(graphs, run, result);
	return false;
}

/* What to launch. NULL = run it call by call. */
static CUgraphExec find(struct graphs *graphs, struct place *place, const struct model_run *run)
{
	struct graph *graph;

	if (inf_load32(&graphs->is_off) || !run->rows || run->rows > graphs->rows_max)
		return NULL;
	graph = &place->by_rows[run->rows - 1];
	if (!graph->exec && (graph->n_runs < WARM || place->n_graphs == GRAPHS_MAX))
		graph->n_runs++;
	else if (!graph->exec && record(graphs, run, &graph->exec))
		place->n_graphs++;
	return graph->exec;
}

int graphs_run(const struct model_run *run, uint32_t place_idx, uint64_t memory)
{
	struct graphs *graphs = run->model->graphs;
	struct place *place;
	CUgraphExec exec;
	CUresult result;

	if (!graphs)
		return graphs_enqueue(run);
	place = &graphs->places[place_idx];
	if (place->memory != memory || place->stream != run->stream)
		graphs_forget(graphs, place_idx);
	place->memory = memory;
	place->stream = run->stream;
	place->instance = run->instance;
	exec = find(graphs, place, run);
	if (!exec)
		return graphs_enqueue(run);
	result = graphs->device->driver.graph_launch(exec, run->stream);
	if (is_good(graphs, result))
		return 0;
	turn_off(graphs, run, result);
	return graphs_enqueue(run);
}
