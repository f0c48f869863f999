/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_stats.c - what is left where the kernel lets us watch nothing: the broker's own histograms, over some seconds. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "tools/shmctl/kernel.h"
#include "tools/shmctl/stats.h"
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void copy(struct inf_histogram *to, const struct inf_histogram *from)
{
	to->n = inf_load64(&from->n);
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		to->buckets[i] = inf_load64(&from->buckets[i]);
}

/* What came in since `before` was copied. */
static void subtract(struct inf_histogram *now, const struct inf_histogram *before)
{
	now->n -= before->n;
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		now->buckets[i] -= before->buckets[i];
}

struct pair {
	struct inf_histogram queue, run;
};

static json_t *json_of(const struct inf_histogram *histogram)
{
	return json_pack("{s:I, s:I}", "p50_ns", (json_int_t)inf_histogram_quantile(histogram, 0.5), "p99_ns",
			 (json_int_t)inf_histogram_quantile(histogram, 0.99));
}

static void show(const struct options *options, const char *name, const struct pair *pair, json_t *models)
{
	char words[4][WORD_BYTES];

	if (options->json) {
		json_array_append_new(models, json_pack("{s:o, s:I, s:{s:o, s:o}}", "model", json_text(name), "requests",
							(json_int_t)pair->run.n, "stages", "queued",
							json_of(&pair->queue), "run", json_of(&pair->run)));
		return;
	}
	printf("%s  %" PRIu64 " requests\n", name, pair->run.n);
	printf("  queued  p50 %8s  p99 %8s\n", word_time(words[0], inf_histogram_quantile(&pair->queue, 0.5)),
	       word_time(words[1], inf_histogram_quantile(&pair->queue, 0.99)));
	printf("  run     p50 %8s  p99 %8s   (gathered, run, scattered)\n",
	       word_time(words[2], inf_histogram_quantile(&pair->run, 0.5)),
	       word_time(words[3], inf_histogram_quantile(&pair->run, 0.99)));
}

int kernel_statistics(const struct options *options, const struct kernel_filter *filter)
{
	struct pair *before, now;
	const struct inf_stats_public *stats;
	json_t *models = json_array();
	uint64_t until_ns;
	char path[PATH_MAX];
	int r;

	stats = stats_open(options, path, &r);
	if (!stats)
		return r;
	before = calloc(INF_STATS_MODELS, sizeof(*before));
	if (!before)
		return fail(options, EXIT_UNHEALTHY, "out of memory");
	for (uint32_t i = 0; i < INF_STATS_MODELS; i++) {
		copy(&before[i].queue, &stats->models[i].stages[INF_STAGE_QUEUE]);
		copy(&before[i].run, &stats->models[i].stages[INF_STAGE_RUN]);
	}
	until_ns = monotonic_ns() + filter->duration_ns;
	kernel_catch_signals();
	while ((!filter->duration_ns || monotonic_ns() < until_ns) && !kernel_is_interrupted())
		pause_briefly();
	for (uint32_t i = 0; i < INF_STATS_MODELS; i++) {
		char name[INF_NAME_BYTES + 1];

		snprintf(name, sizeof(name), "%.*s", (int)sizeof(stats->models[i].name), stats->models[i].name);
		copy(&now.queue, &stats->models[i].stages[INF_STAGE_QUEUE]);
		copy(&now.run, &stats->models[i].stages[INF_STAGE_RUN]);
		subtract(&now.queue, &before[i].queue);
		subtract(&now.run, &before[i].run);
		if (now.run.n && (!filter->model || !strcmp(filter->model, name)))
			show(options, name, &now, models);
	}
	free(before);
	if (options->json)
		return print_json(options, "kernel.latency", json_pack("{s:s, s:o}", "source", "statistics", "models", models));
	json_decref(models);
	return EXIT_OK;
}
