/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - opening and listing models. Cold. */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include "shm/signature.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void infc_model_prepare(struct inf_model *model)
{
	const struct inf_signature *signature = &model->signature;

	model->is_packed = inf_signature_is_packed(signature);
	model->input_bytes = inf_input_bytes(signature, 1);
	for (uint32_t i = 0; i < signature->n_inputs; i++)
		model->input_offset[i] = inf_input_offset(signature, 1, i);
}

static struct inf_model *find_open(struct inf_client *client, const char *name)
{
	for (struct inf_model *model = client->models; model; model = model->next)
		if (!inf_load32(&model->is_stale) && !strcmp(model->signature.name, name))
			return model;
	return NULL;
}

static int add(struct inf_client *client, const struct inf_ctl_model *msg,
	       struct inf_model **ret_model)
{
	struct inf_model *model;

	if (inf_signature_check(&msg->signature) || msg->handle > UINT16_MAX) {
		infc_error_set("the broker sent a signature that is not well-formed");
		return -EPROTO;
	}
	model = calloc(1, sizeof(*model));
	if (!model)
		return -ENOMEM;
	model->client = client;
	model->handle = (uint16_t)msg->handle;
	model->depth = msg->depth;
	model->signature = msg->signature;
	infc_model_prepare(model);
	model->next = client->models;
	client->models = model;
	*ret_model = model;
	return 0;
}

/* Control lock held. */
static int ask(struct inf_client *client, const char *name, uint32_t depth,
	       struct inf_model **ret_model)
{
	union inf_ctl_any answer;
	struct inf_ctl_open msg;
	int fd, r;

	inf_ctl_init(&msg, INF_CTL_OPEN, 0);
	memcpy(msg.model, name, strlen(name));
	msg.depth = depth;
	r = infc_control_ask(client, &msg, INF_CTL_MODEL, &answer, &fd);
	if (r)
		return r;
	client->grow_not_before_ns = 0;
	if (answer.head.type == INF_CTL_ERROR)
		return infc_control_refusal(&answer.error);
	return add(client, &answer.model, ret_model);
}

int inf_model_open(struct inf_client *client, const char *name, uint32_t depth,
		   struct inf_model **ret_model)
{
	struct inf_model *model;
	int r = 0;

	if (!client || !name || !ret_model)
		return -EINVAL;
	infc_error_set("");
	if (infc_is_forked(client))
		return infc_error_tell(-EOWNERDEAD);
	if (strlen(name) >= INF_NAME_BYTES) {
		infc_error_set("no model has a name of 64 bytes or more");
		return -ENOENT;
	}
	pthread_mutex_lock(&client->control_lock);
	model = find_open(client, name);
	if (!model)
		r = ask(client, name, depth, &model);
	pthread_mutex_unlock(&client->control_lock);
	if (!r)
		*ret_model = model;
	return infc_error_tell(r);
}

const struct inf_signature *inf_model_signature(const struct inf_model *model)
{
	return &model->signature;
}

uint32_t inf_model_depth(const struct inf_model *model)
{
	return model->depth;
}

int inf_model_list(struct inf_client *client, uint32_t idx, struct inf_model_info *ret_info)
{
	struct inf_model_info info = { .size = sizeof(info) };
	union inf_ctl_any answer;
	struct inf_ctl_list msg;
	int fd, r;

	if (!client || !ret_info || ret_info->size < sizeof(ret_info->size))
		return -EINVAL;
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	inf_ctl_init(&msg, INF_CTL_LIST, 0);
	msg.idx = idx;
	pthread_mutex_lock(&client->control_lock);
	r = infc_control_ask(client, &msg, INF_CTL_INFO, &answer, &fd);
	pthread_mutex_unlock(&client->control_lock);
	if (r)
		return r;
	if (answer.head.type == INF_CTL_ERROR)
		return infc_control_refusal(&answer.error);
	static_assert(sizeof(info.text) == INF_CTL_TEXT_BYTES, "client.h and control.h");
	static_assert(sizeof(info.time_ns) == sizeof(answer.info.time_ns),
		      "client.h and control.h");
	info.state = answer.info.state;
	info.signature = answer.info.signature;
	info.signature.name[INF_NAME_BYTES - 1] = 0;
	memcpy(info.time_ns, answer.info.time_ns, sizeof(info.time_ns));
	memcpy(info.text, answer.info.text, sizeof(info.text) - 1);
	info.size = ret_info->size;
	memcpy(ret_info, &info, info.size < sizeof(info) ? info.size : sizeof(info));
	return 0;
}

uint64_t inf_output_bound(const struct inf_model *model, uint32_t rows, uint32_t idx)
{
	if (!model || idx >= model->signature.n_outputs || !rows || rows > INF_ROWS_MAX)
		return 0;
	return inf_spec_row_bytes(&model->signature.outputs[idx]) * rows;
}

void infc_models_free(struct inf_client *client)
{
	while (client->models) {
		struct inf_model *next = client->models->next;

		free(client->models);
		client->models = next;
	}
}
