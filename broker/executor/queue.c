/* SPDX-License-Identifier: Apache-2.0 */
/* queue.c - batches out of the dispatch region, ends into the done region. Hot file. */
#define _GNU_SOURCE 1
#include "broker/executor/queue.h"
#include "broker/executor/executor.h"
#include "shm/lane.h"
#include "shm/region.h"
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

void batch_fail(struct batch *batch)
{
	for (uint32_t e = 0; e < batch->n_entries; e++)
		batch->ends[e] = (struct inf_row_end){ .status = INF_MODEL_ERROR };
}

int queue_open(struct queue *queue, int dispatch_fd, int done_fd, int bell_fd)
{
	void *address;
	int r = inf_region_map(dispatch_fd, inf_region_round(sizeof(*queue->dispatch)), false, 0, &address);

	if (r)
		return r;
	queue->dispatch = address;
	r = inf_region_map(done_fd, inf_region_round(sizeof(*queue->done)), true, 0, &address);
	if (r)
		return r;
	queue->done = address;
	queue->bell_fd = bell_fd;
	return inf_region_populate(queue->done, inf_region_round(sizeof(*queue->done)), true);
}

static const struct inf_batch_slot *next_slot(const struct queue *queue)
{
	return &queue->dispatch->slots[queue->taken % INF_BATCHES];
}

bool queue_has_batch(const struct queue *queue)
{
	/* Acquire: pairs with the front's release; entries are visible. */
	return inf_load64_acquire(&next_slot(queue)->seq) == queue->taken + 1;
}

const uint32_t *queue_word(const struct queue *queue)
{
	return (const uint32_t *)(const void *)&next_slot(queue)->seq;
}

void queue_set_parked(struct queue *queue, bool is_parked)
{
	inf_store32(&queue->done->parked.v, is_parked);
	/* parked before our last look; pairs with the front's fence between its sequence and its look at parked. */
	if (is_parked)
		inf_fence(INF_FENCE_EXECUTOR_PARK);
}

void queue_park(struct queue *queue)
{
	const uint32_t *word = queue_word(queue);

	queue_set_parked(queue, true);
	for (;;) {
		uint32_t seen = inf_load32_acquire(word);

		if (queue_has_batch(queue))
			break;
		syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
	}
	queue_set_parked(queue, false);
}

void queue_take(struct queue *queue, struct batch *batch)
{
	uint32_t at = (uint32_t)(queue->taken % INF_BATCHES);
	struct inf_batch_slot slot;

	inf_store64_release(&queue->done->started.v, queue->taken + 1);
	memcpy(&slot, next_slot(queue), sizeof(slot));
	queue->taken++;
	batch->n_entries = 0;
	batch->model = EXECUTOR_MODELS_MAX;
	if (slot.n_entries > INF_BATCH_MAX || slot.n_ext > INF_EXT_PER_BATCH || slot.model >= EXECUTOR_MODELS_MAX)
		return;
	batch->is_urgent = slot.priority > INF_PRIORITY_DEFAULT;
	batch->n_entries = slot.n_entries;
	batch->model = slot.model;
	memcpy(batch->entries, queue->dispatch->entries[at], slot.n_entries * sizeof(batch->entries[0]));
	memcpy(batch->ext, queue->dispatch->ext[at], slot.n_ext * sizeof(batch->ext[0]));
}

void queue_publish(struct queue *queue, const struct batch *batch, uint64_t run_ns, uint64_t begin_ns, uint64_t work_ns)
{
	uint32_t at = (uint32_t)(queue->published % INF_BATCHES);
	struct inf_done_slot *slot = &queue->done->slots[at];
	uint64_t one = 1;

	memcpy(queue->done->ends[at], batch->ends, batch->n_entries * sizeof(batch->ends[0]));
	slot->batch = queue->published;
	slot->run_ns = run_ns;
	slot->work_ns = work_ns;
	slot->begin_ns = begin_ns;
	/* Release: pairs with the front's acquire; ends and outputs are visible. */
	inf_store64_release(&slot->seq, queue->published + 1);
	/* The sequence before our look at done_wake; pairs with the front's fence before it looks again. */
	inf_fence(INF_FENCE_EXECUTOR_PUBLISH);
	if (inf_load64(&queue->dispatch->done_wake.v) == queue->published)
		(void)!write(queue->bell_fd, &one, sizeof(one));
	queue->published++;
}
