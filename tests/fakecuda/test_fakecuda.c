/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fakecuda.c - test_fakecuda LIBRARY: does the software driver see what it is there to see, and nothing else? Each case runs
 * in a process of its own and counts violations in a report.
 */
#define _GNU_SOURCE 1
#include "shm/device/driver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 65536u

static struct inf_driver driver;
static CUstream one, two;
static CUdeviceptr a, b;
static uint8_t *pinned;
static char report[] = "/tmp/fakecuda-report.XXXXXX";

/* What a case wants to be true; ends its process else. */
#define WANT(condition)                                                    \
	do {                                                               \
		if (!(condition)) {                                        \
			printf("  line %d: %s\n", __LINE__, #condition);   \
			fflush(stdout);                                    \
			_exit(3);                                          \
		}                                                          \
	} while (0)
#define OK(call) WANT(driver.call == CUDA_SUCCESS)

static void open_driver(const char *library)
{
	char text[INF_DRIVER_TEXT_BYTES];
	CUcontext context;
	CUdevice device;
	void *host;

	WANT(!inf_driver_open(&driver, library, text) && !inf_driver_find_device(&driver, "cuda", &device, text));
	OK(context_retain(&context, device));
	OK(context_set(context));
	OK(stream_create(&one, CU_STREAM_NON_BLOCKING, 0));
	OK(stream_create(&two, CU_STREAM_NON_BLOCKING, 0));
	OK(mem_alloc(&a, BYTES));
	OK(mem_alloc(&b, BYTES));
	OK(host_alloc(&host, BYTES));
	pinned = host;
}

/* --- right programs ---------------------------------------------------------------------------------------- */

static void there_and_back(void)
{
	for (unsigned int i = 0; i < BYTES; i++)
		pinned[i] = (uint8_t)(i * 7);
	OK(copy_in(a, pinned, BYTES, one));
	OK(copy(b, a, BYTES, one));
	OK(stream_synchronize(one));
	memset(pinned, 0, BYTES);
	OK(copy_out(pinned, b, BYTES, one));
	OK(stream_synchronize(one));
	for (unsigned int i = 0; i < BYTES; i++)
		WANT(pinned[i] == (uint8_t)(i * 7));
}

static void order_by_event(void)
{
	CUevent event;

	OK(event_create(&event, CU_EVENT_DISABLE_TIMING));
	OK(fill(a, 1, BYTES, one));
	OK(event_record(event, one));
	OK(stream_wait_event(two, event, 0));
	OK(copy(b, a, BYTES, two));
	OK(stream_synchronize(two));
	OK(event_destroy(event));
}

static void order_by_the_host(void)
{
	CUevent event;

	OK(event_create(&event, CU_EVENT_DISABLE_TIMING));
	OK(fill(a, 1, BYTES, one));
	OK(stream_synchronize(one));
	OK(copy(b, a, BYTES, two));
	OK(event_record(event, two));
	OK(event_synchronize(event));
	OK(fill(b, 2, BYTES, one));
	while (driver.stream_query(one) == CUDA_ERROR_NOT_READY)
		;
	OK(fill(a, 3, BYTES, two));
	OK(event_destroy(event));
	OK(stream_synchronize(two));
}

static int called;
static void call(void *data)
{
	(void)data;
	__atomic_store_n(&called, 1, __ATOMIC_RELEASE);
}

static void order_by_a_call(void)
{
	OK(fill(a, 1, BYTES, one));
	OK(stream_call(one, call, NULL));
	while (!__atomic_load_n(&called, __ATOMIC_ACQUIRE))
		;
	OK(fill(a, 2, BYTES, two));
	OK(stream_synchronize(two));
}

static void readers_need_no_order(void)
{
	CUdeviceptr c;

	OK(mem_alloc(&c, BYTES));
	OK(fill(a, 1, BYTES, one));
	OK(stream_synchronize(one));
	OK(copy(b, a, BYTES, one));
	OK(copy(c, a, BYTES, two));
	OK(stream_synchronize(one));
	OK(stream_synchronize(two));
	OK(mem_free(c));
}

static void halves_do_not_meet(void)
{
	OK(fill(a, 1, BYTES / 2, one));
	OK(fill(a + BYTES / 2, 2, BYTES / 2, two));
	OK(stream_synchronize(one));
	OK(stream_synchronize(two));
}

static void pageable_is_copied_aside(void)
{
	uint8_t *pageable = malloc(BYTES);

	WANT(pageable);
	memset(pageable, 5, BYTES);
	OK(copy_in(a, pageable, BYTES, one));
	memset(pageable, 6, BYTES); /* the driver is done with it */
	OK(copy_out(pageable, a, BYTES, one));
	WANT(pageable[0] == 5 && pageable[BYTES - 1] == 5); /* and waited for this one */
	free(pageable);
}

static void register_and_unregister(void)
{
	uint8_t *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	WANT(memory != MAP_FAILED);
	OK(host_register(memory, BYTES, CU_MEMHOSTREGISTER_PORTABLE));
	OK(copy_in(a, memory, BYTES, one));
	OK(stream_synchronize(one));
	OK(host_unregister(memory));
	OK(host_register(memory, BYTES, CU_MEMHOSTREGISTER_READ_ONLY));
	OK(host_unregister(memory));
}

/* --- wrong ones -------------------------------------------------------------------------------------------------- */

static void no_order(void)
{
	OK(fill(a, 1, BYTES, one));
	OK(copy(b, a, BYTES, two));
}

static void event_recorded_too_early(void)
{
	CUevent event;

	OK(event_create(&event, CU_EVENT_DISABLE_TIMING));
	OK(event_record(event, one));
	OK(fill(a, 1, BYTES, one));
	OK(stream_wait_event(two, event, 0));
	OK(copy(b, a, BYTES, two));
}

static void wait_before_the_record(void)
{
	CUevent event;

	OK(event_create(&event, CU_EVENT_DISABLE_TIMING));
	OK(stream_wait_event(two, event, 0));
	OK(fill(a, 1, BYTES, one));
	OK(event_record(event, one));
	OK(copy(b, a, BYTES, two));
}

static void reuse_while_it_is_read(void)
{
	OK(copy_in(a, pinned, BYTES, one));
	OK(copy_out(pinned, b, BYTES, two));
}

static void one_byte_too_many(void)
{
	WANT(driver.copy_in(a + 1, pinned, BYTES, one) == CUDA_ERROR_INVALID_VALUE);
}

static void after_free(void)
{
	OK(mem_free(a));
	WANT(driver.fill(a, 1, 1, one) == CUDA_ERROR_INVALID_VALUE);
}

static void free_in_use(void)
{
	OK(copy_in(a, pinned, BYTES, one));
	OK(mem_free(a));
}

static void freed_twice(void)
{
	OK(mem_free(a));
	WANT(driver.mem_free(a) == CUDA_ERROR_INVALID_VALUE);
}

static void write_to_read_only(void)
{
	void *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	OK(host_register(memory, BYTES, CU_MEMHOSTREGISTER_READ_ONLY));
	WANT(driver.copy_out(memory, a, BYTES, one) == CUDA_ERROR_INVALID_VALUE);
}

static void across_a_registration(void)
{
	uint8_t *memory = mmap(NULL, 2 * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	OK(host_register(memory, BYTES, 0));
	WANT(driver.copy_in(a, memory + BYTES / 2, BYTES, one) == CUDA_ERROR_INVALID_VALUE);
}

static void registered_twice(void)
{
	void *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	OK(host_register(memory, BYTES, 0));
	WANT(driver.host_register(memory, BYTES, 0) == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
}

static void kernel_out_of_bounds(void)
{
	static const char image[] = "x";
	uint64_t n = BYTES + 1;
	void *params[] = { &a, &b, &n };
	CUfunction function;
	CUmodule module;

	OK(module_load(&module, image));
	OK(module_function(&function, module, "inf_copy"));
	OK(launch(function, 1, 1, 1, 256, 1, 1, 0, one, params, NULL));
	/* It shows later, and for good. */
	WANT(driver.stream_synchronize(one) == CUDA_ERROR_ILLEGAL_ADDRESS);
	WANT(driver.mem_free(a) == CUDA_ERROR_ILLEGAL_ADDRESS && inf_driver_is_fatal(CUDA_ERROR_ILLEGAL_ADDRESS));
}

static void without_a_context(void)
{
	OK(context_set(NULL));
	WANT(driver.fill(a, 1, 1, one) == CUDA_ERROR_INVALID_CONTEXT);
}

static void destroyed_stream(void)
{
	OK(stream_destroy(two));
	WANT(driver.fill(a, 1, 1, two) == CUDA_ERROR_INVALID_HANDLE);
}

static const struct {
	const char *name;
	void (*run)(void);
	bool is_wrong;
} cases[] = {
#define RIGHT(name) { #name, name, false }
#define WRONG(name) { #name, name, true }
	RIGHT(there_and_back), RIGHT(order_by_event), RIGHT(order_by_the_host), RIGHT(order_by_a_call), RIGHT(readers_need_no_order),
	RIGHT(halves_do_not_meet), RIGHT(pageable_is_copied_aside), RIGHT(register_and_unregister), WRONG(no_order),
	WRONG(event_recorded_too_early), WRONG(wait_before_the_record), WRONG(reuse_while_it_is_read), WRONG(one_byte_too_many),
	WRONG(after_free), WRONG(free_in_use), WRONG(freed_twice), WRONG(write_to_read_only), WRONG(across_a_registration),
	WRONG(registered_twice), WRONG(kernel_out_of_bounds), WRONG(without_a_context), WRONG(destroyed_stream),
};

static long report_bytes(void)
{
	FILE *file = fopen(report, "re");
	long n;

	if (!file)
		return -1;
	fseek(file, 0, SEEK_END);
	n = ftell(file);
	fclose(file);
	return n;
}

static bool run_case(unsigned int i, const char *library)
{
	bool has_found;
	int status;
	pid_t pid;

	if (truncate(report, 0))
		return false;
	fflush(stdout);
	pid = fork();
	if (!pid) {
		/* Slow enough that what is queued is still there when the next call comes. */
		setenv("FAKECUDA_JITTER_US", "2000", 1);
		open_driver(library);
		cases[i].run();
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return false;
	has_found = report_bytes() > 0;
	return has_found == cases[i].is_wrong;
}

int main(int argc, char **argv)
{
	unsigned int n_passed = 0, n_failed = 0;
	int fd = mkstemp(report);

	if (argc != 2 || fd < 0)
		return 2;
	close(fd);
	setenv("FAKECUDA_REPORT", report, 1);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool is_good = run_case(i, argv[1]);

		printf("%s - %s: %s\n", is_good ? "ok" : "NOT OK", cases[i].name, cases[i].is_wrong ? "is found" : "nothing is found");
		n_passed += is_good;
		n_failed += !is_good;
	}
	unlink(report);
	printf("%u passed, %u failed, 0 skipped\n", n_passed, n_failed);
	return n_failed != 0;
}
