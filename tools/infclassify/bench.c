/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.c - the case study's rows through the broker.
 *
 * Each process decodes the images once, straight into the memory of its requests, and then submits the same requests again
 * and again: what is timed is what a service does after decoding. "ready" when all processes have had their first answers; for
 * each line "go SECONDS" one JSON line {"images", "seconds", "errors", "latencies_us"}; ends at the end of input. An answer
 * that names another class than the first answer for that image counts as an error.
 */
#define _GNU_SOURCE 1
#include "tools/infclassify/classify.h"
#include "tools/infclassify/image.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#define LATENCIES_MAX (1u << 20) /* per process and round */

struct shot {
	struct inf_request *req;
	uint32_t class; /* of the first answer */
	uint64_t submitted_ns;
};

struct round {
	uint32_t n;
	uint32_t n_errors;
	float latencies_us[LATENCIES_MAX];
};

static int collect(struct inf_client *client, struct round *round, struct shot **ret_shot)
{
	struct inf_request *req;
	struct shot *shot;

	if (inf_wait_any(client, INF_FOREVER, &req))
		return -1;
	shot = inf_request_data(req);
	if (round->n < LATENCIES_MAX)
		round->latencies_us[round->n++] =
			(float)((double)(classify_now_ns() - shot->submitted_ns) / 1000);
	if (inf_request_status(req) != INF_OK || classify_argmax(req) != shot->class)
		round->n_errors++;
	*ret_shot = shot;
	return 0;
}

static int submit(struct shot *shot)
{
	shot->submitted_ns = classify_now_ns();
	return inf_submit(shot->req);
}

static int play_round(struct inf_client *client, struct shot *shots, uint32_t depth, double seconds,
		      struct round *round)
{
	uint64_t until = classify_now_ns() + (uint64_t)(seconds * 1e9);
	uint32_t n_flying = 0;
	struct shot *shot;

	round->n = round->n_errors = 0;
	for (; n_flying < depth; n_flying++)
		if (submit(&shots[n_flying]))
			return -1;
	while (n_flying) {
		if (collect(client, round, &shot))
			return -1;
		n_flying--;
		if (classify_now_ns() >= until)
			continue;
		if (submit(shot))
			return -1;
		n_flying++;
	}
	return 0;
}

static int prepare(const struct classify_options *options, struct inf_model *model,
		   struct shot *shots)
{
	char error[256];

	for (uint32_t i = 0; i < options->depth; i++) {
		const char *path = options->files[i % options->n_files];

		if (inf_request_take(model, 1, &shots[i].req))
			return -1;
		inf_request_set_data(shots[i].req, &shots[i]);
		if (image_load(path, inf_input(shots[i].req, 0), error, sizeof(error))) {
			fprintf(stderr, "infclassify: %s: %s\n", path, error);
			return -1;
		}
		if (submit(&shots[i]) || inf_wait(shots[i].req, INF_FOREVER) ||
		    inf_request_status(shots[i].req) != INF_OK)
			return -1;
		shots[i].class = classify_argmax(shots[i].req);
	}
	return 0;
}

static bool write_all(int fd, const void *data, size_t bytes)
{
	for (const char *at = data; bytes;) {
		ssize_t n = write(fd, at, bytes);

		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

static bool read_all(int fd, void *data, size_t bytes)
{
	for (char *at = data; bytes;) {
		ssize_t n = read(fd, at, bytes);

		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

static int player(const struct classify_options *options, int go_fd, int result_fd)
{
	struct shot *shots = calloc(options->depth, sizeof(*shots));
	struct round *round = calloc(1, sizeof(*round));
	struct inf_client *client;
	struct inf_model *model;
	double seconds;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!shots || !round || classify_open(options, &client, &model) ||
	    prepare(options, model, shots) || !write_all(result_fd, "r", 1))
		return 1;
	while (read_all(go_fd, &seconds, sizeof(seconds))) {
		if (play_round(client, shots, options->depth, seconds, round))
			return 1;
		if (!write_all(result_fd, round, 2 * sizeof(uint32_t) + round->n * sizeof(float)))
			return 1;
	}
	inf_close(client);
	return 0;
}

struct pipes {
	int go, result;
};

static bool print_round(const struct pipes *pipes, uint32_t n_processes, double seconds,
			struct round *round)
{
	uint64_t begin_ns = classify_now_ns(), n = 0, n_errors = 0;
	bool first = true;

	for (uint32_t i = 0; i < n_processes; i++)
		if (!write_all(pipes[i].go, &seconds, sizeof(seconds)))
			return false;
	printf("{\"latencies_us\": [");
	for (uint32_t i = 0; i < n_processes; i++) {
		if (!read_all(pipes[i].result, round, 2 * sizeof(uint32_t)) ||
		    round->n > LATENCIES_MAX ||
		    !read_all(pipes[i].result, round->latencies_us, round->n * sizeof(float)))
			return false;
		n += round->n;
		n_errors += round->n_errors;
		for (uint32_t k = 0; k < round->n; k++, first = false)
			printf("%s%.1f", first ? "" : ",", (double)round->latencies_us[k]);
	}
	printf("], \"images\": %llu, \"errors\": %llu, \"seconds\": %.6f}\n", (unsigned long long)n,
	       (unsigned long long)n_errors, (double)(classify_now_ns() - begin_ns) / 1e9);
	fflush(stdout);
	return true;
}

int classify_bench(const struct classify_options *options)
{
	struct pipes *pipes = calloc(options->n_processes, sizeof(*pipes));
	struct round *round = calloc(1, sizeof(*round));
	char word[16], ready;
	double seconds;

	if (!pipes || !round)
		return 1;
	for (uint32_t i = 0; i < options->n_processes; i++) {
		int go[2], result[2];

		if (pipe(go) || pipe(result))
			return 1;
		if (!fork()) {
			close(go[1]);
			for (uint32_t k = 0; k < i; k++)
				close(pipes[k].go);
			_exit(player(options, go[0], result[1]));
		}
		close(go[0]);
		close(result[1]);
		pipes[i] = (struct pipes){ go[1], result[0] };
	}
	for (uint32_t i = 0; i < options->n_processes; i++)
		if (!read_all(pipes[i].result, &ready, 1))
			return 1;
	puts("ready");
	fflush(stdout);
	while (scanf("%15s %lf", word, &seconds) == 2)
		if (strcmp(word, "go") || !print_round(pipes, options->n_processes, seconds, round))
			return 1;
	return 0;
}
