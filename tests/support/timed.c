/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timed.c - timed MODEL N [BYTE [PAUSE_US]]: asks N times, one after the other, with all input bytes BYTE and a pause between them;
 * for each request a line with CLOCK_MONOTONIC in ns before it was submitted, after that, and after its answer was there. For
 * tests of what others say of them.
 */
#include <inf/client.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int main(int argc, char **argv)
{
	struct inf_options options = { .size = sizeof(options), .name = "timed" };
	unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
	int byte = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 0;
	unsigned long pause_us = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
	struct timespec pause = { .tv_sec = (time_t)(pause_us / 1000000), .tv_nsec = (long)(pause_us % 1000000 * 1000) };
	uint64_t *times = calloc(n, 3 * sizeof(*times));
	struct inf_client *client;
	struct inf_model *model;
	struct inf_request *req;

	if (!times || inf_open(&client, &options) || inf_model_open(client, argc > 1 ? argv[1] : "identity", 0, &model) ||
	    inf_request_take(model, 1, &req)) {
		fputs("timed: no broker, model or memory\n", stderr);
		return 1;
	}
	for (uint32_t i = 0; i < inf_model_signature(model)->n_inputs; i++)
		memset(inf_input(req, i), byte, inf_input_room(req, i));
	for (unsigned long i = 0; i < n; i++) {
		times[3 * i] = now_ns();
		if (inf_submit(req))
			return 1;
		times[3 * i + 1] = now_ns();
		if (inf_wait(req, INF_FOREVER) || inf_request_status(req) != INF_OK)
			return 1;
		times[3 * i + 2] = now_ns();
		if (pause_us)
			nanosleep(&pause, NULL);
	}
	for (unsigned long i = 0; i < n; i++)
		printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", times[3 * i], times[3 * i + 1], times[3 * i + 2]);
	inf_request_give(req);
	inf_close(client);
	free(times);
	return 0;
}
