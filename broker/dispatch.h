/* SPDX-License-Identifier: Apache-2.0 */
/* dispatch.h - which instance, which model, and writing a batch where the executor reads it. */
#ifndef BROKER_DISPATCH_H
#define BROKER_DISPATCH_H

#include "broker/job.h"

/*
 * An instance that can take a batch: one that is idle, else one that runs a batch and has none waiting behind it; then
 * *ret_full is set: only a full batch should be put there, a smaller one could still grow. NULL where all are taken.
 */
struct instance *dispatch_free_instance(struct broker *broker, bool *ret_full);

/* The model whose turn it is among those that have something queued (`full`: a whole batch). NULL where none. */
struct model *dispatch_pick_model(struct broker *broker, bool full);

/*
 * Rows that the next batch may have: the best measured number; fewer where several instances are idle and there is
 * less than that for each of them, so that one does not take all while the other has nothing.
 */
uint32_t dispatch_rows(const struct broker *broker, const struct model *model, bool full);

/*
 * That the instance has mapped every region a part names follows from the order of messages: ATTACH goes out before the
 * session may submit, and after a restart before the models are loaded again.
 *
 * Publishes a batch and wakes the instance if it sleeps. Parts are struct batch_part whose items are jobs of this
 * model with blocks in their handle's present pool. Returns how many parts went in: fewer than n_parts where their
 * extension tensors have no room in one batch.
 */
uint32_t dispatch_batch(struct broker *broker, struct instance *instance, struct model *model,
			const struct batch_part *parts, uint32_t n_parts);

#endif /* BROKER_DISPATCH_H */
