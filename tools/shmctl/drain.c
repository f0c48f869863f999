/* SPDX-License-Identifier: Apache-2.0 */
/* drain.c - `shmctl drain` and `shmctl resume`: no new requests, and again. */
#define _GNU_SOURCE 1
#include "shm/control.h"
#include "tools/shmctl/operator.h"
#include "tools/shmctl/stats.h"
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

static int print_done(const struct options *options, const char *state, uint32_t in_flight)
{
	if (options->json)
		return print_json(options, options->command,
				  json_pack("{s:s, s:I}", "state", state, "in_flight", (json_int_t)in_flight));
	printf("%s, %" PRIu32 " request(s) in flight\n", state, in_flight);
	return EXIT_OK;
}

/* Nothing in flight any more: by the broker's own word, asked for anew. */
static int wait_for_none(const struct options *options, uint32_t *in_flight)
{
	uint64_t until_ns = timeout_ns(options);
	int r = EXIT_OK;

	while (r == EXIT_OK && *in_flight > 0) {
		if (monotonic_ns() >= until_ns)
			return fail(options, EXIT_TIMED_OUT, "%" PRIu32 " request(s) are still in flight; new ones are refused", *in_flight);
		pause_briefly();
		r = operate(options, INF_OPERATION_DRAIN, 0, in_flight);
	}
	return r;
}

enum { OPTION_WAIT, OPTION_YES };
static const struct command_option drain_options[] = {
	[OPTION_WAIT] = { 0, "wait", NULL, "waits until nothing is in flight, at most --timeout" },
	[OPTION_YES] = { 0, "yes", NULL, "does not ask" },
	{ 0 },
};

static int run_drain(const struct options *options, int argc, char **argv)
{
	bool yes = false, wait = false;
	uint32_t in_flight = 0;
	int r;

	while ((r = next_option(options, &command_drain, argc, argv)) != OPTIONS_END) {
		if (r == OPTIONS_BAD)
			return EXIT_USAGE;
		wait |= r == OPTION_WAIT;
		yes |= r == OPTION_YES;
	}
	if (optind < argc)
		return fail(options, EXIT_USAGE, "%s: drain takes no argument", argv[optind]);
	r = confirm(options, yes, "All new requests, of all clients, will be refused. Go on?");
	if (r == EXIT_OK)
		r = operate(options, INF_OPERATION_DRAIN, 0, &in_flight);
	if (r == EXIT_OK && wait)
		r = wait_for_none(options, &in_flight);
	return r == EXIT_OK ? print_done(options, "drains", in_flight) : r;
}

static int run_resume(const struct options *options, int argc, char **argv)
{
	uint32_t in_flight = 0;
	int r;

	r = no_arguments(options, argc, argv);
	if (r)
		return r;
	r = operate(options, INF_OPERATION_RESUME, 0, &in_flight);
	return r == EXIT_OK ? print_done(options, "serves", in_flight) : r;
}

const struct command command_drain = {
	.name = "drain",
	.summary = "refuse new requests until resume; what is in flight ends",
	.usage = "Usage: shmctl drain [--wait] [--yes] [-j]\n"
		 "From now on every new request of every client gets BUSY; sessions stay. For the broker's user and root. Asks on a\n"
		 "terminal, wants --yes elsewhere.\n",
	.run = run_drain,
	.options = drain_options,
};

const struct command command_resume = {
	.name = "resume",
	.summary = "serve again after drain",
	.usage = "Usage: shmctl resume [-j]\n"
		 "New requests are accepted again. For the broker's user and root.\n",
	.run = run_resume,
};
