/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e3_gathers.c - E3: rows of many places on the host become one block on the device: by a copy each, by the CPU and then one
 * copy, or by a kernel that reads host memory. Of each the time until it is there, and the part of it that keeps a core busy:
 * the executor chooses by the latter (device_calibrate() of broker/executor/device.c), whose answer stands beside it.
 */
#include "broker/cuda/kernels.h"
#include "broker/executor/device.h"
#include "tests/gpu/costs/costs.h"
#include <stdio.h>
#include <string.h>

#define ROUNDS	  50u
#define SIZES_MAX 16u
#define THREADS	  256u

enum way { BY_COPIES, BY_CPU, BY_KERNEL, WAYS };

static const char *const names[WAYS] = { "a copy each", "CPU, then one copy", "a kernel that reads host memory" };

static struct {
	uint64_t n_rows, area, sizes[SIZES_MAX];
	unsigned int n_sizes;
	void *from, *staging, *list; /* pinned */
	CUdeviceptr to, device_from, device_list;
	double us[WAYS][SIZES_MAX], core_us[WAYS][SIZES_MAX];
	bool has[WAYS];
} at;

static CUresult gather(enum way way, uint64_t bytes)
{
	unsigned int blocks = (unsigned int)(bytes / 16384) + 1;
	void *params[] = { &at.device_list, &at.n_rows };
	const uint8_t *from = at.from;
	struct inf_move *list = at.list;
	uint8_t *staging = at.staging;
	CUresult result = CUDA_SUCCESS;

	switch (way) {
	case BY_COPIES:
		for (uint64_t i = 0; i < at.n_rows && !result; i++)
			result = gpu.driver.copy_in(at.to + i * bytes, from + 2 * i * bytes, bytes, gpu.stream);
		return result;
	case BY_CPU:
		for (uint64_t i = 0; i < at.n_rows; i++)
			memcpy(staging + i * bytes, from + 2 * i * bytes, bytes);
		return gpu.driver.copy_in(at.to, staging, bytes * at.n_rows, gpu.stream);
	default:
		for (uint64_t i = 0; i < at.n_rows; i++)
			list[i] = (struct inf_move){ at.to + i * bytes, at.device_from + 2 * i * bytes, bytes };
		return gpu.driver.launch(gpu.move, blocks < 64 ? blocks : 64, (unsigned int)at.n_rows, 1, THREADS, 1, 1, 0,
					 gpu.stream, params, NULL);
	}
}

static bool measure(enum way way, unsigned int k)
{
	unsigned int n = is_quick ? ROUNDS / 4 : ROUNDS;
	double us[ROUNDS], core_us[ROUNDS];
	char name[128], text[32];

	snprintf(name, sizeof(name), "E3 %llu rows of %s: %s", (unsigned long long)at.n_rows, size_text(text, at.sizes[k]), names[way]);
	for (unsigned int i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();
		CUresult result = gather(way, at.sizes[k]);

		core_us[i] = (double)(now_ns() - begin_ns) / 1e3;
		if (!result)
			result = gpu.driver.stream_synchronize(gpu.stream);
		us[i] = (double)(now_ns() - begin_ns) / 1e3;
		if (result) {
			row_error(name, result);
			return false;
		}
	}
	at.us[way][k] = at_share(us, n, 0.5);
	at.core_us[way][k] = at_share(core_us, n, 0.5);
	row(name, at.us[way][k], "us");
	snprintf(name + strlen(name), sizeof(name) - strlen(name), ", of a core");
	row(name, at.core_us[way][k], "us");
	return true;
}

/* The least size from which on `way` never costs more than `other`. */
static void crossover(enum way way, enum way other, bool of_core)
{
	const double *mine = of_core ? at.core_us[way] : at.us[way], *others = of_core ? at.core_us[other] : at.us[other];
	unsigned int k = at.n_sizes;
	char name[160], text[32], why[64];

	if (!at.has[way] || !at.has[other])
		return;
	snprintf(name, sizeof(name), "E3 crossover, %s: %s is no worse than %s from", of_core ? "of a core" : "time", names[way], names[other]);
	while (k && mine[k - 1] <= others[k - 1])
		k--;
	snprintf(why, sizeof(why), "not up to rows of %s", size_text(text, at.sizes[at.n_sizes - 1]));
	if (k == at.n_sizes)
		row_why(name, why);
	else
		row(name, (double)at.sizes[k] / 1024, "KiB");
}

static void calibration(void)
{
	struct device device = { .driver = gpu.driver, .handle = gpu.device, .context = gpu.context, .name = "cuda:0" };

	device_calibrate(&device);
	row("E3 the executor's calibration: a copy each from", (double)device.direct_bytes_min / 1024, "KiB");
}

static CUresult reserve(void)
{
	CUresult result = gpu.driver.host_alloc(&at.from, at.area);

	if (!result)
		result = gpu.driver.host_alloc(&at.staging, at.area);
	if (!result)
		result = gpu.driver.host_alloc(&at.list, PAGE);
	if (!result)
		result = gpu.driver.mem_alloc(&at.to, at.area);
	if (!result)
		result = gpu.driver.host_device_pointer(&at.device_list, at.list, 0);
	return result ? result : gpu.driver.host_device_pointer(&at.device_from, at.from, 0);
}

static void give_back(void)
{
	void *const pinned[] = { at.from, at.staging, at.list };

	if (at.to)
		gpu.driver.mem_free(at.to);
	for (int i = 0; i < 3; i++)
		if (pinned[i])
			gpu.driver.host_free(pinned[i]);
}

void e3_gathers(void)
{
	uint64_t largest = is_quick ? 16384 : 512 << 10;
	CUresult result;

	at.n_rows = is_quick ? 4 : 32;
	at.area = 2 * at.n_rows * largest;
	for (uint64_t bytes = 1024; bytes <= largest; bytes *= 2)
		at.sizes[at.n_sizes++] = bytes;
	result = reserve();
	if (result) {
		row_error("E3 memory for rows", result);
	} else {
		memset(at.from, 1, at.area);
		for (enum way way = BY_COPIES; way < WAYS; way++) {
			at.has[way] = true;
			for (unsigned int k = 0; k < at.n_sizes && at.has[way]; k++)
				at.has[way] = measure(way, k);
		}
		for (int of_core = 0; of_core < 2; of_core++) {
			crossover(BY_COPIES, BY_CPU, of_core);
			crossover(BY_COPIES, BY_KERNEL, of_core);
			crossover(BY_KERNEL, BY_CPU, of_core);
		}
	}
	give_back();
	calibration();
}
