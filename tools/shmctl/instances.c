/* SPDX-License-Identifier: Apache-2.0 */
/* instances.c - `shmctl instances`: the executor's threads, what they run and how busy they are. */
#define _GNU_SOURCE 1
#include "tools/shmctl/look.h"
#include "tools/shmctl/table.h"
#include <stdio.h>
#include <unistd.h>

static const struct column columns[] = {
	{ "instance", "ID", 2, COLUMN_COUNT },
	{ "state", "STATE", -5, COLUMN_TEXT },
	{ "model", "MODEL", -24, COLUMN_TEXT },
	{ "batches_in_flight", "IN FLIGHT", 9, COLUMN_COUNT },
	{ "last_batch_rows", "ROWS", 5, COLUMN_COUNT },
	{ "last_dispatched_ago_ns", "AGO", 7, COLUMN_TIME },
	{ "batches", "BATCHES", 10, COLUMN_COUNT },
	{ "rows", "ALL ROWS", 10, COLUMN_COUNT },
	{ "busy_ns", "BUSY FOR", 8, COLUMN_TIME },
	{ "busy", "BUSY", 5, COLUMN_SHARE },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* Since the look before, where there is one (--watch); else since the broker started. */
static double busy(const struct look *now, const struct look *before, unsigned int idx)
{
	uint64_t lived_ns = counted(now->taken_ns, now->public->head.start_ns);

	if (look_continues(now, before))
		return look_instance_busy(now, before, idx);
	return lived_ns ? (double)now->public->instances[idx].busy_ns / (double)lived_ns : 0;
}

static void add(struct table *table, const struct look *now, const struct look *before, unsigned int idx)
{
	const struct inf_stats_instance *entry = &now->public->instances[idx];
	bool ran = entry->dispatched_ns != 0;
	char model[MODEL_WORD_BYTES];
	const struct cell cells[N_COLUMNS] = {
		cell_n(idx),
		cell_text(entry->n_in_flight ? "busy" : "idle"),
		ran ? cell_text(look_model_word(model, now, entry->model)) : cell_none(),
		cell_n(entry->n_in_flight),
		ran ? cell_n(entry->rows) : cell_none(),
		ran ? cell_n(counted(now->taken_ns, entry->dispatched_ns)) : cell_none(),
		cell_n(entry->n_batches),
		cell_n(entry->n_rows),
		cell_n(entry->busy_ns),
		cell_real(busy(now, before, idx)),
	};

	table_row(table, cells);
}

static int show(const struct options *options, const struct view *view, void *data)
{
	struct look *before = data, now;
	struct table table;
	int r = look_take(options, false, &now);

	if (r)
		return r;
	table_begin(&table, columns, N_COLUMNS, view);
	for (unsigned int i = 0; i < INF_INSTANCES; i++)
		if (now.public->instances[i].used)
			add(&table, &now, before, i);
	table_end(&table, "no instances: no executor is ready; shmctl status says why");
	r = look_status(options, &now);
	if (table.json && print_json(options, "instances",
				     json_pack("{s:s, s:o, s:o}", "state", life_word(now.life), "executor_pid",
					       json_number(now.public->executor_pid), "instances", table.json)))
		r = EXIT_UNHEALTHY;
	look_free(before);
	*before = now;
	return r;
}

static int run(const struct options *options, int argc, char **argv)
{
	struct view view = { .columns = columns, .n_columns = N_COLUMNS };
	struct look before = { 0 };
	int c = view_option(options, &command_instances, argc, argv, &view), r;

	if (c == OPTIONS_BAD)
		return EXIT_USAGE;
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: instances takes no argument", argv[optind]);
	r = view_run(options, &view, show, &before);
	look_free(&before);
	return r;
}

static const struct command_option own_options[] = { VIEW_OPTIONS, { 0 } };

const struct command command_instances = {
	.name = "instances",
	.summary = "the executor's threads: what they run, how busy they are",
	.usage = "Usage: shmctl instances [-j] [-o tsv] [--no-header] [--watch[=TIME]] [--sort=KEY] [--filter=KEY=TEXT]\n"
		 "One line per thread of the executor that runs batches: the model and the rows of the batch that it was given last, and when; how\n"
		 "many batches it has (one runs, one waits behind it); and for how long it ran batches: in all, and as a share of the time since\n"
		 "the broker started, or with --watch since the last look.\n",
	.run = run,
	.options = own_options,
};
