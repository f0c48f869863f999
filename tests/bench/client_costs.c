/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client_costs.c - what single calls of libinfclient cost.
 *
 * Usage: client_costs NAME [--cpus A,B] [--ms M]; the broker is $INFBROKER_SOCKET's
 *	connect	 inf_open() until the first answer of the builtin identity model, ns per session
 *	alloc	 inf_request_take() and inf_request_give() of one row of it, ns per pair
 *	probe	 a loop with a USDT probe in it that nobody watches, less the same loop without, ns
 *
 * Prints one line of JSON: n, p50_ns, p99_ns, mean_ns.
 */
#define _GNU_SOURCE 1
#include "shm/probes.h"
#include "tests/support/samples.h"
#include <getopt.h>
#include <inf/client.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK	     256u
#define PROBE_CHUNK  4096u
#define ANSWER_NS    1000000000ull

static uint64_t ms = 200;
static struct samples samples;

static void must(int r, const char *what)
{
	if (!r)
		return;
	fprintf(stderr, "client_costs: %s: %s\n", what, strerror(-r));
	exit(1);
}

static void connect_once(struct inf_client **ret_client, struct inf_model **ret_model)
{
	must(inf_open(ret_client, NULL), "open");
	must(inf_model_open(*ret_client, "identity", 1, ret_model), "model");
}

static void connect_often(void)
{
	uint64_t end = samples_now_ns() + ms * 1000000;

	while (samples_now_ns() < end) {
		uint64_t begin_ns = samples_now_ns();
		struct inf_client *client;
		struct inf_model *model;
		struct inf_request *req;

		connect_once(&client, &model);
		must(inf_request_take(model, 1, &req), "take");
		must(inf_submit(req), "submit");
		must(inf_wait(req, samples_now_ns() + ANSWER_NS), "wait");
		if (inf_request_status(req) != INF_OK)
			exit(1);
		samples_add(&samples, (double)(samples_now_ns() - begin_ns));
		inf_close(client);
	}
}

static void alloc(void)
{
	uint64_t end = samples_now_ns() + ms * 1000000, begin_ns, now_ns;
	struct inf_client *client;
	struct inf_model *model;

	connect_once(&client, &model);
	for (begin_ns = samples_now_ns(); begin_ns < end; begin_ns = now_ns) {
		for (uint32_t i = 0; i < CHUNK; i++) {
			struct inf_request *req;

			must(inf_request_take(model, 1, &req), "take");
			inf_request_give(req);
		}
		now_ns = samples_now_ns();
		samples_add(&samples, (double)(now_ns - begin_ns) / CHUNK);
	}
	inf_close(client);
}

/* Some work of a few ns that the compiler cannot leave out. */
static inline uint64_t step(uint64_t value)
{
	__asm__ volatile("" : "+r"(value));
	return value * 2862933555777941757ull + 3037000493ull;
}

static void probe(void)
{
	uint64_t end = samples_now_ns() + ms * 1000000, value = 1;

	while (samples_now_ns() < end) {
		uint64_t begin_ns = samples_now_ns(), middle_ns;

		for (uint32_t i = 0; i < PROBE_CHUNK; i++)
			value = step(value);
		middle_ns = samples_now_ns();
		for (uint32_t i = 0; i < PROBE_CHUNK; i++) {
			value = step(value);
			INF_PROBE3(bench, value, i, 0);
		}
		samples_add(&samples, ((double)(samples_now_ns() - middle_ns) -
				       (double)(middle_ns - begin_ns)) / PROBE_CHUNK);
	}
	if (!value)
		puts("");
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "cpus", required_argument, NULL, 'c' },
		{ "ms", required_argument, NULL, 'm' },
		{ 0 },
	};
	static const struct {
		const char *name;
		void (*run)(void);
	} costs[] = { { "connect", connect_often }, { "alloc", alloc }, { "probe", probe } };
	int c, cpu = -1;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'm')
			ms = strtoull(optarg, NULL, 10);
		else if (c == 'c')
			cpu = (int)strtol(optarg, NULL, 10);
		else
			return 2;
	}
	samples_init(&samples, 1u << 20);
	stand_on_cpu(cpu);
	for (size_t i = 0; optind < argc && i < sizeof(costs) / sizeof(costs[0]); i++) {
		if (strcmp(argv[optind], costs[i].name))
			continue;
		costs[i].run();
		samples_print(&samples);
		return 0;
	}
	fprintf(stderr, "client_costs: which? See the head of tests/bench/client_costs.c\n");
	return 2;
}
