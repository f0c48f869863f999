/* SPDX-License-Identifier: Apache-2.0 */
/* pipeline.h - one turn of the front; pipeline.c shows the way of a request from slot to slot. */
#ifndef BROKER_PIPELINE_H
#define BROKER_PIPELINE_H

#include "broker/job.h"

/* Allocates all request-path memory. 0 or -ENOMEM. */
int pipeline_init(struct broker *broker);
void pipeline_deinit(struct broker *broker);

/* Runs until broker->stop (or drained). 0 or a negative errno of the loop. */
int pipeline_run(struct broker *broker);

/* A session's bell rang: its lanes are scanned from now on, cancel words are looked at. */
void pipeline_bell(struct broker *broker, struct session *session);
/* An executor instance's bell needs no handler: the scan finds what it rang for. */

/* A session is READY: initialises its lanes (all IDLE, sq_wake = start). Before READY(0) is sent. */
void pipeline_session_begin(struct broker *broker, struct session *session);
/* A session ends: lanes leave the lists, queued jobs are freed, running ones are orphaned. Does not touch shared memory
 * after that. */
void pipeline_session_end(struct broker *broker, struct session *session);

/* The executor process is gone (pidfd): takes what it had finished, then recovery.h decides. */
void pipeline_executor_died(struct broker *broker);
/* No executor can be started: everything that waits gets EXECUTOR_LOST. */
void pipeline_executor_unavailable(struct broker *broker);
/* A model is not to be served any more: its queued jobs get `status`. */
void pipeline_model_gone(struct broker *broker, struct model *model, enum inf_status status);

#endif /* BROKER_PIPELINE_H */
