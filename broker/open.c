/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open.c - OPEN and GROW: a model's handle with memory for its inputs and outputs, or more memory
 * for inputs.
 *
 *	OPEN ─► charge, make regions ─┬─ needs arena: REGION ─► MAPPED ─► seal, check ─┐
 *	                              └─ region 0 is enough ──────────────────────────┴─► ATTACH
 *	─► ATTACHED, all of them ─► seal the output region ─► READY, REGION(output), MODEL
 *
 * One of them at a time per session: the library takes turns. READY comes only after ATTACHED, so
 * that no batch can name a region that the executor does not know. Whatever fails on the way,
 * everything that this OPEN made is undone and the client gets ERROR; only a client that breaks
 * the order of messages loses its session.
 *
 * An executor that dies while it attaches: the OPEN is undone (-EAGAIN), a GROW just goes on, since a
 * new executor gets all request regions anyway.
 */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/log.h"
#include "broker/output.h"
#include "broker/quota.h"
#include "broker/recovery.h"
#include "broker/registry.h"
#include "broker/session.h"
#include "broker/session_internal.h"
#include "shm/region.h"
#include "shm/signature.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The arena of region 0 serves models whose inputs take no more, so that small ones cost no
 * further region. */
#define SMALL_ARENA_BYTES 65536u

/* Bytes that a model of this depth needs. */
struct plan {
	uint32_t depth;
	uint64_t in_bytes; /* 0 = no region of its own */
	uint64_t out_bytes;
};

/* --- end of an OPEN or GROW --- */

static void forget(struct session *session)
{
	free(session->opening);
	session->opening = NULL;
}

void open_drop(struct session *session)
{
	if (!session->opening)
		return;
	user_discharge_bytes(session->user, session->opening->reserve_bytes);
	forget(session);
}

/* Gives back what was made so far. */
static void undo(struct broker *broker, struct session *session)
{
	struct session_open *opening = session->opening;

	(void)broker;
	if (opening->request)
		regions_drop(session, opening->request);
	if (opening->output)
		regions_drop(session, opening->output);
	if (opening->device)
		regions_drop(session, opening->device);
	open_drop(session);
}

static void undo_and_refuse(struct broker *broker, struct session *session, int error,
			    enum inf_status status, const char *text)
{
	uint32_t cookie = session->opening->cookie;

	undo(broker, session);
	session_refuse(broker, session, cookie, error, status, "%s", text);
}

struct session_open *open_begin(struct broker *broker, struct session *session, uint32_t cookie)
{
	struct session_open *opening;

	if (session->opening) {
		session_end(broker, session, "OPEN, GROW, DEVICE or TWIN before the last one was answered");
		return NULL;
	}
	opening = calloc(1, sizeof(*opening));
	if (!opening) {
		session_refuse(broker, session, cookie, -ENOMEM, INF_BUSY,
			       "the broker is out of memory");
		return NULL;
	}
	opening->cookie = cookie;
	session->opening = opening;
	return opening;
}

/* --- answers --- */

static int send_ready(struct broker *broker, struct session *session, const struct region *region,
		      uint32_t cookie)
{
	struct inf_ctl_ready msg;

	inf_ctl_init(&msg, INF_CTL_READY, cookie);
	msg.region = region->id;
	return session_send(broker, session, &msg, NULL, 0);
}

static void send_model(struct broker *broker, struct session *session, const struct handle *handle,
		       uint32_t cookie)
{
	struct inf_ctl_model msg;

	inf_ctl_init(&msg, INF_CTL_MODEL, cookie);
	msg.handle = (uint32_t)(handle - session->handles);
	msg.depth = handle->depth;
	msg.signature = handle->model->signature;
	session_send(broker, session, &msg, NULL, 0);
}

static struct handle *fill_handle(struct session *session, struct output_pool *pool)
{
	struct session_open *opening = session->opening;
	struct handle *handle = &session->handles[session->n_handles++];
	const struct inf_signature *signature = &opening->model->signature;

	handle->model = opening->model;
	handle->model->n_handles++;
	handle->session = session;
	handle->hash = signature->hash;
	handle->depth = opening->depth;
	for (uint32_t i = 0; i < QUEUE_CLASSES; i++)
		handle->clients[i].class = i;
	handle->pool = pool;
	handle->reserve_bytes = opening->reserve_bytes;
	opening->reserve_bytes = 0;
	opening->output->handle = handle;
	handle->check = (struct inf_check_model){
		.signature = signature,
		.row_bytes = inf_input_bytes(signature, 1),
		.rows_max = signature->flags & INF_SIG_BATCHABLE ? INF_ROWS_MAX : 1,
		.packed = inf_signature_is_packed(signature),
	};
	return handle;
}

static void finish_grow(struct broker *broker, struct session *session)
{
	struct region *region = session->opening->request;
	uint32_t cookie = session->opening->cookie;

	regions_admit_request(session, region, 0);
	forget(session);
	send_ready(broker, session, region, cookie);
}

/* The model is still the one whose signature the sizes came from. */
static bool model_is_same(const struct session_open *opening)
{
	const struct model *model = opening->model;

	return model && model->state == INF_MODEL_READY && model->loaded && !model->superseded &&
	       model->signature.hash == opening->hash;
}

static void finish_open(struct broker *broker, struct session *session)
{
	struct session_open *opening = session->opening;
	struct region *request = opening->request, *output = opening->output;
	uint32_t cookie = opening->cookie;
	struct output_pool *pool;
	struct handle *handle;

	if (!model_is_same(opening)) {
		undo_and_refuse(broker, session, -EAGAIN, INF_LOADING,
				"the model changed meanwhile: try again");
		return;
	}
	/* The executor has it mapped: from now on nobody else can map it writable. */
	pool = output_pool_new(output->id, output->bytes, &opening->model->signature);
	if (!pool || inf_region_close_writes(output->fd) < 0) {
		output_pool_free(pool);
		undo_and_refuse(broker, session, -ENOMEM, INF_BUSY, "the broker is out of memory");
		return;
	}
	if (request)
		regions_admit_request(session, request, 0);
	output->state = REGION_READY;
	handle = fill_handle(session, pool);
	forget(session);
	if (request && send_ready(broker, session, request, cookie) < 0)
		return;
	if (regions_send(broker, session, output, cookie) == 0)
		send_model(broker, session, handle, cookie);
}

void open_advance(struct broker *broker, struct session *session)
{
	struct session_open *opening = session->opening;

	if (!opening || !opening->attaching || session->n_unattached > 0)
		return;
	if (opening->grow)
		finish_grow(broker, session);
	else if (opening->device)
		twins_finish(broker, session);
	else
		finish_open(broker, session);
}

/* --- the executor's side --- */

/* The client has done its part. */
static void attach(struct broker *broker, struct session *session)
{
	struct session_open *opening = session->opening;

	opening->attaching = true;
	if (opening->output &&
	    (broker->executor.state != EXECUTOR_READY || !model_is_same(opening))) {
		undo_and_refuse(broker, session, -EAGAIN, INF_LOADING,
				"the model is being loaded again: try again");
		return;
	}
	if (opening->output)
		opening->output->generation = broker->executor.generation;
	/* Without an executor, or before the first model, request regions wait: an executor gets
	 * all of them. */
	if (broker->executor.state == EXECUTOR_READY &&
	    (opening->output || session->attached || session->n_handles)) {
		for (uint32_t i = 0; i < INF_REGIONS; i++) {
			struct region *region = &session->regions[i];

			if (region->kind == INF_REGION_REQUEST && region->state != REGION_UNUSED &&
			    region->state != REGION_RETIRED)
				attach_want(broker, session, region);
		}
		if (opening->output)
			attach_want(broker, session, opening->output);
		attach_pump(broker);
	}
	if (session->state == SESSION_READY)
		open_advance(broker, session);
}

void open_attach_failed(struct broker *broker, struct session *session, const struct region *region, int error)
{
	char text[INF_CTL_TEXT_BYTES];

	/* The OPEN that needed this region was undone meanwhile, and nothing else needs it. */
	if (!session->opening && !session->n_handles)
		return;
	log_line("%s: the executor cannot map its memory: %s", session_text(session),
		 strerror(-error));
	if (session->opening && session->opening->device == region) {
		snprintf(text, sizeof(text), "no device memory: %s", strerror(-error));
		undo_and_refuse(broker, session, error, INF_BUSY, text);
		return;
	}
	/* Memory that it had before. */
	if (!session->opening || session->opening->grow || session->opening->device) {
		session_end(broker, session, "the executor cannot map its memory");
		return;
	}
	snprintf(text, sizeof(text),
		 "the executor cannot map memory of this size: %s; ask for less depth",
		 strerror(-error));
	undo_and_refuse(broker, session, -ENOMEM, INF_BUSY, text);
}

void open_executor_died(struct broker *broker, struct session *session)
{
	/* While the client maps what it was offered, it must not be told: its MAPPED is on the way. */
	if (!session->opening || !session->opening->attaching)
		return;
	if (!session->opening->grow)
		undo_and_refuse(broker, session, -EAGAIN, INF_LOADING,
				"the executor died: try again");
	else
		open_advance(broker, session);
}

/* --- OPEN --- */

/* Bytes of inputs in the arena: tensors, each row alone, and extension blocks where shapes vary. */
static uint64_t input_need(const struct inf_signature *signature, uint32_t depth)
{
	uint64_t row_bytes = inf_input_bytes(signature, 1);

	if (!inf_signature_is_packed(signature))
		row_bytes += inf_align64(signature->n_inputs * sizeof(struct inf_ext_tensor));
	return row_bytes * depth; /* a row is <= 1 GiB, depth <= INF_ROWS_MAX: no overflow */
}

static struct plan plan_for(const struct inf_signature *signature, uint32_t depth)
{
	uint64_t in_bytes = input_need(signature, depth);

	return (struct plan){
		.depth = depth,
		.in_bytes = in_bytes > SMALL_ARENA_BYTES ? inf_region_round(in_bytes) : 0,
		.out_bytes = inf_region_round(inf_output_bytes(signature, 1) * depth),
	};
}

/* Where the client leaves the depth to us, a model with huge rows gets less of it. */
static struct plan plan_depth(const struct config *config, const struct inf_signature *signature,
			      uint32_t asked)
{
	uint64_t depth = asked ? asked : config->depth_default;
	struct plan plan = plan_for(
		signature, (uint32_t)(depth < config->depth_max ? depth : config->depth_max));

	while (!asked && plan.depth > 1 &&
	       (plan.in_bytes > config->region_max || plan.out_bytes > config->region_max))
		plan = plan_for(signature, plan.depth / 2);
	return plan;
}

static int make_regions(struct broker *broker, struct session *session, const struct plan *plan)
{
	struct session_open *opening = session->opening;
	const struct config *config = broker->config;
	int r;

	if (plan->in_bytes > config->region_max || plan->out_bytes > config->region_max)
		return -EFBIG;
	if (session->n_handles >= HANDLES_MAX || session->n_handles >= config->handles_max ||
	    !regions_have_room(broker, session, plan->in_bytes ? 3 : 2))
		return -ENOSPC;
	r = user_charge_bytes(session->user, config, plan->out_bytes);
	if (r < 0)
		return r;
	opening->reserve_bytes = plan->out_bytes;
	r = regions_make(broker, session, INF_REGION_OUTPUT, plan->out_bytes, true,
			 &opening->output);
	if (r < 0)
		return r;
	if (!plan->in_bytes)
		return 0;
	return regions_make(broker, session, INF_REGION_REQUEST, plan->in_bytes, true,
			    &opening->request);
}

static void refuse_regions(struct broker *broker, struct session *session, const struct plan *plan,
			   int error)
{
	const struct config *config = broker->config;
	char text[INF_CTL_TEXT_BYTES];

	switch (error) {
	case -EFBIG:
		snprintf(text, sizeof(text),
			 "depth %" PRIu32 " needs a region of %" PRIu64
			 " bytes, --region-max is %" PRIu64 ": ask for less depth",
			 plan->depth,
			 plan->in_bytes > plan->out_bytes ? plan->in_bytes : plan->out_bytes,
			 config->region_max);
		break;
	case -ENOSPC:
		snprintf(text, sizeof(text),
			 "this session has %" PRIu32 " models open, there is room for no more: "
			 "use a second connection",
			 session->n_handles);
		break;
	case -EDQUOT:
		snprintf(text, sizeof(text),
			 "depth %" PRIu32 " needs %" PRIu64
			 " bytes, over the quota (--user-memory-max %" PRIu64
			 ", --memory-max %" PRIu64 "): ask for less",
			 plan->depth, plan->in_bytes + 2 * plan->out_bytes, config->user_memory_max,
			 config->memory_max);
		break;
	default:
		snprintf(text, sizeof(text), "no memory for depth %" PRIu32 ": %s", plan->depth,
			 strerror(-error));
		undo_and_refuse(broker, session, error, INF_BUSY, text);
		return;
	}
	undo_and_refuse(broker, session, -EDQUOT, INF_QUOTA, text);
}

/* Answers at once where the model cannot be opened now. Returns it otherwise. */
static struct model *find_model(struct broker *broker, struct session *session,
				const struct inf_ctl_open *ask)
{
	uint32_t cookie = ask->head.cookie;
	struct model *model =
		registry_name_is_valid(ask->model) ? registry_find(broker, ask->model) : NULL;
	char name[INF_NAME_BYTES];

	log_escape(name, sizeof(name), ask->model, sizeof(ask->model));
	if (broker->executor.state == EXECUTOR_FAILED)
		session_refuse(broker, session, cookie, -ENOEXEC, INF_EXECUTOR_LOST,
			       "no executor can be started: the broker's log says why");
	else if (!model && !registry_is_scanned(broker))
		session_refuse(broker, session, cookie, -EAGAIN, INF_LOADING,
			       "the broker is still looking for its models: try again");
	else if (!model)
		session_refuse(broker, session, cookie, -ENOENT, INF_NO_MODEL,
			       "no model named %s; shmctl models lists them", name);
	else if (model->state == INF_MODEL_FAILED)
		session_refuse(broker, session, cookie, -ENOEXEC, INF_NO_MODEL,
			       "model %s failed to load: %.80s", name, model->text);
	else if (model->state != INF_MODEL_READY || !model->loaded ||
		 broker->executor.state != EXECUTOR_READY)
		session_refuse(broker, session, cookie, -EAGAIN, INF_LOADING,
			       "model %s is being loaded: try again", name);
	else
		return model;
	return NULL;
}

static struct handle *find_handle(struct session *session, const struct model *model)
{
	for (uint32_t i = 0; i < session->n_handles; i++)
		if (session->handles[i].model == model &&
		    session->handles[i].hash == model->signature.hash)
			return &session->handles[i];
	return NULL;
}

void open_model(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	const struct inf_ctl_open *ask = &msg->open;
	struct session_open *opening;
	struct handle *handle;
	struct model *model;
	struct plan plan;
	int r;

	if (!memchr(ask->model, '\0', sizeof(ask->model)) || ask->reserved) {
		session_end(broker, session,
			    "OPEN with an endless name or a reserved field that is not zero");
		return;
	}
	if (session->opening) {
		session_end(broker, session, "OPEN before the last one was answered");
		return;
	}
	model = find_model(broker, session, ask);
	if (!model)
		return;
	handle = find_handle(session, model);
	if (handle) {
		send_model(broker, session, handle, ask->head.cookie);
		return;
	}
	opening = open_begin(broker, session, ask->head.cookie);
	if (!opening)
		return;
	plan = plan_depth(broker->config, &model->signature, ask->depth);
	opening->model = model;
	opening->hash = model->signature.hash;
	opening->depth = plan.depth;
	r = make_regions(broker, session, &plan);
	if (r < 0)
		refuse_regions(broker, session, &plan, r);
	else if (opening->request)
		regions_send(broker, session, opening->request, opening->cookie);
	else
		attach(broker, session);
}

/* --- GROW, MAPPED --- */

void open_grow(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	const struct inf_ctl_grow *ask = &msg->grow;
	uint64_t bytes = inf_region_round(ask->bytes);
	struct session_open *opening = open_begin(broker, session, ask->head.cookie);
	int r;

	if (!opening)
		return;
	opening->grow = true;
	if (!bytes || bytes > broker->config->region_max)
		r = -EFBIG;
	else if (!regions_have_room(broker, session, 1))
		r = -ENOSPC;
	else
		r = regions_make(broker, session, INF_REGION_REQUEST, bytes, true,
				 &opening->request);
	if (r == 0) {
		regions_send(broker, session, opening->request, opening->cookie);
		return;
	}
	undo(broker, session);
	session_refuse(broker, session, ask->head.cookie, r == -ENOMEM ? r : -EDQUOT, INF_QUOTA,
		       r == -EFBIG ? "a region has 1 to %2$" PRIu64 " bytes, not %1$" PRIu64
				     " (--region-max)"
		       : r == -ENOSPC ? "no more regions in this session (%1$" PRIu64
					" bytes asked, at most %2$" PRIu64 ")"
				      : "%1$" PRIu64
					" bytes are over the quota (region at most %2$" PRIu64 ")",
		       ask->bytes, broker->config->region_max);
}

void open_mapped(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	struct session_open *opening = session->opening;
	int r;

	if (!opening || opening->attaching || msg->mapped.region != opening->request->id ||
	    msg->mapped.reserved) {
		session_end(broker, session, "MAPPED for a region that was not offered");
		return;
	}
	r = regions_seal_request(session, opening->request);
	if (r < 0) {
		session_end(broker, session,
			    r == -ENODATA ? "it did not populate a request region"
					  : "a request region of it cannot be sealed");
		return;
	}
	opening->request->state = REGION_ATTACHING;
	attach(broker, session);
}

/* --- models that go --- */

void open_forget_model(struct session *session, const struct model *model)
{
	if (session->opening && session->opening->model == model)
		session->opening->model = NULL;
}

void handle_replace_model(struct broker *broker, struct handle *handle, struct model *model)
{
	if (model && handle->hash != model->signature.hash)
		return;
	handle->model->n_handles--;
	if (model) {
		recovery_move_model(handle, model);
		model->n_handles++;
		return;
	}
	attach_retire_pool(broker, handle);
	handle->model = NULL;
	handle->check.signature = NULL;
	user_discharge_bytes(handle->session->user, handle->reserve_bytes);
	handle->reserve_bytes = 0;
}
