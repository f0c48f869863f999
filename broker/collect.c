/* SPDX-License-Identifier: Apache-2.0 */
/* collect.c - the done region is written by a process that may have been corrupted by a model. Hot file. */
#include "broker/collect.h"

static enum inf_peek peek(const struct instance *instance)
{
	const struct inf_done_slot *slot = &instance->done->slots[instance->head % INF_BATCHES];

	/* Acquire: pairs with the executor's release; ends and outputs are visible when FULL. */
	return inf_seq_judge(inf_load64_acquire(&slot->seq), instance->head, 0, INF_BATCHES);
}

bool collect_has_work(const struct instance *instance)
{
	return instance->head != instance->tail && peek(instance) != INF_PEEK_EMPTY;
}

uint64_t collect_started(const struct instance *instance)
{
	return inf_load64_acquire(&instance->done->started.v);
}

static bool end_is_known(uint16_t status)
{
	return status == INF_OK || status == INF_BAD_RANGE || status == INF_MODEL_ERROR;
}

enum collect collect_next(struct broker *broker, struct instance *instance, struct collect_result *ret)
{
	uint32_t at = (uint32_t)(instance->head % INF_BATCHES);
	const struct batch *batch = &instance->batches[at];
	uint64_t words[7];

	if (instance->head == instance->tail)
		return COLLECT_NONE;
	switch (peek(instance)) {
	case INF_PEEK_EMPTY:
		return COLLECT_NONE;
	case INF_PEEK_CORRUPT:
		return COLLECT_GARBAGE;
	case INF_PEEK_FULL:
		break;
	}
	inf_copy_in(words, (const uint64_t *)(const void *)&instance->done->slots[at], 7);
	if (words[0] != instance->head)
		return COLLECT_GARBAGE;

	uint64_t elapsed_ns = broker->now_ns - batch->dispatched_ns;

	ret->work_ns = words[2] < elapsed_ns ? words[2] : elapsed_ns;
	ret->begun_ns = words[3] < batch->dispatched_ns	    ? batch->dispatched_ns
			: words[3] > broker->now_ns ? broker->now_ns
							    : words[3];
	ret->ended_ns = ret->work_ns < broker->now_ns - ret->begun_ns ? ret->begun_ns + ret->work_ns : broker->now_ns;
	for (uint32_t i = 0; i < batch->n_parts; i++) {
		uint64_t end = inf_load64((const uint64_t *)(const void *)&instance->done->ends[at][i]);

		ret->status[i] = (uint16_t)end;
		if (!end_is_known(ret->status[i]))
			return COLLECT_GARBAGE;
	}
	return COLLECT_DONE;
}
