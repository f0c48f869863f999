/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - every byte that two processes share. LAYOUT.md draws it; this file fixes it.
 *
 *   request region (client writes)            response region (front writes)
 *   +0x00000 head: n_lanes, n_cancels         +0x00000 liveness words, one per lane
 *   +0x01000 release words, u32 per output    +0x01000 head: version, epoch, start, may_spin
 *   +0x05000 lane 0: cq_head parked spinning  +0x02000 lane 0: sq_head sq_wake cq_word
 *   +0x06000         submission slots 0..255  +0x03000         completion slots 0..255
 *   +0x0a000 lane 1 ...                       +0x07000 lane 1 ...
 *   +0x60000 input arena ...                  +0x60000 end
 *
 *   dispatch region (front writes)            done region (executor writes)
 *   +0x00000 done_wake                        +0x00000 started, parked
 *   +0x01000 batch slots 0..3                 +0x01000 done slots 0..3
 *   +0x02000 entries, 256 per batch slot      +0x02000 ends, 256 per done slot
 *   +0x12000 checked extension tensors
 *
 *   output region (executor writes): blocks; each starts with struct inf_out_head
 *   timeline region (client and devices write): struct inf_timeline 0..1023
 *   twins (device memory, client and device write): the same offsets as in the region that each belongs to
 *
 * Rules. One writer per word and per region. Words of different writers, or of different rates, are 128
 * bytes apart (adjacent-line prefetch). Fixed-width little-endian integers, offsets, no pointers. A
 * change here bumps INF_LAYOUT_VERSION and edits LAYOUT.md in the same commit.
 *
 * Names: *tail* is where the producer writes, *head* where the consumer reads (io_uring's sense). A
 * *position* is a 64-bit count that never wraps in practice; slot index = position % INF_SLOTS. A slot
 * at position p is full when its seq == p + 1 (stored last, with release): the sequence in the slot
 * spares the index word and its cache-line transfer, survives laps, and makes a stale slot inert.
 */
#ifndef INF_SHM_LAYOUT_H
#define INF_SHM_LAYOUT_H

#include <assert.h>
#include <inf/types.h>
#include <stddef.h>
#include <stdint.h>

#define INF_LAYOUT_VERSION 2u

#define INF_LINE 128u		/* distance between words of different writers or rates */
#define INF_PAGE 4096u
#define INF_MAP_ALIGN (2u << 20) /* every mapping of a region starts at a multiple */

#define INF_LANES 16u	 /* ring pairs per session */
#define INF_SLOTS 256u	 /* slots per lane and direction; also the credits of a lane */
#define INF_OUTPUTS 4096u /* output indexes per session = INF_LANES * INF_SLOTS */
#define INF_BATCHES 4u	 /* batch slots per instance; at most 2 are in use */
#define INF_INSTANCES 16u /* instance threads per executor */
#define INF_REGIONS 64u	 /* live regions per session */

/* Kinds of region. */
enum inf_region_kind {
	INF_REGION_REQUEST = 1, /* client writes */
	INF_REGION_RESPONSE = 2, /* front writes */
	INF_REGION_OUTPUT = 3,	/* executor writes */
	INF_REGION_DISPATCH = 4, /* front writes */
	INF_REGION_DONE = 5,	/* executor writes */
	INF_REGION_TIMELINE = 6, /* client and devices write; believed by nobody */
	INF_REGION_TWIN = 7,	/* device memory: client and device write */
};

/*
 * The device memory that belongs to a request region: as long as that, and what lies at an offset of the one may lie at the
 * same offset of the other instead. Its id is the region's with this bit.
 */
#define INF_TWIN_BIT 0x80000000u

/* inf_submission.opcode */
enum inf_opcode {
	INF_OP_INFER = 1,
	INF_OP_PING = 2, /* answered by the front itself, OK */
};

/* inf_submission.mem_kind: what (region, generation, offset, length) names. */
enum inf_mem_kind {
	INF_MEM_REGION = 0, /* the client's own request region; generation is 0 */
	INF_MEM_OUTPUT = 1, /* an output it holds, as input; generation is the output's (later feature) */
	INF_MEM_DEVICE = 2, /* as INF_MEM_REGION, but inputs and results may lie in the twin of their region: see flags */
};

/* inf_submission.flags */
#define INF_SUB_EXT 0x1u /* (offset, length) is an array of n_inputs struct inf_ext_tensor */
/* Where mem_kind is INF_MEM_DEVICE: */
#define INF_SUB_TWIN_OUT 0x2u /* results into the twin of `region`: a block as in an output region, head left out, behind (offset, length) */
#define INF_SUB_TWIN_SHIFT 16	     /* from this bit on, one for each input that lies in a twin */
#define INF_SUB_FLAGS_REGION INF_SUB_EXT
#define INF_SUB_FLAGS_DEVICE (INF_SUB_EXT | INF_SUB_TWIN_OUT | 0xffffu << INF_SUB_TWIN_SHIFT)

/* Submission slot. The client fills [0,56), then stores seq. */
struct inf_submission {
	uint8_t opcode;
	uint8_t mem_kind;
	uint16_t model; /* per-session handle, from MODEL */
	uint32_t flags;
	uint64_t tag;	     /* echoed in the completion, never used */
	uint32_t region;
	union {
		uint32_t generation; /* where mem_kind is INF_MEM_OUTPUT: of the output */
		uint32_t stamp;	     /* else: when it was submitted, inf_stamp(); 0 = not told. Believed for statistics alone */
	};
	uint64_t offset;     /* bytes, multiple of INF_TENSOR_ALIGN */
	uint64_t length;     /* bytes: sum over inputs of align64(rows * row bytes) */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC, 0 = none */
	uint32_t rows;
	uint16_t priority;   /* 0 = the default; n = class n - 1 <= INF_PRIORITY_MAX */
	uint16_t timeline;   /* index + 1 in the timeline region, 0 = none; INF_MEM_DEVICE alone */
	uint64_t seq;
};

/* completion flags */
#define INF_COMP_MAYBE_EXECUTED 0x1u /* the model may have run although the status is an error */
#define INF_COMP_OUTPUT 0x2u	     /* region..length name an output block, held until released */

/* Completion slot. The front fills [0,56), then stores seq. */
struct inf_completion {
	uint64_t tag;
	uint16_t status; /* enum inf_status */
	uint16_t flags;
	uint32_t rows;
	uint32_t region;
	uint32_t out_idx; /* index of the release word */
	uint32_t generation; /* to be stored there */
	uint32_t retry_after_us;
	uint64_t offset;
	uint64_t length;
	uint32_t queue_us; /* accept -> dispatch of the last part */
	uint32_t run_us;   /* dispatch -> completion of the last part */
	uint64_t seq;
};

/* One input of a request whose shapes are not all fixed; lies in the arena, copied in once. */
struct inf_ext_tensor {
	uint32_t region;
	uint8_t dtype;
	uint8_t rank;
	uint16_t reserved; /* must be 0 */
	uint64_t offset;   /* bytes, multiple of INF_TENSOR_ALIGN */
	uint64_t length;   /* bytes, exact */
	int64_t dims[INF_RANK_MAX]; /* dims[0] == rows where batchable; unused are 0 */
	uint64_t reserved1;	    /* must be 0 */
};

/* One 128-byte line that holds one word. */
union inf_word64 {
	uint64_t v;
	uint8_t line[INF_LINE];
};
union inf_word32 {
	uint32_t v;
	uint8_t line[INF_LINE];
};

/* --- request region ------------------------------------------------------------------------- */

struct inf_request_head {
	union inf_word32 n_lanes;   /* lanes in use: client, monotonic, <= INF_LANES */
	union inf_word32 n_cancels; /* client: bumped after cancel words, before the bell */
	uint8_t pad[INF_PAGE - 2 * INF_LINE];
};

/* inf_request_lane.parked: threads that sleep, in the low half; what cq_word was for the last of them, in the high half. */
#define INF_PARKED_COUNT 0xffffu
#define INF_PARKED_SHIFT 16

struct inf_request_lane {
	union inf_word64 cq_head;  /* client: completions consumed (position) */
	union inf_word32 parked;   /* client: threads asleep on cq_word, and its value for them */
	union inf_word32 spinning; /* client: threads spinning for completions (hint) */
	union inf_word32 event;	   /* client: not 0 = send one byte to the lane's event fd; another number at each poll */
	uint8_t pad[2048 - 4 * INF_LINE];
	uint64_t cancel[INF_SLOTS]; /* client: position + 1 of the request to be cancelled */
	struct inf_submission slots[INF_SLOTS];
};

struct inf_request_region {
	struct inf_request_head head;
	uint32_t release[INF_OUTPUTS]; /* client: generation of the output that is no longer needed */
	struct inf_request_lane lanes[INF_LANES];
	uint8_t pad[0x60000 - 0x5000 - INF_LANES * 0x5000];
	/* the input arena follows, up to the end of the region */
};
#define INF_ARENA_OFFSET 0x60000u /* of region 0; other request regions are arena from 0 */
#define INF_REQUEST_BYTES (1u << 20) /* size of region 0 */

/* --- timeline region ------------------------------------------------------------------------ */

/*
 * How requests and streams of a device wait for each other without the host. The client counts; what a stream of its writes
 * into `ready` when the inputs are there, and a stream of ours into `done` when the results are, is compared as a signed
 * difference. The front waits for `ready` by looking, never by queueing a wait on a device, and writes `done` as well: for
 * requests that never ran. A lie in here is its client's own loss.
 */
struct inf_timeline {
	uint64_t ready;	   /* client's device */
	uint64_t ready_at; /* client: read once, when the request is accepted */
	uint64_t done_at;  /* client: likewise */
	uint8_t pad[INF_LINE - 24];
	union inf_word64 done; /* executor's device, front */
};
#define INF_TIMELINES 1024u
#define INF_TIMELINE_BYTES (INF_TIMELINES * 256u)

/* --- response region ------------------------------------------------------------------------ */

/*
 * Who looks for work before it sleeps gives its core away in between (sched_yield). Where such a yield took longer than
 * INF_YIELD_LOST_NS, another thread computes there, and a sleeper would have been let in at once: no more looking for
 * INF_NO_SPIN_NS. (EEVDF puts who yields behind the others' time slices, some ms.)
 */
#define INF_YIELD_LOST_NS 500000u
#define INF_NO_SPIN_NS	  100000000u

#define INF_RESPONSE_MAGIC 0x31505352464e49ull /* "INFRSP1" */

struct inf_response_head {
	uint64_t magic;	   /* written once */
	uint32_t version;  /* written once: INF_LAYOUT_VERSION agreed in HELLO */
	uint32_t session;  /* written once */
	uint64_t features; /* written once */
	uint64_t epoch;	   /* written once: start time of the front, ns */
	uint64_t start;	   /* written once: first position of every lane, < INF_SLOTS (staggered by session
			    * so that the next slots of many sessions don't share cache sets) */
	uint32_t spin_ns;  /* written once: how long a client may look before it sleeps; 0 = not at all */
	uint32_t must_yield; /* written once: 1 = yield between two looks, broker and client may share a core */
	uint8_t pad0[INF_LINE - 48];
	union inf_word32 may_spin; /* front: 1 = this session's clients may spin without yielding */
	union inf_word32 must_stamp; /* front: 1 = each submission gets its stamp, somebody is tracing them */
	uint8_t pad[INF_PAGE - 3 * INF_LINE];
};

struct inf_response_lane {
	union inf_word64 sq_head; /* front: submissions accepted (position) */
	union inf_word64 sq_wake; /* front: ring the bell when publishing this position */
	union inf_word32 cq_word; /* front: completions produced mod 2^32; the futex */
	uint8_t pad[INF_PAGE - 3 * INF_LINE];
	struct inf_completion slots[INF_SLOTS];
};

struct inf_response_region {
	/*
	 * front's thread id | FUTEX_WAITERS while it lives. In the front's robust list, whose nodes lie in a
	 * private page directly below the mapping, so that node = word - INF_PAGE for every session. The
	 * kernel ORs FUTEX_OWNER_DIED in when the front dies; 0 = the front ended this session.
	 * A lane that is not in the list (not yet seen by the front, or past the kernel's limit of 2,048 words) has
	 * FUTEX_WAITERS alone: it is alive, but a sleeper there must look at its socket every 250 ms.
	 */
	union inf_word32 liveness[INF_LANES];
	uint8_t pad[INF_PAGE - INF_LANES * INF_LINE];
	struct inf_response_head head;
	struct inf_response_lane lanes[INF_LANES];
	uint8_t pad1[0x60000 - 0x2000 - INF_LANES * 0x5000];
};
#define INF_RESPONSE_BYTES 0x60000u

/* --- output block --------------------------------------------------------------------------- */

struct inf_out_tensor {
	uint8_t dtype;
	uint8_t rank;
	uint8_t reserved[6];
	uint64_t offset; /* from the start of the block */
	uint64_t bytes;
	int64_t dims[INF_RANK_MAX];
};

/*
 * At the head of an output block: what the executor really produced. The library copies it once and
 * checks it against the completion before it gives out pointers. Tensors follow at
 * inf_out_head_bytes(n), each at align64; the stride between rows of a tensor is its row bytes.
 *
 * INF_OUT_DECLARED: every output is as the signature says, each at inf_output_offset(); then nobody writes
 * or reads the table, which spares its cache lines the way from core to core.
 */
#define INF_OUT_DECLARED 0x1ull

struct inf_out_head {
	uint32_t n_outputs;
	uint32_t rows;
	uint64_t flags;
	uint8_t reserved[48];
	/* struct inf_out_tensor tensors[n_outputs], of no meaning with INF_OUT_DECLARED */
};

/* --- dispatch region ------------------------------------------------------------------------ */

struct inf_batch_slot {
	uint64_t batch;	   /* position of the batch on this instance */
	uint32_t model;	   /* executor's model id */
	uint32_t n_entries;
	uint32_t n_rows;
	uint32_t n_ext;	   /* struct inf_ext_tensor used in this slot's extension area */
	uint32_t priority; /* the highest of its requests, 0..INF_PRIORITY_MAX */
	uint8_t reserved[28];
	uint64_t seq;	   /* position + 1; its low half is the futex of a parked instance */
	uint8_t pad[INF_LINE - 64];
};

#define INF_ENTRY_EXT 0x1u /* inputs are ext[ext_idx .. ext_idx + n_inputs) of the slot */
#define INF_ENTRY_TWIN_OUT 0x2u /* INF_SUB_TWIN_OUT, and the bits of the inputs, as in the submission */

/* Some rows of one request. */
struct inf_batch_entry {
	uint32_t session;
	uint32_t flags;
	uint64_t in_offset;
	uint32_t in_region;
	uint32_t rows_total; /* of the request: fixes the offsets of its inputs and outputs */
	uint32_t first_row;
	uint32_t n_rows;
	uint32_t out_region;
	uint16_t ext_idx;
	uint16_t timeline; /* index + 1: `done` shall become `done_at` when the results are there; 0 = none */
	uint64_t out_offset;
	uint64_t out_length; /* reserved bytes */
	uint64_t done_at;
};

#define INF_EXT_PER_BATCH 512u

struct inf_dispatch_region {
	union inf_word64 done_wake; /* front: ring when this batch position is done */
	uint8_t pad[INF_PAGE - INF_LINE];
	struct inf_batch_slot slots[INF_BATCHES];
	uint8_t pad1[INF_PAGE - INF_BATCHES * INF_LINE];
	struct inf_batch_entry entries[INF_BATCHES][INF_BATCH_MAX];
	struct inf_ext_tensor ext[INF_BATCHES][INF_EXT_PER_BATCH];
};

/* --- done region ---------------------------------------------------------------------------- */

struct inf_done_slot {
	uint64_t batch;
	uint64_t run_ns;  /* backend only */
	uint64_t work_ns; /* gather + run + scatter: what t[b] learns from */
	uint64_t begin_ns; /* CLOCK_MONOTONIC when work_ns began */
	uint8_t reserved[24];
	uint64_t seq;	  /* position + 1 */
	uint8_t pad[INF_LINE - 64];
};

/* End of one batch entry, in the order of the entries. */
struct inf_row_end {
	uint16_t status; /* OK, BAD_RANGE or MODEL_ERROR */
	uint16_t reserved;
	uint32_t detail; /* for BAD_RANGE the input's index */
};

struct inf_done_region {
	union inf_word64 started; /* executor: position + 1 of the batch being run, before it touches a row */
	union inf_word32 parked;  /* executor: 1 = the instance sleeps on its next batch slot's seq */
	uint8_t pad[INF_PAGE - 2 * INF_LINE];
	struct inf_done_slot slots[INF_BATCHES];
	uint8_t pad1[INF_PAGE - INF_BATCHES * INF_LINE];
	struct inf_row_end ends[INF_BATCHES][INF_BATCH_MAX];
};

/* --- the bytes, fixed ------------------------------------------------------------------------ */

static_assert(sizeof(struct inf_tensor_spec) == 216, "layout");
static_assert(sizeof(struct inf_signature) == 96 + 32 * 216, "layout");
static_assert(sizeof(struct inf_submission) == 64, "layout");
static_assert(offsetof(struct inf_submission, tag) == 8, "layout");
static_assert(offsetof(struct inf_submission, region) == 16, "layout");
static_assert(offsetof(struct inf_submission, offset) == 24, "layout");
static_assert(offsetof(struct inf_submission, deadline_ns) == 40, "layout");
static_assert(offsetof(struct inf_submission, rows) == 48, "layout");
static_assert(offsetof(struct inf_submission, timeline) == 54, "layout");
static_assert(INF_INPUTS_MAX <= 16, "one bit for each in a submission's flags");
static_assert(sizeof(struct inf_timeline) * INF_TIMELINES == INF_TIMELINE_BYTES, "layout");
static_assert(offsetof(struct inf_timeline, done) == INF_LINE, "layout");
static_assert(INF_EXT_PER_BATCH <= UINT16_MAX, "layout");
static_assert(offsetof(struct inf_submission, seq) == 56, "layout");
static_assert(sizeof(struct inf_completion) == 64, "layout");
static_assert(offsetof(struct inf_completion, status) == 8, "layout");
static_assert(offsetof(struct inf_completion, region) == 16, "layout");
static_assert(offsetof(struct inf_completion, generation) == 24, "layout");
static_assert(offsetof(struct inf_completion, offset) == 32, "layout");
static_assert(offsetof(struct inf_completion, queue_us) == 48, "layout");
static_assert(offsetof(struct inf_completion, seq) == 56, "layout");
static_assert(sizeof(struct inf_ext_tensor) == 96, "layout");
static_assert(sizeof(struct inf_request_lane) == 0x5000, "layout");
static_assert(offsetof(struct inf_request_lane, cancel) == 0x800, "layout");
static_assert(offsetof(struct inf_request_lane, slots) == 0x1000, "layout");
static_assert(offsetof(struct inf_request_region, release) == 0x1000, "layout");
static_assert(offsetof(struct inf_request_region, lanes) == 0x5000, "layout");
static_assert(sizeof(struct inf_request_region) == INF_ARENA_OFFSET, "layout");
static_assert(sizeof(struct inf_response_lane) == 0x5000, "layout");
static_assert(offsetof(struct inf_response_lane, slots) == 0x1000, "layout");
static_assert(offsetof(struct inf_response_region, head) == 0x1000, "layout");
static_assert(offsetof(struct inf_response_region, lanes) == 0x2000, "layout");
static_assert(sizeof(struct inf_response_region) == INF_RESPONSE_BYTES, "layout");
static_assert(sizeof(struct inf_out_tensor) == 88, "layout");
static_assert(sizeof(struct inf_out_head) == 64, "layout");
static_assert(sizeof(struct inf_batch_slot) == INF_LINE, "layout");
static_assert(offsetof(struct inf_batch_slot, seq) == 56, "layout");
static_assert(sizeof(struct inf_batch_entry) == 64, "layout");
static_assert(offsetof(struct inf_dispatch_region, slots) == 0x1000, "layout");
static_assert(offsetof(struct inf_dispatch_region, entries) == 0x2000, "layout");
static_assert(offsetof(struct inf_dispatch_region, ext) == 0x12000, "layout");
static_assert(sizeof(struct inf_done_slot) == INF_LINE, "layout");
static_assert(offsetof(struct inf_done_slot, seq) == 56, "layout");
static_assert(sizeof(struct inf_row_end) == 8, "layout");
static_assert(offsetof(struct inf_done_region, ends) == 0x2000, "layout");
static_assert(INF_OUTPUTS == INF_LANES * INF_SLOTS, "one release word per credit");

/*
 * When a request was submitted, in 32 bits: CLOCK_MONOTONIC in units of 16 ns. Reading the clock costs a fifth of what a
 * request in a burst costs, so a client stamps those that go into an empty lane, every 16th position, and all where must_stamp
 * is set; the front makes the same choice for its histograms of stages.
 */
#define INF_STAMP_SHIFT 4
#define INF_STAMP_EVERY 16u
static inline uint32_t inf_stamp(uint64_t now_ns)
{
	uint32_t stamp = (uint32_t)(now_ns >> INF_STAMP_SHIFT);

	return stamp ? stamp : 1;
}

/* What a stamp says, in ns; 0 = nothing. One that lies ahead of now_ns (up to half the range, 34 s) counts as now. */
static inline uint64_t inf_stamp_ns(uint32_t stamp, uint64_t now_ns)
{
	uint32_t age = (uint32_t)(now_ns >> INF_STAMP_SHIFT) - stamp;

	if (!stamp)
		return 0;
	return age > INT32_MAX ? now_ns : now_ns - ((uint64_t)age << INF_STAMP_SHIFT);
}

/* Rounds up to the tensor alignment; the caller has bounded `bytes`. */
static inline uint64_t inf_align64(uint64_t bytes)
{
	return (bytes + (INF_TENSOR_ALIGN - 1)) & ~(uint64_t)(INF_TENSOR_ALIGN - 1);
}

/* Bytes from the start of an output block to its first tensor. */
static inline uint64_t inf_out_head_bytes(uint32_t n_outputs)
{
	return inf_align64(sizeof(struct inf_out_head) + (uint64_t)n_outputs * sizeof(struct inf_out_tensor));
}

#endif /* INF_SHM_LAYOUT_H */
