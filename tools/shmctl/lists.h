/* SPDX-License-Identifier: Apache-2.0 */
/* lists.h - lists of what sessions have: a command each, and parts of `shmctl show`. */
#ifndef SHMCTL_LISTS_H
#define SHMCTL_LISTS_H

#include "tools/shmctl/look.h"
#include "tools/shmctl/table.h"

struct session_list {
	const char *name; /* of the command, its schema, and the array in it */
	const char *none;
	const struct column *columns;
	unsigned int n_columns;
	void (*add)(struct table *table, const struct inf_stats_session *session);
};

/* The whole command: its rows of every session that may be seen, and how many sessions are not shown. */
int session_list_run(const struct options *options, const struct command *command, const struct session_list *list, int argc,
		     char **argv);

void rings_begin(struct table *table, const struct view *view);
void rings_add(struct table *table, const struct inf_stats_session *session);
void regions_begin(struct table *table, const struct view *view);
void regions_add(struct table *table, const struct inf_stats_session *session);

/* [{"model":, "requests":, "depth":}] of what it has opened, the first of them. */
json_t *session_models_json(const struct look *look, const struct inf_stats_session *session);

#endif /* SHMCTL_LISTS_H */
