/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_loop.c - the floor of a broker on a device: the same backend, the same model, recorded as CUDA graphs where the broker
 * does so, in one process without a broker.
 *
 * Usage: device_loop builtin|PLUGIN.so MODEL|FILE ROWS host|device|cpu PLACES
 *	host: each batch comes from pinned memory and its results go there; three streams overlap. device: it lies on the
 *	device already, and stays. cpu: as host, where models run on the CPU (a rehearsal). PLACES batches are under way.
 * The rest is rounds.h.
 */
#define _GNU_SOURCE 1
#include "broker/backends/builtin/builtin.h"
#include "broker/executor/describe.h"
#include "broker/executor/device.h"
#include "broker/executor/graphs.h"
#include "broker/executor/rows.h"
#include "shm/atomics.h"
#include "shm/signature.h"
#include "tests/gpu/rounds.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

enum where { HOST, DEVICE, CPU };

struct place {
	struct inf_backend_tensor inputs[INF_INPUTS_MAX], outputs[INF_OUTPUTS_MAX]; /* where the model reads and writes */
	uint8_t *host_in, *host_out;						    /* pinned */
	CUdeviceptr memory;
	CUevent copied_in, computed, done;
};

static struct device device;
static const struct inf_backend_ops *ops;
static struct inf_backend_model *model;
static struct inf_signature signature;
static struct loaded_model loaded; /* as the executor has it */
static uint32_t rows;
static enum where where;
static CUstream in, compute, out;
static struct place places[PLACES_MAX];

static void __attribute__((noreturn)) give_up(const char *what, const char *why)
{
	fprintf(stderr, "device_loop: %s: %s\n", what, why);
	exit(1);
}

static void must(CUresult result, const char *what)
{
	if (result)
		give_up(what, inf_driver_error(&device.driver, result));
}

#define MUST(call) must(device.driver.call, #call)

/* --- what is run -------------------------------------------------------------------------------------------------- */

static const struct inf_backend_ops *open_plugin(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	inf_backend_entry_fn entry = NULL;

	if (handle)
		*(void **)&entry = dlsym(handle, INF_BACKEND_ENTRY);
	if (!entry)
		give_up(path, dlerror());
	return entry();
}

static void open_model(const char *plugin, const char *file)
{
	bool is_builtin = !strcmp(plugin, "builtin");
	struct inf_backend_host host = { .size = sizeof(host), .n_instances = 1, .n_threads = 1,
					 .device = where == CPU ? NULL : &device.backend };
	struct inf_backend_source source = { .size = sizeof(source), .name = is_builtin ? file : "floor", .path = is_builtin ? NULL : file };
	char error[INF_BACKEND_ERROR_BYTES] = "no description";
	const char *json = NULL;

	ops = is_builtin ? inf_backend_builtin() : open_plugin(plugin);
	if ((ops->init && ops->init(&host, error, sizeof(error))) || ops->load(&source, &model, error, sizeof(error)) ||
	    ops->describe(model, &signature, &json) ||
	    (json && describe_parse(json, source.name, 1, &signature, error, sizeof(error))))
		give_up(file, error);
	if (ops->thread_begin)
		ops->thread_begin(0);
	if (rows > signature.batch_max)
		give_up(file, "it takes fewer rows");
	loaded = (struct loaded_model){ .ops = ops, .handle = model, .signature = signature, .declared = true };
	for (uint32_t k = 0; k < signature.n_outputs; k++)
		loaded.declared &= inf_spec_is_fixed(&signature.outputs[k]);
	if (where != CPU)
		loaded.graphs = graphs_new(&device, &loaded, PLACES_MAX, error, sizeof(error));
}

/* --- memory --------------------------------------------------------------------------------------------------------- */

static uint64_t lay_out(struct inf_backend_tensor *tensors, const struct inf_tensor_spec *specs, uint32_t n, uint64_t base)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < n; i++) {
		tensors[i].data = (void *)(uintptr_t)(base + at);
		rows_set_largest(&tensors[i], &specs[i], rows);
		at += device_align(tensors[i].bytes);
	}
	return at;
}

static uint8_t *zeroed(uint64_t bytes)
{
	void *memory = NULL;

	if (where == CPU)
		memory = aligned_alloc(DEVICE_ALIGN, device_align(bytes));
	else
		MUST(host_alloc(&memory, bytes));
	if (!memory)
		give_up("memory", "there is none");
	memset(memory, 0, bytes);
	return memory;
}

static void open_place(struct place *place)
{
	uint64_t in_bytes = lay_out(place->inputs, signature.inputs, signature.n_inputs, 0);
	uint64_t out_bytes = lay_out(place->outputs, signature.outputs, signature.n_outputs, 0);

	place->host_in = zeroed(in_bytes);
	place->host_out = zeroed(out_bytes);
	if (where == CPU) {
		lay_out(place->inputs, signature.inputs, signature.n_inputs, (uintptr_t)place->host_in);
		return;
	}
	MUST(mem_alloc(&place->memory, in_bytes + out_bytes));
	MUST(fill(place->memory, 0, in_bytes + out_bytes, compute));
	MUST(stream_synchronize(compute));
	lay_out(place->inputs, signature.inputs, signature.n_inputs, place->memory);
	lay_out(place->outputs, signature.outputs, signature.n_outputs, place->memory + in_bytes);
	MUST(event_create(&place->copied_in, CU_EVENT_DISABLE_TIMING));
	MUST(event_create(&place->computed, CU_EVENT_DISABLE_TIMING));
	MUST(event_create(&place->done, CU_EVENT_DISABLE_TIMING));
}

static void close_place(struct place *place)
{
	if (where == CPU) {
		free(place->host_in);
		free(place->host_out);
		return;
	}
	MUST(event_destroy(place->copied_in));
	MUST(event_destroy(place->computed));
	MUST(event_destroy(place->done));
	MUST(mem_free(place->memory));
	MUST(host_free(place->host_in));
	MUST(host_free(place->host_out));
}

/* --- a batch -------------------------------------------------------------------------------------------------------- */

static void run_model(struct place *place)
{
	char error[INF_BACKEND_ERROR_BYTES] = "";
	struct model_run run = {
		.model = &loaded,
		.rows = rows,
		.stream = compute,
		.inputs = place->inputs,
		.outputs = place->outputs,
		.error = error,
		.error_bytes = sizeof(error),
	};
	int r;

	if (where == CPU) {
		r = ops->run(model, 0, rows, place->inputs, signature.n_inputs, place->outputs, signature.n_outputs, error, sizeof(error));
		ops->done(model, 0);
	} else {
		r = graphs_run(&run, (uint32_t)(place - places), 1);
	}
	if (r)
		give_up("the model", error);
}

/* To or from pinned memory, as the tensors lie one after the other. */
static void copy_in(const struct place *place)
{
	for (uint32_t i = 0; i < signature.n_inputs; i++) {
		CUdeviceptr to = (uintptr_t)place->inputs[i].data;

		MUST(copy_in(to, place->host_in + (to - place->memory), place->inputs[i].bytes, in));
	}
	MUST(event_record(place->copied_in, in));
	MUST(stream_wait_event(compute, place->copied_in, 0));
}

static void copy_out(const struct place *place)
{
	MUST(event_record(place->computed, compute));
	MUST(stream_wait_event(out, place->computed, 0));
	for (uint32_t k = 0; k < signature.n_outputs; k++) {
		CUdeviceptr from = (uintptr_t)place->outputs[k].data;

		MUST(copy_out(place->host_out + (from - (uintptr_t)place->outputs[0].data), from, place->outputs[k].bytes, out));
	}
}

static void begin(unsigned int at)
{
	struct place *place = &places[at];

	if (where == HOST)
		copy_in(place);
	run_model(place);
	if (where == HOST)
		copy_out(place);
	if (where != CPU)
		MUST(event_record(place->done, where == HOST ? out : compute));
}

static void end(unsigned int at)
{
	CUresult result = CUDA_ERROR_NOT_READY;

	while (where != CPU && (result = device.driver.event_query(places[at].done)) == CUDA_ERROR_NOT_READY)
		inf_pause();
	if (where != CPU)
		must(result, "running");
}

int main(int argc, char **argv)
{
	struct rounds rounds = { .begin = begin, .end = end };
	char text[INF_DRIVER_TEXT_BYTES] = "";
	int r;

	if (argc != 6)
		return 2;
	rows = (uint32_t)strtoul(argv[3], NULL, 10);
	where = !strcmp(argv[4], "host") ? HOST : !strcmp(argv[4], "device") ? DEVICE : CPU;
	rounds.n_places = (unsigned int)strtoul(argv[5], NULL, 10);
	rounds.rows = rows;
	if (!rounds.n_places || rounds.n_places > PLACES_MAX || !rows)
		return 2;
	if (where != CPU && device_open(&device, "cuda:0", text))
		give_up("cuda:0", text);
	open_model(argv[1], argv[2]);
	if (where != CPU) {
		MUST(stream_create(&in, CU_STREAM_NON_BLOCKING, 0));
		MUST(stream_create(&compute, CU_STREAM_NON_BLOCKING, 0));
		MUST(stream_create(&out, CU_STREAM_NON_BLOCKING, 0));
	}
	for (unsigned int i = 0; i < rounds.n_places; i++)
		open_place(&places[i]);
	r = rounds_serve(&rounds);
	graphs_free(loaded.graphs);
	for (unsigned int i = 0; i < rounds.n_places; i++)
		close_place(&places[i]);
	ops->unload(model);
	return r;
}
