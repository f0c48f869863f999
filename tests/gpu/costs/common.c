/* SPDX-License-Identifier: Apache-2.0 */
/* common.c - see costs.h. */
#define _GNU_SOURCE 1
#include "tests/gpu/costs/costs.h"
#include "broker/cuda/image.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct gpu gpu;
bool is_quick;

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- what is said ------------------------------------------------------------------------------------------------ */

void row(const char *name, double value, const char *unit)
{
	printf("{\"name\": \"%s\", \"value\": %.4f, \"unit\": \"%s\"}\n", name, value, unit);
	fflush(stdout);
}

void row_why(const char *name, const char *why)
{
	printf("{\"name\": \"%s\", \"why\": \"%s\"}\n", name, why);
	fflush(stdout);
}

void row_error(const char *name, CUresult result)
{
	const char *error = inf_driver_error(&gpu.driver, result);

	row_why(name, error);
	if (!inf_driver_is_fatal(result))
		return;
	printf("{\"lost\": \"%s\"}\n", error);
	fflush(stdout);
	_exit(EXIT_LOST);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double at_share(double *values, unsigned int n, double share)
{
	qsort(values, n, sizeof(*values), compare);
	return values[(unsigned int)(share * (n - 1))];
}

void rows_of_latency(const char *name, double *us, unsigned int n)
{
	char text[160];

	row(name, at_share(us, n, 0.5), "us");
	snprintf(text, sizeof(text), "%s, p99", name);
	row(text, at_share(us, n, 0.99), "us");
}

const char *size_text(char text[32], uint64_t bytes)
{
	snprintf(text, 32, "%llu %s", (unsigned long long)(bytes < MIB ? bytes >> 10 : bytes >> 20), bytes < MIB ? "KiB" : "MiB");
	return text;
}

/* --- the device -------------------------------------------------------------------------------------------------- */

int open_gpu(void)
{
	char text[INF_DRIVER_TEXT_BYTES];
	CUmodule module;
	CUresult result;

	if (gpu.context)
		return 0;
	if (inf_driver_open(&gpu.driver, NULL, text)) {
		row_why("the device", text);
		return -1;
	}
	result = gpu.driver.device_get(&gpu.device, 0);
	if (!result)
		result = gpu.driver.context_retain(&gpu.context, gpu.device);
	if (!result)
		result = gpu.driver.context_set(gpu.context);
	if (!result)
		result = gpu.driver.stream_create(&gpu.stream, CU_STREAM_NON_BLOCKING, 0);
	if (!result)
		result = gpu.driver.module_load(&module, inf_kernels_image);
	if (!result)
		result = gpu.driver.module_function(&gpu.move, module, "inf_move");
	if (!result)
		result = gpu.driver.module_function(&gpu.spin, module, "inf_spin");
	if (result)
		row_error("the device", result);
	return result ? -1 : 0;
}

struct words *words_new(const char *name, int *ret_fd, CUdeviceptr *ret_address)
{
	int fd = memfd_create("gpu_costs", MFD_CLOEXEC);
	void *memory = MAP_FAILED;
	CUresult result;

	if (fd >= 0 && !ftruncate(fd, PAGE))
		memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		row_why(name, "no page to share");
		return NULL;
	}
	result = gpu.driver.host_register(memory, PAGE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
	if (!result)
		result = gpu.driver.host_device_pointer(ret_address, memory, 0);
	if (result) {
		row_error(name, result);
		munmap(memory, PAGE);
		close(fd);
		return NULL;
	}
	*ret_fd = fd;
	return memory;
}

void words_free(struct words *words)
{
	gpu.driver.host_unregister(words);
	munmap(words, PAGE);
}
