/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_quota.c - charges stop at their limits, come back, and never wrap. */
#include "broker/quota.h"
#include <check.h>
#include <errno.h>

static struct config config;
static struct user *alice, *bob;

static void setup(void)
{
	config = (struct config){ .user_sessions_max = 3,
				  .handshakes_max = 2,
				  .memory_max = 1000,
				  .user_memory_max = 600 };
	alice = user_ref(1000);
	bob = user_ref(1001);
}

static void teardown(void)
{
	alice = user_unref(alice);
	bob = user_unref(bob);
	ck_assert_uint_eq(quota_bytes_used(), 0);
}

START_TEST(accounts_are_by_uid)
{
	struct user *again = user_ref(1000);

	ck_assert_ptr_eq(again, alice);
	ck_assert_ptr_ne(alice, bob);
	ck_assert_uint_eq(user_uid(bob), 1001);
	ck_assert_ptr_null(user_unref(again));
	ck_assert_uint_eq(user_uid(alice), 1000);
	ck_assert_ptr_null(user_unref(NULL));
}
END_TEST

START_TEST(sessions_and_handshakes)
{
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 3; i++)
			ck_assert_int_eq(user_charge_session(alice, &config), 0);
		ck_assert_int_eq(user_charge_session(alice, &config), -EDQUOT);
		ck_assert_int_eq(user_charge_session(bob, &config), 0);
		for (int i = 0; i < 2; i++)
			ck_assert_int_eq(user_charge_handshake(alice, &config), 0);
		ck_assert_int_eq(user_charge_handshake(alice, &config), -EDQUOT);
		for (int i = 0; i < 3; i++)
			user_discharge_session(alice);
		user_discharge_session(bob);
		for (int i = 0; i < 2; i++)
			user_discharge_handshake(alice);
	}
}
END_TEST

START_TEST(bytes_of_one_and_of_all)
{
	ck_assert_int_eq(user_charge_bytes(alice, &config, 600), 0);
	ck_assert_int_eq(user_charge_bytes(alice, &config, 1), -EDQUOT);
	ck_assert_int_eq(user_charge_bytes(bob, &config, 400), 0);
	/* Bob is below his own limit, but all together are not; nothing sticks to his account. */
	ck_assert_int_eq(user_charge_bytes(bob, &config, 1), -EDQUOT);
	ck_assert_uint_eq(quota_bytes_used(), 1000);
	user_discharge_bytes(alice, 600);
	ck_assert_int_eq(user_charge_bytes(bob, &config, 200), 0);
	user_discharge_bytes(bob, 600);
}
END_TEST

START_TEST(huge_amounts_do_not_wrap)
{
	ck_assert_int_eq(user_charge_bytes(alice, &config, 500), 0);
	ck_assert_int_eq(user_charge_bytes(alice, &config, UINT64_MAX), -EDQUOT);
	ck_assert_int_eq(user_charge_bytes(alice, &config, UINT64_MAX - 499), -EDQUOT);
	config.user_memory_max = UINT64_MAX;
	ck_assert_int_eq(user_charge_bytes(alice, &config, UINT64_MAX - 500), -EDQUOT);
	ck_assert_uint_eq(quota_bytes_used(), 500);
	/* A limit below what is in use already. */
	config.user_memory_max = 100;
	ck_assert_int_eq(user_charge_bytes(alice, &config, 0), -EDQUOT);
	user_discharge_bytes(alice, 500);
}
END_TEST

Suite *suite_broker_quota(void);
Suite *suite_broker_quota(void)
{
	Suite *suite = suite_create("broker_quota");
	TCase *tcase = tcase_create("charges");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, accounts_are_by_uid);
	tcase_add_test(tcase, sessions_and_handshakes);
	tcase_add_test(tcase, bytes_of_one_and_of_all);
	tcase_add_test(tcase, huge_amounts_do_not_wrap);
	suite_add_tcase(suite, tcase);
	return suite;
}
