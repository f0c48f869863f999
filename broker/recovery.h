/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recovery.h - what becomes of requests whose executor died, whose client left, or whose model went.
 *
 * The batches that an executor had *started* when it died are the dying set: one of their requests may have killed it.
 * Each of them is run again with nothing beside it; the one that kills its executor then is POISON. Batches that only
 * waited in the dispatch region just go back to their queue. All of them get blocks in the new executor's output regions,
 * so a request that had rows done starts over.
 */
#ifndef BROKER_RECOVERY_H
#define BROKER_RECOVERY_H

#include "broker/job.h"

/* The executor process is gone (pidfd). Leaves all instances empty. */
void recovery_executor_died(struct broker *broker);

/* No executor can be started: everything that waits gets EXECUTOR_LOST. */
void recovery_no_executor(struct broker *broker);

/* Jobs in flight get blocks in their handle's new pool. After the pool of the handle was replaced. */
void recovery_move_outputs(struct broker *broker, struct handle *handle);

/* A reloaded model with the same signature takes over: what waits in the old one's queue moves along. */
void recovery_move_model(struct handle *handle, struct model *model);

/* A model is not to be served any more: what waits for it gets `status`. */
void recovery_drop_model(struct broker *broker, struct model *model, enum inf_status status);

/* A session ends: its waiting jobs are freed, its running ones run on for nobody. */
void recovery_drop_session(struct broker *broker, struct session *session);

/* Ends a job that is not running: takes it out of its queue, posts `status`, frees it. */
void recovery_end_job(struct broker *broker, struct job *job, enum inf_status status);

/* Jobs of the session whose cancel word names them end at once; running ones finish for nobody. */
void recovery_cancel(struct broker *broker, struct session *session);

/*
 * False where an early end would be too early: a device may be writing into memory that the client would use again. Its
 * batches run to their end.
 */
bool recovery_may_end(const struct job *job);

/* True where the client's cancel word names this job. */
bool recovery_is_cancelled(const struct job *job);

#endif /* BROKER_RECOVERY_H */
