/* SPDX-License-Identifier: Apache-2.0 */
/* e7_death.c - E7: what is left of a process that is killed while it uses shared memory, and what the other one notices. */
#define _GNU_SOURCE 1
#include "shm/device/slab.h"
#include "tests/gpu/costs/costs.h"
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

static void report_kill(const char *name, const struct peer *peer)
{
	int pid_fd = (int)syscall(SYS_pidfd_open, peer->pid, 0);
	struct pollfd gone = { .fd = pid_fd, .events = POLLIN };
	uint64_t begin_ns = now_ns();

	kill(peer->pid, SIGKILL);
	if (poll(&gone, 1, 10000) == 1)
		row(name, (double)(now_ns() - begin_ns) / 1e3, "us");
	else
		row_why(name, "not within 10 s");
	close(pid_fd);
}

/* How long the dead one's writes go on. */
static void watch(const struct inf_slab *slab, uint8_t *pinned)
{
	uint64_t begin_ns = now_ns(), changed_ns = 0;
	uint8_t last = 0;

	for (int i = 0; i < (is_quick ? 20 : 2000); i++) {
		TRY("E7 the survivor", copy_out(pinned, slab->address, 16, gpu.stream));
		TRY("E7 the survivor", stream_synchronize(gpu.stream));
		if (i && pinned[0] != last)
			changed_ns = now_ns() - begin_ns;
		last = pinned[0];
		usleep(100);
	}
	row("E7 its writes are seen for so long after that", (double)changed_ns / 1e3, "us");
}

/* A client dies: we made the memory, it writes there. */
static void client_dies(uint8_t *pinned)
{
	size_t before = 0, after = 0, total;
	struct inf_slab slab;
	struct peer peer;
	CUresult result;
	int fd;

	if (!peer_new("E7 a client", &peer))
		return;
	result = inf_slab_make(&gpu.driver, gpu.device, 2 * MIB, &slab, &fd);
	if (result) {
		row_error("E7 memory", result);
		peer_end(&peer);
		return;
	}
	say(peer.socket_fd, 'K', fd, slab.bytes);
	close(fd);
	usleep(is_quick ? 50000 : 500000);
	gpu.driver.mem_info(&before, &total);
	report_kill("E7 a killed process is gone after", &peer);
	watch(&slab, pinned);
	gpu.driver.mem_info(&after, &total);
	row("E7 memory that came free with it", ((double)after - (double)before) / (double)MIB, "MiB");
	inf_slab_unmap(&gpu.driver, &slab);
	peer_end(&peer);
}

/* The broker's side dies: it made the memory, we have mapped it. */
static void maker_dies(uint8_t *pinned)
{
	const char *name = "E7 memory whose maker was killed is there all the same";
	struct inf_slab slab;
	struct peer peer;
	uint64_t bytes;
	CUresult result;
	int fd;

	if (!peer_new("E7 a maker", &peer))
		return;
	if (say(peer.socket_fd, 'M', -1, 2 * MIB) || hear(peer.socket_fd, &fd, &bytes) != 'm') {
		row_why(name, "the other process makes none");
		peer_end(&peer);
		return;
	}
	result = inf_slab_map(&gpu.driver, gpu.device, fd, bytes, &slab);
	close(fd);
	report_kill("E7 a killed maker is gone after", &peer);
	peer_end(&peer);
	if (!result)
		result = gpu.driver.copy_out(pinned, slab.address, 16, gpu.stream);
	if (!result)
		result = gpu.driver.stream_synchronize(gpu.stream);
	if (result)
		row_error(name, result);
	else
		row(name, pinned[0] == 42, "");
	inf_slab_unmap(&gpu.driver, &slab);
}

void e7_death(void)
{
	void *memory = NULL;

	TRY("E7 memory", host_alloc(&memory, PAGE));
	client_dies(memory);
	maker_dies(memory);
	gpu.driver.host_free(memory);
}
