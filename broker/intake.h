/* SPDX-License-Identifier: Apache-2.0 */
/* intake.h - from a submission slot to a job: copy once, validate the copy, reserve what the answer needs. */
#ifndef BROKER_INTAKE_H
#define BROKER_INTAKE_H

#include "broker/job.h"

enum intake {
	INTAKE_NONE = 0, /* nothing there */
	INTAKE_JOB,	 /* ret->job is ready to be queued */
	INTAKE_ANSWER,	 /* answer with ret->status at once */
	INTAKE_END,	 /* ret->verdict ends the session */
};

struct intake_result {
	struct job *job;
	uint64_t tag;
	uint32_t rows;
	uint32_t stamp; /* when it was submitted: inf_stamp() */
	uint16_t model; /* that an INTAKE_ANSWER is about: index of broker.models, MODELS_MAX = none */
	enum inf_status status;
	enum inf_verdict verdict;
	uint32_t retry_after_us;
	uint32_t timeline; /* INTAKE_ANSWER: index + 1 of the entry that the answer ends, 0 = none */
};

/* Takes the next submission of a lane. */
enum intake intake_next(struct broker *broker, struct lane *lane, struct intake_result *ret);

/* Gives the slots taken so far back to the client: once per burst. */
void intake_credit(struct lane *lane);

/* True where the lane's next slot is not empty; what the front looks at before it sleeps. */
bool intake_has_work(const struct lane *lane);

/* Frees a job: its output block (unless it was posted), its extension block, itself. Unlinks it from its lane. */
void intake_free_job(struct broker *broker, struct job *job);

/* Unlinks a job from its lane: its client has its answer, or is gone. */
void intake_unlink_job(struct job *job);

#endif /* BROKER_INTAKE_H */
