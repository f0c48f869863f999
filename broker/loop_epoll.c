/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop_epoll.c - the loop where io_uring is refused: edge-triggered epoll.
 *
 * Edges fit never-read doorbells: each write to an eventfd is a new edge, whether the count was
 * read or not. What epoll lacks is a way to learn without a system call that something is there:
 * loop_pending() says "maybe" once in POLL_EVERY calls, so that busy turns cost few calls and
 * control messages wait some microseconds at most.
 */
#include "broker/loop_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_PER_TURN 64
#define POLL_EVERY	64u

struct loop_epoll {
	struct loop loop; /* first */
	int fd;
	uint32_t n_asked; /* loop_pending() calls since the last look */
	bool more;	  /* the last look filled its array */
};

static struct loop_epoll *loop_epoll(struct loop *loop)
{
	return (struct loop_epoll *)loop;
}

static int epoll_add(struct loop *loop, struct loop_source *source)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = source->id };

	if (epoll_ctl(loop_epoll(loop)->fd, EPOLL_CTL_ADD, source->fd, &event) < 0)
		return -errno;
	return 0;
}

static void epoll_del(struct loop *loop, struct loop_source *source)
{
	epoll_ctl(loop_epoll(loop)->fd, EPOLL_CTL_DEL, source->fd, NULL);
}

static bool epoll_pending(struct loop *loop)
{
	struct loop_epoll *self = loop_epoll(loop);

	if (++self->n_asked < POLL_EVERY && !self->more)
		return false;
	self->n_asked = 0;
	return true;
}

static int epoll_turn(struct loop *loop, bool sleep)
{
	struct loop_epoll *self = loop_epoll(loop);
	struct epoll_event events[EVENTS_PER_TURN];
	int n_events;
	int n_fired = 0;

	self->n_asked = 0;
	n_events = epoll_wait(self->fd, events, EVENTS_PER_TURN, sleep ? -1 : 0);
	if (n_events < 0)
		return errno == EINTR ? 0 : -errno;
	self->more = n_events == EVENTS_PER_TURN;
	/* A callback may delete any source: each number is looked up when its turn comes. */
	for (int i = 0; i < n_events; i++)
		n_fired += loop_fire(loop, events[i].data.u64, events[i].events);
	return n_fired;
}

static void epoll_free(struct loop *loop)
{
	struct loop_epoll *self = loop_epoll(loop);

	close(self->fd);
	free(self);
}

static const struct loop_ops epoll_ops = {
	.name = "epoll",
	.add = epoll_add,
	.del = epoll_del,
	.pending = epoll_pending,
	.turn = epoll_turn,
	.free = epoll_free,
};

int loop_epoll_new(struct loop **ret_loop, uint32_t n_sources)
{
	struct loop_epoll *self = calloc(1, sizeof(*self));

	(void)n_sources;
	if (!self)
		return -ENOMEM;
	self->loop.ops = &epoll_ops;
	self->fd = epoll_create1(EPOLL_CLOEXEC);
	if (self->fd < 0) {
		int r = -errno;

		free(self);
		return r;
	}
	*ret_loop = &self->loop;
	return 0;
}
