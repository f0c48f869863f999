/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpus.c - the affinity mask, cut by the quota of the control group.
 *
 * A group with a quota is not slowed down but stopped for the rest of each period (100 ms) once its
 * time is used up (kernel: Documentation/scheduler/sched-bwc.rst). Spinning would use it up.
 */
#define _GNU_SOURCE 1
#include "broker/cpus.h"
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define V2_ROOT "/sys/fs/cgroup"
#define V1_ROOT "/sys/fs/cgroup/cpu"

static uint32_t milli(uint64_t quota, uint64_t period)
{
	uint64_t value = period ? quota * 1000 / period : UINT32_MAX;

	return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

/* "200000 100000" or "max 100000" (kernel: Documentation/admin-guide/cgroup-v2.rst). */
static uint32_t read_max(const char *root, const char *path)
{
	char file_path[PATH_MAX];
	uint64_t quota, period;
	FILE *file;
	int n;

	n = snprintf(file_path, sizeof(file_path), "%s%s/cpu.max", root, path);
	if (n < 0 || n >= (int)sizeof(file_path))
		return UINT32_MAX;
	file = fopen(file_path, "re");
	if (!file)
		return UINT32_MAX;
	n = fscanf(file, "%" SCNu64 " %" SCNu64, &quota, &period);
	fclose(file);
	return n == 2 ? milli(quota, period) : UINT32_MAX;
}

uint32_t cpus_quota_milli(const char *root, const char *path)
{
	char at[PATH_MAX];
	uint32_t least = UINT32_MAX;
	int n = snprintf(at, sizeof(at), "%s", path);

	if (n < 0 || n >= (int)sizeof(at))
		return UINT32_MAX;
	for (;;) {
		uint32_t quota = read_max(root, at);
		char *slash = strrchr(at, '/');

		if (quota < least)
			least = quota;
		if (!slash)
			return least;
		*slash = '\0';
	}
}

static int64_t read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	int64_t value = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%" SCNd64, &value) != 1)
		value = -1;
	fclose(file);
	return value;
}

/* v1: within a container the controller's root is the container's own group. */
static uint32_t quota_v1(void)
{
	int64_t quota = read_number(V1_ROOT "/cpu.cfs_quota_us");
	int64_t period = read_number(V1_ROOT "/cpu.cfs_period_us");

	return quota > 0 && period > 0 ? milli((uint64_t)quota, (uint64_t)period) : UINT32_MAX;
}

/* "0::/path" is the v2 group. */
static uint32_t quota_v2(void)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX];
	uint32_t quota = UINT32_MAX;

	if (!file)
		return UINT32_MAX;
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, "0::", 3) != 0)
			continue;
		line[strcspn(line, "\n")] = '\0';
		quota = cpus_quota_milli(V2_ROOT, line + 3);
	}
	fclose(file);
	return quota;
}

uint32_t cpus_usable_milli(void)
{
	uint32_t usable = 1000, v1 = quota_v1(), v2 = quota_v2();
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		usable = 1000u * (uint32_t)CPU_COUNT(&set);
	if (v1 < usable)
		usable = v1;
	if (v2 < usable)
		usable = v2;
	return usable ? usable : 1;
}
