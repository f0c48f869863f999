/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graphs.c - graphs LIBRARY: recorded runs of a model (broker/executor/graphs.c) on cuda:0 of that driver. The model copies
 * its input to its output by way of memory that its runs on a stream share, call by call or as a graph: every answer is
 * compared, and what was recorded is counted.
 */
#include "broker/cuda/image.h"
#include "broker/executor/graphs.h"
#include "shm/signature.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW_BYTES 1024u
#define ROWS_MAX  64u
#define PLACES	  3u

static struct device device;
static CUfunction copy;
static CUstream streams[2], stream; /* the latter is one of them */
static CUdeviceptr between[2];	     /* of each */
static CUdeviceptr memory[PLACES]; /* inputs, and behind them outputs */
static uint8_t *host;
static struct loaded_model model;
static unsigned int n_passed, n_failed, n_enqueued, n_begun, n_ended;
static int n_alive; /* recordings that were begun and not dropped */
static int begin_fails, enqueue_fails;

static void check(const char *name, bool is_good)
{
	printf("%s - %s\n", is_good ? "ok" : "NOT OK", name);
	*(is_good ? &n_passed : &n_failed) += 1;
}

static void must(CUresult result, const char *what)
{
	if (!result)
		return;
	printf("NOT OK - %s: %s\n0 passed, 1 failed, 0 skipped\n", what, inf_driver_error(&device.driver, result));
	exit(1);
}

/* --- a backend --- */

static int enqueue(struct inf_backend_model *handle, uint32_t instance, uint32_t rows, struct CUstream_st *to,
		   const struct inf_backend_tensor *inputs, uint32_t n_inputs, struct inf_backend_tensor *outputs, uint32_t n_outputs,
		   char *error, size_t error_bytes)
{
	uint64_t n = rows * (uint64_t)ROW_BYTES;
	CUdeviceptr *own = &between[to == streams[1]];
	void *first[] = { own, (void *)(uintptr_t)&inputs[0].data, &n };
	void *second[] = { &outputs[0].data, own, &n };

	(void)handle, (void)instance, (void)n_inputs, (void)n_outputs;
	n_enqueued++;
	must(device.driver.launch(copy, 4, 1, 1, 256, 1, 1, 0, to, first, NULL), "a kernel");
	must(device.driver.launch(copy, 4, 1, 1, 256, 1, 1, 0, to, second, NULL), "a kernel");
	if (enqueue_fails)
		snprintf(error, error_bytes, "it does not like to be recorded");
	return enqueue_fails;
}

static int record(struct inf_backend_model *handle, uint32_t instance, struct CUstream_st *of, enum inf_record step, char *error,
		  size_t error_bytes)
{
	(void)handle, (void)instance, (void)of;
	n_begun += step == INF_RECORD_BEGIN;
	n_ended += step == INF_RECORD_END;
	n_alive -= step == INF_RECORD_DROP;
	if (step != INF_RECORD_BEGIN)
		return 0;
	if (begin_fails)
		snprintf(error, error_bytes, "no pool");
	n_alive += !begin_fails;
	return begin_fails;
}

static const struct inf_backend_ops ops = { .enqueue = enqueue, .record = record };
static const struct inf_backend_ops cannot_record = { .enqueue = enqueue };

/* --- runs --- */

static void make_model(void)
{
	const struct inf_tensor_spec spec = {
		.name = "x",
		.dtype = INF_U8,
		.rank = 2,
		.flags = INF_SPEC_BATCH,
		.dims = { -1, ROW_BYTES },
		.dims_max = { 0, ROW_BYTES },
	};
	char error[INF_BACKEND_ERROR_BYTES];

	model = (struct loaded_model){
		.ops = &ops,
		.declared = true,
		.signature = { .name = "copies", .flags = INF_SIG_BATCHABLE, .n_inputs = 1, .n_outputs = 1, .batch_max = ROWS_MAX },
	};
	model.signature.inputs[0] = model.signature.outputs[0] = spec;
	n_enqueued = n_begun = n_ended = 0;
	model.graphs = graphs_new(&device, &model, PLACES, error, sizeof(error));
}

static void free_model(void)
{
	graphs_free(model.graphs);
	check("the backend is told of each recording that went", !n_alive);
}

static int queue_run(uint32_t place, uint64_t name, uint32_t rows)
{
	struct inf_backend_tensor input = { .data = (void *)(uintptr_t)memory[place] };
	struct inf_backend_tensor output = { .data = (void *)(uintptr_t)(memory[place] + ROWS_MAX * ROW_BYTES) };
	char error[INF_BACKEND_ERROR_BYTES] = "";
	struct model_run run = {
		.model = &model,
		.instance = place,
		.rows = rows,
		.stream = stream,
		.inputs = &input,
		.outputs = &output,
		.error = error,
		.error_bytes = sizeof(error),
	};

	return graphs_run(&run, place, name);
}

/* New contents each time; true where they come out. */
static bool run_is_right(uint32_t place, uint64_t name, uint32_t rows)
{
	static uint8_t salt;
	uint32_t bytes = rows * ROW_BYTES;
	uint8_t *from = host, *to = host + ROWS_MAX * ROW_BYTES;

	salt++;
	for (uint32_t i = 0; i < bytes; i++)
		from[i] = (uint8_t)(i * 7 + salt);
	memset(to, 0, bytes);
	must(device.driver.copy_in(memory[place], from, bytes, stream), "copy in");
	if (queue_run(place, name, rows)) {
		must(device.driver.stream_synchronize(stream), "a run that failed"); /* the copy in still reads */
		return false;
	}
	must(device.driver.copy_out(to, memory[place] + ROWS_MAX * ROW_BYTES, bytes, stream), "copy out");
	must(device.driver.stream_synchronize(stream), "a run");
	return !memcmp(from, to, bytes);
}

static bool runs_are_right(uint32_t n)
{
	bool is_good = true;

	for (uint32_t i = 0; i < n; i++)
		is_good &= run_is_right(0, 1, 4);
	return is_good;
}

static void records_what_comes_back(void)
{
	bool is_good;

	make_model();
	is_good = runs_are_right(20);
	check("20 runs are right", is_good);
	check("two call by call, one to record, the rest as a graph", n_enqueued == 3 && n_begun == 1 && n_ended == 1);
	is_good = true;
	for (uint32_t round = 0; round < 5; round++)
		for (uint32_t place = 0; place < PLACES; place++)
			for (uint32_t rows = 1; rows <= 5; rows++)
				is_good &= run_is_right(place, 1, rows);
	check("sizes and places do not mix", is_good);
	check("each was recorded once", n_begun == PLACES * 5);
	n_begun = 0;
	is_good = runs_are_right(3);
	check("what was recorded stays", is_good && !n_begun);
	for (uint32_t i = 0; i < 5; i++)
		is_good &= run_is_right(0, 2, 4);
	check("memory of another name: recorded anew", is_good && n_begun == 1);
	free_model();
}

/* Recorded on one stream, and asked for on the other beside a run of the first: their common memory is not for both. */
static void stays_on_its_stream(void)
{
	bool is_good = true;

	make_model();
	for (uint32_t i = 0; i < 5; i++)
		is_good &= run_is_right(0, 1, 4) & run_is_right(1, 1, 4);
	for (uint32_t i = 0; i < 6; i++) {
		queue_run(0, 1, 4);
		stream = streams[1];
		is_good &= run_is_right(1, 1, 4);
		stream = streams[0];
		must(device.driver.stream_synchronize(stream), "a run");
	}
	check("what was recorded on a stream runs on no other", is_good && n_begun == 3);
	free_model();
}

static void records_not_without_end(void)
{
	bool is_good = true;

	make_model();
	for (uint32_t rows = 1; rows <= ROWS_MAX; rows++)
		for (uint32_t i = 0; i < 4; i++)
			is_good &= run_is_right(1, 1, rows);
	check("64 sizes: right", is_good);
	check("32 of them are recorded", n_begun == 32);
	free_model();
}

static void goes_on_without(void)
{
	char error[INF_BACKEND_ERROR_BYTES];

	make_model();
	begin_fails = -ENOMEM;
	check("a backend that refuses: right all the same", runs_are_right(10));
	check("it is asked once", n_begun == 1 && !n_ended && n_enqueued == 10);
	begin_fails = 0;
	free_model();

	make_model();
	for (uint32_t i = 0; i < 2; i++)
		runs_are_right(1);
	enqueue_fails = -EIO;
	runs_are_right(1); /* to be recorded: fails, and so does the run call by call */
	enqueue_fails = 0;
	check("a model that fails while it is recorded: nothing of that has run, and the next run is right", runs_are_right(10));
	check("it is not recorded again", n_begun == 1 && n_ended == 1);
	free_model();

	make_model();
	graphs_free(model.graphs);
	model.ops = &cannot_record;
	model.graphs = graphs_new(&device, &model, PLACES, error, sizeof(error));
	check("a backend that cannot", !model.graphs && strstr(error, "no support") && runs_are_right(5) && !n_begun);
	model.ops = &ops;
	model.declared = false;
	model.graphs = graphs_new(&device, &model, PLACES, error, sizeof(error));
	check("shapes that vary", !model.graphs && strstr(error, "vary"));
}

int main(int argc, char **argv)
{
	char text[INF_DRIVER_TEXT_BYTES];
	void *address = NULL;
	CUmodule module;

	if (argc != 2)
		return 2;
	setenv("INF_CUDA_LIBRARY", argv[1], 1);
	if (device_open(&device, "cuda:0", text)) {
		printf("skip - recorded runs: %s\n0 passed, 0 failed, 1 skipped\n", text);
		return 0;
	}
	must(device.driver.module_load(&module, inf_kernels_image), "the kernels");
	must(device.driver.module_function(&copy, module, "inf_copy"), "a kernel");
	for (int i = 0; i < 2; i++) {
		must(device.driver.stream_create(&streams[i], CU_STREAM_NON_BLOCKING, 0), "a stream");
		must(device.driver.mem_alloc(&between[i], ROWS_MAX * ROW_BYTES), "memory");
	}
	stream = streams[0];
	must(device.driver.host_alloc(&address, 2ul * ROWS_MAX * ROW_BYTES), "pinned memory");
	host = address;
	for (uint32_t i = 0; i < PLACES; i++)
		must(device.driver.mem_alloc(&memory[i], 2ul * ROWS_MAX * ROW_BYTES), "memory");
	records_what_comes_back();
	stays_on_its_stream();
	records_not_without_end();
	goes_on_without();
	printf("%u passed, %u failed, 0 skipped\n", n_passed, n_failed);
	return n_failed ? 1 : 0;
}
