/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.c - output blocks are runs of row-sized units in a bitmap. Hot file.
 *
 * The client gives a block back by storing its generation in a word of its own region: no message, no system call, any
 * thread. We look at those words only when we need room, so that giving back costs us nothing while there is enough.
 * A word that holds anything but the present generation means nothing.
 */
#include "broker/output.h"
#include "shm/signature.h"
#include <stdlib.h>

struct output_pool *output_pool_new(uint32_t region, uint64_t bytes, const struct inf_signature *signature)
{
	struct output_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->region = region;
	pool->unit_bytes = inf_output_bytes(signature, 1);
	pool->n_units = (uint32_t)(bytes / pool->unit_bytes);
	pool->n_free = pool->n_units;
	pool->free = calloc(pool->n_units / 64 + 1, sizeof(*pool->free));
	if (!pool->free)
		return output_pool_free(pool);
	for (uint32_t i = 0; i < pool->n_units; i++)
		pool->free[i / 64] |= 1ull << (i % 64);
	return pool;
}

struct output_pool *output_pool_free(struct output_pool *pool)
{
	if (pool)
		free(pool->free);
	free(pool);
	return NULL;
}

void output_session_init(struct session *session)
{
	for (uint32_t i = 0; i < INF_OUTPUTS; i++)
		session->free_outputs[i] = (uint16_t)(INF_OUTPUTS - 1 - i);
	session->n_free_outputs = INF_OUTPUTS;
}

/* One unit: the first set bit from the cursor on. */
static bool take_one(struct output_pool *pool, uint32_t *ret_first)
{
	uint32_t n_words = (pool->n_units + 63) / 64;

	for (uint32_t i = 0; i < n_words; i++) {
		uint32_t at = pool->cursor;

		if (pool->free[at]) {
			uint32_t bit = (uint32_t)__builtin_ctzll(pool->free[at]);

			pool->free[at] &= pool->free[at] - 1;
			*ret_first = at * 64 + bit;
			return true;
		}
		pool->cursor = at + 1 < n_words ? at + 1 : 0;
	}
	return false;
}

/* A run of units, first fit. */
static bool take_run(struct output_pool *pool, uint32_t n_units, uint32_t *ret_first)
{
	uint32_t run = 0;

	for (uint32_t i = 0; i < pool->n_units; i++) {
		if (i % 64 == 0 && !pool->free[i / 64]) {
			run = 0;
			i += 63;
			continue;
		}
		run = pool->free[i / 64] >> (i % 64) & 1 ? run + 1 : 0;
		if (run == n_units) {
			*ret_first = i + 1 - n_units;
			for (uint32_t k = *ret_first; k <= i; k++)
				pool->free[k / 64] &= ~(1ull << (k % 64));
			return true;
		}
	}
	return false;
}

static bool take_units(struct output_pool *pool, uint32_t n_units, uint32_t *ret_first)
{
	if (pool->n_free < n_units)
		return false;
	if (!(n_units == 1 ? take_one(pool, ret_first) : take_run(pool, n_units, ret_first)))
		return false;
	pool->n_free -= n_units;
	return true;
}

static void give_units(struct output *output)
{
	for (uint32_t k = output->first; k < output->first + output->n_units; k++)
		output->pool->free[k / 64] |= 1ull << (k % 64);
	output->pool->n_free += output->n_units;
}

static void free_index(struct session *session, uint32_t out_idx)
{
	struct output *output = &session->outputs[out_idx];

	give_units(output);
	if (output->pool->retired && output->pool->n_free == output->pool->n_units)
		session->retire_due = true;
	output->n_units = 0;
	output->pool = NULL;
	session->free_outputs[session->n_free_outputs++] = (uint16_t)out_idx;
}

bool output_reserve(struct session *session, struct output_pool *pool, uint32_t rows, uint32_t *ret_out_idx)
{
	uint32_t first;

	if (!session->n_free_outputs && !output_sweep(session))
		return false;
	if (!take_units(pool, rows, &first) && !(output_sweep(session) && take_units(pool, rows, &first)))
		return false;

	uint32_t out_idx = session->free_outputs[--session->n_free_outputs];
	struct output *output = &session->outputs[out_idx];

	/* 0 is what the client's words start with. */
	if (!++output->generation)
		output->generation = 1;
	output->pool = pool;
	output->first = first;
	output->n_units = rows;
	*ret_out_idx = out_idx;
	return true;
}

bool output_move(struct session *session, uint32_t out_idx, struct output_pool *pool, uint32_t rows)
{
	struct output *output = &session->outputs[out_idx];
	uint32_t first;

	if (!take_units(pool, rows, &first))
		return false;
	give_units(output);
	if (output->pool->retired && output->pool->n_free == output->pool->n_units)
		session->retire_due = true;
	output->pool = pool;
	output->first = first;
	return true;
}

uint64_t output_offset(const struct output *output)
{
	return output->first * output->pool->unit_bytes;
}

uint64_t output_bytes(const struct output *output)
{
	return output->n_units * output->pool->unit_bytes;
}

void output_post(struct session *session, uint32_t out_idx)
{
	session->posted[session->n_posted++] = (uint16_t)out_idx;
}

void output_cancel(struct session *session, uint32_t out_idx)
{
	free_index(session, out_idx);
}

uint32_t output_sweep(struct session *session)
{
	uint32_t n_freed = 0;

	for (uint32_t i = 0; i < session->n_posted;) {
		uint32_t out_idx = session->posted[i];

		/* Acquire: pairs with the client's release, its reads of the block are over before we reuse it. */
		if (inf_load32_acquire(&session->request->release[out_idx]) != session->outputs[out_idx].generation) {
			i++;
			continue;
		}
		session->posted[i] = session->posted[--session->n_posted];
		free_index(session, out_idx);
		n_freed++;
	}
	return n_freed;
}
