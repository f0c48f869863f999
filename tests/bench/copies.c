/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copies.c - the executor's gather in and copy out of large rows, with a model that does nothing.
 *
 * Usage: copies run [--ms M] [--cpus A,B] [--bytes N] [--blocks N]: batches of 8 rows of N bytes each, whose
 * inputs and outputs lie in regions of N blocks. Prints ns per row (two copies).
 */
#define _GNU_SOURCE 1
#include "broker/executor/assemble.h"
#include "broker/executor/regions.h"
#include "shm/region.h"
#include "shm/signature.h"
#include "tests/support/samples.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROWS	8u
#define SESSION 1u
#define IN	1u
#define OUT	2u

static int echo(struct inf_backend_model *model, uint32_t instance, uint32_t rows,
		const struct inf_backend_tensor *inputs, uint32_t n_inputs,
		struct inf_backend_tensor *outputs, uint32_t n_outputs, char *error, size_t error_bytes)
{
	(void)model, (void)instance, (void)rows, (void)n_inputs, (void)n_outputs, (void)error,
		(void)error_bytes;
	outputs[0] = inputs[0];
	return 0;
}

static void done(struct inf_backend_model *model, uint32_t instance)
{
	(void)model, (void)instance;
}

void executor_log(const char *format, ...)
{
	fputs(format, stderr);
}

static void describe(struct inf_tensor_spec *spec, uint64_t row_bytes)
{
	*spec = (struct inf_tensor_spec){
		.name = "x",
		.dtype = INF_U8,
		.flags = INF_SPEC_BATCH,
		.rank = 2,
		.dims = { -1, (int64_t)row_bytes },
		.dims_max = { 0, (int64_t)row_bytes },
	};
}

static void attach(uint32_t region, uint64_t bytes, bool writable)
{
	int fd = inf_region_create("copies", bytes);

	if (fd < 0 || regions_attach(SESSION, region, writable ? INF_REGION_OUTPUT : INF_REGION_REQUEST, fd, bytes)) {
		fprintf(stderr, "copies: no region of %llu bytes\n", (unsigned long long)bytes);
		exit(1);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "cpus", required_argument, NULL, 'c' },
		{ "ms", required_argument, NULL, 'm' },
		{ "bytes", required_argument, NULL, 'b' },
		{ "blocks", required_argument, NULL, 'n' },
		{ 0 },
	};
	static const struct inf_backend_ops ops = { .run = echo, .done = done };
	static struct loaded_model model = { .ops = &ops };
	static struct assembly assembly;
	uint64_t ms = 200, bytes = 600000, n_blocks = 32, out_stride, in_stride, begin_ns, end;
	struct samples samples;
	int c, cpu = -1;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'm')
			ms = strtoull(optarg, NULL, 10);
		else if (c == 'b')
			bytes = strtoull(optarg, NULL, 10);
		else if (c == 'n')
			n_blocks = strtoull(optarg, NULL, 10);
		else if (c == 'c')
			cpu = (int)strtol(optarg, NULL, 10);
		else
			return 2;
	}
	stand_on_cpu(cpu);
	model.signature.n_inputs = model.signature.n_outputs = 1;
	model.signature.flags = INF_SIG_BATCHABLE;
	model.signature.batch_max = ROWS;
	describe(&model.signature.inputs[0], bytes);
	describe(&model.signature.outputs[0], bytes);
	model.row_bytes[0] = model.out_row_bytes[0] = bytes;
	in_stride = (bytes + INF_PAGE - 1) & ~(uint64_t)(INF_PAGE - 1);
	out_stride = inf_output_bytes(&model.signature, 1);
	attach(IN, inf_region_round(n_blocks * in_stride), false);
	attach(OUT, inf_region_round(n_blocks * out_stride), true);
	samples_init(&samples, 1u << 20);
	end = samples_now_ns() + ms * 1000000;
	for (uint64_t i = 0; (begin_ns = samples_now_ns()) < end; i += ROWS) {
		assembly.batch.n_entries = ROWS;
		for (uint64_t k = 0; k < ROWS; k++)
			assembly.batch.entries[k] = (struct inf_batch_entry){
				.session = SESSION,
				.in_region = IN,
				.in_offset = (i + k) % n_blocks * in_stride,
				.rows_total = 1,
				.n_rows = 1,
				.out_region = OUT,
				.out_offset = (i + k) % n_blocks * out_stride,
				.out_length = out_stride,
			};
		assemble_run(&assembly, &model);
		for (uint32_t k = 0; k < ROWS; k++) {
			if (assembly.batch.ends[k].status != INF_OK) {
				fprintf(stderr, "copies: status %u\n", assembly.batch.ends[k].status);
				return 1;
			}
		}
		if (i >= 2 * n_blocks)
			samples_add(&samples, (double)(samples_now_ns() - begin_ns) / ROWS);
	}
	samples_print(&samples);
	return 0;
}
