/* SPDX-License-Identifier: Apache-2.0 */
/* instance.c - an instance thread: wait for a batch, run it, publish its end. Hot file. */
#define _GNU_SOURCE 1
#include "broker/executor/instance.h"
#include "broker/executor/assemble.h"
#include "broker/executor/device.h"
#include "shm/lane.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

bool instance_spin(struct instance *instance)
{
	uint64_t spin_ns = instance->executor->options.spin_ns, until, now_ns;

	/* Where batches take longer than a park and a wake, so do the pauses between them. */
	if (instance->last_ns >= spin_ns)
		return false;
	now_ns = assemble_now_ns();
	if (now_ns < instance->no_spin_until_ns)
		return false;
	for (until = now_ns + spin_ns; now_ns < until;) {
		uint64_t before_ns = now_ns;

		if (queue_has_batch(&instance->queue))
			return true;
		sched_yield(); /* the front may share our core */
		now_ns = assemble_now_ns();
		if (now_ns - before_ns > INF_YIELD_LOST_NS)
			instance->no_spin_until_ns = now_ns + INF_NO_SPIN_NS;
	}
	return false;
}

const struct loaded_model *instance_model(const struct instance *instance, const struct batch *batch)
{
	/* Acquire: pairs with the loader's release. */
	return batch->model < EXECUTOR_MODELS_MAX ? __atomic_load_n(&instance->executor->models[batch->model], __ATOMIC_ACQUIRE) :
						    NULL;
}

static void run(struct instance *instance)
{
	struct batch *batch = &instance->assembly->batch;
	const struct loaded_model *model = instance_model(instance, batch);

	if (model)
		assemble_run(instance->assembly, model);
	else
		batch_fail(batch);
}

static void begin_thread(const struct instance *instance)
{
	const struct executor *executor = instance->executor;

#if defined(__x86_64__)
	_mm_setcsr(_mm_getcsr() | 0x8040); /* flush denormals to zero: they are 100 times slower */
#endif
	if (executor->device)
		device_enter(executor->device);
	for (uint32_t i = 0; i < executor->n_backends; i++)
		if (executor->backends[i]->thread_begin)
			executor->backends[i]->thread_begin(instance->idx);
}

static void *instance_main(void *arg)
{
	struct instance *instance = arg;

	begin_thread(instance);
	for (;;) {
		uint64_t begin_ns;

		if (!queue_has_batch(&instance->queue) && !instance_spin(instance))
			queue_park(&instance->queue);
		begin_ns = assemble_now_ns();
		queue_take(&instance->queue, &instance->assembly->batch);
		run(instance);
		instance->last_ns = assemble_now_ns() - begin_ns;
		queue_publish(&instance->queue, &instance->assembly->batch, instance->assembly->run_ns, begin_ns,
			      instance->last_ns);
	}
	return NULL;
}

static void *device_main(void *arg)
{
	begin_thread(arg);
	return device_instance_main(arg);
}

static int assembly_open(struct instance *instance)
{
	instance->assembly = calloc(1, sizeof(*instance->assembly));
	if (!instance->assembly)
		return -ENOMEM;
	instance->assembly->instance = instance->idx;
	return 0;
}

int instance_start(struct executor *executor, uint32_t idx, int dispatch_fd, int done_fd, int bell_fd)
{
	struct instance *instance;
	char name[16];
	pthread_t thread;
	int r;

	if (idx >= executor->n_instances || executor->instances[idx])
		return -EINVAL;
	instance = calloc(1, sizeof(*instance));
	if (!instance)
		return -ENOMEM;
	instance->executor = executor;
	instance->idx = idx;
	r = queue_open(&instance->queue, dispatch_fd, done_fd, bell_fd);
	if (!r && executor->device)
		r = device_instance_open(instance);
	else if (!r)
		r = assembly_open(instance);
	if (r)
		return r; /* the front kills an executor that cannot start: the process ends */
	r = pthread_create(&thread, NULL, executor->device ? device_main : instance_main, instance);
	if (r)
		return -r;
	snprintf(name, sizeof(name), "inf-inst-%u", idx % INF_INSTANCES);
	pthread_setname_np(thread, name);
	executor->instances[idx] = instance;
	return 0;
}
