/* SPDX-License-Identifier: Apache-2.0 */
/* import.c - inf_input_import(): memory that the broker opens, by handles. */
#include "client/device.h"
#include <errno.h>
#include <inf/device.h>
#include <string.h>

struct exported {
	CUipcMemHandle memory;
	CUipcEventHandle handle;
	CUevent event;
	uint64_t offset; /* of the source, in what `memory` names */
};

static bool is_legacy(const struct device *device, uint64_t from)
{
	CUpointer_attribute attribute = CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE;
	int answer = 0;
	void *value = &answer;

	return !device->driver.pointer_attributes(1, &attribute, &value, from) && answer;
}

/* What the broker needs to know of the source. The event is the caller's to destroy. Our context is current. */
static int export_source(const struct device *device, uint64_t from, void *stream, struct exported *ret)
{
	const struct inf_driver *driver = &device->driver;
	CUdeviceptr base;
	CUresult result;
	size_t bytes;

	if (!is_legacy(device, from)) {
		infc_error_set("other processes can open only memory of cudaMalloc (neither pools nor virtual memory): use inf_input_copy");
		return -EOPNOTSUPP;
	}
	result = driver->address_range(&base, &bytes, from);
	if (!result)
		result = driver->ipc_get_memory(&ret->memory, base);
	if (!result)
		result = driver->event_create(&ret->event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING);
	if (result)
		return infc_device_refuse(device, result);
	ret->offset = from - base;
	result = driver->event_record(ret->event, stream);
	if (!result)
		result = driver->ipc_get_event(&ret->handle, ret->event);
	if (!result)
		return 0;
	driver->event_destroy(ret->event);
	return infc_device_refuse(device, result);
}

/* To destroy an event that somebody waits for may block for ever: that of a broker which has just died is left to the context. */
static void forget_event(const struct inf_client *client, const struct device *device, CUevent event)
{
	CUcontext before;

	if (infc_device_enter(device, &before))
		return;
	if (!infc_is_lost(client) || device->driver.event_query(event) != CUDA_ERROR_NOT_READY)
		device->driver.event_destroy(event);
	infc_device_leave(device, before);
}

/* Control lock held. Until the copy is there, or will never be. */
static int ask_import(struct inf_client *client, const struct region *region, uint64_t offset, const struct exported *source,
		      uint64_t bytes)
{
	union inf_ctl_any answer;
	struct inf_ctl_import msg;
	int fd, r = infc_device_ask_twin(client, region, false);

	if (r)
		return r;
	inf_ctl_init(&msg, INF_CTL_IMPORT, 0);
	msg.region = region->id;
	msg.flags = INF_IMPORT_EVENT;
	msg.offset = offset;
	msg.bytes = bytes;
	msg.from_offset = source->offset;
	memcpy(msg.memory, &source->memory, sizeof(msg.memory));
	memcpy(msg.event, &source->handle, sizeof(msg.event));
	r = infc_control_ask(client, &msg, INF_CTL_IMPORTED, &answer, &fd);
	return !r && answer.head.type == INF_CTL_ERROR ? infc_control_refusal(&answer.error) : r;
}

static int import(struct inf_request *req, uint32_t idx, const struct exported *source, uint64_t bytes)
{
	struct inf_client *client = req->client;
	const struct region *region = infc_region_find(client, req->block->region, INF_REGION_REQUEST);
	int r;

	if (!region)
		return -EPROTO;
	pthread_mutex_lock(&client->control_lock);
	r = ask_import(client, region, req->block->offset + infc_input_offset(req, idx), source, bytes);
	pthread_mutex_unlock(&client->control_lock);
	return r;
}

static int check_import(const struct inf_client *client, const struct device *device)
{
	if (!(client->features & INF_FEATURE_IMPORT)) {
		infc_error_set("this broker opens no memory of clients: update it");
		return -EOPNOTSUPP;
	}
	if (inf_driver_has_ipc(&device->driver))
		return 0;
	infc_error_set("this CUDA driver lets other processes open no memory");
	return -EOPNOTSUPP;
}

int infc_input_import(struct inf_request *req, uint32_t idx, uint64_t from, uint64_t bytes, void *stream)
{
	struct exported source;
	struct device *device;
	CUcontext before;
	CUresult result;
	int r = !req || idx >= req->model->signature.n_inputs ? -EINVAL : infc_device_begin(req, &device);

	if (!r)
		r = check_import(req->client, device);
	if (r)
		return r;
	if (bytes > inf_input_room(req, idx))
		return -EMSGSIZE;
	if (!bytes)
		return -EINVAL;
	result = infc_device_enter(device, &before);
	if (result)
		return infc_device_refuse(device, result);
	r = infc_device_check_source(device, from, bytes);
	if (!r)
		r = export_source(device, from, stream, &source);
	infc_device_leave(device, before);
	if (r)
		return r;
	r = import(req, idx, &source, bytes);
	forget_event(req->client, device, source.event);
	if (!r)
		infc_device_take_input(req, idx);
	return r;
}
