/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top.h - `shmctl top`: figures of two looks (top_figures.c), drawn as lines (top_draw.c), on a terminal, into a file, or as JSON
 * (top.c).
 */
#ifndef SHMCTL_TOP_H
#define SHMCTL_TOP_H

#include "tools/shmctl/look.h"
#include "tools/shmctl/table.h"

#define HISTORY 60u /* of intervals */
#define FILTER_BYTES 40u

enum top_sort { SORT_RATE, SORT_P99, SORT_BUSY, SORT_ERRORS, SORT_NAME, SORTS };
enum top_tree { TREE_ALL, TREE_MODELS, TREE_CLIENTS, TREES };
enum row_kind { ROW_MODEL, ROW_INSTANCE, ROW_CLIENT };

/* A figure that is not known is NAN or 0: see draw. */
struct top_row {
	enum row_kind kind;
	uint32_t model;	   /* index in the file */
	uint32_t instance; /* of ROW_INSTANCE */
	const struct inf_stats_session *session; /* of ROW_CLIENT: in the look it was made from */
	char state;
	double wait_ns, busy_ns; /* a request waits; a batch runs: mean */
	double waiting, busy;	 /* mean number at any moment: requests that wait, instances that run it */
	double rows_per_batch, requests; /* per second */
	uint64_t p50_ns, p99_ns;
	uint64_t n_errors; /* since the broker started, the session began */
	unsigned int rank; /* of its model, in the order asked for */
};

/* The last values, the newest at `next` - 1. */
struct history {
	float values[HISTORY];
	unsigned int next, n;
};

struct top {
	const struct options *options;
	struct look now, before;
	bool has_rates; /* both looks are of one broker */
	struct rates rates;
	struct top_row *rows;
	size_t n_rows, n_room;
	struct history requests, p99, batch, models[INF_STATS_MODELS];
	char model_names[INF_STATS_MODELS][INF_NAME_BYTES]; /* whose history it is */

	enum top_sort sort;
	bool is_reversed;
	enum top_tree tree;
	char filter[FILTER_BYTES];
	bool is_paused, is_filter_typed, is_help_shown;
	size_t scroll; /* first row shown */
	uint64_t every_ns;
	bool has_utf8, has_colours;
};

/* A new look; what was the last is the one before. */
void top_look(struct top *top);
/* Rows anew, from the looks that there are. */
void top_rows(struct top *top);
void top_free(struct top *top);

/* What a row is called: "classifier:3", "infgate #4", "instance 0". */
#define TOP_NAME_BYTES MODEL_WORD_BYTES
const char *top_row_name(char text[TOP_NAME_BYTES], const struct top *top, const struct top_row *row);

/* Text that grows. `failed` where memory was short: then it is not all there. */
struct text {
	char *bytes;
	size_t n_bytes, n_room;
	bool failed;
};
void text_free(struct text *text);

/* A picture of n_columns; n_lines = 0: as long as it takes. On a terminal lines replace what stood there. */
void top_draw(const struct top *top, struct text *text, unsigned int n_columns, unsigned int n_lines, bool on_terminal);
json_t *top_json(const struct top *top);

extern const char *const top_sort_words[SORTS];

#endif /* SHMCTL_TOP_H */
