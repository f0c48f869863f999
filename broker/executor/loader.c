/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader.c - a model is ready when every batch size that it will meet has run, and its time is known.
 *
 * LOADING is said before the file is opened: a file that kills its loader is then known by name. Warm-up runs the model on
 * zeros (or the lowest value of a declared range) for each size 1, 2, 4, ... and the largest, compares what comes out with the
 * signature, and measures t[b]: the median of as many runs as fit a small budget. The loader runs models under an instance
 * number of its own, so it never meets an instance thread in a backend.
 *
 * While it measures, the other cores run the same batches (companions): caches and memory are shared, and a batch size that is
 * best alone (+10 % for 4 images of EfficientNet-Lite0 here) may be the worse one when all instances work (-15 %). Companions
 * use the numbers of instances, which this model, not being ready, has not met.
 */
#define _GNU_SOURCE 1
#include "broker/executor/loader.h"
#include "broker/executor/assemble.h"
#include "broker/executor/describe.h"
#include "broker/executor/flight.h"
#include "broker/executor/graphs.h"
#include "broker/executor/instance.h"
#include "broker/executor/models.h"
#include "broker/executor/rows.h"
#include "broker/executor/warm.h"
#include "shm/signature.h"
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define WARM_RUNS 2u		   /* per size: torch specialises a graph in its first two runs */
#define MEASURED_RUNS_MAX 9u
#define MEASURE_NS_MAX 400000000ull /* per size */
#define COMPANY_NS_MIN 20000u	   /* shorter runs share little */
#define COMPANION_NICE 10	   /* models that are served go first */
#define SIDECAR_BYTES_MAX (1 << 20)

static struct {
	pthread_mutex_t lock;
	pthread_cond_t filled;
	struct inf_ctl_load queue[EXECUTOR_MODELS_MAX];
	uint32_t n;
} loads = { .lock = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER };

/* --- device memory --------------------------------------------------------------------------------------------- */

/* `idx` counts flights, over all instances. */
static struct flight *flight_at(const struct executor *executor, uint32_t idx)
{
	return &executor->instances[idx / INSTANCE_FLIGHTS]->flights[idx % INSTANCE_FLIGHTS];
}

/* As in graphs.h: each flight on each track, and last our own. */
static uint32_t our_place(const struct executor *executor)
{
	return executor->n_instances * INSTANCE_FLIGHTS * TRACKS;
}

/* What models have of it: what their backends hold, and memory for batches, which all of them share. */
static uint64_t model_bytes(const struct executor *executor)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < executor->n_backends; i++)
		if (executor->backends[i]->device_bytes)
			bytes += executor->backends[i]->device_bytes();
	for (uint32_t i = 0; i < executor->n_instances * INSTANCE_FLIGHTS; i++)
		bytes += flight_at(executor, i)->largest_in_bytes + flight_at(executor, i)->largest_out_bytes;
	return bytes;
}

/* Is there room for so many more? */
static int check_room(const struct executor *executor, uint64_t bytes, char *error, size_t error_bytes)
{
	uint64_t used = model_bytes(executor), max = executor->options.device_model_bytes;

	if (!max || used + bytes <= max)
		return 0;
	snprintf(error, error_bytes, "it needs %llu bytes on %s, where models have %llu of %llu (--device-model-memory)",
		 (unsigned long long)bytes, executor->device->name, (unsigned long long)used, (unsigned long long)max);
	return -ENOMEM;
}

/* --- warm-up ----------------------------------------------------------------------------------------------------- */

static void fill(void *data, const struct inf_tensor_spec *spec, uint64_t bytes)
{
	uint64_t n = bytes / inf_dtype_size(spec->dtype);
	bool zero_is_good = !(spec->flags & INF_SPEC_RANGE) || (spec->value_min <= 0 && spec->value_max >= 0);

	memset(data, 0, bytes);
	for (uint64_t i = 0; !zero_is_good && i < n; i++)
		memcpy((uint8_t *)data + i * inf_dtype_size(spec->dtype), &spec->value_min, inf_dtype_size(spec->dtype));
}

/* Inputs of `rows` rows at their largest shapes; one block, freed by the caller. */
static uint8_t *make_inputs(const struct inf_signature *sig, uint32_t rows, struct inf_backend_tensor *inputs)
{
	uint8_t *block = aligned_alloc(4096, (inf_input_bytes(sig, rows) + 8191) & ~4095ull);
	uint64_t at = 0;

	for (uint32_t i = 0; block && i < sig->n_inputs; i++) {
		const struct inf_tensor_spec *spec = &sig->inputs[i];

		inputs[i] = (struct inf_backend_tensor){ .data = block + at };
		rows_set_largest(&inputs[i], spec, rows);
		fill(inputs[i].data, spec, inputs[i].bytes);
		at += inf_align64(inputs[i].bytes);
	}
	return block;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

struct companion {
	pthread_t thread;
	const struct loaded_model *model;
	uint32_t instance, rows;
	const uint32_t *stop; /* atomic */
};

static int run_once(const struct loaded_model *model, uint32_t instance, uint32_t rows,
		    const struct inf_backend_tensor *inputs, char *error, size_t error_bytes)
{
	struct inf_backend_tensor outputs[INF_OUTPUTS_MAX] = { 0 };
	const struct inf_signature *sig = &model->signature;
	int r = model->ops->run(model->handle, instance, rows, inputs, sig->n_inputs, outputs, sig->n_outputs, error,
				error_bytes);

	if (!r && assemble_check_outputs(sig, rows, outputs, error, error_bytes))
		r = -EINVAL;
	model->ops->done(model->handle, instance);
	return r;
}

static void *accompany(void *arg)
{
	const struct companion *companion = arg;
	struct inf_backend_tensor inputs[INF_INPUTS_MAX];
	uint8_t *block = make_inputs(&companion->model->signature, companion->rows, inputs);
	char error[INF_BACKEND_ERROR_BYTES];
	int r = block ? 0 : -ENOMEM;

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), COMPANION_NICE);
	if (companion->model->ops->thread_begin)
		companion->model->ops->thread_begin(companion->instance);
	while (!r && !__atomic_load_n(companion->stop, __ATOMIC_RELAXED))
		r = run_once(companion->model, companion->instance, companion->rows, inputs, error, sizeof(error));
	free(block);
	return NULL;
}

/* One for each instance but one: the loader stands for that. Returns how many there are. */
static uint32_t company_begin(struct companion *company, const struct loaded_model *model, uint32_t n_instances, uint32_t rows,
			      const uint32_t *stop)
{
	uint32_t n = 0;

	for (; n + 1 < n_instances; n++) {
		company[n] = (struct companion){ .model = model, .instance = n, .rows = rows, .stop = stop };
		if (pthread_create(&company[n].thread, NULL, accompany, &company[n]))
			break;
	}
	return n;
}

/* Warms one size up and measures it. On a device: the model alone, as copies overlap with the batches beside. */
static int measure(const struct executor *executor, const struct loaded_model *model, uint32_t rows, uint64_t *ret_ns,
		   char *error, size_t error_bytes)
{
	uint32_t instance = executor->n_instances, place = our_place(executor);
	struct inf_backend_tensor inputs[INF_INPUTS_MAX];
	uint8_t *block = make_inputs(&model->signature, rows, inputs);
	uint64_t took[MEASURED_RUNS_MAX], begin_ns = assemble_now_ns();
	struct companion company[INF_INSTANCES];
	uint32_t n = 0, n_company = 0, stop = 0;
	struct warm warm;
	int r = block ? 0 : -ENOMEM;

	if (r)
		snprintf(error, error_bytes, "no memory to warm up %u rows", rows);
	if (!r && executor->device)
		r = check_room(executor, warm_bytes(&model->signature, rows), error, error_bytes);
	if (!r && executor->device)
		r = warm_open(&warm, executor->device, &model->signature, rows, inputs, error, error_bytes);
	if (r) {
		free(block);
		return r;
	}
	for (uint32_t i = 0; !r && n < MEASURED_RUNS_MAX; i++) {
		uint64_t run_ns = assemble_now_ns();

		r = executor->device ? warm_run(&warm, model, instance, place, error, error_bytes)
				     : run_once(model, instance, rows, inputs, error, error_bytes);
		if (!executor->device && i + 1 == WARM_RUNS && assemble_now_ns() - run_ns > COMPANY_NS_MIN)
			n_company = company_begin(company, model, instance, rows, &stop);
		if (i < WARM_RUNS)
			continue;
		took[n++] = assemble_now_ns() - run_ns;
		if (n >= 3 && assemble_now_ns() - begin_ns > MEASURE_NS_MAX)
			break;
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < n_company; i++)
		pthread_join(company[i].thread, NULL);
	free(block);
	graphs_forget(model->graphs, place);
	if (executor->device)
		warm_close(&warm);
	if (r)
		return r;
	qsort(took, n, sizeof(took[0]), compare);
	*ret_ns = took[n / 2] ? took[n / 2] : 1;
	return 0;
}

static int warm_up(struct executor *executor, struct loaded_model *model, uint64_t time_ns[INF_CTL_BUCKETS], char *error,
		   size_t error_bytes)
{
	uint64_t ignored;

	for (uint32_t i = 0; i < executor->n_backends; i++)
		if (executor->backends[i] == model->ops && model->ops->thread_begin)
			model->ops->thread_begin(executor->n_instances);
	for (uint32_t i = 0; i < INF_CTL_BUCKETS && 1u << i <= model->signature.batch_max; i++) {
		int r = measure(executor, model, 1u << i, &time_ns[i], error, error_bytes);

		if (r)
			return r;
		if (executor->options.verbose)
			executor_log("%s: %u rows take %.3f ms", model->signature.name, 1u << i, (double)time_ns[i] / 1e6);
	}
	if (model->signature.batch_max & (model->signature.batch_max - 1))
		return measure(executor, model, model->signature.batch_max, &ignored, error, error_bytes);
	return 0;
}

/* --- load ---------------------------------------------------------------------------------------------------------- */

static char *read_sidecar(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = file ? calloc(1, SIDECAR_BYTES_MAX + 1) : NULL;

	if (text && !fread(text, 1, SIDECAR_BYTES_MAX, file)) {
		free(text);
		text = NULL;
	}
	if (file)
		fclose(file);
	return text;
}

static int describe(struct loaded_model *model, const struct inf_ctl_load *load, const char *sidecar, char *error,
		    size_t error_bytes)
{
	const char *json = NULL;
	char *text = NULL;
	int r = model->ops->describe(model->handle, &model->signature, &json);

	if (r == -ENOENT && (text = read_sidecar(sidecar))) {
		json = text;
		r = 0;
	}
	if (r)
		snprintf(error, error_bytes, "no description: neither infbroker.json in the archive nor NAME.json beside the file");
	else if (json)
		r = describe_parse(json, load->name, load->version, &model->signature, error, error_bytes);
	else
		model->signature.hash = inf_signature_hash(&model->signature);
	free(text);
	return r;
}

static void set_row_bytes(struct loaded_model *model)
{
	model->declared = true;
	for (uint32_t i = 0; i < model->signature.n_inputs; i++)
		model->row_bytes[i] = inf_spec_row_bytes(&model->signature.inputs[i]);
	for (uint32_t k = 0; k < model->signature.n_outputs; k++) {
		model->out_row_bytes[k] = inf_spec_row_bytes(&model->signature.outputs[k]);
		model->declared &= inf_spec_is_fixed(&model->signature.outputs[k]);
	}
}

/* On a device: memory for its batches now, so that none fails for want of it later. */
static int reserve(struct executor *executor, const struct loaded_model *model, char *error, size_t error_bytes)
{
	uint32_t n_flights = executor->n_instances * INSTANCE_FLIGHTS;
	uint64_t bytes = 0;
	int r;

	if (!executor->device)
		return 0;
	for (uint32_t i = 0; i < n_flights; i++)
		bytes += flight_lacks(flight_at(executor, i), &model->signature);
	r = check_room(executor, bytes, error, error_bytes);
	for (uint32_t i = 0; !r && i < n_flights; i++)
		r = flight_reserve(flight_at(executor, i), &model->signature, error, error_bytes);
	return r;
}

/* On a device: its runs are recorded, where that can be. */
static void allow_recording(struct executor *executor, struct loaded_model *model)
{
	char why[INF_BACKEND_ERROR_BYTES];

	if (!executor->device || executor->options.no_graphs)
		return;
	model->graphs = graphs_new(executor->device, model, our_place(executor) + 1, why, sizeof(why));
	if (!model->graphs && executor->options.verbose)
		executor_log("%s: runs call by call, not as CUDA graphs: %s", model->signature.name, why);
}

static struct loaded_model *free_model(struct loaded_model *model)
{
	if (model)
		graphs_free(model->graphs);
	if (model && model->handle)
		model->ops->unload(model->handle);
	free(model);
	return NULL;
}

/* NULL with an error, or a model that is warm; *loaded is filled in. */
static struct loaded_model *load_model(struct executor *executor, const struct inf_ctl_load *load,
				       struct inf_ctl_loaded *loaded, char *error, size_t error_bytes)
{
	char path[PATH_BYTES], sidecar[PATH_BYTES];
	struct loaded_model *model = calloc(1, sizeof(*model));
	struct inf_backend_source source = { .size = sizeof(source), .name = load->name, .path = path };
	uint64_t had = executor->device ? model_bytes(executor) : 0, has;

	if (!model)
		return NULL;
	if (models_locate(executor, load->name, load->version, path, sidecar, sizeof(path), &model->ops)) {
		snprintf(error, error_bytes, "its file is gone");
		return free_model(model);
	}
	if (!model->ops) {
		snprintf(error, error_bytes, "no backend serves this file: is the torch plug-in installed?");
		return free_model(model);
	}
	if (!path[0])
		source.path = NULL;
	if (model->ops->load(&source, &model->handle, error, error_bytes) ||
	    describe(model, load, sidecar, error, error_bytes))
		return free_model(model);
	set_row_bytes(model);
	allow_recording(executor, model);
	if (warm_up(executor, model, loaded->time_ns, error, error_bytes) || reserve(executor, model, error, error_bytes))
		return free_model(model);
	/* What the largest batches used is in this thread's arena, where no instance would find it. The
	 * instances' own free pages go as well: once, and a load is rare. */
	malloc_trim(0);
	model->in_place = !executor->device && model->ops->in_place && model->ops->in_place(model->handle);
	loaded->in_place = model->in_place;
	has = executor->device ? model_bytes(executor) : 0;
	loaded->device_bytes = has > had ? has - had : 0; /* libraries may have given back what they cached */
	loaded->signature = model->signature;
	return model;
}

static void load_one(struct executor *executor, const struct inf_ctl_load *load)
{
	struct inf_ctl_loading loading;
	struct inf_ctl_loaded loaded;
	struct inf_ctl_failed failed;
	struct loaded_model *model;

	inf_ctl_init(&loading, INF_CTL_LOADING, 0);
	inf_ctl_init(&loaded, INF_CTL_LOADED, 0);
	inf_ctl_init(&failed, INF_CTL_FAILED, 0);
	loading.model = loaded.model = failed.model = load->model;
	executor_send(executor, &loading);
	model = load_model(executor, load, &loaded, failed.text, sizeof(failed.text));
	if (!model) {
		failed.error = -EINVAL;
		executor_send(executor, &failed);
		return;
	}
	/* Release: pairs with the acquire of the instance threads. */
	__atomic_store_n(&executor->models[load->model], model, __ATOMIC_RELEASE);
	executor_send(executor, &loaded);
}

static void *loader_main(void *arg)
{
	const struct executor *executor = arg;

	if (executor->device)
		device_enter(executor->device);
	for (;;) {
		struct inf_ctl_load load;

		pthread_mutex_lock(&loads.lock);
		while (!loads.n)
			pthread_cond_wait(&loads.filled, &loads.lock);
		load = loads.queue[0];
		loads.n--;
		memmove(&loads.queue[0], &loads.queue[1], loads.n * sizeof(loads.queue[0]));
		pthread_mutex_unlock(&loads.lock);
		load_one(arg, &load);
	}
	return NULL;
}

void loader_push(const struct inf_ctl_load *load)
{
	pthread_mutex_lock(&loads.lock);
	if (loads.n < EXECUTOR_MODELS_MAX && load->model < EXECUTOR_MODELS_MAX)
		loads.queue[loads.n++] = *load;
	pthread_cond_signal(&loads.filled);
	pthread_mutex_unlock(&loads.lock);
}

void loader_unload(struct executor *executor, uint32_t model)
{
	if (model < EXECUTOR_MODELS_MAX)
		free_model(__atomic_exchange_n(&executor->models[model], NULL, __ATOMIC_ACQ_REL));
}

int loader_start(struct executor *executor)
{
	pthread_t thread;
	int r = pthread_create(&thread, NULL, loader_main, executor);

	if (!r)
		pthread_setname_np(thread, "inf-loader");
	return -r;
}
