/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_broker_supervisor.c - what a program gets that is started as an executor, and what happens
 * when it is none: missing, ends at once, talks nonsense, does not end. Shell scripts play it.
 */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/pipeline.h"
#include "broker/supervisor.h"
#include "tests/support/script.h"
#include <check.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct config config;
static struct broker broker;
static char folder[] = "/tmp/inf-supervisor.XXXXXX";
static char program[sizeof(folder) + 16], said[sizeof(folder) + 16];

static void setup(void)
{
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(program, sizeof(program), "%s/program", folder);
	snprintf(said, sizeof(said), "%s/said", folder);
	memset(&broker, 0, sizeof(broker));
	config = (struct config){ .sessions_max = 1,
				  .executor_path = program,
				  .executor_deaths_max = 2 };
	broker.config = &config;
	broker.stats = calloc(1, sizeof(*broker.stats));
	ck_assert_ptr_nonnull(broker.stats);
	ck_assert_int_eq(loop_new(&broker.loop, LOOP_AUTO, 64, &broker), 0);
	ck_assert_int_eq(pipeline_init(&broker), 0);
}

static void teardown(void)
{
	supervisor_stop(&broker);
	pipeline_deinit(&broker);
	loop_free(broker.loop);
	free(broker.stats);
	unlink(program);
	unlink(said);
	rmdir(folder);
}

static void wait_for(enum executor_state state)
{
	while (broker.executor.state != state)
		ck_assert_int_ge(loop_wait(broker.loop), 0);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

START_TEST(missing_program)
{
	ck_assert_int_eq(supervisor_start(&broker), 0);
	ck_assert_int_eq(broker.executor.state, EXECUTOR_FAILED);
	ck_assert_int_eq(supervisor_send(&broker, "", NULL, 0), -EPIPE);
	supervisor_kill(&broker, "nothing to kill");
	script_write(program, "exec sleep 60"); /* it is installed, and tried again */
	ck_assert_int_eq(supervisor_start(&broker), 0);
	ck_assert_int_eq(broker.executor.state, EXECUTOR_STARTING);
	ck_assert_int_eq(supervisor_start(&broker), -EALREADY);
	supervisor_kill(&broker, "enough");
}
END_TEST

START_TEST(program_that_cannot_be_executed)
{
	script_write(program, "exit 0");
	chmod(program, 0600);
	ck_assert_int_eq(supervisor_start(&broker), 0);
	ck_assert_int_eq(broker.executor.state, EXECUTOR_FAILED);
}
END_TEST

START_TEST(ends_at_once)
{
	script_write(program, "exit 3");
	config.executor_deaths_max = 3;
	ck_assert_int_eq(supervisor_start(&broker), 0);
	wait_for(EXECUTOR_FAILED);
	ck_assert_uint_eq(broker.stats->n_executor_deaths, 3);
	ck_assert_uint_eq(broker.executor.generation, 3);
	ck_assert_uint_eq(broker.executor.timer_source.id, 0);
	ck_assert_int_eq(broker.executor.pid, 0);
}
END_TEST

START_TEST(talks_nonsense)
{
	script_write(program, "printf nonsense >&3; exec sleep 60");
	ck_assert_int_eq(supervisor_start(&broker), 0);
	wait_for(EXECUTOR_FAILED);
	ck_assert_uint_eq(broker.stats->n_executor_deaths, 2);
}
END_TEST

START_TEST(hangs_up_without_ending)
{
	script_write(program, "exec 3>&-; exec sleep 60");
	ck_assert_int_eq(supervisor_start(&broker), 0);
	wait_for(EXECUTOR_FAILED);
	ck_assert_uint_eq(broker.stats->n_executor_deaths, 2);
}
END_TEST

START_TEST(stubborn_at_the_end)
{
	double start = seconds();
	pid_t pid;

	script_write(program, "exec sleep 60");
	ck_assert_int_eq(supervisor_start(&broker), 0);
	pid = broker.executor.pid;
	supervisor_stop(&broker);
	ck_assert(seconds() - start < 5);
	ck_assert_int_eq(kill(pid, 0), -1);
	ck_assert_int_eq(errno, ESRCH);
}
END_TEST

/* Arguments, environment, descriptors, signals. */
START_TEST(what_it_is_given)
{
	char line[512];
	FILE *file;
	sigset_t set;
	int spare = dup(0);

	config.models_path = "/some/models";
	config.builtin = true;
	config.instances = 3;
	config.threads = 2;
	config.executor_deaths_max = 1;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	setenv("STDERR_OF_TEST", said, 1);
	unsetenv("GLIBC_TUNABLES");
	script_write(program, "exec >\"$STDERR_OF_TEST\"; echo \"$*\"; echo \"$GLIBC_TUNABLES\"; "
	     "ls /proc/self/fd | tr '\\n' ' '; echo; grep -E '^Sig(Blk|Ign)' /proc/self/status; "
	     "echo end");
	broker.spin_ns = 4321;
	ck_assert_int_eq(supervisor_start(&broker), 0);
	wait_for(EXECUTOR_FAILED);
	close(spare);

	file = fopen(said, "re");
	ck_assert_ptr_nonnull(file);
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
	ck_assert_str_eq(line, "--models /some/models --builtin --instances 3 --threads 2 --spin-ns 4321\n");
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
	ck_assert_ptr_nonnull(strstr(line, "glibc.malloc"));
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
	/* 4 is what ls itself has open. */
	ck_assert_str_eq(line, "0 1 2 3 4 \n");
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
	ck_assert_str_eq(line, "SigBlk:\t0000000000000000\n");
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
	/* glibc itself has its two internal signals, 32 and 33, ignored in what it spawns. */
	ck_assert_uint_eq(strncmp(line, "SigIgn:\t", 8), 0);
	ck_assert_uint_eq(strtoull(line + 8, NULL, 16) & ~0x180000000ull, 0);
	fclose(file);
}
END_TEST

Suite *suite_supervisor(void);
Suite *suite_supervisor(void)
{
	Suite *suite = suite_create("broker_supervisor");
	TCase *start = tcase_create("start"), *death = tcase_create("death");

	tcase_add_checked_fixture(start, setup, teardown);
	tcase_add_test(start, missing_program);
	tcase_add_test(start, program_that_cannot_be_executed);
	tcase_add_test(start, what_it_is_given);
	suite_add_tcase(suite, start);
	tcase_add_checked_fixture(death, setup, teardown);
	tcase_add_test(death, ends_at_once);
	tcase_add_test(death, talks_nonsense);
	tcase_add_test(death, hangs_up_without_ending);
	tcase_add_test(death, stubborn_at_the_end);
	suite_add_tcase(suite, death);
	return suite;
}
