/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.c - tensors on the device: that answers are right, in all the ways to ask. Usage: tensors SOCKET CASE. */
#define _GNU_SOURCE 1
#include "tests/support/on_device.h"

static void mixed(void)
{
	struct inf_model *model = open_model("add_sub");

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++)
		ask(model, i % 3 ? 1 + (uint32_t)random() % 40 : 1, i % 8);
}

/* In parts, more rows than fit into one batch. */
static void many_rows(void)
{
	struct inf_model *model = open_model("add_sub");

	for (unsigned int places = 0; places < 8 && !wrong; places++)
		ask(model, ROWS_MAX, places);
}

/* Several in flight, one stream, all of it queued before anything is waited for. */
static void in_flight(void)
{
	struct inf_model *model = open_model("identity_f32");
	enum { N = 20, BYTES = 4096 };
	uint8_t *from = pinned(N * BYTES), *to = pinned(N * BYTES);
	struct inf_request *reqs[N] = { NULL };

	for (int round = 0; round < 5 && !wrong; round++) {
		for (int i = 0; i < N * BYTES; i++)
			from[i] = (uint8_t)random() & 0x7e; /* no NaN */
		memset(to, 0, N * BYTES);
		for (int i = 0; i < N && !wrong; i++) {
			uint64_t x = 0, y = 0;

			WANT(inf_request_take(model, 1, &reqs[i]) == 0 && inf_output_to_device(reqs[i]) == 0);
			WANT(inf_input_device(reqs[i], 0, &x) == 0 && inf_output_device(reqs[i], 0, &y) == 0);
			WANT(!driver.copy_in(x, from + i * BYTES, BYTES, stream) && inf_request_commit(reqs[i], stream) == 0);
			WANT(inf_submit(reqs[i]) == 0 && inf_wait_stream(reqs[i], stream) == 0);
			WANT(!driver.copy_out(to + i * BYTES, y, BYTES, stream));
		}
		WANT(!driver.stream_synchronize(stream) && !memcmp(from, to, N * BYTES));
		for (int i = 0; i < N; i++) {
			WANT(inf_wait(reqs[i], in_ms(20000)) == 0 && inf_request_status(reqs[i]) == INF_OK);
			inf_request_give(reqs[i]);
		}
	}
	WANT(!driver.host_free(from) && !driver.host_free(to));
}

/* Values that the signature forbids, on the device: named, and nobody else's request is hurt. */
static void judged(void)
{
	struct inf_model *index = open_model("index"), *finite = open_model("finite");
	int64_t *numbers = (int64_t *)(void *)a;

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		bool is_bad = i % 3 == 0, is_finite = i % 2;
		struct inf_request *req = NULL, *other = NULL;
		uint64_t x = 0;

		WANT(!driver.stream_synchronize(stream));
		for (int k = 0; k < 8; k++)
			if (is_finite)
				a[k] = (float)k;
			else
				numbers[k] = k;
		if (is_finite && is_bad)
			a[3 + i % 5] = i & 4 ? NAN : -INFINITY;
		else if (is_bad)
			numbers[3 + i % 5] = i & 4 ? 10 : INT64_MIN;
		WANT(inf_request_take(is_finite ? finite : index, 2, &req) == 0 && inf_input_device(req, 0, &x) == 0);
		WANT(!driver.copy_in(x, a, is_finite ? 32 : 64, stream) && inf_request_commit(req, stream) == 0);
		WANT(inf_request_take(index, 1, &other) == 0);
		if (wrong)
			return;
		for (int64_t k = 0; k < 4; k++)
			((int64_t *)inf_input(other, 0))[k] = k;
		WANT(inf_submit(req) == 0 && inf_submit(other) == 0);
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_wait(other, in_ms(20000)) == 0);
		WANT(inf_request_status(req) == (is_bad ? INF_BAD_RANGE : INF_OK));
		WANT(inf_request_status(other) == INF_OK && ((const float *)inf_output(other, 0))[3] == 9);
		for (int k = 0; !is_bad && !wrong && k < 8; k++)
			WANT(((const float *)inf_output(req, 0))[k] == (is_finite ? (float)k : (float)(k * k)));
		inf_request_give(req);
		inf_request_give(other);
	}
}

/* What was in new memory before is not to be seen: nothing of other clients. */
static void scrubbed(void)
{
	struct inf_model *model = open_model("identity_f32");
	struct inf_request *reqs[64] = { NULL };
	uint8_t *bytes = pinned(4096);

	for (int i = 0; i < 64 && !wrong; i++) {
		uint64_t x = 0;

		memset(bytes, 0xaa, 4096);
		WANT(inf_request_take(model, 1, &reqs[i]) == 0 && inf_input_device(reqs[i], 0, &x) == 0);
		WANT(!driver.copy_out(bytes, x, 4096, stream) && !driver.stream_synchronize(stream));
		for (int k = 0; k < 4096; k++)
			WANT(!bytes[k]);
	}
	for (int i = 0; i < 64; i++)
		inf_request_give(reqs[i]);
	WANT(!driver.host_free(bytes));
}

/* Whose shapes vary: extension tensors, results behind them. */
static void varying(void)
{
	struct inf_model *model = open_model("varying");

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		int64_t n = i == 7 || i == 8 ? 0 : random() % 200;
		struct inf_request *req = NULL;
		struct inf_tensor tensor;
		uint64_t x = 0, y = 0;

		fill(20);
		WANT(inf_request_take(model, 1, &req) == 0);
		if (i & 1)
			WANT(inf_output_to_device(req) == 0 && inf_output_device(req, 0, &y) == 0);
		WANT(inf_input_describe(req, 0, INF_F32, 1, &n) == 0);
		WANT(inf_input_device(req, 0, &x) == 0);
		if (n)
			WANT(!driver.copy_in(x, a, (size_t)n * 4, stream));
		WANT(inf_request_commit(req, stream) == 0 && inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0);
		if (i & 1 && n)
			WANT(!driver.copy_out(sum, y, (size_t)n * 4, stream) && !driver.stream_synchronize(stream));
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK && !driver.stream_synchronize(stream));
		WANT(inf_output_tensor(req, 0, &tensor) == 0 && tensor.rank == 1 && tensor.dims[0] == n);
		if (!(i & 1) && !wrong)
			memcpy(sum, tensor.data, (size_t)n * 4);
		for (int64_t k = 0; k < n && !wrong; k++)
			WANT(sum[k] == a[n - 1 - k]);
		inf_request_give(req);
	}
}

/* Pixels that are on the device become floats there: the bits of C's arithmetic. */
static void normalised(void)
{
	const float means[] = { 0.485f, 0.456f, 0.406f }, deviations[] = { 0.229f, 0.224f, 0.225f };
	enum { PIXELS = 32 * 32, ROWS = 5, N = PIXELS * 3 };
	struct inf_model *model = open_model("normalise");
	uint8_t *from = pinned(ROWS * N);
	float *to = pinned(ROWS * N * sizeof(float));

	for (uint32_t rows = 1; rows <= ROWS && !wrong; rows++) {
		struct inf_request *req = NULL;
		uint64_t x = 0, y = 0;

		for (uint32_t i = 0; i < rows * N; i++)
			from[i] = (uint8_t)random();
		WANT(inf_request_take(model, rows, &req) == 0 && inf_output_to_device(req) == 0);
		WANT(inf_input_device(req, 0, &x) == 0 && inf_output_device(req, 0, &y) == 0);
		WANT(!driver.copy_in(x, from, rows * N, stream) && inf_request_commit(req, stream) == 0);
		WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0);
		WANT(!driver.copy_out(to, y, rows * N * sizeof(float), stream) && !driver.stream_synchronize(stream));
		for (uint32_t i = 0; i < rows * N && !wrong; i++) {
			float want = ((float)from[i] / 255.0f - means[i % 3]) / deviations[i % 3];

			WANT(!memcmp(&to[i / N * N + i % 3 * PIXELS + i / 3 % PIXELS], &want, sizeof(want)));
		}
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK);
		inf_request_give(req);
	}
	WANT(!driver.host_free(from) && !driver.host_free(to));
}

/* The inputs come long after the request: it waits for them, and nobody else does. */
static void late_commit(void)
{
	struct inf_model *model = open_model("add_sub");

	for (int i = 0; i < 5 && !wrong; i++) {
		struct inf_request *late, *other = NULL;
		uint64_t begin_ns;

		fill(4);
		WANT(!driver.stream_call(stream, sleep_20_ms, NULL));
		begin_ns = in_ms(0);
		late = start(model, 4, 7);
		WANT(inf_request_take(model, 1, &other) == 0);
		if (wrong)
			return;
		memset(inf_input(other, 0), 0, WIDTH * 4);
		memset(inf_input(other, 1), 0, WIDTH * 4);
		WANT(inf_submit(other) == 0 && inf_wait(other, in_ms(20000)) == 0 && inf_request_status(other) == INF_OK);
		WANT(inf_poll(late) == 0 || in_ms(0) - begin_ns > 19000000);
		inf_request_give(other);
		end(late, 4, 7);
		WANT(in_ms(0) - begin_ns > 19000000);
	}
}

/* All entries of the timeline, and again. */
static void entries(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *reqs[1024] = { NULL }, *more = NULL;
	uint64_t x;

	for (int round = 0; round < 2 && !wrong; round++) {
		for (int i = 0; i < 1024 && !wrong; i++)
			WANT(inf_request_take(model, 1, &reqs[i]) == 0 && inf_input_device(reqs[i], 0, &x) == 0);
		WANT(inf_request_take(model, 1, &more) == 0 && inf_input_device(more, 0, &x) == -ENOBUFS);
		inf_request_give(more);
		for (int i = 0; i < 1024; i++)
			inf_request_give(reqs[i]);
	}
	ask(model, 2, 7);
}

/* A stream stops here until it is set. */
static void stop_at(void *gate)
{
	while (!__atomic_load_n((int *)gate, __ATOMIC_ACQUIRE))
		usleep(100);
}

/* Marks say when a stream has passed, and no sooner; they belong to the request, and go with it. */
static void marks(void)
{
	struct inf_model *model = open_model("add_sub");
	CUstream other = NULL;
	struct inf_request *req = NULL;
	uint64_t x;

	WANT(!driver.stream_create(&other, CU_STREAM_NON_BLOCKING, 0));
	WANT(inf_request_take(model, 1, &req) == 0);
	WANT(inf_mark_stream(req, stream) == -EINVAL && inf_poll_marks(req) == -EINVAL && inf_mark_stream(NULL, NULL) == -EINVAL);
	for (int round = 0; round < 5 && !wrong; round++) {
		int first = 0, second = 0;
		CUstream passed_first = round & 2 ? other : stream;

		WANT(inf_input_device(req, 0, &x) == 0 && inf_poll_marks(req) == 1);
		WANT(!driver.stream_call(passed_first, stop_at, &first) &&
		     !driver.stream_call(round & 2 ? stream : other, stop_at, &second));
		WANT(inf_mark_stream(req, stream) == 0 && inf_mark_stream(req, other) == 0 && inf_mark_stream(req, other) == 0);
		WANT(inf_poll_marks(req) == 0);
		__atomic_store_n(&first, 1, __ATOMIC_RELEASE);
		WANT(!driver.stream_synchronize(passed_first) && inf_poll_marks(req) == 0);
		/* Given back they are nobody's, the next request begins without. */
		if (round & 1) {
			inf_request_give(req);
			WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == 0 && inf_poll_marks(req) == 1);
		}
		__atomic_store_n(&second, 1, __ATOMIC_RELEASE);
		WANT(!driver.stream_synchronize(stream) && !driver.stream_synchronize(other));
		WANT(inf_poll_marks(req) == 1 && inf_poll_marks(req) == 1);
	}
	inf_request_give(req);
	WANT(!driver.stream_destroy(other));
	ask(model, 2, 7);
}

/* Tensors of other libraries, from host and device to host and device. */
static void dlpack(void)
{
	struct inf_model *model = open_model("add_sub"), *varying_model = open_model("varying");

	for (unsigned int i = 0; i < 16 && !wrong; i++) {
		uint32_t rows = 1 + i % 5;
		int64_t shape[] = { rows, WIDTH }, strides[] = { WIDTH, 1 }, odd[] = { 1, 7 };
		DLTensor x = { .data = a, .ndim = 2, .dtype = { kDLFloat, 32, 1 }, .shape = shape, .strides = i & 1 ? strides : NULL };
		DLTensor y = x;
		struct inf_request *req = NULL;
		DLManagedTensor *out[2] = { NULL };

		fill(rows);
		x.device = (DLDevice){ i & 8 ? kDLCUDAHost : kDLCPU, 0 };
		y.device = (DLDevice){ kDLCUDA, 0 };
		y.data = (void *)(uintptr_t)scratch;
		y.byte_offset = 64;
		WANT(!driver.copy_in(scratch + 64, b, bytes_of(rows), stream));
		WANT(inf_request_take(model, rows, &req) == 0);
		if (i & 2)
			WANT(inf_output_to_device(req) == 0);
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == 0 && inf_input_dlpack(model, req, 1, &y, stream) == 0);
		/* What it must refuse changes nothing. */
		x.dtype.bits = 64;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.dtype = (DLDataType){ kDLInt, 32, 1 };
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.dtype = y.dtype;
		x.strides = odd;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.strides = NULL;
		x.ndim = 1;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		x.ndim = 2;
		shape[0] = INT64_MAX;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EINVAL);
		shape[0] = rows + 1;
		WANT(inf_input_dlpack(model, req, 0, &x, stream) == -EMSGSIZE);
		shape[0] = rows;
		y.device.device_type = kDLOpenCL;
		WANT(inf_input_dlpack(model, req, 1, &y, stream) == -EOPNOTSUPP && inf_input_dlpack(model, req, 2, &y, stream) == -EINVAL);
		WANT(inf_output_dlpack(req, 0, 0, &out[0]) == -EINVAL);
		WANT(inf_request_commit(req, stream) == 0 && inf_submit(req) == 0);
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK);
		WANT(inf_output_dlpack(req, 0, 0, &out[0]) == 0 && inf_output_dlpack(req, 1, 0, &out[1]) == 0);
		if (wrong)
			return;
		for (int k = 0; k < 2; k++) {
			const DLTensor *tensor = &out[k]->dl_tensor;
			float *to = k ? difference : sum;

			WANT(tensor->ndim == 2 && tensor->shape[0] == rows && tensor->shape[1] == WIDTH && !tensor->strides);
			WANT(tensor->dtype.code == kDLFloat && tensor->dtype.bits == 32);
			WANT(tensor->device.device_type == (i & 2 ? kDLCUDA : kDLCPU));
			if (i & 2)
				WANT(!driver.copy_out(to, (uintptr_t)tensor->data, bytes_of(rows), stream));
			else
				memcpy(to, tensor->data, bytes_of(rows));
		}
		WANT(!driver.stream_synchronize(stream) && is_right(rows));
		out[0]->deleter(out[0]);
		out[1]->deleter(out[1]);
		inf_request_give(req);
	}
	for (int64_t n = 0; n < 10 && !wrong; n++) {
		DLTensor x = { .data = a, .device = { kDLCPU, 0 }, .ndim = 1, .dtype = { kDLFloat, 32, 1 }, .shape = &n };
		struct inf_request *req = NULL;

		WANT(inf_request_take(varying_model, 1, &req) == 0 && inf_input_dlpack(varying_model, req, 0, &x, NULL) == 0);
		WANT(inf_submit(req) == 0 && inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK);
		WANT(!n || ((const float *)inf_output(req, 0))[0] == a[n - 1]);
		inf_request_give(req);
	}
}

/* Has memory on the device, and says so, until its standard input ends. */
static void holds(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;
	uint64_t x = 0;
	char byte;

	WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == 0);
	puts("holds");
	fflush(stdout);
	while (!wrong && read(STDIN_FILENO, &byte, 1) > 0)
		;
	inf_request_give(req);
}

int main(int argc, char **argv)
{
	static const struct device_case cases[] = {
		{ "mixed", mixed, false },
		{ "many_rows", many_rows, false },
		{ "in_flight", in_flight, false },
		{ "judged", judged, false },
		{ "scrubbed", scrubbed, false },
		{ "varying", varying, false },
		{ "normalised", normalised, false },
		{ "late_commit", late_commit, false },
		{ "entries", entries, false },
		{ "marks", marks, false },
		{ "dlpack", dlpack, false },
		{ "holds", holds, false },
	};

	return run_case(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
