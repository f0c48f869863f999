/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_executor_regions.c - the executor's table of mappings: many come and go in any order, and at
 * every moment exactly those are found that are there.
 */
#define _GNU_SOURCE 1
#include "broker/executor/regions.h"
#include "shm/layout.h"
#include "shm/region.h"
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define SESSIONS 800u /* with 4 regions each the table grows twice */
#define REGIONS	 4u
#define ROUNDS	 4000u

static int fd;
static unsigned int seed;

static void setup(void)
{
	fd = inf_region_create("test", INF_PAGE);
	ck_assert_int_ge(fd, 0);
	seed = 1;
}

static void teardown(void)
{
	close(fd);
}

static void attach_all(uint32_t session)
{
	for (uint32_t region = 0; region < REGIONS; region++)
		ck_assert_int_eq(regions_attach(session, region, region % 2 ? INF_REGION_OUTPUT : INF_REGION_REQUEST, fd, INF_PAGE), 0);
}

static void check_session(uint32_t session, bool there)
{
	for (uint32_t region = 0; region < REGIONS; region++) {
		ck_assert_int_eq(!!regions_at(session, region, 0, INF_PAGE, false), there);
		ck_assert_int_eq(!!regions_at(session, region, 0, 1, true),
				 there && region % 2 == 1);
	}
	ck_assert_ptr_null(regions_at(session, REGIONS, 0, 1, false));
}

START_TEST(come_and_go)
{
	static bool there[SESSIONS];

	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint32_t session = (uint32_t)rand_r(&seed) % SESSIONS;

		if (there[session])
			regions_detach(session);
		else
			attach_all(session);
		there[session] = !there[session];
		check_session(session, there[session]);
		session = (uint32_t)rand_r(&seed) % SESSIONS;
		check_session(session, there[session]);
	}
	for (uint32_t session = 0; session < SESSIONS; session++) {
		check_session(session, there[session]);
		regions_detach(session);
		check_session(session, false);
	}
}
END_TEST

/* Numbers of sessions only grow: what is gone must not fill the table for ever. */
START_TEST(ever_new_sessions)
{
	for (uint32_t session = 1; session < 5000; session++) {
		attach_all(session);
		if (session > 8) {
			regions_detach(session - 8);
			check_session(session - 8, false);
		}
		check_session(session, true);
	}
	for (uint32_t session = 5000 - 8; session < 5000; session++)
		regions_detach(session);
}
END_TEST

START_TEST(bounds)
{
	ck_assert_int_eq(regions_attach(7, 3, INF_REGION_REQUEST, fd, INF_PAGE), 0);
	ck_assert_int_eq(regions_attach(7, 3, INF_REGION_REQUEST, fd, INF_PAGE), -EEXIST);
	ck_assert_int_lt(regions_attach(7, 4, INF_REGION_REQUEST, -1, INF_PAGE), 0);
	ck_assert_ptr_null(regions_at(7, 4, 0, 0, false));
	ck_assert_ptr_nonnull(regions_at(7, 3, INF_PAGE, 0, false));
	ck_assert_ptr_null(regions_at(7, 3, INF_PAGE, 1, false));
	ck_assert_ptr_null(regions_at(7, 3, INF_PAGE + 1, 0, false));
	ck_assert_ptr_null(regions_at(7, 3, 1, INF_PAGE, false));
	ck_assert_ptr_null(regions_at(7, 3, UINT64_MAX, 2, false));
	ck_assert_ptr_null(regions_at(7, 3, 1, UINT64_MAX, false));
	regions_detach(7);
	regions_detach(7);
	ck_assert_ptr_null(regions_at(7, 3, 0, 1, false));
}
END_TEST

Suite *suite_executor_regions(void);
Suite *suite_executor_regions(void)
{
	Suite *suite = suite_create("executor_regions");
	TCase *tcase = tcase_create("table");

	tcase_set_timeout(tcase, 60);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, bounds);
	tcase_add_test(tcase, come_and_go);
	tcase_add_test(tcase, ever_new_sessions);
	suite_add_tcase(suite, tcase);
	return suite;
}
