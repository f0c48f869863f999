/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_instance.c - an instance on a device: takes a batch while the one before is still running, so that copies and
 * computing overlap, and publishes their ends in order. Hot file.
 *
 * It sleeps on two words at once: the next dispatch slot's, and one that the device's calls count up.
 */
#define _GNU_SOURCE 1
#include "broker/executor/assemble.h"
#include "broker/executor/flight.h"
#include "broker/executor/instance.h"
#include "shm/atomics.h"
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 * A device that is lost makes no calls any more: while batches are on it, we ask it this often. Where the kernel cannot wait
 * for two words (before 5.16), we look that often instead.
 */
#define ALIVE_NS 100000000ull
#define LOOK_NS	 100000ull

struct work {
	struct instance *instance;
	struct tracks tracks[TRACKS]; /* [1] for urgent batches: the device turns to them first */
	struct flight flights[INSTANCE_FLIGHTS];
	uint64_t start_ns[INSTANCE_FLIGHTS];
	uint32_t wake;	 /* atomic: see flight.h */
	uint64_t n_started, n_ended;
	bool has_no_waitv;
};

/*
 * When the device was last done with a batch, whosever it was. Batches that overlap share the device: what one costs is the
 * time since the one before it, not the time that it was there.
 */
static uint64_t last_end_ns;

int device_instance_open(struct instance *instance)
{
	struct work *work = calloc(1, sizeof(*work));
	const struct device *device = instance->executor->device;
	int r;

	if (!work)
		return -ENOMEM;
	work->instance = instance;
	device_enter(device);
	r = tracks_open(&work->tracks[0], device, 0, device->priority_least);
	if (!r)
		r = tracks_open(&work->tracks[1], device, 1, device->priority_greatest);
	for (uint32_t i = 0; !r && i < INSTANCE_FLIGHTS; i++)
		r = flight_open(&work->flights[i], device, instance->idx, instance->idx * INSTANCE_FLIGHTS + i, &work->wake);
	instance->flights = work->flights;
	instance->work = work;
	return r;
}

static struct flight *oldest(struct work *work)
{
	return &work->flights[work->n_ended % INSTANCE_FLIGHTS];
}

static void start_next(struct work *work)
{
	uint32_t at = (uint32_t)(work->n_started++ % INSTANCE_FLIGHTS);
	struct flight *flight = &work->flights[at];

	work->start_ns[at] = assemble_now_ns();
	queue_take(&work->instance->queue, &flight->batch);
	flight_start(flight, &work->tracks[flight->batch.is_urgent], instance_model(work->instance, &flight->batch));
}

static void end_oldest(struct work *work)
{
	uint32_t at = (uint32_t)(work->n_ended++ % INSTANCE_FLIGHTS);
	struct flight *flight = &work->flights[at];
	uint64_t begin_ns = work->start_ns[at], before_ns, now_ns;

	flight_finish(flight);
	before_ns = __atomic_exchange_n(&last_end_ns, flight->end_ns, __ATOMIC_RELAXED);
	if (before_ns > begin_ns && before_ns < flight->end_ns)
		begin_ns = before_ns;
	now_ns = assemble_now_ns();
	work->instance->last_ns = now_ns - begin_ns;
	queue_publish(&work->instance->queue, &flight->batch, flight->end_ns - begin_ns, begin_ns, now_ns - begin_ns);
}

/* Until one of the words is another, or `ns` have passed. */
static void sleep_on(struct work *work, uint32_t seen_wake, const uint32_t *queue_at, uint32_t seen_queue, uint64_t ns)
{
	struct futex_waitv waits[2] = {
		{ .val = seen_wake, .uaddr = (uintptr_t)&work->wake, .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG },
		{ .val = seen_queue, .uaddr = (uintptr_t)queue_at, .flags = FUTEX_32 },
	};
	uint64_t end_ns = assemble_now_ns() + ns;
	struct timespec until = { .tv_sec = (time_t)(end_ns / 1000000000u), .tv_nsec = (long)(end_ns % 1000000000u) };
	struct timespec pause = { .tv_nsec = LOOK_NS };

	if (!work->has_no_waitv) {
		if (syscall(SYS_futex_waitv, waits, queue_at ? 2 : 1, 0, &until, CLOCK_MONOTONIC) < 0 &&
		    (errno == ENOSYS || errno == EPERM))
			work->has_no_waitv = true;
		return;
	}
	syscall(SYS_futex, &work->wake, FUTEX_WAIT_PRIVATE, seen_wake, &pause, NULL, 0);
}

/* Something is on the device, and there may be room for more. */
static void await(struct work *work)
{
	struct queue *queue = &work->instance->queue;
	bool has_room = work->n_started - work->n_ended < INSTANCE_FLIGHTS;
	const struct device *device = work->instance->executor->device;
	uint32_t seen_wake = inf_load32_acquire(&work->wake), seen_queue = 0;
	uint64_t begin_ns = assemble_now_ns();

	if (has_room) {
		queue_set_parked(queue, true);
		seen_queue = inf_load32_acquire(queue_word(queue));
	}
	if (!flight_is_done(oldest(work)) && !(has_room && queue_has_batch(queue)))
		sleep_on(work, seen_wake, has_room ? queue_word(queue) : NULL, seen_queue, ALIVE_NS);
	if (has_room)
		queue_set_parked(queue, false);
	if (assemble_now_ns() - begin_ns >= ALIVE_NS) {
		CUresult result = device->driver.stream_query(oldest(work)->tracks->out);

		if (result != CUDA_ERROR_NOT_READY)
			device_ok(device, result, "asking whether the device is alive");
	}
}

void *device_instance_main(void *arg)
{
	struct instance *instance = arg;
	struct work *work = instance->work;

	for (;;) {
		uint64_t n_flying = work->n_started - work->n_ended;

		/* First feed the device, then see to what it has done. */
		if (n_flying < INSTANCE_FLIGHTS && queue_has_batch(&instance->queue))
			start_next(work);
		else if (n_flying && flight_is_done(oldest(work)))
			end_oldest(work);
		else if (n_flying)
			await(work);
		else if (!instance_spin(instance))
			queue_park(&instance->queue);
	}
	return NULL;
}
