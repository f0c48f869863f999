/* SPDX-License-Identifier: Apache-2.0 */
/* instance.h - a thread that runs batches. */
#ifndef BROKER_EXECUTOR_INSTANCE_H
#define BROKER_EXECUTOR_INSTANCE_H

#include "broker/executor/executor.h"

/*
 * Maps the regions of an instance (the fds stay the caller's, the bell's is kept) and starts its thread. Control thread.
 * 0 or -errno.
 */
int instance_start(struct executor *executor, uint32_t idx, int dispatch_fd, int done_fd, int bell_fd);

#endif /* BROKER_EXECUTOR_INSTANCE_H */
