/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_open.c - opening models, growing, and what happens to open ones when executors and
 * models go. */
#define _GNU_SOURCE 1
#include "broker/output.h"
#include "broker/quota.h"
#include "broker/registry.h"
#include "broker/session.h"
#include "shm/region.h"
#include "shm/signature.h"
#include "tests/support/peers.h"
#include <check.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

START_TEST(small_model_needs_no_arena)
{
	struct session *session = client_connect_ready();
	uint32_t handle;

	client_open("small", 0);
	ck_assert_int_eq(client_hear(), 0); /* until the executor has mapped */
	ck_assert_uint_eq(executor_attach_all(0), 2);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_uint_eq(peers.answer.region.kind, INF_REGION_OUTPUT);
	ck_assert(!peers_can_map_writable(peers.answer_fds[0]));
	ck_assert_int_eq(client_hear(), INF_CTL_MODEL);
	ck_assert_uint_eq(peers.answer.head.cookie, 79);
	ck_assert_uint_eq(peers.answer.model.depth, 16);
	handle = peers.answer.model.handle;
	ck_assert(session_handle_is_attached(&session->handles[handle]));
	client_open("small", 3); /* the same again */
	ck_assert_int_eq(client_hear(), INF_CTL_MODEL);
	ck_assert_uint_eq(peers.answer.model.handle, handle);
	ck_assert_uint_eq(session->n_handles, 1);
}
END_TEST

START_TEST(large_model_gets_arena_and_double_outputs)
{
	struct session *session = client_connect_ready();
	uint64_t row_bytes = PEERS_LARGE * 4ull, out_bytes;
	uint64_t before = quota_bytes_used();
	uint32_t region;
	void *map;

	client_open("large", 2);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_uint_eq(peers.answer.region.kind, INF_REGION_REQUEST);
	ck_assert_uint_eq(peers.answer.region.bytes, 2 * row_bytes);
	region = peers.answer.region.region;
	out_bytes = inf_region_round(2 * inf_output_bytes(&peers.broker.models[1]->signature, 1));
	ck_assert_uint_eq(quota_bytes_used() - before, 2 * row_bytes + 2 * out_bytes);
	map = client_map(peers.answer_fds[0], peers.answer.region.bytes);
	client_mapped(region);
	ck_assert_int_eq(client_hear(), 0);
	ck_assert_uint_eq(session->n_check_regions, 1); /* not to be named before READY */
	ck_assert_uint_eq(executor_attach_all(0), 3);
	ck_assert_int_eq(client_hear(), INF_CTL_READY);
	ck_assert_uint_eq(peers.answer.ready.region, region);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_int_eq(client_hear(), INF_CTL_MODEL);
	ck_assert_uint_eq(session->n_check_regions, 2);
	inf_region_unmap(map, 2 * row_bytes, 0);
}
END_TEST

START_TEST(refusals_name_the_next_step)
{
	uint64_t before;

	client_connect_ready();
	before = quota_bytes_used();
	client_open("unknown", 0);
	client_assert_refused(-EAGAIN, INF_LOADING, "looking for its models");
	registry_scan(&peers.broker);
	registry_scanned(&peers.broker, &(struct inf_ctl_scanned){ .error = -EACCES });
	client_open("unknown", 0);
	client_assert_refused(-ENOENT, INF_NO_MODEL, "no model named unknown; shmctl models");
	client_open("a/b\n", 0);
	client_assert_refused(-ENOENT, INF_NO_MODEL, "a/b\\x0a");
	client_open("large", 64);
	client_assert_refused(-EDQUOT, INF_QUOTA, "--region-max");
	client_open("large", 30);
	client_assert_refused(-EDQUOT, INF_QUOTA, "--user-memory-max");
	peers.broker.models[0]->loaded = false;
	client_open("small", 0);
	client_assert_refused(-EAGAIN, INF_LOADING, "being loaded");
	peers.broker.models[0]->state = INF_MODEL_FAILED;
	memcpy(peers.broker.models[0]->text, "bad zip", 8);
	client_open("small", 0);
	client_assert_refused(-ENOEXEC, INF_NO_MODEL, "bad zip");
	ck_assert_uint_eq(quota_bytes_used(), before);
}
END_TEST

START_TEST(executor_that_cannot_map)
{
	struct session *session = client_connect_ready();

	client_open("small", 0);
	ck_assert_uint_ge(executor_attach_all(-ENOMEM), 1);
	client_assert_refused(-ENOMEM, INF_BUSY, "less depth");
	ck_assert_uint_eq(session->n_handles, 0);
	ck_assert_ptr_null(session->opening);
	client_open("small", 0);
	ck_assert_uint_ge(executor_attach_all(0), 1);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_int_eq(client_hear(), INF_CTL_MODEL);
}
END_TEST

START_TEST(executor_dies_in_the_middle)
{
	struct session *session = client_connect_ready();
	uint64_t before = quota_bytes_used();

	client_open("small", 0);
	executor_dies();
	client_assert_refused(-EAGAIN, INF_LOADING, "executor died");
	ck_assert_uint_eq(quota_bytes_used(), before);
	ck_assert_uint_eq(session->n_unattached, 0);
	ck_assert(session_is_reattached(&peers.broker));
}
END_TEST

/* It may know nothing of that when it says MAPPED. */
START_TEST(executor_dies_while_the_client_maps)
{
	struct session *session = client_connect_ready();
	uint64_t before = quota_bytes_used();
	uint32_t region;
	void *map;

	client_open("large", 1);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	region = peers.answer.region.region;
	map = client_map(peers.answer_fds[0], peers.answer.region.bytes);
	executor_dies();
	ck_assert_int_eq(client_hear(), 0);
	client_mapped(region);
	client_assert_refused(-EAGAIN, INF_LOADING, "being loaded again");
	ck_assert_uint_eq(session->state, SESSION_READY);
	ck_assert_uint_eq(quota_bytes_used(), before);
	inf_region_unmap(map, PEERS_LARGE * 4, 0);
}
END_TEST

START_TEST(growth)
{
	struct session *session = client_connect_ready();
	struct inf_ctl_grow msg;
	uint32_t region;
	void *map;

	inf_ctl_init(&msg, INF_CTL_GROW, 5);
	msg.bytes = UINT64_MAX;
	client_say(&msg);
	client_assert_refused(-EDQUOT, INF_QUOTA, "region-max");
	msg.bytes = 5000;
	client_say(&msg);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_uint_eq(peers.answer.region.bytes, 8192);
	region = peers.answer.region.region;
	map = client_map(peers.answer_fds[0], 8192);
	client_mapped(region);
	ck_assert_int_eq(client_hear(),
			 INF_CTL_READY); /* no executor knows the session yet: none is asked */
	ck_assert_uint_eq(session->check_regions[1].id, region);
	ck_assert_uint_eq(session->check_regions[1].arena_offset, 0);
	client_open("small", 0);
	ck_assert_uint_eq(executor_attach_all(0), 3);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_int_eq(client_hear(), INF_CTL_MODEL);
	inf_region_unmap(map, 8192, 0);
}
END_TEST

START_TEST(new_executor_gets_a_new_output_region)
{
	struct session *session = client_connect_ready();
	struct handle *handle = &session->handles[0];
	uint32_t old, out_idx;
	uint64_t bytes;

	client_open_small();
	old = handle->pool->region;
	bytes = quota_bytes_used();
	ck_assert(output_reserve(session, handle->pool, 1, &out_idx));
	output_post(session, out_idx); /* the client holds it */
	executor_dies();
	ck_assert_int_eq(client_hear(), 0);
	peers.broker.models[0]->loaded = true;
	session_reattach_all(&peers.broker);
	ck_assert(!session_is_reattached(&peers.broker));
	ck_assert_uint_eq(executor_attach_all(0), 2);
	ck_assert(session_is_reattached(&peers.broker));
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_uint_ne(peers.answer.region.region, old);
	ck_assert_uint_eq(peers.answer.region.generation, 2);
	ck_assert_uint_eq(peers.answer.region.region, handle->pool->region);
	ck_assert_uint_eq(quota_bytes_used(), bytes); /* it was paid for */
	ck_assert_int_eq(client_hear(), 0);
	ck_assert_uint_eq(peers.broker.n_retired, 1);
}
END_TEST

START_TEST(empty_region_retires_at_once)
{
	struct session *session = client_connect_ready();
	uint32_t old;
	uint64_t bytes;

	client_open_small();
	bytes = quota_bytes_used();
	for (int i = 0; i < 5; i++) {
		old = session->handles[0].pool->region;
		executor_dies();
		peers.broker.models[0]->loaded = true;
		session_reattach_all(&peers.broker);
		ck_assert_int_eq(client_hear(), INF_CTL_RETIRE);
		ck_assert_uint_eq(peers.answer.retire.region, old);
		ck_assert_uint_eq(executor_attach_all(0), 2);
		ck_assert_int_eq(client_hear(), INF_CTL_REGION);
		ck_assert_uint_eq(peers.broker.n_retired, 0);
		ck_assert_uint_eq(quota_bytes_used(), bytes);
	}
}
END_TEST

/* An executor that dies before it has mapped a new region leaves nothing that the client would
 * hear of. */
START_TEST(death_during_reattach)
{
	struct session *session = client_connect_ready();
	uint64_t bytes;

	client_open_small();
	bytes = quota_bytes_used();
	for (int i = 0; i < 3; i++) {
		executor_dies();
		session_reattach_all(&peers.broker);
	}
	ck_assert_uint_eq(executor_attach_all(0), 2);
	ck_assert_int_eq(client_hear(), INF_CTL_RETIRE);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_uint_eq(peers.answer.region.region, session->handles[0].pool->region);
	ck_assert_int_eq(client_hear(), 0);
	ck_assert_uint_eq(quota_bytes_used(), bytes);
}
END_TEST

START_TEST(zombie_stays_until_detached)
{
	struct session *session = client_connect_ready();
	uint32_t id = session->id;

	client_open_small();
	close(peers.client_fd);
	peers.client_fd = -1;
	peers_turn();
	ck_assert_ptr_eq(session_find(&peers.broker, id), session);
	ck_assert_uint_eq(session->state, SESSION_ZOMBIE);
	ck_assert_uint_gt(quota_bytes_used(), 0);
	ck_assert_int_eq(session_detached(&peers.broker, id + 1), -EPROTO);
	executor_detach_all();
	ck_assert_ptr_null(session_find(&peers.broker, id));
	ck_assert_uint_eq(quota_bytes_used(), 0);
	ck_assert_int_eq(session_detached(&peers.broker, id), -EPROTO);
}
END_TEST

START_TEST(zombie_goes_with_its_executor)
{
	uint32_t id = client_connect_ready()->id;

	client_open_small();
	close(peers.client_fd);
	peers.client_fd = -1;
	peers_turn();
	executor_dies();
	ck_assert_ptr_null(session_find(&peers.broker, id));
}
END_TEST

START_TEST(answers_that_are_not_due)
{
	struct session *session = client_connect_ready();

	ck_assert_int_eq(session_attached(&peers.broker, session->id, 0, 0), -EPROTO);
	ck_assert_int_eq(session_attached(&peers.broker, session->id + 1, 0, 0), -EPROTO);
	ck_assert_int_eq(session_detached(&peers.broker, session->id), -EPROTO);
	client_open("small", 0);
	ck_assert_int_eq(session_attached(&peers.broker, session->id, 0, 1), -EPROTO);
	ck_assert_int_eq(session_attached(&peers.broker, session->id, 99, 0), -EPROTO);
}
END_TEST

/* Requests of a model that goes: the handle is dead, its memory is the user's again when it is
 * released. */
START_TEST(model_that_goes)
{
	struct session *session = client_connect_ready();
	uint64_t before = quota_bytes_used();

	client_open_small();
	session_model_replaced(&peers.broker, peers.broker.models[0], NULL);
	ck_assert_ptr_null(session->handles[0].model);
	peers.broker.now_ns = 1000000000;
	session_reap(&peers.broker);
	ck_assert_uint_eq(peers.broker.n_retired, 0);
	ck_assert_int_eq(client_hear(), INF_CTL_RETIRE);
	executor_dies(); /* until then it may write there */
	ck_assert_uint_eq(quota_bytes_used(), before);
	peers.broker.models[0]->loaded = true;
	client_open_small();
	ck_assert_uint_eq(peers.answer.model.handle, 1); /* never reused */
}
END_TEST

/* --- device memory --- */

static void say_device(void)
{
	struct inf_ctl_device msg;

	inf_ctl_init(&msg, INF_CTL_DEVICE, 11);
	client_say(&msg);
}

static void say_twin(uint32_t region)
{
	struct inf_ctl_twin msg;

	inf_ctl_init(&msg, INF_CTL_TWIN, 12);
	msg.region = region;
	client_say(&msg);
}

/* A session with its timeline and the twin of region 0. */
static struct session *with_twin(void)
{
	struct session *session = client_connect_ready();

	memcpy(peers.broker.executor.uuid, "GPU-x", 6);
	say_device();
	ck_assert_int_eq(client_hear(), 0); /* until the executor has it */
	ck_assert_uint_eq(executor_attach_all(0), 1);
	ck_assert_int_eq(client_hear(), INF_CTL_TIMELINE);
	ck_assert_uint_eq(peers.answer.head.cookie, 11);
	ck_assert_str_eq(peers.answer.timeline.uuid, "GPU-x");
	ck_assert_uint_eq(quota_device_used(), 0);
	say_twin(0);
	ck_assert(!session->check_regions[0].has_twin);
	ck_assert_uint_eq(executor_attach_all(0), 1);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_uint_eq(peers.answer.head.cookie, 12);
	ck_assert_uint_eq(peers.answer.region.kind, INF_REGION_TWIN);
	ck_assert_uint_eq(peers.answer.region.region, INF_TWIN_BIT);
	ck_assert(session->check_regions[0].has_twin);
	ck_assert_uint_eq(quota_device_used(), 2 << 20);
	return session;
}

START_TEST(device_memory)
{
	struct session *session = with_twin();
	uint64_t before = quota_bytes_used();

	/* Asked again, by a client that could not use it: the same. */
	say_device();
	ck_assert_int_eq(client_hear(), INF_CTL_TIMELINE);
	say_twin(0);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	ck_assert_uint_eq(executor_attach_all(0), 0);
	ck_assert_uint_eq(quota_bytes_used(), before);
	ck_assert_uint_eq(quota_device_used(), 2 << 20);
	ck_assert_ptr_null(session->opening);
}
END_TEST

START_TEST(no_device)
{
	client_connect_ready();
	say_device();
	client_assert_refused(-ENODEV, INF_NOT_ALLOWED, "on the CPU");
	memcpy(peers.broker.executor.uuid, "GPU-x", 6);
	peers.broker.executor.state = EXECUTOR_STARTING;
	say_device();
	client_assert_refused(-EAGAIN, INF_LOADING, "being started");
	peers.broker.executor.state = EXECUTOR_READY;
	say_device();
	ck_assert_uint_eq(executor_attach_all(-ENOMEM), 1);
	client_assert_refused(-ENOMEM, INF_BUSY, "no device memory");
	say_device();
	executor_dies();
	client_assert_refused(-EAGAIN, INF_LOADING, "executor died");
}
END_TEST

START_TEST(twin_of_outputs)
{
	struct session *session = with_twin();

	client_open_small();
	say_twin(1); /* an output region */
	client_assert_ended("TWIN of a region");
	ck_assert_uint_eq(session->state, SESSION_ZOMBIE);
}
END_TEST

START_TEST(device_memory_over_the_quota)
{
	client_connect_ready();
	memcpy(peers.broker.executor.uuid, "GPU-x", 6);
	say_device();
	executor_attach_all(0);
	ck_assert_int_eq(client_hear(), INF_CTL_TIMELINE);
	peers.config.user_device_memory_max = 1 << 20;
	say_twin(0);
	client_assert_refused(-EDQUOT, INF_QUOTA, "--user-device-memory-max");
	peers.config.user_device_memory_max = 8 << 20;
	say_twin(0);
	ck_assert_uint_eq(executor_attach_all(-ENOMEM), 1);
	client_assert_refused(-ENOMEM, INF_BUSY, "no device memory");
	ck_assert_uint_eq(quota_device_used(), 0);
}
END_TEST

START_TEST(twin_before_device)
{
	client_connect_ready();
	memcpy(peers.broker.executor.uuid, "GPU-x", 6);
	say_twin(0);
	client_assert_ended("before DEVICE");
}
END_TEST

/* The next executor maps it, or cannot: then the session goes on without. */
START_TEST(device_memory_and_executors)
{
	struct session *session = with_twin();
	uint64_t before = quota_bytes_used();

	executor_dies();
	session_reattach_all(&peers.broker);
	ck_assert_uint_eq(executor_attach_all(0), 3); /* region 0 too */
	ck_assert_int_eq(client_hear(), 0);
	ck_assert(session->check_regions[0].has_twin);
	executor_dies();
	session_reattach_all(&peers.broker);
	ck_assert_uint_eq(executor_attach_all(-EPROTO), 3);
	ck_assert_int_eq(client_hear(), INF_CTL_RETIRE);
	ck_assert_uint_eq(peers.answer.retire.region, INF_TWIN_BIT);
	ck_assert(!session->check_regions[0].has_twin);
	ck_assert_uint_eq(session->state, SESSION_READY);
	ck_assert_uint_eq(quota_device_used(), 0);
	ck_assert_uint_eq(quota_bytes_used(), before);
	ck_assert_int_eq(client_hear(), 0);
}
END_TEST

/* A new executor cannot map what the session had before, while more is asked for: that is not what is refused then. */
START_TEST(old_memory_is_lost_while_a_twin_is_asked_for)
{
	struct session *session = client_connect_ready();

	memcpy(peers.broker.executor.uuid, "GPU-x", 6);
	say_device();
	ck_assert_uint_eq(executor_attach_all(0), 1);
	ck_assert_int_eq(client_hear(), INF_CTL_TIMELINE);
	client_open_small();
	executor_dies();
	session_reattach_all(&peers.broker);
	memcpy(peers.broker.executor.uuid, "GPU-x", 6);
	say_twin(0);
	ck_assert_ptr_nonnull(session->opening);
	ck_assert_int_eq(client_hear(), INF_CTL_RETIRE); /* outputs of the last executor */
	ck_assert(executor_attach_next(-ENOMEM)); /* region 0 */
	client_assert_ended("cannot map its memory");
	ck_assert_uint_eq(session->state, SESSION_ZOMBIE);
}
END_TEST

Suite *suite_open(void);
Suite *suite_open(void)
{
	Suite *suite = suite_create("broker_open");
	TCase *models = tcase_create("models");
	TCase *generations = tcase_create("generations");
	TCase *device = tcase_create("device");

	tcase_add_checked_fixture(models, peers_setup, peers_teardown);
	tcase_add_test(models, small_model_needs_no_arena);
	tcase_add_test(models, large_model_gets_arena_and_double_outputs);
	tcase_add_test(models, refusals_name_the_next_step);
	tcase_add_test(models, executor_that_cannot_map);
	tcase_add_test(models, executor_dies_in_the_middle);
	tcase_add_test(models, executor_dies_while_the_client_maps);
	tcase_add_test(models, growth);
	suite_add_tcase(suite, models);
	tcase_add_checked_fixture(generations, peers_setup, peers_teardown);
	tcase_add_test(generations, new_executor_gets_a_new_output_region);
	tcase_add_test(generations, empty_region_retires_at_once);
	tcase_add_test(generations, death_during_reattach);
	tcase_add_test(generations, zombie_stays_until_detached);
	tcase_add_test(generations, zombie_goes_with_its_executor);
	tcase_add_test(generations, answers_that_are_not_due);
	tcase_add_test(generations, model_that_goes);
	suite_add_tcase(suite, generations);
	tcase_add_checked_fixture(device, peers_setup, peers_teardown);
	tcase_add_test(device, device_memory);
	tcase_add_test(device, no_device);
	tcase_add_test(device, twin_of_outputs);
	tcase_add_test(device, device_memory_over_the_quota);
	tcase_add_test(device, twin_before_device);
	tcase_add_test(device, device_memory_and_executors);
	tcase_add_test(device, old_memory_is_lost_while_a_twin_is_asked_for);
	suite_add_tcase(suite, device);
	return suite;
}
