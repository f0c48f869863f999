/* SPDX-License-Identifier: Apache-2.0 */
/* slab.c - see slab.h. */
#include "shm/device/slab.h"
#include <unistd.h>

static CUmemAllocationProp properties_of(CUdevice device)
{
	return (CUmemAllocationProp){
		.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
		.location = { .type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device },
	};
}

/* The mapping alone keeps the memory: handles can be given back as soon as it is there. */
static CUresult map(const struct inf_driver *driver, CUdevice device, CUmemGenericAllocationHandle handle, uint64_t bytes,
		    struct inf_slab *ret_slab)
{
	CUmemAccessDesc access = {
		.location = { .type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device },
		.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
	};
	CUdeviceptr address;
	CUresult result = driver->mem_reserve(&address, bytes, 0, 0, 0);

	if (result)
		return result;
	result = driver->mem_map(address, bytes, 0, handle, 0);
	if (result) {
		driver->mem_unreserve(address, bytes);
		return result;
	}
	result = driver->mem_access(address, bytes, &access, 1);
	if (result) {
		driver->mem_unmap(address, bytes);
		driver->mem_unreserve(address, bytes);
		return result;
	}
	*ret_slab = (struct inf_slab){ .address = address, .bytes = bytes };
	return CUDA_SUCCESS;
}

/* A stream of its own: the default one would wait for everybody else's. */
static CUresult scrub(const struct inf_driver *driver, const struct inf_slab *slab)
{
	CUstream stream;
	CUresult result = driver->stream_create(&stream, CU_STREAM_NON_BLOCKING, 0), ended;

	if (result)
		return result;
	result = driver->fill(slab->address, 0, slab->bytes, stream);
	if (!result)
		result = driver->stream_synchronize(stream);
	ended = driver->stream_destroy(stream);
	return result ? result : ended;
}

CUresult inf_slab_make(const struct inf_driver *driver, CUdevice device, uint64_t bytes, struct inf_slab *ret_slab, int *ret_fd)
{
	CUmemAllocationProp properties = properties_of(device);
	CUmemGenericAllocationHandle handle;
	struct inf_slab slab = { 0 };
	size_t granularity;
	int fd = -1;
	CUresult result = driver->mem_granularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM), released;

	if (result)
		return result;
	bytes = (bytes + granularity - 1) / granularity * granularity;
	result = driver->mem_create(&handle, bytes, &properties, 0);
	if (result)
		return result;
	result = map(driver, device, handle, bytes, &slab);
	/* What was there before belonged to somebody else. */
	if (!result)
		result = scrub(driver, &slab);
	if (!result)
		result = driver->mem_export(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
	released = driver->mem_release(handle);
	if (!result)
		result = released;
	if (result) {
		if (fd >= 0)
			close(fd);
		inf_slab_unmap(driver, &slab);
		return result;
	}
	*ret_slab = slab;
	*ret_fd = fd;
	return CUDA_SUCCESS;
}

CUresult inf_slab_map(const struct inf_driver *driver, CUdevice device, int fd, uint64_t bytes, struct inf_slab *ret_slab)
{
	CUmemGenericAllocationHandle handle;
	CUresult result = driver->mem_import(&handle, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	CUresult released;

	if (result)
		return result;
	result = map(driver, device, handle, bytes, ret_slab);
	released = driver->mem_release(handle);
	if (!result && released) {
		inf_slab_unmap(driver, ret_slab);
		return released;
	}
	return result;
}

CUresult inf_slab_unmap(const struct inf_driver *driver, struct inf_slab *slab)
{
	CUresult result;

	if (!slab->address)
		return CUDA_SUCCESS;
	result = driver->mem_unmap(slab->address, slab->bytes);
	/* Addresses that still have memory behind them are better lost than given back. */
	if (!result)
		result = driver->mem_unreserve(slab->address, slab->bytes);
	*slab = (struct inf_slab){ 0 };
	return result;
}
