/* SPDX-License-Identifier: Apache-2.0 */
/*
 * on_device.h - what programs have in common that keep tensors on the device, through the library, against the real broker:
 * a client with its stream, requests of add_sub whose parts lie here or there, and every answer compared bit by bit. Only
 * the client's own stream waits for it. For programs: `PROGRAM SOCKET CASE`, which find the driver as the library does.
 */
#ifndef TESTS_SUPPORT_ON_DEVICE_H
#define TESTS_SUPPORT_ON_DEVICE_H

#include "shm/device/driver.h"
#include "tests/support/want.h"
#include <errno.h>
#include <inf/dlpack.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static inline void *pinned(size_t bytes)
{
	void *memory = NULL;

	WANT(!driver.host_alloc(&memory, bytes));
	return memory;
}

static inline struct inf_model *open_model(const char *name)
{
	struct inf_model *model = NULL;
	int r = -EAGAIN;

	for (int i = 0; i < 1000 && (r = inf_model_open(client, name, 1024, &model)) == -EAGAIN; i++)
		usleep(10000);
	WANT(r == 0);
	return model;
}

/* 0, or why there is no device for us. */
static inline int open_device(const char *path, struct inf_device_info *ret_info)
{
	struct inf_options options = { .size = sizeof(options), .socket = path, .name = "tensors" };
	int r;

	WANT(inf_open(&client, &options) == 0);
	for (int i = 0; i < 1000 && (r = inf_device_open(client, ret_info)) == -EAGAIN; i++)
		usleep(10000);
	return r;
}

static inline void open_all(const char *path)
{
	struct inf_device_info info = { .size = sizeof(info) };
	char text[INF_DRIVER_TEXT_BYTES];
	int r = open_device(path, &info);

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
static inline void open_some(const char *path)
{
	struct inf_device_info info = { .size = sizeof(info) };
	char text[INF_DRIVER_TEXT_BYTES];
	float **buffers[] = { &a, &b, &sum, &difference };
	int r = open_device(path, &info);

	if (r)
		printf("# inf_device_open: %s: %s\n", strerror(-r), inf_error(client));
	if (r || inf_driver_open(&driver, NULL, text) || driver.context_retain(&context, info.ordinal) ||
	    driver.context_set(context) || driver.stream_create(&stream, CU_STREAM_NON_BLOCKING, 0))
		stream = NULL;
	for (int i = 0; i < 4; i++) {
		void *memory = NULL;

		if (!stream || driver.host_alloc(&memory, ROWS_MAX * WIDTH * sizeof(float)))
			memory = malloc(ROWS_MAX * WIDTH * sizeof(float));
		*buffers[i] = memory;
	}
}

static inline void close_all(void)
{
	CUcontext now = NULL;

	WANT(!driver.stream_synchronize(stream));
	inf_close(client);
	/* The library left the thread's context as it was. */
	WANT(!driver.context_get(&now) && now == context);
	WANT((!stream || !driver.stream_destroy(stream)) && !driver.mem_free(scratch));
	WANT(!driver.host_free(a) && !driver.host_free(b) && !driver.host_free(sum) && !driver.host_free(difference));
}

static inline void fill(uint32_t rows)
{
	for (uint32_t i = 0; i < rows * WIDTH; i++) {
		a[i] = (float)(random() % 100000) / 8;
		b[i] = (float)(random() % 100000) / 8;
		sum[i] = difference[i] = NAN;
	}
}

static inline bool is_right(uint32_t rows)
{
	for (uint32_t i = 0; i < rows * WIDTH; i++)
		if (sum[i] != a[i] + b[i] || difference[i] != a[i] - b[i])
			return false;
	return true;
}

static inline uint64_t bytes_of(uint32_t rows)
{
	return rows * WIDTH * sizeof(float);
}

/* One request of add_sub; `places` says what is on the device: 1 input a, 2 input b, 4 the results. */
static inline struct inf_request *start(struct inf_model *model, uint32_t rows, unsigned int places)
{
	struct inf_request *req = NULL;
	uint64_t x = 0;

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
	return req;
}

/* Results into `sum` and `difference`; of those on the device without a wait on the host. */
static inline void end(struct inf_request *req, uint32_t rows, unsigned int places)
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

/* One request, from beginning to end. */
static inline void ask(struct inf_model *model, uint32_t rows, unsigned int places)
{
	struct inf_request *req;

	fill(rows);
	req = start(model, rows, places);
	if (req)
		end(req, rows, places);
}

static inline void sleep_20_ms(void *data)
{
	(void)data;
	usleep(20000);
}

struct device_case {
	const char *name;
	void (*run)(void);
	bool is_faulty; /* the driver's calls may fail, also while it is opened */
};

static inline int run_case(const struct device_case *cases, size_t n, int argc, char **argv)
{
	size_t at = 0;

	if (argc != 3)
		return 2;
	while (at < n && strcmp(argv[2], cases[at].name))
		at++;
	if (at == n)
		return 2;
	srandom((unsigned int)getpid());
	setenv("INFBROKER_SOCKET", argv[1], 1);
	if (cases[at].is_faulty)
		open_some(argv[1]);
	else
		open_all(argv[1]);
	cases[at].run();
	if (cases[at].is_faulty)
		inf_close(client);
	else
		close_all();
	printf("%s - %s%s%s\n", wrong ? "NOT OK" : "ok", argv[2], wrong ? ": " : "", wrong ? wrong : "");
	printf("%d passed, %d failed, 0 skipped\n", !wrong, !!wrong);
	return wrong != NULL;
}

#endif /* TESTS_SUPPORT_ON_DEVICE_H */
