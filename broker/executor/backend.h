/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - finding and opening plug-ins. */
#ifndef BROKER_EXECUTOR_BACKEND_H
#define BROKER_EXECUTOR_BACKEND_H

#include "broker/executor/executor.h"

/* Opens what the options ask for: builtin, and every libinf-backend-*.so of the plug-in folder where there are models. */
void backend_open_all(struct executor *executor);

/* The backend that serves a file name, or (path NULL) a builtin name. NULL where none does. */
const struct inf_backend_ops *backend_find(const struct executor *executor, const char *file_name, const char *builtin);

#endif /* BROKER_EXECUTOR_BACKEND_H */
