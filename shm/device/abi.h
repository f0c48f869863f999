/* SPDX-License-Identifier: Apache-2.0 */
/*
 * abi.h - the part of the CUDA driver's binary interface that infbroker uses, under the driver's own names.
 *
 * Written out here so that everything builds without a toolkit, and that nothing but the torch plug-in is linked with a
 * CUDA library. Where a toolkit is, tests/gpu/abi.sh compares each type, value and prototype with its cuda.h
 * (INF_CUDA_TOOLKIT makes this header include that instead). Source: cuda.h of CUDA 13.0.
 */
#ifndef SHM_DEVICE_ABI_H
#define SHM_DEVICE_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef INF_CUDA_TOOLKIT
#include <cuda.h>
#else

typedef enum {
	CUDA_SUCCESS = 0,
	CUDA_ERROR_INVALID_VALUE = 1,
	CUDA_ERROR_OUT_OF_MEMORY = 2,
	CUDA_ERROR_NOT_INITIALIZED = 3,
	CUDA_ERROR_DEINITIALIZED = 4,
	CUDA_ERROR_NO_DEVICE = 100,
	CUDA_ERROR_INVALID_DEVICE = 101,
	CUDA_ERROR_INVALID_IMAGE = 200,
	CUDA_ERROR_INVALID_CONTEXT = 201,
	CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
	CUDA_ERROR_ECC_UNCORRECTABLE = 214,
	CUDA_ERROR_INVALID_HANDLE = 400,
	CUDA_ERROR_NOT_FOUND = 500,
	CUDA_ERROR_NOT_READY = 600,
	CUDA_ERROR_ILLEGAL_ADDRESS = 700,
	CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
	CUDA_ERROR_LAUNCH_TIMEOUT = 702,
	CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
	CUDA_ERROR_ASSERT = 710,
	CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712,
	CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED = 713,
	CUDA_ERROR_LAUNCH_FAILED = 719,
	CUDA_ERROR_NOT_PERMITTED = 800,
	CUDA_ERROR_NOT_SUPPORTED = 801,
	CUDA_ERROR_SYSTEM_NOT_READY = 802,
	CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
	CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
	CUDA_ERROR_UNKNOWN = 999,
} CUresult;

typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef uint64_t cuuint64_t;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef void (*CUhostFn)(void *data);

typedef struct {
	char bytes[16];
} CUuuid;

/* Bearer tokens: whoever has the bytes may open what they name. */
#define CU_IPC_HANDLE_SIZE 64

typedef struct {
	char reserved[CU_IPC_HANDLE_SIZE];
} CUipcMemHandle;

typedef struct {
	char reserved[CU_IPC_HANDLE_SIZE];
} CUipcEventHandle;

typedef enum {
	CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
	CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
	CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
	CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102,
	CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED = 103,
	CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED = 113,
	CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS = 122,
} CUdevice_attribute;

typedef enum {
	CU_MEM_ALLOCATION_TYPE_PINNED = 1,
} CUmemAllocationType;

typedef enum {
	CU_MEM_HANDLE_TYPE_NONE = 0,
	CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1,
} CUmemAllocationHandleType;

typedef enum {
	CU_MEM_LOCATION_TYPE_DEVICE = 1,
} CUmemLocationType;

typedef enum {
	CU_MEM_ACCESS_FLAGS_PROT_NONE = 0,
	CU_MEM_ACCESS_FLAGS_PROT_READ = 1,
	CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3,
} CUmemAccess_flags;

typedef enum {
	CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0,
	CU_MEM_ALLOC_GRANULARITY_RECOMMENDED = 1,
} CUmemAllocationGranularity_flags;

typedef struct {
	CUmemLocationType type;
	int id; /* ordinal */
} CUmemLocation;

typedef struct {
	CUmemAllocationType type;
	CUmemAllocationHandleType requestedHandleTypes;
	CUmemLocation location;
	void *win32HandleMetaData;
	struct {
		unsigned char compressionType;
		unsigned char gpuDirectRDMACapable;
		unsigned short usage;
		unsigned char reserved[4];
	} allocFlags;
} CUmemAllocationProp;

typedef struct {
	CUmemLocation location;
	CUmemAccess_flags flags;
} CUmemAccessDesc;

typedef enum {
	CU_POINTER_ATTRIBUTE_CONTEXT = 1,
	CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
	CU_POINTER_ATTRIBUTE_BUFFER_ID = 7,
	CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
	CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE = 10,
	CU_POINTER_ATTRIBUTE_RANGE_START_ADDR = 11,
	CU_POINTER_ATTRIBUTE_RANGE_SIZE = 12,
	CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES = 14,
} CUpointer_attribute;

typedef enum {
	CU_STREAM_CAPTURE_MODE_GLOBAL = 0,
	CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
	CU_STREAM_CAPTURE_MODE_RELAXED = 2,
} CUstreamCaptureMode;

#define CU_CTX_SCHED_BLOCKING_SYNC	0x04
#define CU_STREAM_NON_BLOCKING		0x01
#define CU_MEMORYTYPE_DEVICE		0x02
#define CU_EVENT_BLOCKING_SYNC		0x01
#define CU_EVENT_DISABLE_TIMING		0x02
#define CU_EVENT_INTERPROCESS		0x04
#define CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS 0x01
#define CU_STREAM_WRITE_VALUE_DEFAULT	0x00
#define CU_STREAM_WAIT_VALUE_GEQ	0x00
#define CU_MEMHOSTREGISTER_PORTABLE	0x01
#define CU_MEMHOSTREGISTER_DEVICEMAP	0x02
#define CU_MEMHOSTREGISTER_READ_ONLY	0x08

#endif /* INF_CUDA_TOOLKIT */

/*
 * X(member of struct inf_driver, exported symbol, parameters): every call that anything here makes. The suffixes are
 * those of the versions that cuda.h maps the plain names to.
 */
#define INF_DRIVER_CALLS(X)                                                                                             \
	X(init, cuInit, (unsigned int flags))                                                                           \
	X(driver_version, cuDriverGetVersion, (int *version))                                                           \
	X(error_name, cuGetErrorName, (CUresult error, const char **text))                                              \
	X(device_count, cuDeviceGetCount, (int *count))                                                                 \
	X(device_get, cuDeviceGet, (CUdevice *device, int ordinal))                                                     \
	X(device_name, cuDeviceGetName, (char *name, int bytes, CUdevice device))                                       \
	X(device_uuid, cuDeviceGetUuid_v2, (CUuuid *uuid, CUdevice device))                                             \
	X(device_attribute, cuDeviceGetAttribute, (int *value, CUdevice_attribute attribute, CUdevice device))          \
	X(context_retain, cuDevicePrimaryCtxRetain, (CUcontext *context, CUdevice device))                              \
	X(context_release, cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                             \
	X(context_flags, cuDevicePrimaryCtxSetFlags_v2, (CUdevice device, unsigned int flags))                          \
	X(context_set, cuCtxSetCurrent, (CUcontext context))                                                            \
	X(context_get, cuCtxGetCurrent, (CUcontext *context))                                                           \
	X(context_synchronize, cuCtxSynchronize, (void))                                                                \
	X(priority_range, cuCtxGetStreamPriorityRange, (int *least, int *greatest))                                     \
	X(mem_info, cuMemGetInfo_v2, (size_t *free_bytes, size_t *total_bytes))                                         \
	X(mem_alloc, cuMemAlloc_v2, (CUdeviceptr *address, size_t bytes))                                               \
	X(mem_free, cuMemFree_v2, (CUdeviceptr address))                                                                \
	X(host_alloc, cuMemAllocHost_v2, (void **address, size_t bytes))                                                \
	X(host_free, cuMemFreeHost, (void *address))                                                                    \
	X(host_register, cuMemHostRegister_v2, (void *address, size_t bytes, unsigned int flags))                       \
	X(host_unregister, cuMemHostUnregister, (void *address))                                                        \
	X(host_device_pointer, cuMemHostGetDevicePointer_v2, (CUdeviceptr *device, void *host, unsigned int flags))     \
	X(mem_granularity, cuMemGetAllocationGranularity,                                                               \
	  (size_t *bytes, const CUmemAllocationProp *properties, CUmemAllocationGranularity_flags option))              \
	X(mem_create, cuMemCreate, (CUmemGenericAllocationHandle *handle, size_t bytes,                                 \
				    const CUmemAllocationProp *properties, unsigned long long flags))                   \
	X(mem_release, cuMemRelease, (CUmemGenericAllocationHandle handle))                                             \
	X(mem_reserve, cuMemAddressReserve, (CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wish,    \
					     unsigned long long flags))                                                 \
	X(mem_unreserve, cuMemAddressFree, (CUdeviceptr address, size_t bytes))                                         \
	X(mem_map, cuMemMap, (CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,    \
			      unsigned long long flags))                                                                \
	X(mem_unmap, cuMemUnmap, (CUdeviceptr address, size_t bytes))                                                   \
	X(mem_access, cuMemSetAccess, (CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t n))     \
	X(mem_export, cuMemExportToShareableHandle, (void *fd, CUmemGenericAllocationHandle handle,                     \
						     CUmemAllocationHandleType type, unsigned long long flags))         \
	X(mem_import, cuMemImportFromShareableHandle, (CUmemGenericAllocationHandle *handle, void *fd,                  \
						       CUmemAllocationHandleType type))                                 \
	X(copy_in, cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))             \
	X(copy_out, cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                  \
	X(copy, cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                \
	X(fill, cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))                  \
	X(pointer_attributes, cuPointerGetAttributes, (unsigned int n, CUpointer_attribute *attributes, void **values,  \
						       CUdeviceptr address))                                            \
	X(address_range, cuMemGetAddressRange_v2, (CUdeviceptr *base, size_t *bytes, CUdeviceptr address))              \
	X(stream_create, cuStreamCreateWithPriority, (CUstream *stream, unsigned int flags, int priority))              \
	X(stream_destroy, cuStreamDestroy_v2, (CUstream stream))                                                        \
	X(stream_synchronize, cuStreamSynchronize, (CUstream stream))                                                   \
	X(stream_query, cuStreamQuery, (CUstream stream))                                                               \
	X(stream_wait_event, cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned int flags))                   \
	X(stream_call, cuLaunchHostFunc, (CUstream stream, CUhostFn function, void *data))                              \
	X(stream_write, cuStreamWriteValue64_v2, (CUstream stream, CUdeviceptr address, cuuint64_t value,               \
						  unsigned int flags))                                                  \
	X(stream_wait, cuStreamWaitValue64_v2, (CUstream stream, CUdeviceptr address, cuuint64_t value,                 \
						unsigned int flags))                                                    \
	X(event_create, cuEventCreate, (CUevent *event, unsigned int flags))                                            \
	X(event_destroy, cuEventDestroy_v2, (CUevent event))                                                            \
	X(event_record, cuEventRecord, (CUevent event, CUstream stream))                                                \
	X(event_query, cuEventQuery, (CUevent event))                                                                   \
	X(event_synchronize, cuEventSynchronize, (CUevent event))                                                       \
	X(module_load, cuModuleLoadData, (CUmodule *module, const void *image))                                         \
	X(module_unload, cuModuleUnload, (CUmodule module))                                                             \
	X(module_function, cuModuleGetFunction, (CUfunction *function, CUmodule module, const char *name))              \
	X(launch, cuLaunchKernel, (CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,  \
				   unsigned int block_x, unsigned int block_y, unsigned int block_z,                    \
				   unsigned int shared_bytes, CUstream stream, void **params, void **extra))            \
	X(capture_begin, cuStreamBeginCapture_v2, (CUstream stream, CUstreamCaptureMode mode))                          \
	X(capture_end, cuStreamEndCapture, (CUstream stream, CUgraph *graph))                                           \
	X(graph_instantiate, cuGraphInstantiateWithFlags, (CUgraphExec *exec, CUgraph graph,                            \
							   unsigned long long flags))                                   \
	X(graph_launch, cuGraphLaunch, (CUgraphExec exec, CUstream stream))                                             \
	X(graph_exec_destroy, cuGraphExecDestroy, (CUgraphExec exec))                                                   \
	X(graph_destroy, cuGraphDestroy, (CUgraph graph))

/*
 * Likewise, and a driver may lack them: they only serve memory of cudaMalloc that another process opens, which is refused
 * then.
 */
#define INF_DRIVER_IPC_CALLS(X)                                                                                         \
	X(ipc_get_memory, cuIpcGetMemHandle, (CUipcMemHandle *handle, CUdeviceptr address))                             \
	X(ipc_open_memory, cuIpcOpenMemHandle_v2, (CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags))    \
	X(ipc_close_memory, cuIpcCloseMemHandle, (CUdeviceptr address))                                                 \
	X(ipc_get_event, cuIpcGetEventHandle, (CUipcEventHandle *handle, CUevent event))                                \
	X(ipc_open_event, cuIpcOpenEventHandle, (CUevent *event, CUipcEventHandle handle))

#endif /* SHM_DEVICE_ABI_H */
