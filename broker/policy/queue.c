/* SPDX-License-Identifier: Apache-2.0 */
/* queue.c - classes, round robin over clients within one, first in first out within a client. */
#include "broker/policy/queue.h"
#include <stddef.h>

static void ring_insert(struct queue *queue, struct queue_client *client)
{
	struct queue_client *turn = queue->turns[client->class];

	if (!turn) {
		client->next = client->prev = client;
		queue->turns[client->class] = client;
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
		queue->turns[client->class] = NULL;
	} else {
		client->prev->next = client->next;
		client->next->prev = client->prev;
		if (queue->turns[client->class] == client)
			queue->turns[client->class] = client->next;
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
