/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c - operations, queues of them, and the calls about streams. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

const char *const op_names[] = { "copy in", "copy out", "copy", "fill", "kernel", "record", "wait", "wait for another process", "call", "write of a value",
				 "wait for a value", "graph" };

static struct stream *streams; /* those that were destroyed and still run, too */
static uint64_t last_number;

/* --- records ------------------------------------------------------------------------------------------------------ */

struct record *record_new(void)
{
	struct record *record = calloc(1, sizeof(*record));

	if (!record)
		abort();
	record->n_refs = 1;
	return record;
}

struct record *record_ref(struct record *record)
{
	record->n_refs++;
	return record;
}

void record_unref(struct record *record)
{
	if (!record || --record->n_refs)
		return;
	shared_event_unref(record->shared);
	free(record);
}

CUresult record_wait(struct record *record, const struct context *context)
{
	while (!record->is_done)
		pthread_cond_wait(&fake.done, &fake.lock);
	clock_join(host_clock(), &record->clock);
	record_unref(record);
	return context->error;
}

/* --- operations ----------------------------------------------------------------------------------------------------- */

struct op *op_new(enum op_kind kind)
{
	struct op *op = calloc(1, sizeof(*op));

	if (!op)
		abort();
	op->kind = kind;
	return op;
}

void op_free(struct op *op)
{
	record_unref(op->record);
	if (op->kind == OP_WAIT_OTHER)
		shared_event_waits(op->shared, -1);
	shared_event_unref(op->shared);
	if (op->exec)
		exec_unref(op->exec);
	ops_free(op->nodes);
	free(op->staging);
	free(op->touches);
	free(op);
}

void ops_free(struct op *op)
{
	while (op) {
		struct op *next = op->next;

		op_free(op);
		op = next;
	}
}

/* --- queues ----------------------------------------------------------------------------------------------------------- */

/* Who comes before it is known now, as a rule: whether and when it runs does not matter. */
static void judge(struct stream *stream, struct op *op)
{
	struct clock *known = &stream->known;

	if (stream->n_done == stream->n_queued) {
		*known = stream->clock;
		stream->is_unsure = false;
	}
	clock_join(known, &op->clock);
	if (op->is_open || op->kind == OP_WAIT_WORD || op->kind == OP_WAIT_OTHER || op->kind == OP_GRAPH ||
	    (op->kind == OP_WAIT && !op->record->is_known))
		stream->is_unsure = true;
	if (stream->is_unsure)
		return;
	if (op->kind == OP_WAIT) {
		clock_join(known, &op->record->clock);
	} else if (op->kind == OP_RECORD) {
		op->record->clock = *known;
		op->record->is_known = true;
	} else if (op->kind <= OP_KERNEL) {
		known->at[stream->entity]++;
		op->is_racing = race_check(op, known, stream->entity, stream->number);
		op->clock = *known;
		op->is_judged = true;
	}
}

void stream_put(struct stream *stream, struct op *op)
{
	op->next = NULL;
	op->clock = *host_clock();
	op_queued(op, NULL, stream);
	if (op->kind == OP_RECORD)
		op->record->is_told = stream_is_told(stream);
	judge(stream, op);
	op->queued_ns = now_ns();
	op->is_stalled = pending_fault.is_stalled;
	op->late_error = pending_fault.error;
	pending_fault = (struct pending_fault){ 0 };
	*stream->last = op;
	stream->last = &op->next;
	stream->n_queued++;
	pthread_cond_signal(&stream->changed);
}

CUresult stream_submit(struct stream *stream, struct op *op)
{
	if (stream->capture)
		return capture_add(stream, op);
	stream_put(stream, op);
	return CUDA_SUCCESS;
}

struct record *stream_mark(struct stream *stream)
{
	struct op *op = op_new(OP_RECORD);

	op->record = record_new();
	stream_put(stream, op);
	return record_ref(op->record);
}

struct stream *stream_next(const struct stream *stream)
{
	return stream ? stream->next : streams;
}

bool streams_use(uint64_t address, size_t bytes)
{
	for (const struct stream *stream = streams; stream; stream = stream->next)
		for (const struct op *op = stream->first; op; op = op->next)
			for (unsigned int i = 0; i < op->n_touches; i++)
				if (address < op->touches[i].address + op->touches[i].bytes &&
				    op->touches[i].address < address + bytes)
					return true;
	return false;
}

void streams_wake(const struct context *context)
{
	for (struct stream *stream = streams; stream; stream = stream->next)
		if (stream->object.context == context)
			pthread_cond_broadcast(&stream->changed);
	pthread_cond_broadcast(&fake.done);
}

static void leave(struct stream *stream)
{
	struct stream **at = &streams;

	while (*at != stream)
		at = &(*at)->next;
	*at = stream->next;
	entity_end(stream->entity, &stream->clock);
	pthread_cond_destroy(&stream->changed);
	free(stream);
}

static void *stream_main(void *arg)
{
	struct stream *stream = arg;

	prctl(PR_SET_NAME, "fake-stream");
	prctl(PR_SET_TIMERSLACK, 1ul);
	pthread_mutex_lock(&fake.lock);
	for (;;) {
		struct op *op = stream->first;

		if (!op && stream->is_ending)
			break;
		if (!op) {
			pthread_cond_wait(&stream->changed, &fake.lock);
			continue;
		}
		engine_run(stream, op);
		stream->first = op->next;
		if (!stream->first)
			stream->last = &stream->first;
		stream->n_done++;
		op_free(op);
		pthread_cond_broadcast(&fake.done);
	}
	leave(stream);
	pthread_mutex_unlock(&fake.lock);
	return NULL;
}

/* No signal handler of the program runs on a thread of ours. */
static bool start_thread(struct stream *stream)
{
	sigset_t all, before;
	pthread_t thread;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, NULL, stream_main, stream);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!r)
		pthread_detach(thread);
	return !r;
}

/* What it has is done first, as on the real one; whoever destroys it does not wait for that. */
void stream_end(struct stream *stream)
{
	object_remove(&stream->object);
	stream->is_ending = true;
	pthread_cond_signal(&stream->changed);
	ledger->streams--;
}

static CUresult stream_new(struct context *context, struct stream **ret)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		abort();
	stream->entity = entity_new(&stream->clock);
	if (!stream->entity) {
		free(stream);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	stream->number = ++last_number;
	stream->random = settings.seed * 0x9e3779b97f4a7c15ull + stream->number * 0xbf58476d1ce4e5b9ull + 1;
	stream->last = &stream->first;
	pthread_cond_init(&stream->changed, NULL);
	stream->next = streams;
	streams = stream;
	if (!start_thread(stream)) {
		leave(stream);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	object_add(&stream->object, KIND_STREAM, context);
	ledger->streams++;
	*ret = stream;
	return CUDA_SUCCESS;
}

/* Where they are allowed: ordinary ones, which nothing waits for of itself. One is each thread's own, one (thread 0) everybody's. */
static struct stream *default_stream(struct context *context, pid_t thread)
{
	struct stream *stream;

	for (stream = streams; stream; stream = stream->next)
		if (stream->is_default && !stream->is_ending && stream->object.context == context && stream->thread == thread)
			return stream;
	if (stream_new(context, &stream))
		return NULL;
	stream->is_default = true;
	stream->thread = thread;
	return stream;
}

static struct stream *stream_find(CUstream handle, struct context *context, const char *what)
{
	if ((!handle || handle == CU_STREAM_LEGACY) && settings.has_default_stream)
		return default_stream(context, 0);
	if (handle == CU_STREAM_PER_THREAD && settings.has_default_stream)
		return default_stream(context, gettid());
	return object_get(KIND_STREAM, (uintptr_t)handle, what);
}

struct stream *stream_get(CUstream handle, struct context *context, const char *what, CUresult *ret_error)
{
	struct stream *stream = stream_find(handle, context, what);

	*ret_error = CUDA_ERROR_INVALID_HANDLE;
	if (!stream || stream->object.context == context)
		return stream;
	violation("%s: the stream belongs to another context", what);
	return NULL;
}

/* --- calls -------------------------------------------------------------------------------------------------------------- */

CUresult cuStreamCreateWithPriority(CUstream *ret, unsigned int flags, int priority)
{
	struct stream *stream;
	CUresult result;

	BEGIN(cuStreamCreateWithPriority, NEEDS_CONTEXT);
	if (flags & ~CU_STREAM_NON_BLOCKING || !ret)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	result = stream_new(context, &stream);
	if (result)
		return call_end(result);
	/* cuda.h: what is outside of the range is the nearest in it. */
	stream->priority = priority > PRIORITY_LEAST ? PRIORITY_LEAST : priority < PRIORITY_GREATEST ? PRIORITY_GREATEST : priority;
	*ret = (CUstream)(uintptr_t)stream->object.handle;
	return call_end(CUDA_SUCCESS);
}

EXPORT int fakecuda_priority(CUstream handle)
{
	const struct stream *stream;
	int priority;

	pthread_mutex_lock(&fake.lock);
	stream = object_find(KIND_STREAM, (uintptr_t)handle);
	priority = stream ? stream->priority : INT_MAX;
	pthread_mutex_unlock(&fake.lock);
	return priority;
}

CUresult cuStreamDestroy_v2(CUstream handle)
{
	struct stream *stream;

	BEGIN(cuStreamDestroy_v2, NEEDS_CONTEXT);
	stream = object_get(KIND_STREAM, (uintptr_t)handle, "cuStreamDestroy");
	if (!stream)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (stream->capture)
		return call_end(capture_breaks(stream, "cuStreamDestroy"));
	if (stream->n_done == stream->n_queued)
		clock_publish(&stream->clock);
	stream_end(stream);
	return call_end(CUDA_SUCCESS);
}

CUresult cuStreamSynchronize(CUstream handle)
{
	struct stream *stream;

	BEGIN(cuStreamSynchronize, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	stream = stream_find(handle, context, "cuStreamSynchronize");
	if (!stream)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (stream->capture)
		return call_end(capture_breaks(stream, "cuStreamSynchronize"));
	return call_end(record_wait(stream_mark(stream), stream->object.context));
}

CUresult cuStreamQuery(CUstream handle)
{
	struct stream *stream;

	BEGIN(cuStreamQuery, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	stream = stream_find(handle, context, "cuStreamQuery");
	if (!stream)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (stream->capture)
		return call_end(capture_breaks(stream, "cuStreamQuery"));
	if (stream->n_done < stream->n_queued)
		return call_end(CUDA_ERROR_NOT_READY);
	clock_join(host_clock(), &stream->clock);
	return call_end(CUDA_SUCCESS);
}

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void *data)
{
	struct stream *stream;
	CUresult result;
	struct op *op;

	BEGIN(cuLaunchHostFunc, NEEDS_CONTEXT | IS_QUEUED);
	stream = stream_get(handle, context, "cuLaunchHostFunc", &result);
	if (!stream)
		return call_end(result);
	if (!function)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	op = op_new(OP_CALL);
	op->function = function;
	op->data = data;
	return call_end(stream_submit(stream, op));
}
