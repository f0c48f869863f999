/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reap.c - from completion slots to ended requests. Hot file: no allocation, no system call.
 *
 * Whoever comes first takes the lane's reap lock and collects everything there is, for all threads.
 * The broker is believed moderately: a completion of a request that is not in flight on this lane
 * is dropped, an output that does not lie in memory we were given, or is not what the signature
 * says, is a model error; a sequence that is neither empty nor next ends the session.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/probes.h"
#include "shm/signature.h"
#include <errno.h>
#include <string.h>

/* --- the list of ended requests, for inf_wait_any(): reap lock --- */

static void enlist(struct lane *lane, struct inf_request *req)
{
	if (req->listed_on == lane)
		return;
	req->next_ended = NULL;
	req->prev_ended = lane->ended_last;
	if (lane->ended_last)
		lane->ended_last->next_ended = req;
	else
		lane->ended_first = req;
	lane->ended_last = req;
	__atomic_store_n(&req->listed_on, lane, __ATOMIC_RELEASE);
	inf_store32(&lane->n_ended, lane->n_ended + 1);
}

static void delist(struct lane *lane, struct inf_request *req)
{
	if (req->prev_ended)
		req->prev_ended->next_ended = req->next_ended;
	else
		lane->ended_first = req->next_ended;
	if (req->next_ended)
		req->next_ended->prev_ended = req->prev_ended;
	else
		lane->ended_last = req->prev_ended;
	__atomic_store_n(&req->listed_on, NULL, __ATOMIC_RELEASE);
	inf_store32(&lane->n_ended, lane->n_ended - 1);
}

void infc_reap_unlist(struct inf_request *req)
{
	struct lane *lane = __atomic_load_n(&req->listed_on, __ATOMIC_ACQUIRE);

	if (!lane)
		return;
	pthread_mutex_lock(&lane->reap_lock);
	if (req->listed_on == lane)
		delist(lane, req);
	pthread_mutex_unlock(&lane->reap_lock);
}

/* The list may hold requests that were given back or submitted again since: those are passed over. */
struct inf_request *infc_reap_next(struct lane *lane)
{
	struct inf_request *req;

	pthread_mutex_lock(&lane->reap_lock);
	while ((req = lane->ended_first)) {
		delist(lane, req);
		if (inf_load32_acquire(&req->state) == INFC_ENDED && req->lane == lane &&
		    req->tenancy == lane->tenancy)
			break;
	}
	pthread_mutex_unlock(&lane->reap_lock);
	return req;
}

/* --- one completion --- */

/* Moving averages over about eight requests; a lost update among threads does no harm. */
static void learn(struct lane *lane, struct inf_model *model, const struct inf_completion *body)
{
	uint64_t run = inf_load64(&model->run_ns), total = inf_load64(&model->total_ns);
	uint64_t sample_us = (uint64_t)body->queue_us + body->run_us;

	inf_store64(&model->run_ns, run - run / 8 + body->run_us * 125ull);
	inf_store64(&model->total_ns, total - total / 8 + sample_us * 125);
	__atomic_store_n(&lane->last_model, model, __ATOMIC_RELAXED);
}

static const struct region *find_output(struct inf_client *client, uint32_t id)
{
	const struct region *region = infc_region_find(client, id, INF_REGION_OUTPUT);

	if (region)
		return region;
	/* A new executor's region was sent before its first completion: it waits in the socket. */
	infc_control_drain(client);
	return infc_region_find(client, id, INF_REGION_OUTPUT);
}

/* The same as the last time, elsewhere: outputs[] just move. The head is read once. */
static bool move_outputs(struct inf_request *req, const uint8_t *block, uint64_t length)
{
	uint64_t head[2];

	if (req->declared_rows != req->rows || length < req->declared_bytes)
		return false;
	inf_copy_in(head, (const inf_word_alias *)(const void *)block, 2);
	if (head[0] != ((uint64_t)req->rows << 32 | req->model->signature.n_outputs) ||
	    head[1] != INF_OUT_DECLARED)
		return false;
	for (uint32_t i = 0; i < req->model->signature.n_outputs; i++)
		req->outputs[i].data =
			block + ((const uint8_t *)req->outputs[i].data - req->declared_block);
	req->declared_block = block;
	return true;
}

static bool read_outputs(struct inf_request *req, const uint8_t *block, uint64_t length)
{
	int r;

	if (move_outputs(req, block, length))
		return true;
	r = infc_output_read(&req->model->signature, req->rows, block, length, req->outputs);
	req->declared_rows = r == 1 ? req->rows : 0;
	req->declared_block = block;
	req->declared_bytes = r == 1 ? inf_output_bytes(&req->model->signature, req->rows) : 0;
	return r >= 0;
}

/* Judges the output that an OK completion names, and takes hold of it. Returns the request's
 * status. */
static enum inf_status take_output(struct inf_request *req, const struct inf_completion *body)
{
	const struct region *region = find_output(req->client, body->region);

	if (!region || body->out_idx >= INF_OUTPUTS) {
		infc_mark_lost(req->client);
		return INF_BROKER_LOST;
	}
	req->out_idx = body->out_idx;
	req->out_generation = body->generation;
	inf_store32(&req->out_held, body->region);
	if (body->offset <= region->bytes && body->length <= region->bytes - body->offset &&
	    body->offset % INF_TENSOR_ALIGN == 0 && body->rows == req->rows &&
	    read_outputs(req, region->base + body->offset, body->length))
		return INF_OK;
	infc_request_release_output(req);
	return INF_MODEL_ERROR;
}

/* Reap lock held; the result is in the request. */
static void end(struct lane *lane, struct inf_request *req)
{
	uint32_t flight = INFC_FLIGHT;

	if (inf_load32(&req->state) == INFC_FLIGHT && !req->model->is_ping &&
	    req->tenancy == lane->tenancy)
		enlist(lane, req);
	/* Release: who sees ENDED sees the result. Acquire: if it was given back, we see what was
	 * done to it. */
	if (__atomic_compare_exchange_n(&req->state, &flight, INFC_ENDED, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return;
	infc_request_release_output(req);
	infc_request_recycle(req);
}

static bool is_pending(const struct inf_request *req, const struct lane *lane)
{
	uint32_t state = inf_load32_acquire(&req->state);

	return (state == INFC_FLIGHT || state == INFC_ABANDONED) && req->lane == lane;
}

static void complete(struct lane *lane, const struct inf_completion *body)
{
	struct inf_request *req = infc_request_find(lane->client, body->tag);
	enum inf_status status = body->status < INF_STATUS_N ? body->status : INF_MODEL_ERROR;

	/* State first: its acquire is what makes the other members ours to read. */
	if (!req || !is_pending(req, lane) || inf_load64(&req->tag) != body->tag)
		return;
	if (status == INF_OK && !req->model->is_ping)
		status = body->flags & INF_COMP_OUTPUT ? take_output(req, body) : INF_MODEL_ERROR;
	if (status == INF_OK)
		learn(lane, req->model, body);
	else if (status == INF_NO_MODEL)
		inf_store32(&req->model->is_stale, 1);
	req->status = (uint16_t)status;
	req->flags = body->flags;
	req->queue_us = body->queue_us;
	req->run_us = body->run_us;
	req->retry_after_us = body->retry_after_us;
	INF_CLIENT_PROBE3(wake, lane->session, lane->idx, req->pos);
	end(lane, req);
}

/* --- all of them --- */

/* Reap lock held. At most INF_SLOTS: the broker cannot reuse a slot before inf_cq_done(). */
static void drain(struct lane *lane)
{
	struct inf_completion body;
	enum inf_peek peek;

	while ((peek = inf_cq_peek(&lane->cq)) == INF_PEEK_FULL) {
		inf_cq_take(&lane->cq, &body);
		complete(lane, &body);
	}
	if (peek == INF_PEEK_CORRUPT)
		infc_mark_lost(lane->client);
	if (lane->cq.head == inf_load64(&lane->taken))
		return;
	inf_cq_done(&lane->cq);
	/* Release: a submitter that sees the credit publishes after cq_head moved, and the broker
	 * sees that. */
	inf_store64_release(&lane->taken, lane->cq.head);
}

void infc_reap(struct lane *lane, bool must)
{
	if (must)
		pthread_mutex_lock(&lane->reap_lock);
	else if (pthread_mutex_trylock(&lane->reap_lock))
		return;
	drain(lane);
	pthread_mutex_unlock(&lane->reap_lock);
}

void infc_reap_lost(struct lane *lane)
{
	struct inf_client *client = lane->client;
	uint32_t n;

	pthread_mutex_lock(&lane->reap_lock);
	drain(lane);
	n = inf_load32_acquire(&client->n_requests);
	for (uint32_t i = 0; i < n; i++) {
		struct inf_request *req = client->requests[i];

		if (!is_pending(req, lane))
			continue;
		req->status = INF_BROKER_LOST;
		req->flags = INF_COMP_MAYBE_EXECUTED;
		req->queue_us = req->run_us = req->retry_after_us = 0;
		end(lane, req);
	}
	inf_store32(&lane->is_dead, 1);
	pthread_mutex_unlock(&lane->reap_lock);
}

/* --- calls --- */

int inf_poll(struct inf_request *req)
{
	uint32_t state;

	if (!req)
		return -EINVAL;
	if (infc_is_forked(req->client))
		return -EOWNERDEAD;
	state = inf_load32_acquire(&req->state);
	if (state == INFC_FLIGHT) {
		if (infc_lane_has_news(req->lane))
			infc_reap(req->lane, false);
		else if (infc_lane_is_dead(req->lane))
			infc_reap_lost(req->lane);
		state = inf_load32_acquire(&req->state);
	}
	if (state == INFC_ENDED)
		return 1;
	return state == INFC_FLIGHT ? 0 : -EINVAL;
}

int inf_wait(struct inf_request *req, uint64_t until_ns)
{
	uint32_t state;

	if (!req)
		return -EINVAL;
	if (infc_is_forked(req->client))
		return -EOWNERDEAD;
	state = inf_load32_acquire(&req->state);
	if (state == INFC_ENDED)
		return 0;
	return state == INFC_FLIGHT ? infc_wait(req->lane, req, until_ns) : -EINVAL;
}

int inf_wait_any(struct inf_client *client, uint64_t until_ns, struct inf_request **ret_req)
{
	struct inf_request *req;
	struct lane *lane;
	int r;

	if (!client || !ret_req)
		return -EINVAL;
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	lane = infc_lane_mine(client);
	/* Awake: no hints, unless another thread on this lane sleeps on the descriptor. */
	if (inf_load32(&lane->request->event.v) && inf_load32(&lane->n_users) < 2)
		inf_store32(&lane->request->event.v, 0);
	for (;;) {
		r = infc_wait(lane, NULL, until_ns);
		req = infc_reap_next(lane);
		if (req)
			break;
		if (r)
			return r;
		if (!infc_lane_in_flight(lane) && !inf_load32(&lane->n_ended))
			return -ENOENT;
	}
	*ret_req = req;
	return 0;
}

enum inf_status inf_request_status(const struct inf_request *req)
{
	return inf_load32_acquire(&req->state) == INFC_ENDED ? (enum inf_status)req->status : INF_STATUS_N;
}

int inf_request_get_info(const struct inf_request *req, struct inf_request_info *ret_info)
{
	struct inf_request_info info = { 0 };

	if (!req || !ret_info || ret_info->size < sizeof(ret_info->size))
		return -EINVAL;
	if (inf_load32_acquire(&req->state) == INFC_ENDED) {
		info.queue_us = req->queue_us;
		info.run_us = req->run_us;
		info.retry_after_us = req->retry_after_us;
		info.maybe_executed = req->flags & INF_COMP_MAYBE_EXECUTED ? 1 : 0;
	}
	info.size = ret_info->size;
	memcpy(ret_info, &info, info.size < sizeof(info) ? info.size : sizeof(info));
	return 0;
}
