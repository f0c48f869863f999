/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.c - kernels LIBRARY [beyond|unwritten]: launches each kernel on cuda:0 of that driver with random inputs of many sizes,
 * and compares every byte of its outputs, and those around them, with what its twin does on the CPU; and that with what the
 * twin says of itself, by which the software driver finds races. What floats come to is compared with doubles, too.
 *
 * beyond, unwritten: instead one launch that is wrong, past the end of its memory, or of memory that nobody wrote: whoever
 * watches this program must see it.
 */
#include "broker/cuda/image.h"
#include "broker/cuda/kernels.h"
#include "broker/executor/values.h"
#include "shm/device/driver.h"
#include "shm/signature.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES	 (1u << 20)
#define GUARD	 256u /* around each buffer: must stay as it was */
#define BUFFERS	 4u
#define ROUNDS	 40u
#define THREADS	 256u

static struct inf_driver driver;
static CUstream stream;
static CUdeviceptr device[BUFFERS];
static uint8_t *host[BUFFERS], *twin[BUFFERS], *before[BUFFERS]; /* before and from the device; by the twin, and before it */
static unsigned int n_passed, n_failed;

static void must(CUresult result, const char *what)
{
	if (!result)
		return;
	printf("NOT OK - %s: %s\n0 passed, 1 failed, 0 skipped\n", what, inf_driver_error(&driver, result));
	exit(1);
}

/* Small integers, so that floats are exact in any order; float inputs are made of them too. */
static void randomize(bool is_float)
{
	for (unsigned int b = 0; b < BUFFERS; b++) {
		for (unsigned int i = 0; i < (BYTES + 2 * GUARD) / 8; i++) {
			int64_t value = random() % 10;
			float floats[2] = { (float)(random() % 1000) / 8, (float)(random() % 1000) / 8 };

			memcpy(host[b] + i * 8ul, is_float ? (const void *)floats : (const void *)&value, 8);
		}
		memcpy(twin[b], host[b], BYTES + 2 * GUARD);
		must(driver.copy_in(device[b], host[b], BYTES + 2 * GUARD, stream), "copy in");
	}
}

static bool compare(const char *name, uint64_t n)
{
	for (unsigned int b = 0; b < BUFFERS; b++)
		must(driver.copy_out(host[b], device[b], BYTES + 2 * GUARD, stream), "copy out");
	must(driver.stream_synchronize(stream), name);
	for (unsigned int b = 0; b < BUFFERS; b++)
		if (memcmp(host[b], twin[b], BYTES + 2 * GUARD)) {
			printf("NOT OK - %s of %llu: buffer %u differs from the twin's\n", name, (unsigned long long)n, b);
			return false;
		}
	return true;
}

/* A range that the twin may have written counts as not changed. */
static bool allow(void *data, const void *address, size_t bytes, bool is_written)
{
	const uint8_t *from = address;

	(void)data;
	for (unsigned int b = 0; is_written && b < BUFFERS; b++)
		if (from >= twin[b] && from + bytes <= twin[b] + BYTES + 2 * GUARD)
			memcpy(before[b] + (from - twin[b]), from, bytes);
	return true;
}

/* Has it written nothing but what it says that it writes? */
static bool run_twin(const struct inf_kernel *kernel, void *const *params)
{
	bool is_good;

	for (unsigned int b = 0; b < BUFFERS; b++)
		memcpy(before[b], twin[b], BYTES + 2 * GUARD);
	kernel->run(params);
	is_good = kernel->touch(params, allow, NULL);
	for (unsigned int b = 0; b < BUFFERS; b++)
		is_good &= !memcmp(before[b], twin[b], BYTES + 2 * GUARD);
	if (!is_good)
		printf("NOT OK - %s writes other bytes than its twin says\n", kernel->name);
	return is_good;
}

/*
 * Parameters are buffers in order, then n, as many as the kernel has. inf_spin has no buffers. Returns whether kernel and
 * twin agree.
 */
static bool run(const struct inf_kernel *kernel, CUfunction function, uint64_t n)
{
	bool has_n = strcmp(kernel->name, "inf_twice") != 0;
	unsigned int n_buffers = kernel->n_params - has_n;
	uint64_t values[8], twins[8];
	void *params[8], *twin_params[8];
	unsigned int blocks = (unsigned int)((n + THREADS - 1) / THREADS);

	for (unsigned int i = 0; i < kernel->n_params; i++) {
		values[i] = i < n_buffers ? device[i] + GUARD : n;
		twins[i] = i < n_buffers ? (uint64_t)(uintptr_t)(twin[i] + GUARD) : n;
		params[i] = &values[i];
		twin_params[i] = &twins[i];
	}
	must(driver.launch(function, blocks < 300 ? blocks : 300, 1, 1, THREADS, 1, 1, 0, stream, params, NULL), kernel->name);
	return run_twin(kernel, twin_params) && compare(kernel->name, n);
}

static void check(const struct inf_kernel *kernel, CUmodule module)
{
	bool is_float = !strcmp(kernel->name, "inf_add_sub") || !strcmp(kernel->name, "inf_reverse"), is_good = true;
	uint64_t width = !strcmp(kernel->name, "inf_square") ? 8 : is_float ? 4 : 1;
	CUfunction function;

	must(driver.module_function(&function, module, kernel->name), kernel->name);
	for (unsigned int i = 0; is_good && i < ROUNDS; i++) {
		uint64_t n_max = BYTES / width, n = i < 20 ? i + 1 : (uint64_t)random() % n_max + 1;

		if (i == ROUNDS - 1 && strcmp(kernel->name, "inf_spin") != 0)
			n = n_max;
		randomize(is_float);
		is_good = run(kernel, function, n);
	}
	n_passed += is_good;
	n_failed += !is_good;
	if (is_good)
		printf("ok - %s does what its twin does\n", kernel->name);
}

/* Every type with values at the edges: kernel and twin agree, and both find what the judge of the CPU finds. */
static void check_judge(const struct inf_kernel *kernel, CUmodule module)
{
	CUfunction function;
	bool is_good = true;

	must(driver.module_function(&function, module, kernel->name), kernel->name);
	for (unsigned int i = 0; is_good && i < 16 * (INF_DTYPE_N - 1); i++) {
		uint64_t dtype = 1 + i % (INF_DTYPE_N - 1), n = (uint64_t)random() % (i < 80 ? 20 : 5000) + 1, says = 1 + i;
		uint64_t size = inf_dtype_size((uint8_t)dtype), zero = 0;
		int64_t min = -(random() % 100), max = random() % 100;
		uint64_t values = device[0] + GUARD, verdict = device[1] + GUARD;
		uint64_t twin_values = (uint64_t)(uintptr_t)(twin[0] + GUARD), twin_verdict = (uint64_t)(uintptr_t)(twin[1] + GUARD);
		void *params[] = { &values, &n, &dtype, &min, &max, &verdict, &says };
		void *twin_params[] = { &twin_values, &n, &dtype, &min, &max, &twin_verdict, &says };
		bool is_allowed;

		randomize(false);
		/* Few that are odd, so that there are rounds without any. */
		for (uint64_t k = 0; k < n * size; k += 8)
			memset(twin[0] + GUARD + k, random() % (int)(n * 2) ? (int)(random() % 90) : (int)random(), 8);
		if (random() % 5 == 0)
			memset(twin[0] + GUARD + (uint64_t)random() % n * size, (const uint8_t[]){ 0x7f, 0xff, 0x7c }[random() % 3], size);
		memcpy(twin[1] + GUARD, &zero, sizeof(zero));
		for (int b = 0; b < 2; b++)
			must(driver.copy_in(device[b], twin[b], BYTES + 2 * GUARD, stream), "copy in");
		is_allowed = dtype < INF_F16 ? values_in_range(twin[0] + GUARD, (uint8_t)dtype, n, min, max) :
					       values_are_finite(twin[0] + GUARD, (uint8_t)dtype, n);
		must(driver.launch(function, (unsigned int)(n / THREADS) + 1, 1, 1, THREADS, 1, 1, 0, stream, params, NULL), kernel->name);
		must(driver.stream_synchronize(stream), kernel->name);
		is_good = run_twin(kernel, twin_params) && compare(kernel->name, n);
		if (is_good && *(uint32_t *)(void *)(twin[1] + GUARD) != (is_allowed ? 0 : says)) {
			printf("NOT OK - inf_judge: another verdict than the CPU's, of type %u\n", (unsigned int)dtype);
			is_good = false;
		}
	}
	n_passed += is_good;
	n_failed += !is_good;
	if (is_good)
		printf("ok - inf_judge judges as its twin and the CPU's judge do\n");
}

/* Lists of moves, few and large, many and small, at odd addresses. */
static void check_move(const struct inf_kernel *kernel, CUmodule module)
{
	enum { MOVES = 200 };
	struct inf_move *list, twins[MOVES];
	CUfunction function;
	CUdeviceptr device_list;
	void *pinned = NULL;
	bool is_good = true;

	must(driver.module_function(&function, module, kernel->name), kernel->name);
	must(driver.host_alloc(&pinned, MOVES * sizeof(*list)), "pinned memory");
	must(driver.host_device_pointer(&device_list, pinned, 0), "pinned memory");
	list = pinned;
	for (unsigned int i = 0; is_good && i < ROUNDS; i++) {
		uint64_t n = 0, n_max = i % 3 ? 3 : MOVES, size_max = i % 3 ? BYTES / 4 : 2000, to = GUARD, list_twin = (uintptr_t)twins;
		void *params[] = { &device_list, &n }, *twin_params[] = { &list_twin, &n };

		randomize(false);
		while (n < n_max) {
			uint64_t bytes = (uint64_t)random() % size_max, gap = (uint64_t)random() % 40, odd = i & 1 ? gap % 16 : 0;
			uint64_t from = GUARD + ((uint64_t)random() % (BYTES - bytes)) / 16 * 16 + odd;

			if (to + bytes + gap > GUARD + BYTES || from + bytes > GUARD + BYTES)
				break;
			list[n] = (struct inf_move){ device[0] + to, device[1] + from, bytes };
			twins[n++] = (struct inf_move){ (uintptr_t)(twin[0] + to), (uintptr_t)(twin[1] + from), bytes };
			to += (bytes + gap) / 16 * 16 + 16 + odd;
		}
		if (!n)
			continue;
		must(driver.launch(function, i % 5 + 1, (unsigned int)n, 1, THREADS, 1, 1, 0, stream, params, NULL), kernel->name);
		is_good = run_twin(kernel, twin_params) && compare(kernel->name, n);
	}
	must(driver.host_free(pinned), "pinned memory");
	n_passed += is_good;
	n_failed += !is_good;
	if (is_good)
		printf("ok - inf_move does what its twin does\n");
}

/*
 * What (x / 255 - mean) / deviation may differ from itself in doubles: half a unit of the last place for each of its three
 * steps, of what comes out of each, and what the later ones make of that.
 */
static bool is_near(float got, uint8_t x, struct inf_scale scale)
{
	double difference = x / 255.0 - (double)scale.mean, exact = difference / (double)scale.deviation;
	double before_it = (0x1p-25 + fabs(difference) * 0x1p-24) / (double)scale.deviation;

	return fabs((double)got - exact) <= (before_it + fabs(exact) * 0x1p-24) * 1.000001;
}

/* Of what the twin was given (twin[1]) and gave (twin[0]). */
static bool is_normalised(const uint64_t *shape, const uint8_t *from, const float *to, const struct inf_scale *scales)
{
	uint64_t n_images = shape[0], n_pixels = shape[1], n_channels = shape[2], is_planar = shape[3];

	for (uint64_t k = 0; k < n_images; k++)
		for (uint64_t c = 0; c < n_channels; c++)
			for (uint64_t i = 0; i < n_pixels; i++) {
				uint64_t in = is_planar ? c * n_pixels + i : i * n_channels + c;

				if (!is_near(to[(k * n_channels + c) * n_pixels + i], from[k * n_channels * n_pixels + in], scales[c])) {
					printf("NOT OK - inf_normalise: pixel %llu, channel %llu of image %llu\n",
					       (unsigned long long)i, (unsigned long long)c, (unsigned long long)k);
					return false;
				}
			}
	return true;
}

/* 1 to 4 channels, interleaved and in planes, odd sizes and addresses; the first rounds have each value in each channel. */
static void check_normalise(const struct inf_kernel *kernel, CUmodule module)
{
	const struct inf_scale known[INF_CHANNELS_MAX] = { { 0.485f, 0.229f }, { 0.456f, 0.224f }, { 0.406f, 0.225f }, { 0.0f, 1.0f } };
	CUfunction function;
	bool is_good = true;

	must(driver.module_function(&function, module, kernel->name), kernel->name);
	for (unsigned int i = 0; is_good && i < 3 * ROUNDS; i++) {
		/* n_images, n_pixels, n_channels, is_planar */
		uint64_t shape[4] = { i < 16 ? 1 : (uint64_t)random() % 5 + 1, i < 16 ? 256 : (uint64_t)random() % 3000 + 1,
				      i % 4 + 1, i / 4 % 2 };
		uint64_t odd_to = GUARD + 4 * ((uint64_t)random() % 8), odd_from = GUARD + (uint64_t)random() % 16;
		uint64_t to = device[0] + odd_to, from = device[1] + odd_from;
		uint64_t twin_to = (uintptr_t)(twin[0] + odd_to), twin_from = (uintptr_t)(twin[1] + odd_from);
		struct inf_scale scales[INF_CHANNELS_MAX];
		void *params[6 + INF_CHANNELS_MAX] = { &to, &from }, *twin_params[6 + INF_CHANNELS_MAX] = { &twin_to, &twin_from };
		unsigned int blocks_y = 1 + (unsigned int)random() % (unsigned int)shape[0];

		for (unsigned int k = 0; k < 4; k++)
			params[2 + k] = twin_params[2 + k] = &shape[k];
		for (unsigned int c = 0; c < INF_CHANNELS_MAX; c++) {
			scales[c] = known[c];
			if (i >= 16)
				scales[c] = (struct inf_scale){ (float)(random() % 1000) / 999, (float)(random() % 1000 + 1) / 999 };
			params[6 + c] = twin_params[6 + c] = &scales[c];
		}
		randomize(false);
		for (uint64_t k = 0; k < shape[0] * shape[1] * shape[2]; k++)
			twin[1][odd_from + k] = (uint8_t)(i >= 16 ? (uint64_t)random() : shape[3] ? k : k / shape[2]);
		must(driver.copy_in(device[1], twin[1], BYTES + 2 * GUARD, stream), "copy in");
		must(driver.launch(function, (unsigned int)random() % 12 + 1, blocks_y, 1, THREADS, 1, 1, 0, stream, params, NULL), kernel->name);
		is_good = run_twin(kernel, twin_params) && compare(kernel->name, shape[1]) &&
			  is_normalised(shape, twin[1] + odd_from, (const float *)(const void *)(twin[0] + odd_to), scales);
	}
	n_passed += is_good;
	n_failed += !is_good;
	if (is_good)
		printf("ok - inf_normalise does what its twin and doubles do\n");
}

/* Floats of every size, small ones and odd ones too; integers whose square a double holds. */
static void randomize_numbers(void)
{
	randomize(true);
	for (unsigned int b = 2; b < BUFFERS; b++)
		for (unsigned int i = 0; i < BYTES / sizeof(float); i++) {
			uint32_t bits = (uint32_t)random() << 1 ^ (uint32_t)random();

			memcpy(host[b] + GUARD + i * sizeof(float), &bits, sizeof(bits));
		}
	for (unsigned int i = 0; i < BYTES / sizeof(int64_t); i++) {
		int64_t value = random() % (1 << 27) - (1 << 26);

		memcpy(host[1] + GUARD + i * sizeof(int64_t), &value, sizeof(value));
	}
	memset(host[0], 0xff, BYTES + 2 * GUARD);
	for (unsigned int b = 0; b < BUFFERS; b++)
		must(driver.copy_in(device[b], host[b], BYTES + 2 * GUARD, stream), "copy in");
}

static bool is_nearest(float found, double wanted)
{
	float nearest = (float)wanted;

	return nearest != nearest ? found != found : found == nearest;
}

/*
 * A double holds the exact sum of two floats, or rounds it to the same float as if it did (it has more than twice their bits
 * and two more), and the square of an integer below 2^26: the one right answer is known. Outputs are NaN before.
 */
static void check_numbers(CUmodule module)
{
	const float *sum = (const float *)(void *)(host[0] + GUARD), *difference = (const float *)(void *)(host[1] + GUARD);
	const float *a = (const float *)(void *)(host[2] + GUARD), *b = (const float *)(void *)(host[3] + GUARD);
	uint64_t n = BYTES / sizeof(float), n_squares = BYTES / sizeof(int64_t), address[BUFFERS];
	void *params[] = { &address[0], &address[1], &address[2], &address[3], &n };
	void *square_params[] = { &address[0], &address[1], &n_squares };
	const int64_t *roots = (const int64_t *)(void *)(host[1] + GUARD);
	CUfunction add_sub, square;
	uint64_t n_wrong = 0;

	for (unsigned int k = 0; k < BUFFERS; k++)
		address[k] = device[k] + GUARD;
	must(driver.module_function(&add_sub, module, "inf_add_sub"), "inf_add_sub");
	must(driver.module_function(&square, module, "inf_square"), "inf_square");
	randomize_numbers();
	must(driver.launch(square, 300, 1, 1, THREADS, 1, 1, 0, stream, square_params, NULL), "inf_square");
	must(driver.copy_out(host[0], device[0], BYTES + 2 * GUARD, stream), "copy out");
	must(driver.stream_synchronize(stream), "inf_square");
	for (uint64_t i = 0; i < n_squares; i++)
		n_wrong += !is_nearest(sum[i], (double)roots[i] * (double)roots[i]);
	must(driver.launch(add_sub, 300, 1, 1, THREADS, 1, 1, 0, stream, params, NULL), "inf_add_sub");
	for (unsigned int k = 0; k < 2; k++)
		must(driver.copy_out(host[k], device[k], BYTES + 2 * GUARD, stream), "copy out");
	must(driver.stream_synchronize(stream), "inf_add_sub");
	for (uint64_t i = 0; i < n; i++)
		n_wrong += !is_nearest(sum[i], (double)a[i] + (double)b[i]) || !is_nearest(difference[i], (double)a[i] - (double)b[i]);
	n_passed += !n_wrong;
	n_failed += n_wrong > 0;
	if (n_wrong)
		printf("NOT OK - %llu floats are not the nearest to what doubles say\n", (unsigned long long)n_wrong);
	else
		printf("ok - floats are the nearest to what doubles say\n");
}

/* The last buffer of its own: nothing lies behind it. */
static void launch_wrong(CUmodule module, const char *how)
{
	bool is_beyond = !strcmp(how, "beyond");
	CUdeviceptr own;
	uint64_t from, to = device[0], n = is_beyond ? 2u << 20 : BYTES;
	void *params[] = { &to, &from, &n };
	CUfunction function;

	must(driver.mem_alloc(&own, BYTES), "memory");
	from = is_beyond ? device[1] : own;
	must(driver.module_function(&function, module, "inf_copy"), "inf_copy");
	must(driver.launch(function, 64, 1, 1, THREADS, 1, 1, 0, stream, params, NULL), "inf_copy");
	must(driver.stream_synchronize(stream), "inf_copy");
	must(driver.mem_free(own), "free");
}

int main(int argc, char **argv)
{
	char text[INF_DRIVER_TEXT_BYTES];
	CUmodule module;
	CUdevice cuda0;
	CUcontext context;

	if (argc != 2 && argc != 3)
		return 2;
	if (inf_driver_open(&driver, argv[1], text)) {
		printf("skip - kernels on a device: %s\n0 passed, 0 failed, 1 skipped\n", text);
		return 0;
	}
	must(driver.device_get(&cuda0, 0), "device");
	must(driver.context_retain(&context, cuda0), "context");
	must(driver.context_set(context), "context");
	must(driver.stream_create(&stream, CU_STREAM_NON_BLOCKING, 0), "stream");
	must(driver.module_load(&module, inf_kernels_image), "the kernels");
	for (unsigned int b = 0; b < BUFFERS; b++) {
		must(driver.mem_alloc(&device[b], BYTES + 2 * GUARD), "memory");
		host[b] = malloc(BYTES + 2 * GUARD);
		twin[b] = malloc(BYTES + 2 * GUARD);
		before[b] = malloc(BYTES + 2 * GUARD);
		if (!host[b] || !twin[b] || !before[b])
			return 1;
	}
	if (argc == 3)
		launch_wrong(module, argv[2]);
	for (const struct inf_kernel *kernel = inf_kernels; argc == 2 && kernel->name; kernel++)
		if (!strcmp(kernel->name, "inf_judge"))
			check_judge(kernel, module);
		else if (!strcmp(kernel->name, "inf_move"))
			check_move(kernel, module);
		else if (!strcmp(kernel->name, "inf_normalise"))
			check_normalise(kernel, module);
		else
			check(kernel, module);
	if (argc == 2)
		check_numbers(module);
	for (unsigned int b = 0; b < BUFFERS; b++) {
		must(driver.mem_free(device[b]), "free");
		free(host[b]);
		free(twin[b]);
		free(before[b]);
	}
	must(driver.module_unload(module), "unload");
	must(driver.stream_destroy(stream), "stream");
	must(driver.context_release(cuda0), "context");
	printf("%u passed, %u failed, 0 skipped\n", n_passed, n_failed);
	return n_failed != 0;
}
