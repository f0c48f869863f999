/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_shm_stats.c - which process is it: state and start time of others, whatever they call
 * themselves.
 */
#define _GNU_SOURCE 1
#include "shm/stats.h"
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t child;

/* The kernel's own unit of start times. */
static uint64_t now_ticks(void)
{
	struct timespec ts;
	uint64_t per_second = (uint64_t)sysconf(_SC_CLK_TCK);

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * per_second + (uint64_t)ts.tv_nsec * per_second / 1000000000u;
}

static void start_child(const char *name)
{
	int ready[2];
	char byte;

	ck_assert_int_eq(pipe(ready), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, name);
		if (write(ready[1], "", 1) == 1)
			pause();
		_exit(0);
	}
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
}

static void end_child(void)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

START_TEST(start_time)
{
	static const char *const names[] = { "plain", "a) R 1 2 3", ") S 0 (", "", "two words" };
	uint64_t before = now_ticks(), ticks, after;
	char state;

	start_child(names[_i]);
	after = now_ticks();
	ck_assert_int_eq(inf_stats_process((uint32_t)child, &state, &ticks), 0);
	ck_assert_uint_ge(ticks + 1, before);
	ck_assert_uint_le(ticks, after + 1);
	ck_assert(state == 'S' || state == 'R');
	end_child();
}
END_TEST

START_TEST(states)
{
	uint64_t ticks = 7;
	char state = '-';
	int status;

	start_child("child");
	kill(child, SIGSTOP);
	ck_assert_int_eq(waitpid(child, &status, WUNTRACED), child);
	ck_assert_int_eq(inf_stats_process((uint32_t)child, &state, &ticks), 0);
	ck_assert_int_eq(state, 'T');
	end_child();
	state = '-';
	ticks = 7;
	ck_assert_int_eq(inf_stats_process((uint32_t)child, &state, &ticks), -ENOENT);
	ck_assert_int_eq(state, '-'); /* untouched on failure */
	ck_assert_uint_eq(ticks, 7);
}
END_TEST

Suite *suite_shm_stats(void);
Suite *suite_shm_stats(void)
{
	Suite *suite = suite_create("shm_stats");
	TCase *tcase = tcase_create("process");

	tcase_add_loop_test(tcase, start_time, 0, 5);
	tcase_add_test(tcase, states);
	suite_add_tcase(suite, tcase);
	return suite;
}
