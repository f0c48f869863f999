/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - device memory of cuMemAlloc, pinned and registered host memory, and questions about addresses. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY_TYPE_HOST      1u
#define MEMORY_TYPE_DEVICE    2u
#define DEVICE_NONE	      (-2)
#define REGISTER_FLAGS	      0xfu
#define POPULATE_READ	      22 /* MADV_POPULATE_*: Linux 5.14, newer than some libc */
#define POPULATE_WRITE	      23

static size_t whole_pages(size_t bytes)
{
	return (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
}

int memory_fd(const char *name, size_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *at;

	if (fd < 0)
		return -1;
	at = ftruncate(fd, (off_t)bytes) ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED) {
		close(fd);
		return -1;
	}
	memset(at, POISON, bytes);
	munmap(at, bytes);
	return fd;
}

char *map_guarded(size_t bytes, int fd, size_t offset)
{
	size_t n = whole_pages(bytes);
	char *base = mmap(NULL, n + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	void *at;

	if (base == MAP_FAILED)
		return NULL;
	at = mmap(base + PAGE, n, PROT_READ | PROT_WRITE, MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED), fd,
		  (off_t)offset);
	if (at != MAP_FAILED)
		return at;
	munmap(base, n + 2 * PAGE);
	return NULL;
}

void unmap_guarded(char *at, size_t bytes)
{
	munmap(at - PAGE, whole_pages(bytes) + 2 * PAGE);
}

/* --- cuMemAlloc ---------------------------------------------------------------------------------------------------- */

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
	struct device *device;
	struct range *range;
	struct block *block;
	size_t offset;
	char *at;

	BEGIN(cuMemAlloc_v2, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	if (!bytes || !address) {
		violation("cuMemAlloc of %zu bytes", bytes);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	device = &devices[context->device];
	if (bytes > settings.memory_bytes || device->used_bytes > settings.memory_bytes - bytes)
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	at = block_take(whole_pages(bytes), context->device, &block, &offset);
	if (!at)
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	range = range_add(RANGE_DEVICE, (uintptr_t)at, bytes, context, context->device);
	range->block = block;
	range->block_offset = offset;
	device->used_bytes += bytes;
	ledger->allocations++;
	ledger->device_bytes += bytes;
	state_update();
	*address = (uintptr_t)at;
	return call_end(CUDA_SUCCESS);
}

void memory_drop(struct range *range, const char *what)
{
	char *at = (char *)(uintptr_t)range->address;
	struct block *block = range->block;
	size_t bytes = range->bytes, offset = range->block_offset;
	enum range_kind kind = range->kind;
	int device = range->device;

	if (kind == RANGE_OPENED) {
		opened_drop(range, what);
		return;
	}
	range_remove(range, what);
	if (kind != RANGE_REGISTERED)
		unmap_guarded(at, bytes);
	if (kind == RANGE_DEVICE) {
		block_give(block, offset, what);
		devices[device].used_bytes -= bytes;
		ledger->allocations--;
		ledger->device_bytes -= bytes;
		state_update();
		return;
	}
	ledger->pinned_bytes -= bytes;
	if (kind == RANGE_PINNED)
		ledger->pinned_allocations--;
	else
		ledger->registrations--;
}

static struct range *find(enum range_kind kind, uint64_t address, const struct context *context, const char *what)
{
	struct range *range = range_at(address);

	if (range && range->kind == kind && range->address == address && range->context == context)
		return range;
	violation("%s: %#llx %s", what, (unsigned long long)address,
		  !range		      ? look_text(LOOK_NOTHING, address, 1) :
		  range->kind != kind	      ? "is another kind of memory" :
		  range->address != address   ? "is not where an allocation begins" :
						"belongs to another context");
	return NULL;
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
	struct range *range;

	BEGIN(cuMemFree_v2, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	range = find(RANGE_DEVICE, address, context, "cuMemFree");
	if (!range)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	memory_drop(range, "cuMemFree");
	return call_end(context->error);
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
	BEGIN(cuMemGetInfo_v2, NEEDS_CONTEXT);
	*total_bytes = settings.memory_bytes;
	*free_bytes = settings.memory_bytes - devices[context->device].used_bytes;
	return call_end(CUDA_SUCCESS);
}

/* --- host memory ------------------------------------------------------------------------------------------------------ */

CUresult cuMemAllocHost_v2(void **address, size_t bytes)
{
	char *at;

	BEGIN(cuMemAllocHost_v2, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	if (!bytes || !address) {
		violation("cuMemAllocHost of %zu bytes", bytes);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	at = map_guarded(bytes, -1, 0);
	if (!at)
		return call_end(CUDA_ERROR_OUT_OF_MEMORY);
	memset(at, POISON, bytes);
	range_add(RANGE_PINNED, (uintptr_t)at, bytes, context, context->device);
	ledger->pinned_allocations++;
	ledger->pinned_bytes += bytes;
	*address = at;
	return call_end(CUDA_SUCCESS);
}

CUresult cuMemFreeHost(void *address)
{
	struct range *range;

	BEGIN(cuMemFreeHost, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	range = find(RANGE_PINNED, (uintptr_t)address, context, "cuMemFreeHost");
	if (!range)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	memory_drop(range, "cuMemFreeHost");
	return call_end(context->error);
}

/* Every page is there and may be used that way: the real one faults them in as well. */
static bool is_mapped(char *address, size_t bytes, bool is_read_only)
{
	static char probe[PAGE] __attribute__((aligned(PAGE)));

	if (!madvise(address, whole_pages(bytes), is_read_only ? POPULATE_READ : POPULATE_WRITE))
		return true;
	/* EINVAL: pages that may not be used that way, or a kernel that does not know the question, even of our own page. */
	return errno == EINVAL && madvise(probe, PAGE, POPULATE_READ) && !msync(address, whole_pages(bytes), MS_ASYNC);
}

static CUresult check_registration(void *address, size_t bytes, unsigned int flags)
{
	uint64_t begin = (uintptr_t)address;
	struct range *range = range_from(begin);

	if (!bytes || begin % PAGE || begin + bytes < begin || flags & ~REGISTER_FLAGS) {
		violation("cuMemHostRegister: [%p, +%zu) with flags %#x: not at a page, empty or unknown", address, bytes, flags);
		return CUDA_ERROR_INVALID_VALUE;
	}
	if (flags & CU_MEMHOSTREGISTER_READ_ONLY && !settings.has_read_only)
		return CUDA_ERROR_NOT_SUPPORTED;
	/* Whole pages are pinned. */
	if (range && range->address < begin + whole_pages(bytes)) {
		violation("cuMemHostRegister: [%p, +%zu): some of it is pinned already", address, bytes);
		return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	}
	if (!is_mapped(address, bytes, flags & CU_MEMHOSTREGISTER_READ_ONLY)) {
		violation("cuMemHostRegister: [%p, +%zu) is not mapped, or not that way", address, bytes);
		return CUDA_ERROR_INVALID_VALUE;
	}
	return CUDA_SUCCESS;
}

CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags)
{
	CUresult result;

	BEGIN(cuMemHostRegister_v2, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	result = check_registration(address, bytes, flags);
	if (result)
		return call_end(result);
	range_add(RANGE_REGISTERED, (uintptr_t)address, bytes, context, context->device)->is_read_only =
		flags & CU_MEMHOSTREGISTER_READ_ONLY;
	ledger->registrations++;
	ledger->pinned_bytes += bytes;
	return call_end(CUDA_SUCCESS);
}

CUresult cuMemHostUnregister(void *address)
{
	struct range *range;

	BEGIN(cuMemHostUnregister, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	range = find(RANGE_REGISTERED, (uintptr_t)address, context, "cuMemHostUnregister");
	if (!range)
		return call_end(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
	memory_drop(range, "cuMemHostUnregister");
	return call_end(context->error);
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *host, unsigned int flags)
{
	struct range *range = NULL;

	BEGIN(cuMemHostGetDevicePointer_v2, NEEDS_CONTEXT);
	if (!flags)
		range = range_at((uintptr_t)host);
	if (!range || !(range->kind & RANGE_OF_HOST)) {
		violation("cuMemHostGetDevicePointer: %p is not pinned, or flags %#x are not 0", host, flags);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	*device = (uintptr_t)host;
	return call_end(CUDA_SUCCESS);
}

/* --- what is this address? ----------------------------------------------------------------------------------------- */

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address)
{
	struct range *range;

	BEGIN(cuMemGetAddressRange_v2, NEEDS_CONTEXT);
	range = range_at(address);
	if (!range)
		return call_end(CUDA_ERROR_NOT_FOUND);
	if (base)
		*base = range->address;
	if (bytes)
		*bytes = range->bytes;
	return call_end(CUDA_SUCCESS);
}

/* An address that is nobody's has answers as well: none of them an error, as on the real one. */
static CUresult attribute(CUpointer_attribute which, void *to, const struct range *range)
{
	bool is_device = range && range->kind & RANGE_OF_DEVICE;

#define ANSWER(type, value)                            \
	do {                                           \
		type answer = (type)(value);           \
		memcpy(to, &answer, sizeof(answer));   \
		return CUDA_SUCCESS;                   \
	} while (0)
	switch (which) {
	case CU_POINTER_ATTRIBUTE_CONTEXT:
		ANSWER(uint64_t, range && range->context ? range->context->handle : 0);
	case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
		ANSWER(unsigned int, is_device ? MEMORY_TYPE_DEVICE : range ? MEMORY_TYPE_HOST : 0);
	case CU_POINTER_ATTRIBUTE_BUFFER_ID:
		ANSWER(uint64_t, range ? range->id : 0);
	case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
		ANSWER(int, range ? range->device : DEVICE_NONE);
	case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
		ANSWER(int, range && range->kind == RANGE_DEVICE);
	case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
		ANSWER(uint64_t, range ? range->address : 0);
	case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
		ANSWER(size_t, range ? range->bytes : 0);
	case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
		ANSWER(uint64_t, range && range->physical && physical_is_exportable(range->physical) ?
					 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR :
					 CU_MEM_HANDLE_TYPE_NONE);
	}
#undef ANSWER
	return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuPointerGetAttributes(unsigned int n, CUpointer_attribute *attributes, void **values, CUdeviceptr address)
{
	CUresult result = CUDA_SUCCESS;

	BEGIN(cuPointerGetAttributes, NEEDS_CONTEXT);
	if (!n || !attributes || !values)
		return call_end(CUDA_ERROR_INVALID_VALUE);
	for (unsigned int i = 0; !result && i < n; i++)
		result = attribute(attributes[i], values[i], range_at(address));
	return call_end(result);
}
