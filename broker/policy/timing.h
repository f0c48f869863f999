/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timing.h - how many rows a batch should have: from the measured times t[b]. Pure code.
 *
 * Work is pulled: an instance that is free takes what is queued, at once, up to the batch size with the
 * best measured rate. There is no timer and no wish to wait: under load a queue forms while the instance
 * computes, and the next batch is that queue. For a model that batching does not help, the best size is 1.
 */
#ifndef BROKER_POLICY_TIMING_H
#define BROKER_POLICY_TIMING_H

#include <stdint.h>

#define TIMING_BUCKETS 9u /* 1, 2, 4, ... 256 rows */

/* Predicted time of `rows` rows: linear between buckets; 0 where nothing was measured. */
uint64_t timing_predict_ns(const uint64_t time_ns[TIMING_BUCKETS], uint32_t rows);

/*
 * The smallest measured size whose rate is within 3 % of the best (a smaller batch is as fast and answers
 * sooner), at most rows_max; rows_max where nothing was measured.
 */
uint32_t timing_best_rows(const uint64_t time_ns[TIMING_BUCKETS], uint32_t rows_max);

/*
 * Rows of `rows` waiting ones that one of n_free idle instances should take: its equal share, where sharing
 * saves more than the wake-up of one more instance costs; else all of them.
 */
uint32_t timing_share_rows(const uint64_t time_ns[TIMING_BUCKETS], uint32_t rows, uint32_t n_free, uint64_t wake_ns);

/*
 * What batches really took, without the wish to err: t[b] errs high for the sizes in use, so that all others look better than
 * they are, and cannot say which size is best.
 */
struct timing_history {
	uint64_t mean_ns[TIMING_BUCKETS];
	uint32_t n_used[TIMING_BUCKETS]; /* lately */
};

/* One batch of `rows` rows; counts where they fall on a bucket exactly. */
void timing_history_add(struct timing_history *history, uint32_t rows, uint64_t took_ns);

/*
 * The best size (as timing_best_rows) by what was seen lately; sizes that were not in use are taken to have become slower or
 * faster than at warm-up by as much as the one that was used most. Half of what was counted is forgotten.
 */
uint32_t timing_history_best(struct timing_history *history, const uint64_t base_ns[TIMING_BUCKETS], uint32_t rows_max);

/* Moves t[b] of the bucket that `rows` falls on exactly: up by 1/4, down by 1/16 (errs high). */
void timing_learn(uint64_t time_ns[TIMING_BUCKETS], uint32_t rows, uint64_t took_ns);

/*
 * Moves every t[b] an eighth of the way back to what warm-up measured: a size that looked slow once, and so is
 * not used any more, gets another chance.
 */
void timing_relax(uint64_t time_ns[TIMING_BUCKETS], const uint64_t base_ns[TIMING_BUCKETS]);

#endif /* BROKER_POLICY_TIMING_H */
