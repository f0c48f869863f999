/* SPDX-License-Identifier: Apache-2.0 */
/*
 * floors.c - what the machine itself charges: the bare exchanges that each row of `make bench` is
 * compared with.
 *
 * Usage: floors NAME [--cpus A,B] [--ms M] [--bytes N] [--blocks N]
 *	line	    two threads answer each other, each writing a cache line that the other spins on
 *	eventfd	    two processes wake each other by eventfd
 *	relay	    three processes, client -> front -> executor -> front -> client, by eventfd
 *	relay-spin  the same by shared words, with the wait rules of the broker: the client pauses for
 *		    2 us, then yields; the front pauses while nothing is handed on and yields while
 *		    something is; the executor yields
 *	memcpy	    one block of N bytes after another, from one set of blocks to another; prints
 *		    ns per block
 *	spawn	    fork and exec of /bin/true, until it is buried
 *	wakes	    a process writes N eventfds, on each of which a process sleeps (--blocks N)
 *
 * --cpus: the parties stand on A, B, A ...; otherwise where the kernel puts them. Prints one line of
 * JSON: n, p50_ns, p99_ns, mean_ns.
 */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "tests/support/samples.h"
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAMPLES_MAX (1u << 21)
#define CHUNK	    64u /* exchanges between two looks at the clock, where one costs as much as an exchange */
#define PAUSE_NS    2000u
#define WARM_UP	    20u
#define SETTLE_NS   150000000u /* the kernel moves one of three spinners that started on one core */
#define SAMPLES_MIN 30u /* two of three on one core may take some ms for each */

struct word {
	uint64_t v __attribute__((aligned(128)));
};

static int cpus[2] = { -1, -1 };
static uint64_t ms = 200, bytes = 600000, n_blocks = 32;
static struct samples samples;
static struct word *words; /* shared by all parties */

static uint64_t until(void)
{
	return samples_now_ns() + ms * 1000000;
}

static pid_t start(void (*party)(void), int cpu)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	stand_on_cpu(cpu);
	party();
	_exit(0);
}

/* --- line --- */

static void *line_echo(void *arg)
{
	stand_on_cpu(cpus[1]);
	for (uint64_t next = 1;; next++) {
		uint64_t seen;

		while ((seen = inf_load64_acquire(&words[0].v)) < next)
			inf_pause();
		if (seen == UINT64_MAX)
			return arg;
		inf_store64_release(&words[1].v, next);
	}
}

static void line(void)
{
	pthread_t thread;
	uint64_t end = until(), value = 1, begin_ns, now_ns;

	stand_on_cpu(cpus[0]);
	if (pthread_create(&thread, NULL, line_echo, NULL))
		exit(1);
	for (begin_ns = samples_now_ns(); begin_ns < end; begin_ns = now_ns) {
		for (uint32_t i = 0; i < CHUNK; i++, value++) {
			inf_store64_release(&words[0].v, value);
			while (inf_load64_acquire(&words[1].v) != value)
				inf_pause();
		}
		now_ns = samples_now_ns();
		samples_add(&samples, (double)(now_ns - begin_ns) / CHUNK);
	}
	inf_store64_release(&words[0].v, UINT64_MAX);
	pthread_join(thread, NULL);
}

/* --- eventfds --- */

static int fds[4];

static void tell(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		_exit(1);
}

static void hear(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) != sizeof(n))
		_exit(1);
}

static void make_fds(void)
{
	for (int i = 0; i < 4; i++)
		fds[i] = eventfd(0, EFD_CLOEXEC);
}

static void echo_fd(void)
{
	for (;;) {
		hear(fds[0]);
		tell(fds[1]);
	}
}

static void front_fd(void)
{
	for (;;) {
		hear(fds[0]);
		tell(fds[2]);
		hear(fds[3]);
		tell(fds[1]);
	}
}

static void executor_fd(void)
{
	for (;;) {
		hear(fds[2]);
		tell(fds[3]);
	}
}

static void ask_by_fd(void)
{
	uint64_t end = until(), begin_ns;

	stand_on_cpu(cpus[0]);
	for (int i = 0; i < 100; i++) {
		tell(fds[0]);
		hear(fds[1]);
	}
	for (begin_ns = samples_now_ns(); begin_ns < end;) {
		uint64_t now_ns;

		tell(fds[0]);
		hear(fds[1]);
		now_ns = samples_now_ns();
		samples_add(&samples, (double)(now_ns - begin_ns));
		begin_ns = now_ns;
	}
}

static void eventfd_pair(void)
{
	pid_t pid;

	make_fds();
	pid = start(echo_fd, cpus[1]);
	ask_by_fd();
	kill(pid, SIGKILL);
}

static void relay(void)
{
	pid_t pids[2];

	make_fds();
	pids[0] = start(front_fd, cpus[1]);
	pids[1] = start(executor_fd, cpus[0]);
	ask_by_fd();
	kill(pids[0], SIGKILL);
	kill(pids[1], SIGKILL);
}

/* --- relay with the broker's wait rules --- */

static void front_spin(void)
{
	uint64_t asked = 0, done = 0;

	for (;;) {
		bool any = false;

		if (inf_load64_acquire(&words[3].v) > done) { /* done by the executor */
			done++;
			inf_store64_release(&words[1].v, done);
			any = true;
		}
		if (inf_load64_acquire(&words[0].v) > asked) {
			asked++;
			inf_store64_release(&words[2].v, asked);
			any = true;
		}
		if (any)
			continue;
		if (asked > done)
			sched_yield();
		else
			inf_pause();
	}
}

static void executor_spin(void)
{
	for (uint64_t next = 1;; next++) {
		while (inf_load64_acquire(&words[2].v) < next)
			sched_yield();
		inf_store64_release(&words[3].v, next);
	}
}

static void relay_spin(void)
{
	pid_t pids[2] = { start(front_spin, cpus[1]), start(executor_spin, cpus[0]) };
	uint64_t begin_ns = samples_now_ns(), settled_ns = begin_ns + SETTLE_NS, end = until() + SETTLE_NS;

	stand_on_cpu(cpus[0]);
	for (uint64_t next = 1; begin_ns < end || samples.n < SAMPLES_MIN; next++) {
		uint64_t now_ns = begin_ns;

		inf_store64_release(&words[0].v, next);
		while (inf_load64_acquire(&words[1].v) < next) {
			if (now_ns - begin_ns < PAUSE_NS)
				inf_pause();
			else
				sched_yield();
			now_ns = samples_now_ns();
		}
		now_ns = samples_now_ns();
		if (now_ns > settled_ns && next > WARM_UP)
			samples_add(&samples, (double)(now_ns - begin_ns));
		begin_ns = now_ns;
	}
	kill(pids[0], SIGKILL);
	kill(pids[1], SIGKILL);
}

/* --- memcpy --- */

static void copy(void)
{
	uint64_t stride = (bytes + 4095) & ~4095ull;
	char *from = shared_memory(n_blocks * stride), *to = shared_memory(n_blocks * stride);
	uint64_t end = until(), begin_ns = samples_now_ns();

	stand_on_cpu(cpus[0]);
	memset(from, 1, n_blocks * stride);
	for (uint64_t i = 0; begin_ns < end; i++) {
		uint64_t at = i % n_blocks * stride, now_ns;

		memcpy(to + at, from + at, bytes);
		now_ns = samples_now_ns();
		if (i >= n_blocks)
			samples_add(&samples, (double)(now_ns - begin_ns));
		begin_ns = now_ns;
	}
}

/* --- spawn --- */

static void spawn(void)
{
	char *const argv[] = { (char *)(uintptr_t) "true", NULL };
	uint64_t end = until();

	stand_on_cpu(cpus[0]);
	for (uint64_t begin_ns = samples_now_ns(); begin_ns < end;) {
		uint64_t now_ns;
		pid_t pid = fork();

		if (!pid) {
			execv("/bin/true", argv);
			_exit(127);
		}
		waitpid(pid, NULL, 0);
		now_ns = samples_now_ns();
		samples_add(&samples, (double)(now_ns - begin_ns));
		begin_ns = now_ns;
	}
}

/* --- wakes --- */

static int wake_fd;

static void sleeper(void)
{
	for (;;) {
		hear(wake_fd);
		/* The last one to be awake rings. */
		if (__atomic_add_fetch(&words[0].v, 1, __ATOMIC_ACQ_REL) == n_blocks) {
			inf_store64_release(&words[1].v, samples_now_ns());
			tell(fds[0]);
		}
	}
}

/* Prints two lines: until all are written, until the last one is awake. */
static void wakes(void)
{
	pid_t pids[256];
	int bells[256];
	struct samples last;
	uint64_t end;

	if (n_blocks > 256)
		exit(2);
	make_fds();
	samples_init(&last, SAMPLES_MAX);
	for (uint64_t i = 0; i < n_blocks; i++) {
		bells[i] = wake_fd = eventfd(0, EFD_CLOEXEC);
		pids[i] = start(sleeper, -1);
	}
	stand_on_cpu(cpus[0]);
	usleep(20000);
	for (end = until(); samples_now_ns() < end;) {
		uint64_t begin_ns, free_ns;

		inf_store64(&words[0].v, 0);
		usleep(300); /* all of them sleep */
		begin_ns = samples_now_ns();
		for (uint64_t i = 0; i < n_blocks; i++)
			tell(bells[i]);
		free_ns = samples_now_ns();
		hear(fds[0]);
		samples_add(&samples, (double)(free_ns - begin_ns));
		samples_add(&last, (double)(inf_load64_acquire(&words[1].v) - begin_ns));
	}
	for (uint64_t i = 0; i < n_blocks; i++)
		kill(pids[i], SIGKILL);
	samples_print(&samples);
	samples = last;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "cpus", required_argument, NULL, 'c' },
		{ "ms", required_argument, NULL, 'm' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "blocks", required_argument, NULL, 'n' },
		{ 0 },
	};
	static const struct {
		const char *name;
		void (*run)(void);
	} floors[] = {
		{ "line", line },	{ "eventfd", eventfd_pair },	 { "relay", relay },
		{ "relay-spin", relay_spin }, { "memcpy", copy },	 { "spawn", spawn },
		{ "wakes", wakes },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'm')
			ms = strtoull(optarg, NULL, 10);
		else if (c == 'b')
			bytes = strtoull(optarg, NULL, 10);
		else if (c == 'n')
			n_blocks = strtoull(optarg, NULL, 10);
		else if (c != 'c' || sscanf(optarg, "%d,%d", &cpus[0], &cpus[1]) != 2)
			return 2;
	}
	samples_init(&samples, SAMPLES_MAX);
	words = shared_memory(4 * sizeof(*words));
	for (size_t i = 0; optind < argc && i < sizeof(floors) / sizeof(floors[0]); i++) {
		if (strcmp(argv[optind], floors[i].name))
			continue;
		floors[i].run();
		samples_print(&samples);
		return 0;
	}
	fprintf(stderr, "floors: which? See the head of tests/bench/floors.c\n");
	return 2;
}
