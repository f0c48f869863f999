/* SPDX-License-Identifier: Apache-2.0 */
/* moves.c - see moves.h. Hot file. */
#include "broker/executor/moves.h"
#include <assert.h>
#include <inf/types.h>

#define MOVES_MAX    (INF_BATCH_MAX * INF_INPUTS_MAX)
#define THREADS	     256u
#define THREAD_BYTES 64u /* a guess: what one thread copies where there are enough of them */
#define BLOCKS_MAX   128u

static_assert(INF_OUTPUTS_MAX <= INF_INPUTS_MAX, "the list holds either");

CUresult moves_open(struct moves *moves, const struct device *device)
{
	void *list = NULL;
	CUresult result = device->driver.host_alloc(&list, MOVES_MAX * sizeof(struct inf_move));

	if (!result)
		result = device->driver.host_device_pointer(&moves->device_list, list, 0);
	moves->list = list;
	return result;
}

void moves_add(struct moves *moves, CUdeviceptr to, CUdeviceptr from, uint64_t bytes)
{
	if (bytes)
		moves->list[moves->n++] = (struct inf_move){ .to = to, .from = from, .bytes = bytes };
}

/* Blocks for each move: enough for the largest. */
static unsigned int blocks_of(const struct moves *moves)
{
	uint64_t largest = 0, blocks;

	for (uint32_t i = 0; i < moves->n; i++)
		if (moves->list[i].bytes > largest)
			largest = moves->list[i].bytes;
	blocks = (largest + THREADS * THREAD_BYTES - 1) / (THREADS * THREAD_BYTES);
	return blocks < BLOCKS_MAX ? (unsigned int)blocks : BLOCKS_MAX;
}

bool moves_launch(const struct moves *moves, const struct device *device, CUstream stream)
{
	uint64_t n = moves->n;
	CUdeviceptr list = moves->device_list;
	void *params[] = { &list, &n };

	if (!n)
		return true;
	if (n == 1)
		return device_ok(device, device->driver.copy(moves->list[0].to, moves->list[0].from, moves->list[0].bytes, stream),
				 "copying a client's tensor");
	return device_ok(device, device->driver.launch(device->move, blocks_of(moves), (unsigned int)n, 1, THREADS, 1, 1, 0, stream,
						       params, NULL),
			 "copying clients' tensors");
}
