/* SPDX-License-Identifier: Apache-2.0 */
/* e4_mapping.c - E4: making memory that processes share, mapping it, and how fast a kernel gathers rows within the device. */
#include "broker/cuda/kernels.h"
#include "shm/device/slab.h"
#include "tests/gpu/costs/costs.h"
#include <stdio.h>
#include <unistd.h>

#define ROUNDS	7u
#define ROWS	32u
#define THREADS 256u

enum step { MAKE, MAP, UNMAP, PLAIN, STEPS };

static const char *const names[STEPS] = { "make, scrub and export", "import and map", "unmap", "beside it, cuMemAlloc of" };

/* Each step of one round, in us. */
static CUresult round_of(uint64_t bytes, double us[STEPS])
{
	struct inf_slab slab = { 0 }, again = { 0 };
	uint64_t at_ns = now_ns();
	CUdeviceptr plain = 0;
	int fd = -1;
	CUresult result = inf_slab_make(&gpu.driver, gpu.device, bytes, &slab, &fd);

	us[MAKE] = (double)(now_ns() - at_ns) / 1e3;
	at_ns = now_ns();
	if (!result)
		result = inf_slab_map(&gpu.driver, gpu.device, fd, slab.bytes, &again);
	us[MAP] = (double)(now_ns() - at_ns) / 1e3;
	if (fd >= 0)
		close(fd);
	at_ns = now_ns();
	inf_slab_unmap(&gpu.driver, &again);
	us[UNMAP] = (double)(now_ns() - at_ns) / 1e3;
	inf_slab_unmap(&gpu.driver, &slab);
	at_ns = now_ns();
	if (!result)
		result = gpu.driver.mem_alloc(&plain, bytes);
	us[PLAIN] = (double)(now_ns() - at_ns) / 1e3;
	if (plain)
		gpu.driver.mem_free(plain);
	return result;
}

static void mapping(uint64_t bytes)
{
	double us[STEPS][ROUNDS];
	char name[96], text[32];

	size_text(text, bytes);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		double steps_us[STEPS];
		CUresult result = round_of(bytes, steps_us);

		if (result) {
			snprintf(name, sizeof(name), "E4 %s", text);
			row_error(name, result);
			return;
		}
		for (int step = 0; step < STEPS; step++)
			us[step][i] = steps_us[step];
	}
	for (int step = 0; step < STEPS; step++) {
		snprintf(name, sizeof(name), "E4 %s %s", names[step], text);
		row(name, at_share(us[step], ROUNDS, 0.5), "us");
	}
}

/* --- memory of cudaMalloc, by handles --- */

enum legacy_step { GET, OPEN, CLOSE, LEGACY_STEPS };

static CUresult legacy_round(const struct peer *peer, struct words *words, int fd, CUdeviceptr memory, double us[LEGACY_STEPS])
{
	uint64_t at_ns = now_ns();
	CUresult result = gpu.driver.ipc_get_memory(&words->memory, memory);

	us[GET] = (double)(now_ns() - at_ns) / 1e3;
	if (result)
		return result;
	if (say(peer->socket_fd, 'H', fd, PAGE) || !peer_says_yes(peer))
		return CUDA_ERROR_NOT_SUPPORTED;
	us[OPEN] = (double)words->open_ns / 1e3;
	us[CLOSE] = (double)words->close_ns / 1e3;
	return CUDA_SUCCESS;
}

static void legacy_rounds(const struct peer *peer, struct words *words, int fd, uint64_t bytes)
{
	static const char *const steps[LEGACY_STEPS] = { "get a legacy handle of", "open by a legacy handle", "close what a legacy handle opened," };
	double us[LEGACY_STEPS][ROUNDS], step_us[LEGACY_STEPS] = { 0 };
	char name[96], text[32];
	CUdeviceptr memory = 0;
	CUresult result = gpu.driver.mem_alloc(&memory, bytes);

	size_text(text, bytes);
	for (unsigned int i = 0; !result && i < ROUNDS; i++) {
		result = legacy_round(peer, words, fd, memory, step_us);
		for (int step = 0; step < LEGACY_STEPS; step++)
			us[step][i] = step_us[step];
	}
	if (memory)
		gpu.driver.mem_free(memory);
	for (int step = 0; step < LEGACY_STEPS; step++) {
		snprintf(name, sizeof(name), "E4 %s %s", steps[step], text);
		if (result)
			row_error(name, result);
		else
			row(name, at_share(us[step], ROUNDS, 0.5), "us");
	}
}

static void legacy(uint64_t bytes_max)
{
	struct words *words;
	struct peer peer;
	CUdeviceptr at;
	int fd;

	if (!inf_driver_has_ipc(&gpu.driver)) {
		row_why("E4 legacy handles", "this driver has none");
		return;
	}
	words = words_new("E4 legacy handles", &fd, &at);
	if (!words)
		return;
	if (peer_new("E4 legacy handles", &peer)) {
		for (uint64_t bytes = 2 * MIB; bytes <= bytes_max; bytes *= bytes < 64 * MIB ? 32 : 16)
			legacy_rounds(&peer, words, fd, bytes);
		peer_end(&peer);
	}
	close(fd);
	words_free(words);
}

/* --- gathering --- */

/* Rows of 600 kB, as of images, from every second place: bytes read and written count. */
static void gather(CUdeviceptr from, CUdeviceptr to, uint64_t bytes, struct inf_move *list, CUdeviceptr device_list)
{
	const char *name = "E4 a kernel gathers 32 rows within the device";
	uint64_t n = ROWS;
	void *params[] = { &device_list, &n };
	double values[ROUNDS];

	for (uint64_t i = 0; i < ROWS; i++)
		list[i] = (struct inf_move){ to + i * bytes, from + 2 * i * bytes, bytes };
	for (unsigned int round = 0; round < ROUNDS; round++) {
		unsigned int n_runs = is_quick ? 1 : 50;
		uint64_t begin_ns = now_ns();

		for (unsigned int i = 0; i < n_runs; i++)
			TRY(name, launch(gpu.move, 64, ROWS, 1, THREADS, 1, 1, 0, gpu.stream, params, NULL));
		TRY(name, stream_synchronize(gpu.stream));
		values[round] = 2.0 * (double)bytes * ROWS * n_runs / (double)(now_ns() - begin_ns);
	}
	row(name, at_share(values, ROUNDS, 0.5), "GB/s");
}

static void gathering(void)
{
	uint64_t bytes = is_quick ? 65536 : 602112;
	CUdeviceptr from = 0, to = 0, device_list = 0;
	void *list = NULL;
	CUresult result = gpu.driver.mem_alloc(&from, 2 * ROWS * bytes);

	if (!result)
		result = gpu.driver.mem_alloc(&to, ROWS * bytes);
	if (!result)
		result = gpu.driver.host_alloc(&list, PAGE);
	if (!result)
		result = gpu.driver.host_device_pointer(&device_list, list, 0);
	if (!result)
		result = gpu.driver.fill(from, 1, 2 * ROWS * bytes, gpu.stream);
	if (result)
		row_error("E4 memory to gather", result);
	else
		gather(from, to, bytes, list, device_list);
	gpu.driver.stream_synchronize(gpu.stream);
	if (list)
		gpu.driver.host_free(list);
	if (to)
		gpu.driver.mem_free(to);
	if (from)
		gpu.driver.mem_free(from);
}

void e4_mapping(void)
{
	uint64_t bytes_max = is_quick ? 2 * MIB : 1024 * MIB;

	for (uint64_t n = 2 * MIB; n <= bytes_max; n *= n < 64 * MIB ? 32 : 16)
		mapping(n);
	legacy(bytes_max);
	gathering();
}
