/* SPDX-License-Identifier: Apache-2.0 */
/* import.c - memory of cudaMalloc that the broker opens and copies. Usage: import SOCKET CASE; import.sh says with which broker. */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fakecuda.h"
#include "tests/support/on_device.h"
#include "tests/support/raw.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

#define LARGE (3u << 20)

static CUdeviceptr large; /* a block of its own, of 4 MiB */

static bool says(const char *words)
{
	return strstr(inf_error(client), words) != NULL;
}

static CUdeviceptr allocate(size_t bytes)
{
	CUdeviceptr memory = 0;

	WANT(!driver.mem_alloc(&memory, bytes));
	return memory;
}

/* How input 1 of a request gets where it goes, and where the results go. */
enum { FROM_HOST = 0, FROM_IMPORT = 1, FROM_COPY = 2, FROM_DEVICE = 3, TO_DEVICE = 4 };

static void give_second(struct inf_request *req, uint32_t rows, unsigned int how)
{
	uint64_t x = 0;

	switch (how & 3) {
	case FROM_HOST:
		memcpy(inf_input(req, 1), b, bytes_of(rows));
		return;
	case FROM_DEVICE:
		WANT(inf_input_device(req, 1, &x) == 0 && !driver.copy_in(x, b, bytes_of(rows), stream));
		WANT(inf_request_commit(req, stream) == 0);
		return;
	}
	WANT(!driver.copy_in(scratch, b, bytes_of(rows), stream));
	if (how & FROM_IMPORT)
		WANT(inf_input_import(req, 1, scratch, bytes_of(rows), stream) == 0);
	else
		WANT(inf_input_copy(req, 1, scratch, bytes_of(rows), stream) == 0 && inf_request_commit(req, stream) == 0);
}

/* Also while an executor is being started. */
static int import_soon(struct inf_request *req, CUdeviceptr from, uint64_t bytes)
{
	int r = -EAGAIN;

	for (int i = 0; i < 1000 && r == -EAGAIN; i++) {
		usleep(i ? 10000 : 0);
		r = inf_input_import(req, 0, from, bytes, stream);
	}
	return r;
}

/* Input 0 from `from`, where nothing is yet. */
static void ask_imported(struct inf_model *model, uint32_t rows, CUdeviceptr from, unsigned int how)
{
	struct inf_request *req = NULL;

	fill(rows);
	WANT(inf_request_take(model, rows, &req) == 0);
	if (wrong)
		return;
	if (how & TO_DEVICE)
		WANT(inf_output_to_device(req) == 0);
	WANT(!driver.copy_in(from, a, bytes_of(rows), stream));
	WANT(import_soon(req, from, bytes_of(rows)) == 0);
	give_second(req, rows, how);
	WANT(inf_submit(req) == 0);
	end(req, rows, how & TO_DEVICE);
}

static void bits(void)
{
	struct inf_model *model = open_model("add_sub");
	CUdeviceptr small = allocate(bytes_of(40) + 400);

	for (unsigned int i = 0; i < ROUNDS && !wrong; i++) {
		uint32_t rows = 1 + (uint32_t)random() % 40;
		CUdeviceptr from = i & 8 ? small + 4 * (uint64_t)(random() % 100) : large + 4 * (uint64_t)(random() % 700000);

		ask_imported(model, rows, from, i % 8);
	}
	WANT(!driver.mem_free(small));
}

/* A process that cannot map the broker's memory. */
static void unmapped(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;
	uint64_t x;

	for (unsigned int i = 0; i < 10 && !wrong; i++)
		ask_imported(model, 3, large + i, i & 1);
	WANT(inf_request_take(model, 1, &req) == 0 && inf_input_device(req, 0, &x) < 0);
	inf_request_give(req);
}

static void sleep_50_ms(void *data)
{
	(void)data;
	usleep(50000);
}

/* What the stream was given before comes first, however long that takes. */
static void order(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;

	ask_imported(model, 4, large, FROM_HOST); /* there is an importer now */
	for (int i = 0; i < 3 && !wrong; i++) {
		fill(4);
		WANT(!driver.stream_synchronize(stream) && inf_request_take(model, 4, &req) == 0);
		if (wrong)
			return;
		memcpy(inf_input(req, 1), b, bytes_of(4));
		WANT(!driver.stream_call(stream, sleep_50_ms, NULL) && !driver.copy_in(large, a, bytes_of(4), stream));
		WANT(inf_input_import(req, 0, large, bytes_of(4), stream) == 0);
		/* What comes behind does not matter. */
		WANT(!driver.fill(large, 0xff, bytes_of(4), stream) && inf_submit(req) == 0);
		end(req, 4, 0);
	}
}

/* None of these reaches the broker's importer, and the input stays where it was. */
static void refused(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL, *flying = NULL;
	uint64_t mapped = 0;

	fill(2);
	WANT(inf_request_take(model, 2, &req) == 0);
	if (wrong)
		return;
	memcpy(inf_input(req, 0), a, bytes_of(2));
	memcpy(inf_input(req, 1), b, bytes_of(2));
	WANT(inf_request_take(model, 2, &flying) == 0 && inf_input_device(flying, 0, &mapped) == 0);
	WANT(inf_input_import(req, 0, mapped, bytes_of(2), stream) == -EOPNOTSUPP && says("inf_input_copy"));
	WANT(inf_input_import(req, 0, (uintptr_t)a, bytes_of(2), stream) == -EFAULT);
	WANT(inf_input_import(req, 0, 16, bytes_of(2), stream) == -EFAULT);
	WANT(inf_input_import(req, 0, large + LARGE - 4, 8, stream) == -EFAULT);
	WANT(inf_input_import(req, 0, large, bytes_of(2) + 1, stream) == -EMSGSIZE);
	WANT(inf_input_import(req, 0, large, 0, stream) == -EINVAL);
	WANT(inf_input_import(req, 2, large, 4, stream) == -EINVAL && inf_input_import(NULL, 0, large, 4, stream) == -EINVAL);
	WANT(inf_submit(req) == 0);
	WANT(inf_input_import(req, 0, large, 4, stream) == -EBUSY || inf_poll(req) == 1);
	end(req, 2, 0);
	inf_request_give(flying);
}

/* By one that the broker's administrator has not named. */
static void not_allowed(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;

	fill(1);
	WANT(inf_request_take(model, 1, &req) == 0);
	if (wrong)
		return;
	memcpy(inf_input(req, 0), a, bytes_of(1));
	memcpy(inf_input(req, 1), b, bytes_of(1));
	WANT(inf_input_import(req, 0, large, bytes_of(1), stream) == -EACCES && says("--cuda-ipc-users"));
	WANT(inf_submit(req) == 0);
	end(req, 1, 0);
}

/* A driver without it, here or at the broker: the words are in $WORDS. */
static void unsupported(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;

	WANT(inf_request_take(model, 1, &req) == 0);
	WANT(inf_input_import(req, 0, large, bytes_of(1), stream) == -EOPNOTSUPP && says(getenv("WORDS")));
	inf_request_give(req);
}

/* The importer that was started last has something open: its ledger lies in $RUN. */
static bool is_open_soon(void)
{
	uint64_t n_opened = 0;
	char path[200];

	snprintf(path, sizeof(path), "%s/ledger", getenv("RUN"));
	for (int i = 0; i < 10000 && !n_opened; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		/* Too short as long as it is being made: nothing is open then. */
		if (fd >= 0 && pread(fd, &n_opened, sizeof(n_opened), offsetof(struct fakecuda_ledger, opened)) != sizeof(n_opened))
			n_opened = 0;
		if (fd >= 0)
			close(fd);
		usleep(1000);
	}
	return n_opened;
}

/* --- an event that never comes ------------------------------------------------------------------------------------------ */

static uint32_t is_released; /* atomic */

static void hold(void *data)
{
	(void)data;
	while (!__atomic_load_n(&is_released, __ATOMIC_ACQUIRE))
		usleep(1000);
}

static void release_stream(void)
{
	__atomic_store_n(&is_released, 1, __ATOMIC_RELEASE);
	WANT(!driver.stream_synchronize(stream));
	__atomic_store_n(&is_released, 0, __ATOMIC_RELEASE);
}

static int import_held(struct inf_model *model)
{
	struct inf_request *req = NULL;
	int r;

	WANT(inf_request_take(model, 1, &req) == 0 && !driver.stream_call(stream, hold, NULL));
	r = inf_input_import(req, 0, large, bytes_of(1), stream);
	inf_request_give(req);
	return r;
}

/* The broker allows 1500 ms. */
static void never(void)
{
	struct inf_model *model = open_model("add_sub");
	uint64_t begin_ns = in_ms(0);

	WANT(import_held(model) == -ETIMEDOUT && says("--commit-ms-max") && in_ms(0) - begin_ns >= 1500000000);
	release_stream();
	ask_imported(model, 4, large, FROM_IMPORT);
}

/* Three in a row, and no more; good ones in between count anew. */
static void closed_door(void)
{
	struct inf_model *model = open_model("add_sub");

	for (int i = 0; i < 5 && !wrong; i++) {
		WANT(import_held(model) == -ETIMEDOUT);
		release_stream();
		if (i < 2)
			ask_imported(model, 4, large, FROM_HOST);
	}
	WANT(import_held(model) == -EIO && says("in a row"));
	release_stream();
}

/* --- by hand ---------------------------------------------------------------------------------------------------------------- */

static struct inf_ctl_import by_hand(CUdeviceptr from)
{
	struct inf_ctl_import msg;
	CUipcMemHandle handle;

	inf_ctl_init(&msg, INF_CTL_IMPORT, 9);
	msg.offset = INF_ARENA_OFFSET;
	msg.bytes = 4096;
	WANT(!driver.ipc_get_memory(&handle, from));
	memcpy(msg.memory, &handle, sizeof(handle));
	return msg;
}

static void add_event(struct inf_ctl_import *msg, CUevent *ret_event)
{
	CUipcEventHandle handle;

	WANT(!driver.event_create(ret_event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
	WANT(!driver.event_record(*ret_event, stream) && !driver.ipc_get_event(&handle, *ret_event));
	memcpy(msg->event, &handle, sizeof(handle));
	msg->flags = INF_IMPORT_EVENT;
}

/* 0, or what the broker refused it with. */
static int answer_to(struct raw *raw, const struct inf_ctl_import *msg)
{
	union inf_ctl_any answer;
	int fds[INF_CTL_FDS_MAX], r = inf_ctl_send(raw->socket_fd, msg, NULL, 0, false);
	unsigned int n_fds;

	if (!r)
		r = inf_ctl_recv(raw->socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, &answer, fds, &n_fds, false);
	if (r)
		return r;
	if (answer.head.type == INF_CTL_ERROR)
		return answer.error.error;
	return answer.head.type == INF_CTL_IMPORTED && answer.head.cookie == 9 ? 0 : -EPROTO;
}

static void open_raw(struct raw *raw)
{
	WANT(raw_open(raw, getenv("INFBROKER_SOCKET")) == 0 && raw_device(raw, true) == 0);
}

/* Handles, offsets and events that are none. The importer outlives all of it. */
static void forged(void)
{
	struct inf_ctl_import good = by_hand(large), bad;
	CUdeviceptr gone = allocate(4096), small = allocate(100);
	CUevent event;
	struct raw raw;

	open_raw(&raw);
	WANT(answer_to(&raw, &good) == 0);
	for (size_t i = 0; i < sizeof(bad.memory) && !wrong; i += 3) {
		bad = good;
		bad.memory[i] ^= (uint8_t)(1 << random() % 8);
		WANT(answer_to(&raw, &bad) < 0);
	}
	bad = good;
	memset(bad.memory, 0, sizeof(bad.memory));
	WANT(answer_to(&raw, &bad) == -EINVAL);
	bad = good;
	for (int i = 0; i < 6 && !wrong; i++) {
		static const uint64_t offsets[] = { 4u << 20, (4u << 20) - 4095, UINT64_MAX, UINT64_MAX - 4095, 1ull << 63, 1ull << 32 };

		bad.from_offset = offsets[i];
		WANT(answer_to(&raw, &bad) == -EFAULT);
	}
	bad.from_offset = (4u << 20) - 4096; /* its last bytes */
	WANT(answer_to(&raw, &bad) == 0);
	/* A small one brings its neighbours, which are ours, and no more. */
	bad = by_hand(small);
	WANT(answer_to(&raw, &bad) == 0);
	bad.from_offset = 2u << 20;
	WANT(answer_to(&raw, &bad) == -EFAULT);
	bad = by_hand(gone);
	WANT(answer_to(&raw, &bad) == 0 && !driver.mem_free(gone) && answer_to(&raw, &bad) < 0);
	bad = good;
	add_event(&bad, &event);
	WANT(answer_to(&raw, &bad) == 0);
	bad.event[30] ^= 4;
	WANT(answer_to(&raw, &bad) == -EINVAL);
	memcpy(bad.event, bad.memory, sizeof(bad.event));
	WANT(answer_to(&raw, &bad) == -EINVAL);
	WANT(!driver.event_destroy(event) && answer_to(&raw, &good) == 0 && !driver.mem_free(small));
	raw_close(&raw);
}

/* What only a broken client sends ends its session. */
static void hostile(void)
{
	for (int i = 0; i < 12 && !wrong; i++) {
		struct inf_ctl_import msg = by_hand(large);
		struct raw raw;

		WANT(raw_open(&raw, getenv("INFBROKER_SOCKET")) == 0);
		if (i)
			WANT(raw_device(&raw, true) == 0);
		switch (i) {
		case 1:
			msg.region = 1;
			break;
		case 2:
			msg.region = INF_TWIN_BIT;
			break;
		case 3:
			msg.region = UINT32_MAX;
			break;
		case 4:
			msg.bytes = 0;
			break;
		case 5:
			msg.bytes = INF_REQUEST_BYTES + 1;
			break;
		case 6:
			msg.offset = INF_REQUEST_BYTES - 4095;
			break;
		case 7:
			msg.offset = UINT64_MAX - 4095;
			break;
		case 8:
			msg.bytes = UINT64_MAX;
			break;
		case 9:
			msg.flags = 2;
			break;
		case 10:
			msg.event[63] = 1;
			break;
		case 11: /* twice: the first one cannot have been answered */
			WANT(!driver.stream_call(stream, hold, NULL));
			CUevent event;
			add_event(&msg, &event);
			WANT(inf_ctl_send(raw.socket_fd, &msg, NULL, 0, false) == 0);
			break;
		}
		WANT(inf_ctl_send(raw.socket_fd, &msg, NULL, 0, false) == 0 && raw_is_ended(&raw, 10000));
		raw_close(&raw);
	}
	release_stream();
}

/* --- ends ------------------------------------------------------------------------------------------------------------------- */

/* Killed at step $STEP. */
static void dies(void)
{
	struct inf_ctl_import msg = by_hand(large);
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;
	struct raw raw;
	CUevent event;
	long step = strtol(getenv("STEP"), NULL, 10);

	open_raw(&raw);
	if (step == 0) /* while the importer waits for us */
		WANT(!driver.stream_call(stream, hold, NULL));
	if (step <= 1)
		add_event(&msg, &event);
	if (step <= 2) /* wherever the importer is just now */
		WANT(inf_ctl_send(raw.socket_fd, &msg, NULL, 0, false) == 0);
	if (step == 0)
		WANT(is_open_soon());
	fill(1);
	if (step >= 3) {
		WANT(inf_request_take(model, 1, &req) == 0 && inf_input_import(req, 0, large, bytes_of(1), stream) == 0);
		memcpy(inf_input(req, 1), b, bytes_of(1));
	}
	if (step == 4)
		WANT(inf_submit(req) == 0);
	if (wrong)
		printf("%s\n", wrong);
	fflush(stdout);
	if (!wrong)
		kill(getpid(), SIGKILL);
}

/* Memory that goes while the importer has it open: that one is lost, and the next one is not. */
static void freed(void)
{
	struct inf_model *model = open_model("add_sub");
	CUdeviceptr early = allocate(LARGE);
	struct inf_ctl_import msg = by_hand(early), good = by_hand(large);
	union inf_ctl_any answer;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;
	struct raw raw;
	CUevent event;

	open_raw(&raw);
	WANT(answer_to(&raw, &good) == 0); /* there is an importer */
	WANT(!driver.stream_call(stream, hold, NULL));
	add_event(&msg, &event);
	WANT(inf_ctl_send(raw.socket_fd, &msg, NULL, 0, false) == 0);
	WANT(is_open_soon());
	driver.mem_free(early);
	release_stream();
	WANT(inf_ctl_recv(raw.socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, &answer, fds, &n_fds, false) == 0);
	WANT(answer.head.type == INF_CTL_ERROR && answer.error.error == -EIO && strstr(answer.error.text, "ILLEGAL_ADDRESS"));
	WANT(answer_to(&raw, &good) == 0 && !driver.event_destroy(event));
	raw_close(&raw);
	ask_imported(model, 4, large, FROM_IMPORT);
}

static void *kill_somebody(void *command)
{
	WANT(is_open_soon() && system(command) == 0);
	return NULL;
}

/* What becomes of an import while whose importer waits `command` runs. */
static int import_and(struct inf_model *model, const char *command)
{
	pthread_t killer;
	int r;

	WANT(command && !pthread_create(&killer, NULL, kill_somebody, (void *)(uintptr_t)command));
	if (wrong)
		return 0;
	r = import_held(model);
	pthread_join(killer, NULL);
	return r;
}

static void broker_dies(void)
{
	struct inf_model *model = open_model("add_sub");

	ask_imported(model, 1, large, FROM_HOST);
	WANT(import_and(model, getenv("KILL_BROKER")) == -ECONNRESET);
	/* The importer goes with it: only then may what it had open go. */
	WANT(system("for i in $(seq 100); do pgrep -f $RUN/[i]mporter >/dev/null || exit 0; sleep 0.05; done; exit 1") == 0);
	release_stream();
}

/* Importers are killed, at work and in between. */
static void importer_dies(void)
{
	struct inf_model *model = open_model("add_sub");
	const char *killer = getenv("KILL_IMPORTER");

	for (int i = 0; i < 6 && !wrong; i++) {
		struct inf_request *req = NULL;
		int r = -EAGAIN;

		ask_imported(model, 1, large, FROM_IMPORT);
		WANT(import_and(model, killer) == -EIO && says("died of"));
		release_stream();
		ask_imported(model, 1, large, FROM_IMPORT);
		/* In between nobody notices at first, or it is just ending, or there is another one. */
		WANT(system(killer) == 0 && inf_request_take(model, 1, &req) == 0);
		for (int k = 0; k < 1000 && (r == -EAGAIN || (r == -EIO && says("died of"))); k++) {
			usleep(k ? 10000 : 0);
			r = inf_input_import(req, 0, large, 4, stream);
		}
		WANT(r == 0);
		inf_request_give(req);
	}
	ask_imported(model, 4, large, FROM_IMPORT);
}

/* The memory is the next executor's as well, and the importer's as before. */
static void executor_dies(void)
{
	struct inf_model *model = open_model("add_sub");
	const char *killer = getenv("EXECUTOR");

	for (int i = 0; i < 3 && !wrong; i++) {
		ask_imported(model, 4, large, FROM_HOST);
		WANT(killer && system(killer) == 0);
	}
	ask_imported(model, 4, large, FROM_HOST);
}

/* Descriptors of the importer, as $COUNT counts them. */
static int count(void)
{
	FILE *file = popen(getenv("COUNT"), "r");
	int n = -1;

	if (!file || fscanf(file, "%d", &n) != 1 || n <= 0)
		n = -1;
	if (file)
		pclose(file);
	return n;
}

/* None of them leaves anything behind. */
static void many(void)
{
	struct inf_ctl_import good = by_hand(large), bad = good, worse = good;
	CUevent event;
	struct raw raw;
	int n;

	bad.from_offset = 1ull << 40;
	add_event(&good, &event);
	add_event(&worse, &event);
	worse.event[30] ^= 4;
	open_raw(&raw);
	WANT(answer_to(&raw, &good) == 0);
	n = count();
	for (int i = 0; i < 50 && !wrong; i++)
		WANT(answer_to(&raw, &good) == 0 && answer_to(&raw, &bad) == -EFAULT && answer_to(&raw, &worse) == -EINVAL);
	WANT(n > 0 && count() == n);
	raw_close(&raw);
}

/* One of the importer's driver calls fails: that is told, or nothing of it is seen; and then all is well. */
static void faulty(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_request *req = NULL;
	int r;

	fill(4);
	WANT(inf_request_take(model, 4, &req) == 0);
	if (wrong)
		return;
	memcpy(inf_input(req, 0), a, bytes_of(4));
	memcpy(inf_input(req, 1), b, bytes_of(4));
	WANT(!driver.copy_in(large, a, bytes_of(4), stream));
	r = inf_input_import(req, 0, large, bytes_of(4), stream);
	printf("# %s%s%s\n", r ? strerror(-r) : "ok", r ? ": " : "", r ? inf_error(client) : "");
	WANT(!r || strlen(inf_error(client)) > 10);
	WANT(inf_submit(req) == 0);
	end(req, 4, 0);
	for (int i = 0; i < 3; i++)
		ask_imported(model, 4, large, FROM_IMPORT);
}

/* One importer for this user; a second client has none until the first one goes. */
static void quota(void)
{
	struct inf_model *model = open_model("add_sub");
	struct inf_ctl_import msg = by_hand(large);
	struct inf_request *req = NULL;
	struct raw raw;
	int r = -EDQUOT;

	open_raw(&raw);
	WANT(answer_to(&raw, &msg) == 0 && inf_request_take(model, 1, &req) == 0);
	WANT(inf_input_import(req, 0, large, bytes_of(1), stream) == -EDQUOT && says("--user-importers-max"));
	raw_close(&raw);
	for (int i = 0; i < 1000 && (r = inf_input_import(req, 0, large, bytes_of(1), stream)) == -EDQUOT; i++)
		usleep(10000);
	WANT(r == 0);
	inf_request_give(req);
}

#define CASE(name)                                             \
	static void run_##name(void)                           \
	{                                                      \
		large = allocate(LARGE);                       \
		name();                                        \
		WANT(!driver.stream_synchronize(stream));      \
		WANT(!driver.mem_free(large));                 \
	}
#define CASES(X) \
	X(bits) X(unmapped) X(order) X(refused) X(not_allowed) X(unsupported) X(never) X(closed_door) X(forged) X(hostile) X(dies) \
	X(freed) X(broker_dies) X(importer_dies) X(executor_dies) X(many) X(faulty) X(quota)
CASES(CASE)

int main(int argc, char **argv)
{
	static const struct device_case cases[] = {
#define ENTRY(name) { #name, run_##name, false },
		CASES(ENTRY)
	};

	return run_case(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
