/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm.c - virtual memory management: physical memory that handles name, addresses that are reserved apart from it, mappings of
 * the one at the other, and file descriptors that carry it to another process.
 *
 * Physical memory is a memfd, whose name says the device and which is sealed at its size. It lives as long as anybody anywhere
 * has a descriptor or a mapping of it, which is the kernel's count; `n_handles` and `n_mappings` count those of this process, and
 * decide when it stops being charged for it. So memory that only an exported descriptor holds is charged to nobody.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

struct physical {
	struct physical *next;
	int fd; /* -1: no handle is left */
	ino_t inode;
	size_t bytes;
	int device;
	bool is_exportable, is_imported;
	unsigned int n_handles, n_mappings;
	struct shadow *shadow;
};

struct handle {
	struct object object;
	struct physical *physical;
};

struct reservation {
	struct reservation *next;
	uint64_t address;
	size_t bytes;
};

static struct physical *physicals;
static struct reservation *reservations;

static bool is_whole(uint64_t value)
{
	return value && !(value % FAKECUDA_GRANULARITY);
}

static void *pointer(uint64_t address)
{
	return (void *)(uintptr_t)address;
}

bool physical_is_exportable(const struct physical *physical)
{
	return physical->is_exportable;
}

struct shadow *physical_shadow(struct physical *physical)
{
	return physical->shadow;
}

/* --- physical memory ----------------------------------------------------------------------------------------------- */

static void charge(const struct physical *physical, bool is_taken)
{
	uint64_t *bytes = physical->is_imported ? &ledger->imported_bytes : &ledger->device_bytes;
	uint64_t more = is_taken ? physical->bytes : -(uint64_t)physical->bytes;

	*bytes += more;
	if (!physical->is_imported)
		devices[physical->device].used_bytes += more;
	state_update();
}

static struct physical *physical_new(int fd, size_t bytes, int device, bool is_exportable, bool is_imported)
{
	struct physical *physical = calloc(1, sizeof(*physical));
	struct stat status;

	if (!physical || fstat(fd, &status))
		abort();
	*physical = (struct physical){ physicals,	fd, status.st_ino, bytes, device, is_exportable, is_imported, 0, 0,
				       shadow_new() };
	physicals = physical;
	charge(physical, true);
	return physical;
}

static void settle(struct physical *physical)
{
	struct physical **at = &physicals;

	if (!physical->n_handles && physical->fd >= 0) {
		close(physical->fd);
		physical->fd = -1;
	}
	if (physical->n_handles || physical->n_mappings)
		return;
	while (*at != physical)
		at = &(*at)->next;
	*at = physical->next;
	charge(physical, false);
	shadow_free(physical->shadow);
	free(physical);
}

static CUmemGenericAllocationHandle handle_of(struct physical *physical)
{
	struct handle *handle = calloc(1, sizeof(*handle));

	if (!handle)
		abort();
	handle->physical = physical;
	physical->n_handles++;
	/* Of no context: as on the real one, contexts come and go without it. */
	object_add(&handle->object, KIND_HANDLE, NULL);
	ledger->handles++;
	return handle->object.handle;
}

static CUresult check_properties(const CUmemAllocationProp *properties, const char *what)
{
	if (!settings.has_vmm)
		return CUDA_ERROR_NOT_SUPPORTED;
	if (!properties || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
	    properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
	    properties->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
		violation("%s: not pinned memory of a device, with or without a file descriptor", what);
		return CUDA_ERROR_INVALID_VALUE;
	}
	if (!is_device_number(properties->location.id)) {
		violation("%s: there is no device %d", what, properties->location.id);
		return CUDA_ERROR_INVALID_DEVICE;
	}
	return properties->requestedHandleTypes && !settings.has_posix_fd ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *properties,
				       CUmemAllocationGranularity_flags option)
{
	CUresult result;

	BEGIN(cuMemGetAllocationGranularity, NEEDS_NO_ERROR);
	(void)option;
	result = check_properties(properties, "cuMemGetAllocationGranularity");
	if (!result)
		*bytes = FAKECUDA_GRANULARITY;
	return call_end(result);
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *properties,
		     unsigned long long flags)
{
	CUresult result;
	char name[64];
	int device, fd;

	BEGIN(cuMemCreate, NEEDS_NO_ERROR);
	result = check_properties(properties, "cuMemCreate");
	if (result)
		return call_end(result);
	if (!is_whole(bytes) || flags) {
		violation("cuMemCreate of %zu bytes with flags %#llx: not whole units of 2 MiB, or not 0", bytes, flags);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	device = properties->location.id;
	if (bytes > settings.memory_bytes || devices[device].used_bytes > settings.memory_bytes - bytes)
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	snprintf(name, sizeof(name), "fakecuda-%d-%s", device, properties->requestedHandleTypes ? "shared" : "private");
	fd = memory_fd(name, bytes);
	if (fd < 0 || fcntl(fd, F_ADD_SEALS, SEALS)) {
		if (fd >= 0)
			close(fd);
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	}
	*handle = handle_of(physical_new(fd, bytes, device, properties->requestedHandleTypes, false));
	return call_end(CUDA_SUCCESS);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle value)
{
	struct handle *handle;

	BEGIN(cuMemRelease, NEEDS_NO_ERROR);
	handle = object_get(KIND_HANDLE, value, "cuMemRelease");
	if (!handle)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	object_remove(&handle->object);
	handle->physical->n_handles--;
	settle(handle->physical);
	free(handle);
	ledger->handles--;
	return call_end(CUDA_SUCCESS);
}

/* --- other processes ------------------------------------------------------------------------------------------------- */

CUresult cuMemExportToShareableHandle(void *fd, CUmemGenericAllocationHandle value, CUmemAllocationHandleType type,
				      unsigned long long flags)
{
	struct handle *handle;
	int copy;

	BEGIN(cuMemExportToShareableHandle, NEEDS_NO_ERROR);
	handle = object_get(KIND_HANDLE, value, "cuMemExportToShareableHandle");
	if (!handle || !fd || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || flags)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	if (!handle->physical->is_exportable) {
		violation("cuMemExportToShareableHandle: memory that was created without a handle type");
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	copy = fcntl(handle->physical->fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	memcpy(fd, &copy, sizeof(copy));
	ledger->exported_fds++;
	return call_end(CUDA_SUCCESS);
}

/* Is it one of ours, of this or another process? */
static bool is_ours(int fd, int *ret_device, struct stat *ret_status)
{
	char path[40], name[96];
	ssize_t n;
	int end = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return false;
	name[n] = 0;
	return sscanf(name, "/memfd:fakecuda-%d-shared (deleted)%n", ret_device, &end) == 1 && end == n &&
	       !fstat(fd, ret_status) && fcntl(fd, F_GET_SEALS) == SEALS && is_whole((uint64_t)ret_status->st_size);
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *shareable, CUmemAllocationHandleType type)
{
	int fd = (int)(intptr_t)shareable, device = 0;
	struct physical *physical = physicals;
	struct stat status;

	BEGIN(cuMemImportFromShareableHandle, NEEDS_NO_ERROR);
	if (!settings.has_vmm || !settings.has_posix_fd)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	if (!is_ours(fd, &device, &status)) {
		violation("cuMemImportFromShareableHandle: descriptor %d is no exported memory", fd);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	if (!is_device_number(device))
		return call_end(CUDA_ERROR_INVALID_DEVICE);
	while (physical && physical->inode != status.st_ino)
		physical = physical->next;
	if (!physical || physical->fd < 0) {
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return call_end(CUDA_ERROR_OUT_OF_MEMORY);
		if (physical)
			physical->fd = fd;
		else
			physical = physical_new(fd, (size_t)status.st_size, device, true, true);
	}
	*handle = handle_of(physical);
	return call_end(CUDA_SUCCESS);
}

/* --- addresses ----------------------------------------------------------------------------------------------------------- */

static void *reserve(void *wish, size_t bytes, size_t alignment)
{
	uint64_t all = bytes + alignment, begin, aligned;
	void *base = mmap(wish, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return NULL;
	begin = (uintptr_t)base;
	aligned = (begin + alignment - 1) & ~(alignment - 1);
	if (aligned > begin)
		munmap(base, aligned - begin);
	if (begin + all > aligned + bytes)
		munmap(pointer(aligned + bytes), begin + all - aligned - bytes);
	return pointer(aligned);
}

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wish,
			     unsigned long long flags)
{
	struct reservation *reservation;
	void *at;

	BEGIN(cuMemAddressReserve, NEEDS_NO_ERROR);
	if (!settings.has_vmm)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	if (!is_whole(bytes) || alignment & (alignment - 1) || flags || !address) {
		violation("cuMemAddressReserve of %zu bytes at %zu: not whole units of 2 MiB, or no power of two", bytes,
			  alignment);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	at = reserve(pointer(wish), bytes, alignment < FAKECUDA_GRANULARITY ? FAKECUDA_GRANULARITY : alignment);
	reservation = calloc(1, sizeof(*reservation));
	if (!at || !reservation) {
		free(reservation);
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	}
	*reservation = (struct reservation){ reservations, (uintptr_t)at, bytes };
	reservations = reservation;
	ledger->reservations++;
	*address = (uintptr_t)at;
	return call_end(CUDA_SUCCESS);
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
	struct reservation **at = &reservations, *reservation;
	struct range *range;

	BEGIN(cuMemAddressFree, NEEDS_NO_ERROR);
	while (*at && (*at)->address != address)
		at = &(*at)->next;
	range = range_from(address);
	if (!*at || (*at)->bytes != bytes || (range && range->address < address + bytes)) {
		violation("cuMemAddressFree: [%#llx, +%zu) %s", address, bytes,
			  !*at			? "was not reserved" :
			  (*at)->bytes != bytes ? "is not all that was reserved there" :
						  "has mappings");
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	reservation = *at;
	*at = reservation->next;
	munmap(pointer(address), bytes);
	free(reservation);
	ledger->reservations--;
	return call_end(CUDA_SUCCESS);
}

/* --- mappings ------------------------------------------------------------------------------------------------------------ */

static bool is_reserved(uint64_t address, size_t bytes)
{
	for (const struct reservation *at = reservations; at; at = at->next)
		if (address >= at->address && bytes <= at->bytes && address - at->address <= at->bytes - bytes)
			return true;
	return false;
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle value,
		  unsigned long long flags)
{
	struct handle *handle;
	struct range *range;

	BEGIN(cuMemMap, NEEDS_NO_ERROR);
	handle = object_get(KIND_HANDLE, value, "cuMemMap");
	if (!handle)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	range = range_from(address);
	/* cuda.h: "offset must be zero". */
	if (!is_whole(address) || !is_whole(bytes) || offset || flags || bytes > handle->physical->bytes ||
	    !is_reserved(address, bytes) || (range && range->address < address + bytes)) {
		violation("cuMemMap of %zu + %zu bytes at %#llx: not in 2 MiB, not at offset 0, more than there is, "
			  "not reserved, or mapped", offset, bytes, address);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	if (mmap(pointer(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, handle->physical->fd, 0) == MAP_FAILED)
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	range = range_add(RANGE_MAPPED, address, bytes, NULL, handle->physical->device);
	range->physical = handle->physical;
	range->shadow = handle->physical->shadow;
	handle->physical->n_mappings++;
	ledger->mappings++;
	return call_end(CUDA_SUCCESS);
}

/* Whole mappings, side by side, and nothing else? */
static bool is_mapped(uint64_t address, size_t bytes)
{
	uint64_t at = address;

	while (at < address + bytes) {
		struct range *range = range_at(at);

		if (!range || range->kind != RANGE_MAPPED || range->address != at)
			return false;
		at += range->bytes;
	}
	return bytes && at == address + bytes;
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
	BEGIN(cuMemUnmap, NEEDS_NO_ERROR);
	if (!is_mapped(address, bytes)) {
		violation("cuMemUnmap: [%#llx, +%zu) is not whole mappings", address, bytes);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	range_settle(address, bytes, "cuMemUnmap");
	for (uint64_t at = address; at < address + bytes;) {
		struct range *range = range_at(at);
		struct physical *physical = range->physical;

		at += range->bytes;
		range_remove(range, "cuMemUnmap");
		physical->n_mappings--;
		settle(physical);
		ledger->mappings--;
	}
	/* Reserved as before, and nobody's. */
	if (mmap(pointer(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
	    MAP_FAILED)
		abort();
	return call_end(CUDA_SUCCESS);
}

static int protection(const struct range *range)
{
	unsigned int most = 0;

	for (unsigned int i = 0; i < DEVICES_MAX; i++)
		most |= range->access[i];
	return (most & 1 ? PROT_READ : 0) | (most & 2 ? PROT_WRITE : 0);
}

static bool are_rights(const CUmemAccessDesc *access, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (access[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || !is_device_number(access[i].location.id) ||
		    (access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
		     access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE))
			return false;
	return access && n;
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t n)
{
	BEGIN(cuMemSetAccess, NEEDS_NO_ERROR);
	if (!is_mapped(address, bytes) || !are_rights(access, n)) {
		violation("cuMemSetAccess: [%#llx, +%zu) is not whole mappings, or these are no rights of devices", address,
			  bytes);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	range_settle(address, bytes, "cuMemSetAccess");
	for (uint64_t at = address; at < address + bytes;) {
		struct range *range = range_at(at);

		for (size_t i = 0; i < n; i++)
			range->access[access[i].location.id] = (unsigned char)access[i].flags;
		if (mprotect(pointer(range->address), range->bytes, protection(range)))
			abort();
		at += range->bytes;
	}
	return call_end(CUDA_SUCCESS);
}
