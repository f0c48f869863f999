/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slab.h - device memory that processes share: made by an executor, sent as a file descriptor, mapped by others.
 *
 * The memory lives as long as anybody has it mapped or holds such a descriptor, whoever made it. Every call wants a current
 * context of `device`.
 */
#ifndef SHM_DEVICE_SLAB_H
#define SHM_DEVICE_SLAB_H

#include "shm/device/driver.h"

struct inf_slab {
	CUdeviceptr address; /* 0 = none */
	uint64_t bytes;	     /* a multiple of the device's granularity */
};

/*
 * inf_slab_make - memory for at least `bytes`, zeroed, mapped for reading and writing.
 * @ret_fd: the descriptor that others map it by; the caller closes it
 */
CUresult inf_slab_make(const struct inf_driver *driver, CUdevice device, uint64_t bytes, struct inf_slab *ret_slab, int *ret_fd);

/* inf_slab_map - maps memory of that size by its descriptor, which stays the caller's. */
CUresult inf_slab_map(const struct inf_driver *driver, CUdevice device, int fd, uint64_t bytes, struct inf_slab *ret_slab);

/* inf_slab_unmap - nothing may use it any more. NULL-like slabs are allowed. */
CUresult inf_slab_unmap(const struct inf_driver *driver, struct inf_slab *slab);

#endif /* SHM_DEVICE_SLAB_H */
