/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c - the race detector: programs with an order that is missing, which it must find whatever the timing is, and the same
 * programs with that order, in which it must find nothing. Each runs several times under jitter, with another seed each time.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/cases.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEEDS 4
#define BYTES 4096u

static CUstream a, b;
static CUevent event, second;
static CUdeviceptr x, y;
static unsigned char *host, *other;

static void begin(void)
{
	open_device();
	a = new_stream();
	b = new_stream();
	event = new_event();
	second = new_event();
	x = new_memory(BYTES);
	y = new_memory(BYTES);
	host = new_pinned(BYTES);
	other = new_pinned(BYTES);
}

static void wait_for(CUstream waits, CUevent what)
{
	OK(cu.stream_wait_event(waits, what, 0));
}

static void end(void)
{
	OK(cu.context_synchronize());
}

/* --- pairs: with the order (true) and without ------------------------------------------------------------------------ */

/* A kernel reads what a copy in another stream brings. */
static void copy_then_kernel(bool is_right)
{
	OK(cu.copy_in(x, host, BYTES, a));
	OK(cu.event_record(event, a));
	if (is_right)
		wait_for(b, event);
	OK(launch_copy(b, y, x, BYTES));
}

/* The event is there, and is recorded too early. */
static void record_too_early(bool is_right)
{
	if (!is_right)
		OK(cu.event_record(event, a));
	OK(cu.copy_in(x, host, BYTES, a));
	if (is_right)
		OK(cu.event_record(event, a));
	wait_for(b, event);
	OK(launch_copy(b, y, x, BYTES));
}

/* The next batch is copied in while the last one may still be read. */
static void reuse(bool is_right)
{
	OK(cu.copy_in(x, host, BYTES, a));
	OK(cu.event_record(event, a));
	wait_for(b, event);
	OK(launch_copy(b, y, x, BYTES));
	OK(cu.event_record(second, b));
	if (is_right)
		wait_for(a, second);
	OK(cu.copy_in(x, other, BYTES, a));
}

/* Only the last byte of one and the first of the other. */
static void one_byte(bool is_right)
{
	OK(cu.fill(x, 1, is_right ? 100 : 101, a));
	OK(cu.fill(x + 100, 2, 100, b));
}

/* The host looked at the wrong stream. */
static void synchronized(bool is_right)
{
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.stream_synchronize(is_right ? a : b));
	OK(cu.copy_out(host, x, BYTES, b));
}

/* That it happened to be done is no order, that the host saw it is. */
static void queried(bool is_right)
{
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.event_record(event, a));
	if (is_right)
		while (cu.event_query(event))
			pause_ms(1);
	else
		pause_ms(20);
	OK(cu.copy_out(host, x, BYTES, b));
}

/* A copy out, and the next copy in from the same host memory. */
static void host_memory(bool is_right)
{
	OK(cu.copy_out(host, x, BYTES, a));
	OK(cu.event_record(event, a));
	if (is_right)
		wait_for(b, event);
	OK(cu.copy_in(y, host, BYTES, b));
}

/* Waits for the record before the one that matters. */
static void old_record(bool is_right)
{
	OK(cu.event_record(event, a));
	if (!is_right)
		wait_for(b, event);
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.event_record(event, a));
	if (is_right)
		wait_for(b, event);
	OK(cu.fill(x, 2, BYTES, b));
}

/* Recorded again, elsewhere, before anybody waited for it. */
static void recorded_elsewhere(bool is_right)
{
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.event_record(event, a));
	if (!is_right)
		OK(cu.event_record(event, b));
	wait_for(b, event);
	OK(cu.fill(x, 2, BYTES, b));
}

/* The event that it waits for was never recorded: that is no wait. */
static void never_recorded(bool is_right)
{
	OK(cu.fill(x, 1, BYTES, a));
	if (is_right)
		OK(cu.event_record(event, a));
	wait_for(b, event);
	OK(cu.fill(x, 2, BYTES, b));
}

/* Over a third stream. */
static void third_stream(bool is_right)
{
	CUstream c = new_stream();

	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.event_record(event, a));
	wait_for(c, event);
	if (!is_right)
		OK(cu.event_record(second, b));
	else
		OK(cu.event_record(second, c));
	wait_for(b, second);
	OK(cu.fill(x, 2, BYTES, b));
}

/* By a word: the value that it waits for is written before or after the work. */
static void by_word(bool is_right)
{
	OK(cu.fill(y, 0, 8, a));
	OK(cu.stream_synchronize(a));
	if (!is_right)
		OK(cu.stream_write(a, y, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
	OK(cu.fill(x, 1, BYTES, a));
	if (is_right)
		OK(cu.stream_write(a, y, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
	OK(cu.stream_wait(b, y, 1, CU_STREAM_WAIT_VALUE_GEQ));
	OK(cu.fill(x, 2, BYTES, b));
}

/* The value that it sees is not the one that came after the work. */
static void word_of_another(bool is_right)
{
	uint64_t *word = (uint64_t *)(uintptr_t)y;

	OK(cu.fill(y, 0, 8, a));
	OK(cu.stream_synchronize(a));
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.stream_write(a, y, 100, CU_STREAM_WRITE_VALUE_DEFAULT));
	/* No program can look at a device's memory like this; a client of another process can write there. */
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != 100)
		pause_ms(1);
	if (!is_right)
		__atomic_store_n(word, 1, __ATOMIC_RELEASE);
	OK(cu.stream_wait(b, y, 1, CU_STREAM_WAIT_VALUE_GEQ));
	OK(cu.fill(x, 2, BYTES, b));
}

static int is_called;

static void on_call(void *data)
{
	__atomic_store_n((int *)data, 1, __ATOMIC_SEQ_CST);
}

/* A host function tells the host, on another way than the driver sees. */
static void host_function(bool is_right)
{
	if (!is_right)
		OK(cu.stream_call(a, on_call, &is_called));
	OK(cu.fill(x, 1, BYTES, a));
	if (is_right)
		OK(cu.stream_call(a, on_call, &is_called));
	while (!__atomic_load_n(&is_called, __ATOMIC_SEQ_CST))
		pause_ms(1);
	OK(cu.fill(x, 2, BYTES, b));
}

static void *asks_and_fills(void *is_right)
{
	OK(cu.context_set(context));
	if (is_right)
		OK(cu.stream_synchronize(a));
	OK(cu.fill(x, 2, BYTES, b));
	return NULL;
}

/* Two host threads: what one of them saw is not what the other saw. */
static void two_threads(bool is_right)
{
	pthread_t thread;

	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.stream_synchronize(a));
	pthread_create(&thread, NULL, asks_and_fills, is_right ? &is_called : NULL);
	pthread_join(thread, NULL);
}

/* Two mappings of one memory. */
static void alias(bool is_right)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
					   .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
	CUmemAccessDesc access = { { CU_MEM_LOCATION_TYPE_DEVICE, 0 }, CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
	CUmemGenericAllocationHandle handle;
	CUdeviceptr at;

	OK(cu.mem_create(&handle, FAKECUDA_GRANULARITY, &properties, 0));
	OK(cu.mem_reserve(&at, 2 * FAKECUDA_GRANULARITY, 0, 0, 0));
	OK(cu.mem_map(at, FAKECUDA_GRANULARITY, 0, handle, 0));
	OK(cu.mem_map(at + FAKECUDA_GRANULARITY, FAKECUDA_GRANULARITY, 0, handle, 0));
	OK(cu.mem_access(at, 2 * FAKECUDA_GRANULARITY, &access, 1));
	OK(cu.fill(at, 1, BYTES, a));
	OK(cu.fill(at + FAKECUDA_GRANULARITY + (is_right ? BYTES : 0), 2, BYTES, b));
}

/* Inside of a graph: a branch that is forked too early. */
static void graph_branch(bool is_right)
{
	CUgraphExec exec;
	CUgraph graph;

	OK(cu.capture_begin(a, CU_STREAM_CAPTURE_MODE_RELAXED));
	if (!is_right)
		OK(cu.event_record(event, a));
	OK(cu.fill(x, 1, BYTES, a));
	if (is_right)
		OK(cu.event_record(event, a));
	wait_for(b, event);
	OK(launch_copy(b, y, x, BYTES));
	OK(cu.event_record(second, b));
	wait_for(a, second);
	OK(cu.capture_end(a, &graph));
	OK(cu.graph_instantiate(&exec, graph, 0));
	OK(cu.graph_launch(exec, a));
	OK(cu.graph_launch(exec, a));
}

/* A graph in one stream, and work in another. */
static void graph_and_stream(bool is_right)
{
	CUgraphExec exec;
	CUgraph graph;

	OK(cu.capture_begin(a, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.capture_end(a, &graph));
	OK(cu.graph_instantiate(&exec, graph, 0));
	OK(cu.graph_launch(exec, a));
	OK(cu.event_record(event, a));
	if (is_right)
		wait_for(b, event);
	OK(cu.fill(x, 2, BYTES, b));
	OK(cu.event_record(event, b));
	/* One launch of it is after the other, whatever the streams. */
	wait_for(a, event);
	OK(cu.graph_launch(exec, a));
	OK(cu.graph_launch(exec, b));
}

/* --- programs that are right as they are ------------------------------------------------------------------------------ */

/* Three stages, two sets of memory, as the executor has it. */
static void pipeline(bool is_right)
{
	CUevent copied[2], computed[2], emptied[2];
	CUdeviceptr in[2], out[2];
	CUstream c = new_stream();
	unsigned char *results[2];

	(void)is_right;
	for (int i = 0; i < 2; i++) {
		copied[i] = new_event();
		computed[i] = new_event();
		emptied[i] = new_event();
		in[i] = new_memory(BYTES);
		out[i] = new_memory(BYTES);
		results[i] = new_pinned(BYTES);
	}
	for (int n = 0; n < 30; n++) {
		int i = n % 2;

		/* The host, too, writes `host` anew and reads the results. */
		OK(cu.event_synchronize(emptied[i]));
		if (n >= 2)
			CHECK(is_all(results[i], (unsigned char)(n - 2), BYTES));
		OK(cu.fill(in[i], (unsigned char)n, BYTES, a));
		OK(cu.event_record(copied[i], a));
		wait_for(b, copied[i]);
		OK(launch_copy(b, out[i], in[i], BYTES));
		OK(cu.event_record(computed[i], b));
		wait_for(c, computed[i]);
		OK(cu.copy_out(results[i], out[i], BYTES, c));
		OK(cu.event_record(emptied[i], c));
	}
}

/* Freed and allocated again, likely at the same address: another memory. */
static void new_memory_at_old_place(bool is_right)
{
	(void)is_right;
	for (int i = 0; i < 10; i++) {
		CUdeviceptr memory = new_memory(BYTES);
		CUstream stream = new_stream();

		OK(cu.fill(memory, 1, BYTES, stream));
		OK(cu.stream_synchronize(stream));
		OK(cu.stream_destroy(stream));
		OK(cu.mem_free(memory));
	}
}

/* Any number may read. */
static void readers(bool is_right)
{
	CUstream c = new_stream();
	unsigned char *results = new_pinned(3 * BYTES);

	(void)is_right;
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.event_record(event, a));
	wait_for(b, event);
	wait_for(c, event);
	OK(cu.copy_out(results, x, BYTES, a));
	OK(cu.copy_out(results + BYTES, x, BYTES, b));
	OK(cu.copy_out(results + 2 * BYTES, x, BYTES, c));
	/* And all have ended before it is written. */
	OK(cu.event_record(event, b));
	OK(cu.event_record(second, c));
	wait_for(a, event);
	wait_for(a, second);
	OK(cu.fill(x, 2, BYTES, a));
}

/* It is found as it is queued: nothing of it has to run. */
static void as_it_is_queued(void)
{
	begin();
	CHECK(!fakecuda.fault("cuLaunchKernel", 0, FAKECUDA_HANG));
	OK(launch_spin(a, 0));
	OK(cu.fill(x, 1, BYTES, a));
	OK(cu.event_record(event, a));
	wait_for(b, event);
	OK(cu.fill(x, 2, BYTES, b));
	CLEAN();
	OK(launch_copy(new_stream(), y, x, BYTES));
	CHECK(violations() == 1 && reported("race: ") == 1);
}

/* --- running each several times ------------------------------------------------------------------------------------------ */

static void (*program)(bool is_right);
static bool is_right_now;

static void run_seeds(void)
{
	for (int seed = 1; seed <= SEEDS; seed++) {
		char text[16];
		int status;
		pid_t child;

		snprintf(text, sizeof(text), "%d", seed);
		setenv("FAKECUDA_SEED", text, 1);
		child = fork();
		if (!child) {
			begin();
			program(is_right_now);
			end();
			if (is_right_now && violations())
				FAIL("seed %d: found: %s", seed, last_report());
			if (!is_right_now && (!reported("race: ") || reported("race: ") != violations()))
				FAIL("seed %d: %u races in %llu violations: %s", seed, reported("race: "),
				     (unsigned long long)violations(), last_report());
			_exit(0);
		}
		waitpid(child, &status, 0);
		forget_report();
		if (status)
			exit(1);
	}
}

#define PAIR(name)                                      \
	static void name##_right(void)                  \
	{                                               \
		program = name, is_right_now = true;    \
		run_seeds();                            \
	}                                               \
	static void name##_wrong(void)                  \
	{                                               \
		program = name, is_right_now = false;   \
		run_seeds();                            \
	}
#define RIGHT(name)                                     \
	static void name##_right(void)                  \
	{                                               \
		program = name, is_right_now = true;    \
		run_seeds();                            \
	}
#define PAIRS(X)                                                              \
	X(copy_then_kernel) X(record_too_early) X(reuse) X(one_byte)          \
	X(synchronized) X(queried) X(host_memory) X(old_record)               \
	X(recorded_elsewhere) X(never_recorded) X(third_stream) X(by_word) X(word_of_another) X(host_function)        \
	X(two_threads) X(alias) X(graph_branch) X(graph_and_stream)
#define RIGHTS(X) X(pipeline) X(new_memory_at_old_place) X(readers)

PAIRS(PAIR)
RIGHTS(RIGHT)

#define ENVIRONMENT { "FAKECUDA_JITTER_US=2000" }
#define PAIR_CASES(name)                                              \
	{ "order: found without: " #name, name##_wrong, ENVIRONMENT }, \
	{ "order: nothing found: " #name, name##_right, ENVIRONMENT },
#define RIGHT_CASE(name) { "order: nothing found: " #name, name##_right, ENVIRONMENT },

const struct test_case order_cases[] = {
	PAIRS(PAIR_CASES)
	RIGHTS(RIGHT_CASE)
	{ "order: found as it is queued", as_it_is_queued, { 0 } },
	{ NULL, NULL, { 0 } },
};
