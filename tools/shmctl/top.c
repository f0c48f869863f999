/* SPDX-License-Identifier: Apache-2.0 */
/* top.c - `shmctl top`: models, who asks them and what runs them, live. */
#define _GNU_SOURCE 1
#include "tools/shmctl/top.h"
#include "tools/shmctl/screen.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH_COLUMNS	  80u
#define BATCH_COLUMNS_MAX 1000u

/* --- frames for a file --- */

static unsigned int batch_columns(void)
{
	const char *text = getenv("COLUMNS");
	unsigned long n = text ? strtoul(text, NULL, 10) : 0;

	return n >= 1 && n <= BATCH_COLUMNS_MAX ? (unsigned int)n : BATCH_COLUMNS;
}

static int print_frame(struct top *top, struct text *text, bool is_first)
{
	if (top->options->json)
		return print_json(top->options, "top", top_json(top));
	top_draw(top, text, batch_columns(), 0, false);
	if (!is_first)
		putchar('\n');
	fwrite(text->bytes, 1, text->n_bytes, stdout);
	return output_flush() ? EXIT_UNHEALTHY : EXIT_OK;
}

/* Each frame is of the interval before it. */
static int run_batch(struct top *top, uint64_t n_frames)
{
	struct text text = { 0 };
	uint64_t next_ns = top->now.taken_ns;
	int r;

	if (top->now.life == LIFE_GONE)
		return fail(top->options, EXIT_NOT_RUNNING, "the broker at %s is gone; start infbroker anew", top->now.path);
	r = look_status(top->options, &top->now);
	for (uint64_t i = 0; !r && (!n_frames || i < n_frames); i++) {
		next_ns += top->every_ns;
		while (screen_wait(next_ns) != SCREEN_TIME)
			;
		top_look(top);
		r = print_frame(top, &text, i == 0);
	}
	text_free(&text);
	return r;
}

/* --- a terminal --- */

static void type_filter(struct top *top, int key)
{
	size_t n = strlen(top->filter);

	if (key == '\n' || key == '\r') {
		top->is_filter_typed = false;
	} else if (key == KEY_ESCAPE) {
		top->is_filter_typed = false;
		top->filter[0] = '\0';
	} else if ((key == 0x7f || key == '\b') && n) {
		top->filter[n - 1] = '\0';
	} else if (key >= ' ' && key <= '~' && n + 1 < sizeof(top->filter)) {
		top->filter[n] = (char)key;
		top->filter[n + 1] = '\0';
	}
	top->scroll = 0;
}

static void scroll_by(struct top *top, long n)
{
	unsigned int n_columns, n_lines;
	long last, at = (long)top->scroll + n;

	screen_extent(&n_columns, &n_lines);
	last = (long)top->n_rows - (n_lines > 5 ? (long)n_lines - 5 : 1);
	top->scroll = (size_t)(at > last ? last > 0 ? last : 0 : at > 0 ? at : 0);
}

/* False: it ends. */
static bool obey(struct top *top, int key)
{
	if (top->is_help_shown) {
		top->is_help_shown = false;
		return true;
	}
	if (top->is_filter_typed) {
		type_filter(top, key);
		return true;
	}
	switch (key) {
	case 'q':
		return false;
	case 's':
		top->sort = (top->sort + 1) % SORTS;
		break;
	case 'r':
		top->is_reversed = !top->is_reversed;
		break;
	case 't':
		top->tree = (top->tree + 1) % TREES;
		top->scroll = 0;
		break;
	case 'f':
	case '/':
		top->is_filter_typed = true;
		break;
	case 'p':
	case ' ':
		top->is_paused = !top->is_paused;
		break;
	case '?':
	case 'h':
		top->is_help_shown = true;
		break;
	case KEY_ESCAPE:
		top->filter[0] = '\0';
		break;
	case KEY_UP:
	case 'k':
		scroll_by(top, -1);
		break;
	case KEY_DOWN:
	case 'j':
		scroll_by(top, 1);
		break;
	case KEY_PAGE_UP:
		scroll_by(top, -10);
		break;
	case KEY_PAGE_DOWN:
		scroll_by(top, 10);
		break;
	}
	return true;
}

static int draw_screen(const struct top *top, struct text *text)
{
	unsigned int n_columns, n_lines;

	screen_extent(&n_columns, &n_lines);
	top_draw(top, text, n_columns, n_lines, true);
	return screen_write(text->bytes, text->n_bytes);
}

/* The first figures come soon, later ones each interval. */
static int run_screen(struct top *top)
{
	uint64_t next_ns = monotonic_ns() + (top->every_ns < 200000000u ? top->every_ns : 200000000u);
	struct text text = { 0 };
	bool goes_on = screen_open() == 0;

	while (goes_on && draw_screen(top, &text) == 0) {
		int key = screen_wait(top->is_paused ? UINT64_MAX : next_ns);

		if (key == SCREEN_GONE)
			break;
		if (key != SCREEN_TIME && key != SCREEN_CHANGED) {
			goes_on = obey(top, key);
			top_rows(top);
		}
		if (!top->is_paused && monotonic_ns() >= next_ns) {
			top_look(top);
			next_ns = monotonic_ns() + top->every_ns;
		}
	}
	screen_close();
	text_free(&text);
	return EXIT_OK;
}

/* --- the command line --- */

enum { OPTION_BATCH, OPTION_N, OPTION_DELAY, OPTION_SORT, OPTION_FILTER, OPTION_COLOR };
static const struct command_option own_options[] = {
	{ 'b', "batch", NULL, "pictures one below the other, for files; also with -j, an object a line" },
	{ 'n', "count", "COUNT", "so many pictures, with --batch" },
	{ 'd', "delay", "TIME", "between two looks (500ms, 10s; default 1s)" },
	{ 0, "sort", "req/s|p99|busy|errors|name", "the order of models, and of clients" },
	{ 0, "filter", "TEXT", "only what has this in its name, or is of this process" },
	{ 0, "color", "auto|always|never", "default: on a terminal that has them; NO_COLOR, CLICOLOR_FORCE" },
	{ 0 },
};

static int parse_sort(const struct options *options, const char *text, enum top_sort *ret_sort)
{
	for (unsigned int i = 0; i < SORTS; i++)
		if (!strcmp(text, top_sort_words[i])) {
			*ret_sort = i;
			return EXIT_OK;
		}
	return fail(options, EXIT_USAGE, "--sort takes req/s, p99, busy, errors or name, not \"%s\"", text);
}

struct request {
	bool is_batch;
	uint64_t n_frames;
	const char *color;
};

static int take(struct top *top, struct request *request, int c)
{
	const struct options *options = top->options;

	switch (c) {
	case OPTION_BATCH:
		request->is_batch = true;
		return EXIT_OK;
	case OPTION_N:
		return parse_number(options, "-n", optarg, UINT64_MAX, &request->n_frames);
	case OPTION_DELAY:
		return parse_time(options, "-d", optarg, TIME_MIN_NS, &top->every_ns);
	case OPTION_SORT:
		return parse_sort(options, optarg, &top->sort);
	case OPTION_FILTER:
		snprintf(top->filter, sizeof(top->filter), "%s", optarg);
		return EXIT_OK;
	case OPTION_COLOR:
		request->color = optarg;
		if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "always") != 0 && strcmp(optarg, "never") != 0)
			return fail(options, EXIT_USAGE, "--color takes auto, always or never, not \"%s\"", optarg);
		return EXIT_OK;
	default:
		return EXIT_USAGE;
	}
}

static int show(struct top *top, const struct request *request)
{
	int r;

	if (!request->is_batch && !isatty(STDOUT_FILENO))
		return fail(top->options, EXIT_USAGE, "standard output is no terminal; shmctl top --batch -n 10 is for files");
	r = look_take(top->options, true, &top->now);
	if (r)
		return r;
	top->has_utf8 = has_utf8();
	top->has_colours = screen_has_colours(request->color);
	top_rows(top);
	/* In a snapshot nothing changes: one picture. */
	r = request->is_batch ? run_batch(top, stats_are_snapshot() ? 1 : request->n_frames) : run_screen(top);
	top_free(top);
	return r;
}

static int run(const struct options *options, int argc, char **argv)
{
	static struct top top; /* large */
	struct options lines = *options;
	struct request request = { .is_batch = options->json };
	int c;

	lines.one_line = lines.round_reals = true;
	top = (struct top){ .options = options, .every_ns = 1000000000u };
	while ((c = next_option(options, &command_top, argc, argv)) != OPTIONS_END)
		if (c == OPTIONS_BAD || take(&top, &request, c))
			return EXIT_USAGE;
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: top takes no argument", argv[optind]);
	if (request.n_frames && !request.is_batch)
		return fail(options, EXIT_USAGE, "-n goes with --batch");
	top.options = &lines;
	return show(&top, &request);
}

const struct command command_top = {
	.name = "top",
	.summary = "live: models, what runs them, who asks them",
	.usage = "Usage: shmctl top [-d TIME] [--batch [-n COUNT]] [--sort=KEY] [--filter=TEXT] [--color=WHEN] [-j]\n"
		 "Models, below each the instances that run it and the clients that ask it. Keys: q quits, ? shows them all and says what the\n"
		 "columns are; so does shmctl-top(1). A broker that ends is shown as gone, and the next one when it is there.\n",
	.run = run,
	.options = own_options,
};
