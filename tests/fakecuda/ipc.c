/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ipc.c - memory of cuMemAlloc, and events, in other processes.
 *
 * Memory comes in blocks of whole 2 MiB, each a memfd; small allocations share one, so that who opens one of them sees its
 * neighbours, as on the real driver. Here each has guard pages of its own all the same. Behind a block's memory lies a page
 * that maker and openers share: which allocations live, and who has which open. An event has such a page alone.
 *
 * A handle says where to find the memfd (pid and descriptor) and which of all things there it means; nothing in it is a
 * secret, and everything is checked. Who has something open is asked whether it still lives before that counts, so that
 * killed processes leave nothing behind.
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

#define PAGES	    (FAKECUDA_GRANULARITY / PAGE) /* of a block of small ones */
#define OPENERS	    32u
#define SHARE_MAGIC 0x6563617065726168ull
#define SHARE_BYTES ((sizeof(struct share) + PAGE - 1) & ~(size_t)(PAGE - 1))
#define SEALS	    (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* What processes share of a block or an event; all words atomic. The maker writes but for `openers`. */
struct share {
	uint64_t magic, pid, ticks;
	uint64_t recorded, done; /* of an event: the number of its last record, and of the last one that is done */
	uint64_t parts[PAGES];	 /* of a block: the id of the allocation that begins at that page, 0 = none (any more) */
	struct opener {
		uint64_t pid; /* 0 = free; whoever sets it writes the others */
		uint64_t ticks, id, n_waits;
	} openers[OPENERS];
};

enum handle_kind { HANDLE_MEMORY = 0x6d656d, HANDLE_EVENT = 0x657674 };

struct ipc_handle {
	uint32_t kind, device;
	uint64_t pid, ticks, fd, inode, id, offset;
	uint64_t sum; /* of the others */
};
_Static_assert(sizeof(struct ipc_handle) == CU_IPC_HANDLE_SIZE, "as large as the driver's");

static uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static uint64_t own_ticks(void)
{
	return process_ticks((uint64_t)getpid());
}

/* --- the shared page ------------------------------------------------------------------------------------------------- */

/* A memfd of `bytes`, and the page behind them, which is mapped. -1. */
static int share_new(const char *name, size_t bytes, struct share **ret_share)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *at = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, (off_t)(bytes + SHARE_BYTES)) && !fcntl(fd, F_ADD_SEALS, SEALS))
		at = mmap(NULL, SHARE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)bytes);
	if (at == MAP_FAILED) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	*ret_share = at;
	(*ret_share)->pid = (uint64_t)getpid();
	(*ret_share)->ticks = own_ticks();
	store(&(*ret_share)->magic, SHARE_MAGIC);
	return fd;
}

static bool maker_lives(const struct share *share)
{
	return process_ticks(share->pid) == share->ticks;
}

static bool opener_lives(const struct opener *opener)
{
	uint64_t pid = load(&opener->pid);

	return pid && process_ticks(pid) == load(&opener->ticks);
}

/* NULL: too many have it open. */
static struct opener *opener_new(struct share *share, uint64_t id)
{
	for (unsigned int i = 0; i < OPENERS; i++) {
		struct opener *opener = &share->openers[i];
		uint64_t pid = load(&opener->pid);

		if (pid && opener_lives(opener))
			continue;
		if (!__atomic_compare_exchange_n(&opener->pid, &pid, (uint64_t)getpid(), false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		store(&opener->id, id);
		store(&opener->n_waits, 0);
		store(&opener->ticks, own_ticks());
		return opener;
	}
	return NULL;
}

/* The pid of another process that has `id` open, and waits for it where that is asked; 0. */
static uint64_t opened_by(const struct share *share, uint64_t id, bool waits)
{
	for (unsigned int i = 0; i < OPENERS; i++) {
		const struct opener *opener = &share->openers[i];

		if (opener_lives(opener) && load(&opener->id) == id && (!waits || load(&opener->n_waits)))
			return load(&opener->pid);
	}
	return 0;
}

/* --- handles ------------------------------------------------------------------------------------------------------------ */

static uint64_t sum_of(const struct ipc_handle *handle)
{
	const unsigned char *bytes = (const unsigned char *)handle;
	uint64_t sum = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < offsetof(struct ipc_handle, sum); i++)
		sum = (sum ^ bytes[i]) * 0x100000001b3ull;
	return sum;
}

static struct ipc_handle handle_of(enum handle_kind kind, int device, int fd, uint64_t id, uint64_t offset)
{
	struct ipc_handle handle = { .kind = kind, .device = (uint32_t)device, .pid = (uint64_t)getpid(), .ticks = own_ticks(),
				     .fd = (uint64_t)fd, .id = id, .offset = offset };
	struct stat status;

	if (fstat(fd, &status))
		abort();
	handle.inode = status.st_ino;
	handle.sum = sum_of(&handle);
	return handle;
}

/* The memfd of a handle, its size without the page behind it, and that page, mapped. */
static CUresult handle_follow(const struct ipc_handle *handle, enum handle_kind kind, int *ret_fd, size_t *ret_bytes,
			      struct share **ret_share)
{
	struct stat status;
	char path[64];
	void *share;
	int fd;

	if (handle->kind != kind || handle->sum != sum_of(handle))
		return CUDA_ERROR_INVALID_HANDLE;
	if (handle->pid == (uint64_t)getpid())
		return CUDA_ERROR_INVALID_CONTEXT;
	if (!is_device_number((int)handle->device))
		return CUDA_ERROR_INVALID_DEVICE;
	snprintf(path, sizeof(path), "/proc/%llu/fd/%llu", (unsigned long long)handle->pid, (unsigned long long)handle->fd);
	fd = process_ticks(handle->pid) == handle->ticks ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (fstat(fd, &status) || status.st_ino != handle->inode || fcntl(fd, F_GET_SEALS) != SEALS ||
	    (size_t)status.st_size < SHARE_BYTES) {
		close(fd);
		return CUDA_ERROR_INVALID_VALUE;
	}
	*ret_bytes = (size_t)status.st_size - SHARE_BYTES;
	share = mmap(NULL, SHARE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)*ret_bytes);
	if (share == MAP_FAILED || load(&((struct share *)share)->magic) != SHARE_MAGIC) {
		if (share != MAP_FAILED)
			munmap(share, SHARE_BYTES);
		close(fd);
		return CUDA_ERROR_INVALID_VALUE;
	}
	*ret_fd = fd;
	*ret_share = share;
	return CUDA_SUCCESS;
}

/* --- blocks ---------------------------------------------------------------------------------------------------------- */

struct block {
	struct block *next;
	int fd, device;
	size_t bytes;
	struct share *share;
	unsigned int n_parts;
	uint16_t pages[PAGES]; /* of the allocation that begins there; of one in a block of its own only [0], without a number */
	bool is_used[PAGES];
};

static struct block *blocks;
static uint64_t last_part;

static struct block *block_new(size_t bytes, int device)
{
	struct block *block = calloc(1, sizeof(*block));

	if (!block)
		abort();
	block->bytes = bytes;
	block->device = device;
	block->fd = share_new("fakecuda-alloc", bytes, &block->share);
	if (block->fd < 0) {
		free(block);
		return NULL;
	}
	block->next = blocks;
	blocks = block;
	return block;
}

static void block_end(struct block *block)
{
	struct block **at = &blocks;

	while (*at != block)
		at = &(*at)->next;
	*at = block->next;
	munmap(block->share, SHARE_BYTES);
	close(block->fd);
	free(block);
}

/* Room for `n` pages side by side: the first of them, or PAGES. */
static size_t find_pages(const struct block *block, size_t n)
{
	size_t n_free = 0;

	for (size_t i = 0; i < PAGES; i++) {
		n_free = block->is_used[i] ? 0 : n_free + 1;
		if (n_free == n)
			return i + 1 - n;
	}
	return PAGES;
}

static struct block *find_block(size_t n, int device, size_t *ret_page)
{
	for (struct block *block = blocks; block; block = block->next) {
		*ret_page = block->device == device && block->bytes == FAKECUDA_GRANULARITY ? find_pages(block, n) : PAGES;
		if (*ret_page < PAGES)
			return block;
	}
	return NULL;
}

char *block_take(size_t bytes, int device, struct block **ret_block, size_t *ret_offset)
{
	bool is_small = bytes < FAKECUDA_GRANULARITY;
	size_t page = 0, n = bytes / PAGE;
	struct block *block = is_small ? find_block(n, device, &page) : NULL;
	char *at;

	if (!block) {
		block = block_new((bytes + FAKECUDA_GRANULARITY - 1) / FAKECUDA_GRANULARITY * FAKECUDA_GRANULARITY, device);
		page = 0;
	}
	if (!block)
		return NULL;
	at = map_guarded(bytes, block->fd, page * PAGE);
	if (!at) {
		if (!block->n_parts)
			block_end(block);
		return NULL;
	}
	memset(at, POISON, bytes);
	/* A block of its own is full, whatever its size. */
	memset(&block->is_used[page], true, is_small ? n : PAGES);
	block->pages[page] = (uint16_t)(is_small ? n : PAGES);
	block->n_parts++;
	store(&block->share->parts[page], ++last_part);
	*ret_block = block;
	*ret_offset = page * PAGE;
	return at;
}

void block_give(struct block *block, size_t offset, const char *what)
{
	size_t page = offset / PAGE;
	uint64_t pid = opened_by(block->share, load(&block->share->parts[page]), false);

	if (pid)
		violation("%s: process %llu has the memory open", what, (unsigned long long)pid);
	store(&block->share->parts[page], 0);
	memset(&block->is_used[page], false, block->pages[page]);
	if (!--block->n_parts)
		block_end(block);
}

/* --- memory of other processes --------------------------------------------------------------------------------------------- */

struct opened {
	struct opened *next;
	uint64_t pid, ticks, inode, id, address; /* as the caller got it */
	size_t offset;				 /* in the block */
	unsigned int n_opens;
	struct share *share;
	struct opener *opener;
	struct range *range; /* the whole block */
};

static struct opened *all_opened;

CUresult cuIpcGetMemHandle(CUipcMemHandle *ret, CUdeviceptr address)
{
	const struct range *range;
	struct ipc_handle handle;

	BEGIN(cuIpcGetMemHandle, NEEDS_CONTEXT);
	range = range_at(address);
	if (!settings.has_ipc)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	if (!ret || !range || range->kind != RANGE_DEVICE || range->address != address) {
		violation("cuIpcGetMemHandle: %#llx is not where an allocation of cuMemAlloc begins", address);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	handle = handle_of(HANDLE_MEMORY, range->device, range->block->fd, range->block->share->parts[range->block_offset / PAGE],
			   range->block_offset);
	memcpy(ret, &handle, sizeof(handle));
	return call_end(CUDA_SUCCESS);
}

static bool is_part(const struct share *share, const struct ipc_handle *handle, size_t bytes)
{
	size_t page = handle->offset / PAGE;

	return handle->id && !(handle->offset % PAGE) && handle->offset < bytes && page < PAGES && load(&share->parts[page]) == handle->id;
}

static CUresult open_block(const struct ipc_handle *handle, struct context *context, struct opened **ret)
{
	struct opened *opened;
	struct share *share;
	char *at = NULL;
	size_t bytes;
	int fd;
	CUresult result = handle_follow(handle, HANDLE_MEMORY, &fd, &bytes, &share);

	if (result)
		return result;
	result = is_part(share, handle, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
	if (!result && handle->device != (uint32_t)context->device)
		result = CUDA_ERROR_INVALID_DEVICE;
	opened = calloc(1, sizeof(*opened));
	if (!opened)
		abort();
	*opened = (struct opened){ all_opened, handle->pid, handle->ticks, handle->inode, handle->id, 0, handle->offset, 1, share,
				   NULL, NULL };
	if (!result && (!(opened->opener = opener_new(share, handle->id)) || !(at = map_guarded(bytes, fd, 0))))
		result = CUDA_ERROR_OUT_OF_MEMORY;
	close(fd);
	if (result) {
		if (opened->opener)
			store(&opened->opener->pid, 0);
		munmap(share, SHARE_BYTES);
		free(opened);
		return result;
	}
	opened->range = range_add(RANGE_OPENED, (uintptr_t)at, bytes, context, context->device);
	opened->range->opened = opened;
	opened->address = (uintptr_t)at + handle->offset;
	all_opened = opened;
	ledger->imported_bytes += bytes;
	state_update();
	*ret = opened;
	return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *address, CUipcMemHandle raw, unsigned int flags)
{
	struct opened *opened = all_opened;
	struct ipc_handle handle;
	CUresult result;

	BEGIN(cuIpcOpenMemHandle_v2, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	if (!settings.has_ipc)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	if (flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || !address) {
		violation("cuIpcOpenMemHandle with flags %#x: must be CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS", flags);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	memcpy(&handle, &raw, sizeof(handle));
	while (opened && (opened->pid != handle.pid || opened->ticks != handle.ticks || opened->inode != handle.inode))
		opened = opened->next;
	if (opened && opened->id != handle.id)
		return call_end(ERROR_ALREADY_MAPPED);
	if (opened) {
		opened->n_opens++;
	} else {
		result = open_block(&handle, context, &opened);
		if (result)
			return call_end(result);
	}
	ledger->opened++;
	*address = opened->address;
	return call_end(CUDA_SUCCESS);
}

void opened_drop(struct range *range, const char *what)
{
	struct opened *opened = range->opened, **at = &all_opened;
	char *address = (char *)(uintptr_t)range->address;
	size_t bytes = range->bytes;

	range_remove(range, what);
	unmap_guarded(address, bytes);
	store(&opened->opener->pid, 0);
	munmap(opened->share, SHARE_BYTES);
	while (*at != opened)
		at = &(*at)->next;
	*at = opened->next;
	ledger->opened -= opened->n_opens;
	ledger->imported_bytes -= bytes;
	state_update();
	free(opened);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address)
{
	struct opened *opened = all_opened;

	BEGIN(cuIpcCloseMemHandle, NEEDS_CONTEXT | IS_UNSAFE_IN_CAPTURE);
	while (opened && opened->address != address)
		opened = opened->next;
	if (!opened) {
		violation("cuIpcCloseMemHandle: %#llx was not opened", address);
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	if (opened->n_opens > 1) {
		opened->n_opens--;
		ledger->opened--;
	} else {
		opened_drop(opened->range, "cuIpcCloseMemHandle");
	}
	return call_end(context->error);
}

bool op_touches_gone(const struct op *op)
{
	for (unsigned int i = 0; i < op->n_touches; i++) {
		const struct range *range = range_at(op->touches[i].address);
		const struct opened *opened = range ? range->opened : NULL;

		if (opened && (load(&opened->share->parts[opened->offset / PAGE]) != opened->id || !maker_lives(opened->share)))
			return true;
	}
	return false;
}

/* --- events ------------------------------------------------------------------------------------------------------------ */

struct shared_event {
	unsigned int n_refs;
	int fd; /* -1: another process made it */
	struct share *share;
	struct opener *opener;
};

struct shared_event *shared_event_new(void)
{
	struct shared_event *shared = calloc(1, sizeof(*shared));

	if (!shared)
		abort();
	shared->n_refs = 1;
	shared->fd = share_new("fakecuda-event", 0, &shared->share);
	if (shared->fd >= 0)
		return shared;
	free(shared);
	return NULL;
}

struct shared_event *shared_event_ref(struct shared_event *shared)
{
	shared->n_refs++;
	return shared;
}

void shared_event_unref(struct shared_event *shared)
{
	if (!shared || --shared->n_refs)
		return;
	if (shared->opener)
		store(&shared->opener->pid, 0);
	munmap(shared->share, SHARE_BYTES);
	if (shared->fd >= 0)
		close(shared->fd);
	free(shared);
}

bool shared_event_is_other(const struct shared_event *shared)
{
	return shared->fd < 0;
}

uint64_t shared_event_record(struct shared_event *shared)
{
	store(&shared->share->recorded, shared->share->recorded + 1);
	return shared->share->recorded;
}

void shared_event_done(struct shared_event *shared, uint64_t number)
{
	/* Release: whoever sees it sees what the stream wrote before. */
	if (shared->share->done < number)
		store(&shared->share->done, number);
}

uint64_t shared_event_recorded(const struct shared_event *shared)
{
	return load(&shared->share->recorded);
}

/* Of a maker that has died it never is. */
bool shared_event_is_done(const struct shared_event *shared, uint64_t number)
{
	return load(&shared->share->done) >= number;
}

void shared_event_waits(struct shared_event *shared, int more)
{
	store(&shared->opener->n_waits, shared->opener->n_waits + (uint64_t)(int64_t)more);
}

void shared_event_check_end(const struct shared_event *shared)
{
	uint64_t pid = shared_event_is_other(shared) ? 0 : opened_by(shared->share, 0, true);

	if (pid)
		violation("cuEventDestroy: process %llu waits for the event", (unsigned long long)pid);
}

CUresult cuIpcGetEventHandle(CUipcEventHandle *ret, CUevent value)
{
	struct ipc_handle handle;
	struct event *event;

	BEGIN(cuIpcGetEventHandle, NEEDS_CONTEXT);
	event = object_get(KIND_EVENT, (uintptr_t)value, "cuIpcGetEventHandle");
	if (!event)
		return call_end(CUDA_ERROR_INVALID_HANDLE);
	if (!settings.has_ipc)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	if (!ret || !event->shared || shared_event_is_other(event->shared)) {
		violation("cuIpcGetEventHandle: the event was not created for other processes, or by one of them");
		return call_end(CUDA_ERROR_INVALID_VALUE);
	}
	handle = handle_of(HANDLE_EVENT, event->object.context->device, event->shared->fd, 0, 0);
	memcpy(ret, &handle, sizeof(handle));
	return call_end(CUDA_SUCCESS);
}

static CUresult open_event(const struct ipc_handle *handle, struct shared_event **ret)
{
	struct shared_event *shared;
	struct share *share;
	struct opener *opener;
	size_t bytes;
	int fd;
	CUresult result = handle_follow(handle, HANDLE_EVENT, &fd, &bytes, &share);

	if (result)
		return result;
	close(fd);
	opener = bytes ? NULL : opener_new(share, 0);
	if (!opener) {
		munmap(share, SHARE_BYTES);
		return bytes ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
	}
	shared = calloc(1, sizeof(*shared));
	if (!shared)
		abort();
	*shared = (struct shared_event){ 1, -1, share, opener };
	*ret = shared;
	return CUDA_SUCCESS;
}

CUresult cuIpcOpenEventHandle(CUevent *ret, CUipcEventHandle raw)
{
	struct shared_event *shared;
	struct ipc_handle handle;
	struct event *event;
	CUresult result;

	BEGIN(cuIpcOpenEventHandle, NEEDS_CONTEXT);
	if (!settings.has_ipc)
		return call_end(CUDA_ERROR_NOT_SUPPORTED);
	memcpy(&handle, &raw, sizeof(handle));
	result = open_event(&handle, &shared);
	if (result)
		return call_end(result);
	event = calloc(1, sizeof(*event));
	if (!event)
		abort();
	event->shared = shared;
	object_add(&event->object, KIND_EVENT, context);
	ledger->events++;
	*ret = (CUevent)(uintptr_t)event->object.handle;
	return call_end(CUDA_SUCCESS);
}
