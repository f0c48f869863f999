/* SPDX-License-Identifier: Apache-2.0 */
/* pinned.c - pinned memory that changes under queued work, lists of moves that lie in it, and what goes while work is queued. */
#define _GNU_SOURCE 1
#include "broker/cuda/kernels.h"
#include "tests/fakecuda/cases.h"
#include <stdlib.h>
#include <string.h>

#define BYTES 4096u

struct work {
	CUstream stream, other;
	CUevent event;
	CUdeviceptr to, from;
	unsigned char *host, *results;
	struct inf_move *list; /* in pinned memory */
};

static struct work begin_work(void)
{
	struct work work;

	open_device();
	work.stream = new_stream();
	work.other = new_stream();
	work.event = new_event();
	work.to = new_memory(BYTES);
	work.from = new_memory(BYTES);
	work.host = new_pinned(BYTES);
	work.results = new_pinned(BYTES);
	work.list = new_pinned(BYTES);
	memset(work.host, 1, BYTES);
	memset(work.list, 0, BYTES);
	return work;
}

static CUresult launch_moves(CUstream stream, uint64_t list, uint64_t n)
{
	void *params[] = { &list, &n };

	return cu.launch(function_of("inf_move"), 1, 1, 1, 256, 1, 1, 0, stream, params, NULL);
}

static uint64_t address_of(const void *memory)
{
	return (uintptr_t)memory;
}

/* The host may write what nothing queued reads any more. */
static void list_that_stays(void)
{
	struct work work = begin_work();

	OK(cu.fill(work.from, 7, BYTES, work.stream));
	for (unsigned int i = 0; i < 4; i++) {
		work.list[0] = (struct inf_move){ work.to + i * 100, work.from + i, 100 };
		OK(launch_moves(work.stream, address_of(work.list), 1));
		OK(cu.stream_synchronize(work.stream));
	}
	OK(cu.copy_out(work.results, work.to, 400, work.stream));
	OK(cu.stream_synchronize(work.stream));
	CHECK(is_all(work.results, 7, 400));
	CLEAN();
}

/* What counts is what the list is when it runs, as on the real one; that it is another was a mistake. */
static void list_that_changes(void)
{
	struct work work = begin_work();

	OK(cu.fill(work.from, 7, BYTES, work.stream));
	OK(cu.fill(work.to, 0, BYTES, work.stream));
	work.list[0] = (struct inf_move){ work.to, work.from, 100 };
	fakecuda.hold(1);
	OK(launch_moves(work.stream, address_of(work.list), 1));
	CLEAN();
	work.list[0].to += 1000;
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.stream));
	CHECK(violations() == 2 && reported("the host has written [") == 1);
	CHECK(reported("inf_move: what it touches is not what it was") == 1);
	OK(cu.copy_out(work.results, work.to, BYTES, work.stream));
	OK(cu.stream_synchronize(work.stream));
	CHECK(is_all(work.results, 0, 1000) && is_all(work.results + 1000, 7, 100));
}

/* Judged by the new list as well. */
static void list_that_changes_into_a_race(void)
{
	struct work work = begin_work();

	OK(cu.fill(work.to + 1000, 3, 100, work.other));
	OK(cu.context_synchronize());
	work.list[0] = (struct inf_move){ work.to, work.from, 100 };
	fakecuda.hold(1);
	OK(cu.fill(work.to + 1000, 4, 100, work.other));
	OK(launch_moves(work.stream, address_of(work.list), 1));
	CLEAN();
	work.list[0].to += 1000;
	fakecuda.hold(0);
	OK(cu.context_synchronize());
	CHECK(violations() == 3 && reported("race: fill in stream") == 1);
}

static void list_that_changes_for_the_worse(void)
{
	struct work work = begin_work();

	work.list[0] = (struct inf_move){ work.to, work.from, 100 };
	fakecuda.hold(1);
	OK(launch_moves(work.stream, address_of(work.list), 1));
	work.list[0].to += BYTES - 50;
	fakecuda.hold(0);
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(work.stream));
	CHECK(reported("the host has written [") == 1 && reported("crosses the end") == 1);
}

/* A list that the device writes: read when it runs, and judged then. */
static void list_that_comes_with_the_stream(void)
{
	struct work work = begin_work();
	CUdeviceptr list = new_memory(sizeof(struct inf_move));

	OK(cu.fill(work.from, 7, BYTES, work.stream));
	work.list[0] = (struct inf_move){ work.to, work.from, BYTES };
	fakecuda.hold(1);
	OK(cu.copy_in(list, work.list, sizeof(work.list[0]), work.stream));
	OK(launch_moves(work.stream, list, 1));
	OK(cu.copy_out(work.results, work.to, BYTES, work.stream));
	for (unsigned int i = 0; i < 4; i++)
		OK(cu.fill(work.to, 0, BYTES, work.stream));
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.stream));
	CHECK(is_all(work.results, 7, BYTES));
	CLEAN();
	OK(cu.fill(work.to, 1, BYTES, work.other));
	fakecuda.hold(1);
	OK(cu.copy_in(list, work.list, sizeof(work.list[0]), work.stream));
	OK(launch_moves(work.stream, list, 1));
	fakecuda.hold(0);
	OK(cu.context_synchronize());
	CHECK(violations() == 1 && reported("race: fill in stream") == 1);
}

static void list_that_is_nowhere(void)
{
	struct work work = begin_work();

	OK(launch_moves(work.stream, 4096, 1));
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(work.stream));
	CHECK(reported("inf_move touches [0x1000") == 1);
}

static void list_past_its_end(void)
{
	struct work work = begin_work();

	OK(launch_moves(work.stream, address_of(work.list), BYTES / sizeof(struct inf_move) + 1));
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(work.stream));
	CHECK(reported("crosses the end") == 1);
}

/* Moves of one launch run at once. */
static void moves_that_meet(void)
{
	struct work work = begin_work();

	/* Side by side, and from the same place. */
	for (unsigned int i = 0; i < 4; i++)
		work.list[i] = (struct inf_move){ work.to + (3 - i) * 10, work.from, 10 };
	work.list[4] = (struct inf_move){ work.to, work.from, 0 };
	OK(launch_moves(work.stream, address_of(work.list), 5));
	OK(cu.stream_synchronize(work.stream));
	CLEAN();
#define MEETS(to_, from_)                                                                                             \
	do {                                                                                                          \
		OK(cu.stream_synchronize(work.stream));                                                               \
		work.list[1] = (struct inf_move){ to_, from_, 10 };                                                   \
		BAD(CUDA_SUCCESS, "is written by one part of the launch and touched by another",                      \
		    launch_moves(work.stream, address_of(work.list), 2));                                             \
	} while (0)
	work.list[0] = (struct inf_move){ work.to, work.from, 10 };
	MEETS(work.to, work.from);		     /* two to one place */
	MEETS(work.to + 9, work.from);		     /* the last byte of one and the first of the other */
	MEETS(work.from + 9, work.from + 100);	     /* one reads what the other writes */
	MEETS(work.to + 100, work.to);		     /* the same the other way */
	MEETS(work.to + 100, work.to + 105);	     /* over itself */
	MEETS(work.to + 100, work.to + 100);	     /* onto itself */
	MEETS(address_of(work.list) + 40, work.from); /* over the list */
	OK(cu.stream_synchronize(work.stream));
	CHECK(!reported("race"));
}

/* Others than inf_move: where each element depends on its own alone it may lie where it lay. */
static void kernels_in_place(void)
{
	struct work work = begin_work();
	CUdeviceptr a = work.to, b = work.from;
	uint64_t n = 100;
	void *sum_in_place[] = { &a, &b, &a, &b, &n }, *twice_there[] = { &a, &a, &b, &b, &n }, *reversed[] = { &a, &a, &n };

	OK(cu.fill(a, 0, BYTES, work.stream));
	OK(cu.fill(b, 0, BYTES, work.stream));
	OK(cu.launch(function_of("inf_add_sub"), 1, 1, 1, 256, 1, 1, 0, work.stream, sum_in_place, NULL));
	CLEAN();
	BAD(CUDA_SUCCESS, "written by one part",
	    cu.launch(function_of("inf_add_sub"), 1, 1, 1, 256, 1, 1, 0, work.stream, twice_there, NULL));
	BAD(CUDA_SUCCESS, "written by one part",
	    cu.launch(function_of("inf_reverse"), 1, 1, 1, 256, 1, 1, 0, work.stream, reversed, NULL));
	OK(cu.stream_synchronize(work.stream));
}

/* --- what the host writes ---------------------------------------------------------------------------------------------- */

static void written_under_a_copy(void)
{
	struct work work = begin_work();

	fakecuda.hold(1);
	OK(cu.copy_in(work.to, work.host + 1, 1000, work.stream));
	work.host[0] = work.host[1001] = 9; /* beside it */
	CLEAN();
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.stream));
	CLEAN();
	fakecuda.hold(1);
	OK(cu.copy_in(work.to, work.host, 1000, work.stream));
	work.host[999] = 9;
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.stream));
	CHECK(violations() == 1 && reported("copy in: the host has written [") == 1);
}

static void written_under_a_kernel(void)
{
	struct work work = begin_work();

	fakecuda.hold(1);
	OK(launch_copy(work.stream, work.to, address_of(work.host), 1001));
	work.host[1000] = 9; /* no whole word */
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.stream));
	CHECK(violations() == 1 && reported("kernel inf_copy: the host has written [") == 1);
}

/* Another process may have it mapped: what it does there is its own affair. */
static void written_where_registered(void)
{
	unsigned char *memory = aligned_alloc(4096, BYTES);
	struct work work = begin_work();

	memset(memory, 1, BYTES);
	OK(cu.host_register(memory, BYTES, 0));
	fakecuda.hold(1);
	OK(cu.copy_in(work.to, memory, BYTES, work.stream));
	memory[0] = 2;
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.stream));
	OK(cu.host_unregister(memory));
	free(memory);
	CLEAN();
}

/* The device itself fills it first. */
static void written_by_the_device(void)
{
	struct work work = begin_work();

	OK(cu.fill(work.from, 5, BYTES, work.stream));
	fakecuda.hold(1);
	OK(cu.copy_out(work.host, work.from, BYTES, work.stream));
	OK(cu.event_record(work.event, work.stream));
	OK(cu.stream_wait_event(work.other, work.event, 0));
	OK(cu.copy_in(work.to, work.host, BYTES, work.other));
	OK(cu.copy_out(work.results, work.to, BYTES, work.other));
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.other));
	CHECK(is_all(work.results, 5, BYTES));
	CLEAN();
}

/* The stream waits for the host to have written: in itself, and behind another one that does. */
static void written_before_a_value(void)
{
	struct work work = begin_work();
	uint64_t *word = new_pinned(8);

	*word = 0;
	OK(cu.stream_wait(work.stream, address_of(word), 1, CU_STREAM_WAIT_VALUE_GEQ));
	OK(cu.copy_in(work.to, work.host, BYTES, work.stream));
	OK(cu.event_record(work.event, work.stream));
	OK(cu.stream_wait_event(work.other, work.event, 0));
	OK(cu.copy_in(work.from, work.host, BYTES, work.other));
	memset(work.host, 2, BYTES);
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	OK(cu.context_synchronize());
	CLEAN();
	/* A wait in a stream that this one does not come after tells it nothing. */
	OK(cu.stream_wait(work.stream, address_of(word), 2, CU_STREAM_WAIT_VALUE_GEQ));
	fakecuda.hold(1);
	OK(cu.copy_in(work.from, work.host, BYTES, work.other));
	memset(work.host, 3, BYTES);
	__atomic_store_n(word, 2, __ATOMIC_SEQ_CST);
	fakecuda.hold(0);
	OK(cu.context_synchronize());
	CHECK(violations() == 1 && reported("the host has written [") == 1);
}

static void writes_host(void *data)
{
	memset(data, 4, BYTES);
}

static void written_by_a_host_function(void)
{
	struct work work = begin_work();

	fakecuda.hold(1);
	OK(cu.stream_call(work.stream, writes_host, work.host));
	OK(cu.copy_in(work.to, work.host, BYTES, work.stream));
	OK(cu.copy_out(work.results, work.to, BYTES, work.stream));
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.stream));
	CHECK(is_all(work.results, 4, BYTES));
	CLEAN();
}

/* --- what goes while work is queued -------------------------------------------------------------------------------------- */

/* By what the list says, not only by what the parameters say. */
static void freed_under_moves(void)
{
	struct work work = begin_work();

	work.list[0] = (struct inf_move){ work.to, work.from, 100 };
	OK(launch_spin(work.stream, 20000000));
	OK(launch_moves(work.stream, address_of(work.list), 1));
	BAD(CUDA_SUCCESS, "cuMemFree: [", cu.mem_free(work.from));
	OK(cu.stream_query(work.stream));
	OK(launch_spin(work.stream, 20000000));
	work.list[0].from = work.to + 200;
	OK(launch_moves(work.stream, address_of(work.list), 1));
	BAD(CUDA_SUCCESS, "cuMemFreeHost: [", cu.host_free(work.list));
	OK(cu.stream_query(work.stream));
}

static CUgraphExec captured_copy(struct work *work)
{
	CUgraphExec exec;
	CUgraph graph;

	OK(cu.capture_begin(work->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.copy_in(work->from, work->host, BYTES, work->stream));
	OK(launch_copy(work->stream, work->to, work->from, BYTES));
	OK(cu.capture_end(work->stream, &graph));
	OK(cu.graph_instantiate(&exec, graph, 0));
	OK(cu.graph_destroy(graph));
	return exec;
}

static void freed_under_a_graph(void)
{
	struct work work = begin_work();
	CUgraphExec exec = captured_copy(&work);

	/* An instance holds no memory: what is not queued may go. */
	OK(launch_spin(work.stream, 20000000));
	OK(cu.graph_launch(exec, work.stream));
	BAD(CUDA_SUCCESS, "cuMemFree: [", cu.mem_free(work.to));
	OK(cu.stream_query(work.stream));
}

/* A kernel in a graph is not looked at before it runs. */
static void freed_before_a_graph(void)
{
	struct work work = begin_work();
	CUgraphExec exec = captured_copy(&work);

	OK(cu.mem_free(work.to));
	OK(cu.graph_launch(exec, work.stream));
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(work.stream));
	CHECK(violations() == 1 && reported("inf_copy touches") == 1 && reported("not there any more") == 1);
}

static void pinned_freed_before_a_graph(void)
{
	struct work work = begin_work();
	CUgraphExec exec = captured_copy(&work);

	OK(cu.host_free(work.host));
	/* To the copy it is pageable memory now, if it is memory at all. */
	BAD(CUDA_ERROR_INVALID_VALUE, "not there any more", cu.graph_launch(exec, work.stream));
}

/* Streams, events and graphs may go: what is queued is done all the same. */
static void handles_that_go(void)
{
	struct work work = begin_work();
	CUgraphExec exec = captured_copy(&work);

	fakecuda.hold(1);
	OK(cu.graph_launch(exec, work.stream));
	OK(cu.event_record(work.event, work.stream));
	OK(cu.stream_wait_event(work.other, work.event, 0));
	OK(cu.copy_out(work.results, work.to, BYTES, work.other));
	OK(cu.event_destroy(work.event));
	OK(cu.graph_exec_destroy(exec));
	OK(cu.stream_destroy(work.stream));
	fakecuda.hold(0);
	OK(cu.stream_synchronize(work.other));
	CHECK(is_all(work.results, 1, BYTES) && !ledger_now().graph_execs && !ledger_now().events);
	CLEAN();
}

const struct test_case pinned_cases[] = {
	{ "moves: a list that stays", list_that_stays, { 0 } },
	{ "moves: a list that changes before it has run", list_that_changes, { 0 } },
	{ "moves: a list that changes into a race", list_that_changes_into_a_race, { 0 } },
	{ "moves: a list that changes for the worse", list_that_changes_for_the_worse, { 0 } },
	{ "moves: a list that comes with the stream", list_that_comes_with_the_stream, { 0 } },
	{ "moves: a list that is nowhere", list_that_is_nowhere, { 0 } },
	{ "moves: a list past its end", list_past_its_end, { 0 } },
	{ "moves: those of one launch that meet", moves_that_meet, { 0 } },
	{ "kernels in place", kernels_in_place, { 0 } },
	{ "pinned: written under a queued copy", written_under_a_copy, { 0 } },
	{ "pinned: written under a queued kernel", written_under_a_kernel, { 0 } },
	{ "pinned: registered memory is not judged", written_where_registered, { 0 } },
	{ "pinned: written by the device", written_by_the_device, { 0 } },
	{ "pinned: written before a value that the stream waits for", written_before_a_value, { 0 } },
	{ "pinned: written by a host function", written_by_a_host_function, { 0 } },
	{ "freed: memory that a list names", freed_under_moves, { 0 } },
	{ "freed: memory of a graph that runs", freed_under_a_graph, { 0 } },
	{ "freed: memory of a graph that is launched then", freed_before_a_graph, { 0 } },
	{ "freed: pinned memory of a graph that is launched then", pinned_freed_before_a_graph, { 0 } },
	{ "destroyed: a stream, an event and a graph with work", handles_that_go, { 0 } },
	{ NULL, NULL, { 0 } },
};
