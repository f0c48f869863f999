/* SPDX-License-Identifier: Apache-2.0 */
/* nvml.c - see nvml.h. */
#include "shm/device/nvml.h"
#include "shm/device/library.h"
#include <errno.h>
#include <stdio.h>

static const struct inf_symbol symbols[] = {
#define INF_NVML_SYMBOL(member, symbol, result, params) { #symbol, offsetof(struct inf_nvml, member), false },
	INF_NVML_CALLS(INF_NVML_SYMBOL)
#undef INF_NVML_SYMBOL
};

static const struct inf_library nvml_library = {
	.name = INF_NVML_LIBRARY,
	.variable = "INF_NVML_LIBRARY",
	.what = "NVIDIA driver",
	.need = "a newer driver",
	.symbols = symbols,
	.n_symbols = sizeof(symbols) / sizeof(symbols[0]),
};

int inf_nvml_open(struct inf_nvml *nvml, char text[INF_NVML_TEXT_BYTES])
{
	nvmlReturn_t result;
	int r = inf_library_open(&nvml_library, NULL, nvml, text, INF_NVML_TEXT_BYTES);

	if (r)
		return r;
	result = nvml->init();
	if (!result)
		return 0;
	snprintf(text, INF_NVML_TEXT_BYTES, "the NVIDIA driver does not answer: %s", nvml->error_text(result));
	switch (result) {
	case NVML_ERROR_DRIVER_NOT_LOADED:
		return -ENODEV;
	case NVML_ERROR_NO_PERMISSION:
	case NVML_ERROR_OPERATING_SYSTEM: /* a cgroup forbids it */
		return -EACCES;
	default:
		return -EIO;
	}
}
