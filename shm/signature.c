/* SPDX-License-Identifier: Apache-2.0 */
/* signature.c - arithmetic on model signatures; the check comes first, everything else relies on it. */
#include "shm/signature.h"
#include "shm/layout.h"
#include <string.h>

static const struct {
	const char *text;
	uint32_t size;
} dtypes[INF_DTYPE_N] = {
	[INF_DTYPE_NONE] = { "?", 0 }, [INF_BOOL] = { "bool", 1 }, [INF_U8] = { "u8", 1 },     [INF_I8] = { "i8", 1 },
	[INF_I16] = { "i16", 2 },      [INF_I32] = { "i32", 4 },   [INF_I64] = { "i64", 8 },   [INF_F16] = { "f16", 2 },
	[INF_BF16] = { "bf16", 2 },    [INF_F32] = { "f32", 4 },   [INF_F64] = { "f64", 8 },
};

uint32_t inf_dtype_size(uint8_t dtype)
{
	return dtype < INF_DTYPE_N ? dtypes[dtype].size : 0;
}

const char *inf_dtype_text(uint8_t dtype)
{
	return dtype < INF_DTYPE_N ? dtypes[dtype].text : "?";
}

uint8_t inf_dtype_parse(const char *text)
{
	for (uint8_t i = 1; i < INF_DTYPE_N; i++)
		if (!strcmp(text, dtypes[i].text))
			return i;
	return INF_DTYPE_NONE;
}

/* First dimension after the batch. */
static uint32_t first_dim(const struct inf_tensor_spec *spec)
{
	return spec->flags & INF_SPEC_BATCH ? 1 : 0;
}

uint64_t inf_spec_row_bytes(const struct inf_tensor_spec *spec)
{
	uint64_t bytes = inf_dtype_size(spec->dtype);

	for (uint32_t i = first_dim(spec); i < spec->rank; i++)
		bytes *= (uint64_t)spec->dims_max[i];
	return bytes;
}

bool inf_spec_is_fixed(const struct inf_tensor_spec *spec)
{
	for (uint32_t i = first_dim(spec); i < spec->rank; i++)
		if (spec->dims[i] < 0)
			return false;
	return true;
}

bool inf_signature_is_packed(const struct inf_signature *signature)
{
	for (uint32_t i = 0; i < signature->n_inputs; i++)
		if (!inf_spec_is_fixed(&signature->inputs[i]))
			return false;
	return true;
}

static uint64_t sum_aligned(const struct inf_tensor_spec *specs, uint32_t n_specs, uint32_t rows)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < n_specs; i++)
		bytes += inf_align64(rows * inf_spec_row_bytes(&specs[i]));
	return bytes;
}

uint64_t inf_input_bytes(const struct inf_signature *signature, uint32_t rows)
{
	return sum_aligned(signature->inputs, signature->n_inputs, rows);
}

uint64_t inf_input_offset(const struct inf_signature *signature, uint32_t rows, uint32_t idx)
{
	return sum_aligned(signature->inputs, idx, rows);
}

uint64_t inf_output_bytes(const struct inf_signature *signature, uint32_t rows)
{
	return inf_out_head_bytes(signature->n_outputs) + sum_aligned(signature->outputs, signature->n_outputs, rows);
}

uint64_t inf_output_offset(const struct inf_signature *signature, uint32_t rows, uint32_t idx)
{
	return inf_out_head_bytes(signature->n_outputs) + sum_aligned(signature->outputs, idx, rows);
}

static uint64_t fnv1a(uint64_t hash, const void *data, size_t bytes)
{
	const uint8_t *byte = data;

	for (size_t i = 0; i < bytes; i++)
		hash = (hash ^ byte[i]) * 0x100000001b3ull;
	return hash;
}

uint64_t inf_signature_hash(const struct inf_signature *signature)
{
	struct inf_signature copy = *signature;

	copy.version = 0;
	copy.hash = 0;
	return fnv1a(0xcbf29ce484222325ull, &copy, sizeof(copy));
}

static bool all_zero(const void *data, size_t bytes)
{
	const uint8_t *byte = data;

	for (size_t i = 0; i < bytes; i++)
		if (byte[i])
			return false;
	return true;
}

static bool name_is_good(const char name[INF_NAME_BYTES])
{
	size_t n = strnlen(name, INF_NAME_BYTES);

	if (!n || n == INF_NAME_BYTES || !all_zero(name + n, INF_NAME_BYTES - n))
		return false;
	/* No hidden files, no way up, no option: names are looked up in directories and typed in shells. */
	if (name[0] == '.' || name[0] == '-')
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == n;
}

static bool is_integer(uint8_t dtype)
{
	return dtype >= INF_BOOL && dtype <= INF_I64;
}

static bool is_floating(uint8_t dtype)
{
	return dtype >= INF_F16 && dtype <= INF_F64;
}

static const char *check_dims(const struct inf_tensor_spec *spec, uint64_t *ret_row_bytes)
{
	uint64_t bytes = inf_dtype_size(spec->dtype);
	uint64_t extent = bytes; /* empty dimensions count as 1: strides, too, stay below the limit */

	for (uint32_t i = first_dim(spec); i < spec->rank; i++) {
		if (spec->dims[i] < -1 || spec->dims_max[i] < 0)
			return "a dimension is negative";
		if (spec->dims[i] >= 0 && spec->dims_max[i] != spec->dims[i])
			return "a fixed dimension's bound differs from it";
		bytes *= (uint64_t)spec->dims_max[i];
		if (spec->dims_max[i] && __builtin_mul_overflow(extent, (uint64_t)spec->dims_max[i], &extent))
			return "a tensor is larger than 1 GiB per row";
		if (extent > INF_ROW_BYTES_MAX)
			return "a tensor is larger than 1 GiB per row";
	}
	*ret_row_bytes = bytes;
	return NULL;
}

static const char *check_spec(const struct inf_tensor_spec *spec, uint32_t sig_flags, uint64_t *ret_row_bytes)
{
	bool batchable = sig_flags & INF_SIG_BATCHABLE, batch = spec->flags & INF_SPEC_BATCH;

	if (!name_is_good(spec->name))
		return "a tensor's name is not 1 to 63 of [A-Za-z0-9_.-], a letter, digit or _ first";
	if (!inf_dtype_size(spec->dtype))
		return "unknown element type";
	if (spec->rank > INF_RANK_MAX)
		return "rank is past the limit of 8";
	if (spec->flags & ~(INF_SPEC_BATCH | INF_SPEC_RANGE | INF_SPEC_FINITE) || !all_zero(spec->reserved, sizeof(spec->reserved)))
		return "a tensor has unknown flags";
	if (!all_zero(&spec->dims[spec->rank], (INF_RANK_MAX - spec->rank) * sizeof(int64_t)) ||
	    !all_zero(&spec->dims_max[spec->rank], (INF_RANK_MAX - spec->rank) * sizeof(int64_t)))
		return "an unused dimension is not 0";
	if (batch != batchable)
		return "a model batches when all of its tensors have the batch dimension, and only then";
	if (batch && (!spec->rank || spec->dims[0] != -1 || spec->dims_max[0]))
		return "the batch dimension must be the first one";
	if (batchable && !inf_spec_is_fixed(spec))
		return "a model that batches must have fixed shapes besides the batch dimension";
	if (spec->flags & INF_SPEC_RANGE ? !is_integer(spec->dtype) || spec->value_min > spec->value_max :
					   spec->value_min || spec->value_max)
		return "a value range is for integers, and its minimum is not above its maximum";
	if (spec->flags & INF_SPEC_FINITE && !is_floating(spec->dtype))
		return "only floating-point tensors can be declared finite";
	return check_dims(spec, ret_row_bytes);
}

static const char *check_specs(const struct inf_tensor_spec *specs, uint32_t n_specs, uint32_t n_max,
			       const struct inf_signature *signature)
{
	uint64_t total = 0, bytes = 0;

	for (uint32_t i = 0; i < n_specs; i++) {
		const char *wrong = check_spec(&specs[i], signature->flags, &bytes);

		if (wrong)
			return wrong;
		total += inf_align64(bytes);
		for (uint32_t k = 0; k < i; k++)
			if (!strcmp(specs[k].name, specs[i].name))
				return "two tensors have the same name";
	}
	if (total > INF_ROW_BYTES_MAX)
		return "the tensors of a row are larger than 1 GiB together";
	return all_zero(&specs[n_specs], (n_max - n_specs) * sizeof(*specs)) ? NULL : "an unused tensor is not zero";
}

const char *inf_signature_check(const struct inf_signature *signature)
{
	const char *wrong;

	if (!name_is_good(signature->name))
		return "the model's name is not 1 to 63 of [A-Za-z0-9_.-], a letter, digit or _ first";
	if (signature->flags & ~(INF_SIG_BATCHABLE | INF_SIG_STATEFUL | INF_SIG_BUILTIN) || signature->reserved)
		return "unknown flags";
	if (!signature->n_inputs || signature->n_inputs > INF_INPUTS_MAX)
		return "a model has 1 to 16 inputs";
	if (!signature->n_outputs || signature->n_outputs > INF_OUTPUTS_MAX)
		return "a model has 1 to 16 outputs";
	if (!signature->batch_max || signature->batch_max > INF_BATCH_MAX)
		return "max_batch is 1 to 256";
	if (!(signature->flags & INF_SIG_BATCHABLE) && signature->batch_max != 1)
		return "a model that does not batch has max_batch 1";
	if (signature->flags & INF_SIG_STATEFUL && signature->batch_max != 1)
		return "a stateful model has max_batch 1";
	wrong = check_specs(signature->inputs, signature->n_inputs, INF_INPUTS_MAX, signature);
	if (!wrong)
		wrong = check_specs(signature->outputs, signature->n_outputs, INF_OUTPUTS_MAX, signature);
	return wrong;
}
