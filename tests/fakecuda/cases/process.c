/* SPDX-License-Identifier: Apache-2.0 */
/* process.c - device memory between two processes, and what is left when one is killed. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/cases.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNIT FAKECUDA_GRANULARITY

static void send_fd(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(fd))] = { 0 };
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

static int receive_fd(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd;

	CHECK(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static void say(int socket)
{
	CHECK(write(socket, "", 1) == 1);
}

static void hear(int socket)
{
	char byte;

	CHECK(read(socket, &byte, 1) == 1);
}

static CUdeviceptr map(CUmemGenericAllocationHandle handle)
{
	CUmemAccessDesc access = { { CU_MEM_LOCATION_TYPE_DEVICE, 0 }, CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
	CUdeviceptr at;

	OK(cu.mem_reserve(&at, UNIT, 0, 0, 0));
	OK(cu.mem_map(at, UNIT, 0, handle, 0));
	OK(cu.mem_access(at, UNIT, &access, 1));
	return at;
}

/* Creates memory, sends it, writes "1" to it, and waits to be killed, with a copy into it under way. */
static void exporter(int socket)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
					   .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
					   .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
	CUmemGenericAllocationHandle handle;
	CUdeviceptr at;
	CUstream stream;
	int fd;

	/* Where the other one fails, nobody would kill it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	open_device();
	stream = new_stream();
	new_memory(3 * UNIT);
	OK(cu.mem_create(&handle, UNIT, &properties, 0));
	OK(cu.mem_export(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	send_fd(socket, fd);
	close(fd);
	at = map(handle);
	OK(cu.fill(at, 1, UNIT, stream));
	OK(cu.stream_synchronize(stream));
	CLEAN();
	OK(launch_spin(stream, 60000000000u));
	OK(cu.fill(at, 2, UNIT, stream));
	say(socket);
	for (;;)
		pause();
}

static const struct fakecuda_state *map_state(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *state = mmap(NULL, sizeof(struct fakecuda_state), PROT_READ, MAP_SHARED, fd, 0);

	CHECK(fd >= 0 && state != MAP_FAILED);
	close(fd);
	return state;
}

static const struct fakecuda_state_entry *entry_of(const struct fakecuda_state *state, pid_t pid)
{
	CHECK(state->magic == FAKECUDA_STATE_MAGIC);
	for (unsigned int i = 0; i < FAKECUDA_STATE_ENTRIES; i++)
		if (state->entries[i].pid == (uint64_t)pid)
			return &state->entries[i];
	FAIL("no entry of process %d", (int)pid);
}

static void killed(void)
{
	const struct fakecuda_state *state;
	CUmemGenericAllocationHandle handle;
	int sockets[2], fd, status;
	unsigned char *host;
	char path[64];
	CUdeviceptr at;
	CUstream stream;
	pid_t child;

	snprintf(path, sizeof(path), "/tmp/fakecuda-state-%d", (int)getpid());
	setenv("FAKECUDA_STATE", path, 1);
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets));
	child = fork();
	if (!child)
		exporter(sockets[1]);
	open_device();
	stream = new_stream();
	host = new_pinned(UNIT);
	fd = receive_fd(sockets[0]);
	OK(cu.mem_import(&handle, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	close(fd);
	at = map(handle);
	hear(sockets[0]);
	state = map_state(path);
	unlink(path);
	CHECK(entry_of(state, child)->device_bytes == 4 * UNIT && !entry_of(state, child)->imported_bytes);
	CHECK(entry_of(state, getpid())->imported_bytes == UNIT && !entry_of(state, getpid())->device_bytes);
	OK(cu.copy_out(host, at, UNIT, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(host, 1, UNIT));
	/* Killed with work queued: the memory lives on here, as it was. */
	kill(child, SIGKILL);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
	OK(cu.copy_out(host, at, UNIT, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(host, 1, UNIT));
	OK(cu.fill(at, 3, UNIT, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(entry_of(state, child)->device_bytes == 4 * UNIT);
	OK(cu.mem_unmap(at, UNIT));
	CHECK(entry_of(state, getpid())->imported_bytes == UNIT);
	OK(cu.mem_release(handle));
	CHECK(!entry_of(state, getpid())->imported_bytes);
	CLEAN();
}

/* One waits on a word that the other writes, in memory that both have. */
static void word_between(void)
{
	uint64_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CUstream stream;
	int status;
	pid_t child = fork();

	open_device();
	stream = new_stream();
	OK(cu.host_register(word, 4096, CU_MEMHOSTREGISTER_DEVICEMAP));
	if (!child) {
		OK(launch_spin(stream, 20000000));
		OK(cu.stream_write(stream, (uintptr_t)word, 7, CU_STREAM_WRITE_VALUE_DEFAULT));
		OK(cu.stream_synchronize(stream));
		CLEAN();
		_exit(0);
	}
	OK(cu.stream_wait(stream, (uintptr_t)word, 7, CU_STREAM_WAIT_VALUE_GEQ));
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(stream));
	OK(cu.stream_synchronize(stream));
	CHECK(__atomic_load_n(word, __ATOMIC_ACQUIRE) == 7);
	waitpid(child, &status, 0);
	CHECK(!status);
	CLEAN();
}

const struct test_case process_cases[] = {
	{ "processes: memory by SCM_RIGHTS, its maker is killed", killed, { 0 } },
	{ "processes: a word from one to the other", word_between, { 0 } },
	{ NULL, NULL, { 0 } },
};
