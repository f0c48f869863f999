/* SPDX-License-Identifier: Apache-2.0 */
/* flight.c - see flight.h. Hot file. */
#define _GNU_SOURCE 1
#include "broker/executor/flight.h"
#include "broker/executor/assemble.h"
#include "broker/executor/graphs.h"
#include "broker/executor/regions.h"
#include "broker/executor/rows.h"
#include "shm/atomics.h"
#include "shm/signature.h"
#include <errno.h>
#include <linux/futex.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OK(call, what) device_ok(flight->device, flight->device->driver.call, what)

/* --- memory ------------------------------------------------------------------------------------------------ */

static void memory_free(const struct device *device, struct flight_memory *memory)
{
	if (!memory)
		return;
	if (memory->device)
		device_ok(device, device->driver.mem_free(memory->device), "freeing device memory");
	if (memory->host)
		device_ok(device, device->driver.host_free(memory->host), "freeing pinned memory");
	free(memory);
}

static struct flight_memory *memory_new(const struct device *device, uint64_t in_bytes, uint64_t out_bytes)
{
	struct flight_memory *memory = calloc(1, sizeof(*memory));
	uint64_t bytes = in_bytes + out_bytes;
	void *host = NULL;

	if (!memory)
		return NULL;
	memory->in_bytes = in_bytes;
	memory->out_bytes = out_bytes;
	if (!bytes)
		return memory;
	if (device_ok(device, device->driver.mem_alloc(&memory->device, bytes), "device memory for batches") &&
	    device_ok(device, device->driver.host_alloc(&host, bytes), "pinned memory for batches")) {
		memory->host = host;
		return memory;
	}
	memory_free(device, memory);
	return NULL;
}

uint64_t flight_bytes(const struct inf_tensor_spec *specs, uint32_t n, uint32_t rows)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < n; i++)
		bytes += device_align(rows * inf_spec_row_bytes(&specs[i]));
	return bytes;
}

/* The largest there is or would be; only the loader offers. */
static void sizes_with(const struct flight *flight, const struct inf_signature *signature, uint64_t *ret_in, uint64_t *ret_out)
{
	*ret_in = flight_bytes(signature->inputs, signature->n_inputs, signature->batch_max);
	*ret_out = flight_bytes(signature->outputs, signature->n_outputs, signature->batch_max);
	if (*ret_in < flight->largest_in_bytes)
		*ret_in = flight->largest_in_bytes;
	if (*ret_out < flight->largest_out_bytes)
		*ret_out = flight->largest_out_bytes;
}

uint64_t flight_lacks(const struct flight *flight, const struct inf_signature *signature)
{
	uint64_t in_bytes, out_bytes;

	sizes_with(flight, signature, &in_bytes, &out_bytes);
	return in_bytes + out_bytes - flight->largest_in_bytes - flight->largest_out_bytes;
}

int flight_reserve(struct flight *flight, const struct inf_signature *signature, char *text, size_t text_bytes)
{
	struct flight_memory *memory;
	uint64_t in_bytes, out_bytes;

	sizes_with(flight, signature, &in_bytes, &out_bytes);
	if (in_bytes == flight->largest_in_bytes && out_bytes == flight->largest_out_bytes)
		return 0;
	memory = memory_new(flight->device, in_bytes, out_bytes);
	if (!memory) {
		snprintf(text, text_bytes, "out of memory: a batch of %u rows needs %llu bytes on %s and as many pinned",
			 signature->batch_max, (unsigned long long)(in_bytes + out_bytes), flight->device->name);
		return -ENOMEM;
	}
	flight->largest_in_bytes = in_bytes;
	flight->largest_out_bytes = out_bytes;
	/* Release: pairs with the acquire in take_offer(). One that was not taken yet is smaller. */
	memory_free(flight->device, __atomic_exchange_n(&flight->offered, memory, __ATOMIC_ACQ_REL));
	return 0;
}

/* Between two batches: nothing of ours is on the device. */
static void take_offer(struct flight *flight)
{
	struct flight_memory *memory = __atomic_exchange_n(&flight->offered, NULL, __ATOMIC_ACQUIRE);

	if (!memory)
		return;
	memory_free(flight->device, flight->memory);
	flight->memory = memory;
	flight->n_memories++;
}

/* --- in -------------------------------------------------------------------------------------------------------- */

/* Bytes [begin, end) of our pinned memory that wait to be copied in together. */
struct run {
	uint64_t begin, end;
};

static bool flush(const struct flight *flight, struct run *run)
{
	uint64_t begin = run->begin, bytes = run->end - begin;

	run->begin = run->end = 0;
	return !bytes || OK(copy_in(flight->memory->device + begin, flight->memory->host + begin, bytes, flight->tracks->in),
			    "copying rows in");
}

/* One input of an entry to offset `at`. `*run` are rows before it that wait. */
static uint16_t copy_input(struct flight *flight, const struct inf_batch_entry *entry, uint32_t i, uint64_t at, struct run *run)
{
	const struct loaded_model *model = flight->model;
	const struct inf_tensor_spec *spec = &model->signature.inputs[i];
	const struct inf_ext_tensor *ext;
	const void *from = rows_input_at(&flight->batch, entry, model, i, &ext);
	bool whole = ext && !(model->signature.flags & INF_SIG_BATCHABLE);
	uint64_t bytes = whole ? ext->length : entry->n_rows * model->row_bytes[i];

	if (!from)
		return INF_MODEL_ERROR;
	if (whole)
		rows_set_shape(&flight->inputs[i], spec, 1, ext);
	if (rows_is_in_twin(entry, i)) {
		moves_add(&flight->moves_in, flight->memory->device + at, (CUdeviceptr)(uintptr_t)from, bytes);
		return INF_OK;
	}
	if (bytes >= flight->device->direct_bytes_min && !rows_is_judged(spec) &&
	    regions_are_pinned(entry->session, ext ? ext->region : entry->in_region)) {
		bool is_good = flush(flight, run) &&
			       OK(copy_in(flight->memory->device + at, from, bytes, flight->tracks->in), "copying a row in");

		return is_good ? INF_OK : INF_MODEL_ERROR;
	}
	memcpy(flight->memory->host + at, from, bytes);
	if (!rows_are_allowed(flight->memory->host + at, spec, bytes))
		return INF_BAD_RANGE;
	if (run->end != at && !flush(flight, run))
		return INF_MODEL_ERROR;
	if (run->end != at)
		run->begin = at;
	run->end = at + bytes;
	return INF_OK;
}

/* Where everything of a batch of up to `rows` rows lies: always the same for the same model, rows and memory. */
static bool lay_out(struct flight *flight, uint32_t rows)
{
	const struct inf_signature *sig = &flight->model->signature;
	uint64_t at = 0;

	if (!flight->memory || flight_bytes(sig->inputs, sig->n_inputs, rows) > flight->memory->in_bytes ||
	    flight_bytes(sig->outputs, sig->n_outputs, rows) > flight->memory->out_bytes)
		return false;
	for (uint32_t i = 0; i < sig->n_inputs; i++) {
		flight->in_at[i] = at;
		at += device_align(rows * flight->model->row_bytes[i]);
		flight->inputs[i].data = (void *)(uintptr_t)(flight->memory->device + flight->in_at[i]);
		rows_set_shape(&flight->inputs[i], &sig->inputs[i], 1, NULL);
	}
	flight->rows_laid_out = rows;
	at = flight->memory->in_bytes;
	for (uint32_t k = 0; k < sig->n_outputs; k++) {
		flight->out_at[k] = at;
		at += device_align(rows * flight->model->out_row_bytes[k]);
		flight->outputs[k].data = (void *)(uintptr_t)(flight->memory->device + flight->out_at[k]);
	}
	return true;
}

/* Queues the judging of an input that was copied from its client's device memory to `at`. */
static bool judge(struct flight *flight, uint32_t e, uint32_t i, uint64_t at)
{
	const struct inf_batch_entry *entry = &flight->batch.entries[e];
	const struct inf_tensor_spec *spec = &flight->model->signature.inputs[i];
	CUdeviceptr verdict = flight->verdicts + e * sizeof(uint32_t);
	uint64_t bytes = flight->model->signature.flags & INF_SIG_BATCHABLE ? entry->n_rows * flight->model->row_bytes[i] :
									      flight->inputs[i].bytes;

	if (!flight->is_judged && !OK(fill(flight->verdicts, 0, INF_BATCH_MAX * sizeof(uint32_t), flight->tracks->in), "judging"))
		return false;
	flight->is_judged = true;
	return device_ok(flight->device,
			 device_judge(flight->device, spec, flight->memory->device + at, bytes, verdict, i + 1u, flight->tracks->in),
			 "judging");
}

/* Of the entries that are on the way. What lies in host memory was judged before it was copied. */
static bool judge_twins(struct flight *flight, uint32_t first, uint32_t n)
{
	uint32_t row = 0;

	flight->is_judged = false;
	for (uint32_t e = first; e < first + n; e++) {
		const struct inf_batch_entry *entry = &flight->batch.entries[e];

		if (flight->batch.ends[e].status != INF_OK)
			continue;
		for (uint32_t i = 0; i < flight->model->signature.n_inputs; i++)
			if (rows_is_in_twin(entry, i) && rows_is_judged(&flight->model->signature.inputs[i]) &&
			    !judge(flight, e, i, flight->in_at[i] + row * flight->model->row_bytes[i]))
				return false;
		row += entry->n_rows;
	}
	return !flight->is_judged || OK(copy_out(flight->found_verdicts, flight->verdicts, INF_BATCH_MAX * sizeof(uint32_t),
						 flight->tracks->in),
					"judging");
}

/*
 * Rows of entries [first, first + n) one behind the other; those that are not OK are left out, and overwritten by the next
 * one. What goes through our memory waits until its neighbours are there too: one run of bytes per input.
 */
static bool gather(struct flight *flight, uint32_t first, uint32_t n)
{
	struct batch *batch = &flight->batch;
	uint32_t n_inputs = flight->model->signature.n_inputs;
	struct run runs[INF_INPUTS_MAX] = { 0 };

	flight->n_rows = 0;
	flight->moves_in.n = 0;
	for (uint32_t e = first; e < first + n; e++) {
		struct inf_row_end *end = &batch->ends[e];
		struct run before[INF_INPUTS_MAX];
		uint32_t n_moves = flight->moves_in.n;

		memcpy(before, runs, sizeof(before));
		end->status = INF_OK;
		for (uint32_t i = 0; i < n_inputs && end->status == INF_OK; i++) {
			end->detail = i;
			end->status = copy_input(flight, &batch->entries[e], i,
						 flight->in_at[i] + flight->n_rows * flight->model->row_bytes[i], &runs[i]);
		}
		if (end->status == INF_OK) {
			end->detail = 0;
			flight->n_rows += batch->entries[e].n_rows;
			continue;
		}
		/* What was taken of it must not be copied in over the rows that take its place, nor after them. */
		flight->moves_in.n = n_moves;
		for (uint32_t i = 0; i < n_inputs; i++)
			if (runs[i].begin == before[i].begin)
				runs[i].end = before[i].end;
			else
				runs[i] = (struct run){ 0 };
	}
	for (uint32_t i = 0; i < n_inputs; i++)
		if (!flush(flight, &runs[i]))
			return false;
	return moves_launch(&flight->moves_in, flight->device, flight->tracks->in) && judge_twins(flight, first, n);
}

/* --- out ------------------------------------------------------------------------------------------------------- */

static uint8_t *block_of(const struct flight *flight, const struct inf_batch_entry *entry)
{
	if (entry->out_length < inf_output_bytes(&flight->model->signature, entry->rows_total))
		return NULL;
	return regions_at(entry->session, entry->out_region, entry->out_offset, entry->out_length, true);
}

/* The same in its client's device memory, behind its inputs; 0 where results shall not go there. */
static CUdeviceptr twin_block_of(const struct flight *flight, const struct inf_batch_entry *entry)
{
	const struct inf_signature *sig = &flight->model->signature;
	uint64_t in_bytes = entry->flags & INF_ENTRY_EXT ? sig->n_inputs * sizeof(struct inf_ext_tensor) :
							   inf_input_bytes(sig, entry->rows_total);

	if (!(entry->flags & INF_ENTRY_TWIN_OUT))
		return 0;
	return (CUdeviceptr)(uintptr_t)regions_at(entry->session, entry->in_region | INF_TWIN_BIT,
						  entry->in_offset + inf_align64(in_bytes), inf_output_bytes(sig, entry->rows_total),
						  true);
}

/* Where rows [at, ...) of output k lie in a batch, where in an entry's block, and how many bytes. */
struct piece {
	uint64_t from, to, bytes;
};

static struct piece piece_of(const struct flight *flight, const struct inf_batch_entry *entry, uint32_t k, uint32_t at)
{
	const struct inf_signature *sig = &flight->model->signature;
	uint64_t row_bytes = flight->model->out_row_bytes[k];
	struct piece piece = { .from = flight->out_at[k], .to = inf_output_offset(sig, entry->rows_total, k) };

	if (!(sig->flags & INF_SIG_BATCHABLE)) {
		piece.bytes = flight->outputs[k].bytes;
		return piece;
	}
	piece.from += at * row_bytes;
	piece.to += entry->first_row * row_bytes;
	piece.bytes = entry->n_rows * row_bytes;
	return piece;
}

/* Results of output k to the output blocks, where the device reaches them, or to us. */
static bool copy_output(struct flight *flight, uint32_t first, uint32_t n, uint32_t k)
{
	struct run run = { 0 };
	uint32_t at = 0;

	for (uint32_t e = first; e < first + n; e++) {
		const struct inf_batch_entry *entry = &flight->batch.entries[e];
		struct piece piece = piece_of(flight, entry, k, at);
		uint8_t *block = block_of(flight, entry);
		CUdeviceptr twin = twin_block_of(flight, entry);

		if (flight->batch.ends[e].status != INF_OK)
			continue;
		at += entry->n_rows;
		if (twin && block) {
			flight->direct[e] |= (uint16_t)(1u << k);
			moves_add(&flight->moves_out, twin + piece.to, flight->memory->device + piece.from, piece.bytes);
			continue;
		}
		if (block && piece.bytes >= flight->device->direct_bytes_min && regions_are_pinned(entry->session, entry->out_region)) {
			flight->direct[e] |= (uint16_t)(1u << k);
			if (!OK(copy_out(block + piece.to, flight->memory->device + piece.from, piece.bytes, flight->tracks->out),
				"copying a result out"))
				return false;
			continue;
		}
		/* Several in one copy: the rows of those in between come along for nothing. */
		if (!run.end)
			run.begin = piece.from;
		run.end = piece.from + piece.bytes;
	}
	return run.end == run.begin ||
	       OK(copy_out(flight->memory->host + run.begin, flight->memory->device + run.begin, run.end - run.begin,
			   flight->tracks->out),
		  "copying results out");
}

_Static_assert(INF_OUTPUTS_MAX <= 16, "one bit for each in `direct`");

/* Behind the copies of the results: streams of clients that wait for them may go on. */
static bool signal_done(struct flight *flight, uint32_t first, uint32_t n)
{
	for (uint32_t e = first; e < first + n; e++) {
		const struct inf_batch_entry *entry = &flight->batch.entries[e];
		CUdeviceptr word = entry->timeline ? regions_done_word(entry->session, entry->timeline) : 0;

		if (word && flight->batch.ends[e].status == INF_OK &&
		    !OK(stream_write(flight->tracks->out, word, entry->done_at, CU_STREAM_WRITE_VALUE_DEFAULT),
			"telling a client's streams"))
			return false;
	}
	return true;
}

static void scatter(struct flight *flight, uint32_t first, uint32_t n)
{
	uint32_t at = 0;

	for (uint32_t e = first; e < first + n; e++) {
		const struct inf_batch_entry *entry = &flight->batch.entries[e];
		struct inf_row_end *end = &flight->batch.ends[e];
		uint8_t *block = block_of(flight, entry);

		if (end->status != INF_OK)
			continue;
		if (flight->is_judged && flight->found_verdicts[e]) {
			end->status = INF_BAD_RANGE;
			end->detail = flight->found_verdicts[e] - 1;
			at += entry->n_rows;
			continue;
		}
		if (!block || (entry->flags & INF_ENTRY_TWIN_OUT && !twin_block_of(flight, entry)))
			end->status = INF_MODEL_ERROR;
		if (block && !entry->first_row)
			rows_write_head(block, entry, flight->model, flight->outputs);
		for (uint32_t k = 0; block && k < flight->model->signature.n_outputs; k++) {
			struct piece piece = piece_of(flight, entry, k, at);

			if (!(flight->direct[e] & 1u << k))
				memcpy(block + piece.to, flight->memory->host + piece.from, piece.bytes);
		}
		at += entry->n_rows;
	}
}

/* --- a group of entries ---------------------------------------------------------------------------------- */

static void on_done(void *data)
{
	struct flight *flight = data;

	flight->end_ns = assemble_now_ns();
	/* Release: pairs with the acquire in flight_is_done(). */
	inf_store32_release(&flight->is_done, 1);
	__atomic_fetch_add(flight->wake, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, flight->wake, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* A run of fewer rows than the offsets are for, because some are not allowed, would be recorded at odd places. */
static bool run_model(struct flight *flight, char *error)
{
	struct model_run run = {
		.model = flight->model,
		.instance = flight->instance,
		.rows = flight->n_rows,
		.stream = flight->tracks->compute,
		.inputs = flight->inputs,
		.outputs = flight->outputs,
		.error = error,
		.error_bytes = INF_BACKEND_ERROR_BYTES,
	};

	if (flight->n_rows != flight->rows_laid_out)
		return !graphs_enqueue(&run);
	return !graphs_run(&run, flight->idx * TRACKS + flight->tracks->idx, flight->n_memories);
}

static bool compute(struct flight *flight, char *error)
{
	const struct inf_signature *sig = &flight->model->signature;

	for (uint32_t i = 0; sig->flags & INF_SIG_BATCHABLE && i < sig->n_inputs; i++)
		rows_set_shape(&flight->inputs[i], &sig->inputs[i], flight->n_rows, NULL);
	for (uint32_t k = 0; k < sig->n_outputs; k++)
		rows_set_largest(&flight->outputs[k], &sig->outputs[k], flight->n_rows);
	return OK(event_record(flight->copied, flight->tracks->in), "recording an event") &&
	       OK(stream_wait_event(flight->tracks->compute, flight->copied, 0), "waiting for an event") &&
	       run_model(flight, error) &&
	       !assemble_check_outputs(sig, flight->n_rows, flight->outputs, error, INF_BACKEND_ERROR_BYTES) &&
	       OK(event_record(flight->computed, flight->tracks->compute), "recording an event") &&
	       OK(stream_wait_event(flight->tracks->out, flight->computed, 0), "waiting for an event");
}

/* After it nothing of this flight is on the device. (Nor of the other one: a failure may cost that.) */
static void settle(const struct flight *flight)
{
	OK(stream_synchronize(flight->tracks->in), "settling a failed batch");
	OK(stream_synchronize(flight->tracks->compute), "settling a failed batch");
	OK(stream_synchronize(flight->tracks->out), "settling a failed batch");
}

/* False where it failed as a whole; then nothing is on the device. */
static bool start_group(struct flight *flight, uint32_t first, uint32_t n)
{
	char error[INF_BACKEND_ERROR_BYTES] = "";
	bool is_good = gather(flight, first, n);

	if (is_good && !flight->n_rows)
		return true;
	memset(&flight->direct[first], 0, n * sizeof(flight->direct[0]));
	flight->moves_out.n = 0;
	is_good = is_good && compute(flight, error);
	for (uint32_t k = 0; is_good && k < flight->model->signature.n_outputs; k++)
		is_good = copy_output(flight, first, n, k);
	is_good = is_good && moves_launch(&flight->moves_out, flight->device, flight->tracks->out) && signal_done(flight, first, n);
	if (is_good && OK(stream_call(flight->tracks->out, on_done, flight), "asking for a call"))
		return true;
	settle(flight);
	if (n == 1 && error[0])
		executor_log("model %s failed: %s", flight->model->signature.name, error);
	flight->n_rows = 0;
	return false;
}

/* A batch that failed as a whole: entry by entry, so that a bad row does not fail its mates. */
static void run_singly(struct flight *flight)
{
	for (uint32_t e = 0; e < flight->batch.n_entries; e++) {
		struct inf_row_end *end = &flight->batch.ends[e];

		if (end->status != INF_OK)
			continue;
		if (flight->batch.n_entries == 1 || !start_group(flight, e, 1)) {
			end->status = INF_MODEL_ERROR;
		} else if (flight->n_rows) {
			settle(flight);
			scatter(flight, e, 1);
		}
	}
	flight->n_rows = 0;
	inf_store32_release(&flight->is_done, 1);
}

void flight_start(struct flight *flight, const struct tracks *tracks, const struct loaded_model *model)
{
	struct batch *batch = &flight->batch;
	uint32_t rows = 0;

	take_offer(flight);
	flight->tracks = tracks;
	flight->model = model;
	flight->n_rows = 0;
	inf_store32(&flight->is_done, 0);
	memset(batch->ends, 0, batch->n_entries * sizeof(batch->ends[0]));
	for (uint32_t e = 0; e < batch->n_entries; e++)
		rows += batch->entries[e].n_rows;
	if (!model || !lay_out(flight, rows)) {
		batch_fail(batch);
		inf_store32_release(&flight->is_done, 1);
		return;
	}
	if (!start_group(flight, 0, batch->n_entries))
		run_singly(flight);
	else if (!flight->n_rows)
		inf_store32_release(&flight->is_done, 1);
}

bool flight_is_done(const struct flight *flight)
{
	/* Acquire: pairs with the release in on_done(). */
	return inf_load32_acquire(&flight->is_done);
}

void flight_finish(struct flight *flight)
{
	if (flight->n_rows)
		scatter(flight, 0, flight->batch.n_entries);
	else
		flight->end_ns = assemble_now_ns();
}

/* --- opening ----------------------------------------------------------------------------------------------- */

int tracks_open(struct tracks *tracks, const struct device *device, uint32_t idx, int priority)
{
	const struct inf_driver *driver = &device->driver;
	CUresult result = driver->stream_create(&tracks->in, CU_STREAM_NON_BLOCKING, priority);

	if (!result)
		result = driver->stream_create(&tracks->compute, CU_STREAM_NON_BLOCKING, priority);
	if (!result)
		result = driver->stream_create(&tracks->out, CU_STREAM_NON_BLOCKING, priority);
	tracks->idx = idx;
	device_ok(device, result, "opening streams");
	return inf_driver_errno(result);
}

int flight_open(struct flight *flight, const struct device *device, uint32_t instance, uint32_t idx, uint32_t *wake)
{
	const struct inf_driver *driver = &device->driver;
	CUresult result = driver->event_create(&flight->copied, CU_EVENT_DISABLE_TIMING);
	void *found = NULL;

	if (!result)
		result = driver->event_create(&flight->computed, CU_EVENT_DISABLE_TIMING);
	if (!result && device->can_share)
		result = driver->mem_alloc(&flight->verdicts, INF_BATCH_MAX * sizeof(uint32_t));
	if (!result && device->can_share)
		result = driver->host_alloc(&found, INF_BATCH_MAX * sizeof(uint32_t));
	flight->found_verdicts = found;
	if (!result && device->can_share)
		result = moves_open(&flight->moves_in, device);
	if (!result && device->can_share)
		result = moves_open(&flight->moves_out, device);
	flight->device = device;
	flight->instance = instance;
	flight->idx = idx;
	flight->wake = wake;
	device_ok(device, result, "opening events");
	return inf_driver_errno(result);
}
