/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c - streams, events, host functions, value words, graphs, and how long things take. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/cases.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void streams(void)
{
	int least, greatest;
	CUstream stream, other;

	open_device();
	OK(cu.priority_range(&least, &greatest));
	CHECK(greatest < least);
	OK(cu.stream_create(&stream, CU_STREAM_NON_BLOCKING, greatest));
	CHECK(fakecuda.priority(stream) == greatest);
	/* What there is not becomes the nearest that there is. */
	for (int priority = greatest - 3; priority <= least + 3; priority++) {
		OK(cu.stream_create(&other, CU_STREAM_NON_BLOCKING, priority));
		CHECK(fakecuda.priority(other) == (priority < greatest ? greatest : priority > least ? least : priority));
		OK(cu.stream_destroy(other));
	}
	GIVES(CUDA_ERROR_INVALID_VALUE, cu.stream_create(&other, 0x80, 0));
	OK(cu.stream_query(stream));
	OK(launch_spin(stream, 30000000));
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(stream));
	OK(cu.context_synchronize());
	OK(cu.stream_query(stream));
	CLEAN();
	OK(cu.stream_destroy(stream));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.stream_synchronize(stream));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", launch_spin(stream, 1));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.stream_destroy(stream));
	BAD(CUDA_ERROR_INVALID_HANDLE, "is none", cu.stream_query((CUstream)(uintptr_t)4711));
	CHECK(!ledger_now().streams);
}

/* What a destroyed stream has is done all the same. */
static void destroyed_with_work(void)
{
	unsigned char *host;
	CUdeviceptr memory;
	CUstream stream;
	CUevent event;

	open_device();
	stream = new_stream();
	event = new_event();
	memory = new_memory(100);
	host = new_pinned(100);
	OK(launch_spin(stream, 10000000));
	OK(cu.fill(memory, 1, 100, stream));
	OK(cu.copy_out(host, memory, 100, stream));
	OK(cu.event_record(event, stream));
	OK(cu.stream_destroy(stream));
	OK(cu.event_synchronize(event));
	CHECK(is_all(host, 1, 100));
	CLEAN();
}

static void many_streams(void)
{
	CUstream all[64];

	open_device();
	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < 64; i++)
			all[i] = new_stream();
		for (unsigned int i = 0; i < 64; i++)
			OK(launch_spin(all[i], 0));
		for (unsigned int i = 0; i < 64; i++)
			OK(cu.stream_destroy(all[i]));
		OK(cu.context_synchronize());
		/* Destroyed ones leave when they are done. */
		for (unsigned int i = 0; i < 1000 && ledger_now().kernels < 64 * (round + 1); i++)
			pause_ms(1);
	}
	CHECK(ledger_now().kernels == 20 * 64 && !ledger_now().streams);
	CLEAN();
}

/* A wait means the record that was the last one when it was queued. */
static void records_again(void)
{
	CUstream slow, quick, waits;
	CUevent event;

	open_device();
	slow = new_stream();
	quick = new_stream();
	waits = new_stream();
	event = new_event();
	OK(cu.event_query(event));
	OK(cu.event_synchronize(event));
	OK(cu.stream_wait_event(waits, event, 0));
	OK(cu.stream_synchronize(waits));
	OK(cu.event_record(event, quick));
	OK(cu.stream_synchronize(quick));
	OK(cu.stream_wait_event(waits, event, 0));
	OK(launch_spin(slow, 50000000));
	OK(cu.event_record(event, slow));
	OK(cu.stream_synchronize(waits));
	GIVES(CUDA_ERROR_NOT_READY, cu.event_query(event));
	OK(cu.stream_wait_event(waits, event, 0));
	/* And it stays meant, whatever becomes of the event. */
	OK(cu.event_record(event, quick));
	OK(cu.event_synchronize(event));
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(waits));
	OK(cu.event_destroy(event));
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(waits));
	OK(cu.stream_synchronize(waits));
	OK(cu.stream_query(slow));
	CLEAN();
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.event_query(event));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.event_record(event, quick));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.stream_wait_event(waits, event, 0));
}

static void add_one(void *data)
{
	__atomic_fetch_add((int *)data, 1, __ATOMIC_SEQ_CST);
}

static void calls_back(void *data)
{
	*(CUresult *)data = cu.stream_query(NULL);
}

static void host_functions(void)
{
	CUresult inside = CUDA_SUCCESS;
	CUstream stream;
	int n = 0;

	open_device();
	stream = new_stream();
	OK(launch_spin(stream, 20000000));
	OK(cu.stream_call(stream, add_one, &n));
	OK(cu.stream_call(stream, add_one, &n));
	CHECK(!__atomic_load_n(&n, __ATOMIC_SEQ_CST));
	OK(cu.stream_synchronize(stream));
	CHECK(n == 2);
	GIVES(CUDA_ERROR_INVALID_VALUE, cu.stream_call(stream, NULL, NULL));
	CLEAN();
	OK(cu.stream_call(stream, calls_back, &inside));
	OK(cu.stream_synchronize(stream));
	CHECK(inside == CUDA_ERROR_NOT_PERMITTED && reported("inside a host function") == 1);
}

static void words(void)
{
	uint64_t *word, plain = 0;
	CUstream writes, waits;
	CUdeviceptr memory;

	open_device();
	writes = new_stream();
	waits = new_stream();
	word = new_pinned(4096);
	memory = new_memory(4096);
	*word = 5;
	OK(cu.stream_wait(waits, (uintptr_t)word, 5, CU_STREAM_WAIT_VALUE_GEQ));
	OK(cu.stream_wait(waits, (uintptr_t)word, 4, CU_STREAM_WAIT_VALUE_GEQ));
	OK(cu.stream_synchronize(waits));
	OK(cu.stream_wait(waits, (uintptr_t)word, 6, CU_STREAM_WAIT_VALUE_GEQ));
	pause_ms(5);
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(waits));
	OK(cu.stream_write(writes, (uintptr_t)word, 6, CU_STREAM_WRITE_VALUE_DEFAULT));
	OK(cu.stream_synchronize(waits));
	/* Signed and cyclic: what is a little more than all ones is 0, and all ones are before it. */
	OK(cu.stream_write(writes, (uintptr_t)word, UINT64_MAX, CU_STREAM_WRITE_VALUE_DEFAULT));
	OK(cu.stream_synchronize(writes));
	OK(cu.stream_wait(waits, (uintptr_t)word, 0, CU_STREAM_WAIT_VALUE_GEQ));
	pause_ms(5);
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(waits));
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST); /* the host may, too */
	OK(cu.stream_synchronize(waits));
	OK(cu.fill(memory, 0, 4096, writes));
	OK(cu.stream_write(writes, memory + 8, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
	OK(cu.stream_wait(writes, memory + 8, 1, CU_STREAM_WAIT_VALUE_GEQ));
	OK(cu.stream_synchronize(writes));
	CLEAN();
	BAD(CUDA_ERROR_INVALID_VALUE, "multiple of 8", cu.stream_write(writes, memory + 4, 1, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "no such memory", cu.stream_wait(waits, (uintptr_t)&plain, 1, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "no such memory", cu.stream_write(writes, memory + 4096, 1, 0));
}

/* --- graphs ---------------------------------------------------------------------------------------------------------- */

static void graphs(void)
{
	unsigned char *in, *out;
	CUgraphExec exec;
	CUstream stream, other;
	CUdeviceptr a, b;
	int n = 0;

	open_device();
	stream = new_stream();
	other = new_stream();
	in = new_pinned(1000);
	out = new_pinned(1000);
	a = new_memory(1000);
	b = new_memory(1000);
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	OK(cu.copy_in(a, in, 1000, stream));
	OK(cu.fill(a + 900, 9, 100, stream));
	OK(launch_copy(stream, b, a, 1000));
	OK(cu.copy_out(out, b, 1000, stream));
	OK(cu.stream_call(stream, add_one, &n));
	/* Others go on. */
	OK(launch_spin(other, 1));
	exec = exec_of(stream);
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(out, 0xa5, 1000) && !n && !ledger_now().in_bytes);
	for (int i = 1; i <= 3; i++) {
		memset(in, i, 1000);
		OK(cu.graph_launch(exec, i == 2 ? other : stream));
		OK(cu.stream_synchronize(i == 2 ? other : stream));
		CHECK(is_all(out, (unsigned char)i, 900) && is_all(out + 900, 9, 100) && n == i);
	}
	/* Still running when it is destroyed. */
	OK(launch_spin(stream, 10000000));
	OK(cu.graph_launch(exec, stream));
	OK(cu.graph_exec_destroy(exec));
	OK(cu.stream_synchronize(stream));
	CHECK(n == 4 && !ledger_now().graphs && !ledger_now().graph_execs);
	CLEAN();
	BAD(CUDA_ERROR_INVALID_VALUE, "has been destroyed", cu.graph_launch(exec, stream));
}

static void fork_and_join(void)
{
	CUstream stream, branch;
	CUevent forked, joined;
	unsigned char *out;
	CUgraphExec exec;
	CUdeviceptr a, b;

	open_device();
	stream = new_stream();
	branch = new_stream();
	forked = new_event();
	joined = new_event();
	a = new_memory(1000);
	b = new_memory(1000);
	out = new_pinned(1000);
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
	OK(cu.fill(a, 1, 1000, stream));
	OK(cu.event_record(forked, stream));
	OK(cu.stream_wait_event(branch, forked, 0));
	OK(launch_copy(branch, b, a, 500));
	OK(cu.event_record(joined, branch));
	OK(cu.fill(b + 500, 2, 500, stream));
	OK(cu.stream_wait_event(stream, joined, 0));
	OK(cu.copy_out(out, b, 1000, stream));
	exec = exec_of(stream);
	for (int i = 0; i < 3; i++)
		OK(cu.graph_launch(exec, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(out, 1, 500) && is_all(out + 500, 2, 500));
	/* The other stream is its own again. */
	OK(cu.fill(a, 5, 10, branch));
	OK(cu.stream_synchronize(branch));
	CLEAN();
}

static void broken_captures(void)
{
	CUdeviceptr memory, more;
	CUstream stream, other;
	CUevent event, outside;
	char plain[10];
	CUgraph graph;

	open_device();
	stream = new_stream();
	other = new_stream();
	event = new_event();
	outside = new_event();
	memory = new_memory(100);
	OK(cu.event_record(outside, other));
	BAD(CUDA_ERROR_INVALID_VALUE, "not captured", cu.capture_end(stream, &graph));
#define BREAKS(error, call)                                                                       \
	do {                                                                                      \
		OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));                      \
		OK(cu.fill(memory, 1, 100, stream));                                              \
		OK(cu.event_record(event, stream));                                               \
		BAD((CUresult)(error), "", call);                                                 \
		GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.fill(memory, 1, 100, stream));    \
		GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(stream, &graph));     \
		CHECK(!graph);                                                                    \
	} while (0)
	BREAKS(900, cu.stream_synchronize(stream));
	BREAKS(900, cu.stream_synchronize(other));
	BREAKS(900, cu.stream_query(stream));
	BREAKS(900, cu.stream_destroy(stream));
	BREAKS(900, cu.context_synchronize());
	BREAKS(900, cu.event_query(outside));
	BREAKS(900, cu.event_synchronize(event));
	BREAKS(900, cu.mem_alloc(&more, 10));
	BREAKS(900, cu.mem_free(memory));
	BREAKS(900, cu.copy_in(memory, plain, 10, stream));
	BREAKS(900, cu.stream_write(stream, memory, 1, 0));
	BREAKS(900, cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
	BREAKS(905, cu.stream_wait_event(stream, outside, 0));
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(cu.mem_alloc(&more, 10));
	OK(cu.event_record(event, stream));
	BAD((CUresult)907, "", cu.event_query(event));
	GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cu.capture_end(stream, &graph));
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(cu.event_record(event, stream));
	OK(cu.stream_wait_event(other, event, 0));
	OK(cu.fill(memory, 1, 100, other));
	BAD((CUresult)904, "not been joined", cu.capture_end(stream, &graph));
	/* Both are free again. */
	OK(cu.fill(memory, 1, 100, other));
	OK(cu.stream_synchronize(other));
	OK(cu.fill(memory, 1, 100, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(!reported("race"));
}

/* A graph that is launched after its memory went. */
static void graph_without_memory(void)
{
	CUgraphExec exec;
	CUdeviceptr memory;
	CUstream stream;

	open_device();
	stream = new_stream();
	memory = new_memory(100);
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(cu.fill(memory, 1, 100, stream));
	exec = exec_of(stream);
	OK(cu.mem_free(memory));
	BAD(CUDA_ERROR_INVALID_VALUE, "not there any more", cu.graph_launch(exec, stream));
}

static void *end_elsewhere(void *data)
{
	CUgraph graph;

	OK(cu.context_set(context));
	BAD((CUresult)908, "another thread", cu.capture_end(*(CUstream *)data, &graph));
	return NULL;
}

static void capture_on_two_threads(void)
{
	CUstream stream;
	pthread_t thread;
	CUgraph graph;

	open_device();
	stream = new_stream();
	OK(cu.capture_begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	pthread_create(&thread, NULL, end_elsewhere, &stream);
	pthread_join(thread, NULL);
	OK(cu.capture_end(stream, &graph));
}

/* --- time -------------------------------------------------------------------------------------------------------------- */

#define BATCHES 10u
#define MS	1000000.0

/* 10 batches, each a copy in, a kernel and a copy out of 10 ms each (FAKECUDA_* say so), dealt to `n` streams. */
static double pipeline_ms(unsigned int n)
{
	const size_t bytes = 100000;
	CUstream all[3];
	CUdeviceptr in[3], out[3];
	void *host[3];
	uint64_t begin;

	for (unsigned int i = 0; i < n; i++) {
		all[i] = new_stream();
		in[i] = new_memory(bytes);
		out[i] = new_memory(bytes);
		host[i] = new_pinned(bytes);
	}
	begin = now_ns();
	for (unsigned int b = 0; b < BATCHES; b++) {
		unsigned int i = b % n;

		OK(cu.copy_in(in[i], host[i], bytes, all[i]));
		OK(launch_copy(all[i], out[i], in[i], bytes));
		OK(cu.copy_out(host[i], out[i], bytes, all[i]));
	}
	OK(cu.context_synchronize());
	return (double)(now_ns() - begin) / MS;
}

/* The bound: the first batch takes all three steps, each later one comes 10 ms after the one before. */
static void overlap(void)
{
	const double bound = (BATCHES + 2) * 10.0, serial_bound = BATCHES * 30.0;
	double overlapped, serial;

	open_device();
	/* Never faster than the bound; as fast as that only where nobody else wants the cores: once is enough. */
	for (int round = 0; round < 10; round++) {
		serial = pipeline_ms(1);
		overlapped = pipeline_ms(3);
		if (overlapped < bound * 1.2 && serial < serial_bound * 1.2)
			break;
	}
	CLEAN();
	printf("# 1 stream %.1f ms, %.3f of its bound; 3 streams %.1f ms, %.3f of theirs\n", serial, serial / serial_bound,
	       overlapped, overlapped / bound);
	fflush(stdout);
	if (overlapped < bound * 0.999 || overlapped > bound * 1.2)
		FAIL("3 streams take %.1f ms, the bound is %.1f", overlapped, bound);
	if (serial < serial_bound * 0.999 || serial > serial_bound * 1.2)
		FAIL("1 stream takes %.1f ms, the bound is %.1f", serial, serial_bound);
}

/* One engine: two streams do not compute at once. */
static void one_engine(void)
{
	CUstream a, b;
	uint64_t begin;

	open_device();
	a = new_stream();
	b = new_stream();
	begin = now_ns();
	for (int i = 0; i < 5; i++) {
		OK(launch_spin(a, 0));
		OK(launch_spin(b, 0));
	}
	OK(cu.context_synchronize());
	CHECK(now_ns() - begin >= 50 * 1000000u);
	setenv("FAKECUDA_KERNEL_US", "", 1);
	fakecuda.reload();
	begin = now_ns();
	OK(launch_spin(a, 0));
	OK(cu.stream_synchronize(a));
	CHECK(now_ns() - begin < 5 * 1000000u + 50 * 1000000u);
}

/* What happens between streams under jitter is another thing each time, and right each time. */
static void jitter(void)
{
	unsigned char *host;
	CUdeviceptr memory;
	CUstream a, b;
	CUevent event;

	open_device();
	a = new_stream();
	b = new_stream();
	event = new_event();
	memory = new_memory(4096);
	host = new_pinned(4096);
	for (int i = 0; i < 100; i++) {
		OK(cu.fill(memory, (unsigned char)i, 4096, a));
		OK(cu.event_record(event, a));
		OK(cu.stream_wait_event(b, event, 0));
		OK(cu.copy_out(host, memory, 4096, b));
		OK(cu.event_record(event, b));
		OK(cu.event_synchronize(event));
		CHECK(is_all(host, (unsigned char)i, 4096));
	}
	CLEAN();
}

/* --- many threads ------------------------------------------------------------------------------------------------------ */

static void *worker(void *data)
{
	unsigned char mark = (unsigned char)(uintptr_t)data;
	unsigned char *host;
	CUdeviceptr memory;
	CUstream stream;
	CUevent event;

	OK(cu.context_set(context));
	for (int i = 0; i < 30; i++) {
		stream = new_stream();
		event = new_event();
		memory = new_memory(10000);
		host = new_pinned(10000);
		OK(cu.fill(memory, mark, 10000, stream));
		OK(cu.copy_out(host, memory, 10000, stream));
		OK(cu.event_record(event, stream));
		OK(i % 2 ? cu.event_synchronize(event) : cu.stream_synchronize(stream));
		CHECK(is_all(host, mark, 10000));
		OK(cu.mem_free(memory));
		OK(cu.host_free(host));
		OK(cu.event_destroy(event));
		OK(cu.stream_destroy(stream));
	}
	return NULL;
}

static void threads(void)
{
	pthread_t all[8];

	open_device();
	for (uintptr_t i = 0; i < 8; i++)
		pthread_create(&all[i], NULL, worker, (void *)(i + 1));
	for (unsigned int i = 0; i < 8; i++)
		pthread_join(all[i], NULL);
	CHECK(!ledger_now().streams && !ledger_now().events && !ledger_now().device_bytes && !ledger_now().pinned_bytes);
	CLEAN();
}

const struct test_case stream_cases[] = {
	{ "streams", streams, { 0 } },
	{ "streams: destroyed with work", destroyed_with_work, { 0 } },
	{ "streams: many", many_streams, { 0 } },
	{ "events: recorded again", records_again, { 0 } },
	{ "host functions", host_functions, { 0 } },
	{ "value words", words, { 0 } },
	{ "graphs: captured, launched, destroyed", graphs, { 0 } },
	{ "graphs: forked and joined", fork_and_join, { 0 } },
	{ "graphs: what ends a capture", broken_captures, { 0 } },
	{ "graphs: launched without its memory", graph_without_memory, { 0 } },
	{ "graphs: a capture is its thread's", capture_on_two_threads, { 0 } },
	{ "time: copies and computing overlap", overlap,
	  { "FAKECUDA_COPY_NS_PER_BYTE=100", "FAKECUDA_KERNEL_US=inf_copy=10000" } },
	{ "time: an engine does one thing at a time", one_engine, { "FAKECUDA_KERNEL_US=5000" } },
	{ "time: jitter changes no result", jitter, { "FAKECUDA_JITTER_US=300", "FAKECUDA_SEED=7" } },
	{ "threads", threads, { "FAKECUDA_JITTER_US=50" } },
	{ NULL, NULL, { 0 } },
};
