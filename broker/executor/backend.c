/* SPDX-License-Identifier: Apache-2.0 */
/* backend.c - finding and opening plug-ins. */
#define _GNU_SOURCE 1
#include "broker/executor/backend.h"
#include "broker/backends/builtin/builtin.h"
#include "broker/executor/device.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef INF_PLUGIN_DIR
#define INF_PLUGIN_DIR "/usr/local/lib/infbroker/backends"
#endif

static void add(struct executor *executor, const struct inf_backend_ops *ops, const char *from)
{
	struct inf_backend_host host = {
		.size = sizeof(host),
		.n_instances = executor->n_instances + 1, /* the last one is the loader's, for warm-up */
		.n_threads = executor->n_threads,
		.memory_bytes = executor->options.memory_bytes,
		.device = executor->device ? &executor->device->backend : NULL,
	};
	char error[INF_BACKEND_ERROR_BYTES] = "";

	if (ops->abi != INF_BACKEND_ABI || ops->bytes < sizeof(*ops)) {
		executor_log("%s speaks backend interface %u, this executor %u", from, ops->abi, INF_BACKEND_ABI);
		return;
	}
	if (executor->n_backends == EXECUTOR_BACKENDS_MAX) {
		executor_log("%s: more than %u backends", from, EXECUTOR_BACKENDS_MAX);
		return;
	}
	if (executor->device && !ops->enqueue) {
		executor_log("%s has no support for devices: its models are not served on %s", from, executor->device->name);
		return;
	}
	if (ops->init && ops->init(&host, error, sizeof(error))) {
		executor_log("%s does not start: %s", from, error);
		return;
	}
	executor->backends[executor->n_backends++] = ops;
}

static void open_plugin(struct executor *executor, const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	inf_backend_entry_fn entry;

	if (!handle) {
		executor_log("cannot open a backend: %s", dlerror());
		return;
	}
	*(void **)&entry = dlsym(handle, INF_BACKEND_ENTRY);
	if (!entry) {
		executor_log("%s exports no %s", path, INF_BACKEND_ENTRY);
		dlclose(handle);
		return;
	}
	add(executor, entry(), path);
}

/* --plugins, else "backends" beside the program, else where `make install` puts them. */
static void plugin_folder(const struct executor *executor, char *to, size_t to_bytes)
{
	ssize_t n;
	char *slash;

	snprintf(to, to_bytes, "%s", executor->options.plugins_path ? executor->options.plugins_path : INF_PLUGIN_DIR);
	if (executor->options.plugins_path)
		return;

	char self[4096];

	n = readlink("/proc/self/exe", self, sizeof(self) - 16);
	if (n <= 0)
		return;
	self[n] = 0;
	slash = strrchr(self, '/');
	snprintf(slash + 1, sizeof("backends"), "backends");
	if (!access(self, F_OK))
		snprintf(to, to_bytes, "%s", self);
}

static bool has_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name), n_suffix = strlen(suffix);

	return n > n_suffix && !strcmp(name + n - n_suffix, suffix);
}

static int is_plugin(const struct dirent *entry)
{
	return !strncmp(entry->d_name, "libinf-backend-", 15) && has_suffix(entry->d_name, ".so");
}

static void open_folder(struct executor *executor)
{
	char folder[4096], path[8192];
	struct dirent **entries;
	int n, n_fit = 0;

	plugin_folder(executor, folder, sizeof(folder));
	n = scandir(folder, &entries, is_plugin, alphasort);
	for (int i = 0; i < n; i++) {
		/* Those for devices are linked with libraries that other machines need not have. */
		if (has_suffix(entries[i]->d_name, "-cuda.so") == !!executor->device) {
			snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
			open_plugin(executor, path);
			n_fit++;
		}
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	if (!n_fit)
		executor_log("no backend plug-in%s in %s: only builtin models can be served", executor->device ? " for devices" : "", folder);
}

void backend_open_all(struct executor *executor)
{
	if (executor->options.builtin)
		add(executor, inf_backend_builtin(), "builtin");
	if (executor->options.models_path)
		open_folder(executor);
}

static bool has_builtin(const struct inf_backend_ops *ops, const char *name)
{
	const char *known;

	for (unsigned int i = 0; ops->builtin && (known = ops->builtin(i)); i++)
		if (!strcmp(known, name))
			return true;
	return false;
}

const struct inf_backend_ops *backend_find(const struct executor *executor, const char *file_name, const char *builtin)
{
	for (uint32_t i = 0; i < executor->n_backends; i++) {
		const struct inf_backend_ops *ops = executor->backends[i];
		size_t n = file_name ? strlen(file_name) : 0, n_suffix = ops->suffix ? strlen(ops->suffix) : 0;

		if (!file_name && has_builtin(ops, builtin))
			return ops;
		if (n_suffix && n > n_suffix && !strcmp(file_name + n - n_suffix, ops->suffix))
			return ops;
	}
	return NULL;
}
