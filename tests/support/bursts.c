/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bursts.c - bursts BUSY_MS IDLE_MS: a neighbour that computes so long and sleeps so long, in turn, until it is killed. Where
 * and how urgently is for taskset and chrt to say.
 */
#define _GNU_SOURCE 1
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int main(int argc, char **argv)
{
	uint64_t busy_ns = argc > 2 ? strtoul(argv[1], NULL, 10) * 1000000 : 0;
	struct timespec idle = { .tv_nsec = argc > 2 ? (long)(strtoul(argv[2], NULL, 10) % 1000 * 1000000) : 0 };

	if (!busy_ns || !idle.tv_nsec)
		return fputs("bursts BUSY_MS IDLE_MS\n", stderr), 2;
	for (;;) {
		for (uint64_t until_ns = now_ns() + busy_ns; now_ns() < until_ns;)
			;
		nanosleep(&idle, NULL);
	}
}
