/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - devices, contexts, modules, launches, faults and the ledger. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/cases.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void two_devices(void)
{
	CUuuid a, b, again;
	int n, value;
	char name[64];

	open_driver();
	CHECK(cu.version == 13000);
	OK(cu.device_count(&n));
	CHECK(n == 2);
	GIVES(CUDA_ERROR_INVALID_DEVICE, cu.device_get(&device, 2));
	GIVES(CUDA_ERROR_INVALID_DEVICE, cu.device_uuid(&a, 2));
	OK(cu.device_get(&device, 1));
	OK(cu.device_uuid(&a, 0));
	OK(cu.device_uuid(&b, 1));
	OK(cu.device_uuid(&again, 1));
	CHECK(memcmp(&a, &b, sizeof(a)) && !memcmp(&b, &again, sizeof(b)));
	OK(cu.device_name(name, sizeof(name), 1));
	CHECK(strstr(name, "software device"));
	OK(cu.device_attribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
	CHECK(value == 9);
	OK(cu.device_attribute(&value, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
	CHECK(value == 1);
	GIVES(CUDA_ERROR_INVALID_VALUE, cu.device_attribute(&value, (CUdevice_attribute)9999, 0));
	CLEAN();
}

static void nothing_supported(void)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
					   .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
	CUmemGenericAllocationHandle handle;
	void *memory = aligned_alloc(4096, 4096);
	int value = 1;

	open_device();
	OK(cu.device_attribute(&value, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
	CHECK(!value);
	OK(cu.device_attribute(&value, CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 0));
	CHECK(!value);
	GIVES(CUDA_ERROR_NOT_SUPPORTED, cu.mem_create(&handle, FAKECUDA_GRANULARITY, &properties, 0));
	GIVES(CUDA_ERROR_NOT_SUPPORTED, cu.host_register(memory, 4096, CU_MEMHOSTREGISTER_READ_ONLY));
	free(memory);
	CLEAN();
}

static void contexts(void)
{
	CUcontext first, second, now;
	CUdeviceptr memory;
	CUstream stream;

	open_driver();
	BAD(CUDA_ERROR_INVALID_CONTEXT, "cuMemAlloc_v2 without a current context", cu.mem_alloc(&memory, 16));
	BAD(CUDA_ERROR_INVALID_CONTEXT, "nobody has", cu.context_release(0));
	OK(cu.context_retain(&first, 0));
	OK(cu.context_retain(&second, 0));
	CHECK(first == second);
	OK(cu.context_set(first));
	OK(cu.context_get(&now));
	CHECK(now == first);
	stream = new_stream();
	memory = new_memory(1000);
	OK(cu.context_release(0));
	OK(cu.stream_query(stream));
	CHECK(ledger_now().contexts == 1);
	/* The last one takes all that is left. */
	OK(cu.context_release(0));
	CHECK(!ledger_now().contexts && !ledger_now().streams && !ledger_now().device_bytes && ledger_now().abandoned == 2);
	BAD(CUDA_ERROR_CONTEXT_IS_DESTROYED, "without a current context", cu.stream_query(stream));
	BAD(CUDA_ERROR_INVALID_CONTEXT, "is no context now", cu.context_set(first));
	OK(cu.context_retain(&second, 0));
	CHECK(second != first);
	OK(cu.context_set(second));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.stream_query(stream));
	OK(cu.context_set(NULL));
	GIVES(CUDA_ERROR_INVALID_CONTEXT, cu.context_synchronize());
}

static void *without_context(void *arg)
{
	CUcontext now;

	(void)arg;
	OK(cu.context_get(&now));
	CHECK(!now);
	GIVES(CUDA_ERROR_INVALID_CONTEXT, cu.context_synchronize());
	OK(cu.context_set(context));
	OK(cu.context_synchronize());
	return NULL;
}

static void context_per_thread(void)
{
	pthread_t thread;

	open_device();
	pthread_create(&thread, NULL, without_context, NULL);
	pthread_join(thread, NULL);
	CHECK(violations() == 1);
}

static void other_context(void)
{
	CUcontext other;
	CUdeviceptr here, there;
	CUstream stream;
	CUevent event;

	open_device();
	stream = new_stream();
	event = new_event();
	here = new_memory(4096);
	OK(cu.context_retain(&other, 1));
	OK(cu.context_set(other));
	there = new_memory(4096);
	BAD(CUDA_ERROR_INVALID_HANDLE, "another context", cu.fill(there, 0, 4096, stream));
	BAD(CUDA_ERROR_INVALID_HANDLE, "another context", cu.event_record(event, new_stream()));
	BAD(CUDA_ERROR_INVALID_VALUE, "another device", cu.fill(here, 0, 4096, new_stream()));
	BAD(CUDA_ERROR_INVALID_VALUE, "another context", cu.mem_free(here));
	OK(cu.stream_synchronize(stream));
}

static void modules(void)
{
	uint64_t n = 64;
	CUdeviceptr to, from;
	void *params[] = { &to, &from, &n };
	CUfunction function, wrong;
	CUstream stream;

	open_device();
	stream = new_stream();
	to = new_memory(64);
	from = new_memory(64);
	GIVES(CUDA_ERROR_NOT_FOUND, cu.module_function(&wrong, module, "no_such_kernel"));
	GIVES(CUDA_ERROR_INVALID_VALUE, cu.module_load(&module, NULL));
	function = function_of("inf_copy");
	CHECK(function == function_of("inf_copy"));
	OK(cu.launch(function, 1, 1, 1, 256, 1, 1, 0, stream, params, NULL));
	CLEAN();
	BAD(CUDA_ERROR_INVALID_VALUE, "shape", cu.launch(function, 0, 1, 1, 256, 1, 1, 0, stream, params, NULL));
	BAD(CUDA_ERROR_INVALID_VALUE, "shape", cu.launch(function, 1, 1, 1, 64, 32, 1, 0, stream, params, NULL));
	BAD(CUDA_ERROR_INVALID_VALUE, "parameters", cu.launch(function, 1, 1, 1, 256, 1, 1, 0, stream, NULL, NULL));
	BAD(CUDA_ERROR_INVALID_HANDLE, "NULL", cu.launch(NULL, 1, 1, 1, 256, 1, 1, 0, stream, params, NULL));
	OK(cu.module_unload(module));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.launch(function, 1, 1, 1, 256, 1, 1, 0, stream, params, NULL));
	BAD(CUDA_ERROR_INVALID_HANDLE, "has been destroyed", cu.module_unload(module));
	OK(cu.stream_synchronize(stream));
	CHECK(ledger_now().kernels == 1 && !ledger_now().modules);
}

/* Parameters are copied at the call: the caller's may change. */
static void params_are_copied(void)
{
	CUdeviceptr to, from;
	uint64_t n = 4096;
	void *params[] = { &to, &from, &n };
	unsigned char *host;
	CUstream stream;

	open_device();
	stream = new_stream();
	to = new_memory(n);
	from = new_memory(n);
	host = new_pinned(n);
	OK(launch_spin(stream, 5000000));
	OK(cu.fill(from, 7, n, stream));
	OK(cu.launch(function_of("inf_copy"), 1, 1, 1, 256, 1, 1, 0, stream, params, NULL));
	OK(cu.copy_out(host, to, n, stream));
	to = from = n = 0;
	OK(cu.stream_synchronize(stream));
	CHECK(is_all(host, 7, 4096));
	CLEAN();
}

/* --- lost contexts ----------------------------------------------------------------------------------------------- */

static void is_lost(CUresult error, CUstream stream)
{
	CUdeviceptr memory;
	CUcontext again;
	int n;

	GIVES(error, cu.stream_synchronize(stream));
	GIVES(error, cu.mem_alloc(&memory, 16));
	GIVES(error, cu.stream_query(stream));
	GIVES(error, cu.stream_destroy(stream));
	GIVES(error, cu.context_synchronize());
	GIVES(error, cu.context_retain(&again, device));
	OK(cu.device_count(&n));
	OK(cu.context_set(NULL));
	OK(cu.context_set(context));
	GIVES(error, cu.mem_alloc(&memory, 16));
}

static void illegal_address(void)
{
	CUdeviceptr good;
	CUstream stream, other;

	open_device();
	stream = new_stream();
	other = new_stream();
	good = new_memory(4096);
	OK(launch_spin(other, 20000000));
	OK(launch_copy(stream, good, good + 2048, 2049));
	/* It is found as it runs: the launch has succeeded. */
	GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cu.stream_synchronize(stream));
	CHECK(reported("inf_copy touches") == 1 && reported("crosses the end") == 1);
	is_lost(CUDA_ERROR_ILLEGAL_ADDRESS, other);
}

static void host_address_in_kernel(void)
{
	void *plain = aligned_alloc(4096, 4096);
	CUdeviceptr good;
	CUstream stream;

	open_device();
	stream = new_stream();
	good = new_memory(4096);
	OK(cu.host_register(plain, 4096, 0));
	OK(launch_copy(stream, good, (uintptr_t)plain, 4096));
	OK(launch_copy(stream, (uintptr_t)plain, good, 4096));
	OK(cu.stream_synchronize(stream));
	CLEAN();
	OK(cu.host_unregister(plain));
	OK(launch_copy(stream, good, (uintptr_t)plain, 4096));
	is_lost(CUDA_ERROR_ILLEGAL_ADDRESS, stream);
}

static void called(void *data)
{
	*(int *)data = 1;
}

/* What was queued behind the failure is not run, calls of the host included, and waits for it end. */
static void late_error(void)
{
	int was_called = 0;
	CUstream stream, waits;
	CUevent event;

	open_device();
	stream = new_stream();
	waits = new_stream();
	event = new_event();
	CHECK(!fakecuda.fault("cuLaunchKernel", 2, FAKECUDA_LATE(CUDA_ERROR_LAUNCH_FAILED)));
	OK(launch_spin(stream, 20000000));
	OK(launch_spin(stream, 1000));
	OK(cu.event_record(event, stream));
	OK(cu.stream_wait_event(waits, event, 0));
	OK(cu.stream_call(waits, called, &was_called));
	GIVES(CUDA_ERROR_LAUNCH_FAILED, cu.event_synchronize(event));
	is_lost(CUDA_ERROR_LAUNCH_FAILED, waits);
	CHECK(!was_called);
	CLEAN();
}

/* --- faults ---------------------------------------------------------------------------------------------------------- */

static const char *const symbols[] = {
#define SYMBOL(member, symbol, params) #symbol,
	INF_DRIVER_CALLS(SYMBOL)
	INF_DRIVER_IPC_CALLS(SYMBOL)
#undef SYMBOL
};

/* Every call, made with parameters that are all 0: a fault comes before anything is looked at. */
typedef CUresult (*any_call)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
			     uint64_t);

static void every_call_fails(void)
{
	open_device();
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		uint64_t n = fakecuda.calls(symbols[i]);
		any_call call;

		CHECK(n != UINT64_MAX);
		if (!strcmp(symbols[i], "cuGetErrorName"))
			continue;
		memcpy(&call, (char *)&cu + i * sizeof(call), sizeof(call));
		CHECK(!fakecuda.fault(symbols[i], n + 1, CUDA_ERROR_OUT_OF_MEMORY));
		if (call(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) != CUDA_ERROR_OUT_OF_MEMORY)
			FAIL("%s does not fail", symbols[i]);
		CHECK(fakecuda.calls(symbols[i]) == n + 1);
	}
	CHECK(fakecuda.calls("cuNoSuchCall") == UINT64_MAX && fakecuda.fault("cuNoSuchCall", 1, 1) == -1);
	CHECK(fakecuda.calls("cuMemAlloc") == fakecuda.calls("cuMemAlloc_v2"));
	CLEAN();
}

static void faults_by_environment(void)
{
	CUdeviceptr memory;

	open_device();
	OK(cu.mem_alloc(&memory, 16));
	GIVES(CUDA_ERROR_OUT_OF_MEMORY, cu.mem_alloc(&memory, 16));
	OK(cu.mem_alloc(&memory, 16));
	GIVES(CUDA_ERROR_LAUNCH_FAILED, cu.mem_free(memory));
	GIVES(CUDA_ERROR_LAUNCH_FAILED, cu.mem_alloc(&memory, 16));
	CLEAN();
}

static void *synchronize(void *data)
{
	OK(cu.context_set(context));
	cu.stream_synchronize(*(CUstream *)data);
	FAIL("a call that hangs has returned");
	return NULL;
}

/* A call that never returns, and a stream that stops; the process ends all the same. */
static void hangs(void)
{
	CUstream blocked, stalled;
	pthread_t thread;

	open_device();
	blocked = new_stream();
	stalled = new_stream();
	CHECK(!fakecuda.fault("cuStreamSynchronize", 1, FAKECUDA_HANG));
	pthread_create(&thread, NULL, synchronize, &blocked);
	CHECK(!fakecuda.fault("cuLaunchKernel", 0, FAKECUDA_HANG));
	OK(launch_spin(stalled, 0));
	OK(launch_spin(blocked, 0));
	pause_ms(50);
	GIVES(CUDA_ERROR_NOT_READY, cu.stream_query(stalled));
	OK(cu.stream_query(blocked));
	CLEAN();
}

/* --- what lives --------------------------------------------------------------------------------------------------------- */

static void ledger_counts(void)
{
	struct fakecuda_ledger ledger;
	unsigned char plain[100] = { 0 };
	CUdeviceptr memory;
	CUstream stream;
	CUevent event;
	void *pinned;

	open_device();
	stream = new_stream();
	event = new_event();
	memory = new_memory(100000);
	pinned = new_pinned(5000);
	OK(cu.copy_in(memory, pinned, 3000, stream));
	OK(cu.copy_in(memory, plain, 100, stream));
	OK(cu.copy_out(pinned, memory, 2000, stream));
	OK(cu.copy(memory + 4096, memory, 1000, stream));
	OK(cu.stream_synchronize(stream));
	ledger = ledger_now();
	CHECK(ledger.contexts == 1 && ledger.streams == 1 && ledger.events == 1 && ledger.modules == 1);
	CHECK(ledger.device_bytes == 100000 && ledger.allocations == 1);
	CHECK(ledger.pinned_bytes == 5000 && ledger.pinned_allocations == 1);
	CHECK(ledger.in_bytes == 3100 && ledger.out_bytes == 2000 && ledger.device_copy_bytes == 1000);
	CHECK(ledger.pageable_bytes == 100);
	OK(cu.host_free(pinned));
	OK(cu.mem_free(memory));
	OK(cu.event_destroy(event));
	OK(cu.stream_destroy(stream));
	OK(cu.module_unload(module));
	OK(cu.context_release(device));
	ledger = ledger_now();
	CHECK(!ledger.contexts && !ledger.streams && !ledger.events && !ledger.modules);
	CHECK(!ledger.device_bytes && !ledger.pinned_bytes);
	CHECK(ledger.device_bytes_most == 100000 && !ledger.abandoned);
	CLEAN();
}

/* Another process says at its end what it left; one that forked and did nothing says nothing. */
static void ledger_file(void)
{
	char path[64], line[3000];
	int status;
	FILE *file;
	pid_t child;

	snprintf(path, sizeof(path), "/tmp/fakecuda-ledger-%d", (int)getpid());
	unlink(path);
	setenv("FAKECUDA_LEDGER", path, 1);
	child = fork();
	if (!child) {
		open_device();
		new_memory(12345);
		if (!fork())
			exit(0);
		wait(&status);
		exit(0);
	}
	waitpid(child, &status, 0);
	unsetenv("FAKECUDA_LEDGER");
	CHECK(!status);
	file = fopen(path, "r");
	unlink(path);
	CHECK(file && fgets(line, sizeof(line), file));
	CHECK(strstr(line, "\"device_bytes\": 12345,") && strstr(line, "\"contexts\": 1,") && line[strlen(line) - 2] == '}');
	CHECK(!fgets(line, sizeof(line), file));
	fclose(file);
}

static void child_of_fork(void)
{
	CUstream stream;
	int status;
	pid_t child;

	open_device();
	child = fork();
	if (!child) {
		BAD(CUDA_ERROR_NOT_INITIALIZED, "in a child of fork()", cu.stream_create(&stream, 0, 0));
		_exit(0);
	}
	waitpid(child, &status, 0);
	CHECK(!status);
	OK(cu.stream_create(&stream, 0, 0));
}

static void aborts(void)
{
	CUdeviceptr memory;
	int status;
	pid_t child = fork();

	if (!child) {
		open_device();
		cu.mem_alloc(&memory, 0);
		_exit(0);
	}
	waitpid(child, &status, 0);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

const struct test_case calls_cases[] = {
	{ "two devices", two_devices, { "FAKECUDA_DEVICES=2" } },
	{ "nothing optional is supported", nothing_supported, { "FAKECUDA_VMM=0", "FAKECUDA_READ_ONLY=0" } },
	{ "contexts: retained, current, released", contexts, { 0 } },
	{ "contexts: each thread has its own current one", context_per_thread, { 0 } },
	{ "contexts: what belongs to another is refused", other_context, { "FAKECUDA_DEVICES=2" } },
	{ "modules, functions, launches", modules, { 0 } },
	{ "launch: parameters are copied at the call", params_are_copied, { 0 } },
	{ "lost: a kernel beyond its memory", illegal_address, { 0 } },
	{ "lost: a kernel and host memory", host_address_in_kernel, { 0 } },
	{ "lost: an error that comes late", late_error, { 0 } },
	{ "faults: each call fails when told to", every_call_fails, { 0 } },
	{ "faults: by environment", faults_by_environment, { "FAKECUDA_FAULTS=cuMemAlloc:2:2,cuMemFree_v2:1:719" } },
	{ "faults: hang", hangs, { 0 } },
	{ "ledger: in the process", ledger_counts, { 0 } },
	{ "ledger: in a file", ledger_file, { 0 } },
	{ "fork: the driver is not the child's", child_of_fork, { 0 } },
	{ "a violation aborts", aborts, { "FAKECUDA_ABORT=1" } },
	{ NULL, NULL, { 0 } },
};
