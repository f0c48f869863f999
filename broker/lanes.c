/* SPDX-License-Identifier: Apache-2.0 */
/* lanes.c - the list of active lanes. Hot file. */
#include "broker/lanes.h"
#include "broker/intake.h"

void lanes_activate(struct broker *broker, struct lane *lane)
{
	if (lane->active)
		return;
	lane->active = true;
	lane->active_at = broker->n_active;
	lane->worked_ns = broker->now_ns;
	broker->active[broker->n_active++] = lane;
}

static void drop(struct broker *broker, struct lane *lane)
{
	struct lane *last = broker->active[--broker->n_active];

	broker->active[lane->active_at] = last;
	last->active_at = lane->active_at;
	lane->active = false;
}

void lanes_forget(struct broker *broker, struct lane *lane)
{
	if (lane->active)
		drop(broker, lane);
	if (!lane->dirty)
		return;
	for (uint32_t i = 0; i < broker->n_dirty; i++)
		if (broker->dirty[i] == lane)
			broker->dirty[i] = broker->dirty[--broker->n_dirty];
	lane->dirty = false;
}

static void arm(struct lane *lane)
{
	inf_store64(&lane->session->response->lanes[lane->idx].sq_wake.v, lane->sq.head);
}

static bool is_old(const struct broker *broker, const struct lane *lane)
{
	return broker->now_ns - lane->worked_ns > LANE_RETIRE_NS;
}

void lanes_retire(struct broker *broker)
{
	bool any = false;

	for (uint32_t i = 0; i < broker->n_active; i++) {
		if (is_old(broker, broker->active[i])) {
			arm(broker->active[i]);
			any = true;
		}
	}
	if (!any)
		return;
	/* sq_wake before our last look; pairs with the client's fence between its slot and its look at sq_wake. */
	inf_fence(INF_FENCE_LANE_RETIRE);
	for (uint32_t i = broker->n_active; i-- > 0;)
		if (is_old(broker, broker->active[i]) && !intake_has_work(broker->active[i]))
			drop(broker, broker->active[i]);
}

void lanes_arm(struct broker *broker)
{
	for (uint32_t i = 0; i < broker->n_active; i++)
		arm(broker->active[i]);
}

bool lanes_have_work(const struct broker *broker)
{
	for (uint32_t i = 0; i < broker->n_active; i++)
		if (intake_has_work(broker->active[i]))
			return true;
	return false;
}

void lanes_drop_idle(struct broker *broker)
{
	for (uint32_t i = broker->n_active; i-- > 0;)
		if (is_old(broker, broker->active[i]))
			drop(broker, broker->active[i]);
}
