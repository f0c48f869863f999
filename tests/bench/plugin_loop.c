/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin_loop.c - the floor of everything that runs a model: the torch plug-in called in a loop, without a broker around it.
 *
 * Usage: plugin_loop PLUGIN.so MODEL.pt each|all SHAPE [--gather]
 *	each: one thread on each CPU, every call on one thread; all: one call at a time on all CPUs.
 *	--gather: before each call the input is written (as a client does) and copied (as the executor does).
 * SHAPE is that of the one input, f32, batch dimension first: 1x3x224x224. It holds fixed pseudo-random numbers; a network's
 * time does not depend on them. The same memory settings as in the executor. Says "ready"; for each line "go SECONDS" prints
 * {"images" (rows), "seconds", "latencies_us" (of calls)}.
 */
#define _GNU_SOURCE 1
#include "broker/executor/memory.h"
#include <dlfcn.h>
#include <inf/backend.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64u
#define LATENCIES_MAX (1u << 20)

struct looper {
	pthread_t thread;
	uint32_t instance;
	uint32_t n;
	float *latencies_us;
	struct inf_backend_tensor input; /* its own where it gathers */
	void *block;			 /* what a client would write */
};

static const struct inf_backend_ops *ops;
static struct inf_backend_model *model;
static struct inf_backend_tensor input = { .dtype = INF_F32, .bytes = sizeof(float) };
static bool gathers;
static pthread_barrier_t barrier;
static uint64_t until_ns;
static bool stop;
static struct looper loopers[THREADS_MAX];

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void run_once(const struct looper *looper)
{
	uint32_t instance = looper->instance;
	struct inf_backend_tensor output = { 0 };
	char error[INF_BACKEND_ERROR_BYTES] = "";

	if (gathers) {
		memcpy(looper->block, input.data, input.bytes);
		memcpy(looper->input.data, looper->block, input.bytes);
	}
	if (ops->run(model, instance, (uint32_t)input.dims[0], &looper->input, 1, &output, 1, error, sizeof(error))) {
		fprintf(stderr, "plugin_loop: %s\n", error);
		exit(1);
	}
	ops->done(model, instance);
}

static void *loop(void *arg)
{
	struct looper *looper = arg;

	if (ops->thread_begin)
		ops->thread_begin(looper->instance);
	for (int i = 0; i < 10; i++)
		run_once(looper);
	for (;;) {
		pthread_barrier_wait(&barrier); /* ready, or the round before is over */
		pthread_barrier_wait(&barrier); /* go */
		if (stop)
			return NULL;
		looper->n = 0;
		for (uint64_t begin; (begin = now_ns()) < until_ns;) {
			run_once(looper);
			if (looper->n < LATENCIES_MAX)
				looper->latencies_us[looper->n++] = (float)((double)(now_ns() - begin) / 1000);
		}
	}
}

static void print_round(uint32_t n, double seconds)
{
	uint64_t calls = 0;

	printf("{\"latencies_us\": [");
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < loopers[i].n; k++)
			printf("%s%.1f", calls++ ? "," : "", (double)loopers[i].latencies_us[k]);
	printf("], \"images\": %llu, \"seconds\": %.6f}\n", (unsigned long long)calls * (unsigned long long)input.dims[0], seconds);
	fflush(stdout);
}

static void *open_symbol(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	void *symbol = handle ? dlsym(handle, INF_BACKEND_ENTRY) : NULL;

	if (!symbol) {
		fprintf(stderr, "plugin_loop: %s\n", dlerror());
		exit(1);
	}
	return symbol;
}

static void parse_shape(const char *text)
{
	char *end = (char *)(uintptr_t)text;

	do {
		input.dims[input.rank] = strtoll(end, &end, 10);
		input.bytes *= (uint64_t)input.dims[input.rank++];
	} while (*end++ == 'x' && input.rank < INF_RANK_MAX);
}

static void *make_block(void)
{
	void *block = aligned_alloc(64, (input.bytes + 63) & ~63ull);

	if (!block)
		exit(1);
	return block;
}

static void prepare(const char *plugin, const char *path, uint32_t n_loopers, uint32_t n_threads)
{
	struct inf_backend_host host = { .size = sizeof(host), .n_instances = n_loopers, .n_threads = n_threads };
	struct inf_backend_source source = { .size = sizeof(source), .name = "floor", .path = path };
	char error[INF_BACKEND_ERROR_BYTES] = "";
	inf_backend_entry_fn entry;
	unsigned int seed = 1;

	*(void **)&entry = open_symbol(plugin);
	ops = entry();
	input.data = make_block();
	for (uint64_t i = 0; i < input.bytes / sizeof(float); i++)
		((float *)input.data)[i] = (float)(rand_r(&seed) % 1000) / 250.0f - 2.0f;
	if ((ops->init && ops->init(&host, error, sizeof(error))) || ops->load(&source, &model, error, sizeof(error))) {
		fprintf(stderr, "plugin_loop: %s\n", error);
		exit(1);
	}
	for (uint32_t i = 0; i < n_loopers; i++) {
		loopers[i].instance = i;
		loopers[i].input = input;
		loopers[i].block = gathers ? make_block() : NULL;
		if (gathers)
			loopers[i].input.data = make_block();
		loopers[i].latencies_us = calloc(LATENCIES_MAX, sizeof(float));
		if (!loopers[i].latencies_us)
			exit(1);
	}
	run_once(&loopers[0]); /* alone: chooses the memory format */
}

/* glibc reads its tunables before main(): once more with them. */
static void use_tunables(char **argv)
{
	if (getenv("GLIBC_TUNABLES"))
		return;
	putenv((char *)(uintptr_t)EXECUTOR_MALLOC_TUNABLES);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	cpu_set_t cpus;
	uint32_t n_cpus, n;
	double seconds;
	char word[16];

	if (argc < 5)
		return 2;
	gathers = argc > 5 && !strcmp(argv[5], "--gather");
	parse_shape(argv[4]);
	use_tunables(argv);
	memory_keep(0);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	n_cpus = (uint32_t)CPU_COUNT(&cpus) < THREADS_MAX ? (uint32_t)CPU_COUNT(&cpus) : THREADS_MAX;
	n = !strcmp(argv[3], "each") ? n_cpus : 1;
	prepare(argv[1], argv[2], n, n == 1 ? n_cpus : 1);
	pthread_barrier_init(&barrier, NULL, n + 1);
	for (uint32_t i = 0; i < n; i++)
		if (pthread_create(&loopers[i].thread, NULL, loop, &loopers[i]))
			return 1;
	pthread_barrier_wait(&barrier);
	puts("ready");
	fflush(stdout);
	while (scanf("%15s %lf", word, &seconds) == 2) {
		uint64_t begin_ns = now_ns();

		until_ns = begin_ns + (uint64_t)(seconds * 1e9);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		print_round(n, (double)(now_ns() - begin_ns) / 1e9);
	}
	stop = true;
	pthread_barrier_wait(&barrier);
	for (uint32_t i = 0; i < n; i++)
		pthread_join(loopers[i].thread, NULL);
	return 0;
}
