/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.h - one submission/completion ring pair, both ends of both rings.
 *
 * A ring is single producer, single consumer: one writer per word, and a process killed at any
 * instruction leaves either an unpublished slot (invisible) or a published one. Positions are private to
 * each side; what a side publishes of them is a hint for the other and never read back. Inline, because
 * these are the instructions that the project exists for; benchmarks measure exactly this code.
 *
 * Wake protocol of the submission ring (design.md section 4):
 *   client: slot body; seq (release); fence CLIENT_PUBLISH; sq_wake in [old, new)? write the bell
 *   front:  sq_wake = pos; fence FRONT_PARK (or LANE_RETIRE); look at the slot; sleep only if empty
 * Whichever fence comes later in the single order of seq_cst fences sees the other side's store, so
 * either the front sees the slot or the client sees the index and rings. The event index disarms itself:
 * positions move past it.
 */
#ifndef INF_SHM_LANE_H
#define INF_SHM_LANE_H

#include "shm/atomics.h"
#include "shm/layout.h"
#include <stdbool.h>

/* What a consumer finds at its position. */
enum inf_peek {
	INF_PEEK_EMPTY = 0, /* the slot still has the sequence of one lap ago */
	INF_PEEK_FULL = 1,
	INF_PEEK_CORRUPT = 2, /* neither: only a broken or hostile producer does that */
};

/*
 * Judges a sequence loaded from the slot of position `pos`, in a ring that started at `start`. The first
 * lap's empty slots hold 0.
 */
static inline enum inf_peek inf_seq_judge(uint64_t seq, uint64_t pos, uint64_t start, uint64_t n_slots)
{
	uint64_t empty = pos - start >= n_slots ? pos + 1 - n_slots : 0;

	if (seq == pos + 1)
		return INF_PEEK_FULL;
	return seq == empty ? INF_PEEK_EMPTY : INF_PEEK_CORRUPT;
}

/* --- submission ring, client end --------------------------------------------------------------- */

struct inf_sq_writer {
	struct inf_submission *slots;
	const uint64_t *sq_wake; /* front's */
	uint64_t tail;		 /* next position to fill */
	uint64_t rung;		 /* positions below have been through inf_sq_must_ring() */
};

static inline void inf_sq_writer_init(struct inf_sq_writer *sq, struct inf_request_lane *request,
				      const struct inf_response_lane *response, uint64_t start)
{
	sq->slots = request->slots;
	sq->sq_wake = &response->sq_wake.v;
	sq->tail = start;
	sq->rung = start;
}

/* The slot to fill next. The caller knows from its credits that it is free. */
static inline struct inf_submission *inf_sq_slot(struct inf_sq_writer *sq)
{
	return &sq->slots[sq->tail % INF_SLOTS];
}

/* Publishes the filled slot: release, so that the front's acquire in inf_sq_peek() sees the body. */
static inline void inf_sq_publish(struct inf_sq_writer *sq)
{
	inf_store64_release(&inf_sq_slot(sq)->seq, sq->tail + 1);
	sq->tail++;
}

/* After the last publish of a burst: true = the front asked to be rung for one of them. */
static inline bool inf_sq_must_ring(struct inf_sq_writer *sq)
{
	uint64_t old = sq->rung;

	/* Our seq stores before our load of sq_wake; pairs with the front's fence before it looks again. */
	inf_fence(INF_FENCE_CLIENT_PUBLISH);
	sq->rung = sq->tail;
	return inf_load64(sq->sq_wake) - old < sq->tail - old;
}

/* --- submission ring, front end ------------------------------------------------------------------ */

struct inf_sq_reader {
	const struct inf_submission *slots;
	uint64_t head; /* next position to read */
	uint64_t start;
};

static inline void inf_sq_reader_init(struct inf_sq_reader *sq, const struct inf_request_lane *request, uint64_t start)
{
	sq->slots = request->slots;
	sq->head = start;
	sq->start = start;
}

/* Looks at the next slot without taking it. */
static inline enum inf_peek inf_sq_peek(const struct inf_sq_reader *sq)
{
	const struct inf_submission *slot = &sq->slots[sq->head % INF_SLOTS];

	/* Acquire: pairs with the release in inf_sq_publish(), the body is visible when FULL. */
	return inf_seq_judge(inf_load64_acquire(&slot->seq), sq->head, sq->start, INF_SLOTS);
}

/* Copies the slot that inf_sq_peek() found FULL into private memory and steps on. */
static inline void inf_sq_take(struct inf_sq_reader *sq, struct inf_submission *ret_copy)
{
	const struct inf_submission *slot = &sq->slots[sq->head % INF_SLOTS];

	inf_copy_in((inf_word_alias *)(void *)ret_copy, (const inf_word_alias *)(const void *)slot, 7);
	ret_copy->seq = sq->head + 1;
	sq->head++;
}

/* --- completion ring, front end -------------------------------------------------------------------- */

struct inf_cq_writer {
	struct inf_completion *slots;
	uint32_t *cq_word;
	uint64_t tail;
};

static inline void inf_cq_writer_init(struct inf_cq_writer *cq, struct inf_response_lane *response, uint64_t start)
{
	cq->slots = response->slots;
	cq->cq_word = &response->cq_word.v;
	cq->tail = start;
}

/* Publishes one completion; the credits guarantee that its slot is free. `body->seq` is ignored. */
static inline void inf_cq_push(struct inf_cq_writer *cq, const struct inf_completion *body)
{
	struct inf_completion *slot = &cq->slots[cq->tail % INF_SLOTS];
	const inf_word_alias *words = (const inf_word_alias *)(const void *)body;
	inf_word_alias *shared = (inf_word_alias *)(void *)slot;

	for (unsigned int i = 0; i < 7; i++)
		__atomic_store_n(&shared[i], words[i], __ATOMIC_RELAXED);
	/* Release: pairs with the acquire in inf_cq_peek(). */
	inf_store64_release(&slot->seq, cq->tail + 1);
	cq->tail++;
}

/* After all completions of a batch: moves the futex word. The caller fences, then looks at parked. */
static inline void inf_cq_bump(struct inf_cq_writer *cq)
{
	inf_store32_release(cq->cq_word, (uint32_t)cq->tail);
}

/* --- sleeping on completions -------------------------------------------------------------------- */

/*
 * Client: one more thread is about to sleep until cq_word is no longer `seen`, which was loaded (acquire) before. Of several
 * threads the latest value counts. The client's threads are this word's writers.
 */
static inline void inf_parked_join(uint32_t *parked, uint32_t seen)
{
	uint32_t old = inf_load32(parked), latest;

	do {
		latest = seen & INF_PARKED_COUNT;
		if (old & INF_PARKED_COUNT && (int16_t)(latest - (old >> INF_PARKED_SHIFT)) < 0)
			latest = old >> INF_PARKED_SHIFT;
		/* Release: not before the load of cq_word. */
	} while (!__atomic_compare_exchange_n(parked, &old, latest << INF_PARKED_SHIFT | ((old & INF_PARKED_COUNT) + 1),
					      true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

static inline void inf_parked_leave(uint32_t *parked)
{
	__atomic_fetch_sub(parked, 1, __ATOMIC_RELAXED);
}

/*
 * Front: would a wake-up now, after cq_word became `now`, end every sleep that `parked` speaks of, and let none begin? Not
 * where a sleeper may have noted `now` itself: it waits for the next completion.
 */
static inline bool inf_parked_is_past(uint32_t parked, uint32_t now)
{
	return parked >> INF_PARKED_SHIFT != (now & INF_PARKED_COUNT);
}

/* --- completion ring, client end ------------------------------------------------------------------- */

struct inf_cq_reader {
	const struct inf_completion *slots;
	const uint32_t *cq_word;
	uint64_t *cq_head; /* ours, shared */
	uint64_t head;
	uint64_t start;
};

static inline void inf_cq_reader_init(struct inf_cq_reader *cq, struct inf_request_lane *request,
				      const struct inf_response_lane *response, uint64_t start)
{
	cq->slots = response->slots;
	cq->cq_word = &response->cq_word.v;
	cq->cq_head = &request->cq_head.v;
	cq->head = start;
	cq->start = start;
	inf_store64(cq->cq_head, start);
}

static inline enum inf_peek inf_cq_peek(const struct inf_cq_reader *cq)
{
	const struct inf_completion *slot = &cq->slots[cq->head % INF_SLOTS];

	return inf_seq_judge(inf_load64_acquire(&slot->seq), cq->head, cq->start, INF_SLOTS);
}

/* Copies the completion that inf_cq_peek() found FULL and steps on; inf_cq_done() gives the slots back. */
static inline void inf_cq_take(struct inf_cq_reader *cq, struct inf_completion *ret_copy)
{
	const struct inf_completion *slot = &cq->slots[cq->head % INF_SLOTS];

	inf_copy_in((inf_word_alias *)(void *)ret_copy, (const inf_word_alias *)(const void *)slot, 7);
	ret_copy->seq = cq->head + 1;
	cq->head++;
}

/* Gives back the slots taken so far: release, so that our reads end before the front may reuse them. */
static inline void inf_cq_done(struct inf_cq_reader *cq)
{
	inf_store64_release(cq->cq_head, cq->head);
}

#endif /* INF_SHM_LANE_H */
