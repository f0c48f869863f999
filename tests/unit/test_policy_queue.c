/* SPDX-License-Identifier: Apache-2.0 */
/* test_policy_queue.c - round robin, splitting, removal: against the rules written in queue.h. */
#include "broker/policy/batch.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

#define N_CLIENTS 4
#define N_ITEMS 64

static struct queue queue;
static struct queue_client clients[N_CLIENTS];
static struct queue_item items[N_ITEMS];

static void setup(void)
{
	memset(&queue, 0, sizeof(queue));
	memset(clients, 0, sizeof(clients));
	memset(items, 0, sizeof(items));
}

static struct queue_item *push(unsigned int item, unsigned int client, uint32_t rows)
{
	items[item].rows = rows;
	items[item].first = 0;
	queue_push(&queue, &clients[client], &items[item]);
	return &items[item];
}

START_TEST(turns)
{
	struct batch_part parts[8];

	for (unsigned int i = 0; i < 6; i++)
		push(i, 0, 1);
	push(6, 1, 1);
	push(7, 2, 1);
	/* One of each client in turn, although client 0 came first with six. */
	ck_assert_uint_eq(batch_take(&queue, 4, true, parts, 8), 4);
	ck_assert_ptr_eq(parts[0].item, &items[0]);
	ck_assert_ptr_eq(parts[1].item, &items[6]);
	ck_assert_ptr_eq(parts[2].item, &items[7]);
	ck_assert_ptr_eq(parts[3].item, &items[1]);
	ck_assert_uint_eq(queue.rows, 4);
	ck_assert_uint_eq(batch_take(&queue, 100, true, parts, 8), 4);
	ck_assert(queue_is_empty(&queue));
	ck_assert_uint_eq(queue.n_items, 0);
}
END_TEST

START_TEST(classes)
{
	struct batch_part parts[8];

	clients[2].class = 3;
	clients[3].class = 1;
	push(0, 0, 1);
	push(1, 1, 1);
	push(2, 3, 1);
	push(3, 2, 1);
	push(4, 2, 2);
	ck_assert_uint_eq(queue_class(&queue), 3);
	/* The highest first, in turns within one; lower ones fill what is left. */
	ck_assert_uint_eq(batch_take(&queue, 5, true, parts, 8), 4);
	ck_assert_ptr_eq(parts[0].item, &items[3]);
	ck_assert_ptr_eq(parts[1].item, &items[4]);
	ck_assert_ptr_eq(parts[2].item, &items[2]);
	ck_assert_ptr_eq(parts[3].item, &items[0]);
	ck_assert_uint_eq(queue_class(&queue), 0);
	queue_remove(&queue, &items[1]);
	ck_assert(queue_is_empty(&queue));
	for (unsigned int i = 0; i < QUEUE_CLASSES; i++)
		ck_assert_ptr_null(queue.turns[i]);
}
END_TEST

START_TEST(split)
{
	struct batch_part parts[8];
	struct queue_item *item = push(0, 0, 10);

	ck_assert_uint_eq(batch_take(&queue, 4, true, parts, 8), 1);
	ck_assert_uint_eq(parts[0].first, 0);
	ck_assert_uint_eq(parts[0].rows, 4);
	ck_assert_uint_eq(item->first, 4);
	ck_assert_uint_eq(batch_take(&queue, 4, true, parts, 8), 1);
	ck_assert_uint_eq(parts[0].first, 4);
	ck_assert_uint_eq(queue.rows, 2);
	ck_assert_uint_eq(batch_take(&queue, 4, true, parts, 8), 1);
	ck_assert_uint_eq(parts[0].first, 8);
	ck_assert_uint_eq(parts[0].rows, 2);
	ck_assert_ptr_null(item->client);
}
END_TEST

START_TEST(whole)
{
	struct batch_part parts[8];

	push(0, 0, 3);
	push(1, 1, 3);
	/* Without splitting the second does not fit beside the first ... */
	ck_assert_uint_eq(batch_take(&queue, 4, false, parts, 8), 1);
	ck_assert_uint_eq(parts[0].rows, 3);
	ck_assert_uint_eq(batch_take(&queue, 4, false, parts, 8), 1);
	/* ... and one that is larger than any batch is split all the same. */
	push(2, 0, 9);
	ck_assert_uint_eq(batch_take(&queue, 4, false, parts, 8), 1);
	ck_assert_uint_eq(parts[0].rows, 4);
}
END_TEST

START_TEST(untake)
{
	struct batch_part parts[8];

	push(0, 0, 2);
	push(1, 1, 10);
	ck_assert_uint_eq(batch_take(&queue, 6, true, parts, 8), 2);
	batch_untake(&queue, &clients[1], &parts[1]); /* its rest is still queued */
	batch_untake(&queue, &clients[0], &parts[0]); /* it had left */
	ck_assert_uint_eq(queue.rows, 12);
	ck_assert_uint_eq(queue.n_items, 2);
	ck_assert_uint_eq(items[0].first, 0);
	ck_assert_uint_eq(items[1].first, 0);
}
END_TEST

/* Random operations against a plain count; every row comes out exactly once, in order within its client. */
START_TEST(random_walk)
{
	struct batch_part parts[8];
	uint32_t next_row[N_ITEMS];
	uint64_t rows = 0;
	unsigned int seed = 1;

	for (int step = 0; step < 200000; step++) {
		unsigned int at = (unsigned int)rand_r(&seed) % N_ITEMS;

		switch (rand_r(&seed) % 4) {
		case 0:
		case 1:
			if (items[at].client)
				break;
			push(at, at % N_CLIENTS, 1 + (uint32_t)rand_r(&seed) % 9);
			next_row[at] = 0;
			rows += items[at].rows;
			break;
		case 2:
			if (items[at].client)
				rows -= items[at].rows - items[at].first;
			queue_remove(&queue, &items[at]);
			break;
		case 3: {
			uint32_t n = batch_take(&queue, 1 + (uint32_t)rand_r(&seed) % 12, rand_r(&seed) & 1, parts, 8);

			for (uint32_t i = 0; i < n; i++) {
				size_t k = (size_t)(parts[i].item - items);

				ck_assert_uint_eq(parts[i].first, next_row[k]);
				next_row[k] += parts[i].rows;
				rows -= parts[i].rows;
			}
			break;
		}
		}
		ck_assert_uint_eq(queue.rows, rows);
		ck_assert_int_eq(queue_is_empty(&queue), rows == 0);
	}
}
END_TEST

Suite *suite_policy_queue(void);
Suite *suite_policy_queue(void)
{
	Suite *suite = suite_create("policy_queue");
	TCase *tcase = tcase_create("queue");

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_test(tcase, turns);
	tcase_add_test(tcase, classes);
	tcase_add_test(tcase, split);
	tcase_add_test(tcase, whole);
	tcase_add_test(tcase, untake);
	tcase_add_test(tcase, random_walk);
	suite_add_tcase(suite, tcase);
	return suite;
}
