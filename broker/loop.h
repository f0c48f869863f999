/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - waiting for descriptors: io_uring, or edge-triggered epoll where io_uring is refused.
 *
 * A source is a descriptor and a callback, embedded in its owner. Events are edges and hints: a callback
 * reads until EAGAIN (control sockets), or reads nothing at all (doorbells: an eventfd with multishot POLL is
 * never read). The front never waits with a timeout; timers are timerfds that exist only while needed.
 */
#ifndef BROKER_LOOP_H
#define BROKER_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

struct loop_source {
	int fd; /* -1 = not in a loop */
	uint32_t events; /* as in the last callback: EPOLLIN | EPOLLHUP | EPOLLERR */
	void (*on_event)(struct loop_source *source, void *context);
	bool is_bell; /* its events are no news (loop_news()) */
	uint64_t id; /* of this registration: a late event of an earlier one is dropped */
};

enum loop_kind { LOOP_AUTO, LOOP_URING, LOOP_EPOLL };

/* Makes a loop with room for n_sources; AUTO falls back to epoll by itself. 0 or -errno. */
int loop_new(struct loop **ret_loop, enum loop_kind kind, uint32_t n_sources, void *context);
struct loop *loop_free(struct loop *loop);
const char *loop_name(const struct loop *loop); /* "io_uring" or "epoll" */

/* Watches source->fd for EPOLLIN and hang-up until loop_del(). Fires at once if it is readable already. */
int loop_add(struct loop *loop, struct loop_source *source);
/* Must come before close(source->fd). No callback follows. Nothing where it was not added. */
void loop_del(struct loop *loop, struct loop_source *source);

/* True where loop_poll() may find something; no system call (io_uring: two loads). epoll: always true at most
 * every `turns` calls, since it cannot know. */
bool loop_pending(struct loop *loop);
/* Runs callbacks of what is there without waiting. Returns how many, or -errno. */
int loop_poll(struct loop *loop);
/* Counts the callbacks that ran, those of bells aside. */
uint64_t loop_news(const struct loop *loop);
/* Sleeps until something is there, runs the callbacks. Returns how many (0 after a signal), or -errno. */
int loop_wait(struct loop *loop);

/*
 * A timer: source->on_event is called once, that long after the last loop_timer_set(). 0 or -errno. Opening one that is open and
 * closing one that is closed do nothing.
 */
int loop_timer_open(struct loop *loop, struct loop_source *timer);
void loop_timer_set(struct loop_source *timer, uint64_t ns); /* 0 = never mind */
void loop_timer_close(struct loop *loop, struct loop_source *timer);

#endif /* BROKER_LOOP_H */
