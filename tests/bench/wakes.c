/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wakes.c - a batch of N requests of N clients completes, and all of them sleep: the front's own
 * code (completion ring, broker/wake.c) against sleepers that wait as libinfclient does.
 *
 * Usage: wakes N [--ms M] [--cpus A,B]: the front stands on A. Prints two lines of JSON: until the front is free again, and
 * until the last client is awake. Where it runs as root each client is another user.
 */
#define _GNU_SOURCE 1
#include "broker/wake.h"
#include "tests/support/samples.h"
#include <getopt.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 256u
#define UID_FIRST   20000u

struct place {
	struct inf_request_lane request;
	struct inf_response_lane response;
	uint32_t liveness __attribute__((aligned(INF_LINE)));
};

struct shared {
	uint64_t n_awake __attribute__((aligned(INF_LINE)));
	uint64_t last_ns __attribute__((aligned(INF_LINE)));
};

static struct place *places;
static struct shared *shared;
static uint64_t n_clients, ms = 200;
static int all_awake_fd;

static void sleep_on(struct place *place, uint32_t seen)
{
	struct futex_waitv waits[2] = {
		{ .val = seen, .uaddr = (uintptr_t)&place->response.cq_word.v, .flags = FUTEX_32 },
		{ .val = FUTEX_WAITERS, .uaddr = (uintptr_t)&place->liveness, .flags = FUTEX_32 },
	};

	syscall(SYS_futex_waitv, waits, 2, 0, NULL, CLOCK_MONOTONIC);
}

static void client(struct place *place)
{
	struct inf_cq_reader cq;
	struct inf_completion completion;

	inf_cq_reader_init(&cq, &place->request, &place->response, 0);
	for (;;) {
		uint32_t seen;

		while (inf_cq_peek(&cq) != INF_PEEK_FULL) {
			seen = inf_load32_acquire(&place->response.cq_word.v);
			inf_parked_join(&place->request.parked.v, seen);
			inf_fence(INF_FENCE_CLIENT_PARK);
			if (inf_cq_peek(&cq) != INF_PEEK_FULL)
				sleep_on(place, seen);
			inf_parked_leave(&place->request.parked.v);
		}
		inf_cq_take(&cq, &completion);
		inf_cq_done(&cq);
		if (__atomic_add_fetch(&shared->n_awake, 1, __ATOMIC_ACQ_REL) == n_clients) {
			uint64_t one = 1;

			inf_store64_release(&shared->last_ns, samples_now_ns());
			if (write(all_awake_fd, &one, sizeof(one)) != sizeof(one))
				_exit(1);
		}
	}
}

static pid_t start(struct place *place, uint32_t idx)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	if (getuid() == 0 && setuid(UID_FIRST + idx))
		_exit(1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	client(place);
	_exit(0);
}

/* The front's view of it. */
static void make_lane(struct broker *broker, struct session *session, struct inf_stats_session *stats,
		      struct place *place)
{
	struct lane *lane = &session->lanes[0];

	/* Lane 0 of the regions is the place: nothing else of them is touched. */
	session->request = (const void *)((const char *)&place->request -
					  offsetof(struct inf_request_region, lanes));
	session->response = (void *)((char *)&place->response - offsetof(struct inf_response_region, lanes));
	session->stats = stats;
	lane->session = session;
	lane->event_fd = -1;
	inf_cq_writer_init(&lane->cq, &place->response, 0);
	broker->dirty[broker->n_dirty++] = lane;
}

/* All of them have one more completion, and the front's turn ends. */
static void complete(struct broker *broker, struct session *sessions)
{
	for (uint32_t i = 0; i < n_clients; i++) {
		struct inf_completion body = { .tag = i, .rows = 1 };

		inf_cq_push(&sessions[i].lanes[0].cq, &body);
		sessions[i].lanes[0].dirty = true;
		broker->dirty[i] = &sessions[i].lanes[0];
	}
	broker->n_dirty = (uint32_t)n_clients;
	wake_clients(broker);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "ms", required_argument, NULL, 'm' },
		{ "cpus", required_argument, NULL, 'c' },
		{ 0 },
	};
	static struct broker broker;
	static struct inf_stats_public stats;
	static struct inf_stats_session session_stats;
	struct lane *dirty[CLIENTS_MAX];
	struct session *sessions;
	struct samples is_free, last;
	pid_t pids[CLIENTS_MAX];
	uint64_t end, n;
	int c, cpu = -1;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'm')
			ms = strtoull(optarg, NULL, 10);
		else if (c == 'c')
			cpu = (int)strtol(optarg, NULL, 10);
		else
			return 2;
	}
	n_clients = optind < argc ? strtoull(argv[optind], NULL, 10) : 0;
	if (!n_clients || n_clients > CLIENTS_MAX)
		return 2;
	places = shared_memory(n_clients * sizeof(*places));
	shared = shared_memory(sizeof(*shared));
	sessions = calloc(n_clients, sizeof(*sessions));
	if (!sessions)
		return 1;
	all_awake_fd = eventfd(0, 0);
	broker.dirty = dirty;
	broker.stats = &stats;
	for (uint32_t i = 0; i < n_clients; i++) {
		places[i].liveness = FUTEX_WAITERS;
		make_lane(&broker, &sessions[i], &session_stats, &places[i]);
		pids[i] = start(&places[i], i);
	}
	stand_on_cpu(cpu);
	samples_init(&is_free, 1u << 20);
	samples_init(&last, 1u << 20);
	usleep(20000);
	for (end = samples_now_ns() + ms * 1000000; samples_now_ns() < end;) {
		uint64_t begin_ns, free_ns;

		inf_store64(&shared->n_awake, 0);
		usleep(300); /* all of them sleep */
		begin_ns = samples_now_ns();
		complete(&broker, sessions);
		free_ns = samples_now_ns();
		if (read(all_awake_fd, &n, sizeof(n)) != sizeof(n))
			return 1;
		samples_add(&is_free, (double)(free_ns - begin_ns));
		samples_add(&last, (double)(inf_load64_acquire(&shared->last_ns) - begin_ns));
	}
	for (uint32_t i = 0; i < n_clients; i++)
		kill(pids[i], SIGKILL);
	samples_print(&is_free);
	samples_print(&last);
	return 0;
}
