/* SPDX-License-Identifier: Apache-2.0 */
/* library.h - a table of calls, filled from a library that is looked for when it is asked for and never linked. */
#ifndef SHM_DEVICE_LIBRARY_H
#define SHM_DEVICE_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

/* One call: what the library exports, and where the table has its address. */
struct inf_symbol {
	const char *name;
	size_t offset;
	bool is_optional; /* NULL in the table where the library lacks it */
};

struct inf_library {
	const char *name;     /* the usual one */
	const char *variable; /* of the environment: names another one, not in set-uid programs */
	const char *what;     /* there is none of where it is not found */
	const char *need;     /* what would help where it lacks a call */
	const struct inf_symbol *symbols;
	size_t n_symbols;
};

/*
 * inf_library_open - fills `table`.
 * @name: NULL = that of the variable, else the usual one
 * @text: gets one line that says why not
 * It stays loaded for the life of the process. Any thread.
 * Errors: -ENOENT (none there), -ENOSYS (it lacks a call).
 */
int inf_library_open(const struct inf_library *library, const char *name, void *table, char *text, size_t text_bytes);

#endif /* SHM_DEVICE_LIBRARY_H */
