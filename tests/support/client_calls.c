/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client_calls.c - client_calls SOCKET: each call of client.h against a real broker with its
 * builtin models, as a user would make it, and each mistake that a user can make. Prints "ok - ..."
 * or "NOT OK - ..." and the sum.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <inf/client.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull

static const char *path;
static struct inf_client *client;
static unsigned int n_passed, n_failed;

static void check_at(int line, bool good, const char *what)
{
	if (good)
		n_passed++;
	else
		n_failed++;
	printf("%s - %s (line %d)\n", good ? "ok" : "NOT OK", what, line);
	fflush(stdout);
}
#define check(good, what) check_at(__LINE__, good, what)

static uint64_t in_ns(uint64_t ns)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec + ns;
}

static struct inf_client *connect_to(const char *socket)
{
	struct inf_options options = { .size = sizeof(options), .socket = socket };
	struct inf_client *found = NULL;

	return inf_open(&found, &options) ? NULL : found;
}

/* Opens a model; waits while it is being loaded (after an executor died). */
static struct inf_model *open_model(const char *name)
{
	uint64_t until_ns = in_ns(20 * SECOND_NS);
	struct timespec pause = { .tv_nsec = 5000000 };
	struct inf_model *model = NULL;

	while (inf_model_open(client, name, 0, &model) == -EAGAIN && in_ns(0) < until_ns)
		nanosleep(&pause, NULL);
	return model;
}

static struct inf_request *take(struct inf_model *model, uint32_t rows)
{
	struct inf_request *req = NULL;

	return inf_request_take(model, rows, &req) ? NULL : req;
}

/* Submits, waits; the status or a negative errno. */
static int run(struct inf_request *req)
{
	int r = inf_submit(req);

	if (!r)
		r = inf_wait(req, in_ns(20 * SECOND_NS));
	return r ? r : (int)inf_request_status(req);
}

/* One row whose input is filled with a byte; its status. */
static int run_byte(struct inf_model *model, int byte)
{
	struct inf_request *req = take(model, 1);
	int r;

	if (!req)
		return -ENOBUFS;
	memset(inf_input(req, 0), byte, inf_input_room(req, 0));
	r = run(req);
	inf_request_give(req);
	return r;
}

/* --- cases --- */

static void lists_models(void)
{
	struct inf_model_info info = { .size = sizeof(info) };
	struct inf_model *none;
	unsigned int n = 0;

	while (!inf_model_list(client, n, &info))
		n++;
	check(n >= 12, "all builtin models are listed");
	check(inf_model_open(client, "no-such-model", 0, &none) == -ENOENT,
	      "an unknown model is -ENOENT");
	check(strstr(inf_error(client), "no-such-model"), "and the broker's words name it");
	check(inf_model_open(client, "", 0, &none) == -ENOENT, "so is an empty name");
}

static void many_rows(void)
{
	struct inf_model *model = NULL;
	bool good = !inf_model_open(client, "add_sub", 300, &model);

	for (uint32_t rows = 1; good && rows <= 300; rows = rows * 2 + 1) {
		struct inf_request *req = take(model, rows);
		const float *sum, *difference;
		float *a = inf_input(req, 0), *b = inf_input(req, 1);

		for (uint32_t i = 0; i < rows * 16; i++) {
			a[i] = (float)i;
			b[i] = (float)(3 * i);
		}
		good = good && run(req) == INF_OK;
		sum = inf_output(req, 0);
		difference = inf_output(req, 1);
		for (uint32_t i = 0; i < rows * 16 && good; i++)
			good = sum[i] == (float)(4 * i) && difference[i] == -(float)(2 * i);
		inf_request_give(req);
	}
	check(good, "add_sub of 1 to 255 rows");
}

static void other_shapes(void)
{
	struct inf_model *scalar = open_model("scalar"), *varying = open_model("varying");
	struct inf_request *req = take(scalar, 1);
	int64_t dims[1] = { 3 };
	struct inf_tensor tensor;
	const float *y;

	*(int32_t *)inf_input(req, 0) = 21;
	check(run(req) == INF_OK && *(const int32_t *)inf_output(req, 0) == 42, "a 0-d tensor");
	*(int32_t *)inf_input(req, 0) = 1001;
	check(run(req) == INF_BAD_RANGE, "a value out of range is BAD_RANGE");
	inf_request_give(req);

	req = take(varying, 1);
	for (int i = 0; i < 3; i++)
		((float *)inf_input(req, 0))[i] = (float)i;
	check(!inf_input_describe(req, 0, INF_F32, 1, dims) && run(req) == INF_OK,
	      "a dimension that varies");
	y = inf_output(req, 0);
	check(y && !inf_output_tensor(req, 0, &tensor) && tensor.dims[0] == 3 && y[0] == 2 &&
		      y[2] == 0,
	      "its answer");
	dims[0] = 0;
	check(!inf_input_describe(req, 0, INF_F32, 1, dims) && run(req) == INF_OK,
	      "an empty tensor");
	check(!inf_output_tensor(req, 0, &tensor) && tensor.bytes == 0 && tensor.dims[0] == 0,
	      "its answer");
	inf_request_give(req);
	check(inf_request_take(varying, 2, &req) == -EINVAL,
	      "several rows of a model that does not batch");
}

static void mistakes(void)
{
	struct inf_model *model = open_model("identity");
	struct inf_request *req = take(model, 2);
	int64_t dims[3] = { 2, 64, 1 };

	check(!inf_input_describe(req, 0, INF_I8, 2, dims) && run(req) == INF_BAD_DTYPE,
	      "wrong dtype");
	check(!inf_input_describe(req, 0, INF_U8, 3, dims) && run(req) == INF_BAD_SHAPE,
	      "wrong rank");
	dims[0] = 1;
	check(!inf_input_describe(req, 0, INF_U8, 2, dims) && run(req) == INF_BAD_SHAPE,
	      "wrong batch dimension");
	dims[0] = 2;
	check(!inf_input_describe(req, 0, INF_U8, 2, dims) && run(req) == INF_OK,
	      "and the same request set right");
	inf_request_give(req);
	check(run_byte(open_model("wrong_size"), 1) == INF_MODEL_ERROR,
	      "a model that lies about its output");
	check(run_byte(open_model("wrong_size"), 0) == INF_OK, "and does not always");
}

static void in_time(void)
{
	struct inf_model *model = open_model("sleep");
	struct inf_request *req = take(model, 1), *any;

	inf_submit(req);
	check(inf_submit(req) == -EBUSY, "twice in flight is -EBUSY");
	check(inf_wait(req, in_ns(100000)) == -ETIMEDOUT, "a wait ends in time");
	check(inf_wait_any(client, in_ns(5 * SECOND_NS), &any) == 0 && any == req,
	      "wait_any returns it");
	check(inf_wait_any(client, INF_FOREVER, &any) == -ENOENT, "once");
	check(!inf_request_set_deadline(req, 1) && run(req) == INF_DEADLINE,
	      "a deadline that has passed");
	check(!inf_request_set_deadline(req, in_ns(5 * SECOND_NS)) && run(req) == INF_OK,
	      "one that has not");
	inf_request_give(req);
}

static void cancels(void)
{
	struct inf_model *model = open_model("sleep");
	struct inf_request *reqs[64];
	unsigned int n_ended = 0, n_cancelled = 0;
	uint64_t until_ns = in_ns(5 * SECOND_NS);
	int r;

	for (unsigned int i = 0; i < 64; i++)
		reqs[i] = take(model, 1);
	check(inf_submit_many(reqs, 64) == 64, "64 at once");
	for (unsigned int i = 0; i < 64; i++)
		inf_cancel(reqs[i]);
	for (unsigned int i = 0; i < 64; i++) {
		n_ended += inf_wait(reqs[i], in_ns(5 * SECOND_NS)) == 0;
		n_cancelled += inf_request_status(reqs[i]) == INF_CANCELLED;
	}
	check(n_ended == 64 && n_cancelled > 0,
	      "each cancelled request ends once, some with CANCELLED");
	inf_submit_many(reqs, 64);
	for (unsigned int i = 0; i < 64; i++)
		inf_request_give(reqs[i]);
	/* Their outputs stay reserved until their batches have ended. */
	do
		r = run_byte(model, 0);
	while (r == INF_QUOTA && in_ns(0) < until_ns);
	check(r == INF_OK, "given back in flight: the next one is served");
}

static void deep(void)
{
	struct inf_model *model;
	struct inf_request *reqs[300], *any;
	unsigned int n_back = 0;
	int n;

	if (inf_model_open(client, "identity_f32", 512, &model)) {
		check(false, "identity_f32 opens with depth 512");
		return;
	}
	for (unsigned int i = 0; i < 300; i++) {
		reqs[i] = take(model, 1);
		((float *)inf_input(reqs[i], 0))[1023] = (float)i;
		inf_request_set_data(reqs[i], (void *)(uintptr_t)i);
	}
	n = inf_submit_many(reqs, 300);
	check(n >= 256, "256 in flight on a lane");
	for (int done = 0; done < n; done++) {
		if (inf_wait_any(client, in_ns(5 * SECOND_NS), &any))
			break;
		n_back += ((const float *)inf_output(any, 0))[1023] ==
			  (float)(uintptr_t)inf_request_data(any);
	}
	check(n_back == (unsigned int)n, "all of them come back, each with its own answer");
	for (unsigned int i = 0; i < 300; i++)
		inf_request_give(reqs[i]);
}

static void event_loop(void)
{
	struct inf_model *model = open_model("sleep");
	struct pollfd poller = { .fd = inf_fd(client), .events = POLLIN };
	struct inf_request *any;
	unsigned int n = 0, n_polls = 0;

	check(poller.fd >= 0, "a descriptor for event loops");
	for (unsigned int i = 0; i < 20; i++)
		inf_submit(take(model, 1));
	while (n < 20 && n_polls < 1000) {
		while (!inf_wait_any(client, INF_NOWAIT, &any)) {
			inf_request_give(any);
			n++;
		}
		if (n < 20 && !inf_fd_arm(client) && poll(&poller, 1, 5000) == 1)
			n_polls++;
	}
	check(n == 20 && n_polls >= 1, "poll() wakes for completions");
}

/* --- other processes and threads --- */

static void forked(void)
{
	struct inf_request *req = take(open_model("identity"), 1);
	pid_t pid = fork();
	int status = 1;

	if (!pid) {
		struct inf_client *own = connect_to(path);

		alarm(20);
		_exit(inf_submit(req) == -EOWNERDEAD && own && !inf_ping(own, INF_FOREVER, NULL)
			      ? 0
			      : 1);
	}
	waitpid(pid, &status, 0);
	check(status == 0, "a forked child: -EOWNERDEAD, and a client of its own");
	check(run(req) == INF_OK, "the parent's is as before");
	inf_request_give(req);
}

static void *thread_work(void *context)
{
	struct inf_model *model = context;
	uintptr_t n_wrong = 0;

	for (unsigned int i = 0; i < 300; i++) {
		uint8_t x[64], y[64] = { 0 };
		const void *inputs[] = { x };
		void *outputs[] = { y };

		memset(x, (int)i, sizeof(x));
		n_wrong += inf_infer(model, 1, inputs, outputs, in_ns(20 * SECOND_NS)) != INF_OK ||
			   memcmp(x, y, 64) != 0;
	}
	return (void *)n_wrong;
}

static void many_threads(void)
{
	struct inf_model *model = open_model("identity");
	pthread_t threads[24];
	uintptr_t n_wrong = 0;

	for (unsigned int i = 0; i < 24; i++)
		if (pthread_create(&threads[i], NULL, thread_work, model))
			exit(1);
	for (unsigned int i = 0; i < 24; i++) {
		void *result;

		pthread_join(threads[i], &result);
		n_wrong += (uintptr_t)result;
	}
	check(n_wrong == 0, "24 threads on 16 lanes, each answer right");
}

static void *crasher(void *context)
{
	(void)context;
	return (void *)(intptr_t)run_byte(open_model("crash"), 1);
}

/* The executor dies three times, with outputs held across the generations of its memory. */
static void executor_dies(void)
{
	struct inf_model *model = open_model("identity");
	struct inf_request *held[3];
	bool kept = true, served = true;

	for (unsigned int i = 0; i < 3; i++) {
		pthread_t thread;
		void *status;

		held[i] = take(model, 1);
		memset(inf_input(held[i], 0), (int)i + 1, 64);
		served = served && run(held[i]) == INF_OK;
		pthread_create(&thread, NULL, crasher, NULL);
		pthread_join(thread, &status);
		check((intptr_t)status == INF_POISON,
		      "a request that kills its executor alone is POISON");
	}
	for (unsigned int i = 0; i < 3; i++) {
		const uint8_t *y = inf_output(held[i], 0);

		kept = kept && y && y[0] == i + 1 && y[63] == i + 1;
		inf_request_give(held[i]);
	}
	served = served && run_byte(model, 9) == INF_OK;
	check(kept, "outputs that are held stay readable after their executor died");
	check(served, "others are served by the next one");
}

static unsigned int n_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += dup2(fd, fd) == fd;
	return n;
}

static void opens_and_closes(void)
{
	unsigned int before = n_fds();
	bool good = true;

	for (unsigned int i = 0; i < 50 && good; i++) {
		struct inf_client *other = connect_to(path);
		struct inf_model *model;

		good = other && !inf_ping(other, in_ns(5 * SECOND_NS), NULL) &&
		       !inf_model_open(other, "identity", 1, &model);
		inf_close(other);
	}
	check(good && n_fds() == before, "50 sessions, no descriptor left open");
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	path = argv[1];
	client = connect_to(path);
	if (!client)
		return 1;
	lists_models();
	many_rows();
	other_shapes();
	mistakes();
	in_time();
	cancels();
	deep();
	event_loop();
	forked();
	many_threads();
	executor_dies();
	opens_and_closes();
	inf_close(client);
	printf("%u passed, %u failed, 0 skipped\n", n_passed, n_failed);
	return n_failed != 0;
}
