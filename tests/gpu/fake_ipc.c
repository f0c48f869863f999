/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_ipc.c - libfakeipc.so: the software driver (which it is linked with) and events between processes, so that what
 * measures them can be rehearsed. An event that was exported counts its records in a page that both processes map: a record
 * queues a write of the count, a wait in the other process waits for the count that it finds.
 */
#define _GNU_SOURCE 1
#include "shm/device/abi.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT	   __attribute__((visibility("default")))
#define PAGE	   4096u
#define EVENTS_MAX 64u

struct handle {
	int pid, fd;
	char rest[56];
};

struct page {
	uint64_t n_recorded, n_done; /* by the exporter's CPU, by its stream */
};

static struct shared_event {
	CUevent event; /* NULL = free */
	struct page *page;
	CUdeviceptr at;
	int fd;
	bool is_exported; /* from here */
} events[EVENTS_MAX];

CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags);
CUresult cuMemHostUnregister(void *address);
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *host, unsigned int flags);
CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags);
CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags);
CUresult cuEventCreate(CUevent *event, unsigned int flags);
EXPORT CUresult cuEventRecord(CUevent event, CUstream stream);
EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags);
EXPORT CUresult cuEventDestroy_v2(CUevent event);
EXPORT CUresult cuIpcGetEventHandle(struct handle *handle, CUevent event);
EXPORT CUresult cuIpcOpenEventHandle(CUevent *event, struct handle handle);

#define NEXT(name, params, ...)                                  \
	({                                                       \
		CUresult(*next_) params;                         \
		*(void **)&next_ = dlsym(RTLD_NEXT, name);       \
		next_(__VA_ARGS__);                              \
	})

static struct shared_event *find(CUevent event)
{
	for (unsigned int i = 0; i < EVENTS_MAX; i++)
		if (events[i].event == event)
			return &events[i];
	return NULL;
}

/* Takes the descriptor. */
static CUresult add(CUevent event, int fd, bool is_exported)
{
	struct shared_event *shared = find(NULL);
	void *memory = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CUresult result;

	if (!shared || memory == MAP_FAILED)
		abort();
	*shared = (struct shared_event){ event, memory, 0, fd, is_exported };
	result = cuMemHostRegister_v2(memory, PAGE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
	return result ? result : cuMemHostGetDevicePointer_v2(&shared->at, memory, 0);
}

CUresult cuIpcGetEventHandle(struct handle *handle, CUevent event)
{
	int fd = memfd_create("event", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, PAGE))
		abort();
	*handle = (struct handle){ .pid = getpid(), .fd = fd };
	return add(event, fd, true);
}

CUresult cuIpcOpenEventHandle(CUevent *event, struct handle handle)
{
	char path[64];
	CUresult result = cuEventCreate(event, CU_EVENT_DISABLE_TIMING);

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", handle.pid, handle.fd);
	return result ? result : add(*event, open(path, O_RDWR | O_CLOEXEC), false);
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
	CUresult result = NEXT("cuEventRecord", (CUevent, CUstream), event, stream);
	struct shared_event *shared = find(event);

	if (result || !shared)
		return result;
	return cuStreamWriteValue64_v2(stream, shared->at + offsetof(struct page, n_done), ++shared->page->n_recorded,
				       CU_STREAM_WRITE_VALUE_DEFAULT);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
	struct shared_event *shared = find(event);

	if (!shared || shared->is_exported)
		return NEXT("cuStreamWaitEvent", (CUstream, CUevent, unsigned int), stream, event, flags);
	return cuStreamWaitValue64_v2(stream, shared->at + offsetof(struct page, n_done),
				      __atomic_load_n(&shared->page->n_recorded, __ATOMIC_ACQUIRE), CU_STREAM_WAIT_VALUE_GEQ);
}

CUresult cuEventDestroy_v2(CUevent event)
{
	struct shared_event *shared = find(event);

	if (shared) {
		cuMemHostUnregister(shared->page);
		munmap(shared->page, PAGE);
		close(shared->fd);
		*shared = (struct shared_event){ 0 };
	}
	return NEXT("cuEventDestroy_v2", (CUevent), event);
}
