/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_broker_registry.c - which model serves after what an executor says, and which of its words
 * have it killed. The test is the executor: it reads LOAD and UNLOAD from the other end of the
 * socket.
 */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/pipeline.h"
#include "broker/quota.h"
#include "broker/registry.h"
#include "broker/session.h"
#include "shm/signature.h"
#include "tests/support/peers.h"
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct config config;
static struct broker broker;
static int executor_fd;

static void setup(void)
{
	int pair[2];

	memset(&broker, 0, sizeof(broker));
	config = (struct config){ .sessions_max = 4,
				  .models_max = 8,
				  .memory_max = 1 << 30,
				  .user_memory_max = 1 << 30 };
	broker.config = &config;
	broker.stats = calloc(1, sizeof(*broker.stats));
	ck_assert_ptr_nonnull(broker.stats);
	ck_assert_int_eq(loop_new(&broker.loop, LOOP_EPOLL, 16, &broker), 0);
	ck_assert_int_eq(pipeline_init(&broker), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	broker.executor.control_fd = pair[0];
	executor_fd = pair[1];
	broker.executor.pid = getpid();
	broker.executor.pid_fd = -1;
	broker.executor.state = EXECUTOR_READY;
	broker.executor.generation = 1;
	broker.executor.loading = -1;
}

static void teardown(void)
{
	if (broker.sessions[0]) {
		struct session *session = broker.sessions[0];

		user_unref(session->user);
		free(session);
	}
	registry_free(&broker);
	close(broker.executor.control_fd);
	close(executor_fd);
	pipeline_deinit(&broker);
	loop_free(broker.loop);
	free(broker.stats);
}

/* --- the executor's part --- */

/* The next message to the executor, 0 = none. */
static uint16_t told(union inf_ctl_any *ret)
{
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;

	if (inf_ctl_recv(executor_fd, INF_CTL_FROM_FRONT_TO_EXECUTOR, ret, fds, &n_fds, true) != 0)
		return 0;
	return ret->head.type;
}

static void assert_told(uint16_t type, uint32_t model)
{
	union inf_ctl_any msg;

	ck_assert_uint_eq(told(&msg), type);
	if (type == INF_CTL_LOAD)
		ck_assert_uint_eq(msg.load.model, model);
	if (type == INF_CTL_UNLOAD)
		ck_assert_uint_eq(msg.unload.model, model);
}

static void assert_told_nothing(void)
{
	union inf_ctl_any msg;

	ck_assert_uint_eq(told(&msg), 0);
}

static int say_found(const char *name, uint32_t version, uint64_t mtime_ns)
{
	struct inf_ctl_found msg = {
		.version = version, .inode = 7, .mtime_ns = mtime_ns, .file_bytes = 100
	};

	memcpy(msg.name, name, strlen(name));
	return registry_found(&broker, &msg);
}

static int say_scanned(uint32_t n_found, int32_t error)
{
	struct inf_ctl_scanned msg = { .n_found = n_found, .error = error };

	return registry_scanned(&broker, &msg);
}

/* A whole scan that finds one file, or none where name is NULL. */
static void scan(const char *name, uint32_t version, uint64_t mtime_ns)
{
	registry_scan(&broker);
	assert_told(INF_CTL_SCAN, 0);
	if (name)
		ck_assert_int_eq(say_found(name, version, mtime_ns), 0);
	ck_assert_int_eq(say_scanned(name ? 1 : 0, 0), 0);
}

static int say_loading(uint32_t model)
{
	return registry_loading(&broker, &(struct inf_ctl_loading){ .model = model });
}

static int say_loaded(uint32_t model, const struct inf_signature *signature)
{
	struct inf_ctl_loaded msg = { .model = model, .signature = *signature };

	for (int i = 0; i < 5; i++)
		msg.time_ns[i] = 1000u << i;
	return registry_loaded(&broker, &msg);
}

static int say_failed(uint32_t model, const char *text)
{
	struct inf_ctl_failed msg = { .model = model, .error = -EINVAL };

	memcpy(msg.text, text, strlen(text));
	return registry_failed(&broker, &msg);
}

static void load(uint32_t model, const char *name, int64_t n)
{
	struct inf_signature signature = peers_signature(name, n);

	assert_told(INF_CTL_LOAD, model);
	ck_assert_int_eq(say_loading(model), 0);
	ck_assert_int_eq(say_loaded(model, &signature), 0);
}

static void new_executor(uint32_t n_chances)
{
	broker.executor.state = EXECUTOR_WAITING;
	registry_executor_died(&broker, n_chances);
	broker.executor.generation++;
	broker.executor.state = EXECUTOR_READY;
}

/* A session with one handle on a model. */
static struct handle *open_handle(struct model *model)
{
	struct session *session = calloc(1, sizeof(*session));
	struct handle *handle;

	ck_assert_ptr_nonnull(session);
	session->user = user_ref(1);
	session->state = SESSION_READY;
	session->n_handles = 1;
	broker.sessions[0] = session;
	handle = &session->handles[0];
	handle->session = session;
	handle->model = model;
	handle->hash = model->signature.hash;
	handle->check.signature = &model->signature;
	model->n_handles++;
	return handle;
}

/* --- names --- */

START_TEST(names_are_judged)
{
	static const struct {
		const char *name;
		bool valid;
	} table[] = {
		{ "a", true },	       { "resnet50-v1.5_X", true },
		{ "", false },	       { ".hidden", false },
		{ "..", false },       { "a/b", false },
		{ "a b", false },      { "a\nb", false },
		{ "\xc3\xa4", false }, { "a..b", true },
	};
	char name[INF_NAME_BYTES];

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		memset(name, 0, sizeof(name));
		memcpy(name, table[i].name, strlen(table[i].name));
		ck_assert_msg(registry_name_is_valid(name) == table[i].valid, "%s", name);
	}
	memset(name, 'x', sizeof(name));
	ck_assert(!registry_name_is_valid(name));
	name[INF_NAME_BYTES - 1] = '\0';
	ck_assert(registry_name_is_valid(name));
}
END_TEST

/* --- loading --- */

START_TEST(found_loads_and_serves)
{
	struct model *model;

	ck_assert(!registry_is_scanned(&broker));
	scan("net", 1, 5);
	ck_assert(registry_is_scanned(&broker));
	ck_assert(!registry_is_settled(&broker));
	model = registry_find(&broker, "net");
	ck_assert_ptr_nonnull(model);
	ck_assert_uint_eq(model->state, INF_MODEL_LOADING);
	load(0, "net", 4);
	ck_assert_uint_eq(model->state, INF_MODEL_READY);
	ck_assert(model->loaded);
	ck_assert_uint_eq(model->time_ns[1], 2000);
	ck_assert_uint_eq(model->batch_best, 1); /* no size has a better rate */
	ck_assert(registry_is_settled(&broker));
	ck_assert_ptr_eq(registry_at(&broker, 0), model);
	ck_assert_ptr_null(registry_at(&broker, 1));
	ck_assert_ptr_null(registry_find(&broker, "other"));
	scan("net", 1, 5); /* nothing new */
	assert_told_nothing();
}
END_TEST

START_TEST(higher_version_first_then_the_next)
{
	registry_scan(&broker);
	assert_told(INF_CTL_SCAN, 0);
	ck_assert_int_eq(say_found("net", 2, 5), 0);
	ck_assert_int_eq(say_found("net", 3, 5), 0);
	ck_assert_int_eq(say_found("net", 1, 5), 0);
	ck_assert_int_eq(say_scanned(3, 0), 0);
	assert_told(INF_CTL_LOAD, 0);
	assert_told_nothing();
	ck_assert_uint_eq(broker.models[0]->version, 3);
	ck_assert_int_eq(say_loading(0), 0);
	ck_assert_int_eq(say_failed(0, "no\x01good"), 0);
	ck_assert_str_eq(broker.models[0]->text, "no\\x01good");
	load(1, "net", 4);
	ck_assert_uint_eq(registry_find(&broker, "net")->version, 2);
}
END_TEST

START_TEST(failed_until_the_file_changes)
{
	scan("net", 1, 5);
	assert_told(INF_CTL_LOAD, 0);
	ck_assert_int_eq(say_loading(0), 0);
	ck_assert_int_eq(say_failed(0, "not an archive"), 0);
	ck_assert_uint_eq(registry_find(&broker, "net")->state, INF_MODEL_FAILED);
	ck_assert(registry_is_settled(&broker));
	scan("net", 1, 5);
	assert_told_nothing();
	new_executor(1);
	scan("net", 1, 5);
	assert_told_nothing();
	scan("net", 1, 6);
	load(0, "net", 4);
	ck_assert_uint_eq(registry_find(&broker, "net")->state, INF_MODEL_READY);
	ck_assert_str_eq(registry_find(&broker, "net")->text, "");
}
END_TEST

START_TEST(bad_signatures_fail_the_model_only)
{
	struct inf_signature signature = peers_signature("other", 4);

	scan("net", 1, 5);
	assert_told(INF_CTL_LOAD, 0);
	ck_assert_int_eq(say_loading(0), 0);
	ck_assert_int_eq(say_loaded(0, &signature), 0);
	ck_assert_uint_eq(broker.models[0]->state, INF_MODEL_FAILED);
	assert_told(INF_CTL_UNLOAD, 0);
	scan("net", 1, 6);
	assert_told(INF_CTL_LOAD, 0);
	ck_assert_int_eq(say_loading(0), 0);
	signature = peers_signature("net", 4);
	signature.batch_max = INF_BATCH_MAX + 1;
	ck_assert_int_eq(say_loaded(0, &signature), 0);
	ck_assert_uint_eq(broker.models[0]->state, INF_MODEL_FAILED);
	assert_told(INF_CTL_UNLOAD, 0);
}
END_TEST

/* --- what only a broken executor says --- */

START_TEST(wrong_words_are_protocol_errors)
{
	struct inf_signature signature = peers_signature("net", 4);

	ck_assert_int_eq(say_found("net", 1, 5), -EPROTO); /* no scan */
	ck_assert_int_eq(say_scanned(0, 0), -EPROTO);
	registry_scan(&broker);
	assert_told(INF_CTL_SCAN, 0);
	ck_assert_int_eq(say_found("../net", 1, 5), -EPROTO);
	ck_assert_int_eq(say_found("net", 0, 5), -EPROTO);
	ck_assert_int_eq(say_found("net", 1, 5), 0);
	ck_assert_int_eq(say_scanned(2, 0), -EPROTO); /* miscounted */
	ck_assert_int_eq(say_scanned(1, 1), -EPROTO);
	ck_assert_int_eq(say_scanned(1, 0), 0);
	assert_told(INF_CTL_LOAD, 0);
	ck_assert_int_eq(say_loading(1), -EPROTO);
	ck_assert_int_eq(say_loading(MODELS_MAX), -EPROTO);
	ck_assert_int_eq(say_loaded(0, &signature), -EPROTO); /* without LOADING */
	ck_assert_int_eq(say_failed(UINT32_MAX, ""), -EPROTO);
	ck_assert_int_eq(say_loading(0), 0);
	ck_assert_int_eq(say_loading(0), -EPROTO);
	ck_assert_int_eq(say_loaded(0, &signature), 0);
	ck_assert_int_eq(say_loaded(0, &signature), -EPROTO); /* twice */
}
END_TEST

START_TEST(too_many_models_are_left_out)
{
	char name[] = "m0";

	registry_scan(&broker);
	assert_told(INF_CTL_SCAN, 0);
	for (; name[1] < '0' + 9; name[1]++)
		ck_assert_int_eq(say_found(name, 1, 5), 0);
	ck_assert_int_eq(say_scanned(9, 0), 0);
	for (uint32_t i = 0; i < 8; i++)
		assert_told(INF_CTL_LOAD, i);
	assert_told_nothing();
	ck_assert_ptr_null(registry_find(&broker, "m8"));
}
END_TEST

/* --- files that change --- */

START_TEST(changed_file_takes_over)
{
	struct handle *handle;

	scan("net", 1, 5);
	load(0, "net", 4);
	handle = open_handle(broker.models[0]);
	scan("net", 1, 6);
	ck_assert_ptr_eq(registry_find(&broker, "net"),
			 broker.models[0]); /* until the new one is ready */
	load(1, "net", 4);
	ck_assert_ptr_eq(registry_find(&broker, "net"), broker.models[1]);
	ck_assert_ptr_eq(handle->model, broker.models[1]);
	ck_assert_ptr_eq(handle->check.signature, &broker.models[1]->signature);
	ck_assert(broker.models[0]->superseded);
	broker.models[0]->rows_running = 1; /* drains first */
	registry_reap(&broker);
	assert_told_nothing();
	broker.models[0]->rows_running = 0;
	registry_reap(&broker);
	assert_told(INF_CTL_UNLOAD, 0);
	ck_assert_ptr_null(broker.models[0]);
	ck_assert_uint_eq(broker.n_superseded, 0);
}
END_TEST

START_TEST(another_signature_must_be_opened_again)
{
	struct handle *handle;

	scan("net", 1, 5);
	load(0, "net", 4);
	handle = open_handle(broker.models[0]);
	scan("net", 1, 6);
	load(1, "net", 5);
	ck_assert(handle->model->superseded); /* intake answers NO_MODEL */
	registry_reap(&broker);
	ck_assert_ptr_null(handle->model);
	ck_assert_ptr_null(handle->check.signature);
}
END_TEST

START_TEST(failed_reload_changes_nothing)
{
	scan("net", 1, 5);
	load(0, "net", 4);
	scan("net", 1, 6);
	assert_told(INF_CTL_LOAD, 1);
	ck_assert_int_eq(say_loading(1), 0);
	ck_assert_int_eq(say_failed(1, "broken"), 0);
	ck_assert_ptr_eq(registry_find(&broker, "net"), broker.models[0]);
	ck_assert(!broker.models[0]->superseded);
}
END_TEST

START_TEST(vanished_file_is_unloaded)
{
	scan("net", 1, 5);
	load(0, "net", 4);
	registry_scan(&broker);
	assert_told(INF_CTL_SCAN, 0);
	ck_assert_int_eq(say_scanned(0, -EACCES), 0); /* unreadable is not empty */
	ck_assert_ptr_nonnull(registry_find(&broker, "net"));
	scan(NULL, 0, 0);
	ck_assert_ptr_null(registry_find(&broker, "net"));
	registry_reap(&broker);
	assert_told(INF_CTL_UNLOAD, 0);
	ck_assert_ptr_null(broker.models[0]);
}
END_TEST

/* --- executors that die --- */

START_TEST(file_that_kills_its_loader)
{
	scan("net", 1, 5);
	assert_told(INF_CTL_LOAD, 0);
	ck_assert_int_eq(say_loading(0), 0);
	new_executor(1);
	ck_assert_uint_eq(broker.models[0]->state, INF_MODEL_FAILED);
	scan("net", 1, 5);
	assert_told_nothing();
}
END_TEST

START_TEST(death_that_others_may_have_caused)
{
	scan("net", 1, 5);
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(broker.models[0]->state, INF_MODEL_LOADING);
		assert_told(INF_CTL_LOAD, 0);
		ck_assert_int_eq(say_loading(0), 0);
		new_executor(3);
		scan("net", 1, 5);
	}
	ck_assert_uint_eq(broker.models[0]->state, INF_MODEL_FAILED);
	assert_told_nothing();
}
END_TEST

START_TEST(new_executor_loads_again)
{
	struct handle *handle;

	scan("net", 1, 5);
	load(0, "net", 4);
	handle = open_handle(broker.models[0]);
	new_executor(1);
	ck_assert_uint_eq(broker.models[0]->state, INF_MODEL_READY); /* requests wait */
	ck_assert(!broker.models[0]->loaded);
	scan("net", 1, 5);
	load(0, "net", 4);
	ck_assert_ptr_eq(handle->model, broker.models[0]);
	new_executor(1);
	scan("net", 1, 6); /* changed while there was none */
	load(0, "net", 5);
	ck_assert_ptr_null(handle->model);
	ck_assert(broker.models[0]->loaded);
}
END_TEST

Suite *suite_registry(void);
Suite *suite_registry(void)
{
	Suite *suite = suite_create("broker_registry");
	TCase *names = tcase_create("names"), *loading = tcase_create("loading"),
	      *hostile = tcase_create("hostile");
	TCase *changes = tcase_create("changes"), *death = tcase_create("death");

	tcase_add_test(names, names_are_judged);
	tcase_add_test(loading, found_loads_and_serves);
	tcase_add_test(loading, higher_version_first_then_the_next);
	tcase_add_test(loading, failed_until_the_file_changes);
	tcase_add_test(loading, bad_signatures_fail_the_model_only);
	tcase_add_test(hostile, wrong_words_are_protocol_errors);
	tcase_add_test(hostile, too_many_models_are_left_out);
	tcase_add_test(changes, changed_file_takes_over);
	tcase_add_test(changes, another_signature_must_be_opened_again);
	tcase_add_test(changes, failed_reload_changes_nothing);
	tcase_add_test(changes, vanished_file_is_unloaded);
	tcase_add_test(death, file_that_kills_its_loader);
	tcase_add_test(death, death_that_others_may_have_caused);
	tcase_add_test(death, new_executor_loads_again);
	suite_add_tcase(suite, names);
	for (unsigned int i = 0; i < 4; i++) {
		TCase *cases[] = { loading, hostile, changes, death };

		tcase_add_checked_fixture(cases[i], setup, teardown);
		suite_add_tcase(suite, cases[i]);
	}
	return suite;
}
