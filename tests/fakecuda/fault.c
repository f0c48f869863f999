/* SPDX-License-Identifier: Apache-2.0 */
/* fault.c - errors by script. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include "shm/device/driver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAULTS_MAX 1024u

static const char *const names[CALLS] = {
#define NAME(member, symbol, params) #symbol,
	INF_DRIVER_CALLS(NAME)
	INF_DRIVER_IPC_CALLS(NAME)
#undef NAME
};

uint64_t call_counts[CALLS];

static struct fault {
	int call;
	uint64_t n;
	int code;
} faults[FAULTS_MAX];
static unsigned int n_faults;

const char *call_name(enum call call)
{
	return names[call];
}

static size_t bare_length(const char *name)
{
	size_t n = strlen(name);

	return n > 3 && !strcmp(name + n - 3, "_v2") ? n - 3 : n;
}

int call_by_name(const char *name)
{
	size_t n = bare_length(name);

	for (int i = 0; i < (int)CALLS; i++)
		if (bare_length(names[i]) == n && !strncmp(names[i], name, n))
			return i;
	return -1;
}

static int add(const char *name, uint64_t n, int code)
{
	int call = call_by_name(name);

	if (call < 0 || n_faults == FAULTS_MAX)
		return -1;
	faults[n_faults++] = (struct fault){ call, n ? n : call_counts[call] + 1, code };
	return 0;
}

/* 0 where the text is none. */
static int code_of(const char *text)
{
	if (!strcmp(text, "hang"))
		return FAKECUDA_HANG;
	if (!strcmp(text, "block"))
		return FAKECUDA_BLOCK;
	return text[0] == '~' ? FAKECUDA_LATE(strtol(text + 1, NULL, 10)) : (int)strtol(text, NULL, 10);
}

void fault_read(const char *text)
{
	while (text && *text) {
		unsigned long long n;
		char name[48], code[16];
		int length = 0;

		if (sscanf(text, "%47[^:,]:%llu:%15[^,]%n", name, &n, code, &length) != 3 || !code_of(code) ||
		    add(name, n, code_of(code))) {
			fprintf(stderr, "fakecuda: FAKECUDA_FAULTS is CALL:N:CODE,...: %s\n", text);
			abort();
		}
		text += length;
		text += *text == ',';
	}
}

static void __attribute__((noreturn)) block(void)
{
	pthread_mutex_unlock(&fake.lock);
	for (;;)
		pause();
}

CUresult fault_of(enum call call, uint64_t n, bool is_queued)
{
	struct context *context = context_find(current_handle);

	for (unsigned int i = 0; i < n_faults; i++) {
		int code = faults[i].code;

		if (faults[i].call != (int)call || faults[i].n != n)
			continue;
		if (code == FAKECUDA_BLOCK || (code == FAKECUDA_HANG && !is_queued))
			block();
		if (code == FAKECUDA_HANG)
			pending_fault.is_stalled = true;
		else if (code <= FAKECUDA_LATE(0) && is_queued)
			pending_fault.error = (CUresult)(FAKECUDA_LATE(0) - code);
		if (code < 0)
			return CUDA_SUCCESS;
		if (context && inf_driver_is_fatal((CUresult)code))
			context_stick(context, (CUresult)code);
		return (CUresult)code;
	}
	return CUDA_SUCCESS;
}

/* --- for tests ------------------------------------------------------------------------------------------------------- */

EXPORT uint64_t fakecuda_calls(const char *name)
{
	uint64_t n = UINT64_MAX;
	int call = call_by_name(name);

	pthread_mutex_lock(&fake.lock);
	if (call >= 0)
		n = call_counts[call];
	pthread_mutex_unlock(&fake.lock);
	return n;
}

EXPORT int fakecuda_fault(const char *name, uint64_t n, int code)
{
	int r;

	pthread_mutex_lock(&fake.lock);
	r = add(name, n, code);
	pthread_mutex_unlock(&fake.lock);
	return r;
}
