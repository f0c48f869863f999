/* SPDX-License-Identifier: Apache-2.0 */
/*
 * region.h - sealed memfds: creating, sealing, checking, mapping.
 *
 * All memory is created, sized and sealed by the front. A seal that does not hold is an error, never a
 * warning. Which seals, and when, is what makes "read-only to the client" true (a sealed fd refuses
 * every new writable mapping, mprotect, write and punch, to the same uid and to root as well):
 *   request:  create SHRINK|GROW -> client maps and populates -> inf_region_close_writes() -> check blocks
 *   response, dispatch: front maps RW -> inf_region_close_writes() -> the reader gets it
 *   output, done: executor maps RW -> inf_region_close_writes() -> the client gets it
 */
#ifndef INF_SHM_REGION_H
#define INF_SHM_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Creates a memfd of `bytes` (page multiple), CLOEXEC, no-exec where the kernel has it, mode 0600,
 * sealed against SHRINK and GROW. Returns the fd or a negative errno.
 */
int inf_region_create(const char *name, uint64_t bytes);

/* Adds FUTURE_WRITE and SEAL: mappings that exist stay writable, no new one can be. 0 or -errno. */
int inf_region_close_writes(int fd);

/*
 * Checks, after inf_region_close_writes(), that every page was populated by its user (a page that is
 * missing would be charged to, or fault in, the reader). 0, -ENODATA where pages are missing, -errno.
 */
int inf_region_check_populated(int fd, uint64_t bytes);

/* For a receiver: size and seals are as promised (`read_only`: FUTURE_WRITE too). 0, -EBADF, -errno. */
int inf_region_check_received(int fd, uint64_t bytes, bool read_only);

/*
 * Maps a region at a multiple of INF_MAP_ALIGN with `pages_below` private writable pages directly below
 * it (0 or 1: the front's robust-list nodes). Returns 0 and the address, or a negative errno.
 */
int inf_region_map(int fd, uint64_t bytes, bool writable, unsigned int pages_below, void **ret_address);

/* Unmaps what inf_region_map() mapped. NULL is allowed. */
void inf_region_unmap(void *address, uint64_t bytes, unsigned int pages_below);

/* Faults all pages in (MADV_POPULATE_*, by touching where the kernel is older). 0 or -errno. */
int inf_region_populate(void *address, uint64_t bytes, bool writable);

/* `bytes` rounded up to pages; 0 on overflow. */
uint64_t inf_region_round(uint64_t bytes);

#endif /* INF_SHM_REGION_H */
