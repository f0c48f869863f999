/* SPDX-License-Identifier: Apache-2.0 */
/* status.h - name and advice for each request status; the one place where they are written. */
#ifndef INF_SHM_STATUS_H
#define INF_SHM_STATUS_H

#include <stdbool.h>
#include <stdint.h>

/* "OK", "BAD_SHAPE", ...; "?" for an unknown number. */
const char *inf_shm_status_name(uint32_t status);

/* One sentence: what it means and what to do next. */
const char *inf_shm_status_text(uint32_t status);

/*
 * True where the model may have run: don't repeat what must not happen twice. A completion's INF_COMP_MAYBE_EXECUTED is exact; this is what is known from the status alone.
 */
bool inf_shm_status_maybe_executed(uint32_t status);

#endif /* INF_SHM_STATUS_H */
