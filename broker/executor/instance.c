/* SPDX-License-Identifier: Apache-2.0 */
/*
 * instance.c - wait for a batch, run it, publish its end. Hot file.
 *
 * Sleeping: parked = 1; seq_cst fence; look at the next slot again; FUTEX_WAIT on the low half of its sequence. Waking the
 * front: done sequence (release); seq_cst fence; where done_wake names this batch, write the bell. `started` is stored before
 * a row is touched: it tells the front which batches a dead executor took with it.
 */
#define _GNU_SOURCE 1
#include "broker/executor/instance.h"
#include "broker/executor/assemble.h"
#include "shm/lane.h"
#include "shm/region.h"
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

struct instance {
	struct executor *executor;
	uint32_t idx;
	const struct inf_dispatch_region *dispatch;
	struct inf_done_region *done;
	int bell_fd;
	uint64_t pos;
	uint64_t last_ns; /* how long the last batch took */
	uint64_t no_spin_until_ns; /* a yield took too long */
	struct assembly assembly;
};

static const struct inf_batch_slot *next_slot(const struct instance *instance)
{
	return &instance->dispatch->slots[instance->pos % INF_BATCHES];
}

static bool has_batch(const struct instance *instance)
{
	/* Acquire: pairs with the front's release; entries are visible. */
	return inf_load64_acquire(&next_slot(instance)->seq) == instance->pos + 1;
}

static bool spin(struct instance *instance)
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

		if (has_batch(instance))
			return true;
		sched_yield(); /* the front may share our core */
		now_ns = assemble_now_ns();
		if (now_ns - before_ns > INF_YIELD_LOST_NS)
			instance->no_spin_until_ns = now_ns + INF_NO_SPIN_NS;
	}
	return false;
}

static void park(struct instance *instance)
{
	const uint32_t *word = (const uint32_t *)(const void *)&next_slot(instance)->seq;

	inf_store32(&instance->done->parked.v, 1);
	/* parked before our last look; pairs with the front's fence between its sequence and its look at parked. */
	inf_fence(INF_FENCE_EXECUTOR_PARK);
	for (;;) {
		uint32_t seen = inf_load32_acquire(word);

		if (has_batch(instance))
			break;
		syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
	}
	inf_store32(&instance->done->parked.v, 0);
}

/* Copies the batch into private memory; false where it does not make sense. */
static bool copy_batch(struct instance *instance, uint32_t *ret_model)
{
	uint32_t at = (uint32_t)(instance->pos % INF_BATCHES);
	struct assembly *assembly = &instance->assembly;
	struct inf_batch_slot slot;

	memcpy(&slot, next_slot(instance), sizeof(slot));
	if (slot.n_entries > INF_BATCH_MAX || slot.n_ext > INF_EXT_PER_BATCH || slot.model >= EXECUTOR_MODELS_MAX)
		return false;
	assembly->n_entries = slot.n_entries;
	memcpy(assembly->entries, instance->dispatch->entries[at], slot.n_entries * sizeof(assembly->entries[0]));
	memcpy(assembly->ext, instance->dispatch->ext[at], slot.n_ext * sizeof(assembly->ext[0]));
	*ret_model = slot.model;
	return true;
}

static void run(struct instance *instance)
{
	struct assembly *assembly = &instance->assembly;
	const struct loaded_model *model = NULL;
	uint32_t id;

	assembly->n_entries = 0;
	if (copy_batch(instance, &id))
		/* Acquire: pairs with the loader's release. */
		model = __atomic_load_n(&instance->executor->models[id], __ATOMIC_ACQUIRE);
	if (model) {
		assemble_run(assembly, model);
		return;
	}
	for (uint32_t e = 0; e < assembly->n_entries; e++)
		assembly->ends[e] = (struct inf_row_end){ .status = INF_MODEL_ERROR };
}

static void publish(struct instance *instance, uint64_t work_ns)
{
	uint32_t at = (uint32_t)(instance->pos % INF_BATCHES);
	struct inf_done_slot *slot = &instance->done->slots[at];
	uint64_t one = 1;

	memcpy(instance->done->ends[at], instance->assembly.ends,
	       instance->assembly.n_entries * sizeof(instance->assembly.ends[0]));
	slot->batch = instance->pos;
	slot->run_ns = instance->assembly.run_ns;
	slot->work_ns = work_ns;
	/* Release: pairs with the front's acquire; ends and outputs are visible. */
	inf_store64_release(&slot->seq, instance->pos + 1);
	/* The sequence before our look at done_wake; pairs with the front's fence before it looks again. */
	inf_fence(INF_FENCE_EXECUTOR_PUBLISH);
	if (inf_load64(&instance->dispatch->done_wake.v) == instance->pos)
		(void)!write(instance->bell_fd, &one, sizeof(one));
	instance->pos++;
}

static void *instance_main(void *arg)
{
	struct instance *instance = arg;
	const struct executor *executor = instance->executor;

#if defined(__x86_64__)
	_mm_setcsr(_mm_getcsr() | 0x8040); /* flush denormals to zero: they are 100 times slower */
#endif
	for (uint32_t i = 0; i < executor->n_backends; i++)
		if (executor->backends[i]->thread_begin)
			executor->backends[i]->thread_begin(instance->idx);
	for (;;) {
		uint64_t begin_ns;

		if (!has_batch(instance) && !spin(instance))
			park(instance);
		begin_ns = assemble_now_ns();
		inf_store64_release(&instance->done->started.v, instance->pos + 1);
		run(instance);
		instance->last_ns = assemble_now_ns() - begin_ns;
		publish(instance, instance->last_ns);
	}
	return NULL;
}

static int map_regions(struct instance *instance, int dispatch_fd, int done_fd)
{
	void *address;
	int r = inf_region_map(dispatch_fd, inf_region_round(sizeof(*instance->dispatch)), false, 0, &address);

	if (r)
		return r;
	instance->dispatch = address;
	r = inf_region_map(done_fd, inf_region_round(sizeof(*instance->done)), true, 0, &address);
	if (r)
		return r;
	instance->done = address;
	return inf_region_populate(instance->done, inf_region_round(sizeof(*instance->done)), true);
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
	instance->assembly.instance = idx;
	instance->bell_fd = bell_fd;
	r = map_regions(instance, dispatch_fd, done_fd);
	if (r)
		return r; /* the front kills an executor that cannot start: the process ends */
	r = pthread_create(&thread, NULL, instance_main, instance);
	if (r)
		return -r;
	snprintf(name, sizeof(name), "inf-inst-%u", idx % INF_INSTANCES);
	pthread_setname_np(thread, name);
	executor->instances[idx] = instance;
	return 0;
}
