/* SPDX-License-Identifier: Apache-2.0 */
/* classify.c - files in, one JSON line per image out; several in flight, several processes. */
#define _GNU_SOURCE 1
#include "tools/common/json_text.h"
#include "tools/infclassify/classify.h"
#include "tools/infclassify/image.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOADING_TRIES 600 /* times 100 ms */
#define TOP_MAX	      100u

struct labels {
	char **names;
	uint32_t n;
};

/* One request and the image it carries. */
struct flight {
	struct inf_request *req;
	const char *path;
	uint64_t submitted_ns;
};

uint64_t classify_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint32_t classify_argmax(const struct inf_request *req)
{
	struct inf_tensor logits;
	uint32_t best = 0;

	if (inf_output_tensor(req, 0, &logits))
		return UINT32_MAX;
	for (uint32_t i = 1; i < logits.bytes / sizeof(float); i++)
		if (((const float *)logits.data)[i] > ((const float *)logits.data)[best])
			best = i;
	return best;
}

static int check_signature(const struct inf_model *model)
{
	const struct inf_signature *sig = inf_model_signature(model);
	const struct inf_tensor_spec *in = &sig->inputs[0], *out = &sig->outputs[0];

	if (sig->n_inputs == 1 && in->dtype == INF_F32 && in->rank == 4 && in->dims[1] == 3 &&
	    in->dims[2] == IMAGE_SIDE && in->dims[3] == IMAGE_SIDE && out->dtype == INF_F32 &&
	    out->rank == 2)
		return 0;
	fprintf(stderr,
		"infclassify: model %s does not take f32[batch,3,224,224] and give "
		"f32[batch,classes]; see shmctl models\n",
		sig->name);
	return -EINVAL;
}

int classify_open(const struct classify_options *options, struct inf_client **ret_client,
		  struct inf_model **ret_model)
{
	char error[512] = "";
	struct inf_options open_options = { .size = sizeof(open_options),
					    .socket = options->socket_path,
					    .name = "infclassify",
					    .error = error,
					    .error_bytes = sizeof(error) };
	int r = inf_open(ret_client, &open_options);

	if (r) {
		fprintf(stderr, "infclassify: %s\n", error[0] ? error : strerror(-r));
		return r;
	}
	for (int i = 0; i < LOADING_TRIES; i++) {
		struct timespec pause = { .tv_nsec = 100000000 };

		r = inf_model_open(*ret_client, options->model, options->depth + 1, ret_model);
		if (r != -EAGAIN)
			break;
		nanosleep(&pause, NULL);
	}
	if (r)
		fprintf(stderr, "infclassify: cannot open model %s: %s\n", options->model,
			inf_error(*ret_client));
	else
		r = check_signature(*ret_model);
	if (r)
		inf_close(*ret_client);
	return r;
}

/* --- output ---------------------------------------------------------------------------------------------- */

static int read_labels(const char *path, struct labels *labels)
{
	FILE *file = path ? fopen(path, "re") : NULL;
	char *line = NULL;
	size_t room = 0;
	ssize_t n;

	if (!path)
		return 0;
	if (!file) {
		fprintf(stderr, "infclassify: cannot open the labels %s: %s\n", path,
			strerror(errno));
		return -errno;
	}
	while ((n = getline(&line, &room, file)) > 0) {
		char **names = realloc(labels->names, (labels->n + 1) * sizeof(*names));

		if (!names)
			break;
		labels->names = names;
		line[strcspn(line, "\r\n")] = 0;
		labels->names[labels->n++] = strdup(line);
	}
	free(line);
	fclose(file);
	return 0;
}

/* Prints and frees one line, in one write: several processes share the output. */
static void put_line(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_REAL_PRECISION(10)) : NULL;
	size_t n = text ? strlen(text) : 0;

	json_decref(object);
	if (text)
		text[n++] = '\n'; /* in place of the closing NUL */
	if (!text || write(STDOUT_FILENO, text, n) != (ssize_t)n)
		fprintf(stderr, "infclassify: cannot write an answer: %s\n",
			text ? strerror(errno) : "out of memory");
	free(text);
}

static void print_error(const char *path, const char *what)
{
	put_line(json_pack("{s:o, s:s}", "image", json_text(path), "error", what));
	fprintf(stderr, "infclassify: %s: %s\n", path, what);
}

/* The `top` classes with the largest logits, best first. */
static uint32_t find_top(const float *logit, uint32_t n_classes, uint32_t top,
			 uint32_t *ret_classes)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_classes; i++) {
		uint32_t at = n;

		while (at > 0 && logit[i] > logit[ret_classes[at - 1]])
			at--;
		if (at >= top)
			continue;
		if (n < top)
			n++;
		memmove(&ret_classes[at + 1], &ret_classes[at],
			(n - at - 1) * sizeof(*ret_classes));
		ret_classes[at] = i;
	}
	return n;
}

static void print_answer(const struct classify_options *options, const struct labels *labels,
			 const struct flight *flight, uint64_t latency_ns)
{
	uint32_t classes[TOP_MAX], n_classes, n_top;
	json_t *top = json_array();
	struct inf_tensor logits;
	double sum = 0;
	const float *logit;

	if (inf_output_tensor(flight->req, 0, &logits)) {
		json_decref(top);
		return;
	}
	logit = logits.data;
	n_classes = (uint32_t)(logits.bytes / sizeof(float));
	n_top = find_top(logit, n_classes, options->top, classes);
	for (uint32_t i = 0; i < n_classes; i++)
		sum += exp((double)logit[i] - (double)logit[classes[0]]);
	for (uint32_t k = 0; k < n_top; k++) {
		uint32_t class = classes[k];
		double probability = exp((double)logit[class] - (double)logit[classes[0]]) / sum;
		char number[16];

		snprintf(number, sizeof(number), "%u", class);
		json_array_append_new(
			top, json_pack("{s:o, s:I, s:f}", "label",
				       json_text(class < labels->n ? labels->names[class] : number),
				       "class", (json_int_t) class, "probability",
				       round(probability * 1e4) / 1e4));
	}
	put_line(json_pack("{s:o, s:o, s:f}", "image", json_text(flight->path), "top", top,
			   "latency_us", round((double)latency_ns / 100) / 10));
}

/* --- one process ---------------------------------------------------------------------------------------------- */

struct process {
	const struct classify_options *options;
	struct labels labels;
	struct inf_client *client;
	struct inf_model *model;
	struct flight *flights;
	uint32_t n_flying;
	bool failed;
};

/* Waits for any answer and prints it; returns its flight, free again. NULL where the broker is lost. */
static struct flight *land(struct process *process)
{
	struct inf_request *req;
	struct flight *flight;
	enum inf_status status;

	if (inf_wait_any(process->client, INF_FOREVER, &req))
		return NULL;
	flight = inf_request_data(req);
	process->n_flying--;
	status = inf_request_status(req);
	if (status == INF_OK) {
		print_answer(process->options, &process->labels, flight,
			     classify_now_ns() - flight->submitted_ns);
		return flight;
	}
	print_error(flight->path, inf_status_text(status));
	process->failed = true;
	return status == INF_BROKER_LOST ? NULL : flight;
}

static int take_off(struct process *process, struct flight *flight, const char *path)
{
	char error[256];
	int r = image_load(path, inf_input(flight->req, 0), error, sizeof(error));

	if (r) {
		print_error(path, error);
		process->failed = true;
		return r;
	}
	flight->path = path;
	flight->submitted_ns = classify_now_ns();
	inf_request_set_data(flight->req, flight);
	r = inf_submit(flight->req);
	if (r) {
		print_error(path, strerror(-r));
		process->failed = true;
		return r;
	}
	process->n_flying++;
	return 0;
}

/* Files of this process, `depth` in flight: a flight is on the free stack, or in the air. */
static int fly(struct process *process, uint32_t idx)
{
	const struct classify_options *options = process->options;
	struct flight **free_flights = calloc(options->depth, sizeof(struct flight *));
	uint64_t n_files = (uint64_t)options->n_files * options->repeat;
	uint32_t n_free = 0;
	struct flight *landed = NULL;

	for (; free_flights && n_free < options->depth; n_free++) {
		free_flights[n_free] = &process->flights[n_free];
		if (inf_request_take(process->model, 1, &process->flights[n_free].req))
			break;
	}
	if (!n_free) {
		fprintf(stderr, "infclassify: there is no memory for a single image\n");
		free(free_flights);
		return -1;
	}
	for (uint64_t i = idx; n_free && i < n_files; i += options->n_processes) {
		if (!take_off(process, free_flights[n_free - 1],
			      options->files[i % options->n_files]))
			n_free--;
		if (!n_free && (landed = land(process)))
			free_flights[n_free++] = landed;
	}
	while (process->n_flying && land(process))
		;
	free(free_flights);
	return process->n_flying ? -1 : 0;
}

static int run_process(const struct classify_options *options, uint32_t idx)
{
	struct process process = { .options = options };

	if (read_labels(options->labels_path, &process.labels))
		return 1;
	process.flights = calloc(options->depth, sizeof(*process.flights));
	if (!process.flights || classify_open(options, &process.client, &process.model))
		return 1;
	if (fly(&process, idx))
		process.failed = true;
	inf_close(process.client);
	free(process.flights);
	for (uint32_t i = 0; i < process.labels.n; i++)
		free(process.labels.names[i]);
	free(process.labels.names);
	return process.failed;
}

int classify_files(const struct classify_options *options)
{
	int failed = 0, status;

	if (options->n_processes == 1)
		return run_process(options, 0);
	for (uint32_t i = 0; i < options->n_processes; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(run_process(options, i));
		failed |= pid < 0;
	}
	while (wait(&status) > 0)
		failed |= status != 0;
	return failed;
}
