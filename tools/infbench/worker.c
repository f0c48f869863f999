/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.c - one thread that submits and collects. Hot file: what it costs is counted against the
 * broker.
 *
 * Closed loop: `depth` requests are kept in flight. All that has ended is collected, one look at the
 * clock stamps it, and it is submitted again together: with one in flight that is the plain submit
 * and wait. Open loop: requests are submitted at their arrival times; a latency counts from the
 * arrival, also where the request had to wait here for one of `depth` places.
 */
#define _GNU_SOURCE 1
#include "tools/infbench/infbench.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define LOST_NS	       10000000000ull /* a request that takes longer than this is lost */
#define OPEN_SPIN_NS   50000u	      /* an arrival this near is not slept for */

struct place {
	struct inf_request *req;
	uint64_t begin_ns;
};

struct worker {
	const struct options *options;
	struct board *board;
	struct tally *tally;
	struct inf_client *client;
	struct inf_model *model;
	uint32_t depth;
	uint64_t random;
	struct place places[DEPTH_MAX];
	struct inf_request *free[DEPTH_MAX]; /* not in flight */
	uint32_t n_free;
	struct inf_request *ended[DEPTH_MAX];
	void *inputs[INF_INPUTS_MAX]; /* --fill: what is written into each request */
};

static void give_up(struct worker *worker, const char *what, int r)
{
	board_give_up(worker->board, what, strerror(-r));
}

/* --- requests --- */

static void describe(struct worker *worker, struct inf_request *req)
{
	const struct options *options = worker->options;
	const struct inf_signature *signature = inf_model_signature(worker->model);

	for (uint32_t i = 0; options->n_dims && i < signature->n_inputs; i++) {
		int r = inf_input_describe(req, i, (enum inf_dtype)signature->inputs[i].dtype,
					   options->n_dims, options->dims);

		if (r)
			give_up(worker, "--shape does not fit the model", r);
	}
}

/* Bytes that are small numbers in every dtype: no model finds NaNs in its input, and integers lie
 * within any sensible range. */
static void fill(struct worker *worker, struct inf_request *req)
{
	const struct inf_signature *signature = inf_model_signature(worker->model);

	for (uint32_t i = 0; i < signature->n_inputs; i++) {
		const struct inf_tensor_spec *spec = &signature->inputs[i];
		uint64_t bytes = inf_input_room(req, i);
		float *values = inf_input(req, i);

		memset(inf_input(req, i), 0, bytes);
		for (uint64_t k = 0; spec->dtype == INF_F32 && k < bytes / sizeof(float); k++) {
			worker->random = worker->random * 6364136223846793005ull + 1442695040888963407ull;
			values[k] = (float)(worker->random >> 44) / 262144.0f - 2.0f;
		}
	}
}

/* What --fill writes: a copy of the first request's inputs. */
static void keep_inputs(struct worker *worker, struct inf_request *req)
{
	for (uint32_t i = 0; i < inf_model_signature(worker->model)->n_inputs; i++) {
		uint64_t bytes = inf_input_room(req, i);

		worker->inputs[i] = malloc(bytes + 1);
		if (!worker->inputs[i])
			give_up(worker, "no memory for the inputs", -ENOMEM);
		memcpy(worker->inputs[i], inf_input(req, i), bytes);
	}
}

static void fill_again(struct worker *worker, struct inf_request *req)
{
	for (uint32_t i = 0; i < inf_model_signature(worker->model)->n_inputs; i++)
		memcpy(inf_input(req, i), worker->inputs[i], inf_input_room(req, i));
}

static void prepare(struct worker *worker)
{
	for (uint32_t i = 0; i < worker->depth; i++) {
		struct place *place = &worker->places[i];
		int r = inf_request_take(worker->model, worker->options->rows, &place->req);

		if (r)
			give_up(worker, "no memory for the requests: ask for less --depth", r);
		fill(worker, place->req);
		describe(worker, place->req);
		inf_request_set_data(place->req, place);
		worker->free[worker->n_free++] = place->req;
	}
	if (worker->options->fill)
		keep_inputs(worker, worker->places[0].req);
}

/* --- what is counted --- */

static void sample(struct worker *worker, uint64_t ns)
{
	struct tally *tally = worker->tally;
	uint64_t n = tally->n_samples++;

	tally->sum_ns += ns;
	if (ns > tally->max_ns)
		tally->max_ns = ns;
	if (n >= SAMPLES_MAX) { /* J. S. Vitter, "Random Sampling with a Reservoir", algorithm R */
		worker->random = worker->random * 6364136223846793005ull + 1442695040888963407ull;
		n = (uint64_t)((unsigned __int128)worker->random * (n + 1) >> 64);
		if (n >= SAMPLES_MAX)
			return;
	}
	tally->samples_ns[n] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static void count(struct worker *worker, const struct inf_request *req, uint64_t now_ns)
{
	struct tally *tally = worker->tally;
	const struct place *place = inf_request_data(req);
	uint32_t status = (uint32_t)inf_request_status(req);

	__atomic_store_n(&tally->n_requests, tally->n_requests + 1, __ATOMIC_RELAXED);
	tally->n_status[status < STATUSES_MAX ? status : STATUSES_MAX - 1]++;
	if (worker->options->sparse <= 1 || tally->n_requests % worker->options->sparse == 0)
		sample(worker, now_ns - place->begin_ns);
}

/* --- submit and collect --- */

static void submit(struct worker *worker, struct inf_request **reqs, uint32_t n, uint64_t begin_ns)
{
	const struct options *options = worker->options;
	int r;

	for (uint32_t i = 0; i < n; i++) {
		struct place *place = inf_request_data(reqs[i]);

		place->begin_ns = begin_ns;
		if (options->fill)
			fill_again(worker, reqs[i]);
		if (options->deadline_s > 0)
			inf_request_set_deadline(reqs[i],
						 begin_ns + (uint64_t)(options->deadline_s * 1e9));
	}
	r = inf_submit_many(reqs, n);
	if (r != (int)n)
		give_up(worker, "submitting", r < 0 ? r : -EAGAIN);
	worker->tally->n_submitted += n;
}

/* All that has ended; waits for the first until `until_ns`. Returns how many are in ended[]. */
static uint32_t collect(struct worker *worker, uint64_t until_ns)
{
	uint32_t n = 0;
	int r = inf_wait_any(worker->client, worker->options->poll ? INF_NOWAIT : until_ns,
			     &worker->ended[0]);

	while (worker->options->poll && r == -ETIMEDOUT && board_now_ns() < until_ns)
		r = inf_wait_any(worker->client, INF_NOWAIT, &worker->ended[0]);
	while (!r && ++n < worker->depth)
		r = inf_wait_any(worker->client, INF_NOWAIT, &worker->ended[n]);
	if (r && r != -ETIMEDOUT && r != -ENOENT)
		give_up(worker, "waiting", r);
	return n;
}

static void drain(struct worker *worker)
{
	uint64_t until_ns = board_now_ns() + LOST_NS;

	while (worker->n_free < worker->depth) {
		uint32_t n = collect(worker, until_ns);

		if (!n && board_now_ns() >= until_ns)
			give_up(worker, "a request was not answered within 10 s", -ETIMEDOUT);
		for (uint32_t i = 0; i < n; i++)
			worker->free[worker->n_free++] = worker->ended[i];
	}
}

static void run_closed(struct worker *worker)
{
	const struct board *board = worker->board;
	uint64_t left = board->requests_max ? board->requests_max : UINT64_MAX;
	uint32_t n_first = left < worker->depth ? (uint32_t)left : worker->depth;
	uint64_t now_ns = board_now_ns();
	bool over = false;

	worker->n_free -= n_first;
	submit(worker, worker->free + worker->n_free, n_first, now_ns);
	left -= n_first;
	while (worker->n_free < worker->depth) {
		uint32_t n = collect(worker, now_ns + LOST_NS), n_again;

		if (!n)
			give_up(worker, "a request was not answered within 10 s", -ETIMEDOUT);
		now_ns = board_now_ns();
		for (uint32_t i = 0; i < n; i++)
			count(worker, worker->ended[i], now_ns);
		over = now_ns >= board->until_ns;
		if (over)
			left = 0;
		n_again = left < n ? (uint32_t)left : n;
		if (n_again)
			submit(worker, worker->ended, n_again, now_ns);
		left -= n_again;
		for (uint32_t i = n_again; i < n; i++)
			worker->free[worker->n_free++] = worker->ended[i];
		if (over)
			break;
	}
	worker->tally->elapsed_ns = now_ns - board->begin_ns;
	drain(worker);
}

static void run_open(struct worker *worker, struct arrivals *arrivals)
{
	const struct board *board = worker->board;
	uint64_t left = board->requests_max ? board->requests_max : UINT64_MAX;
	uint64_t due_ns = arrivals_next(arrivals), now_ns = board_now_ns();

	while (left && due_ns != UINT64_MAX && board->begin_ns + due_ns < board->until_ns) {
		uint64_t at_ns = board->begin_ns + due_ns;

		if (now_ns < at_ns && worker->n_free == worker->depth &&
		    at_ns - now_ns > OPEN_SPIN_NS) {
			uint64_t early_ns = at_ns - OPEN_SPIN_NS;
			struct timespec ts = { .tv_sec = (time_t)(early_ns / 1000000000u),
					       .tv_nsec = (long)(early_ns % 1000000000u) };

			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		} else if (now_ns < at_ns || !worker->n_free) {
			uint32_t n = worker->n_free == worker->depth
					     ? 0
					     : collect(worker, worker->n_free ? at_ns : now_ns + LOST_NS);

			now_ns = board_now_ns();
			for (uint32_t i = 0; i < n; i++) {
				count(worker, worker->ended[i], now_ns);
				worker->free[worker->n_free++] = worker->ended[i];
			}
			continue;
		} else {
			submit(worker, &worker->free[--worker->n_free], 1, at_ns);
			due_ns = arrivals_next(arrivals);
			left--;
		}
		now_ns = board_now_ns();
	}
	/* What arrived in the round counts, however late its answer. */
	while (worker->n_free < worker->depth) {
		uint32_t n = collect(worker, now_ns + LOST_NS);

		if (!n)
			give_up(worker, "a request was not answered within 10 s", -ETIMEDOUT);
		now_ns = board_now_ns();
		for (uint32_t i = 0; i < n; i++) {
			count(worker, worker->ended[i], now_ns);
			worker->free[worker->n_free++] = worker->ended[i];
		}
	}
	worker->tally->elapsed_ns = now_ns - board->begin_ns;
}

/* The front answers by itself: one at a time. */
static void run_ping(struct worker *worker)
{
	const struct board *board = worker->board;
	uint64_t left = board->requests_max ? board->requests_max : UINT64_MAX;
	uint64_t now_ns = board_now_ns();

	while (left-- && now_ns < board->until_ns) {
		uint64_t begin_ns = now_ns;
		int r = inf_ping(worker->client, begin_ns + LOST_NS, NULL);

		if (r)
			give_up(worker, "the ping was not answered", r);
		now_ns = board_now_ns();
		worker->tally->n_requests++;
		worker->tally->n_submitted++;
		worker->tally->n_status[INF_OK]++;
		sample(worker, now_ns - begin_ns);
	}
	worker->tally->elapsed_ns = now_ns - board->begin_ns;
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void worker_run(const struct options *options, struct board *board, uint32_t idx,
		struct inf_client *client, struct inf_model *model, const double *trace_s,
		uint64_t n_trace)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	struct arrivals arrivals;
	uint32_t round = 0;

	if (!worker)
		exit(1);
	*worker = (struct worker){
		.options = options,
		.board = board,
		.tally = &board->tallies[idx],
		.client = client,
		.model = model,
		.depth = model ? options->depth : 0,
		.random = options->seed + idx,
	};
	/* An open loop's sleeps end when they should, not 50 us later. */
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	if (model)
		prepare(worker);
	__atomic_fetch_add(&board->n_ready, 1, __ATOMIC_ACQ_REL);
	while (board_next_round(board, &round)) {
		uint64_t cpu_ns = thread_cpu_ns();

		if (!model) {
			run_ping(worker);
		} else if (options->rate > 0 || trace_s) {
			arrivals_begin(&arrivals, options, trace_s, n_trace, idx, board->n_workers,
				       round);
			run_open(worker, &arrivals);
		} else {
			run_closed(worker);
		}
		worker->tally->cpu_ns = thread_cpu_ns() - cpu_ns;
		__atomic_fetch_add(&board->n_done, 1, __ATOMIC_ACQ_REL);
	}
	for (uint32_t i = 0; i < worker->depth; i++)
		inf_request_give(worker->places[i].req);
	for (uint32_t i = 0; i < INF_INPUTS_MAX; i++)
		free(worker->inputs[i]);
	free(worker);
}
