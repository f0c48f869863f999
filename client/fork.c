/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork.c - what a forked child sees: a clean error from each call, and its parent's input memory.
 *
 * The kernel zeroes the guard page in the child (MADV_WIPEONFORK), so every call can tell with one
 * load, without pthread_atfork handlers, and also after a bare clone(). The rings are not there at
 * all in the child (MADV_DONTFORK): a child cannot write what only the parent may write. Arenas and
 * outputs are inherited, so that what points into them (array views of a binding) stays readable.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include <errno.h>
#include <sys/mman.h>

const uint64_t *infc_fork_guard_new(void)
{
	uint64_t *guard =
		mmap(NULL, INF_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (guard == MAP_FAILED)
		return NULL;
	if (madvise(guard, INF_PAGE, MADV_WIPEONFORK)) {
		munmap(guard, INF_PAGE);
		return NULL;
	}
	*guard = INFC_ALIVE;
	return guard;
}

void infc_fork_guard_free(const uint64_t *guard)
{
	if (guard)
		munmap((void *)(uintptr_t)guard, INF_PAGE);
}

int infc_fork_hide_rings(struct inf_client *client)
{
	if (madvise(client->request, INF_ARENA_OFFSET, MADV_DONTFORK))
		return -errno;
	if (madvise((void *)(uintptr_t)client->response, INF_RESPONSE_BYTES, MADV_DONTFORK))
		return -errno;
	return 0;
}
