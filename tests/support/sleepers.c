/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sleepers.c - sleepers SOCKET PROCESSES THREADS: that many threads fall asleep in inf_wait(), each on a request that is
 * never answered (builtin `hang`). Says "asleep"; when the broker dies, every thread must return with BROKER_LOST. Prints how
 * long after the first one the last one returned. Exit 0 where all did, with that status.
 */
#define _GNU_SOURCE 1
#include <inf/client.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <signal.h>
#include <unistd.h>

static struct inf_client *client;
static struct inf_model *model;
static int asleep_fd;

static void *sleep_in_wait(void *arg)
{
	struct inf_request *req;
	uint64_t *returned_ns = arg;
	struct timespec ts;
	int r = inf_request_take(model, 1, &req);

	if (!r) {
		*(uint8_t *)inf_input(req, 0) = 1;
		r = inf_submit(req);
	}
	if (write(asleep_fd, r ? "E" : ".", 1) != 1 || r)
		return NULL;
	r = inf_wait(req, INF_FOREVER);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	if (!r && inf_request_status(req) == INF_BROKER_LOST)
		*returned_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	return NULL;
}

/* Writes each thread's time of return (0 = wrong) to result_fd. */
static int process(const char *path, unsigned int n_threads, int result_fd)
{
	struct inf_options options = { .size = sizeof(options), .socket = path };
	uint64_t returned_ns[64] = { 0 };
	pthread_t threads[64];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (inf_open(&client, &options) || inf_model_open(client, "hang", n_threads, &model))
		return 1;
	for (unsigned int i = 0; i < n_threads; i++)
		if (pthread_create(&threads[i], NULL, sleep_in_wait, &returned_ns[i]))
			return 1;
	for (unsigned int i = 0; i < n_threads; i++)
		pthread_join(threads[i], NULL);
	for (unsigned int i = 0; i < n_threads; i++)
		if (write(result_fd, &returned_ns[i], sizeof(uint64_t)) != sizeof(uint64_t))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	int asleep[2], result[2];
	unsigned int n_processes = argc == 4 ? (unsigned int)strtoul(argv[2], NULL, 10) : 0;
	unsigned int n_threads = argc == 4 ? (unsigned int)strtoul(argv[3], NULL, 10) : 0, wrong = 0;
	uint64_t first = UINT64_MAX, last = 0, at;
	char byte;

	if (!n_processes || !n_threads || n_threads > 64 || pipe(asleep) || pipe(result))
		return 2;
	asleep_fd = asleep[1];
	for (unsigned int i = 0; i < n_processes; i++)
		if (!fork())
			_exit(process(argv[1], n_threads, result[1]));
	close(asleep[1]);
	close(result[1]);
	for (unsigned int i = 0; i < n_processes * n_threads; i++)
		if (read(asleep[0], &byte, 1) != 1 || byte != '.')
			return 1;
	usleep(200000); /* from "submitted" to "asleep" */
	printf("asleep\n");
	fflush(stdout);
	for (unsigned int i = 0; i < n_processes * n_threads; i++) {
		if (read(result[0], &at, sizeof(at)) != sizeof(at) || !at) {
			wrong++;
			continue;
		}
		first = at < first ? at : first;
		last = at > last ? at : last;
	}
	while (wait(NULL) > 0)
		;
	printf("%u of %u threads returned BROKER_LOST, the last %.1f ms after the first\n",
	       n_processes * n_threads - wrong, n_processes * n_threads, last ? (double)(last - first) / 1e6 : 0);
	return wrong || last - first > 1000000000u;
}
