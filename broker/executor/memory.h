/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h - keeping the memory that activations use.
 *
 * glibc gives large blocks back to the kernel as soon as an operator frees them, so every operator of a network faults its
 * activations in again: EfficientNet-Lite0 at batch 8 runs at half its speed for that alone (reference: gpu-and-libtorch.md
 * 3.10). Two settings end it: malloc thresholds, before the first large allocation, and huge pages, which glibc reads from
 * its environment before main().
 */
#ifndef BROKER_EXECUTOR_MEMORY_H
#define BROKER_EXECUTOR_MEMORY_H

#include <stdint.h>

/* What the front puts into an executor's environment. */
#define EXECUTOR_MALLOC_TUNABLES "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"

/* Keeps up to budget_bytes of freed memory in the process (0 = 2 GiB). Call before other threads exist. */
void memory_keep(uint64_t budget_bytes);

#endif /* BROKER_EXECUTOR_MEMORY_H */
