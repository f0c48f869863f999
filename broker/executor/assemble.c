/* SPDX-License-Identifier: Apache-2.0 */
/* assemble.c - gather, range check, run, verify, scatter. Hot file. */
#define _GNU_SOURCE 1
#include "broker/executor/assemble.h"
#include "broker/executor/regions.h"
#include "broker/executor/rows.h"
#include "shm/signature.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define HUGE_PAGE (2ull << 20)

uint64_t assemble_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- checks ------------------------------------------------------------------------------------------------ */

static bool shape_fits(const struct inf_tensor_spec *spec, uint32_t rows, const struct inf_backend_tensor *output)
{
	uint64_t bytes = inf_dtype_size(spec->dtype);

	if (output->rank != spec->rank)
		return false;
	for (uint32_t i = 0; i < spec->rank; i++) {
		bool batch = !i && spec->flags & INF_SPEC_BATCH;
		int64_t wanted = batch ? (int64_t)rows : spec->dims[i];

		if (wanted >= 0 ? output->dims[i] != wanted : output->dims[i] < 0 || output->dims[i] > spec->dims_max[i])
			return false;
		bytes *= (uint64_t)output->dims[i];
	}
	return output->bytes == bytes;
}

static size_t print_shape(char *to, size_t bytes, uint32_t rank, const int64_t *dims)
{
	size_t n = 0;

	for (uint32_t i = 0; i < rank && n + 24 < bytes; i++)
		n += (size_t)snprintf(to + n, bytes - n, "%s%lld", i ? "," : "", (long long)dims[i]);
	to[n] = 0;
	return n;
}

const char *assemble_check_outputs(const struct inf_signature *signature, uint32_t rows,
				   const struct inf_backend_tensor *outputs, char *error, size_t error_bytes)
{
	for (uint32_t k = 0; k < signature->n_outputs; k++) {
		const struct inf_tensor_spec *spec = &signature->outputs[k];
		char expected[200], got[200];

		if (outputs[k].dtype == spec->dtype && shape_fits(spec, rows, &outputs[k]))
			continue;
		print_shape(expected, sizeof(expected), spec->rank, spec->dims);
		print_shape(got, sizeof(got), outputs[k].rank, outputs[k].dims);
		snprintf(error, error_bytes, "output %.40s of %u rows: the signature says %s[%s], the model gave %s[%s]",
			 spec->name, rows, inf_dtype_text(spec->dtype), expected, inf_dtype_text(outputs[k].dtype), got);
		return error;
	}
	return NULL;
}

/* --- gather --------------------------------------------------------------------------------------------------- */

static bool grow_scratch(struct assembly *assembly, uint64_t bytes)
{
	if (bytes <= assembly->scratch_bytes)
		return true;
	free(assembly->scratch);
	assembly->scratch_bytes = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	assembly->scratch = aligned_alloc(HUGE_PAGE, assembly->scratch_bytes);
	if (assembly->scratch)
		madvise(assembly->scratch, assembly->scratch_bytes, MADV_HUGEPAGE);
	else
		assembly->scratch_bytes = 0;
	return assembly->scratch;
}

/* Copies the rows of one entry to row `at` of each input block; judges their values on the copy. */
static uint16_t gather_entry(const struct assembly *assembly, const struct inf_batch_entry *entry,
			     const struct loaded_model *model, struct inf_backend_tensor *inputs, uint32_t at,
			     uint32_t *ret_detail)
{
	for (uint32_t i = 0; i < model->signature.n_inputs; i++) {
		const struct inf_tensor_spec *spec = &model->signature.inputs[i];
		const struct inf_ext_tensor *ext;
		const void *from = rows_input_at(&assembly->batch, entry, model, i, &ext);
		bool whole = ext && !(model->signature.flags & INF_SIG_BATCHABLE);
		uint64_t bytes = whole ? ext->length : entry->n_rows * model->row_bytes[i];
		uint8_t *to = (uint8_t *)inputs[i].data + at * model->row_bytes[i];

		if (!from)
			return INF_MODEL_ERROR;
		memcpy(to, from, bytes);
		if (whole)
			rows_set_shape(&inputs[i], spec, 1, ext);
		if (!rows_are_allowed(to, spec, bytes)) {
			*ret_detail = i;
			return INF_BAD_RANGE;
		}
	}
	return INF_OK;
}

/* One whole request that the model may read where it lies. */
static bool use_in_place(struct assembly *assembly, const struct loaded_model *model, uint32_t first, uint32_t n,
			 struct inf_backend_tensor *inputs)
{
	const struct inf_batch_entry *entry = &assembly->batch.entries[first];

	if (n != 1 || !model->in_place || entry->n_rows != entry->rows_total || rows_must_judge(model))
		return false;
	for (uint32_t i = 0; i < model->signature.n_inputs; i++) {
		const struct inf_ext_tensor *ext;
		const void *from = rows_input_at(&assembly->batch, entry, model, i, &ext);

		if (!from)
			return false;
		inputs[i].data = (void *)(uintptr_t)from;
		rows_set_shape(&inputs[i], &model->signature.inputs[i], entry->n_rows, ext);
	}
	return true;
}

/* Gathers entries [first, first + n); those that are not OK are left out. Returns the rows gathered. */
static uint32_t gather(struct assembly *assembly, const struct loaded_model *model, uint32_t first, uint32_t n,
		       struct inf_backend_tensor *inputs)
{
	uint64_t bytes = 0;
	uint32_t rows_max = 0, rows = 0;

	for (uint32_t e = first; e < first + n; e++)
		rows_max += assembly->batch.entries[e].n_rows;
	for (uint32_t i = 0; i < model->signature.n_inputs; i++)
		bytes += inf_align64(rows_max * model->row_bytes[i]);
	if (!grow_scratch(assembly, bytes + INF_TENSOR_ALIGN)) {
		for (uint32_t e = first; e < first + n; e++)
			assembly->batch.ends[e].status = INF_MODEL_ERROR;
		return 0;
	}
	bytes = 0;
	for (uint32_t i = 0; i < model->signature.n_inputs; i++) {
		inputs[i].data = assembly->scratch + bytes;
		bytes += inf_align64(rows_max * model->row_bytes[i]);
		rows_set_shape(&inputs[i], &model->signature.inputs[i], 1, NULL);
	}
	for (uint32_t e = first; e < first + n; e++) {
		struct inf_row_end *end = &assembly->batch.ends[e];

		end->status = gather_entry(assembly, &assembly->batch.entries[e], model, inputs, rows, &end->detail);
		if (end->status == INF_OK)
			rows += assembly->batch.entries[e].n_rows;
	}
	if (model->signature.flags & INF_SIG_BATCHABLE)
		for (uint32_t i = 0; i < model->signature.n_inputs; i++)
			rows_set_shape(&inputs[i], &model->signature.inputs[i], rows, NULL);
	return rows;
}

/* --- scatter -------------------------------------------------------------------------------------------------- */

/* Rows [at, at + entry's rows) of the outputs into the entry's block. */
static uint16_t scatter_entry(const struct inf_batch_entry *entry, const struct loaded_model *model,
			      const struct inf_backend_tensor *outputs, uint32_t at)
{
	const struct inf_signature *sig = &model->signature;
	uint8_t *block = regions_at(entry->session, entry->out_region, entry->out_offset, entry->out_length, true);

	if (!block || entry->out_length < inf_output_bytes(sig, entry->rows_total))
		return INF_MODEL_ERROR;
	if (!entry->first_row)
		rows_write_head(block, entry, model, outputs);
	for (uint32_t k = 0; k < sig->n_outputs; k++) {
		uint64_t row_bytes = model->out_row_bytes[k];
		uint8_t *to = block + inf_output_offset(sig, entry->rows_total, k);
		const uint8_t *from = outputs[k].data;

		if (sig->flags & INF_SIG_BATCHABLE)
			memcpy(to + entry->first_row * row_bytes, from + at * row_bytes, entry->n_rows * row_bytes);
		else
			memcpy(to, from, outputs[k].bytes);
	}
	return INF_OK;
}

/* --- run -------------------------------------------------------------------------------------------------------- */

/* Runs entries [first, first + n) together. False where the run failed or gave what the signature forbids. */
static bool run_group(struct assembly *assembly, const struct loaded_model *model, uint32_t first, uint32_t n)
{
	const struct inf_signature *sig = &model->signature;
	struct inf_backend_tensor inputs[INF_INPUTS_MAX] = { 0 }, outputs[INF_OUTPUTS_MAX] = { 0 };
	char error[INF_BACKEND_ERROR_BYTES] = "";
	uint32_t rows, at = 0;
	uint64_t begin_ns;
	int r;

	if (use_in_place(assembly, model, first, n, inputs)) {
		rows = assembly->batch.entries[first].n_rows;
		assembly->batch.ends[first].status = INF_OK;
	} else {
		rows = gather(assembly, model, first, n, inputs);
	}
	if (!rows)
		return true;
	begin_ns = assemble_now_ns();
	r = model->ops->run(model->handle, assembly->instance, rows, inputs, sig->n_inputs, outputs, sig->n_outputs, error,
			    sizeof(error));
	assembly->run_ns += assemble_now_ns() - begin_ns;
	if (!r && assemble_check_outputs(sig, rows, outputs, error, sizeof(error)))
		r = -1;
	for (uint32_t e = first; !r && e < first + n; e++) {
		if (assembly->batch.ends[e].status != INF_OK)
			continue;
		assembly->batch.ends[e].status = scatter_entry(&assembly->batch.entries[e], model, outputs, at);
		at += assembly->batch.entries[e].n_rows;
	}
	model->ops->done(model->handle, assembly->instance);
	if (r && n == 1)
		executor_log("model %s failed: %s", sig->name, error);
	return !r;
}

void assemble_run(struct assembly *assembly, const struct loaded_model *model)
{
	uint32_t n = assembly->batch.n_entries;

	assembly->run_ns = 0;
	memset(assembly->batch.ends, 0, n * sizeof(assembly->batch.ends[0]));
	if (run_group(assembly, model, 0, n))
		return;
	for (uint32_t e = 0; e < n; e++) {
		if (assembly->batch.ends[e].status != INF_OK) /* not in the run: it has its status */
			continue;
		if (n == 1 || !run_group(assembly, model, e, 1))
			assembly->batch.ends[e].status = INF_MODEL_ERROR;
	}
}
