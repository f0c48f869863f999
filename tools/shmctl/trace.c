/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - `shmctl trace`: one line for each request that is answered, with the time of each stage, while it happens. */
#define _GNU_SOURCE 1
#include "shm/status.h"
#include "tools/shmctl/kernel.h"
#include "tools/shmctl/look.h"
#include "tools/shmctl/operator.h"
#include "tools/shmctl/stats.h"
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS	 5 /* 16,384 records are 3.3 million requests/s then */
#define NAMES_NS 500000000u /* models come and go */

struct filter {
	const char *model; /* NULL = all */
	uint64_t pid, session; /* 0 = all */
	uint64_t slow_ns;
	uint64_t n_max, for_ns; /* 0 = no end */
	bool no_header;
	bool by_kernel;
	struct kernel_filter kernel; /* what it alone takes */
};

static bool is_wanted(const struct filter *filter, const struct inf_trace_record *record, const char *name)
{
	uint64_t total_ns = 0;

	if (filter->model && strcmp(filter->model, name) != 0)
		return false;
	if ((filter->pid && filter->pid != record->pid) || (filter->session && filter->session != record->session))
		return false;
	trace_stage(record, INF_STAGE_SERVED, &total_ns);
	return total_ns >= filter->slow_ns;
}

static int print_as_json(const struct inf_trace_record *record, const char *name)
{
	json_t *stages = json_object(), *line;
	char key[32];
	uint64_t ns;
	int r;

	for (unsigned int i = 0; i < INF_STAGES; i++) {
		snprintf(key, sizeof(key), "%s_ns", i == INF_STAGE_SERVED ? "total" : inf_stage_name((enum inf_stage)i));
		if (trace_stage(record, (enum inf_stage)i, &ns))
			json_object_set_new(stages, key, json_integer((json_int_t)ns));
	}
	line = json_pack("{s:s, s:I, s:I, s:I, s:i, s:I, s:o, s:I, s:s, s:I, s:o}", "schema", "infbroker.trace/1", "session",
			 (json_int_t)record->session, "pid", (json_int_t)record->pid, "uid", (json_int_t)record->uid, "lane",
			 (int)record->lane, "position", (json_int_t)record->pos, "model", json_text(name), "rows",
			 (json_int_t)record->rows, "status", inf_shm_status_name(record->status), "answered_ns",
			 (json_int_t)record->answered_ns, "stages", stages);
	if (record->submitted_ns)
		json_object_set_new(line, "submitted_ns", json_integer((json_int_t)record->submitted_ns));
	if (record->instance != INF_TRACE_NONE)
		json_object_set_new(line, "batch",
				    json_pack("{s:i, s:I, s:I, s:I}", "instance", (int)record->instance, "position",
					      (json_int_t)record->batch, "rows", (json_int_t)record->batch_rows, "requests",
					      (json_int_t)record->batch_parts));
	r = json_dumpf(line, stdout, JSON_COMPACT);
	json_decref(line);
	return r == 0 && putchar('\n') != EOF ? 0 : -1;
}

static void print_head(void)
{
	printf("%-12s %7s %8s %-16s %5s %-11s %9s", "ANSWERED", "SESSION", "PID", "MODEL", "ROWS", "STATUS", "TOTAL");
	for (unsigned int i = 0; i < INF_STAGE_SERVED; i++) {
		const char *name = inf_stage_name((enum inf_stage)i);
		char head[16];

		for (size_t k = 0; k <= strlen(name) && k < sizeof(head); k++)
			head[k] = (char)(name[k] >= 'a' && name[k] <= 'z' ? name[k] - 'a' + 'A' : name[k]);
		printf(" %8s", head);
	}
	puts("  BATCH");
}

static int print_for_people(const struct inf_trace_record *record, const char *name)
{
	char clock[WORD_BYTES], word[WORD_BYTES];
	uint64_t ns;

	printf("%-12s %7" PRIu32 " %8" PRIu32 " %-16.16s %5" PRIu32 " %-11s",
	       word_wall(clock, false, wall_ns(record->answered_ns)), record->session, record->pid,
	       word_name(word, name), record->rows, inf_shm_status_name(record->status));
	printf(" %9s", trace_stage(record, INF_STAGE_SERVED, &ns) ? word_time(word, ns) : "-");
	for (unsigned int i = 0; i < INF_STAGE_SERVED; i++)
		printf(" %8s", trace_stage(record, (enum inf_stage)i, &ns) ? word_time(word, ns) : "-");
	if (record->instance != INF_TRACE_NONE)
		printf("  %" PRIu64 " on %u: %" PRIu32 " rows of %" PRIu32, record->batch, record->instance, record->batch_rows,
		       record->batch_parts);
	return putchar('\n') == EOF ? -1 : 0;
}

/* The names of models as they are now, not too often. */
static void renew(const struct options *options, const struct inf_stats_public **stats, uint64_t *renewed_ns)
{
	const struct inf_stats_public *now;
	char path[PATH_MAX];

	if (monotonic_ns() - *renewed_ns < NAMES_NS)
		return;
	*renewed_ns = monotonic_ns();
	now = stats_find(options, path);
	if (!now)
		return;
	stats_close(*stats);
	*stats = now;
}

/* Says what was asked for until there is no more to be said. */
static int follow(const struct options *options, const struct filter *filter, const struct inf_stats_public **stats,
		  struct trace *trace)
{
	uint64_t renewed_ns = 0;
	uint64_t n = 0, until_ns = filter->for_ns ? monotonic_ns() + filter->for_ns : INF_FOREVER;
	struct inf_trace_record record;

	for (;;) {
		bool is_over = trace_is_over(trace, LOOK_MS);

		renew(options, stats, &renewed_ns);
		while (trace_next(trace, &record)) {
			const char *model = trace_model_name(*stats, record.model);

			if (!is_wanted(filter, &record, model))
				continue;
			if ((options->json ? print_as_json(&record, model) : print_for_people(&record, model)) < 0)
				return EXIT_OK; /* run() in main.c says what is wrong with the output */
			if (++n == filter->n_max)
				return EXIT_OK;
		}
		if (output_flush() || !output_is_read(0))
			return EXIT_OK;
		if (is_interrupted() || monotonic_ns() >= until_ns)
			return EXIT_OK;
		if (is_over)
			return fail(options, EXIT_NOT_RUNNING, "the broker has ended the trace, or is gone; shmctl status says which");
	}
}

static int trace_all(const struct options *options, const struct filter *filter)
{
	struct trace trace;
	struct look look;
	int r = look_take(options, filter->session, &look);

	if (r)
		return r;
	/* "ping" is what the broker answers itself. */
	if (filter->model && strcmp(filter->model, "ping") != 0)
		r = stats_must_have_model(options, look.public, filter->model);
	if (r == EXIT_OK)
		r = trace_open(options, &trace);
	if (r) {
		look_free(&look);
		return r;
	}
	/* Those of others may be hidden, and where files have no ACLs one's own. */
	if (filter->session && !look_session(&look, (uint32_t)filter->session) && !look_n_hidden(&look))
		r = fail(options, EXIT_UNHEALTHY, "no session %" PRIu64 "; shmctl sessions lists them", filter->session);
	if (r == EXIT_OK) {
		catch_interrupts();
		if (!options->json && !filter->no_header)
			print_head();
		fflush(stdout);
		r = follow(options, filter, &look.public, &trace);
	}
	if (trace.n_lost)
		fprintf(stderr, "shmctl trace: %" PRIu64 " request(s) went by unseen: they come faster than they can be written\n", trace.n_lost);
	trace_close(&trace);
	look_free(&look);
	return r;
}

int kernel_requests(const struct options *options, const struct kernel_filter *filter)
{
	const struct filter same = { .model = filter->model,
				     .pid = (uint64_t)filter->pid,
				     .session = filter->session,
				     .slow_ns = filter->slow_ns,
				     .n_max = filter->n_max,
				     .for_ns = filter->duration_ns };

	return trace_all(options, &same);
}

enum {
	OPTION_MODEL,
	OPTION_PID,
	OPTION_SESSION,
	OPTION_SLOW,
	OPTION_COUNT,
	OPTION_FOR,
	OPTION_NO_HEADER,
	OPTION_KERNEL,
	OPTION_CLIENT,
	OPTION_SCHED
};
static const struct command_option own_options[] = {
	[OPTION_MODEL] = { 'm', "model", "MODEL", "only requests for that model" },
	[OPTION_PID] = { 'p', "pid", "PID", "only of that process" },
	[OPTION_SESSION] = { 's', "session", "SESSION", "only of that session; shmctl sessions lists them" },
	[OPTION_SLOW] = { 0, "slow", "TIME", "that took so long or longer (5ms, 200us; 1 is a second)" },
	[OPTION_COUNT] = { 'n', "count", "COUNT", "so many, then it ends" },
	[OPTION_FOR] = { 'd', "duration", "TIME", "for so long (5s, 200ms), then it ends" },
	[OPTION_NO_HEADER] = { 0, "no-header", NULL, "no line with the names of the columns" },
	[OPTION_KERNEL] = { 0, "kernel", NULL, "by programs in the kernel, which also see who waits for a CPU:\nshmctl-kernel(1)" },
	[OPTION_CLIENT] = { 0, "client", "FILE", KERNEL_CLIENT_TEXT },
	[OPTION_SCHED] = { 0, "sched", KERNEL_SCHEDS, KERNEL_SCHED_TEXT },
	{ 0 },
};

/* One option with its value: EXIT_OK, or EXIT_USAGE after an error line. */
static int take_option(const struct options *options, struct filter *filter, int option, const char *value)
{
	switch (option) {
	case OPTION_MODEL:
		filter->model = value;
		return EXIT_OK;
	case OPTION_PID:
		return parse_number(options, "-p", value, UINT32_MAX, &filter->pid);
	case OPTION_SESSION:
		return parse_number(options, "-s", value, UINT32_MAX, &filter->session);
	case OPTION_SLOW:
		return parse_time(options, "--slow", value, 0, &filter->slow_ns);
	case OPTION_COUNT:
		return parse_number(options, "-n", value, UINT64_MAX, &filter->n_max);
	case OPTION_FOR:
		return parse_time(options, "-d", value, TIME_MIN_NS, &filter->for_ns);
	case OPTION_KERNEL:
		filter->by_kernel = true;
		return EXIT_OK;
	case OPTION_SCHED:
		return kernel_take_sched(options, &filter->kernel, value);
	case OPTION_CLIENT:
		return kernel_take_client(options, &filter->kernel, value);
	default:
		filter->no_header = true;
		return EXIT_OK;
	}
}

static int run(const struct options *options, int argc, char **argv)
{
	struct filter filter = { 0 };
	int option;

	while ((option = next_option(options, &command_trace, argc, argv)) != OPTIONS_END)
		if (option == OPTIONS_BAD || take_option(options, &filter, option, optarg))
			return EXIT_USAGE;
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: trace takes no argument; try shmctl trace --help", argv[optind]);
	if (!filter.by_kernel && filter.kernel.is_asked)
		return fail(options, EXIT_USAGE, "--client and --sched go with --kernel alone");
	if (!filter.by_kernel)
		return trace_all(options, &filter);
	filter.kernel.session = (uint32_t)filter.session;
	filter.kernel.model = filter.model;
	filter.kernel.pid = (pid_t)filter.pid;
	filter.kernel.slow_ns = filter.slow_ns;
	filter.kernel.duration_ns = filter.for_ns;
	filter.kernel.n_max = filter.n_max;
	return kernel_trace(options, &filter.kernel);
}

const struct command command_trace = {
	.name = "trace",
	.summary = "each request as it is answered, with the time of each stage",
	.usage = "Usage: shmctl trace [-m MODEL] [-p PID] [-s SESSION] [--slow TIME] [-n COUNT] [-d TIME] [--no-header] [-j]\n"
		 "One line for each request that is answered from now on, until Ctrl-C, for COUNT of them, or for a TIME:\n"
		 "your own; where you are the broker's user or root all.\n"
		 "  RING    from its submission until the broker took it       (by its client's clock)\n"
		 "  QUEUE   in its model's queue\n"
		 "  WAIT    dispatched, but behind another batch, or the instance slept\n"
		 "  RUN     gathered, run, scattered, with the others of its batch (by the executor's clock)\n"
		 "  POST    until the broker had seen its end and answered\n"
		 "TOTAL is their sum. BATCH is position on instance: rows of requests. -j writes one object a line.\n",
	.run = run,
	.options = own_options,
};
