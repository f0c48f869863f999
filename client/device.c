/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c - tensors on the broker's device. Nothing here is called, and no driver loaded, before inf_device_open().
 *
 * A request region gets a twin on the device when the first request asks for one there; request and twin share offsets, so
 * that the arena is the only allocator. Results go behind the inputs, where this process knows their address before there
 * are any.
 *
 * Each request with device memory holds an entry of the timeline region while it is taken. Its counts belong to the entry,
 * not to the request: they never go back. So do its marks, events that are made once and recorded again.
 */
#define _GNU_SOURCE 1
#include "client/device.h"
#include "shm/region.h"
#include <errno.h>
#include <inf/device.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Makes our context the thread's; the one before is given back by infc_device_leave(). */
CUresult infc_device_enter(const struct device *device, CUcontext *ret_before)
{
	CUresult result = device->driver.context_get(ret_before);

	if (result || *ret_before == device->context)
		return result;
	return device->driver.context_set(device->context);
}

void infc_device_leave(const struct device *device, CUcontext before)
{
	if (before != device->context)
		device->driver.context_set(before);
}

int infc_device_refuse(const struct device *device, CUresult result)
{
	char text[INF_DRIVER_TEXT_BYTES];

	snprintf(text, sizeof(text), "the CUDA driver says %s%s", inf_driver_error(&device->driver, result),
		 result == CUDA_ERROR_INVALID_HANDLE ? ": is it a stream of this process, in the primary context of the broker's device?" : "");
	infc_error_set(text);
	return inf_driver_errno(result);
}

/* --- opening --- */

static int find_device(struct device *device)
{
	char text[INF_DRIVER_TEXT_BYTES];
	int r = inf_driver_find_device(&device->driver, device->told.uuid, &device->handle, text);

	if (r) {
		infc_error_set(r == -ENODEV ? "the broker's device is not visible in this process: CUDA_VISIBLE_DEVICES?" : text);
		return r;
	}
	CUresult result = device->driver.context_retain(&device->context, device->handle);

	return result ? infc_device_refuse(device, result) : 0;
}

static int map_timeline(struct device *device, int fd)
{
	void *address;
	CUcontext before;
	CUresult result;
	int r = device->told.bytes == INF_TIMELINE_BYTES ? inf_region_check_received(fd, device->told.bytes, false) : -EPROTO;

	if (!r)
		r = inf_region_map(fd, device->told.bytes, true, 0, &address);
	if (r)
		return r;
	result = infc_device_enter(device, &before);
	if (!result) {
		result = device->driver.host_register(address, INF_TIMELINE_BYTES,
						      CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
		if (!result)
			result = device->driver.host_device_pointer(&device->words, address, 0);
		infc_device_leave(device, before);
	}
	if (result) {
		inf_region_unmap(address, INF_TIMELINE_BYTES, 0);
		return infc_device_refuse(device, result);
	}
	device->timeline = address;
	for (uint32_t i = 0; i < INF_TIMELINES; i++)
		device->free[i] = (uint16_t)(INF_TIMELINES - i);
	device->n_free = INF_TIMELINES;
	return 0;
}

/* The broker's answer to DEVICE. 0 and the fd, or -errno. */
static int ask_device(struct inf_client *client, struct inf_ctl_timeline *ret_told, int *ret_fd)
{
	union inf_ctl_any answer;
	struct inf_ctl_device msg;
	int r;

	if (!(client->features & INF_FEATURE_DEVICE)) {
		infc_error_set("this broker knows of no device memory: update it");
		return -EOPNOTSUPP;
	}
	inf_ctl_init(&msg, INF_CTL_DEVICE, 0);
	r = infc_control_ask(client, &msg, INF_CTL_TIMELINE, &answer, ret_fd);
	if (r)
		return r;
	if (answer.head.type == INF_CTL_ERROR)
		return infc_control_refusal(&answer.error);
	*ret_told = answer.timeline;
	ret_told->uuid[sizeof(ret_told->uuid) - 1] = 0;
	return 0;
}

/* Control lock held. */
static int open_device(struct inf_client *client)
{
	struct device *device = calloc(1, sizeof(*device));
	char text[INF_DRIVER_TEXT_BYTES];
	int fd = -1, r;

	if (!device)
		return -ENOMEM;
	/* A driver that is not there is found out before the broker has made anything. */
	r = inf_driver_open(&device->driver, NULL, text);
	if (r)
		infc_error_set(text);
	if (!r)
		r = ask_device(client, &device->told, &fd);
	if (!r)
		r = find_device(device);
	if (!r)
		r = map_timeline(device, fd);
	if (fd >= 0)
		close(fd);
	if (r) {
		if (device->context)
			device->driver.context_release(device->handle);
		free(device);
		return r;
	}
	/* Release: pairs with the acquire in device_of(). */
	__atomic_store_n(&client->device, device, __ATOMIC_RELEASE);
	return 0;
}

static struct device *device_of(const struct inf_client *client)
{
	return __atomic_load_n(&client->device, __ATOMIC_ACQUIRE);
}

static int device_open(struct inf_client *client, struct inf_device_info *ret_info)
{
	struct inf_device_info info = { 0 };
	int r = 0;

	if (!client || (ret_info && ret_info->size < sizeof(ret_info->size)))
		return -EINVAL;
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	pthread_mutex_lock(&client->control_lock);
	if (!client->device)
		r = open_device(client);
	pthread_mutex_unlock(&client->control_lock);
	if (r || !ret_info)
		return r;
	info.size = ret_info->size;
	info.ordinal = client->device->handle;
	memcpy(info.uuid, client->device->told.uuid, sizeof(info.uuid));
	memcpy(ret_info, &info, info.size < sizeof(info) ? info.size : sizeof(info));
	return 0;
}

void infc_device_release_waits(struct inf_client *client)
{
	struct device *device = device_of(client);

	/* Signed distances: no count comes near half of this. */
	for (uint32_t i = 0; device && i < INF_TIMELINES; i++)
		inf_store64_release(&device->timeline[i].done.v, INT64_MAX);
}

/* The events are another process's in a forked child, and out of reach without their context. */
static void free_marks(struct device *device, bool can_destroy)
{
	for (uint32_t i = 0; i < INF_TIMELINES; i++) {
		while (device->marks[i]) {
			struct mark *mark = device->marks[i];

			device->marks[i] = mark->next;
			if (can_destroy)
				device->driver.event_destroy(mark->event);
			free(mark);
		}
	}
}

void infc_device_close(struct inf_client *client)
{
	struct device *device = client->device;
	CUcontext before;

	if (!device)
		return;
	/* In a forked child driver and words are the parent's. */
	if (!infc_is_forked(client))
		infc_device_release_waits(client);
	if (!infc_is_forked(client) && !infc_device_enter(device, &before)) {
		/* Nothing on the device may reach for what goes now. */
		device->driver.context_synchronize();
		free_marks(device, true);
		for (unsigned int i = 0; i < INF_REGIONS; i++)
			inf_slab_unmap(&device->driver, &client->regions[i].slab);
		device->driver.host_unregister(device->timeline);
		infc_device_leave(device, before);
		device->driver.context_release(device->handle);
	}
	free_marks(device, false);
	inf_region_unmap(device->timeline, INF_TIMELINE_BYTES, 0);
	free(device);
	client->device = NULL;
}

/* --- twins; control lock held --- */

int infc_device_add_twin(struct inf_client *client, struct region *region, int socket_fd)
{
	struct device *device = client->device;
	struct inf_ctl_slab msg;
	struct inf_slab slab;
	CUcontext before;
	CUresult result;
	int fd, r;

	if (!device || !region || region->slab.address)
		return -EPROTO;
	region->has_twin = true;
	if (!device->maps_twins)
		return 0;
	r = inf_ctl_peek_slab(socket_fd, &msg, &fd);
	if (r)
		return -EPROTO;
	if (msg.bytes < region->bytes || strncmp(msg.uuid, device->told.uuid, sizeof(msg.uuid))) {
		close(fd);
		return -EPROTO;
	}
	result = infc_device_enter(device, &before);
	if (!result) {
		result = inf_slab_map(&device->driver, device->handle, fd, msg.bytes, &slab);
		infc_device_leave(device, before);
	}
	close(fd);
	/* Not the connection's fault: who asked finds no address. */
	if (result) {
		infc_device_refuse(device, result);
		return 0;
	}
	region->slab = slab;
	inf_store64_release(&region->twin, slab.address);
	return 0;
}

int infc_device_ask_twin(struct inf_client *client, const struct region *region, bool is_mapped)
{
	union inf_ctl_any answer;
	struct inf_ctl_twin msg;
	int fd, r;

	if (region->twin_lost)
		return -ESTALE;
	if (is_mapped ? region->twin != 0 : region->has_twin)
		return 0;
	client->device->maps_twins = is_mapped;
	inf_ctl_init(&msg, INF_CTL_TWIN, 0);
	msg.region = region->id;
	r = infc_control_ask(client, &msg, INF_CTL_REGION, &answer, &fd);
	if (r)
		return r;
	if (answer.head.type == INF_CTL_ERROR)
		return infc_control_refusal(&answer.error);
	return region->twin || !is_mapped ? 0 : -EIO;
}

/* The device address of a block, whose region gets a twin where it has none. */
static int locate(struct inf_client *client, const struct arena_block *block, uint64_t *ret_address)
{
	const struct region *region = infc_region_find(client, block->region, INF_REGION_REQUEST);
	int r = 0;

	if (!region)
		return -EPROTO;
	/* Acquire: pairs with the release in infc_device_add_twin(). */
	if (!inf_load64_acquire(&region->twin) || inf_load32(&region->twin_lost)) {
		pthread_mutex_lock(&client->control_lock);
		r = infc_device_ask_twin(client, region, true);
		pthread_mutex_unlock(&client->control_lock);
	}
	if (!r)
		*ret_address = region->twin + block->offset;
	return r;
}

/* --- entries of the timeline --- */

static int take_entry(struct inf_request *req, struct device *device)
{
	int r = 0;

	if (req->timeline)
		return 0;
	pthread_mutex_lock(&req->client->table_lock);
	if (device->n_free)
		req->timeline = device->free[--device->n_free];
	else
		r = -ENOBUFS;
	pthread_mutex_unlock(&req->client->table_lock);
	return r;
}

void infc_device_forget(struct inf_request *req)
{
	struct device *device = req->client->device;

	for (struct mark *mark = device->marks[req->timeline - 1]; mark; mark = mark->next)
		mark->is_set = false;
	pthread_mutex_lock(&req->client->table_lock);
	device->free[device->n_free++] = req->timeline;
	pthread_mutex_unlock(&req->client->table_lock);
	req->timeline = 0;
	req->twin_flags = 0;
}

void infc_device_fill_slot(struct inf_submission *slot, const struct inf_request *req)
{
	struct device *device = req->client->device;
	uint32_t at = req->timeline - 1u;

	inf_store64(&device->timeline[at].ready_at, device->ready[at]);
	inf_store64(&device->timeline[at].done_at, ++device->done[at]);
	slot->mem_kind = INF_MEM_DEVICE;
	slot->flags |= req->twin_flags;
	slot->timeline = req->timeline;
}

/* --- calls --- */

int infc_device_begin(struct inf_request *req, struct device **ret_device)
{
	if (!req || !req->block)
		return -EINVAL;
	if (infc_is_forked(req->client))
		return -EOWNERDEAD;
	if (inf_load32_acquire(&req->state) == INFC_FLIGHT)
		return -EBUSY;
	*ret_device = device_of(req->client);
	return *ret_device ? take_entry(req, *ret_device) : -ENODEV;
}

/* Where input `idx` may lie on the device; that it does is for the caller to say. */
static int place_input(struct inf_request *req, uint32_t idx, struct device **ret_device, uint64_t *ret_address)
{
	uint64_t address;
	int r = !req || idx >= req->model->signature.n_inputs ? -EINVAL : infc_device_begin(req, ret_device);

	if (!r)
		r = locate(req->client, req->block, &address);
	if (!r)
		*ret_address = address + infc_input_offset(req, idx);
	return r;
}

void infc_device_take_input(struct inf_request *req, uint32_t idx)
{
	req->twin_flags |= 1u << (INF_SUB_TWIN_SHIFT + idx);
}

static int input_device(struct inf_request *req, uint32_t idx, uint64_t *ret_address)
{
	struct device *device;
	int r = ret_address ? place_input(req, idx, &device, ret_address) : -EINVAL;

	if (!r)
		infc_device_take_input(req, idx);
	return r;
}

int infc_device_check_source(const struct device *device, uint64_t from, uint64_t bytes)
{
	unsigned int type = 0;
	int ordinal = -1;
	uint64_t start = 0;
	size_t size = 0;
	CUpointer_attribute attributes[] = { CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
					     CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_RANGE_SIZE };
	void *values[] = { &type, &ordinal, &start, &size };

	if (device->driver.pointer_attributes(4, attributes, values, from) || type != CU_MEMORYTYPE_DEVICE ||
	    bytes > size || from - start > size - bytes)
		return -EFAULT;
	return ordinal == device->handle ? 0 : -EXDEV;
}

static int input_copy(struct inf_request *req, uint32_t idx, uint64_t from, uint64_t bytes, void *stream)
{
	struct device *device;
	CUcontext before;
	CUresult result;
	uint64_t to;
	int r = place_input(req, idx, &device, &to);

	if (r)
		return r;
	if (bytes > inf_input_room(req, idx))
		return -EMSGSIZE;
	result = infc_device_enter(device, &before);
	if (result)
		return infc_device_refuse(device, result);
	r = bytes ? infc_device_check_source(device, from, bytes) : 0;
	if (!r && bytes)
		result = device->driver.copy(to, from, bytes, stream);
	infc_device_leave(device, before);
	if (result)
		return infc_device_refuse(device, result);
	if (!r)
		infc_device_take_input(req, idx);
	return r;
}

/* The block that lies in front of the results: as in shm/layout.h, INF_SUB_TWIN_OUT. */
static struct arena_block *block_before(const struct inf_request *req, uint64_t *ret_end)
{
	*ret_end = inf_align64(req->is_ext ? req->model->signature.n_inputs * sizeof(struct inf_ext_tensor) :
					     infc_packed_bytes(req->model, req->rows));
	return req->is_ext ? req->ext : req->block;
}

static int output_to_device(struct inf_request *req)
{
	struct device *device;
	uint64_t address;
	int r = infc_device_begin(req, &device);

	if (r)
		return r;
	req->twin_flags |= INF_SUB_TWIN_OUT;
	r = infc_request_make_room(req);
	if (!r)
		r = locate(req->client, block_before(req, &address), &address);
	if (!r)
		return 0;
	/* Without the room for results there is room for the inputs again. */
	req->twin_flags &= ~INF_SUB_TWIN_OUT;
	infc_request_make_room(req);
	return r;
}

static int output_device(const struct inf_request *req, uint32_t idx, uint64_t *ret_address)
{
	const struct arena_block *block;
	const struct region *region;
	uint64_t end;

	if (!req || !ret_address || !(req->twin_flags & INF_SUB_TWIN_OUT) || idx >= req->model->signature.n_outputs)
		return -EINVAL;
	block = block_before(req, &end);
	region = infc_region_find(req->client, block->region, INF_REGION_REQUEST);
	if (!region)
		return -EINVAL;
	*ret_address = region->twin + block->offset + end + inf_output_offset(&req->model->signature, req->rows, idx);
	return 0;
}

/* A word of the request's entry, as the device sees it. */
static CUdeviceptr word_of(const struct device *device, const struct inf_request *req, size_t at)
{
	return device->words + (req->timeline - 1u) * sizeof(struct inf_timeline) + at;
}

static int request_commit(struct inf_request *req, void *stream)
{
	struct device *device;
	CUcontext before;
	CUresult result;
	int r = !req || !req->timeline ? -EINVAL : infc_device_begin(req, &device);

	if (r)
		return r;
	result = infc_device_enter(device, &before);
	if (!result) {
		uint64_t *count = &device->ready[req->timeline - 1];

		result = device->driver.stream_write(stream, word_of(device, req, offsetof(struct inf_timeline, ready)), *count + 1,
						     CU_STREAM_WRITE_VALUE_DEFAULT);
		*count += !result;
		infc_device_leave(device, before);
	}
	return result ? infc_device_refuse(device, result) : 0;
}

/* Of a request with device memory; its context is current then. */
static int enter_request(const struct inf_request *req, CUcontext *ret_before)
{
	CUresult result;

	if (!req || !req->timeline)
		return -EINVAL;
	if (infc_is_forked(req->client))
		return -EOWNERDEAD;
	result = infc_device_enter(req->client->device, ret_before);
	return result ? infc_device_refuse(req->client->device, result) : 0;
}

static int wait_stream(struct inf_request *req, void *stream)
{
	const struct device *device;
	CUcontext before;
	CUresult result = CUDA_SUCCESS;
	uint32_t state;
	int r = enter_request(req, &before);

	if (r)
		return r;
	device = req->client->device;
	state = inf_load32_acquire(&req->state);
	if (state == INFC_FLIGHT || state == INFC_ENDED)
		result = device->driver.stream_wait(stream, word_of(device, req, offsetof(struct inf_timeline, done)),
						    device->done[req->timeline - 1], CU_STREAM_WAIT_VALUE_GEQ);
	else
		r = -EINVAL;
	infc_device_leave(device, before);
	return result ? infc_device_refuse(device, result) : r;
}

/* One of the entry's that is not in use. NULL with *ret_error set. */
static struct mark *mark_of(struct device *device, uint32_t at, int *ret_error)
{
	struct mark *mark = device->marks[at];
	CUresult result;

	while (mark && mark->is_set)
		mark = mark->next;
	if (mark)
		return mark;
	mark = calloc(1, sizeof(*mark));
	if (!mark) {
		*ret_error = -ENOMEM;
		return NULL;
	}
	result = device->driver.event_create(&mark->event, CU_EVENT_DISABLE_TIMING);
	if (result) {
		*ret_error = infc_device_refuse(device, result);
		free(mark);
		return NULL;
	}
	mark->next = device->marks[at];
	device->marks[at] = mark;
	return mark;
}

static int mark_stream(struct inf_request *req, void *stream)
{
	struct device *device;
	struct mark *mark;
	CUcontext before;
	CUresult result = CUDA_SUCCESS;
	int r = enter_request(req, &before);

	if (r)
		return r;
	device = req->client->device;
	mark = mark_of(device, req->timeline - 1u, &r);
	if (mark)
		result = device->driver.event_record(mark->event, stream);
	if (mark && !result)
		mark->is_set = true;
	infc_device_leave(device, before);
	return result ? infc_device_refuse(device, result) : r;
}

static int poll_marks(struct inf_request *req)
{
	struct device *device;
	CUresult result = CUDA_SUCCESS;
	CUcontext before;
	int r = enter_request(req, &before);

	if (r)
		return r;
	device = req->client->device;
	for (struct mark *mark = device->marks[req->timeline - 1]; mark && !result; mark = mark->next) {
		if (mark->is_set)
			result = device->driver.event_query(mark->event);
		mark->is_set &= result != CUDA_SUCCESS;
	}
	infc_device_leave(device, before);
	if (result == CUDA_ERROR_NOT_READY)
		return 0;
	return result ? infc_device_refuse(device, result) : 1;
}

/* --- the calls, with words for what fails --- */

#define CALL(call) (infc_error_set(""), infc_error_tell(call))

int inf_device_open(struct inf_client *client, struct inf_device_info *ret_info)
{
	return CALL(device_open(client, ret_info));
}

int inf_input_device(struct inf_request *req, uint32_t idx, uint64_t *ret_address)
{
	return CALL(input_device(req, idx, ret_address));
}

int inf_input_copy(struct inf_request *req, uint32_t idx, uint64_t from, uint64_t bytes, void *stream)
{
	return CALL(input_copy(req, idx, from, bytes, stream));
}

int inf_input_import(struct inf_request *req, uint32_t idx, uint64_t from, uint64_t bytes, void *stream)
{
	return CALL(infc_input_import(req, idx, from, bytes, stream));
}

int inf_output_to_device(struct inf_request *req)
{
	return CALL(output_to_device(req));
}

int inf_output_device(const struct inf_request *req, uint32_t idx, uint64_t *ret_address)
{
	return CALL(output_device(req, idx, ret_address));
}

int inf_request_commit(struct inf_request *req, void *stream)
{
	return CALL(request_commit(req, stream));
}

int inf_wait_stream(struct inf_request *req, void *stream)
{
	return CALL(wait_stream(req, stream));
}

int inf_mark_stream(struct inf_request *req, void *stream)
{
	return CALL(mark_stream(req, stream));
}

int inf_poll_marks(struct inf_request *req)
{
	return CALL(poll_marks(req));
}
