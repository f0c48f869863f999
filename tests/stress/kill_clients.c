/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill_clients.c - clients die by SIGKILL at random moments, or (--close) end cleanly at the same moments, while one honest
 * client is measured.
 *
 * N_WORKERS processes put load on the broker; every few milliseconds one of them is ended and a new one started. A worker
 * counts its requests in flight in a shared page, so that kills with something in flight can be counted. The honest client's
 * answers are all checked; its p99 is printed, to be compared between the two ways of dying.
 *
 * Usage: kill_clients SOCKET N_KILLS kill|close
 * Prints one JSON line: the victim's load, plus kills, kills_in_flight.
 */
#define _GNU_SOURCE 1
#include "tests/support/load.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_WORKERS 3u
#define LIFE_NS_MAX 20000000u /* a worker lives up to 20 ms after it has begun */
#define BIRTH_MS_MAX 10000u

struct slot {
	uint32_t in_flight;
	uint32_t begun;
	uint8_t pad[120];
};

static const char *socket_path;
static struct slot *slots;
static bool by_kill;

static void pause_ns(uint64_t ns)
{
	struct timespec ts = { .tv_nsec = (long)ns };

	nanosleep(&ts, NULL);
}

/* Runs for `life_ns`, or until it is killed. */
static int worker(struct slot *slot, uint64_t life_ns)
{
	struct load load = { .socket_path = socket_path, .n_threads = 1, .depth = 16, .think_ns = 20000 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	load.in_flight = &slot->in_flight;
	/* Kills come one after another, clean ends side by side: this makes their rates equal. */
	load.until_ns = load_now_ns() + (by_kill ? 60000000000ull : life_ns * N_WORKERS);
	return load_run(&load) || load.n_wrong;
}

static pid_t start(struct slot *slot, uint64_t life_ns)
{
	pid_t pid;

	__atomic_store_n(&slot->in_flight, 0, __ATOMIC_RELAXED);
	pid = fork();
	if (!pid)
		_exit(worker(slot, life_ns));
	return pid;
}

/* Waits until a worker has something in flight for the first time, so that kills hit work and not only births. */
static void await_birth(const struct slot *slot)
{
	for (unsigned int i = 0; i < BIRTH_MS_MAX * 10 && !__atomic_load_n(&slot->in_flight, __ATOMIC_RELAXED); i++)
		pause_ns(100000);
}

static void *victim(void *arg)
{
	load_run(arg);
	return NULL;
}

int main(int argc, char **argv)
{
	struct load honest = { .n_threads = 1, .depth = 4, .think_ns = 50000 };
	uint64_t n_kills, n_in_flight = 0, n_bad_exits = 0, begin_ns;
	pid_t pids[N_WORKERS];
	unsigned int seed = 7;
	pthread_t thread;

	if (argc != 4)
		return 2;
	socket_path = honest.socket_path = argv[1];
	n_kills = strtoull(argv[2], NULL, 10);
	by_kill = !strcmp(argv[3], "kill");
	slots = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (slots == MAP_FAILED)
		return 1;
	for (unsigned int i = 0; i < N_WORKERS; i++)
		pids[i] = start(&slots[i], (uint64_t)rand_r(&seed) % LIFE_NS_MAX);
	honest.until_ns = UINT64_MAX;
	begin_ns = load_now_ns();
	if (pthread_create(&thread, NULL, victim, &honest))
		return 1;
	for (uint64_t k = 0; k < n_kills; k++) {
		unsigned int at = (unsigned int)(k % N_WORKERS);
		uint64_t life_ns = (uint64_t)rand_r(&seed) % LIFE_NS_MAX;
		int status;

		/* One in four is hit at any moment of its birth, the others while they work. */
		if (by_kill && k % 4)
			await_birth(&slots[at]);
		if (by_kill) {
			pause_ns(life_ns);
			n_in_flight += __atomic_load_n(&slots[at].in_flight, __ATOMIC_RELAXED) > 0;
			kill(pids[at], SIGKILL);
		}
		waitpid(pids[at], &status, 0);
		n_bad_exits += WIFEXITED(status) && WEXITSTATUS(status);
		pids[at] = start(&slots[at], life_ns);
	}
	for (unsigned int i = 0; i < N_WORKERS; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
	}
	honest.until_ns = 0;
	pthread_join(thread, NULL);
	printf("{\"kills\": %llu, \"kills_in_flight\": %llu, \"per_second\": %.0f, \"bad_exits\": %llu, \"victim\": ",
	       (unsigned long long)n_kills, (unsigned long long)n_in_flight,
	       (double)n_kills * 1e9 / (double)(load_now_ns() - begin_ns), (unsigned long long)n_bad_exits);
	load_print(&honest);
	printf("}\n");
	return honest.n_wrong || honest.error || n_bad_exits || honest.n_status[INF_OK] != honest.n;
}
