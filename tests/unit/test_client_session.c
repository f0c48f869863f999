/* SPDX-License-Identifier: Apache-2.0 */
/* test_client_session.c - finding the broker, the handshake, opening models, memory on demand,
 * fork. */
#define _GNU_SOURCE 1
#include "tests/support/rig.h"
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct rig *rig;
static char error[512];

static void setup(void)
{
	rig = rig_new();
}

static void teardown(void)
{
	rig_free(rig);
}

static int open_at(const char *path)
{
	struct inf_options options = { .size = sizeof(options),
				       .socket = path,
				       .error = error,
				       .error_bytes = sizeof(error) };
	struct inf_client *client = NULL;
	int r = inf_open(&client, &options);

	if (!r)
		inf_close(client);
	else
		ck_assert_ptr_null(client);
	return r;
}

START_TEST(open_and_close)
{
	ck_assert_int_eq(open_at(rig_path(rig)), 0);
	ck_assert_str_eq(error, "");
	inf_close(NULL);
}
END_TEST

START_TEST(says_where_it_looked)
{
	char path[200];

	ck_assert_int_eq(open_at("/nonexistent/socket"), -ENOENT);
	ck_assert_ptr_nonnull(strstr(error, "/nonexistent/socket"));
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = 0;
	ck_assert_int_eq(open_at(path), -ENAMETOOLONG);
	ck_assert_ptr_nonnull(strstr(error, "107 bytes"));

	setenv("INFBROKER_SOCKET", "/nonexistent/from-environment", 1);
	ck_assert_int_eq(open_at(NULL), -ENOENT);
	ck_assert_ptr_nonnull(
		strstr(error, "/nonexistent/from-environment (from $INFBROKER_SOCKET)"));
	unsetenv("INFBROKER_SOCKET");
	setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	ck_assert_int_eq(open_at(NULL), -ENOENT);
	ck_assert_ptr_nonnull(strstr(error, "/nonexistent/infbroker/socket: No such file"));
	ck_assert_ptr_nonnull(strstr(error, "/run/infbroker/socket: "));
	ck_assert_ptr_nonnull(strstr(error, "start infbroker"));
}
END_TEST

/* The text is cut, never past its room. */
START_TEST(short_error_room)
{
	for (size_t room = 0; room < 80; room++) {
		struct inf_options options = { .size = sizeof(options),
					       .socket = "/nonexistent/socket",
					       .error = error,
					       .error_bytes = room };
		struct inf_client *client;

		memset(error, '#', sizeof(error));
		ck_assert_int_eq(inf_open(&client, &options), -ENOENT);
		ck_assert_int_eq(error[room], '#');
		if (room)
			ck_assert_ptr_nonnull(memchr(error, 0, room));
	}
}
END_TEST

START_TEST(options_of_other_releases)
{
	struct {
		struct inf_options options;
		uint64_t newer;
	} later = { .options = { .size = sizeof(later), .socket = rig_path(rig) } };
	struct inf_client *client;

	later.newer = 1;
	ck_assert_int_eq(inf_open(&client, &later.options), -EINVAL);
	later.newer = 0;
	ck_assert_int_eq(inf_open(&client, &later.options), 0);
	inf_close(client);
	later.options.size = 0;
	ck_assert_int_eq(inf_open(&client, &later.options), -EINVAL);
	ck_assert_int_eq(inf_open(NULL, NULL), -EINVAL);
}
END_TEST

START_TEST(models)
{
	struct inf_client *client = rig_open(rig);
	struct inf_model_info info = { .size = sizeof(info) };
	struct inf_model *echo, *again, *none = NULL;

	ck_assert_int_eq(inf_model_open(client, "echo", 0, &echo), 0);
	ck_assert_int_eq(inf_model_open(client, "echo", 5, &again), 0);
	ck_assert_ptr_eq(echo, again);
	ck_assert_str_eq(inf_model_signature(echo)->name, "echo");
	ck_assert_uint_eq(inf_output_bound(echo, 3, 0), 48);
	ck_assert_uint_eq(inf_output_bound(echo, 3, 1), 0);
	ck_assert_int_eq(inf_model_open(client, "loading", 0, &none), -EAGAIN);
	ck_assert_str_eq(inf_error(client), "still loading");
	ck_assert_int_eq(inf_model_open(client, "nope", 0, &none), -ENOENT);
	/* No control characters reach a terminal. */
	ck_assert_str_eq(inf_error(client), "no such model?[2J");
	ck_assert_ptr_null(none);
	ck_assert_int_eq(inf_model_list(client, 1, &info), 0);
	ck_assert_str_eq(info.signature.name, "vary");
	ck_assert_uint_eq(info.time_ns[0], 1000);
	ck_assert_int_eq(inf_model_list(client, 3, &info), -ENOENT);
	ck_assert_uint_eq(inf_session(client), 7);
	inf_close(client);
}
END_TEST

START_TEST(arena_grows)
{
	struct inf_client *client = rig_open(rig);
	struct inf_request *reqs[40];
	struct inf_model *big;

	ck_assert_int_eq(inf_model_open(client, "big", 0, &big), 0);
	for (unsigned int i = 0; i < 20; i++) {
		ck_assert_int_eq(inf_request_take(big, 1, &reqs[i]), 0);
		memset(inf_input(reqs[i], 0), (int)i, 1 << 20);
		/* Vector loads past the end stay in mapped memory. */
		ck_assert_int_ge(((volatile char *)inf_input(reqs[i], 0))[(1 << 20) + 63], -128);
	}
	ck_assert_uint_eq(rig_n_grows(rig), 2);
	for (unsigned int i = 0; i < 20; i++)
		ck_assert_int_eq(*(char *)inf_input(reqs[i], 0), (char)i);
	rig_refuse_growth(rig);
	for (unsigned int i = 20; i < 40; i++) {
		int r = inf_request_take(big, 1, &reqs[i]);

		if (r) {
			ck_assert_int_eq(r, -ENOBUFS);
			reqs[i] = NULL;
		}
	}
	ck_assert_ptr_null(reqs[39]);
	/* A refusal is remembered for a while: the broker is not asked for each of them. */
	ck_assert_uint_le(rig_n_grows(rig), 4);
	inf_request_give(reqs[0]);
	ck_assert_int_eq(inf_request_take(big, 1, &reqs[0]), 0);
	inf_close(client);
}
END_TEST

/* Blocks that idle requests of one model sit on serve another model before the broker is asked. */
START_TEST(idle_memory_is_called_in)
{
	struct inf_client *client = rig_open(rig);
	struct inf_request *reqs[400], *one;
	struct inf_model *echo, *vary;
	unsigned int n = 0;

	rig_refuse_growth(rig);
	ck_assert_int_eq(inf_model_open(client, "echo", 0, &echo), 0);
	ck_assert_int_eq(inf_model_open(client, "vary", 0, &vary), 0);
	while (n < 400 && !inf_request_take(echo, 256, &reqs[n]))
		n++;
	ck_assert_uint_gt(n, 10);
	ck_assert_uint_lt(n, 400);
	while (!inf_request_take(vary, 1, &one))
		;
	for (unsigned int i = 0; i < n; i++)
		inf_request_give(reqs[i]);
	ck_assert_int_eq(inf_request_take(vary, 1, &one), 0);
	inf_close(client);
}
END_TEST

static int child(struct inf_client *client, struct inf_model *model, struct inf_request *req)
{
	struct inf_request *other;

	if (((float *)inf_input(req, 0))[0] != 42)
		return 1;
	if (inf_submit(req) != -EOWNERDEAD || inf_wait(req, 0) != -EOWNERDEAD ||
	    inf_poll(req) != -EOWNERDEAD)
		return 2;
	if (inf_request_take(model, 1, &other) != -EOWNERDEAD ||
	    inf_ping(client, 0, NULL) != -EOWNERDEAD)
		return 3;
	if (inf_cancel(req) != -EOWNERDEAD || inf_fd(client) != -EOWNERDEAD)
		return 4;
	/* The words are those of this call, not of the one before. */
	if (inf_model_open(client, "vary", 0, &model) != -EOWNERDEAD || !strstr(inf_error(client), "forked"))
		return 5;
	inf_request_give(req);
	inf_thread_leave(client);
	inf_close(client);
	return 0;
}

START_TEST(forked_child)
{
	struct inf_client *client = rig_open(rig);
	struct inf_request *req;
	struct inf_model *echo, *other;
	char long_name[INF_NAME_BYTES + 1] = { 0 };
	int status;
	pid_t pid;

	memset(long_name, 'x', INF_NAME_BYTES);
	ck_assert_int_eq(inf_model_open(client, "echo", 0, &echo), 0);
	ck_assert_int_eq(inf_request_take(echo, 1, &req), 0);
	((float *)inf_input(req, 0))[0] = 42;
	ck_assert_int_eq(inf_model_open(client, long_name, 0, &other), -ENOENT);
	ck_assert_ptr_nonnull(strstr(inf_error(client), "64 bytes"));
	pid = fork();
	if (!pid) {
		alarm(10);
		/* The rig has one session: no second open here. */
		_exit(child(client, echo, req));
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	rig_echo(rig);
	ck_assert_int_eq(inf_submit(req), 0);
	ck_assert_int_eq(inf_wait(req, INF_FOREVER), 0);
	ck_assert(((const float *)inf_output(req, 0))[0] == 42);
	inf_close(client);
}
END_TEST

Suite *suite_client_session(void);

Suite *suite_client_session(void)
{
	Suite *suite = suite_create("client_session");
	TCase *tc = tcase_create("open");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, open_and_close);
	tcase_add_test(tc, says_where_it_looked);
	tcase_add_test(tc, short_error_room);
	tcase_add_test(tc, options_of_other_releases);
	tcase_add_test(tc, models);
	suite_add_tcase(suite, tc);
	tc = tcase_create("memory");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, arena_grows);
	tcase_add_test(tc, idle_memory_is_called_in);
	suite_add_tcase(suite, tc);
	tc = tcase_create("fork");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, forked_child);
	suite_add_tcase(suite, tc);
	return suite;
}
