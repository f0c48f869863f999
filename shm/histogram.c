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

void inf_histogram_add_weighted(struct inf_histogram *histogram, uint64_t value_ns, uint32_t weight)
{
	add(&histogram->n, weight);
	add(&histogram->sum_ns, value_ns * weight);
	if (value_ns > inf_load64(&histogram->max_ns))
		inf_store64(&histogram->max_ns, value_ns);
	add(&histogram->buckets[bucket_of(value_ns)], weight);
}

void inf_histogram_add(struct inf_histogram *histogram, uint64_t value_ns)
{
	inf_histogram_add_weighted(histogram, value_ns, 1);
}

/* Which of `total` values in order is the smallest that at least q of all do not exceed; NaN and q <= 0 mean the smallest. */
static uint64_t rank_of(double q, uint64_t total)
{
	uint64_t rank;

	if (q >= 1)
		return total;
	rank = q > 0 ? (uint64_t)(q * (double)total) : 0;
	return !rank || (rank < total && (double)rank < q * (double)total) ? rank + 1 : rank;
}

/* An edge may lie above all values that are there. */
static uint64_t capped(const struct inf_histogram *histogram, uint64_t edge_ns)
{
	uint64_t max_ns = inf_load64(&histogram->max_ns);

	return max_ns && max_ns < edge_ns ? max_ns : edge_ns;
}

uint64_t inf_histogram_quantile(const struct inf_histogram *histogram, double q)
{
	uint64_t total = 0, seen = 0, wanted;

	/* Its own sum, not `n`: the writer may be between the two. */
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		total += inf_load64(&histogram->buckets[i]);
	if (!total)
		return 0;
	wanted = rank_of(q, total);
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++) {
		seen += inf_load64(&histogram->buckets[i]);
		if (seen >= wanted)
			return capped(histogram, inf_histogram_upper_edge(i));
	}
	return inf_histogram_upper_edge(INF_HISTOGRAM_BUCKETS - 1);
}

#define COARSE_FIRST_LOG2 10u
#define COARSE_STEPS	  4u

static uint32_t coarse_bucket_of(uint64_t value)
{
	if (value >> COARSE_FIRST_LOG2 == 0)
		return 0;

	uint32_t log2 = 63u - (uint32_t)__builtin_clzll(value);
	uint32_t bucket = 1 + (log2 - COARSE_FIRST_LOG2) * COARSE_STEPS + (uint32_t)(value >> (log2 - 2)) % COARSE_STEPS;

	return bucket < INF_COARSE_BUCKETS ? bucket : INF_COARSE_BUCKETS - 1;
}

uint64_t inf_coarse_upper_edge(uint32_t bucket)
{
	if (!bucket)
		return (1u << COARSE_FIRST_LOG2) - 1;

	uint32_t shift = COARSE_FIRST_LOG2 - 2 + (bucket - 1) / COARSE_STEPS;

	return (((uint64_t)COARSE_STEPS + (bucket - 1) % COARSE_STEPS + 1) << shift) - 1;
}

void inf_coarse_add_weighted(struct inf_coarse_histogram *histogram, uint64_t value_ns, uint32_t weight)
{
	uint32_t *word = &histogram->buckets[coarse_bucket_of(value_ns)];

	inf_store32(word, inf_load32(word) + weight);
}

uint64_t inf_coarse_quantile(const struct inf_coarse_histogram *histogram, double q)
{
	uint64_t total = 0, seen = 0, wanted;

	for (uint32_t i = 0; i < INF_COARSE_BUCKETS; i++)
		total += inf_load32(&histogram->buckets[i]);
	if (!total)
		return 0;
	wanted = rank_of(q, total);
	for (uint32_t i = 0; i < INF_COARSE_BUCKETS; i++) {
		seen += inf_load32(&histogram->buckets[i]);
		if (seen >= wanted)
			return inf_coarse_upper_edge(i);
	}
	return inf_coarse_upper_edge(INF_COARSE_BUCKETS - 1);
}
