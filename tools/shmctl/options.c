/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - a command's own options, from its table. */
#define _GNU_SOURCE 1
#include "tools/shmctl/shmctl.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTIONS_MAX 24u
#define TIME_MAX_NS (86400 * 1000000000ull)

/* Edit distance of short words, the usual one (Wagner and Fischer 1974). */
size_t word_distance(const char *a, const char *b)
{
	size_t row[32], n = strlen(b);

	if (n + 1 > sizeof(row) / sizeof(row[0]))
		return SIZE_MAX;
	for (size_t k = 0; k <= n; k++)
		row[k] = k;
	for (size_t i = 1; *a; a++, i++) {
		size_t corner = row[0];

		row[0] = i;
		for (size_t k = 1; k <= n; k++) {
			size_t best = corner + (*a != b[k - 1]);

			corner = row[k];
			best = row[k] + 1 < best ? row[k] + 1 : best;
			best = row[k - 1] + 1 < best ? row[k - 1] + 1 : best;
			row[k] = best;
		}
	}
	return row[n];
}

static unsigned int n_options(const struct command *command)
{
	unsigned int n = 0;

	while (command->options && n < OPTIONS_MAX && (command->options[n].letter || command->options[n].name))
		n++;
	return n;
}

/* "[TIME]" may be left out, and stands behind a "=" where it is not. */
static int takes(const struct command_option *option)
{
	if (!option->value)
		return no_argument;
	return option->value[0] == '[' ? optional_argument : required_argument;
}

/* A colon first: getopt tells a missing value from an unknown option. */
static void fill(const struct command *command, char letters[2 * OPTIONS_MAX + 2], struct option longs[OPTIONS_MAX + 1])
{
	unsigned int n = 0, n_longs = 0;

	letters[n++] = ':';
	for (unsigned int i = 0; i < n_options(command); i++) {
		const struct command_option *option = &command->options[i];

		if (option->letter)
			letters[n++] = option->letter;
		if (option->letter && option->value)
			letters[n++] = ':';
		if (option->name)
			longs[n_longs++] = (struct option){ option->name, takes(option), NULL, 256 + (int)i };
	}
	letters[n] = '\0';
	longs[n_longs] = (struct option){ 0 };
}

static int bad(const struct options *options, const struct command *command, const char *word)
{
	size_t n = strcspn(word, "=");
	char typed[64];

	snprintf(typed, sizeof(typed), "%.*s", (int)n, word);
	for (unsigned int i = 0; !strncmp(typed, "--", 2) && i < n_options(command); i++)
		if (command->options[i].name && word_distance(typed + 2, command->options[i].name) <= MISTYPED_MAX) {
			fail(options, EXIT_USAGE, "%s: what is that? Did you mean --%s?", word, command->options[i].name);
			return OPTIONS_BAD;
		}
	fail(options, EXIT_USAGE, "%s: what is that? Try shmctl %s --help", word, command->name);
	return OPTIONS_BAD;
}

/* glibc takes --out for --output: no word may stand for another one. */
static bool is_whole(const char *word, const char *name)
{
	size_t n = strlen(name);

	return !strncmp(word, "--", 2) && !strncmp(word + 2, name, n) && (word[2 + n] == '=' || word[2 + n] == '\0');
}

static int of_letter(const struct command *command, int letter)
{
	for (unsigned int i = 0; i < n_options(command); i++)
		if (command->options[i].letter == letter)
			return (int)i;
	return OPTIONS_BAD;
}

int next_option(const struct options *options, const struct command *command, int argc, char **argv)
{
	char letters[2 * OPTIONS_MAX + 2];
	struct option longs[OPTIONS_MAX + 1];
	const char *word;
	int c;

	fill(command, letters, longs);
	opterr = 0;
	c = getopt_long(argc, argv, letters, longs, NULL);
	if (c == -1)
		return OPTIONS_END;
	word = argv[optind - 1];
	if (c == ':') {
		fail(options, EXIT_USAGE, "%s: it takes a value; try shmctl %s --help", word, command->name);
		return OPTIONS_BAD;
	}
	if (c == '?')
		return bad(options, command, word);
	if (c < 256)
		return of_letter(command, c);
	if (command->options[c - 256].value && optarg == word)
		word = argv[optind - 2];
	return is_whole(word, command->options[c - 256].name) ? c - 256 : bad(options, command, word);
}

int no_arguments(const struct options *options, int argc, char **argv)
{
	if (argc < 2)
		return EXIT_OK;
	return fail(options, EXIT_USAGE, "%s: %s takes no argument", argv[1], argv[0]);
}

/* --- what they take --- */

int parse_time(const struct options *options, const char *what, const char *text, uint64_t min_ns, uint64_t *ret_ns)
{
	char least[WORD_BYTES];
	uint64_t ns;

	if (!parse_duration(text, &ns))
		return fail(options, EXIT_USAGE, "%s takes a time, as 5s or 200ms, not \"%s\"", what, text);
	if (ns < min_ns || ns > TIME_MAX_NS)
		return fail(options, EXIT_USAGE, "%s takes a time from %s to 24h, not \"%s\"", what, word_time(least, min_ns), text);
	*ret_ns = ns;
	return EXIT_OK;
}

int parse_number(const struct options *options, const char *what, const char *text, uint64_t max, uint64_t *ret_n)
{
	char *end;
	unsigned long long n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (end == text || *end || *text == '-' || *text == '+' || errno || !n || n > max)
		return fail(options, EXIT_USAGE, "%s takes a number from 1 on, not \"%s\"", what, text);
	*ret_n = n;
	return EXIT_OK;
}

bool parse_session(const char *text, uint32_t *ret_session)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || *text == '-' || *text == '+' || !value || value > UINT32_MAX)
		return false;
	*ret_session = (uint32_t)value;
	return true;
}
