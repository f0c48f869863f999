/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.c - the lanes of shm/lane.h alone, between two spinning threads: no sessions, no jobs.
 *
 * Usage: ring rtt|rate [--cpus A,B] [--ms M] [--share]
 *	rtt	one descriptor there and a completion back; ns per round trip
 *	rate	submissions in bursts of 8 with the publish fence, credits from sq_head; ns per
 *		submission
 *	--share puts a word that both write into the line of sq_head's neighbour: what one more shared
 *		line would cost (shm/LAYOUT.md counts them)
 */
#define _GNU_SOURCE 1
#include "shm/lane.h"
#include "tests/support/samples.h"
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 64u
#define BURST 8u

static struct inf_request_lane *request;
static struct inf_response_lane *response;
static uint64_t *extra; /* NULL = none */
static int cpus[2] = { -1, -1 };
static uint64_t ms = 200;
static uint32_t stop;
static struct samples samples;

static void share(void)
{
	if (extra)
		__atomic_fetch_add(extra, 1, __ATOMIC_RELAXED);
}

/* --- round trips --- */

static void *front_rtt(void *arg)
{
	struct inf_sq_reader sq;
	struct inf_cq_writer cq;
	struct inf_submission sub;

	stand_on_cpu(cpus[1]);
	inf_sq_reader_init(&sq, request, 0);
	inf_cq_writer_init(&cq, response, 0);
	while (!inf_load32(&stop)) {
		struct inf_completion body = { 0 };

		if (inf_sq_peek(&sq) != INF_PEEK_FULL) {
			inf_pause();
			continue;
		}
		inf_sq_take(&sq, &sub);
		share();
		body.tag = sub.tag;
		inf_store64_release(&response->sq_head.v, sq.head);
		inf_cq_push(&cq, &body);
		inf_cq_bump(&cq);
		inf_fence(INF_FENCE_FRONT_COMPLETE);
		if (inf_load32(&request->parked.v))
			exit(1);
	}
	return arg;
}

static void client_rtt(void)
{
	struct inf_sq_writer sq;
	struct inf_cq_reader cq;
	struct inf_completion done;
	uint64_t end = samples_now_ns() + ms * 1000000, begin_ns, now_ns;

	inf_sq_writer_init(&sq, request, response, 0);
	inf_cq_reader_init(&cq, request, response, 0);
	for (begin_ns = samples_now_ns(); begin_ns < end; begin_ns = now_ns) {
		for (uint32_t i = 0; i < CHUNK; i++) {
			struct inf_submission *slot = inf_sq_slot(&sq);

			slot->tag = sq.tail;
			share();
			inf_sq_publish(&sq);
			if (inf_sq_must_ring(&sq))
				exit(1);
			while (inf_cq_peek(&cq) != INF_PEEK_FULL)
				inf_pause();
			inf_cq_take(&cq, &done);
			inf_cq_done(&cq);
		}
		now_ns = samples_now_ns();
		samples_add(&samples, (double)(now_ns - begin_ns) / CHUNK);
	}
}

/* --- rate --- */

static void *front_rate(void *arg)
{
	struct inf_sq_reader sq;
	struct inf_submission sub;
	uint64_t sum = 0;

	stand_on_cpu(cpus[1]);
	inf_sq_reader_init(&sq, request, 0);
	while (!inf_load32(&stop)) {
		uint32_t n = 0;

		while (n < INF_SLOTS / 4 && inf_sq_peek(&sq) == INF_PEEK_FULL) {
			inf_sq_take(&sq, &sub);
			sum += sub.tag;
			n++;
		}
		if (n)
			inf_store64_release(&response->sq_head.v, sq.head);
		else
			inf_pause();
	}
	*(uint64_t *)arg = sum;
	return NULL;
}

static void client_rate(void)
{
	struct inf_sq_writer sq;
	uint64_t end = samples_now_ns() + ms * 1000000, begin_ns, now_ns, accepted = 0;

	inf_sq_writer_init(&sq, request, response, 0);
	for (begin_ns = samples_now_ns(); begin_ns < end; begin_ns = now_ns) {
		for (uint32_t i = 0; i < 16 * CHUNK; i += BURST) {
			while (sq.tail + BURST - accepted > INF_SLOTS) {
				accepted = inf_load64_acquire(&response->sq_head.v);
				inf_pause();
			}
			for (uint32_t k = 0; k < BURST; k++) {
				struct inf_submission *slot = inf_sq_slot(&sq);

				slot->tag = sq.tail;
				slot->offset = sq.tail;
				inf_sq_publish(&sq);
			}
			if (inf_sq_must_ring(&sq))
				exit(1);
		}
		now_ns = samples_now_ns();
		samples_add(&samples, (double)(now_ns - begin_ns) / (16 * CHUNK));
	}
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "cpus", required_argument, NULL, 'c' },
		{ "ms", required_argument, NULL, 'm' },
		{ "share", no_argument, NULL, 's' },
		{ 0 },
	};
	pthread_t thread;
	uint64_t sum;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'm')
			ms = strtoull(optarg, NULL, 10);
		else if (c == 's')
			extra = shared_memory(4096);
		else if (c != 'c' || sscanf(optarg, "%d,%d", &cpus[0], &cpus[1]) != 2)
			return 2;
	}
	if (optind >= argc)
		return 2;
	samples_init(&samples, 1u << 20);
	request = shared_memory(sizeof(*request));
	response = shared_memory(sizeof(*response));
	response->sq_wake.v = UINT64_MAX; /* the other end never sleeps */
	stand_on_cpu(cpus[0]);
	if (!strcmp(argv[optind], "rtt")) {
		if (pthread_create(&thread, NULL, front_rtt, NULL))
			return 1;
		client_rtt();
	} else if (!strcmp(argv[optind], "rate")) {
		if (pthread_create(&thread, NULL, front_rate, &sum))
			return 1;
		client_rate();
	} else {
		return 2;
	}
	inf_store32(&stop, 1);
	pthread_join(thread, NULL);
	samples_print(&samples);
	return 0;
}
