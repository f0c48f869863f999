/* SPDX-License-Identifier: Apache-2.0 */
/* devices.c - `shmctl devices`: the NVIDIA devices of this machine, and who holds memory on them, as NVML tells. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "shm/device/nvml.h"
#include "tools/shmctl/shmctl.h"
#include "tools/shmctl/stats.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROCESSES_MAX 4096u /* of one device: who has more sees these */

/* What one device does not tell (a MIG device has no power of its own) is unknown, no failure. */
struct device {
	unsigned int idx;
	char name[96], uuid[96]; /* "" = unknown */
	bool has_memory, has_utilization, has_power, has_sm_clock, has_memory_clock, has_processes;
	nvmlMemory_t memory;
	nvmlUtilization_t utilization;
	unsigned int power_mw, sm_mhz, memory_mhz;
	nvmlProcessInfo_t *processes;
	unsigned int n_processes;
};

/* Of the broker, where one can be asked; 0 = none. */
static uint32_t executor_pid(const struct options *options)
{
	const struct inf_stats_public *stats;
	char path[PATH_MAX];

	stats = stats_find(options, path);
	return stats && stats_life(&stats->head) != LIFE_GONE ? inf_load32(&stats->executor_pid) : 0;
}

static void read_processes(const struct inf_nvml *nvml, nvmlDevice_t handle, struct device *device)
{
	nvmlReturn_t result = NVML_ERROR_INSUFFICIENT_SIZE;

	/* Some may come between two questions. */
	for (unsigned int room = 32; result == NVML_ERROR_INSUFFICIENT_SIZE && room <= PROCESSES_MAX; room *= 2) {
		nvmlProcessInfo_t *more = realloc(device->processes, room * sizeof(*more));

		if (!more)
			return;
		device->processes = more;
		device->n_processes = room;
		result = nvml->processes(handle, &device->n_processes, more);
	}
	device->has_processes = !result;
}

static void read_device(const struct inf_nvml *nvml, nvmlDevice_t handle, struct device *device)
{
	if (nvml->device_name(handle, device->name, sizeof(device->name)))
		device->name[0] = 0;
	if (nvml->device_uuid(handle, device->uuid, sizeof(device->uuid)))
		device->uuid[0] = 0;
	device->has_memory = !nvml->memory(handle, &device->memory);
	device->has_utilization = !nvml->utilization(handle, &device->utilization);
	device->has_power = !nvml->power_mw(handle, &device->power_mw);
	device->has_sm_clock = !nvml->clock_mhz(handle, NVML_CLOCK_SM, &device->sm_mhz);
	device->has_memory_clock = !nvml->clock_mhz(handle, NVML_CLOCK_MEM, &device->memory_mhz);
	read_processes(nvml, handle, device);
}

static json_t *number(bool is_known, uint64_t value)
{
	return is_known ? json_integer((json_int_t)value) : json_null();
}

/* All bits set: the driver does not know, in a container or of another user's. */
static bool is_memory_known(const nvmlProcessInfo_t *process)
{
	return process->usedGpuMemory != ULLONG_MAX;
}

static json_t *as_json(const struct device *device, uint32_t broker)
{
	json_t *processes = device->has_processes ? json_array() : json_null();

	for (unsigned int i = 0; device->has_processes && i < device->n_processes; i++) {
		const nvmlProcessInfo_t *process = &device->processes[i];

		json_array_append_new(processes, json_pack("{s:i, s:o, s:b}", "pid", (int)process->pid, "memory_bytes",
							   number(is_memory_known(process), process->usedGpuMemory), "executor",
							   broker && process->pid == broker));
	}
	return json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "index", (int)device->idx, "uuid",
			 device->uuid[0] ? json_text(device->uuid) : json_null(), "name",
			 device->name[0] ? json_text(device->name) : json_null(), "memory_total_bytes",
			 number(device->has_memory, device->memory.total), "memory_used_bytes",
			 number(device->has_memory, device->memory.used), "busy_percent",
			 number(device->has_utilization, device->utilization.gpu), "memory_busy_percent",
			 number(device->has_utilization, device->utilization.memory), "power_mw",
			 number(device->has_power, device->power_mw), "sm_mhz", number(device->has_sm_clock, device->sm_mhz),
			 "memory_mhz", number(device->has_memory_clock, device->memory_mhz), "processes", processes);
}

static const char *word(char text[WORD_BYTES], bool is_known, double value, const char *unit)
{
	if (is_known)
		snprintf(text, WORD_BYTES, "%.0f %s", value, unit);
	return is_known ? text : "-";
}

static void print_for_people(const struct device *device, uint32_t broker)
{
	char used[WORD_BYTES], total[WORD_BYTES], busy[WORD_BYTES], power[WORD_BYTES], clock[WORD_BYTES], name[WORD_BYTES];

	if (!device->idx)
		printf("%3s %-24s %-40s %10s %10s %5s %7s %8s\n", "GPU", "NAME", "UUID", "USED", "MEMORY", "BUSY", "POWER", "SM");
	printf("%3u %-24.24s %-40.40s %10s %10s %5s %7s %8s\n", device->idx, word_name(name, device->name[0] ? device->name : "-"),
	       device->uuid[0] ? device->uuid : "-", device->has_memory ? word_bytes(used, device->memory.used) : "-",
	       device->has_memory ? word_bytes(total, device->memory.total) : "-",
	       word(busy, device->has_utilization, device->utilization.gpu, "%"),
	       word(power, device->has_power, device->power_mw / 1e3, "W"),
	       word(clock, device->has_sm_clock, device->sm_mhz, "MHz"));
	for (unsigned int i = 0; device->has_processes && i < device->n_processes; i++) {
		const nvmlProcessInfo_t *process = &device->processes[i];

		printf("    pid %-8u %s%s\n", process->pid,
		       is_memory_known(process) ? word_bytes(used, process->usedGpuMemory) : "-",
		       broker && process->pid == broker ? "  the broker's executor" : "");
	}
}

static int run(const struct options *options, int argc, char **argv)
{
	json_t *list = options->json ? json_array() : NULL;
	char text[INF_NVML_TEXT_BYTES], version[96];
	uint32_t broker = executor_pid(options);
	unsigned int count = 0;
	struct inf_nvml nvml;
	int r;

	if (argc > 1)
		return fail(options, EXIT_USAGE, "%s: devices takes no argument", argv[1]);
	r = inf_nvml_open(&nvml, text);
	if (r)
		return fail(options, r == -EACCES ? EXIT_NO_PERMISSION : EXIT_UNHEALTHY, "%s", text);
	if (nvml.driver_version(version, sizeof(version)))
		snprintf(version, sizeof(version), "unknown");
	if (nvml.device_count(&count))
		count = 0;
	for (unsigned int i = 0; i < count; i++) {
		struct device device = { .idx = i };
		nvmlDevice_t handle;

		/* One that is lost, or not for us, is shown by its number alone. */
		if (!nvml.device_at(i, &handle))
			read_device(&nvml, handle, &device);
		if (list)
			json_array_append_new(list, as_json(&device, broker));
		else
			print_for_people(&device, broker);
		free(device.processes);
	}
	nvml.shutdown();
	if (list)
		return print_json(options, "devices", json_pack("{s:o, s:o}", "driver", json_text(version), "devices", list));
	printf("%s%u device(s), driver %s\n", count ? "\n" : "", count, version);
	return EXIT_OK;
}

const struct command command_devices = {
	.name = "devices",
	.summary = "the NVIDIA devices of this machine: memory, load, power, and who is on them",
	.usage = "Usage: shmctl devices [-j]\n"
		 "One line per device and one per process that holds memory on it; needs NVIDIA's driver, and no broker: with\n"
		 "one, its executor is named. What a device does not tell is \"-\" (null in JSON).\n"
		 "Exit status 1: no driver, or none that answers; 4: it may not be asked.\n",
	.run = run,
};
