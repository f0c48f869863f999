/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tensors.c - tensors on the device, through the library, against the real broker: every answer is compared bit by bit, and
 * only the client's own stream waits for it.
 *
 * Usage: tensors SOCKET CASE. It finds the driver as the library does. Prints ok/NOT OK lines and the sum.
 */
#define _GNU_SOURCE 1
#include "shm/device/driver.h"
#include "tests/support/want.h"
#include <errno.h>
#include <inf/dlpack.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 60u
#define ROWS_MAX 300u /* more than a batch takes */
#define WIDTH 16u     /* of a row of add_sub */

static struct inf_driver driver;
static CUcontext context;
static CUstream stream;
static struct inf_client *client;
static float *a, *b, *sum, *difference; /* pinned; ROWS_MAX x WIDTH each */
static CUdeviceptr scratch;		/* as large */

static void *pinned(size_t bytes)
{
	void *memory = NULL;

	WANT(!driver.host_alloc(&memory, bytes));
	return memory;
}

static struct inf_model *open_model(const char *name)
{
	struct inf_model *model = NULL;
	int r = -EAGAIN;

	for (int i = 0; i < 1000 && (r = inf_model_open(client, name, 1024, &model)) == -EAGAIN; i++)
		usleep(10000);
	WANT(r == 0);
	return model;
}

static void open_all(const char *path)
{
	struct inf_options options = { .size = sizeof(options), .socket = path, .name = "tensors" };
	struct inf_device_info info = { .size = sizeof(info) };
	char text[INF_DRIVER_TEXT_BYTES];
	int r;

	WANT(inf_open(&client, &options) == 0);
	for (int i = 0; i < 1000 && (r = inf_device_open(client, &info)) == -EAGAIN; i++)
		usleep(10000);
	/* The broker has made its part, and the process could not use it: the next time it can. */
	if (r == -ENOMEM)
		r = inf_device_open(client, &info);
	if (r) {
		printf("NOT OK - inf_device_open: %s: %s\n0 passed, 1 failed, 0 skipped\n", strerror(-r), inf_error(client));
		exit(1);
	}
	WANT(!strncmp(info.uuid, "GPU-", 4) && inf_device_open(client, NULL) == 0);
	WANT(!inf_driver_open(&driver, NULL, text));
	/* As PyTorch would: the primary context, and a stream in it. */
	WANT(!driver.context_retain(&context, info.ordinal) && !driver.context_set(context));
	if (!getenv("FAKECUDA_DEFAULT_STREAM"))
		WANT(!driver.stream_create(&stream, CU_STREAM_NON_BLOCKING, 0));
	a = pinned(ROWS_MAX * WIDTH * sizeof(float));
	b = pinned(ROWS_MAX * WIDTH * sizeof(float));
	sum = pinned(ROWS_MAX * WIDTH * sizeof(float));
	difference = pinned(ROWS_MAX * WIDTH * sizeof(float));
	WANT(!driver.mem_alloc(&scratch, ROWS_MAX * WIDTH * sizeof(float)));
}

/* As far as a driver whose calls fail lets us: no stream = no device. */
static void open_some(const char *path)
{
	struct inf_options options = { .size = sizeof(options), .socket = path, .name = "tensors" };
	struct inf_device_info info = { .size = sizeof(info) };
	char text[INF_DRIVER_TEXT_BYTES];
	void *memory[4] = { NULL };
	int r;

	WANT(inf_open(&client, &options) == 0);
	for (int i = 0; i < 1000 && (r = inf_device_open(client, &info)) == -EAGAIN; i++)
		usleep(10000);
	if (r)
		printf("# inf_device_open: %s: %s\n", strerror(-r), inf_error(client));
	if (r || inf_driver_open(&driver, NULL, text) || driver.context_retain(&context, info.ordinal) ||
	    driver.context_set(context) || driver.stream_create(&stream, CU_STREAM_NON_BLOCKING, 0))
		stream = NULL;
	for (int i = 0; i < 4; i++)
		if (!stream || driver.host_alloc(&memory[i], ROWS_MAX * WIDTH * sizeof(float)))
			memory[i] = malloc(ROWS_MAX * WIDTH * sizeof(float));
	a = memory[0];
	b = memory[1];
	sum = memory[2];
	difference = memory[3];
}

static void close_all(void)
{
	CUcontext now = NULL;

	WANT(!driver.stream_synchronize(stream));
	inf_close(client);
	/* The library left the thread's context as it was. */
	WANT(!driver.context_get(&now) && now == context);
	WANT((!stream || !driver.stream_destroy(stream)) && !driver.mem_free(scratch));
	WANT(!driver.host_free(a) && !driver.host_free(b) && !driver.host_free(sum) && !driver.host_free(difference));
}

static void fill(uint32_t rows)
{
	for (uint32_t i = 0; i < rows * WIDTH; i++) {
		a[i] = (float)(random() % 100000) / 8;
		b[i] = (float)(random() % 100000) / 8;
		sum[i] = difference[i] = NAN;
	}
}

static bool is_right(uint32_t rows)
{
	for (uint32_t i = 0; i < rows * WIDTH; i++)
		if (sum[i] != a[i] + b[i] || difference[i] != a[i] - b[i])
			return false;
	return true;
}

static uint64_t bytes_of(uint32_t rows)
{
	return rows * WIDTH * sizeof(float);
}

/* --- cases ------------------------------------------------------------------------------------------------- */

/* One request of add_sub; `places` says what is on the device: 1 input a, 2 input b, 4 the results. */
static struct inf_request *start(struct inf_model *model, uint32_t rows, unsigned int places)
{
	struct inf_request *req = NULL;
	uint64_t x = 0, y = 0;

	WANT(inf_request_take(model, rows, &req) == 0);
	if (wrong)
		return NULL;
	if (places & 4)
		WANT(inf_output_to_device(req) == 0);
	if (places & 1)
		WANT(inf_input_device(req, 0, &x) == 0 && !driver.copy_in(x, a, bytes_of(rows), stream));
	else
		memcpy(inf_input(req, 0), a, bytes_of(rows));
	if (places & 2) /* by way of memory of our own */
		WANT(!driver.copy_in(scratch, b, bytes_of(rows), stream) &&
		     inf_input_copy(req, 1, scratch, bytes_of(rows), stream) == 0);
	else
		memcpy(inf_input(req, 1), b, bytes_of(rows));
	if (places & 3)
		WANT(inf_request_commit(req, stream) == 0);
	WANT(inf_submit(req) == 0);
	(void)y;
	return req;
}

/* Results into `sum` and `difference`; of those on the device without a wait on the host. */
static void end(struct inf_request *req, uint32_t rows, unsigned int places)
{
	uint64_t x = 0, y = 0;

	if (places & 4) {
		WANT(inf_wait_stream(req, stream) == 0);
		WANT(inf_output_device(req, 0, &x) == 0 && inf_output_device(req, 1, &y) == 0);
		WANT(!driver.copy_out(sum, x, bytes_of(rows), stream) && !driver.copy_out(difference, y, bytes_of(rows), stream));
		WANT(!driver.stream_synchronize(stream));
		WANT(is_right(rows));
		WANT(inf_output(req, 0) == NULL);
	}
	WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK);
	WANT(!driver.stream_synchronize(stream)); /* what it reads will be written again */
	if (!(places & 4) && !wrong) {
		memcpy(sum, inf_output(req, 0), bytes_of(rows));
		memcpy(difference, inf_output(req, 1), bytes_of(rows));
		WANT(is_right(rows));
	}
	inf_request_give(req);
}

static void mixed(void)
{
	struct inf_model *model = open_model("add_sub");

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		unsigned int places = i % 8;
		uint32_t rows = i % 3 ? 1 + (uint32_t)random() % 40 : 1;
		struct inf_request *req;

		fill(rows);
		req = start(model, rows, places);
		if (req)
			end(req, rows, places);
	}
}

/* In parts, more rows than fit into one batch. */
static void many_rows(void)
{
	struct inf_model *model = open_model("add_sub");

	for (unsigned int places = 0; places < 8 && !wrong; places++) {
		struct inf_request *req;

		fill(ROWS_MAX);
		req = start(model, ROWS_MAX, places);
		if (req)
			end(req, ROWS_MAX, places);
	}
}

/* Several in flight, one stream, all of it queued before anything is waited for. */
static void in_flight(void)
{
	struct inf_model *model = open_model("identity_f32");
	enum { N = 20, BYTES = 4096 };
	uint8_t *from = pinned(N * BYTES), *to = pinned(N * BYTES);
	struct inf_request *reqs[N] = { NULL };

	for (int round = 0; round < 5 && !wrong; round++) {
		for (int i = 0; i < N * BYTES; i++)
			from[i] = (uint8_t)random() & 0x7e; /* no NaN */
		memset(to, 0, N * BYTES);
		for (int i = 0; i < N && !wrong; i++) {
			uint64_t x = 0, y = 0;

			WANT(inf_request_take(model, 1, &reqs[i]) == 0 && inf_output_to_device(reqs[i]) == 0);
			WANT(inf_input_device(reqs[i], 0, &x) == 0 && inf_output_device(reqs[i], 0, &y) == 0);
			WANT(!driver.copy_in(x, from + i * BYTES, BYTES, stream) && inf_request_commit(reqs[i], stream) == 0);
			WANT(inf_submit(reqs[i]) == 0 && inf_wait_stream(reqs[i], stream) == 0);
			WANT(!driver.copy_out(to + i * BYTES, y, BYTES, stream));
		}
		WANT(!driver.stream_synchronize(stream) && !memcmp(from, to, N * BYTES));
		for (int i = 0; i < N; i++) {
			WANT(inf_wait(reqs[i], in_ms(20000)) == 0 && inf_request_status(reqs[i]) == INF_OK);
			inf_request_give(reqs[i]);
		}
	}
	WANT(!driver.host_free(from) && !driver.host_free(to));
}

/* Values that the signature forbids, on the device: named, and nobody else's request is hurt. */
static void judged(void)
{
	struct inf_model *index = open_model("index"), *finite = open_model("finite");
	int64_t *numbers = (int64_t *)(void *)a;

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		bool is_bad = i % 3 == 0, is_finite = i % 2;
		struct inf_request *req = NULL, *other = NULL;
		uint64_t x = 0;

		WANT(!driver.stream_synchronize(stream));
		for (int k = 0; k < 8; k++)
			if (is_finite)
				a[k] = (float)k;
			else
				numbers[k] = k;
		if (is_finite && is_bad)
			a[3 + i % 5] = i & 4 ? NAN : -INFINITY;
		else if (is_bad)
			numbers[3 + i % 5] = i & 4 ? 10 : INT64_MIN;
		WANT(inf_request_take(is_finite ? finite : index, 2, &req) == 0 && inf_input_device(req, 0, &x) == 0);
		WANT(!driver.copy_in(x, a, is_finite ? 32 : 64, stream) && inf_request_commit(req, stream) == 0);
		WANT(inf_request_take(index, 1, &other) == 0);
		if (wrong)
			return;
		for (int64_t k = 0; k < 4; k++)
			((int64_t *)inf_input(other, 0))[k] = k;
		WANT(inf_submit(req) == 0 && inf_submit(other) == 0);
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_wait(other, in_ms(20000)) == 0);
		WANT(inf_request_status(req) == (is_bad ? INF_BAD_RANGE : INF_OK));
		WANT(inf_request_status(other) == INF_OK && ((const float *)inf_output(other, 0))[3] == 9);
		for (int k = 0; !is_bad && !wrong && k < 8; k++)
			WANT(((const float *)inf_output(req, 0))[k] == (is_finite ? (float)k : (float)(k * k)));
		inf_request_give(req);
		inf_request_give(other);
	}
}

/* What was in new memory before is not to be seen: nothing of other clients. */
static void scrubbed(void)
{
	struct inf_model *model = open_model("identity_f32");
	struct inf_request *reqs[64] = { NULL };
	uint8_t *bytes = pinned(4096);

	for (int i = 0; i < 64 && !wrong; i++) {
		uint64_t x = 0;

		memset(bytes, 0xaa, 4096);
		WANT(inf_request_take(model, 1, &reqs[i]) == 0 && inf_input_device(reqs[i], 0, &x) == 0);
		WANT(!driver.copy_out(bytes, x, 4096, stream) && !driver.stream_synchronize(stream));
		for (int k = 0; k < 4096; k++)
			WANT(!bytes[k]);
	}
	for (int i = 0; i < 64; i++)
		inf_request_give(reqs[i]);
	WANT(!driver.host_free(bytes));
}

/* Whose shapes vary: extension tensors, results behind them. */
static void varying(void)
{
	struct inf_model *model = open_model("varying");

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		int64_t n = i == 7 || i == 8 ? 0 : random() % 200;
		struct inf_request *req = NULL;
		struct inf_tensor tensor;
		uint64_t x = 0, y = 0;

		fill(20);
		WANT(inf_request_take(model, 1, &req) == 0);
		if (i & 1)
			WANT(inf_output_to_device(req) == 0 && inf_output_device(req, 0, &y) == 0);
		WANT(inf_input_describe(req, 0, INF_F32, 1, &n) == 0);
		WANT(inf_input_device(req, 0, &x) == 0);
		if (n)
			WANT(!driver.copy_in(x, a, (size_t)n * 4, stream));
		WANT(inf_request_commit(req, stream) == 0 && inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0);
		if (i & 1 && n)
			WANT(!driver.copy_out(sum, y, (size_t)n * 4, stream) && !driver.stream_synchronize(stream));
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK && !driver.stream_synchronize(stream));
		WANT(inf_output_tensor(req, 0, &tensor) == 0 && tensor.rank == 1 && tensor.dims[0] == n);
		if (!(i & 1) && !wrong)
			memcpy(sum, tensor.data, (size_t)n * 4);
		for (int64_t k = 0; k < n && !wrong; k++)
			WANT(sum[k] == a[n - 1 - k]);
		inf_request_give(req);
	}
}

static void sleep_20_ms(void *data)
{
	(void)data;
	usleep(20000);
}

/* The inputs come long after the request: it waits for them, and nobody else does. */
static void late_commit(void)
{
	struct inf_model *model = open_model("add_sub");

	for (int i = 0; i < 5 && !wrong; i++) {
		struct inf_request *late, *other = NULL;
		uint64_t begin_ns;

		fill(4);
		WANT(!driver.stream_call(stream, sleep_20_ms, NULL));
		begin_ns = in_ms(0);
		late = start(model, 4, 7);
		WANT(inf_request_take(model, 1, &other) == 0);
		if (wrong)
			return;
		memset(inf_input(other, 0), 0, WIDTH * 4);
		memset(inf_input(other, 1), 0, WIDTH * 4);
		WANT(inf_submit(other) == 0 && inf_wait(other, in_ms(20000)) == 0 && inf_request_status(other) == INF_OK);
		WANT(inf_poll(late) == 0 || in_ms(0) - begin_ns > 19000000);
		inf_request_give(other);
		end(late, 4, 7);
		WANT(in_ms(0) - begin_ns > 19000000);
	}
}

/* Inputs that never come: the deadline ends it, a cancel does, and the streams that wait for it go on. */
static void never_committed(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL, *blocker = NULL;
	CUstream stuck = NULL;
	CUdeviceptr word = 0;
	uint64_t x, *host = pinned(8);

	*host = 0;
	WANT(!driver.stream_create(&stuck, CU_STREAM_NON_BLOCKING, 0));
	WANT(!driver.host_device_pointer(&word, host, 0) && !driver.stream_wait(stuck, word, 1, CU_STREAM_WAIT_VALUE_GEQ));
	for (int i = 0; i < 4 && !wrong; i++) {
		WANT(inf_request_take(model, 1, &req) == 0 && inf_output_to_device(req) == 0 && inf_input_device(req, 0, &x) == 0);
		WANT(inf_request_commit(req, stuck) == 0);
		if (!(i & 1))
			WANT(inf_request_set_deadline(req, in_ms(30)) == 0);
		WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0);
		if (i & 1)
			WANT(inf_cancel(req) == 0);
		WANT(inf_wait(req, in_ms(20000)) == 0);
		WANT(inf_request_status(req) == (i & 1 ? INF_CANCELLED : INF_DEADLINE));
		WANT(!driver.stream_synchronize(stream));
		inf_request_give(req);
	}
	/* One that is given back while it waits. */
	WANT(inf_request_take(model, 1, &blocker) == 0 && inf_input_device(blocker, 0, &x) == 0);
	WANT(inf_request_commit(blocker, stuck) == 0 && inf_submit(blocker) == 0);
	inf_request_give(blocker);
	__atomic_store_n(host, 1, __ATOMIC_SEQ_CST);
	WANT(!driver.stream_synchronize(stuck) && !driver.stream_destroy(stuck) && !driver.host_free(host));
	fill(3);
	req = start(model, 3, 7);
	if (req)
		end(req, 3, 7);
}

/* Once a request has ended, cancelled or not, nothing writes into its memory any more: it may be another's by now. */
static void cancelled(void)
{
	struct inf_model *model = open_model("add_sub");
	int n_cancelled = 0;

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		uint32_t rows = i & 1 ? ROWS_MAX : 1;
		struct inf_request *req;
		uint64_t x = 0;

		fill(rows);
		req = start(model, rows, 4);
		if (i % 4 > 1)
			usleep((unsigned int)random() % 600);
		WANT(req && (inf_cancel(req) == 0 || inf_poll(req) == 1));
		if (wrong)
			return;
		WANT(inf_wait(req, in_ms(20000)) == 0);
		n_cancelled += inf_request_status(req) == INF_CANCELLED;
		WANT(inf_output_device(req, 0, &x) == 0);
		memset(sum, 0x55, bytes_of(rows));
		WANT(!driver.copy_in(x, sum, bytes_of(rows), stream) && !driver.stream_synchronize(stream));
		usleep(4000);
		WANT(!driver.copy_out(difference, x, bytes_of(rows), stream) && !driver.stream_synchronize(stream));
		WANT(!memcmp(sum, difference, bytes_of(rows)));
		inf_request_give(req);
	}
	printf("# %d of %u cancelled\n", n_cancelled, ROUNDS);
}

/* A stream that waits for a request which the broker refuses goes on. */
static void refused(void)
{
	struct inf_model *model = open_model("varying");
	struct inf_request *req = NULL;
	uint64_t x;

	for (int i = 0; i < 3 && !wrong; i++) {
		int64_t n = 4;

		WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == 0);
		WANT(inf_input_describe(req, 0, INF_I32, 1, &n) == 0 && inf_request_commit(req, stream) == 0);
		WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0 && !driver.stream_synchronize(stream));
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_BAD_DTYPE);
		inf_request_give(req);
	}
}

static void errors(void)
{
	struct inf_options options = { .size = sizeof(options) };
	struct inf_model *model = open_model("add_sub");
	struct inf_client *other = NULL;
	struct inf_request *req = NULL;
	uint64_t x;

	WANT(inf_device_open(NULL, NULL) == -EINVAL);
	WANT(inf_request_take(model, 1, &req) == 0);
	WANT(inf_request_commit(req, stream) == -EINVAL && inf_wait_stream(req, stream) == -EINVAL);
	WANT(inf_output_device(req, 0, &x) == -EINVAL && inf_input_device(req, 2, &x) == -EINVAL);
	WANT(inf_input_device(NULL, 0, &x) == -EINVAL && inf_output_to_device(NULL) == -EINVAL);
	WANT(inf_input_copy(req, 0, scratch, bytes_of(1) + 1, stream) == -EMSGSIZE);
	WANT(inf_input_copy(req, 0, (uintptr_t)&options, 4, stream) == -EFAULT);
	WANT(inf_input_copy(req, 0, (uintptr_t)a, 4, stream) == -EFAULT);
	WANT(inf_input_copy(req, 0, scratch + bytes_of(ROWS_MAX) - 4, 8, stream) == -EFAULT);
	WANT(inf_input_copy(req, 0, scratch - 4, 8, stream) == -EFAULT);
	WANT(inf_input_copy(req, 0, UINT64_MAX - 3, 8, stream) == -EFAULT);
	WANT(inf_wait_stream(req, stream) == -EINVAL); /* has device memory, but was never submitted */
	WANT(inf_output_to_device(req) == 0 && inf_output_device(req, 2, &x) == -EINVAL);
	inf_request_give(req);
	/* A client that did not open the device. */
	WANT(inf_open(&other, &options) == 0 && inf_model_open(other, "add_sub", 0, &model) == 0);
	WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == -ENODEV);
	WANT(inf_output_to_device(req) == -ENODEV);
	inf_request_give(req);
	inf_close(other);
}

/* A child's end is none of the parent's business. */
static void forked(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req;
	int status = 0;
	pid_t child;

	fill(4);
	WANT(!driver.stream_call(stream, sleep_20_ms, NULL));
	req = start(model, 4, 7);
	child = fork();
	if (!child) {
		WANT(inf_device_open(client, NULL) == -EOWNERDEAD && inf_wait_stream(req, stream) == -EOWNERDEAD);
		inf_close(client);
		_exit(wrong != NULL);
	}
	WANT(waitpid(child, &status, 0) == child && status == 0);
	if (req)
		end(req, 4, 7);
}

/* All entries of the timeline, and again. */
static void entries(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *reqs[1024] = { NULL }, *more = NULL;
	uint64_t x;

	for (int round = 0; round < 2 && !wrong; round++) {
		for (int i = 0; i < 1024 && !wrong; i++)
			WANT(inf_request_take(model, 1, &reqs[i]) == 0 && inf_input_device(reqs[i], 0, &x) == 0);
		WANT(inf_request_take(model, 1, &more) == 0 && inf_input_device(more, 0, &x) == -ENOBUFS);
		inf_request_give(more);
		for (int i = 0; i < 1024; i++)
			inf_request_give(reqs[i]);
	}
	fill(2);
	more = start(model, 2, 7);
	if (more)
		end(more, 2, 7);
}

/* The broker is killed with the request in flight ($BROKER): the stream goes on, the status says why. */
static void broker_dies(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;
	const char *broker = getenv("BROKER");
	uint64_t x;

	WANT(inf_request_take(model, 1, &req) == 0 && inf_output_to_device(req) == 0 && inf_input_device(req, 0, &x) == 0);
	WANT(!driver.stream_call(stream, sleep_20_ms, NULL) && inf_request_commit(req, stream) == 0);
	WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0);
	WANT(broker && kill(atoi(broker), SIGKILL) == 0);
	WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_BROKER_LOST);
	WANT(!driver.stream_synchronize(stream));
	inf_request_give(req);
}

/* Executors die ($EXECUTOR names a command that kills one) while tensors on the device are in flight: no answer is wrong. */
static void executor_dies(void)
{
	struct inf_model *model = open_model("add_sub");
	const char *killer = getenv("EXECUTOR");

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		struct inf_request *req;

		fill(40);
		WANT(!driver.stream_synchronize(stream));
		req = start(model, 40, i % 8);
		if (i % 10 == 5)
			WANT(killer && system(killer) == 0);
		if (req)
			end(req, 40, i % 8);
	}
}

/* One request the best way that the device allows just now; what it refuses goes by way of the host. */
static void try_one(struct inf_model *model, bool has_device, int *n_refused)
{
	struct inf_request *req = NULL;
	uint64_t x = 0, y = 0, to = 0;
	bool is_out, is_in;

	WANT(inf_request_take(model, 2, &req) == 0);
	if (wrong)
		return;
	is_out = has_device && inf_output_to_device(req) == 0;
	is_in = has_device && inf_input_device(req, 0, &to) == 0;
	memcpy(inf_input(req, 1), b, bytes_of(2));
	/* Calls of our own may fail as well: then there is nothing to submit. */
	if (is_in && (driver.copy_in(to, a, bytes_of(2), stream) ||
		      (inf_request_commit(req, stream) && driver.stream_synchronize(stream)))) {
		inf_request_give(req);
		++*n_refused;
		return;
	}
	if (!is_in)
		memcpy(inf_input(req, 0), a, bytes_of(2));
	WANT(inf_submit(req) == 0);
	if (is_out && inf_wait_stream(req, stream))
		++*n_refused;
	WANT(inf_wait(req, in_ms(20000)) == 0);
	if (inf_request_status(req) == INF_OK && !is_out) {
		memcpy(sum, inf_output(req, 0), bytes_of(2));
		memcpy(difference, inf_output(req, 1), bytes_of(2));
		WANT(is_right(2));
	} else if (inf_request_status(req) == INF_OK) {
		WANT(inf_output_device(req, 0, &x) == 0 && inf_output_device(req, 1, &y) == 0);
		if (!driver.copy_out(sum, x, bytes_of(2), stream) && !driver.copy_out(difference, y, bytes_of(2), stream) &&
		    !driver.stream_synchronize(stream))
			WANT(is_right(2));
	} else {
		printf("# %s\n", inf_status_name(inf_request_status(req)));
	}
	*n_refused += has_device && !(is_in && is_out);
	inf_request_give(req);
}

/* Any call of the driver may fail, here or in the broker: right answers or named errors, and nobody waits for ever. */
static void faulty(void)
{
	struct inf_model *model = open_model("add_sub");
	int n_refused = 0;

	for (int i = 0; i < 20 && !wrong; i++) {
		fill(2);
		try_one(model, stream, &n_refused);
	}
	printf("# refused %d\n", n_refused);
}

/* Tensors of other libraries, from host and device to host and device. */
static void dlpack(void)
{
	struct inf_model *model = open_model("add_sub"), *varying_model = open_model("varying");

	for (unsigned int i = 0; i < 16 && !wrong; i++) {
		uint32_t rows = 1 + i % 5;
		int64_t shape[] = { rows, WIDTH }, strides[] = { WIDTH, 1 }, odd[] = { 1, 7 };
		DLTensor x = { .data = a, .ndim = 2, .dtype = { kDLFloat, 32, 1 }, .shape = shape, .strides = i & 1 ? strides : NULL };
		DLTensor y = x;
		struct inf_request *req = NULL;
		DLManagedTensor *out[2] = { NULL };

		fill(rows);
		x.device = (DLDevice){ i & 8 ? kDLCUDAHost : kDLCPU, 0 };
		y.device = (DLDevice){ kDLCUDA, 0 };
		y.data = (void *)(uintptr_t)scratch;
		y.byte_offset = 64;
		WANT(!driver.copy_in(scratch + 64, b, bytes_of(rows), stream));
		WANT(inf_request_take(model, rows, &req) == 0);
		if (i & 2)
			WANT(inf_output_to_device(req) == 0);
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == 0 && inf_input_dlpack(model, req, 1, &y, stream) == 0);
		/* What it must refuse changes nothing. */
		x.dtype.bits = 64;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.dtype = (DLDataType){ kDLInt, 32, 1 };
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.dtype = y.dtype;
		x.strides = odd;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.strides = NULL;
		x.ndim = 1;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.ndim = 2;
		shape[0] = INT64_MAX;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		shape[0] = rows + 1;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EMSGSIZE);
		shape[0] = rows;
		y.device.device_type = kDLOpenCL;
		WANT(inf_input_dlpack(model, req, 1, &y, stream) == -EOPNOTSUPP && inf_input_dlpack(model, req, 2, &y, stream) == -EINVAL);
		WANT(inf_output_dlpack(req, 0, 0, &out[0]) == -EINVAL);
		WANT(inf_request_commit(req, stream) == 0 && inf_submit(req) == 0);
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK);
		WANT(inf_output_dlpack(req, 0, 0, &out[0]) == 0 && inf_output_dlpack(req, 1, 0, &out[1]) == 0);
		if (wrong)
			return;
		for (int k = 0; k < 2; k++) {
			const DLTensor *tensor = &out[k]->dl_tensor;
			float *to = k ? difference : sum;

			WANT(tensor->ndim == 2 && tensor->shape[0] == rows && tensor->shape[1] == WIDTH && !tensor->strides);
			WANT(tensor->dtype.code == kDLFloat && tensor->dtype.bits == 32);
			WANT(tensor->device.device_type == (i & 2 ? kDLCUDA : kDLCPU));
			if (i & 2)
				WANT(!driver.copy_out(to, (uintptr_t)tensor->data, bytes_of(rows), stream));
			else
				memcpy(to, tensor->data, bytes_of(rows));
		}
		WANT(!driver.stream_synchronize(stream) && is_right(rows));
		out[0]->deleter(out[0]);
		out[1]->deleter(out[1]);
		inf_request_give(req);
	}
	for (int64_t n = 0; n < 10 && !wrong; n++) {
		DLTensor x = { .data = a, .device = { kDLCPU, 0 }, .ndim = 1, .dtype = { kDLFloat, 32, 1 }, .shape = &n };
		struct inf_request *req = NULL;

		WANT(inf_request_take(varying_model, 1, &req) == 0 && inf_input_dlpack(varying_model, req, 0, &x, NULL) == 0);
		WANT(inf_submit(req) == 0 && inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK);
		WANT(!n || ((const float *)inf_output(req, 0))[0] == a[n - 1]);
		inf_request_give(req);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "mixed", mixed },
	{ "many_rows", many_rows },
	{ "in_flight", in_flight },
	{ "judged", judged },
	{ "scrubbed", scrubbed },
	{ "varying", varying },
	{ "late_commit", late_commit },
	{ "never_committed", never_committed },
	{ "cancelled", cancelled },
	{ "refused", refused },
	{ "errors", errors },
	{ "forked", forked },
	{ "entries", entries },
	{ "broker_dies", broker_dies },
	{ "executor_dies", executor_dies },
	{ "faulty", faulty },
	{ "dlpack", dlpack },
};

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	srandom((unsigned int)getpid());
	setenv("INFBROKER_SOCKET", argv[1], 1);
	if (strcmp(argv[2], "faulty"))
		open_all(argv[1]);
	else
		open_some(argv[1]);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (strcmp(argv[2], cases[i].name))
			continue;
		cases[i].run();
		if (strcmp(argv[2], "faulty"))
			close_all();
		else
			inf_close(client);
		printf("%s - %s%s%s\n", wrong ? "NOT OK" : "ok", cases[i].name, wrong ? ": " : "", wrong ? wrong : "");
		printf("%d passed, %d failed, 0 skipped\n", !wrong, !!wrong);
		return wrong != NULL;
	}
	return 2;
}
