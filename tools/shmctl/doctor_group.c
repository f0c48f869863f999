/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_group.c - what the control groups of a process allow: the least of its own group and those above it, in either
 * hierarchy.
 *
 * Version 2 lies at /sys/fs/cgroup, or at its unified/ beside version 1, whose controllers have a folder each. In a container
 * the group's path may be one that does not exist here; those above it do, up to the container's own.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/doctor.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The values of a file's first line; how many. "max" is none. */
static int read_numbers(const char *folder, const char *name, int64_t numbers[2])
{
	char path[PATH_MAX];
	FILE *file;
	int n;

	if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
		return 0;
	file = fopen(path, "re");
	if (!file)
		return 0;
	n = fscanf(file, "%" SCNd64 " %" SCNd64, &numbers[0], &numbers[1]);
	fclose(file);
	return n < 0 ? 0 : n;
}

typedef uint64_t read_group(const char *folder);

static uint64_t read_cpu_v2(const char *folder)
{
	int64_t n[2];

	return read_numbers(folder, "cpu.max", n) == 2 && n[0] > 0 && n[1] > 0 ? (uint64_t)n[0] * 1000 / (uint64_t)n[1] : UINT64_MAX;
}

static uint64_t read_cpu_v1(const char *folder)
{
	int64_t quota[2], period[2];

	if (read_numbers(folder, "cpu.cfs_quota_us", quota) < 1 || read_numbers(folder, "cpu.cfs_period_us", period) < 1 ||
	    quota[0] <= 0 || period[0] <= 0)
		return UINT64_MAX;
	return (uint64_t)quota[0] * 1000 / (uint64_t)period[0];
}

static uint64_t read_memory_v2(const char *folder)
{
	int64_t n[2];

	return read_numbers(folder, "memory.max", n) >= 1 && n[0] >= 0 ? (uint64_t)n[0] : UINT64_MAX;
}

static uint64_t read_memory_v1(const char *folder)
{
	int64_t n[2];

	return read_numbers(folder, "memory.limit_in_bytes", n) >= 1 && n[0] >= 0 ? (uint64_t)n[0] : UINT64_MAX;
}

struct search {
	const char *root;
	uint64_t least;
	char *group; /* DOCTOR_GROUP_BYTES: which one says so */
};

/* ROOT/MOUNT/PATH and all folders above it, up to ROOT/MOUNT. */
static void walk(struct search *search, const char *mount, const char *path, read_group *read)
{
	char folder[PATH_MAX];
	size_t n_top = (size_t)snprintf(folder, sizeof(folder), "%s%s%s", search->root, mount[0] ? "/" : "", mount);

	if (n_top >= sizeof(folder) ||
	    (size_t)snprintf(folder + n_top, sizeof(folder) - n_top, "%s", path) >= sizeof(folder) - n_top)
		return;
	for (;;) {
		uint64_t value = read(folder);
		char *slash = strrchr(folder + n_top, '/');

		if (value < search->least) {
			search->least = value;
			snprintf(search->group, DOCTOR_GROUP_BYTES, "%.*s", DOCTOR_GROUP_BYTES - 1, folder);
		}
		if (!slash)
			return;
		*slash = '\0';
	}
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (; *list; list += strcspn(list, ","), list += *list == ',')
		if (!strncmp(list, word, n) && (!list[n] || list[n] == ','))
			return true;
	return false;
}

/* "ID:CONTROLLERS:PATH" for each hierarchy; none is named in version 2's. */
static uint64_t find_least(const struct doctor *doctor, const char *controller, read_group *read_v1, read_group *read_v2,
			   char ret_group[DOCTOR_GROUP_BYTES])
{
	const char *root = getenv("INF_CGROUP_ROOT");
	struct search search = { .root = root && *root ? root : "/sys/fs/cgroup", .least = UINT64_MAX, .group = ret_group };
	char name[64], line[PATH_MAX];
	FILE *file = fopen(doctor_proc(doctor, name, "cgroup"), "re");

	ret_group[0] = '\0';
	while (file && fgets(line, sizeof(line), file)) {
		char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		controllers++;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (!*controllers) {
			walk(&search, "", path, read_v2);
			walk(&search, "unified", path, read_v2);
		} else if (has_word(controllers, controller)) {
			walk(&search, controller, path, read_v1);
			walk(&search, controllers, path, read_v1);
		}
	}
	if (file)
		fclose(file);
	return search.least;
}

uint64_t doctor_cpu_quota(const struct doctor *doctor, char ret_group[DOCTOR_GROUP_BYTES])
{
	return find_least(doctor, "cpu", read_cpu_v1, read_cpu_v2, ret_group);
}

uint64_t doctor_memory_limit(const struct doctor *doctor, char ret_group[DOCTOR_GROUP_BYTES])
{
	return find_least(doctor, "memory", read_memory_v1, read_memory_v2, ret_group);
}
