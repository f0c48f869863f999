/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watchdog.h - finds an executor that hangs, in a batch, in a load, in its start or before an answer, and has it killed: a
 * kernel that hangs cannot be cancelled, nor can a thread.
 *
 * What becomes of the rows is decided as after any death: those of batches that had begun run again alone, and one that hangs
 * alone is POISON; a file that hangs while it is loaded is FAILED until it changes.
 *
 * A batch hangs when it is the oldest one of its instance for longer than --batch-ms-max, and than 50 times what the slowest
 * of all running batches should take: on a device they share it. A message about a session may make the executor map or write
 * a whole region, and has time for that besides.
 *
 * Who looks much too late stood still itself, perhaps with everybody else (a container that was paused, a debugger): that
 * time is no sign of anything, and it looks once more.
 */
#ifndef BROKER_WATCHDOG_H
#define BROKER_WATCHDOG_H

#include "broker/job.h"

/* Cold, before the first batch. 0 or -errno. watchdog_deinit() ends it, also where it never began. */
int watchdog_prepare(struct broker *broker);
void watchdog_deinit(struct broker *broker);

/*
 * The executor has something to do: looks at it some time from now, and goes on until it has not. A system call once in a
 * quarter of the time that a batch may take (or a load, or a start, if that is shorter); none while there is nothing to do.
 */
void watchdog_arm(struct broker *broker);

#endif /* BROKER_WATCHDOG_H */
