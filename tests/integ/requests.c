/* SPDX-License-Identifier: Apache-2.0 */
/*
 * requests.c - what becomes of requests, through the library, against the real broker with its builtin models.
 *
 * Usage: requests SOCKET [case]. Each case opens a client of its own. Prints ok/NOT OK lines and the sum.
 */
#define _GNU_SOURCE 1
#include "tests/support/want.h"
#include <errno.h>
#include <float.h>
#include <inf/client.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *socket_path;

static struct inf_client *open_client(void)
{
	struct inf_options options = { .size = sizeof(options), .socket = socket_path, .name = "requests" };
	struct inf_client *client = NULL;

	WANT(inf_open(&client, &options) == 0);
	return client;
}

/* An executor may be on its way back from an earlier case. */
static struct inf_model *open_model(struct inf_client *client, const char *name, uint32_t depth)
{
	struct inf_model *model = NULL;
	int r = -EAGAIN;

	for (int i = 0; client && i < 1000 && (r = inf_model_open(client, name, depth, &model)) == -EAGAIN; i++)
		usleep(10000);
	WANT(r == 0);
	return model;
}

static struct inf_request *take(struct inf_model *model, uint32_t rows)
{
	struct inf_request *req = NULL;

	WANT(model && inf_request_take(model, rows, &req) == 0);
	return req;
}

/* Submits, waits, returns the status. */
static enum inf_status run(struct inf_request *req)
{
	WANT(req && inf_submit(req) == 0);
	WANT(req && inf_wait(req, in_ms(20000)) == 0);
	return req ? inf_request_status(req) : INF_STATUS_N;
}

static void identity(void)
{
	struct inf_client *client = open_client();
	struct inf_request *req = take(open_model(client, "identity", 8), 1);

	if (wrong)
		return;
	for (int i = 0; i < 10000 && !wrong; i++) {
		memset(inf_input(req, 0), i, 64);
		WANT(run(req) == INF_OK);
		WANT(inf_output(req, 0) && !memcmp(inf_input(req, 0), inf_output(req, 0), 64));
	}
	inf_request_give(req);
	inf_close(client);
}

/* All priorities in turn. */
static void priorities(void)
{
	struct inf_client *client = open_client();
	struct inf_request *req = take(open_model(client, "identity", 8), 1);

	if (wrong)
		return;
	WANT(inf_request_set_priority(req, INF_PRIORITY_MAX + 1) == -EINVAL);
	for (int i = 0; i < 200 && !wrong; i++) {
		memset(inf_input(req, 0), i, 64);
		WANT(inf_request_set_priority(req, (uint32_t)i % (INF_PRIORITY_MAX + 1)) == 0 && run(req) == INF_OK);
		WANT(inf_output(req, 0) && !memcmp(inf_input(req, 0), inf_output(req, 0), 64));
	}
	inf_request_give(req);
	inf_close(client);
}

static void many_rows(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "add_sub", 4096);

	for (uint32_t rows = 1; rows <= 4096 && !wrong; rows = rows * 3 + 1) { /* past the largest batch: split */
		struct inf_request *req = take(model, rows);
		struct inf_tensor sum;

		if (!req)
			break;
		for (uint32_t i = 0; i < rows * 16; i++) {
			((float *)inf_input(req, 0))[i] = (float)i;
			((float *)inf_input(req, 1))[i] = (float)(2 * i);
		}
		WANT(run(req) == INF_OK);
		WANT(inf_output_tensor(req, 0, &sum) == 0 && sum.rank == 2 && sum.dims[0] == rows && sum.dims[1] == 16);
		for (uint32_t i = 0; i < rows * 16 && !wrong; i++) {
			WANT(((const float *)inf_output(req, 0))[i] == (float)(3 * i));
			WANT(((const float *)inf_output(req, 1))[i] == -(float)i);
		}
		inf_request_give(req);
	}
	inf_close(client);
}

#ifdef __SANITIZE_THREAD__
#define LARGE_ROUNDS 1u /* blocks that come again are races to TSan (tests/support/tsan.supp), which it weighs word by word */
#else
#define LARGE_ROUNDS 30u
#endif

/* Rows of 4 KiB, many in flight, few and many per request: more than one batch holds. A wrong byte shows where it is from. */
static void large_rows(void)
{
	static const uint32_t rows[] = { 1, 100, 7, 8, 64, 200, 9, 33, 2, 128, 1, 16 };
	enum { N = sizeof(rows) / sizeof(rows[0]) };
	struct inf_client *client = open_client();
	/* Memory for more than is in flight: blocks of outputs lie side by side, and it takes room to find one of 200 rows. */
	struct inf_model *model = open_model(client, "identity_f32", 2048);
	struct inf_request *reqs[N];

	for (uint32_t i = 0; i < N && !wrong; i++)
		reqs[i] = take(model, rows[i]);
	for (uint32_t round = 0; round < LARGE_ROUNDS && !wrong; round++) {
		for (uint32_t i = 0; i < N && !wrong; i++) {
			uint32_t *in = inf_input(reqs[i], 0);

			for (uint32_t k = 0; k < rows[i] * 1024; k++)
				in[k] = round << 25 | i << 21 | k;
			WANT(inf_submit(reqs[i]) == 0);
		}
		for (uint32_t i = 0; i < N && !wrong; i++) {
			const uint32_t *out;

			WANT(inf_wait(reqs[i], in_ms(20000)) == 0 && inf_request_status(reqs[i]) == INF_OK);
			out = inf_output(reqs[i], 0);
			for (uint32_t k = 0; k < rows[i] * 1024 && !wrong; k++)
				WANT(out[k] == (round << 25 | i << 21 | k));
		}
	}
	inf_close(client);
}

static void scalar_and_varying(void)
{
	struct inf_client *client = open_client();
	struct inf_request *scalar = take(open_model(client, "scalar", 4), 1);
	struct inf_request *varying = take(open_model(client, "varying", 4), 1);
	struct inf_tensor out;

	if (wrong)
		return;
	*(int32_t *)inf_input(scalar, 0) = 21;
	WANT(run(scalar) == INF_OK && *(const int32_t *)inf_output(scalar, 0) == 42);
	WANT(inf_output_tensor(scalar, 0, &out) == 0 && out.rank == 0 && out.bytes == 4);
	for (int64_t n = 0; n <= 1024; n += 128) { /* an empty tensor is one too */
		WANT(inf_input_describe(varying, 0, INF_F32, 1, &n) == 0);
		for (int64_t i = 0; i < n; i++)
			((float *)inf_input(varying, 0))[i] = (float)i;
		WANT(run(varying) == INF_OK);
		WANT(inf_output_tensor(varying, 0, &out) == 0 && out.dims[0] == n);
		WANT(!n || ((const float *)out.data)[0] == (float)(n - 1));
	}
	inf_close(client);
}

/*
 * Pixels to planes of floats, each value in each channel, one image and many: the bits that C's own arithmetic gives, wherever
 * the model runs.
 */
static void normalise(void)
{
	const float means[] = { 0.485f, 0.456f, 0.406f }, deviations[] = { 0.229f, 0.224f, 0.225f };
	enum { PIXELS = 32 * 32, ROWS = 80 }; /* more than a batch takes */
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "normalise", 2 * ROWS);

	for (uint32_t rows = 1; rows <= ROWS && !wrong; rows = rows * 3 + 4) {
		struct inf_request *req = take(model, rows);
		struct inf_tensor out;
		uint8_t *in;

		if (wrong)
			break;
		in = inf_input(req, 0);
		for (uint32_t i = 0; i < rows * PIXELS * 3; i++)
			in[i] = (uint8_t)(i / 3 * (i % 3 + 1 + i / PIXELS * 2));
		WANT(run(req) == INF_OK);
		WANT(inf_output_tensor(req, 0, &out) == 0 && out.dtype == INF_F32 && out.rank == 4 && out.dims[0] == rows);
		WANT(out.dims[1] == 3 && out.dims[2] == 32 && out.dims[3] == 32);
		for (uint32_t i = 0; i < rows * PIXELS * 3 && !wrong; i++) {
			uint32_t pixel = i / 3 % PIXELS, c = i % 3, row = i / 3 / PIXELS;
			float want = ((float)in[i] / 255.0f - means[c]) / deviations[c];

			WANT(!memcmp((const float *)out.data + (row * 3 + c) * PIXELS + pixel, &want, sizeof(want)));
		}
		inf_request_give(req);
	}
	inf_close(client);
}

/* Each value in each place, alone and beside a good row in one batch. */
static void not_finite(struct inf_client *client)
{
	const float values[] = { NAN, -NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0, -0.0f, FLT_TRUE_MIN };
	struct inf_model *model = open_model(client, "finite", 8);
	struct inf_request *req = take(model, 1), *good = take(model, 1);

	for (unsigned int i = 0; !wrong && i < 4 * sizeof(values) / sizeof(*values); i++) {
		float *x = inf_input(req, 0);

		memset(x, 0, 16);
		memset(inf_input(good, 0), 0, 16);
		x[i % 4] = values[i / 4];
		WANT(inf_submit(req) == 0 && inf_submit(good) == 0);
		WANT(inf_wait(req, in_ms(5000)) == 0 && inf_wait(good, in_ms(5000)) == 0);
		WANT(inf_request_status(req) == (i / 4 < 4 ? INF_BAD_RANGE : INF_OK));
		WANT(inf_request_status(good) == INF_OK);
	}
}

static void named_errors(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "index", 8), *none = NULL;
	struct inf_request *req = take(model, 1), *good = take(model, 1);
	const int64_t two[2] = { 1, 4 }, five[2] = { 1, 5 };

	if (wrong)
		return;
	memset(inf_input(req, 0), 0, 32);
	memset(inf_input(good, 0), 0, 32);
	((int64_t *)inf_input(req, 0))[3] = 10; /* declared 0..9 */
	((int64_t *)inf_input(good, 0))[3] = 9;
	WANT(inf_submit(req) == 0 && inf_submit(good) == 0); /* may well share a batch */
	WANT(inf_wait(req, in_ms(5000)) == 0 && inf_request_status(req) == INF_BAD_RANGE);
	WANT(inf_wait(good, in_ms(5000)) == 0 && inf_request_status(good) == INF_OK);
	WANT(((const float *)inf_output(good, 0))[3] == 81.0f);
	WANT(inf_output(req, 0) == NULL);
	not_finite(client);
	((int64_t *)inf_input(req, 0))[3] = 0;
	WANT(inf_input_describe(req, 0, INF_I32, 2, two) == 0 && run(req) == INF_BAD_DTYPE);
	WANT(inf_input_describe(req, 0, INF_I64, 1, two) == 0 && run(req) == INF_BAD_SHAPE);
	WANT(inf_input_describe(req, 0, INF_I64, 2, five) != 0 || run(req) == INF_BAD_SHAPE);
	WANT(inf_input_describe(req, 0, INF_I64, 2, two) == 0 && run(req) == INF_OK);
	WANT(inf_model_open(client, "no-such-model", 0, &none) == -ENOENT && strstr(inf_error(client), "no-such-model"));
	WANT(inf_model_open(client, "../../etc/passwd", 0, &none) < 0 && !none);
	WANT(inf_request_take(model, 0, &req) == -EINVAL);
	inf_close(client);
}

static void deadline(void)
{
	struct inf_client *client = open_client();
	struct inf_request *req = take(open_model(client, "identity", 8), 1);

	if (wrong)
		return;
	WANT(inf_request_set_deadline(req, 1) == 0); /* long ago */
	WANT(run(req) == INF_DEADLINE);
	WANT(inf_request_set_deadline(req, in_ms(10000)) == 0 && run(req) == INF_OK);
	inf_close(client);
}

/* Two instances sleep; what waits behind them is cancelled and ends long before they do. */
static void cancel(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "sleep", 64);
	struct inf_request *reqs[64];
	uint32_t n_cancelled = 0, n_ok = 0;

	for (int i = 0; i < 64 && !wrong; i++)
		reqs[i] = take(model, 1);
	if (wrong)
		return;
	for (int i = 0; i < 64; i++)
		WANT(inf_submit(reqs[i]) == 0);
	for (int i = 0; i < 64; i++)
		inf_cancel(reqs[i]);
	for (int i = 0; i < 64 && !wrong; i++) {
		WANT(inf_wait(reqs[i], in_ms(10000)) == 0);
		n_cancelled += inf_request_status(reqs[i]) == INF_CANCELLED;
		n_ok += inf_request_status(reqs[i]) == INF_OK;
	}
	WANT(n_cancelled + n_ok == 64 && n_cancelled > 0);
	WANT(inf_cancel(reqs[0]) == -EINVAL);
	inf_close(client);
}

/* One row kills its executor: it alone gets POISON; the others of its batch are answered. */
static void poison(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "crash", 32);
	struct inf_request *reqs[16];

	for (int i = 0; i < 16 && !wrong; i++) {
		reqs[i] = take(model, 1);
		if (reqs[i])
			*(uint8_t *)inf_input(reqs[i], 0) = i == 7;
	}
	if (wrong)
		return;
	WANT(inf_submit_many(reqs, 16) == 16);
	for (int i = 0; i < 16 && !wrong; i++) {
		WANT(inf_wait(reqs[i], in_ms(30000)) == 0);
		WANT(inf_request_status(reqs[i]) == (i == 7 ? INF_POISON : INF_OK));
	}
	inf_close(client);
}

static void wrong_size(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "wrong_size", 8);
	struct inf_request *bad = take(model, 1), *good = take(model, 1);
	struct inf_request *both[] = { bad, good };

	if (wrong)
		return;
	*(uint8_t *)inf_input(bad, 0) = 1;
	*(uint8_t *)inf_input(good, 0) = 0;
	WANT(inf_submit_many(both, 2) == 2);
	WANT(inf_wait(bad, in_ms(5000)) == 0 && inf_request_status(bad) == INF_MODEL_ERROR);
	WANT(inf_wait(good, in_ms(5000)) == 0 && inf_request_status(good) == INF_OK);
	inf_close(client);
}

/* Who holds all its outputs gets QUOTA until it gives one back; the arena has its own limit. */
static void quota(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "identity_f32", 4);
	struct inf_request *reqs[5] = { 0 };

	for (int i = 0; i < 5 && !wrong; i++) {
		reqs[i] = take(model, 1);
		WANT(run(reqs[i]) == (i < 4 ? INF_OK : INF_QUOTA));
	}
	inf_request_give(reqs[0]);
	WANT(run(reqs[4]) == INF_OK);
	inf_close(client);
}

static void too_many_in_flight(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "sleep", 512);
	static struct inf_request *reqs[257];

	for (int i = 0; i < 257 && !wrong; i++)
		reqs[i] = take(model, 1);
	for (int i = 0; i < 257 && !wrong; i++)
		WANT(inf_submit(reqs[i]) == (i < 256 ? 0 : -EAGAIN));
	for (int i = 0; i < 256 && !wrong; i++)
		WANT(inf_wait(reqs[i], in_ms(60000)) == 0 && inf_request_status(reqs[i]) == INF_OK);
	WANT(run(reqs[256]) == INF_OK);
	inf_close(client);
}

static void event_fd(void)
{
	struct inf_client *client = open_client();
	struct inf_request *req = take(open_model(client, "sleep", 4), 1), *got = NULL;
	int fd = client ? inf_fd(client) : -1;

	if (wrong)
		return;
	WANT(fd >= 0);
	for (int i = 0; i < 20 && !wrong; i++) {
		fd_set set;
		struct timeval limit = { .tv_sec = 5 };

		WANT(inf_submit(req) == 0);
		FD_ZERO(&set);
		FD_SET(fd, &set);
		if (!inf_fd_arm(client))
			WANT(select(fd + 1, &set, NULL, NULL, &limit) == 1);
		WANT(inf_wait_any(client, in_ms(1000), &got) == 0 && got == req);
	}
	inf_close(client);
}

static void *wait_for(void *req)
{
	return (void *)(intptr_t)inf_wait(req, in_ms(20000));
}

/* Any thread may wait for any request; 20 threads of which some share a lane. */
static void threads(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "sleep", 64);
	pthread_t ids[20];
	struct inf_request *reqs[20];

	for (int i = 0; i < 20 && !wrong; i++) {
		reqs[i] = take(model, 1);
		WANT(reqs[i] && inf_submit(reqs[i]) == 0 && !pthread_create(&ids[i], NULL, wait_for, reqs[i]));
	}
	for (int i = 0; i < 20 && !wrong; i++) {
		void *result;

		WANT(!pthread_join(ids[i], &result) && !result && inf_request_status(reqs[i]) == INF_OK);
	}
	inf_close(client);
}

static void after_fork(void)
{
	struct inf_client *client = open_client();
	struct inf_request *req = take(open_model(client, "identity", 4), 1);
	int status = 0;
	pid_t pid;

	if (wrong)
		return;
	memset(inf_input(req, 0), 5, 64);
	pid = fork();
	if (!pid) {
		bool good = inf_submit(req) == -EOWNERDEAD && inf_wait(req, 0) == -EOWNERDEAD &&
			    *(uint8_t *)inf_input(req, 0) == 5;
		struct inf_client *own = open_client();
		struct inf_request *mine = take(open_model(own, "identity", 4), 1);

		good = good && !wrong && run(mine) == INF_OK;
		_exit(!good);
	}
	WANT(waitpid(pid, &status, 0) == pid && !status);
	WANT(run(req) == INF_OK); /* the parent's session is as it was */
	inf_close(client);
}

static void infer_in_one_line(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "add_sub", 4);
	float a[32], b[32], sum[32], difference[32];

	if (wrong)
		return;
	for (int i = 0; i < 32; i++) {
		a[i] = (float)i;
		b[i] = 1;
	}
	WANT(inf_infer(model, 2, (const void *const[]){ a, b }, (void *const[]){ sum, difference }, in_ms(5000)) == INF_OK);
	WANT(sum[31] == 32 && difference[31] == 30);
	WANT(inf_output_bound(model, 2, 0) == sizeof(sum));
	WANT(inf_ping(client, in_ms(1000), NULL) == 0);
	inf_close(client);
}

/* Two requests in one burst, again and again: requests.sh looks in how many batches they ran. */
static void pairs(void)
{
	struct inf_client *client = open_client();
	struct inf_model *model = open_model(client, "sleep", 8);
	struct inf_request *reqs[2] = { take(model, 1), take(model, 1) };

	for (int i = 0; i < 20 && !wrong; i++) {
		WANT(inf_submit_many(reqs, 2) == 2);
		for (int k = 0; k < 2; k++) {
			WANT(inf_wait(reqs[k], in_ms(20000)) == 0);
			WANT(inf_request_status(reqs[k]) == INF_OK);
		}
	}
	inf_close(client);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "identity", identity },
	{ "priorities", priorities },
	{ "many_rows", many_rows },
	{ "large_rows", large_rows },
	{ "scalar_and_varying", scalar_and_varying },
	{ "normalise", normalise },
	{ "named_errors", named_errors },
	{ "deadline", deadline },
	{ "cancel", cancel },
	{ "wrong_size", wrong_size },
	{ "quota", quota },
	{ "too_many_in_flight", too_many_in_flight },
	{ "event_fd", event_fd },
	{ "threads", threads },
	{ "after_fork", after_fork },
	{ "infer_in_one_line", infer_in_one_line },
	{ "pairs", pairs },
	{ "poison", poison }, /* last: it makes the executor start anew */
};

int main(int argc, char **argv)
{
	unsigned int n_passed = 0, n_failed = 0;

	if (argc < 2)
		return 2;
	socket_path = argv[1];
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (argc > 2 && strcmp(argv[2], cases[i].name))
			continue;
		wrong = NULL;
		cases[i].run();
		printf("%s - %s%s%s\n", wrong ? "NOT OK" : "ok", cases[i].name, wrong ? ": " : "", wrong ? wrong : "");
		fflush(stdout);
		n_passed += !wrong;
		n_failed += !!wrong;
	}
	printf("%u passed, %u failed, 0 skipped\n", n_passed, n_failed);
	return n_failed != 0;
}
