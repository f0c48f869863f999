/* SPDX-License-Identifier: Apache-2.0 */
/* describe.c - strict reading of a model's description, with jansson. */
#include "broker/executor/describe.h"
#include "shm/signature.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct context {
	char *error;
	size_t error_bytes;
};

#define FAIL(context, ...) (snprintf((context)->error, (context)->error_bytes, __VA_ARGS__), -EINVAL)

static int check_keys(struct context *context, const json_t *object, const char *const *known, const char *what)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value) {
		const char *const *at = known;

		while (*at && strcmp(*at, key))
			at++;
		if (!*at)
			return FAIL(context, "%s: unknown key \"%.40s\"", what, key);
	}
	return 0;
}

static int parse_dim(struct context *context, const json_t *entry, uint32_t idx, struct inf_tensor_spec *spec)
{
	const json_t *max = json_object_get(entry, "max");

	if (json_is_string(entry) && !strcmp(json_string_value(entry), "batch") && !idx) {
		spec->flags |= INF_SPEC_BATCH;
		spec->dims[0] = -1;
		return 0;
	}
	if (json_is_integer(entry) && json_integer_value(entry) >= 0) {
		spec->dims[idx] = spec->dims_max[idx] = json_integer_value(entry);
		return 0;
	}
	if (json_is_integer(max) && json_object_size(entry) == 1 && json_integer_value(max) >= 0) {
		spec->dims[idx] = -1;
		spec->dims_max[idx] = json_integer_value(max);
		return 0;
	}
	return FAIL(context, "%.40s: a shape entry is \"batch\" (first only), a number from 0 on, or {\"max\": N}", spec->name);
}

static int parse_range(struct context *context, const json_t *range, struct inf_tensor_spec *spec)
{
	if (!range)
		return 0;
	if (json_array_size(range) != 2 || !json_is_integer(json_array_get(range, 0)) ||
	    !json_is_integer(json_array_get(range, 1)))
		return FAIL(context, "%.40s: a range is [minimum, maximum] in integers", spec->name);
	spec->flags |= INF_SPEC_RANGE;
	spec->value_min = json_integer_value(json_array_get(range, 0));
	spec->value_max = json_integer_value(json_array_get(range, 1));
	return 0;
}

static int parse_finite(struct context *context, const json_t *finite, struct inf_tensor_spec *spec)
{
	if (finite && !json_is_boolean(finite))
		return FAIL(context, "%.40s: \"finite\" is true or false", spec->name);
	if (json_is_true(finite))
		spec->flags |= INF_SPEC_FINITE;
	return 0;
}

static int parse_tensor(struct context *context, const json_t *object, struct inf_tensor_spec *spec)
{
	static const char *const known[] = { "name", "dtype", "shape", "range", "finite", NULL };
	const char *name = json_string_value(json_object_get(object, "name"));
	const char *dtype = json_string_value(json_object_get(object, "dtype"));
	const json_t *shape = json_object_get(object, "shape");
	int r;

	if (!name || strlen(name) >= INF_NAME_BYTES)
		return FAIL(context, "a tensor needs a \"name\" of at most 63 characters");
	memcpy(spec->name, name, strlen(name));
	r = check_keys(context, object, known, spec->name);
	if (r)
		return r;
	spec->dtype = dtype ? inf_dtype_parse(dtype) : INF_DTYPE_NONE;
	if (!spec->dtype)
		return FAIL(context, "%.40s: dtype \"%.20s\" is none of bool u8 i8 i16 i32 i64 f16 bf16 f32 f64", name,
			    dtype ? dtype : "(none)");
	if (!json_is_array(shape) || json_array_size(shape) > INF_RANK_MAX)
		return FAIL(context, "%.40s: \"shape\" is a list of at most 8 entries", name);
	spec->rank = (uint8_t)json_array_size(shape);
	for (uint32_t i = 0; i < spec->rank; i++) {
		r = parse_dim(context, json_array_get(shape, i), i, spec);
		if (r)
			return r;
	}
	r = parse_range(context, json_object_get(object, "range"), spec);
	return r ? r : parse_finite(context, json_object_get(object, "finite"), spec);
}

static int parse_tensors(struct context *context, const json_t *root, const char *key, uint32_t n_max,
			 struct inf_tensor_spec *specs, uint32_t *ret_n)
{
	const json_t *array = json_object_get(root, key);
	size_t n = json_array_size(array);

	if (!json_is_array(array) || !n || n > n_max)
		return FAIL(context, "\"%s\" is a list of 1 to %u tensors", key, n_max);
	for (size_t i = 0; i < n; i++) {
		int r = parse_tensor(context, json_array_get(array, i), &specs[i]);

		if (r)
			return r;
	}
	*ret_n = (uint32_t)n;
	return 0;
}

static int parse_root(struct context *context, const json_t *root, struct inf_signature *sig)
{
	static const char *const known[] = { "format", "batchable", "stateful", "max_batch", "inputs", "outputs", NULL };
	const json_t *max_batch = json_object_get(root, "max_batch");
	const json_t *stateful = json_object_get(root, "stateful");
	bool batchable = json_is_true(json_object_get(root, "batchable"));
	int r;

	if (!json_is_object(root))
		return FAIL(context, "the description is not a JSON object");
	r = check_keys(context, root, known, "description");
	if (r)
		return r;
	if (json_integer_value(json_object_get(root, "format")) != 1)
		return FAIL(context, "\"format\" must be 1");
	if (!json_is_boolean(json_object_get(root, "batchable")))
		return FAIL(context, "\"batchable\" must be true or false");
	if (stateful && !json_is_boolean(stateful))
		return FAIL(context, "\"stateful\" must be true or false");
	sig->flags = (batchable ? INF_SIG_BATCHABLE : 0) | (json_is_true(stateful) ? INF_SIG_STATEFUL : 0);
	sig->batch_max = 1;
	if (max_batch && (!json_is_integer(max_batch) || json_integer_value(max_batch) < 1 ||
			  json_integer_value(max_batch) > INF_BATCH_MAX))
		return FAIL(context, "\"max_batch\" is 1 to %u", INF_BATCH_MAX);
	if (batchable && !json_is_true(stateful))
		sig->batch_max = max_batch ? (uint32_t)json_integer_value(max_batch) : 16;
	r = parse_tensors(context, root, "inputs", INF_INPUTS_MAX, sig->inputs, &sig->n_inputs);
	return r ? r : parse_tensors(context, root, "outputs", INF_OUTPUTS_MAX, sig->outputs, &sig->n_outputs);
}

int describe_parse(const char *json, const char *name, uint32_t version, struct inf_signature *ret_signature, char *error,
		   size_t error_bytes)
{
	struct context context = { error, error_bytes };
	struct inf_signature sig = { .version = version };
	json_error_t where;
	const char *wrong;
	json_t *root;
	int r;

	if (strlen(name) >= sizeof(sig.name))
		return FAIL(&context, "the model's name is longer than 63 characters");
	memcpy(sig.name, name, strlen(name));
	root = json_loads(json, JSON_REJECT_DUPLICATES, &where);
	if (!root)
		return FAIL(&context, "the description is no JSON, line %d: %.100s", where.line, where.text);
	r = parse_root(&context, root, &sig);
	json_decref(root);
	if (r)
		return r;
	wrong = inf_signature_check(&sig);
	if (wrong)
		return FAIL(&context, "the description does not fit together: %s", wrong);
	sig.hash = inf_signature_hash(&sig);
	*ret_signature = sig;
	return 0;
}
