/* SPDX-License-Identifier: Apache-2.0 */
/* e2_host_memory.c - E2: registering host memory, and how fast it is copied, pinned and not. */
#define _GNU_SOURCE 1
#include "shm/region.h"
#include "tests/gpu/costs/costs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS 9u

static void registration(bool is_populated)
{
	uint64_t bytes = is_quick ? 4 * MIB : 256 * MIB, begin_ns;
	const char *name = is_populated ? "E2 register a memfd that is populated" : "E2 register a memfd that is not";
	int fd = memfd_create("gpu_costs", MFD_CLOEXEC);
	void *memory = MAP_FAILED;
	CUresult result;

	if (fd >= 0 && !ftruncate(fd, (off_t)bytes))
		memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (memory == MAP_FAILED) {
		row_why(name, "no memory");
		return;
	}
	if (is_populated)
		inf_region_populate(memory, bytes, true);
	begin_ns = now_ns();
	result = gpu.driver.host_register(memory, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
	if (result) {
		row_error(name, result);
	} else {
		row(name, (double)(now_ns() - begin_ns) / 1e6 / ((double)bytes / (1 << 30)), "ms/GiB");
		gpu.driver.host_unregister(memory);
	}
	munmap(memory, bytes);
}

/* One size, one direction: `host` is pinned or not. */
static void bandwidth(const char *what, void *host, CUdeviceptr on_device, uint64_t bytes, bool is_in)
{
	unsigned int n = is_quick ? 2 : bytes < MIB ? 200 : 10;
	double values[ROUNDS];
	char name[96], text[32];

	snprintf(name, sizeof(name), "E2 copy %s, %s, %s", is_in ? "in" : "out", what, size_text(text, bytes));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		uint64_t begin_ns = now_ns();

		for (unsigned int i = 0; i < n; i++) {
			if (is_in)
				TRY(name, copy_in(on_device, host, bytes, gpu.stream));
			else
				TRY(name, copy_out(host, on_device, bytes, gpu.stream));
		}
		TRY(name, stream_synchronize(gpu.stream));
		values[round] = (double)bytes * n / (double)(now_ns() - begin_ns);
	}
	row(name, at_share(values, ROUNDS, 0.5), "GB/s");
}

static void copies(void *pinned, void *pageable, CUdeviceptr on_device, uint64_t largest)
{
	static const uint64_t sizes[] = { 4096, 65536, 262144, MIB, 16 * MIB, 64 * MIB };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && sizes[i] <= largest; i++)
		for (int is_in = 1; is_in >= 0; is_in--) {
			bandwidth("pinned", pinned, on_device, sizes[i], is_in);
			bandwidth("pageable", pageable, on_device, sizes[i], is_in);
		}
}

void e2_host_memory(void)
{
	uint64_t largest = is_quick ? MIB : 64 * MIB;
	void *pinned = NULL, *pageable = malloc(largest);
	CUdeviceptr on_device = 0;
	CUresult result;

	registration(true);
	registration(false);
	if (!pageable)
		return;
	memset(pageable, 1, largest);
	result = gpu.driver.host_alloc(&pinned, largest);
	if (!result)
		result = gpu.driver.mem_alloc(&on_device, largest);
	if (result)
		row_error("E2 memory to copy", result);
	else
		copies(pinned, pageable, on_device, largest);
	if (on_device)
		gpu.driver.mem_free(on_device);
	if (pinned)
		gpu.driver.host_free(pinned);
	free(pageable);
}
