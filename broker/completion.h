/* SPDX-License-Identifier: Apache-2.0 */
/* completion.h - from an end to a completion slot. */
#ifndef BROKER_COMPLETION_H
#define BROKER_COMPLETION_H

#include "broker/intake.h"

/* Posts the one terminal status of a job and unlinks it from its lane; the job itself stays. Nothing where its client
 * is gone. With INF_OK the client holds the output block from now on. */
void completion_post(struct broker *broker, struct job *job, enum inf_status status);

/* Counts what was posted since: after the last of a batch, in the same turn of the front. */
void completion_count(struct broker *broker);

/* Posts ret->status for a submission that never became a job: the one that was taken last. */
void completion_answer(struct broker *broker, struct lane *lane, const struct intake_result *result);

#endif /* BROKER_COMPLETION_H */
