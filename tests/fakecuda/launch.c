/* SPDX-License-Identifier: Apache-2.0 */
/* launch.c - modules, functions and launches. Nothing is compiled: every module has all of inf_kernels[]. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 1024u /* of a block */
#define BLOCKS_MAX  0x7fffffffu
#define BLOCKS_YZ_MAX 65535u
#define SHARED_BYTES_MAX (48u << 10) /* what a kernel gets without asking for more */

struct module;

struct function {
	struct object object;
	struct function *next; /* of its module */
	const struct inf_kernel *kernel;
};

struct module {
	struct object object;
	struct function *functions;
};

CUresult cuModuleLoadData(CUmodule *ret, const void *image)
{
	struct module *module;

	BEGIN(cuModuleLoadData, NEEDS_CONTEXT);
	if (!image || !ret)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	module = calloc(1, sizeof(*module));
	if (!module)
		abort();
	object_add(&module->object, KIND_MODULE, context);
	ledger->modules++;
	*ret = (CUmodule)(uintptr_t)module->object.handle;
	return call_end(CUDA_SUCCESS);
}

void module_end(struct object *object)
{
	struct module *module = (struct module *)object;
	struct function *function;

	while ((function = module->functions)) {
		module->functions = function->next;
		object_remove(&function->object);
		free(function);
	}
	object_remove(object);
	free(module);
	ledger->modules--;
}

CUresult cuModuleUnload(CUmodule handle)
{
	struct object *module;

	BEGIN(cuModuleUnload, NEEDS_CONTEXT);
	module = object_get(KIND_MODULE, (uintptr_t)handle, "cuModuleUnload");
	if (!module)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	module_end(module);
	return call_end(CUDA_SUCCESS);
}

static struct function *function_of(struct module *module, const struct inf_kernel *kernel)
{
	struct function *function = module->functions;

	while (function && function->kernel != kernel)
		function = function->next;
	if (function)
		return function;
	function = calloc(1, sizeof(*function));
	if (!function)
		abort();
	function->kernel = kernel;
	function->next = module->functions;
	module->functions = function;
	object_add(&function->object, KIND_FUNCTION, module->object.context);
	return function;
}

CUresult cuModuleGetFunction(CUfunction *ret, CUmodule handle, const char *name)
{
	struct module *module;

	BEGIN(cuModuleGetFunction, NEEDS_CONTEXT);
	module = object_get(KIND_MODULE, (uintptr_t)handle, "cuModuleGetFunction");
	if (!module)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!name || !ret)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	for (const struct inf_kernel *kernel = inf_kernels; kernel->name; kernel++)
		if (!strcmp(kernel->name, name)) {
			*ret = (CUfunction)(uintptr_t)function_of(module, kernel)->object.handle;
			return call_end(CUDA_SUCCESS);
		}
	return call_end(CUDA_ERROR_NOT_FOUND);
}

/* Parameters are copied now. */
static struct op *op_of(const struct inf_kernel *kernel, void **params)
{
	struct op *op = op_new(OP_KERNEL);

	op->kernel = kernel;
	for (unsigned int i = 0; i < kernel->n_params; i++)
		memcpy(&op->params[i], params[i], sizeof(op->params[i]));
	return op;
}

CUresult cuLaunchKernel(CUfunction handle, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x,
			unsigned int block_y, unsigned int block_z, unsigned int shared_bytes, CUstream stream_handle,
			void **params, void **extra)
{
	struct function *function;
	struct stream *stream;
	CUresult result;

	BEGIN(cuLaunchKernel, NEEDS_CONTEXT | IS_QUEUED);
	function = object_get(KIND_FUNCTION, (uintptr_t)handle, "cuLaunchKernel");
	if (!function)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	stream = stream_get(stream_handle, context, "cuLaunchKernel", &result);
	if (!stream)
		return call_end(result);
	if (function->object.context != context) {
		violation("cuLaunchKernel: the function belongs to another context");
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	}
	if (!grid_x || grid_x > BLOCKS_MAX || !grid_y || grid_y > BLOCKS_YZ_MAX || !grid_z || grid_z > BLOCKS_YZ_MAX ||
	    !block_x || !block_y || !block_z || (uint64_t)block_x * block_y * block_z > THREADS_MAX ||
	    shared_bytes > SHARED_BYTES_MAX) {
		violation("%s is launched with a shape that no device takes", function->kernel->name);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	if (extra || !params || function->kernel->n_params > KERNEL_PARAMS_MAX) {
		violation("%s is launched without parameters, or with \"extra\"", function->kernel->name);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	return call_end(stream_submit(stream, op_of(function->kernel, params)));
}
