/* SPDX-License-Identifier: Apache-2.0 */
/* models.h - which models lie in the directory that the administrator gave. */
#ifndef BROKER_EXECUTOR_MODELS_H
#define BROKER_EXECUTOR_MODELS_H

#include "broker/executor/executor.h"

/* Sends FOUND for each model (builtin ones, NAME.pt, the highest NAME/VERSION/model.pt), then SCANNED. */
void models_scan(struct executor *executor);

/*
 * Where a model's file and its sidecar description are. -ENOENT where no file is there (any more); `path` is "" for a
 * builtin model. Both buffers have `bytes`.
 */
int models_locate(const struct executor *executor, const char *name, uint32_t version, char *path, char *sidecar,
		  size_t bytes, const struct inf_backend_ops **ret_ops);

#endif /* BROKER_EXECUTOR_MODELS_H */
