/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - a TorchScript module, frozen for inference, and what its runs keep alive. */
#pragma once

#include <inf/backend.h>
#include <map>
#include <string>
#include <torch/csrc/jit/api/module.h>
#include <vector>

/* Memory that recorded runs of one stream use: of libtorch's allocator, which calls it by that name. */
struct recording_pool {
	std::pair<unsigned long long, unsigned long long> name;
	unsigned int n_uses; /* recordings that were begun and not dropped */
};

struct inf_backend_model {
	torch::jit::Module module;
	std::string json;  /* the archive's infbroker.json, empty where it has none */
	bool channels_last = false;
	bool layout_chosen = false; /* channels_last was measured */
	bool in_place = false;
	std::vector<std::vector<at::Tensor>> outputs; /* per instance: alive until done() */
	std::vector<std::map<struct CUstream_st *, struct recording_pool>> pools; /* per instance: cuda.cc's */
};

namespace inf
{

using tensors = std::vector<at::Tensor>;

inf_backend_model *model_load(const char *path, uint32_t n_instances);

/* One run; fills n_outputs descriptions. Throws. */
void model_run(inf_backend_model &model, uint32_t instance, const struct inf_backend_tensor *inputs, uint32_t n_inputs,
	       struct inf_backend_tensor *outputs, uint32_t n_outputs);

/* The forward pass alone, wherever the inputs are; results are contiguous. The first one measures the layout. Throws. */
tensors model_forward(inf_backend_model &model, const struct inf_backend_tensor *inputs, uint32_t n_inputs);

/* cuda.cc: puts one run on `stream`. Throws. */
void model_enqueue(inf_backend_model &model, struct CUstream_st *stream, const struct inf_backend_tensor *inputs, uint32_t n_inputs,
		   struct inf_backend_tensor *outputs, uint32_t n_outputs);

/* cuda.cc: as record() of the interface. Throws. */
void model_record(inf_backend_model &model, uint32_t instance, struct CUstream_st *stream, enum inf_record step);

} /* namespace inf */
