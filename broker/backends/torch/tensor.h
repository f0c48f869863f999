/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.h - where a batch's memory becomes a torch::Tensor, and the reverse. */
#pragma once

#include <ATen/ATen.h>
#include <inf/backend.h>

namespace inf
{

/* A view over the executor's memory; nothing is copied, nothing is freed. It must not outlive the run. */
at::Tensor tensor_from_memory(const struct inf_backend_tensor &memory);

/* Describes a contiguous row-major tensor, which the caller keeps alive. Throws for an element type we don't serve. */
void tensor_describe(const at::Tensor &tensor, struct inf_backend_tensor *ret);

/* No torch enum crosses the interface: explicit both ways. */
at::ScalarType dtype_to_torch(uint8_t dtype);
uint8_t dtype_from_torch(at::ScalarType type);

} /* namespace inf */
