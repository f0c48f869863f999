/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wait.c - spin a little, then sleep, and learn of the broker's death while asleep.
 *
 * Going to sleep:
 *
 *	remember cq_word                    broker: slot seq; cq_word++
 *	parked++, remember liveness
 *	fence CLIENT_PARK          <---->   fence FRONT_COMPLETE
 *	collect under the reap lock         parked? FUTEX_WAKE(cq_word)
 *	futex_waitv(cq_word, liveness)
 *
 * Either we see the slot or the broker sees `parked`. Collecting under the lock, and not just
 * trying to, is what makes it right for several threads: all that was posted before is collected
 * when we hold the lock, by us or by the one before us, and anything later moves cq_word away from
 * what we remember.
 *
 * The liveness word is in the robust list of the broker's thread: when that dies the kernel sets
 * FUTEX_OWNER_DIED and wakes one sleeper of the word, who wakes the others. 0 = it ended the
 * session. A word without a thread's id is not in the list (a lane that the broker has not met, or
 * one too many): then we look at the socket now and then.
 *
 * Spinning (design.md section 4): pause for about two context switches, then give way, for at most
 * W in all, and not at all for what recent completions say will take longer than W. Pure spinning
 * only where the broker has a core to spare for it.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOOKS_PER_CLOCK 8u

static uint32_t
	has_no_waitv; /* atomic: this kernel (before 5.16), or a sandbox, refused futex_waitv */

/* --- death --- */

static void wake_all(const uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void infc_mark_lost(struct inf_client *client)
{
	if (__atomic_exchange_n(&client->lost, 1, __ATOMIC_ACQ_REL) || !client->response)
		return;
	infc_device_release_waits(client);
	for (uint32_t i = 0; i < INF_LANES; i++) {
		wake_all(&client->response->liveness[i].v);
		wake_all(&client->response->lanes[i].cq_word.v);
	}
}

bool infc_lane_is_dead(struct lane *lane)
{
	const uint32_t *word = &lane->client->response->liveness[lane->idx].v;
	uint32_t owner = inf_load32_acquire(word);

	if (owner && !(owner & FUTEX_OWNER_DIED))
		return infc_is_lost(lane->client);
	infc_mark_lost(lane->client);
	return true;
}

/* --- the two ways to sleep --- */

static struct timespec to_timespec(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / 1000000000u),
				  .tv_nsec = (long)(ns % 1000000000u) };
}

static int sleep_on_both(const struct lane *lane, uint32_t seen, uint32_t owner, uint64_t until_ns)
{
	struct timespec ts = to_timespec(until_ns);
	struct futex_waitv waits[2] = {
		{ .val = seen, .uaddr = (uintptr_t)&lane->response->cq_word.v, .flags = FUTEX_32 },
		{ .val = owner,
		  .uaddr = (uintptr_t)&lane->client->response->liveness[lane->idx].v,
		  .flags = FUTEX_32 },
	};
	long r = syscall(SYS_futex_waitv, waits, 2, 0, until_ns == INF_FOREVER ? NULL : &ts,
			 CLOCK_MONOTONIC);

	return r < 0 ? -errno : 0;
}

static int sleep_on_one(const struct lane *lane, uint32_t seen, uint64_t until_ns)
{
	struct timespec ts = to_timespec(until_ns);
	long r = syscall(SYS_futex, &lane->response->cq_word.v, FUTEX_WAIT_BITSET, seen,
			 until_ns == INF_FOREVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);

	return r < 0 ? -errno : 0;
}

/* Sleeps once. Where the kernel will not tell of a death: in slices, with a look at the socket
 * after each. */
static int sleep_once(struct lane *lane, uint32_t seen, uint32_t owner, uint64_t until_ns)
{
	bool is_blind = inf_load32(&has_no_waitv) || !(owner & FUTEX_TID_MASK);
	uint64_t end_ns = until_ns;
	int r;

	if (is_blind) {
		uint64_t slice_ns = infc_now_ns() + INFC_SLICE_NS;

		end_ns = slice_ns < until_ns ? slice_ns : until_ns;
	}
	if (inf_load32(&has_no_waitv))
		r = sleep_on_one(lane, seen, end_ns);
	else
		r = sleep_on_both(lane, seen, owner, end_ns);
	if (r == -ENOSYS || r == -EPERM)
		inf_store32(&has_no_waitv, 1);
	if (is_blind && infc_control_is_hung_up(lane->client))
		infc_mark_lost(lane->client);
	return r == -ETIMEDOUT && end_ns == until_ns ? -ETIMEDOUT : 0;
}

/* --- waiting --- */

static bool is_over(const struct lane *lane, const struct inf_request *req)
{
	if (req)
		return inf_load32_acquire(&req->state) != INFC_FLIGHT;
	return inf_load32(&lane->n_ended) || !infc_lane_in_flight(lane);
}

/*
 * How long until what we wait for, going by recent completions: of n requests in flight the k-th
 * takes k/n of a request's time. UINT64_MAX where one run of the model alone outlasts W.
 */
static uint64_t predict_ns(const struct lane *lane, const struct inf_request *req)
{
	uint64_t taken = inf_load64(&lane->taken);
	uint64_t n = inf_load64(&lane->submitted) - taken;
	uint64_t before = req && req->pos > taken ? req->pos - taken : 0;
	const struct inf_model *model =
		req ? req->model : __atomic_load_n(&lane->last_model, __ATOMIC_RELAXED);

	if (!model || !n)
		return 0;
	if (inf_load64(&model->run_ns) > lane->client->spin_ns)
		return UINT64_MAX;
	return inf_load64(&model->total_ns) * (before < n ? before + 1 : n) / n;
}

/* Collects what is there. True where that is what we wait for. */
static bool look(struct lane *lane, const struct inf_request *req)
{
	if (infc_lane_has_news(lane))
		infc_reap(lane, false);
	return is_over(lane, req);
}

static bool spin(struct lane *lane, const struct inf_request *req, uint64_t until_ns)
{
	struct inf_client *client = lane->client;
	bool is_pure = inf_load32(&client->response->head.may_spin.v);
	uint64_t start_ns, now_ns, before_ns;

	if (!client->spin_ns)
		return false;
	start_ns = now_ns = infc_now_ns();
	if (now_ns < inf_load64(&client->no_spin_until_ns))
		return false;
	while (now_ns - start_ns < client->spin_ns && now_ns < until_ns) {
		if (look(lane, req))
			return true;
		before_ns = now_ns;
		if (is_pure || (!client->must_yield && now_ns - start_ns < INFC_SPIN_PAUSE_NS)) {
			/* The clock costs as much as several looks. */
			for (uint32_t i = 0; i < LOOKS_PER_CLOCK; i++) {
				inf_pause();
				if (look(lane, req))
					return true;
			}
		} else {
			sched_yield();
		}
		now_ns = infc_now_ns();
		/* Somebody computes on our core: a sleeper would have been let in at once. */
		if (now_ns - before_ns > INF_YIELD_LOST_NS)
			inf_store64(&client->no_spin_until_ns, now_ns + INF_NO_SPIN_NS);
	}
	return false;
}

static int park(struct lane *lane, struct inf_request *req, uint64_t until_ns)
{
	uint32_t *parked = &lane->request->parked.v;
	uint32_t seen, owner;
	int r = 0;

	if (inf_load32(&lane->client->n_retiring))
		infc_control_drain(lane->client);
	/* Acquire: before our look at the slots below; pairs with the release in inf_cq_bump(). */
	seen = inf_load32_acquire(&lane->response->cq_word.v);
	inf_parked_join(parked, seen);
	owner = inf_load32_acquire(&lane->client->response->liveness[lane->idx].v);
	/* parked before our look at the slots; pairs with the broker's fence between its slot and
	 * parked. */
	inf_fence(INF_FENCE_CLIENT_PARK);
	infc_reap(lane, true);
	if (!is_over(lane, req) && !infc_lane_is_dead(lane))
		r = sleep_once(lane, seen, owner, until_ns);
	inf_parked_leave(parked);
	infc_reap(lane, true);
	return r;
}

int infc_wait(struct lane *lane, struct inf_request *req, uint64_t until_ns)
{
	int r = 0;

	if (infc_lane_has_news(lane))
		infc_reap(lane, true);
	if (is_over(lane, req))
		return 0;
	if (until_ns != INF_NOWAIT && predict_ns(lane, req) <= lane->client->spin_ns &&
	    spin(lane, req, until_ns))
		return 0;
	do {
		if (until_ns == INF_NOWAIT)
			r = -ETIMEDOUT;
		else
			r = park(lane, req, until_ns);
		if (infc_lane_is_dead(lane))
			infc_reap_lost(lane);
	} while (!r && !is_over(lane, req));
	return is_over(lane, req) ? 0 : r;
}
