/* SPDX-License-Identifier: Apache-2.0 */
/*
 * assemble.h - from the rows of many requests to one run of a model, and back.
 *
 * Gather: rows are copied out of the clients' regions into one private block per input. That copy is the snapshot: a client
 * that changes its memory afterwards changes nothing, and values are judged on it (values.h). Where a batch is one whole
 * request and the model is on the in-place list, the model reads the client's memory itself.
 * Scatter: rows of the outputs are copied into the requests' output blocks, whose heads say what they hold.
 */
#ifndef BROKER_EXECUTOR_ASSEMBLE_H
#define BROKER_EXECUTOR_ASSEMBLE_H

#include "broker/executor/executor.h"
#include "broker/executor/queue.h"

struct assembly {
	uint32_t instance; /* number to run as */
	struct batch batch;
	uint64_t run_ns;  /* out: inside the backend */
	uint8_t *scratch; /* the gathered inputs; grows, never shrinks */
	uint64_t scratch_bytes;
};

/*
 * Runs the batch and fills its `ends`. A batch that fails as a whole is run again entry by entry, so that a bad row does not
 * fail its mates.
 */
void assemble_run(struct assembly *assembly, const struct loaded_model *model);

/* NULL where the outputs of a run of `rows` rows fit the signature, else a text in `error`. */
const char *assemble_check_outputs(const struct inf_signature *signature, uint32_t rows,
				   const struct inf_backend_tensor *outputs, char *error, size_t error_bytes);

uint64_t assemble_now_ns(void);

#endif /* BROKER_EXECUTOR_ASSEMBLE_H */
