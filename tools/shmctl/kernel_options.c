/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_options.c - what `trace --kernel` and `latency --source bpf` take. */
#include "tools/shmctl/kernel.h"
#include <string.h>

int kernel_take_sched(const struct options *options, struct kernel_filter *filter, const char *text)
{
	static const char *const words[] = {
		[KERNEL_SCHED_BTF] = "btf", [KERNEL_SCHED_TRACEPOINT] = "tracepoint", [KERNEL_SCHED_NONE] = "none"
	};

	for (unsigned int i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(text, words[i])) {
			filter->sched = (enum kernel_sched)i;
			filter->is_asked = true;
			return EXIT_OK;
		}
	return fail(options, EXIT_USAGE, "--sched takes btf, tracepoint or none, not \"%s\"", text);
}

int kernel_take_client(const struct options *options, struct kernel_filter *filter, const char *path)
{
	if (filter->n_client_paths == KERNEL_PATHS_MAX)
		return fail(options, EXIT_USAGE, "--client: at most %u files", KERNEL_PATHS_MAX);
	filter->client_paths[filter->n_client_paths++] = path;
	filter->is_asked = true;
	return EXIT_OK;
}
