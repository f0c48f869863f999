/* SPDX-License-Identifier: Apache-2.0 */
/* want.h - for programs that try cases one after another: the first thing that is wrong with the present one. */
#ifndef TESTS_SUPPORT_WANT_H
#define TESTS_SUPPORT_WANT_H

#include <stdint.h>
#include <time.h>

static const char *wrong; /* NULL = nothing so far */

#define WANT(condition)                                                            \
	do {                                                                       \
		if (!(condition) && !wrong)                                        \
			wrong = "line " STRINGIFY(__LINE__) ": " #condition;       \
	} while (0)
#define STRINGIFY(x) STRINGIFY_(x)
#define STRINGIFY_(x) #x

/* CLOCK_MONOTONIC, ns, so many ms from now. */
static inline uint64_t in_ms(uint64_t ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec + ms * 1000000u;
}

#endif /* TESTS_SUPPORT_WANT_H */
