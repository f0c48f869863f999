/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_broker_session.c - a session from its first message to the last byte given back. The test is the client at one end
 * of a socketpair and the executor at one end of another; the front's part is the shipped code on a real loop.
 */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/output.h"
#include "broker/pipeline.h"
#include "broker/quota.h"
#include "broker/registry.h"
#include "broker/robust.h"
#include "broker/session.h"
#include "broker/stats.h"
#include "shm/region.h"
#include "shm/signature.h"
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SMALL 4	      /* floats per row: region 0 serves */
#define LARGE 1048576 /* 4 MiB per row */

static struct config config;
static struct broker broker;
static int executor_fd, client_fd;
static union inf_ctl_any answer; /* of the front, last read */
static int answer_fds[INF_CTL_FDS_MAX];
static unsigned int n_answer_fds;

static struct inf_signature signature_of(const char *name, int64_t n)
{
	struct inf_signature signature = { .flags = INF_SIG_BATCHABLE, .n_inputs = 1, .n_outputs = 1, .batch_max = 16 };
	struct inf_tensor_spec spec = {
		.name = "x", .dtype = INF_F32, .rank = 2, .flags = INF_SPEC_BATCH, .dims = { -1, n }, .dims_max = { 0, n },
	};

	memcpy(signature.name, name, strlen(name));
	signature.version = 1;
	signature.inputs[0] = signature.outputs[0] = spec;
	signature.hash = inf_signature_hash(&signature);
	return signature;
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
	model->signature = signature_of(name, n);
	model->stats = &broker.stats->models[id];
	broker.models[id] = model;
	return model;
}

static void executor_open(void)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	broker.executor.control_fd = pair[0];
	executor_fd = pair[1];
	broker.executor.pid = getpid();
	broker.executor.pid_fd = -1;
	broker.executor.state = EXECUTOR_READY;
	broker.executor.generation++;
	broker.executor.loading = -1;
}

static void setup(void)
{
	memset(&broker, 0, sizeof(broker));
	config = (struct config){ .sessions_max = 4,
				  .user_sessions_max = 3,
				  .handshakes_max = 2,
				  .memory_max = 1u << 30,
				  .user_memory_max = 256u << 20,
				  .region_max = 128u << 20,
				  .depth_default = 16,
				  .depth_max = 64,
				  .jobs_max = 64,
				  .models_max = 8,
				  .handles_max = 4,
				  .regions_max = 16 };
	broker.config = &config;
	broker.tid = (uint32_t)gettid();
	broker.epoch = 12345;
	broker.stats = calloc(1, sizeof(*broker.stats));
	ck_assert_ptr_nonnull(broker.stats);
	ck_assert_int_eq(loop_new(&broker.loop, LOOP_EPOLL, 64, &broker), 0);
	ck_assert_int_eq(pipeline_init(&broker), 0);
	executor_open();
	add_model(0, "small", SMALL);
	add_model(1, "large", LARGE);
	client_fd = -1;
}

static void teardown(void)
{
	session_free_all(&broker);
	ck_assert_uint_eq(quota_bytes_used(), 0);
	ck_assert_uint_eq(broker.n_sessions, 0);
	ck_assert_uint_eq(broker.n_handshakes, 0);
	ck_assert_uint_eq(broker.n_retired, 0);
	ck_assert_uint_eq(robust_count(), 0);
	registry_free(&broker);
	if (broker.executor.control_fd >= 0)
		close(broker.executor.control_fd);
	close(executor_fd);
	if (client_fd >= 0)
		close(client_fd);
	pipeline_deinit(&broker);
	loop_free(broker.loop);
	free(broker.stats);
}

/* --- both ends ------------------------------------------------------------------------------------------ */

static void turn(void)
{
	for (int i = 0; i < 4; i++)
		ck_assert_int_ge(loop_poll(broker.loop), 0);
	session_reap(&broker);
}

static int connect_client(void)
{
	int pair[2], r;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	client_fd = pair[1];
	r = session_new(&broker, pair[0]);
	turn();
	return r;
}

static void say(const void *msg)
{
	ck_assert_int_eq(inf_ctl_send(client_fd, msg, NULL, 0, true), 0);
	turn();
}

/* Type of the next message from the front, 0 = none yet, -1 = hung up. */
static int hear(void)
{
	int r;

	for (unsigned int i = 0; i < n_answer_fds; i++)
		close(answer_fds[i]);
	n_answer_fds = 0;
	r = inf_ctl_recv(client_fd, INF_CTL_FROM_FRONT_TO_CLIENT, &answer, answer_fds, &n_answer_fds, true);
	if (r == -EAGAIN)
		return 0;
	return r ? -1 : answer.head.type;
}

static void assert_ended(const char *reason)
{
	ck_assert_int_eq(hear(), INF_CTL_ERROR);
	ck_assert_msg(strstr(answer.error.text, reason), "%s", answer.error.text);
	ck_assert_int_eq(hear(), -1);
	ck_assert_uint_eq(broker.stats->n_sessions_ended, 1);
}

static void say_hello(void)
{
	struct inf_ctl_hello msg;

	inf_ctl_init(&msg, INF_CTL_HELLO, 77);
	msg.version_min = msg.version_max = INF_CTL_VERSION;
	msg.features = INF_FEATURES_ALL | 1ull << 63;
	memcpy(msg.name, "test", 4);
	say(&msg);
}

static void say_mapped(uint32_t region)
{
	struct inf_ctl_mapped msg;

	inf_ctl_init(&msg, INF_CTL_MAPPED, 78);
	msg.region = region;
	say(&msg);
}

/* Maps and populates what the front has just sent, as a client must. */
static void *map_offered(int fd, uint64_t bytes)
{
	void *map;

	ck_assert_int_eq(inf_region_map(fd, bytes, true, 0, &map), 0);
	ck_assert_int_eq(inf_region_populate(map, bytes, true), 0);
	return map;
}

static struct session *connect_ready(void)
{
	void *map;

	ck_assert_int_eq(connect_client(), 0);
	say_hello();
	ck_assert_int_eq(hear(), INF_CTL_WELCOME);
	map = map_offered(answer_fds[0], INF_REQUEST_BYTES);
	inf_region_unmap(map, INF_REQUEST_BYTES, 0);
	say_mapped(0);
	ck_assert_int_eq(hear(), INF_CTL_READY);
	return session_find(&broker, broker.session_ids);
}

static void say_open(const char *name, uint32_t depth)
{
	struct inf_ctl_open msg;

	inf_ctl_init(&msg, INF_CTL_OPEN, 79);
	memcpy(msg.model, name, strlen(name));
	msg.depth = depth;
	say(&msg);
}

/* The executor maps what it is sent, and says so. Returns how many regions it was sent. */
static uint32_t attach_all(int32_t error)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;
	uint32_t n = 0;

	while (!inf_ctl_recv(executor_fd, INF_CTL_FROM_FRONT_TO_EXECUTOR, &msg, fds, &n_fds, true)) {
		ck_assert_uint_eq(msg.head.type, INF_CTL_ATTACH);
		close(fds[0]);
		n++;
		ck_assert_int_eq(session_attached(&broker, msg.attach.session, msg.attach.region, error), 0);
	}
	turn();
	return n;
}

static void detach_all(void)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;

	while (!inf_ctl_recv(executor_fd, INF_CTL_FROM_FRONT_TO_EXECUTOR, &msg, fds, &n_fds, true)) {
		ck_assert_uint_eq(msg.head.type, INF_CTL_DETACH);
		ck_assert_int_eq(session_detached(&broker, msg.detach.session), 0);
	}
	turn();
}

static void open_small(void)
{
	say_open("small", 0);
	ck_assert_uint_eq(attach_all(0), 2); /* region 0, outputs */
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_int_eq(hear(), INF_CTL_MODEL);
}

static void executor_dies(void)
{
	close(broker.executor.control_fd);
	close(executor_fd);
	broker.executor.state = EXECUTOR_WAITING;
	pipeline_executor_died(&broker);
	registry_executor_died(&broker, false);
	session_executor_died(&broker);
	turn();
	executor_open();
}

static bool can_map_writable(int fd)
{
	void *map = mmap(NULL, INF_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map != MAP_FAILED)
		munmap(map, INF_PAGE);
	return map != MAP_FAILED;
}

/* --- handshake ---------------------------------------------------------------------------------------------- */

START_TEST(handshake_and_seals)
{
	struct session *session;
	int request_fd;
	void *map;

	ck_assert_int_eq(connect_client(), 0);
	ck_assert_int_eq(hear(), 0);
	say_hello();
	ck_assert_int_eq(hear(), INF_CTL_WELCOME);
	ck_assert_uint_eq(answer.head.cookie, 77);
	ck_assert_uint_eq(answer.welcome.features, INF_FEATURES_ALL);
	ck_assert_uint_eq(answer.welcome.epoch, 12345);
	ck_assert_uint_lt(answer.welcome.start, INF_SLOTS);
	ck_assert_uint_eq(n_answer_fds, 3);
	ck_assert_int_eq(inf_region_check_received(answer_fds[1], INF_RESPONSE_BYTES, true), 0);
	ck_assert(!can_map_writable(answer_fds[1]));
	map = map_offered(answer_fds[0], INF_REQUEST_BYTES);
	request_fd = dup(answer_fds[0]);
	say_mapped(0);
	ck_assert_int_eq(hear(), INF_CTL_READY);
	ck_assert(!can_map_writable(request_fd));
	ck_assert_int_lt(fallocate(request_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, INF_PAGE), 0);
	ck_assert_int_lt(ftruncate(request_fd, 0), 0);
	close(request_fd);

	session = session_find(&broker, 1);
	ck_assert_ptr_nonnull(session);
	ck_assert_uint_eq(session->state, SESSION_READY);
	ck_assert_uint_eq(session->response->head.magic, INF_RESPONSE_MAGIC);
	ck_assert_uint_eq(session->response->liveness[0].v, broker.tid | FUTEX_WAITERS);
	ck_assert_uint_eq(session->response->liveness[1].v, FUTEX_WAITERS);
	robust_lane_add(&broker, session, 1);
	ck_assert_uint_eq(session->response->liveness[1].v, broker.tid | FUTEX_WAITERS);
	ck_assert_uint_eq(robust_count(), 2);
	ck_assert_uint_eq(broker.n_handshakes, 0);
	inf_region_unmap(map, INF_REQUEST_BYTES, 0);
}
END_TEST

START_TEST(another_version_is_told_both)
{
	struct inf_ctl_hello msg;

	inf_ctl_init(&msg, INF_CTL_HELLO, 1);
	msg.version_min = msg.version_max = INF_CTL_VERSION + 1;
	ck_assert_int_eq(connect_client(), 0);
	say(&msg);
	ck_assert_int_eq(hear(), INF_CTL_ERROR);
	ck_assert_int_eq(answer.error.error, -EPROTONOSUPPORT);
	ck_assert_ptr_nonnull(strstr(answer.error.text, "speaks protocol 2..2, the broker 1..1"));
	ck_assert_int_eq(hear(), -1);
	ck_assert_uint_eq(broker.n_sessions, 0);
}
END_TEST

START_TEST(unpopulated_request_region_ends_it)
{
	ck_assert_int_eq(connect_client(), 0);
	say_hello();
	ck_assert_int_eq(hear(), INF_CTL_WELCOME);
	say_mapped(0);
	assert_ended("did not populate");
}
END_TEST

START_TEST(quotas_turn_away_with_a_reason)
{
	int fds[3];

	for (int i = 0; i < 3; i++) {
		connect_ready();
		fds[i] = client_fd;
	}
	ck_assert_int_eq(connect_client(), -EDQUOT);
	ck_assert_int_eq(hear(), INF_CTL_ERROR);
	ck_assert_int_eq(answer.error.error, -EDQUOT);
	ck_assert_int_eq(hear(), -1);
	close(client_fd);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	turn();
	ck_assert_uint_eq(broker.n_sessions, 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(connect_client(), 0);
		fds[i] = client_fd;
	}
	ck_assert_int_eq(connect_client(), -EDQUOT); /* handshakes */
	for (int i = 0; i < 2; i++)
		close(fds[i]);
}
END_TEST

START_TEST(hang_up_gives_all_back)
{
	connect_ready();
	ck_assert_uint_eq(quota_bytes_used(), INF_REQUEST_BYTES + INF_RESPONSE_BYTES);
	close(client_fd);
	client_fd = -1;
	turn();
	ck_assert_uint_eq(quota_bytes_used(), 0);
	ck_assert_uint_eq(broker.n_sessions, 0);
	ck_assert_uint_eq(broker.stats->n_sessions_ended, 0);
}
END_TEST

/* --- hostile ------------------------------------------------------------------------------------------------------ */

START_TEST(messages_out_of_order)
{
	static const uint16_t early[] = { INF_CTL_MAPPED, INF_CTL_OPEN, INF_CTL_GROW, INF_CTL_LANE_FD, INF_CTL_LIST };
	union inf_ctl_any msg;

	for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++) {
		broker.stats->n_sessions_ended = 0;
		ck_assert_int_eq(connect_client(), 0);
		inf_ctl_init(&msg, early[i], 1);
		say(&msg);
		assert_ended("before its handshake");
		close(client_fd);
	}
	broker.stats->n_sessions_ended = 0;
	connect_ready();
	say_hello();
	assert_ended("not allowed any more");
}
END_TEST

START_TEST(mapped_for_what_was_not_offered)
{
	connect_ready();
	say_mapped(1);
	assert_ended("not offered");
}
END_TEST

START_TEST(open_before_the_last_was_answered)
{
	connect_ready();
	say_open("large", 2);
	say_open("small", 2);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	assert_ended("before the last one");
}
END_TEST

START_TEST(endless_name_and_reserved_fields)
{
	struct inf_ctl_open msg;
	struct inf_ctl_list list;

	connect_ready();
	inf_ctl_init(&msg, INF_CTL_OPEN, 1);
	memset(msg.model, 'a', sizeof(msg.model));
	say(&msg);
	assert_ended("endless name");
	close(client_fd);
	broker.stats->n_sessions_ended = 0;
	connect_ready();
	inf_ctl_init(&list, INF_CTL_LIST, 1);
	list.reserved = 1;
	say(&list);
	assert_ended("reserved");
}
END_TEST

START_TEST(client_that_does_not_read)
{
	struct session *session = connect_ready();
	struct inf_ctl_list msg;
	uint32_t id = session->id;

	inf_ctl_init(&msg, INF_CTL_LIST, 1);
	for (int i = 0; i < 10000 && session_find(&broker, id); i++) {
		inf_ctl_send(client_fd, &msg, NULL, 0, true);
		turn();
	}
	ck_assert_ptr_null(session_find(&broker, id));
	ck_assert_uint_eq(broker.stats->n_sessions_ended, 1);
}
END_TEST

/* More than one event's worth of messages at once: all are answered. */
START_TEST(burst_of_messages)
{
	struct inf_ctl_lane_fd msg;

	connect_ready();
	inf_ctl_init(&msg, INF_CTL_LANE_FD, 1);
	msg.lane = 3;
	for (int i = 0; i < 40; i++)
		ck_assert_int_eq(inf_ctl_send(client_fd, &msg, NULL, 0, true), 0);
	turn();
	ck_assert_int_eq(hear(), INF_CTL_FD);
	for (int i = 1; i < 40; i++) {
		ck_assert_int_eq(hear(), INF_CTL_ERROR);
		ck_assert_int_eq(answer.error.error, -EEXIST);
	}
	ck_assert_int_eq(hear(), 0);
}
END_TEST

/* --- models --------------------------------------------------------------------------------------------------------- */

START_TEST(small_model_needs_no_arena)
{
	struct session *session = connect_ready();
	uint32_t handle;

	say_open("small", 0);
	ck_assert_int_eq(hear(), 0); /* until the executor has mapped */
	ck_assert_uint_eq(attach_all(0), 2);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_uint_eq(answer.region.kind, INF_REGION_OUTPUT);
	ck_assert(!can_map_writable(answer_fds[0]));
	ck_assert_int_eq(hear(), INF_CTL_MODEL);
	ck_assert_uint_eq(answer.head.cookie, 79);
	ck_assert_uint_eq(answer.model.depth, 16);
	handle = answer.model.handle;
	ck_assert(session_handle_is_attached(&session->handles[handle]));
	say_open("small", 3); /* the same again */
	ck_assert_int_eq(hear(), INF_CTL_MODEL);
	ck_assert_uint_eq(answer.model.handle, handle);
	ck_assert_uint_eq(session->n_handles, 1);
}
END_TEST

START_TEST(large_model_gets_arena_and_double_outputs)
{
	struct session *session = connect_ready();
	uint64_t row_bytes = LARGE * 4ull, out_bytes;
	uint64_t before = quota_bytes_used();
	uint32_t region;
	void *map;

	say_open("large", 2);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_uint_eq(answer.region.kind, INF_REGION_REQUEST);
	ck_assert_uint_eq(answer.region.bytes, 2 * row_bytes);
	region = answer.region.region;
	out_bytes = inf_region_round(2 * inf_output_bytes(&broker.models[1]->signature, 1));
	ck_assert_uint_eq(quota_bytes_used() - before, 2 * row_bytes + 2 * out_bytes);
	map = map_offered(answer_fds[0], answer.region.bytes);
	say_mapped(region);
	ck_assert_int_eq(hear(), 0);
	ck_assert_uint_eq(session->n_check_regions, 1); /* not to be named before READY */
	ck_assert_uint_eq(attach_all(0), 3);
	ck_assert_int_eq(hear(), INF_CTL_READY);
	ck_assert_uint_eq(answer.ready.region, region);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_int_eq(hear(), INF_CTL_MODEL);
	ck_assert_uint_eq(session->n_check_regions, 2);
	inf_region_unmap(map, 2 * row_bytes, 0);
}
END_TEST

static void assert_refused(int error, enum inf_status status, const char *text)
{
	ck_assert_int_eq(hear(), INF_CTL_ERROR);
	ck_assert_int_eq(answer.error.error, error);
	ck_assert_uint_eq(answer.error.status, status);
	ck_assert_msg(strstr(answer.error.text, text), "%s", answer.error.text);
}

START_TEST(refusals_name_the_next_step)
{
	uint64_t before;

	connect_ready();
	before = quota_bytes_used();
	say_open("unknown", 0);
	assert_refused(-EAGAIN, INF_LOADING, "looking for its models");
	registry_scan(&broker);
	registry_scanned(&broker, &(struct inf_ctl_scanned){ .error = -EACCES });
	say_open("unknown", 0);
	assert_refused(-ENOENT, INF_NO_MODEL, "no model named unknown; shmctl models");
	say_open("a/b\n", 0);
	assert_refused(-ENOENT, INF_NO_MODEL, "a/b\\x0a");
	say_open("large", 64);
	assert_refused(-EDQUOT, INF_QUOTA, "--region-max");
	say_open("large", 30);
	assert_refused(-EDQUOT, INF_QUOTA, "--user-memory-max");
	broker.models[0]->loaded = false;
	say_open("small", 0);
	assert_refused(-EAGAIN, INF_LOADING, "being loaded");
	broker.models[0]->state = INF_MODEL_FAILED;
	memcpy(broker.models[0]->text, "bad zip", 8);
	say_open("small", 0);
	assert_refused(-ENOEXEC, INF_NO_MODEL, "bad zip");
	ck_assert_uint_eq(quota_bytes_used(), before);
}
END_TEST

START_TEST(executor_that_cannot_map)
{
	struct session *session = connect_ready();

	say_open("small", 0);
	ck_assert_uint_ge(attach_all(-ENOMEM), 1);
	assert_refused(-ENOMEM, INF_BUSY, "less depth");
	ck_assert_uint_eq(session->n_handles, 0);
	ck_assert_ptr_null(session->opening);
	say_open("small", 0);
	ck_assert_uint_ge(attach_all(0), 1);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_int_eq(hear(), INF_CTL_MODEL);
}
END_TEST

START_TEST(executor_dies_in_the_middle)
{
	struct session *session = connect_ready();
	uint64_t before = quota_bytes_used();

	say_open("small", 0);
	executor_dies();
	assert_refused(-EAGAIN, INF_LOADING, "executor died");
	ck_assert_uint_eq(quota_bytes_used(), before);
	ck_assert_uint_eq(session->n_unattached, 0);
	ck_assert(session_is_reattached(&broker));
}
END_TEST

START_TEST(growth)
{
	struct session *session = connect_ready();
	struct inf_ctl_grow msg;
	uint32_t region;
	void *map;

	inf_ctl_init(&msg, INF_CTL_GROW, 5);
	msg.bytes = UINT64_MAX;
	say(&msg);
	assert_refused(-EDQUOT, INF_QUOTA, "region-max");
	msg.bytes = 5000;
	say(&msg);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_uint_eq(answer.region.bytes, 8192);
	region = answer.region.region;
	map = map_offered(answer_fds[0], 8192);
	say_mapped(region);
	ck_assert_int_eq(hear(), INF_CTL_READY); /* no executor knows the session yet: none is asked */
	ck_assert_uint_eq(session->check_regions[1].id, region);
	ck_assert_uint_eq(session->check_regions[1].arena_offset, 0);
	say_open("small", 0);
	ck_assert_uint_eq(attach_all(0), 3);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_int_eq(hear(), INF_CTL_MODEL);
	inf_region_unmap(map, 8192, 0);
}
END_TEST

/* --- generations of executors ------------------------------------------------------------------------------------------ */

START_TEST(new_executor_gets_a_new_output_region)
{
	struct session *session = connect_ready();
	struct handle *handle = &session->handles[0];
	uint32_t old, out_idx;
	uint64_t bytes;

	open_small();
	old = handle->pool->region;
	bytes = quota_bytes_used();
	ck_assert(output_reserve(session, handle->pool, 1, &out_idx));
	output_post(session, out_idx); /* the client holds it */
	executor_dies();
	ck_assert_int_eq(hear(), 0);
	broker.models[0]->loaded = true;
	session_reattach_all(&broker);
	ck_assert(!session_is_reattached(&broker));
	ck_assert_uint_eq(attach_all(0), 2);
	ck_assert(session_is_reattached(&broker));
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_uint_ne(answer.region.region, old);
	ck_assert_uint_eq(answer.region.generation, 2);
	ck_assert_uint_eq(answer.region.region, handle->pool->region);
	ck_assert_uint_eq(quota_bytes_used(), bytes); /* it was paid for */
	ck_assert_int_eq(hear(), 0);
	ck_assert_uint_eq(broker.n_retired, 1);
}
END_TEST

START_TEST(empty_region_retires_at_once)
{
	struct session *session = connect_ready();
	uint32_t old;
	uint64_t bytes;

	open_small();
	bytes = quota_bytes_used();
	for (int i = 0; i < 5; i++) {
		old = session->handles[0].pool->region;
		executor_dies();
		broker.models[0]->loaded = true;
		session_reattach_all(&broker);
		ck_assert_int_eq(hear(), INF_CTL_RETIRE);
		ck_assert_uint_eq(answer.retire.region, old);
		ck_assert_uint_eq(attach_all(0), 2);
		ck_assert_int_eq(hear(), INF_CTL_REGION);
		ck_assert_uint_eq(broker.n_retired, 0);
		ck_assert_uint_eq(quota_bytes_used(), bytes);
	}
}
END_TEST

/* An executor that dies before it has mapped a new region leaves nothing that the client would hear of. */
START_TEST(death_during_reattach)
{
	struct session *session = connect_ready();
	uint64_t bytes;

	open_small();
	bytes = quota_bytes_used();
	for (int i = 0; i < 3; i++) {
		executor_dies();
		session_reattach_all(&broker);
	}
	ck_assert_uint_eq(attach_all(0), 2);
	ck_assert_int_eq(hear(), INF_CTL_RETIRE);
	ck_assert_int_eq(hear(), INF_CTL_REGION);
	ck_assert_uint_eq(answer.region.region, session->handles[0].pool->region);
	ck_assert_int_eq(hear(), 0);
	ck_assert_uint_eq(quota_bytes_used(), bytes);
}
END_TEST

START_TEST(zombie_stays_until_detached)
{
	struct session *session = connect_ready();
	uint32_t id = session->id;

	open_small();
	close(client_fd);
	client_fd = -1;
	turn();
	ck_assert_ptr_eq(session_find(&broker, id), session);
	ck_assert_uint_eq(session->state, SESSION_ZOMBIE);
	ck_assert_uint_gt(quota_bytes_used(), 0);
	ck_assert_int_eq(session_detached(&broker, id + 1), -EPROTO);
	detach_all();
	ck_assert_ptr_null(session_find(&broker, id));
	ck_assert_uint_eq(quota_bytes_used(), 0);
	ck_assert_int_eq(session_detached(&broker, id), -EPROTO);
}
END_TEST

START_TEST(zombie_goes_with_its_executor)
{
	uint32_t id = connect_ready()->id;

	open_small();
	close(client_fd);
	client_fd = -1;
	turn();
	executor_dies();
	ck_assert_ptr_null(session_find(&broker, id));
}
END_TEST

START_TEST(answers_that_are_not_due)
{
	struct session *session = connect_ready();

	ck_assert_int_eq(session_attached(&broker, session->id, 0, 0), -EPROTO);
	ck_assert_int_eq(session_attached(&broker, session->id + 1, 0, 0), -EPROTO);
	ck_assert_int_eq(session_detached(&broker, session->id), -EPROTO);
	say_open("small", 0);
	ck_assert_int_eq(session_attached(&broker, session->id, 0, 1), -EPROTO);
	ck_assert_int_eq(session_attached(&broker, session->id, 99, 0), -EPROTO);
}
END_TEST

/* Requests of a model that goes: the handle is dead, its memory is the user's again when it is released. */
START_TEST(model_that_goes)
{
	struct session *session = connect_ready();
	uint64_t before = quota_bytes_used();

	open_small();
	session_model_replaced(&broker, broker.models[0], NULL);
	ck_assert_ptr_null(session->handles[0].model);
	broker.now_ns = 1000000000;
	session_reap(&broker);
	ck_assert_uint_eq(broker.n_retired, 0);
	ck_assert_int_eq(hear(), INF_CTL_RETIRE);
	executor_dies(); /* until then it may write there */
	ck_assert_uint_eq(quota_bytes_used(), before);
	broker.models[0]->loaded = true;
	open_small();
	ck_assert_uint_eq(answer.model.handle, 1); /* never reused */
}
END_TEST

Suite *suite_session(void);
Suite *suite_session(void)
{
	const struct {
		const char *name;
		const TTest *tests[8];
	} cases[] = {
		{ "handshake",
		  { handshake_and_seals, another_version_is_told_both, unpopulated_request_region_ends_it,
		    quotas_turn_away_with_a_reason, hang_up_gives_all_back } },
		{ "hostile",
		  { messages_out_of_order, mapped_for_what_was_not_offered, open_before_the_last_was_answered,
		    endless_name_and_reserved_fields, client_that_does_not_read, burst_of_messages } },
		{ "models",
		  { small_model_needs_no_arena, large_model_gets_arena_and_double_outputs, refusals_name_the_next_step,
		    executor_that_cannot_map, executor_dies_in_the_middle, growth } },
		{ "generations",
		  { new_executor_gets_a_new_output_region, empty_region_retires_at_once, death_during_reattach,
		    zombie_stays_until_detached, zombie_goes_with_its_executor, answers_that_are_not_due,
		    model_that_goes } },
	};
	Suite *suite = suite_create("broker_session");

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		TCase *tcase = tcase_create(cases[i].name);

		tcase_add_checked_fixture(tcase, setup, teardown);
		for (size_t k = 0; k < 8 && cases[i].tests[k]; k++)
			tcase_add_test(tcase, cases[i].tests[k]);
		suite_add_tcase(suite, tcase);
	}
	return suite;
}
