/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.c - one ring pair per thread.
 *
 * A thread gets its lane with its first request and gives it back when it ends or calls
 * inf_thread_leave(). A lane that came back goes on where its positions are: requests of the thread
 * that left may still be in flight on it and are waited for as before; only inf_wait_any() of the
 * next thread does not return them (`tenancy`). Where all lanes have a thread, the next thread
 * shares the lane with the fewest; each lane's submit lock, which is otherwise never contended,
 * keeps its ring single producer.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include <errno.h>
#include <unistd.h>

/* First use: our words must be right before the broker is told that the lane exists. */
static void bring_up(struct inf_client *client, struct lane *lane)
{
	uint64_t start = client->start;

	inf_sq_writer_init(&lane->sq, lane->request, lane->response, start);
	inf_cq_reader_init(&lane->cq, lane->request, lane->response, start);
	inf_store64(&lane->submitted, start);
	inf_store64(&lane->taken, start);
	lane->is_up = true;
	client->n_lanes = lane->idx + 1;
	/* Release: pairs with the broker's acquire; cq_head is set. */
	inf_store32_release(&client->request->head.n_lanes.v, client->n_lanes);
}

/* Lanes_lock held: a lane nobody has, else a new one, else the one with the fewest users. */
static struct lane *choose(struct inf_client *client)
{
	struct lane *best = NULL;

	for (uint32_t i = 0; i < client->n_lanes; i++)
		if (!best || client->lanes[i].n_users < best->n_users)
			best = &client->lanes[i];
	if ((best && !best->n_users) || client->n_lanes == INF_LANES)
		return best;
	best = &client->lanes[client->n_lanes];
	bring_up(client, best);
	return best;
}

static struct lane *join(struct inf_client *client)
{
	struct lane *lane;

	pthread_mutex_lock(&client->lanes_lock);
	lane = choose(client);
	inf_store32(&lane->n_users, lane->n_users + 1);
	pthread_mutex_unlock(&client->lanes_lock);
	/* Without memory for the thread's value the lane is shared for good: slower, not wrong. */
	pthread_setspecific(client->lane_key, lane);
	return lane;
}

static void leave(struct lane *lane)
{
	struct inf_client *client = lane->client;

	pthread_mutex_lock(&client->lanes_lock);
	inf_store32(&lane->n_users, lane->n_users - 1);
	if (!lane->n_users) {
		pthread_mutex_lock(&lane->reap_lock);
		inf_store32(&lane->tenancy, lane->tenancy + 1);
		pthread_mutex_unlock(&lane->reap_lock);
	}
	pthread_mutex_unlock(&client->lanes_lock);
}

/* Runs at the end of each thread that has a lane. In a forked child the lane is the parent's. */
static void on_thread_end(void *value)
{
	struct lane *lane = value;

	if (!infc_is_forked(lane->client))
		leave(lane);
}

struct lane *infc_lane_mine(struct inf_client *client)
{
	struct lane *lane = pthread_getspecific(client->lane_key);

	return lane ? lane : join(client);
}

void inf_thread_leave(struct inf_client *client)
{
	struct lane *lane;

	if (!client || infc_is_forked(client))
		return;
	lane = pthread_getspecific(client->lane_key);
	if (!lane)
		return;
	pthread_setspecific(client->lane_key, NULL);
	leave(lane);
}

int infc_lanes_init(struct inf_client *client)
{
	if (pthread_key_create(&client->lane_key, on_thread_end))
		return -EAGAIN;
	client->has_key = true;
	pthread_mutex_init(&client->lanes_lock, NULL);
	for (uint32_t i = 0; i < INF_LANES; i++) {
		struct lane *lane = &client->lanes[i];

		lane->client = client;
		lane->idx = i;
		lane->session = client->session;
		lane->event_fd = -1;
		lane->request = &client->request->lanes[i];
		lane->response = &client->response->lanes[i];
		pthread_mutex_init(&lane->submit_lock, NULL);
		pthread_mutex_init(&lane->reap_lock, NULL);
		pthread_mutex_init(&lane->cache_lock, NULL);
	}
	return 0;
}

void infc_lanes_deinit(struct inf_client *client)
{
	for (uint32_t i = 0; i < INF_LANES; i++)
		if (client->lanes[i].client && client->lanes[i].event_fd >= 0)
			close(client->lanes[i].event_fd);
}
