/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - where this plug-in's models live. Two plug-ins are built of this folder: libinf-backend-torch.so for the CPU, and
 * libinf-backend-torch-cuda.so (INF_TORCH_CUDA, with cuda.cc), which is linked with the CUDA part of libtorch.
 */
#pragma once

#include <c10/core/Device.h>
#include <inf/backend.h>

namespace inf
{

/* The CPU, until init() was told of a device. */
c10::Device device();

/* init()'s part. Throws where this plug-in and the executor's device do not fit. */
void device_init(const struct inf_backend_device *granted);

/* Bytes of the device that libtorch's allocator holds, cached ones too. */
uint64_t device_bytes();

/* Waits for what the calling thread's current stream has to do; nothing on the CPU. */
void device_synchronize();

} /* namespace inf */
