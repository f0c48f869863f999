/* SPDX-License-Identifier: Apache-2.0 */
/* regions.c - `shmctl regions`: the shared memory of each session, piece by piece. */
#define _GNU_SOURCE 1
#include "tools/shmctl/lists.h"
#include <stdio.h>
#include <unistd.h>

static const struct column columns[] = {
	{ "session", "SESSION", 7, COLUMN_COUNT },
	{ "pid", "PID", 8, COLUMN_COUNT },
	{ "name", "NAME", -16, COLUMN_TEXT },
	{ "region", "REGION", 10, COLUMN_COUNT },
	{ "kind", "KIND", -8, COLUMN_TEXT },
	{ "bytes", "SIZE", 9, COLUMN_BYTES },
	{ "state", "STATE", -7, COLUMN_TEXT },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

void regions_begin(struct table *table, const struct view *view)
{
	table_begin(table, columns, N_COLUMNS, view);
}

void regions_add(struct table *table, const struct inf_stats_session *session)
{
	for (unsigned int i = 0; i < INF_STATS_REGIONS; i++) {
		const struct inf_stats_region *region = &session->regions[i];
		const struct cell cells[N_COLUMNS] = {
			cell_n(session->id),
			cell_n(session->pid),
			cell_text(session->name),
			region->kind == INF_REGION_RESPONSE ? cell_none() : cell_n(region->id),
			cell_text(region_kind_word(region->kind)),
			cell_n(region->bytes),
			cell_text(region_state_word(region->state)),
		};

		if (region->used == 1)
			table_row(table, cells);
	}
}

static int run(const struct options *options, int argc, char **argv)
{
	static const struct session_list list = { "regions", "no regions", columns, N_COLUMNS, regions_add };

	return session_list_run(options, &command_regions, &list, argc, argv);
}

static const struct command_option own_options[] = { VIEW_OPTIONS, { 0 } };

const struct command command_regions = {
	.name = "regions",
	.summary = "the shared memory of each session, piece by piece",
	.usage = "Usage: shmctl regions [-j] [-o tsv] [--no-header] [--watch[=TIME]] [--sort=KEY] [--filter=KEY=TEXT]\n"
		 "One line per region of every session that you may see, the first 32 of each: requests (inputs, and what else a client\n"
		 "writes), responses (what the broker writes to it; without a number), outputs, device memory, timelines. One that is \"made\"\n"
		 "is not agreed on yet, a \"retired\" one belonged to an earlier executor.\n",
	.run = run,
	.options = own_options,
};
