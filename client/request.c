/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.c - requests and their input memory. Hot where a request is recycled: no allocation, one
 * lock that only threads on the same lane contend for.
 *
 * A request that is given back keeps its block and waits on the free list of its model and lane;
 * the next take of that model is a pop. Blocks of waiting requests are called in when the arena is
 * full, and only when that did not help the broker is asked for more memory. Request objects are
 * never freed before inf_close(), so that a tag from the broker, however wrong, names one or none.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/region.h"
#include "shm/signature.h"
#include <errno.h>
#include <inf/device.h>
#include <stdlib.h>

/* --- the table --- */

struct inf_request *infc_request_find(const struct inf_client *client, uint64_t tag)
{
	uint32_t idx = (uint32_t)tag;

	/* Acquire: pairs with the release in enter(), the entry is set. */
	return idx < inf_load32_acquire(&client->n_requests) ? client->requests[idx] : NULL;
}

static bool enter(struct inf_client *client, struct inf_request *req)
{
	bool ok;

	pthread_mutex_lock(&client->table_lock);
	ok = client->n_requests < INFC_REQUESTS_MAX;
	if (ok) {
		req->tag = client->n_requests;
		client->requests[client->n_requests] = req;
		inf_store32_release(&client->n_requests, client->n_requests + 1);
	}
	pthread_mutex_unlock(&client->table_lock);
	return ok;
}

static struct inf_request *request_new(struct inf_model *model)
{
	size_t bytes =
		sizeof(struct inf_request) + model->signature.n_outputs * sizeof(struct inf_tensor);
	struct inf_request *req = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

	if (!req)
		return NULL;
	*req = (struct inf_request){
		.client = model->client,
		.model = model,
		.out_held = INFC_REGION_NONE,
		.state = INFC_FREE,
	};
	if (enter(model->client, req))
		return req;
	free(req);
	return NULL;
}

void infc_requests_free(struct inf_client *client)
{
	for (uint32_t i = 0; i < client->n_requests; i++)
		free(client->requests[i]);
	client->n_requests = 0;
}

/* --- free lists --- */

static struct inf_request *pop(struct inf_model *model, struct lane *from)
{
	struct inf_request *req;

	pthread_mutex_lock(&from->cache_lock);
	req = model->free[from->idx];
	if (req)
		model->free[from->idx] = req->next_free;
	pthread_mutex_unlock(&from->cache_lock);
	return req;
}

struct inf_request *infc_request_get(struct inf_model *model, struct lane *lane)
{
	struct inf_request *req = pop(model, lane);

	for (uint32_t i = 0; !req && i < INF_LANES; i++)
		req = pop(model, &model->client->lanes[i]);
	if (!req)
		req = request_new(model);
	if (req)
		req->home = lane->idx;
	return req;
}

void infc_request_recycle(struct inf_request *req)
{
	struct lane *home = &req->client->lanes[req->home];
	struct inf_model *model = req->model;

	if (req->timeline)
		infc_device_forget(req);
	inf_store32(&req->state, INFC_FREE);
	pthread_mutex_lock(&home->cache_lock);
	req->next_free = model->free[home->idx];
	model->free[home->idx] = req;
	pthread_mutex_unlock(&home->cache_lock);
}

void infc_request_release_output(struct inf_request *req)
{
	if (inf_load32(&req->out_held) == INFC_REGION_NONE)
		return;
	inf_store32(&req->out_held, INFC_REGION_NONE);
	/* Release: pairs with the broker's acquire, our reads of the output are over when it reuses
	 * it. */
	inf_store32_release(&req->client->request->release[req->out_idx], req->out_generation);
}

/* --- input memory --- */

/* Calls in the blocks of all requests that wait on free lists. Control lock held. */
static void scavenge(struct inf_client *client)
{
	for (struct inf_model *model = client->models; model; model = model->next) {
		for (uint32_t i = 0; i < INF_LANES; i++) {
			pthread_mutex_lock(&client->lanes[i].cache_lock);
			for (struct inf_request *req = model->free[i]; req; req = req->next_free) {
				infc_arena_give(&client->arena, req->block);
				infc_arena_give(&client->arena, req->ext);
				req->block = req->ext = NULL;
			}
			pthread_mutex_unlock(&client->lanes[i].cache_lock);
		}
	}
}

/* Asks the broker for one more region that `bytes` fit in. Control lock held. */
static bool grow(struct inf_client *client, uint64_t bytes)
{
	uint64_t now_ns = infc_now_ns();
	union inf_ctl_any answer;
	struct inf_ctl_grow msg;
	int fd;

	if (now_ns < client->grow_not_before_ns || bytes > 1ull << 40)
		return false;
	inf_ctl_init(&msg, INF_CTL_GROW, 0);
	msg.bytes = bytes * INFC_GROW_FACTOR;
	if (msg.bytes > INFC_GROW_BYTES_MAX)
		msg.bytes = INFC_GROW_BYTES_MAX;
	if (msg.bytes < INFC_GROW_BYTES_MIN)
		msg.bytes = INFC_GROW_BYTES_MIN;
	if (msg.bytes < bytes + ARENA_TAIL_BYTES)
		msg.bytes = bytes + ARENA_TAIL_BYTES;
	msg.bytes = inf_region_round(msg.bytes);
	if (!infc_control_ask(client, &msg, INF_CTL_READY, &answer, &fd) &&
	    answer.head.type == INF_CTL_READY)
		return true;
	client->grow_not_before_ns = now_ns + INFC_GROW_RETRY_NS;
	return false;
}

/* The slow way to a block: what others left lying, then more from the broker. */
static struct arena_block *find_room(struct inf_client *client, uint64_t bytes)
{
	struct arena_block *block;

	pthread_mutex_lock(&client->control_lock);
	block = infc_arena_take(&client->arena, bytes);
	if (!block) {
		scavenge(client);
		block = infc_arena_take(&client->arena, bytes);
	}
	if (!block && grow(client, bytes))
		block = infc_arena_take(&client->arena, bytes);
	pthread_mutex_unlock(&client->control_lock);
	return block;
}

/* Makes *block hold `bytes`, without sitting on far more than that. */
static int fit(struct inf_client *client, struct arena_block **block, uint64_t bytes)
{
	if (*block && (*block)->bytes >= bytes && (*block)->bytes / 2 <= bytes + INF_PAGE)
		return 0;
	infc_arena_give(&client->arena, *block);
	*block = infc_arena_take(&client->arena, bytes);
	if (!*block)
		*block = find_room(client, bytes);
	return *block ? 0 : -ENOBUFS;
}

uint64_t infc_input_offset(const struct inf_request *req, uint32_t idx)
{
	return req->rows == 1 ? req->model->input_offset[idx]
			      : inf_input_offset(&req->model->signature, req->rows, idx);
}

static struct inf_ext_tensor *ext_of(const struct inf_request *req)
{
	return (struct inf_ext_tensor *)(void *)req->ext->data;
}

/* Bytes of a shape; UINT64_MAX where they are more than `room`. */
static uint64_t shape_bytes(uint8_t dtype, uint32_t rank, const int64_t *dims, uint64_t room)
{
	uint64_t bytes = inf_dtype_size(dtype);

	for (uint32_t i = 0; i < rank; i++)
		if (!dims[i])
			return 0;
	for (uint32_t i = 0; i < rank; i++)
		if (__builtin_mul_overflow(bytes, (uint64_t)dims[i], &bytes) || bytes > room)
			return UINT64_MAX;
	return bytes > room ? UINT64_MAX : bytes;
}

/* The tensor of input `idx` at the largest shape that the signature allows. */
static void describe_largest(struct inf_request *req, uint32_t idx)
{
	const struct inf_tensor_spec *spec = &req->model->signature.inputs[idx];
	struct inf_ext_tensor tensor = {
		.region = req->block->region,
		.dtype = spec->dtype,
		.rank = spec->rank,
		.offset = req->block->offset + infc_input_offset(req, idx),
		.length = inf_input_room(req, idx),
	};

	for (uint32_t i = 0; i < spec->rank; i++)
		tensor.dims[i] = i == 0 && (spec->flags & INF_SPEC_BATCH) ? (int64_t)req->rows
									  : spec->dims_max[i];
	ext_of(req)[idx] = tensor;
}

/* Bytes that the results take behind what is submitted. */
static uint64_t result_bytes(const struct inf_request *req)
{
	return req->twin_flags & INF_SUB_TWIN_OUT ? inf_output_bytes(&req->model->signature, req->rows) : 0;
}

static int use_ext(struct inf_request *req)
{
	uint32_t n_inputs = req->model->signature.n_inputs;
	int r = fit(req->client, &req->ext, inf_align64(n_inputs * sizeof(struct inf_ext_tensor)) + result_bytes(req));

	if (r)
		return r;
	for (uint32_t i = 0; i < n_inputs; i++)
		describe_largest(req, i);
	req->is_ext = true;
	return 0;
}

int infc_request_make_room(struct inf_request *req)
{
	if (req->is_ext)
		return use_ext(req);
	return fit(req->client, &req->block, inf_align64(infc_packed_bytes(req->model, req->rows)) + result_bytes(req));
}

/* --- calls --- */

static int check_take(const struct inf_model *model, uint32_t rows)
{
	if (infc_is_forked(model->client))
		return -EOWNERDEAD;
	if (!rows || rows > INF_ROWS_MAX)
		return -EINVAL;
	return rows > 1 && !(model->signature.flags & INF_SIG_BATCHABLE) ? -EINVAL : 0;
}

static int provide(struct inf_request *req, uint32_t rows)
{
	const struct inf_model *model = req->model;
	int r;

	req->rows = rows;
	req->deadline_ns = 0;
	req->priority = INF_PRIORITY_DEFAULT;
	req->data = NULL;
	req->is_ext = false;
	r = fit(req->client, &req->block, infc_packed_bytes(model, rows));
	if (!r && !model->is_packed)
		r = use_ext(req);
	return r;
}

int inf_request_take(struct inf_model *model, uint32_t rows, struct inf_request **ret_req)
{
	struct inf_request *req;
	int r;

	if (!model || !ret_req)
		return -EINVAL;
	r = check_take(model, rows);
	if (r)
		return r;
	req = infc_request_get(model, infc_lane_mine(model->client));
	if (!req)
		return -ENOMEM;
	r = provide(req, rows);
	if (r) {
		infc_request_recycle(req);
		return r;
	}
	inf_store32(&req->state, INFC_IDLE);
	*ret_req = req;
	return 0;
}

void inf_request_give(struct inf_request *req)
{
	uint32_t flight = INFC_FLIGHT;

	if (!req || infc_is_forked(req->client))
		return;
	switch (inf_load32_acquire(&req->state)) {
	case INFC_FREE:
	case INFC_ABANDONED:
		return;
	case INFC_FLIGHT:
		inf_cancel(req);
		/* Release: who collects the completion sees all that we did to the request. */
		if (__atomic_compare_exchange_n(&req->state, &flight, INFC_ABANDONED, false,
						__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return;
	}
	infc_request_release_output(req);
	infc_request_recycle(req);
}

void *inf_input(struct inf_request *req, uint32_t idx)
{
	if (!req || !req->block || idx >= req->model->signature.n_inputs)
		return NULL;
	return req->block->data + infc_input_offset(req, idx);
}

uint64_t inf_input_room(const struct inf_request *req, uint32_t idx)
{
	if (!req || idx >= req->model->signature.n_inputs)
		return 0;
	return inf_spec_row_bytes(&req->model->signature.inputs[idx]) * req->rows;
}

int inf_input_describe(struct inf_request *req, uint32_t idx, enum inf_dtype dtype, uint32_t rank,
		       const int64_t *dims)
{
	struct inf_ext_tensor *tensor;
	uint64_t bytes;

	if (!req || idx >= req->model->signature.n_inputs || rank > INF_RANK_MAX || (rank && !dims))
		return -EINVAL;
	if (infc_is_forked(req->client))
		return -EOWNERDEAD;
	if (inf_load32_acquire(&req->state) == INFC_FLIGHT)
		return -EBUSY;
	if (!inf_dtype_bytes(dtype))
		return -EINVAL;
	for (uint32_t i = 0; i < rank; i++)
		if (dims[i] < 0)
			return -EINVAL;
	bytes = shape_bytes((uint8_t)dtype, rank, dims, inf_input_room(req, idx));
	if (bytes == UINT64_MAX)
		return -EMSGSIZE;
	if (!req->is_ext) {
		int r = use_ext(req);

		/* The results' place has moved with the block they lie behind. */
		if (!r && req->twin_flags & INF_SUB_TWIN_OUT)
			r = inf_output_to_device(req);
		if (r)
			return r;
	}
	tensor = &ext_of(req)[idx];
	tensor->dtype = (uint8_t)dtype;
	tensor->rank = (uint8_t)rank;
	tensor->length = bytes;
	for (uint32_t i = 0; i < INF_RANK_MAX; i++)
		tensor->dims[i] = i < rank ? dims[i] : 0;
	return 0;
}

int inf_request_set_deadline(struct inf_request *req, uint64_t deadline_ns)
{
	if (!req)
		return -EINVAL;
	if (inf_load32_acquire(&req->state) == INFC_FLIGHT)
		return -EBUSY;
	req->deadline_ns = deadline_ns;
	return 0;
}

int inf_request_set_priority(struct inf_request *req, uint32_t priority)
{
	if (!req || priority > INF_PRIORITY_MAX)
		return -EINVAL;
	if (inf_load32_acquire(&req->state) == INFC_FLIGHT)
		return -EBUSY;
	req->priority = priority;
	return 0;
}

void inf_request_set_data(struct inf_request *req, void *data)
{
	req->data = data;
}

void *inf_request_data(const struct inf_request *req)
{
	return req->data;
}
