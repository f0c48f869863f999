/* SPDX-License-Identifier: Apache-2.0 */
/* library.c - see library.h. */
#define _GNU_SOURCE 1
#include "shm/device/library.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int inf_library_open(const struct inf_library *library, const char *name, void *table, char *text, size_t text_bytes)
{
	void *handle;

	text[0] = 0;
	if (!name)
		name = secure_getenv(library->variable);
	if (!name || !*name)
		name = library->name;
	handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!handle) {
		snprintf(text, text_bytes, "no %s: %s", library->what, dlerror());
		return -ENOENT;
	}
	for (size_t i = 0; i < library->n_symbols; i++) {
		void *address = dlsym(handle, library->symbols[i].name);

		if (!address && !library->symbols[i].is_optional) {
			snprintf(text, text_bytes, "%s lacks %s: %s is needed", name, library->symbols[i].name, library->need);
			return -ENOSYS;
		}
		memcpy((char *)table + library->symbols[i].offset, &address, sizeof(address));
	}
	return 0;
}
