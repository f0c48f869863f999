/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - the CUDA device of this executor: one per process, its primary context, and what its errors lead to.
 *
 * An error after which nothing works any more (a fault of a kernel, an uncorrectable memory error) ends the process: that
 * is what the process is for. The front starts another one and runs again what this one had begun.
 */
#ifndef BROKER_EXECUTOR_DEVICE_H
#define BROKER_EXECUTOR_DEVICE_H

#include "shm/device/driver.h"
#include <inf/backend.h>

#define DEVICE_ALIGN 256u /* of tensors: what libtorch's allocator gives, and no kernel asks for more */

struct device {
	struct inf_driver driver;
	CUdevice handle;
	CUcontext context;
	bool can_register_read_only;
	int priority_least, priority_greatest; /* of streams; greatest is the lower number */
	bool can_share; /* memory with other processes, and write words for them */
	char name[32];	/* "cuda:0" */
	char model[64]; /* as the driver calls it */
	char uuid[INF_UUID_TEXT_BYTES];
	CUfunction judge, move; /* inf_judge, inf_move; NULL = can_share is false */
	uint64_t direct_bytes_min; /* from here on a DMA of its own costs less of a core than a copy into pinned memory */
	struct inf_backend_device backend; /* what plug-ins see of it */
};

/* Opens driver, device and context; `name` as inf_driver_find_device() takes it. 0, or a negative errno with a text. */
int device_open(struct device *device, const char *name, char text[INF_DRIVER_TEXT_BYTES]);

/* Measures direct_bytes_min: some ms. Where that fails a guess stays. */
void device_calibrate(struct device *device);

/* Makes the context current on the calling thread. */
void device_enter(const struct device *device);

/* True where `result` is success. Logs anything else, and ends the process where the device is lost. */
bool device_ok(const struct device *device, CUresult result, const char *what);

/*
 * device_judge - queues inf_judge() on `bytes` values of `spec` on the device: what it forbids is replaced, and *verdict (on
 * the device as well) becomes `says`.
 */
CUresult device_judge(const struct device *device, const struct inf_tensor_spec *spec, CUdeviceptr values, uint64_t bytes,
		      CUdeviceptr verdict, uint64_t says, CUstream stream);

static inline uint64_t device_align(uint64_t bytes)
{
	return (bytes + DEVICE_ALIGN - 1) & ~(uint64_t)(DEVICE_ALIGN - 1);
}

#endif /* BROKER_EXECUTOR_DEVICE_H */
