/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.c - a descriptor for event loops: our end of a socketpair, in which the broker puts one byte
 * when a completion comes and the lane's event word holds a number that it has not answered yet. A
 * hint, and a hang-up when the broker dies.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* Control lock held. */
static int ask(struct inf_client *client, struct lane *lane)
{
	union inf_ctl_any answer;
	struct inf_ctl_lane_fd msg;
	int fd, r;

	inf_ctl_init(&msg, INF_CTL_LANE_FD, 0);
	msg.lane = lane->idx;
	r = infc_control_ask(client, &msg, INF_CTL_FD, &answer, &fd);
	if (r)
		return r;
	if (answer.head.type == INF_CTL_ERROR)
		return infc_control_refusal(&answer.error);
	if (fd < 0)
		return -EPROTO;
	lane->event_fd = fd;
	return 0;
}

int inf_fd(struct inf_client *client)
{
	struct lane *lane;
	int r = 0;

	if (!client)
		return -EINVAL;
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	if (!(client->features & INF_FEATURE_EVENT_FD))
		return -EOPNOTSUPP;
	lane = infc_lane_mine(client);
	pthread_mutex_lock(&client->control_lock);
	if (lane->event_fd < 0)
		r = ask(client, lane);
	pthread_mutex_unlock(&client->control_lock);
	return r ? r : lane->event_fd;
}

/* True = the other end is closed. */
static bool empty(int fd)
{
	char bytes[64];
	ssize_t n;

	do {
		n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	} while (n == sizeof(bytes) || (n < 0 && errno == EINTR));
	/* Fewer than there was room for: that was all. A hang-up behind them shows the next time. */
	if (n > 0)
		return false;
	return n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

static bool has_something(struct lane *lane)
{
	infc_reap(lane, true);
	return inf_load32(&lane->n_ended) || infc_lane_is_dead(lane);
}

int inf_fd_arm(struct inf_client *client)
{
	struct lane *lane;
	uint32_t event;

	if (!client)
		return -EINVAL;
	if (infc_is_forked(client))
		return -EOWNERDEAD;
	lane = infc_lane_mine(client);
	if (lane->event_fd < 0)
		return -EBADF;
	if (empty(lane->event_fd))
		infc_mark_lost(client);
	/* Odd numbers: another one than the last, and never 0. The broker answers each once. */
	event = __atomic_add_fetch(&lane->n_arms, 2, __ATOMIC_RELAXED) | 1;
	inf_store32(&lane->request->event.v, event);
	/* The word before our look at the slots; pairs with the broker's fence between its slot and
	 * the word. */
	inf_fence(INF_FENCE_CLIENT_PARK);
	return has_something(lane);
}
