/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - the clock that all times of the front are of. */
#ifndef BROKER_CLOCK_H
#define BROKER_CLOCK_H

#include <stdint.h>
#include <time.h>

/* CLOCK_MONOTONIC in ns. The request path has broker.now_ns instead, which in a callback may be as old as the front's sleep. */
static inline uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif /* BROKER_CLOCK_H */
