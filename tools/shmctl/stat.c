/* SPDX-License-Identifier: Apache-2.0 */
/* stat.c - `shmctl stat`: a line per interval, as vmstat(8) has them. */
#define _GNU_SOURCE 1
#include "tools/shmctl/look.h"
#include "tools/shmctl/table.h"
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINES_PER_HEADER 20u

static const struct column columns[] = {
	{ "requests_per_s", "REQ/S", 5, COLUMN_RATE },
	{ "rows_per_s", "ROWS/S", 6, COLUMN_RATE },
	{ "batches_per_s", "BAT/S", 5, COLUMN_RATE },
	{ "rows_per_batch", "BATCH", 5, COLUMN_RATE },
	{ "p50_ns", "P50", 6, COLUMN_TIME },
	{ "p99_ns", "P99", 6, COLUMN_TIME },
	{ "in_flight", "FLY", 4, COLUMN_COUNT },
	{ "queued_rows", "QUEUE", 5, COLUMN_COUNT },
	{ "running_rows", NULL, 0, COLUMN_COUNT },
	{ "busy", "BUSY", 4, COLUMN_SHARE },
	{ "sessions", "SESS", 4, COLUMN_COUNT },
	{ "errors_per_s", "ERR/S", 5, COLUMN_RATE },
	{ "wakes_per_s", "WAKE/S", 6, COLUMN_RATE },
	{ "parks_per_s", "PARK/S", 6, COLUMN_RATE },
	{ "interval_ns", NULL, 0, COLUMN_TIME },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

static struct cell quantile(uint64_t ns)
{
	return ns ? cell_n(ns) : cell_none();
}

static int print_line(const struct options *options, struct table *table, const struct rates *rates)
{
	const struct cell cells[N_COLUMNS] = {
		cell_real(rates->requests),
		cell_real(rates->rows),
		cell_real(rates->batches),
		cell_real(rates->rows_per_batch),
		quantile(rates->p50_ns),
		quantile(rates->p99_ns),
		cell_n(rates->n_in_flight),
		cell_n(rates->n_queued_rows),
		cell_n(rates->n_running_rows),
		cell_real(rates->busy),
		cell_n(rates->n_sessions),
		cell_real(rates->errors),
		cell_real(rates->wakes),
		cell_real(rates->parks),
		cell_n((uint64_t)(rates->seconds * 1e9)),
	};
	json_t *row;
	int r;

	/* On a terminal the names go out of sight. */
	if (table->n_rows && table->n_rows % LINES_PER_HEADER == 0 && table->view->form == FORM_PEOPLE && isatty(STDOUT_FILENO))
		table_header(table);
	row = table_row(table, cells);
	if (!row)
		return output_flush() ? EXIT_UNHEALTHY : EXIT_OK;
	json_incref(row);
	json_array_clear(table->json);
	r = print_json(options, "stat", row);
	return r;
}

static void wait_until(uint64_t ns)
{
	struct timespec at = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

/* What is said once, and not each second. */
static void say_life(const struct options *options, const struct look *now, const struct look *before)
{
	if (options->json || (before->public && now->public && before->life == now->life))
		return;
	if (!now->public && before->public)
		fprintf(stderr, "the broker at %s has ended; waiting for a new one\n", before->path);
	else if (now->public)
		look_status(options, now);
}

static int run_lines(const struct options *options, const struct view *view, uint64_t every_ns, uint64_t n_lines)
{
	struct look before, now = { 0 };
	uint64_t next_ns;
	struct table table;
	struct rates rates;
	int r = look_take(options, false, &before);

	if (r)
		return r;
	r = stats_must_live(options, before.path);
	if (!r && before.life == LIFE_GONE)
		r = fail(options, EXIT_NOT_RUNNING, "the broker at %s is gone; start infbroker anew", before.path);
	if (r) {
		look_free(&before);
		return r;
	}
	r = look_status(options, &before);
	table_begin(&table, columns, N_COLUMNS, view);
	if (view->form == FORM_TSV)
		table_header(&table);
	next_ns = before.taken_ns;
	for (uint64_t i = 0; !r && (!n_lines || i < n_lines); i++) {
		next_ns += every_ns;
		if (next_ns < monotonic_ns()) /* it was stopped */
			next_ns = monotonic_ns() + every_ns;
		wait_until(next_ns);
		look_try(options, false, &now);
		say_life(options, &now, &before);
		if (look_continues(&now, &before)) {
			look_rates(&now, &before, &rates);
			r = print_line(options, &table, &rates);
		}
		look_free(&before);
		before = now;
	}
	look_free(&before);
	json_decref(table.json);
	return r;
}

enum { OPTION_FORM, OPTION_NO_HEADER };
static const struct command_option own_options[] = {
	{ 'o', NULL, "tsv", "values between tabs, in ns" },
	{ 0, "no-header", NULL, "no line with the names of the columns" },
	{ 0 },
};

static int run(const struct options *options, int argc, char **argv)
{
	struct view view = { .form = options->json ? FORM_JSON : FORM_PEOPLE };
	uint64_t every_ns = 1000000000u, n_lines = 0;
	struct options lines = *options;
	int c;

	while ((c = next_option(options, &command_stat, argc, argv)) != OPTIONS_END) {
		if (c == OPTIONS_BAD || (c == OPTION_FORM && parse_form(options, optarg, &view)))
			return EXIT_USAGE;
		if (c == OPTION_NO_HEADER)
			view.no_header = true;
	}
	if (argc - optind > 2)
		return fail(options, EXIT_USAGE, "%s: stat takes a TIME and a COUNT", argv[optind + 2]);
	if (optind < argc && parse_time(options, "stat", argv[optind], TIME_MIN_NS, &every_ns))
		return EXIT_USAGE;
	if (optind + 1 < argc && parse_number(options, "COUNT", argv[optind + 1], UINT64_MAX, &n_lines))
		return EXIT_USAGE;
	lines.one_line = lines.round_reals = true;
	return run_lines(&lines, &view, every_ns, n_lines);
}

const struct command command_stat = {
	.name = "stat",
	.summary = "a line per second: requests, batches, latency, load",
	.usage = "Usage: shmctl stat [TIME] [COUNT] [-j] [-o tsv] [--no-header]\n"
		 "What happened in each TIME (500ms, 10s; default 1s), COUNT times or until it is interrupted. BATCH is rows per batch; P50 and P99 how\n"
		 "long requests took in the broker; FLY requests in flight, and QUEUE rows that wait, at the end of the interval; BUSY the share\n"
		 "of the instances' time in which they ran a batch. With -j an object a line.\n",
	.run = run,
	.arguments = "TIME COUNT",
	.options = own_options,
};
