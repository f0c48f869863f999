/* SPDX-License-Identifier: Apache-2.0 */
/* nvml_abi.c - as abi.c, of shm/device/nvml.h; the second time with NVML's own header (-DINF_NVML_HEADER). */
#include "shm/device/nvml.h"
#include <stdio.h>

#ifdef INF_NVML_HEADER
#define CHECK(member, symbol, result, params)                                                                          \
	_Static_assert(__builtin_types_compatible_p(__typeof__(&symbol), __typeof__(((struct inf_nvml *)0)->member)), \
		       #symbol " has another prototype in nvml.h");
INF_NVML_CALLS(CHECK)
#endif

#define VALUE(name)	     printf(#name " %lld\n", (long long)(name));
#define MEMBER(type, member) printf(#type "." #member " %zu %zu %zu\n", sizeof(type), offsetof(type, member), sizeof(((type *)0)->member));

int main(void)
{
	VALUE(NVML_SUCCESS)
	VALUE(NVML_ERROR_NOT_SUPPORTED)
	VALUE(NVML_ERROR_NO_PERMISSION)
	VALUE(NVML_ERROR_INSUFFICIENT_SIZE)
	VALUE(NVML_ERROR_DRIVER_NOT_LOADED)
	VALUE(NVML_ERROR_FUNCTION_NOT_FOUND)
	VALUE(NVML_ERROR_GPU_IS_LOST)
	VALUE(NVML_ERROR_OPERATING_SYSTEM)
	VALUE(NVML_TEMPERATURE_GPU)
	VALUE(NVML_CLOCK_SM)
	VALUE(NVML_CLOCK_MEM)
	VALUE(nvmlMemory_v2)
	MEMBER(nvmlMemory_v2_t, version)
	MEMBER(nvmlMemory_v2_t, total)
	MEMBER(nvmlMemory_v2_t, reserved)
	MEMBER(nvmlMemory_v2_t, free)
	MEMBER(nvmlMemory_v2_t, used)
	MEMBER(nvmlUtilization_t, gpu)
	MEMBER(nvmlUtilization_t, memory)
	MEMBER(nvmlProcessInfo_t, pid)
	MEMBER(nvmlProcessInfo_t, usedGpuMemory)
	MEMBER(nvmlProcessInfo_t, gpuInstanceId)
	MEMBER(nvmlProcessInfo_t, computeInstanceId)
	return 0;
}
