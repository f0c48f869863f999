/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatch.c - batches into dispatch regions. Hot file.
 *
 * An instance has at most two batches: one that runs and one that waits ready behind it, so that it never waits for us.
 * The one behind is only made when it is full: until the instance is free, a smaller one is better left growing. While
 * several models are asked for, none is made behind a batch that takes longer than BEHIND_WAKES wake-ups: whoever else comes
 * would have to wait for both. (Of one model alone it is worth 12 %, also where batches take 9 ms: with all cores computing,
 * the front comes late to refill an instance.)
 *
 * A sleeping instance is not woken while another one will be done sooner than the sleeper would be awake: waking it would
 * cost the request W instead of less, and both of them their place on a core.
 */
#include "broker/dispatch.h"
#include "broker/output.h"
#include "broker/policy/timing.h"
#include "broker/stats.h"
#include "shm/probes.h"
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BEHIND_WAKES 50u
#define MIXED_NS     200000000u /* after a batch of another model than the one before */

/* Will what it runs have ended before a sleeper could be awake? Unknown counts as no. */
static bool ends_soon(const struct broker *broker, const struct instance *instance)
{
	const struct batch *batch = &instance->batches[instance->head % INF_BATCHES];

	return batch->predicted_ns && batch->predicted_ns < broker->wake_ns;
}

/* Is a batch behind the one that runs worth it? Unknown time counts as short. */
static bool takes_one_behind(const struct broker *broker, const struct instance *instance)
{
	const struct batch *batch = &instance->batches[instance->head % INF_BATCHES];

	return instance->tail - instance->head == 1 &&
	       (broker->now_ns >= broker->mixed_until_ns || batch->predicted_ns < BEHIND_WAKES * (uint64_t)broker->wake_ns);
}

struct instance *dispatch_free_instance(struct broker *broker, bool *ret_full)
{
	struct executor *executor = &broker->executor;
	struct instance *behind = NULL, *sleeper = NULL;
	bool soon = false;

	*ret_full = false;
	if (executor->state != EXECUTOR_READY)
		return NULL;
	for (uint32_t i = 0; i < executor->n_instances; i++) {
		struct instance *instance = &executor->instances[i];

		if (instance->tail == instance->head) {
			/* A hint: the executor may write what it likes. */
			if (!inf_load32(&instance->done->parked.v))
				return instance;
			if (!sleeper)
				sleeper = instance;
			continue;
		}
		soon |= ends_soon(broker, instance);
		if (!behind && takes_one_behind(broker, instance))
			behind = instance;
	}
	if (sleeper && !soon)
		return sleeper;
	*ret_full = true;
	return behind;
}

uint32_t dispatch_rows(const struct broker *broker, const struct model *model, bool full)
{
	const struct executor *executor = &broker->executor;
	uint64_t waiting = model->queue.rows;
	uint32_t n_free = 0, rows;

	if (full || waiting <= 1)
		return model->batch_best;
	for (uint32_t i = 0; i < executor->n_instances; i++)
		n_free += executor->instances[i].tail == executor->instances[i].head;
	/* What fills all of them needs no sharing out. */
	if (waiting >= (uint64_t)n_free * model->batch_best)
		return model->batch_best;
	/* By what warm-up measured: a size that is not used any more does not get its t[b] corrected, so one
	 * slow lone row would end the sharing for long. */
	rows = timing_share_rows(model->base_ns, (uint32_t)waiting, n_free, broker->wake_ns);
	return rows < model->batch_best ? rows : model->batch_best;
}

/* The next model in turn for which something of that class or a higher one waits, from `i` steps on; NULL = none. */
static struct model *next_waiting(const struct broker *broker, uint32_t i, uint32_t class, uint32_t *ret_i)
{
	for (; i < broker->models_end; i++) {
		struct model *model = broker->models[(broker->model_turn + i) % broker->models_end];

		if (model && model->loaded && !queue_is_empty(&model->queue) && queue_class(&model->queue) >= class) {
			*ret_i = i;
			return model;
		}
	}
	return NULL;
}

struct model *dispatch_pick_model(struct broker *broker, bool full)
{
	struct model *model = NULL, *urgent;
	uint32_t class = 0, i, other;

	/* The first in turn of the highest class that any model has. */
	while (class < QUEUE_CLASSES && (urgent = next_waiting(broker, 0, class, &i))) {
		model = urgent;
		class = queue_class(&model->queue) + 1;
	}
	if (!model)
		return NULL;
	next_waiting(broker, 0, class - 1, &i);
	/* Growing pays only while nobody else waits: or a model that keeps its batches full would have the place
	 * behind the running batch for ever, and a sparse one no turn at all. */
	if (full && model->queue.rows < model->batch_best && !next_waiting(broker, i + 1, 0, &other))
		return NULL;
	broker->model_turn = (broker->model_turn + i) % broker->models_end + 1;
	return model;
}

static void write_entry(struct inf_batch_entry *entry, const struct job *job, const struct batch_part *part,
			uint32_t ext_idx)
{
	const struct output *output = &job->session->outputs[job->out_idx];

	*entry = (struct inf_batch_entry){
		.session = job->session->id,
		.flags = (job->ext >= 0 ? INF_ENTRY_EXT : 0) | job->twin_flags,
		.in_offset = job->in_offset,
		.in_region = job->in_region,
		.rows_total = job->rows,
		.first_row = part->first,
		.n_rows = part->rows,
		.out_region = output->pool->region,
		.ext_idx = (uint16_t)ext_idx,
		/* Of several parts nobody on the device knows which ends last: then the word is ours alone to write. */
		.timeline = part->rows == job->rows ? job->timeline : 0,
		.out_offset = output_offset(output),
		.out_length = output_bytes(output),
		.done_at = job->done_at,
	};
}

static void wake(struct instance *instance, struct inf_batch_slot *slot)
{
	/* The batch's sequence before our look at `parked`; pairs with the instance's fence between the two. */
	inf_fence(INF_FENCE_FRONT_DISPATCH);
	if (inf_load32(&instance->done->parked.v))
		/* The low half of the little-endian sequence is the futex. */
		syscall(SYS_futex, (uint32_t *)(void *)&slot->seq, FUTEX_WAKE, 1, NULL, NULL, 0);
}

uint32_t dispatch_batch(struct broker *broker, struct instance *instance, struct model *model,
			const struct batch_part *parts, uint32_t n_parts)
{
	uint32_t at = (uint32_t)(instance->tail % INF_BATCHES), n_ext = 0, n_rows = 0, priority = 0, n = 0;
	struct inf_batch_slot *slot = &instance->dispatch->slots[at];
	struct batch *batch = &instance->batches[at];

	for (; n < n_parts; n++) {
		struct job *job = (struct job *)parts[n].item;

		if (job->ext >= 0) {
			uint32_t n_inputs = model->signature.n_inputs;

			if (n_ext + n_inputs > INF_EXT_PER_BATCH)
				break;
			for (uint32_t k = 0; k < n_inputs; k++)
				instance->dispatch->ext[at][n_ext + k] = broker->ext_blocks[job->ext].tensors[k];
		}
		write_entry(&instance->dispatch->entries[at][n], job, &parts[n], n_ext);
		n_ext += job->ext >= 0 ? model->signature.n_inputs : 0;
		n_rows += parts[n].rows;
		if (job->class > priority)
			priority = job->class;
		job->rows_running += parts[n].rows;
		job->dispatched_ns = broker->now_ns;
		job->executed = true;
		batch->parts[n] = parts[n];
	}
	if (broker->last_model != model->id) {
		broker->last_model = model->id;
		broker->mixed_until_ns = broker->now_ns + MIXED_NS;
	}
	batch->model = model;
	batch->n_parts = n;
	batch->n_rows = n_rows;
	batch->dispatched_ns = broker->now_ns;
	batch->predicted_ns = timing_predict_ns(model->time_ns, n_rows);
	model->rows_running += n_rows;
	broker->n_running++;

	slot->batch = instance->tail;
	slot->model = model->id;
	slot->n_entries = n;
	slot->n_rows = n_rows;
	slot->n_ext = n_ext;
	slot->priority = priority;
	INF_PROBE4(dispatch, instance->idx, instance->tail, model->id, n_rows);
	/* Release: pairs with the instance's acquire, it sees the entries. */
	inf_store64_release(&slot->seq, instance->tail + 1);
	instance->tail++;
	stats_instance_dispatched(broker, instance, model, n_rows);
	wake(instance, slot);
	return n;
}
