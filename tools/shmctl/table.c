/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - lists: their options, their forms, again and again. */
#define _GNU_SOURCE 1
#include "tools/shmctl/table.h"
#include "tools/shmctl/stats.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TEXT_MAX	 512u

/* --- the command line --- */

int parse_form(const struct options *options, const char *text, struct view *view)
{
	if (strcmp(text, "tsv") != 0)
		return fail(options, EXIT_USAGE, "-o takes tsv, not \"%s\"; -j is for JSON", text);
	if (!options->json)
		view->form = FORM_TSV;
	return EXIT_OK;
}

/* The column with the first n letters of `name` as its key, or NULL after an error line. */
static const struct column *parse_column(const struct options *options, const struct view *view, const char *name, size_t n)
{
	char list[TEXT_MAX] = "";

	for (unsigned int i = 0; i < view->n_columns; i++) {
		const char *key = view->columns[i].key;

		if (strlen(key) == n && !memcmp(key, name, n))
			return &view->columns[i];
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "", key);
	}
	fail(options, EXIT_USAGE, "\"%.*s\" is no column; there are %s", (int)n, name, list);
	return NULL;
}

static int parse_sort(const struct options *options, const char *text, struct view *view)
{
	view->is_reversed = *text == '-';
	text += view->is_reversed;
	view->sort = parse_column(options, view, text, strlen(text));
	return view->sort ? EXIT_OK : EXIT_USAGE;
}

static int parse_filter(const struct options *options, const char *text, struct view *view)
{
	const char *equals = strchr(text, '=');
	const struct column *column;

	if (!equals)
		return fail(options, EXIT_USAGE, "--filter takes KEY=TEXT, not \"%s\"", text);
	if (view->n_filters == FILTERS_MAX)
		return fail(options, EXIT_USAGE, "--filter: at most %u of them; shmctl -j and jq(1) can do more", FILTERS_MAX);
	column = parse_column(options, view, text, (size_t)(equals - text));
	if (!column)
		return EXIT_USAGE;
	view->filters[view->n_filters].column = column;
	view->filters[view->n_filters++].text = equals + 1;
	return EXIT_OK;
}

static int take(const struct options *options, int c, struct view *view)
{
	switch (c) {
	case VIEW_FORM:
		return parse_form(options, optarg, view);
	case VIEW_NO_HEADER:
		view->no_header = true;
		return EXIT_OK;
	case VIEW_SORT:
		return parse_sort(options, optarg, view);
	case VIEW_FILTER:
		return parse_filter(options, optarg, view);
	default:
		view->every_ns = WATCH_DEFAULT_NS;
		return optarg ? parse_time(options, "--watch", optarg, TIME_MIN_NS, &view->every_ns) : EXIT_OK;
	}
}

int view_option(const struct options *options, const struct command *command, int argc, char **argv, struct view *view)
{
	int c;

	while ((c = next_option(options, command, argc, argv)) >= 0 && c < VIEW_N)
		if (take(options, c, view))
			return OPTIONS_BAD;
	if (options->json)
		view->form = FORM_JSON;
	return c;
}

int view_run(const struct options *options, const struct view *view,
	     int (*show)(const struct options *options, const struct view *view, void *data), void *data)
{
	struct timespec pause = { .tv_sec = (time_t)(view->every_ns / 1000000000u),
				  .tv_nsec = (long)(view->every_ns % 1000000000u) };
	bool clear = view->form == FORM_PEOPLE && isatty(STDOUT_FILENO);
	struct options each = *options;
	int r;

	each.round_reals = true;
	each.one_line = view->every_ns != 0;
	if (!view->every_ns)
		return show(&each, view, data);
	for (bool again = false;; again = true) {
		if (clear)
			fputs("\033[H\033[2J", stdout);
		else if (again && view->form == FORM_PEOPLE)
			putchar('\n');
		r = show(&each, view, data);
		if (output_flush() || stats_are_snapshot())
			return r;
		/* A broker may come; what else is wrong stays wrong. */
		if (!again && r != EXIT_OK && r != EXIT_NOT_RUNNING)
			return r;
		nanosleep(&pause, NULL);
	}
}

/* --- words --- */

json_t *json_number(uint64_t n)
{
	return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

json_t *json_rate(double real)
{
	return isfinite(real) ? json_real(real < 1e15 ? round(real * 1000) / 1000 : real) : json_null();
}

const char *word_rate(char text[WORD_BYTES], double rate)
{
	static const char units[] = "\0kMGT";
	unsigned int unit = 0;

	for (; rate >= 999.5 && unit < 4; unit++)
		rate /= 1000;
	if (!(rate < 999.5))
		snprintf(text, WORD_BYTES, "-");
	else
		snprintf(text, WORD_BYTES, "%.*f%.1s", rate >= 0.05 && rate < 99.95 && (unit || rate != floor(rate)), rate, units + unit);
	return text;
}

const char *word_short_time(char text[WORD_BYTES], uint64_t ns)
{
	char *blank;

	word_time(text, ns);
	blank = strchr(text, ' ');
	if (blank)
		memmove(blank, blank + 1, strlen(blank));
	return text;
}

/* --- rows --- */

void table_begin(struct table *table, const struct column *columns, unsigned int n_columns, const struct view *view)
{
	*table = (struct table){ .columns = columns, .n_columns = n_columns, .view = view };
	if (view->form == FORM_JSON)
		table->json = json_array();
}

/* Blanks between columns, none at the end of the line. */
static void print_padded(const struct table *table, unsigned int i, const char *text)
{
	int width = table->columns[i].width;
	bool is_last = true;

	for (unsigned int k = i + 1; k < table->n_columns; k++)
		is_last &= !table->columns[k].head;
	if (is_last && width < 0)
		width = 0;
	printf("%*s%s", width, text, is_last ? "\n" : " ");
}

void table_header(const struct table *table)
{
	const struct view *view = table->view;

	if (view->no_header || view->form == FORM_JSON)
		return;
	for (unsigned int i = 0; i < table->n_columns; i++)
		if (view->form == FORM_TSV)
			printf("%s%c", table->columns[i].key, i + 1 < table->n_columns ? '\t' : '\n');
		else if (table->columns[i].head)
			print_padded(table, i, table->columns[i].head);
}

static json_t *cell_json(enum column_kind kind, const struct cell *cell)
{
	if (!cell->known)
		return json_null();
	switch (kind) {
	case COLUMN_TEXT:
		return json_text(cell->text);
	case COLUMN_RATE:
	case COLUMN_SHARE:
		return json_rate(cell->real);
	default:
		return json_number(cell->n);
	}
}

static const char *cell_raw(char text[TEXT_MAX], enum column_kind kind, const struct cell *cell)
{
	switch (kind) {
	case COLUMN_TEXT:
		return word_clean(text, TEXT_MAX, cell->text);
	case COLUMN_RATE:
	case COLUMN_SHARE:
		snprintf(text, TEXT_MAX, "%.3f", cell->real);
		return text;
	default:
		snprintf(text, TEXT_MAX, "%" PRIu64, cell->n);
		return text;
	}
}

static const char *cell_word(char text[TEXT_MAX], enum column_kind kind, const struct cell *cell)
{
	if (!cell->known)
		return "-";
	switch (kind) {
	case COLUMN_TIME:
		return word_time(text, cell->n);
	case COLUMN_BYTES:
		return word_bytes(text, cell->n);
	case COLUMN_RATE:
		return word_rate(text, cell->real);
	case COLUMN_SHARE:
		snprintf(text, TEXT_MAX, "%.0f%%", cell->real * 100);
		return text;
	default:
		return cell_raw(text, kind, cell);
	}
}

/* A column of the view, which may be a copy of the table's: people may see another head. */
static unsigned int index_of(const struct view *view, const struct column *column)
{
	return (unsigned int)(column - view->columns);
}

/* Text anywhere, a number as -o tsv has it. */
static bool matches(const struct view *view, const struct cell *cells)
{
	char raw[TEXT_MAX];

	for (unsigned int i = 0; i < view->n_filters; i++) {
		const struct column *column = view->filters[i].column;
		const struct cell *cell = &cells[index_of(view, column)];
		const char *word = cell->known ? cell_raw(raw, column->kind, cell) : "";

		if (column->kind == COLUMN_TEXT ? !strcasestr(word, view->filters[i].text) : strcmp(word, view->filters[i].text) != 0)
			return false;
	}
	return true;
}

/* Its texts are copied. Where memory is short the row is lost, or a text. */
static bool keep(struct table *table, const struct cell *cells)
{
	size_t n = table->n_columns;
	struct cell *kept = realloc(table->kept, (table->n_rows + 1) * n * sizeof(*kept));

	if (!kept)
		return false;
	table->kept = kept;
	memcpy(kept + table->n_rows * n, cells, n * sizeof(*cells));
	for (size_t i = table->n_rows * n; i < (table->n_rows + 1) * n; i++) {
		if (!kept[i].text)
			continue;
		kept[i].text = strdup(kept[i].text);
		kept[i].known = kept[i].text != NULL;
	}
	return true;
}

/* qsort_r(3), of pointers to rows: what is not known comes last; what is equal as it was. */
static int compare(const void *a, const void *b, void *data)
{
	const struct cell *const *left = a, *const *right = b;
	const struct view *view = data;
	const struct cell *x = *left + index_of(view, view->sort), *y = *right + index_of(view, view->sort);
	int order;

	if (x->known != y->known)
		return x->known ? -1 : 1;
	switch (view->sort->kind) {
	case COLUMN_TEXT:
		order = x->text && y->text ? strcasecmp(x->text, y->text) : 0;
		break;
	case COLUMN_RATE:
	case COLUMN_SHARE:
		order = (x->real < y->real) - (x->real > y->real);
		break;
	default:
		order = (x->n < y->n) - (x->n > y->n);
	}
	if (order)
		return view->is_reversed ? -order : order;
	return (*left > *right) - (*left < *right);
}

static void print_row(const struct table *table, const struct cell *cells)
{
	char text[TEXT_MAX];

	for (unsigned int i = 0; i < table->n_columns; i++)
		if (table->view->form == FORM_TSV)
			printf("%s%c", cells[i].known ? cell_raw(text, table->columns[i].kind, &cells[i]) : "",
			       i + 1 < table->n_columns ? '\t' : '\n');
		else if (table->columns[i].head)
			print_padded(table, i, cell_word(text, table->columns[i].kind, &cells[i]));
}

json_t *table_row(struct table *table, const struct cell *cells)
{
	const struct view *view = table->view;
	json_t *row = NULL;

	if (!matches(view, cells) || (view->sort && !keep(table, cells)))
		return NULL;
	if (!table->n_rows++ && view->form != FORM_JSON)
		table_header(table);
	if (view->form == FORM_JSON) {
		row = json_object();
		for (unsigned int i = 0; i < table->n_columns; i++)
			json_object_set_new(row, table->columns[i].key, cell_json(table->columns[i].kind, &cells[i]));
		return json_array_append_new(table->json, row) ? NULL : row;
	}
	if (!view->sort)
		print_row(table, cells);
	return NULL;
}

static void sort_json(const struct table *table, const struct cell *const *order)
{
	json_t *sorted = json_array();

	for (size_t i = 0; i < table->n_rows; i++)
		json_array_append(sorted, json_array_get(table->json, (size_t)(order[i] - table->kept) / table->n_columns));
	json_array_clear(table->json);
	json_array_extend(table->json, sorted);
	json_decref(sorted);
}

/* The kept rows in their order: printed, or those of JSON moved. As they came where memory is short. */
static void sort(struct table *table)
{
	const struct cell **order = calloc(table->n_rows, sizeof(*order));

	for (size_t i = 0; order && i < table->n_rows; i++)
		order[i] = table->kept + i * table->n_columns;
	if (order)
		qsort_r(order, table->n_rows, sizeof(*order), compare, (void *)(uintptr_t)table->view);
	if (order && table->json)
		sort_json(table, order);
	for (size_t i = 0; !table->json && i < table->n_rows; i++)
		print_row(table, order ? order[i] : table->kept + i * table->n_columns);
	free(order);
	for (size_t i = 0; i < table->n_rows * table->n_columns; i++)
		free((char *)(uintptr_t)table->kept[i].text);
	free(table->kept);
	table->kept = NULL;
}

void table_end(struct table *table, const char *none)
{
	if (table->kept)
		sort(table);
	if (!table->n_rows && table->view->form == FORM_PEOPLE)
		puts(table->view->n_filters ? "nothing matches" : none);
}
