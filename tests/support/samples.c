/* SPDX-License-Identifier: Apache-2.0 */
/* samples.c - see samples.h */
#define _GNU_SOURCE 1
#include "tests/support/samples.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

uint64_t samples_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void samples_init(struct samples *samples, uint64_t n_max)
{
	*samples = (struct samples){ .ns = calloc(n_max, sizeof(double)), .n_max = n_max };
	if (!samples->ns) {
		fprintf(stderr, "no memory for %llu samples\n", (unsigned long long)n_max);
		exit(1);
	}
}

void samples_add(struct samples *samples, double ns)
{
	if (samples->n < samples->n_max)
		samples->ns[samples->n++] = ns;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

void samples_print(struct samples *samples)
{
	double sum = 0;

	if (!samples->n) {
		fprintf(stderr, "nothing was measured: give it more time\n");
		exit(1);
	}
	qsort(samples->ns, samples->n, sizeof(double), compare);
	for (uint64_t i = 0; i < samples->n; i++)
		sum += samples->ns[i];
	printf("{\"n\": %llu, \"p50_ns\": %.2f, \"p99_ns\": %.2f, \"mean_ns\": %.2f}\n",
	       (unsigned long long)samples->n, samples->ns[samples->n / 2],
	       samples->ns[(uint64_t)(0.99 * (double)samples->n)], sum / (double)samples->n);
	fflush(stdout);
}

void stand_on_cpu(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		fprintf(stderr, "CPU %d: %s\n", cpu, strerror(errno));
		exit(1);
	}
}

void *shared_memory(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE,
			    -1, 0);

	if (memory == MAP_FAILED) {
		fprintf(stderr, "no shared memory: %s\n", strerror(errno));
		exit(1);
	}
	return memory;
}
