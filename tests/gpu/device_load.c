/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_load.c - load for a broker with tensors that lie on the device, which infbench has not: inputs and results.
 *
 * Usage: device_load SOCKET MODEL ROWS PLACES
 *	PLACES requests are under way, each on a stream of its own: committed there, and over when the stream has gone on. The
 *	client spins. The rest is rounds.h.
 */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "shm/device/driver.h"
#include "tests/gpu/rounds.h"
#include <errno.h>
#include <inf/device.h>
#include <string.h>

static struct inf_driver driver;
static struct {
	struct inf_request *req;
	CUstream stream;
} places[PLACES_MAX];
static struct inf_client *client;

static void must(int r, const char *what)
{
	if (!r)
		return;
	fprintf(stderr, "device_load: %s: %s: %s\n", what, strerror(r < 0 ? -r : r), client ? inf_error(client) : "");
	exit(1);
}

static void must_cuda(CUresult result, const char *what)
{
	must(inf_driver_errno(result), what);
}

static struct inf_model *open_model(const char *path, const char *name, uint32_t depth)
{
	struct inf_options options = { .size = sizeof(options), .socket = path, .name = "device_load" };
	struct inf_device_info info = { .size = sizeof(info) };
	struct inf_model *model = NULL;
	char text[INF_DRIVER_TEXT_BYTES];
	CUcontext context;

	must(inf_open(&client, &options), "inf_open");
	must(inf_device_open(client, &info), "inf_device_open");
	must(inf_driver_open(&driver, NULL, text), "the driver");
	must_cuda(driver.context_retain(&context, info.ordinal), "the context");
	must_cuda(driver.context_set(context), "the context");
	must(inf_model_open(client, name, depth, &model), "inf_model_open");
	return model;
}

static void open_place(struct inf_model *model, uint32_t rows, unsigned int at)
{
	struct inf_request **req = &places[at].req;

	must_cuda(driver.stream_create(&places[at].stream, CU_STREAM_NON_BLOCKING, 0), "a stream");
	must(inf_request_take(model, rows, req), "inf_request_take");
	must(inf_output_to_device(*req), "inf_output_to_device");
	for (uint32_t i = 0; i < inf_model_signature(model)->n_inputs; i++) {
		uint64_t address;

		must(inf_input_device(*req, i, &address), "inf_input_device");
		must_cuda(driver.fill(address, 0, inf_input_room(*req, i), places[at].stream), "zeroing the input");
	}
	must_cuda(driver.stream_synchronize(places[at].stream), "zeroing the input");
}

static void begin(unsigned int at)
{
	must(inf_request_commit(places[at].req, places[at].stream), "inf_request_commit");
	must(inf_submit(places[at].req), "inf_submit");
	must(inf_wait_stream(places[at].req, places[at].stream), "inf_wait_stream");
}

static void end(unsigned int at)
{
	CUresult result;

	while ((result = driver.stream_query(places[at].stream)) == CUDA_ERROR_NOT_READY)
		inf_pause();
	must_cuda(result, "the stream");
	must(inf_wait(places[at].req, INF_FOREVER), "inf_wait");
	must(inf_request_status(places[at].req) == INF_OK ? 0 : EIO, inf_status_text(inf_request_status(places[at].req)));
}

int main(int argc, char **argv)
{
	struct rounds rounds = { .begin = begin, .end = end };
	struct inf_model *model;
	int r;

	if (argc != 5)
		return 2;
	rounds.rows = strtoul(argv[3], NULL, 10);
	rounds.n_places = (unsigned int)strtoul(argv[4], NULL, 10);
	if (!rounds.n_places || rounds.n_places > PLACES_MAX || !rounds.rows)
		return 2;
	model = open_model(argv[1], argv[2], (uint32_t)rounds.rows * rounds.n_places);
	for (unsigned int i = 0; i < rounds.n_places; i++)
		open_place(model, (uint32_t)rounds.rows, i);
	r = rounds_serve(&rounds);
	for (unsigned int i = 0; i < rounds.n_places; i++) {
		inf_request_give(places[i].req);
		driver.stream_destroy(places[i].stream);
	}
	inf_close(client);
	return r;
}
