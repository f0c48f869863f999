/* SPDX-License-Identifier: Apache-2.0 */
/*
 * infbench.h - the parts of infbench and what they share.
 *
 *	options.c	the command line
 *	arrivals.c	when an open loop submits: even gaps, Poisson, a trace
 *	worker.c	one thread that submits and collects; hot
 *	board.c		memory that parent and workers share; starts rounds, waits for them
 *	report.c	quantiles, text, histogram, JSON
 *	main.c		processes and rounds
 */
#ifndef TOOLS_INFBENCH_INFBENCH_H
#define TOOLS_INFBENCH_INFBENCH_H

#include <inf/client.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#define CPUS_MAX      64u
#define WORKERS_MAX   1024u
#define DEPTH_MAX     256u
#define SAMPLES_MAX   (1u << 18) /* latencies kept of each worker; beyond: a uniform sample of them */
#define STATUSES_MAX  32u
#define LINE_BYTES    128u

struct options {
	const char *model; /* NULL = --ping */
	const char *socket;
	const char *trace_path;
	uint32_t n_processes, n_threads, depth, rows;
	uint32_t sparse; /* only every Nth latency of a worker is taken */
	uint64_t requests_max; /* of a round, all workers together; 0 = no end but `seconds` */
	double seconds, warm_up_s;
	double rate; /* requests per second of all workers; 0 = closed loop */
	double deadline_s;
	bool poisson;
	uint64_t seed;
	uint32_t n_dims;
	int64_t dims[INF_RANK_MAX]; /* --shape: of inputs whose signature leaves dimensions open */
	uint32_t n_cpus;
	int cpus[CPUS_MAX];
	bool ping, poll, fill, json, histogram, commands, quiet;
};

/* Ends the program (status 2) where it makes no sense. */
void options_parse(struct options *options, int argc, char **argv);

/* --- arrivals.c --- */

struct arrivals {
	double gap_ns; /* mean */
	bool poisson;
	uint64_t random;
	const double *trace_s; /* NULL = none; seconds since the start, ascending */
	uint64_t n_trace, at, step;
	double next_ns; /* since the start */
};

/* Reads a trace: one arrival a line, seconds since the start. Ends the program where it is none. */
double *arrivals_read(const char *path, uint64_t *ret_n);
/* Arrivals of worker `idx` of `n_workers`; `trace_s` may be NULL. */
void arrivals_begin(struct arrivals *arrivals, const struct options *options, const double *trace_s,
		    uint64_t n_trace, uint32_t idx, uint32_t n_workers, uint64_t round);
/* The next one, ns since the start; UINT64_MAX after the end of a trace. */
uint64_t arrivals_next(struct arrivals *arrivals);

/* --- board.c --- */

/* Written by one worker, read by the parent when the round is over (`n_requests`: at any time). */
struct tally {
	uint64_t n_requests; /* ended in the round */
	uint64_t n_submitted;
	uint64_t n_samples, sum_ns, max_ns;
	uint64_t elapsed_ns, cpu_ns;
	uint64_t n_status[STATUSES_MAX];
	uint32_t samples_ns[SAMPLES_MAX];
} __attribute__((aligned(LINE_BYTES)));

struct board {
	uint32_t round __attribute__((aligned(LINE_BYTES))); /* futex: moves when a round begins */
	uint32_t stop;
	uint64_t begin_ns, until_ns;
	uint64_t requests_max; /* of each worker in this round */
	uint32_t n_ready __attribute__((aligned(LINE_BYTES)));
	uint32_t n_done;
	uint32_t n_said; /* who gives up: the first one says why ... */
	uint32_t failed; /* ... and then the parent ends all of them */
	uint32_t n_workers;
	struct tally tallies[];
};

struct board *board_new(uint32_t n_workers);
uint64_t board_now_ns(void);
/* Parent: until all workers of this round are done (or ready, before the first). False: one gave up
 * or died. */
bool board_await(struct board *board, const uint32_t *count, const struct options *options);
void board_begin(struct board *board, double seconds, uint64_t requests_max);
/* Worker: says why all must end (the first to say so alone), and ends the process. */
void board_give_up(struct board *board, const char *what, const char *why) __attribute__((noreturn));
/* Worker: sleeps until the next round. False: no more rounds. */
bool board_next_round(struct board *board, uint32_t *seen);

/* --- worker.c --- */

/* Opens nothing: `client` and `model` (NULL = ping) are its process's. Runs rounds until there are
 * no more. */
void worker_run(const struct options *options, struct board *board, uint32_t idx,
		struct inf_client *client, struct inf_model *model, const double *trace_s,
		uint64_t n_trace);

/* --- report.c --- */

struct report {
	uint64_t n_requests, n_errors, n_samples;
	double rate, seconds, client_cpu_s;
	double mean_us, p50_us, p90_us, p99_us, p999_us, max_us;
	uint64_t n_status[STATUSES_MAX];
	uint32_t *sorted_ns; /* of n_sorted latencies */
	uint64_t n_sorted;
};

/* Sums a round up; `report` is freed by report_free(). */
void report_make(struct report *report, const struct board *board);
void report_free(struct report *report);
void report_text(const struct report *report, const struct options *options);
json_t *report_json(const struct report *report, const struct options *options);

#endif /* TOOLS_INFBENCH_INFBENCH_H */
