/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - ranges that the device may touch. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE   4096u
#define POISON 0xa5

struct range {
	struct range *next;
	enum memory_kind kind;
	char *address;
	size_t bytes;
	size_t mapped_bytes; /* with the guard pages, of what we mapped */
	bool read_only;
};

static struct range *ranges;

static size_t round_up(size_t bytes)
{
	return (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static void add(enum memory_kind kind, char *address, size_t bytes, size_t mapped_bytes, bool read_only)
{
	struct range *range = calloc(1, sizeof(*range));

	if (!range)
		abort();
	*range = (struct range){ ranges, kind, address, bytes, mapped_bytes, read_only };
	ranges = range;
}

static struct range **find(enum memory_kind kind, const void *address)
{
	struct range **at = &ranges;

	while (*at && ((*at)->kind != kind || (*at)->address != address))
		at = &(*at)->next;
	return at;
}

CUresult memory_alloc(enum memory_kind kind, void **ret, size_t bytes)
{
	size_t mapped_bytes = round_up(bytes) + 2 * PAGE;
	char *base;

	if (!bytes) {
		violation("an allocation of 0 bytes");
		return CUDA_ERROR_INVALID_VALUE;
	}
	if (kind == MEMORY_DEVICE && ledger->device_bytes + bytes > setting("FAKECUDA_MEMORY", 1ull << 30))
		return CUDA_ERROR_OUT_OF_MEMORY;
	base = mmap(NULL, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED || mprotect(base + PAGE, mapped_bytes - 2 * PAGE, PROT_READ | PROT_WRITE))
		return CUDA_ERROR_OUT_OF_MEMORY;
	memset(base + PAGE, POISON, bytes);
	add(kind, base + PAGE, bytes, mapped_bytes, false);
	if (kind == MEMORY_DEVICE) {
		ledger->allocations++;
		ledger->device_bytes += bytes;
	} else {
		ledger->pinned_allocations++;
	}
	*ret = base + PAGE;
	return CUDA_SUCCESS;
}

static void drop(struct range **at)
{
	struct range *range = *at;

	if (streams_use(range->address, range->bytes))
		violation("memory [%p, +%zu) goes while queued work uses it", (void *)range->address, range->bytes);
	order_forget(range->address, range->bytes);
	*at = range->next;
	if (range->mapped_bytes)
		munmap(range->address - PAGE, range->mapped_bytes);
	free(range);
}

CUresult memory_free(enum memory_kind kind, void *address)
{
	struct range **at = find(kind, address);

	if (!*at) {
		violation("%p is freed, and is no allocation", address);
		return CUDA_ERROR_INVALID_VALUE;
	}
	if (kind == MEMORY_DEVICE) {
		ledger->allocations--;
		ledger->device_bytes -= (*at)->bytes;
	} else {
		ledger->pinned_allocations--;
	}
	drop(at);
	return CUDA_SUCCESS;
}

/* Every page of it is there: the real driver faults them in. */
static bool is_mapped(char *address, size_t bytes, bool read_only)
{
	size_t n = round_up(bytes);

	return !madvise(address, n, read_only ? 22 : 23) || errno == EINVAL; /* MADV_POPULATE_READ, _WRITE */
}

CUresult memory_register(void *address, size_t bytes, bool read_only)
{
	if (!bytes || (uintptr_t)address % PAGE) {
		violation("registering [%p, +%zu): not whole pages", address, bytes);
		return CUDA_ERROR_INVALID_VALUE;
	}
	if (memory_has_part(MEMORY_PINNED | MEMORY_REGISTERED, address, bytes)) {
		violation("registering [%p, +%zu), which is pinned already", address, bytes);
		return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	}
	if (!is_mapped(address, bytes, read_only)) {
		violation("registering [%p, +%zu), which is not mapped that way", address, bytes);
		return CUDA_ERROR_INVALID_VALUE;
	}
	add(MEMORY_REGISTERED, address, bytes, 0, read_only);
	ledger->registrations++;
	return CUDA_SUCCESS;
}

CUresult memory_unregister(void *address)
{
	struct range **at = find(MEMORY_REGISTERED, address);

	if (!*at) {
		violation("%p is unregistered, and was not registered", address);
		return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
	}
	ledger->registrations--;
	drop(at);
	return CUDA_SUCCESS;
}

bool memory_has(unsigned int kinds, const void *address, size_t bytes, bool *ret_read_only)
{
	const char *begin = address;

	for (struct range *range = ranges; range; range = range->next) {
		if (!(range->kind & kinds) || begin < range->address || bytes > range->bytes ||
		    (size_t)(begin - range->address) > range->bytes - bytes)
			continue;
		if (ret_read_only)
			*ret_read_only = range->read_only;
		return true;
	}
	return false;
}

bool memory_has_part(unsigned int kinds, const void *address, size_t bytes)
{
	const char *begin = address;

	for (struct range *range = ranges; range; range = range->next)
		if (range->kind & kinds && begin < range->address + range->bytes && range->address < begin + bytes)
			return true;
	return false;
}
