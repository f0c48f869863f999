/* SPDX-License-Identifier: Apache-2.0 */
/* fault.c - errors by script, errors that stick, what was wrong and what was left. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include "shm/device/driver.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FAULTS_MAX 256u
#define NAMES_MAX  128u

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ledger own_ledger;
struct ledger *ledger = &own_ledger;

static struct {
	char call[48];
	uint64_t occurrence;
	int code; /* -1 = hang */
} faults[FAULTS_MAX];
static unsigned int n_faults;

static struct {
	const char *call;
	uint64_t n;
} counts[NAMES_MAX];

static CUresult stuck;
extern _Thread_local bool has_context; /* calls.c */

uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

static void __attribute__((constructor)) read_faults(void)
{
	const char *at = getenv("FAKECUDA_FAULTS"), *once = getenv("FAKECUDA_FAULTS_ONCE");
	int fd = once && *once ? open(once, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;

	if (once && *once && fd < 0)
		return;
	if (fd >= 0)
		close(fd);
	while (at && *at && n_faults < FAULTS_MAX) {
		unsigned long long occurrence;
		char code[16];
		int n = 0;

		if (sscanf(at, "%47[^:,]:%llu:%15[^,]%n", faults[n_faults].call, &occurrence, code, &n) != 3) {
			fprintf(stderr, "fakecuda: FAKECUDA_FAULTS is CALL:N:CODE,...: %s\n", at);
			abort();
		}
		faults[n_faults].occurrence = occurrence;
		faults[n_faults++].code = strcmp(code, "hang") ? atoi(code) : -1;
		at += n;
		at += *at == ',';
	}
}

static void __attribute__((constructor)) open_ledger(void)
{
	const char *path = getenv("FAKECUDA_LEDGER");
	int fd = path && *path ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
	void *page = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, sizeof(*ledger)))
		page = mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED)
		ledger = page;
	if (fd >= 0)
		close(fd);
}

static void append(const char *path, const char *line)
{
	int fd = path && *path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : STDERR_FILENO;

	(void)!write(fd, line, strlen(line));
	if (fd > STDERR_FILENO)
		close(fd);
}

void violation(const char *format, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (n < 0 || (size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n] = '\n';
	line[n + 1] = 0;
	ledger->violations++;
	append(getenv("FAKECUDA_REPORT"), line);
}

void stick(CUresult error)
{
	stuck = error;
	streams_wake();
}

bool is_stuck(void)
{
	return stuck;
}

/* How often it was called, this time included. `name` is a literal. */
static uint64_t count(const char *name)
{
	for (unsigned int i = 0; i < NAMES_MAX; i++) {
		if (!counts[i].call)
			counts[i].call = name;
		if (!strcmp(counts[i].call, name))
			return ++counts[i].n;
	}
	abort();
}

CUresult call_begin(const char *name, bool needs_context)
{
	uint64_t n;

	pthread_mutex_lock(&fake_lock);
	ledger->calls++;
	n = count(name);
	for (unsigned int i = 0; i < n_faults; i++) {
		if (strcmp(faults[i].call, name) || faults[i].occurrence != n)
			continue;
		if (faults[i].code < 0) {
			pthread_mutex_unlock(&fake_lock);
			for (;;)
				pause();
		}
		if (inf_driver_is_fatal((CUresult)faults[i].code))
			stick((CUresult)faults[i].code);
		pthread_mutex_unlock(&fake_lock);
		return (CUresult)faults[i].code;
	}
	if (!stuck && (!needs_context || has_context))
		return CUDA_SUCCESS;
	if (!stuck)
		violation("%s without a current context", name);
	pthread_mutex_unlock(&fake_lock);
	return stuck ? stuck : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult call_end(CUresult result)
{
	pthread_mutex_unlock(&fake_lock);
	return result;
}

CUresult call_end_waiting(void)
{
	return call_end(stuck);
}
