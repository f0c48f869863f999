/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - malloc thresholds, see memory.h. */
#include "broker/executor/memory.h"
#include <limits.h>
#include <malloc.h>

#define BUDGET_DEFAULT (2ull << 30)
#define TOP_PAD_BYTES (256 << 20) /* the heap grows in steps of this, so that it seldom does */
#define MMAP_THRESHOLD_BYTES (1 << 30)

void memory_keep(uint64_t budget_bytes)
{
	uint64_t budget = budget_bytes ? budget_bytes : BUDGET_DEFAULT;
	int trim = budget > INT_MAX ? INT_MAX : (int)budget;

	mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
	mallopt(M_TRIM_THRESHOLD, trim);
	mallopt(M_TOP_PAD, trim < TOP_PAD_BYTES ? trim : TOP_PAD_BYTES);
}
