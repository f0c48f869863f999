/* SPDX-License-Identifier: Apache-2.0 */
/* rings.c - `shmctl rings`: the lanes of each session, how far either side has come. */
#define _GNU_SOURCE 1
#include "tools/shmctl/lists.h"
#include <stdio.h>
#include <unistd.h>

static const struct column columns[] = {
	{ "session", "SESSION", 7, COLUMN_COUNT },
	{ "pid", "PID", 8, COLUMN_COUNT },
	{ "name", "NAME", -16, COLUMN_TEXT },
	{ "lane", "LANE", 4, COLUMN_COUNT },
	{ "accepted", "ACCEPTED", 11, COLUMN_COUNT },
	{ "posted", "POSTED", 11, COLUMN_COUNT },
	{ "in_flight", "IN FLIGHT", 9, COLUMN_COUNT },
	{ "unread", "UNREAD", 6, COLUMN_COUNT },
	{ "state", "STATE", -6, COLUMN_TEXT },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

void rings_begin(struct table *table, const struct view *view)
{
	table_begin(table, columns, N_COLUMNS, view);
}

/* The broker counts lanes now and then, what goes through them at once. */
static bool is_used(const struct inf_stats_session *session, unsigned int i)
{
	return i < session->n_lanes || session->lanes[i].accepted != session->start;
}

void rings_add(struct table *table, const struct inf_stats_session *session)
{
	for (unsigned int i = 0; i < INF_LANES; i++) {
		const struct inf_stats_lane *lane = &session->lanes[i];
		const struct cell cells[N_COLUMNS] = {
			cell_n(session->id),
			cell_n(session->pid),
			cell_text(session->name),
			cell_n(i),
			cell_n(counted(lane->accepted, session->start)),
			cell_n(counted(lane->posted, session->start)),
			cell_n(lane->in_flight),
			cell_n(lane->unread),
			cell_text(lane->active == 1 ? "active" : "idle"),
		};

		if (is_used(session, i))
			table_row(table, cells);
	}
}

static int run(const struct options *options, int argc, char **argv)
{
	static const struct session_list list = { "rings", "no lanes", columns, N_COLUMNS, rings_add };

	return session_list_run(options, &command_rings, &list, argc, argv);
}

static const struct command_option own_options[] = { VIEW_OPTIONS, { 0 } };

const struct command command_rings = {
	.name = "rings",
	.summary = "the lanes of each session: how far client and broker have come",
	.usage = "Usage: shmctl rings [-j] [-o tsv] [--no-header] [--watch[=TIME]] [--sort=KEY] [--filter=KEY=TEXT]\n"
		 "One line per lane of every session that you may see. ACCEPTED is submissions that the broker took out of their slots, POSTED\n"
		 "answers that it has put into theirs, UNREAD those of them that the client had not read yet within the last second.\n"
		 "The broker looks at an active lane in each turn, at an idle one when its client rings.\n",
	.run = run,
	.options = own_options,
};
