/* SPDX-License-Identifier: Apache-2.0 */
/* infer.c - the synchronous calls, made of the asynchronous ones. */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include <errno.h>
#include <string.h>

static void copy_in(struct inf_request *req, const void *const *inputs)
{
	for (uint32_t i = 0; i < req->model->signature.n_inputs; i++) {
		uint64_t bytes = inf_input_room(req, i);

		if (bytes)
			memcpy(inf_input(req, i), inputs[i], bytes);
	}
}

static void copy_out(const struct inf_request *req, void *const *outputs)
{
	for (uint32_t i = 0; i < req->model->signature.n_outputs; i++)
		if (req->outputs[i].bytes)
			memcpy(outputs[i], req->outputs[i].data, req->outputs[i].bytes);
}

int inf_infer(struct inf_model *model, uint32_t rows, const void *const *inputs,
	      void *const *outputs, uint64_t until_ns)
{
	struct inf_request *req;
	int r;

	if (!model || (!inputs && model->signature.n_inputs) ||
	    (!outputs && model->signature.n_outputs))
		return -EINVAL;
	r = inf_request_take(model, rows, &req);
	if (r)
		return r;
	copy_in(req, inputs);
	r = inf_submit(req);
	if (!r)
		r = inf_wait(req, until_ns);
	if (!r) {
		r = (int)inf_request_status(req);
		if (r == INF_OK)
			copy_out(req, outputs);
	}
	inf_request_give(req);
	return r;
}

int inf_ping(struct inf_client *client, uint64_t until_ns, uint64_t *ret_rtt_ns)
{
	struct inf_request *req;
	uint64_t start_ns = 0;
	int r;

	if (!client)
		return -EINVAL;
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	req = infc_request_get(&client->ping_model, infc_lane_mine(client));
	if (!req)
		return -ENOMEM;
	inf_store32(&req->state, INFC_IDLE);
	if (ret_rtt_ns)
		start_ns = infc_now_ns();
	r = inf_submit(req);
	if (!r)
		r = inf_wait(req, until_ns);
	if (!r && inf_request_status(req) != INF_OK)
		r = -ECONNRESET;
	if (!r && ret_rtt_ns)
		*ret_rtt_ns = infc_now_ns() - start_ns;
	inf_request_give(req);
	return r;
}
