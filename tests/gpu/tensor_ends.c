/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tensor_ends.c - tensors on the device: what becomes of requests that are refused, cancelled, late or lost, and of those beside
 * them. Usage: tensor_ends SOCKET CASE.
 */
#define _GNU_SOURCE 1
#include "tests/support/on_device.h"
#include <sys/wait.h>

/* Inputs that never come: a deadline ends it, or a cancel, or the broker's own limit; the streams that wait for it go on. */
static void never_committed(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL, *blocker = NULL;
	CUstream stuck = NULL;
	CUdeviceptr word = 0;
	uint64_t x, *host = pinned(8);

	*host = 0;
	WANT(!driver.stream_create(&stuck, CU_STREAM_NON_BLOCKING, 0));
	WANT(!driver.host_device_pointer(&word, host, 0) && !driver.stream_wait(stuck, word, 1, CU_STREAM_WAIT_VALUE_GEQ));
	for (int i = 0; i < 6 && !wrong; i++) {
		WANT(inf_request_take(model, 1, &req) == 0 && inf_output_to_device(req) == 0 && inf_input_device(req, 0, &x) == 0);
		WANT(inf_request_commit(req, stuck) == 0);
		if (i % 3 == 0)
			WANT(inf_request_set_deadline(req, in_ms(30)) == 0);
		WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0);
		if (i % 3 == 1)
			WANT(inf_cancel(req) == 0);
		WANT(inf_wait(req, in_ms(5000)) == 0); /* the broker's limit is less: --commit-ms-max */
		WANT(inf_request_status(req) == (i % 3 == 1 ? INF_CANCELLED : INF_DEADLINE));
		WANT(!driver.stream_synchronize(stream));
		inf_request_give(req);
	}
	/* One that is given back while it waits. */
	WANT(inf_request_take(model, 1, &blocker) == 0 && inf_input_device(blocker, 0, &x) == 0);
	WANT(inf_request_commit(blocker, stuck) == 0 && inf_submit(blocker) == 0);
	inf_request_give(blocker);
	__atomic_store_n(host, 1, __ATOMIC_SEQ_CST);
	WANT(!driver.stream_synchronize(stuck) && !driver.stream_destroy(stuck) && !driver.host_free(host));
	ask(model, 3, 7);
}

/* Once a request has ended, cancelled or not, nothing writes into its memory any more: it may be another's by now. */
static void cancelled(void)
{
	struct inf_model *model = open_model("add_sub");
	int n_cancelled = 0;

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		uint32_t rows = i & 1 ? ROWS_MAX : 1;
		struct inf_request *req;
		uint64_t x = 0;

		fill(rows);
		req = start(model, rows, 4);
		if (i % 4 > 1)
			usleep((unsigned int)random() % 600);
		WANT(req && (inf_cancel(req) == 0 || inf_poll(req) == 1));
		if (wrong)
			return;
		WANT(inf_wait(req, in_ms(20000)) == 0);
		n_cancelled += inf_request_status(req) == INF_CANCELLED;
		WANT(inf_output_device(req, 0, &x) == 0);
		memset(sum, 0x55, bytes_of(rows));
		WANT(!driver.copy_in(x, sum, bytes_of(rows), stream) && !driver.stream_synchronize(stream));
		usleep(4000);
		WANT(!driver.copy_out(difference, x, bytes_of(rows), stream) && !driver.stream_synchronize(stream));
		WANT(!memcmp(sum, difference, bytes_of(rows)));
		inf_request_give(req);
	}
	printf("# %d of %u cancelled\n", n_cancelled, ROUNDS);
}

/*
 * The device tells the streams that the first run of a request is done after the broker has told them so of the second (the
 * first was cancelled, the second too late): the counts go back for a moment, and not for longer.
 */
static void told_late(void)
{
	struct inf_model *model = open_model("sleep");

	for (uint32_t i = 0; i < 20 && !wrong; i++) {
		struct inf_request *req = NULL;
		uint64_t x;

		WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == 0 && inf_submit(req) == 0);
		usleep(300);
		WANT(inf_cancel(req) == 0 || inf_poll(req) == 1);
		WANT(inf_wait(req, in_ms(20000)) == 0);
		WANT(inf_request_set_deadline(req, in_ms(0)) == 0 && inf_submit(req) == 0 && inf_wait(req, in_ms(20000)) == 0);
		usleep(5000);
		WANT(inf_wait_stream(req, stream) == 0 && !driver.stream_synchronize(stream));
		inf_request_give(req);
	}
}

/* A stream that waits for a request which the broker refuses goes on. */
static void refused(void)
{
	struct inf_model *model = open_model("varying");
	struct inf_request *req = NULL;
	uint64_t x;

	for (int i = 0; i < 3 && !wrong; i++) {
		int64_t n = 4;

		WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == 0);
		WANT(inf_input_describe(req, 0, INF_I32, 1, &n) == 0 && inf_request_commit(req, stream) == 0);
		WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0 && !driver.stream_synchronize(stream));
		WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_BAD_DTYPE);
		inf_request_give(req);
	}
}

/* What inf_error() has to say of the call before. */
static bool says(const char *words)
{
	const char *said = inf_error(NULL);

	if (*words ? strstr(said, words) != NULL : !*said)
		return true;
	printf("NOT OK - inf_error() says \"%s\", not \"%s\"\n", said, words);
	return false;
}

static void errors(void)
{
	struct inf_options options = { .size = sizeof(options) };
	struct inf_model *model = open_model("add_sub");
	struct inf_client *other = NULL;
	struct inf_request *req = NULL;
	uint64_t x;

	WANT(inf_device_open(NULL, NULL) == -EINVAL);
	WANT(inf_request_take(model, 1, &req) == 0);
	WANT(inf_request_commit(req, stream) == -EINVAL && inf_wait_stream(req, stream) == -EINVAL);
	WANT(inf_output_device(req, 0, &x) == -EINVAL && inf_input_device(req, 2, &x) == -EINVAL);
	WANT(inf_input_device(NULL, 0, &x) == -EINVAL && inf_output_to_device(NULL) == -EINVAL);
	WANT(inf_input_copy(req, 0, scratch, bytes_of(1) + 1, stream) == -EMSGSIZE && says("more than the input has room for"));
	WANT(inf_input_copy(req, 0, (uintptr_t)&options, 4, stream) == -EFAULT && says("no device memory of this process"));
	/* Words are of the last call alone. */
	WANT(inf_device_open(client, NULL) == 0 && says(""));
	WANT(inf_input_copy(req, 0, (uintptr_t)a, 4, stream) == -EFAULT);
	WANT(inf_input_copy(req, 0, scratch + bytes_of(ROWS_MAX) - 4, 8, stream) == -EFAULT);
	WANT(inf_input_copy(req, 0, scratch - 4, 8, stream) == -EFAULT);
	WANT(inf_input_copy(req, 0, UINT64_MAX - 3, 8, stream) == -EFAULT);
	WANT(inf_wait_stream(req, stream) == -EINVAL); /* has device memory, but was never submitted */
	/* None of that moved its inputs to the device. */
	fill(1);
	memcpy(inf_input(req, 0), a, bytes_of(1));
	memcpy(inf_input(req, 1), b, bytes_of(1));
	WANT(inf_submit(req) == 0);
	end(req, 1, 0);
	WANT(inf_request_take(model, 1, &req) == 0);
	WANT(inf_output_to_device(req) == 0 && inf_output_device(req, 2, &x) == -EINVAL);
	inf_request_give(req);
	/* A client that did not open the device. */
	WANT(inf_open(&other, &options) == 0 && inf_model_open(other, "add_sub", 0, &model) == 0);
	WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == -ENODEV && says("inf_device_open() comes first"));
	WANT(inf_output_to_device(req) == -ENODEV);
	inf_request_give(req);
	inf_close(other);
}

/* A client is closed while a stream has yet to read its results. */
static void closed(void)
{
	struct inf_options options = { .size = sizeof(options) };
	struct inf_client *other = NULL;
	struct inf_request *req = NULL;
	struct inf_model *model;
	uint64_t x, y;

	WANT(inf_open(&other, &options) == 0 && inf_model_open(other, "add_sub", 0, &model) == 0);
	WANT(inf_device_open(other, NULL) == 0 && inf_request_take(model, 4, &req) == 0 && inf_output_to_device(req) == 0);
	if (wrong)
		return;
	fill(4);
	memcpy(inf_input(req, 0), a, bytes_of(4));
	memcpy(inf_input(req, 1), b, bytes_of(4));
	WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0 && !driver.stream_call(stream, sleep_20_ms, NULL));
	WANT(inf_output_device(req, 0, &x) == 0 && !driver.copy_out(sum, x, bytes_of(4), stream));
	WANT(inf_output_device(req, 1, &y) == 0 && !driver.copy_out(difference, y, bytes_of(4), stream));
	WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_OK);
	inf_close(other);
	WANT(!driver.stream_synchronize(stream) && is_right(4));
}

/* A child's end is none of the parent's business. */
static void forked(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req;
	int status = 0;
	pid_t child;

	fill(4);
	WANT(!driver.stream_call(stream, sleep_20_ms, NULL));
	req = start(model, 4, 7);
	child = fork();
	if (!child) {
		WANT(inf_device_open(client, NULL) == -EOWNERDEAD && inf_wait_stream(req, stream) == -EOWNERDEAD);
		inf_close(client);
		_exit(wrong != NULL);
	}
	WANT(waitpid(child, &status, 0) == child && status == 0);
	if (req)
		end(req, 4, 7);
}

/* Where the broker gives no device memory requests go by way of the host, and the library says why. */
static void quota(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;
	uint64_t x;

	WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) == -EDQUOT);
	WANT(strstr(inf_error(client), "--user-device-memory-max"));
	WANT(inf_output_to_device(req) == -EDQUOT && inf_input_copy(req, 1, scratch, 4, stream) == -EDQUOT);
	fill(1);
	WANT(inf_input(req, 0) && inf_input(req, 1));
	if (wrong)
		return;
	memcpy(inf_input(req, 0), a, bytes_of(1));
	memcpy(inf_input(req, 1), b, bytes_of(1));
	WANT(inf_submit(req) == 0);
	end(req, 1, 0);
}

/* Memory of the host is used up: what has no room for its results keeps its inputs. */
static void no_room(void)
{
	struct inf_model *model = open_model("identity_f32");
	struct inf_request *reqs[8192] = { NULL }, *last = NULL;
	int r = 0;
	uint32_t n = 0;

	while (!wrong && n < 8192 && (r = inf_request_take(model, 1, &reqs[n])) == 0)
		n++;
	WANT(r == -ENOBUFS && n > 2);
	if (wrong)
		return;
	last = reqs[--n];
	WANT(inf_output_to_device(last) == -ENOBUFS && inf_input(last, 0));
	if (wrong)
		return;
	memset(inf_input(last, 0), 0x11, 4096);
	WANT(inf_submit(last) == 0 && inf_wait(last, in_ms(20000)) == 0 && inf_request_status(last) == INF_OK);
	WANT(inf_output(last, 0) && !memcmp(inf_input(last, 0), inf_output(last, 0), 4096));
	inf_request_give(last);
	while (n)
		inf_request_give(reqs[--n]);
}

static bool gate_is_open; /* atomic */

static void await_gate(void *unused)
{
	while (!__atomic_load_n(&gate_is_open, __ATOMIC_ACQUIRE))
		sleep_20_ms(unused);
}

/*
 * The next executor cannot map a client's device memory ($FAKECUDA_FAULTS of the broker's): what waits for it is lost by name,
 * its streams go on, and the host's tensors are served as before.
 */
static void lost_memory(void)
{
	struct inf_model *model = open_model("add_sub");
	const char *killer = getenv("EXECUTOR");
	struct inf_request *req;
	uint64_t x;
	int r = 0;

	ask(model, 4, 7);
	fill(4);
	WANT(!driver.stream_call(stream, await_gate, NULL));
	req = start(model, 4, 7); /* waits for its inputs, while the executor goes */
	WANT(killer && system(killer) == 0);
	__atomic_store_n(&gate_is_open, true, __ATOMIC_RELEASE);
	WANT(req && inf_wait_stream(req, stream) == 0 && inf_wait(req, in_ms(20000)) == 0 && !driver.stream_synchronize(stream));
	WANT(inf_request_status(req) == INF_EXECUTOR_LOST);
	WANT(inf_submit(req) == 0 && inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_BAD_MEMORY);
	inf_request_give(req);
	ask(model, 4, 0);
	/* RETIRE is read when the library reads its socket next. */
	for (int i = 0; i < 100 && r != -ESTALE; i++) {
		WANT(inf_request_take(model, 1, &req) == 0 && inf_model_open(client, "identity", 0, &model) == 0);
		r = inf_input_device(req, 0, &x);
		inf_request_give(req);
		model = open_model("add_sub");
	}
	WANT(r == -ESTALE);
}

/* The broker is killed with the request in flight ($KILL_BROKER): the stream goes on, the status says why. */
static void broker_dies(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;
	const char *killer = getenv("KILL_BROKER");
	uint64_t x;

	WANT(inf_request_take(model, 1, &req) == 0 && inf_output_to_device(req) == 0 && inf_input_device(req, 0, &x) == 0);
	WANT(!driver.stream_call(stream, sleep_20_ms, NULL) && inf_request_commit(req, stream) == 0);
	WANT(inf_submit(req) == 0 && inf_wait_stream(req, stream) == 0);
	WANT(killer && system(killer) == 0);
	WANT(inf_wait(req, in_ms(20000)) == 0 && inf_request_status(req) == INF_BROKER_LOST);
	WANT(!driver.stream_synchronize(stream));
	inf_request_give(req);
}

/* Executors die ($EXECUTOR names a command that kills one) while tensors on the device are in flight: no answer is wrong. */
static void executor_dies(void)
{
	struct inf_model *model = open_model("add_sub");
	const char *killer = getenv("EXECUTOR");

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		struct inf_request *req;

		fill(40);
		req = start(model, 40, i % 8);
		if (i % 10 == 5)
			WANT(killer && system(killer) == 0);
		if (req)
			end(req, 40, i % 8);
	}
}

/* One request the best way that the device allows just now; what it refuses goes by way of the host. */
static void try_one(struct inf_model *model, bool has_device, int *n_refused)
{
	struct inf_request *req = NULL;
	uint64_t x = 0, y = 0, to = 0;
	bool is_out, is_in;

	WANT(inf_request_take(model, 2, &req) == 0);
	if (wrong)
		return;
	is_out = has_device && inf_output_to_device(req) == 0;
	is_in = has_device && inf_input_device(req, 0, &to) == 0;
	memcpy(inf_input(req, 1), b, bytes_of(2));
	/* Calls of our own may fail as well: then there is nothing to submit. */
	if (is_in && (driver.copy_in(to, a, bytes_of(2), stream) ||
		      (inf_request_commit(req, stream) && driver.stream_synchronize(stream)))) {
		inf_request_give(req);
		++*n_refused;
		return;
	}
	if (!is_in)
		memcpy(inf_input(req, 0), a, bytes_of(2));
	WANT(inf_submit(req) == 0);
	if (is_out && inf_wait_stream(req, stream))
		++*n_refused;
	WANT(inf_wait(req, in_ms(20000)) == 0);
	if (inf_request_status(req) == INF_OK && !is_out) {
		memcpy(sum, inf_output(req, 0), bytes_of(2));
		memcpy(difference, inf_output(req, 1), bytes_of(2));
		WANT(is_right(2));
	} else if (inf_request_status(req) == INF_OK) {
		WANT(inf_output_device(req, 0, &x) == 0 && inf_output_device(req, 1, &y) == 0);
		if (!driver.copy_out(sum, x, bytes_of(2), stream) && !driver.copy_out(difference, y, bytes_of(2), stream) &&
		    !driver.stream_synchronize(stream))
			WANT(is_right(2));
	} else {
		printf("# %s\n", inf_status_name(inf_request_status(req)));
	}
	*n_refused += has_device && !(is_in && is_out);
	inf_request_give(req);
}

/* Any call of the driver may fail, here or in the broker: right answers or named errors, and nobody waits for ever. */
static void faulty(void)
{
	struct inf_model *model = open_model("add_sub");
	int n_refused = 0;

	for (int i = 0; i < 20 && !wrong; i++) {
		fill(2);
		try_one(model, stream, &n_refused);
	}
	printf("# refused %d\n", n_refused);
}

int main(int argc, char **argv)
{
	static const struct device_case cases[] = {
		{ "never_committed", never_committed, false },
		{ "cancelled", cancelled, false },
		{ "told_late", told_late, false },
		{ "refused", refused, false },
		{ "errors", errors, false },
		{ "closed", closed, false },
		{ "forked", forked, false },
		{ "quota", quota, false },
		{ "no_room", no_room, false },
		{ "lost_memory", lost_memory, false },
		{ "broker_dies", broker_dies, false },
		{ "executor_dies", executor_dies, false },
		{ "faulty", faulty, true },
	};

	return run_case(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
