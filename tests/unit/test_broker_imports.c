/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_broker_imports.c - IMPORT: who may, what is judged, and importers that do not behave. They are shell scripts here, in
 * the place of the executor's program: none of them has a driver.
 */
#define _GNU_SOURCE 1
#include "broker/quota.h"
#include "broker/session.h"
#include "shm/layout.h"
#include "tests/support/peers.h"
#include "tests/support/script.h"
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[32], script[64], said[64];

static void setup(void)
{
	peers_setup();
	snprintf(folder, sizeof(folder), "/tmp/inf-imports.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(script, sizeof(script), "%s/importer", folder);
	snprintf(said, sizeof(said), "%s/said", folder);
	peers.config.executor_path = script;
	peers.config.commit_ms_max = 60000;
	peers.config.user_importers_max = 2;
	peers.config.cuda_ipc_users[0] = getuid();
	peers.config.n_cuda_ipc_users = 1;
}

static void teardown(void)
{
	peers_teardown();
	/* Nobody is left behind, not as a zombie either. */
	ck_assert(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
	unlink(script);
	unlink(said);
	rmdir(folder);
}

/* What the next importer does. */
static void importer_is(const char *commands)
{
	script_write(script, commands);
}

/* It hears what is asked, answers this, and goes on. */
static void importer_says(int error, uint32_t ends, const char *text, const char *then)
{
	struct inf_ctl_fetched msg;
	char commands[200];
	FILE *file = fopen(said, "w");

	inf_ctl_init(&msg, INF_CTL_FETCHED, 0);
	msg.error = error;
	msg.ends = ends;
	memcpy(msg.text, text, strlen(text));
	ck_assert(file && fwrite(&msg, sizeof(msg), 1, file) == 1);
	fclose(file);
	/* One write: one message. */
	snprintf(commands, sizeof(commands), "dd bs=4096 count=1 <&3 >/dev/null 2>&1\ndd if=%s bs=%zu count=1 >&3 2>/dev/null\n%s", said,
		 sizeof(msg), then);
	importer_is(commands);
}

/* A session with the twin of region 0. */
static struct session *with_twin(void)
{
	struct session *session = client_connect_ready();
	struct inf_ctl_device device;
	struct inf_ctl_twin twin;

	memcpy(peers.broker.executor.uuid, "GPU-x", 6);
	inf_ctl_init(&device, INF_CTL_DEVICE, 11);
	inf_ctl_init(&twin, INF_CTL_TWIN, 12);
	client_say(&device);
	executor_attach_all(0);
	ck_assert_int_eq(client_hear(), INF_CTL_TIMELINE);
	client_say(&twin);
	executor_attach_all(0);
	ck_assert_int_eq(client_hear(), INF_CTL_REGION);
	return session;
}

static struct inf_ctl_import good(void)
{
	struct inf_ctl_import msg;

	inf_ctl_init(&msg, INF_CTL_IMPORT, 13);
	msg.offset = INF_ARENA_OFFSET;
	msg.bytes = INF_REQUEST_BYTES - INF_ARENA_OFFSET;
	memset(msg.memory, 0x5a, sizeof(msg.memory));
	return msg;
}

static void say(const struct inf_ctl_import *msg)
{
	client_say(msg);
}

static void say_good(void)
{
	struct inf_ctl_import msg = good();

	say(&msg);
}

/* Until the front says something: processes take their time. */
static int hear_soon(void)
{
	int r = 0;

	for (int i = 0; i < 20000 && !(r = client_hear()); i++) {
		usleep(1000);
		peers_turn();
	}
	return r;
}

static void refused_soon(int error, enum inf_status status, const char *text)
{
	ck_assert_int_eq(hear_soon(), INF_CTL_ERROR);
	ck_assert_int_eq(peers.answer.error.error, error);
	ck_assert_uint_eq(peers.answer.error.status, status);
	ck_assert_msg(strstr(peers.answer.error.text, text), "%s", peers.answer.error.text);
	ck_assert_uint_eq(peers.answer.head.cookie, 13);
}

static void settle(const struct session *session)
{
	for (int i = 0; i < 20000 && session->importer; i++) {
		usleep(1000);
		peers_turn();
	}
	ck_assert_ptr_null(session->importer);
}

START_TEST(answers)
{
	struct session *session = with_twin();

	importer_says(0, 0, "", "exec sleep 1000");
	say_good();
	ck_assert_int_eq(hear_soon(), INF_CTL_IMPORTED);
	ck_assert_uint_eq(peers.answer.head.cookie, 13);
	ck_assert_ptr_nonnull(session->importer);
	/* An answer to nothing would have it killed; a second one in flight is its client's fault. */
	say_good();
	ck_assert_int_eq(client_hear(), 0);
	say_good();
	client_assert_ended("IMPORT before the last one");
	settle(session); /* the session stays as long as its importer */
}
END_TEST

START_TEST(hands_on_what_was_asked)
{
	struct inf_ctl_import msg = good();
	struct inf_ctl_fetch got = { .bytes = 0 };
	char commands[200];
	FILE *file;

	with_twin();
	snprintf(commands, sizeof(commands), "dd of=%s bs=4096 count=1 <&3 2>/dev/null\necho $* >>%s", said, said);
	importer_is(commands);
	msg.flags = INF_IMPORT_EVENT;
	msg.from_offset = UINT64_MAX; /* the importer's to judge */
	msg.bytes = 7;
	memset(msg.event, 0xa5, sizeof(msg.event));
	say(&msg);
	refused_soon(-EIO, INF_EXECUTOR_LOST, "ended with code 0");
	file = fopen(said, "r");
	ck_assert(file && fread(&got, sizeof(got), 1, file) == 1);
	ck_assert(got.head.type == INF_CTL_FETCH && got.flags == INF_IMPORT_EVENT && got.bytes == 7 && !got.region);
	ck_assert(got.offset == INF_ARENA_OFFSET && got.from_offset == UINT64_MAX);
	ck_assert(!memcmp(got.memory, msg.memory, sizeof(got.memory)) && !memcmp(got.event, msg.event, sizeof(got.event)));
	ck_assert_ptr_nonnull(fgets(commands, sizeof(commands), file));
	ck_assert_str_eq(commands, "--importer --device GPU-x\n");
	fclose(file);
}
END_TEST

START_TEST(refusals)
{
	struct session *session = with_twin();

	importer_says(-EFAULT, 0, "outside", "exec sleep 1000");
	say_good();
	refused_soon(-EFAULT, INF_BAD_MEMORY, "outside");
	ck_assert_uint_eq(session->n_importer_deaths, 0);
	ck_assert_ptr_nonnull(session->importer);
}
END_TEST

/* What it said before it ended is the answer, once it has ended. */
START_TEST(last_words)
{
	struct session *session = with_twin();

	importer_says(-EIO, 1, "lost", "sleep 0.3\nexit 3");
	say_good();
	refused_soon(-EIO, INF_BAD_MEMORY, "lost");
	ck_assert_ptr_null(session->importer);
	ck_assert_uint_eq(session->n_importer_deaths, 1);
}
END_TEST

/* Each of these has it killed, and is a death. */
START_TEST(wrong_words)
{
	static const struct {
		int error;
		uint32_t ends;
		const char *then;
	} cases[] = { { 1, 0, "exec sleep 1000" }, { 0, 2, "exec sleep 1000" }, { 0, 1, "exec sleep 1000" } };
	struct session *session = with_twin();

	importer_says(cases[_i].error, cases[_i].ends, "", cases[_i].then);
	say_good();
	refused_soon(-EIO, INF_EXECUTOR_LOST, "died of Killed");
	ck_assert_uint_eq(session->n_importer_deaths, 1);
}
END_TEST

START_TEST(garbage)
{
	struct session *session = with_twin();

	importer_is("echo what >&3\nexec sleep 1000");
	say_good();
	refused_soon(-EIO, INF_EXECUTOR_LOST, "died of Killed");
	/* An endless text. */
	importer_is("dd if=/dev/zero bs=184 count=1 2>/dev/null | tr '\\0' 'x' | dd bs=184 count=1 >&3 2>/dev/null\nexec sleep 1000");
	say_good();
	refused_soon(-EIO, INF_EXECUTOR_LOST, "died of Killed");
	/* Unasked, after a good one. */
	importer_says(0, 0, "", "");
	{
		char commands[200];

		snprintf(commands, sizeof(commands), "for i in 1 2; do dd if=%s bs=%zu count=1 >&3 2>/dev/null; done\nexec sleep 1000", said,
			 sizeof(struct inf_ctl_fetched));
		importer_is(commands);
	}
	say_good();
	ck_assert_int_eq(hear_soon(), INF_CTL_IMPORTED);
	settle(session);
	ck_assert_uint_eq(session->n_importer_deaths, 1);
	ck_assert_int_eq(client_hear(), 0);
}
END_TEST

START_TEST(deaths)
{
	struct session *session = with_twin();

	importer_is("exit 7");
	for (int i = 0; i < 2; i++) {
		say_good();
		refused_soon(-EIO, INF_EXECUTOR_LOST, "ended with code 7");
		ck_assert_ptr_null(session->importer);
	}
	importer_says(0, 0, "", "exit 7");
	say_good();
	ck_assert_int_eq(hear_soon(), INF_CTL_IMPORTED);
	settle(session);
	ck_assert_uint_eq(session->n_importer_deaths, 1);
	importer_is("kill -SEGV $$");
	for (int i = 0; i < 2; i++) {
		say_good();
		refused_soon(-EIO, INF_EXECUTOR_LOST, "died of Segmentation fault");
	}
	say_good();
	client_assert_refused(-EIO, INF_NOT_ALLOWED, "in a row");
}
END_TEST

START_TEST(deadline)
{
	struct session *session = with_twin();

	peers.config.commit_ms_max = 100;
	importer_is("exec sleep 1000");
	say_good();
	refused_soon(-ETIMEDOUT, INF_DEADLINE, "100 ms");
	ck_assert_ptr_null(session->importer);
	ck_assert_uint_eq(session->n_importer_deaths, 1);
	/* Also one that says that it ends, and does not. */
	importer_says(-EIO, 1, "soon", "exec sleep 1000");
	say_good();
	refused_soon(-ETIMEDOUT, INF_DEADLINE, "100 ms");
}
END_TEST

/* An answer that was there before the front looked counts, though the timer ran out first. */
START_TEST(a_front_that_stood_still)
{
	char commands[200];

	with_twin();
	peers.config.commit_ms_max = 500;
	importer_says(0, 0, "", "");
	snprintf(commands, sizeof(commands), "sleep 0.7\ndd if=%s bs=%zu count=1 >&3 2>/dev/null\nrm %s\nexec sleep 1000", said,
		 sizeof(struct inf_ctl_fetched), said);
	importer_is(commands);
	say_good();
	while (access(said, F_OK) == 0)
		usleep(1000);
	ck_assert_int_eq(hear_soon(), INF_CTL_IMPORTED);
}
END_TEST

START_TEST(not_now)
{
	struct session *session = with_twin();

	unlink(script);
	say_good();
	client_assert_refused(-ENOENT, INF_BUSY, "no importer can be started");
	ck_assert_ptr_null(session->importer);
	peers.config.user_importers_max = 0;
	say_good();
	client_assert_refused(-EDQUOT, INF_QUOTA, "--user-importers-max");
	peers.config.user_importers_max = 2;
	peers.broker.executor.state = EXECUTOR_STARTING;
	say_good();
	client_assert_refused(-EAGAIN, INF_LOADING, "being started");
	peers.broker.executor.state = EXECUTOR_READY;
	peers.config.n_cuda_ipc_users = 0;
	say_good();
	client_assert_refused(-EACCES, INF_NOT_ALLOWED, "--cuda-ipc-users");
	peers.config.cuda_ipc_users[0] = getuid() + 1;
	peers.config.n_cuda_ipc_users = 1;
	say_good();
	client_assert_refused(-EACCES, INF_NOT_ALLOWED, "--cuda-ipc-users");
	ck_assert_ptr_null(session->importer);
}
END_TEST

START_TEST(memory_that_is_lost)
{
	struct session *session = with_twin();

	importer_is("exec sleep 1000");
	say_good();
	ck_assert_ptr_nonnull(session->importer);
	executor_dies();
	session_reattach_all(&peers.broker);
	executor_attach_all(-ENOMEM);
	ck_assert_int_eq(hear_soon(), INF_CTL_RETIRE);
	refused_soon(-EIO, INF_EXECUTOR_LOST, "died of Killed");
	ck_assert_uint_eq(session->n_importer_deaths, 0);
	ck_assert_ptr_null(session->importer);
	say_good();
	client_assert_refused(-ESTALE, INF_BAD_MEMORY, "no device memory");
}
END_TEST

START_TEST(a_session_ends)
{
	struct session *session = with_twin();

	importer_is("exec sleep 1000");
	say_good();
	ck_assert_int_eq(client_hear(), 0);
	session_end(&peers.broker, session, NULL);
	/* Charged as long as somebody can reach it. */
	ck_assert_uint_eq(peers.broker.n_sessions, 1);
	ck_assert_uint_eq(quota_device_used(), 2 << 20);
	executor_detach_all();
	for (int i = 0; i < 20000 && peers.broker.n_sessions; i++) {
		usleep(1000);
		peers_turn();
	}
	ck_assert_uint_eq(peers.broker.n_sessions, 0);
	ck_assert_uint_eq(quota_device_used(), 0);
}
END_TEST

/* The fixture's end kills and buries the one that waits. */
START_TEST(the_broker_ends)
{
	with_twin();
	importer_is("exec sleep 1000");
	say_good();
	ck_assert_int_eq(client_hear(), 0);
}
END_TEST

/* What only a broken or hostile client sends. */
START_TEST(hostile)
{
	struct inf_ctl_import msg = good();
	const char *why = "IMPORT into a region";
	struct session *session;

	if (_i == 0)
		session = client_connect_ready();
	else
		session = with_twin();
	importer_is("exec sleep 1000");
	switch (_i) {
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
		client_open_small();
		msg.region = session->handles[0].pool->region; /* an output */
		break;
	case 5:
		msg.bytes = 0;
		why = "IMPORT of nothing";
		break;
	case 6:
		msg.bytes++;
		why = "beyond its region";
		break;
	case 7:
		msg.bytes = UINT64_MAX;
		why = "beyond its region";
		break;
	case 8:
		msg.offset = UINT64_MAX;
		why = "beyond its region";
		break;
	case 9:
		msg.flags = INF_IMPORT_EVENT << 1;
		why = "unknown flags";
		break;
	case 10:
		msg.event[INF_CTL_IPC_BYTES - 1] = 1;
		why = "event without its flag";
		break;
	case 11:
		session->features &= ~INF_FEATURE_IMPORT;
		why = "without that feature";
		break;
	}
	say(&msg);
	client_assert_ended(why);
}
END_TEST

Suite *suite_broker_imports(void);
Suite *suite_broker_imports(void)
{
	Suite *suite = suite_create("broker_imports");
	TCase *tcase = tcase_create("imports");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, answers);
	tcase_add_test(tcase, hands_on_what_was_asked);
	tcase_add_test(tcase, refusals);
	tcase_add_test(tcase, last_words);
	tcase_add_loop_test(tcase, wrong_words, 0, 3);
	tcase_add_test(tcase, garbage);
	tcase_add_test(tcase, deaths);
	tcase_add_test(tcase, deadline);
	tcase_add_test(tcase, a_front_that_stood_still);
	tcase_add_test(tcase, not_now);
	tcase_add_test(tcase, memory_that_is_lost);
	tcase_add_test(tcase, a_session_ends);
	tcase_add_test(tcase, the_broker_ends);
	tcase_add_loop_test(tcase, hostile, 0, 12);
	suite_add_tcase(suite, tcase);
	return suite;
}
