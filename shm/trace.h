/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - the trace region: one record for each request that ended, made while somebody looks.
 *
 * shmctl asks for one on its control socket (OPERATE: TRACE); the front makes a memfd, seals it so that only its own mapping
 * can write, and sends it. Nobody asks, nothing is written: a request costs one load more. The front never waits for a reader:
 * it goes round, and a reader that comes too late finds another position in the slot and counts what it has lost.
 *
 *	writer  seq = 0; release fence; the record; seq = position + 1, with release
 *	reader  seq, with acquire; the record; acquire fence; seq again: the same, or the copy is not one record
 */
#ifndef INF_SHM_TRACE_H
#define INF_SHM_TRACE_H

#include "shm/layout.h"

#define INF_TRACE_MAGIC 0x4543415254464e49ull /* "INFTRACE" */
#define INF_TRACE_VERSION 1u
#define INF_TRACE_RECORDS 16384u
#define INF_TRACE_NONE 0xffffu /* model: a ping; instance: it was never dispatched */

/* Times are CLOCK_MONOTONIC in ns, 0 = it did not come to that. Stages: enum inf_stage in stats.h. */
struct inf_trace_record {
	uint64_t pos; /* of its submission, in its lane */
	uint64_t tag; /* the client's */
	uint32_t session;
	uint32_t pid;
	uint32_t uid;
	uint32_t rows;
	uint16_t lane;
	uint16_t status;   /* enum inf_status */
	uint16_t model;	   /* index in the statistics file's models, or INF_TRACE_NONE */
	uint16_t instance; /* of its last part, or INF_TRACE_NONE */
	uint32_t batch_rows;
	uint32_t batch_parts; /* requests, or parts of them, in that batch */
	uint64_t batch;	      /* position of that batch in its instance */
	uint64_t submitted_ns; /* by the client's word, in steps of 16 ns; 0 = it did not say */
	uint64_t accepted_ns;
	uint64_t dispatched_ns;
	uint64_t begun_ns; /* by the executor's word, within what the front saw; so is ended_ns */
	uint64_t ended_ns;
	uint64_t answered_ns;
	uint64_t deadline_ns; /* 0 = none */
	uint64_t reserved;
	uint64_t seq; /* position in the trace + 1 */
};

struct inf_trace_region {
	uint64_t magic;
	uint32_t version;
	uint32_t n_records; /* INF_TRACE_RECORDS */
	uint32_t uid;	    /* whose requests; UINT32_MAX = everybody's */
	uint32_t reserved;
	uint64_t start_ns;
	uint8_t pad[INF_LINE - 32];
	union inf_word64 next; /* position of the next record */
	uint8_t pad1[INF_PAGE - 2 * INF_LINE];
	struct inf_trace_record records[INF_TRACE_RECORDS];
};

static_assert(sizeof(struct inf_trace_record) == INF_LINE, "layout");
static_assert(offsetof(struct inf_trace_record, seq) == 120, "layout");
static_assert(offsetof(struct inf_trace_region, records) == INF_PAGE, "layout");

#endif /* INF_SHM_TRACE_H */
