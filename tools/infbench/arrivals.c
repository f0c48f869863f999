/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arrivals.c - when an open loop submits.
 *
 * Times are absolute from the start of the round and do not wait for answers: a slow answer delays
 * no later arrival, so that a stall is seen by all requests that it should have met ("coordinated
 * omission"; G. Tene, "How NOT to Measure Latency").
 */
#include "tools/infbench/infbench.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* xorshift64*, S. Vigna, "An experimental exploration of Marsaglia's xorshift generators" (2016):
 * the same arrivals for the same --seed on every machine. */
static uint64_t random_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

double *arrivals_read(const char *path, uint64_t *ret_n)
{
	FILE *file = fopen(path, "r");
	uint64_t n = 0, room = 0;
	double *times = NULL, time;
	int r;

	if (!file) {
		fprintf(stderr, "infbench: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	while ((r = fscanf(file, "%lf", &time)) == 1) {
		if (n == room) {
			room = room ? 2 * room : 1024;
			times = realloc(times, room * sizeof(*times));
			if (!times) {
				fprintf(stderr, "infbench: %s: no memory\n", path);
				exit(1);
			}
		}
		if (time < 0 || (n && time < times[n - 1])) {
			fprintf(stderr,
				"infbench: %s: arrival %llu is not after the one before: one time a "
				"line, in seconds since the start\n",
				path, (unsigned long long)n + 1);
			exit(1);
		}
		times[n++] = time;
	}
	fclose(file);
	if (r != EOF || !n) {
		fprintf(stderr, "infbench: %s: arrival %llu is no number\n", path,
			(unsigned long long)n + 1);
		exit(1);
	}
	*ret_n = n;
	return times;
}

void arrivals_begin(struct arrivals *arrivals, const struct options *options, const double *trace_s,
		    uint64_t n_trace, uint32_t idx, uint32_t n_workers, uint64_t round)
{
	double gap_ns = options->rate > 0 ? 1e9 * n_workers / options->rate : 0;

	*arrivals = (struct arrivals){
		.gap_ns = gap_ns,
		.poisson = options->poisson,
		.random = (options->seed + round * WORKERS_MAX + idx + 1) * 0x9e3779b97f4a7c15ull,
		.trace_s = trace_s,
		.n_trace = n_trace,
		.at = idx,
		.step = n_workers,
		/* Even gaps: workers take turns instead of arriving together. */
		.next_ns = options->poisson ? 0 : gap_ns * (idx + 1) / n_workers - gap_ns,
	};
}

uint64_t arrivals_next(struct arrivals *arrivals)
{
	double share;

	if (arrivals->trace_s) {
		if (arrivals->at >= arrivals->n_trace)
			return UINT64_MAX;
		arrivals->next_ns = arrivals->trace_s[arrivals->at] * 1e9;
		arrivals->at += arrivals->step;
		return (uint64_t)arrivals->next_ns;
	}
	share = ((double)(random_next(&arrivals->random) >> 11) + 0.5) / 9007199254740992.0;
	arrivals->next_ns += arrivals->poisson ? -log(share) * arrivals->gap_ns : arrivals->gap_ns;
	return (uint64_t)arrivals->next_ns;
}
