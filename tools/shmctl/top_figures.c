/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top_figures.c - what `shmctl top` shows, as figures: differences of two looks, put in order.
 *
 * W/Q and B/Q are times over the interval: the waiting of all requests, and the running of all batches. By Little's law they are
 * how many requests waited, and how many instances ran the model, at any moment on average. Waiting is counted of a sample of
 * the requests only (see shm/stats.h), so it is the sample's mean times the rate of all.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/top.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const top_sort_words[SORTS] = { "req/s", "p99", "busy", "errors", "name" };

static const struct top_row unknown = { .wait_ns = NAN,
					.busy_ns = NAN,
					.waiting = NAN,
					.busy = NAN,
					.rows_per_batch = NAN,
					.requests = NAN };

const char *top_row_name(char text[TOP_NAME_BYTES], const struct top *top, const struct top_row *row)
{
	char name[WORD_BYTES];

	switch (row->kind) {
	case ROW_MODEL:
		return look_model_word(text, &top->now, row->model);
	case ROW_INSTANCE:
		snprintf(text, TOP_NAME_BYTES, "instance %" PRIu32, row->instance);
		return text;
	default:
		snprintf(text, TOP_NAME_BYTES, "%s #%" PRIu32, word_name(name, row->session->name), row->session->id);
		return text;
	}
}

/* --- history --- */

static void history_add(struct history *history, double value)
{
	history->values[history->next] = isfinite(value) ? (float)value : 0;
	history->next = (history->next + 1) % HISTORY;
	if (history->n < HISTORY)
		history->n++;
}

static void remember(struct top *top)
{
	history_add(&top->requests, top->rates.requests);
	history_add(&top->p99, (double)top->rates.p99_ns);
	history_add(&top->batch, top->rates.rows_per_batch);
	for (uint32_t i = 0; i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *model = &top->now.public->models[i], *old = &top->before.public->models[i];

		if (strcmp(top->model_names[i], model->name) != 0)
			top->models[i] = (struct history){ 0 };
		memcpy(top->model_names[i], model->name, sizeof(model->name));
		history_add(&top->models[i], (double)counted(model->n_requests, old->n_requests) / top->rates.seconds);
	}
}

/* The last look stays where no broker is found: it is shown as gone. */
void top_look(struct top *top)
{
	struct look look;

	top->has_rates = false;
	if (!look_try(top->options, true, &look)) {
		top->now.life = LIFE_GONE;
		top_rows(top);
		return;
	}
	look_free(&top->before);
	top->before = top->now;
	top->now = look;
	top->has_rates = look_continues(&top->now, &top->before) && look.life != LIFE_GONE;
	if (top->has_rates) {
		look_rates(&top->now, &top->before, &top->rates);
		remember(top);
	}
	top_rows(top);
}

/* --- rows --- */

static struct top_row *row_new(struct top *top, enum row_kind kind, uint32_t model)
{
	if (top->n_rows == top->n_room) {
		size_t n_room = top->n_room ? 2 * top->n_room : 256;
		struct top_row *grown = realloc(top->rows, n_room * sizeof(*grown));

		if (!grown)
			return NULL;
		top->rows = grown;
		top->n_room = n_room;
	}
	top->rows[top->n_rows] = unknown;
	top->rows[top->n_rows].kind = kind;
	top->rows[top->n_rows].model = model;
	return &top->rows[top->n_rows++];
}

static char model_state(const struct inf_stats_model *model)
{
	if (model->state == INF_MODEL_FAILED)
		return 'F';
	if (model->state == INF_MODEL_LOADING)
		return 'L';
	if (model->in_flight)
		return 'R';
	return model->queued ? 'W' : 'I';
}

/* Mean of what was added between two looks; NAN where nothing was. */
static double mean_since(const struct inf_histogram *now, const struct inf_histogram *before)
{
	uint64_t n = counted(now->n, before->n);

	return n ? (double)counted(now->sum_ns, before->sum_ns) / (double)n : NAN;
}

static void model_rates(const struct top *top, const struct inf_stats_model *model, struct top_row *row)
{
	const struct inf_stats_model *old = &top->before.public->models[row->model];
	uint64_t n_batches = counted(model->n_batches, old->n_batches);
	struct inf_histogram served = { 0 };
	double seconds = top->rates.seconds, n_served;

	if (strcmp(model->name, old->name) != 0)
		return;
	histogram_add_since(&served, &model->stages[INF_STAGE_SERVED], &old->stages[INF_STAGE_SERVED]);
	n_served = (double)served.n;
	row->requests = (double)counted(model->n_requests, old->n_requests) / seconds;
	row->wait_ns = mean_since(&model->stages[INF_STAGE_QUEUE], &old->stages[INF_STAGE_QUEUE]);
	if (isfinite(row->wait_ns)) {
		double behind_ns = mean_since(&model->stages[INF_STAGE_WAIT], &old->stages[INF_STAGE_WAIT]);

		row->wait_ns += isfinite(behind_ns) ? behind_ns : 0;
	}
	row->waiting = isfinite(row->wait_ns) ? row->wait_ns * n_served / (seconds * 1e9) : served.n || model->queued ? NAN : 0;
	row->busy_ns = mean_since(&model->batch, &old->batch);
	row->busy = (double)counted(model->batch.sum_ns, old->batch.sum_ns) / (seconds * 1e9);
	row->rows_per_batch = n_batches ? (double)counted(model->n_rows, old->n_rows) / (double)n_batches : NAN;
	row->p50_ns = inf_histogram_quantile(&served, 0.50);
	row->p99_ns = inf_histogram_quantile(&served, 0.99);
}

static void add_models(struct top *top)
{
	for (uint32_t i = 0; i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *model = &top->now.public->models[i];
		struct top_row *row = look_has_model(&top->now, i) ? row_new(top, ROW_MODEL, i) : NULL;

		if (!row)
			continue;
		row->state = model_state(model);
		row->n_errors = model->n_errors;
		if (top->has_rates)
			model_rates(top, model, row);
	}
}

/* Below the model that it was given last. */
static void add_instances(struct top *top)
{
	for (uint32_t i = 0; i < INF_INSTANCES; i++) {
		const struct inf_stats_instance *entry = &top->now.public->instances[i], *old;
		struct top_row *row;
		uint64_t n_batches;

		if (!entry->used || !entry->dispatched_ns || !look_has_model(&top->now, entry->model))
			continue;
		row = row_new(top, ROW_INSTANCE, entry->model);
		if (!row)
			return;
		row->instance = i;
		row->state = entry->n_in_flight ? 'R' : 'I';
		if (!top->has_rates)
			continue;
		old = &top->before.public->instances[i];
		n_batches = counted(entry->n_batches, old->n_batches);
		row->busy = look_instance_busy(&top->now, &top->before, i);
		row->busy_ns = n_batches ? (double)counted(entry->busy_ns, old->busy_ns) / (double)n_batches : NAN;
		row->rows_per_batch = n_batches ? (double)counted(entry->n_rows, old->n_rows) / (double)n_batches : NAN;
	}
}

static void coarse_since(struct inf_coarse_histogram *to, const struct inf_coarse_histogram *now,
			 const struct inf_coarse_histogram *before)
{
	for (unsigned int i = 0; i < INF_COARSE_BUCKETS; i++)
		to->buckets[i] = (uint32_t)counted(now->buckets[i], before->buckets[i]);
}

/* Requests per second of this model; the quantiles are of all its requests. */
static void client_rates(const struct top *top, const struct inf_stats_session *session, unsigned int handle, struct top_row *row)
{
	const struct inf_stats_session *old = look_session(&top->before, session->id);
	struct inf_coarse_histogram served;

	if (!old)
		return;
	coarse_since(&served, &session->served, &old->served);
	row->requests = (double)counted(session->handles[handle].n_requests, old->handles[handle].n_requests) / top->rates.seconds;
	row->p50_ns = inf_coarse_quantile(&served, 0.50);
	row->p99_ns = inf_coarse_quantile(&served, 0.99);
}

static void add_client(struct top *top, const struct inf_stats_session *session)
{
	for (unsigned int i = 0; i < INF_STATS_HANDLES; i++) {
		uint32_t model = session->handles[i].model;
		struct top_row *row = model && look_has_model(&top->now, model - 1) ? row_new(top, ROW_CLIENT, model - 1) : NULL;

		if (!row)
			continue;
		row->session = session;
		row->state = session->in_flight ? 'R' : 'I';
		row->n_errors = session->n_errors;
		if (top->has_rates)
			client_rates(top, session, i, row);
	}
}

/* --- order --- */

static double key_of(const struct top_row *row, enum top_sort sort)
{
	switch (sort) {
	case SORT_P99:
		return (double)row->p99_ns;
	case SORT_BUSY:
		return isfinite(row->busy) ? row->busy : -1;
	case SORT_ERRORS:
		return (double)row->n_errors;
	default:
		return isfinite(row->requests) ? row->requests : -1;
	}
}

static const char *own_name(const struct top *top, const struct top_row *row)
{
	return row->kind == ROW_CLIENT ? row->session->name : top->now.public->models[row->model].name;
}

/* qsort_r(3): largest first, names from a on; what is equal as the file has it. */
static int compare(const void *a, const void *b, void *data)
{
	const struct top *top = data;
	const struct top_row *left = a, *right = b;
	double difference;

	if (left->rank != right->rank)
		return left->rank < right->rank ? -1 : 1;
	if (left->kind != right->kind)
		return left->kind < right->kind ? -1 : 1;
	if (left->kind == ROW_INSTANCE)
		return left->instance < right->instance ? -1 : left->instance > right->instance;
	if (top->sort == SORT_NAME)
		difference = -strcmp(own_name(top, left), own_name(top, right));
	else
		difference = key_of(left, top->sort) - key_of(right, top->sort);
	if (difference != 0)
		return (difference > 0) != top->is_reversed ? -1 : 1;
	if (left->kind == ROW_CLIENT && left->session->id != right->session->id)
		return left->session->id < right->session->id ? -1 : 1;
	return left->model < right->model ? -1 : left->model > right->model;
}

/* Models first, for their places; then all below theirs. Clients alone stand in one order. */
static void put_in_order(struct top *top, size_t n_models)
{
	unsigned int ranks[INF_STATS_MODELS] = { 0 };

	qsort_r(top->rows, n_models, sizeof(top->rows[0]), compare, top);
	for (size_t i = 0; i < n_models; i++)
		ranks[top->rows[i].model] = (unsigned int)i;
	for (size_t i = 0; i < top->n_rows; i++)
		top->rows[i].rank = top->tree == TREE_CLIENTS ? 0 : ranks[top->rows[i].model];
	qsort_r(top->rows, top->n_rows, sizeof(top->rows[0]), compare, top);
}

/* --- filter --- */

static bool matches(const struct top *top, const struct top_row *row)
{
	char name[TOP_NAME_BYTES], pid[16];

	if (strcasestr(top_row_name(name, top, row), top->filter))
		return true;
	if (row->kind != ROW_CLIENT)
		return false;
	snprintf(pid, sizeof(pid), "%" PRIu32, row->session->pid);
	return !strcmp(pid, top->filter);
}

/* A model that matches keeps all that is below it; one of which something matches stays to say whose that is. */
static void apply_filter(struct top *top)
{
	bool whole[INF_STATS_MODELS] = { false }, part[INF_STATS_MODELS] = { false };
	size_t n_kept = 0;

	for (size_t i = 0; i < top->n_rows; i++) {
		const struct top_row *row = &top->rows[i];

		if (matches(top, row))
			*(row->kind == ROW_MODEL ? &whole[row->model] : &part[row->model]) = true;
	}
	for (size_t i = 0; i < top->n_rows; i++) {
		const struct top_row *row = &top->rows[i];

		if (whole[row->model] || (row->kind == ROW_MODEL ? part[row->model] : matches(top, row)))
			top->rows[n_kept++] = *row;
	}
	top->n_rows = n_kept;
}

static void keep_kind(struct top *top, enum row_kind kind)
{
	size_t n_kept = 0;

	for (size_t i = 0; i < top->n_rows; i++)
		if (top->rows[i].kind == kind)
			top->rows[n_kept++] = top->rows[i];
	top->n_rows = n_kept;
}

void top_rows(struct top *top)
{
	size_t n_models;

	top->n_rows = 0;
	if (!top->now.public)
		return;
	add_models(top);
	n_models = top->n_rows;
	if (top->tree == TREE_ALL)
		add_instances(top);
	for (size_t i = 0; top->tree != TREE_MODELS && i < top->now.n_sessions; i++)
		add_client(top, &top->now.sessions[i]);
	if (!top->n_rows)
		return;
	put_in_order(top, n_models);
	if (top->filter[0])
		apply_filter(top);
	if (top->tree == TREE_CLIENTS)
		keep_kind(top, ROW_CLIENT);
}

void top_free(struct top *top)
{
	look_free(&top->now);
	look_free(&top->before);
	free(top->rows);
	top->rows = NULL;
}

/* --- JSON --- */

static json_t *row_json(const struct top *top, const struct top_row *row)
{
	char name[TOP_NAME_BYTES];
	json_t *object = json_pack("{s:o, s:s%, s:o, s:o, s:o, s:o, s:o}", "name", json_text(top_row_name(name, top, row)), "state",
				   &row->state, (size_t)1, "requests_per_s", json_rate(row->requests), "p50_ns",
				   row->p50_ns ? json_number(row->p50_ns) : json_null(), "p99_ns",
				   row->p99_ns ? json_number(row->p99_ns) : json_null(), "busy", json_rate(row->busy), "rows_per_batch",
				   json_rate(row->rows_per_batch));

	if (row->kind != ROW_CLIENT)
		json_object_set_new(object, "batch_ns", isfinite(row->busy_ns) ? json_number((uint64_t)row->busy_ns) : json_null());
	if (row->kind != ROW_INSTANCE)
		json_object_set_new(object, "errors", json_number(row->n_errors));
	if (row->kind == ROW_MODEL) {
		json_object_set_new(object, "wait_ns", isfinite(row->wait_ns) ? json_number((uint64_t)row->wait_ns) : json_null());
		json_object_set_new(object, "waiting", json_rate(row->waiting));
		json_object_set_new(object, "instances", json_array());
		json_object_set_new(object, "clients", json_array());
	}
	if (row->kind == ROW_INSTANCE)
		json_object_set_new(object, "instance", json_number(row->instance));
	if (row->kind == ROW_CLIENT) {
		json_object_set_new(object, "session", json_number(row->session->id));
		json_object_set_new(object, "pid", json_number(row->session->pid));
	}
	return object;
}

/* Rows are in the order of the tree: what is no model belongs to the last one. */
json_t *top_json(const struct top *top)
{
	const struct rates *rates = &top->rates;
	json_t *models = json_array(), *model = NULL;

	for (size_t i = 0; i < top->n_rows; i++) {
		const struct top_row *row = &top->rows[i];
		json_t *object = row_json(top, row);

		if (row->kind == ROW_MODEL && json_array_append_new(models, object) == 0)
			model = object;
		else if (row->kind != ROW_MODEL)
			json_array_append_new(json_object_get(model, row->kind == ROW_INSTANCE ? "instances" : "clients"), object);
	}
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "state", life_word(top->now.life), "interval_ns",
			 json_number((uint64_t)(rates->seconds * 1e9)), "requests_per_s", json_rate(rates->requests), "errors_per_s",
			 json_rate(rates->errors), "rows_per_batch", json_rate(rates->rows_per_batch), "p50_ns",
			 rates->p50_ns ? json_number(rates->p50_ns) : json_null(), "p99_ns",
			 rates->p99_ns ? json_number(rates->p99_ns) : json_null(), "in_flight", json_number(rates->n_in_flight),
			 "queued_rows", json_number(rates->n_queued_rows), "busy", json_rate(rates->busy), "sessions",
			 json_number(rates->n_sessions), "models", models);
}
