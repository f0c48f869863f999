/* SPDX-License-Identifier: Apache-2.0 */
/* lists.c - what is the same in every list about sessions. */
#define _GNU_SOURCE 1
#include "tools/shmctl/lists.h"
#include <stdio.h>
#include <unistd.h>

static int show(const struct options *options, const struct view *view, void *data)
{
	const struct session_list *list = data;
	struct look look;
	struct table table;
	int r = look_take(options, true, &look);

	if (r)
		return r;
	table_begin(&table, list->columns, list->n_columns, view);
	for (size_t i = 0; i < look.n_sessions; i++)
		list->add(&table, &look.sessions[i]);
	table_end(&table, list->none);
	r = look_status(options, &look);
	if (table.json &&
	    print_json(options, list->name,
		       json_pack("{s:s, s:o, s:o}", "state", life_word(look.life), list->name, table.json,
				 "sessions_not_shown", json_number(look_n_hidden(&look)))))
		r = EXIT_UNHEALTHY;
	if (!table.json)
		look_say_hidden(&look);
	look_free(&look);
	return r;
}

int session_list_run(const struct options *options, const struct command *command, const struct session_list *list, int argc,
		     char **argv)
{
	struct view view = { .columns = list->columns, .n_columns = list->n_columns };

	if (view_option(options, command, argc, argv, &view) == OPTIONS_BAD)
		return EXIT_USAGE;
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: %s takes no argument", argv[optind], command->name);
	return view_run(options, &view, show, (void *)(uintptr_t)list);
}

json_t *session_models_json(const struct look *look, const struct inf_stats_session *session)
{
	json_t *models = json_array();
	char word[MODEL_WORD_BYTES];

	for (unsigned int i = 0; i < INF_STATS_HANDLES; i++) {
		const struct inf_stats_handle *handle = &session->handles[i];

		if (handle->model)
			json_array_append_new(models, json_pack("{s:o, s:o, s:o}", "model",
								json_text(look_model_word(word, look, handle->model - 1)), "requests",
								json_number(handle->n_requests), "depth", json_number(handle->depth)));
	}
	return models;
}
