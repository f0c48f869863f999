/* SPDX-License-Identifier: Apache-2.0 */
/*
 * models.c - `shmctl models`: what is served, what it takes and gives, how fast it is.
 *
 * Asks the broker (which starts one behind an activated socket) and adds the counters of its statistics file. A broker
 * that is stopped is not asked: then only the file speaks, which knows no signatures.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/look.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *state_word(uint32_t state)
{
	static const char *const words[] = {
		[INF_MODEL_LOADING] = "loading", [INF_MODEL_READY] = "ready", [INF_MODEL_FAILED] = "failed"
	};

	return state && state < sizeof(words) / sizeof(words[0]) ? words[state] : "?";
}

/* One model: `info` from the broker and `counters` from its file; either may be NULL. */
struct entry {
	const struct inf_model_info *info;
	const struct inf_stats_model *counters;
};

static const char *name_of(const struct entry *entry)
{
	return entry->info ? entry->info->signature.name : entry->counters->name;
}

static uint32_t version_of(const struct entry *entry)
{
	return entry->info ? entry->info->signature.version : entry->counters->model_version;
}

static uint32_t state_of(const struct entry *entry)
{
	return entry->info ? entry->info->state : entry->counters->state;
}

static uint64_t time_of(const struct entry *entry, unsigned int bucket)
{
	return entry->info ? entry->info->time_ns[bucket]
			   : entry->counters->time_ns[bucket];
}

/* --- JSON --- */

static json_t *tensors_json(const struct inf_tensor_spec *specs, uint32_t n_specs)
{
	json_t *tensors = json_array();

	for (uint32_t i = 0; i < n_specs; i++) {
		const struct inf_tensor_spec *spec = &specs[i];
		json_t *shape = json_array(), *tensor;

		for (uint32_t d = 0; d < spec->rank; d++)
			json_array_append_new(shape, d == 0 && spec->flags & INF_SPEC_BATCH
							     ? json_string("batch")
							     : json_integer(spec->dims[d]));
		tensor = json_pack("{s:o, s:s, s:o}", "name", json_text(spec->name), "dtype",
				   inf_dtype_name((enum inf_dtype)spec->dtype), "shape", shape);
		for (uint32_t d = 0; d < spec->rank; d++)
			if (spec->dims[d] < 0 && !(d == 0 && spec->flags & INF_SPEC_BATCH)) {
				json_t *bounds = json_array();

				for (uint32_t k = 0; k < spec->rank; k++)
					json_array_append_new(bounds,
							      json_integer(spec->dims_max[k]));
				json_object_set_new(tensor, "shape_max", bounds);
				break;
			}
		if (spec->flags & INF_SPEC_RANGE)
			json_object_set_new(tensor, "range",
					    json_pack("[I,I]", (json_int_t)spec->value_min,
						      (json_int_t)spec->value_max));
		if (spec->flags & INF_SPEC_FINITE)
			json_object_set_new(tensor, "finite", json_true());
		json_array_append_new(tensors, tensor);
	}
	return tensors;
}

static void add_info(json_t *model, const struct inf_model_info *info)
{
	const struct inf_signature *sig = &info->signature;

	if (info->state == INF_MODEL_FAILED)
		json_object_set_new(model, "error", json_text(info->text));
	if (info->state != INF_MODEL_READY)
		return;
	json_object_set_new(model, "builtin", json_boolean(sig->flags & INF_SIG_BUILTIN));
	json_object_set_new(model, "batchable", json_boolean(sig->flags & INF_SIG_BATCHABLE));
	json_object_set_new(model, "stateful", json_boolean(sig->flags & INF_SIG_STATEFUL));
	json_object_set_new(model, "batch_max", json_integer(sig->batch_max));
	json_object_set_new(model, "inputs", tensors_json(sig->inputs, sig->n_inputs));
	json_object_set_new(model, "outputs", tensors_json(sig->outputs, sig->n_outputs));
}

static void add_counters(json_t *model, const struct inf_stats_model *counters)
{
	static const struct {
		const char *name;
		size_t offset;
	} words[] = {
		{ "queued_rows", offsetof(struct inf_stats_model, queued) },
		{ "running_rows", offsetof(struct inf_stats_model, in_flight) },
		{ "requests", offsetof(struct inf_stats_model, n_requests) },
		{ "errors", offsetof(struct inf_stats_model, n_errors) },
		{ "rows", offsetof(struct inf_stats_model, n_rows) },
		{ "batches", offsetof(struct inf_stats_model, n_batches) },
		{ "device_bytes", offsetof(struct inf_stats_model, device_bytes) },
	};
	char name[32];

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		json_object_set_new(model, words[i].name,
				    json_integer((json_int_t) * (const uint64_t *)(const void *)((const char *)counters + words[i].offset)));
	json_object_set_new(model, "batch_best", json_integer(counters->batch_best));
	for (unsigned int i = 0; i < INF_STAGES; i++) {
		snprintf(name, sizeof(name), "%s_ns", inf_stage_name((enum inf_stage)i));
		json_object_set_new(model, name, histogram_json(&counters->stages[i]));
	}
	json_object_set_new(model, "batch_ns", histogram_json(&counters->batch));
}

static json_t *entry_json(const struct entry *entry)
{
	json_t *model = json_pack("{s:o, s:I, s:s}", "name", json_text(name_of(entry)), "version", (json_int_t)version_of(entry),
				  "state", state_word(state_of(entry)));
	json_t *times = json_object();
	char rows[16];

	for (unsigned int i = 0; i < INF_CTL_BUCKETS; i++) {
		snprintf(rows, sizeof(rows), "%u", 1u << i);
		if (time_of(entry, i))
			json_object_set_new(times, rows,
					    json_integer((json_int_t)time_of(entry, i)));
	}
	json_object_set_new(model, "time_ns", times);
	if (entry->info)
		add_info(model, entry->info);
	if (entry->counters)
		add_counters(model, entry->counters);
	return model;
}

/* --- for people --- */

static void print_head(void)
{
	printf("%-24s %3s %-8s %10s %12s %19s %19s\n", "NAME", "VER", "STATE", "BATCH", "REQUESTS",
	       "WAITED p50/p99", "RAN p50/p99");
}

static const char *quantiles(char text[2 * WORD_BYTES], const struct inf_histogram *histogram)
{
	char p50[WORD_BYTES], p99[WORD_BYTES];

	if (!histogram->n)
		return "-";
	snprintf(text, 2 * WORD_BYTES, "%s/%s",
		 word_time(p50, inf_histogram_quantile(histogram, 0.50)),
		 word_time(p99, inf_histogram_quantile(histogram, 0.99)));
	return text;
}

static void print_tensors(const char *word, const struct inf_tensor_spec *specs, uint32_t n_specs)
{
	char shape[SHAPE_BYTES];

	for (uint32_t i = 0; i < n_specs; i++)
		printf("  %-4s %-18s %s\n", word, specs[i].name, word_shape(shape, &specs[i]));
}

static void print_entry(const struct entry *entry)
{
	const struct inf_stats_model *counters = entry->counters;
	char batch[32] = "-", requests[32] = "-", waited[2 * WORD_BYTES], ran[2 * WORD_BYTES],
	     word[WORD_BYTES];

	if (counters && state_of(entry) == INF_MODEL_READY)
		snprintf(batch, sizeof(batch), "%" PRIu32 "/%" PRIu32,
			 counters->batch_best, counters->batch_max);
	if (counters)
		snprintf(requests, sizeof(requests), "%" PRIu64, counters->n_requests);
	printf("%-24s %3" PRIu32 " %-8s %10s %12s %19s %19s\n", name_of(entry), version_of(entry),
	       state_word(state_of(entry)), batch, requests,
	       counters ? quantiles(waited, &counters->stages[INF_STAGE_QUEUE]) : "-",
	       counters ? quantiles(ran, &counters->stages[INF_STAGE_RUN]) : "-");
	if (entry->info && entry->info->state == INF_MODEL_FAILED)
		printf("  %s\n", entry->info->text);
	if (entry->info && entry->info->state == INF_MODEL_READY) {
		print_tensors("in", entry->info->signature.inputs, entry->info->signature.n_inputs);
		print_tensors("out", entry->info->signature.outputs,
			      entry->info->signature.n_outputs);
	}
	if (counters && counters->device_bytes)
		printf("  device memory that loading it took: %s\n", word_bytes(word, counters->device_bytes));
	if (!time_of(entry, 0))
		return;
	printf("  time of a batch of");
	for (unsigned int i = 0; i < INF_CTL_BUCKETS; i++)
		if (time_of(entry, i))
			printf("%s %u: %s", i ? "," : "", 1u << i,
			       word_time(word, time_of(entry, i)));
	putchar('\n');
}

/* --- both --- */

struct listing {
	json_t *json; /* NULL = lines for people */
	unsigned int n_shown;
};

static void show(struct listing *listing, const struct entry *entry)
{
	if (listing->json) {
		json_array_append_new(listing->json, entry_json(entry));
	} else {
		if (!listing->n_shown)
			print_head();
		print_entry(entry);
	}
	listing->n_shown++;
}

static int ask(const struct options *options, struct listing *listing)
{
	struct inf_model_info info = { .size = sizeof(info) };
	const struct inf_stats_public *stats;
	struct inf_client *client;
	char path[PATH_MAX];
	int r;

	client = connect_broker(options, &r);
	if (!client)
		return r;
	stats = stats_find(options,
			   path); /* only now: a socket-activated broker has just made it */
	while ((r = inf_model_list(client, 0, &info)) == -EAGAIN)
		pause_briefly(); /* connect_broker() has set the alarm */
	for (uint32_t i = 0; (r = inf_model_list(client, i, &info)) == 0; i++) {
		struct entry entry = { .info = &info,
				       .counters = stats ? stats_model(stats, info.signature.name, info.signature.version) : NULL };

		show(listing, &entry);
	}
	inf_close(client);
	stats_close(stats);
	return r == -ENOENT
		       ? EXIT_OK
		       : fail(options, EXIT_UNHEALTHY, "the broker broke off: %s", strerror(-r));
}

static void read_file(const struct inf_stats_public *stats, struct listing *listing)
{
	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		struct entry entry = { .counters = &stats->models[i] };

		if (stats->models[i].name[0])
			show(listing, &entry);
	}
}

/* Does somebody listen there? systemd does for a broker that is gone, and starts another one. */
static bool answers(const char *path)
{
	int fd = connect_path(path, SOCK_NONBLOCK, 0);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || fd == -EAGAIN;
}

static int run(const struct options *options, int argc, char **argv)
{
	const struct inf_stats_public *stats;
	struct listing listing = { 0 };
	char path[PATH_MAX];
	int r = no_arguments(options, argc, argv), status = EXIT_OK;
	enum life life;

	if (r)
		return r;
	if (options->json)
		listing.json = json_array();
	stats = stats_find(options, path);
	life = stats ? stats_life(&stats->head) : LIFE_GONE;
	if (stats && (life == LIFE_STOPPED || life == LIFE_SNAPSHOT || (life == LIFE_GONE && !answers(path)))) {
		if (!options->json)
			fprintf(stderr, "%s %s: this is from its statistics, which know no inputs and outputs\n",
				life == LIFE_SNAPSHOT ? path : "the broker", life == LIFE_SNAPSHOT ? "is a snapshot" :
									     life == LIFE_STOPPED  ? "is stopped" :
												     "is gone");
		read_file(stats, &listing);
		status = life == LIFE_GONE ? EXIT_NOT_RUNNING : EXIT_OK;
	} else {
		r = ask(options, &listing);
		life = LIFE_RUNNING; /* it has answered */
	}
	if (r != EXIT_OK) {
		json_decref(listing.json);
		return r;
	}
	if (options->json) {
		r = print_json(options, "models", json_pack("{s:s, s:o}", "state", life_word(life), "models", listing.json));
		return r == EXIT_OK ? status : r;
	}
	if (!listing.n_shown)
		puts("no models; infbroker --models DIR serves those in DIR, --builtin the test "
		     "models");
	return status;
}

const struct command command_models = {
	.name = "models",
	.summary = "what is served: inputs, outputs, measured times, counters",
	.usage = "Usage: shmctl models [-j]\n"
		 "Every model with its state (loading, ready, failed and why), inputs and outputs, "
		 "the measured time of a batch of\n"
		 "1, 2, 4, ... rows, and how long requests waited and ran. BATCH is the size with "
		 "the best measured rate, and the\n"
		 "largest. A broker that is stopped or gone (exit status 3) is not asked: its statistics know no inputs and outputs.\n",
	.run = run,
};
