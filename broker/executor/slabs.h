/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slabs.h - what of sessions' memory is on the device, or written by it: twins and timelines (shm/layout.h). Control thread.
 */
#ifndef BROKER_EXECUTOR_SLABS_H
#define BROKER_EXECUTOR_SLABS_H

#include "broker/executor/device.h"
#include "shm/device/slab.h"

/* Once, before the others; without it they answer -ENODEV. */
void slabs_start(const struct device *device);

/*
 * slab_attach - the memory of a twin: what lies as SLAB in the socket (borrowed), or new memory, which is written into it.
 * 0, -ENOMEM, -EPROTO (no SLAB, or one of another size or device), or as inf_driver_errno().
 */
int slab_attach(int socket_fd, uint64_t bytes, struct inf_slab *ret_slab);
void slab_detach(struct inf_slab *slab);

/* words_attach - memory that streams of the device write words into; *ret_device is where they reach it. 0 or -errno. */
int words_attach(void *address, uint64_t bytes, CUdeviceptr *ret_device);
void words_detach(void *address);

#endif /* BROKER_EXECUTOR_SLABS_H */
