/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - shmctl: the global options, and which command it is. */
#define _GNU_SOURCE 1
#include "tools/shmctl/shmctl.h"
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command *const commands[] = {
	&command_status,
	&command_models,
	&command_sessions,
	&command_show,
	&command_instances,
	&command_rings,
	&command_regions,
	&command_events,
	&command_stat,
	&command_top,
	&command_devices,
	&command_latency,
	&command_trace,
	&command_profile,
	&command_snapshot,
	&command_infer,
	&command_drain,
	&command_resume,
	&command_kick,
	&command_doctor,
	&command_completion,
	&command_version,
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

const struct command *command_at(size_t idx)
{
	return idx < N_COMMANDS ? commands[idx] : NULL;
}

/* long_options below is the same for getopt. */
const struct command_option global_options[] = {
	{ 'j', "json", NULL, "JSON on standard output, times in ns, sizes in bytes" },
	{ 0, "socket", "FILE", "the broker's; default: $INFBROKER_SOCKET,\nelse $XDG_RUNTIME_DIR/infbroker/socket, else /run/infbroker/socket" },
	{ 0, "timeout", "SECONDS", "give up on a broker that does not answer; default 30, 0 = never" },
	{ 'h', "help", NULL, "this, or more about one command" },
	{ 0, "version", NULL, "the version; shmctl version says more" },
	{ 0 },
};

#define TIMEOUT_DEFAULT_S 30u

#define OPTION_COLUMN 23

/* One option, its text beside it; the text's further lines below. */
static void print_option(FILE *to, const struct command_option *option)
{
	char letter[4] = "", left[64];
	const char *text = option->text;
	size_t n;

	if (option->letter)
		snprintf(letter, sizeof(letter), "-%c", option->letter);
	/* "[TIME]" may be left out, and stands behind a "=" where it is not. */
	n = (size_t)snprintf(left, sizeof(left), "  %s%s%s%s", letter, letter[0] && option->name ? ", " : "", option->name ? "--" : "",
			     option->name ? option->name : "");
	if (option->value && option->value[0] == '[')
		snprintf(left + n, sizeof(left) - n, "[=%s", option->value + 1);
	else if (option->value)
		snprintf(left + n, sizeof(left) - n, " %s", option->value);
	fprintf(to, "%-*s", OPTION_COLUMN, left);
	if (strlen(left) + 2 > OPTION_COLUMN) /* no room for its text */
		fprintf(to, "\n%*s", OPTION_COLUMN, "");
	for (; n = strcspn(text, "\n"), text[n]; text += n + 1)
		fprintf(to, "%.*s\n%*s", (int)n, text, OPTION_COLUMN, "");
	fprintf(to, "%s\n", text);
}

static void print_options(FILE *to, const struct command_option *options)
{
	for (; options && (options->letter || options->name); options++)
		print_option(to, options);
}

static void print_usage(FILE *to)
{
	fputs("Usage: shmctl [OPTION]... COMMAND [ARGUMENT]...\n"
	      "Looks into a running infbroker, and asks its models.\n\n",
	      to);
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(to, "  %-11s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\nOptions, before or after the command:\n", to);
	print_options(to, global_options);
	fputs("\nExit status: 0 well, 1 answered but not well, 2 usage, 3 no broker runs, 4 not "
	      "permitted,\n"
	      "5 no answer in time, 6 broker of another version.\n"
	      "shmctl COMMAND --help says more about one.\n",
	      to);
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (!strcmp(commands[i]->name, name))
			return commands[i];
	return NULL;
}

static int unknown_command(const struct options *options, const char *name)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (word_distance(name, commands[i]->name) <= MISTYPED_MAX)
			return fail(options, EXIT_USAGE, "no command %s; did you mean %s?", name,
				    commands[i]->name);
	return fail(options, EXIT_USAGE, "no command %s; try shmctl --help", name);
}

static int parse_timeout(const struct options *options, const char *text,
			 unsigned int *ret_timeout_s)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value > UINT_MAX || *text == '-')
		return fail(options, EXIT_USAGE, "--timeout takes a number of seconds, not \"%s\"",
			    text);
	*ret_timeout_s = (unsigned int)value;
	return EXIT_OK;
}

enum { OPTION_SOCKET = 256, OPTION_TIMEOUT, OPTION_HELP, OPTION_VERSION };

static const struct option long_options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "socket", required_argument, NULL, OPTION_SOCKET },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ 0 },
};

/* Global options may stand before and after the command; what is not one of them is left for the command. */
static int parse_globals(struct options *options, int *argc, char **argv, bool *ret_help)
{
	int n_kept = 1, c, r;

	opterr = 0;
	while (optind < *argc) {
		const char *word = argv[optind];

		/* getopt would take a command's own options apart: those pass by whole. */
		if (word[0] != '-' || word[1] == '\0' ||
		    (strcmp(word, "-j") && strncmp(word, "--json", 6) &&
		     strncmp(word, "--socket", 8) && strncmp(word, "--timeout", 9) &&
		     strcmp(word, "--help") && strcmp(word, "-h") && strcmp(word, "--version"))) {
			argv[n_kept++] = argv[optind++];
			continue;
		}
		c = getopt_long(*argc, argv, "+jh", long_options, NULL);
		switch (c) {
		case 'j':
			options->json = true;
			break;
		case OPTION_SOCKET:
			options->socket_path = optarg;
			break;
		case OPTION_TIMEOUT:
			r = parse_timeout(options, optarg, &options->timeout_s);
			if (r)
				return r;
			break;
		case 'h':
		case OPTION_HELP:
			*ret_help = true;
			break;
		case OPTION_VERSION:
			printf("shmctl %s\n", inf_version());
			exit(EXIT_OK);
		default:
			return fail(options, EXIT_USAGE, "%s: what is that? Try shmctl --help",
				    word);
		}
	}
	*argc = n_kept;
	argv[n_kept] = NULL;
	return EXIT_OK;
}

/* What was printed has arrived: a full disk must not look like an answer. */
static int run(const struct command *command, const struct options *options, int argc, char **argv)
{
	int r, error;

	optind = 0; /* for next_option() */
	r = command->run(options, argc, argv);
	error = output_flush();
	if (!error)
		return r;
	if (error != -EPIPE) /* who closed the pipe has seen enough */
		fprintf(stderr, "shmctl %s: cannot write the answer: %s\n", command->name, strerror(-error));
	return r == EXIT_OK ? EXIT_UNHEALTHY : r;
}

int main(int argc, char **argv)
{
	struct options options = { .timeout_s = TIMEOUT_DEFAULT_S };
	const struct command *command;
	bool help = false;
	int r = parse_globals(&options, &argc, argv, &help);

	if (r)
		return r;
	if (argc < 2) {
		print_usage(help ? stdout : stderr);
		return help ? EXIT_OK : EXIT_USAGE;
	}
	command = find_command(argv[1]);
	if (!command)
		return unknown_command(&options, argv[1]);
	options.command = command->name;
	if (help) {
		fputs(command->usage, stdout);
		print_options(stdout, command->options);
		return EXIT_OK;
	}
	return run(command, &options, argc - 1, argv + 1);
}
