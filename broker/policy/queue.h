/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h - what waits for one model. Pure code: no clock, no I/O, no allocation, no knowledge of
 * sessions or executors; the simulator links the same objects.
 *
 * Each client has a FIFO of its own per model; clients that have something stand in a ring, which
 * batch.h takes from in turn.
 */
#ifndef BROKER_POLICY_QUEUE_H
#define BROKER_POLICY_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

/* A waiting request; embedded in the owner's job. */
struct queue_item {
	struct queue_item *next, *prev;
	struct queue_client *client; /* NULL = not queued */
	uint32_t rows;		     /* in all */
	uint32_t first;		     /* first row that has not been taken */
};

/* One client's FIFO for one model. */
struct queue_client {
	struct queue_client *next, *prev; /* ring of clients that have something */
	struct queue_item *head, *tail;
	uint64_t rows; /* not taken yet */
};

struct queue {
	struct queue_client *turn; /* next in the ring, NULL = empty */
	uint64_t rows;
	uint64_t n_items;
};

static inline bool queue_is_empty(const struct queue *queue)
{
	return !queue->turn;
}

/* Appends to the client's FIFO. */
void queue_push(struct queue *queue, struct queue_client *client, struct queue_item *item);

/* Puts an item (or the rest of it) back at the head: for rows whose executor died before they started. */
void queue_push_front(struct queue *queue, struct queue_client *client, struct queue_item *item);

/* Removes an item wherever it stands; nothing where it is not queued. */
void queue_remove(struct queue *queue, struct queue_item *item);

#endif /* BROKER_POLICY_QUEUE_H */
