/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.h - a list in the three forms in which it is asked for: columns for people, values between tabs (-o tsv), JSON (-j). One
 * description of the columns serves them all, so that a figure has one name.
 */
#ifndef SHMCTL_TABLE_H
#define SHMCTL_TABLE_H

#include "tools/shmctl/shmctl.h"

enum form { FORM_PEOPLE, FORM_TSV, FORM_JSON };

enum column_kind {
	COLUMN_TEXT,
	COLUMN_COUNT,
	COLUMN_TIME,  /* ns */
	COLUMN_BYTES,
	COLUMN_RATE,  /* a real number, for people with k and M */
	COLUMN_SHARE, /* 0 to 1, for people in % */
};

struct column {
	const char *key;  /* in JSON, and above TSV */
	const char *head; /* for people; NULL = not for them */
	int width;	  /* negative: to the left */
	enum column_kind kind;
};

/* How a list is shown: its columns, and what the command line says. */
#define FILTERS_MAX 4u
struct view {
	const struct column *columns; /* set before view_option(), for --sort and --filter */
	unsigned int n_columns;
	enum form form;
	bool no_header;
	uint64_t every_ns; /* --watch; 0 = once */
	const struct column *sort; /* NULL = as the statistics have it */
	bool is_reversed;
	unsigned int n_filters; /* all must match */
	struct {
		const struct column *column;
		const char *text;
	} filters[FILTERS_MAX];
};

/* The first options of every list; its own ones begin at VIEW_N. */
#define VIEW_OPTIONS                                                                              \
	{ 'o', NULL, "tsv", "values between tabs, in ns and bytes" },                            \
	{ 0, "no-header", NULL, "no line with the names of the columns" },                       \
	{ 0, "watch", "[TIME]", "again and again, each TIME (500ms, 10s; default 2s); with -j an object a line" }, \
	{ 0, "sort", "KEY", "the largest of a column first, of names from A on; -KEY: the other way round.\n" \
			    "A column's key is its name in -o tsv" }, \
	{ 0, "filter", "KEY=TEXT", "only rows with that text in that column, or that number; up to four" }
#define WATCH_DEFAULT_NS 2000000000u
enum { VIEW_FORM, VIEW_NO_HEADER, VIEW_WATCH, VIEW_SORT, VIEW_FILTER, VIEW_N };

/* next_option() that keeps the common ones to itself: returns one of the command's own, OPTIONS_END or OPTIONS_BAD. */
int view_option(const struct options *options, const struct command *command, int argc, char **argv, struct view *view);

/* Calls `show` once, or as --watch says until the output is closed; its last exit status. Of a snapshot there is one picture. */
int view_run(const struct options *options, const struct view *view,
	     int (*show)(const struct options *options, const struct view *view, void *data), void *data);

/* What -o takes; -j goes before it. */
int parse_form(const struct options *options, const char *text, struct view *view);

struct cell {
	bool known; /* else "-", an empty value, null */
	uint64_t n;
	double real;
	const char *text;
};

static inline struct cell cell_none(void)
{
	return (struct cell){ 0 };
}
static inline struct cell cell_n(uint64_t n)
{
	return (struct cell){ .known = true, .n = n };
}
static inline struct cell cell_real(double real)
{
	return (struct cell){ .known = real == real, .real = real };
}
static inline struct cell cell_text(const char *text)
{
	return (struct cell){ .known = text != NULL, .text = text };
}

struct table {
	const struct column *columns;
	unsigned int n_columns;
	const struct view *view;
	json_t *json; /* an array, for FORM_JSON; else NULL */
	uint64_t n_rows;
	struct cell *kept; /* rows that are to be sorted, n_columns each */
};

void table_begin(struct table *table, const struct column *columns, unsigned int n_columns, const struct view *view);
/* The names of the columns; table_row() does it before the first. */
void table_header(const struct table *table);
/* As many cells as columns. In JSON the row's object, borrowed, for what fits into no column; else, or where a filter hides it, NULL. */
json_t *table_row(struct table *table, const struct cell *cells);
/* After the last row, where the view may sort; says `none` to people where there was no row. */
void table_end(struct table *table, const char *none);

/* A number as JSON has it: what is too large for it (only garbage is) becomes the largest. */
json_t *json_number(uint64_t n);
/* To three digits behind the point; null where it is no number. */
json_t *json_rate(double real);
/* At most 5 characters: "0", "9.8", "412", "11.7k", "1.2M". */
const char *word_rate(char text[WORD_BYTES], double rate);
/* word_time() without the blank: at most 5 characters below 1,000 s. */
const char *word_short_time(char text[WORD_BYTES], uint64_t ns);

#endif /* SHMCTL_TABLE_H */
