/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.h - reservation of output blocks: at ACCEPT, so that nothing can fail for lack of room later.
 */
#ifndef BROKER_OUTPUT_H
#define BROKER_OUTPUT_H

#include "broker/job.h"

/* A pool over a region of `bytes`; all units free. NULL when out of memory. Cold. */
struct output_pool *output_pool_new(uint32_t region, uint64_t bytes, const struct inf_signature *signature);
struct output_pool *output_pool_free(struct output_pool *pool);

/* Fills the stack of free indexes of a new session. */
void output_session_init(struct session *session);

/*
 * Reserves a block for `rows` rows and an index. When there is none, sweeps the client's release words once.
 * Returns false when the client holds too much (QUOTA). Hot.
 */
bool output_reserve(struct session *session, struct output_pool *pool, uint32_t rows, uint32_t *ret_out_idx);

/* Moves a reservation to another pool (new executor generation); the index stays. False if no room. */
bool output_move(struct session *session, uint32_t out_idx, struct output_pool *pool, uint32_t rows);

/* Bytes from the start of the region, and bytes reserved. */
uint64_t output_offset(const struct output *output);
uint64_t output_bytes(const struct output *output);

/* The client holds it from now on. Hot. */
void output_post(struct session *session, uint32_t out_idx);

/* Gives a reservation back that no completion named. Hot. */
void output_cancel(struct session *session, uint32_t out_idx);

/* Looks at the release words of everything posted and frees what was released; sets session->retire_due where a
 * retired pool has become empty. Returns the number of blocks freed. */
uint32_t output_sweep(struct session *session);

#endif /* BROKER_OUTPUT_H */
