/* SPDX-License-Identifier: Apache-2.0 */
/*
 * look.c - looks at the statistics, and differences of two. A look is private memory: nothing in it changes, and every index and
 * count is checked here or where it is used, since a file may hold anything.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/look.h"
#include "shm/layout.h"
#include "tools/shmctl/table.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void add_session(void *data, const struct inf_stats_session *entry)
{
	struct look *look = data;

	if (look->n_sessions == look->n_room) {
		size_t n_room = look->n_room ? 2 * look->n_room : 64;
		struct inf_stats_session *grown = realloc(look->sessions, n_room * sizeof(*grown));

		if (!grown)
			return; /* one less is shown */
		look->sessions = grown;
		look->n_room = n_room;
	}
	look->sessions[look->n_sessions++] = *entry;
}

static int by_id(const void *a, const void *b)
{
	const struct inf_stats_session *left = a, *right = b;

	return (left->id > right->id) - (left->id < right->id);
}

static void fill(struct look *look, bool with_sessions)
{
	look->taken_ns = stats_now_ns();
	look->life = stats_life(&look->public->head);
	if (with_sessions)
		stats_each_session(look->path, add_session, look);
	if (look->n_sessions)
		qsort(look->sessions, look->n_sessions, sizeof(look->sessions[0]), by_id);
}

int look_take(const struct options *options, bool with_sessions, struct look *look)
{
	int r = EXIT_OK;

	*look = (struct look){ 0 };
	look->public = stats_open(options, look->path, &r);
	if (!look->public)
		return r;
	fill(look, with_sessions);
	return EXIT_OK;
}

bool look_try(const struct options *options, bool with_sessions, struct look *look)
{
	*look = (struct look){ .life = LIFE_GONE, .taken_ns = monotonic_ns() };
	look->public = stats_find(options, look->path);
	if (look->public)
		fill(look, with_sessions);
	return look->public;
}

void look_free(struct look *look)
{
	stats_close(look->public);
	free(look->sessions);
	look->public = NULL;
	look->sessions = NULL;
	look->n_sessions = look->n_room = 0;
}

int look_status(const struct options *options, const struct look *look)
{
	if (look->life == LIFE_RUNNING || look->life == LIFE_SNAPSHOT)
		return EXIT_OK;
	if (!options->json && look->life == LIFE_GONE)
		fprintf(stderr, "the broker at %s is gone; start infbroker anew. This is what it left\n", look->path);
	if (!options->json && look->life == LIFE_STOPPED)
		fprintf(stderr, "the broker at %s is stopped (pid %" PRIu32 "): nothing changes\n", look->path,
			look->public->head.pid);
	return look->life == LIFE_GONE ? EXIT_NOT_RUNNING : EXIT_OK;
}

const struct inf_stats_session *look_session(const struct look *look, uint32_t id)
{
	struct inf_stats_session key = { .id = id };

	return look->n_sessions ? bsearch(&key, look->sessions, look->n_sessions, sizeof(key), by_id) : NULL;
}

bool look_continues(const struct look *now, const struct look *before)
{
	return now->public && before->public && now->public->head.pid == before->public->head.pid &&
	       now->public->head.start_ns == before->public->head.start_ns;
}

uint64_t counted(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

const struct inf_stats_model *look_same_model(const struct look *look, const struct inf_stats_model *model, unsigned int idx)
{
	const struct inf_stats_model *there = look->public ? &look->public->models[idx] : NULL;

	return there && there->model_version == model->model_version && !strcmp(there->name, model->name) ? there : NULL;
}

bool look_has_model(const struct look *look, uint32_t idx)
{
	return idx < INF_STATS_MODELS && look->public->models[idx].name[0];
}

const char *look_model_word(char text[MODEL_WORD_BYTES], const struct look *look, uint32_t idx)
{
	char name[INF_NAME_BYTES];

	if (look_has_model(look, idx))
		snprintf(text, MODEL_WORD_BYTES, "%s:%" PRIu32, word_clean(name, sizeof(name), look->public->models[idx].name),
			 look->public->models[idx].model_version);
	else
		snprintf(text, MODEL_WORD_BYTES, "?");
	return text;
}

uint64_t look_n_hidden(const struct look *look)
{
	return counted(look->public->n_sessions, look->n_sessions);
}

void look_say_hidden(const struct look *look)
{
	uint64_t n_hidden = look_n_hidden(look);

	if (!n_hidden)
		return;
	if (geteuid() == 0 || geteuid() == look->public->head.uid)
		fprintf(stderr, "%" PRIu64 " sessions are not shown: their statistics are damaged, or could not be written; the broker's log says why\n",
			n_hidden);
	else
		fprintf(stderr, "%" PRIu64 " sessions of other users; ask as the broker's user, or as root\n", n_hidden);
}

const char *region_kind_word(uint32_t kind)
{
	static const char *const words[] = {
		[INF_REGION_REQUEST] = "request",   [INF_REGION_RESPONSE] = "response", [INF_REGION_OUTPUT] = "output",
		[INF_REGION_DISPATCH] = "dispatch", [INF_REGION_DONE] = "done",		[INF_REGION_TIMELINE] = "timeline",
		[INF_REGION_TWIN] = "device",
	};

	return kind < sizeof(words) / sizeof(words[0]) && words[kind] ? words[kind] : "?";
}

const char *region_state_word(uint32_t state)
{
	static const char *const words[] = { "?", "made", "used", "retired" };

	return state < sizeof(words) / sizeof(words[0]) ? words[state] : "?";
}

/* --- what happened between --- */

void histogram_add_since(struct inf_histogram *to, const struct inf_histogram *now, const struct inf_histogram *before)
{
	uint64_t max_ns = 0;

	to->n += counted(now->n, before ? before->n : 0);
	to->sum_ns += counted(now->sum_ns, before ? before->sum_ns : 0);
	for (unsigned int i = 0; i < INF_HISTOGRAM_BUCKETS; i++) {
		uint64_t n = counted(now->buckets[i], before ? before->buckets[i] : 0);

		to->buckets[i] += n;
		if (n)
			max_ns = inf_histogram_upper_edge(i);
	}
	max_ns = max_ns < now->max_ns ? max_ns : now->max_ns;
	to->max_ns = max_ns > to->max_ns ? max_ns : to->max_ns;
}

json_t *histogram_json(const struct inf_histogram *histogram)
{
	static const struct {
		const char *name;
		double q;
	} quantiles[] = { { "p50_ns", 0.5 }, { "p90_ns", 0.9 }, { "p99_ns", 0.99 }, { "p999_ns", 0.999 } };
	json_t *object = json_pack("{s:I, s:I, s:I}", "n", (json_int_t)histogram->n, "sum_ns", (json_int_t)histogram->sum_ns,
				   "max_ns", (json_int_t)histogram->max_ns),
	       *buckets = json_array();

	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
		json_object_set_new(object, quantiles[i].name,
				    json_integer((json_int_t)inf_histogram_quantile(histogram, quantiles[i].q)));
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		if (histogram->buckets[i])
			json_array_append_new(buckets, json_pack("[I, I]", (json_int_t)inf_histogram_upper_edge(i),
								 (json_int_t)histogram->buckets[i]));
	json_object_set_new(object, "buckets", buckets);
	return object;
}

/*
 * One that had a batch at the last look, and has not ended it, has been busy ever since. Of a broker that is stopped nobody knows:
 * it has not counted what ended meanwhile.
 */
double look_instance_busy(const struct look *now, const struct look *before, unsigned int idx)
{
	const struct inf_stats_instance *entry = &now->public->instances[idx], *old = &before->public->instances[idx];
	uint64_t span_ns = counted(now->taken_ns, before->taken_ns), busy_ns = counted(entry->busy_ns, old->busy_ns);

	if (entry->n_in_flight && entry->n_batches == old->n_batches)
		busy_ns = old->n_in_flight ? span_ns : counted(now->taken_ns, entry->dispatched_ns);
	if (now->life == LIFE_STOPPED)
		return NAN;
	if (!span_ns)
		return 0;
	return busy_ns > span_ns ? 1 : (double)busy_ns / (double)span_ns;
}

static double instances_busy(const struct look *now, const struct look *before)
{
	unsigned int n = 0;
	double busy = 0;

	for (unsigned int i = 0; i < INF_INSTANCES; i++)
		if (now->public->instances[i].used) {
			busy += look_instance_busy(now, before, i);
			n++;
		}
	return n ? busy / n : NAN;
}

static uint64_t jobs(const struct inf_stats_public *stats)
{
	for (unsigned int i = 0; i < INF_STATS_LIMITS; i++)
		if (!strcmp(stats->limits[i].name, "jobs_max"))
			return stats->limits[i].used;
	return 0;
}

/* Sums over the models: rows and batches per second, and the quantiles of what was answered. */
static void add_models(const struct look *now, const struct look *before, struct rates *rates)
{
	struct inf_histogram served = { 0 };
	uint64_t n_rows = 0, n_batches = 0;

	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *model = &now->public->models[i], *old = look_same_model(before, model, i);

		if (!model->name[0] || !old)
			continue; /* it came meanwhile: seen whole the next time */
		n_rows += counted(model->n_rows, old->n_rows);
		n_batches += counted(model->n_batches, old->n_batches);
		rates->n_queued_rows += model->queued;
		rates->n_running_rows += model->in_flight;
		histogram_add_since(&served, &model->stages[INF_STAGE_SERVED], &old->stages[INF_STAGE_SERVED]);
	}
	rates->rows = (double)n_rows / rates->seconds;
	rates->batches = (double)n_batches / rates->seconds;
	rates->rows_per_batch = n_batches ? (double)n_rows / (double)n_batches : NAN;
	rates->p50_ns = inf_histogram_quantile(&served, 0.50);
	rates->p99_ns = inf_histogram_quantile(&served, 0.99);
}

void look_rates(const struct look *now, const struct look *before, struct rates *ret_rates)
{
	const struct inf_stats_public *stats = now->public, *old = before->public;
	uint64_t n_requests = 0, n_errors = 0;
	struct rates rates = { .seconds = (double)counted(now->taken_ns, before->taken_ns) / 1e9 };

	if (rates.seconds <= 0)
		rates.seconds = 1e-9;
	for (unsigned int i = 0; i < INF_STATUS_N; i++) {
		uint64_t n = counted(stats->n_status[i], old->n_status[i]);

		n_requests += n;
		n_errors += i == INF_OK ? 0 : n;
	}
	rates.requests = (double)n_requests / rates.seconds;
	rates.errors = (double)n_errors / rates.seconds;
	rates.wakes = (double)counted(stats->n_wakes, old->n_wakes) / rates.seconds;
	rates.parks = (double)counted(stats->n_parks, old->n_parks) / rates.seconds;
	rates.n_in_flight = jobs(stats);
	rates.n_sessions = stats->n_sessions;
	rates.busy = instances_busy(now, before);
	add_models(now, before, &rates);
	*ret_rates = rates;
}
