/* SPDX-License-Identifier: Apache-2.0 */
/* operator.h - asking the broker for what changes something (OPERATE, shm/control.h), and reading a trace. */
#ifndef SHMCTL_OPERATOR_H
#define SHMCTL_OPERATOR_H

#include "shm/stats.h"
#include "shm/trace.h"
#include "tools/shmctl/shmctl.h"

/*
 * Asks for one operation (enum inf_operation) and waits for the answer, at most --timeout. `subject`: a session or 0. EXIT_OK and
 * the number of requests in flight, or an exit status after an error line.
 */
int operate(const struct options *options, uint32_t operation, uint32_t subject, uint32_t *ret_in_flight);

/* Before something is changed: asks on a terminal, wants --yes otherwise. EXIT_OK = go on. */
int confirm(const struct options *options, bool yes, const char *question);

/* A trace that is being watched: it ends with trace_close(), or with the broker. */
struct trace {
	int socket_fd;
	const struct inf_trace_region *region;
	uint64_t next;	 /* position to be read */
	uint64_t n_lost; /* overwritten before they were read */
};

/* EXIT_OK, or an exit status after an error line. Records from now on. */
int trace_open(const struct options *options, struct trace *trace);
/* The next record, copied. False where there is none yet. */
bool trace_next(struct trace *trace, struct inf_trace_record *ret_record);
/* Has its broker ended? Waits for that, at most wait_ms. */
bool trace_is_over(const struct trace *trace, int wait_ms);
void trace_close(struct trace *trace);

/* The name of a record's model: "ping" where the broker itself answered, "?" for one that the statistics do not have (any more). */
const char *trace_model_name(const struct inf_stats_public *stats, uint32_t model);
/* Time of a stage, ns; false where the record says nothing of it. INF_STAGE_SERVED is all of it: from submission, else acceptance. */
bool trace_stage(const struct inf_trace_record *record, enum inf_stage stage, uint64_t *ret_ns);

#endif /* SHMCTL_OPERATOR_H */
