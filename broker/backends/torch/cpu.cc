/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.cc - device.h for the plug-in that has no CUDA. */
#include "broker/backends/torch/device.h"
#include <c10/util/Exception.h>

namespace inf
{

c10::Device device()
{
	return c10::Device(c10::kCPU);
}

void device_init(const struct inf_backend_device *granted)
{
	TORCH_CHECK(!granted, "this plug-in is for the CPU");
}

void device_synchronize()
{
}

} /* namespace inf */
