/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel_timed.c - kernel_timed MODEL N [PAUSE_US]: N requests of one row, one after the other, and how long each took by our own clock: a
 * line of ns for each, in their order. For tests of those who measure the same from elsewhere.
 */
#define _GNU_SOURCE 1
#include <inf/client.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_MAX 1000000ul

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void rest(uint64_t us)
{
	struct timespec ts = { .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000) };

	if (us)
		nanosleep(&ts, NULL);
}

static int run(struct inf_request *req, uint64_t *took_ns, unsigned long n, uint64_t pause_us)
{
	for (unsigned long i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();
		int r = inf_submit(req);

		if (!r)
			r = inf_wait(req, INF_FOREVER);
		took_ns[i] = now_ns() - begin_ns;
		if (r || inf_request_status(req) != INF_OK)
			return r ? r : -(int)inf_request_status(req);
		rest(pause_us);
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	uint64_t pause_us = argc > 3 ? strtoul(argv[3], NULL, 10) : 0, *took_ns;
	struct inf_client *client;
	struct inf_model *model;
	struct inf_request *req;
	int r;

	if (!n || n > N_MAX)
		return fputs("timed MODEL N [PAUSE_US]\n", stderr), 2;
	took_ns = calloc(n, sizeof(*took_ns));
	r = took_ns ? inf_open(&client, NULL) : -1;
	if (!r)
		r = inf_model_open(client, argv[1], 0, &model);
	if (!r)
		r = inf_request_take(model, 1, &req);
	if (r)
		return fprintf(stderr, "timed: %s: %s\n", argv[1], strerror(-r)), 1;
	for (uint32_t i = 0; i < inf_model_signature(model)->n_inputs; i++)
		memset(inf_input(req, i), 0, inf_input_room(req, i));
	r = run(req, took_ns, n, pause_us);
	if (r)
		return fprintf(stderr, "timed: a request ended with %d\n", r), 1;
	for (unsigned long i = 0; i < n; i++)
		printf("%" PRIu64 "\n", took_ns[i]);
	inf_request_give(req);
	inf_close(client);
	free(took_ns);
	return 0;
}
