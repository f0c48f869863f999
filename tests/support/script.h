/* SPDX-License-Identifier: Apache-2.0 */
/* script.h - shell scripts that play a program of ours, in unit tests. */
#ifndef TESTS_SUPPORT_SCRIPT_H
#define TESTS_SUPPORT_SCRIPT_H

#include <check.h>
#include <stdio.h>
#include <sys/stat.h>

/* Makes the program at `path` a shell script of these commands. */
static inline void script_write(const char *path, const char *commands)
{
	FILE *file = fopen(path, "we");

	ck_assert_ptr_nonnull(file);
	fprintf(file, "#!/bin/sh\n%s\n", commands);
	fclose(file);
	ck_assert_int_eq(chmod(path, 0700), 0);
}

#endif /* TESTS_SUPPORT_SCRIPT_H */
