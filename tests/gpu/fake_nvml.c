/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_nvml.c - an NVML in software, for `shmctl devices`.
 *
 *	FAKENVML_DEVICES=N	how many (1)
 *	FAKENVML_PROCESSES=N	on each (1): the first is $FAKENVML_PID, of the last the memory is not known
 *	FAKENVML_ERRORS=SYMBOL=CODE,...	what these answer
 */
#define _GNU_SOURCE 1
#include "shm/device/nvml.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static unsigned int number_of(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned int)strtoul(text, NULL, 10) : otherwise;
}

static nvmlReturn_t error_of(const char *symbol)
{
	const char *at = getenv("FAKENVML_ERRORS");
	size_t n = strlen(symbol);

	for (; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (!strncmp(at, symbol, n) && at[n] == '=')
			return (nvmlReturn_t)strtol(at + n + 1, NULL, 10);
	return NVML_SUCCESS;
}

/* The number between two texts. */
static nvmlReturn_t text_of(char *text, unsigned int bytes, const char *before, uintptr_t number, const char *after)
{
	int n = snprintf(text, bytes, "%s%u%s", before, (unsigned int)number, after);

	return n < (int)bytes ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

/* Prototypes: what is exported is what the table asks for. */
#define PROTOTYPE(member, symbol, result, params) EXPORT result symbol params;
INF_NVML_CALLS(PROTOTYPE)
#undef PROTOTYPE

nvmlReturn_t nvmlInit_v2(void)
{
	return error_of("nvmlInit_v2");
}

nvmlReturn_t nvmlShutdown(void)
{
	return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
	return result == NVML_ERROR_DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Some Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned int bytes)
{
	return text_of(text, bytes, "580.", 65, "");
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
	*count = number_of("FAKENVML_DEVICES", 1);
	return error_of("nvmlDeviceGetCount_v2");
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int idx, nvmlDevice_t *device)
{
	*device = (nvmlDevice_t)(uintptr_t)(idx + 1);
	return error_of("nvmlDeviceGetHandleByIndex_v2");
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned int bytes)
{
	return text_of(text, bytes, "NVIDIA Software ", (uintptr_t)device, "");
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned int bytes)
{
	nvmlReturn_t result = text_of(text, bytes, "GPU-0000000", (uintptr_t)device, "-fafa-fafa-fafa-fafafafafafa");

	return result ? result : error_of("nvmlDeviceGetUUID");
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	(void)device;
	*memory = (nvmlMemory_t){ .total = 80ull << 30, .free = 60ull << 30, .used = 20ull << 30 };
	return error_of("nvmlDeviceGetMemoryInfo");
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	(void)device;
	*utilization = (nvmlUtilization_t){ .gpu = 37, .memory = 12 };
	return error_of("nvmlDeviceGetUtilizationRates");
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *mw)
{
	(void)device;
	*mw = 312500;
	return error_of("nvmlDeviceGetPowerUsage");
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
	(void)device;
	*mhz = type == NVML_CLOCK_SM ? 1980 : 2619;
	return error_of("nvmlDeviceGetClockInfo");
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *processes)
{
	unsigned int n = number_of("FAKENVML_PROCESSES", 1), room = *count;

	(void)device;
	*count = n;
	if (room < n)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	for (unsigned int i = 0; i < n; i++)
		processes[i] = (nvmlProcessInfo_t){
			.pid = i ? 1000000 + i : number_of("FAKENVML_PID", 1),
			.usedGpuMemory = i && i == n - 1 ? ULLONG_MAX : (i + 1ull) << 30,
		};
	return error_of("nvmlDeviceGetComputeRunningProcesses_v3");
}
