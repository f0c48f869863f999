/* SPDX-License-Identifier: Apache-2.0 */
/* show.c - `shmctl show SESSION`: one session whole. */
#define _GNU_SOURCE 1
#include "tools/shmctl/lists.h"
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

struct request {
	uint32_t id;
};

static json_t *latency_json(const struct inf_stats_session *session)
{
	json_t *buckets = json_array();
	uint64_t n = 0;

	for (uint32_t i = 0; i < INF_COARSE_BUCKETS; i++) {
		uint32_t in_bucket = session->served.buckets[i];

		n += in_bucket;
		if (in_bucket)
			json_array_append_new(buckets, json_pack("[o, o]", json_number(inf_coarse_upper_edge(i)), json_number(in_bucket)));
	}
	return json_pack("{s:o, s:o, s:o, s:o}", "n", json_number(n), "p50_ns", json_number(inf_coarse_quantile(&session->served, 0.50)),
			 "p99_ns", json_number(inf_coarse_quantile(&session->served, 0.99)), "buckets", buckets);
}

static int show_json(const struct options *options, const struct view *view, const struct look *look,
		     const struct inf_stats_session *session)
{
	struct table rings, regions;

	rings_begin(&rings, view);
	rings_add(&rings, session);
	regions_begin(&regions, view);
	regions_add(&regions, session);
	return print_json(
		options, "show",
		json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "state",
			  life_word(look->life), "id", json_number(session->id), "pid", json_number(session->pid), "uid",
			  json_number(session->uid), "name", json_text(session->name), "connected_for_ns",
			  json_number(counted(look->taken_ns, session->connected_ns)), "lanes", json_number(session->n_lanes), "in_flight",
			  json_number(session->in_flight), "held_outputs", json_number(session->held_outputs), "request_bytes",
			  json_number(session->request_bytes), "output_bytes", json_number(session->output_bytes), "device_bytes",
			  json_number(session->device_bytes), "requests", json_number(session->n_requests), "errors",
			  json_number(session->n_errors), "models", session_models_json(look, session), "served_ns",
			  latency_json(session), "rings", rings.json, "regions", regions.json));
}

static void print_models(const struct look *look, const struct inf_stats_session *session)
{
	char word[MODEL_WORD_BYTES];

	for (unsigned int i = 0; i < INF_STATS_HANDLES; i++) {
		const struct inf_stats_handle *handle = &session->handles[i];

		if (handle->model)
			printf("%-10s%s, %" PRIu64 " requests, memory for %" PRIu32 " rows\n", i ? "" : "models",
			       look_model_word(word, look, handle->model - 1), handle->n_requests, handle->depth);
	}
}

static void print_latency(const struct inf_stats_session *session)
{
	char p50[WORD_BYTES], p90[WORD_BYTES], p99[WORD_BYTES];
	const struct inf_coarse_histogram *served = &session->served;

	if (inf_coarse_quantile(served, 1))
		printf("latency   p50 %s, p90 %s, p99 %s in the broker\n", word_time(p50, inf_coarse_quantile(served, 0.50)),
		       word_time(p90, inf_coarse_quantile(served, 0.90)), word_time(p99, inf_coarse_quantile(served, 0.99)));
}

static void show_people(const struct view *view, const struct look *look, const struct inf_stats_session *session)
{
	char name[WORD_BYTES], since[WORD_BYTES], in[WORD_BYTES], out[WORD_BYTES], device[WORD_BYTES];
	struct table table;

	printf("session   %" PRIu32 ", pid %" PRIu32 ", uid %" PRIu32 ", %s, connected for %s\n", session->id, session->pid,
	       session->uid, word_name(name, session->name),
	       word_time(since, counted(look->taken_ns, session->connected_ns)));
	printf("requests  %" PRIu64 " ended, %" PRIu64 " not with OK, %" PRIu64 " in flight, %" PRIu64 " outputs held\n",
	       session->n_requests, session->n_errors, session->in_flight, session->held_outputs);
	printf("memory    inputs %s, outputs %s, device %s\n", word_bytes(in, session->request_bytes),
	       word_bytes(out, session->output_bytes), word_bytes(device, session->device_bytes));
	print_latency(session);
	print_models(look, session);
	putchar('\n');
	rings_begin(&table, view);
	rings_add(&table, session);
	puts(table.n_rows ? "" : "no lanes\n");
	regions_begin(&table, view);
	regions_add(&table, session);
	if (!table.n_rows)
		puts("no regions");
}

static int show(const struct options *options, const struct view *view, void *data)
{
	const struct request *request = data;
	const struct inf_stats_session *session;
	struct look look;
	int r = look_take(options, true, &look), status;

	if (r)
		return r;
	session = look_session(&look, request->id);
	if (!session) {
		look_free(&look);
		return fail(options, EXIT_UNHEALTHY, "no session %" PRIu32 " that you may see; shmctl sessions lists them", request->id);
	}
	status = look_status(options, &look);
	if (view->form == FORM_JSON)
		r = show_json(options, view, &look, session);
	else
		show_people(view, &look, session);
	look_free(&look);
	return r ? r : status;
}

enum { OPTION_WATCH };
static const struct command_option own_options[] = {
	{ 0, "watch", "[TIME]", "again and again, each TIME (500ms, 10s; default 2s); with -j an object a line" },
	{ 0 },
};

static int run(const struct options *options, int argc, char **argv)
{
	struct view view = { .form = options->json ? FORM_JSON : FORM_PEOPLE };
	struct request request = { 0 };
	int c;

	while ((c = next_option(options, &command_show, argc, argv)) != OPTIONS_END) {
		if (c == OPTIONS_BAD || (optarg && parse_time(options, "--watch", optarg, TIME_MIN_NS, &view.every_ns)))
			return EXIT_USAGE;
		if (!optarg)
			view.every_ns = WATCH_DEFAULT_NS;
	}
	if (optind + 1 < argc)
		return fail(options, EXIT_USAGE, "%s: one session at a time; try shmctl show --help", argv[optind + 1]);
	if (optind == argc)
		return fail(options, EXIT_USAGE, "which session? shmctl sessions lists them");
	if (!parse_session(argv[optind], &request.id))
		return fail(options, EXIT_USAGE, "%s: that is no session; shmctl sessions lists them", argv[optind]);
	return view_run(options, &view, show, &request);
}

const struct command command_show = {
	.name = "show",
	.summary = "one session whole: its lanes, memory, models, latency",
	.usage = "Usage: shmctl show SESSION [-j] [--watch[=TIME]]\n"
		 "All that the statistics know of a session: shmctl sessions lists them. Exit status 1: there is none with this number that you\n"
		 "may see.\n",
	.run = run,
	.arguments = "SESSION",
	.options = own_options,
};
