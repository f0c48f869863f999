/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch.h - which of the waiting rows make the next batch. Pure code.
 *
 * The highest class first; in it one request from each client in turn (round robin), so that a client with a deep queue delays
 * nobody else by more than one request per turn. A request of many rows may be taken in parts. How
 * many rows there should be is timing.h's matter.
 */
#ifndef BROKER_POLICY_BATCH_H
#define BROKER_POLICY_BATCH_H

#include "broker/policy/queue.h"

/* Some rows of one item, as taken for a batch. */
struct batch_part {
	struct queue_item *item;
	uint32_t first;
	uint32_t rows;
};

/*
 * Takes up to rows_max rows into at most n_parts_max parts. An item whose last row was taken has left the
 * queue. `split` = an item may be taken in part; without it only an item that is larger than a whole batch is.
 * Returns the number of parts.
 */
uint32_t batch_take(struct queue *queue, uint32_t rows_max, bool split, struct batch_part *ret_parts,
		    uint32_t n_parts_max);

/* Undoes the taking of an item's last part, for a batch that had no room for it after all. */
void batch_untake(struct queue *queue, struct queue_client *client, const struct batch_part *part);

#endif /* BROKER_POLICY_BATCH_H */
