/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capture.c - what may be done while streams are captured and what ends a capture, and graphs that are launched again and again.
 */
#define _GNU_SOURCE 1
#include "broker/cuda/kernels.h"
#include "tests/fakecuda/cases.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROW  256u
#define ROWS 4u

static const CUstreamCaptureMode all_modes[] = { CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
						 CU_STREAM_CAPTURE_MODE_RELAXED };

/* --- other threads ----------------------------------------------------------------------------------------------------- */

static CUstream others;
static CUevent recorded; /* there, outside of any capture */
static CUdeviceptr place;

static CUresult asks_an_event(void)
{
	return cu.event_query(recorded);
}

static CUresult waits_for_a_stream(void)
{
	return cu.stream_synchronize(others);
}

static CUresult allocates(void)
{
	CUdeviceptr memory;

	return cu.mem_alloc(&memory, 16);
}

static CUresult pins(void)
{
	void *memory;

	return cu.host_alloc(&memory, 16);
}

static CUresult (*const unsafe[])(void) = { asks_an_event, waits_for_a_stream, allocates, pins };
static CUresult (*now)(void);
static CUresult answer;

static void *on_a_thread(void *unused)
{
	(void)unused;
	OK(cu.context_set(context));
	answer = now();
	return NULL;
}

static CUresult elsewhere(CUresult (*call)(void))
{
	pthread_t thread;

	now = call;
	pthread_create(&thread, NULL, on_a_thread, NULL);
	pthread_join(thread, NULL);
	return answer;
}

static CUstream begin_two(void)
{
	open_device();
	others = new_stream();
	recorded = new_event();
	place = new_memory(ROW);
	OK(cu.event_record(recorded, others));
	OK(cu.event_synchronize(recorded));
	return new_stream();
}

/* Somebody else's unsafe call ends a capture that is everybody's affair, and no other. */
static void unsafe_elsewhere(void)
{
	CUstream stream = begin_two();
	CUgraph graph;

	for (unsigned int m = 0; m < 3; m++)
		for (unsigned int i = 0; i < sizeof(unsafe) / sizeof(unsafe[0]); i++) {
			bool is_global = all_modes[m] == CU_STREAM_CAPTURE_MODE_GLOBAL;
			uint64_t before = violations();

			OK(cu.capture_begin(stream, all_modes[m]));
			OK(cu.fill(place, 1, ROW, stream));
			GIVES(is_global ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS, elsewhere(unsafe[i]));
			CHECK(violations() == before + is_global);
			GIVES(is_global ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS, cu.fill(place, 1, ROW, stream));
			GIVES(is_global ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS, cu.capture_end(stream, &graph));
			CHECK(!graph == is_global);
			if (graph)
				OK(cu.graph_destroy(graph));
		}
	CHECK(!ledger_now().graphs);
}

/* One's own ends it in two of the modes; in the third it is one's own risk. */
static void unsafe_here(void)
{
	CUstream stream = begin_two();
	CUgraph graph;

	for (unsigned int m = 0; m < 3; m++)
		for (unsigned int i = 0; i < sizeof(unsafe) / sizeof(unsafe[0]); i++) {
			bool is_relaxed = all_modes[m] == CU_STREAM_CAPTURE_MODE_RELAXED;

			OK(cu.capture_begin(stream, all_modes[m]));
			GIVES(is_relaxed ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, unsafe[i]());
			GIVES(is_relaxed ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(stream, &graph));
			if (graph)
				OK(cu.graph_destroy(graph));
		}
	/* It is over: everything may be done again. */
	for (unsigned int i = 0; i < sizeof(unsafe) / sizeof(unsafe[0]); i++)
		OK(unsafe[i]());
	CHECK(violations() == 8);
}

static CUstream captured;

static CUresult waits_for_the_captured(void)
{
	return cu.stream_synchronize(captured);
}

static CUresult asks_the_captured(void)
{
	return cu.stream_query(captured);
}

/* The stream itself can be asked by nobody, in no mode: nothing of it is on its way. */
static void asking_the_captured(void)
{
	CUresult (*const asks[])(void) = { waits_for_the_captured, asks_the_captured };
	CUgraph graph;

	captured = begin_two();
	for (unsigned int m = 0; m < 3; m++)
		for (unsigned int i = 0; i < 4; i++) {
			OK(cu.capture_begin(captured, all_modes[m]));
			BAD(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "while a stream is captured, which it ends",
			    i & 2 ? elsewhere(asks[i & 1]) : asks[i & 1]());
			CHECK(i & 2 ? elsewhere(asks[i & 1]) : asks[i & 1]());
			GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(captured, &graph));
			OK(asks[i & 1]());
		}
}

/* Work may be put there by any thread. */
static CUresult fills_the_captured(void)
{
	return cu.fill(place, 3, ROW, captured);
}

static void captured_by_two_threads(void)
{
	unsigned char *results;
	CUgraphExec exec;

	captured = begin_two();
	results = new_pinned(ROW);
	OK(cu.capture_begin(captured, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(elsewhere(fills_the_captured));
	OK(cu.copy_out(results, place, ROW, captured));
	exec = exec_of(captured);
	OK(cu.graph_launch(exec, others));
	OK(cu.stream_synchronize(others));
	CHECK(is_all(results, 3, ROW));
	CLEAN();
}

/* --- what ends a capture --------------------------------------------------------------------------------------------------- */

/* Two streams of one capture: it is lost to both, and to the event between them, until it is ended. */
static void lost_to_all(void)
{
	CUstream stream = begin_two(), branch = new_stream();
	CUevent forked = new_event();
	void *params[] = { &(uint64_t){ 0 } };
	CUgraph graph;

	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.event_record(forked, stream));
	OK(cu.stream_wait_event(branch, forked, 0));
	BAD(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "ends", cu.stream_query(branch));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.fill(place, 1, ROW, stream));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.fill(place, 1, ROW, branch));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
	      cu.launch(function_of("inf_spin"), 1, 1, 1, 1, 1, 1, 0, branch, params, NULL));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.event_record(forked, branch));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.stream_wait_event(stream, forked, 0));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.stream_wait_event(others, forked, 0));
	CHECK(cu.stream_synchronize(stream));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(stream, &graph));
	CHECK(!graph && violations() == 1);
	OK(cu.fill(place, 1, ROW, stream));
	OK(cu.stream_synchronize(stream));
	OK(cu.stream_synchronize(branch));
	OK(cu.event_record(forked, branch));
	OK(cu.event_synchronize(forked));
	CHECK(violations() == 1);
}

static void two_captures(void)
{
	CUstream stream = begin_two(), second = new_stream();
	CUevent event = new_event();
	CUgraph graph;

	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.capture_begin(second, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.fill(place, 1, ROW, stream));
	OK(cu.event_record(event, stream));
	GIVES((CUresult)902, cu.stream_wait_event(second, event, 0));
	CHECK(reported("would make one of two captures") == 2);
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(stream, &graph));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(second, &graph));
	/* Side by side, and each for itself, two are fine. */
	forget_report();
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.capture_begin(second, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.fill(place, 1, ROW, stream));
	OK(cu.capture_end(stream, &graph));
	OK(cu.fill(place, 1, ROW, second));
	OK(cu.capture_end(second, &graph));
	CHECK(ledger_now().graphs == 2 && violations() == 2);
}

static void forks(void)
{
	CUstream stream = begin_two(), branch = new_stream();
	CUevent forked = new_event(), joined = new_event();
	CUgraph graph;

	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.event_record(forked, stream));
	OK(cu.stream_wait_event(branch, forked, 0));
	OK(cu.event_record(joined, branch));
	OK(cu.stream_wait_event(stream, joined, 0));
	/* Once more, behind the join. */
	OK(cu.fill(place, 1, ROW, branch));
	BAD((CUresult)904, "not been joined", cu.capture_end(stream, &graph));
	CHECK(!graph);
	/* It must end where it began. */
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.event_record(forked, stream));
	OK(cu.stream_wait_event(branch, forked, 0));
	BAD((CUresult)903, "another stream", cu.capture_end(branch, &graph));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(stream, &graph));
}

/* An event of a capture is nobody's to ask, until it is recorded elsewhere. */
static void events_of_captures(void)
{
	CUstream stream = begin_two();
	CUevent event = new_event();
	CUgraph graph;

	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.event_record(event, stream));
	OK(cu.capture_end(stream, &graph));
	BAD((CUresult)907, "which is over", cu.event_query(event));
	BAD((CUresult)907, "which is over", cu.event_synchronize(event));
	BAD((CUresult)907, "which is over", cu.stream_wait_event(others, event, 0));
	OK(cu.event_record(event, others));
	OK(cu.event_synchronize(event));
	OK(cu.stream_wait_event(stream, event, 0));
}

/* What is refused in a capture, allocating apart. */
static void refused(void)
{
	unsigned char *memory = aligned_alloc(4096, 4096), *pinned;
	CUstream stream = begin_two();
	CUdeviceptr more = new_memory(ROW);
	CUgraphExec exec;
	CUgraph graph;

	pinned = new_pinned(ROW);
	memset(memory, 0, 4096);
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	exec = exec_of(stream);
#define REFUSED(call)                                                                         \
	do {                                                                                  \
		OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));            \
		BAD(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "ends", call);                     \
		GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(stream, &graph)); \
	} while (0)
	REFUSED(cu.stream_write(stream, place, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
	REFUSED(cu.stream_wait(stream, place, 1, CU_STREAM_WAIT_VALUE_GEQ));
	REFUSED(cu.graph_launch(exec, stream));
	REFUSED(cu.mem_free(more));
	REFUSED(cu.host_free(pinned));
	REFUSED(cu.host_register(memory, 4096, 0));
	REFUSED(cu.copy_out(memory, place, ROW, stream));
	REFUSED(cu.context_synchronize());
	/* What is captured does not depend on these. */
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.stream_write(others, place, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
	OK(cu.fill(more, 1, ROW, others));
	OK(cu.graph_launch(exec, others));
	OK(cu.event_destroy(new_event()));
	OK(cu.stream_destroy(new_stream()));
	OK(cu.capture_end(stream, &graph));
	free(memory);
	CHECK(violations() == 8);
}

static void of_the_default_stream(void)
{
	open_device();
	BAD(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "default stream", cu.capture_begin(NULL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
}

/* --- launched again and again ----------------------------------------------------------------------------------------------- */

/* As an executor has it: rows are gathered by a list, computed, and scattered by another, all in pinned memory. */
struct pipeline {
	CUstream stream, branch;
	CUdeviceptr in, out, rows;
	unsigned char *host, *results;
	struct inf_move *gather, *scatter;
	CUgraphExec exec;
	unsigned int n_called;
};

static void one_more(void *data)
{
	__atomic_fetch_add((unsigned int *)data, 1, __ATOMIC_SEQ_CST);
}

static CUresult move_rows(CUstream stream, const struct inf_move *list)
{
	uint64_t at = (uintptr_t)list, n = ROWS;
	void *params[] = { &at, &n };

	return cu.launch(function_of("inf_move"), 1, ROWS, 1, 256, 1, 1, 0, stream, params, NULL);
}

/* The lists are not there yet when they are captured. */
static void build(struct pipeline *pipeline)
{
	CUevent forked, joined;

	open_device();
	*pipeline = (struct pipeline){ .stream = new_stream(), .branch = new_stream() };
	forked = new_event();
	joined = new_event();
	pipeline->in = new_memory(ROWS * ROW);
	pipeline->out = new_memory(ROWS * ROW);
	pipeline->rows = new_memory(4 * ROWS * ROW);
	pipeline->host = new_pinned(ROW);
	pipeline->results = new_pinned(ROW);
	pipeline->gather = new_pinned(ROWS * sizeof(struct inf_move));
	pipeline->scatter = new_pinned(ROWS * sizeof(struct inf_move));
	OK(cu.capture_begin(pipeline->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.copy_in(pipeline->rows, pipeline->host, ROW, pipeline->stream));
	OK(move_rows(pipeline->stream, pipeline->gather));
	OK(launch_copy(pipeline->stream, pipeline->out, pipeline->in, ROWS * ROW));
	/* Results leave by a branch of their own while they are scattered. */
	OK(cu.event_record(forked, pipeline->stream));
	OK(cu.stream_wait_event(pipeline->branch, forked, 0));
	OK(cu.copy_out(pipeline->results, pipeline->out, ROW, pipeline->branch));
	OK(cu.event_record(joined, pipeline->branch));
	OK(move_rows(pipeline->stream, pipeline->scatter));
	OK(cu.stream_wait_event(pipeline->stream, joined, 0));
	OK(cu.stream_call(pipeline->stream, one_more, &pipeline->n_called));
	pipeline->exec = exec_of(pipeline->stream);
}

/* Rows from `row` on, all of them the first one, to where nothing else is. */
static void fill_lists(struct pipeline *pipeline, unsigned int row)
{
	memset(pipeline->host, (int)row + 1, ROW);
	for (unsigned int i = 0; i < ROWS; i++) {
		pipeline->gather[i] = (struct inf_move){ pipeline->in + i * ROW, pipeline->rows, ROW };
		pipeline->scatter[i] = (struct inf_move){ pipeline->rows + (row + i + 1) * ROW, pipeline->out + i * ROW, ROW };
	}
}

static void replays(void)
{
	struct pipeline pipeline;
	CUstream other;

	build(&pipeline);
	other = new_stream();
	for (unsigned int i = 0; i < 8; i++) {
		CUstream stream = i & 1 ? other : pipeline.stream;
		unsigned char row[ROW];

		fill_lists(&pipeline, i);
		OK(cu.graph_launch(pipeline.exec, stream));
		OK(cu.stream_synchronize(stream));
		CHECK(is_all(pipeline.results, (unsigned char)(i + 1), ROW) && pipeline.n_called == i + 1);
		OK(cu.copy_out(row, pipeline.rows + (i + ROWS) * ROW, ROW, stream));
		CHECK(is_all(row, (unsigned char)(i + 1), ROW));
	}
	CHECK(ledger_now().graph_launches == 8);
	CLEAN();
}

/* The next batch's list over that of one that has yet to run. */
static void list_of_the_next_launch(void)
{
	struct pipeline pipeline;

	build(&pipeline);
	fill_lists(&pipeline, 0);
	fakecuda.hold(1);
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	CLEAN();
	pipeline.gather[1].from += ROW;
	fakecuda.hold(0);
	OK(cu.stream_synchronize(pipeline.stream));
	CHECK(reported("the host has written [") == 1 && reported("inf_move: what it touches is not what it was") == 1);
}

/* Its input over that of one that has yet to run. */
static void input_of_the_next_launch(void)
{
	struct pipeline pipeline;

	build(&pipeline);
	fill_lists(&pipeline, 0);
	fakecuda.hold(1);
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	pipeline.host[0] = 99;
	fakecuda.hold(0);
	OK(cu.stream_synchronize(pipeline.stream));
	CHECK(violations() == 1 && reported("copy in: the host has written [") == 1);
}

/* Only by what the second launch's list says do two branches meet: each launch is judged by itself. */
static void branches_that_meet_once(void)
{
	struct pipeline pipeline;

	build(&pipeline);
	fill_lists(&pipeline, 0);
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	OK(cu.stream_synchronize(pipeline.stream));
	CLEAN();
	/* Over what the branch copies out. */
	pipeline.scatter[0] = (struct inf_move){ pipeline.out, pipeline.rows, ROW };
	pipeline.scatter[1].from = pipeline.out + ROW;
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	OK(cu.stream_synchronize(pipeline.stream));
	CHECK(violations() == 1 && reported("race: copy out in stream") == 1);
	fill_lists(&pipeline, 0);
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	OK(cu.stream_synchronize(pipeline.stream));
	CHECK(violations() == 1);
}

/* An order of an earlier launch is none of a later one. */
static void order_of_one_launch(void)
{
	struct pipeline pipeline;
	CUstream other;
	CUevent event;

	build(&pipeline);
	other = new_stream();
	event = new_event();
	fill_lists(&pipeline, 0);
	OK(cu.fill(pipeline.in, 1, ROW, other));
	OK(cu.event_record(event, other));
	OK(cu.stream_wait_event(pipeline.stream, event, 0));
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	OK(cu.stream_synchronize(pipeline.stream));
	CLEAN();
	fakecuda.hold(1);
	OK(cu.fill(pipeline.in, 1, ROW, other));
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	fakecuda.hold(0);
	OK(cu.context_synchronize());
	CHECK(violations() && reported("race: ") == violations());
}

/* Launches of one instance come one after the other, on whatever streams; nothing else does. */
static void on_two_streams(void)
{
	struct pipeline pipeline;
	CUstream other;

	build(&pipeline);
	other = new_stream();
	fill_lists(&pipeline, 0);
	fakecuda.hold(1);
	for (int i = 0; i < 4; i++)
		OK(cu.graph_launch(pipeline.exec, i & 1 ? other : pipeline.stream));
	fakecuda.hold(0);
	OK(cu.context_synchronize());
	CHECK(pipeline.n_called == 4);
	CLEAN();
}

static void two_instances(void)
{
	CUgraphExec execs[2];
	CUstream stream, other;
	CUgraph graph;

	stream = begin_two();
	other = new_stream();
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.fill(place, 1, ROW, stream));
	OK(cu.capture_end(stream, &graph));
	for (int i = 0; i < 2; i++)
		OK(cu.graph_instantiate(&execs[i], graph, 0));
	/* In one stream they are as ordered as anything there. */
	for (int i = 0; i < 4; i++)
		OK(cu.graph_launch(execs[i & 1], stream));
	OK(cu.context_synchronize());
	CLEAN();
	fakecuda.hold(1);
	OK(cu.graph_launch(execs[0], stream));
	OK(cu.graph_launch(execs[1], other));
	fakecuda.hold(0);
	OK(cu.context_synchronize());
	CHECK(violations() == 1 && reported("race: fill in stream") == 1);
}

/* The streams and events that it was captured by may go. */
static void without_its_streams(void)
{
	struct pipeline pipeline;
	CUstream other;

	build(&pipeline);
	other = new_stream();
	fill_lists(&pipeline, 0);
	OK(cu.stream_destroy(pipeline.stream));
	OK(cu.stream_destroy(pipeline.branch));
	OK(cu.graph_launch(pipeline.exec, other));
	OK(cu.stream_synchronize(other));
	CHECK(is_all(pipeline.results, 1, ROW));
	CLEAN();
}

/* A host function in a graph may write what a later part of it reads. */
static void writes_row(void *data)
{
	memset(data, 8, ROW);
}

static void host_function_that_writes(void)
{
	unsigned char *host, *results;
	CUgraphExec exec;
	CUstream stream;

	stream = begin_two();
	host = new_pinned(ROW);
	results = new_pinned(ROW);
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.stream_call(stream, writes_row, host));
	OK(cu.copy_in(place, host, ROW, stream));
	OK(cu.copy_out(results, place, ROW, stream));
	exec = exec_of(stream);
	for (int i = 0; i < 3; i++) {
		memset(host, 0, ROW);
		OK(cu.graph_launch(exec, stream));
		OK(cu.stream_synchronize(stream));
		CHECK(is_all(results, 8, ROW));
	}
	CLEAN();
}

/* And so may an earlier part of the graph itself. */
static void device_that_writes(void)
{
	unsigned char *host, *results;
	CUgraphExec exec;
	CUstream stream;

	stream = begin_two();
	host = new_pinned(ROW);
	results = new_pinned(ROW);
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.fill(place, 6, ROW, stream));
	OK(cu.copy_out(host, place, ROW, stream));
	OK(cu.fill(place, 0, ROW, stream));
	OK(cu.copy_in(place, host, ROW, stream));
	OK(cu.copy_out(results, place, ROW, stream));
	exec = exec_of(stream);
	for (int i = 0; i < 3; i++) {
		memset(host, i, ROW);
		OK(cu.graph_launch(exec, stream));
		OK(cu.stream_synchronize(stream));
		CHECK(is_all(results, 6, ROW));
	}
	CLEAN();
}

static void fails(void *data)
{
	*(CUresult *)data = cu.stream_query(others);
}

static void host_function_that_calls(void)
{
	CUstream stream = begin_two();
	CUresult inside = CUDA_SUCCESS;
	CUgraphExec exec;

	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.stream_call(stream, fails, &inside));
	exec = exec_of(stream);
	CLEAN();
	OK(cu.graph_launch(exec, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(inside == CUDA_ERROR_NOT_PERMITTED && reported("inside a host function") == 1);
}

/* A graph that fails takes the context along, and what it would have told. */
static void fails_in_a_launch(void)
{
	struct pipeline pipeline;

	build(&pipeline);
	fill_lists(&pipeline, 0);
	CHECK(!fakecuda.fault("cuGraphLaunch", 0, FAKECUDA_LATE(CUDA_ERROR_LAUNCH_FAILED)));
	OK(cu.graph_launch(pipeline.exec, pipeline.stream));
	GIVES(CUDA_ERROR_LAUNCH_FAILED, cu.stream_synchronize(pipeline.stream));
	GIVES(CUDA_ERROR_LAUNCH_FAILED, cu.graph_launch(pipeline.exec, pipeline.stream));
	CHECK(!pipeline.n_called);
	CLEAN();
}

const struct test_case capture_cases[] = {
	{ "capture: unsafe calls of other threads", unsafe_elsewhere, { 0 } },
	{ "capture: unsafe calls of its own thread", unsafe_here, { 0 } },
	{ "capture: nobody asks the stream itself", asking_the_captured, { 0 } },
	{ "capture: by two threads", captured_by_two_threads, { 0 } },
	{ "capture: lost to all its streams", lost_to_all, { 0 } },
	{ "capture: two that would be one", two_captures, { 0 } },
	{ "capture: forks that are not joined", forks, { 0 } },
	{ "capture: its events", events_of_captures, { 0 } },
	{ "capture: what is refused", refused, { 0 } },
	{ "capture: not of the default stream", of_the_default_stream, { "FAKECUDA_DEFAULT_STREAM=1" } },
	{ "replays: other lists and contents each time", replays, { "FAKECUDA_JITTER_US=300" } },
	{ "replays: a list that is the next launch's", list_of_the_next_launch, { 0 } },
	{ "replays: an input that is the next launch's", input_of_the_next_launch, { 0 } },
	{ "replays: branches that meet in one of them", branches_that_meet_once, { 0 } },
	{ "replays: an order that an earlier one had", order_of_one_launch, { 0 } },
	{ "replays: one instance on two streams", on_two_streams, { "FAKECUDA_JITTER_US=300" } },
	{ "replays: two instances on two streams", two_instances, { 0 } },
	{ "replays: without the streams of the capture", without_its_streams, { 0 } },
	{ "replays: a host function that writes", host_function_that_writes, { 0 } },
	{ "replays: pinned memory that the device writes", device_that_writes, { 0 } },
	{ "replays: a host function that calls the driver", host_function_that_calls, { 0 } },
	{ "replays: one that fails", fails_in_a_launch, { 0 } },
	{ NULL, NULL, { 0 } },
};
