/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samples.h - what the small benchmark programs in tests/bench share: a clock, a place to stand, and
 * quantiles of what was measured, printed as one line of JSON.
 */
#ifndef TESTS_SUPPORT_SAMPLES_H
#define TESTS_SUPPORT_SAMPLES_H

#include <stdint.h>

struct samples {
	double *ns;
	uint64_t n, n_max;
};

uint64_t samples_now_ns(void);
/* Room for `n_max` (what comes after is dropped); ends the program without memory. */
void samples_init(struct samples *samples, uint64_t n_max);
void samples_add(struct samples *samples, double ns);
/* Prints {"n", "p50_ns", "p99_ns", "mean_ns"} and a newline. Sorts them. */
void samples_print(struct samples *samples);
/* The calling thread onto this CPU; -1 = anywhere. Ends the program where it cannot. */
void stand_on_cpu(int cpu);
/* Shared with children, zeroed. Ends the program without memory. */
void *shared_memory(uint64_t bytes);

#endif /* TESTS_SUPPORT_SAMPLES_H */
