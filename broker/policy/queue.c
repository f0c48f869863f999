/* SPDX-License-Identifier: Apache-2.0 */
/* queue.c - round robin over clients, first in first out within one. */
#include "broker/policy/queue.h"
#include <stddef.h>

static void ring_insert(struct queue *queue, struct queue_client *client)
{
	struct queue_client *turn = queue->turn;

	if (!turn) {
		client->next = client->prev = client;
		queue->turn = client;
		return;
	}
	/* Just before the one whose turn it is: last in the ring. */
	client->next = turn;
	client->prev = turn->prev;
	turn->prev->next = client;
	turn->prev = client;
}

static void ring_remove(struct queue *queue, struct queue_client *client)
{
	if (client->next == client) {
		queue->turn = NULL;
	} else {
		client->prev->next = client->next;
		client->next->prev = client->prev;
		if (queue->turn == client)
			queue->turn = client->next;
	}
	client->next = client->prev = NULL;
}

static void count(struct queue *queue, struct queue_item *item)
{
	if (!item->client->head->next)
		ring_insert(queue, item->client);
	item->client->rows += item->rows - item->first;
	queue->rows += item->rows - item->first;
	queue->n_items++;
}

void queue_push(struct queue *queue, struct queue_client *client, struct queue_item *item)
{
	item->client = client;
	item->next = NULL;
	item->prev = client->tail;
	if (client->tail)
		client->tail->next = item;
	else
		client->head = item;
	client->tail = item;
	count(queue, item);
}

void queue_push_front(struct queue *queue, struct queue_client *client, struct queue_item *item)
{
	item->client = client;
	item->prev = NULL;
	item->next = client->head;
	if (client->head)
		client->head->prev = item;
	else
		client->tail = item;
	client->head = item;
	count(queue, item);
}

void queue_remove(struct queue *queue, struct queue_item *item)
{
	struct queue_client *client = item->client;

	if (!client)
		return;
	if (item->prev)
		item->prev->next = item->next;
	else
		client->head = item->next;
	if (item->next)
		item->next->prev = item->prev;
	else
		client->tail = item->prev;
	client->rows -= item->rows - item->first;
	queue->rows -= item->rows - item->first;
	queue->n_items--;
	item->next = item->prev = NULL;
	item->client = NULL;
	if (!client->head)
		ring_remove(queue, client);
}

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

uint32_t queue_take(struct queue *queue, uint32_t rows_max, bool split, struct queue_part *ret_parts,
		    uint32_t n_parts_max)
{
	uint32_t n = 0, room = rows_max;

	while (queue->turn && n < n_parts_max && room) {
		struct queue_client *client = queue->turn;
		struct queue_item *item = client->head;

		/* What is larger than an empty batch must be split all the same, else it would wait for ever. */
		if (!split && item->rows - item->first > room && n > 0)
			break;
		ret_parts[n].item = item;
		ret_parts[n].first = item->first;
		ret_parts[n].rows = take_rows(queue, item, room);
		room -= ret_parts[n].rows;
		n++;
		if (queue->turn == client)
			queue->turn = client->next;
	}
	return n;
}

void queue_untake(struct queue *queue, struct queue_client *client, const struct queue_part *part)
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
