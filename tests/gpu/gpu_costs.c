/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu_costs.c - what only a device can tell: what sharing, registering, copying and signalling cost there (experiments E1 to
 * E5 and E7 of reference/gpu-and-libtorch.md, 5.9). Two processes: the second one is what a client is to an executor.
 *
 * Usage: gpu_costs [--quick] [JSON FILE]. The driver is found as everywhere ($INF_CUDA_LIBRARY). One line per figure; a call
 * that the driver refuses costs its own lines, which say its error. Times are the median of several rounds, latencies with
 * the 99th percentile beside them.
 */
#define _GNU_SOURCE 1
#include "broker/cuda/image.h"
#include "broker/cuda/kernels.h"
#include "shm/atomics.h"
#include "shm/control.h"
#include "shm/device/slab.h"
#include "shm/region.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS_MAX 2000u
#define STREAM_ROUNDS 200u /* what a stream holds without making its caller wait */
#define PAGE	   4096u
#define MIB	   (1ull << 20)

static struct inf_driver driver;
static CUdevice device;
static CUcontext context;
static CUstream stream;
static CUfunction move, spin;
static FILE *json;
static const char *separator = "";
static bool is_quick;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- what is printed ------------------------------------------------------------------------------------------- */

static void row(const char *name, double value, const char *unit)
{
	printf("  %-64s %12.2f %s\n", name, value, unit);
	fflush(stdout);
	if (json)
		fprintf(json, "%s\n    {\"name\": \"%s\", \"value\": %.4f, \"unit\": \"%s\"}", separator, name, value, unit);
	separator = ",";
}

static void row_error(const char *name, CUresult result)
{
	const char *error = inf_driver_error(&driver, result);

	printf("  %-64s %12s %s\n", name, "-", error);
	if (json)
		fprintf(json, "%s\n    {\"name\": \"%s\", \"error\": \"%s\"}", separator, name, error);
	separator = ",";
}

#define TRY(name, call)                          \
	do {                                     \
		CUresult try_ = driver.call;     \
		if (try_) {                      \
			row_error(name, try_);   \
			return;                  \
		}                                \
	} while (0)

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double at_share(double *values, unsigned int n, double share)
{
	qsort(values, n, sizeof(*values), compare);
	return values[(unsigned int)(share * (n - 1))];
}

static void rows_of_latency(const char *name, double *us, unsigned int n)
{
	char text[128];

	row(name, at_share(us, n, 0.5), "us");
	snprintf(text, sizeof(text), "%s, p99", name);
	row(text, at_share(us, n, 0.99), "us");
}

static const char *size_text(char text[32], uint64_t bytes)
{
	snprintf(text, 32, "%llu %s", (unsigned long long)(bytes < MIB ? bytes >> 10 : bytes >> 20), bytes < MIB ? "KiB" : "MiB");
	return text;
}

/* --- the second process ------------------------------------------------------------------------------------------ */

/* Made before anybody touches the driver, which does not survive a fork. It does what single letters ask for. */
struct peer {
	pid_t pid;
	int socket_fd;
};

struct words {
	uint64_t there, back; /* written by a device, or by the peer */
	uint8_t pad[PAGE - 16];
};

static int open_driver(void)
{
	char text[INF_DRIVER_TEXT_BYTES];
	CUmodule module;
	CUresult result;

	if (inf_driver_open(&driver, NULL, text)) {
		printf("skip - bench-gpu: NOTHING WAS MEASURED: %s\n", text);
		return -1;
	}
	result = driver.device_get(&device, 0);
	if (!result)
		result = driver.context_retain(&context, device);
	if (!result)
		result = driver.context_set(context);
	if (!result)
		result = driver.stream_create(&stream, CU_STREAM_NON_BLOCKING, 0);
	if (!result)
		result = driver.module_load(&module, inf_kernels_image);
	if (!result)
		result = driver.module_function(&move, module, "inf_move");
	if (!result)
		result = driver.module_function(&spin, module, "inf_spin");
	if (result)
		printf("skip - bench-gpu: NOTHING WAS MEASURED: %s\n", inf_driver_error(&driver, result));
	return result ? -1 : 0;
}

/* `value` bytes to be sent: a letter, and an fd or -1. */
static int say(int socket_fd, char letter, int fd, uint64_t bytes)
{
	struct inf_ctl_slab msg;

	inf_ctl_init(&msg, INF_CTL_SLAB, (uint32_t)letter);
	msg.bytes = bytes;
	return inf_ctl_send(socket_fd, &msg, &fd, 1, false);
}

static char hear(int socket_fd, int *ret_fd, uint64_t *ret_bytes)
{
	union inf_ctl_any msg;
	unsigned int n_fds;
	int fds[INF_CTL_FDS_MAX];

	if (inf_ctl_recv(socket_fd, INF_CTL_FROM_EXECUTOR_TO_CLIENT, &msg, fds, &n_fds, false))
		return 0;
	*ret_fd = fds[0];
	*ret_bytes = msg.slab.bytes;
	return (char)msg.head.cookie;
}

/* S: a slab: its first byte is added to, the answer is whether that went. */
static char peer_slab(int fd, uint64_t bytes)
{
	struct inf_slab slab;
	uint8_t *pinned;
	void *memory;
	char answer = 'n';

	if (driver.host_alloc(&memory, PAGE))
		return 'n';
	pinned = memory;
	if (!inf_slab_map(&driver, device, fd, bytes, &slab)) {
		if (!driver.copy_out(pinned, slab.address, 16, stream) && !driver.stream_synchronize(stream)) {
			pinned[0]++;
			if (!driver.copy_in(slab.address, pinned, 16, stream) && !driver.stream_synchronize(stream))
				answer = 'y';
		}
		inf_slab_unmap(&driver, &slab);
	}
	driver.host_free(memory);
	return answer;
}

/* W: words: what comes `there` is sent `back` by the CPU; D: by a stream that waits for it. Until UINT64_MAX comes. */
static char peer_words(int fd, bool by_stream)
{
	struct words *words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CUdeviceptr at = 0;
	uint64_t seen = 0;

	if (words == MAP_FAILED)
		return 'n';
	if (by_stream && (driver.host_register(words, PAGE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP) ||
			  driver.host_device_pointer(&at, words, 0)))
		return 'n';
	for (uint64_t i = 1; by_stream && i <= STREAM_ROUNDS; i++)
		if (driver.stream_wait(stream, at, i, CU_STREAM_WAIT_VALUE_GEQ) ||
		    driver.stream_write(stream, at + offsetof(struct words, back), i, CU_STREAM_WRITE_VALUE_DEFAULT))
			return 'n';
	inf_store64_release(&words->back, UINT64_MAX / 2); /* ready */
	while (seen != UINT64_MAX / 4) {
		uint64_t now = inf_load64_acquire(&words->there);

		if (now != seen && !by_stream)
			inf_store64_release(&words->back, now);
		seen = now;
		inf_pause();
	}
	if (by_stream) {
		driver.stream_synchronize(stream);
		driver.host_unregister(words);
	}
	munmap(words, PAGE);
	return 'y';
}

/* K: keeps writing into a slab, with a kernel in between, until it is killed. */
static char peer_writes(int fd, uint64_t bytes)
{
	struct inf_slab slab;
	uint64_t ns = 1000000;
	void *params[] = { &ns };

	if (inf_slab_map(&driver, device, fd, bytes, &slab))
		return 'n';
	for (uint64_t i = 0;; i++) {
		if (driver.fill(slab.address, (unsigned char)i, slab.bytes, stream) ||
		    driver.launch(spin, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL) || (i % 8 == 7 && driver.stream_synchronize(stream)))
			return 'n';
	}
}

static void peer_main(int socket_fd)
{
	uint64_t bytes;
	char letter;
	int fd;

	while ((letter = hear(socket_fd, &fd, &bytes))) {
		char answer = 'n';

		if (context || !open_driver())
			answer = letter == 'S' ? peer_slab(fd, bytes) :
				 letter == 'K' ? peer_writes(fd, bytes) :
						 peer_words(fd, letter == 'D');
		close(fd);
		if (write(socket_fd, &answer, 1) != 1)
			break;
	}
	_exit(0);
}

static struct peer peer_new(void)
{
	struct peer peer = { -1, -1 };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return peer;
	fflush(stdout);
	peer.pid = fork();
	if (!peer.pid) {
		close(pair[0]);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		peer_main(pair[1]);
	}
	close(pair[1]);
	peer.socket_fd = pair[0];
	return peer;
}

static bool peer_says_yes(const struct peer *peer)
{
	char answer = 0;

	return read(peer->socket_fd, &answer, 1) == 1 && answer == 'y';
}

/* --- E1: what there is ------------------------------------------------------------------------------------------- */

static void attributes(void)
{
	static const struct {
		const char *name;
		CUdevice_attribute attribute;
	} asked[] = {
		{ "E1 virtual memory management", CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED },
		{ "E1 export as file descriptor", CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED },
		{ "E1 64-bit stream memory operations", CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS },
		{ "E1 read-only registration of host memory", CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED },
		{ "E1 multiprocessors", CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT },
	};

	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		int value = 0;
		CUresult result = driver.device_attribute(&value, asked[i].attribute, device);

		if (result)
			row_error(asked[i].name, result);
		else
			row(asked[i].name, value, "");
	}
}

/* Memory that another process maps by its descriptor, and both write. */
static void share(const struct peer *peer)
{
	const char *name = "E1 bytes there and back through another process";
	struct inf_slab slab;
	void *memory = NULL;
	uint8_t *pinned;
	CUresult result;
	int fd;

	TRY(name, host_alloc(&memory, PAGE));
	pinned = memory;
	result = inf_slab_make(&driver, device, 2 * MIB, &slab, &fd);
	if (result) {
		row_error(name, result);
		driver.host_free(memory);
		return;
	}
	memset(pinned, 41, 16);
	if (!driver.copy_in(slab.address, pinned, 16, stream) && !driver.stream_synchronize(stream) &&
	    !say(peer->socket_fd, 'S', fd, slab.bytes) && peer_says_yes(peer) &&
	    !driver.copy_out(pinned, slab.address, 16, stream) && !driver.stream_synchronize(stream))
		row(name, pinned[0] == 42, "");
	else
		row(name, 0, "");
	close(fd);
	inf_slab_unmap(&driver, &slab);
	driver.host_free(memory);
}

/* --- E2: host memory ----------------------------------------------------------------------------------------------- */

static void registration(bool is_populated)
{
	uint64_t bytes = is_quick ? 4 * MIB : 256 * MIB, begin_ns;
	const char *name = is_populated ? "E2 register a memfd that is populated" : "E2 register a memfd that is not";
	int fd = memfd_create("gpu_costs", MFD_CLOEXEC);
	void *memory = MAP_FAILED;
	CUresult result;

	if (fd >= 0 && !ftruncate(fd, (off_t)bytes))
		memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (memory == MAP_FAILED)
		return;
	if (is_populated)
		inf_region_populate(memory, bytes, true);
	begin_ns = now_ns();
	result = driver.host_register(memory, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
	if (result) {
		row_error(name, result);
	} else {
		row(name, (double)(now_ns() - begin_ns) / 1e6 / ((double)bytes / (1 << 30)), "ms/GiB");
		driver.host_unregister(memory);
	}
	munmap(memory, bytes);
}

/* One size, one direction: `host` is pinned or not. */
static void bandwidth(const char *what, void *host, CUdeviceptr on_device, uint64_t bytes, bool is_in)
{
	unsigned int n = is_quick ? 2 : bytes < MIB ? 200 : 10;
	double values[9];
	char name[96], text[32];

	snprintf(name, sizeof(name), "E2 copy %s, %s, %s", is_in ? "in" : "out", what, size_text(text, bytes));
	for (int round = 0; round < 9; round++) {
		uint64_t begin_ns = now_ns();

		for (unsigned int i = 0; i < n; i++) {
			if (is_in)
				TRY(name, copy_in(on_device, host, bytes, stream));
			else
				TRY(name, copy_out(host, on_device, bytes, stream));
		}
		TRY(name, stream_synchronize(stream));
		values[round] = (double)bytes * n / (double)(now_ns() - begin_ns);
	}
	row(name, at_share(values, 9, 0.5), "GB/s");
}

static void copies(void)
{
	uint64_t sizes[] = { 4096, 65536, MIB, 16 * MIB, 64 * MIB }, largest = is_quick ? MIB : 64 * MIB;
	void *pinned = NULL, *pageable = malloc(largest);
	CUdeviceptr on_device = 0;

	if (!pageable)
		return;
	memset(pageable, 1, largest);
	if (!driver.host_alloc(&pinned, largest) && !driver.mem_alloc(&on_device, largest))
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && sizes[i] <= largest; i++)
			for (int is_in = 1; is_in >= 0; is_in--) {
				bandwidth("pinned", pinned, on_device, sizes[i], is_in);
				bandwidth("pageable", pageable, on_device, sizes[i], is_in);
			}
	if (on_device)
		driver.mem_free(on_device);
	if (pinned)
		driver.host_free(pinned);
	free(pageable);
}

/* --- E3: gathering rows -------------------------------------------------------------------------------------------- */

enum way { BY_COPIES, BY_CPU, BY_KERNEL };

static CUresult gather(enum way way, const uint8_t *from, uint8_t *staging, CUdeviceptr to, struct inf_move *list,
		       CUdeviceptr device_list, CUdeviceptr device_from, uint64_t bytes, uint64_t n_rows)
{
	void *params[] = { &device_list, &n_rows };
	unsigned int blocks = (unsigned int)(bytes / 16384) + 1;
	CUresult result = CUDA_SUCCESS;

	switch (way) {
	case BY_COPIES:
		for (uint64_t i = 0; i < n_rows && !result; i++)
			result = driver.copy_in(to + i * bytes, from + 2 * i * bytes, bytes, stream);
		return result;
	case BY_CPU:
		for (uint64_t i = 0; i < n_rows; i++)
			memcpy(staging + i * bytes, from + 2 * i * bytes, bytes);
		return driver.copy_in(to, staging, bytes * n_rows, stream);
	case BY_KERNEL:
		for (uint64_t i = 0; i < n_rows; i++)
			list[i] = (struct inf_move){ to + i * bytes, device_from + 2 * i * bytes, bytes };
		return driver.launch(move, blocks < 64 ? blocks : 64, (unsigned int)n_rows, 1, 256, 1, 1, 0, stream, params, NULL);
	}
	return result;
}

static void gathers(void)
{
	static const char *const ways[] = { "a copy each", "CPU, then one copy", "a kernel that reads host memory" };
	uint64_t n_rows = is_quick ? 4 : 32, largest = is_quick ? 16384 : 262144, area = 2 * n_rows * largest;
	CUdeviceptr to = 0, device_list = 0, device_from = 0;
	void *from = NULL, *staging = NULL, *list = NULL;

	if (driver.host_alloc(&from, area) || driver.host_alloc(&staging, area) || driver.host_alloc(&list, PAGE) ||
	    driver.mem_alloc(&to, area) || driver.host_device_pointer(&device_list, list, 0) ||
	    driver.host_device_pointer(&device_from, from, 0))
		largest = 0;
	for (uint64_t bytes = 1024; bytes <= largest; bytes *= 4)
		for (enum way way = BY_COPIES; way <= BY_KERNEL; way++) {
			double us[50];
			char name[96], text[32];
			CUresult result = CUDA_SUCCESS;

			snprintf(name, sizeof(name), "E3 %llu rows of %s: %s", (unsigned long long)n_rows, size_text(text, bytes), ways[way]);
			for (unsigned int i = 0; i < 50 && !result; i++) {
				uint64_t begin_ns = now_ns();

				result = gather(way, from, staging, to, list, device_list, device_from, bytes, n_rows);
				if (!result)
					result = driver.stream_synchronize(stream);
				us[i] = (double)(now_ns() - begin_ns) / 1e3;
			}
			if (result)
				row_error(name, result);
			else
				row(name, at_share(us, 50, 0.5), "us");
		}
	if (to)
		driver.mem_free(to);
	for (int i = 0; i < 3; i++)
		if ((void *[]){ from, staging, list }[i])
			driver.host_free((void *[]){ from, staging, list }[i]);
}

/* --- E4: making and mapping ------------------------------------------------------------------------------------------ */

static void mapping(uint64_t bytes)
{
	double make_us[7], map_us[7], unmap_us[7], plain_us[7];
	char name[96], text[32];

	size_text(text, bytes);
	for (int i = 0; i < 7; i++) {
		struct inf_slab slab = { 0 }, again = { 0 };
		uint64_t begin_ns = now_ns();
		CUdeviceptr plain;
		int fd = -1;
		CUresult result = inf_slab_make(&driver, device, bytes, &slab, &fd);

		make_us[i] = (double)(now_ns() - begin_ns) / 1e3;
		begin_ns = now_ns();
		if (!result)
			result = inf_slab_map(&driver, device, fd, slab.bytes, &again);
		map_us[i] = (double)(now_ns() - begin_ns) / 1e3;
		if (fd >= 0)
			close(fd);
		begin_ns = now_ns();
		inf_slab_unmap(&driver, &again);
		unmap_us[i] = (double)(now_ns() - begin_ns) / 1e3;
		inf_slab_unmap(&driver, &slab);
		begin_ns = now_ns();
		if (!result)
			result = driver.mem_alloc(&plain, bytes);
		plain_us[i] = (double)(now_ns() - begin_ns) / 1e3;
		if (result) {
			snprintf(name, sizeof(name), "E4 %s", text);
			row_error(name, result);
			return;
		}
		driver.mem_free(plain);
	}
	snprintf(name, sizeof(name), "E4 make, scrub and export %s", text);
	row(name, at_share(make_us, 7, 0.5), "us");
	snprintf(name, sizeof(name), "E4 import and map %s", text);
	row(name, at_share(map_us, 7, 0.5), "us");
	snprintf(name, sizeof(name), "E4 unmap %s", text);
	row(name, at_share(unmap_us, 7, 0.5), "us");
	snprintf(name, sizeof(name), "E4 beside it, cuMemAlloc of %s", text);
	row(name, at_share(plain_us, 7, 0.5), "us");
}

/* --- E5: signalling --------------------------------------------------------------------------------------------------- */

static void on_call(void *data)
{
	inf_store64_release(data, now_ns());
}

static void signals_here(void)
{
	static double sync_us[ROUNDS_MAX], call_us[ROUNDS_MAX];
	unsigned int n = is_quick ? 50 : ROUNDS_MAX;
	CUdeviceptr word = 0;
	void *memory = NULL;
	uint64_t *called;

	TRY("E5 here", host_alloc(&memory, PAGE));
	called = memory;
	TRY("E5 here", host_device_pointer(&word, memory, 0));
	for (unsigned int i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();

		TRY("E5 write a word and wait for the stream", stream_write(stream, word, i, CU_STREAM_WRITE_VALUE_DEFAULT));
		TRY("E5 write a word and wait for the stream", stream_synchronize(stream));
		sync_us[i] = (double)(now_ns() - begin_ns) / 1e3;
		called[1] = 0;
		begin_ns = now_ns();
		TRY("E5 a call of the driver", stream_call(stream, on_call, &called[1]));
		while (!inf_load64_acquire(&called[1]))
			inf_pause();
		call_us[i] = (double)(called[1] - begin_ns) / 1e3;
	}
	rows_of_latency("E5 write a word and wait for the stream, one process", sync_us, n);
	rows_of_latency("E5 a call of the driver's (cuLaunchHostFunc)", call_us, n);
	driver.host_free(memory);
}

/* A word there by our stream, and one back by the other process's CPU, or by its stream. */
static void signals_there(const struct peer *peer, bool by_stream)
{
	const char *name = by_stream ? "E5 a word to another process's stream and back" : "E5 a word to another process's CPU and back";
	static double us[ROUNDS_MAX];
	unsigned int n = is_quick ? 50 : by_stream ? STREAM_ROUNDS : ROUNDS_MAX;
	int fd = memfd_create("gpu_costs", MFD_CLOEXEC);
	struct words *words = MAP_FAILED;
	CUdeviceptr at = 0;

	if (fd >= 0 && !ftruncate(fd, PAGE))
		words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED)
		return;
	TRY(name, host_register(words, PAGE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
	TRY(name, host_device_pointer(&at, words, 0));
	if (say(peer->socket_fd, by_stream ? 'D' : 'W', fd, PAGE))
		return;
	close(fd);
	while (inf_load64_acquire(&words->back) != UINT64_MAX / 2) {
		struct pollfd refused = { .fd = peer->socket_fd, .events = POLLIN };

		if (poll(&refused, 1, 1)) {
			row_error(name, CUDA_ERROR_UNKNOWN);
			peer_says_yes(peer);
			driver.host_unregister(words);
			munmap(words, PAGE);
			return;
		}
	}
	for (unsigned int i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();

		TRY(name, stream_write(stream, at, i + 1, CU_STREAM_WRITE_VALUE_DEFAULT));
		while (inf_load64_acquire(&words->back) != i + 1)
			inf_pause();
		us[i] = (double)(now_ns() - begin_ns) / 1e3;
	}
	rows_of_latency(name, us, n);
	TRY(name, stream_write(stream, at, UINT64_MAX / 4, CU_STREAM_WRITE_VALUE_DEFAULT));
	TRY(name, stream_synchronize(stream));
	peer_says_yes(peer);
	driver.host_unregister(words);
	munmap(words, PAGE);
}

/* --- E7: death ---------------------------------------------------------------------------------------------------------- */

static void death(struct peer *peer)
{
	struct inf_slab slab;
	uint8_t *pinned, last;
	uint64_t begin_ns, changed_ns = 0;
	void *memory = NULL;
	size_t before = 0, after = 0, total;
	CUresult result;
	int fd, pid_fd = (int)syscall(SYS_pidfd_open, peer->pid, 0);
	struct pollfd gone = { .fd = pid_fd, .events = POLLIN };

	TRY("E7 memory", host_alloc(&memory, PAGE));
	pinned = memory;
	result = inf_slab_make(&driver, device, 2 * MIB, &slab, &fd);
	if (result) {
		row_error("E7 memory", result);
		return;
	}
	say(peer->socket_fd, 'K', fd, slab.bytes);
	close(fd);
	usleep(is_quick ? 50000 : 500000);
	driver.mem_info(&before, &total);
	kill(peer->pid, SIGKILL);
	begin_ns = now_ns();
	poll(&gone, 1, 10000);
	row("E7 a killed process is gone after", (double)(now_ns() - begin_ns) / 1e3, "us");
	waitpid(peer->pid, NULL, 0);
	begin_ns = now_ns();
	last = 0;
	for (int i = 0; i < (is_quick ? 20 : 2000); i++) {
		result = driver.copy_out(pinned, slab.address, 16, stream);
		if (!result)
			result = driver.stream_synchronize(stream);
		if (result)
			break;
		if (i && pinned[0] != last)
			changed_ns = now_ns() - begin_ns;
		last = pinned[0];
		usleep(100);
	}
	if (result)
		row_error("E7 the survivor", result);
	else
		row("E7 its writes are seen for so long after that", (double)changed_ns / 1e3, "us");
	driver.mem_info(&after, &total);
	row("E7 memory that came free with it", ((double)after - (double)before) / (double)MIB, "MiB");
	inf_slab_unmap(&driver, &slab);
	driver.host_free(memory);
	close(pid_fd);
}

int main(int argc, char **argv)
{
	struct peer peer, mortal;
	char uuid[INF_UUID_TEXT_BYTES], model[64];
	CUuuid bytes;

	is_quick = argc > 1 && !strcmp(argv[1], "--quick");
	peer = peer_new();
	mortal = peer_new();
	if (peer.pid < 0 || mortal.pid < 0)
		return 1;
	if (open_driver())
		return 0;
	if (driver.device_uuid(&bytes, device) || driver.device_name(model, sizeof(model), device))
		return 1;
	inf_driver_uuid_text(&bytes, uuid);
	json = argc > 1 + is_quick ? fopen(argv[1 + is_quick], "w") : NULL;
	printf("%s (%s), driver for CUDA %d.%d%s\n", model, uuid, driver.version / 1000, driver.version % 1000 / 10,
	       getenv("INF_CUDA_LIBRARY") ? "; A SOFTWARE DRIVER: THE FIGURES MEAN NOTHING" : "");
	if (json)
		fprintf(json, "{\n  \"device\": \"%s\", \"uuid\": \"%s\", \"cuda\": %d, \"software\": %s,\n  \"rows\": [", model, uuid,
			driver.version, getenv("INF_CUDA_LIBRARY") ? "true" : "false");
	attributes();
	share(&peer);
	registration(true);
	registration(false);
	copies();
	gathers();
	for (uint64_t n = 2 * MIB; n <= (is_quick ? 2 * MIB : 1024 * MIB); n *= n < 64 * MIB ? 32 : 16)
		mapping(n);
	signals_here();
	signals_there(&peer, false);
	signals_there(&peer, true);
	death(&mortal);
	if (json) {
		fprintf(json, "\n  ]\n}\n");
		fclose(json);
	}
	kill(peer.pid, SIGKILL);
	waitpid(peer.pid, NULL, 0);
	driver.stream_destroy(stream);
	driver.context_release(device);
	return 0;
}
