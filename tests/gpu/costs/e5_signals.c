/* SPDX-License-Identifier: Apache-2.0 */
/* e5_signals.c - E5: how long it takes to tell: this process, another one's CPU, another one's stream. */
#include "shm/atomics.h"
#include "tests/gpu/costs/costs.h"
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

static void on_call(void *data)
{
	inf_store64_release(data, now_ns());
}

static void signals_here(void)
{
	const char *waits = "E5 write a word and wait for the stream, one process", *calls = "E5 a call of the driver's (cuLaunchHostFunc)";
	static double sync_us[ROUNDS_MAX], call_us[ROUNDS_MAX];
	unsigned int n = is_quick ? 50 : ROUNDS_MAX;
	CUdeviceptr word = 0;
	void *memory = NULL;
	uint64_t *called;

	TRY(waits, host_alloc(&memory, PAGE));
	called = memory;
	TRY(waits, host_device_pointer(&word, memory, 0));
	for (unsigned int i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();

		TRY(waits, stream_write(gpu.stream, word, i, CU_STREAM_WRITE_VALUE_DEFAULT));
		TRY(waits, stream_synchronize(gpu.stream));
		sync_us[i] = (double)(now_ns() - begin_ns) / 1e3;
		called[1] = 0;
		begin_ns = now_ns();
		TRY(calls, stream_call(gpu.stream, on_call, &called[1]));
		while (!inf_load64_acquire(&called[1]))
			inf_pause();
		call_us[i] = (double)(called[1] - begin_ns) / 1e3;
	}
	rows_of_latency(waits, sync_us, n);
	rows_of_latency(calls, call_us, n);
	TRY(calls, stream_synchronize(gpu.stream));
	gpu.driver.host_free(memory);
}

/* --- another process --------------------------------------------------------------------------------------------- */

/* What is signalled with. */
struct signal {
	const char *name;
	struct words *words;
	CUdeviceptr at;
	CUevent event; /* NULL = by words */
};

static bool make_event(struct signal *signal)
{
	CUresult result;

	if (!inf_driver_has_ipc(&gpu.driver)) {
		row_why(signal->name, "this driver has no events between processes");
		return false;
	}
	result = gpu.driver.event_create(&signal->event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS);
	if (!result)
		result = gpu.driver.ipc_get_event(&signal->words->event, signal->event);
	if (result)
		row_error(signal->name, result);
	return !result;
}

/* False where the peer has refused instead. */
static bool is_peer_ready(const struct peer *peer, const struct words *words)
{
	struct pollfd refused = { .fd = peer->socket_fd, .events = POLLIN };

	while (inf_load64_acquire(&words->back) != UINT64_MAX / 2)
		if (poll(&refused, 1, 1)) {
			peer_says_yes(peer);
			return false;
		}
	return true;
}

static void exchange(const struct signal *signal, unsigned int n)
{
	static double us[ROUNDS_MAX];

	for (unsigned int i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();

		if (signal->event) {
			TRY(signal->name, event_record(signal->event, gpu.stream));
			inf_store64_release(&signal->words->there, i + 1);
		} else {
			TRY(signal->name, stream_write(gpu.stream, signal->at, i + 1, CU_STREAM_WRITE_VALUE_DEFAULT));
		}
		while (inf_load64_acquire(&signal->words->back) != i + 1)
			inf_pause();
		us[i] = (double)(now_ns() - begin_ns) / 1e3;
	}
	rows_of_latency(signal->name, us, n);
}

void signals_there(const char *of, const char *when, const struct peer *peer, enum way_back way)
{
	static const char *const ways[] = { "a word to another process's CPU and back", "a word to another process's stream and back",
					    "an event to another process's stream and a word back" };
	unsigned int n = is_quick ? 50 : way == BY_STREAM_OF_PEER ? STREAM_ROUNDS : ROUNDS_MAX;
	struct signal signal = { 0 };
	char name[128];
	int fd;

	snprintf(name, sizeof(name), "%s %s%s", of, ways[way], when);
	signal.name = name;
	signal.words = words_new(name, &fd, &signal.at);
	if (!signal.words)
		return;
	if (way == BY_EVENT && !make_event(&signal)) {
		close(fd);
		words_free(signal.words);
		return;
	}
	if (say(peer->socket_fd, "WDE"[way], fd, PAGE) || !is_peer_ready(peer, signal.words)) {
		row_why(name, "the other process cannot");
	} else {
		exchange(&signal, n);
		inf_store64_release(&signal.words->there, UINT64_MAX / 4);
		peer_says_yes(peer);
	}
	gpu.driver.stream_synchronize(gpu.stream);
	if (signal.event)
		gpu.driver.event_destroy(signal.event);
	close(fd);
	words_free(signal.words);
}

void e5_signals(void)
{
	struct peer peer;

	signals_here();
	if (!peer_new("E5 a second process", &peer))
		return;
	for (enum way_back way = BY_CPU_OF_PEER; way <= BY_EVENT; way++)
		signals_there("E5", "", &peer, way);
	peer_end(&peer);
}
