/* SPDX-License-Identifier: Apache-2.0 */
/* version.c - `shmctl version`: what this shmctl is, and what it understands. */
#include "shm/control.h"
#include "shm/stats.h"
#include "tools/shmctl/shmctl.h"
#include <inf/version.h>
#include <stdio.h>

/* What a broker and this library can agree on. */
static const struct {
	uint64_t bit;
	const char *name;
} features[] = {
	{ INF_FEATURE_EXT, "extension-blocks" },
	{ INF_FEATURE_EVENT_FD, "event-fd" },
	{ INF_FEATURE_DEVICE, "device-memory" },
	{ INF_FEATURE_IMPORT, "device-import" },
};
#define N_FEATURES (sizeof(features) / sizeof(features[0]))

/* How it was compiled, where that is out of the ordinary. */
static const char *const builds[] = {
#ifdef __SANITIZE_ADDRESS__
	"address-sanitizer",
#endif
#ifdef __SANITIZE_THREAD__
	"thread-sanitizer",
#endif
#ifdef INF_MUTATE
	"mutated",
#endif
#ifdef __OPTIMIZE__
	"optimized",
#endif
	NULL,
};

static int print_as_json(const struct options *options)
{
	json_t *agreed = json_array(), *built = json_array();

	for (size_t i = 0; i < N_FEATURES; i++)
		if (INF_FEATURES_ALL & features[i].bit)
			json_array_append_new(agreed, json_string(features[i].name));
	for (size_t i = 0; builds[i]; i++)
		json_array_append_new(built, json_string(builds[i]));
	return print_json(options, "version",
			  json_pack("{s:s, s:s, s:{s:i, s:i}, s:i, s:o, s:{s:s, s:o}}", "version", INF_VERSION_STRING, "library",
				    inf_version(), "protocol", "min", (int)INF_CTL_VERSION_MIN, "max", (int)INF_CTL_VERSION,
				    "statistics_version", (int)INF_STATS_VERSION, "features", agreed, "build", "compiler", __VERSION__,
				    "flags", built));
}

static int run(const struct options *options, int argc, char **argv)
{
	int r = no_arguments(options, argc, argv);

	if (r)
		return r;
	if (options->json)
		return print_as_json(options);
	printf("shmctl      %s\nlibinfclient %s\nprotocol    %u to %u\nstatistics  %u\nfeatures   ", INF_VERSION_STRING, inf_version(),
	       INF_CTL_VERSION_MIN, INF_CTL_VERSION, INF_STATS_VERSION);
	for (size_t i = 0; i < N_FEATURES; i++)
		printf(" %s", features[i].name);
	printf("\nbuilt       by %s", __VERSION__);
	for (size_t i = 0; builds[i]; i++)
		printf(", %s", builds[i]);
	putchar('\n');
	return EXIT_OK;
}

const struct command command_version = {
	.name = "version",
	.summary = "versions of this shmctl, and of what it understands",
	.usage = "Usage: shmctl version [-j]\n"
		 "The release; of which versions of the protocol and of the statistics files it is; what it can agree on with a broker;\n"
		 "how it was built. Asks nobody: shmctl doctor compares with a running broker.\n",
	.run = run,
};
