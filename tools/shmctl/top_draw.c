/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top_draw.c - `shmctl top` as lines of text, for any width from one column on: figures that matter less go first, then names are
 * cut. What is said by colour is said by a letter or a number as well.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/top.h"
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NAME_WIDTH_MIN     12u
#define NAME_WIDTH_MAX     32u
#define HISTORY_MIN  8u /* columns, else no history */
#define STYLE_BOLD   "1"
#define STYLE_DIM    "2"
#define STYLE_HEADER "7"
#define STYLE_BAD    "31"
#define STYLE_RUNS   "32"
#define STYLE_WARN   "33"

/* --- text --- */

void text_free(struct text *text)
{
	free(text->bytes);
	*text = (struct text){ 0 };
}

static void text_add(struct text *text, const char *bytes, size_t n_bytes)
{
	if (text->n_bytes + n_bytes > text->n_room) {
		size_t n_room = 2 * (text->n_bytes + n_bytes) + 4096;
		char *grown = realloc(text->bytes, n_room);

		if (!grown) {
			text->failed = true;
			return;
		}
		text->bytes = grown;
		text->n_room = n_room;
	}
	memcpy(text->bytes + text->n_bytes, bytes, n_bytes);
	text->n_bytes += n_bytes;
}

/* One line of the picture, as it grows. */
struct line {
	const struct top *top;
	struct text *text;
	unsigned int n_left; /* columns */
	bool on_terminal, is_first;
};

static void line_begin(struct line *line, unsigned int n_columns)
{
	if (!line->is_first && line->on_terminal)
		text_add(line->text, "\r\n", 2);
	line->is_first = false;
	line->n_left = n_columns;
}

static void line_end(struct line *line)
{
	if (line->on_terminal) {
		text_add(line->text, "\033[K", 3);
		return;
	}
	while (line->text->n_bytes && line->text->bytes[line->text->n_bytes - 1] == ' ')
		line->text->n_bytes--;
	text_add(line->text, "\n", 1);
}

/* ASCII, a column each. */
static void put(struct line *line, const char *ascii)
{
	size_t n = strlen(ascii);

	if (n > line->n_left)
		n = line->n_left;
	text_add(line->text, ascii, n);
	line->n_left -= (unsigned int)n;
}

static void put_format(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put_format(struct line *line, const char *format, ...)
{
	char ascii[256];
	va_list args;

	va_start(args, format);
	vsnprintf(ascii, sizeof(ascii), format, args);
	va_end(args);
	put(line, ascii);
}

static void style(struct line *line, const char *code)
{
	char sequence[16];
	int n = snprintf(sequence, sizeof(sequence), "\033[%sm", code);

	if (line->top->has_colours)
		text_add(line->text, sequence, (size_t)n);
}

static void put_styled(struct line *line, const char *code, const char *ascii)
{
	style(line, code);
	put(line, ascii);
	style(line, "");
}

/* The last n_columns values, the largest as high as a letter. */
static void put_history(struct line *line, const struct history *history, unsigned int n_columns)
{
	unsigned int n = history->n < n_columns ? history->n : n_columns, n_blanks = n_columns - n;
	float largest = 0;

	if (n > line->n_left)
		n = line->n_left;
	for (unsigned int i = 1; i <= n; i++)
		largest = fmaxf(largest, history->values[(history->next + HISTORY - i) % HISTORY]);
	for (unsigned int i = n; i > 0; i--) {
		float value = history->values[(history->next + HISTORY - i) % HISTORY];
		unsigned int level = largest > 0 ? (unsigned int)(value / largest * (float)(PLOT_LEVELS - 2) + 0.5f) : 0;
		const char *word = plot_mark(line->top->has_utf8, 1 + level);

		text_add(line->text, word, strlen(word));
		line->n_left--;
	}
	put_format(line, "%*s", (int)n_blanks, "");
}

/* --- figures --- */

static const char *word_ns(char text[WORD_BYTES], double ns)
{
	return isfinite(ns) && ns > 0 && ns < 1e18 ? word_short_time(text, (uint64_t)ns) : "-";
}

static const char *word_share(char text[WORD_BYTES], double share)
{
	if (!isfinite(share))
		return "-";
	if (share >= 9.995)
		return word_rate(text, share);
	snprintf(text, WORD_BYTES, "%.2f", share);
	return text;
}

static const char *word_real(char text[WORD_BYTES], double real)
{
	return isfinite(real) ? word_rate(text, real) : "-";
}

enum figure { FIGURE_STATE, FIGURE_WAIT, FIGURE_BUSY, FIGURE_WQ, FIGURE_BQ, FIGURE_BATCH, FIGURE_RATE, FIGURE_P50, FIGURE_P99, FIGURE_ERR, FIGURES };

/* In the order in which they stand; those of a high `rank` go first where there is no room. */
static const struct {
	const char *head;
	unsigned int width; /* with the blank before it */
	unsigned int rank;
} figures[FIGURES] = {
	[FIGURE_STATE] = { "S", 2, 2 },	    [FIGURE_WAIT] = { "WAIT", 7, 10 },	 [FIGURE_BUSY] = { "BUSY", 7, 9 },
	[FIGURE_WQ] = { "W/Q", 6, 8 },	    [FIGURE_BQ] = { "B/Q", 6, 6 },	 [FIGURE_BATCH] = { "BATCH", 6, 5 },
	[FIGURE_RATE] = { "REQ/S", 6, 1 },  [FIGURE_P50] = { "P50", 7, 7 },	 [FIGURE_P99] = { "P99", 7, 3 },
	[FIGURE_ERR] = { "ERR", 6, 4 },
};

struct shape {
	bool has[FIGURES];
	unsigned int name_width, history_width;
};

/* Takes figures in as their rank says, while a name has its least width beside them. */
static struct shape shape_of(unsigned int n_columns)
{
	struct shape shape = { 0 };
	unsigned int n_used = 0;

	for (unsigned int rank = 1; rank <= FIGURES; rank++)
		for (unsigned int i = 0; i < FIGURES; i++)
			if (figures[i].rank == rank && n_used + figures[i].width + NAME_WIDTH_MIN <= n_columns) {
				shape.has[i] = true;
				n_used += figures[i].width;
			}
	shape.name_width = n_columns - n_used;
	if (shape.name_width > NAME_WIDTH_MAX && shape.name_width - NAME_WIDTH_MAX > HISTORY_MIN)
		shape.name_width = NAME_WIDTH_MAX;
	if (n_columns - n_used - shape.name_width > HISTORY_MIN)
		shape.history_width = n_columns - n_used - shape.name_width - 1;
	if (shape.history_width > HISTORY)
		shape.history_width = HISTORY;
	return shape;
}

static const char *figure_word(char text[WORD_BYTES], const struct top_row *row, enum figure figure)
{
	switch (figure) {
	case FIGURE_STATE:
		snprintf(text, WORD_BYTES, "%c", row->state);
		return text;
	case FIGURE_WAIT:
		return word_ns(text, row->wait_ns);
	case FIGURE_BUSY:
		return word_ns(text, row->busy_ns);
	case FIGURE_WQ:
		return word_share(text, row->waiting);
	case FIGURE_BQ:
		return word_share(text, row->busy);
	case FIGURE_BATCH:
		return word_real(text, row->rows_per_batch);
	case FIGURE_RATE:
		return word_real(text, row->requests);
	case FIGURE_P50:
		return word_ns(text, (double)row->p50_ns);
	case FIGURE_P99:
		return word_ns(text, (double)row->p99_ns);
	default:
		return row->kind == ROW_INSTANCE ? "" : word_rate(text, (double)row->n_errors);
	}
}

static const char *figure_style(const struct top_row *row, enum figure figure)
{
	if (figure == FIGURE_ERR && row->kind != ROW_INSTANCE && row->n_errors)
		return STYLE_BAD;
	if (figure != FIGURE_STATE)
		return NULL;
	return row->state == 'F' ? STYLE_BAD : row->state == 'R' ? STYLE_RUNS : row->state == 'I' ? NULL : STYLE_WARN;
}

/* --- lines --- */

static void draw_row(struct line *line, const struct shape *shape, const struct top_row *row)
{
	char name[TOP_NAME_BYTES], whole[TOP_NAME_BYTES + 24], word[WORD_BYTES], padded[WORD_BYTES + 8];
	const char *lead = row->kind == ROW_MODEL || line->top->tree == TREE_CLIENTS ? "" : row->kind == ROW_CLIENT ? " + " : " - ";

	snprintf(whole, sizeof(whole), "%s%s", lead, top_row_name(name, line->top, row));
	if (row->kind == ROW_CLIENT)
		snprintf(whole + strlen(whole), sizeof(whole) - strlen(whole), " %" PRIu32, row->session->pid);
	if (row->kind == ROW_MODEL)
		style(line, STYLE_BOLD);
	put_format(line, "%-*.*s", (int)shape->name_width, (int)shape->name_width, whole);
	if (row->kind == ROW_MODEL)
		style(line, "");
	for (unsigned int i = 0; i < FIGURES; i++) {
		const char *code = figure_style(row, i);

		if (!shape->has[i])
			continue;
		snprintf(padded, sizeof(padded), " %*.*s", (int)figures[i].width - 1, (int)figures[i].width - 1, figure_word(word, row, i));
		if (code)
			put_styled(line, code, padded);
		else
			put(line, padded);
	}
	if (row->kind == ROW_MODEL && shape->history_width) {
		put(line, " ");
		put_history(line, &line->top->models[row->model], shape->history_width);
	}
}

static void draw_heads(struct line *line, const struct shape *shape)
{
	style(line, STYLE_HEADER);
	put_format(line, "%-*.*s", (int)shape->name_width, (int)shape->name_width,
		   line->top->tree == TREE_CLIENTS ? "CLIENT" : line->top->tree == TREE_MODELS ? "MODEL" : "MODEL/CLIENT");
	for (unsigned int i = 0; i < FIGURES; i++)
		if (shape->has[i])
			put_format(line, " %*s", (int)figures[i].width - 1, figures[i].head);
	if (line->on_terminal)
		put_format(line, "%*s", (int)line->n_left, "");
	style(line, "");
}

static const char *word_up(char text[WORD_BYTES], uint64_t ns)
{
	uint64_t minutes = ns / 60000000000u;

	if (minutes >= 24 * 60)
		snprintf(text, WORD_BYTES, "%" PRIu64 "d%02uh", minutes / (24 * 60), (unsigned int)(minutes / 60 % 24));
	else if (minutes >= 60)
		snprintf(text, WORD_BYTES, "%uh%02um", (unsigned int)(minutes / 60), (unsigned int)(minutes % 60));
	else
		snprintf(text, WORD_BYTES, "%um%02us", (unsigned int)minutes, (unsigned int)(ns / 1000000000u % 60));
	return text;
}

static void draw_broker(struct line *line)
{
	const struct top *top = line->top;
	const struct inf_stats_public *stats = top->now.public;
	char version[WORD_BYTES], up[WORD_BYTES], device[WORD_BYTES], clock[WORD_BYTES] = "";
	time_t now = time(NULL);
	struct tm tm;

	if (localtime_r(&now, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	put_format(line, "infbroker %s  ", word_name(version, stats->version_text));
	put_styled(line, top->now.life == LIFE_RUNNING ? STYLE_RUNS : STYLE_BAD, life_word(top->now.life));
	if (top->is_paused)
		put_styled(line, STYLE_WARN, "  PAUSED");
	if (top->now.life == LIFE_GONE)
		put(line, ", waiting for a new one");
	else
		put_format(line, "  pid %" PRIu32 "  up %s", stats->head.pid,
			   word_up(up, counted(top->now.taken_ns, stats->head.start_ns)));
	put_format(line, "  %" PRIu64 " sessions  %s", stats->n_sessions, word_name(device, stats->device));
	if (line->n_left > strlen(clock) + 1)
		put_format(line, "%*s", (int)line->n_left, clock);
}

static void draw_totals(struct line *line)
{
	const struct top *top = line->top;
	const struct rates *rates = &top->rates;
	char word[WORD_BYTES];
	unsigned int n_each = line->n_left > 48 ? (line->n_left - 44) / 3 : 0;

	put_format(line, "req/s %-5s ", top->has_rates ? word_real(word, rates->requests) : "-");
	put_history(line, &top->requests, n_each);
	put_format(line, "  p99 %-6s ", top->has_rates ? word_ns(word, (double)rates->p99_ns) : "-");
	put_history(line, &top->p99, n_each);
	put_format(line, "  batch %-5s ", top->has_rates ? word_real(word, rates->rows_per_batch) : "-");
	put_history(line, &top->batch, n_each);
}

static void draw_load(struct line *line)
{
	const struct rates *rates = &line->top->rates;
	char word[WORD_BYTES];

	if (!line->top->has_rates) {
		put(line, "no figures yet: they are differences of two looks");
		return;
	}
	put_format(line, "in flight %" PRIu64 "  queued rows %" PRIu64, rates->n_in_flight, rates->n_queued_rows);
	if (isfinite(rates->busy))
		put_format(line, "  busy %.0f%%", rates->busy * 100);
	if (stats_has_device(line->top->now.public))
		put_format(line, "  device %s", word_bytes(word, line->top->now.public->device_bytes));
	put(line, "  err/s ");
	put_styled(line, rates->errors > 0 ? STYLE_BAD : "", word_rate(word, rates->errors));
	put_format(line, "  wake/s %s", word_rate(word, rates->wakes));
	put_format(line, "  park/s %s", word_rate(word, rates->parks));
}

static void draw_keys(struct line *line)
{
	static const char *const trees[] = { "tree", "models", "clients" };
	const struct top *top = line->top;
	char filter[FILTER_BYTES];

	word_clean(filter, sizeof(filter), top->filter);
	if (top->is_filter_typed) {
		put_format(line, "filter: %s_   Enter keeps it, Escape drops it", filter);
		return;
	}
	put_format(line, "[q]uit [s]ort:%s%s [r]everse [t]ree:%s [f]ilter%s%s [p]ause [?]", top_sort_words[top->sort],
		   top->is_reversed ? "^" : "", trees[top->tree], filter[0] ? ":" : "", filter);
}

static const char *const help[] = {
	"",
	"q quit   s sort by another column   r reverse   t tree, models, clients   p pause",
	"f filter by a part of a name, or a pid   arrows, page up and down: scroll",
	"",
	"S      R runs, W waits, I idle, L loading, F failed",
	"WAIT   mean time that requests waited, until their batch ran",
	"BUSY   mean time of a batch",
	"W/Q    requests that waited at any moment, on average (waiting over interval)",
	"B/Q    instances that ran it at any moment, on average (running over interval)",
	"BATCH  rows per batch          P50, P99  from accepted to answered",
	"ERR    requests that did not end with OK, since the start",
	"",
	"Any key goes back.",
};
#define N_HELP (sizeof(help) / sizeof(help[0]))

static void draw_rows(struct line *line, unsigned int n_columns, size_t first, size_t n_rows)
{
	const struct top *top = line->top;
	struct shape shape = shape_of(n_columns);

	line_begin(line, n_columns);
	draw_heads(line, &shape);
	line_end(line);
	for (size_t i = first; i < top->n_rows && i < first + n_rows; i++) {
		line_begin(line, n_columns);
		draw_row(line, &shape, &top->rows[i]);
		line_end(line);
	}
	/* The keys stay at the bottom. */
	for (size_t i = top->n_rows > first ? top->n_rows - first : 0; line->on_terminal && i < n_rows; i++) {
		line_begin(line, n_columns);
		line_end(line);
	}
}

static void draw_help(struct line *line, unsigned int n_columns, size_t n_lines)
{
	for (size_t i = 0; i < n_lines; i++) {
		line_begin(line, n_columns);
		put(line, i < N_HELP ? help[i] : "");
		line_end(line);
	}
}

static void draw_one(struct line *line, unsigned int n_columns, void (*draw)(struct line *line))
{
	line_begin(line, n_columns);
	draw(line);
	line_end(line);
}

/* Of few lines the rows get the most. */
void top_draw(const struct top *top, struct text *text, unsigned int n_columns, unsigned int n_lines, bool on_terminal)
{
	struct line line = { .top = top, .text = text, .on_terminal = on_terminal, .is_first = true };
	bool is_high = !n_lines || n_lines >= 8, has_keys = on_terminal && n_lines >= 4;
	size_t n_rows = top->n_rows, n_used = (is_high ? 4u : 2u) + has_keys, first = 0;

	text->n_bytes = 0;
	if (on_terminal)
		text_add(text, "\033[H", 3);
	draw_one(&line, n_columns, draw_broker);
	if (is_high) {
		draw_one(&line, n_columns, draw_totals);
		draw_one(&line, n_columns, draw_load);
	}
	if (n_lines) {
		n_rows = n_lines > n_used ? n_lines - n_used : 0;
		first = top->scroll + n_rows <= top->n_rows ? top->scroll : top->n_rows > n_rows ? top->n_rows - n_rows : 0;
	}
	if (top->is_help_shown)
		draw_help(&line, n_columns, n_rows + 1);
	else if (n_lines != 1)
		draw_rows(&line, n_columns, first, n_rows);
	if (has_keys)
		draw_one(&line, n_columns, draw_keys);
	if (on_terminal)
		text_add(text, "\033[J", 3);
}
