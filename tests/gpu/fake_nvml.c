/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_nvml.c - an NVML in software, for `shmctl devices`; device N has the UUID that it has in the software driver.
 *
 *	FAKENVML_DEVICES=N		how many (1)
 *	FAKENVML_ERRORS=SYMBOL=CODE[@N],...	what these answer, on all devices or on number N. A device that is once lost
 *					(15) gives nothing else any more
 *	FAKENVML_NONE=1			each figure is "not available"
 *	FAKENVML_PROCESSES=KIND:N:PID:BYTES[:INSTANCE],...	who holds memory on device N; KIND is compute, graphics or mps
 *	FAKENVML_NEWCOMERS=N,N,...	and so many more compute on device 0, the first, second, ... time that its list is asked
 *					for (the last N from then on); their pids are 100000 and up, each has 1 MiB
 */
#define _GNU_SOURCE 1
#include "shm/device/nvml.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
/* What is exported is what the table asks for. */
#define PROTOTYPE(member, symbol, result, params) EXPORT result symbol params;
INF_NVML_CALLS(PROTOTYPE)
#undef PROTOTYPE

#define DEVICES_MAX	   16u
#define UNINITIALIZED	   ((nvmlReturn_t)1)
#define INVALID_ARGUMENT   ((nvmlReturn_t)2)
#define VERSION_MISMATCH   ((nvmlReturn_t)25)
#define FIRST_NEWCOMER_PID 100000u

static struct nvmlDevice_st {
	bool is_lost;
} devices[DEVICES_MAX];
static bool is_initialized;

static unsigned int number_of(const char *name, unsigned int otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned int)strtoul(text, NULL, 10) : otherwise;
}

static unsigned int n_devices(void)
{
	unsigned int n = number_of("FAKENVML_DEVICES", 1);

	return n < DEVICES_MAX ? n : DEVICES_MAX;
}

/* Calls `item` for each part of a list with commas; a script that is none of ours ends the test. */
static void each(const char *name, void (*item)(const char *text, void *data), void *data)
{
	char *copy = getenv(name) ? strdup(getenv(name)) : NULL, *rest = copy, *part;

	while (rest && (part = strsep(&rest, ",")))
		if (*part)
			item(part, data);
	free(copy);
}

static void __attribute__((noreturn)) nonsense(const char *text)
{
	fprintf(stderr, "fakenvml: what is %s?\n", text);
	abort();
}

struct failure {
	const char *call;
	int device; /* -1 = none */
	int code;
};

static void read_failure(const char *text, void *data)
{
	struct failure *failure = data;
	char call[64];
	int code, device = -1, n = sscanf(text, "%63[^=]=%d@%d", call, &code, &device);

	if (n < 2)
		nonsense(text);
	if (!strcmp(call, failure->call) && (n == 2 || device == failure->device))
		failure->code = code;
}

/* What a call gives before it does anything. */
static nvmlReturn_t begin(const char *call, nvmlDevice_t device)
{
	struct failure failure = { .call = call, .device = device ? (int)(device - devices) : -1 };

	each("FAKENVML_ERRORS", read_failure, &failure);
	if (device && failure.code == NVML_ERROR_GPU_IS_LOST)
		device->is_lost = true;
	return device && device->is_lost ? NVML_ERROR_GPU_IS_LOST : (nvmlReturn_t)failure.code;
}

static nvmlReturn_t begin_device(const char *call, nvmlDevice_t device)
{
	if (!is_initialized)
		return UNINITIALIZED;
	if (device < devices || device >= devices + n_devices())
		return INVALID_ARGUMENT;
	return begin(call, device);
}

#define BEGIN(device)                                           \
	do {                                                    \
		nvmlReturn_t begun = begin_device(__func__, device); \
		if (begun)                                      \
			return begun;                           \
	} while (0)

static unsigned int figure(unsigned int value)
{
	return number_of("FAKENVML_NONE", 0) ? ~0u : value;
}

nvmlReturn_t nvmlInit_v2(void)
{
	nvmlReturn_t result = begin(__func__, NULL);

	is_initialized = !result;
	return result;
}

const char *nvmlErrorString(nvmlReturn_t error)
{
	static char text[32];

	snprintf(text, sizeof(text), "fake error %d", (int)error);
	return text;
}

nvmlReturn_t nvmlShutdown(void)
{
	is_initialized = false;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned int bytes)
{
	snprintf(text, bytes, "580.65");
	return begin(__func__, NULL);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
	*count = n_devices();
	return is_initialized ? begin(__func__, NULL) : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	if (index >= n_devices())
		return INVALID_ARGUMENT;
	*device = &devices[index];
	return begin_device(__func__, *device);
}

static unsigned int index_of(nvmlDevice_t device)
{
	return (unsigned int)(device - devices);
}

/* What snprintf() returned says whether the text had room. */
static nvmlReturn_t has_room(int n, unsigned int bytes)
{
	return (unsigned int)n < bytes ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int bytes)
{
	BEGIN(device);
	return has_room(snprintf(uuid, bytes, "GPU-%02xfafafa-fafa-fafa-fafa-fafafafafafa", index_of(device)), bytes);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int bytes)
{
	BEGIN(device);
	return has_room(snprintf(name, bytes, "software device %u (no GPU)", index_of(device)), bytes);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	BEGIN(device);
	if (memory->version != nvmlMemory_v2)
		return VERSION_MISMATCH;
	memory->total = figure(0) ? ~0ull : 80ull << 30;
	memory->used = figure(0) ? ~0ull : 5ull << 30;
	memory->reserved = 512ull << 20;
	memory->free = memory->total - memory->used - memory->reserved;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
	BEGIN(device);
	*rates = (nvmlUtilization_t){ .gpu = figure(37), .memory = figure(12) };
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *mw)
{
	BEGIN(device);
	*mw = figure(310250);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *c)
{
	BEGIN(device);
	if (sensor != NVML_TEMPERATURE_GPU)
		return INVALID_ARGUMENT;
	*c = figure(54);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
	BEGIN(device);
	if (type != NVML_CLOCK_SM && type != NVML_CLOCK_MEM)
		return INVALID_ARGUMENT;
	*mhz = figure(type == NVML_CLOCK_SM ? 1980 : 2619);
	return NVML_SUCCESS;
}

/* --- processes --- */

struct list {
	const char *kind;
	unsigned int device, n, room;
	nvmlProcessInfo_t *to;
};

static void add(struct list *list, nvmlProcessInfo_t process)
{
	if (list->n++ < list->room)
		list->to[list->n - 1] = process;
}

static void read_process(const char *text, void *data)
{
	struct list *list = data;
	nvmlProcessInfo_t process = { .gpuInstanceId = ~0u, .computeInstanceId = ~0u };
	unsigned int device;
	char kind[16];
	int n = sscanf(text, "%15[a-z]:%u:%u:%llu:%u", kind, &device, &process.pid, &process.usedGpuMemory,
		       &process.gpuInstanceId);

	if (n < 4)
		nonsense(text);
	if (number_of("FAKENVML_NONE", 0))
		process.usedGpuMemory = ~0ull;
	if (!strcmp(kind, list->kind) && device == list->device)
		add(list, process);
}

static unsigned int newcomers(void)
{
	static unsigned int n_asked;
	const char *text = getenv("FAKENVML_NEWCOMERS");
	unsigned int n = 0;

	n_asked++;
	for (unsigned int i = 0; text && i < n_asked; i++) {
		n = (unsigned int)strtoul(text, NULL, 10);
		text = strchr(text, ',');
		text += text != NULL;
	}
	return n;
}

static nvmlReturn_t give_list(const char *kind, nvmlDevice_t device, unsigned int *n, nvmlProcessInfo_t *to)
{
	struct list list = { kind, index_of(device), 0, *n, to };
	unsigned int n_more = device == devices && !strcmp(kind, "compute") ? newcomers() : 0;

	each("FAKENVML_PROCESSES", read_process, &list);
	for (unsigned int i = 0; i < n_more; i++)
		add(&list, (nvmlProcessInfo_t){ FIRST_NEWCOMER_PID + i, 1ull << 20, ~0u, ~0u });
	*n = list.n;
	return list.n > list.room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *n, nvmlProcessInfo_t *processes)
{
	BEGIN(device);
	return give_list("compute", device, n, processes);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *n, nvmlProcessInfo_t *processes)
{
	BEGIN(device);
	return give_list("graphics", device, n, processes);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *n, nvmlProcessInfo_t *processes)
{
	BEGIN(device);
	return give_list("mps", device, n, processes);
}
