/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph.c - capturing streams into graphs, and launching them.
 *
 * A capture is a list of operations in the order of their calls, which is an order that they may run in. Each knows its branch,
 * the stream that it came by. Events that are recorded and waited for inside become slots: a launch carries clocks from record to
 * wait through them, as between streams, so that an order that is missing between branches is found. The branches are not run
 * side by side.
 *
 * What may be called while somebody captures is as cuda.h has it of cuThreadExchangeStreamCaptureMode(), for threads in the mode
 * that they begin in: a capture in global mode forbids unsafe calls to every thread, one in thread-local mode to its own, a
 * relaxed one to none. Unsafe is what waits, asks an event or a stream, allocates, pins or frees; a call that is forbidden fails
 * and the capture is lost. To ask the captured stream itself is forbidden in each mode.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>
#include <string.h>

struct capture {
	struct capture *next;
	uint64_t id;
	CUstreamCaptureMode mode;
	pthread_t thread;
	struct context *context;
	bool is_broken;
	struct stream *streams[BRANCHES_MAX]; /* [0] is where it began */
	unsigned int n_branches;
	struct op *first, **last;
	struct op **slots; /* the record of each */
	unsigned int n_slots;
	uint64_t seen[BRANCHES_MAX][BRANCHES_MAX]; /* by each branch, how many operations of each */
	uint64_t n_ops[BRANCHES_MAX];
};

struct graph {
	struct object object;
	struct op *first;
	unsigned int n_branches, n_slots;
};

static struct capture *captures;
static uint64_t last_id;

/* --- what may not be ---------------------------------------------------------------------------------------------- */

static CUresult break_it(struct capture *capture, const char *what)
{
	if (capture->is_broken)
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	violation("%s while a stream is captured, which it ends", what);
	capture->is_broken = true;
	return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult capture_breaks(struct stream *stream, const char *what)
{
	return break_it(stream->capture, what);
}

CUresult capture_forbids(const struct context *context, const char *what)
{
	CUresult result = CUDA_SUCCESS;

	for (struct capture *capture = captures; capture; capture = capture->next) {
		bool is_ours = pthread_equal(capture->thread, pthread_self());

		if (capture->context != context || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED ||
		    (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && !is_ours))
			continue;
		break_it(capture, what);
		result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	}
	return result;
}

static struct capture *find(uint64_t id)
{
	struct capture *capture = captures;

	while (capture && capture->id != id)
		capture = capture->next;
	return capture;
}

bool capture_is_live(uint64_t id)
{
	return find(id);
}

void capture_breaks_by_event(const struct event *event, const char *what)
{
	break_it(find(event->capture_id), what);
}

/* --- capturing ------------------------------------------------------------------------------------------------------- */

CUresult capture_add(struct stream *stream, struct op *op)
{
	struct capture *capture = stream->capture;
	unsigned int branch = stream->branch;

	if (capture->is_broken) {
		op_free(op);
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	}
	op->branch = branch;
	capture->seen[branch][branch] = ++capture->n_ops[branch];
	memcpy(op->seen, capture->seen[branch], sizeof(op->seen));
	*capture->last = op;
	capture->last = &op->next;
	return CUDA_SUCCESS;
}

CUresult capture_record(struct stream *stream, struct event *event)
{
	struct capture *capture = stream->capture;
	struct op *op = op_new(OP_RECORD);
	CUresult result;

	op->slot = capture->n_slots;
	result = capture_add(stream, op);
	if (result)
		return result;
	capture->slots = realloc(capture->slots, (capture->n_slots + 1) * sizeof(capture->slots[0]));
	if (!capture->slots)
		abort();
	capture->slots[capture->n_slots++] = op;
	record_unref(event->last);
	event->last = NULL;
	event->capture_id = capture->id;
	event->slot = op->slot;
	return CUDA_SUCCESS;
}

static CUresult join(struct stream *stream, struct capture *capture)
{
	if (stream->capture == capture)
		return CUDA_SUCCESS;
	if (capture->is_broken)
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	if (stream->capture) {
		break_it(stream->capture, "a wait that would make one of two captures");
		break_it(capture, "a wait that would make one of two captures");
		return ERROR_CAPTURE_MERGE;
	}
	if (capture->context != stream->object.context || capture->n_branches == BRANCHES_MAX)
		return break_it(capture, "a wait that would join two contexts or too many streams");
	stream->capture = capture;
	stream->branch = capture->n_branches;
	capture->streams[capture->n_branches++] = stream;
	return CUDA_SUCCESS;
}

CUresult capture_wait(struct stream *stream, const struct event *event)
{
	struct capture *capture = find(event->capture_id);
	CUresult result = join(stream, capture);
	struct op *op;

	if (result)
		return result;
	for (unsigned int i = 0; i < BRANCHES_MAX; i++)
		if (capture->seen[stream->branch][i] < capture->slots[event->slot]->seen[i])
			capture->seen[stream->branch][i] = capture->slots[event->slot]->seen[i];
	op = op_new(OP_WAIT);
	op->slot = event->slot;
	return capture_add(stream, op);
}

CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode)
{
	struct capture *capture;
	struct stream *stream;
	CUresult result;

	BEGIN(cuStreamBeginCapture_v2, NEEDS_CONTEXT);
	stream = stream_get(handle, context, "cuStreamBeginCapture", &result);
	if (!stream)
		return call_end(result);
	if (stream->capture)
		return call_end(capture_breaks(stream, "cuStreamBeginCapture"));
	if ((unsigned int)mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	if (stream->is_default) {
		violation("cuStreamBeginCapture: of the default stream");
		return call_end(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	}
	capture = calloc(1, sizeof(*capture));
	if (!capture)
		abort();
	capture->id = ++last_id;
	capture->mode = mode;
	capture->thread = pthread_self();
	capture->context = context;
	capture->last = &capture->first;
	capture->streams[0] = stream;
	capture->n_branches = 1;
	capture->next = captures;
	captures = capture;
	stream->capture = capture;
	stream->branch = 0;
	return call_end(CUDA_SUCCESS);
}

/* Those that the last operation of the first branch does not come after, in the end. */
static bool has_loose_branch(const struct capture *capture)
{
	for (unsigned int i = 1; i < capture->n_branches; i++)
		if (capture->seen[0][i] < capture->n_ops[i])
			return true;
	return false;
}

static void capture_free(struct capture *capture)
{
	struct capture **at = &captures;

	for (unsigned int i = 0; i < capture->n_branches; i++)
		capture->streams[i]->capture = NULL;
	while (*at != capture)
		at = &(*at)->next;
	*at = capture->next;
	ops_free(capture->first);
	free(capture->slots);
	free(capture);
}

static CUresult end_capture(struct capture *capture, CUgraph *ret)
{
	struct graph *graph;

	if (capture->is_broken)
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	if (has_loose_branch(capture)) {
		violation("cuStreamEndCapture: a stream that was forked off has not been joined");
		return ERROR_CAPTURE_UNJOINED;
	}
	graph = calloc(1, sizeof(*graph));
	if (!graph)
		abort();
	graph->first = capture->first;
	graph->n_branches = capture->n_branches;
	graph->n_slots = capture->n_slots;
	capture->first = NULL;
	object_add(&graph->object, KIND_GRAPH, capture->context);
	ledger->graphs++;
	*ret = (CUgraph)(uintptr_t)graph->object.handle;
	return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph)
{
	struct capture *capture;
	struct stream *stream;
	CUresult result;

	BEGIN(cuStreamEndCapture, NEEDS_CONTEXT);
	stream = stream_get(handle, context, "cuStreamEndCapture", &result);
	if (!stream)
		return call_end(result);
	capture = stream->capture;
	if (!capture || !graph) {
		violation("cuStreamEndCapture: the stream is not captured");
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	if (stream->branch) {
		violation("cuStreamEndCapture: it began on another stream");
		capture->is_broken = true;
		return call_end(ERROR_CAPTURE_UNMATCHED);
	}
	if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self())) {
		violation("cuStreamEndCapture: it began on another thread");
		return call_end(ERROR_CAPTURE_WRONG_THREAD);
	}
	*graph = NULL;
	result = end_capture(capture, graph);
	capture_free(capture);
	return call_end(result);
}

/* --- graphs ------------------------------------------------------------------------------------------------------------- */

/* Of captured ones, which hold nothing but what they touch. */
static struct op *copies_of(const struct op *first)
{
	struct op *copies = NULL, **last = &copies;

	for (const struct op *op = first; op; op = op->next) {
		struct op *copy = op_new(op->kind);

		*copy = *op;
		copy->next = NULL;
		copy->touches = NULL;
		copy->n_touches = 0;
		for (unsigned int i = 0; i < op->n_touches; i++)
			op_touch(copy, op->touches[i].address, op->touches[i].bytes, op->touches[i].is_written);
		*last = copy;
		last = &copy->next;
	}
	return copies;
}

static void exec_free(struct exec *exec)
{
	for (unsigned int i = 1; i < exec->n_branches; i++)
		if (exec->entities[i])
			entity_end(exec->entities[i], &exec->clocks[i]);
	record_unref(exec->last);
	ops_free(exec->first);
	free(exec->slots);
	free(exec);
}

void exec_unref(struct exec *exec)
{
	if (!--exec->n_refs)
		exec_free(exec);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *ret, CUgraph handle, unsigned long long flags)
{
	struct graph *graph;
	struct exec *exec;

	BEGIN(cuGraphInstantiateWithFlags, NEEDS_CONTEXT);
	graph = object_get(KIND_GRAPH, (uintptr_t)handle, "cuGraphInstantiate");
	if (!graph)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	if (flags || !ret)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	exec = calloc(1, sizeof(*exec));
	if (!exec)
		abort();
	exec->n_refs = 1;
	exec->n_branches = graph->n_branches;
	exec->n_slots = graph->n_slots;
	exec->slots = calloc(graph->n_slots + 1u, sizeof(exec->slots[0]));
	if (!exec->slots)
		abort();
	for (unsigned int i = 1; i < exec->n_branches; i++) {
		exec->entities[i] = entity_new(&exec->clocks[i]);
		if (!exec->entities[i]) {
			exec_free(exec);
			return call_end(CUDA_ERROR_OUT_OF_MEMORY);
		}
	}
	exec->first = copies_of(graph->first);
	object_add(&exec->object, KIND_EXEC, context);
	ledger->graph_execs++;
	*ret = (CUgraphExec)(uintptr_t)exec->object.handle;
	return call_end(CUDA_SUCCESS);
}

void exec_run(struct stream *stream, const struct op *launch)
{
	struct exec *exec = launch->exec;

	for (unsigned int i = 1; i < exec->n_branches; i++) {
		uint64_t stamp = exec->clocks[i].at[exec->entities[i]];

		/* What a branch knew the last time is no order this time; what it counts goes on. */
		exec->clocks[i] = (struct clock){ 0 };
		exec->clocks[i].at[exec->entities[i]] = stamp;
	}
	for (struct op *op = launch->nodes; op && !stream->object.context->error; op = op->next) {
		struct clock *clock = op->branch ? &exec->clocks[op->branch] : &stream->clock;

		if (op->kind == OP_RECORD)
			exec->slots[op->slot] = *clock;
		else if (op->kind == OP_WAIT)
			clock_join(clock, &exec->slots[op->slot]);
		else
			engine_run_node(stream, op, clock, op->branch ? exec->entities[op->branch] : stream->entity);
	}
}

/* Also after all earlier launches of it, whatever stream they were in. */
static void put_graph(struct stream *stream, struct exec *exec)
{
	struct pending_fault fault = pending_fault;
	struct op *op;

	pending_fault = (struct pending_fault){ 0 };
	if (exec->last) {
		op = op_new(OP_WAIT);
		op->record = exec->last;
		stream_put(stream, op);
	}
	op = op_new(OP_GRAPH);
	op->exec = exec;
	exec->n_refs++;
	op->nodes = copies_of(exec->first);
	/* What kernels find in memory is what is there now. */
	for (struct op *node = op->nodes; node; node = node->next)
		op_queued(node, op->nodes, stream);
	for (const struct op *node = op->nodes; node; node = node->next)
		for (unsigned int i = 0; i < node->n_touches; i++)
			op_touch(op, node->touches[i].address, node->touches[i].bytes, node->touches[i].is_written);
	pending_fault = fault;
	stream_put(stream, op);
	exec->last = stream_mark(stream);
	ledger->graph_launches++;
}

CUresult cuGraphLaunch(CUgraphExec handle, CUstream stream_handle)
{
	CUresult result = CUDA_SUCCESS;
	struct stream *stream;
	struct exec *exec;

	BEGIN(cuGraphLaunch, NEEDS_CONTEXT | IS_QUEUED);
	exec = object_get(KIND_EXEC, (uintptr_t)handle, "cuGraphLaunch");
	if (!exec)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	stream = stream_get(stream_handle, context, "cuGraphLaunch", &result);
	if (!stream)
		return call_end(result);
	/* The real one makes it a child graph. */
	if (stream->capture)
		return call_end(capture_breaks(stream, "cuGraphLaunch"));
	if (exec->object.context != context) {
		violation("cuGraphLaunch: it belongs to another context");
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	result = CUDA_SUCCESS;
	/* Kernels are checked as they run. */
	for (const struct op *op = exec->first; op && !result; op = op->next)
		if (!op->kernel)
			result = op_check(op, context);
	if (!result)
		put_graph(stream, exec);
	return call_end(result);
}

void exec_end(struct exec *exec)
{
	object_remove(&exec->object);
	ledger->graph_execs--;
	exec_unref(exec);
}

CUresult cuGraphExecDestroy(CUgraphExec handle)
{
	struct exec *exec;

	BEGIN(cuGraphExecDestroy, NEEDS_CONTEXT);
	exec = object_get(KIND_EXEC, (uintptr_t)handle, "cuGraphExecDestroy");
	if (!exec)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	exec_end(exec);
	return call_end(CUDA_SUCCESS);
}

void graph_end(struct object *object)
{
	struct graph *graph = (struct graph *)object;

	object_remove(object);
	ops_free(graph->first);
	free(graph);
	ledger->graphs--;
}

CUresult cuGraphDestroy(CUgraph handle)
{
	struct object *graph;

	BEGIN(cuGraphDestroy, NEEDS_CONTEXT);
	graph = object_get(KIND_GRAPH, (uintptr_t)handle, "cuGraphDestroy");
	if (!graph)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	graph_end(graph);
	return call_end(CUDA_SUCCESS);
}
