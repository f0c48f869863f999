/* SPDX-License-Identifier: Apache-2.0 */
/* loader.h - the thread that loads, describes, warms up and measures models, one after another. */
#ifndef BROKER_EXECUTOR_LOADER_H
#define BROKER_EXECUTOR_LOADER_H

#include "broker/executor/executor.h"

/* Starts the thread. 0 or a negative errno. */
int loader_start(struct executor *executor);

/* Queues a LOAD. It is answered by LOADING, then LOADED or FAILED. Control thread. */
void loader_push(const struct inf_ctl_load *load);

/* Unloads a model that no batch names any more. Control thread. */
void loader_unload(struct executor *executor, uint32_t model);

#endif /* BROKER_EXECUTOR_LOADER_H */
