/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.cc - the one place where memory becomes a torch::Tensor. */
#include "broker/backends/torch/tensor.h"
#include "broker/backends/torch/device.h"

namespace inf
{

at::ScalarType dtype_to_torch(uint8_t dtype)
{
	switch (dtype) {
	case INF_BOOL:
		return at::kBool;
	case INF_U8:
		return at::kByte;
	case INF_I8:
		return at::kChar;
	case INF_I16:
		return at::kShort;
	case INF_I32:
		return at::kInt;
	case INF_I64:
		return at::kLong;
	case INF_F16:
		return at::kHalf;
	case INF_BF16:
		return at::kBFloat16;
	case INF_F32:
		return at::kFloat;
	case INF_F64:
		return at::kDouble;
	default:
		TORCH_CHECK(false, "unknown element type ", static_cast<int>(dtype));
	}
}

uint8_t dtype_from_torch(at::ScalarType type)
{
	switch (type) {
	case at::kBool:
		return INF_BOOL;
	case at::kByte:
		return INF_U8;
	case at::kChar:
		return INF_I8;
	case at::kShort:
		return INF_I16;
	case at::kInt:
		return INF_I32;
	case at::kLong:
		return INF_I64;
	case at::kHalf:
		return INF_F16;
	case at::kBFloat16:
		return INF_BF16;
	case at::kFloat:
		return INF_F32;
	case at::kDouble:
		return INF_F64;
	default:
		TORCH_CHECK(false, "the model gave a tensor of type ", at::toString(type), ", which is not served");
	}
}

at::Tensor tensor_from_memory(const struct inf_backend_tensor &memory)
{
	auto options = at::TensorOptions().dtype(dtype_to_torch(memory.dtype)).device(device());

	return at::from_blob(memory.data, at::IntArrayRef(memory.dims, memory.rank), options);
}

void tensor_describe(const at::Tensor &tensor, struct inf_backend_tensor *ret)
{
	TORCH_CHECK(tensor.dim() <= INF_RANK_MAX, "the model gave a tensor of rank ", tensor.dim(), "; 8 is the limit");
	*ret = {};
	ret->data = tensor.data_ptr();
	ret->bytes = tensor.nbytes();
	ret->dtype = dtype_from_torch(tensor.scalar_type());
	ret->rank = static_cast<uint8_t>(tensor.dim());
	for (int64_t i = 0; i < tensor.dim(); i++)
		ret->dims[i] = tensor.size(i);
}

} /* namespace inf */
