/* SPDX-License-Identifier: Apache-2.0 */
/* slabs.c - see slabs.h. */
#include "broker/executor/slabs.h"
#include "shm/control.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct device *slabs_device;

void slabs_start(const struct device *device)
{
	slabs_device = device;
}

/* Ends the process where the device is lost. */
static int judge(CUresult result, const char *what)
{
	device_ok(slabs_device, result, what);
	return inf_driver_errno(result);
}

static int make(int socket_fd, uint64_t bytes, struct inf_slab *ret_slab)
{
	struct inf_ctl_slab msg;
	int fd, r = judge(inf_slab_make(&slabs_device->driver, slabs_device->handle, bytes, ret_slab, &fd), "memory for a client's tensors");

	if (r)
		return r;
	inf_ctl_init(&msg, INF_CTL_SLAB, 0);
	msg.bytes = ret_slab->bytes;
	snprintf(msg.uuid, sizeof(msg.uuid), "%s", slabs_device->uuid);
	r = inf_ctl_send(socket_fd, &msg, &fd, 1, true);
	close(fd);
	if (r)
		slab_detach(ret_slab);
	return r;
}

int slab_attach(int socket_fd, uint64_t bytes, struct inf_slab *ret_slab)
{
	struct inf_ctl_slab msg;
	int fd, r;

	if (!slabs_device || !slabs_device->can_share)
		return -ENODEV;
	r = inf_ctl_peek_slab(socket_fd, &msg, &fd);
	if (r == -EAGAIN)
		return make(socket_fd, bytes, ret_slab);
	if (r)
		return -EPROTO;
	if (msg.bytes >= bytes && !strncmp(msg.uuid, slabs_device->uuid, sizeof(msg.uuid)))
		r = judge(inf_slab_map(&slabs_device->driver, slabs_device->handle, fd, msg.bytes, ret_slab), "mapping a client's tensors");
	else
		r = -EPROTO;
	close(fd);
	return r;
}

void slab_detach(struct inf_slab *slab)
{
	judge(inf_slab_unmap(&slabs_device->driver, slab), "unmapping a client's tensors");
}

int words_attach(void *address, uint64_t bytes, CUdeviceptr *ret_device)
{
	int r;

	if (!slabs_device || !slabs_device->can_share)
		return -ENODEV;
	r = judge(slabs_device->driver.host_register(address, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP),
		  "registering a timeline");
	if (r)
		return r;
	r = judge(slabs_device->driver.host_device_pointer(ret_device, address, 0), "registering a timeline");
	if (r)
		words_detach(address);
	return r;
}

void words_detach(void *address)
{
	judge(slabs_device->driver.host_unregister(address), "unregistering a timeline");
}
