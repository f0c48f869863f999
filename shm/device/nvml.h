/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvml.h - what NVIDIA's management library says about the devices of a machine. Found by dlopen when it is asked for, as
 * the driver is (driver.h); the types and values of nvml.h of CUDA 13.0 are written out, and compared with it by
 * tests/gpu/abi.sh.
 */
#ifndef SHM_DEVICE_NVML_H
#define SHM_DEVICE_NVML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef INF_NVML_HEADER
#include <nvml.h>
#else

typedef enum {
	NVML_SUCCESS = 0,
	NVML_ERROR_NOT_SUPPORTED = 3,
	NVML_ERROR_NO_PERMISSION = 4,
	NVML_ERROR_INSUFFICIENT_SIZE = 7,
	NVML_ERROR_DRIVER_NOT_LOADED = 9,
	NVML_ERROR_FUNCTION_NOT_FOUND = 13,
	NVML_ERROR_GPU_IS_LOST = 15,
	NVML_ERROR_OPERATING_SYSTEM = 17,
} nvmlReturn_t;

typedef struct nvmlDevice_st *nvmlDevice_t;

typedef struct {
	unsigned int version; /* nvmlMemory_v2 */
	unsigned long long total, reserved, free, used; /* what driver and firmware keep is not in `used` */
} nvmlMemory_v2_t;
#define nvmlMemory_v2 ((unsigned int)(sizeof(nvmlMemory_v2_t) | 2u << 24))

typedef struct {
	unsigned int gpu, memory; /* percent of the last sampling period in which something ran, or was read or written */
} nvmlUtilization_t;

typedef struct {
	unsigned int pid;
	unsigned long long usedGpuMemory;
	unsigned int gpuInstanceId, computeInstanceId; /* of MIG */
} nvmlProcessInfo_t;

typedef enum {
	NVML_TEMPERATURE_GPU = 0,
} nvmlTemperatureSensors_t;

typedef enum {
	NVML_CLOCK_SM = 1,
	NVML_CLOCK_MEM = 2,
} nvmlClockType_t;

#endif /* INF_NVML_HEADER */

/* X(member of struct inf_nvml, exported symbol, result, parameters) */
#define INF_NVML_CALLS(X)                                                                                                  \
	X(init, nvmlInit_v2, nvmlReturn_t, (void))                                                                         \
	X(shutdown, nvmlShutdown, nvmlReturn_t, (void))                                                                    \
	X(error_text, nvmlErrorString, const char *, (nvmlReturn_t result))                                                \
	X(driver_version, nvmlSystemGetDriverVersion, nvmlReturn_t, (char *text, unsigned int bytes))                      \
	X(device_count, nvmlDeviceGetCount_v2, nvmlReturn_t, (unsigned int *count))                                        \
	X(device_at, nvmlDeviceGetHandleByIndex_v2, nvmlReturn_t, (unsigned int idx, nvmlDevice_t *device))                \
	X(device_name, nvmlDeviceGetName, nvmlReturn_t, (nvmlDevice_t device, char *text, unsigned int bytes))             \
	X(device_uuid, nvmlDeviceGetUUID, nvmlReturn_t, (nvmlDevice_t device, char *text, unsigned int bytes))             \
	X(memory, nvmlDeviceGetMemoryInfo_v2, nvmlReturn_t, (nvmlDevice_t device, nvmlMemory_v2_t *memory))                \
	X(utilization, nvmlDeviceGetUtilizationRates, nvmlReturn_t, (nvmlDevice_t device, nvmlUtilization_t *utilization)) \
	X(power_mw, nvmlDeviceGetPowerUsage, nvmlReturn_t, (nvmlDevice_t device, unsigned int *mw))                        \
	X(clock_mhz, nvmlDeviceGetClockInfo, nvmlReturn_t, (nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)) \
	X(temperature_c, nvmlDeviceGetTemperature, nvmlReturn_t,                                                           \
	  (nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *c))                                         \
	X(compute_processes, nvmlDeviceGetComputeRunningProcesses_v3, nvmlReturn_t,                                        \
	  (nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *processes))                                        \
	X(graphics_processes, nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlReturn_t,                                      \
	  (nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *processes))                                        \
	X(mps_processes, nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlReturn_t,                                         \
	  (nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *processes))

#define INF_NVML_LIBRARY "libnvidia-ml.so.1"
#define INF_NVML_TEXT_BYTES 200

struct inf_nvml {
#define INF_NVML_MEMBER(member, symbol, result, params) result(*member) params;
	INF_NVML_CALLS(INF_NVML_MEMBER)
#undef INF_NVML_MEMBER
};

/*
 * inf_nvml_open - finds the library ($INF_NVML_LIBRARY, not in set-uid programs, else INF_NVML_LIBRARY) and starts it.
 * @text: gets one line that says why not; INF_NVML_TEXT_BYTES
 * Errors: -ENOENT (no library, so no NVIDIA driver), -ENOSYS (it lacks a call: too old), -ENODEV (it runs no driver),
 * -EACCES, -EIO.
 */
int inf_nvml_open(struct inf_nvml *nvml, char text[INF_NVML_TEXT_BYTES]);

#endif /* SHM_DEVICE_NVML_H */
