/* SPDX-License-Identifier: Apache-2.0 */
/* events.c - `shmctl events`: what happened that is no request, from the ring of the last ones in the statistics. */
#define _GNU_SOURCE 1
#include "tools/shmctl/look.h"
#include "tools/shmctl/table.h"
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define FOLLOW_MS 200

static const struct column columns[] = {
	{ "seq", NULL, 0, COLUMN_COUNT },
	{ "time", "TIME", -23, COLUMN_TEXT },
	{ "time_ns", NULL, 0, COLUMN_TIME },
	{ "monotonic_ns", NULL, 0, COLUMN_TIME },
	{ "event", "EVENT", -14, COLUMN_TEXT },
	{ "subject", NULL, 0, COLUMN_COUNT },
	{ "text", "WHAT", -1, COLUMN_TEXT },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* Where in the stream of a broker's events we are. */
struct cursor {
	uint64_t next; /* number of the first that was not shown */
	uint32_t pid;
	uint64_t start_ns;
};

static void add(struct table *table, const struct inf_stats_event *event)
{
	uint64_t time_ns = wall_ns(event->time_ns);
	char time[WORD_BYTES];
	const struct cell cells[N_COLUMNS] = {
		cell_n(event->seq),
		cell_text(word_wall(time, true, time_ns)),
		cell_n(time_ns),
		cell_n(event->time_ns),
		cell_text(inf_event_name(event->kind)),
		cell_n(event->subject),
		cell_text(event->text),
	};

	table_row(table, cells);
}

/*
 * Those from the cursor on. The broker counts an event when it is whole: one that is not there has been written over, or just is.
 * Returns how many those are.
 */
static uint64_t add_new(struct table *table, const struct inf_stats_public *stats, struct cursor *cursor)
{
	uint64_t n_all = stats->n_events, oldest = counted(n_all, INF_STATS_EVENTS), n_lost = 0;

	if (cursor->next < oldest) {
		n_lost = oldest - cursor->next;
		cursor->next = oldest;
	}
	for (; cursor->next < n_all; cursor->next++) {
		const struct inf_stats_event *event = &stats->events[cursor->next % INF_STATS_EVENTS];

		if (event->seq == cursor->next + 1)
			add(table, event);
		else
			n_lost++;
	}
	return n_lost;
}

/* Shows what is new, in JSON as one object if there is any (or `always`). */
static int show_new(const struct options *options, struct table *table, const struct look *look, struct cursor *cursor, bool always)
{
	uint64_t n_before = table->n_rows, n_lost = add_new(table, look->public, cursor);
	json_t *events;

	if (!always && table->n_rows == n_before)
		return EXIT_OK;
	if (!table->json)
		return output_flush() ? EXIT_UNHEALTHY : EXIT_OK;
	events = json_copy(table->json);
	json_array_clear(table->json);
	return print_json(options, "events", json_pack("{s:s, s:o, s:o, s:o}", "state", life_word(look->life), "pid",
						       json_number(look->public->head.pid), "not_kept", json_number(n_lost), "events", events));
}

static bool is_of(const struct cursor *cursor, const struct inf_stats_head *head)
{
	return cursor->pid == head->pid && cursor->start_ns == head->start_ns;
}

/* A cursor of another broker begins anew. */
static void follow_broker(struct cursor *cursor, const struct inf_stats_head *head)
{
	if (!is_of(cursor, head))
		*cursor = (struct cursor){ .pid = head->pid, .start_ns = head->start_ns };
}

/* The last words of a broker that has ended, out of the file that has no name any more. */
static int show_last(const struct options *options, struct table *table, struct cursor *cursor, int *held)
{
	struct look look = { .life = LIFE_GONE, .public = *held < 0 ? NULL : stats_held(*held) };
	int r = EXIT_OK;

	if (look.public && is_of(cursor, &look.public->head))
		r = show_new(options, table, &look, cursor, false);
	look_free(&look);
	if (*held >= 0)
		close(*held);
	*held = -1;
	return r;
}

static int follow(const struct options *options, struct table *table, struct cursor *cursor, int held)
{
	struct look look;
	int r = EXIT_OK;

	while (!r && output_is_read(FOLLOW_MS)) {
		bool is_there = look_try(options, false, &look);

		if (!is_there || !is_of(cursor, &look.public->head))
			r = show_last(options, table, cursor, &held);
		if (!is_there)
			continue;
		follow_broker(cursor, &look.public->head);
		if (!r)
			r = show_new(options, table, &look, cursor, false);
		if (held < 0)
			held = stats_hold(look.path);
		look_free(&look);
	}
	return r;
}

enum { OPTION_FOLLOW = VIEW_WATCH, OPTION_N };
static const struct command_option own_options[] = {
	{ 'o', NULL, "tsv", "values between tabs, in ns" },
	{ 0, "no-header", NULL, "no line with the names of the columns" },
	{ 'f', "follow", NULL, "go on with those to come, also of a broker that starts anew" },
	{ 'n', "lines", "COUNT", "at most so many of those before, the last ones; default all that are kept: 256" },
	{ 0 },
};

static int show(const struct options *options, const struct view *view, uint64_t n_lines, bool is_followed)
{
	struct options lines = *options;
	struct cursor cursor = { 0 };
	struct table table;
	struct look look;
	int r = look_take(options, false, &look), status;

	if (r)
		return r;
	if (is_followed && stats_must_live(options, look.path)) {
		look_free(&look);
		return EXIT_USAGE;
	}
	lines.one_line = is_followed;
	status = look_status(options, &look);
	follow_broker(&cursor, &look.public->head);
	cursor.next = counted(look.public->n_events, n_lines);
	table_begin(&table, columns, N_COLUMNS, view);
	r = show_new(&lines, &table, &look, &cursor, true);
	if (!table.n_rows && view->form == FORM_PEOPLE && !is_followed)
		puts("no events");
	if (!r && is_followed)
		r = follow(&lines, &table, &cursor, stats_hold(look.path));
	look_free(&look);
	json_decref(table.json);
	return r ? r : status;
}

static int run(const struct options *options, int argc, char **argv)
{
	struct view view = { .form = options->json ? FORM_JSON : FORM_PEOPLE };
	uint64_t n_lines = INF_STATS_EVENTS;
	bool is_followed = false;
	int c;

	while ((c = next_option(options, &command_events, argc, argv)) != OPTIONS_END) {
		if (c == OPTIONS_BAD || (c == VIEW_FORM && parse_form(options, optarg, &view)) ||
		    (c == OPTION_N && parse_number(options, "-n", optarg, UINT64_MAX, &n_lines)))
			return EXIT_USAGE;
		is_followed |= c == OPTION_FOLLOW;
		view.no_header |= c == VIEW_NO_HEADER;
	}
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: events takes no argument", argv[optind]);
	return show(options, &view, n_lines, is_followed);
}

const struct command command_events = {
	.name = "events",
	.summary = "what happened: executors, models, sessions ended; -f goes on",
	.usage = "Usage: shmctl events [-f] [-n COUNT] [-j] [-o tsv] [--no-header]\n"
		 "The last 256 events of the broker with the time of day: started and stopped, an executor ready or dead, a model ready or failed,\n"
		 "a session that the broker ended. Those of a broker that was killed are there until the next one starts. With -j and -f an\n"
		 "object a line.\n",
	.run = run,
	.options = own_options,
};
