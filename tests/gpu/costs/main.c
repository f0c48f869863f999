/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - gpu_costs: what only a device can tell: what sharing, registering, copying and signalling cost there (experiments
 * E1 to E7 of reference/gpu-and-libtorch.md, 5.9).
 *
 * Usage: gpu_costs [--quick] NAME...: device (which one it is), E1 ... E7, one after the other in this process. The driver is
 * found as everywhere ($INF_CUDA_LIBRARY). Exit status 0, 1 where there is no device, EXIT_LOST. `make bench-gpu` starts it
 * once for each.
 */
#include "tests/gpu/costs/costs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	void (*run)(void);
} experiments[] = {
	{ "device", device_facts },	{ "E1", e1_sharing }, { "E2", e2_host_memory }, { "E3", e3_gathers },
	{ "E4", e4_mapping },		{ "E5", e5_signals }, { "E6", e6_busy_device }, { "E7", e7_death },
};

#define N (sizeof(experiments) / sizeof(experiments[0]))

static int run(const char *name)
{
	size_t i = 0;

	while (i < N && strcmp(experiments[i].name, name))
		i++;
	if (i == N) {
		fprintf(stderr, "gpu_costs: there is no experiment %s\n", name);
		return 2;
	}
	experiments[i].run();
	return 0;
}

int main(int argc, char **argv)
{
	int r = 0;

	if (argc == 3 && !strcmp(argv[1], "--peer"))
		peer_main((int)strtol(argv[2], NULL, 10));
	is_quick = argc > 1 && !strcmp(argv[1], "--quick");
	if (open_gpu())
		return 1;
	for (int i = 1 + is_quick; i < argc && !r; i++)
		r = run(argv[i]);
	gpu.driver.stream_destroy(gpu.stream);
	gpu.driver.context_release(gpu.device);
	return r;
}
