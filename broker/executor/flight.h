/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flight.h - one batch on its way through a device:
 *
 *	stream in        rows by DMA out of the clients' pages, or out of our pinned memory ──► event `copied`
 *	stream compute   waits for it; the model ─────────────────────────────────────────► event `computed`
 *	stream out       waits for it; results by DMA into the output blocks, or to us ──────► a call that says "done"
 *
 * Two of them per instance, with memory of their own, overlap: while one computes, the next one is copied in and the last
 * one out. What the DMA copied in is the snapshot: a client that changes its memory afterwards changes nothing. Values that
 * the signature restricts are judged before, on our own copy.
 */
#ifndef BROKER_EXECUTOR_FLIGHT_H
#define BROKER_EXECUTOR_FLIGHT_H

#include "broker/executor/device.h"
#include "broker/executor/executor.h"
#include "broker/executor/moves.h"
#include "broker/executor/queue.h"

/* An instance has so many: one for batches of each urgency. */
#define TRACKS 2u

/* Streams of an instance, for batches of one urgency. */
struct tracks {
	CUstream in, compute, out;
	uint32_t idx; /* 0, or 1 = urgent */
};

/* Device memory for the inputs and outputs of one batch, and as much pinned host memory for what goes through us. */
struct flight_memory {
	CUdeviceptr device;
	uint8_t *host;
	uint64_t in_bytes, out_bytes; /* outputs lie behind the inputs */
};

struct flight {
	const struct device *device;
	const struct tracks *tracks; /* those of its batch */
	uint32_t instance, idx; /* the latter over all instances */
	uint32_t *wake; /* atomic; counted up and futex-woken when a batch is done */
	CUevent copied, computed;
	struct flight_memory *memory;  /* NULL = none yet */
	struct flight_memory *offered; /* atomic: by the loader, to take the place of `memory` */
	uint64_t largest_in_bytes, largest_out_bytes; /* of what was offered: the loader's */
	uint64_t n_memories; /* that were taken so far */

	struct batch batch;
	const struct loaded_model *model;
	uint32_t n_rows; /* that are on the way; 0 = nothing is */
	uint32_t rows_laid_out; /* what the offsets below are for */
	uint32_t is_done; /* atomic */
	uint64_t end_ns;  /* when the device said so */
	struct moves moves_in, moves_out; /* from and to clients' device memory */
	CUdeviceptr verdicts;	  /* of each entry: the input that is not allowed + 1, as the device found */
	uint32_t *found_verdicts; /* pinned: copied out */
	bool is_judged;		  /* some of this batch are */
	uint16_t direct[INF_BATCH_MAX]; /* outputs of each entry that went straight into its block, as bits */
	uint64_t in_at[INF_INPUTS_MAX], out_at[INF_OUTPUTS_MAX]; /* offsets, alike in both memories */
	struct inf_backend_tensor inputs[INF_INPUTS_MAX], outputs[INF_OUTPUTS_MAX];
};

/* Device memory for so many rows of the largest tensors, one behind the other. */
uint64_t flight_bytes(const struct inf_tensor_spec *specs, uint32_t n, uint32_t rows);

/* `priority` as of cuStreamCreateWithPriority(). */
int tracks_open(struct tracks *tracks, const struct device *device, uint32_t idx, int priority);
int flight_open(struct flight *flight, const struct device *device, uint32_t instance, uint32_t idx, uint32_t *wake);

/*
 * Puts `batch` on these streams as `model`; NULL = all of it is MODEL_ERROR. Never waits, unless the batch fails as a whole.
 */
void flight_start(struct flight *flight, const struct tracks *tracks, const struct loaded_model *model);

bool flight_is_done(const struct flight *flight);

/* Fills the batch's ends; it must be done. */
void flight_finish(struct flight *flight);

/* Bytes of device memory that flight_reserve() would add. The loader's thread. */
uint64_t flight_lacks(const struct flight *flight, const struct inf_signature *signature);

/*
 * Sees to it that batches of this model fit: memory of that size, if it has less. The loader's thread.
 * 0, or -ENOMEM with a text.
 */
int flight_reserve(struct flight *flight, const struct inf_signature *signature, char *text, size_t text_bytes);

#endif /* BROKER_EXECUTOR_FLIGHT_H */
