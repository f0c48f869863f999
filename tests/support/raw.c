/* SPDX-License-Identifier: Apache-2.0 */
/* raw.c - the protocol by hand. */
#define _GNU_SOURCE 1
#include "tests/support/raw.h"
#include "shm/region.h"
#include "shm/signature.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

void (*raw_region_hook)(enum inf_region_kind kind, enum raw_step step, int fd);

static void hook(enum inf_region_kind kind, enum raw_step step, int fd)
{
	if (raw_region_hook)
		raw_region_hook(kind, step, fd);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

int raw_connect(struct raw *raw, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	*raw = (struct raw){ .socket_fd = -1, .bell_fd = -1, .request_fd = -1, .response_fd = -1 };
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	raw->socket_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (raw->socket_fd < 0)
		return -errno;
	if (connect(raw->socket_fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int error = -errno;

		raw_close(raw);
		return error;
	}
	return 0;
}

static int expect(struct raw *raw, uint16_t type, union inf_ctl_any *msg, int *fds)
{
	unsigned int n_fds;
	int r = inf_ctl_recv(raw->socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, msg, fds, &n_fds, false);

	if (r)
		return r;
	if (msg->head.type == INF_CTL_ERROR && type != INF_CTL_ERROR)
		return msg->error.error;
	return msg->head.type == type ? 0 : -EPROTO;
}

static int say_mapped(struct raw *raw, uint32_t region)
{
	struct inf_ctl_mapped mapped;

	inf_ctl_init(&mapped, INF_CTL_MAPPED, 0);
	mapped.region = region;
	return inf_ctl_send(raw->socket_fd, &mapped, NULL, 0, false);
}

static int handshake(struct raw *raw)
{
	struct inf_ctl_hello hello;
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX], r;
	void *address;

	inf_ctl_init(&hello, INF_CTL_HELLO, 1);
	hello.version_min = INF_CTL_VERSION_MIN;
	hello.version_max = INF_CTL_VERSION;
	hello.features = INF_FEATURES_ALL;
	memcpy(hello.name, "raw", 3);
	r = inf_ctl_send(raw->socket_fd, &hello, NULL, 0, false);
	if (r)
		return r;
	r = expect(raw, INF_CTL_WELCOME, &msg, fds);
	if (r)
		return r;
	raw->request_fd = fds[0];
	raw->response_fd = fds[1];
	raw->bell_fd = fds[2];
	raw->start = msg.welcome.start;
	raw->session = msg.welcome.session;
	hook(INF_REGION_REQUEST, RAW_OFFERED, raw->request_fd);
	hook(INF_REGION_RESPONSE, RAW_OFFERED, raw->response_fd);
	r = inf_region_map(raw->request_fd, INF_REQUEST_BYTES, true, 0, &address);
	if (r)
		return r;
	raw->request = address;
	r = inf_region_map(raw->response_fd, INF_RESPONSE_BYTES, false, 0, &address);
	if (r)
		return r;
	raw->response = address;
	r = inf_region_populate(raw->request, INF_REQUEST_BYTES, true);
	if (r)
		return r;
	hook(INF_REGION_REQUEST, RAW_POPULATED, raw->request_fd);
	r = say_mapped(raw, 0);
	hook(INF_REGION_REQUEST, RAW_MAPPED, raw->request_fd);
	if (!r)
		r = expect(raw, INF_CTL_READY, &msg, fds);
	if (r)
		return r;
	hook(INF_REGION_REQUEST, RAW_READY, raw->request_fd);
	hook(INF_REGION_RESPONSE, RAW_READY, raw->response_fd);
	return 0;
}

int raw_open(struct raw *raw, const char *path)
{
	int r = raw_connect(raw, path);

	if (!r)
		r = handshake(raw);
	if (r) {
		raw_close(raw);
		return r;
	}
	inf_sq_writer_init(&raw->sq, &raw->request->lanes[0], &raw->response->lanes[0], raw->start);
	inf_cq_reader_init(&raw->cq, &raw->request->lanes[0], &raw->response->lanes[0], raw->start);
	inf_store32_release(&raw->request->head.n_lanes.v, 1);
	return 0;
}

/* A region on the way to MODEL: request regions are mapped, populated and forgotten, outputs only closed. */
static int take_region(struct raw *raw, const struct inf_ctl_region *region, int fd)
{
	void *address = NULL;
	int r = 0;

	hook((enum inf_region_kind)region->kind, RAW_OFFERED, fd);
	if (region->kind == INF_REGION_REQUEST) {
		r = inf_region_map(fd, region->bytes, true, 0, &address);
		if (!r)
			r = inf_region_populate(address, region->bytes, true);
		inf_region_unmap(address, region->bytes, 0);
		if (!r)
			r = say_mapped(raw, region->region);
		hook(INF_REGION_REQUEST, RAW_MAPPED, fd);
	}
	close(fd);
	return r;
}

int raw_model(struct raw *raw, const char *name, uint32_t depth)
{
	struct inf_ctl_open open;
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX], r;
	unsigned int n_fds;

	inf_ctl_init(&open, INF_CTL_OPEN, 2);
	snprintf(open.model, sizeof(open.model), "%s", name);
	open.depth = depth;
	r = inf_ctl_send(raw->socket_fd, &open, NULL, 0, false);
	while (!r) {
		r = inf_ctl_recv(raw->socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, &msg, fds, &n_fds, false);
		if (r)
			break;
		if (msg.head.type == INF_CTL_ERROR)
			return msg.error.error;
		if (msg.head.type == INF_CTL_REGION)
			r = take_region(raw, &msg.region, fds[0]);
		if (msg.head.type == INF_CTL_MODEL) {
			raw->handle = msg.model.handle;
			raw->signature = msg.model.signature;
			return 0;
		}
	}
	return r;
}

/* A question whose answer carries one fd, which is closed. */
static int ask(struct raw *raw, void *question, enum inf_ctl_type answer)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX], r = inf_ctl_send(raw->socket_fd, question, NULL, 0, false);
	unsigned int n_fds;

	if (!r)
		r = inf_ctl_recv(raw->socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, &msg, fds, &n_fds, false);
	if (r)
		return r;
	for (unsigned int i = 0; i < n_fds; i++)
		close(fds[i]);
	if (msg.head.type == INF_CTL_ERROR)
		return msg.error.error;
	return msg.head.type == answer ? 0 : -EPROTO;
}

int raw_device(struct raw *raw, bool twin)
{
	struct inf_ctl_device device;
	struct inf_ctl_twin ask_twin;
	int r;

	inf_ctl_init(&device, INF_CTL_DEVICE, 3);
	inf_ctl_init(&ask_twin, INF_CTL_TWIN, 4);
	r = ask(raw, &device, INF_CTL_TIMELINE);
	return r || !twin ? r : ask(raw, &ask_twin, INF_CTL_REGION);
}

void raw_close(struct raw *raw)
{
	int fds[] = { raw->socket_fd, raw->bell_fd, raw->request_fd, raw->response_fd };

	if (raw->request)
		inf_region_unmap(raw->request, INF_REQUEST_BYTES, 0);
	if (raw->response)
		inf_region_unmap(raw->response, INF_RESPONSE_BYTES, 0);
	for (unsigned int i = 0; i < 4; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	*raw = (struct raw){ .socket_fd = -1, .bell_fd = -1, .request_fd = -1, .response_fd = -1 };
}

struct inf_submission raw_submission(const struct raw *raw)
{
	return (struct inf_submission){
		.opcode = INF_OP_INFER,
		.model = (uint16_t)raw->handle,
		.tag = raw->sq.tail,
		.offset = INF_ARENA_OFFSET,
		.length = inf_input_bytes(&raw->signature, 1),
		.rows = 1,
	};
}

void raw_ring(struct raw *raw)
{
	uint64_t one = 1;

	(void)!write(raw->bell_fd, &one, sizeof(one));
}

void raw_submit(struct raw *raw, const struct inf_submission *body)
{
	memcpy(inf_sq_slot(&raw->sq), body, offsetof(struct inf_submission, seq));
	inf_sq_publish(&raw->sq);
	if (inf_sq_must_ring(&raw->sq))
		raw_ring(raw);
}

int raw_is_ended(struct raw *raw, unsigned int timeout_ms)
{
	struct pollfd poll_fd = { .fd = raw->socket_fd, .events = POLLRDHUP };

	return poll(&poll_fd, 1, (int)timeout_ms) > 0 && poll_fd.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

int raw_wait(struct raw *raw, struct inf_completion *ret, unsigned int timeout_ms)
{
	uint64_t until = now_ms() + timeout_ms;

	for (;;) {
		if (inf_cq_peek(&raw->cq) == INF_PEEK_FULL) {
			inf_cq_take(&raw->cq, ret);
			inf_cq_done(&raw->cq);
			return 0;
		}
		if (raw_is_ended(raw, 1))
			return -ECONNRESET;
		if (now_ms() > until)
			return -ETIMEDOUT;
	}
}
