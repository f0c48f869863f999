/* SPDX-License-Identifier: Apache-2.0 */
/* trace.h - writes the records of shm/trace.h for those who look. Hot, where somebody does. */
#ifndef BROKER_TRACE_H
#define BROKER_TRACE_H

#include "broker/intake.h"

/* One record of a request that is answered now, for all tracers who may see it. Called where broker.tracers is not NULL. */
void trace_job(struct broker *broker, const struct job *job, enum inf_status status);
/* The same of a submission that never became a job. */
void trace_answer(struct broker *broker, const struct lane *lane, const struct intake_result *result);

/*
 * The session watches from now on, all users' requests or its own user's: makes the region, charged to its user. Cold.
 * Returns its fd, sealed, which is the caller's, -EBUSY where too many watch, or -errno.
 */
int trace_begin(struct broker *broker, struct session *session, bool all);
/* Does anybody watch requests of that user? His clients stamp them all then. */
bool trace_is_wanted(const struct broker *broker, uid_t uid);
/* It does not any more; gives the region back. Nothing where it never did. */
void trace_end(struct broker *broker, struct session *session);

#endif /* BROKER_TRACE_H */
