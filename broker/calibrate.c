/* SPDX-License-Identifier: Apache-2.0 */
/*
 * calibrate.c - measures W by throwing a word back and forth between two sleeping threads.
 *
 * The two stand on two different cores: left alone, the scheduler often puts both on one, where a
 * wake costs two context switches (2 us here) instead of an interrupt (15 us), and a budget of 2 us
 * buys nothing where clients run elsewhere.
 *
 * The median of up to ROUNDS round trips, halved: other load only makes some rounds longer, and the
 * median ignores those as long as they are fewer than half. On a machine with all cores busy W is
 * then large, which is true there. The second thread ends before anything else of the front exists,
 * and the front may run anywhere again.
 */
#define _GNU_SOURCE 1
#include "broker/calibrate.h"
#include "broker/clock.h"
#include "shm/atomics.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROUNDS	    200u
#define WARM_UP	    16u
#define ENOUGH_NS   10000000ull /* of measuring, however few rounds that were */
#define WAKE_NS_MIN 2000u
#define WAKE_NS_MAX 50000u
#define WAKE_NS_DEFAULT \
	10000u /* where no thread can be made: between the machines that we saw, 3 and 18 us */

/* `ping` is written by the measuring thread, `pong` by the other; each wakes the other's sleep. */
struct court {
	uint32_t ping;
	uint32_t pong;
};

#define STOP UINT32_MAX

static void word_set(uint32_t *word, uint32_t value)
{
	inf_store32_release(word, value); /* pairs with the load in word_await() */
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static uint32_t word_await(const uint32_t *word, uint32_t old)
{
	uint32_t value;

	while ((value = inf_load32_acquire(word)) == old) /* pairs with word_set() */
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
	return value;
}

static void *play(void *context)
{
	struct court *court = context;
	uint32_t seen = 0;

	while ((seen = word_await(&court->ping, seen)) != STOP)
		word_set(&court->pong, seen);
	return NULL;
}

/* The first allowed core at or after `cpu`; -1 = none. */
static int allowed_from(const cpu_set_t *allowed, int cpu)
{
	while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, allowed))
		cpu++;
	return cpu < CPU_SETSIZE ? cpu : -1;
}

static void stand_on(pthread_t thread, int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

/* Puts both on cores of their own; they stay where they are where there is one core, or so many
 * that the set is too small. */
static void stand_apart(const cpu_set_t *allowed, pthread_t other)
{
	int first = allowed_from(allowed, 0);
	int second = first < 0 ? -1 : allowed_from(allowed, first + 1);

	if (second < 0)
		return;
	stand_on(pthread_self(), first);
	stand_on(other, second);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t median_round_ns(struct court *court)
{
	uint64_t rounds[ROUNDS];
	uint64_t begin_ns = clock_ns(), then_ns = begin_ns;
	uint32_t n = 0;

	for (uint32_t i = 1; i <= WARM_UP + ROUNDS && (n == 0 || then_ns - begin_ns < ENOUGH_NS);
	     i++) {
		uint64_t now_ns;

		word_set(&court->ping, i);
		word_await(&court->pong, i - 1);
		now_ns = clock_ns();
		if (i > WARM_UP || then_ns - begin_ns >= ENOUGH_NS)
			rounds[n++] = now_ns - then_ns;
		then_ns = now_ns;
	}
	qsort(rounds, n, sizeof(rounds[0]), compare);
	return rounds[n / 2];
}

uint32_t calibrate_wake_ns(void)
{
	struct court court = { 0 };
	cpu_set_t allowed;
	bool known = sched_getaffinity(0, sizeof(allowed), &allowed) == 0;
	pthread_t thread;
	uint64_t wake_ns;

	if (pthread_create(&thread, NULL, play, &court) != 0)
		return WAKE_NS_DEFAULT;
	if (known)
		stand_apart(&allowed, thread);
	wake_ns = median_round_ns(&court) / 2;
	if (known)
		sched_setaffinity(0, sizeof(allowed), &allowed);
	word_set(&court.ping, STOP);
	pthread_join(thread, NULL);
	if (wake_ns < WAKE_NS_MIN)
		return WAKE_NS_MIN;
	return wake_ns > WAKE_NS_MAX ? WAKE_NS_MAX : (uint32_t)wake_ns;
}
