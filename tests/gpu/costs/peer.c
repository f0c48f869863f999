/* SPDX-License-Identifier: Apache-2.0 */
/* peer.c - the second process. It is this program once more, since a driver that was touched does not survive a fork. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "shm/control.h"
#include "shm/device/slab.h"
#include "tests/gpu/costs/costs.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD_KERNEL_NS 200000u /* each of those that keep the device busy */

/* Messages of this kind come with a descriptor, always. */
int say(int socket_fd, char letter, int fd, uint64_t bytes)
{
	int sent_fd = fd >= 0 ? fd : STDERR_FILENO;
	struct inf_ctl_slab msg;

	inf_ctl_init(&msg, INF_CTL_SLAB, (uint32_t)letter);
	msg.bytes = bytes;
	return inf_ctl_send(socket_fd, &msg, &sent_fd, 1, false);
}

char hear(int socket_fd, int *ret_fd, uint64_t *ret_bytes)
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
static bool add_to_slab(int fd, uint64_t bytes)
{
	struct inf_slab slab;
	void *memory;
	uint8_t *pinned;
	bool is_good = false;

	if (gpu.driver.host_alloc(&memory, PAGE))
		return false;
	pinned = memory;
	if (!inf_slab_map(&gpu.driver, gpu.device, fd, bytes, &slab)) {
		if (!gpu.driver.copy_out(pinned, slab.address, 16, gpu.stream) && !gpu.driver.stream_synchronize(gpu.stream)) {
			pinned[0]++;
			is_good = !gpu.driver.copy_in(slab.address, pinned, 16, gpu.stream) &&
				  !gpu.driver.stream_synchronize(gpu.stream);
		}
		inf_slab_unmap(&gpu.driver, &slab);
	}
	gpu.driver.host_free(memory);
	return is_good;
}

/* All answers at once, each of which waits for its word. */
static bool queue_answers(CUdeviceptr at)
{
	for (uint64_t i = 1; i <= STREAM_ROUNDS; i++)
		if (gpu.driver.stream_wait(gpu.stream, at, i, CU_STREAM_WAIT_VALUE_GEQ) ||
		    gpu.driver.stream_write(gpu.stream, at + offsetof(struct words, back), i, CU_STREAM_WRITE_VALUE_DEFAULT))
			return false;
	return true;
}

static bool answer_after(CUevent event, CUdeviceptr at, uint64_t value)
{
	return !gpu.driver.stream_wait_event(gpu.stream, event, 0) &&
	       !gpu.driver.stream_write(gpu.stream, at + offsetof(struct words, back), value, CU_STREAM_WRITE_VALUE_DEFAULT);
}

static bool open_event(const struct words *words, CUevent *ret_event)
{
	return inf_driver_has_ipc(&gpu.driver) && !gpu.driver.ipc_open_event(ret_event, words->event);
}

/*
 * W: what comes `there` is sent `back` by the CPU; D: by a stream that waits for it; E: by a stream that waits for the event
 * whose record it announces. Until UINT64_MAX / 4 comes.
 */
static bool answer_words(int fd, char letter)
{
	struct words *words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CUdeviceptr at = 0;
	CUevent event = NULL;
	uint64_t seen = 0;

	if (words == MAP_FAILED)
		return false;
	if (letter != 'W' && (gpu.driver.host_register(words, PAGE, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP) ||
			      gpu.driver.host_device_pointer(&at, words, 0)))
		return false;
	if ((letter == 'D' && !queue_answers(at)) || (letter == 'E' && !open_event(words, &event)))
		return false;
	inf_store64_release(&words->back, UINT64_MAX / 2); /* ready */
	while (seen != UINT64_MAX / 4) {
		uint64_t now = inf_load64_acquire(&words->there);

		if (now != seen && letter == 'W')
			inf_store64_release(&words->back, now);
		if (now != seen && now != UINT64_MAX / 4 && letter == 'E' && !answer_after(event, at, now))
			return false;
		seen = now;
		inf_pause();
	}
	gpu.driver.stream_synchronize(gpu.stream);
	if (event)
		gpu.driver.event_destroy(event);
	if (letter != 'W')
		gpu.driver.host_unregister(words);
	munmap(words, PAGE);
	return true;
}

/* H: opens memory of cudaMalloc by its handle, and closes it. */
static bool open_memory(int fd)
{
	struct words *words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t begin_ns = now_ns();
	CUdeviceptr memory;
	bool is_good;

	if (words == MAP_FAILED)
		return false;
	is_good = !gpu.driver.ipc_open_memory(&memory, words->memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	words->open_ns = now_ns() - begin_ns;
	begin_ns = now_ns();
	is_good = is_good && !gpu.driver.ipc_close_memory(memory);
	words->close_ns = now_ns() - begin_ns;
	munmap(words, PAGE);
	return is_good;
}

/* K: keeps writing into a slab, with a kernel in between, until it is killed. */
static bool write_for_ever(int fd, uint64_t bytes)
{
	struct inf_slab slab;
	uint64_t ns = 1000000;
	void *params[] = { &ns };

	if (inf_slab_map(&gpu.driver, gpu.device, fd, bytes, &slab))
		return false;
	for (uint64_t i = 0;; i++) {
		if (gpu.driver.fill(slab.address, (unsigned char)i, slab.bytes, gpu.stream) ||
		    gpu.driver.launch(gpu.spin, 1, 1, 1, 32, 1, 1, 0, gpu.stream, params, NULL) ||
		    (i % 8 == 7 && gpu.driver.stream_synchronize(gpu.stream)))
			return false;
	}
}

/* L: keeps the whole device busy with kernels, as a client's own work would; says when it has begun. */
static bool load_for_ever(int socket_fd)
{
	uint64_t ns = LOAD_KERNEL_NS;
	void *params[] = { &ns };
	int n_sm = 1;

	gpu.driver.device_attribute(&n_sm, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, gpu.device);
	for (uint64_t i = 0;; i++) {
		if (gpu.driver.launch(gpu.spin, (unsigned int)n_sm, 1, 1, 256, 1, 1, 0, gpu.stream, params, NULL) ||
		    (i % 8 == 7 && gpu.driver.stream_synchronize(gpu.stream)))
			return false;
		if (i == 15 && write(socket_fd, "y", 1) != 1)
			return false;
	}
}

/* M: makes a slab that begins with 42, sends it, and waits to be killed. */
static bool make_slab(int socket_fd, uint64_t bytes)
{
	struct inf_slab slab;
	int fd;

	if (inf_slab_make(&gpu.driver, gpu.device, bytes, &slab, &fd))
		return false;
	if (gpu.driver.fill(slab.address, 42, slab.bytes, gpu.stream) || gpu.driver.stream_synchronize(gpu.stream) ||
	    say(socket_fd, 'm', fd, slab.bytes))
		return false;
	for (;;)
		pause();
}

static bool serve(int socket_fd, char letter, int fd, uint64_t bytes)
{
	switch (letter) {
	case 'S':
		return add_to_slab(fd, bytes);
	case 'H':
		return open_memory(fd);
	case 'K':
		return write_for_ever(fd, bytes);
	case 'L':
		return load_for_ever(socket_fd);
	case 'M':
		return make_slab(socket_fd, bytes);
	default:
		return answer_words(fd, letter);
	}
}

void peer_main(int socket_fd)
{
	uint64_t bytes;
	char letter;
	int fd;

	/* What it finds out is the other one's to say. */
	if (!freopen("/dev/null", "w", stdout))
		_exit(1);
	while ((letter = hear(socket_fd, &fd, &bytes))) {
		char answer = !open_gpu() && serve(socket_fd, letter, fd, bytes) ? 'y' : 'n';

		close(fd);
		if (write(socket_fd, &answer, 1) != 1)
			break;
	}
	_exit(0);
}

bool peer_new(const char *name, struct peer *ret_peer)
{
	int pair[2];
	char text[16];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		row_why(name, "no socket for a second process");
		return false;
	}
	snprintf(text, sizeof(text), "%d", pair[1]);
	pid = fork();
	if (!pid) {
		fcntl(pair[1], F_SETFD, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/proc/self/exe", "gpu_costs", "--peer", text, NULL);
		_exit(1);
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		row_why(name, "no second process");
		return false;
	}
	*ret_peer = (struct peer){ pid, pair[0] };
	return true;
}

void peer_end(struct peer *peer)
{
	kill(peer->pid, SIGKILL);
	waitpid(peer->pid, NULL, 0);
	close(peer->socket_fd);
}

bool peer_says_yes(const struct peer *peer)
{
	char answer = 0;

	return read(peer->socket_fd, &answer, 1) == 1 && answer == 'y';
}
