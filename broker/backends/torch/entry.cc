/* SPDX-License-Identifier: Apache-2.0 */
/*
 * entry.cc - the plug-in's table: plain C on the outside, every entry noexcept and guarded.
 *
 * The only C++ of the project is in this folder. guard.h keeps exceptions inside, tensor.cc makes tensors of memory,
 * model.cc loads and runs.
 */
#include "broker/backends/torch/device.h"
#include "broker/backends/torch/guard.h"
#include "broker/backends/torch/model.h"
#include <ATen/Parallel.h>
#include <cstring>
#include <inf/backend.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

namespace inf
{

void set_error(char *error, size_t error_bytes, const char *text) noexcept
{
	size_t n = strcspn(text, "\n");

	if (!error_bytes)
		return;
	if (n >= error_bytes)
		n = error_bytes - 1;
	memcpy(error, text, n);
	error[n] = 0;
}

/* Interpreter errors begin with a traceback; the last line says what happened. */
static void set_last_line(char *error, size_t error_bytes, const char *text) noexcept
{
	const char *line = text;

	for (const char *at = text; *at; at++)
		if (at[0] == '\n' && at[1] && at[1] != '\n')
			line = at + 1;
	set_error(error, error_bytes, line);
}

static struct {
	uint32_t n_instances = 1, n_threads = 1;
} host;

static int init(const struct inf_backend_host *granted, char *error, size_t error_bytes) noexcept
{
	return guard(error, error_bytes, [&] {
		host.n_instances = granted->n_instances;
		host.n_threads = granted->n_threads;
		device_init(granted->device);
		at::set_num_interop_threads(1);
		at::set_num_threads(static_cast<int>(host.n_threads));
		torch::jit::setTensorExprFuserEnabled(false);
		return 0;
	});
}

static int load(const struct inf_backend_source *source, struct inf_backend_model **ret_model, char *error,
		size_t error_bytes) noexcept
{
	return guard(error, error_bytes, [&] {
		*ret_model = model_load(source->path, host.n_instances);
		return 0;
	});
}

static int describe(struct inf_backend_model *model, struct inf_signature *ret_signature, const char **ret_json) noexcept
{
	(void)ret_signature;
	if (model->json.empty())
		return -ENOENT;
	*ret_json = model->json.c_str();
	return 0;
}

/* The intra-op setting is per thread with the OpenMP back end. */
static void thread_begin(uint32_t instance) noexcept
{
	(void)instance;
	char error[8];

	guard(error, sizeof(error), [&] {
		at::set_num_threads(static_cast<int>(host.n_threads));
		return 0;
	});
}

/* guard() for what runs a model. */
template <typename F> static int guard_run(char *error, size_t error_bytes, F &&function) noexcept
{
	try {
		return guard(error, error_bytes, [&] {
			try {
				function();
			} catch (const c10::Error &) {
				throw;
			} catch (const std::runtime_error &e) {
				set_last_line(error, error_bytes, e.what());
				return -EIO;
			}
			return 0;
		});
	} catch (...) { /* guard() is noexcept; this is for the compiler's peace */
		return -EIO;
	}
}

static int run(struct inf_backend_model *model, uint32_t instance, uint32_t rows, const struct inf_backend_tensor *inputs,
	       uint32_t n_inputs, struct inf_backend_tensor *outputs, uint32_t n_outputs, char *error,
	       size_t error_bytes) noexcept
{
	(void)rows;
	return guard_run(error, error_bytes, [&] { model_run(*model, instance, inputs, n_inputs, outputs, n_outputs); });
}

#ifdef INF_TORCH_CUDA
static int enqueue(struct inf_backend_model *model, uint32_t instance, uint32_t rows, struct CUstream_st *stream,
		   const struct inf_backend_tensor *inputs, uint32_t n_inputs, struct inf_backend_tensor *outputs, uint32_t n_outputs,
		   char *error, size_t error_bytes) noexcept
{
	(void)instance, (void)rows;
	return guard_run(error, error_bytes, [&] { model_enqueue(*model, stream, inputs, n_inputs, outputs, n_outputs); });
}

static int record(struct inf_backend_model *model, uint32_t instance, struct CUstream_st *stream, enum inf_record step,
		  char *error, size_t error_bytes) noexcept
{
	return guard_run(error, error_bytes, [&] { model_record(*model, instance, stream, step); });
}

static uint64_t held() noexcept
{
	uint64_t bytes = 0;
	char error[8];

	guard(error, sizeof(error), [&] {
		bytes = device_bytes();
		return 0;
	});
	return bytes;
}
#else
static constexpr decltype(inf_backend_ops::enqueue) enqueue = nullptr;
static constexpr decltype(inf_backend_ops::record) record = nullptr;
static constexpr decltype(inf_backend_ops::device_bytes) held = nullptr;
#endif

static void done(struct inf_backend_model *model, uint32_t instance) noexcept
{
	char error[8];

	guard(error, sizeof(error), [&] {
		if (instance < model->outputs.size())
			model->outputs[instance].clear();
		return 0;
	});
}

static int in_place(struct inf_backend_model *model) noexcept
{
	return model->in_place;
}

static void unload(struct inf_backend_model *model) noexcept
{
	char error[8];

	guard(error, sizeof(error), [&] {
		delete model;
		return 0;
	});
}

static const struct inf_backend_ops ops = {
	.abi = INF_BACKEND_ABI,
	.bytes = sizeof(struct inf_backend_ops),
	.name = "torch",
	.suffix = ".pt",
	.init = init,
	.builtin = nullptr,
	.load = load,
	.describe = describe,
	.thread_begin = thread_begin,
	.run = run,
	.enqueue = enqueue,
	.record = record,
	.device_bytes = held,
	.done = done,
	.in_place = in_place,
	.unload = unload,
};

} /* namespace inf */

extern "C" __attribute__((visibility("default"))) const struct inf_backend_ops *inf_backend_entry(void)
{
	return &inf::ops;
}
