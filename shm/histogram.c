/* SPDX-License-Identifier: Apache-2.0 */
/* histogram.c - log-linear buckets: the first 16 values are exact, then 16 steps per power of two. Hot file. */
#include "shm/histogram.h"
#include "shm/atomics.h"

#define STEPS 16u
#define STEPS_LOG2 4u

static uint32_t bucket_of(uint64_t value)
{
	if (value < STEPS)
		return (uint32_t)value;

	uint32_t log2 = 63u - (uint32_t)__builtin_clzll(value);
	uint32_t bucket = (log2 - STEPS_LOG2 + 1) * STEPS + (uint32_t)(value >> (log2 - STEPS_LOG2)) - STEPS;

	return bucket < INF_HISTOGRAM_BUCKETS ? bucket : INF_HISTOGRAM_BUCKETS - 1;
}

uint64_t inf_histogram_upper_edge(uint32_t bucket)
{
	if (bucket < STEPS)
		return bucket;

	uint32_t shift = bucket / STEPS - 1;

	return (((uint64_t)STEPS + bucket % STEPS + 1) << shift) - 1;
}

static void add(uint64_t *word, uint64_t value)
{
	inf_store64(word, inf_load64(word) + value);
}

void inf_histogram_add(struct inf_histogram *histogram, uint64_t value_ns)
{
	add(&histogram->n, 1);
	add(&histogram->sum_ns, value_ns);
	if (value_ns > inf_load64(&histogram->max_ns))
		inf_store64(&histogram->max_ns, value_ns);
	add(&histogram->buckets[bucket_of(value_ns)], 1);
}

uint64_t inf_histogram_quantile(const struct inf_histogram *histogram, double q)
{
	uint64_t total = 0, seen = 0, wanted;

	/* Its own sum, not `n`: the writer may be between the two. */
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		total += inf_load64(&histogram->buckets[i]);
	if (!total)
		return 0;
	/* The smallest value that at least q of all values do not exceed; NaN and q <= 0 mean the smallest. */
	if (q >= 1)
		wanted = total;
	else
		wanted = q > 0 ? (uint64_t)(q * (double)total) : 0;
	if (!wanted || (wanted < total && (double)wanted < q * (double)total))
		wanted++;
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++) {
		seen += inf_load64(&histogram->buckets[i]);
		if (seen >= wanted)
			return inf_histogram_upper_edge(i);
	}
	return inf_histogram_upper_edge(INF_HISTOGRAM_BUCKETS - 1);
}
