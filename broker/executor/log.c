/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - lines for people; the front's log is its own. */
#define _GNU_SOURCE 1
#include "broker/executor/executor.h"
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void executor_log(const char *format, ...)
{
	char line[512];
	va_list args;
	int n = snprintf(line, sizeof(line), "infbroker-executor: ");

	va_start(args, format);
	vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
	va_end(args);
	/* One write, so that lines of several threads do not mix. */
	dprintf(STDERR_FILENO, "%s\n", line);
}
