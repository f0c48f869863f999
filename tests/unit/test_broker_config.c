/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_config.c - every limit can be set, every mistake is named, --help is complete. */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/job.h"
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARGS_MAX 8
#define HELP_COLUMNS 100

static char said[32768];

/* Parses with stdout and stderr caught in `said`. */
static int parse(struct config *config, const char *const *args)
{
	char *argv[ARGS_MAX + 2] = { (char *)"infbroker" };
	int argc = 1;
	int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
	FILE *file = tmpfile();
	int r;

	while (argc <= ARGS_MAX && args[argc - 1]) {
		argv[argc] = (char *)args[argc - 1];
		argc++;
	}
	fflush(stdout);
	dup2(fileno(file), STDOUT_FILENO);
	dup2(fileno(file), STDERR_FILENO);
	r = config_parse(config, argc, argv);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	close(out);
	close(err);
	rewind(file);
	said[fread(said, 1, sizeof(said) - 1, file)] = '\0';
	fclose(file);
	return r;
}

#define PARSE(config, ...) parse(config, (const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

static void setup(void)
{
	unsetenv("INF_LOOP");
}

START_TEST(ipc_users)
{
	struct config config;

	ck_assert_int_eq(PARSE(&config), 0);
	ck_assert_uint_eq(config.n_cuda_ipc_users, 0);
	ck_assert_int_eq(PARSE(&config, "--cuda-ipc-users", "root,7,4294967294"), 0);
	ck_assert_uint_eq(config.n_cuda_ipc_users, 3);
	ck_assert(config.cuda_ipc_users[0] == 0 && config.cuda_ipc_users[1] == 7 && config.cuda_ipc_users[2] == 4294967294);
	ck_assert_int_eq(PARSE(&config, "--cuda-ipc-users", "1,2", "--cuda-ipc-users", "3"), 0);
	ck_assert(config.n_cuda_ipc_users == 1 && config.cuda_ipc_users[0] == 3);
}
END_TEST

START_TEST(ipc_users_that_are_none)
{
	static const struct {
		const char *list, *why;
	} cases[] = { { "*", "no word for everybody" }, { "root,*", "no word for everybody" }, { "no-such-user-here", "no such user" },
		      { "", "with commas between" }, { "1,,2", "with commas between" }, { "1,", "with commas between" },
		      { ",1", "with commas between" }, { "4294967295", "not the number of a user" }, { "-1", "no such user" },
		      { "99999999999", "not the number of a user" } };
	struct config config;

	ck_assert_int_eq(PARSE(&config, "--cuda-ipc-users", cases[_i].list), -EINVAL);
	ck_assert_msg(strstr(said, cases[_i].why), "%s: %s", cases[_i].list, said);
}
END_TEST

START_TEST(too_many_ipc_users)
{
	struct config config;
	char list[4 * CONFIG_IPC_USERS_MAX + 8] = "0";

	for (unsigned int i = 1; i < CONFIG_IPC_USERS_MAX; i++)
		snprintf(list + strlen(list), sizeof(list) - strlen(list), ",%u", i);
	ck_assert_int_eq(PARSE(&config, "--cuda-ipc-users", list), 0);
	ck_assert_uint_eq(config.n_cuda_ipc_users, CONFIG_IPC_USERS_MAX);
	snprintf(list + strlen(list), sizeof(list) - strlen(list), ",99");
	ck_assert_int_eq(PARSE(&config, "--cuda-ipc-users", list), -EINVAL);
}
END_TEST

START_TEST(defaults)
{
	struct config config;

	ck_assert_int_eq(PARSE(&config), 0);
	ck_assert_str_eq(said, "");
	ck_assert_ptr_null(config.socket_path);
	ck_assert_ptr_null(config.models_path);
	ck_assert_int_eq(config.loop, LOOP_AUTO);
	ck_assert_int_eq(config.spin_ns, -1);
	ck_assert(!config.builtin && !config.debug && !config.verbose);
	ck_assert_ptr_nonnull(strstr(config.executor_path, "/infbroker-executor"));
	ck_assert_int_eq(config.executor_path[0], '/');
#define CHECK_DEFAULT(name, value, unit, text) ck_assert_uint_eq(config.name, value);
	CONFIG_LIMITS(CHECK_DEFAULT)
#undef CHECK_DEFAULT
}
END_TEST

START_TEST(options)
{
	struct config config;

	ck_assert_int_eq(PARSE(&config, "--socket", "/x/socket", "--models=/tmp", "--builtin",
			       "--executor=e", "--instances=2", "--threads=3"), 0);
	ck_assert_str_eq(config.socket_path, "/x/socket");
	ck_assert_str_eq(config.models_path, "/tmp");
	ck_assert_str_eq(config.executor_path, "e");
	ck_assert(config.builtin);
	ck_assert_uint_eq(config.instances, 2);
	ck_assert_uint_eq(config.threads, 3);
	ck_assert_int_eq(PARSE(&config, "--debug", "--verbose", "--spin-ns=0", "--loop=epoll"), 0);
	ck_assert(config.debug && config.verbose);
	ck_assert_int_eq(config.spin_ns, 0);
	ck_assert_int_eq(config.loop, LOOP_EPOLL);
}
END_TEST

START_TEST(models_become_absolute)
{
	struct config config;

	ck_assert_int_eq(chdir("/tmp"), 0);
	ck_assert_int_eq(PARSE(&config, "--models", "."), 0);
	ck_assert_str_eq(config.models_path, "/tmp");
}
END_TEST

START_TEST(loop_from_the_environment)
{
	struct config config;

	setenv("INF_LOOP", "epoll", 1);
	ck_assert_int_eq(PARSE(&config), 0);
	ck_assert_int_eq(config.loop, LOOP_EPOLL);
	ck_assert_int_eq(PARSE(&config, "--loop=io_uring"), 0);
	ck_assert_int_eq(config.loop, LOOP_URING);
	setenv("INF_LOOP", "kqueue", 1);
	ck_assert_int_eq(PARSE(&config), -EINVAL);
	ck_assert_ptr_nonnull(strstr(said, "$INF_LOOP kqueue"));
}
END_TEST

START_TEST(no_word_stands_for_another_one)
{
	struct config config;

	ck_assert_int_eq(PARSE(&config, "--memory", "4G"), -EINVAL);
	ck_assert_ptr_nonnull(strstr(said, "--memory: not an option; --memory-max?"));
	ck_assert_int_eq(PARSE(&config, "--memory=4G"), -EINVAL);
	ck_assert_int_eq(PARSE(&config, "--memory-max=4G"), 0);
	ck_assert_int_eq(PARSE(&config, "--verb"), -EINVAL);
}
END_TEST

START_TEST(every_limit_can_be_set)
{
#define SET(name_, value, unit, text)                                                          \
	{                                                                                      \
		struct config config;                                                          \
		char option[64] = "--" #name_;                                                 \
		char number[24];                                                               \
		uint64_t wanted = strcmp(#name_, "lanes") && strcmp(#name_, "lane_slots") ?    \
					  (uint64_t)(value) / 2 : (uint64_t)(value);           \
                                                                                               \
		for (char *c = option + 2; *c; c++)                                            \
			*c = *c == '_' ? '-' : *c;                                             \
		snprintf(number, sizeof(number), "%llu", (unsigned long long)wanted);          \
		ck_assert_int_eq(PARSE(&config, option, number), 0);                           \
		ck_assert_uint_eq(config.name_, wanted);                                       \
	}
	CONFIG_LIMITS(SET)
#undef SET
}
END_TEST

static const struct {
	const char *text;
	uint64_t value; /* 0 = refused */
} numbers[] = {
	{ "1", 1 }, { "4096", 4096 }, { "1K", 1024 },
	{ "3M", 3145728 }, { "2G", 2147483648 }, { "1024G", 1099511627776 },
	{ "", 0 }, { " 1", 0 }, { "+1", 0 },
	{ "-1", 0 }, { "1 ", 0 }, { "1k", 0 },
	{ "1KB", 0 }, { "0x10", 0 }, { "1.5G", 0 },
	{ "G", 0 }, { "18446744073709551616", 0 }, { "18446744073709551615G", 0 },
	{ "1048577G", 0 }, { "0", 0 }, { "18446744073709551615", 0 },
	{ "1e3", 0 },
};

START_TEST(numbers_are_strict)
{
	struct config config = { .memory_max = 7 };
	int r = PARSE(&config, "--memory-max", numbers[_i].text);

	if (numbers[_i].value) {
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(config.memory_max, numbers[_i].value);
		return;
	}
	ck_assert_int_eq(r, -EINVAL);
	ck_assert_uint_eq(config.memory_max, 7); /* untouched */
	ck_assert_ptr_nonnull(strstr(said, "--memory-max"));
	ck_assert_ptr_nonnull(strstr(said, "see infbroker --help"));
}
END_TEST

static const struct {
	const char *args[3];
	const char *says;
} mistakes[] = {
	{ { "--lanes=8" }, "--lanes 8: fixed at 16" },
	{ { "--lane-slots", "512" }, "--lane-slots 512: fixed at 256" },
	{ { "--jobs-max=16385" }, "must be 1 to 16384" },
	{ { "--models-max=65" }, "must be 1 to 64" },
	{ { "--handles-max=65" }, "must be 1 to 64" },
	{ { "--regions-max=65" }, "must be 3 to 64" },
	{ { "--depth-max=4097" }, "must be 1 to 4096" },
	{ { "--sessions-max=0" }, "--sessions-max 0: must be" },
	{ { "--instances=17" }, "--instances 17: must be 1 to 16" },
	{ { "--instances=4294967297" }, "must be 1 to 16" },
	{ { "--threads=0" }, "--threads 0" },
	{ { "--spin-ns=2G" }, "--spin-ns 2G" },
	{ { "--loop=kqueue" }, "--loop kqueue" },
	{ { "--models", "/does/not/exist" }, "/does/not/exist: No such file or directory" },
	{ { "--models", "/dev/null" }, "/dev/null: Not a directory" },
	{ { "--no-such-option" }, "no-such-option" },
	{ { "--socket" }, "socket" },
	{ { "--builtin=yes" }, "builtin" },
	{ { "model.pt" }, "model.pt: not an option" },
};

START_TEST(mistakes_are_named)
{
	struct config config;

	ck_assert_int_eq(parse(&config, mistakes[_i].args), -EINVAL);
	ck_assert_msg(strstr(said, mistakes[_i].says) != NULL, "said: %s", said);
	ck_assert_ptr_nonnull(strstr(said, "see infbroker --help"));
}
END_TEST

START_TEST(help_is_complete_and_narrow)
{
	struct config config;

	ck_assert_int_eq(PARSE(&config, "--help"), 1);
#define IN_HELP(name, value, unit, text)                      \
	ck_assert_ptr_nonnull(strstr(said, text));            \
	ck_assert_ptr_nonnull(strstr(said, unit));
	CONFIG_LIMITS(IN_HELP)
#undef IN_HELP
	ck_assert_ptr_nonnull(strstr(said, "--user-sessions-max"));
	ck_assert_ptr_nonnull(strstr(said, "/run/infbroker/socket"));
	ck_assert_ptr_nonnull(strstr(said, "8G"));
	for (const char *line = said; *line; line = strchr(line, '\n') + 1)
		ck_assert_int_le(strchr(line, '\n') - line, HELP_COLUMNS);
}
END_TEST

START_TEST(version)
{
	struct config config;

	ck_assert_int_eq(PARSE(&config, "--version"), 1);
	ck_assert_int_eq(strncmp(said, "infbroker ", 10), 0);
}
END_TEST

START_TEST(a_low_depth_max_lowers_the_default)
{
	struct config config;

	ck_assert_int_eq(PARSE(&config, "--depth-max=8"), 0);
	ck_assert_uint_eq(config.depth_default, 8);
}
END_TEST

Suite *suite_broker_config(void);
Suite *suite_broker_config(void)
{
	Suite *suite = suite_create("broker_config");
	TCase *good = tcase_create("good");
	TCase *bad = tcase_create("bad");

	tcase_add_checked_fixture(good, setup, NULL);
	tcase_add_checked_fixture(bad, setup, NULL);
	tcase_add_test(good, defaults);
	tcase_add_test(good, ipc_users);
	tcase_add_loop_test(good, ipc_users_that_are_none, 0, 10);
	tcase_add_test(good, too_many_ipc_users);
	tcase_add_test(good, options);
	tcase_add_test(good, models_become_absolute);
	tcase_add_test(good, loop_from_the_environment);
	tcase_add_test(good, every_limit_can_be_set);
	tcase_add_test(good, no_word_stands_for_another_one);
	tcase_add_test(good, help_is_complete_and_narrow);
	tcase_add_test(good, version);
	tcase_add_test(good, a_low_depth_max_lowers_the_default);
	tcase_add_loop_test(bad, numbers_are_strict, 0, sizeof(numbers) / sizeof(numbers[0]));
	tcase_add_loop_test(bad, mistakes_are_named, 0, sizeof(mistakes) / sizeof(mistakes[0]));
	suite_add_tcase(suite, good);
	suite_add_tcase(suite, bad);
	return suite;
}
