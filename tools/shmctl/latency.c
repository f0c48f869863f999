/* SPDX-License-Identifier: Apache-2.0 */
/*
 * latency.c - `shmctl latency`: where the time of requests goes, from the histograms in the statistics file.
 *
 * They count from the broker's start; what lies between two looks is their difference. Needs no answer from the broker.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/kernel.h"
#include "tools/shmctl/look.h"
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PLOT_COLUMNS	    28u /* 4 for each power of ten */
#define PLOT_FIRST_NS	    1000.0
#define KERNEL_WINDOW_NS    10000000000u

struct view {
	const char *model; /* NULL = all that were asked for something */
	uint64_t window_ns; /* 0 = since the broker's start */
	bool is_endless;    /* instead, until it is interrupted */
	uint64_t history_ns; /* 0 = once */
	uint64_t n_max;	     /* lines of history; 0 = no end */
	bool dist;
	bool by_kernel;
	struct kernel_filter kernel; /* what it alone takes */
};

/* The histograms of a model, of what came between two looks; without the first one, of all. */
struct cut {
	struct inf_histogram stages[INF_STAGES];
	struct inf_histogram batch;
};

static void cut_between(struct cut *cut, const struct look *now, const struct look *before, unsigned int idx)
{
	const struct inf_stats_model *model = &now->public->models[idx], *old = look_same_model(before, model, idx);

	memset(cut, 0, sizeof(*cut));
	for (unsigned int i = 0; i < INF_STAGES; i++)
		histogram_add_since(&cut->stages[i], &model->stages[i], old ? &old->stages[i] : NULL);
	histogram_add_since(&cut->batch, &model->batch, old ? &old->batch : NULL);
}

/* Sleeps, or is interrupted. */
static void sleep_ns(uint64_t ns)
{
	struct timespec pause = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	if (!is_interrupted())
		nanosleep(&pause, NULL);
}

/* --- what is printed --- */

static json_t *cut_json(const struct inf_stats_model *model, const struct cut *cut)
{
	json_t *stages = json_object();

	for (unsigned int i = 0; i < INF_STAGES; i++)
		json_object_set_new(stages, inf_stage_name((enum inf_stage)i), histogram_json(&cut->stages[i]));
	json_object_set_new(stages, "batch", histogram_json(&cut->batch));
	return json_pack("{s:o, s:I, s:o}", "name", json_text(model->name), "version",
			 (json_int_t)model->model_version, "stages", stages);
}

/* Which column of the plot a bucket belongs to: by its upper edge. */
static unsigned int column_of(uint64_t edge_ns)
{
	double ratio = (double)edge_ns / PLOT_FIRST_NS, step = 1;
	unsigned int column = 0;

	/* 10^(1/4), once for each column. */
	for (; column + 1 < PLOT_COLUMNS && ratio > step; column++)
		step *= 1.7782794100389228;
	return column;
}

static void print_histogram(const struct inf_histogram *histogram)
{
	uint64_t columns[PLOT_COLUMNS] = { 0 };

	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		columns[column_of(inf_histogram_upper_edge(i))] += histogram->buckets[i];
	print_plot(columns, PLOT_COLUMNS);
}

static void print_stage(const char *name, const struct inf_histogram *histogram, bool dist)
{
	char p50[WORD_BYTES], p99[WORD_BYTES], p999[WORD_BYTES], max[WORD_BYTES];

	if (!histogram->n) {
		printf("%-7s %10s\n", name, "-");
		return;
	}
	word_time(p50, inf_histogram_quantile(histogram, 0.5));
	word_time(p99, inf_histogram_quantile(histogram, 0.99));
	word_time(p999, inf_histogram_quantile(histogram, 0.999));
	word_time(max, histogram->max_ns);
	/* With a plot there is room for three figures in 80 columns. */
	if (dist)
		printf("%-7s %10" PRIu64 " %8s %8s %8s |", name, histogram->n, p50, p99, max);
	else
		printf("%-7s %10" PRIu64 " %9s %9s %9s %9s", name, histogram->n, p50, p99, p999, max);
	if (dist)
		print_histogram(histogram);
	puts(dist ? "|" : "");
}

/* window_ns: as in struct view. */
static void print_cut(const struct view *view, uint64_t window_ns, const struct inf_stats_model *model, const struct cut *cut)
{
	char name[WORD_BYTES], word[WORD_BYTES];

	printf("%s:%" PRIu32 "  %s%s, %" PRIu64 " requests\n", word_name(name, model->name), model->model_version,
	       window_ns ? "the last " : "since the broker started", window_ns ? word_time(word, window_ns) : "",
	       cut->stages[INF_STAGE_SERVED].n);
	if (view->dist)
		printf("%-7s %10s %8s %8s %8s |%s|\n", "STAGE", "COUNTED", "P50", "P99", "MAX", "1us 10us.1ms1ms 10ms.1s 1s  ");
	else
		printf("%-7s %10s %9s %9s %9s %9s\n", "STAGE", "COUNTED", "P50", "P99", "P99.9", "MAX");
	for (unsigned int i = 0; i < INF_STAGES; i++)
		print_stage(inf_stage_name((enum inf_stage)i), &cut->stages[i], view->dist);
	print_stage("batch", &cut->batch, view->dist);
}

/* --- once, or again and again --- */

static bool is_shown(const struct view *view, const struct inf_stats_model *model)
{
	if (!model->name[0])
		return false;
	return view->model ? !strcmp(view->model, model->name) : model->n_requests > 0;
}

static int gone(const struct options *options)
{
	return fail(options, EXIT_NOT_RUNNING, "the broker is gone, or was started anew; shmctl status says which");
}

/* window_ns: as in struct view. */
static int show_cuts(const struct options *options, const struct view *view, const struct look *now, const struct look *before,
		     uint64_t window_ns)
{
	json_t *models = json_array();
	unsigned int n = 0;
	struct cut cut;
	int r = EXIT_OK;

	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *model = &now->public->models[i];

		if (!is_shown(view, model))
			continue;
		cut_between(&cut, now, before, i);
		if (!options->json && n)
			putchar('\n');
		if (options->json)
			json_array_append_new(models, cut_json(model, &cut));
		else
			print_cut(view, window_ns, model, &cut);
		n++;
	}
	if (!n && view->model)
		r = stats_must_have_model(options, now->public, view->model);
	else if (!n && !options->json)
		puts("no requests yet");
	if (options->json && r == EXIT_OK)
		r = print_json(options, "latency", json_pack("{s:s, s:I, s:O}", "state", life_word(now->life), "window_ns",
							     (json_int_t)window_ns, "models", models));
	json_decref(models);
	return r == EXIT_OK ? look_status(options, now) : r;
}

static int show_once(const struct options *options, const struct view *view, const struct look *first)
{
	const struct look none = { 0 };
	uint64_t window_ns;
	struct look now;
	int r;

	if (!view->window_ns && !view->is_endless)
		return show_cuts(options, view, first, &none, 0);
	sleep_ns(view->is_endless ? INF_FOREVER / 2 : view->window_ns);
	look_try(options, false, &now);
	window_ns = now.taken_ns - first->taken_ns;
	r = look_continues(&now, first) ? show_cuts(options, view, &now, first, window_ns) : gone(options);
	look_free(&now);
	return r;
}

static void print_history_line(const struct options *options, const struct inf_stats_model *model, const struct cut *cut,
			       uint64_t took_ns)
{
	const struct inf_histogram *served = &cut->stages[INF_STAGE_SERVED];
	char name[WORD_BYTES], p50[WORD_BYTES], p99[WORD_BYTES], max[WORD_BYTES];
	double rate = (double)served->n * 1e9 / (double)took_ns;

	if (options->json) {
		json_t *line = json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "schema", "infbroker.latency-history/1", "name",
					 json_text(model->name), "version", (json_int_t)model->model_version, "interval_ns", (json_int_t)took_ns, "requests",
					 (json_int_t)served->n, "p50_ns", (json_int_t)inf_histogram_quantile(served, 0.5),
					 "p99_ns", (json_int_t)inf_histogram_quantile(served, 0.99), "max_ns",
					 (json_int_t)served->max_ns);

		json_dumpf(line, stdout, JSON_COMPACT);
		json_decref(line);
		putchar('\n');
		return;
	}
	if (!served->n)
		printf("%-20s %10.0f %9s %9s %9s\n", word_name(name, model->name), 0.0, "-", "-", "-");
	else
		printf("%-20s %10.0f %9s %9s %9s\n", word_name(name, model->name), rate,
		       word_time(p50, inf_histogram_quantile(served, 0.5)), word_time(p99, inf_histogram_quantile(served, 0.99)),
		       word_time(max, served->max_ns));
}

/* Takes `before`. */
static int show_history(const struct options *options, const struct view *view, struct look *before)
{
	struct look now;
	struct cut cut;

	if (!options->json)
		printf("%-20s %10s %9s %9s %9s\n", "MODEL", "REQ/S", "P50", "P99", "MAX");
	for (uint64_t n = 0; !is_interrupted() && (!view->n_max || n < view->n_max); n++) {
		if (output_flush())
			break;
		sleep_ns(view->history_ns);
		look_try(options, false, &now);
		if (!look_continues(&now, before) || now.life == LIFE_GONE) {
			look_free(&now);
			return gone(options);
		}
		for (unsigned int i = 0; i < INF_STATS_MODELS && !is_interrupted(); i++) {
			if (!is_shown(view, &now.public->models[i]))
				continue;
			cut_between(&cut, &now, before, i);
			print_history_line(options, &now.public->models[i], &cut, now.taken_ns - before->taken_ns);
		}
		look_free(before);
		*before = now;
	}
	return EXIT_OK;
}

static int show(const struct options *options, const struct view *view)
{
	struct look look;
	int r = look_take(options, false, &look);

	if (r)
		return r;
	if (view->history_ns || view->window_ns || view->is_endless)
		r = stats_must_live(options, look.path);
	if (r == EXIT_OK) {
		catch_interrupts();
		r = view->history_ns ? show_history(options, view, &look) : show_once(options, view, &look);
	}
	look_free(&look);
	return r;
}

enum { OPTION_WINDOW, OPTION_DIST, OPTION_HISTORY, OPTION_COUNT, OPTION_SOURCE, OPTION_CLIENT, OPTION_SCHED };
static const struct command_option own_options[] = {
	[OPTION_WINDOW] = { 'd', "duration", "TIME", "only of the requests of so long (5s, 200ms) from now on;\n0: until Ctrl-C" },
	[OPTION_DIST] = { 0, "dist", NULL, "draw it, from 1 us to 10 s, four columns for a power of ten" },
	[OPTION_HISTORY] = { 0, "history", "TIME", "a line each TIME (500ms, 10s), until Ctrl-C; with -j an object a line" },
	[OPTION_COUNT] = { 'n', "count", "COUNT", "with --history: so many times; with --source bpf: requests; then it ends" },
	[OPTION_SOURCE] = { 0, "source", "statistics|bpf", "bpf: programs in the kernel, which also see who waits for a CPU:\nshmctl-kernel(1)" },
	[OPTION_CLIENT] = { 0, "client", "FILE", KERNEL_CLIENT_TEXT },
	[OPTION_SCHED] = { 0, "sched", KERNEL_SCHEDS, KERNEL_SCHED_TEXT },
	{ 0 },
};

static int take_option(const struct options *options, struct view *view, int option, const char *value)
{
	int r;

	switch (option) {
	case OPTION_WINDOW:
		r = parse_time(options, "-d", value, 0, &view->window_ns);
		view->is_endless = r == EXIT_OK && !view->window_ns;
		return r;
	case OPTION_HISTORY:
		return parse_time(options, "--history", value, TIME_MIN_NS, &view->history_ns);
	case OPTION_COUNT:
		return parse_number(options, "-n", value, UINT64_MAX, &view->n_max);
	case OPTION_SOURCE:
		view->by_kernel = !strcmp(value, "bpf");
		return view->by_kernel || !strcmp(value, "statistics")
			       ? EXIT_OK
			       : fail(options, EXIT_USAGE, "--source takes statistics or bpf, not \"%s\"", value);
	case OPTION_SCHED:
		return kernel_take_sched(options, &view->kernel, value);
	case OPTION_CLIENT:
		return kernel_take_client(options, &view->kernel, value);
	default:
		view->dist = true;
		return EXIT_OK;
	}
}

static int parse(const struct options *options, struct view *view, int argc, char **argv)
{
	int option;

	while ((option = next_option(options, &command_latency, argc, argv)) != OPTIONS_END)
		if (option == OPTIONS_BAD || take_option(options, view, option, optarg))
			return EXIT_USAGE;
	if (view->n_max && !view->history_ns && !view->by_kernel)
		return fail(options, EXIT_USAGE, "-n goes with --history or --source bpf; try shmctl latency --help");
	if (view->kernel.is_asked && !view->by_kernel)
		return fail(options, EXIT_USAGE, "--client and --sched go with --source bpf alone; try shmctl latency --help");
	if (view->history_ns && (view->window_ns || view->dist))
		return fail(options, EXIT_USAGE, "--history goes with neither -d nor --dist; try shmctl latency --help");
	if (optind + 1 < argc)
		return fail(options, EXIT_USAGE, "%s: one model, or all; try shmctl latency --help", argv[optind + 1]);
	view->model = argv[optind];
	return EXIT_OK;
}

int kernel_statistics(const struct options *options, const struct kernel_filter *filter)
{
	const struct view view = { .model = filter->model, .window_ns = filter->duration_ns, .is_endless = !filter->duration_ns };

	return show(options, &view);
}

static int run(const struct options *options, int argc, char **argv)
{
	struct view view = { 0 };
	int r = parse(options, &view, argc, argv);

	if (r)
		return r;
	if (!view.by_kernel)
		return show(options, &view);
	if (view.dist || view.history_ns)
		return fail(options, EXIT_USAGE, "--dist and --history do not go with --source bpf");
	view.kernel.model = view.model;
	view.kernel.duration_ns = view.window_ns || view.is_endless ? view.window_ns : KERNEL_WINDOW_NS;
	view.kernel.n_max = view.n_max;
	return kernel_latency(options, &view.kernel);
}

const struct command command_latency = {
	.name = "latency",
	.summary = "where the time of requests goes: a histogram for each stage",
	.usage = "Usage: shmctl latency [MODEL] [-d TIME] [--dist] [-j]\n"
		 "       shmctl latency [MODEL] --history TIME [-n COUNT] [-j]\n"
		 "For each model that was asked for something: how long its requests spent in each stage, since the broker started.\n"
		 "Needs no answer from the broker: those of one that is stopped or gone (exit status 3) are shown as they were.\n"
		 "  ring    from its submission until the broker took it, by its client's clock\n"
		 "  queue   in its model's queue            wait    dispatched, until its instance began\n"
		 "  run     gathered, run, scattered        post    until the broker had seen its end\n"
		 "  served  queue to post, of every request, however it ended; the others of those that came into an empty lane, and of every 16th\n"
		 "          of the rest, which counts as 16\n"
		 "  batch   run, counted once for each batch\n",
	.run = run,
	.arguments = "MODEL",
	.options = own_options,
};
