/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - honest load that checks every answer. */
#define _GNU_SOURCE 1
#include "tests/support/load.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WIDTH	  16u
#define LOST_NS	  30000000000ull /* no executor restart takes that long */
#define DEPTH_MAX 256u

struct worker {
	struct load *load;
	struct inf_client *client;
	struct inf_model *model;
	unsigned int seed;
	uint64_t submitted_ns[DEPTH_MAX];
	struct inf_request *reqs[DEPTH_MAX];
};

static pthread_mutex_t sum_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t load_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fill(struct worker *worker, struct inf_request *req)
{
	float *a = inf_input(req, 0), *b = inf_input(req, 1);

	if (worker->load->identity) {
		for (uint32_t i = 0; i < inf_input_room(req, 0) / sizeof(int); i++)
			((int *)(void *)a)[i] = rand_r(&worker->seed);
		return;
	}
	for (uint32_t i = 0; i < WIDTH; i++) {
		a[i] = (float)(rand_r(&worker->seed) % 1000);
		b[i] = (float)(rand_r(&worker->seed) % 1000);
	}
}

static int is_right(const struct load *load, struct inf_request *req)
{
	const float *a = inf_input(req, 0), *b = inf_input(req, 1);
	const float *sum = inf_output(req, 0), *difference = inf_output(req, 1);

	if (load->identity)
		return sum && !memcmp(a, sum, inf_input_room(req, 0));
	if (!sum || !difference)
		return 0;
	for (uint32_t i = 0; i < WIDTH; i++)
		if (sum[i] != a[i] + b[i] || difference[i] != a[i] - b[i])
			return 0;
	return 1;
}

static void count_in_flight(const struct load *load, int change)
{
	if (load->in_flight)
		__atomic_fetch_add(load->in_flight, (uint32_t)change, __ATOMIC_RELAXED);
}

static int submit(struct worker *worker, uint32_t at)
{
	int r;

	fill(worker, worker->reqs[at]);
	inf_request_set_data(worker->reqs[at], &worker->submitted_ns[at]);
	worker->submitted_ns[at] = load_now_ns();
	r = inf_submit(worker->reqs[at]);
	if (!r)
		count_in_flight(worker->load, 1);
	return r;
}

static void account(struct worker *worker, struct load *sum, struct inf_request *req)
{
	const uint64_t *submitted_ns = inf_request_data(req);
	enum inf_status status = inf_request_status(req);

	count_in_flight(worker->load, -1);
	sum->n++;
	sum->n_status[status]++;
	inf_histogram_add(&sum->latency, load_now_ns() - *submitted_ns);
	if (status == INF_OK && !is_right(worker->load, req))
		sum->n_wrong++;
}

static void pause_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u),
			       .tv_nsec = (long)(ns % 1000000000u) };

	if (ns)
		nanosleep(&ts, NULL);
}

/* Collects answers and submits again until the time is over, then collects the rest. */
static int keep_going(struct worker *worker, struct load *sum)
{
	struct load *load = worker->load;
	uint32_t n_flying = 0;
	int r = 0;

	for (uint32_t i = 0; !r && i < load->depth; i++, n_flying += !r)
		r = submit(worker, i);
	while (n_flying) {
		struct inf_request *req;
		int w = inf_wait_any(worker->client, load_now_ns() + LOST_NS, &req);

		if (w) {
			sum->n_wrong += n_flying;
			return r ? r : w;
		}
		account(worker, sum, req);
		n_flying--;
		if (r || load_now_ns() >= load->until_ns ||
		    (load->n_max && sum->n + n_flying >= load->n_max))
			continue;
		pause_ns(load->think_ns);
		r = submit(worker,
			   (uint32_t)((uint64_t *)inf_request_data(req) - worker->submitted_ns));
		n_flying += !r;
	}
	return r;
}

static void add(struct load *to, const struct load *from, int r)
{
	pthread_mutex_lock(&sum_lock);
	to->n += from->n;
	to->n_wrong += from->n_wrong;
	for (uint32_t i = 0; i < INF_STATUS_N; i++)
		to->n_status[i] += from->n_status[i];
	to->latency.n += from->latency.n;
	for (uint32_t i = 0; i < INF_HISTOGRAM_BUCKETS; i++)
		to->latency.buckets[i] += from->latency.buckets[i];
	if (from->latency.max_ns > to->latency.max_ns)
		to->latency.max_ns = from->latency.max_ns;
	if (r && !to->error)
		to->error = r;
	pthread_mutex_unlock(&sum_lock);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct load *sum = calloc(1, sizeof(*sum));
	int r = sum ? 0 : -ENOMEM;

	for (uint32_t i = 0; !r && i < worker->load->depth; i++)
		r = inf_request_take(worker->model, 1, &worker->reqs[i]);
	if (!r)
		r = keep_going(worker, sum);
	for (uint32_t i = 0; i < worker->load->depth; i++)
		inf_request_give(worker->reqs[i]);
	add(worker->load, sum ? sum : &(struct load){ 0 }, r);
	free(sum);
	return NULL;
}

int load_run(struct load *load)
{
	struct inf_options options = { .size = sizeof(options),
				       .socket = load->socket_path,
				       .name = "load" };
	struct worker *workers = calloc(load->n_threads, sizeof(*workers));
	pthread_t threads[64];
	struct inf_client *client;
	struct inf_model *model = NULL;
	int r;

	if (!workers || load->n_threads > 64 || load->depth > DEPTH_MAX) {
		free(workers);
		return -EINVAL;
	}
	r = inf_open(&client, &options);
	if (r) {
		free(workers);
		return r;
	}
	for (int i = 0;
	     i < 600 && (r = inf_model_open(client, load->identity ? "identity" : "add_sub",
					    load->n_threads * load->depth * 2, &model)) == -EAGAIN;
	     i++)
		pause_ns(10000000); /* an executor may be on its way back */
	for (uint32_t i = 0; !r && i < load->n_threads; i++) {
		workers[i].load = load;
		workers[i].client = client;
		workers[i].model = model;
		workers[i].seed = (unsigned int)load_now_ns() + i;
		r = -pthread_create(&threads[i], NULL, work, &workers[i]);
	}
	for (uint32_t i = 0; !r && i < load->n_threads; i++)
		pthread_join(threads[i], NULL);
	inf_close(client);
	free(workers);
	return r ? r : load->error;
}

void load_print(const struct load *load)
{
	printf("{\"n\": %llu, \"wrong\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": "
	       "%.1f, \"status\": {",
	       (unsigned long long)load->n, (unsigned long long)load->n_wrong,
	       (double)inf_histogram_quantile(&load->latency, 0.5) / 1000,
	       (double)inf_histogram_quantile(&load->latency, 0.99) / 1000,
	       (double)load->latency.max_ns / 1000);
	for (uint32_t i = 0, any = 0; i < INF_STATUS_N; i++)
		if (load->n_status[i])
			printf("%s\"%s\": %llu", any++ ? ", " : "",
			       inf_status_name((enum inf_status)i),
			       (unsigned long long)load->n_status[i]);
	printf("}, \"error\": %d}\n", load->error);
	fflush(stdout);
}
