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
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
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

/* The histograms of a model at one moment, or what came between two. */
struct cut {
	uint64_t at_ns;
	struct inf_histogram stages[INF_STAGES];
	struct inf_histogram batch;
};

/* What came between two looks. Of its largest value only the bucket is known. */
static void subtract(struct inf_histogram *later, const struct inf_histogram *earlier)
{
	uint64_t max_ns = 0;

	later->n = counted(later->n, earlier->n);
	later->sum_ns = counted(later->sum_ns, earlier->sum_ns);
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++) {
		later->buckets[i] = counted(later->buckets[i], earlier->buckets[i]);
		if (later->buckets[i])
			max_ns = inf_histogram_upper_edge(i);
	}
	if (max_ns < later->max_ns)
		later->max_ns = max_ns;
}

static void cut_at(struct cut *cut, const struct inf_stats_model *model)
{
	cut->at_ns = monotonic_ns();
	for (unsigned int i = 0; i < INF_STAGES; i++)
		cut->stages[i] = model->stages[i];
	cut->batch = model->batch;
}

static void cut_since(struct cut *later, const struct cut *earlier)
{
	for (unsigned int i = 0; i < INF_STAGES; i++)
		subtract(&later->stages[i], &earlier->stages[i]);
	subtract(&later->batch, &earlier->batch);
}

/* Sleeps, or is interrupted. */
static void sleep_ns(uint64_t ns)
{
	struct timespec pause = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	if (!is_interrupted())
		nanosleep(&pause, NULL);
}

/* --- what is printed --- */

static json_t *histogram_json(const struct inf_histogram *histogram)
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

static bool is_utf8(void)
{
	setlocale(LC_CTYPE, "");
	return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

static void print_plot(const struct inf_histogram *histogram)
{
	static const char *const blocks[] = { " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
	static const char *const ascii[] = { " ", ".", ":", "-", "=", "+", "*", "%", "#" };
	const char *const *marks = is_utf8() ? blocks : ascii;
	uint64_t columns[PLOT_COLUMNS] = { 0 }, most = 0;

	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		columns[column_of(inf_histogram_upper_edge(i))] += histogram->buckets[i];
	for (unsigned int i = 0; i < PLOT_COLUMNS; i++)
		most = columns[i] > most ? columns[i] : most;
	for (unsigned int i = 0; i < PLOT_COLUMNS; i++)
		fputs(marks[columns[i] ? 1 + columns[i] * 7 / most : 0], stdout);
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
		print_plot(histogram);
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
	char name[INF_NAME_BYTES + 1];

	snprintf(name, sizeof(name), "%.*s", INF_NAME_BYTES, model->name);
	if (!name[0])
		return false;
	return view->model ? !strcmp(view->model, name) : model->n_requests > 0;
}

static int no_model(const struct options *options, const struct view *view)
{
	if (view->model)
		return fail(options, EXIT_UNHEALTHY, "no model %s; shmctl models lists them", view->model);
	if (options->json)
		return EXIT_OK;
	puts("no requests yet");
	return EXIT_OK;
}

/* The same broker's statistics as they are now; NULL where it was started anew or is gone. */
static const struct inf_stats_public *look_again(const struct options *options, const struct inf_stats_public *stats)
{
	char path[PATH_MAX];
	const struct inf_stats_public *now = stats_find(options, path);

	if (now && now->head.pid == stats->head.pid && now->head.start_ns == stats->head.start_ns)
		return now;
	stats_close(now);
	return NULL;
}

static int gone(const struct options *options)
{
	return fail(options, EXIT_NOT_RUNNING, "the broker is gone, or was started anew; shmctl status says which");
}

static int show_once(const struct options *options, const struct view *view, const struct inf_stats_public *stats)
{
	struct cut *earlier = calloc(INF_STATS_MODELS + 1, sizeof(*earlier)), *now = earlier + INF_STATS_MODELS;
	json_t *models = json_array();
	uint64_t window_ns = 0;
	enum life life = LIFE_GONE;
	unsigned int n = 0;
	int r = EXIT_OK;

	if (!earlier || !models) {
		free(earlier);
		return fail(options, EXIT_UNHEALTHY, "out of memory");
	}
	if (view->window_ns || view->is_endless) {
		uint64_t begin_ns = monotonic_ns();

		for (unsigned int i = 0; i < INF_STATS_MODELS; i++)
			cut_at(&earlier[i], &stats->models[i]);
		sleep_ns(view->is_endless ? INF_FOREVER / 2 : view->window_ns);
		window_ns = monotonic_ns() - begin_ns;
		stats = look_again(options, stats);
	}
	if (stats)
		life = stats_life(&stats->head);
	for (unsigned int i = 0; stats && i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *model = &stats->models[i];

		if (!is_shown(view, model))
			continue;
		cut_at(now, model);
		cut_since(now, &earlier[i]);
		if (options->json)
			json_array_append_new(models, cut_json(model, now));
		else
			printf("%s", n ? "\n" : "");
		if (!options->json)
			print_cut(view, window_ns, model, now);
		n++;
	}
	if (!n)
		r = stats ? no_model(options, view) : gone(options);
	if (options->json && r == EXIT_OK)
		r = print_json(options, "latency", json_pack("{s:s, s:I, s:O}", "state", life_word(life), "window_ns",
							     (json_int_t)window_ns, "models", models));
	if (r == EXIT_OK && life == LIFE_GONE) {
		if (!options->json)
			fputs("the broker is gone; start infbroker anew. This is what it left\n", stderr);
		r = EXIT_NOT_RUNNING;
	}
	json_decref(models);
	free(earlier);
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

static int show_history(const struct options *options, const struct view *view, const struct inf_stats_public *stats)
{
	struct cut *earlier = calloc(INF_STATS_MODELS + 1, sizeof(*earlier)), *now = earlier + INF_STATS_MODELS, whole;
	const struct inf_stats_public *again;
	int r = EXIT_OK;

	if (!earlier)
		return fail(options, EXIT_UNHEALTHY, "out of memory");
	if (!options->json)
		printf("%-20s %10s %9s %9s %9s\n", "MODEL", "REQ/S", "P50", "P99", "MAX");
	for (unsigned int i = 0; i < INF_STATS_MODELS; i++)
		cut_at(&earlier[i], &stats->models[i]);
	for (uint64_t n = 0; !is_interrupted() && (!view->n_max || n < view->n_max); n++) {
		fflush(stdout);
		if (ferror(stdout))
			break;
		sleep_ns(view->history_ns);
		again = look_again(options, stats);
		if (!again || stats_life(&stats->head) == LIFE_GONE) {
			stats_close(again);
			r = gone(options);
			break;
		}
		for (unsigned int i = 0; i < INF_STATS_MODELS && !is_interrupted(); i++) {
			if (!is_shown(view, &again->models[i]))
				continue;
			cut_at(now, &again->models[i]);
			whole = *now;
			cut_since(now, &earlier[i]);
			print_history_line(options, &again->models[i], now, whole.at_ns - earlier[i].at_ns);
			earlier[i] = whole;
		}
		stats_close(again);
	}
	free(earlier);
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
	const struct inf_stats_public *stats;
	char path[PATH_MAX];
	int r;

	stats = stats_open(options, path, &r);
	if (!stats)
		return r;
	catch_interrupts();
	return show_once(options, &view, stats);
}

static int run(const struct options *options, int argc, char **argv)
{
	const struct inf_stats_public *stats;
	struct view view = { 0 };
	char path[PATH_MAX];
	int r = parse(options, &view, argc, argv);

	if (r)
		return r;
	if (view.by_kernel && (view.dist || view.history_ns))
		return fail(options, EXIT_USAGE, "--dist and --history do not go with --source bpf");
	if (view.by_kernel) {
		view.kernel.model = view.model;
		view.kernel.duration_ns = view.window_ns || view.is_endless ? view.window_ns : KERNEL_WINDOW_NS;
		view.kernel.n_max = view.n_max;
		return kernel_latency(options, &view.kernel);
	}
	stats = stats_open(options, path, &r);
	if (!stats)
		return r;
	if (view.history_ns || view.window_ns || view.is_endless)
		r = stats_must_live(options, path);
	if (r) {
		stats_close(stats);
		return r;
	}
	catch_interrupts();
	return view.history_ns ? show_history(options, &view, stats) : show_once(options, &view, stats);
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
		 "  served  queue to post, of every request; the others of those that came into an empty lane, and of every 16th\n"
		 "          of the rest, which counts as 16\n"
		 "  batch   run, counted once for each batch\n",
	.run = run,
	.arguments = "MODEL",
	.options = own_options,
};
