/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dlpack.h - tensors of other libraries in and out, as DLPack describes them (github.com/dmlc/dlpack; Debian: libdlpack-dev).
 *
 * Inline, so that libinfclient itself needs nothing: include it where you have <dlpack/dlpack.h>. Works with every version of
 * it that has DLManagedTensor.
 */
#ifndef INF_DLPACK_H
#define INF_DLPACK_H

#include <dlpack/dlpack.h>
#include <errno.h>
#include <inf/device.h>
#include <stdlib.h>
#include <string.h>

/* Bytes per element where `spec` says that type; 0 where it says another one. */
static inline uint32_t inf_dlpack_bytes(const struct inf_tensor_spec *spec, DLDataType type)
{
	uint32_t bytes = inf_dtype_bytes((enum inf_dtype)spec->dtype);
	unsigned int code;

	switch (spec->dtype) {
	case INF_U8:
		code = kDLUInt;
		break;
	case INF_BF16:
		code = kDLBfloat;
		break;
	case INF_F16:
	case INF_F32:
	case INF_F64:
		code = kDLFloat;
		break;
	case INF_BOOL: /* of its own since DLPack 0.8, a byte before */
		code = type.code == 6 ? 6u : (unsigned int)kDLUInt;
		break;
	default:
		code = kDLInt;
		break;
	}
	return type.code == code && type.bits == 8 * bytes && type.lanes == 1 ? bytes : 0;
}

/* Does it fit the specification, row-major and without gaps? Its bytes, or UINT64_MAX. */
static inline uint64_t inf_dlpack_packed_bytes(const struct inf_tensor_spec *spec, const DLTensor *tensor)
{
	uint64_t bytes = inf_dlpack_bytes(spec, tensor->dtype);
	int64_t stride = 1;

	if (!bytes || tensor->ndim != spec->rank)
		return UINT64_MAX;
	for (int i = tensor->ndim - 1; i >= 0; i--) {
		if (tensor->shape[i] < 0 || (spec->dims[i] >= 0 && tensor->shape[i] != spec->dims[i]))
			return UINT64_MAX;
		if (tensor->strides && tensor->shape[i] > 1 && tensor->strides[i] != stride)
			return UINT64_MAX;
		if (__builtin_mul_overflow(bytes, (uint64_t)tensor->shape[i], &bytes))
			return UINT64_MAX;
		/* No overflow: elements are no more than bytes, but for empty tensors, of which nothing is read. */
		stride = (int64_t)((uint64_t)stride * (uint64_t)tensor->shape[i]);
	}
	return bytes;
}

/*
 * inf_input_dlpack - copies a tensor into input `idx`: one in host memory at once, one on the broker's device as
 * inf_input_copy() does, in the order of @stream.
 * @model: the request's
 * @tensor: stays the caller's; of one on the device until the copy has run
 * Errors: -EINVAL (dtype, rank or shape are not the signature's, or gaps between elements), -EMSGSIZE (other rows than the
 * request's, or past the largest shape), -EOPNOTSUPP (memory of another kind), -EBUSY, and those of inf_input_copy().
 */
static inline int inf_input_dlpack(const struct inf_model *model, struct inf_request *req, uint32_t idx, const DLTensor *tensor,
				   void *stream)
{
	const struct inf_signature *signature = inf_model_signature(model);
	const struct inf_tensor_spec *spec;
	const char *data;
	uint64_t bytes;
	int is_fixed = 1;

	if (!req || !tensor || idx >= signature->n_inputs)
		return -EINVAL;
	spec = &signature->inputs[idx];
	bytes = inf_dlpack_packed_bytes(spec, tensor);
	if (bytes == UINT64_MAX)
		return -EINVAL;
	for (int i = spec->flags & INF_SPEC_BATCH ? 1 : 0; i < spec->rank; i++)
		is_fixed &= spec->dims[i] >= 0;
	if (is_fixed ? bytes != inf_input_room(req, idx) : bytes > inf_input_room(req, idx))
		return -EMSGSIZE;
	if (!is_fixed) {
		int r = inf_input_describe(req, idx, (enum inf_dtype)spec->dtype, spec->rank, tensor->shape);

		if (r)
			return r;
	}
	data = (const char *)tensor->data + tensor->byte_offset;
	switch ((int)tensor->device.device_type) {
	case kDLCPU:
	case kDLCUDAHost:
		if (bytes)
			memcpy(inf_input(req, idx), data, bytes);
		return 0;
	case kDLCUDA:
		return inf_input_copy(req, idx, (uint64_t)(uintptr_t)data, bytes, stream);
	default:
		return -EOPNOTSUPP;
	}
}

/* Of inf_output_dlpack(): what the tensor points at stays the request's. */
static inline void inf_dlpack_delete(DLManagedTensor *tensor)
{
	free(tensor);
}

/*
 * inf_output_dlpack - output `idx` of a request that has ended well, where it lies: on the host, or on the device after
 * inf_output_to_device(). Not to be written; valid until the request is given back or submitted again, whatever the tensor's
 * own life is.
 * @ordinal: the device's, as inf_device_open() tells it; of no matter on the host
 * @ret_tensor: the caller's, to be ended by its deleter
 * Errors: -EINVAL (idx, or the status is not INF_OK), -ENOMEM.
 */
static inline int inf_output_dlpack(const struct inf_request *req, uint32_t idx, int32_t ordinal, DLManagedTensor **ret_tensor)
{
	struct inf_tensor tensor;
	DLManagedTensor *managed;
	DLDataType type = { kDLInt, 0, 1 };
	uint64_t address = 0;

	if (inf_output_tensor(req, idx, &tensor) || (!tensor.data && inf_output_device(req, idx, &address)))
		return -EINVAL;
	managed = (DLManagedTensor *)calloc(1, sizeof(*managed) + INF_RANK_MAX * sizeof(int64_t));
	if (!managed)
		return -ENOMEM;
	if (tensor.dtype == INF_U8 || tensor.dtype == INF_BOOL)
		type.code = kDLUInt;
	else if (tensor.dtype == INF_BF16)
		type.code = kDLBfloat;
	else if (tensor.dtype >= INF_F16)
		type.code = kDLFloat;
	type.bits = (uint8_t)(8 * inf_dtype_bytes((enum inf_dtype)tensor.dtype));
	managed->dl_tensor.dtype = type;
	managed->dl_tensor.ndim = (int32_t)tensor.rank;
	managed->dl_tensor.shape = (int64_t *)(void *)(managed + 1);
	memcpy(managed->dl_tensor.shape, tensor.dims, tensor.rank * sizeof(int64_t));
	managed->dl_tensor.data = tensor.data ? (void *)(uintptr_t)tensor.data : (void *)(uintptr_t)address;
	managed->dl_tensor.device.device_type = tensor.data ? kDLCPU : kDLCUDA;
	managed->dl_tensor.device.device_id = tensor.data ? 0 : ordinal;
	managed->deleter = inf_dlpack_delete;
	*ret_tensor = managed;
	return 0;
}

#endif /* INF_DLPACK_H */
