/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h - an instance's end of its pair of regions: batches come in order, their ends go back in order, and as many as
 * the dispatch region holds may be taken before the first one has ended.
 *
 * Sleeping: parked = 1; seq_cst fence; look at the next slot again; FUTEX_WAIT on the low half of its sequence. Waking the
 * front: done sequence (release); seq_cst fence; where done_wake names this batch, write the bell. `started` is stored before
 * a row is touched: it tells the front which batches a dead executor took with it.
 */
#ifndef BROKER_EXECUTOR_QUEUE_H
#define BROKER_EXECUTOR_QUEUE_H

#include "shm/layout.h"
#include <stdbool.h>

struct queue {
	const struct inf_dispatch_region *dispatch;
	struct inf_done_region *done;
	int bell_fd;
	uint64_t taken;	    /* batches */
	uint64_t published; /* of them */
};

/* What runs together, copied out of shared memory, and its ends. */
struct batch {
	struct inf_batch_entry entries[INF_BATCH_MAX];
	struct inf_ext_tensor ext[INF_EXT_PER_BATCH];
	uint32_t n_entries;
	uint32_t model; /* the front's id; EXECUTOR_MODELS_MAX or more where the batch does not make sense */
	bool is_urgent; /* somebody in it asked for more than the default priority */
	struct inf_row_end ends[INF_BATCH_MAX];
};

/* Each of its entries ends with MODEL_ERROR. */
void batch_fail(struct batch *batch);

/* Maps both regions. 0, or a negative errno. */
int queue_open(struct queue *queue, int dispatch_fd, int done_fd, int bell_fd);

bool queue_has_batch(const struct queue *queue);

/* The word that changes when the next batch comes. */
const uint32_t *queue_word(const struct queue *queue);

/* Says "parked", or no more; after the first, queue_has_batch() must be asked once more before the thread sleeps. */
void queue_set_parked(struct queue *queue, bool is_parked);

/* Sleeps until there is a batch. */
void queue_park(struct queue *queue);

/* Takes the next one, which must be there. */
void queue_take(struct queue *queue, struct batch *batch);

/*
 * Hands the ends of the first one that was not handed over yet to the front, and wakes it where it asked for that. It began at
 * begin_ns and took work_ns, run_ns of which in the backend.
 */
void queue_publish(struct queue *queue, const struct batch *batch, uint64_t run_ns, uint64_t begin_ns, uint64_t work_ns);

#endif /* BROKER_EXECUTOR_QUEUE_H */
