/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.h - honest load that checks every answer byte by byte.
 *
 * Each thread keeps `depth` requests in flight on builtin add_sub: random numbers in, sum and difference expected back;
 * or on identity.
 */
#ifndef TESTS_SUPPORT_LOAD_H
#define TESTS_SUPPORT_LOAD_H

#include <inf/client.h>
#include "shm/histogram.h"
#include <stdbool.h>
#include <stdint.h>

struct load {
	const char *socket_path;
	uint32_t n_threads;
	uint32_t depth;
	uint64_t until_ns;   /* CLOCK_MONOTONIC */
	uint64_t n_max;	     /* per thread, 0 = no bound */
	uint64_t think_ns;   /* between two submissions of a thread */
	bool identity;	     /* builtin identity, bytes back as they came, instead of add_sub */
	uint32_t *in_flight; /* counted here where not NULL (shared page) */

	/* results, summed over threads */
	uint64_t n;
	uint64_t n_wrong; /* answers that are not right, or never came within 30 s */
	uint64_t n_status[INF_STATUS_N];
	struct inf_histogram latency;
	int error; /* first call that failed, 0 = none */
};

uint64_t load_now_ns(void);

/* Runs until the time is over or n_max answers. Returns 0, or the first negative errno. */
int load_run(struct load *load);

/* One JSON line. */
void load_print(const struct load *load);

#endif /* TESTS_SUPPORT_LOAD_H */
