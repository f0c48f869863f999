/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flip.c - a client that flips bits in all that it may write, while it has requests in flight.
 *
 * At least half of the flips go into words that the broker reads as control (slots, sequences, heads, lane count, release,
 * cancel, parked words); the rest into extension blocks and input data. Whatever happens, only this session may end; it is
 * opened again. Statuses are all fine. That honest clients get right answers meanwhile is checked by others (loadgen).
 *
 * Usage: flip SOCKET N_FLIPS SEED
 */
#define _GNU_SOURCE 1
#include "shm/signature.h"
#include "tests/support/raw.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SETTLE_TURNS 256u

enum kind { SLOT, SEQUENCE, HEAD, LANES, RELEASE, CANCEL, PARKED, EXTENSION, INPUT, N_KINDS };

static const char *const kind_names[N_KINDS] = { "slot",   "sequence", "cq_head",   "n_lanes/n_cancels", "release",
						 "cancel", "parked",   "extension", "input" };
/* In 100; the first seven are control words. A lane count is seldom flipped: it nearly always ends the session. */
static const unsigned int weights[N_KINDS] = { 24, 9, 8, 1, 11, 9, 8, 15, 15 };

static uint64_t random_state;
static uint64_t n_flips[N_KINDS];

static uint64_t random64(void)
{
	/* splitmix64: any seed will do */
	uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void flip_in(void *address, size_t bytes)
{
	uint8_t *byte = (uint8_t *)address + random64() % bytes;

	__atomic_fetch_xor(byte, (uint8_t)(1u << random64() % 8), __ATOMIC_RELAXED);
}

static enum kind pick(void)
{
	unsigned int at = (unsigned int)(random64() % 100), sum = 0;

	for (unsigned int i = 0; i < N_KINDS; i++) {
		sum += weights[i];
		if (at < sum)
			return (enum kind)i;
	}
	return INPUT;
}

static void flip(struct raw *raw)
{
	struct inf_request_lane *lane = &raw->request->lanes[random64() % 4 ? 0 : random64() % INF_LANES];
	/* Near the tail, where the front looks. */
	struct inf_submission *slot = &lane->slots[(raw->sq.tail + random64() % 4) % INF_SLOTS];
	uint8_t *arena = (uint8_t *)raw->request + INF_ARENA_OFFSET;
	enum kind kind = pick();

	n_flips[kind]++;
	switch (kind) {
	case SLOT:
		flip_in(slot, 56);
		break;
	case SEQUENCE:
		flip_in(&slot->seq, 8);
		break;
	case HEAD:
		flip_in(&lane->cq_head.v, 8);
		break;
	case LANES:
		flip_in(random64() & 1 ? &raw->request->head.n_lanes.v : &raw->request->head.n_cancels.v, 4);
		break;
	case RELEASE:
		flip_in(raw->request->release, sizeof(raw->request->release));
		break;
	case CANCEL:
		flip_in(lane->cancel, sizeof(lane->cancel));
		break;
	case PARKED:
		flip_in(random64() & 1 ? &lane->parked.v : random64() & 1 ? &lane->spinning.v : &lane->event.v, 4);
		break;
	case EXTENSION:
		flip_in(arena, 2 * sizeof(struct inf_ext_tensor));
		break;
	default:
		flip_in(arena + 4096, 4096);
		break;
	}
}

/* A request that is right but for what is flipped between its filling and its publishing, or just after. */
static void submit(struct raw *raw)
{
	struct inf_submission sub = raw_submission(raw);

	if (random64() % 3 == 0) {
		sub.flags = INF_SUB_EXT;
		sub.length = raw->signature.n_inputs * sizeof(struct inf_ext_tensor);
	} else {
		sub.offset += 4096;
	}
	memcpy(inf_sq_slot(&raw->sq), &sub, offsetof(struct inf_submission, seq));
	if (random64() % 4 == 0)
		flip(raw);
	inf_sq_publish(&raw->sq);
	if (random64() % 4 == 0)
		flip(raw);
	if (inf_sq_must_ring(&raw->sq) || random64() % 8 == 0)
		raw_ring(raw);
}

static void write_ext(struct raw *raw)
{
	struct inf_ext_tensor *ext = (void *)((uint8_t *)raw->request + INF_ARENA_OFFSET);

	for (uint32_t i = 0; i < raw->signature.n_inputs; i++) {
		const struct inf_tensor_spec *spec = &raw->signature.inputs[i];

		ext[i] = (struct inf_ext_tensor){ .dtype = spec->dtype,
						  .rank = spec->rank,
						  .offset = INF_ARENA_OFFSET + 8192 + i * 4096,
						  .length = inf_spec_row_bytes(spec) };
		for (uint32_t k = 0; k < spec->rank; k++)
			ext[i].dims[k] = spec->dims[k] < 0 ? 1 : spec->dims[k];
	}
}

static uint64_t total(void)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < N_KINDS; i++)
		n += n_flips[i];
	return n;
}

/*
 * Lets the front get through what was submitted, so that the next flips hit a session that is alive. False where it is
 * not; true also where the front does not come to the end of it (a flip may have hidden a slot from it).
 */
static bool settle(struct raw *raw)
{
	for (unsigned int i = 0; i < SETTLE_TURNS; i++) {
		if (inf_load64(&raw->response->lanes[0].sq_head.v) == raw->sq.tail)
			return true;
		if (i % 16 == 15 && raw_is_ended(raw, 0))
			return false;
		sched_yield();
	}
	return !raw_is_ended(raw, 0);
}

/* One session until the broker ends it or enough was flipped. Returns 0, or -errno where it cannot be opened. */
static int one_session(const char *path, uint64_t n_flips_max, uint64_t *statuses)
{
	struct inf_completion completion;
	struct raw raw;
	int r = raw_open(&raw, path);

	if (r)
		return r;
	r = raw_model(&raw, "add_sub", 256);
	if (r) {
		raw_close(&raw);
		return r;
	}
	while (total() < n_flips_max) {
		write_ext(&raw);
		for (unsigned int i = 0; i < 8; i++)
			submit(&raw);
		flip(&raw);
		while (inf_cq_peek(&raw.cq) == INF_PEEK_FULL) {
			inf_cq_take(&raw.cq, &completion);
			statuses[completion.status < INF_STATUS_N ? completion.status : 0]++;
			if (completion.flags & INF_COMP_OUTPUT)
				inf_store32_release(&raw.request->release[completion.out_idx % INF_OUTPUTS],
						    completion.generation);
		}
		inf_cq_done(&raw.cq);
		if (raw.sq.tail - raw.cq.head >= INF_SLOTS - 8) { /* lost count of what a flip swallowed */
			raw_ring(&raw);
			break;
		}
		if (!settle(&raw))
			break;
	}
	raw_close(&raw);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t statuses[INF_STATUS_N] = { 0 }, n_sessions = 0, n_max, control = 0;
	unsigned int refused = 0;

	if (argc != 4)
		return 2;
	n_max = strtoull(argv[2], NULL, 10);
	random_state = strtoull(argv[3], NULL, 10);
	while (total() < n_max) {
		int r = one_session(argv[1], n_max, statuses);

		n_sessions++;
		if (!r)
			refused = 0;
		else if (++refused > 100) { /* our former sessions may still be on their way out */
			printf("NOT OK - the broker refuses to serve: %s\n0 passed, 1 failed, 0 skipped\n", strerror(-r));
			return 1;
		} else {
			struct timespec pause = { .tv_nsec = 20000000 };

			nanosleep(&pause, NULL);
		}
	}
	printf("%llu flips, seed %s, %llu sessions:", (unsigned long long)total(), argv[3],
	       (unsigned long long)n_sessions);
	for (unsigned int i = 0; i < N_KINDS; i++) {
		printf(" %s %llu", kind_names[i], (unsigned long long)n_flips[i]);
		control += i < EXTENSION ? n_flips[i] : 0;
	}
	printf("; answers:");
	for (unsigned int i = 0; i < INF_STATUS_N; i++)
		if (statuses[i])
			printf(" %u:%llu", i, (unsigned long long)statuses[i]);
	printf("\n%d passed, %d failed, 0 skipped\n", control * 2 >= total(), control * 2 < total());
	return control * 2 < total();
}
