/* SPDX-License-Identifier: Apache-2.0 */
/* control.h - the executor's conversation with the front (the walk is at the head of shm/control.h). */
#ifndef BROKER_EXECUTOR_CONTROL_H
#define BROKER_EXECUTOR_CONTROL_H

#include "broker/executor/executor.h"

/* Says hello and serves messages until the front hangs up. Returns the exit status. */
int control_run(struct executor *executor);

#endif /* BROKER_EXECUTOR_CONTROL_H */
