/* SPDX-License-Identifier: Apache-2.0 */
/* builtin.c - see builtin.h. Outputs are views of the inputs where they are equal, else of a block per instance. */
#define _GNU_SOURCE 1
#include "broker/backends/builtin/builtin.h"
#include "broker/backends/builtin/device.h"
#include <errno.h>
#include <stdbool.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INSTANCES_MAX 32u
#define BATCH 256u

struct kind;

struct inf_backend_model {
	const struct kind *kind;
	void *blocks[INSTANCES_MAX]; /* outputs that are no views, per instance; NULL until needed */
};

struct call {
	struct inf_backend_model *model;
	uint32_t instance, rows;
	const struct inf_backend_tensor *inputs;
	struct inf_backend_tensor *outputs;
};

struct kind {
	const char *name;
	int (*run)(const struct call *call);
	uint8_t dtype_in, dtype_out; /* NONE = one of each, under its name */
	int64_t width; /* elements of a row; -1 = scalar, -2 = up to 1024, -3 = an image, planes come out */
	uint32_t n_inputs, n_outputs, batch_max;
	int64_t min, max; /* declared range where they differ */
	bool finite; /* declared for the inputs */
	int (*enqueue)(const struct device_call *call); /* NULL = not on a device */
};

static uint64_t cost_base_us = 1000, cost_row_us = 100;
static bool is_on_device;

/* Room for the outputs of one run of this instance. */
static void *block(const struct call *call, size_t bytes)
{
	void **at = &call->model->blocks[call->instance];

	if (!*at)
		*at = aligned_alloc(64, (size_t)1 << 20);
	return bytes <= (size_t)1 << 20 ? *at : NULL;
}

static int echo(const struct call *call)
{
	call->outputs[0] = call->inputs[0];
	return 0;
}

static int echo_all(const struct call *call)
{
	for (uint32_t i = 0; i < INF_DTYPE_N - 1; i++)
		call->outputs[i] = call->inputs[i];
	return 0;
}

static int add_sub(const struct call *call)
{
	const float *a = call->inputs[0].data, *b = call->inputs[1].data;
	size_t n = call->inputs[0].bytes / sizeof(float);
	float *sum = block(call, 2 * n * sizeof(float)), *difference = sum + n;

	if (!sum)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		sum[i] = a[i] + b[i];
		difference[i] = a[i] - b[i];
	}
	call->outputs[0] = call->outputs[1] = call->inputs[0];
	call->outputs[0].data = sum;
	call->outputs[1].data = difference;
	return 0;
}

static uint64_t cost_ns(uint32_t rows)
{
	return (cost_base_us + cost_row_us * rows) * 1000;
}

static int sleep_a_while(const struct call *call)
{
	uint64_t ns = cost_ns(call->rows);
	struct timespec pause = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	while (nanosleep(&pause, &pause) && errno == EINTR)
		;
	return echo(call);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int spin(const struct call *call)
{
	for (uint64_t until = now_ns() + cost_ns(call->rows); now_ns() < until;)
		;
	return echo(call);
}

static bool any_byte(const struct call *call)
{
	const uint8_t *byte = call->inputs[0].data;

	for (uint64_t i = 0; i < call->inputs[0].bytes; i++)
		if (byte[i])
			return true;
	return false;
}

static int crash(const struct call *call)
{
	if (any_byte(call))
		kill(getpid(), SIGKILL); /* as a corrupted process dies: no handler, no clean-up */
	return echo(call);
}

static int hang(const struct call *call)
{
	while (any_byte(call))
		pause();
	return echo(call);
}

static int wrong_size(const struct call *call)
{
	echo(call);
	if (any_byte(call)) {
		call->outputs[0].dims[call->outputs[0].rank - 1] = 0;
		call->outputs[0].bytes = 0;
	}
	return 0;
}

static int square(const struct call *call)
{
	const int64_t *idx = call->inputs[0].data;
	size_t n = call->inputs[0].bytes / sizeof(*idx);
	float *out = block(call, n * sizeof(float));

	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		/* The table of a real model would be read out of bounds here. */
		if (idx[i] < 0 || idx[i] > 9)
			return -ERANGE;
		out[i] = (float)(idx[i] * idx[i]);
	}
	call->outputs[0] = call->inputs[0];
	call->outputs[0].data = out;
	call->outputs[0].dtype = INF_F32;
	call->outputs[0].bytes = n * sizeof(float);
	return 0;
}

static int twice(const struct call *call)
{
	int32_t *out = block(call, sizeof(*out));

	if (!out)
		return -ENOMEM;
	*out = 2 * *(const int32_t *)call->inputs[0].data;
	call->outputs[0] = call->inputs[0];
	call->outputs[0].data = out;
	return 0;
}

static int reverse(const struct call *call)
{
	const float *in = call->inputs[0].data;
	size_t n = call->inputs[0].bytes / sizeof(*in);
	float *out = block(call, n * sizeof(*out));

	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		out[i] = in[n - 1 - i];
	call->outputs[0] = call->inputs[0];
	call->outputs[0].data = out;
	return 0;
}

/* There are 256 bytes: each channel's floats are computed once, as the kernel computes each pixel. */
static int normalise(const struct call *call)
{
	const size_t n = DEVICE_IMAGE_SIDE * DEVICE_IMAGE_SIDE;
	const uint8_t *in = call->inputs[0].data;
	struct inf_backend_tensor *image = &call->outputs[0];
	float *out = block(call, call->inputs[0].bytes * sizeof(float)), table[256];

	if (!out)
		return -ENOMEM;
	for (size_t c = 0; c < DEVICE_CHANNELS; c++) {
		for (unsigned int x = 0; x < 256; x++)
			table[x] = inf_normalised((uint8_t)x, device_scales[c]);
		for (size_t i = 0; i < call->rows * n; i++)
			out[(i / n * DEVICE_CHANNELS + c) * n + i % n] = table[in[i * DEVICE_CHANNELS + c]];
	}
	*image = call->inputs[0];
	image->data = out;
	image->dtype = INF_F32;
	image->bytes = call->inputs[0].bytes * sizeof(float);
	image->dims[1] = DEVICE_CHANNELS;
	image->dims[2] = image->dims[3] = DEVICE_IMAGE_SIDE;
	return 0;
}

static const struct kind kinds[] = {
	{ "identity", echo, INF_U8, INF_U8, 64, 1, 1, BATCH, 0, 0, false, device_copy },
	{ "identity_f32", echo, INF_F32, INF_F32, 1024, 1, 1, BATCH, 0, 0, false, device_copy },
	{ "dtypes", echo_all, INF_DTYPE_NONE, INF_DTYPE_NONE, 6, INF_DTYPE_N - 1, INF_DTYPE_N - 1, 64, 0, 0, false, device_copy },
	{ "add_sub", add_sub, INF_F32, INF_F32, 16, 2, 2, BATCH, 0, 0, false, device_add_sub },
	{ "sleep", sleep_a_while, INF_F32, INF_F32, 1, 1, 1, 16, 0, 0, false, device_spin },
	{ "spin", spin, INF_F32, INF_F32, 1, 1, 1, 16, 0, 0, false, device_spin },
	{ "crash", crash, INF_U8, INF_U8, 1, 1, 1, 16, 0, 0, false, NULL },
	{ "hang", hang, INF_U8, INF_U8, 1, 1, 1, 1, 0, 0, false, NULL },
	{ "wrong_size", wrong_size, INF_U8, INF_U8, 1, 1, 1, 16, 0, 0, false, NULL },
	{ "index", square, INF_I64, INF_F32, 4, 1, 1, 64, 0, 9, false, device_square },
	{ "scalar", twice, INF_I32, INF_I32, -1, 1, 1, 1, -1000, 1000, false, device_twice },
	{ "varying", reverse, INF_F32, INF_F32, -2, 1, 1, 1, 0, 0, false, device_reverse },
	{ "finite", echo, INF_F32, INF_F32, 4, 1, 1, 64, 0, 0, true, device_copy },
	{ "normalise", normalise, INF_U8, INF_F32, -3, 1, 1, 64, 0, 0, false, device_normalise },
};

#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static int init(const struct inf_backend_host *host, char *error, size_t error_bytes)
{
	const char *cost = getenv("INF_BUILTIN_COST");
	unsigned long base, row;

	if (host->n_instances > INSTANCES_MAX) {
		snprintf(error, error_bytes, "more than %u instances", INSTANCES_MAX);
		return -EINVAL;
	}
	if (cost && sscanf(cost, "%lu,%lu", &base, &row) == 2) {
		cost_base_us = base;
		cost_row_us = row;
	}
	is_on_device = host->device;
	return is_on_device ? builtin_device_init(host->device, error, error_bytes) : 0;
}

static const char *name_of(unsigned int idx)
{
	for (unsigned int i = 0; i < N_KINDS; i++)
		if ((!is_on_device || kinds[i].enqueue) && !idx--)
			return kinds[i].name;
	return NULL;
}

static int load(const struct inf_backend_source *source, struct inf_backend_model **ret_model, char *error,
		size_t error_bytes)
{
	for (size_t i = 0; i < N_KINDS; i++) {
		struct inf_backend_model *model;

		if (strcmp(kinds[i].name, source->name))
			continue;
		model = calloc(1, sizeof(*model));
		if (!model)
			return -ENOMEM;
		model->kind = &kinds[i];
		*ret_model = model;
		return 0;
	}
	snprintf(error, error_bytes, "no such builtin model");
	return -ENOENT;
}

static bool is_batchable(const struct kind *kind)
{
	return kind->width > 0 || kind->width == -3;
}

/* Interleaved bytes, or planes of floats. */
static void describe_image(struct inf_tensor_spec *spec)
{
	bool is_planar = spec->dtype == INF_F32;

	spec->rank = 4;
	spec->flags = INF_SPEC_BATCH;
	spec->dims[0] = -1;
	for (int i = 1; i < 4; i++)
		spec->dims[i] = spec->dims_max[i] = i == (is_planar ? 1 : 3) ? (int64_t)DEVICE_CHANNELS : (int64_t)DEVICE_IMAGE_SIDE;
}

static void describe_tensor(const struct kind *kind, struct inf_tensor_spec *spec, const char *name, uint8_t dtype)
{
	memcpy(spec->name, name, strlen(name));
	spec->dtype = dtype;
	if (kind->width > 0) {
		spec->rank = 2;
		spec->flags = INF_SPEC_BATCH;
		spec->dims[0] = -1;
		spec->dims[1] = spec->dims_max[1] = kind->width;
	} else if (kind->width == -2) {
		spec->rank = 1;
		spec->dims[0] = -1;
		spec->dims_max[0] = 1024;
	} else if (kind->width == -3) {
		describe_image(spec);
	}
}

static int describe(struct inf_backend_model *model, struct inf_signature *ret, const char **ret_json)
{
	static const char *const ins[] = { "x", "y" }, *const outs[] = { "out", "out2" };
	/* By enum inf_dtype, from 1 on. */
	static const char *const each[] = { "bool", "u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64" };
	const struct kind *kind = model->kind;

	*ret_json = NULL;
	*ret = (struct inf_signature){
		.version = 1,
		.flags = INF_SIG_BUILTIN | (is_batchable(kind) ? INF_SIG_BATCHABLE : 0),
		.n_inputs = kind->n_inputs,
		.n_outputs = kind->n_outputs,
		.batch_max = kind->batch_max,
	};
	memcpy(ret->name, kind->name, strlen(kind->name));
	for (uint32_t i = 0; !kind->dtype_in && i < kind->n_inputs; i++) {
		describe_tensor(kind, &ret->inputs[i], each[i], (uint8_t)(i + 1));
		describe_tensor(kind, &ret->outputs[i], each[i], (uint8_t)(i + 1));
	}
	for (uint32_t i = 0; kind->dtype_in && i < kind->n_inputs; i++) {
		describe_tensor(kind, &ret->inputs[i], ins[i], kind->dtype_in);
		if (kind->finite)
			ret->inputs[i].flags |= INF_SPEC_FINITE;
		if (kind->min == kind->max)
			continue;
		ret->inputs[i].flags |= INF_SPEC_RANGE;
		ret->inputs[i].value_min = kind->min;
		ret->inputs[i].value_max = kind->max;
	}
	for (uint32_t k = 0; kind->dtype_in && k < kind->n_outputs; k++)
		describe_tensor(kind, &ret->outputs[k], outs[k], kind->dtype_out);
	return 0;
}

static int run(struct inf_backend_model *model, uint32_t instance, uint32_t rows, const struct inf_backend_tensor *inputs,
	       uint32_t n_inputs, struct inf_backend_tensor *outputs, uint32_t n_outputs, char *error, size_t error_bytes)
{
	struct call call = { model, instance, rows, inputs, outputs };
	int r;

	if (instance >= INSTANCES_MAX || n_inputs != model->kind->n_inputs || n_outputs != model->kind->n_outputs)
		return -EINVAL;
	r = model->kind->run(&call);
	if (r)
		snprintf(error, error_bytes, "%s", strerror(-r));
	return r;
}

static int enqueue(struct inf_backend_model *model, uint32_t instance, uint32_t rows, struct CUstream_st *stream,
		   const struct inf_backend_tensor *inputs, uint32_t n_inputs, struct inf_backend_tensor *outputs,
		   uint32_t n_outputs, char *error, size_t error_bytes)
{
	struct device_call call = { stream, rows, n_inputs, inputs, outputs, cost_ns(rows) };
	int r;

	(void)instance;
	if (n_inputs != model->kind->n_inputs || n_outputs != model->kind->n_outputs || !model->kind->enqueue)
		return -EINVAL;
	r = model->kind->enqueue(&call);
	if (r)
		snprintf(error, error_bytes, "%s", builtin_device_error());
	return r;
}

/* Kernels use no memory but what they are given. */
static int record(struct inf_backend_model *model, uint32_t instance, struct CUstream_st *stream, enum inf_record step,
		  char *error, size_t error_bytes)
{
	(void)model, (void)instance, (void)stream, (void)step, (void)error, (void)error_bytes;
	return 0;
}

static void done(struct inf_backend_model *model, uint32_t instance)
{
	(void)model;
	(void)instance; /* blocks are kept for the next run */
}

static int in_place(struct inf_backend_model *model)
{
	(void)model;
	return 0; /* the tests want the gather */
}

static void unload(struct inf_backend_model *model)
{
	for (uint32_t i = 0; model && i < INSTANCES_MAX; i++)
		free(model->blocks[i]);
	free(model);
}

const struct inf_backend_ops *inf_backend_builtin(void)
{
	static const struct inf_backend_ops ops = {
		.abi = INF_BACKEND_ABI,
		.bytes = sizeof(struct inf_backend_ops),
		.name = "builtin",
		.init = init,
		.builtin = name_of,
		.load = load,
		.describe = describe,
		.run = run,
		.enqueue = enqueue,
		.record = record,
		.done = done,
		.in_place = in_place,
		.unload = unload,
	};

	return &ops;
}
