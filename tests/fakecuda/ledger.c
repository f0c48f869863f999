/* SPDX-License-Identifier: Apache-2.0 */
/* ledger.c - settings, the report, what lives and what happened. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct fakecuda_ledger own_ledger;
struct fakecuda_ledger *ledger = &own_ledger;
struct settings settings;
static char report_path[256], ledger_path[256];
static struct fakecuda_state_entry *own_entry;

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- settings ------------------------------------------------------------------------------------------------------ */

static const char *text_of(const char *name)
{
	const char *text = getenv(name);

	return text && *text ? text : NULL;
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
	const char *text = text_of(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

static double copy_ns_per_byte(void)
{
	const char *text = text_of("FAKECUDA_COPY_NS_PER_BYTE");
	uint64_t per_s = number_of("FAKECUDA_COPY_BYTES_PER_S", number_of("FAKECUDA_COPY_MBPS", 0) * 1000000);

	if (text)
		return strtod(text, NULL);
	return per_s ? 1e9 / (double)per_s : 0;
}

static void read_settings(void)
{
	uint64_t n = number_of("FAKECUDA_DEVICES", 1);
	const char *kernels = text_of("FAKECUDA_KERNEL_US");

	if (!fake.is_initialized)
		settings.n_devices = n > DEVICES_MAX ? DEVICES_MAX : (unsigned int)n;
	settings.memory_bytes = number_of("FAKECUDA_MEMORY", 1ull << 30);
	settings.version = number_of("FAKECUDA_VERSION", 13000);
	settings.seed = number_of("FAKECUDA_SEED", 1);
	settings.has_vmm = number_of("FAKECUDA_VMM", 1);
	settings.has_posix_fd = number_of("FAKECUDA_POSIX_FD", 1);
	settings.has_ipc = number_of("FAKECUDA_IPC", 1);
	settings.has_read_only = number_of("FAKECUDA_READ_ONLY", 1);
	settings.has_default_stream = number_of("FAKECUDA_DEFAULT_STREAM", 0);
	settings.aborts = number_of("FAKECUDA_ABORT", 0);
	settings.copy_ns_per_byte = copy_ns_per_byte();
	settings.copy_ns = number_of("FAKECUDA_COPY_US", 0) * 1000;
	settings.launch_ns = number_of("FAKECUDA_LAUNCH_US", 0) * 1000;
	settings.jitter_ns = number_of("FAKECUDA_JITTER_US", 0) * 1000;
	snprintf(settings.kernel_us, sizeof(settings.kernel_us), ",%s", kernels ? kernels : "");
}

/* "N" or "NAME=N,...,*=N" */
uint64_t kernel_ns(const char *name)
{
	char pattern[96];
	const char *at;

	if (!settings.kernel_us[1])
		return 0;
	if (!strchr(settings.kernel_us, '='))
		return strtoull(settings.kernel_us + 1, NULL, 10) * 1000;
	snprintf(pattern, sizeof(pattern), ",%s=", name);
	at = strstr(settings.kernel_us, pattern);
	if (at)
		return strtoull(at + strlen(pattern), NULL, 10) * 1000;
	at = strstr(settings.kernel_us, ",*=");
	return at ? strtoull(at + 3, NULL, 10) * 1000 : 0;
}

static void open_live_ledger(const char *path)
{
	int fd = path ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
	void *page = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, sizeof(*ledger)))
		page = mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED)
		ledger = page;
	if (fd >= 0)
		close(fd);
}

static bool is_first(const char *path)
{
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;

	if (fd >= 0)
		close(fd);
	return !path || fd >= 0;
}

static void __attribute__((constructor)) begin(void)
{
	const char *report = text_of("FAKECUDA_REPORT"), *path = text_of("FAKECUDA_LEDGER");

	read_settings();
	snprintf(report_path, sizeof(report_path), "%s", report ? report : "");
	snprintf(ledger_path, sizeof(ledger_path), "%s", path ? path : "");
	open_live_ledger(text_of("FAKECUDA_LEDGER_LIVE"));
	if (is_first(text_of("FAKECUDA_FAULTS_ONCE")))
		fault_read(text_of("FAKECUDA_FAULTS"));
}

/* --- the report ---------------------------------------------------------------------------------------------------- */

/* One write: lines of several processes stay whole. */
static void append(const char *path, const char *line)
{
	int fd = *path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : STDERR_FILENO;

	if (fd < 0)
		fd = STDERR_FILENO;
	(void)!write(fd, line, strlen(line));
	if (fd != STDERR_FILENO)
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
	append(report_path, line);
	if (settings.aborts)
		abort();
}

/* --- what all processes see ---------------------------------------------------------------------------------------- */

uint64_t process_ticks(uint64_t pid)
{
	unsigned long long ticks = 0;
	char path[40], text[1024];
	const char *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%llu/stat", (unsigned long long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	/* The name, in parentheses, may have blanks. The state comes after it; field 22 is the 20th after it. */
	at = strrchr(text, ')');
	if (at && (!strncmp(at, ") Z", 3) || !strncmp(at, ") X", 3)))
		return 0;
	for (int i = 0; at && i < 20; i++)
		at = strchr(at + 1, ' ');
	if (at)
		sscanf(at, " %llu", &ticks);
	return ticks;
}

static bool is_alive(const struct fakecuda_state_entry *entry)
{
	uint64_t ticks = __atomic_load_n(&entry->start_ticks, __ATOMIC_RELAXED);

	return ticks && process_ticks(__atomic_load_n(&entry->pid, __ATOMIC_RELAXED)) == ticks;
}

static bool claim(struct fakecuda_state_entry *entry, uint64_t expected)
{
	uint64_t pid = (uint64_t)getpid();

	if (!__atomic_compare_exchange_n(&entry->pid, &expected, pid, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return false;
	__atomic_store_n(&entry->device_bytes, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&entry->imported_bytes, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&entry->start_ticks, process_ticks(pid), __ATOMIC_RELEASE);
	return true;
}

void state_open(void)
{
	const char *path = text_of("FAKECUDA_STATE");
	struct fakecuda_state *state;
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd < 0)
		return;
	if (ftruncate(fd, sizeof(*state))) {
		close(fd);
		return;
	}
	state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (state == MAP_FAILED)
		return;
	__atomic_store_n(&state->magic, FAKECUDA_STATE_MAGIC, __ATOMIC_RELAXED);
	for (unsigned int i = 0; !own_entry && i < FAKECUDA_STATE_ENTRIES; i++)
		if (claim(&state->entries[i], 0))
			own_entry = &state->entries[i];
	for (unsigned int i = 0; !own_entry && i < FAKECUDA_STATE_ENTRIES; i++)
		if (!is_alive(&state->entries[i]) &&
		    claim(&state->entries[i], __atomic_load_n(&state->entries[i].pid, __ATOMIC_RELAXED)))
			own_entry = &state->entries[i];
	if (!own_entry)
		fprintf(stderr, "fakecuda: %s is full\n", path);
}

void state_update(void)
{
	if (ledger->device_bytes_most < ledger->device_bytes)
		ledger->device_bytes_most = ledger->device_bytes;
	if (!own_entry)
		return;
	__atomic_store_n(&own_entry->device_bytes, ledger->device_bytes, __ATOMIC_RELAXED);
	__atomic_store_n(&own_entry->imported_bytes, ledger->imported_bytes, __ATOMIC_RELAXED);
}

/* --- the end ---------------------------------------------------------------------------------------------------------- */

static void __attribute__((destructor)) write_ledger(void)
{
	struct timespec until;
	char line[2048];
	size_t n;

	/* A child of fork() did nothing of this. */
	if (!ledger_path[0] || fake.is_child)
		return;
	/* Streams may still run, or hang: they never hold the lock for long. */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 2;
	if (pthread_mutex_timedlock(&fake.lock, &until))
		return;
	n = (size_t)snprintf(line, sizeof(line), "{\"pid\": %d", (int)getpid());
#define FIELD(name) n += (size_t)snprintf(line + n, sizeof(line) - n, ", \"" #name "\": %llu", (unsigned long long)ledger->name);
	FAKECUDA_LEDGER(FIELD)
#undef FIELD
	snprintf(line + n, sizeof(line) - n, "}\n");
	pthread_mutex_unlock(&fake.lock);
	append(ledger_path, line);
}

EXPORT void fakecuda_ledger(struct fakecuda_ledger *to)
{
	pthread_mutex_lock(&fake.lock);
	*to = *ledger;
	pthread_mutex_unlock(&fake.lock);
}

EXPORT void fakecuda_reload(void)
{
	pthread_mutex_lock(&fake.lock);
	read_settings();
	pthread_mutex_unlock(&fake.lock);
}
