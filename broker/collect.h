/* SPDX-License-Identifier: Apache-2.0 */
/* collect.h - what an executor says of a batch, copied out of its memory and judged. */
#ifndef BROKER_COLLECT_H
#define BROKER_COLLECT_H

#include "broker/job.h"

enum collect {
	COLLECT_NONE = 0, /* the oldest batch has not ended */
	COLLECT_DONE,	  /* *ret_ends has the status of each part of the oldest batch */
	COLLECT_GARBAGE,  /* only a broken executor writes that */
};

struct collect_result {
	uint64_t work_ns; /* as the executor measured, bounded by our own clock */
	uint64_t begun_ns, ended_ns; /* likewise: between dispatch and now */
	uint16_t status[INF_BATCH_MAX];
};

/* Judges the end of the instance's oldest batch. The caller takes it off (instance->head++) when it is done with it. */
enum collect collect_next(struct broker *broker, struct instance *instance, struct collect_result *ret);

/* True where the oldest batch has ended; what the front looks at before it sleeps. */
bool collect_has_work(const struct instance *instance);

/* Position + 1 of the batch that the instance says it has started last: which batches a dead executor takes with it. */
uint64_t collect_started(const struct instance *instance);

#endif /* BROKER_COLLECT_H */
