/* SPDX-License-Identifier: Apache-2.0 */
/* peers.c - see peers.h. */
#define _GNU_SOURCE 1
#include "tests/support/peers.h"
#include "broker/pipeline.h"
#include "broker/quota.h"
#include "broker/registry.h"
#include "broker/robust.h"
#include "broker/session.h"
#include "shm/region.h"
#include "shm/signature.h"
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct peers peers;

struct inf_signature peers_signature(const char *name, int64_t n)
{
	struct inf_signature signature = {
		.flags = INF_SIG_BATCHABLE, .n_inputs = 1, .n_outputs = 1, .batch_max = 16
	};
	struct inf_tensor_spec spec = {
		.name = "x",
		.dtype = INF_F32,
		.rank = 2,
		.flags = INF_SPEC_BATCH,
		.dims = { -1, n },
		.dims_max = { 0, n },
	};

	memcpy(signature.name, name, strlen(name));
	signature.version = 1;
	signature.inputs[0] = signature.outputs[0] = spec;
	ck_assert_ptr_null(inf_signature_check(&signature));
	signature.hash = inf_signature_hash(&signature);
	return signature;
}

bool peers_can_map_writable(int fd)
{
	void *map = mmap(NULL, INF_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map != MAP_FAILED)
		munmap(map, INF_PAGE);
	return map != MAP_FAILED;
}

static struct model *add_model(uint32_t id, const char *name, int64_t n)
{
	struct model *model = calloc(1, sizeof(*model));

	ck_assert_ptr_nonnull(model);
	model->id = id;
	memcpy(model->name, name, strlen(name));
	model->version = 1;
	model->state = INF_MODEL_READY;
	model->loaded = true;
	model->signature = peers_signature(name, n);
	model->stats = &peers.broker.stats->models[id];
	peers.broker.models[id] = model;
	return model;
}

static void executor_open(void)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	peers.broker.executor.control_fd = pair[0];
	peers.executor_fd = pair[1];
	peers.broker.executor.pid = getpid();
	peers.broker.executor.pid_fd = -1;
	peers.broker.executor.state = EXECUTOR_READY;
	peers.broker.executor.generation++;
	peers.broker.executor.loading = -1;
}

void peers_setup(void)
{
	memset(&peers.broker, 0, sizeof(peers.broker));
	peers.config = (struct config){ .sessions_max = 4,
					.user_sessions_max = 3,
					.handshakes_max = 2,
					.memory_max = 1u << 30,
					.user_memory_max = 256u << 20,
					.region_max = 128u << 20,
					.device_memory_max = 1u << 30,
					.user_device_memory_max = 64u << 20,
					.depth_default = 16,
					.depth_max = 64,
					.jobs_max = 64,
					.models_max = 8,
					.handles_max = 4,
					.regions_max = 16 };
	peers.broker.config = &peers.config;
	peers.broker.tid = (uint32_t)gettid();
	peers.broker.epoch = 12345;
	peers.broker.stats = calloc(1, sizeof(*peers.broker.stats));
	ck_assert_ptr_nonnull(peers.broker.stats);
	ck_assert_int_eq(loop_new(&peers.broker.loop, LOOP_EPOLL, 64, &peers.broker), 0);
	ck_assert_int_eq(pipeline_init(&peers.broker), 0);
	executor_open();
	add_model(0, "small", PEERS_SMALL);
	add_model(1, "large", PEERS_LARGE);
	peers.client_fd = -1;
}

void peers_teardown(void)
{
	session_free_all(&peers.broker);
	ck_assert_uint_eq(quota_bytes_used(), 0);
	ck_assert_uint_eq(quota_device_used(), 0);
	ck_assert_uint_eq(peers.broker.n_sessions, 0);
	ck_assert_uint_eq(peers.broker.n_handshakes, 0);
	ck_assert_uint_eq(peers.broker.n_retired, 0);
	ck_assert_uint_eq(robust_count(), 0);
	registry_free(&peers.broker);
	if (peers.broker.executor.control_fd >= 0)
		close(peers.broker.executor.control_fd);
	close(peers.executor_fd);
	if (peers.client_fd >= 0)
		close(peers.client_fd);
	pipeline_deinit(&peers.broker);
	loop_free(peers.broker.loop);
	free(peers.broker.stats);
}

void peers_turn(void)
{
	for (int i = 0; i < 4; i++)
		ck_assert_int_ge(loop_poll(peers.broker.loop), 0);
	session_reap(&peers.broker);
}

int client_connect(void)
{
	int pair[2], r;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	peers.client_fd = pair[1];
	r = session_new(&peers.broker, pair[0]);
	peers_turn();
	return r;
}

void client_say(const void *msg)
{
	ck_assert_int_eq(inf_ctl_send(peers.client_fd, msg, NULL, 0, true), 0);
	peers_turn();
}

int client_hear(void)
{
	int r;

	for (unsigned int i = 0; i < peers.n_answer_fds; i++)
		close(peers.answer_fds[i]);
	peers.n_answer_fds = 0;
	r = inf_ctl_recv(peers.client_fd, INF_CTL_FROM_FRONT_TO_CLIENT, &peers.answer,
			 peers.answer_fds, &peers.n_answer_fds, true);
	if (r == -EAGAIN)
		return 0;
	return r ? -1 : peers.answer.head.type;
}

void client_assert_ended(const char *reason)
{
	ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
	ck_assert_msg(strstr(peers.answer.error.text, reason), "%s", peers.answer.error.text);
	ck_assert_int_eq(client_hear(), -1);
	ck_assert_uint_eq(peers.broker.stats->n_sessions_ended, 1);
}

void client_hello(void)
{
	struct inf_ctl_hello msg;

	inf_ctl_init(&msg, INF_CTL_HELLO, 77);
	msg.version_min = msg.version_max = INF_CTL_VERSION;
	msg.features = INF_FEATURES_ALL | 1ull << 63;
	memcpy(msg.name, "test", 4);
	client_say(&msg);
}

void client_mapped(uint32_t region)
{
	struct inf_ctl_mapped msg;

	inf_ctl_init(&msg, INF_CTL_MAPPED, 78);
	msg.region = region;
	client_say(&msg);
}

void *client_map(int fd, uint64_t bytes)
{
	void *map;

	ck_assert_int_eq(inf_region_map(fd, bytes, true, 0, &map), 0);
	ck_assert_int_eq(inf_region_populate(map, bytes, true), 0);
	return map;
}

struct session *client_connect_ready(void)
{
	void *map;

	ck_assert_int_eq(client_connect(), 0);
	client_hello();
	ck_assert_int_eq(client_hear(), INF_CTL_WELCOME);
	map = client_map(peers.answer_fds[0], INF_REQUEST_BYTES);
	inf_region_unmap(map, INF_REQUEST_BYTES, 0);
	client_mapped(0);
	ck_assert_int_eq(client_hear(), INF_CTL_READY);
	return session_find(&peers.broker, peers.broker.session_ids);
}

void client_open(const char *name, uint32_t depth)
{
	struct inf_ctl_open msg;

	inf_ctl_init(&msg, INF_CTL_OPEN, 79);
	memcpy(msg.model, name, strlen(name));
	msg.depth = depth;
	client_say(&msg);
}

bool executor_attach_next(int32_t error)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;

	if (inf_ctl_recv(peers.executor_fd, INF_CTL_FROM_FRONT_TO_EXECUTOR, &msg, fds, &n_fds, true))
		return false;
	ck_assert_uint_eq(msg.head.type, INF_CTL_ATTACH);
	close(fds[0]);
	ck_assert_int_eq(session_attached(&peers.broker, msg.attach.session, msg.attach.region, error), 0);
	return true;
}

uint32_t executor_attach_all(int32_t error)
{
	uint32_t n = 0;

	while (executor_attach_next(error))
		n++;
	peers_turn();
	return n;
}

void executor_detach_all(void)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;

	while (!inf_ctl_recv(peers.executor_fd, INF_CTL_FROM_FRONT_TO_EXECUTOR, &msg, fds, &n_fds,
			     true)) {
		ck_assert_uint_eq(msg.head.type, INF_CTL_DETACH);
		ck_assert_int_eq(session_detached(&peers.broker, msg.detach.session), 0);
	}
	peers_turn();
}

void client_open_small(void)
{
	client_open("small", 0);
	ck_assert_uint_eq(executor_attach_all(0), 2); /* region 0, outputs */
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_int_eq(client_hear(), INF_CTL_MODEL);
}

void executor_dies(void)
{
	close(peers.broker.executor.control_fd);
	close(peers.executor_fd);
	peers.broker.executor.state = EXECUTOR_WAITING;
	pipeline_executor_died(&peers.broker);
	registry_executor_died(&peers.broker, 1);
	session_executor_died(&peers.broker);
	peers_turn();
	executor_open();
}

void client_assert_refused(int error, enum inf_status status, const char *text)
{
	ck_assert_int_eq(client_hear(), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, error);
	ck_assert_uint_eq(peers.answer.error.status, status);
	ck_assert_msg(strstr(peers.answer.error.text, text), "%s", peers.answer.error.text);
}
