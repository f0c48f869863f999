/* SPDX-License-Identifier: Apache-2.0 */
/* loop_timer.c - timers of the loop, see loop.h. */
#include "broker/loop.h"
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

int loop_timer_open(struct loop *loop, struct loop_source *timer)
{
	int r;

	if (timer->id)
		return 0;
	timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (timer->fd < 0)
		return -errno;
	r = loop_add(loop, timer);
	if (r < 0) {
		close(timer->fd);
		timer->fd = -1;
	}
	return r;
}

/* Events are edges, and setting it takes an earlier expiry back: nobody needs to read it. */
void loop_timer_set(struct loop_source *timer, uint64_t ns)
{
	struct itimerspec once = {
		.it_value = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) },
	};

	timerfd_settime(timer->fd, 0, &once, NULL);
}

void loop_timer_close(struct loop *loop, struct loop_source *timer)
{
	if (!timer->id)
		return;
	loop_del(loop, timer);
	close(timer->fd);
	timer->fd = -1;
}
