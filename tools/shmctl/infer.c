/* SPDX-License-Identifier: Apache-2.0 */
/*
 * infer.c - `shmctl infer MODEL FILE...`: one request from files, its answer to the terminal or to files.
 *
 * Shape and type of .npy files are held against the signature here, so that the error can say what was expected and what
 * it got; everything else is the broker's to judge.
 */
#define _GNU_SOURCE 1
#include "shm/signature.h"
#include "tools/shmctl/npy.h"
#include "tools/shmctl/shmctl.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VALUES_SHOWN	 8u

/* One input: a file, and what it holds. */
struct source {
	const char *path;
	FILE *file;
	struct npy npy;
};

struct job {
	const struct options *options;
	const char *output_path; /* -o: a folder, or FILE.npy where there is one output */
	struct inf_client *client;
	struct inf_model *model;
	const struct inf_signature *signature;
	struct source sources[INF_INPUTS_MAX];
	uint32_t rows;
};

/* --- inputs --- */

static bool has_suffix(const char *path, const char *suffix)
{
	size_t n = strlen(path), m = strlen(suffix);

	return n >= m && !strcmp(path + n - m, suffix);
}

static int describe_inputs(const struct job *job)
{
	const struct inf_signature *sig = job->signature;
	char text[512], shape[SHAPE_BYTES];
	size_t n = 0;

	for (uint32_t i = 0; i < sig->n_inputs && n < sizeof(text); i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s %s", i ? ", " : "",
				      sig->inputs[i].name, word_shape(shape, &sig->inputs[i]));
	return fail(job->options, EXIT_USAGE,
		    "%s takes %" PRIu32 " input(s): %s; name a file for each, FILE or INPUT=FILE",
		    sig->name, sig->n_inputs, text);
}

/* "NAME=FILE" goes to that input, "FILE" to the first one without a file. */
static int assign(struct job *job, char *word)
{
	const struct inf_signature *sig = job->signature;
	char *equals = strchr(word, '=');

	for (uint32_t i = 0; equals && i < sig->n_inputs; i++)
		if (strlen(sig->inputs[i].name) == (size_t)(equals - word) &&
		    !strncmp(sig->inputs[i].name, word, (size_t)(equals - word))) {
			job->sources[i].path = equals + 1;
			return EXIT_OK;
		}
	for (uint32_t i = 0; i < sig->n_inputs; i++)
		if (!job->sources[i].path) {
			job->sources[i].path = word;
			return EXIT_OK;
		}
	return describe_inputs(job);
}

/* A file without a header is rows of the signature's shape. */
static int open_raw(const struct job *job, struct source *source,
		    const struct inf_tensor_spec *spec)
{
	uint64_t row_bytes = inf_spec_row_bytes(spec);
	struct stat status;
	bool batched = spec->flags & INF_SPEC_BATCH;

	if (!inf_spec_is_fixed(spec))
		return fail(job->options, EXIT_USAGE,
			    "%s: the shape of %s varies, and a raw file does not say it; use .npy",
			    source->path, spec->name);
	if (fstat(fileno(source->file), &status) < 0 || !S_ISREG(status.st_mode))
		return fail(job->options, EXIT_UNHEALTHY, "%s: not a file", source->path);
	source->npy = (struct npy){ .dtype = spec->dtype,
				    .rank = spec->rank,
				    .n_bytes = (uint64_t)status.st_size };
	memcpy(source->npy.dims, spec->dims, sizeof(source->npy.dims));
	if (batched)
		source->npy.dims[0] = row_bytes ? (int64_t)(source->npy.n_bytes / row_bytes) : 1;
	if (source->npy.n_bytes != row_bytes * (batched ? (uint64_t)source->npy.dims[0] : 1))
		return fail(job->options, EXIT_UNHEALTHY,
			    "BAD_SHAPE: %s has %" PRIu64 " bytes; a row of %s is %" PRIu64 " bytes",
			    source->path, source->npy.n_bytes, spec->name, row_bytes);
	return EXIT_OK;
}

static int wrong(const struct job *job, const char *status, const struct source *source,
		 const struct inf_tensor_spec *spec)
{
	struct inf_tensor_spec got = { .dtype = source->npy.dtype,
				       .rank = (uint8_t)source->npy.rank };
	char wanted[SHAPE_BYTES], text[SHAPE_BYTES];

	memcpy(got.dims, source->npy.dims, sizeof(got.dims));
	return fail(job->options, EXIT_UNHEALTHY, "%s: %s is %s; %s of model %s is %s", status,
		    source->path, word_shape(text, &got), spec->name, job->signature->name,
		    word_shape(wanted, spec));
}

static int check_source(const struct job *job, struct source *source,
			const struct inf_tensor_spec *spec)
{
	if (source->npy.dtype == INF_DTYPE_NONE && spec->dtype == INF_BF16)
		source->npy.dtype = INF_BF16; /* NumPy has no name for it */
	if (source->npy.dtype != spec->dtype)
		return wrong(job, "BAD_DTYPE", source, spec);
	if (source->npy.rank != spec->rank)
		return wrong(job, "BAD_SHAPE", source, spec);
	for (uint32_t i = 0; i < spec->rank; i++) {
		bool batch = i == 0 && spec->flags & INF_SPEC_BATCH;
		int64_t dim = source->npy.dims[i];

		if (batch		 ? dim < 1 || dim > INF_ROWS_MAX
		    : spec->dims[i] >= 0 ? dim != spec->dims[i]
					 : dim > spec->dims_max[i])
			return wrong(job, "BAD_SHAPE", source, spec);
	}
	return EXIT_OK;
}

static int open_source(struct job *job, uint32_t idx)
{
	const struct inf_tensor_spec *spec = &job->signature->inputs[idx];
	struct source *source = &job->sources[idx];
	char error[NPY_ERROR_BYTES];
	uint32_t rows;
	int r = EXIT_OK;

	source->file = fopen(source->path, "re");
	if (!source->file)
		return fail(job->options, EXIT_UNHEALTHY, "%s: %s", source->path, strerror(errno));
	if (!has_suffix(source->path, ".npy"))
		r = open_raw(job, source, spec);
	else if (npy_read_head(source->file, &source->npy, error))
		r = fail(job->options, EXIT_UNHEALTHY, "%s: %s", source->path, error);
	if (r == EXIT_OK)
		r = check_source(job, source, spec);
	if (r)
		return r;
	rows = spec->flags & INF_SPEC_BATCH ? (uint32_t)source->npy.dims[0] : 1;
	if (job->rows && rows != job->rows)
		return fail(job->options, EXIT_UNHEALTHY,
			    "BAD_SHAPE: %s has %" PRIu32 " rows, the inputs before %" PRIu32,
			    source->path, rows, job->rows);
	job->rows = rows;
	return EXIT_OK;
}

static int fill(const struct job *job, struct inf_request *req)
{
	for (uint32_t i = 0; i < job->signature->n_inputs; i++) {
		const struct source *source = &job->sources[i];
		int r = inf_input_describe(req, i, (enum inf_dtype)source->npy.dtype,
					   source->npy.rank, source->npy.dims);

		if (r)
			return fail(job->options, EXIT_UNHEALTHY, "%s: %s", source->path,
				    strerror(-r));
		if (fread(inf_input(req, i), 1, source->npy.n_bytes, source->file) !=
		    source->npy.n_bytes)
			return fail(job->options, EXIT_UNHEALTHY,
				    "%s: it is cut off: its shape needs %" PRIu64 " bytes",
				    source->path, source->npy.n_bytes);
	}
	return EXIT_OK;
}

/* --- outputs --- */

static double half_to_double(uint16_t bits)
{
	_Float16 value;

	memcpy(&value, &bits, sizeof(value));
	return (double)value;
}

static double bfloat_to_double(uint16_t bits)
{
	uint32_t wide = (uint32_t)bits << 16;
	float value;

	memcpy(&value, &wide, sizeof(value));
	return (double)value;
}

/* Element `at`, as a number of JSON. NaN and infinities have none there: null. */
static json_t *element(const struct inf_tensor *tensor, uint64_t at)
{
	switch (tensor->dtype) {
	case INF_BOOL:
		return json_boolean(((const uint8_t *)tensor->data)[at]);
	case INF_U8:
		return json_integer(((const uint8_t *)tensor->data)[at]);
	case INF_I8:
		return json_integer(((const int8_t *)tensor->data)[at]);
	case INF_I16:
		return json_integer(((const int16_t *)tensor->data)[at]);
	case INF_I32:
		return json_integer(((const int32_t *)tensor->data)[at]);
	case INF_I64:
		return json_integer(((const int64_t *)tensor->data)[at]);
	case INF_F16:
		return json_real(half_to_double(((const uint16_t *)tensor->data)[at]));
	case INF_BF16:
		return json_real(bfloat_to_double(((const uint16_t *)tensor->data)[at]));
	case INF_F32:
		return json_real((double)((const float *)tensor->data)[at]);
	default:
		return json_real(((const double *)tensor->data)[at]);
	}
}

static uint64_t n_elements(const struct inf_tensor *tensor)
{
	uint32_t bytes = inf_dtype_bytes((enum inf_dtype)tensor->dtype);

	return bytes ? tensor->bytes / bytes : 0;
}

static void print_element(const struct inf_tensor *tensor, uint64_t at)
{
	json_t *value = element(tensor, at);

	if (json_is_integer(value))
		printf(" %" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_real(value))
		printf(" %.6g", json_real_value(value));
	else
		printf(" %s", json_is_boolean(value) ? json_is_true(value) ? "true" : "false"
						     : "(not finite)");
	json_decref(value);
}

static void print_tensor(const char *name, const struct inf_tensor *tensor)
{
	struct inf_tensor_spec spec = { .dtype = (uint8_t)tensor->dtype,
					.rank = (uint8_t)tensor->rank };
	uint64_t n = n_elements(tensor), shown = n <= 2 * VALUES_SHOWN ? n : VALUES_SHOWN;
	char shape[SHAPE_BYTES];

	memcpy(spec.dims, tensor->dims, sizeof(spec.dims));
	printf("%s %s:", name, word_shape(shape, &spec));
	for (uint64_t i = 0; i < shown; i++)
		print_element(tensor, i);
	if (shown < n)
		printf(" ...");
	for (uint64_t i = shown < n ? n - VALUES_SHOWN : n; i < n; i++)
		print_element(tensor, i);
	putchar('\n');
}

static json_t *tensor_json(const char *name, const struct inf_tensor *tensor)
{
	json_t *shape = json_array(), *data = json_array();
	uint64_t n = n_elements(tensor);

	for (uint32_t i = 0; i < tensor->rank; i++)
		json_array_append_new(shape, json_integer(tensor->dims[i]));
	for (uint64_t i = 0; i < n; i++) {
		json_t *value = element(tensor, i);

		json_array_append_new(data, value ? value : json_null());
	}
	return json_pack("{s:o, s:s, s:o, s:o}", "name", json_text(name), "dtype",
			 inf_dtype_name((enum inf_dtype)tensor->dtype), "shape", shape, "data",
			 data);
}

static int save(const struct job *job, const char *name, const struct inf_tensor *tensor)
{
	char path[4096];
	FILE *file;
	int r;

	if (has_suffix(job->output_path, ".npy"))
		snprintf(path, sizeof(path), "%s", job->output_path);
	else
		snprintf(path, sizeof(path), "%s/%s.npy", job->output_path, name);
	file = fopen(path, "we");
	if (!file)
		return fail(job->options, EXIT_UNHEALTHY, "%s: %s", path, strerror(errno));
	r = npy_write(file, (enum inf_dtype)tensor->dtype, tensor->rank, tensor->dims, tensor->data,
		      tensor->bytes);
	if (fclose(file) != 0 && !r)
		r = -errno;
	if (r)
		return fail(job->options, EXIT_UNHEALTHY, "%s: %s", path, strerror(-r));
	return EXIT_OK;
}

static int show(const struct job *job, const struct inf_request *req)
{
	struct inf_request_info info = { .size = sizeof(info) };
	json_t *outputs = json_array();
	struct inf_tensor tensor;

	inf_request_get_info(req, &info);
	for (uint32_t i = 0; i < job->signature->n_outputs; i++) {
		const char *name = job->signature->outputs[i].name;
		int r = EXIT_OK;

		if (inf_output_tensor(req, i, &tensor)) {
			json_decref(outputs);
			return fail(job->options, EXIT_UNHEALTHY, "output %s cannot be read", name);
		}
		if (job->output_path)
			r = save(job, name, &tensor);
		else if (job->options->json)
			json_array_append_new(outputs, tensor_json(name, &tensor));
		else
			print_tensor(name, &tensor);
		if (r) {
			json_decref(outputs);
			return r;
		}
	}
	if (job->options->json)
		return print_json(job->options, "infer",
				  json_pack("{s:s, s:o, s:I, s:I}", "status", "OK", "outputs",
					    outputs, "queue_ns", (json_int_t)info.queue_us * 1000,
					    "run_ns", (json_int_t)info.run_us * 1000));
	json_decref(outputs);
	return EXIT_OK;
}

/* --- the request --- */

static int infer(struct job *job)
{
	struct inf_request *req;
	enum inf_status status;
	int r = inf_request_take(job->model, job->rows, &req);

	if (r)
		return fail(job->options, EXIT_UNHEALTHY, "no memory for %" PRIu32 " row(s): %s",
			    job->rows, strerror(-r));
	r = fill(job, req);
	if (r == EXIT_OK && inf_submit(req))
		r = fail(job->options, EXIT_UNHEALTHY, "cannot submit");
	else if (r == EXIT_OK && inf_wait(req, timeout_ns(job->options)))
		r = fail(job->options, EXIT_TIMED_OUT, "no answer within %u s (--timeout)",
			 job->options->timeout_s);
	else if (r == EXIT_OK) {
		status = inf_request_status(req);
		r = status == INF_OK ? show(job, req)
				     : fail(job->options, EXIT_UNHEALTHY, "%s: %s",
					    inf_status_name(status), inf_status_text(status));
	}
	inf_request_give(req);
	return r;
}

/* Connects and opens the model; one that is loading is waited for. What is open is closed by the caller, also on failure. */
static int open_model(struct job *job, const char *name, uint32_t depth)
{
	const struct options *options = job->options;
	uint64_t until_ns = timeout_ns(options);
	int r;

	job->client = connect_broker(options, &r);
	if (!job->client)
		return r;
	while ((r = inf_model_open(job->client, name, depth, &job->model)) == -EAGAIN &&
	       monotonic_ns() < until_ns)
		pause_briefly();
	alarm(0); /* from here on waits have a timeout of their own */
	if (r == -EAGAIN)
		return fail(options, EXIT_TIMED_OUT,
			    "LOADING: model %s was not ready within %u s (--timeout)", name,
			    options->timeout_s);
	if (r)
		return fail(options, EXIT_UNHEALTHY, "%s: %s", name, inf_error(job->client));
	job->signature = inf_model_signature(job->model);
	return EXIT_OK;
}

/* A model's memory is what was asked for when it was opened: more than one row need a session with more. */
static int make_room(struct job *job, const char *name)
{
	uint64_t hash = job->signature->hash;
	int r;

	if (job->rows <= 1)
		return EXIT_OK;
	inf_close(job->client);
	r = open_model(job, name, job->rows);
	if (r == EXIT_OK && job->signature->hash != hash)
		r = fail(job->options, EXIT_UNHEALTHY, "NO_MODEL: %s was replaced just now: try again",
			 name);
	return r;
}

static int open_sources(struct job *job, int argc, char **argv)
{
	int r = EXIT_OK;

	for (int i = 0; i < argc && r == EXIT_OK; i++)
		r = assign(job, argv[i]);
	for (uint32_t i = 0; i < job->signature->n_inputs && r == EXIT_OK; i++)
		r = job->sources[i].path ? open_source(job, i) : describe_inputs(job);
	if (r == EXIT_OK && job->output_path && has_suffix(job->output_path, ".npy") &&
	    job->signature->n_outputs > 1)
		r = fail(job->options, EXIT_USAGE, "%s has several outputs: -o must name a folder",
			 job->signature->name);
	return r;
}

static int run(const struct options *options, int argc, char **argv)
{
	struct job job = { .options = options, .rows = 0 };
	int c, r;

	while ((c = next_option(options, &command_infer, argc, argv)) != OPTIONS_END) {
		if (c == OPTIONS_BAD)
			return EXIT_USAGE;
		job.output_path = optarg;
	}
	if (optind == argc)
		return fail(options, EXIT_USAGE, "which model? shmctl models lists them");
	r = open_model(&job, argv[optind], 1);
	if (r == EXIT_OK)
		r = open_sources(&job, argc - optind - 1, argv + optind + 1);
	if (r == EXIT_OK)
		r = make_room(&job, argv[optind]);
	if (r == EXIT_OK)
		r = infer(&job);
	for (uint32_t i = 0; i < INF_INPUTS_MAX; i++)
		if (job.sources[i].file)
			fclose(job.sources[i].file);
	inf_close(job.client);
	return r;
}

static const struct command_option own_options[] = {
	{ 'o', NULL, "FILE", "a folder, which gets OUTPUT.npy for each output; or the .npy file for the one that there is" },
	{ 0 },
};

const struct command command_infer = {
	.name = "infer",
	.summary = "asks a model: inputs from .npy or raw files",
	.usage = "Usage: shmctl infer MODEL [INPUT=]FILE... [-o FOLDER | -o FILE.npy] [-j]\n"
		 "One request. Inputs are .npy files, or raw little-endian elements in any other "
		 "file; they belong to the model's\n"
		 "inputs in order, or by name. Outputs are printed, with -j in full, or with -o "
		 "written as FOLDER/OUTPUT.npy.\n"
		 "A model that is still loading is waited for (--timeout).\n",
	.run = run,
	.arguments = "MODEL FILE...",
	.options = own_options,
};
