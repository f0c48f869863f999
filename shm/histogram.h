/* SPDX-License-Identifier: Apache-2.0 */
/*
 * histogram.h - log-linear latency histogram in a fixed array: 16 steps per power of two (6 % wide),
 * from 1 ns to 2^40 ns. One writer, any readers; each counter is a relaxed 64-bit word, so it can lie in
 * a statistics file.
 */
#ifndef INF_SHM_HISTOGRAM_H
#define INF_SHM_HISTOGRAM_H

#include <stdint.h>

#define INF_HISTOGRAM_BUCKETS 592u /* 16 exact values + 36 powers of two x 16 steps */

struct inf_histogram {
	uint64_t n;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint64_t buckets[INF_HISTOGRAM_BUCKETS];
};

/* Adds one value; a few ns, no branch on its size beyond clamping. Owner thread only. */
void inf_histogram_add(struct inf_histogram *histogram, uint64_t value_ns);
/* The same of one that stands for `weight` of its like. */
void inf_histogram_add_weighted(struct inf_histogram *histogram, uint64_t value_ns, uint32_t weight);

/* Upper edge of the bucket that holds quantile q in [0,1], at most the largest value; 0 where empty. */
uint64_t inf_histogram_quantile(const struct inf_histogram *histogram, double q);

/* Largest value that bucket holds, ns; bucket < INF_HISTOGRAM_BUCKETS. */
uint64_t inf_histogram_upper_edge(uint32_t bucket);

/*
 * The same in small, where there are many of them: 4 steps per power of two (25 % wide) from 1 us to 64 s, what is shorter or
 * longer in the first and the last bucket. Same rules.
 */
#define INF_COARSE_BUCKETS 105u
struct inf_coarse_histogram {
	uint32_t buckets[INF_COARSE_BUCKETS];
};
void inf_coarse_add_weighted(struct inf_coarse_histogram *histogram, uint64_t value_ns, uint32_t weight);
uint64_t inf_coarse_quantile(const struct inf_coarse_histogram *histogram, double q);
uint64_t inf_coarse_upper_edge(uint32_t bucket);

#endif /* INF_SHM_HISTOGRAM_H */
