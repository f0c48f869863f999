/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - infbench: what does a broker answer, and how fast?
 *
 * The parent forks the client processes and never connects itself; each process opens a session and
 * each of its threads submits on a lane of its own. Rounds are started through shared memory
 * (board.c).
 */
#define _GNU_SOURCE 1
#include "tools/infbench/infbench.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct options options;
static struct board *board;
static double *trace_s;
static uint64_t n_trace;
static pid_t pids[WORKERS_MAX];

struct seat {
	pthread_t thread;
	uint32_t idx;
	struct inf_client *client;
	struct inf_model *model;
};

static void stand_on_cpu(uint32_t idx)
{
	cpu_set_t set;

	if (!options.n_cpus)
		return;
	CPU_ZERO(&set);
	CPU_SET(options.cpus[idx % options.n_cpus], &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		fprintf(stderr, "infbench: CPU %d: %s\n", options.cpus[idx % options.n_cpus],
			strerror(errno));
		exit(1);
	}
}

static void *seat_main(void *arg)
{
	struct seat *seat = arg;

	stand_on_cpu(seat->idx);
	worker_run(&options, board, seat->idx, seat->client, seat->model, trace_s, n_trace);
	return NULL;
}

static int open_model(struct inf_client *client, struct inf_model **ret_model)
{
	uint64_t until_ns = board_now_ns() + 60000000000ull;
	uint32_t depth = options.depth * options.rows * options.n_threads;
	int r;

	/* Its file may still be loading. */
	while ((r = inf_model_open(client, options.model, depth, ret_model)) == -EAGAIN &&
	       board_now_ns() < until_ns)
		usleep(10000);
	return r;
}

/* One client process. */
static void serve(uint32_t process)
{
	char error[512] = "";
	struct inf_options open = { .size = sizeof(open),
				    .socket = options.socket,
				    .name = "infbench",
				    .error = error,
				    .error_bytes = sizeof(error) };
	struct seat seats[WORKERS_MAX];
	struct inf_client *client;
	struct inf_model *model = NULL;
	int r = inf_open(&client, &open);

	if (r)
		board_give_up(board, "", error[0] ? error : strerror(-r));
	r = options.ping ? 0 : open_model(client, &model);
	if (r)
		board_give_up(board, options.model,
			      inf_error(client)[0] ? inf_error(client) : strerror(-r));
	for (uint32_t i = 0; i < options.n_threads; i++)
		seats[i] = (struct seat){ .idx = process * options.n_threads + i,
					  .client = client,
					  .model = model };
	for (uint32_t i = 1; i < options.n_threads; i++)
		if (pthread_create(&seats[i].thread, NULL, seat_main, &seats[i]))
			exit(1);
	seat_main(&seats[0]);
	for (uint32_t i = 1; i < options.n_threads; i++)
		pthread_join(seats[i].thread, NULL);
	inf_close(client);
	exit(0);
}

static void start_processes(void)
{
	pid_t parent = getpid();

	for (uint32_t i = 0; i < options.n_processes; i++) {
		pid_t pid = fork();

		if (pid < 0) {
			fprintf(stderr, "infbench: process %u: %s\n", i + 1, strerror(errno));
			board->failed = 1;
			return;
		}
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() != parent)
				exit(1);
			serve(i);
		}
		pids[i] = pid;
	}
}

static void stop_processes(bool ok)
{
	__atomic_store_n(&board->stop, 1, __ATOMIC_RELEASE);
	for (uint32_t i = 0; i < options.n_processes && !ok; i++)
		if (pids[i])
			kill(pids[i], SIGKILL);
	board_begin(board, 0, 0);
	while (wait(NULL) > 0 || errno == EINTR)
		;
}

static bool run_round(double seconds, uint64_t requests_max, struct report *report)
{
	board_begin(board, seconds, requests_max);
	if (!board_await(board, &board->n_done, &options))
		return false;
	report_make(report, board);
	return true;
}

static void print_json(const struct report *report)
{
	json_t *json = report_json(report, &options);

	json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	fflush(stdout);
	json_decref(json);
}

/* Returns the exit status. */
static int run_once(void)
{
	struct report report;
	int status;

	if (options.warm_up_s > 0) {
		if (!run_round(options.warm_up_s, 0, &report))
			return 1;
		report_free(&report);
	}
	if (!run_round(options.requests_max ? 1e6 : options.seconds, options.requests_max, &report))
		return 1;
	if (options.json)
		print_json(&report);
	else
		report_text(&report, &options);
	status = report.n_errors ? 1 : 0;
	report_free(&report);
	return status;
}

static int obey(void)
{
	struct report report;
	char line[64];
	double seconds;

	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "go %lf", &seconds) != 1 || !(seconds > 0)) {
			fprintf(stderr, "infbench: commands are: go SECONDS\n");
			return 1;
		}
		if (!run_round(seconds, 0, &report))
			return 1;
		print_json(&report);
		report_free(&report);
	}
	return 0;
}

int main(int argc, char **argv)
{
	int status = 1;

	options_parse(&options, argc, argv);
	if (options.trace_path)
		trace_s = arrivals_read(options.trace_path, &n_trace);
	board = board_new(options.n_processes * options.n_threads);
	if (!board) {
		fprintf(stderr, "infbench: no memory\n");
		return 1;
	}
	start_processes();
	if (board_await(board, &board->n_ready, &options))
		status = options.commands ? obey() : run_once();
	stop_processes(status == 0 || !board->failed);
	return status;
}
