/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_shm_region.c - what a sealed region refuses, to everybody: new writable mappings, mprotect, write, truncate, holes,
 * and the way around through /proc/self/fd. And what must still work: mappings made before, reading.
 */
#define _GNU_SOURCE 1
#include "shm/layout.h"
#include "shm/region.h"
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES (16u * INF_PAGE)

static int fd;
static uint8_t *writable;

static void setup(void)
{
	void *address = NULL;

	fd = inf_region_create("test", BYTES);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(inf_region_map(fd, BYTES, true, 0, &address), 0);
	writable = address;
}

static void teardown(void)
{
	inf_region_unmap(writable, BYTES, 0);
	close(fd);
}

static void reopen(int flags, int *ret_fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	*ret_fd = open(path, flags | O_CLOEXEC);
}

/* Every way to get a changing hand on a region, through one descriptor. */
static void assert_unwritable(int through)
{
	const int ways[] = { MAP_SHARED, MAP_SHARED_VALIDATE };
	uint8_t *map;

	for (unsigned int i = 0; i < 2; i++) {
		map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, ways[i], through, 0);
		ck_assert_ptr_eq(map, MAP_FAILED);
		map = mmap(NULL, BYTES, PROT_WRITE, ways[i], through, 0);
		ck_assert_ptr_eq(map, MAP_FAILED);
	}
	map = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, through, 0);
	ck_assert_ptr_ne(map, MAP_FAILED);
	ck_assert_int_lt(mprotect(map, BYTES, PROT_READ | PROT_WRITE), 0);
	ck_assert_int_lt(mprotect(map, INF_PAGE, PROT_WRITE), 0);
	ck_assert_int_lt(madvise(map, BYTES, MADV_REMOVE), 0);
	munmap(map, BYTES);
	ck_assert_int_lt(write(through, "x", 1), 0);
	ck_assert_int_lt(pwrite(through, "x", 1, INF_PAGE), 0);
	ck_assert_int_lt(fallocate(through, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, INF_PAGE), 0);
	ck_assert_int_lt(fallocate(through, FALLOC_FL_ZERO_RANGE, 0, INF_PAGE), 0);
	ck_assert_int_lt(ftruncate(through, 0), 0);
	ck_assert_int_lt(ftruncate(through, BYTES - INF_PAGE), 0);
	ck_assert_int_lt(ftruncate(through, BYTES + INF_PAGE), 0);
	ck_assert_int_lt(fcntl(through, F_ADD_SEALS, F_SEAL_WRITE), 0);
}

START_TEST(created)
{
	struct stat status;
	int seals = fcntl(fd, F_GET_SEALS);

	ck_assert_int_eq(fstat(fd, &status), 0);
	ck_assert_uint_eq((uint64_t)status.st_size, BYTES);
	ck_assert_uint_eq(status.st_mode & 07777, 0600);
	ck_assert_int_eq(seals & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
	ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	ck_assert_int_lt(ftruncate(fd, 0), 0);
	ck_assert_int_lt(ftruncate(fd, 2 * BYTES), 0);
	ck_assert_int_eq(inf_region_check_received(fd, BYTES, false), 0);
	ck_assert_int_eq(inf_region_check_received(fd, BYTES, true), -EBADF);
	ck_assert_int_eq(inf_region_check_received(fd, BYTES + INF_PAGE, false), -EBADF);
}
END_TEST

START_TEST(bad_sizes)
{
	const uint64_t sizes[] = { 0, 1, INF_PAGE - 1, INF_PAGE + 1, UINT64_MAX, UINT64_MAX - INF_PAGE + 1, 1ull << 63 };
	void *address = &address;

	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		ck_assert_int_lt(inf_region_create("test", sizes[i]), 0);
		ck_assert_int_lt(inf_region_map(fd, sizes[i], true, 0, &address), 0);
		ck_assert_ptr_eq(address, &address);
	}
}
END_TEST

START_TEST(round_up)
{
	ck_assert_uint_eq(inf_region_round(0), 0);
	ck_assert_uint_eq(inf_region_round(1), INF_PAGE);
	ck_assert_uint_eq(inf_region_round(INF_PAGE), INF_PAGE);
	ck_assert_uint_eq(inf_region_round(INF_PAGE + 1), 2 * INF_PAGE);
	ck_assert_uint_eq(inf_region_round(UINT64_MAX - INF_PAGE + 1), UINT64_MAX - INF_PAGE + 1);
	ck_assert_uint_eq(inf_region_round(UINT64_MAX - INF_PAGE + 2), 0);
	ck_assert_uint_eq(inf_region_round(UINT64_MAX), 0);
}
END_TEST

START_TEST(sealed)
{
	int through;

	memset(writable, 7, BYTES);
	ck_assert_int_eq(inf_region_close_writes(fd), 0);
	ck_assert_int_eq(inf_region_check_received(fd, BYTES, true), 0);
	assert_unwritable(fd);

	/* The way around: an own description of the same file, also one opened for writing. */
	reopen(O_RDONLY, &through);
	ck_assert_int_ge(through, 0);
	ck_assert_ptr_eq(mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, through, 0), MAP_FAILED);
	close(through);
	reopen(O_RDWR, &through);
	if (through >= 0) {
		assert_unwritable(through);
		close(through);
	}
	reopen(O_RDWR | O_TRUNC, &through);
	ck_assert_int_lt(through, 0);

	/* What was mapped before stays writable, and nothing above changed a byte. */
	for (uint32_t i = 0; i < BYTES; i++)
		ck_assert_uint_eq(writable[i], 7);
	writable[5] = 9;
	ck_assert_int_lt(madvise(writable, BYTES, MADV_REMOVE), 0);
	ck_assert_uint_eq(writable[5], 9);
}
END_TEST

/* A hand raised again: read-only for a while, writable again. Only the writer's own old mapping can do that. */
START_TEST(old_mapping)
{
	ck_assert_int_eq(inf_region_close_writes(fd), 0);
	ck_assert_int_eq(mprotect(writable, BYTES, PROT_READ), 0);
	ck_assert_int_eq(mprotect(writable, BYTES, PROT_READ | PROT_WRITE), 0);
	ck_assert_int_lt(inf_region_close_writes(STDIN_FILENO), 0);
}
END_TEST

START_TEST(seal_twice)
{
	ck_assert_int_eq(inf_region_close_writes(fd), 0);
	ck_assert_int_eq(inf_region_close_writes(fd), -EPERM);
}
END_TEST

START_TEST(populated)
{
	ck_assert_int_eq(inf_region_check_populated(fd, BYTES), -ENODATA);
	writable[0] = 1;
	writable[BYTES - 1] = 1;
	ck_assert_int_eq(inf_region_check_populated(fd, BYTES), -ENODATA);
	ck_assert_int_eq(inf_region_populate(writable, BYTES, true), 0);
	ck_assert_int_eq(inf_region_check_populated(fd, BYTES), 0);
	ck_assert_uint_eq(writable[0], 1);
	ck_assert_int_eq(inf_region_check_populated(fd, BYTES - INF_PAGE), -ENODATA);
	ck_assert_int_eq(inf_region_check_populated(-1, BYTES), -EBADF);
}
END_TEST

/* A hole punched between "populated" and the seal stays, and is found after it. */
START_TEST(hole)
{
	ck_assert_int_eq(inf_region_populate(writable, BYTES, true), 0);
	ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * INF_PAGE, INF_PAGE), 0);
	ck_assert_int_eq(inf_region_close_writes(fd), 0);
	ck_assert_int_eq(inf_region_check_populated(fd, BYTES), -ENODATA);
}
END_TEST

START_TEST(populate_for_reading)
{
	void *address;

	ck_assert_int_eq(inf_region_populate(writable, BYTES, true), 0);
	ck_assert_int_eq(inf_region_close_writes(fd), 0);
	ck_assert_int_eq(inf_region_map(fd, BYTES, false, 0, &address), 0);
	ck_assert_int_eq(inf_region_populate(address, BYTES, false), 0);
	ck_assert_int_lt(inf_region_populate(address, BYTES, true), 0);
	inf_region_unmap(address, BYTES, 0);
}
END_TEST

START_TEST(mapping_is_aligned)
{
	for (unsigned int below = 0; below < 2; below++) {
		void *maps[8];

		for (unsigned int i = 0; i < 8; i++) {
			ck_assert_int_eq(inf_region_map(fd, BYTES, true, below, &maps[i]), 0);
			ck_assert_uint_eq((uint64_t)(uintptr_t)maps[i] % INF_MAP_ALIGN, 0);
			*((uint8_t *)maps[i] + BYTES - 1) = (uint8_t)i;
			ck_assert_uint_eq(writable[BYTES - 1], i);
			/* The page below is private and writable; it is not the region's last one. */
			if (below)
				memset((uint8_t *)maps[i] - INF_PAGE, 0x55, INF_PAGE);
			ck_assert_uint_eq(writable[BYTES - 1], i);
		}
		for (unsigned int i = 0; i < 8; i++)
			inf_region_unmap(maps[i], BYTES, below);
	}
	inf_region_unmap(NULL, BYTES, 0);
}
END_TEST

/* Unmapping leaves nothing, mapping leaves nothing more than was asked for: reservations are trimmed. */
START_TEST(no_address_space_is_left)
{
	unsigned char resident;
	void *address;

	ck_assert_int_eq(inf_region_map(fd, BYTES, true, 1, &address), 0);
	ck_assert_int_eq(mincore((uint8_t *)address - INF_PAGE, INF_PAGE, &resident), 0);
	ck_assert_int_lt(mincore((uint8_t *)address + BYTES, INF_PAGE, &resident), 0);
	inf_region_unmap(address, BYTES, 1);
	ck_assert_int_lt(mincore((uint8_t *)address - INF_PAGE, INF_PAGE, &resident), 0);
	ck_assert_int_lt(mincore(address, INF_PAGE, &resident), 0);
}
END_TEST

START_TEST(map_refused)
{
	void *address = &address;

	ck_assert_int_eq(inf_region_close_writes(fd), 0);
	ck_assert_int_eq(inf_region_map(fd, BYTES, true, 1, &address), -EPERM);
	ck_assert_int_eq(inf_region_map(-1, BYTES, false, 0, &address), -EBADF);
	ck_assert_ptr_eq(address, &address);
}
END_TEST

/* What is no sealed memfd is not taken for one. */
START_TEST(foreign)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int plain_fd = memfd_create("plain", MFD_CLOEXEC);

	ck_assert_int_lt(inf_region_check_received(null_fd, BYTES, false), 0);
	ck_assert_int_eq(ftruncate(plain_fd, BYTES), 0);
	ck_assert_int_eq(inf_region_check_received(plain_fd, BYTES, false), -EBADF);
	ck_assert_int_lt(inf_region_close_writes(plain_fd), 0);
	close(null_fd);
	close(plain_fd);
}
END_TEST

Suite *suite_shm_region(void);
Suite *suite_shm_region(void)
{
	Suite *suite = suite_create("shm_region");
	TCase *tcase = tcase_create("region");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, created);
	tcase_add_test(tcase, bad_sizes);
	tcase_add_test(tcase, round_up);
	tcase_add_test(tcase, sealed);
	tcase_add_test(tcase, old_mapping);
	tcase_add_test(tcase, seal_twice);
	tcase_add_test(tcase, populated);
	tcase_add_test(tcase, hole);
	tcase_add_test(tcase, populate_for_reading);
	tcase_add_test(tcase, mapping_is_aligned);
	tcase_add_test(tcase, no_address_space_is_left);
	tcase_add_test(tcase, map_refused);
	tcase_add_test(tcase, foreign);
	suite_add_tcase(suite, tcase);
	return suite;
}
