/* SPDX-License-Identifier: Apache-2.0 */
/* models.c - reading the model directory: NAME.pt is version 1, NAME/VERSION/model.pt is VERSION. */
#define _GNU_SOURCE 1
#include "broker/executor/models.h"
#include "broker/executor/backend.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define NAME_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"

static bool name_is_good(const char *name)
{
	size_t n = strlen(name);

	return n && n < INF_NAME_BYTES && name[0] != '.' && strspn(name, NAME_CHARS) == n;
}

static void send_found(struct executor *executor, const char *name, uint32_t version, const char *path, uint32_t *n_found)
{
	struct inf_ctl_found found;
	struct stat status;

	inf_ctl_init(&found, INF_CTL_FOUND, 0);
	memcpy(found.name, name, strlen(name));
	found.version = version;
	found.builtin = !path;
	if (path) {
		if (stat(path, &status) || !S_ISREG(status.st_mode))
			return;
		found.inode = status.st_ino;
		found.mtime_ns = (uint64_t)status.st_mtim.tv_sec * 1000000000u + (uint64_t)status.st_mtim.tv_nsec;
		found.file_bytes = (uint64_t)status.st_size;
	}
	executor_send(executor, &found);
	(*n_found)++;
}

/* The suffix of a file that some backend could serve; ".pt" is always one, so that a missing plug-in is said. */
static size_t stem_length(const struct executor *executor, const char *file)
{
	const struct inf_backend_ops *ops = backend_find(executor, file, NULL);
	const char *suffix = ops ? ops->suffix : ".pt";
	size_t n = strlen(file), n_suffix = strlen(suffix);

	return n > n_suffix && !strcmp(file + n - n_suffix, suffix) ? n - n_suffix : 0;
}

/* model.SUFFIX in a version's folder. */
static bool find_in_version(const struct executor *executor, const char *folder, char *path, size_t bytes)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	bool found = false;

	while (dir && !found && (entry = readdir(dir)))
		if (stem_length(executor, entry->d_name) == 5 && !strncmp(entry->d_name, "model.", 6))
			found = snprintf(path, bytes, "%s/%s", folder, entry->d_name) < (int)bytes;
	if (dir)
		closedir(dir);
	return found;
}

/* As locate_file() writes it: "7", not "07", "+7" or " 7". 0 where it is none. */
static uint32_t parse_version(const char *text)
{
	char *end;
	unsigned long version = text[0] >= '1' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;

	return version && !*end && version <= INT32_MAX ? (uint32_t)version : 0;
}

/* All versions: the front takes the highest one that can be loaded. */
static void scan_versions(struct executor *executor, const char *name, const char *folder, uint32_t *n_found)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char sub[PATH_BYTES], file[PATH_BYTES];
		uint32_t version = parse_version(entry->d_name);

		if (version && snprintf(sub, sizeof(sub), "%s/%s", folder, entry->d_name) < (int)sizeof(sub) &&
		    find_in_version(executor, sub, file, sizeof(file)))
			send_found(executor, name, version, file, n_found);
	}
	if (dir)
		closedir(dir);
}

static void scan_entry(struct executor *executor, const char *folder, const char *file, uint32_t *n_found)
{
	char path[PATH_BYTES], name[INF_NAME_BYTES];
	struct stat status;
	size_t n = strlen(file);

	if (file[0] == '.' || snprintf(path, sizeof(path), "%s/%s", folder, file) >= (int)sizeof(path) || stat(path, &status))
		return;
	if (S_ISDIR(status.st_mode)) {
		if (name_is_good(file))
			scan_versions(executor, file, path, n_found);
		return;
	}
	n = stem_length(executor, file);
	if (!n || n >= sizeof(name))
		return;
	snprintf(name, sizeof(name), "%.*s", (int)n, file);
	if (name_is_good(name))
		send_found(executor, name, 1, path, n_found);
	else
		executor_log("%s: a model's name is 1 to 63 of [A-Za-z0-9_.-]", path);
}

static void scan_builtin(struct executor *executor, uint32_t *n_found)
{
	for (uint32_t i = 0; i < executor->n_backends; i++) {
		const struct inf_backend_ops *ops = executor->backends[i];
		const char *name;

		for (unsigned int k = 0; ops->builtin && (name = ops->builtin(k)); k++)
			send_found(executor, name, 1, NULL, n_found);
	}
}

void models_scan(struct executor *executor)
{
	struct inf_ctl_scanned scanned;
	struct dirent **entries;
	uint32_t n_found = 0;
	int n = 0;

	inf_ctl_init(&scanned, INF_CTL_SCANNED, 0);
	scan_builtin(executor, &n_found);
	if (executor->options.models_path) {
		n = scandir(executor->options.models_path, &entries, NULL, alphasort);
		if (n < 0)
			scanned.error = -errno;
		for (int i = 0; i < n; i++) {
			scan_entry(executor, executor->options.models_path, entries[i]->d_name, &n_found);
			free(entries[i]);
		}
		if (n >= 0)
			free(entries);
	}
	scanned.n_found = n_found;
	executor_send(executor, &scanned);
}

static int locate_file(const struct executor *executor, const char *name, uint32_t version, char *path, size_t bytes)
{
	const char *folder = executor->options.models_path;
	char sub[PATH_BYTES];

	for (uint32_t i = 0; version == 1 && i < executor->n_backends; i++) {
		if (!executor->backends[i]->suffix)
			continue;
		if (snprintf(path, bytes, "%s/%s%s", folder, name, executor->backends[i]->suffix) < (int)bytes &&
		    !access(path, F_OK))
			return 0;
	}
	if (snprintf(sub, sizeof(sub), "%s/%s/%u", folder, name, version) < (int)sizeof(sub) &&
	    find_in_version(executor, sub, path, bytes))
		return 0;
	/* No backend for it, but it may be there: the caller says which plug-in is missing. */
	return snprintf(path, bytes, "%s/%s.pt", folder, name) < (int)bytes && !access(path, F_OK) ? 0 : -ENOENT;
}

int models_locate(const struct executor *executor, const char *name, uint32_t version, char *path, char *sidecar,
		  size_t bytes, const struct inf_backend_ops **ret_ops)
{
	char *dot;
	int r;

	path[0] = sidecar[0] = 0;
	*ret_ops = backend_find(executor, NULL, name);
	if (*ret_ops)
		return 0;
	if (!executor->options.models_path)
		return -ENOENT;
	r = locate_file(executor, name, version, path, bytes);
	if (r)
		return r;
	*ret_ops = backend_find(executor, path, NULL);
	dot = strrchr(path, '.');
	snprintf(sidecar, bytes, "%.*s.json", (int)(dot - path), path);
	return 0;
}
