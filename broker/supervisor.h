/* SPDX-License-Identifier: Apache-2.0 */
/*
 * supervisor.h - starts executors with posix_spawn, talks to them, and starts them again.
 */
#ifndef BROKER_SUPERVISOR_H
#define BROKER_SUPERVISOR_H

#include "broker/job.h"

/* Starts the executor. 0, or -EALREADY; a start that fails is logged, and retried with back-off
 * like a death. */
int supervisor_start(struct broker *broker);

/*
 * Declares it broken (bad message, protocol error): SIGKILL. Nothing it can reach is reused before
 * its pidfd says that it is gone; then pipeline_executor_died() decides about its batches, and a
 * new one is started after a back-off (none at first, then 100 ms, doubling up to 5 s; a timer
 * that exists only then). After executor_deaths_max starts in a row that did not become READY, or
 * where its program is missing or of another version: FAILED, and pipeline_executor_unavailable();
 * a scan (SIGHUP) then tries again.
 */
void supervisor_kill(struct broker *broker, const char *reason);

/* Sends a message; a full socket or an error kills the executor. -EPIPE where there is none. `fds`
 * are borrowed. */
int supervisor_send(struct broker *broker, const void *msg, const int *fds, unsigned int n_fds);

/* Ends it at the broker's end: close the socket, wait for it (SIGKILL after 1 s). */
void supervisor_stop(struct broker *broker);

#endif /* BROKER_SUPERVISOR_H */
