/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mutate.c - test builds only (-DINF_MUTATE): INF_DROP_FENCES="client_publish,front_park,..." removes fences of the
 * wake protocol, so that a test can show that it notices. An ordinary build has nothing of this.
 */
#ifdef INF_MUTATE
#include "shm/atomics.h"
#include <stdlib.h>
#include <string.h>

unsigned int inf_dropped_fences;

static const struct {
	const char *name;
	enum inf_fence_name fence;
} fences[] = {
	{ "client_publish", INF_FENCE_CLIENT_PUBLISH },
	{ "front_park", INF_FENCE_FRONT_PARK },
	{ "lane_retire", INF_FENCE_LANE_RETIRE },
	{ "executor_publish", INF_FENCE_EXECUTOR_PUBLISH },
	{ "front_complete", INF_FENCE_FRONT_COMPLETE },
	{ "client_park", INF_FENCE_CLIENT_PARK },
	{ "front_dispatch", INF_FENCE_FRONT_DISPATCH },
	{ "executor_park", INF_FENCE_EXECUTOR_PARK },
};

/* A misspelt name would make a mutation test pass for nothing: abort. */
static unsigned int find(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof(fences) / sizeof(fences[0]); i++)
		if (strlen(fences[i].name) == n && !strncmp(name, fences[i].name, n))
			return (unsigned int)fences[i].fence;
	abort();
}

__attribute__((constructor)) static void drop_fences(void)
{
	const char *at = getenv("INF_DROP_FENCES");

	while (at && *at) {
		size_t n = strcspn(at, ",");

		if (n)
			inf_dropped_fences |= find(at, n);
		at += n + (at[n] == ',');
	}
}
#else
typedef int inf_nothing_to_mutate; /* ISO C wants something in a file */
#endif
