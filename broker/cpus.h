/* SPDX-License-Identifier: Apache-2.0 */
/* cpus.h - how many processors this process may really use. */
#ifndef BROKER_CPUS_H
#define BROKER_CPUS_H

#include <stdint.h>

/*
 * Thousandths of processors: those of the affinity mask, or less where a control group (v2 cpu.max,
 * v1 cpu.cfs_quota_us, of the process's own group or one above it) grants less time than that.
 * At least 1. Reads a few files; at start only.
 */
uint32_t cpus_usable_milli(void);

/* The least of the quotas that the cpu.max of `path` and of the groups above it set, in thousandths;
 * UINT32_MAX = none. `root` is where cgroup v2 is mounted. For tests. */
uint32_t cpus_quota_milli(const char *root, const char *path);

#endif /* BROKER_CPUS_H */
