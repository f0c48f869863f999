/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_shm_lane.c - the rings: laps, sequences that are neither empty nor next, the event index, and
 * a million slots between two threads (TSan) and between two processes, one of which is killed.
 */
#define _GNU_SOURCE 1
#include "shm/lane.h"
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define HAS_TSAN 1
#else
#define HAS_TSAN 0
#endif

#define N_PASSED (HAS_TSAN ? 100000u : 1000000u)

/* Both ends of lane 0, in memory that a fork shares. */
struct pair {
	struct inf_request_lane request;
	struct inf_response_lane response;
	uint64_t start;
};

static struct pair *pair;

static void setup(void)
{
	pair = mmap(NULL, sizeof(*pair), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(pair, MAP_FAILED);
}

static void teardown(void)
{
	munmap(pair, sizeof(*pair));
}

static const uint64_t starts[] = { 0, 1, 37, 128, 255 };
#define N_STARTS ((int)(sizeof(starts) / sizeof(starts[0])))

/* --- one thread --- */

START_TEST(laps_of_submissions)
{
	uint64_t start = starts[_i];
	struct inf_sq_writer writer;
	struct inf_sq_reader reader;
	struct inf_submission got;

	inf_sq_writer_init(&writer, &pair->request, &pair->response, start);
	inf_sq_reader_init(&reader, &pair->request, start);
	for (uint64_t lap = 0; lap < 5; lap++) {
		ck_assert_int_eq(inf_sq_peek(&reader), INF_PEEK_EMPTY);
		for (uint64_t i = 0; i < INF_SLOTS; i++) {
			inf_sq_slot(&writer)->tag = lap * 1000 + i;
			inf_sq_publish(&writer);
		}
		for (uint64_t i = 0; i < INF_SLOTS; i++) {
			ck_assert_int_eq(inf_sq_peek(&reader), INF_PEEK_FULL);
			inf_sq_take(&reader, &got);
			ck_assert_uint_eq(got.tag, lap * 1000 + i);
			ck_assert_uint_eq(got.seq, start + lap * INF_SLOTS + i + 1);
		}
	}
}
END_TEST

START_TEST(laps_of_completions)
{
	uint64_t start = starts[_i];
	struct inf_cq_writer writer;
	struct inf_cq_reader reader;
	struct inf_completion body = { 0 }, got;

	inf_cq_writer_init(&writer, &pair->response, start);
	inf_cq_reader_init(&reader, &pair->request, &pair->response, start);
	for (uint64_t i = 0; i < 5 * INF_SLOTS; i++) {
		ck_assert_int_eq(inf_cq_peek(&reader), INF_PEEK_EMPTY);
		body.tag = i;
		body.run_us = (uint32_t)i;
		inf_cq_push(&writer, &body);
		inf_cq_bump(&writer);
		ck_assert_uint_eq(pair->response.cq_word.v, (uint32_t)(start + i + 1));
		ck_assert_int_eq(inf_cq_peek(&reader), INF_PEEK_FULL);
		inf_cq_take(&reader, &got);
		ck_assert_uint_eq(got.tag, i);
		ck_assert_uint_eq(got.run_us, (uint32_t)i);
		inf_cq_done(&reader);
		ck_assert_uint_eq(pair->request.cq_head.v, start + i + 1);
	}
}
END_TEST

/* What a producer that was killed before its last store left behind. */
START_TEST(unpublished_is_invisible)
{
	struct inf_sq_writer writer;
	struct inf_sq_reader reader;

	inf_sq_writer_init(&writer, &pair->request, &pair->response, 37);
	inf_sq_reader_init(&reader, &pair->request, 37);
	memset(inf_sq_slot(&writer), 0xff, offsetof(struct inf_submission, seq));
	ck_assert_int_eq(inf_sq_peek(&reader), INF_PEEK_EMPTY);
}
END_TEST

/* A position's one full and one empty value; all else is corrupt, in every lap. */
START_TEST(judge)
{
	uint64_t start = starts[_i];

	for (uint64_t pos = start; pos < start + 4 * INF_SLOTS; pos++) {
		uint64_t empty = pos < start + INF_SLOTS ? 0 : pos + 1 - INF_SLOTS;
		uint64_t others[] = {
			pos,	    pos + 2,	pos + 1 + INF_SLOTS, UINT64_MAX,
			1ull << 63, pos + 1000, (pos + 1) << 1,	     (pos + 1) | 1ull << 40
		};

		ck_assert_int_eq(inf_seq_judge(pos + 1, pos, start, INF_SLOTS), INF_PEEK_FULL);
		ck_assert_int_eq(inf_seq_judge(empty, pos, start, INF_SLOTS), INF_PEEK_EMPTY);
		for (size_t k = 0; k < sizeof(others) / sizeof(others[0]); k++)
			if (others[k] != empty)
				ck_assert_int_eq(inf_seq_judge(others[k], pos, start, INF_SLOTS),
						 INF_PEEK_CORRUPT);
		/* Two laps old; and 0, which is empty in the first lap alone. */
		if (pos >= start + 2 * INF_SLOTS)
			ck_assert_int_eq(inf_seq_judge(pos + 1 - 2 * INF_SLOTS, pos, start,
						       INF_SLOTS),
					 INF_PEEK_CORRUPT);
		if (pos >= start + INF_SLOTS)
			ck_assert_int_eq(inf_seq_judge(0, pos, start, INF_SLOTS), INF_PEEK_CORRUPT);
	}
}
END_TEST

/* The bell is rung exactly where the front's index lies among the positions of this burst. */
START_TEST(event_index)
{
	for (uint64_t n = 1; n <= 9; n++) {
		for (uint64_t wake = 90; wake < 120; wake++) {
			struct inf_sq_writer writer;

			inf_sq_writer_init(&writer, &pair->request, &pair->response, 100);
			inf_store64(&pair->response.sq_wake.v, wake);
			for (uint64_t i = 0; i < n; i++)
				inf_sq_publish(&writer);
			ck_assert_int_eq(inf_sq_must_ring(&writer), wake >= 100 && wake < 100 + n);
			ck_assert(!inf_sq_must_ring(&writer)); /* asked once per position */
		}
	}
}
END_TEST

/* --- two threads --- */

static void fill(struct inf_submission *slot, uint64_t i)
{
	slot->tag = i;
	slot->offset = ~i;
	slot->length = i * 3;
	slot->deadline_ns = i ^ 0x5555555555555555ull;
}

static bool is_whole(const struct inf_submission *got, uint64_t i)
{
	return got->tag == i && got->offset == ~i && got->length == i * 3 &&
	       got->deadline_ns == (i ^ 0x5555555555555555ull);
}

/* Fills slots as fast as the consumer gives them back, for ever if n is 0. */
static void produce(uint64_t n)
{
	struct inf_sq_writer writer;

	inf_sq_writer_init(&writer, &pair->request, &pair->response, pair->start);
	for (uint64_t i = 0; i < n || !n; i++) {
		/* Acquire: the consumer has copied the slot. */
		while (writer.tail - inf_load64_acquire(&pair->response.sq_head.v) >= INF_SLOTS)
			sched_yield();
		fill(inf_sq_slot(&writer), i);
		inf_sq_publish(&writer);
	}
}

static void *producer(void *arg)
{
	produce(N_PASSED);
	return arg;
}

/* The next one, or false where it is neither there nor whole. */
static bool consume(struct inf_sq_reader *reader, uint64_t i)
{
	struct inf_submission got;

	inf_sq_take(reader, &got);
	inf_store64_release(&pair->response.sq_head.v, reader->head);
	return is_whole(&got, i);
}

START_TEST(two_threads)
{
	struct inf_sq_reader reader;
	pthread_t thread;
	uint64_t n = 0;

	pair->start = 37;
	inf_store64(&pair->response.sq_head.v, pair->start);
	inf_sq_reader_init(&reader, &pair->request, pair->start);
	ck_assert_int_eq(pthread_create(&thread, NULL, producer, NULL), 0);
	while (n < N_PASSED) {
		enum inf_peek peek = inf_sq_peek(&reader);

		if (peek == INF_PEEK_EMPTY)
			sched_yield();
		else if (peek == INF_PEEK_CORRUPT || !consume(&reader, n++))
			ck_abort_msg("slot %llu is not whole", (unsigned long long)n);
	}
	ck_assert_int_eq(inf_sq_peek(&reader), INF_PEEK_EMPTY);
	pthread_join(thread, NULL);
}
END_TEST

/* --- two processes --- */

/* A producer is killed somewhere: what it published is whole, what it did not is not there. */
START_TEST(killed_producer)
{
	uint64_t n_alive = 1000 + 1370 * (uint64_t)_i;
	struct inf_sq_reader reader;
	uint64_t n = 0;
	bool dead = false;
	pid_t pid;

	if (HAS_TSAN) {
		printf("skip - killed_producer: TSan does not see other processes\n");
		return;
	}
	pair->start = starts[_i % N_STARTS];
	inf_store64(&pair->response.sq_head.v, pair->start);
	inf_sq_reader_init(&reader, &pair->request, pair->start);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		produce(0);
		_exit(0);
	}
	while (!dead || inf_sq_peek(&reader) != INF_PEEK_EMPTY) {
		enum inf_peek peek = inf_sq_peek(&reader);

		/* Not ck_assert: it tells the parent process each time. */
		if (peek == INF_PEEK_CORRUPT || (peek == INF_PEEK_FULL && !consume(&reader, n++)))
			ck_abort_msg("slot %llu is not whole", (unsigned long long)n);
		if (dead || n < n_alive)
			continue;
		kill(pid, SIGKILL);
		ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
		dead = true;
	}
	ck_assert_uint_ge(n, n_alive);
}
END_TEST

Suite *suite_shm_lane(void);
Suite *suite_shm_lane(void)
{
	Suite *suite = suite_create("shm_lane");
	TCase *ring = tcase_create("ring"), *both = tcase_create("both");

	tcase_add_checked_fixture(ring, setup, teardown);
	tcase_add_loop_test(ring, laps_of_submissions, 0, N_STARTS);
	tcase_add_loop_test(ring, laps_of_completions, 0, N_STARTS);
	tcase_add_test(ring, unpublished_is_invisible);
	tcase_add_loop_test(ring, judge, 0, N_STARTS);
	tcase_add_test(ring, event_index);
	suite_add_tcase(suite, ring);
	tcase_add_checked_fixture(both, setup, teardown);
	tcase_set_timeout(both, 120);
	tcase_add_test(both, two_threads);
	tcase_add_loop_test(both, killed_producer, 0, 10);
	suite_add_tcase(suite, both);
	return suite;
}
