/* SPDX-License-Identifier: Apache-2.0 */
/* timing.c - arithmetic on t[b]. */
#include "broker/policy/timing.h"
#include <stdbool.h>

uint64_t timing_predict_ns(const uint64_t time_ns[TIMING_BUCKETS], uint32_t rows)
{
	uint32_t below = 0, above = 0;

	for (uint32_t i = 0; i < TIMING_BUCKETS; i++) {
		uint32_t size = 1u << i;

		if (!time_ns[i])
			continue;
		if (size <= rows)
			below = size;
		if (size >= rows && !above)
			above = size;
	}
	if (!below && !above)
		return 0;
	if (!below)
		return time_ns[__builtin_ctz(above)];
	if (!above) /* past the last bucket: in proportion */
		return time_ns[__builtin_ctz(below)] * rows / below;
	if (above == below)
		return time_ns[__builtin_ctz(below)];

	int64_t low = (int64_t)time_ns[__builtin_ctz(below)];
	int64_t high = (int64_t)time_ns[__builtin_ctz(above)];

	return (uint64_t)(low + (high - low) * (int64_t)(rows - below) / (int64_t)(above - below));
}

uint32_t timing_best_rows(const uint64_t time_ns[TIMING_BUCKETS], uint32_t rows_max)
{
	double best_rate = 0;

	for (uint32_t i = 0; i < TIMING_BUCKETS && 1u << i <= rows_max; i++)
		if (time_ns[i] && (double)(1u << i) / (double)time_ns[i] > best_rate)
			best_rate = (double)(1u << i) / (double)time_ns[i];
	for (uint32_t i = 0; i < TIMING_BUCKETS && 1u << i <= rows_max; i++)
		if (time_ns[i] && (double)(1u << i) / (double)time_ns[i] >= 0.97 * best_rate)
			return 1u << i;
	return rows_max;
}

uint32_t timing_share_rows(const uint64_t time_ns[TIMING_BUCKETS], uint32_t rows, uint32_t n_free,
			   uint64_t wake_ns)
{
	uint32_t share = n_free > 1 ? (rows + n_free - 1) / n_free : rows;
	uint64_t together_ns = timing_predict_ns(time_ns, rows);
	uint64_t shared_ns = timing_predict_ns(time_ns, share);

	return together_ns > shared_ns + wake_ns ? share : rows;
}

#define USED_MIN 8u /* batches before a mean says more than warm-up */

void timing_history_add(struct timing_history *history, uint32_t rows, uint64_t took_ns)
{
	if (!rows || rows & (rows - 1) || rows >= 1u << TIMING_BUCKETS)
		return;

	uint32_t i = (uint32_t)__builtin_ctz(rows);

	if (!history->n_used[i])
		history->mean_ns[i] = took_ns;
	else if (took_ns > history->mean_ns[i])
		history->mean_ns[i] += (took_ns - history->mean_ns[i]) / 16;
	else
		history->mean_ns[i] -= (history->mean_ns[i] - took_ns) / 16;
	history->n_used[i]++;
}

uint32_t timing_history_best(struct timing_history *history, const uint64_t base_ns[TIMING_BUCKETS], uint32_t rows_max)
{
	uint64_t time_ns[TIMING_BUCKETS];
	uint32_t most = 0;
	double slower = 1;

	for (uint32_t i = 1; i < TIMING_BUCKETS; i++)
		if (history->n_used[i] > history->n_used[most])
			most = i;
	if (history->n_used[most] >= USED_MIN && base_ns[most])
		slower = (double)history->mean_ns[most] / (double)base_ns[most];
	for (uint32_t i = 0; i < TIMING_BUCKETS; i++) {
		time_ns[i] = history->n_used[i] >= USED_MIN && base_ns[i] ? history->mean_ns[i]
									: (uint64_t)(slower * (double)base_ns[i]);
		history->n_used[i] /= 2;
	}
	return timing_best_rows(time_ns, rows_max);
}

void timing_learn(uint64_t time_ns[TIMING_BUCKETS], uint32_t rows, uint64_t took_ns)
{
	if (!rows || rows & (rows - 1) || rows >= 1u << TIMING_BUCKETS)
		return;

	uint64_t *time = &time_ns[__builtin_ctz(rows)];

	if (!*time)
		*time = took_ns;
	else if (took_ns > *time)
		*time += (took_ns - *time) / 4;
	else
		*time -= (*time - took_ns) / 16;
}

void timing_relax(uint64_t time_ns[TIMING_BUCKETS], const uint64_t base_ns[TIMING_BUCKETS])
{
	for (uint32_t i = 0; i < TIMING_BUCKETS; i++) {
		if (time_ns[i] > base_ns[i])
			time_ns[i] -= (time_ns[i] - base_ns[i]) / 8;
		else
			time_ns[i] += (base_ns[i] - time_ns[i]) / 8;
	}
}
