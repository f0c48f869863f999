/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fakecuda.c - test_fakecuda LIBRARY [PART]: the software driver against what a driver must do and what it must find.
 *
 * Each case runs in a child of fork(), which sets its environment, opens the library and says in one line what is wrong: a driver
 * has one state per process, and lost contexts stay lost. With PART, only the cases whose name has it.
 *
 * The cases are in cases/, by subject, and are included: the program is one object, beside which the library has all others here.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/cases.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CASE_SECONDS 60u

struct inf_driver cu;
struct fakecuda_functions fakecuda;
CUcontext context;
CUdevice device;
CUmodule module;
static const char *library;
static char report[64];
static int said; /* the pipe to the parent */

/* --- what a case says --------------------------------------------------------------------------------------------- */

void fail(const char *file, int line, const char *format, ...)
{
	char text[400];
	va_list args;
	int n = snprintf(text, sizeof(text), "%s:%d: ", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);

	va_start(args, format);
	vsnprintf(text + n, sizeof(text) - (size_t)n, format, args);
	va_end(args);
	(void)!write(said, text, strlen(text));
	unlink(report);
	_exit(1);
}

const char *name_of(CUresult error)
{
	return inf_driver_error(&cu, error);
}

/* --- the driver ------------------------------------------------------------------------------------------------------ */

static void find(void *handle, const char *symbol, void *to)
{
	void *address = dlsym(handle, symbol);

	CHECK(address);
	memcpy(to, &address, sizeof(address));
}

void open_driver(void)
{
	char text[INF_DRIVER_TEXT_BYTES];
	void *handle;
	int r = inf_driver_open(&cu, library, text);

	if (r)
		FAIL("%s", text);
	handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
	CHECK(handle);
	find(handle, "fakecuda_ledger", &fakecuda.ledger);
	find(handle, "fakecuda_calls", &fakecuda.calls);
	find(handle, "fakecuda_fault", &fakecuda.fault);
	find(handle, "fakecuda_reload", &fakecuda.reload);
	find(handle, "fakecuda_hold", &fakecuda.hold);
	find(handle, "fakecuda_priority", &fakecuda.priority);
}

void open_device(void)
{
	open_driver();
	OK(cu.device_get(&device, 0));
	OK(cu.context_retain(&context, device));
	OK(cu.context_set(context));
	OK(cu.module_load(&module, "anything"));
}

CUfunction function_of(const char *name)
{
	CUfunction function;

	OK(cu.module_function(&function, module, name));
	return function;
}

struct fakecuda_ledger ledger_now(void)
{
	struct fakecuda_ledger ledger;

	fakecuda.ledger(&ledger);
	return ledger;
}

uint64_t violations(void)
{
	return ledger_now().violations;
}

/* How many lines of the report have these words. */
unsigned int reported(const char *words)
{
	FILE *file = fopen(report, "r");
	unsigned int n = 0;
	char line[600];

	while (file && fgets(line, sizeof(line), file))
		n += strstr(line, words) != NULL;
	if (file)
		fclose(file);
	return n;
}

const char *last_report(void)
{
	static char line[600];
	FILE *file = fopen(report, "r");

	line[0] = 0;
	while (file && fgets(line, sizeof(line), file))
		line[strcspn(line, "\n")] = 0;
	if (file)
		fclose(file);
	return line;
}

void forget_report(void)
{
	unlink(report);
}

/* --- small things that cases are made of ------------------------------------------------------------------------------- */

CUgraphExec exec_of(CUstream stream)
{
	CUgraphExec exec;
	CUgraph graph;

	OK(cu.capture_end(stream, &graph));
	OK(cu.graph_instantiate(&exec, graph, 0));
	OK(cu.graph_destroy(graph));
	return exec;
}

CUstream new_stream(void)
{
	CUstream stream;

	OK(cu.stream_create(&stream, CU_STREAM_NON_BLOCKING, 0));
	return stream;
}

CUevent new_event(void)
{
	CUevent event;

	OK(cu.event_create(&event, CU_EVENT_DISABLE_TIMING));
	return event;
}

CUdeviceptr new_memory(size_t bytes)
{
	CUdeviceptr address;

	OK(cu.mem_alloc(&address, bytes));
	return address;
}

void *new_pinned(size_t bytes)
{
	void *address;

	OK(cu.host_alloc(&address, bytes));
	return address;
}

CUresult launch_copy(CUstream stream, CUdeviceptr to, CUdeviceptr from, uint64_t bytes)
{
	void *params[] = { &to, &from, &bytes };

	return cu.launch(function_of("inf_copy"), 1, 1, 1, 256, 1, 1, 0, stream, params, NULL);
}

CUresult launch_spin(CUstream stream, uint64_t ns)
{
	void *params[] = { &ns };

	return cu.launch(function_of("inf_spin"), 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void pause_ms(unsigned int ms)
{
	struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l };

	nanosleep(&pause, NULL);
}

bool is_all(const void *memory, unsigned char value, size_t bytes)
{
	const unsigned char *at = memory;

	for (size_t i = 0; i < bytes; i++)
		if (at[i] != value)
			return false;
	return true;
}

#ifdef __SANITIZE_THREAD__
/* Each child would sleep for a second at its end. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "atexit_sleep_ms=0";
}
#endif

/* --- running them ------------------------------------------------------------------------------------------------------- */

static const struct test_case *const tables[] = { calls_cases,	 memory_cases, pinned_cases,  stream_cases,
						   capture_cases, order_cases,	process_cases, ipc_cases };

static void run_child(const struct test_case *test, int fd)
{
	said = fd;
	alarm(CASE_SECONDS);
	snprintf(report, sizeof(report), "/tmp/fakecuda-test-%d", (int)getpid());
	unlink(report);
	setenv("FAKECUDA_REPORT", report, 1);
	for (const char *const *setting = test->environment; setting < test->environment + SETTINGS_MAX && *setting; setting++)
		putenv((char *)(uintptr_t)*setting);
	test->run();
	unlink(report);
	exit(0);
}

/* Empty: it passed. */
static void run(const struct test_case *test, char *why, size_t why_bytes)
{
	int pipes[2], status = 0;
	pid_t child;
	ssize_t n;

	if (pipe(pipes))
		abort();
	fflush(stdout);
	child = fork();
	if (!child) {
		close(pipes[0]);
		run_child(test, pipes[1]);
	}
	close(pipes[1]);
	/* To the end of the child: children of its own may have the pipe as well. */
	waitpid(child, &status, 0);
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	n = read(pipes[0], why, why_bytes - 1);
	close(pipes[0]);
	why[n > 0 ? n : 0] = 0;
	if (why[0] || !status)
		return;
	if (WIFSIGNALED(status))
		snprintf(why, why_bytes, WTERMSIG(status) == SIGALRM ? "it hangs" : "it died of signal %d", WTERMSIG(status));
	else
		snprintf(why, why_bytes, "it ended with %d", WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	unsigned int n_passed = 0, n_failed = 0;

	if (argc < 2)
		return 2;
	library = argv[1];
	for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
		for (const struct test_case *test = tables[t]; test->name; test++) {
			char why[500];

			if (argc > 2 && !strstr(test->name, argv[2]))
				continue;
			run(test, why, sizeof(why));
			n_passed += !why[0];
			n_failed += why[0] != 0;
			if (why[0])
				printf("NOT OK - %s: %s\n", test->name, why);
			else
				printf("ok - %s\n", test->name);
		}
	printf("%u passed, %u failed, 0 skipped\n", n_passed, n_failed);
	return n_failed != 0;
}

#include "tests/fakecuda/cases/calls.c"
#include "tests/fakecuda/cases/capture.c"
#include "tests/fakecuda/cases/ipc.c"
#include "tests/fakecuda/cases/memory.c"
#include "tests/fakecuda/cases/pinned.c"
#include "tests/fakecuda/cases/process.c"
#include "tests/fakecuda/cases/stream.c"
/* Last: it has the short names to itself. */
#include "tests/fakecuda/cases/order.c"
