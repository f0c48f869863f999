/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moves.h - many copies within a device in one launch: rows of clients' tensors into a batch, and results back.
 *
 * Each copy of its own would cost a core some microseconds, and those of a batch do not merge (reference: nccl#1932, #2177 in
 * gpu-and-libtorch.md). The list lies in pinned memory, where the kernel reads it: nothing may be added before it has run.
 */
#ifndef BROKER_EXECUTOR_MOVES_H
#define BROKER_EXECUTOR_MOVES_H

#include "broker/cuda/kernels.h"
#include "broker/executor/device.h"

struct moves {
	struct inf_move *list; /* pinned; NULL = not opened */
	CUdeviceptr device_list;
	uint32_t n;
};

/* Room for all inputs or outputs of a batch. */
CUresult moves_open(struct moves *moves, const struct device *device);

/* Adds one; of no bytes: nothing. */
void moves_add(struct moves *moves, CUdeviceptr to, CUdeviceptr from, uint64_t bytes);

/* Queues all of them. False where that failed: device_ok() has logged why. */
bool moves_launch(const struct moves *moves, const struct device *device, CUstream stream);

#endif /* BROKER_EXECUTOR_MOVES_H */
