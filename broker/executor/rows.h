/* SPDX-License-Identifier: Apache-2.0 */
/* rows.h - what gathering and scattering have in common, on the CPU and on a device. */
#ifndef BROKER_EXECUTOR_ROWS_H
#define BROKER_EXECUTOR_ROWS_H

#include "broker/executor/executor.h"
#include "broker/executor/queue.h"

/* Does input i of an entry lie in device memory? */
static inline bool rows_is_in_twin(const struct inf_batch_entry *entry, uint32_t i)
{
	return entry->flags >> INF_SUB_TWIN_SHIFT & 1u << i;
}

/* Where input i of an entry lies in its client's region, or in that one's twin; NULL where that is not mapped. */
const void *rows_input_at(const struct batch *batch, const struct inf_batch_entry *entry, const struct loaded_model *model,
			  uint32_t i, const struct inf_ext_tensor **ret_ext);

/* The shape of a tensor of `rows` rows; `ext`: what the client described, or NULL. */
void rows_set_shape(struct inf_backend_tensor *tensor, const struct inf_tensor_spec *spec, uint32_t rows,
		    const struct inf_ext_tensor *ext);

/* The same where each dimension that varies is as large as it may be. */
void rows_set_largest(struct inf_backend_tensor *tensor, const struct inf_tensor_spec *spec, uint32_t rows);

/* Does the signature forbid values of that input? And of some input? */
bool rows_is_judged(const struct inf_tensor_spec *spec);
bool rows_must_judge(const struct loaded_model *model);

/* Are they allowed? `data` is the executor's own copy. */
bool rows_are_allowed(const void *data, const struct inf_tensor_spec *spec, uint64_t bytes);

/* The head of an entry's output block: what it holds. */
void rows_write_head(uint8_t *block, const struct inf_batch_entry *entry, const struct loaded_model *model,
		     const struct inf_backend_tensor *outputs);

#endif /* BROKER_EXECUTOR_ROWS_H */
