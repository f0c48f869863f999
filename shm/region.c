/* SPDX-License-Identifier: Apache-2.0 */
/* region.c - sealed memfds. A seal that does not hold is an error. */
#define _GNU_SOURCE 1
#include "shm/region.h"
#include "shm/layout.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

uint64_t inf_region_round(uint64_t bytes)
{
	if (bytes > UINT64_MAX - (INF_PAGE - 1))
		return 0;
	return (bytes + INF_PAGE - 1) & ~(uint64_t)(INF_PAGE - 1);
}

static int add_seals(int fd, int seals)
{
	if (fcntl(fd, F_ADD_SEALS, seals) < 0)
		return -errno;

	int have = fcntl(fd, F_GET_SEALS);

	if (have < 0)
		return -errno;
	return (have & seals) == seals ? 0 : -EBADF;
}

int inf_region_create(const char *name, uint64_t bytes)
{
	int fd, r;

	if (!bytes || bytes % INF_PAGE || bytes > INT64_MAX)
		return -EINVAL;
	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	r = ftruncate(fd, (off_t)bytes) < 0 || fchmod(fd, 0600) < 0 ? -errno : 0;
	if (!r)
		r = add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW);
	if (r) {
		close(fd);
		return r;
	}
	return fd;
}

int inf_region_close_writes(int fd)
{
	return add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
}

int inf_region_check_populated(int fd, uint64_t bytes)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return -errno;
	return (uint64_t)status.st_size == bytes && (uint64_t)status.st_blocks * 512 >= bytes ? 0 : -ENODATA;
}

int inf_region_check_received(int fd, uint64_t bytes, bool read_only)
{
	int wanted = F_SEAL_SHRINK | F_SEAL_GROW | (read_only ? F_SEAL_FUTURE_WRITE | F_SEAL_SEAL : 0);
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat status;

	if (seals < 0 || fstat(fd, &status) < 0)
		return -errno;
	return (seals & wanted) == wanted && (uint64_t)status.st_size == bytes ? 0 : -EBADF;
}

/* Address space for `below` bytes and a multiple of INF_MAP_ALIGN right above them; returns where `below` starts. */
static uint8_t *reserve(uint64_t bytes, uint64_t below)
{
	uint64_t span = bytes + below + INF_MAP_ALIGN;
	uint8_t *base = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return NULL;

	uint64_t at = ((uint64_t)(uintptr_t)base + below + INF_MAP_ALIGN - 1) & ~(uint64_t)(INF_MAP_ALIGN - 1);
	uint8_t *start = base + (at - below - (uint64_t)(uintptr_t)base);
	uint8_t *end = start + below + bytes;

	if (start > base)
		munmap(base, (size_t)(start - base));
	if (base + span > end)
		munmap(end, (size_t)(base + span - end));
	return start;
}

int inf_region_map(int fd, uint64_t bytes, bool writable, unsigned int pages_below, void **ret_address)
{
	uint64_t below = (uint64_t)pages_below * INF_PAGE;
	int prot = PROT_READ | (writable ? PROT_WRITE : 0);
	uint8_t *start;

	if (!bytes || bytes % INF_PAGE || bytes > UINT64_MAX / 4)
		return -EINVAL;
	start = reserve(bytes, below);
	if (!start)
		return -ENOMEM;
	if (mmap(start + below, bytes, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
	    (below && mprotect(start, below, PROT_READ | PROT_WRITE) < 0)) {
		int error = -errno;

		munmap(start, below + bytes);
		return error;
	}
	*ret_address = start + below;
	return 0;
}

void inf_region_unmap(void *address, uint64_t bytes, unsigned int pages_below)
{
	uint64_t below = (uint64_t)pages_below * INF_PAGE;

	if (address)
		munmap((uint8_t *)address - below, bytes + below);
}

int inf_region_populate(void *address, uint64_t bytes, bool writable)
{
	int advice = writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
	volatile uint8_t *byte = address;
	int r;

	do {
		r = madvise(address, bytes, advice);
	} while (r < 0 && errno == EINTR);
	if (!r)
		return 0;
	r = -errno;
	/* EINVAL may also be about these pages; for no bytes at all it is about the advice alone. */
	if (r != -EINVAL || !madvise(address, 0, advice))
		return r;
	/* Before Linux 5.14: touch each page; the old value goes back, so this is no write that anyone could see. */
	for (uint64_t at = 0; at < bytes; at += INF_PAGE) {
		uint8_t value = byte[at];

		if (writable)
			byte[at] = value;
	}
	return 0;
}
