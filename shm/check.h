/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - the judgement of hostile bytes: pure validators, and the one table that says which bad input
 * gets which status and which ends the session.
 *
 * What a correct library can send through its user's mistake gets a status. What only a broken or
 * hostile writer can produce ends the session, with one named log line. Tests walk through the table.
 */
#ifndef INF_SHM_CHECK_H
#define INF_SHM_CHECK_H

#include "shm/layout.h"
#include <stdbool.h>

/* X(name, status that the request gets or SESSION_END, what was found) */
#define INF_VERDICTS(X)                                                                                        \
	X(SEQ, SESSION_END, "a slot's sequence is neither empty nor next")                                    \
	X(CREDITS, SESSION_END, "more than 256 requests in flight or unread on a lane")                       \
	X(CQ_HEAD, SESSION_END, "completion head went backwards or past the tail")                            \
	X(LANES, SESSION_END, "lane count shrank or is past the limit")                                       \
	X(OPCODE, SESSION_END, "unknown opcode")                                                              \
	X(MEM_KIND_UNKNOWN, SESSION_END, "unknown kind of memory")                                            \
	X(FLAGS, SESSION_END, "unknown flag")                                                                 \
	X(RESERVED, SESSION_END, "a reserved field is not zero")                                              \
	X(EXT_RESERVED, SESSION_END, "a reserved field of an extension tensor is not zero")                   \
	X(TIMELINE, SESSION_END, "an index past the timeline region, or one where none is due")               \
	X(MEM_KIND, INF_NOT_ALLOWED, "a kind of memory that this session has none of")                         \
	X(MODEL, INF_NO_MODEL, "no such model handle in this session")                                        \
	X(ROWS, INF_BAD_SHAPE, "no rows, too many rows, or several rows of a model that does not batch")      \
	X(REGION, INF_BAD_MEMORY, "no such request region in this session")                                   \
	X(OFFSET, INF_BAD_MEMORY, "offset and length reach outside the region's arena")                       \
	X(ALIGN, INF_BAD_MEMORY, "offset is not a multiple of 64")                                            \
	X(LENGTH, INF_BAD_SHAPE, "length is not what the signature asks for these rows")                      \
	X(TWIN, INF_BAD_MEMORY, "an input in a region that has no device memory, or that the model does not have") \
	X(TWIN_OUT, INF_BAD_MEMORY, "results into a region that has no device memory, or past its end")        \
	X(EXT_MISSING, INF_BAD_SHAPE, "the model's shapes vary: an extension block is needed")                \
	X(EXT_COUNT, INF_BAD_SHAPE, "the extension block does not hold one tensor per input")                 \
	X(EXT_DTYPE, INF_BAD_DTYPE, "element type differs from the signature")                                \
	X(EXT_RANK, INF_BAD_SHAPE, "rank differs from the signature")                                         \
	X(EXT_DIMS, INF_BAD_SHAPE, "a dimension differs from the signature or is past its bound")             \
	X(EXT_LENGTH, INF_BAD_SHAPE, "a tensor's length is not the product of its dimensions")                \
	X(EXT_REGION, INF_BAD_MEMORY, "a tensor names no request region of this session")                     \
	X(EXT_OFFSET, INF_BAD_MEMORY, "a tensor reaches outside its region's arena")                          \
	X(EXT_TWIN, INF_BAD_MEMORY, "a tensor in a region that has no device memory")                          \
	X(EXT_ALIGN, INF_BAD_MEMORY, "a tensor's offset is not a multiple of 64")                             \
	X(EXT_OVERLAP, INF_BAD_MEMORY, "two tensors of one request overlap")

enum inf_verdict {
	INF_VERDICT_OK = 0,
#define INF_VERDICT_ENUM(name, effect, text) INF_VERDICT_##name,
	INF_VERDICTS(INF_VERDICT_ENUM)
#undef INF_VERDICT_ENUM
	INF_VERDICT_N
};

#define INF_SESSION_END (-1)

/* INF_SESSION_END, or the status that the request gets. */
int inf_verdict_effect(enum inf_verdict verdict);
const char *inf_verdict_name(enum inf_verdict verdict);
const char *inf_verdict_text(enum inf_verdict verdict);

#define INF_CHECK_NO_REGION 0xffffffffu

/* What the validators know of a session: the front's private truth. */
struct inf_check_region {
	uint32_t id;		/* INF_CHECK_NO_REGION = unused entry, never matched */
	bool has_twin;		/* which the executor has mapped */
	uint64_t arena_offset;	/* first byte that may hold tensors */
	uint64_t bytes;		/* of the region */
};

struct inf_check_model {
	const struct inf_signature *signature; /* checked; NULL = unused handle */
	uint64_t row_bytes;	  /* inf_input_bytes(signature, 1), where packed */
	uint32_t rows_max;	  /* 1 where it does not batch */
	bool packed;
};

/* Opcode, flags, reserved fields: what needs no session. */
enum inf_verdict inf_check_submission(const struct inf_submission *copy);

/* [offset, offset + length) lies in the arena of one of the regions, aligned. Subtract form, no overflow. */
enum inf_verdict inf_check_range(const struct inf_check_region *regions, uint32_t n_regions, uint32_t region,
				 uint64_t offset, uint64_t length);

/* Rows, lengths and memory of a packed request, or of the extension block itself. */
enum inf_verdict inf_check_infer(const struct inf_submission *copy, const struct inf_check_model *model,
				 const struct inf_check_region *regions, uint32_t n_regions);

/* The extension tensors of that submission, already copied into private memory. */
enum inf_verdict inf_check_ext(const struct inf_ext_tensor *copies, uint32_t n_tensors, const struct inf_submission *copy,
			       const struct inf_check_model *model, const struct inf_check_region *regions,
			       uint32_t n_regions);

/* A lane's completion head: old <= head <= tail and tail - head <= INF_SLOTS. */
enum inf_verdict inf_check_cq_head(uint64_t head, uint64_t old_head, uint64_t tail);

/* A lane count: monotonic, <= INF_LANES. */
enum inf_verdict inf_check_lanes(uint32_t n_lanes, uint32_t old_n_lanes);

#endif /* INF_SHM_CHECK_H */
