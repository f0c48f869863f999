/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parked.c - round trips while everybody keeps falling asleep: finds lost wake-ups.
 *
 * Each round trip waits a random moment first, around the time at which the front (or the executor, or the retiring of a
 * lane) goes to sleep, so that submissions land inside that window. A request that is not answered within LOST_MS (1000) was
 * lost: nothing here takes longer than microseconds, but a busy machine may keep a process waiting. The front has a timer of one
 * second (broker/handshake.c), which finds what a lost wake-up left lying: who waits for longer than that sees next to none.
 * Exit 0: all came back; 3: a wake-up was lost (the mutation tests want that).
 *
 * Usage: parked SOCKET ping|identity|retire N SECONDS_MAX THINK_NS_MAX [LOST_MS]
 *	retire: submits about when its lane becomes idle; for a front that spins for longer than that (--spin-ns), so that it is
 *	awake then: client and front, each on a core, nobody else.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <inf/client.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RETIRE_NS 100000u /* LANE_RETIRE_NS in broker/lanes.h */

static struct inf_client *client;
static struct inf_model *model;
static uint64_t lost_ns = 1000000000;

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void think(uint64_t ns)
{
	for (uint64_t until = now() + ns; now() < until;)
		;
}

/* 0, or -ETIMEDOUT where the request got lost. */
static int round_trip(struct inf_request *req)
{
	if (!req)
		return inf_ping(client, now() + lost_ns, NULL);

	int r = inf_submit(req);

	if (!r)
		r = inf_wait(req, now() + lost_ns);
	if (!r && inf_request_status(req) != INF_OK)
		r = -EPROTO;
	return r;
}

int main(int argc, char **argv)
{
	char error[256];
	struct inf_options options = { .size = sizeof(options),
				       .socket = argc > 1 ? argv[1] : NULL,
				       .error = error,
				       .error_bytes = sizeof(error) };
	struct inf_request *req = NULL;
	unsigned int seed = 1;
	int r = 0;

	if (argc < 6)
		return 2;
	if (argc > 6)
		lost_ns = strtoull(argv[6], NULL, 10) * 1000000;

	bool retire = !strcmp(argv[2], "retire");
	uint64_t n_max = strtoull(argv[3], NULL, 10), think_max = strtoull(argv[5], NULL, 10),
		 n = 0;
	uint64_t until = now() + strtoull(argv[4], NULL, 10) * 1000000000u, longest = 0;

	if (inf_open(&client, &options)) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}
	if (!strcmp(argv[2], "identity") &&
	    (inf_model_open(client, "identity", 4, &model) || inf_request_take(model, 1, &req)))
		return 1;
	for (; n < n_max && now() < until; n++) {
		uint64_t pause = think_max ? (uint64_t)rand_r(&seed) % think_max : 0, begin;

		/* The lane retires within 256 turns after RETIRE_NS; hit the neighbourhood. */
		think(retire ? RETIRE_NS + pause : pause);
		begin = now();
		r = round_trip(req);
		if (r)
			break;
		if (now() - begin > longest)
			longest = now() - begin;
	}
	printf("%s: %llu round trips, longest %.1f us%s%s\n", argv[2], (unsigned long long)n,
	       (double)longest / 1000, r ? ", then " : "",
	       r == -ETIMEDOUT ? "one was lost"
	       : r	       ? strerror(-r)
			       : "");
	return r == -ETIMEDOUT ? 3 : r ? 1 : 0;
}
