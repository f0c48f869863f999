/* SPDX-License-Identifier: Apache-2.0 */
/*
 * describe.h - `infbroker.json` (in the archive, or NAME.json beside the file) -> struct inf_signature.
 *
 *	{"format": 1, "batchable": true, "stateful": false, "max_batch": 16,
 *	 "inputs":  [{"name": "image", "dtype": "f32", "shape": ["batch", 3, 224, 224]},
 *		     {"name": "idx", "dtype": "i64", "shape": ["batch", 4], "range": [0, 999]}],
 *	 "outputs": [{"name": "logits", "dtype": "f32", "shape": ["batch", 1000]}]}
 *
 * A shape entry is "batch" (first only), a number, or {"max": N} for a dimension that varies. Strict: what is unknown or
 * missing is an error that names it.
 */
#ifndef BROKER_EXECUTOR_DESCRIBE_H
#define BROKER_EXECUTOR_DESCRIBE_H

#include <inf/types.h>
#include <stddef.h>

/* 0 and a checked signature with its hash, or -EINVAL and one line of text. */
int describe_parse(const char *json, const char *name, uint32_t version, struct inf_signature *ret_signature, char *error,
		   size_t error_bytes);

#endif /* BROKER_EXECUTOR_DESCRIBE_H */
