/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wake.c - wakes the clients that sleep on completions. Hot file.
 *
 * All completions of a turn are published before the first wake-up, so that a client that wakes
 * finds everything. A lane that does not sleep costs no system call. One futex word per lane: a
 * word that two sessions shared would let a holder of a read-only mapping requeue the other's
 * waiters away.
 */
#include "broker/wake.h"
#include "broker/stats.h"
#include <limits.h>
#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WAKING_NS 1000000u

/*
 * Have we ended these very sleeps, and the sleepers just have not run yet? A client that is slow to wake would otherwise cost a
 * call in each turn. The numbers in `parked` come round after 65,536 completions: not within WAKING_NS.
 */
static bool is_waking(const struct broker *broker, const struct lane *lane, uint32_t parked)
{
	return parked == lane->woken_parked && broker->now_ns - lane->woken_ns < WAKING_NS;
}

static void wake_lane(struct broker *broker, struct lane *lane)
{
	struct inf_response_lane *response = &lane->session->response->lanes[lane->idx];
	const struct inf_request_lane *request = &lane->session->request->lanes[lane->idx];
	uint32_t parked = inf_load32(&request->parked.v);
	uint32_t event = lane->event_fd >= 0 ? inf_load32(&request->event.v) : 0;

	if (parked & INF_PARKED_COUNT && !is_waking(broker, lane, parked)) {
		lane->woken_parked = inf_parked_is_past(parked, (uint32_t)lane->cq.tail) ? parked : 0;
		lane->woken_ns = broker->now_ns;
		broker->stats->n_wakes++;
		/* Everybody: any thread of the client may wait for any request. FUTEX_WAKE never blocks. */
		syscall(SYS_futex, &response->cq_word.v, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	}
	/* A hint for event loops, one for each time that they ask. A full socket already says it. */
	if (event && event != lane->hinted_event) {
		lane->hinted_event = event;
		(void)!send(lane->event_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

void wake_clients(struct broker *broker)
{
	if (!broker->n_dirty)
		return;
	for (uint32_t i = 0; i < broker->n_dirty; i++)
		inf_cq_bump(&broker->dirty[i]->cq);
	/* The slots and words before our look at `parked`; pairs with the client's fence between parked and the slot. */
	inf_fence(INF_FENCE_FRONT_COMPLETE);
	for (uint32_t i = 0; i < broker->n_dirty; i++) {
		stats_session_hot(broker->dirty[i]->session);
		stats_lane_hot(broker->dirty[i]);
		wake_lane(broker, broker->dirty[i]);
		broker->dirty[i]->dirty = false;
	}
	broker->n_dirty = 0;
}
