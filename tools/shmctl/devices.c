/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devices.c - `shmctl devices`: the NVIDIA devices of this machine, who holds memory on them, as NVML tells, which one the broker
 * serves models on, and for which of its clients it holds memory there: to NVML all of that is the executor's.
 *
 * A figure that is not to be had (a device in MIG mode has no load, another user's processes are not shown) is unknown and
 * no more. Any other error is the device's: it is shown, with what was told before.
 */
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

#define PROCESSES_MAX 4096u /* of one device: of one that has more, none are shown */
#define UNKNOWN	      UINT64_MAX

struct device {
	unsigned int idx;
	char name[96], uuid[96]; /* "" = unknown */
	uint64_t used_bytes, total_bytes, busy_percent, memory_busy_percent, power_mw, temperature_c, sm_mhz, memory_mhz;
	bool has_processes;
	unsigned int n_processes, processes_max;
	nvmlProcessInfo_t *processes; /* of each and MIG instance one */
	char error[INF_NVML_TEXT_BYTES]; /* "" = well */
};

/* --- asking --- */

static bool told(const struct inf_nvml *nvml, struct device *device, nvmlReturn_t result)
{
	switch (result) {
	case NVML_SUCCESS:
		return true;
	case NVML_ERROR_NOT_SUPPORTED:
	case NVML_ERROR_NO_PERMISSION:
	case NVML_ERROR_FUNCTION_NOT_FOUND: /* in the kernel's part of the driver */
	case NVML_ERROR_INSUFFICIENT_SIZE:  /* more processes than we take */
		return false;
	default:
		if (!device->error[0])
			snprintf(device->error, sizeof(device->error), "%s", nvml->error_text(result));
		return false;
	}
}

/* All bits set is NVML's "not available", in a number of any width. */
static uint64_t known(unsigned int value)
{
	return value == UINT_MAX ? UNKNOWN : value;
}

typedef nvmlReturn_t list_call(nvmlDevice_t handle, unsigned int *count, nvmlProcessInfo_t *processes);

/* Whoever computes and draws is in two lists, with the same bytes. */
static bool is_listed(const struct device *device, unsigned int n_before, const nvmlProcessInfo_t *process)
{
	for (unsigned int i = 0; i < n_before; i++)
		if (device->processes[i].pid == process->pid &&
		    device->processes[i].gpuInstanceId == process->gpuInstanceId &&
		    device->processes[i].computeInstanceId == process->computeInstanceId)
			return true;
	return false;
}

static nvmlReturn_t add_list(struct device *device, nvmlDevice_t handle, list_call *list)
{
	unsigned int n_before = device->n_processes, count = device->processes_max - n_before;
	nvmlReturn_t result;

	/* Some may come between two questions. */
	while ((result = list(handle, &count, device->processes + n_before)) == NVML_ERROR_INSUFFICIENT_SIZE &&
	       device->processes_max < PROCESSES_MAX) {
		nvmlProcessInfo_t *more = realloc(device->processes, 2 * device->processes_max * sizeof(*more));

		if (!more)
			return result;
		device->processes = more;
		device->processes_max *= 2;
		count = device->processes_max - n_before;
	}
	for (unsigned int i = 0; !result && i < count; i++)
		if (!is_listed(device, n_before, &device->processes[n_before + i]))
			device->processes[device->n_processes++] = device->processes[n_before + i];
	return result;
}

static void read_processes(const struct inf_nvml *nvml, nvmlDevice_t handle, struct device *device)
{
	list_call *const lists[] = { nvml->compute_processes, nvml->graphics_processes, nvml->mps_processes };

	device->processes_max = 32;
	device->processes = malloc(device->processes_max * sizeof(*device->processes));
	if (!device->processes)
		return;
	for (unsigned int i = 0; i < 3; i++) {
		nvmlReturn_t result = add_list(device, handle, lists[i]);

		/* A device that nothing can draw on, or that knows no MPS, has nobody who does. */
		if (!told(nvml, device, result) && !(i && result == NVML_ERROR_NOT_SUPPORTED))
			return;
	}
	device->has_processes = true;
}

static void read_figures(const struct inf_nvml *nvml, nvmlDevice_t handle, struct device *device)
{
	nvmlMemory_v2_t memory = { .version = nvmlMemory_v2 };
	nvmlUtilization_t utilization;
	unsigned int value;

	if (told(nvml, device, nvml->memory(handle, &memory))) {
		device->used_bytes = memory.used;
		device->total_bytes = memory.total;
	}
	if (told(nvml, device, nvml->utilization(handle, &utilization))) {
		device->busy_percent = known(utilization.gpu);
		device->memory_busy_percent = known(utilization.memory);
	}
	if (told(nvml, device, nvml->power_mw(handle, &value)))
		device->power_mw = known(value);
	if (told(nvml, device, nvml->temperature_c(handle, NVML_TEMPERATURE_GPU, &value)))
		device->temperature_c = known(value);
	if (told(nvml, device, nvml->clock_mhz(handle, NVML_CLOCK_SM, &value)))
		device->sm_mhz = known(value);
	if (told(nvml, device, nvml->clock_mhz(handle, NVML_CLOCK_MEM, &value)))
		device->memory_mhz = known(value);
}

static void read_device(const struct inf_nvml *nvml, unsigned int idx, struct device *device)
{
	nvmlDevice_t handle;
	nvmlReturn_t result = nvml->device_at(idx, &handle);

	*device = (struct device){ .idx = idx, .used_bytes = UNKNOWN, .total_bytes = UNKNOWN, .busy_percent = UNKNOWN,
				   .memory_busy_percent = UNKNOWN, .power_mw = UNKNOWN, .temperature_c = UNKNOWN,
				   .sm_mhz = UNKNOWN, .memory_mhz = UNKNOWN };
	if (result) {
		snprintf(device->error, sizeof(device->error), "%s", nvml->error_text(result));
		return;
	}
	if (!told(nvml, device, nvml->device_name(handle, device->name, sizeof(device->name))))
		device->name[0] = 0;
	if (!told(nvml, device, nvml->device_uuid(handle, device->uuid, sizeof(device->uuid))))
		device->uuid[0] = 0;
	read_figures(nvml, handle, device);
	read_processes(nvml, handle, device);
}

/* --- which one the broker serves on --- */

struct broker {
	uint32_t executor_pid; /* 0 = none */
	char device[WORD_BYTES]; /* as it calls it, "" = no broker, or its executor is not ready */
	int served; /* index, or one of these */
	bool has_device; /* then: */
	uint64_t device_bytes; /* held for clients */
	char path[PATH_MAX];   /* of its socket */
};
#define SERVED_NONE    (-1)
#define SERVED_UNKNOWN (-2)

static bool holds_memory(const struct device *device, uint32_t pid)
{
	for (unsigned int i = 0; i < device->n_processes; i++)
		if (device->processes[i].pid == pid)
			return true;
	return false;
}

/*
 * The broker's "cuda:0" counts as CUDA does in the executor's environment, NVML by PCI bus: of several devices it is told only
 * by who holds memory, if all of them say it and one alone has the executor.
 */
static int find_served(const struct device *devices, unsigned int count, uint32_t pid)
{
	int found = SERVED_UNKNOWN;

	if (count == 1)
		return 0;
	for (unsigned int i = 0; i < count; i++) {
		if (!devices[i].has_processes || (holds_memory(&devices[i], pid) && found != SERVED_UNKNOWN))
			return SERVED_UNKNOWN;
		if (holds_memory(&devices[i], pid))
			found = (int)i;
	}
	return found;
}

static void read_broker(const struct options *options, const struct device *devices, unsigned int count, struct broker *broker)
{
	const struct inf_stats_public *stats;
	char device[sizeof(stats->device) + 1] = "";

	*broker = (struct broker){ .served = SERVED_UNKNOWN };
	stats = stats_find(options, broker->path);
	if (!stats)
		return;
	broker->served = SERVED_NONE;
	if (stats_life(&stats->head) == LIFE_GONE || stats_are_snapshot())
		return;
	broker->has_device = stats_has_device(stats);
	broker->device_bytes = inf_load64(&stats->device_bytes);
	if (inf_load32(&stats->executor_state) != INF_STATS_EXECUTOR_READY)
		return;
	broker->executor_pid = inf_load32(&stats->executor_pid);
	memcpy(device, stats->device, sizeof(stats->device));
	word_name(broker->device, device);
	if (!strncmp(device, "cuda:", 5))
		broker->served = find_served(devices, count, broker->executor_pid);
}

static bool is_executor(const struct broker *broker, const nvmlProcessInfo_t *process)
{
	return broker->executor_pid && process->pid == broker->executor_pid;
}

/* --- JSON --- */

static json_t *number(uint64_t value)
{
	return value == UNKNOWN ? json_null() : json_integer((json_int_t)value);
}

static json_t *text_or_null(const char *text)
{
	return text[0] ? json_text(text) : json_null();
}

static json_t *processes_json(const struct device *device, const struct broker *broker)
{
	json_t *processes = device->has_processes ? json_array() : json_null();

	for (unsigned int i = 0; device->has_processes && i < device->n_processes; i++) {
		const nvmlProcessInfo_t *process = &device->processes[i];

		json_array_append_new(processes, json_pack("{s:I, s:o, s:b}", "pid", (json_int_t)process->pid, "memory_bytes",
							   number(process->usedGpuMemory), "executor", is_executor(broker, process)));
	}
	return processes;
}

static json_t *as_json(const struct device *device, const struct broker *broker)
{
	const struct {
		const char *name;
		uint64_t value;
	} figures[] = {
		{ "memory_total_bytes", device->total_bytes }, { "memory_used_bytes", device->used_bytes },
		{ "busy_percent", device->busy_percent },      { "memory_busy_percent", device->memory_busy_percent },
		{ "power_mw", device->power_mw },	       { "temperature_c", device->temperature_c },
		{ "sm_mhz", device->sm_mhz },		       { "memory_mhz", device->memory_mhz },
	};
	json_t *json = json_pack("{s:i, s:o, s:o}", "index", (int)device->idx, "uuid", text_or_null(device->uuid), "name",
				 text_or_null(device->name));

	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
		json_object_set_new(json, figures[i].name, number(figures[i].value));
	json_object_set_new(json, "processes", processes_json(device, broker));
	json_object_set_new(json, "serves_models",
			    broker->served == SERVED_UNKNOWN ? json_null() : json_boolean(broker->served == (int)device->idx));
	json_object_set_new(json, "error", text_or_null(device->error));
	return json;
}

/* --- people --- */

static const char *word(char text[WORD_BYTES], uint64_t value, unsigned int per_unit, const char *unit)
{
	if (value != UNKNOWN)
		snprintf(text, WORD_BYTES, "%.0f %s", (double)value / per_unit, unit);
	return value != UNKNOWN ? text : "-";
}

static const char *word_memory(char text[WORD_BYTES], uint64_t n_bytes)
{
	return n_bytes == UNKNOWN ? "-" : word_bytes(text, n_bytes);
}

static const char *word_served(const struct broker *broker, unsigned int idx)
{
	if (broker->served == SERVED_UNKNOWN)
		return broker->device[0] ? "unknown" : "-";
	return broker->served == (int)idx ? broker->device : "no";
}

static void print_for_people(const struct device *device, const struct broker *broker)
{
	char used[WORD_BYTES], total[WORD_BYTES], busy[WORD_BYTES], memory_busy[WORD_BYTES], power[WORD_BYTES],
		temperature[WORD_BYTES], sm[WORD_BYTES], memory[WORD_BYTES];

	if (!device->idx)
		printf("%3s %-28s %-40s %9s %9s %5s %5s %6s %5s %8s %8s %s\n", "GPU", "NAME", "UUID", "USED", "MEMORY", "BUSY",
		       "R/W", "POWER", "TEMP", "SM", "MEM", "BROKER");
	printf("%3u %-28s %-40s %9s %9s %5s %5s %6s %5s %8s %8s %s\n", device->idx, device->name[0] ? device->name : "-",
	       device->uuid[0] ? device->uuid : "-", word_memory(used, device->used_bytes), word_memory(total, device->total_bytes),
	       word(busy, device->busy_percent, 1, "%"), word(memory_busy, device->memory_busy_percent, 1, "%"),
	       word(power, device->power_mw, 1000, "W"), word(temperature, device->temperature_c, 1, "C"),
	       word(sm, device->sm_mhz, 1, "MHz"), word(memory, device->memory_mhz, 1, "MHz"), word_served(broker, device->idx));
	if (!device->has_processes)
		puts("    processes -");
	for (unsigned int i = 0; device->has_processes && i < device->n_processes; i++)
		printf("    pid %-8u %s%s\n", device->processes[i].pid, word_memory(used, device->processes[i].usedGpuMemory),
		       is_executor(broker, &device->processes[i]) ? "  the broker's executor" : "");
	if (device->error[0])
		printf("    error: %s\n", device->error);
}

/* --- the broker's clients --- */

struct clients {
	json_t *json; /* NULL = lines for people */
	uint64_t shown_bytes;
};

static void show_client(void *data, const struct inf_stats_session *entry)
{
	char name[sizeof(entry->name) + 1], word[WORD_BYTES], held[WORD_BYTES];
	uint64_t n_bytes = inf_load64(&entry->device_bytes);
	struct clients *clients = data;

	if (!n_bytes)
		return;
	clients->shown_bytes += n_bytes;
	snprintf(name, sizeof(name), "%.*s", (int)strnlen(entry->name, sizeof(entry->name)), entry->name);
	if (clients->json)
		json_array_append_new(clients->json, json_pack("{s:i, s:i, s:i, s:o, s:I}", "id", (int)entry->id, "pid", (int)entry->pid,
							       "uid", (int)entry->uid, "name", json_text(name), "device_bytes",
							       (json_int_t)n_bytes));
	else
		printf("    session %-6" PRIu32 " pid %-8" PRIu32 " %-16.16s %s\n", entry->id, entry->pid, word_name(word, name),
		       word_bytes(held, n_bytes));
}

static uint64_t not_shown(const struct broker *broker, const struct clients *clients)
{
	return broker->device_bytes > clients->shown_bytes ? broker->device_bytes - clients->shown_bytes : 0;
}

/* null where no broker serves on a device. */
static json_t *clients_json(const struct broker *broker)
{
	struct clients clients = { .json = json_array() };

	if (!broker->has_device) {
		json_decref(clients.json);
		return json_null();
	}
	stats_each_session(broker->path, show_client, &clients);
	return json_pack("{s:I, s:o, s:I}", "device_bytes", (json_int_t)broker->device_bytes, "sessions", clients.json,
			 "not_shown_bytes", (json_int_t)not_shown(broker, &clients));
}

static void print_clients(const struct broker *broker)
{
	struct clients clients = { 0 };
	char held[WORD_BYTES];

	if (!broker->has_device)
		return;
	printf("\nthe broker's executor holds %s for clients\n", word_bytes(held, broker->device_bytes));
	stats_each_session(broker->path, show_client, &clients);
	if (not_shown(broker, &clients))
		printf("    %s of others, or of sessions that are ending\n", word_bytes(held, not_shown(broker, &clients)));
}

/* --- both --- */

/* Frees the devices' lists. */
static int show(const struct options *options, struct device *devices, unsigned int count, const char *version)
{
	json_t *list = options->json ? json_array() : NULL;
	struct broker broker;
	bool is_well = true;
	int r;

	read_broker(options, devices, count, &broker);
	for (unsigned int i = 0; i < count; i++) {
		if (list)
			json_array_append_new(list, as_json(&devices[i], &broker));
		else
			print_for_people(&devices[i], &broker);
		is_well &= !devices[i].error[0];
		free(devices[i].processes);
	}
	if (list) {
		r = print_json(options, "devices", json_pack("{s:o, s:o, s:o}", "driver", text_or_null(version), "devices", list,
							     "clients", clients_json(&broker)));
		return is_well ? r : EXIT_UNHEALTHY;
	}
	print_clients(&broker);
	printf("%s%u device(s), driver %s\n", count ? "\n" : "", count, version[0] ? version : "-");
	return is_well ? EXIT_OK : EXIT_UNHEALTHY;
}

static int run(const struct options *options, int argc, char **argv)
{
	char text[INF_NVML_TEXT_BYTES], version[96];
	unsigned int count = 0;
	struct device *devices;
	struct inf_nvml nvml;
	nvmlReturn_t result;
	int r;

	r = no_arguments(options, argc, argv);
	if (r)
		return r;
	r = inf_nvml_open(&nvml, text);
	if (r)
		return fail(options, r == -EACCES ? EXIT_NO_PERMISSION : EXIT_UNHEALTHY, "%s", text);
	if (nvml.driver_version(version, sizeof(version)))
		version[0] = 0;
	result = nvml.device_count(&count);
	if (result)
		return fail(options, EXIT_UNHEALTHY, "the NVIDIA driver does not count its devices: %s", nvml.error_text(result));
	devices = calloc(count ? count : 1, sizeof(*devices));
	if (!devices)
		return fail(options, EXIT_UNHEALTHY, "out of memory");
	for (unsigned int i = 0; i < count; i++)
		read_device(&nvml, i, &devices[i]);
	nvml.shutdown();
	r = show(options, devices, count, version);
	free(devices);
	return r;
}

const struct command command_devices = {
	.name = "devices",
	.summary = "the NVIDIA devices of this machine: memory, load, power, and who is on them",
	.usage = "Usage: shmctl devices [-j]\n"
		 "One line per device and one per process that holds memory on it; needs NVIDIA's driver, and no broker: with\n"
		 "one, its executor is named, the clients that it holds memory for (those that you may see), and the device that\n"
		 "it serves models on where that is certain. What a device does not tell is \"-\" (null in JSON).\n"
		 "Exit status 1: no driver, or a device that does not answer; 4: it may not be asked.\n",
	.run = run,
};
