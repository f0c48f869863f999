/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.cc - a run on a CUDA device: on the executor's stream, from the executor's memory, into the executor's memory.
 *
 * What the model allocates comes from libtorch's caching allocator, which hands a block on only in the order of the stream
 * that it was used on. A run is on one stream from end to end, so nothing needs to be recorded or waited for here, and a
 * result may go as soon as its copy into the executor's memory is queued.
 *
 * A recorded run is launched again later, with the addresses that its tensors had: they come from a pool that nothing else is
 * given. All recordings of a stream share one, since none of their tensors outlives the run and they never run side by side.
 */
#include "broker/backends/torch/device.h"
#include "broker/backends/torch/model.h"
#include "broker/backends/torch/tensor.h"
#include <c10/core/InferenceMode.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace inf
{

static c10::Device the_device(c10::kCPU);

c10::Device device()
{
	return the_device;
}

/* More than that is "out of memory" to the model that asks for it. */
static void limit_memory(uint64_t bytes)
{
	size_t free_bytes, total_bytes;
	c10::cuda::CUDAGuard guard(the_device.index());

	C10_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
	if (bytes < total_bytes)
		c10::cuda::CUDACachingAllocator::setMemoryFraction(static_cast<double>(bytes) / static_cast<double>(total_bytes),
								   the_device.index());
}

void device_init(const struct inf_backend_device *granted)
{
	TORCH_CHECK(granted, "this plug-in is for CUDA devices");
	the_device = c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(granted->ordinal));

	int count = c10::cuda::device_count();

	TORCH_CHECK(count > granted->ordinal, "libtorch sees ", count, " CUDA devices, not cuda:", granted->ordinal);
	if (granted->memory_bytes)
		limit_memory(granted->memory_bytes);
}

uint64_t device_bytes()
{
	constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

	return static_cast<uint64_t>(c10::cuda::CUDACachingAllocator::getDeviceStats(the_device.index()).reserved_bytes[all].current);
}

void device_synchronize()
{
	c10::cuda::getCurrentCUDAStream(the_device.index()).synchronize();
}

/* Queues the copy of a result to where the executor wants it; says what shape it has. */
static void deliver(const at::Tensor &result, struct inf_backend_tensor *output)
{
	struct inf_backend_tensor described;

	tensor_describe(result, &described);
	TORCH_CHECK(described.bytes <= output->bytes, "the model gave ", described.bytes, " bytes, its signature has room for ", output->bytes);
	described.data = output->data;
	*output = described;
	tensor_from_memory(*output).copy_(result, /*non_blocking=*/true);
}

void model_enqueue(inf_backend_model &model, struct CUstream_st *stream, const struct inf_backend_tensor *inputs, uint32_t n_inputs,
		   struct inf_backend_tensor *outputs, uint32_t n_outputs)
{
	c10::InferenceMode mode;
	c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromExternal(stream, the_device.index()));
	tensors results = model_forward(model, inputs, n_inputs);

	TORCH_CHECK(results.size() == n_outputs, "the model gave ", results.size(), " outputs, its signature says ", n_outputs);
	for (uint32_t i = 0; i < n_outputs; i++)
		deliver(results[i], &outputs[i]);
}

void model_record(inf_backend_model &model, uint32_t instance, struct CUstream_st *stream, enum inf_record step)
{
	auto &pool = model.pools.at(instance)[stream];

	switch (step) {
	case INF_RECORD_BEGIN:
		/* A name that nobody used any more is not to be used again. */
		if (!pool.n_uses)
			pool.name = at::cuda::graph_pool_handle();
		c10::cuda::CUDACachingAllocator::beginAllocateToPool(the_device.index(), pool.name,
								     [stream](cudaStream_t used) { return used == stream; });
		pool.n_uses++;
		break;
	case INF_RECORD_END:
		c10::cuda::CUDACachingAllocator::endAllocateToPool(the_device.index(), pool.name);
		break;
	case INF_RECORD_DROP:
		c10::cuda::CUDACachingAllocator::releasePool(the_device.index(), pool.name);
		pool.n_uses--;
		break;
	}
}

} /* namespace inf */
