/* SPDX-License-Identifier: Apache-2.0 */
/* completion.h - from an end to a completion slot. */
#ifndef BROKER_COMPLETION_H
#define BROKER_COMPLETION_H

#include "broker/job.h"

/* Posts the one terminal status of a job and unlinks it from its lane; the job itself stays. Nothing where its client
 * is gone. With INF_OK the client holds the output block from now on. */
void completion_post(struct broker *broker, struct job *job, enum inf_status status);

/* Posts a status for a submission that never became a job. */
void completion_answer(struct broker *broker, struct lane *lane, uint64_t tag, uint32_t rows, enum inf_status status,
		       uint32_t retry_after_us);

#endif /* BROKER_COMPLETION_H */
