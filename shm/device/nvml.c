/* SPDX-License-Identifier: Apache-2.0 */
/* nvml.c - see nvml.h. */
#define _GNU_SOURCE 1
#include "shm/device/nvml.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(...) snprintf(text, INF_NVML_TEXT_BYTES, __VA_ARGS__)

static const struct {
	const char *symbol;
	size_t offset; /* of its member */
} calls[] = {
#define INF_NVML_CALL(member, symbol, result, params) { #symbol, offsetof(struct inf_nvml, member) },
	INF_NVML_CALLS(INF_NVML_CALL)
#undef INF_NVML_CALL
};

static int resolve(struct inf_nvml *nvml, void *handle, const char *library, char *text)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		void *address = dlsym(handle, calls[i].symbol);

		if (!address) {
			TEXT("%s lacks %s: a newer driver is needed", library, calls[i].symbol);
			return -ENOSYS;
		}
		memcpy((char *)nvml + calls[i].offset, &address, sizeof(address));
	}
	return 0;
}

int inf_nvml_open(struct inf_nvml *nvml, char text[INF_NVML_TEXT_BYTES])
{
	const char *library = secure_getenv("INF_NVML_LIBRARY");
	nvmlReturn_t result;
	void *handle;
	int r;

	if (!library || !*library)
		library = INF_NVML_LIBRARY;
	handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!handle) {
		TEXT("no NVIDIA driver: %s", dlerror());
		return -ENOENT;
	}
	r = resolve(nvml, handle, library, text);
	if (r)
		return r;
	result = nvml->init();
	if (!result)
		return 0;
	TEXT("the NVIDIA driver does not answer: %s", nvml->error_text(result));
	switch (result) {
	case NVML_ERROR_DRIVER_NOT_LOADED:
		return -ENODEV;
	case NVML_ERROR_NO_PERMISSION:
	case NVML_ERROR_OPERATING_SYSTEM: /* a cgroup forbids it */
		return -EACCES;
	default:
		return -EIO;
	}
}
