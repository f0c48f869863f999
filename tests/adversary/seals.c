/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seals.c - a client that wants more of its memory than it was given.
 *
 * At every step of the handshake it tries all known ways to write, cut, or hole the regions that it
 * may only read, and to cut or hole its own; a second thread tries meanwhile to reach into front and
 * executor (their descriptors, their memory) as a process of the same user could, to catch a region
 * before it is sealed. Holes punched into the own region before the seal must end the session.
 *
 * Usage: seals SOCKET ROUNDS FRONT_PID EXECUTOR_PID, as the broker's user but not as root.
 */
#define _GNU_SOURCE 1
#include "shm/layout.h"
#include "tests/support/raw.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS_TRIED 32

static unsigned long n_tries, n_thefts, n_failed;
static bool stop, punch;
static pid_t victims[2];

__attribute__((format(printf, 1, 2))) static void not_ok(const char *format, ...)
{
	va_list args;

	n_failed++;
	fputs("NOT OK - ", stdout);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

/* --- what a descriptor must not allow --- */

static bool maps(int fd, int prot)
{
	void *map = mmap(NULL, INF_PAGE, prot, MAP_SHARED, fd, 0);

	if (map != MAP_FAILED)
		munmap(map, INF_PAGE);
	return map != MAP_FAILED;
}

static bool becomes_writable(int fd)
{
	void *map = mmap(NULL, INF_PAGE, PROT_READ, MAP_SHARED, fd, 0);
	bool ok = map != MAP_FAILED && mprotect(map, INF_PAGE, PROT_READ | PROT_WRITE) == 0;

	if (map != MAP_FAILED)
		munmap(map, INF_PAGE);
	return ok;
}

static bool writes(int fd)
{
	char byte = 1;

	return pwrite(fd, &byte, 1, 0) == 1;
}

static bool reopened_writes(int fd)
{
	char path[64];
	int again;
	bool ok;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	ok = again >= 0 && (maps(again, PROT_READ | PROT_WRITE) || writes(again));
	if (again >= 0)
		close(again);
	return ok;
}

static bool cut(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 || ftruncate(fd, 0) == 0 || ftruncate(fd, st.st_size / 2) == 0 ||
	       ftruncate(fd, st.st_size * 2) == 0;
}

static bool holed(int fd)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, INF_PAGE) == 0 ||
	       fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, INF_PAGE) == 0;
}

static void want(bool happened, const char *what, enum inf_region_kind kind, enum raw_step step)
{
	n_tries++;
	if (happened)
		not_ok("region of kind %d, step %d: %s", (int)kind, (int)step, what);
}

static void attack(enum inf_region_kind kind, enum raw_step step, int fd)
{
	bool own = kind == INF_REGION_REQUEST, sealed = !own || step == RAW_READY;
	struct stat st;

	want(cut(fd), "its size was changed", kind, step);
	if (sealed) {
		want(maps(fd, PROT_READ | PROT_WRITE), "a new writable mapping", kind, step);
		want(maps(fd, PROT_WRITE), "a new write-only mapping", kind, step);
		want(becomes_writable(fd), "mprotect made it writable", kind, step);
		want(writes(fd), "pwrite", kind, step);
		want(reopened_writes(fd), "writable through /proc/self/fd", kind, step);
		want(holed(fd), "a hole was punched", kind, step);
		want(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0, "a seal was added", kind, step);
		want(fstat(fd, &st) < 0 || st.st_blocks * 512 < st.st_size, "it has holes", kind,
		     step);
	} else if (punch && (step == RAW_POPULATED || step == RAW_MAPPED)) {
		(void)holed(fd); /* before the seal it may; the front must notice */
	}
}

/* --- what a process of the same user must not reach --- */

static void stolen(const char *how, pid_t pid)
{
	n_thefts++;
	not_ok("process %d: %s", (int)pid, how);
}

static void reach_into(pid_t pid)
{
	char path[64], byte = 0;
	struct iovec to = { &byte, 1 }, from = { &byte, 1 };
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), fd;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (dir) {
		closedir(dir);
		stolen("its descriptors can be listed", pid);
	}
	for (int i = 0; i < FDS_TRIED; i++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, i);
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			close(fd);
			stolen("a descriptor was opened", pid);
		}
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, i, 0);
		if (fd >= 0) {
			close(fd);
			stolen("a descriptor was copied", pid);
		}
		n_tries += 2;
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		close(fd);
		stolen("its memory was opened", pid);
	}
	if (process_vm_writev(pid, &to, 1, &from, 1, 0) >= 0 || errno != EPERM)
		stolen("its memory can be written", pid);
	n_tries += 3;
	if (pidfd >= 0)
		close(pidfd);
}

static void *thief(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		for (int i = 0; i < 2; i++)
			reach_into(victims[i]);
	return arg;
}

int main(int argc, char **argv)
{
	unsigned long n_rounds, n_ended = 0;
	pthread_t thread;

	if (argc != 5 || geteuid() == 0)
		return fprintf(stderr, "seals: not as root, and with four arguments\n"), 2;
	n_rounds = strtoul(argv[2], NULL, 10);
	victims[0] = (pid_t)strtol(argv[3], NULL, 10);
	victims[1] = (pid_t)strtol(argv[4], NULL, 10);
	raw_region_hook = attack;
	if (pthread_create(&thread, NULL, thief, NULL))
		return 1;
	for (unsigned long i = 0; i < n_rounds; i++) {
		struct raw raw;
		int r;

		punch = i % 4 == 3;
		r = raw_open(&raw, argv[1]);
		if (!r)
			r = raw_model(&raw, "identity_f32", 512); /* more arena, and outputs */
		if (r && punch)
			n_ended++;
		else if (r)
			not_ok("round %lu: %s", i, strerror(r < 0 ? -r : EPROTO));
		raw_close(&raw);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	if (!n_ended && n_rounds >= 4)
		not_ok("no session ended for a hole that was punched before the seal");
	printf("%lu tries in %lu sessions, %lu of them ended for their holes, %lu thefts\n",
	       n_tries, n_rounds, n_ended, n_thefts);
	printf("%d passed, %lu failed, 0 skipped\n", n_failed == 0, n_failed);
	return n_failed > 0;
}
