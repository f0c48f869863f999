/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - round robin over clients, so that each adds one request before any adds a second. */
#include "broker/policy/batch.h"
#include <stddef.h>

/* Takes rows of the head item; the item leaves the queue with its last row. */
static uint32_t take_rows(struct queue *queue, struct queue_item *item, uint32_t room)
{
	uint32_t rows = item->rows - item->first;

	if (rows <= room) {
		queue_remove(queue, item);
		item->first = item->rows;
		return rows;
	}
	item->first += room;
	item->client->rows -= room;
	queue->rows -= room;
	return room;
}

uint32_t batch_take(struct queue *queue, uint32_t rows_max, bool split, struct batch_part *ret_parts,
		    uint32_t n_parts_max)
{
	uint32_t n = 0, room = rows_max;

	while (!queue_is_empty(queue) && n < n_parts_max && room) {
		struct queue_client *client = queue->turns[queue_class(queue)];
		struct queue_item *item = client->head;

		/* What is larger than an empty batch must be split all the same, else it would wait for ever. */
		if (!split && item->rows - item->first > room && n > 0)
			break;
		ret_parts[n].item = item;
		ret_parts[n].first = item->first;
		ret_parts[n].rows = take_rows(queue, item, room);
		room -= ret_parts[n].rows;
		n++;
		if (queue->turns[client->class] == client)
			queue->turns[client->class] = client->next;
	}
	return n;
}

void batch_untake(struct queue *queue, struct queue_client *client, const struct batch_part *part)
{
	struct queue_item *item = part->item;

	if (item->client) { /* its later rows still wait */
		uint32_t rows = item->first - part->first;

		item->first = part->first;
		client->rows += rows;
		queue->rows += rows;
		return;
	}
	item->first = part->first;
	queue_push_front(queue, client, item);
}
