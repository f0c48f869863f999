/* SPDX-License-Identifier: Apache-2.0 */
/* cases.h - what test_fakecuda.c and the files in cases/ share. A case that fails says why and ends. */
#ifndef TESTS_FAKECUDA_CASES_H
#define TESTS_FAKECUDA_CASES_H

#include "shm/device/driver.h"
#include "tests/fakecuda/fakecuda.h"
#include <string.h>

#define SETTINGS_MAX 5

struct test_case {
	const char *name; /* NULL ends a table */
	void (*run)(void);
	const char *environment[SETTINGS_MAX]; /* "NAME=VALUE" */
};

extern const struct test_case calls_cases[], memory_cases[], stream_cases[], order_cases[], process_cases[], pinned_cases[],
	capture_cases[], ipc_cases[];

struct fakecuda_functions {
	void (*ledger)(struct fakecuda_ledger *ledger);
	uint64_t (*calls)(const char *name);
	int (*fault)(const char *name, uint64_t n, int code);
	void (*reload)(void);
	void (*hold)(int hold);
	int (*priority)(CUstream stream);
};

extern struct inf_driver cu;
extern struct fakecuda_functions fakecuda;
extern CUcontext context;
extern CUdevice device;
extern CUmodule module;

void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4), noreturn));
const char *name_of(CUresult error);

#define FAIL(...) fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition)                          \
	do {                                      \
		if (!(condition))                 \
			FAIL("%s", #condition);   \
	} while (0)
#define GIVES(error, call)                                                                             \
	do {                                                                                           \
		CUresult result_ = (call);                                                             \
		if (result_ != (error))                                                                \
			FAIL("%s: %d %s; %s", #call, (int)result_, name_of(result_), last_report());   \
	} while (0)
#define OK(call) GIVES(CUDA_SUCCESS, call)
/* One more violation, which has these words. */
#define BAD(error, words, call)                                                                           \
	do {                                                                                              \
		uint64_t before_ = violations();                                                          \
		GIVES(error, call);                                                                       \
		if (violations() != before_ + 1 || !strstr(last_report(), words))                         \
			FAIL("%s: %d violations, the last: %s", #call, (int)(violations() - before_), last_report()); \
	} while (0)
#define CLEAN()                                           \
	do {                                              \
		if (violations())                         \
			FAIL("found: %s", last_report()); \
	} while (0)

/* The library; and with it a context that is current. */
void open_driver(void);
void open_device(void);

struct fakecuda_ledger ledger_now(void);
uint64_t violations(void);
unsigned int reported(const char *words);
const char *last_report(void);
void forget_report(void);

CUfunction function_of(const char *name);
CUstream new_stream(void);
/* Of what `stream` has been captured to, which ends here. */
CUgraphExec exec_of(CUstream stream);
CUevent new_event(void);
CUdeviceptr new_memory(size_t bytes);
void *new_pinned(size_t bytes);
CUresult launch_copy(CUstream stream, CUdeviceptr to, CUdeviceptr from, uint64_t bytes);
CUresult launch_spin(CUstream stream, uint64_t ns);
uint64_t now_ns(void);
void pause_ms(unsigned int ms);
bool is_all(const void *memory, unsigned char value, size_t bytes);

#endif /* TESTS_FAKECUDA_CASES_H */
