/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop_uring.c - the loop on io_uring: one multishot POLL per source, nothing read, nothing
 * re-armed.
 *
 * Why: with DEFER_TASKRUN and a registered ring fd, waiting for a never-read eventfd costs 6-7 %
 * more than one blocking read, for any number of sources, and half of what epoll costs per source
 * that fired. TASKRUN_FLAG makes the kernel say in shared memory that something is there, so that a
 * busy front looks without a system call.
 *
 * Rules that hold here:
 * - A multishot POLL ends where its completion lacks F_MORE (the CQ was full): it is armed again
 *   after the callback, and POLL looks at the state when it is armed, so that nothing is missed in
 *   between.
 * - Deleting uses ASYNC_CANCEL, not POLL_REMOVE: the latter fails with -EALREADY where the poll is
 *   just firing, and an armed poll keeps its file open. The next enter closes the file.
 * - The CQ has CQES_PER_SOURCE entries per source. Overflow is kept by the kernel (NODROP) and
 *   fetched.
 * - No wait has a timeout: that costs 0.4 us each.
 *
 * Not done: SQPOLL, MSG_RING, READ_MULTISHOT (all measured slower or dearer).
 */
#include "broker/loop_internal.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define SQ_ENTRIES	256u
#define CQES_PER_SOURCE 4u

/* Linux 6.15; not in the headers of liburing 2.3. A sleeping front waits for no disk. */
#define ENTER_NO_IOWAIT (1u << 7)
#define FEAT_NO_IOWAIT	(1u << 17)

struct loop_uring {
	struct loop loop; /* first */
	struct io_uring ring;
	unsigned int enter_flags;
	bool skips_success; /* IOSQE_CQE_SKIP_SUCCESS, Linux 5.17 */
};

static struct loop_uring *loop_uring(struct loop *loop)
{
	return (struct loop_uring *)loop;
}

/*
 * Submits what is in the SQ. Out of memory or backlogged: the entries stay there, in order, and the
 * next turn tries again (loop_pending() is true until then).
 */
static int uring_submit(struct loop_uring *self)
{
	int r = io_uring_submit(&self->ring);

	if (r >= 0 || r == -EAGAIN || r == -EBUSY || r == -EINTR || r == -ENOMEM)
		return 0;
	return r;
}

static struct io_uring_sqe *uring_sqe(struct loop_uring *self)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&self->ring);
	return io_uring_get_sqe(&self->ring);
}

static int uring_add(struct loop *loop, struct loop_source *source)
{
	struct loop_uring *self = loop_uring(loop);
	struct io_uring_sqe *sqe = uring_sqe(self);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_poll_multishot(sqe, source->fd, POLLIN);
	sqe->user_data = source->id;
	return uring_submit(self);
}

static void uring_del(struct loop *loop, struct loop_source *source)
{
	struct loop_uring *self = loop_uring(loop);
	struct io_uring_sqe *sqe = uring_sqe(self);

	if (!sqe)
		return; /* its events find no source; the poll ends with the ring */
	io_uring_prep_cancel64(sqe, source->id, 0);
	sqe->user_data = 0; /* finds no source */
	if (self->skips_success)
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	uring_submit(self);
}

/* True where completions exist that only an enter brings into the CQ. Pairs with the kernel's
 * release. */
static bool uring_needs_enter(struct loop_uring *self)
{
	unsigned int flags = __atomic_load_n(self->ring.sq.kflags, __ATOMIC_ACQUIRE);

	return flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static bool uring_pending(struct loop *loop)
{
	struct loop_uring *self = loop_uring(loop);

	return io_uring_cq_ready(&self->ring) || uring_needs_enter(self) ||
	       io_uring_sq_ready(&self->ring);
}

static int uring_enter(struct loop_uring *self, bool sleep)
{
	int r = io_uring_enter((unsigned int)self->ring.enter_ring_fd, 0, sleep, self->enter_flags,
			       NULL);

	/* -EBUSY, -EAGAIN: the CQ is full; reaping makes room. */
	return r == -EINTR || r == -EBUSY || r == -EAGAIN || r > 0 ? 0 : r;
}

/* One completion. Returns 1 where a callback ran, 0, or -errno. */
static int uring_event(struct loop_uring *self, uint64_t id, int res, bool more)
{
	struct loop_source *source;

	/* An error (-EBADF, -ENOMEM) ends the poll for good: the owner is told, and deletes it. */
	if (!loop_fire(&self->loop, id, res < 0 ? POLLERR : (uint32_t)res))
		return 0;
	source = more || res < 0 ? NULL : loop_find(&self->loop, id);
	if (source) {
		int r = uring_add(&self->loop, source);

		if (r < 0)
			return r;
	}
	return 1;
}

/* Handles what is in the CQ now; what arrives meanwhile is for the next turn. */
static int uring_reap(struct loop_uring *self)
{
	unsigned int n_ready = io_uring_cq_ready(&self->ring);
	int n_fired = 0;

	while (n_ready--) {
		struct io_uring_cqe *cqe;
		uint64_t id;
		bool more;
		int res;

		if (io_uring_peek_cqe(&self->ring, &cqe) < 0)
			break;
		id = cqe->user_data;
		res = cqe->res;
		more = cqe->flags & IORING_CQE_F_MORE;
		io_uring_cqe_seen(&self->ring, cqe);
		res = uring_event(self, id, res, more);
		if (res < 0)
			return res;
		n_fired += res;
	}
	return n_fired;
}

static int uring_turn(struct loop *loop, bool sleep)
{
	struct loop_uring *self = loop_uring(loop);
	int r = 0;

	if (io_uring_sq_ready(&self->ring))
		r = uring_submit(self);
	if (r == 0 && uring_needs_enter(self))
		r = uring_enter(self, false);
	if (r == 0 && sleep && !io_uring_cq_ready(&self->ring))
		r = uring_enter(self, true);
	return r < 0 ? r : uring_reap(self);
}

static void uring_free(struct loop *loop)
{
	struct loop_uring *self = loop_uring(loop);

	io_uring_queue_exit(&self->ring);
	free(self);
}

static const struct loop_ops uring_ops = {
	.name = "io_uring",
	.add = uring_add,
	.del = uring_del,
	.pending = uring_pending,
	.turn = uring_turn,
	.free = uring_free,
};

/* The best set of flags that this kernel knows: 6.1, 5.19, any. */
static int uring_setup(struct io_uring *ring, uint32_t n_sources, unsigned int *ret_features)
{
	static const unsigned int flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	int r = -EINVAL;

	for (unsigned int i = 0; i < sizeof(flags) / sizeof(flags[0]) && r == -EINVAL; i++) {
		struct io_uring_params params = {
			.flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
			.cq_entries = n_sources < SQ_ENTRIES ? CQES_PER_SOURCE * SQ_ENTRIES
							     : CQES_PER_SOURCE * n_sources,
		};

		r = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
		*ret_features = params.features;
	}
	return r;
}

int loop_uring_new(struct loop **ret_loop, uint32_t n_sources)
{
	struct loop_uring *self = calloc(1, sizeof(*self));
	unsigned int features = 0;
	int r;

	if (!self)
		return -ENOMEM;
	self->loop.ops = &uring_ops;
	r = uring_setup(&self->ring, n_sources, &features);
	if (r < 0) {
		free(self);
		return r;
	}
	/* Multishot POLL has no feature bit of its own; RSRC_TAGS came with it, in Linux 5.13. */
	if (!(features & IORING_FEAT_RSRC_TAGS)) {
		uring_free(&self->loop);
		return -ENOSYS;
	}
	self->skips_success = features & IORING_FEAT_CQE_SKIP;
	self->enter_flags = IORING_ENTER_GETEVENTS;
	if (features & FEAT_NO_IOWAIT)
		self->enter_flags |= ENTER_NO_IOWAIT;
	if (io_uring_register_ring_fd(&self->ring) == 1) /* Linux 5.18 */
		self->enter_flags |= IORING_ENTER_REGISTERED_RING;
	*ret_loop = &self->loop;
	return 0;
}
