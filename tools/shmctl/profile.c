/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile.c - `shmctl profile`: some seconds of requests, batches and queues as a Chrome trace, for ui.perfetto.dev.
 *
 * The JSON form of "Trace Event Format" (Google, 2016): requests overlap, so each is an asynchronous span of its own ("b", "e") in
 * its client's process, with a nested one for each stage; batches are slices ("X") on a thread for each instance in the
 * executor's process; an arrow ("s", "f") leads from a request to its batch; queues are counters ("C"). Times are microseconds
 * since the profile began.
 */
#define _GNU_SOURCE 1
#include "shm/status.h"
#include "tools/shmctl/operator.h"
#include "tools/shmctl/stats.h"
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS		5
#define COUNTERS_NS	20000000u
#define BATCHES_KEPT	64u /* of each instance, to write one slice for all requests of a batch */
#define CLIENTS_MAX	1024u
#define SECONDS_DEFAULT 10u

struct profile {
	const struct options *options;
	const struct inf_stats_public *stats;
	FILE *file;
	uint64_t start_ns, until_ns, counted_ns;
	uint64_t n_requests, n_batches;
	uint64_t batches[INF_INSTANCES][BATCHES_KEPT]; /* position + 1 of those that were written */
	uint32_t clients[CLIENTS_MAX];		       /* pids that have their name in the file */
	uint32_t n_clients;
	bool any; /* an event was written: the next one has a comma */
};

/* A new event, all but its closing brace. */
static void event(struct profile *profile, const char *phase, uint64_t at_ns, uint32_t pid, uint32_t tid)
{
	int64_t ns = (int64_t)(at_ns - profile->start_ns);

	fprintf(profile->file, "%s\n{\"ph\":\"%s\",\"ts\":%s%" PRId64 ".%03" PRId64 ",\"pid\":%" PRIu32 ",\"tid\":%" PRIu32,
		profile->any ? "," : "", phase, ns < 0 ? "-" : "", (ns < 0 ? -ns : ns) / 1000, (ns < 0 ? -ns : ns) % 1000, pid, tid);
	profile->any = true;
}

/* ,"KEY":"TEXT" with whatever TEXT needs to be JSON. */
static void text(struct profile *profile, const char *key, const char *value)
{
	json_t *string = json_text(value);

	fprintf(profile->file, ",\"%s\":", key);
	json_dumpf(string, profile->file, JSON_ENCODE_ANY);
	json_decref(string);
}

static void end(struct profile *profile)
{
	fputc('}', profile->file);
}

static void name_thing(struct profile *profile, const char *what, uint32_t pid, uint32_t tid, const char *name)
{
	event(profile, "M", profile->start_ns, pid, tid);
	fprintf(profile->file, ",\"name\":\"%s\",\"args\":{\"_\":0", what);
	text(profile, "name", name);
	fputc('}', profile->file);
	end(profile);
}

static uint32_t executor_pid(const struct profile *profile)
{
	return profile->stats->executor_pid;
}

/* The processes and threads that are known at once. */
static void name_all(struct profile *profile)
{
	uint32_t pid = executor_pid(profile), n = profile->stats->n_instances;
	char name[64];

	name_thing(profile, "process_name", profile->stats->head.pid, 0, "infbroker");
	if (!pid)
		return;
	name_thing(profile, "process_name", pid, 0, "infbroker-executor");
	for (uint32_t i = 0; i < n && i < INF_INSTANCES; i++) {
		snprintf(name, sizeof(name), "instance %" PRIu32, i);
		name_thing(profile, "thread_name", pid, i, name);
	}
}

struct name_of {
	uint32_t pid;
	char name[64];
};

static void match(void *data, const struct inf_stats_session *entry)
{
	struct name_of *wanted = data;

	if (entry->pid == wanted->pid)
		snprintf(wanted->name, sizeof(wanted->name), "%.*s", (int)strnlen(entry->name, sizeof(entry->name)), entry->name);
}

static void name_client(struct profile *profile, const char *path, uint32_t pid)
{
	struct name_of wanted = { .pid = pid, .name = "client" };

	for (uint32_t i = 0; i < profile->n_clients; i++)
		if (profile->clients[i] == pid)
			return;
	if (profile->n_clients == CLIENTS_MAX)
		return;
	profile->clients[profile->n_clients++] = pid;
	stats_each_session(path, match, &wanted);
	name_thing(profile, "process_name", pid, 0, wanted.name[0] ? wanted.name : "client");
}

/* --- spans --- */

static void edge(struct profile *profile, const struct inf_trace_record *record, const char *phase, uint64_t at_ns, const char *name)
{
	event(profile, phase, at_ns, record->pid, record->lane);
	fprintf(profile->file, ",\"cat\":\"request\",\"id\":\"0x%" PRIx32 ".%" PRIx32 ".%" PRIx64 "\"", record->session,
		(uint32_t)record->lane, record->pos);
	text(profile, "name", name);
}

static void span_stages(struct profile *profile, const struct inf_trace_record *record)
{
	const uint64_t edges[] = { record->submitted_ns, record->accepted_ns, record->dispatched_ns,
				   record->begun_ns,	 record->ended_ns,    record->answered_ns };
	uint64_t ns;

	for (unsigned int i = 0; i < INF_STAGE_SERVED; i++) {
		if (!trace_stage(record, (enum inf_stage)i, &ns))
			continue;
		edge(profile, record, "b", edges[i], inf_stage_name((enum inf_stage)i));
		fputs(",\"args\":{}", profile->file);
		end(profile);
		edge(profile, record, "e", edges[i] + ns, inf_stage_name((enum inf_stage)i));
		end(profile);
	}
}

static void span_request(struct profile *profile, const struct inf_trace_record *record, const char *model)
{
	uint64_t first_ns = record->submitted_ns ? record->submitted_ns : record->accepted_ns;

	edge(profile, record, "b", first_ns, model);
	fprintf(profile->file,
		",\"args\":{\"session\":%" PRIu32 ",\"lane\":%u,\"position\":%" PRIu64 ",\"rows\":%" PRIu32 ",\"status\":\"%s\"}",
		record->session, record->lane, record->pos, record->rows, inf_shm_status_name(record->status));
	end(profile);
	span_stages(profile, record);
	edge(profile, record, "e", record->answered_ns, model);
	end(profile);
	profile->n_requests++;
}

static void slice_batch(struct profile *profile, const struct inf_trace_record *record, const char *model)
{
	uint64_t *written = &profile->batches[record->instance % INF_INSTANCES][record->batch % BATCHES_KEPT];
	uint64_t took_ns = record->ended_ns - record->begun_ns;

	if (*written == record->batch + 1)
		return;
	*written = record->batch + 1;
	event(profile, "X", record->begun_ns, executor_pid(profile), record->instance);
	fprintf(profile->file, ",\"dur\":%" PRIu64 ".%03" PRIu64 ",\"cat\":\"batch\"", took_ns / 1000, took_ns % 1000);
	text(profile, "name", model);
	fprintf(profile->file, ",\"args\":{\"batch\":%" PRIu64 ",\"rows\":%" PRIu32 ",\"requests\":%" PRIu32 "}", record->batch,
		record->batch_rows, record->batch_parts);
	end(profile);
	profile->n_batches++;
}

static void arrow(struct profile *profile, const struct inf_trace_record *record)
{
	static const char *const phases[] = { "s", "f" };

	for (unsigned int i = 0; i < 2; i++) {
		event(profile, phases[i], i ? record->begun_ns : record->dispatched_ns,
		      i ? executor_pid(profile) : record->pid, i ? record->instance : record->lane);
		fprintf(profile->file, ",\"cat\":\"dispatch\",\"name\":\"dispatch\",\"id\":%" PRIu64 "%s", profile->n_requests,
			i ? ",\"bp\":\"e\"" : "");
		end(profile);
	}
}

/* And a look at the statistics: models and executors come and go. */
static void counters(struct profile *profile)
{
	uint64_t now_ns = monotonic_ns();
	char path[PATH_MAX];
	const struct inf_stats_public *now;

	if (now_ns - profile->counted_ns < COUNTERS_NS)
		return;
	profile->counted_ns = now_ns;
	now = stats_find(profile->options, path);
	if (!now)
		return;
	stats_close(profile->stats);
	profile->stats = now;
	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *model = &now->models[i];

		if (!model->name[0] || !model->n_requests)
			continue;
		event(profile, "C", now_ns, profile->stats->head.pid, 0);
		text(profile, "name", model->name);
		fprintf(profile->file, ",\"args\":{\"rows waiting\":%" PRIu64 ",\"rows running\":%" PRIu64 "}",
			model->queued, model->in_flight);
		end(profile);
	}
}

static void take(struct profile *profile, const char *path, const struct inf_trace_record *record)
{
	const char *model = trace_model_name(profile->stats, record->model);

	name_client(profile, path, record->pid);
	span_request(profile, record, model);
	if (record->instance != INF_TRACE_NONE && record->ended_ns >= record->begun_ns) {
		slice_batch(profile, record, model);
		arrow(profile, record);
	}
}

static bool collect(struct profile *profile, const char *path, struct trace *trace)
{
	struct inf_trace_record record;
	bool is_over = false;

	while (!is_interrupted() && !is_over && !ferror(profile->file) && monotonic_ns() < profile->until_ns) {
		is_over = trace_is_over(trace, LOOK_MS);
		/* Not for ever, where they come faster than they are written. */
		for (unsigned int i = 0; i < INF_TRACE_RECORDS && trace_next(trace, &record); i++)
			take(profile, path, &record);
		counters(profile);
	}
	return is_over;
}

/* --- the file --- */

static int finish(struct profile *profile, const char *output, const struct trace *trace, bool is_over)
{
	const struct options *options = profile->options;

	fprintf(profile->file, "\n],\"displayTimeUnit\":\"ns\",\"otherData\":{\"schema\":\"infbroker.profile/1\",\"requests\":%" PRIu64
			       ",\"batches\":%" PRIu64 ",\"lost\":%" PRIu64 "}}\n",
		profile->n_requests, profile->n_batches, trace->n_lost);
	if (ferror(profile->file) || fclose(profile->file) != 0)
		return fail(options, EXIT_UNHEALTHY, "%s: %s; it is not whole, name another file with -o", output, strerror(errno));
	if (options->json)
		print_json(options, "profile",
			   json_pack("{s:o, s:I, s:I, s:I, s:b}", "file", json_text(output), "requests",
				     (json_int_t)profile->n_requests, "batches", (json_int_t)profile->n_batches, "lost",
				     (json_int_t)trace->n_lost, "broker_lost", is_over));
	else
		printf("%s: %" PRIu64 " requests, %" PRIu64 " batches%s; open it in ui.perfetto.dev\n", output, profile->n_requests,
		       profile->n_batches, is_over ? ", until the broker ended" : "");
	if (trace->n_lost)
		fprintf(stderr, "shmctl profile: %" PRIu64 " request(s) went by unseen: they come faster than they can be written\n",
			trace->n_lost);
	return is_over ? EXIT_NOT_RUNNING : EXIT_OK;
}

static int profile_to(const struct options *options, uint64_t for_ns, const char *output)
{
	struct profile *profile = calloc(1, sizeof(*profile));
	char path[PATH_MAX];
	struct trace trace;
	int r;

	if (!profile)
		return fail(options, EXIT_UNHEALTHY, "out of memory");
	profile->options = options;
	profile->stats = stats_open(options, path, &r);
	if (profile->stats)
		r = trace_open(options, &trace);
	if (!profile->stats || r) {
		stats_close(profile->stats);
		free(profile);
		return r;
	}
	profile->file = fopen(output, "we");
	if (!profile->file) {
		r = fail(options, EXIT_UNHEALTHY, "%s: %s; name another file with -o", output, strerror(errno));
	} else {
		catch_interrupts();
		profile->start_ns = monotonic_ns();
		profile->until_ns = profile->start_ns + for_ns;
		fputs("{\"traceEvents\":[", profile->file);
		name_all(profile);
		r = finish(profile, output, &trace, collect(profile, path, &trace));
	}
	trace_close(&trace);
	stats_close(profile->stats);
	free(profile);
	return r;
}

enum { OPTION_FOR, OPTION_FILE };
static const struct command_option own_options[] = {
	[OPTION_FOR] = { 'd', "duration", "TIME", "for so long (5s, 200ms); default 10s" },
	[OPTION_FILE] = { 'o', "output", "FILE", "where to; default infbroker-profile.json" },
	{ 0 },
};

static int run(const struct options *options, int argc, char **argv)
{
	const char *output = "infbroker-profile.json";
	uint64_t for_ns = SECONDS_DEFAULT * 1000000000ull;
	int option;

	while ((option = next_option(options, &command_profile, argc, argv)) != OPTIONS_END) {
		if (option == OPTIONS_BAD)
			return EXIT_USAGE;
		if (option == OPTION_FILE)
			output = optarg;
		else if (parse_time(options, "-d", optarg, TIME_MIN_NS, &for_ns))
			return EXIT_USAGE;
	}
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: profile takes no argument; -o names the file", argv[optind]);
	return profile_to(options, for_ns, output);
}

const struct command command_profile = {
	.name = "profile",
	.summary = "some seconds of requests and batches, as a file for ui.perfetto.dev",
	.usage = "Usage: shmctl profile [-d TIME] [-o FILE] [-j]\n"
		 "Writes what is answered from now on to FILE: each request with its stages, each\n"
		 "batch on its instance's track, arrows between them, and how much waits. Your own requests; where you are\n"
		 "the broker's user or root all. ui.perfetto.dev and chrome://tracing open it. Ctrl-C ends it early.\n",
	.run = run,
	.options = own_options,
};
