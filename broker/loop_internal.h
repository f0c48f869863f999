/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop_internal.h - what the two loops share: the table that turns a kernel event back into a
 * source.
 *
 * The kernel is given a number, never a pointer: a source may be freed right after loop_del(),
 * while an event of it is still on its way. The number is (generation << 32 | slot), and the slot's
 * generation changes when it is given back, so that a late event finds nothing.
 */
#ifndef BROKER_LOOP_INTERNAL_H
#define BROKER_LOOP_INTERNAL_H

#include "broker/loop.h"

struct loop_ops {
	const char *name;
	int (*add)(struct loop *loop, struct loop_source *source); /* source->id is set */
	void (*del)(struct loop *loop, struct loop_source *source);
	bool (*pending)(struct loop *loop);
	int (*turn)(struct loop *loop, bool sleep);
	void (*free)(struct loop *loop);
};

struct loop_slot {
	struct loop_source *source; /* NULL = free */
	uint32_t generation;	    /* of the present or next use; never 0 */
	uint32_t next_free;
};

/* First member of struct loop_uring and struct loop_epoll. */
struct loop {
	const struct loop_ops *ops;
	void *context;
	struct loop_slot *slots;
	uint32_t n_slots;
	uint32_t free_slot; /* n_slots = none */
	uint64_t n_news;
};

/* 0, or -errno: -ENOSYS where the kernel has no io_uring or an old one, -EPERM where it is
 * forbidden. */
int loop_uring_new(struct loop **ret_loop, uint32_t n_sources);
int loop_epoll_new(struct loop **ret_loop, uint32_t n_sources);

/* The source that an event's number means; NULL where it was deleted meanwhile. */
struct loop_source *loop_find(struct loop *loop, uint64_t id);
/* Runs the callback of an event; nothing where its source was deleted. True if it ran. */
bool loop_fire(struct loop *loop, uint64_t id, uint32_t events);

#endif /* BROKER_LOOP_INTERNAL_H */
