/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - device memory, host memory, copies, virtual memory management. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/cases.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define UNIT FAKECUDA_GRANULARITY

static CUmemAllocationProp shared = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
				      .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
				      .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
static const CUmemAccessDesc read_write = { { CU_MEM_LOCATION_TYPE_DEVICE, 0 }, CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
static const CUmemAccessDesc read_only = { { CU_MEM_LOCATION_TYPE_DEVICE, 0 }, CU_MEM_ACCESS_FLAGS_PROT_READ };

static void copies(void)
{
	unsigned char *from, *to, plain[1000];
	CUdeviceptr a, b;
	CUstream stream;

	open_device();
	stream = new_stream();
	a = new_memory(4096);
	b = new_memory(4096);
	from = new_pinned(4096);
	to = new_pinned(4096);
	memset(from, 3, 4096);
	CHECK(is_all(to, 0xa5, 4096));
	OK(cu.copy_in(a, from, 4096, stream));
	OK(cu.copy(b + 100, a, 1000, stream));
	OK(cu.fill(b + 200, 9, 10, stream));
	OK(cu.copy_out(to, b, 4096, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(to, 0xa5, 100) && is_all(to + 100, 3, 100) && is_all(to + 200, 9, 10) && is_all(to + 210, 3, 890));
	CHECK(is_all(to + 1100, 0xa5, 4096 - 1100));
	OK(cu.copy_out(plain, a, 1000, stream));
	CHECK(is_all(plain, 3, 1000));
	CLEAN();
}

/* Pageable memory is the caller's again when the call returns. */
static void pageable(void)
{
	unsigned char plain[5000];
	CUdeviceptr memory;
	CUstream stream;

	open_device();
	stream = new_stream();
	memory = new_memory(5000);
	OK(launch_spin(stream, 20000000));
	memset(plain, 1, sizeof(plain));
	OK(cu.copy_in(memory, plain, sizeof(plain), stream));
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(stream));
	memset(plain, 2, sizeof(plain));
	OK(cu.copy_out(plain, memory, sizeof(plain), stream));
	CHECK(is_all(plain, 1, sizeof(plain)));
	OK(cu.stream_query(stream));
	CLEAN();
}

static void bad_copies(void)
{
	unsigned char plain[64];
	CUdeviceptr memory, gone;
	CUstream stream;

	open_device();
	stream = new_stream();
	memory = new_memory(100);
	gone = new_memory(100);
	OK(cu.mem_free(gone));
	BAD(CUDA_ERROR_INVALID_VALUE, "empty", cu.copy_in(memory, plain, 0, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "crosses the end", cu.copy_in(memory + 50, plain, 51, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "crosses the end", cu.copy_in(memory - 1, plain, 2, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "no such memory", cu.copy_in(16, plain, 2, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "not there any more", cu.fill(gone, 0, 100, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "not there any more", cu.copy_out(plain, gone, 10, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "over itself", cu.copy(memory, memory + 10, 20, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "no such memory", cu.copy_in(memory, NULL, 10, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "", cu.copy_in(memory, (void *)(uintptr_t)memory, 10, stream));
	BAD(CUDA_ERROR_INVALID_HANDLE, "is NULL", cu.fill(memory, 0, 10, NULL));
	BAD(CUDA_ERROR_INVALID_VALUE, "0 bytes", cu.mem_alloc(&gone, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "not where an allocation begins", cu.mem_free(memory + 8));
	OK(cu.mem_free(memory));
	BAD(CUDA_ERROR_INVALID_VALUE, "not there any more", cu.mem_free(memory));
	OK(cu.stream_synchronize(stream));
	CHECK(!ledger_now().in_bytes);
}

static void budget(void)
{
	CUmemGenericAllocationHandle handle;
	CUdeviceptr memory, more;
	size_t free_bytes, total;

	open_device();
	memory = new_memory(6 << 20);
	GIVES(CUDA_ERROR_OUT_OF_MEMORY, cu.mem_alloc(&more, (2 << 20) + 1));
	OK(cu.mem_create(&handle, UNIT, &shared, 0));
	GIVES(CUDA_ERROR_OUT_OF_MEMORY, cu.mem_alloc(&more, 1));
	OK(cu.mem_info(&free_bytes, &total));
	CHECK(!free_bytes && total == 8 << 20);
	OK(cu.mem_free(memory));
	GIVES(CUDA_ERROR_OUT_OF_MEMORY, cu.mem_create(&handle, 4 * UNIT, &shared, 0));
	OK(cu.mem_info(&free_bytes, &total));
	CHECK(free_bytes == 6 << 20);
	CLEAN();
}

/* It is said, and waited for: nobody reads memory that is gone. */
static void freed_too_early(void)
{
	CUdeviceptr memory, other;
	CUstream stream;
	void *pinned;

	open_device();
	stream = new_stream();
	memory = new_memory(1 << 20);
	other = new_memory(1 << 20);
	pinned = new_pinned(1 << 20);
	OK(launch_spin(stream, 10000000));
	OK(cu.copy_in(memory, pinned, 1 << 20, stream));
	OK(cu.mem_free(other));
	CLEAN();
	BAD(CUDA_SUCCESS, "still used by queued work", cu.mem_free(memory));
	OK(cu.host_free(pinned));
	CHECK(violations() == 1);
}

static void unregistered_too_early(void)
{
	unsigned char *memory = aligned_alloc(4096, 1 << 20);
	CUdeviceptr to;
	CUstream stream;

	open_device();
	stream = new_stream();
	to = new_memory(1 << 20);
	OK(cu.host_register(memory, 1 << 20, 0));
	OK(launch_spin(stream, 10000000));
	OK(cu.copy_in(to, memory + 500, 1000, stream));
	BAD(CUDA_SUCCESS, "cuMemHostUnregister: [", cu.host_unregister(memory));
	OK(cu.stream_query(stream));
}

static void registration(void)
{
	char *memory = aligned_alloc(4096, 1 << 20);
	void *hole = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CUdeviceptr to, seen;
	CUstream stream;

	mprotect((char *)hole + 4096, 4096, PROT_NONE);
	open_device();
	stream = new_stream();
	to = new_memory(65536);
	OK(cu.host_register(memory, 65536, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
	OK(cu.host_register(memory + 131072, 65536, 0));
	OK(cu.host_device_pointer(&seen, memory + 100, 0));
	CHECK(seen == (uintptr_t)memory + 100);
	OK(cu.copy_in(to, memory, 65536, stream));
	OK(cu.copy_in(to, memory + 65536, 65536, stream)); /* pageable, exactly between the two */
	CLEAN();
	BAD(CUDA_ERROR_INVALID_VALUE, "not at a page", cu.host_register(memory + 8, 4096, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "empty", cu.host_register(memory + 65536, 0, 0));
	BAD(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "already", cu.host_register(memory, 65536, 0));
	BAD(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "already", cu.host_register(memory + 65536, 65537, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "is not mapped", cu.host_register(hole, 8192, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "is not mapped", cu.host_register((void *)(uintptr_t)65536, 4096, 0));
	BAD(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "cuMemHostUnregister", cu.host_unregister(memory + 65536));
	BAD(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "begins", cu.host_unregister(memory + 4096));
	BAD(CUDA_ERROR_INVALID_VALUE, "not pinned", cu.host_device_pointer(&seen, memory + 65536, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "crosses the end", cu.copy_in(to, memory + 4096, 65536, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "crosses the end", cu.copy_in(to, memory + 131072 - 10, 100, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "another kind", cu.host_free(memory));
	OK(cu.stream_synchronize(stream));
	OK(cu.host_unregister(memory));
	OK(cu.host_unregister(memory + 131072));
	CHECK(!ledger_now().registrations && !ledger_now().pinned_bytes);
}

/* Two registrations side by side are two. */
static void two_registrations(void)
{
	char *memory = aligned_alloc(4096, 8192);
	CUdeviceptr to;
	CUstream stream;

	open_device();
	stream = new_stream();
	to = new_memory(8192);
	OK(cu.host_register(memory, 4096, 0));
	OK(cu.host_register(memory + 4096, 4096, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "crosses the end", cu.copy_in(to, memory, 8192, stream));
}

static void read_only_registration(void)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	CUdeviceptr memory;
	CUstream stream;
	void *at;

	CHECK(!ftruncate(fd, 8192));
	at = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
	open_device();
	stream = new_stream();
	memory = new_memory(8192);
	BAD(CUDA_ERROR_INVALID_VALUE, "not that way", cu.host_register(at, 8192, 0));
	OK(cu.host_register(at, 8192, CU_MEMHOSTREGISTER_READ_ONLY));
	OK(cu.copy_in(memory, at, 8192, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "may not be accessed that way", cu.copy_out(at, memory, 8192, stream));
	OK(cu.stream_synchronize(stream));
}

static void questions(void)
{
	CUpointer_attribute attributes[] = { CU_POINTER_ATTRIBUTE_CONTEXT,	    CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
					     CU_POINTER_ATTRIBUTE_BUFFER_ID,	    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
					     CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_RANGE_SIZE };
	CUcontext of;
	unsigned int type;
	uint64_t id, first_id;
	int ordinal;
	CUdeviceptr start, memory;
	size_t bytes;
	void *values[] = { &of, &type, &id, &ordinal, &start, &bytes };

	open_device();
	memory = new_memory(1000);
	OK(cu.pointer_attributes(6, attributes, values, memory + 10));
	CHECK(of == context && type == 2 && id && !ordinal && start == memory && bytes == 1000);
	first_id = id;
	OK(cu.address_range(&start, &bytes, memory + 999));
	CHECK(start == memory && bytes == 1000);
	GIVES(CUDA_ERROR_NOT_FOUND, cu.address_range(&start, &bytes, memory + 1000));
	OK(cu.pointer_attributes(6, attributes, values, (uintptr_t)&of));
	CHECK(!of && !type && !id && ordinal == -2 && !bytes);
	OK(cu.mem_free(memory));
	memory = new_memory(1000);
	OK(cu.pointer_attributes(6, attributes, values, memory));
	CHECK(id && id != first_id);
	CLEAN();
}

/* --- virtual memory management ------------------------------------------------------------------------------------ */

static void vmm(void)
{
	CUmemGenericAllocationHandle a, b;
	unsigned char *host;
	CUdeviceptr at;
	CUstream stream;
	size_t unit;

	open_device();
	stream = new_stream();
	host = new_pinned(2 * UNIT);
	OK(cu.mem_granularity(&unit, &shared, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
	CHECK(unit == UNIT);
	OK(cu.mem_create(&a, UNIT, &shared, 0));
	OK(cu.mem_create(&b, UNIT, &shared, 0));
	OK(cu.mem_reserve(&at, 2 * UNIT, 0, 0, 0));
	CHECK(!(at % UNIT));
	OK(cu.mem_map(at, UNIT, 0, a, 0));
	OK(cu.mem_map(at + UNIT, UNIT, 0, b, 0));
	OK(cu.mem_access(at, 2 * UNIT, &read_write, 1));
	/* One mapping beside another is as good as one. */
	OK(cu.copy_out(host, at, 2 * UNIT, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(host, 0xa5, 2 * UNIT));
	OK(cu.fill(at + UNIT - 50, 4, 100, stream));
	OK(cu.stream_synchronize(stream));
	/* Handles may go: mappings hold the memory. */
	OK(cu.mem_release(a));
	OK(cu.mem_release(b));
	CHECK(ledger_now().device_bytes == 2 * UNIT && !ledger_now().handles && ledger_now().mappings == 2);
	OK(cu.copy_out(host, at + UNIT - 50, 100, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(host, 4, 100));
	OK(cu.mem_unmap(at, 2 * UNIT));
	CHECK(!ledger_now().device_bytes && ledger_now().reservations == 1);
	OK(cu.mem_unreserve(at, 2 * UNIT));
	CHECK(!ledger_now().reservations);
	CLEAN();
}

static void vmm_mistakes(void)
{
	CUmemAllocationProp private = shared, odd = shared;
	CUmemGenericAllocationHandle handle, plain;
	CUdeviceptr at, other;
	CUstream stream;
	int fd;

	open_device();
	stream = new_stream();
	private.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
	odd.location.id = 5;
	BAD(CUDA_ERROR_INVALID_VALUE, "whole units", cu.mem_create(&handle, UNIT + 4096, &shared, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "whole units", cu.mem_create(&handle, 0, &shared, 0));
	BAD(CUDA_ERROR_INVALID_DEVICE, "no device 5", cu.mem_create(&handle, UNIT, &odd, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "whole units", cu.mem_reserve(&at, UNIT / 2, 0, 0, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "power of two", cu.mem_reserve(&at, UNIT, 3 * UNIT, 0, 0));
	OK(cu.mem_create(&handle, UNIT, &shared, 0));
	OK(cu.mem_create(&plain, UNIT, &private, 0));
	OK(cu.mem_reserve(&at, 4 * UNIT, 8 * UNIT, 0, 0));
	CHECK(!(at % (8 * UNIT)));
	BAD(CUDA_ERROR_INVALID_VALUE, "", cu.mem_map(at + 4096, UNIT, 0, handle, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "", cu.mem_map(at, UNIT, 4096, handle, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "", cu.mem_map(at, 2 * UNIT, 0, handle, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "", cu.mem_map(at + 4 * UNIT, UNIT, 0, handle, 0));
	OK(cu.mem_map(at, UNIT, 0, handle, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "", cu.mem_map(at, UNIT, 0, handle, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "may not be accessed", cu.fill(at, 0, 100, stream));
	OK(cu.mem_access(at, UNIT, &read_only, 1));
	BAD(CUDA_ERROR_INVALID_VALUE, "may not be accessed", cu.fill(at, 0, 100, stream));
	BAD(CUDA_ERROR_INVALID_VALUE, "whole mappings", cu.mem_access(at, 2 * UNIT, &read_write, 1));
	BAD(CUDA_ERROR_INVALID_VALUE, "whole mappings", cu.mem_access(at + 4096, UNIT, &read_write, 1));
	BAD(CUDA_ERROR_INVALID_VALUE, "has mappings", cu.mem_unreserve(at, 4 * UNIT));
	BAD(CUDA_ERROR_INVALID_VALUE, "not all", cu.mem_unreserve(at, UNIT));
	BAD(CUDA_ERROR_INVALID_VALUE, "whole mappings", cu.mem_unmap(at, 2 * UNIT));
	BAD(CUDA_ERROR_INVALID_VALUE, "another kind", cu.mem_free(at));
	BAD(CUDA_ERROR_INVALID_VALUE, "without a handle type",
	    cu.mem_export(&fd, plain, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	BAD(CUDA_ERROR_INVALID_VALUE, "no exported memory",
	    cu.mem_import(&handle, (void *)(uintptr_t)memfd_create("fakecuda-0-shared", 0),
			  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	BAD(CUDA_ERROR_INVALID_VALUE, "no exported memory",
	    cu.mem_import(&handle, (void *)(uintptr_t)9999, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	OK(cu.mem_release(plain));
	BAD(CUDA_ERROR_INVALID_VALUE, "has been destroyed", cu.mem_release(plain));
	BAD(CUDA_ERROR_INVALID_VALUE, "has been destroyed", cu.mem_map(at + UNIT, UNIT, 0, plain, 0));
	OK(cu.mem_reserve(&other, UNIT, 0, 0, 0));
	OK(cu.mem_unreserve(other, UNIT));
	BAD(CUDA_ERROR_INVALID_VALUE, "was not reserved", cu.mem_unreserve(other, UNIT));
	/* A kernel that writes where it may only read. */
	OK(launch_copy(stream, at, new_memory(100), 100));
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(stream));
}

static void unmapped_too_early(void)
{
	CUmemGenericAllocationHandle handle;
	CUdeviceptr at;
	CUstream stream;

	open_device();
	stream = new_stream();
	OK(cu.mem_create(&handle, UNIT, &shared, 0));
	OK(cu.mem_reserve(&at, UNIT, 0, 0, 0));
	OK(cu.mem_map(at, UNIT, 0, handle, 0));
	OK(cu.mem_access(at, UNIT, &read_write, 1));
	OK(launch_spin(stream, 10000000));
	OK(cu.fill(at, 1, UNIT, stream));
	BAD(CUDA_SUCCESS, "cuMemUnmap: [", cu.mem_unmap(at, UNIT));
	OK(cu.stream_query(stream));
}

/* Twice mapped, and imported where it was created: one memory. */
static void aliases(void)
{
	CUmemGenericAllocationHandle handle, again;
	CUdeviceptr at;
	CUstream stream;
	unsigned char *host;
	int fd;

	open_device();
	stream = new_stream();
	host = new_pinned(100);
	OK(cu.mem_create(&handle, UNIT, &shared, 0));
	OK(cu.mem_export(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	OK(cu.mem_import(&again, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	CHECK(again != handle && ledger_now().exported_fds == 1);
	CHECK(ledger_now().device_bytes == UNIT && !ledger_now().imported_bytes);
	OK(cu.mem_reserve(&at, 2 * UNIT, 0, 0, 0));
	OK(cu.mem_map(at, UNIT, 0, handle, 0));
	OK(cu.mem_map(at + UNIT, UNIT, 0, again, 0));
	OK(cu.mem_access(at, 2 * UNIT, &read_write, 1));
	OK(cu.fill(at + 500, 8, 100, stream));
	OK(cu.copy_out(host, at + UNIT + 500, 100, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(host, 8, 100));
	OK(cu.mem_release(handle));
	OK(cu.mem_release(again));
	OK(cu.mem_unmap(at, UNIT));
	CHECK(ledger_now().device_bytes == UNIT);
	OK(cu.mem_unmap(at + UNIT, UNIT));
	CHECK(!ledger_now().device_bytes);
	/* The descriptor alone holds it, unseen. */
	OK(cu.mem_import(&again, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	CHECK(ledger_now().imported_bytes == UNIT);
	CHECK(!close(fd));
	OK(cu.mem_release(again));
	CLEAN();
}

const struct test_case memory_cases[] = {
	{ "copies and fills", copies, { 0 } },
	{ "copies of pageable memory", pageable, { 0 } },
	{ "copies that must be refused", bad_copies, { 0 } },
	{ "a device has so much memory", budget, { "FAKECUDA_MEMORY=8388608" } },
	{ "memory that goes under queued work", freed_too_early, { 0 } },
	{ "a registration that goes under a queued copy", unregistered_too_early, { 0 } },
	{ "registrations", registration, { 0 } },
	{ "a copy across two registrations", two_registrations, { 0 } },
	{ "read-only registrations", read_only_registration, { 0 } },
	{ "questions about addresses", questions, { 0 } },
	{ "vmm: created, mapped, used, released", vmm, { 0 } },
	{ "vmm: mistakes", vmm_mistakes, { 0 } },
	{ "vmm: a mapping that goes under queued work", unmapped_too_early, { 0 } },
	{ "vmm: two mappings of one memory", aliases, { 0 } },
	{ NULL, NULL, { 0 } },
};
