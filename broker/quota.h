/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quota.h - what each user may have: sessions, importers, bytes of regions, and of device memory. Charged before anything is
 * made; a charge is given back by the object that holds it when that object is freed. Uids come from the kernel only.
 */
#ifndef BROKER_QUOTA_H
#define BROKER_QUOTA_H

#include "broker/config.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct user;

/* Finds or makes the account; counts a reference. NULL when out of memory. */
struct user *user_ref(uid_t uid);
/* Frees the account with its last reference (all charges must be back). */
struct user *user_unref(struct user *user);
uid_t user_uid(const struct user *user);

/* 0 or -EDQUOT; nothing is charged on failure. */
int user_charge_session(struct user *user, const struct config *config);
void user_discharge_session(struct user *user);
int user_charge_handshake(struct user *user, const struct config *config);
void user_discharge_handshake(struct user *user);
int user_charge_importer(struct user *user, const struct config *config);
void user_discharge_importer(struct user *user);
int user_charge_bytes(struct user *user, const struct config *config, uint64_t bytes);
void user_discharge_bytes(struct user *user, uint64_t bytes);
int user_charge_device(struct user *user, const struct config *config, uint64_t bytes);
void user_discharge_device(struct user *user, uint64_t bytes);

uint64_t quota_device_used(void); /* likewise */
uint64_t quota_bytes_used(void); /* all users */

#endif /* BROKER_QUOTA_H */
