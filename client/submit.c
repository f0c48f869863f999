/* SPDX-License-Identifier: Apache-2.0 */
/*
 * submit.c - from a filled request to a published slot. Hot file: no allocation, no system call but
 * the doorbell, one lock that only threads on the same lane contend for.
 *
 * Credits are counted here, privately: submitted and not collected stay <= INF_SLOTS per lane. That
 * alone makes sure that the slot to fill was accepted long ago, and that a completion slot will be
 * there.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/probes.h"
#include <errno.h>
#include <unistd.h>

void infc_ring(const struct inf_client *client)
{
	uint64_t one = 1;

	/* EAGAIN: the counter is full, so it has been rung. Any other failure shows as a hang-up. */
	(void)!write(client->bell_fd, &one, sizeof(one));
}

/* For statistics: see inf_stamp(). The clock is read once for a burst, *ret_now keeps it. */
static uint32_t stamp(const struct lane *lane, uint32_t *ret_now)
{
	const struct inf_client *client = lane->client;

	if (!(client->features & INF_FEATURE_STAMP))
		return 0;
	if (lane->sq.tail % INF_STAMP_EVERY && infc_lane_in_flight(lane) &&
	    !inf_load32(&client->response->head.must_stamp.v))
		return 0;
	if (!*ret_now)
		*ret_now = inf_stamp(infc_now_ns());
	return *ret_now;
}

static void fill_slot(struct inf_submission *slot, const struct inf_request *req, uint32_t stamp)
{
	const struct arena_block *block = req->is_ext ? req->ext : req->block;
	const struct inf_model *model = req->model;

	slot->opcode = model->is_ping ? INF_OP_PING : INF_OP_INFER;
	slot->mem_kind = INF_MEM_REGION;
	slot->model = model->handle;
	slot->flags = req->is_ext ? INF_SUB_EXT : 0;
	slot->tag = req->tag;
	slot->region = block ? block->region : 0;
	slot->stamp = stamp;
	slot->offset = block ? block->offset : 0;
	if (req->is_ext)
		slot->length = model->signature.n_inputs * sizeof(struct inf_ext_tensor);
	else
		slot->length = infc_packed_bytes(model, req->rows);
	slot->deadline_ns = req->deadline_ns;
	slot->rows = req->rows;
	slot->priority = (uint16_t)(req->priority + 1);
	slot->timeline = 0;
	if (req->timeline)
		infc_device_fill_slot(slot, req);
}

static bool has_credit(struct lane *lane)
{
	/* Acquire, in in_flight: the slots of collected completions were given back before our next
	 * publish. */
	if (infc_lane_in_flight(lane) < INF_SLOTS)
		return true;
	infc_reap(lane, true);
	return infc_lane_in_flight(lane) < INF_SLOTS;
}

/* 0 = it may be submitted, and is on no other lane's list of ended requests. */
static int prepare(struct inf_request *req, struct lane *lane)
{
	uint32_t state = inf_load32_acquire(&req->state);

	if (state == INFC_FLIGHT)
		return -EBUSY;
	if (state != INFC_IDLE && state != INFC_ENDED)
		return -EINVAL;
	if (__atomic_load_n(&req->listed_on, __ATOMIC_ACQUIRE) != lane)
		infc_reap_unlist(req);
	return 0;
}

/* Submit lock held. */
static int publish(struct lane *lane, struct inf_request *req, uint32_t *ret_now)
{
	if (!has_credit(lane))
		return -EAGAIN;
	infc_request_release_output(req);
	req->lane = lane;
	req->pos = lane->sq.tail;
	req->tenancy = inf_load32(&lane->tenancy);
	inf_store64(&req->tag, req->tag + (1ull << 32));
	fill_slot(inf_sq_slot(&lane->sq), req, stamp(lane, ret_now));
	/* Release: pairs with who waits in another thread, and with a sweep after the broker's
	 * death. */
	inf_store32_release(&req->state, INFC_FLIGHT);
	inf_sq_publish(&lane->sq);
	inf_store64(&lane->submitted, lane->sq.tail);
	return 0;
}

static int check(const struct inf_client *client)
{
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	return infc_is_lost(client) ? -ECONNRESET : 0;
}

int inf_submit_many(struct inf_request *const *reqs, uint32_t n_reqs)
{
	struct inf_client *client;
	struct lane *lane;
	uint32_t n = 0, now = 0;
	bool must_ring;
	int r;

	if (!reqs || !n_reqs || !reqs[0])
		return -EINVAL;
	client = reqs[0]->client;
	r = check(client);
	if (r)
		return r;
	lane = infc_lane_mine(client);
	if (infc_lane_is_dead(lane))
		return -ECONNRESET;
	pthread_mutex_lock(&lane->submit_lock);
	/* Before the broker can see any of them: its own probes come later. */
	INF_CLIENT_PROBE4(submit, lane->session, lane->idx, lane->sq.tail, n_reqs);
	for (; n < n_reqs && !r; n++) {
		r = !reqs[n] || reqs[n]->client != client ? -EINVAL : prepare(reqs[n], lane);
		if (!r)
			r = publish(lane, reqs[n], &now);
		if (r)
			break;
	}
	must_ring = n && inf_sq_must_ring(&lane->sq);
	pthread_mutex_unlock(&lane->submit_lock);
	if (must_ring)
		infc_ring(client);
	return n ? (int)n : r;
}

int inf_submit(struct inf_request *req)
{
	int n = inf_submit_many(&req, 1);

	return n < 0 ? n : 0;
}

/* Stores the position unless a later request in the same slot was cancelled meanwhile. */
static void store_cancel(uint64_t *word, uint64_t value)
{
	uint64_t old = inf_load64(word);

	/* Release: pairs with the broker's load after it saw n_cancels move or the bell. */
	while (old < value && !__atomic_compare_exchange_n(word, &old, value, false,
							   __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

int inf_cancel(struct inf_request *req)
{
	struct inf_client *client;

	if (!req)
		return -EINVAL;
	client = req->client;
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	if (inf_load32_acquire(&req->state) != INFC_FLIGHT)
		return -EINVAL;
	store_cancel(&req->lane->request->cancel[req->pos % INF_SLOTS], req->pos + 1);
	__atomic_fetch_add(&client->request->head.n_cancels.v, 1, __ATOMIC_RELEASE);
	infc_ring(client);
	return 0;
}
