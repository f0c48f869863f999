/* SPDX-License-Identifier: Apache-2.0 */
/* sessions.c - `shmctl sessions`: who is connected, from the per-user statistics files that this user may read. */
#define _GNU_SOURCE 1
#include "tools/shmctl/lists.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct column columns[] = {
	{ "id", "ID", 6, COLUMN_COUNT },
	{ "pid", "PID", 8, COLUMN_COUNT },
	{ "uid", "UID", 6, COLUMN_COUNT },
	{ "name", "NAME", -16, COLUMN_TEXT },
	{ "lanes", "LANES", 5, COLUMN_COUNT },
	{ "in_flight", "IN FLIGHT", 9, COLUMN_COUNT },
	{ "held_outputs", "HELD", 6, COLUMN_COUNT },
	{ "request_bytes", "INPUTS", 9, COLUMN_BYTES },
	{ "output_bytes", "OUTPUTS", 9, COLUMN_BYTES },
	{ "device_bytes", "DEVICE", 9, COLUMN_BYTES },
	{ "requests", "REQUESTS", 10, COLUMN_COUNT },
	{ "errors", "ERRORS", 8, COLUMN_COUNT },
	{ "p50_ns", "P50", 7, COLUMN_TIME },
	{ "p99_ns", "P99", 7, COLUMN_TIME },
	{ "connected_for_ns", "SINCE", 9, COLUMN_TIME },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))
#define DEVICE_COLUMN 9

static struct cell quantile(const struct inf_stats_session *session, double q)
{
	uint64_t ns = inf_coarse_quantile(&session->served, q);

	return ns ? cell_n(ns) : cell_none();
}

static void add(struct table *table, const struct look *look, const struct inf_stats_session *session)
{
	const struct cell cells[N_COLUMNS] = {
		cell_n(session->id),
		cell_n(session->pid),
		cell_n(session->uid),
		cell_text(session->name),
		cell_n(session->n_lanes),
		cell_n(session->in_flight),
		cell_n(session->held_outputs),
		cell_n(session->request_bytes),
		cell_n(session->output_bytes),
		cell_n(session->device_bytes),
		cell_n(session->n_requests),
		cell_n(session->n_errors),
		quantile(session, 0.50),
		quantile(session, 0.99),
		cell_n(counted(look->taken_ns, session->connected_ns)),
	};
	json_t *row = table_row(table, cells);

	if (row)
		json_object_set_new(row, "models", session_models_json(look, session));
}

static int show(const struct options *options, const struct view *view, void *data)
{
	struct column with_device[N_COLUMNS];
	struct look look;
	struct table table;
	int r = look_take(options, true, &look);

	(void)data;
	if (r)
		return r;
	/* Where there is no device, people see no column for it. */
	memcpy(with_device, columns, sizeof(columns));
	if (!stats_has_device(look.public))
		with_device[DEVICE_COLUMN].head = NULL;
	table_begin(&table, with_device, N_COLUMNS, view);
	for (size_t i = 0; i < look.n_sessions; i++)
		add(&table, &look, &look.sessions[i]);
	table_end(&table, look_n_hidden(&look) ? "no sessions of yours" : "no sessions");
	r = look_status(options, &look);
	if (table.json && print_json(options, "sessions",
				     json_pack("{s:s, s:o, s:o}", "state", life_word(look.life), "sessions", table.json,
					       "not_shown", json_number(look_n_hidden(&look)))))
		r = EXIT_UNHEALTHY;
	if (!table.json)
		look_say_hidden(&look);
	look_free(&look);
	return r;
}

static int run(const struct options *options, int argc, char **argv)
{
	struct view view = { .columns = columns, .n_columns = N_COLUMNS };

	if (view_option(options, &command_sessions, argc, argv, &view) == OPTIONS_BAD)
		return EXIT_USAGE;
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: sessions takes no argument", argv[optind]);
	return view_run(options, &view, show, NULL);
}

static const struct command_option own_options[] = { VIEW_OPTIONS, { 0 } };

const struct command command_sessions = {
	.name = "sessions",
	.summary = "who is connected, what they have in flight and hold",
	.usage = "Usage: shmctl sessions [-j] [-o tsv] [--no-header] [--watch[=TIME]] [--sort=KEY] [--filter=KEY=TEXT]\n"
		 "One line per session that you may see: yours, or all where you are the broker's user or root. Needs no answer from the\n"
		 "broker; of one that is gone it is what it left (exit status 3). HELD is answers whose memory has not been used again\n"
		 "yet; INPUTS and OUTPUTS are its memory, DEVICE what it holds of the device that models run on; P50 and P99 is how long\n"
		 "its requests took in the broker.\n"
		 "shmctl show SESSION says more about one.\n",
	.run = run,
	.options = own_options,
};
