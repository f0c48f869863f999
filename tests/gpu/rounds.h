/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rounds.h - for programs that measure in turns with others: "ready", then for each line "go SECONDS" one JSON object
 * {"rows", "seconds", "p50_us", "p99_us"}. Several batches ("places") are under way at once; one latency is from the begin
 * of a place to its end, and means something with one place only.
 */
#ifndef TESTS_GPU_ROUNDS_H
#define TESTS_GPU_ROUNDS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PLACES_MAX    16u
#define LATENCIES_MAX (1u << 20)
#define WARM_RUNS     3u /* of every place, or more: torch specialises a graph in its first two runs */

struct rounds {
	unsigned int n_places;
	uint64_t rows; /* of one batch */
	void (*begin)(unsigned int place);
	void (*end)(unsigned int place); /* waits for it */
};

static inline uint64_t rounds_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline int rounds_compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/* Until the time is over; how many batches have ended. Their latencies, as many as there is room for. */
static inline uint64_t rounds_run(const struct rounds *rounds, uint64_t until_ns, float *us)
{
	uint64_t begin_ns[PLACES_MAX], n_begun = 0, n_ended = 0;

	while (n_ended < n_begun || rounds_now_ns() < until_ns) {
		unsigned int place = (unsigned int)(n_ended % rounds->n_places);

		if (n_begun - n_ended < rounds->n_places && rounds_now_ns() < until_ns) {
			place = (unsigned int)(n_begun++ % rounds->n_places);
			begin_ns[place] = rounds_now_ns();
			rounds->begin(place);
			continue;
		}
		rounds->end(place);
		if (n_ended < LATENCIES_MAX)
			us[n_ended] = (float)((double)(rounds_now_ns() - begin_ns[place]) / 1e3);
		n_ended++;
	}
	return n_ended;
}

/* Exit status of the program. */
static inline int rounds_serve(const struct rounds *rounds)
{
	float *us = calloc(LATENCIES_MAX, sizeof(*us));
	char word[16];
	double seconds;

	if (!us)
		return 1;
	for (unsigned int i = 0; i < WARM_RUNS; i++)
		rounds_run(rounds, rounds_now_ns() + 50000000u, us);
	puts("ready");
	fflush(stdout);
	while (scanf("%15s %lf", word, &seconds) == 2) {
		uint64_t begin_ns = rounds_now_ns();
		uint64_t n = rounds_run(rounds, begin_ns + (uint64_t)(seconds * 1e9), us), kept = n < LATENCIES_MAX ? n : LATENCIES_MAX;
		double took = (double)(rounds_now_ns() - begin_ns) / 1e9;

		qsort(us, kept, sizeof(*us), rounds_compare);
		printf("{\"rows\": %llu, \"seconds\": %.6f, \"p50_us\": %.3f, \"p99_us\": %.3f, \"errors\": 0}\n",
		       (unsigned long long)(n * rounds->rows), took, kept ? (double)us[kept / 2] : 0.0,
		       kept ? (double)us[kept * 99 / 100] : 0.0);
		fflush(stdout);
	}
	free(us);
	return 0;
}

#endif /* TESTS_GPU_ROUNDS_H */
