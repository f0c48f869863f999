/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h - what waits for one model. Pure code: no clock, no I/O, no allocation, no knowledge of
 * sessions or executors; the simulator links the same objects.
 *
 * Each client has a FIFO of its own per model and class; clients that have something stand in their class's
 * ring, which batch.h takes from in turn, the highest class first.
 */
#ifndef BROKER_POLICY_QUEUE_H
#define BROKER_POLICY_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#define QUEUE_CLASSES 4u /* priorities: INF_PRIORITY_MAX + 1 */

/* A waiting request; embedded in the owner's job. */
struct queue_item {
	struct queue_item *next, *prev;
	struct queue_client *client; /* NULL = not queued */
	uint32_t rows;		     /* in all */
	uint32_t first;		     /* first row that has not been taken */
};

/* One client's FIFO for one model and class. */
struct queue_client {
	struct queue_client *next, *prev; /* ring of clients that have something */
	struct queue_item *head, *tail;
	uint64_t rows; /* not taken yet */
	uint32_t class; /* < QUEUE_CLASSES, constant */
};

struct queue {
	struct queue_client *turns[QUEUE_CLASSES]; /* next in each ring, NULL = empty */
	uint64_t rows;
	uint64_t n_items;
};

static inline bool queue_is_empty(const struct queue *queue)
{
	return !queue->n_items;
}

/* The highest class of which something waits; 0 where nothing does. */
static inline uint32_t queue_class(const struct queue *queue)
{
	uint32_t class = QUEUE_CLASSES - 1;

	while (class && !queue->turns[class])
		class--;
	return class;
}

/* Appends to the client's FIFO. */
void queue_push(struct queue *queue, struct queue_client *client, struct queue_item *item);

/* Puts an item (or the rest of it) back at the head: for rows whose executor died before they started. */
void queue_push_front(struct queue *queue, struct queue_client *client, struct queue_item *item);

/* Removes an item wherever it stands; nothing where it is not queued. */
void queue_remove(struct queue *queue, struct queue_item *item);

#endif /* BROKER_POLICY_QUEUE_H */
