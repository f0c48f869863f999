/* SPDX-License-Identifier: Apache-2.0 */
/* quota.c - accounts of users: at most one per session, so a list is enough (cold code). */
#include "broker/quota.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct user {
	struct user *next;
	uid_t uid;
	uint32_t n_refs;
	uint64_t n_sessions;
	uint64_t n_handshakes;
	uint64_t n_importers;
	uint64_t bytes, device_bytes;
};

static struct user *users;
static uint64_t bytes_used, device_used;

struct user *user_ref(uid_t uid)
{
	struct user *user;

	for (user = users; user; user = user->next) {
		if (user->uid == uid) {
			user->n_refs++;
			return user;
		}
	}
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	user->uid = uid;
	user->n_refs = 1;
	user->next = users;
	users = user;
	return user;
}

struct user *user_unref(struct user *user)
{
	struct user **link = &users;

	if (!user || --user->n_refs > 0)
		return NULL;
	assert(user->n_sessions == 0 && user->n_handshakes == 0 && user->n_importers == 0 && user->bytes == 0 &&
	       user->device_bytes == 0);
	while (*link != user)
		link = &(*link)->next;
	*link = user->next;
	free(user);
	return NULL;
}

uid_t user_uid(const struct user *user)
{
	return user->uid;
}

/* Adds where the sum stays within the limit; cannot overflow. */
static int charge(uint64_t *used, uint64_t amount, uint64_t limit)
{
	if (*used > limit || amount > limit - *used)
		return -EDQUOT;
	*used += amount;
	return 0;
}

static void discharge(uint64_t *used, uint64_t amount)
{
	assert(*used >= amount);
	*used -= amount;
}

int user_charge_session(struct user *user, const struct config *config)
{
	return charge(&user->n_sessions, 1, config->user_sessions_max);
}

void user_discharge_session(struct user *user)
{
	discharge(&user->n_sessions, 1);
}

int user_charge_handshake(struct user *user, const struct config *config)
{
	return charge(&user->n_handshakes, 1, config->handshakes_max);
}

void user_discharge_handshake(struct user *user)
{
	discharge(&user->n_handshakes, 1);
}

int user_charge_importer(struct user *user, const struct config *config)
{
	return charge(&user->n_importers, 1, config->user_importers_max);
}

void user_discharge_importer(struct user *user)
{
	discharge(&user->n_importers, 1);
}

/* The user's account, and everyone's. */
static int charge_both(uint64_t *own, uint64_t own_max, uint64_t *all, uint64_t all_max, uint64_t bytes)
{
	int r = charge(own, bytes, own_max);

	if (r < 0)
		return r;
	r = charge(all, bytes, all_max);
	if (r < 0)
		discharge(own, bytes);
	return r;
}

int user_charge_bytes(struct user *user, const struct config *config, uint64_t bytes)
{
	return charge_both(&user->bytes, config->user_memory_max, &bytes_used, config->memory_max, bytes);
}

int user_charge_device(struct user *user, const struct config *config, uint64_t bytes)
{
	return charge_both(&user->device_bytes, config->user_device_memory_max, &device_used, config->device_memory_max, bytes);
}

void user_discharge_device(struct user *user, uint64_t bytes)
{
	discharge(&user->device_bytes, bytes);
	discharge(&device_used, bytes);
}

void user_discharge_bytes(struct user *user, uint64_t bytes)
{
	discharge(&user->bytes, bytes);
	discharge(&bytes_used, bytes);
}

uint64_t quota_device_used(void)
{
	return device_used;
}

uint64_t quota_bytes_used(void)
{
	return bytes_used;
}
