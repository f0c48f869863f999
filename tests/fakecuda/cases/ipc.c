/* SPDX-License-Identifier: Apache-2.0 */
/* ipc.c - memory of cuMemAlloc and events, opened by another process. The child makes, the parent opens. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/cases.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNIT FAKECUDA_GRANULARITY
#define LAZY CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS

struct exports {
	CUipcMemHandle memory;
	CUipcEventHandle event;
};

static int ends[2]; /* of a socketpair: the parent's, the child's */

static void tell(int end, const void *bytes, size_t n)
{
	CHECK(send(ends[end], bytes, n, 0) == (ssize_t)n);
}

static void told(int end, void *bytes, size_t n)
{
	CHECK(recv(ends[end], bytes, n, 0) == (ssize_t)n);
}

static void turn(int end)
{
	char byte;

	told(end, &byte, 1);
}

static void your_turn(int end)
{
	tell(end, "", 1);
}

/* The child runs `maker`, which ends or is killed. */
static pid_t with_maker(void (*maker)(void))
{
	pid_t child;

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
	child = fork();
	if (child) {
		open_device();
		return child;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	open_device();
	maker();
	exit(0);
}

static void ends_well(pid_t child)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child && !status);
}

static void is_filled(CUdeviceptr address, size_t bytes, unsigned char value)
{
	unsigned char *host = new_pinned(bytes);
	CUstream stream = new_stream();

	OK(cu.copy_out(host, address, bytes, stream));
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(host, value, bytes));
	OK(cu.host_free(host));
	OK(cu.stream_destroy(stream));
}

static void fill_now(CUdeviceptr address, size_t bytes, unsigned char value)
{
	CUstream stream = new_stream();

	OK(cu.fill(address, value, bytes, stream));
	OK(cu.stream_synchronize(stream));
	OK(cu.stream_destroy(stream));
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

/* Two small ones in one block, and a large one. */
static void make_three(void)
{
	CUdeviceptr small = new_memory(5000), other = new_memory(100), large = new_memory(3 * UNIT);
	struct exports exports[3];

	fill_now(small, 5000, 1);
	fill_now(other, 100, 2);
	fill_now(large, 3 * UNIT, 3);
	OK(cu.ipc_get_memory(&exports[0].memory, small));
	OK(cu.ipc_get_memory(&exports[1].memory, other));
	OK(cu.ipc_get_memory(&exports[2].memory, large));
	GIVES(CUDA_ERROR_INVALID_CONTEXT, cu.ipc_open_memory(&small, exports[0].memory, LAZY));
	CLEAN();
	tell(1, exports, sizeof(exports));
	turn(1);
	is_filled(other, 100, 7);
	OK(cu.mem_free(other));
	CLEAN();
	your_turn(1);
	turn(1);
}

static void memory_between(void)
{
	pid_t child = with_maker(make_three);
	CUdeviceptr small, again, other, large, base;
	struct exports exports[3];
	size_t bytes;
	int capable;
	CUpointer_attribute question = CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE;
	void *value = &capable;

	told(0, exports, sizeof(exports));
	OK(cu.ipc_open_memory(&small, exports[0].memory, LAZY));
	OK(cu.ipc_open_memory(&large, exports[2].memory, LAZY));
	is_filled(small, 5000, 1);
	is_filled(large, 3 * UNIT, 3);
	/* The neighbour lies in the same block. */
	OK(cu.address_range(&base, &bytes, small + 4999));
	CHECK(base == small && bytes == UNIT);
	is_filled(small + 2 * 4096, 100, 2);
	fill_now(small + 2 * 4096, 100, 7);
	BAD(CUDA_ERROR_INVALID_VALUE, "crosses the end", cu.fill(small, 0, UNIT + 1, new_stream()));
	GIVES((CUresult)208, cu.ipc_open_memory(&other, exports[1].memory, LAZY));
	/* It cannot be passed on. */
	OK(cu.pointer_attributes(1, &question, &value, small));
	CHECK(!capable);
	BAD(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc", cu.ipc_get_memory(&exports[0].memory, small));
	BAD(CUDA_ERROR_INVALID_VALUE, "another kind", cu.mem_free(small));
	forget_report();
	/* Once more counts, and is the same. */
	OK(cu.ipc_open_memory(&again, exports[2].memory, LAZY));
	CHECK(again == large && ledger_now().opened == 3 && ledger_now().imported_bytes == 4 * UNIT);
	OK(cu.ipc_close_memory(large));
	is_filled(large, 3 * UNIT, 3);
	OK(cu.ipc_close_memory(large));
	BAD(CUDA_ERROR_INVALID_VALUE, "was not opened", cu.ipc_close_memory(large));
	OK(cu.ipc_close_memory(small));
	CHECK(!ledger_now().opened && !ledger_now().imported_bytes);
	your_turn(0);
	turn(0);
	/* What was freed is not to be had any more, though its block is there. */
	GIVES(CUDA_ERROR_INVALID_VALUE, cu.ipc_open_memory(&other, exports[1].memory, LAZY));
	your_turn(0);
	ends_well(child);
	GIVES(CUDA_ERROR_INVALID_VALUE, cu.ipc_open_memory(&other, exports[0].memory, LAZY));
	CHECK(violations() == 4);
}

static void make_one(void)
{
	CUdeviceptr memory = new_memory(UNIT);
	struct exports exports;

	fill_now(memory, UNIT, 9);
	OK(cu.ipc_get_memory(&exports.memory, memory));
	tell(1, &exports, sizeof(exports));
	turn(1);
}

static void forged(void)
{
	pid_t child = with_maker(make_one);
	struct exports exports, bad;
	CUdeviceptr at;

	told(0, &exports, sizeof(exports));
	for (size_t i = 0; i < sizeof(bad.memory); i++) {
		bad = exports;
		bad.memory.reserved[i] ^= 1;
		CHECK(cu.ipc_open_memory(&at, bad.memory, LAZY));
	}
	memset(&bad, 0, sizeof(bad));
	GIVES(CUDA_ERROR_INVALID_HANDLE, cu.ipc_open_memory(&at, bad.memory, LAZY));
	CLEAN();
	BAD(CUDA_ERROR_INVALID_VALUE, "flags", cu.ipc_open_memory(&at, exports.memory, 0));
	forget_report();
	CHECK(!ledger_now().opened && !ledger_now().imported_bytes);
	your_turn(0);
	ends_well(child);
}

/* Only memory of cuMemAlloc, and from its beginning. */
static void not_for_others(void)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
	CUmemAccessDesc access = { { CU_MEM_LOCATION_TYPE_DEVICE, 0 }, CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
	CUmemGenericAllocationHandle handle;
	CUipcEventHandle event;
	CUipcMemHandle memory;
	CUevent timed;
	CUdeviceptr at;

	open_device();
	OK(cu.mem_create(&handle, UNIT, &properties, 0));
	OK(cu.mem_reserve(&at, UNIT, 0, 0, 0));
	OK(cu.mem_map(at, UNIT, 0, handle, 0));
	OK(cu.mem_access(at, UNIT, &access, 1));
	BAD(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc", cu.ipc_get_memory(&memory, at));
	BAD(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc", cu.ipc_get_memory(&memory, new_memory(100) + 8));
	BAD(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc", cu.ipc_get_memory(&memory, (uintptr_t)new_pinned(100)));
	BAD(CUDA_ERROR_INVALID_VALUE, "take the time", cu.event_create(&timed, CU_EVENT_INTERPROCESS));
	BAD(CUDA_ERROR_INVALID_VALUE, "not created for other processes", cu.ipc_get_event(&event, new_event()));
}

static void switched_off(void)
{
	CUipcMemHandle handle = { { 0 } };
	CUdeviceptr at;

	open_device();
	GIVES(CUDA_ERROR_NOT_SUPPORTED, cu.ipc_get_memory(&handle, new_memory(100)));
	GIVES(CUDA_ERROR_NOT_SUPPORTED, cu.ipc_open_memory(&at, handle, LAZY));
	CLEAN();
}

/* --- who goes first ------------------------------------------------------------------------------------------------ */

static void free_early(void)
{
	CUdeviceptr memory = new_memory(100);
	struct exports exports;

	OK(cu.ipc_get_memory(&exports.memory, memory));
	tell(1, &exports, sizeof(exports));
	turn(1);
	OK(cu.mem_free(memory));
	CHECK(violations() == 1 && strstr(last_report(), "has the memory open"));
	your_turn(1);
	turn(1);
}

static void freed_under_us(void)
{
	pid_t child = with_maker(free_early);
	CUstream stream = new_stream();
	CUdeviceptr own = new_memory(100), at;
	struct exports exports;

	told(0, &exports, sizeof(exports));
	OK(cu.ipc_open_memory(&at, exports.memory, LAZY));
	your_turn(0);
	turn(0);
	OK(cu.copy(own, at, 100, stream));
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(stream));
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.mem_free(own));
	your_turn(0);
	ends_well(child);
	CLEAN();
}

static void maker_is_killed(void)
{
	pid_t child = with_maker(make_one);
	CUstream stream = new_stream();
	CUdeviceptr own = new_memory(UNIT), at;
	struct exports exports;
	siginfo_t info;

	told(0, &exports, sizeof(exports));
	OK(cu.ipc_open_memory(&at, exports.memory, LAZY));
	is_filled(at, UNIT, 9);
	kill(child, SIGKILL);
	/* Dead, and not yet waited for. */
	CHECK(!waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
	OK(cu.copy(own, at, UNIT, stream));
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(stream));
	CLEAN();
}

/* An opener that is killed holds nothing any more. */
static void open_and_wait(void)
{
	struct exports exports;
	CUdeviceptr at;

	told(1, &exports, sizeof(exports));
	OK(cu.ipc_open_memory(&at, exports.memory, LAZY));
	your_turn(1);
	for (;;)
		pause();
}

static void opener_is_killed(void)
{
	pid_t child = with_maker(open_and_wait);
	CUdeviceptr memory = new_memory(100);
	struct exports exports;
	siginfo_t info;

	OK(cu.ipc_get_memory(&exports.memory, memory));
	tell(0, &exports, sizeof(exports));
	turn(0);
	kill(child, SIGKILL);
	CHECK(!waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
	OK(cu.mem_free(memory));
	CLEAN();
}

static void closed_under_work(void)
{
	pid_t child = with_maker(make_one);
	CUdeviceptr own = new_memory(UNIT), at;
	CUstream stream = new_stream();
	struct exports exports;

	told(0, &exports, sizeof(exports));
	OK(cu.ipc_open_memory(&at, exports.memory, LAZY));
	OK(launch_spin(stream, 20000000));
	OK(cu.copy(own, at, UNIT, stream));
	OK(cu.ipc_close_memory(at));
	CHECK(violations() == 1 && strstr(last_report(), "still used by queued work"));
	your_turn(0);
	ends_well(child);
}

/* --- events ----------------------------------------------------------------------------------------------------------- */

static void make_event(void)
{
	CUdeviceptr memory = new_memory(UNIT);
	CUstream stream = new_stream();
	struct exports exports;
	CUevent event, own;

	OK(cu.event_create(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
	OK(cu.ipc_get_event(&exports.event, event));
	OK(cu.ipc_get_memory(&exports.memory, memory));
	GIVES(CUDA_ERROR_INVALID_CONTEXT, cu.ipc_open_event(&own, exports.event));
	OK(launch_spin(stream, 50000000));
	OK(cu.fill(memory, 4, UNIT, stream));
	OK(cu.event_record(event, stream));
	tell(1, &exports, sizeof(exports));
	turn(1);
	OK(cu.event_destroy(event));
	OK(cu.stream_synchronize(stream));
	OK(cu.mem_free(memory));
	CLEAN();
}

static void event_between(void)
{
	pid_t child = with_maker(make_event);
	CUdeviceptr own = new_memory(UNIT), at;
	CUstream stream = new_stream();
	struct exports exports;
	CUevent event, never;

	told(0, &exports, sizeof(exports));
	OK(cu.ipc_open_memory(&at, exports.memory, LAZY));
	OK(cu.ipc_open_event(&event, exports.event));
	GIVES(CUDA_ERROR_NOT_READY, cu.event_query(event));
	OK(cu.stream_wait_event(stream, event, 0));
	OK(cu.copy(own, at, UNIT, stream));
	OK(cu.stream_synchronize(stream));
	OK(cu.event_query(event));
	is_filled(own, UNIT, 4);
	OK(cu.ipc_close_memory(at));
	OK(cu.event_destroy(event));
	exports.event.reserved[20] ^= 1;
	GIVES(CUDA_ERROR_INVALID_HANDLE, cu.ipc_open_event(&never, exports.event));
	your_turn(0);
	ends_well(child);
	CLEAN();
}

static void make_event_for_ever(void)
{
	CUstream stream = new_stream();
	struct exports exports;
	CUevent event;

	OK(cu.event_create(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
	OK(cu.ipc_get_event(&exports.event, event));
	OK(launch_spin(stream, 60000000000u));
	OK(cu.event_record(event, stream));
	tell(1, &exports, sizeof(exports));
	turn(1);
	OK(cu.event_destroy(event));
	CHECK(violations() == 1 && strstr(last_report(), "waits for the event"));
	your_turn(1);
	for (;;)
		pause();
}

static void event_of_the_dead(void)
{
	pid_t child = with_maker(make_event_for_ever);
	CUstream stream = new_stream();
	struct exports exports;
	CUevent event;
	int status;

	told(0, &exports, sizeof(exports));
	OK(cu.ipc_open_event(&event, exports.event));
	BAD(CUDA_ERROR_INVALID_HANDLE, "of another process", cu.event_record(event, stream));
	forget_report();
	OK(cu.stream_wait_event(stream, event, 0));
	your_turn(0);
	turn(0);
	kill(child, SIGKILL);
	CHECK(waitpid(child, &status, 0) == child);
	pause_ms(20);
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(stream));
	/* Nothing helps but the end of this process. */
	unlink(report);
	_exit(0);
}

const struct test_case ipc_cases[] = {
	{ "ipc: memory in another process", memory_between, { 0 } },
	{ "ipc: forged handles", forged, { 0 } },
	{ "ipc: what is not for others", not_for_others, { 0 } },
	{ "ipc: switched off", switched_off, { "FAKECUDA_IPC=0" } },
	{ "ipc: freed while another has it open", freed_under_us, { 0 } },
	{ "ipc: its maker is killed", maker_is_killed, { 0 } },
	{ "ipc: who has it open is killed", opener_is_killed, { 0 } },
	{ "ipc: closed while work uses it", closed_under_work, { 0 } },
	{ "ipc: an event orders what two processes do", event_between, { 0 } },
	{ "ipc: an event that never comes", event_of_the_dead, { 0 } },
	{ NULL, NULL, { 0 } },
};
