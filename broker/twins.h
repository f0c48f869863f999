/* SPDX-License-Identifier: Apache-2.0 */
/* twins.h - device memory of sessions, as far as the request path asks. */
#ifndef BROKER_TWINS_H
#define BROKER_TWINS_H

#include "broker/job.h"

/* False where the job needs device memory that went with an earlier executor. Jobs without any: one comparison. */
bool twins_are_there(const struct broker *broker, const struct job *job);

#endif /* BROKER_TWINS_H */
