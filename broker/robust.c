/* SPDX-License-Identifier: Apache-2.0 */
/*
 * robust.c - the kernel's list of futexes that a thread leaves behind when it dies
 * (get_robust_list(2)), used to wake clients when the front dies in whatever way, SIGKILL
 * included.
 *
 * For each node of the list the kernel looks at the word at node + futex_offset. Where that holds
 * the dead thread's id, it ORs FUTEX_OWNER_DIED in, and wakes one waiter if FUTEX_WAITERS is set
 * (a bare thread id wakes nobody). The waiter that wakes first wakes the others. One futex_offset
 * serves all words: each response region is mapped with a private page directly below it, and the
 * node of a word stands one page below the word. So no pointer is in shared memory.
 *
 * The kernel walks at most ROBUST_WORDS_MAX nodes. Words are added when the front first sees their
 * lane in use; past the limit (and before) a word holds FUTEX_WAITERS alone, which tells a sleeper
 * to look at its socket now and then.
 *
 * glibc has a list of its own for robust mutexes, which this replaces: the front's one thread has
 * none.
 */
#define _GNU_SOURCE 1
#include "broker/robust.h"
#include "shm/atomics.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROBUST_WORDS_MAX 2048u

struct robust_node {
	struct robust_list list;  /* first: what the kernel reads */
	struct robust_node *prev; /* NULL = the first one */
};

static struct {
	struct robust_list_head head;
	bool registered;
	uint32_t n_words;
} robust;

static struct robust_node *node_of(const struct session *session, uint32_t lane)
{
	return (struct robust_node *)(void *)((char *)&session->response->liveness[lane] -
					      INF_PAGE);
}

static struct robust_node *node_next(struct robust_node *node)
{
	struct robust_list *next = node ? node->list.next : robust.head.list.next;

	return next == &robust.head.list ? NULL : (struct robust_node *)next;
}

/* Tells the kernel of the list of the calling thread, which is the front's only one. */
static bool list_is_registered(void)
{
	if (robust.registered)
		return true;
	robust.head.list.next = &robust.head.list;
	robust.head.futex_offset = INF_PAGE;
	robust.head.list_op_pending = NULL;
	robust.registered = syscall(SYS_set_robust_list, &robust.head, sizeof(robust.head)) == 0;
	return robust.registered;
}

static void link_node(struct robust_node *node)
{
	struct robust_node *first = node_next(NULL);

	node->prev = NULL;
	node->list.next = robust.head.list.next;
	if (first)
		first->prev = node;
	/* We may be killed at any instruction: the list is whole before it holds the node. */
	__atomic_store_n(&robust.head.list.next, &node->list, __ATOMIC_RELEASE);
	robust.n_words++;
}

static void unlink_node(struct robust_node *node)
{
	struct robust_node *next = node_next(node);
	struct robust_list *link = node->prev ? &node->prev->list : &robust.head.list;

	if (next)
		next->prev = node->prev;
	__atomic_store_n(&link->next, node->list.next, __ATOMIC_RELEASE);
	robust.n_words--;
}

void robust_lane_add(struct broker *broker, struct session *session, uint32_t lane)
{
	if (lane >= INF_LANES || session->robust_lanes >> lane & 1)
		return;
	if (robust.n_words >= ROBUST_WORDS_MAX || !list_is_registered())
		return;
	link_node(node_of(session, lane));
	session->robust_lanes |= (uint16_t)(1u << lane);
	/* After the node: who reads our id here may rely on the kernel. Pairs with the client's
	 * acquire before it sleeps. */
	inf_store32_release(&session->response->liveness[lane].v, broker->tid | FUTEX_WAITERS);
}

void robust_session_begin(struct broker *broker, struct session *session)
{
	for (uint32_t i = 0; i < INF_LANES; i++)
		inf_store32(&session->response->liveness[i].v, FUTEX_WAITERS);
	robust_lane_add(broker, session, 0);
}

static void wake_all(const uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void robust_session_end(struct session *session)
{
	for (uint32_t i = 0; i < INF_LANES; i++) {
		if (session->robust_lanes >> i & 1)
			unlink_node(node_of(session, i));
		inf_store32_release(&session->response->liveness[i].v, 0);
		wake_all(&session->response->liveness[i].v);
		wake_all(&session->response->lanes[i].cq_word.v);
	}
	session->robust_lanes = 0;
}

uint32_t robust_count(void)
{
	return robust.n_words;
}
