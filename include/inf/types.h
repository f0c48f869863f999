/* SPDX-License-Identifier: Apache-2.0 */
/*
 * types.h - the vocabulary that clients, broker, executors and backends share: element types, tensor
 * descriptions, model signatures, limits and the closed list of request statuses.
 *
 * Everything here is plain data with fixed-width members, little-endian, without pointers, so that a
 * signature is the same bytes in an API call, in a control message and in a backend.
 */
#ifndef INF_TYPES_H
#define INF_TYPES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Limits of the interface. Those of one broker (memory, sessions, ...) are in `infbroker --help`. */
#define INF_RANK_MAX 8		 /* dimensions of a tensor, the batch dimension included */
#define INF_INPUTS_MAX 16	 /* inputs of a model */
#define INF_OUTPUTS_MAX 16	 /* outputs of a model */
#define INF_NAME_BYTES 64	 /* model and tensor names, the closing NUL included */
#define INF_BATCH_MAX 256	 /* rows that one run of a model may take */
#define INF_ROWS_MAX 4096	 /* rows of one request */
#define INF_PRIORITY_MAX 3	 /* the most urgent; 0 is the least */
#define INF_PRIORITY_DEFAULT 1
#define INF_TENSOR_ALIGN 64	 /* bytes; every tensor in a region starts at a multiple */

/*
 * Element types. The numbers are part of the shared-memory layout and never change. f16 and bf16 are
 * 2-byte IEEE 754 binary16 and bfloat16, bool is one byte that is 0 or 1.
 */
enum inf_dtype {
	INF_DTYPE_NONE = 0,
	INF_BOOL = 1,
	INF_U8 = 2,
	INF_I8 = 3,
	INF_I16 = 4,
	INF_I32 = 5,
	INF_I64 = 6,
	INF_F16 = 7,
	INF_BF16 = 8,
	INF_F32 = 9,
	INF_F64 = 10,
	INF_DTYPE_N
};

/*
 * How a request ended. Every accepted request gets exactly one of these, also when an executor or the broker
 * dies. inf_status_name() gives the name, inf_status_text() one sentence with the next step,
 * inf_request_get_info() whether the model may have run. The numbers are part of the shared-memory layout and never change.
 */
enum inf_status {
	INF_OK = 0,
	INF_BAD_SHAPE = 1,	/* rank, dims, rows or byte size differ from the signature */
	INF_BAD_DTYPE = 2,	/* element type differs from the signature */
	INF_BAD_RANGE = 3,	/* an input holds a value outside its declared range, or NaN or infinity where it must be finite */
	INF_BAD_MEMORY = 4,	/* region, offset, alignment or overlap of a tensor */
	INF_NO_MODEL = 5,	/* unknown, removed, or reloaded with another signature: open it again */
	INF_LOADING = 6,	/* not ready yet: try again */
	INF_NOT_ALLOWED = 7,	/* this user may not do that, or the broker does not offer it */
	INF_QUOTA = 8,		/* the client's own limit: release outputs, wait for answers */
	INF_BUSY = 9,		/* the broker's limit: try again after retry_after_us */
	INF_SHED = 10,		/* dropped so that others meet their deadlines */
	INF_DEADLINE = 11,	/* its deadline passed before it ran, or what it was committed to on a device never came */
	INF_CANCELLED = 12,	/* the client cancelled it */
	INF_MODEL_ERROR = 13,	/* the model failed, or produced what its signature forbids */
	INF_POISON = 14,	/* run alone, it killed its executor, or hung it */
	INF_EXECUTOR_LOST = 15, /* no executor can be started */
	INF_BROKER_LOST = 16,	/* the broker died or ended this session */
	INF_STATUS_N
};

/* inf_tensor_spec.flags */
#define INF_SPEC_BATCH 0x01u /* dims[0] is the batch dimension and holds -1 */
#define INF_SPEC_RANGE 0x02u /* value_min and value_max are set (integer dtypes only) */
#define INF_SPEC_FINITE 0x04u /* an input that holds no NaN and no infinity (floating-point dtypes only) */

/*
 * One input or output of a model. dims are in row-major order, outermost first, and include the batch
 * dimension where INF_SPEC_BATCH is set. A dimension of -1 (other than the batch) varies from 0 to
 * dims_max[i]; a fixed one has dims_max[i] == dims[i]. Rank 0 is a scalar; a dimension of 0 makes an
 * empty tensor: both are served. Unused entries are 0.
 */
struct inf_tensor_spec {
	char name[INF_NAME_BYTES];
	uint8_t dtype; /* enum inf_dtype */
	uint8_t rank;  /* 0..INF_RANK_MAX */
	uint8_t flags; /* INF_SPEC_* */
	uint8_t reserved[5];
	int64_t dims[INF_RANK_MAX];
	int64_t dims_max[INF_RANK_MAX];
	int64_t value_min; /* inclusive */
	int64_t value_max; /* inclusive */
};

/* inf_signature.flags */
#define INF_SIG_BATCHABLE 0x01u /* every tensor has INF_SPEC_BATCH; rows of several requests may share a run */
#define INF_SIG_STATEFUL 0x02u	/* declared to keep state between runs: never batched with others */
#define INF_SIG_BUILTIN 0x04u	/* a builtin test model, not a file */

/*
 * What a model takes and gives. Where the model is batchable a request carries 1..INF_ROWS_MAX rows and
 * dims[0] of every tensor is that number; otherwise a request is one row and the dims are complete.
 */
struct inf_signature {
	char name[INF_NAME_BYTES];
	uint32_t version; /* of the model, from its directory; 1 for NAME.pt */
	uint32_t flags;	  /* INF_SIG_* */
	uint32_t n_inputs;
	uint32_t n_outputs;
	uint32_t batch_max; /* rows per run, 1..INF_BATCH_MAX */
	uint32_t reserved;
	uint64_t hash; /* of all else but version: equal hashes mean interchangeable requests */
	struct inf_tensor_spec inputs[INF_INPUTS_MAX];
	struct inf_tensor_spec outputs[INF_OUTPUTS_MAX];
};

#ifdef __cplusplus
}
#endif

#endif /* INF_TYPES_H */
