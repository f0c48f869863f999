/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c - a stream is a thread with a queue. Operations of one engine (copies in, copies out, computing) never overlap,
 * those of different engines do.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include "broker/cuda/kernels.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum engine { ENGINE_IN, ENGINE_OUT, ENGINE_COMPUTE, ENGINES };

pthread_cond_t event_done = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t engines[ENGINES] = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER };
static CUstream streams;

static void sleep_ns(uint64_t ns)
{
	struct timespec pause = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	if (ns)
		nanosleep(&pause, NULL);
}

static void jitter(unsigned int *seed)
{
	uint64_t most_us = setting("FAKECUDA_JITTER_US", 0);

	if (most_us)
		sleep_ns((uint64_t)rand_r(seed) % (most_us * 1000));
}

static void run_kernel(const struct op *op)
{
	void *params[8];

	for (unsigned int i = 0; i < 8; i++)
		params[i] = (void *)(uintptr_t)&op->params[i];
	op->kernel->run(params);
	sleep_ns(setting("FAKECUDA_KERNEL_US", 0) * 1000);
}

/* Without the lock. */
static void run_on_engine(const struct op *op)
{
	enum engine engine = op->kind == OP_COPY_IN ? ENGINE_IN : op->kind == OP_COPY_OUT ? ENGINE_OUT : ENGINE_COMPUTE;
	uint64_t mbps = setting("FAKECUDA_COPY_MBPS", 0);

	pthread_mutex_lock(&engines[engine]);
	if (op->kind == OP_KERNEL)
		run_kernel(op);
	else if (op->kind == OP_FILL)
		memset(op->to, (int)op->params[0], op->bytes);
	else
		memcpy(op->to, op->from, op->bytes);
	if (mbps && engine != ENGINE_COMPUTE)
		sleep_ns(op->bytes * 1000 / mbps);
	pthread_mutex_unlock(&engines[engine]);
}

/* With the lock, which it gives up meanwhile. */
static void run(const struct op *op)
{
	struct CUevent_st *event = op->event;

	switch (op->kind) {
	case OP_RECORD:
		if (event->n_done < op->record)
			event->n_done = op->record;
		pthread_cond_broadcast(&event_done);
		return;
	case OP_WAIT:
		while (event->n_done < op->record && !is_stuck())
			pthread_cond_wait(&event_done, &fake_lock);
		return;
	case OP_CALL:
		order_publish(&op->clock);
		pthread_mutex_unlock(&fake_lock);
		op->function(op->data);
		break;
	default:
		pthread_mutex_unlock(&fake_lock);
		run_on_engine(op);
	}
	pthread_mutex_lock(&fake_lock);
}

static void *stream_main(void *arg)
{
	CUstream stream = arg;
	unsigned int seed = stream->entity;

	pthread_mutex_lock(&fake_lock);
	for (;;) {
		struct op *op = stream->first;

		if (!op && stream->is_ending)
			break;
		if (!op || is_stuck()) {
			pthread_cond_wait(&stream->changed, &fake_lock);
			continue;
		}
		pthread_mutex_unlock(&fake_lock);
		jitter(&seed);
		pthread_mutex_lock(&fake_lock);
		run(op);
		stream->first = op->next;
		if (!stream->first)
			stream->last = &stream->first;
		stream->n_done++;
		pthread_cond_broadcast(&stream->changed);
		free(op->owned);
		free(op);
	}
	pthread_mutex_unlock(&fake_lock);
	return NULL;
}

CUstream stream_new(void)
{
	CUstream stream = calloc(1, sizeof(*stream));

	if (!stream)
		abort();
	stream->entity = entity_new(&stream->clock);
	stream->last = &stream->first;
	pthread_cond_init(&stream->changed, NULL);
	if (pthread_create(&stream->thread, NULL, stream_main, stream))
		abort();
	stream->next = streams;
	streams = stream;
	ledger->streams++;
	return stream;
}

void stream_end(CUstream stream)
{
	CUstream *at = &streams;

	while (*at != stream)
		at = &(*at)->next;
	*at = stream->next;
	ledger->streams--;
	if (!stream->first)
		entity_end(stream->entity, &stream->clock);
	stream->is_ending = true;
	pthread_cond_broadcast(&stream->changed);
	/* The queue is done first, as on the real one; whoever destroys it does not wait for that. */
	pthread_detach(stream->thread);
}

void stream_put(CUstream stream, const struct op *op)
{
	struct op *copy = malloc(sizeof(*copy));

	if (!copy)
		abort();
	*copy = *op;
	copy->next = NULL;
	clock_join(&stream->clock, host_clock());
	stream->clock.at[stream->entity]++;
	copy->clock = stream->clock;
	order_check(copy, stream->entity);
	*stream->last = copy;
	stream->last = &copy->next;
	stream->n_queued++;
	pthread_cond_broadcast(&stream->changed);
}

void stream_wait_idle(CUstream stream)
{
	uint64_t n = stream->n_queued;
	struct clock clock = stream->clock;

	while (stream->n_done < n && !is_stuck())
		pthread_cond_wait(&stream->changed, &fake_lock);
	clock_join(host_clock(), &clock);
}

/* Whoever waits looks again. */
void streams_wake(void)
{
	for (CUstream stream = streams; stream; stream = stream->next)
		pthread_cond_broadcast(&stream->changed);
	pthread_cond_broadcast(&event_done);
}

bool stream_is_known(const struct CUstream_st *stream)
{
	const struct CUstream_st *at = streams;

	while (at && at != stream)
		at = at->next;
	return at;
}

bool streams_use(const void *address, size_t bytes)
{
	const char *begin = address;

	for (CUstream stream = streams; stream; stream = stream->next)
		for (const struct op *op = stream->first; op; op = op->next)
			for (unsigned int i = 0; i < op->n_touches; i++)
				if (begin < op->touches[i].address + op->touches[i].bytes && op->touches[i].address < begin + bytes)
					return true;
	return false;
}
