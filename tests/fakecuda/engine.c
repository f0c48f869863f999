/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - runs operations. A device has one engine for copies in, one for copies out, and one for all the rest: work of
 * one engine never overlaps, that of different engines does.
 *
 * Where an operation has been given a duration, its begin and end are computed, and its thread sleeps until the end: a thread
 * that the machine wakes late does not make what follows later too, so that pipelines can be measured on a busy machine.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <string.h>
#include <time.h>

#define POLL_NS 20000

static bool is_held; /* nothing begins */

EXPORT void fakecuda_hold(int hold)
{
	pthread_mutex_lock(&fake.lock);
	is_held = hold;
	pthread_cond_broadcast(&fake.done);
	pthread_mutex_unlock(&fake.lock);
}

static void sleep_until(uint64_t ns)
{
	struct timespec until = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
		;
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* --- what an operation does; without the lock ---------------------------------------------------------------------- */

static void *pointer(uint64_t address)
{
	return (void *)(uintptr_t)address;
}

static void run_kernel(struct op *op)
{
	void *params[KERNEL_PARAMS_MAX];

	for (unsigned int i = 0; i < op->kernel->n_params; i++)
		params[i] = &op->params[i];
	op->kernel->run(params);
}

/* What was reported once is not reported again by TSan. */
#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);

static void hide_from_tsan(bool is_hidden)
{
	if (is_hidden) {
		AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
		AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
	} else {
		AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
		AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
	}
}
#else
static void hide_from_tsan(bool is_hidden)
{
	(void)is_hidden;
}
#endif

static void do_work(struct op *op)
{
	if (op->is_racing)
		hide_from_tsan(true);
	if (op->kind == OP_KERNEL)
		run_kernel(op);
	else if (op->kind == OP_FILL)
		memset(pointer(op->to), (int)op->value, op->bytes);
	else
		memcpy(pointer(op->to), op->staging ? op->staging : pointer(op->from), op->bytes);
	if (op->is_racing)
		hide_from_tsan(false);
}

/* --- engines ------------------------------------------------------------------------------------------------------ */

static struct engine *take_engine(struct stream *stream, const struct op *op)
{
	enum engine_kind kind = op->kind == OP_COPY_IN	? ENGINE_IN :
				op->kind == OP_COPY_OUT ? ENGINE_OUT :
							  ENGINE_COMPUTE;
	struct engine *engine = &devices[stream->object.context->device].engines[kind];
	uint64_t ticket = engine->n_came++;

	while (engine->n_served != ticket)
		pthread_cond_wait(&engine->changed, &fake.lock);
	return engine;
}

static void give_engine(struct engine *engine)
{
	engine->n_served++;
	pthread_cond_broadcast(&engine->changed);
}

static uint64_t duration_ns(const struct op *op)
{
	switch (op->kind) {
	case OP_COPY_IN:
	case OP_COPY_OUT:
		return settings.copy_ns + (uint64_t)(settings.copy_ns_per_byte * (double)op->bytes);
	case OP_KERNEL:
		return settings.launch_ns + kernel_ns(op->kernel->name);
	default:
		return 0;
	}
}

static void count(const struct op *op, const struct stream *stream)
{
	ledger->in_bytes += op->kind == OP_COPY_IN ? op->bytes : 0;
	ledger->out_bytes += op->kind == OP_COPY_OUT ? op->bytes : 0;
	ledger->device_copy_bytes += op->kind == OP_COPY ? op->bytes : 0;
	ledger->pageable_bytes += op->is_pageable ? op->bytes : 0;
	ledger->kernels += op->kind == OP_KERNEL;
	ledger->urgent_kernels += op->kind == OP_KERNEL && stream->priority < PRIORITY_LEAST;
}

static void work(struct stream *stream, struct op *op, struct clock *clock, unsigned int entity)
{
	struct context *context = stream->object.context;
	struct engine *engine = take_engine(stream, op);
	uint64_t start, end, spent, duration = duration_ns(op);

	if (!context->error)
		op_runs(op, stream);
	if (!context->error && ((op->kernel && op_check(op, context)) || op_touches_gone(op)))
		context_stick(context, CUDA_ERROR_ILLEGAL_ADDRESS);
	if (context->error) {
		give_engine(engine);
		return;
	}
	if (!op->is_judged) {
		clock->at[entity]++;
		op->is_racing = race_check(op, clock, entity, stream->number);
	}
	count(op, stream);
	start = later(stream->end_ns, engine->free_ns);
	pthread_mutex_unlock(&fake.lock);
	spent = now_ns();
	do_work(op);
	end = now_ns();
	spent = end - spent;
	if (duration) {
		end = start + later(duration, spent);
		sleep_until(end);
	}
	pthread_mutex_lock(&fake.lock);
	if (op_touches_gone(op))
		context_stick(context, CUDA_ERROR_ILLEGAL_ADDRESS);
	engine->free_ns = stream->end_ns = end;
	give_engine(engine);
	if (op->is_pageable && op->kind == OP_COPY_OUT)
		race_forget_pageable(op);
}

/* --- the other operations --------------------------------------------------------------------------------------- */

static void call(struct stream *stream, const struct op *op, const struct clock *clock)
{
	/* Whom it tells, and how, is not seen. */
	clock_publish(clock);
	pthread_mutex_unlock(&fake.lock);
	is_in_host_function = true;
	op->function(op->data);
	is_in_host_function = false;
	pthread_mutex_lock(&fake.lock);
	stream->end_ns = later(stream->end_ns, now_ns());
}

static void finish(struct record *record, const struct stream *stream, const struct clock *clock)
{
	record->clock = *clock;
	record->end_ns = stream->end_ns;
	record->is_done = true;
	if (record->shared)
		shared_event_done(record->shared, record->number);
	pthread_cond_broadcast(&fake.done);
}

static void wait_for(struct stream *stream, const struct op *op)
{
	while (!op->record->is_done && !stream->object.context->error)
		pthread_cond_wait(&fake.done, &fake.lock);
	clock_join(&stream->clock, &op->record->clock);
	stream->end_ns = later(stream->end_ns, op->record->end_ns);
}

static void wait_for_other(struct stream *stream, const struct op *op)
{
	while (!shared_event_is_done(op->shared, op->value) && !stream->object.context->error) {
		pthread_mutex_unlock(&fake.lock);
		sleep_until(now_ns() + POLL_NS);
		pthread_mutex_lock(&fake.lock);
	}
	stream->end_ns = later(stream->end_ns, now_ns());
}

static void write_word(struct stream *stream, const struct op *op)
{
	const struct range *range = range_at(op->to);

	word_written(op->to, op->value, &stream->clock);
	if (range && range->kind & RANGE_OF_HOST)
		clock_publish(&stream->clock);
	/* Release, and fenced: what the stream did before is seen by whoever sees the value. */
	__atomic_store_n((uint64_t *)pointer(op->to), op->value, __ATOMIC_SEQ_CST);
}

static void wait_word(struct stream *stream, const struct op *op)
{
	for (;;) {
		/* Acquire: pairs with the store in write_word(), or with one of the host or of another process. */
		uint64_t seen = __atomic_load_n((const uint64_t *)pointer(op->to), __ATOMIC_ACQUIRE);

		if ((int64_t)(seen - op->value) >= 0) {
			word_seen(op->to, seen, &stream->clock);
			break;
		}
		if (stream->object.context->error)
			return;
		pthread_mutex_unlock(&fake.lock);
		sleep_until(now_ns() + POLL_NS);
		pthread_mutex_lock(&fake.lock);
	}
	stream->end_ns = later(stream->end_ns, now_ns());
}

void engine_run_node(struct stream *stream, struct op *op, struct clock *clock, unsigned int entity)
{
	if (op->kind == OP_CALL)
		call(stream, op, clock);
	else
		work(stream, op, clock, entity);
}

static void run(struct stream *stream, struct op *op)
{
	switch (op->kind) {
	case OP_RECORD:
		finish(op->record, stream, &stream->clock);
		break;
	case OP_WAIT:
		wait_for(stream, op);
		break;
	case OP_WAIT_OTHER:
		wait_for_other(stream, op);
		break;
	case OP_WRITE_WORD:
		write_word(stream, op);
		break;
	case OP_WAIT_WORD:
		wait_word(stream, op);
		break;
	case OP_GRAPH:
		exec_run(stream, op);
		break;
	default:
		engine_run_node(stream, op, &stream->clock, stream->entity);
	}
}

/* xorshift64: each stream has its own, so that a seed means the same whatever the others do. */
static uint64_t jitter_ns(struct stream *stream)
{
	stream->random ^= stream->random << 13;
	stream->random ^= stream->random >> 7;
	stream->random ^= stream->random << 17;
	return settings.jitter_ns ? stream->random % settings.jitter_ns : 0;
}

void engine_run(struct stream *stream, struct op *op)
{
	struct context *context = stream->object.context;
	uint64_t jitter = op->kind == OP_RECORD ? 0 : jitter_ns(stream);

	while ((op->is_stalled || is_held) && !context->error)
		pthread_cond_wait(&fake.done, &fake.lock);
	if (op->late_error)
		context_stick(context, op->late_error);
	clock_join(&stream->clock, &op->clock);
	stream->end_ns = later(stream->end_ns, op->queued_ns) + jitter;
	if (jitter && !context->error) {
		pthread_mutex_unlock(&fake.lock);
		sleep_until(stream->end_ns);
		pthread_mutex_lock(&fake.lock);
	}
	if (!context->error)
		run(stream, op);
	else if (op->kind == OP_RECORD)
		finish(op->record, stream, &stream->clock);
}
