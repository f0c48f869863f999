/* SPDX-License-Identifier: Apache-2.0 */
/* kick.c - `shmctl kick SESSION`: ends one client's connection. */
#define _GNU_SOURCE 1
#include "shm/control.h"
#include "tools/shmctl/operator.h"
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

static const struct command_option own_options[] = {
	{ 0, "yes", NULL, "does not ask" },
	{ 0 },
};

static int run(const struct options *options, int argc, char **argv)
{
	char question[128];
	uint32_t session = 0, in_flight;
	bool yes = false;
	int r;

	while ((r = next_option(options, &command_kick, argc, argv)) != OPTIONS_END) {
		if (r == OPTIONS_BAD)
			return EXIT_USAGE;
		yes = true;
	}
	if (optind == argc)
		return fail(options, EXIT_USAGE, "which session? shmctl sessions lists them");
	if (optind + 1 < argc)
		return fail(options, EXIT_USAGE, "%s: one session at a time; try shmctl kick --help", argv[optind + 1]);
	if (!parse_session(argv[optind], &session))
		return fail(options, EXIT_USAGE, "%s: that is no session; shmctl sessions lists them", argv[optind]);
	snprintf(question, sizeof(question), "Session %" PRIu32 " ends, its requests are lost. Go on?", session);
	r = confirm(options, yes, question);
	if (r == EXIT_OK)
		r = operate(options, INF_OPERATION_KICK, session, &in_flight);
	if (r != EXIT_OK)
		return r;
	if (options->json)
		return print_json(options, "kick", json_pack("{s:I}", "session", (json_int_t)session));
	printf("session %" PRIu32 " has ended\n", session);
	return EXIT_OK;
}

const struct command command_kick = {
	.name = "kick",
	.summary = "end a session",
	.usage = "Usage: shmctl kick SESSION [--yes] [-j]\n"
		 "Ends that session, as if it had broken the protocol: its client gets BROKER_LOST, and may connect anew. Sessions of\n"
		 "your own; for the broker's user and root all. Asks on a terminal, wants --yes elsewhere.\n",
	.run = run,
	.arguments = "SESSION",
	.options = own_options,
};
