/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e6_busy_device.c - E6: the same signals while another process, as a client would, keeps the device busy with kernels. Without
 * MPS the device is one process's at a time; who starts this under MPS sees what that changes.
 */
#include "tests/gpu/costs/costs.h"

/* Nothing to do, and a wait for it: what an executor's next batch waits for the device. */
static void empty_kernels(const char *name)
{
	static double us[ROUNDS_MAX];
	unsigned int n = is_quick ? 20 : 500;
	uint64_t ns = 0;
	void *params[] = { &ns };

	for (unsigned int i = 0; i < n; i++) {
		uint64_t begin_ns = now_ns();

		TRY(name, launch(gpu.spin, 1, 1, 1, 32, 1, 1, 0, gpu.stream, params, NULL));
		TRY(name, stream_synchronize(gpu.stream));
		us[i] = (double)(now_ns() - begin_ns) / 1e3;
	}
	rows_of_latency(name, us, n);
}

void e6_busy_device(void)
{
	const char *when = ", a client's kernels running";
	struct peer peer, client;

	empty_kernels("E6 an empty kernel and a wait for it, nothing else running");
	if (!peer_new("E6 a client with kernels", &client))
		return;
	if (say(client.socket_fd, 'L', -1, 0) || !peer_says_yes(&client)) {
		row_why("E6 a client with kernels", "the other process cannot");
	} else if (peer_new("E6 a second process", &peer)) {
		empty_kernels("E6 an empty kernel and a wait for it, a client's kernels running");
		for (enum way_back way = BY_CPU_OF_PEER; way <= BY_EVENT; way++)
			signals_there("E6", when, &peer, way);
		peer_end(&peer);
	}
	peer_end(&client);
}
