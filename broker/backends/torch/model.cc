/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.cc - loading, freezing and running TorchScript.
 *
 * The module is put into eval mode and frozen (weights inlined, dropout gone). Whether the channels-last memory format is
 * faster depends on the model and on the machine, so the first run (warm-up, nobody waits) measures both and keeps the
 * faster one. The fuser is off: its specialisations per shape would make the first run of each batch size slow, and on a
 * CPU it gained nothing.
 */
#include "broker/backends/torch/model.h"
#include "broker/backends/torch/device.h"
#include "broker/backends/torch/tensor.h"
#include <algorithm>
#include <chrono>
#include <fstream>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <unordered_set>

namespace inf
{

/*
 * Operators that size their output from shapes alone. Others (nonzero, masked_select, indexing by data) count in one pass
 * and write in a second one, and write out of bounds when another process changes the input in between: with them the input
 * is copied first.
 */
static const std::unordered_set<std::string> &shape_only_ops()
{
	static const std::unordered_set<std::string> ops = {
		"aten::_convolution", "aten::conv2d", "aten::conv1d", "aten::convolution", "aten::linear", "aten::addmm",
		"aten::matmul", "aten::mm", "aten::bmm", "aten::batch_norm", "aten::layer_norm", "aten::relu", "aten::relu_",
		"aten::relu6", "aten::relu6_", "aten::hardtanh", "aten::hardtanh_", "aten::clamp", "aten::sigmoid", "aten::tanh",
		"aten::gelu", "aten::silu", "aten::silu_", "aten::hardswish", "aten::hardswish_", "aten::hardsigmoid", "aten::add",
		"aten::add_", "aten::sub", "aten::mul", "aten::mul_", "aten::div", "aten::softmax", "aten::log_softmax",
		"aten::adaptive_avg_pool2d", "aten::avg_pool2d", "aten::max_pool2d", "aten::mean", "aten::sum", "aten::flatten",
		"aten::view", "aten::reshape", "aten::size", "aten::transpose", "aten::permute", "aten::contiguous", "aten::t",
		"aten::dropout", "aten::constant_pad_nd", "aten::pad", "aten::cat", "aten::unsqueeze", "aten::squeeze",
		"aten::to", "aten::detach", "prim::Constant", "prim::ListConstruct", "prim::TupleConstruct", "prim::GetAttr",
		"prim::NumToTensor", "aten::Int", "prim::ListUnpack", "prim::TupleUnpack", "aten::floor_divide",
	};
	return ops;
}

static bool block_is_shape_only(const torch::jit::Block *block)
{
	for (const auto *node : block->nodes())
		if (!node->blocks().empty() || !shape_only_ops().count(node->kind().toQualString()))
			return false;
	return true;
}

static bool graph_is_shape_only(const torch::jit::Module &module)
{
	auto graph = module.get_method("forward").graph()->copy();

	torch::jit::Inline(*graph);
	return block_is_shape_only(graph->block());
}

inf_backend_model *model_load(const char *path, uint32_t n_instances)
{
	torch::jit::ExtraFilesMap extra{ { "infbroker.json", "" } };
	auto model = std::make_unique<inf_backend_model>();
	auto module = torch::jit::load(path, device(), extra);

	module.eval();
	model->module = torch::jit::freeze_module(module);
	model->json = extra["infbroker.json"];
	model->outputs.resize(n_instances);
	model->pools.resize(n_instances);
	model->in_place = graph_is_shape_only(model->module);
	return model.release();
}

static tensors forward(inf_backend_model &model, const tensors &inputs, bool channels_last)
{
	std::vector<c10::IValue> arguments;
	tensors outputs;

	for (const auto &input : inputs)
		arguments.emplace_back(channels_last && input.dim() == 4 ? input.contiguous(at::MemoryFormat::ChannelsLast) :
									   input);

	auto result = model.module.forward(std::move(arguments));

	if (result.isTensor())
		outputs.push_back(result.toTensor());
	else if (result.isTensorList())
		outputs = result.toTensorVector();
	else if (result.isTuple())
		for (const auto &element : result.toTupleRef().elements())
			outputs.push_back(element.toTensor());
	else
		TORCH_CHECK(false, "the model gave a ", result.tagKind(), " instead of tensors");
	for (auto &output : outputs)
		output = output.to(device()).contiguous();
	return outputs;
}

/* The fastest of a few runs, in seconds; the first two specialise the graph and are not counted. */
static double time_forward(inf_backend_model &model, const tensors &inputs, bool channels_last)
{
	double best = 1e9;

	for (int i = 0; i < 6; i++) {
		auto begin = std::chrono::steady_clock::now();

		forward(model, inputs, channels_last);
		device_synchronize();

		std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;

		if (i >= 2)
			best = std::min(best, took.count());
	}
	return best;
}

static void choose_layout(inf_backend_model &model, const tensors &inputs)
{
	bool images = std::any_of(inputs.begin(), inputs.end(),
				  [](const at::Tensor &t) { return t.dim() == 4 && t.is_floating_point(); });

	if (images)
		model.channels_last = time_forward(model, inputs, true) < time_forward(model, inputs, false);
	model.layout_chosen = true;
}

tensors model_forward(inf_backend_model &model, const struct inf_backend_tensor *inputs, uint32_t n_inputs)
{
	tensors arguments;

	for (uint32_t i = 0; i < n_inputs; i++)
		arguments.push_back(tensor_from_memory(inputs[i]));
	/* The executor's warm-up comes before anything else and is alone: nobody shares this flag yet. */
	if (!model.layout_chosen)
		choose_layout(model, arguments);
	return forward(model, arguments, model.channels_last);
}

static bool is_within(const at::Tensor &tensor, const struct inf_backend_tensor &memory)
{
	auto at = static_cast<const char *>(tensor.data_ptr()), begin = static_cast<const char *>(memory.data);

	return at >= begin && at < begin + memory.bytes;
}

void model_run(inf_backend_model &model, uint32_t instance, const struct inf_backend_tensor *inputs, uint32_t n_inputs,
	       struct inf_backend_tensor *outputs, uint32_t n_outputs)
{
	c10::InferenceMode mode;

	TORCH_CHECK(instance < model.outputs.size(), "no such instance");

	auto &kept = model.outputs[instance];

	kept = model_forward(model, inputs, n_inputs);
	TORCH_CHECK(kept.size() == n_outputs, "the model gave ", kept.size(), " outputs, its signature says ", n_outputs);
	for (uint32_t i = 0; i < n_outputs; i++) {
		/* An output that is a view of an input would lie in memory that is not ours. */
		for (uint32_t k = 0; k < n_inputs; k++)
			if (kept[i].nbytes() && is_within(kept[i], inputs[k]))
				kept[i] = kept[i].clone();
		tensor_describe(kept[i], &outputs[i]);
	}
}

} /* namespace inf */
