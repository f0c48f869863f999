/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_options.c - the options of `trace --kernel` and `latency --source=bpf`, and how they are interrupted. */
#define _GNU_SOURCE 1
#include "tools/shmctl/kernel.h"
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t is_interrupted;

static void on_signal(int signal)
{
	(void)signal;
	is_interrupted = 1;
}

void kernel_catch_signals(void)
{
	/* No SA_RESTART: it ends the wait too. A second one ends the program. */
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

bool kernel_is_interrupted(void)
{
	return is_interrupted;
}

static bool parse_number(const char *text, double max, double *ret, const char **ret_end)
{
	char *end;

	*ret = strtod(text, &end);
	*ret_end = end;
	return end != text && *ret >= 0 && *ret <= max;
}

static bool parse_time(const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *unit;
		double ns;
	} units[] = { { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 } };
	const char *end;
	double value;

	if (!parse_number(text, 1e9, &value, &end))
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (!strcmp(end, units[i].unit)) {
			*ret_ns = (uint64_t)(value * units[i].ns);
			return true;
		}
	return false;
}

static bool parse_sched(const char *text, enum kernel_sched *ret)
{
	static const char *const words[] = {
		[KERNEL_SCHED_BTF] = "btf", [KERNEL_SCHED_TRACEPOINT] = "tracepoint", [KERNEL_SCHED_NONE] = "none"
	};

	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(text, words[i])) {
			*ret = (enum kernel_sched)i;
			return true;
		}
	return false;
}

enum { OPTION_SLOW = 256, OPTION_CLIENT, OPTION_SCHED, OPTION_KERNEL, OPTION_SOURCE };

static const struct option long_options[] = {
	{ "model", required_argument, NULL, 'm' },
	{ "pid", required_argument, NULL, 'c' },
	{ "slow", required_argument, NULL, OPTION_SLOW },
	{ "duration", required_argument, NULL, 'd' },
	{ "requests", required_argument, NULL, 'n' },
	{ "client", required_argument, NULL, OPTION_CLIENT },
	{ "sched", required_argument, NULL, OPTION_SCHED },
	/* What brought us here. */
	{ "kernel", no_argument, NULL, OPTION_KERNEL },
	{ "source", required_argument, NULL, OPTION_SOURCE },
	{ 0 },
};

/* True where the option's value is one. */
static bool take(struct kernel_filter *filter, int option)
{
	const char *end;
	double value;

	switch (option) {
	case 'm':
		filter->model = optarg;
		return true;
	case 'c':
		if (!parse_number(optarg, INT_MAX, &value, &end) || *end || value < 1)
			return false;
		filter->pid = (pid_t)value;
		return true;
	case 'd':
		if (!parse_number(optarg, 1e9, &value, &end) || *end)
			return false;
		filter->duration_ns = (uint64_t)(value * 1e9);
		return true;
	case 'n':
		if (!parse_number(optarg, 1e15, &value, &end) || *end)
			return false;
		filter->n_max = (uint64_t)value;
		return true;
	case OPTION_SLOW:
		return parse_time(optarg, &filter->slow_ns);
	case OPTION_SCHED:
		return parse_sched(optarg, &filter->sched);
	case OPTION_CLIENT:
		if (filter->n_client_paths == KERNEL_PATHS_MAX)
			return false;
		filter->client_paths[filter->n_client_paths++] = optarg;
		return true;
	default: /* OPTION_KERNEL, OPTION_SOURCE */
		return true;
	}
}

int kernel_parse(const struct options *options, int argc, char **argv, struct kernel_filter *filter)
{
	int c;

	opterr = 0;
	optind = 0; /* getopt begins anew: main() was here before */
	while ((c = getopt_long(argc, argv, "m:c:d:n:", long_options, NULL)) != -1) {
		if (c == '?')
			return fail(options, EXIT_USAGE, "%s: what is that? Try shmctl %s --help", argv[optind - 1],
				    options->command);
		if (!take(filter, c))
			return fail(options, EXIT_USAGE, "\"%s\" does not fit; try shmctl %s --help", optarg,
				    options->command);
	}
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: what is that? Try shmctl %s --help", argv[optind], options->command);
	return EXIT_OK;
}
