/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_cpus.c - quotas of control groups, from files made here. */
#define _GNU_SOURCE 1
#include "broker/cpus.h"
#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/inf-test-cpus-XXXXXX";

static void put(const char *folder, const char *text)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s%s", root, folder);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s%s/cpu.max", root, folder);
	file = fopen(path, "w");
	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(root));
	put("/a", "400000 100000\n");
	put("/a/b", "max 100000\n");
	put("/a/b/c", "50000 100000\n");
	put("/odd", "nonsense");
	put("/zero", "1000 0\n");
}

static void teardown(void)
{
	char command[PATH_MAX];

	snprintf(command, sizeof(command), "rm -rf %s", root);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(least_of_the_path)
{
	ck_assert_uint_eq(cpus_quota_milli(root, "/a"), 4000);
	ck_assert_uint_eq(cpus_quota_milli(root, "/a/b"), 4000);
	ck_assert_uint_eq(cpus_quota_milli(root, "/a/b/c"), 500);
}
END_TEST

START_TEST(none)
{
	ck_assert_uint_eq(cpus_quota_milli(root, "/"), UINT32_MAX);
	ck_assert_uint_eq(cpus_quota_milli(root, ""), UINT32_MAX);
	ck_assert_uint_eq(cpus_quota_milli(root, "/nowhere/at/all"), UINT32_MAX);
	ck_assert_uint_eq(cpus_quota_milli(root, "/odd"), UINT32_MAX);
	ck_assert_uint_eq(cpus_quota_milli(root, "/zero"), UINT32_MAX);
}
END_TEST

START_TEST(here)
{
	ck_assert_uint_ge(cpus_usable_milli(), 1);
	ck_assert_uint_le(cpus_usable_milli(), 1000u * (uint32_t)sysconf(_SC_NPROCESSORS_CONF));
}
END_TEST

Suite *suite_broker_cpus(void);
Suite *suite_broker_cpus(void)
{
	Suite *suite = suite_create("broker/cpus");
	TCase *tests = tcase_create("all");

	tcase_add_unchecked_fixture(tests, setup, teardown);
	tcase_add_test(tests, least_of_the_path);
	tcase_add_test(tests, none);
	tcase_add_test(tests, here);
	suite_add_tcase(suite, tests);
	return suite;
}
