/* SPDX-License-Identifier: Apache-2.0 */
/* board.c - memory that parent and workers share, and the rounds. */
#define _GNU_SOURCE 1
#include "tools/infbench/infbench.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS	    1000000 /* the parent's pace while it waits */
#define PROGRESS_NS 500000000ull

uint64_t board_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct board *board_new(uint32_t n_workers)
{
	size_t bytes = sizeof(struct board) + n_workers * sizeof(struct tally);
	struct board *board = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (board == MAP_FAILED)
		return NULL;
	board->n_workers = n_workers;
	return board;
}

static void show_progress(const struct board *board, uint64_t *seen, uint64_t since_ns,
			  uint64_t now_ns)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < board->n_workers; i++)
		n += __atomic_load_n(&board->tallies[i].n_requests, __ATOMIC_RELAXED);
	fprintf(stderr, "\r  %5.1f s  %12.0f requests/s\033[K",
		(double)(now_ns - board->begin_ns) / 1e9,
		(double)(n - *seen) * 1e9 / (double)(now_ns - since_ns));
	*seen = n;
}

/* A process that ends before it is told to has failed. */
static bool any_dead(void)
{
	int status;

	return waitpid(-1, &status, WNOHANG) > 0;
}

bool board_await(struct board *board, const uint32_t *count, const struct options *options)
{
	bool shows = count == &board->n_done && !options->quiet && isatty(STDERR_FILENO);
	uint64_t shown_ns = board_now_ns(), n_shown = 0;
	bool ok = true;

	while (__atomic_load_n(count, __ATOMIC_ACQUIRE) < board->n_workers) {
		const struct timespec pace = { .tv_nsec = LOOK_NS };
		uint64_t now_ns;

		if (__atomic_load_n(&board->failed, __ATOMIC_ACQUIRE) || any_dead()) {
			ok = false;
			break;
		}
		nanosleep(&pace, NULL);
		now_ns = board_now_ns();
		if (shows && now_ns - shown_ns >= PROGRESS_NS) {
			show_progress(board, &n_shown, shown_ns, now_ns);
			shown_ns = now_ns;
		}
	}
	if (shows)
		fputs("\r\033[K", stderr);
	return ok;
}

void board_begin(struct board *board, double seconds, uint64_t requests_max)
{
	board->n_done = 0;
	board->begin_ns = board_now_ns();
	board->until_ns = board->begin_ns + (uint64_t)(seconds * 1e9);
	board->requests_max = requests_max / board->n_workers + !!(requests_max % board->n_workers);
	for (uint32_t i = 0; i < board->n_workers; i++) {
		struct tally *tally = &board->tallies[i];

		tally->n_requests = tally->n_submitted = tally->n_samples = 0;
		tally->sum_ns = tally->max_ns = tally->elapsed_ns = tally->cpu_ns = 0;
		for (uint32_t k = 0; k < STATUSES_MAX; k++)
			tally->n_status[k] = 0;
	}
	__atomic_fetch_add(&board->round, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &board->round, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void board_give_up(struct board *board, const char *what, const char *why)
{
	if (__atomic_fetch_add(&board->n_said, 1, __ATOMIC_ACQ_REL))
		for (;;) /* an end of ours would end the one who is speaking */
			pause();
	fprintf(stderr, "infbench: %s%s%s\n", what, *what ? ": " : "", why);
	__atomic_store_n(&board->failed, 1, __ATOMIC_RELEASE);
	exit(1);
}

bool board_next_round(struct board *board, uint32_t *seen)
{
	while (__atomic_load_n(&board->round, __ATOMIC_ACQUIRE) == *seen)
		syscall(SYS_futex, &board->round, FUTEX_WAIT, *seen, NULL, NULL, 0);
	++*seen;
	return !__atomic_load_n(&board->stop, __ATOMIC_ACQUIRE);
}
