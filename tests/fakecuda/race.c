/* SPDX-License-Identifier: Apache-2.0 */
/*
 * race.c - who is ordered after whom, and whether two that touch the same bytes are.
 *
 * Vector clocks, as in FastTrack (Flanagan and Freund, PLDI 2009): each stream counts its operations, and a clock says how many
 * of each stream's somebody knows to have ended. What makes an order:
 *	a stream's own; host thread to stream, by queueing;
 *	an event's record to a stream that waits for it, and to a host thread that waited or saw it done;
 *	a stream to a host thread that waited for it or saw it idle (cuMemcpyDtoH to pageable memory waits as well);
 *	a value word, from the stream that wrote it to the one that waited for that value;
 *	a host function, a value written to host memory, and the end of a stream that is idle, to every host thread from then
 *	on: how it told others is not seen.
 * Not an order: that it happened to run in time. An operation is judged as it is queued, by what its caller knows then; behind a
 * wait for a value and behind a graph, as it runs, because what comes before is not known earlier. Either way a missing order is
 * found whatever the timing was, but for the last kind of edge, whose "from then on" is a time.
 *
 * What the host itself reads and writes is not seen, nor what host threads tell each other: a thread that learns from another
 * thread that a stream is idle has to ask the stream too, or what it queues counts as not ordered.
 *
 * Each range of memory has a list of spans that were touched alike: by whom it was written last, and read since. A list that
 * grows too long is forgotten: mistakes may then be missed, none is invented. Memory that is not pinned is its program's own
 * between copies, and is judged only among copies that are under way.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>
#include <string.h>

#define READS	  8u
#define SPANS_MAX 4096u
#define WORDS	  64u
#define VALUES	  4u /* of a word: whoever waits may see a later one than it waits for */

struct access {
	uint64_t stamp; /* 0 = none */
	unsigned int entity;
	enum op_kind kind;
	uint64_t number; /* of the stream */
};

struct span {
	uint64_t begin, end; /* offsets in the memory */
	struct access write;
	unsigned int n_reads;
	struct access reads[READS];
};

struct shadow {
	struct span *spans; /* in order, disjoint */
	size_t n, n_max;
};

static struct shadow pageable;
static struct clock published;
static _Thread_local struct clock own;

static unsigned int n_entities = 1; /* 0 is nobody */
static uint64_t last_stamps[ENTITIES]; /* of who had the number before */
static unsigned int free_entities[ENTITIES], n_free, first_free; /* the longest unused comes first */

static struct word {
	uint64_t address, n_values;
	struct {
		uint64_t value;
		struct clock clock;
	} values[VALUES];
} words[WORDS];
static uint64_t n_words;

/* --- clocks ------------------------------------------------------------------------------------------------------- */

unsigned int entity_new(struct clock *clock)
{
	unsigned int entity;

	if (n_entities < ENTITIES) {
		entity = n_entities++;
	} else if (n_free) {
		entity = free_entities[first_free];
		first_free = (first_free + 1) % ENTITIES;
		n_free--;
	} else {
		return 0;
	}
	clock->at[entity] = last_stamps[entity];
	return entity;
}

void entity_end(unsigned int entity, const struct clock *clock)
{
	last_stamps[entity] = clock->at[entity];
	free_entities[(first_free + n_free++) % ENTITIES] = entity;
}

void clock_join(struct clock *clock, const struct clock *other)
{
	for (unsigned int i = 0; i < ENTITIES; i++)
		if (clock->at[i] < other->at[i])
			clock->at[i] = other->at[i];
}

struct clock *host_clock(void)
{
	clock_join(&own, &published);
	return &own;
}

void clock_publish(const struct clock *clock)
{
	clock_join(&published, clock);
}

static bool is_before(const struct access *access, const struct clock *clock)
{
	return clock->at[access->entity] >= access->stamp;
}

/* --- spans -------------------------------------------------------------------------------------------------------- */

struct shadow *shadow_new(void)
{
	struct shadow *shadow = calloc(1, sizeof(*shadow));

	if (!shadow)
		abort();
	return shadow;
}

void shadow_free(struct shadow *shadow)
{
	if (shadow)
		free(shadow->spans);
	free(shadow);
}

static void insert(struct shadow *shadow, size_t i, const struct span *span)
{
	if (shadow->n == shadow->n_max) {
		shadow->n_max = shadow->n_max ? 2 * shadow->n_max : 8;
		shadow->spans = realloc(shadow->spans, shadow->n_max * sizeof(*span));
		if (!shadow->spans)
			abort();
	}
	memmove(&shadow->spans[i + 1], &shadow->spans[i], (shadow->n - i) * sizeof(*span));
	shadow->spans[i] = *span;
	shadow->n++;
}

static void erase(struct shadow *shadow, size_t i, size_t n)
{
	if (!n)
		return;
	memmove(&shadow->spans[i], &shadow->spans[i + n], (shadow->n - i - n) * sizeof(shadow->spans[0]));
	shadow->n -= n;
}

/* No span goes on across `at` any more. Returns the index of the first that begins there or later. */
static size_t cut(struct shadow *shadow, uint64_t at)
{
	size_t low = 0, high = shadow->n;
	struct span rest;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (shadow->spans[middle].end > at)
			high = middle;
		else
			low = middle + 1;
	}
	if (low == shadow->n || shadow->spans[low].begin >= at)
		return low;
	rest = shadow->spans[low];
	rest.begin = at;
	shadow->spans[low].end = at;
	insert(shadow, low + 1, &rest);
	return low + 1;
}

static void add_read(struct span *span, const struct access *access, const struct clock *clock)
{
	unsigned int n = 0;

	/* Whoever is ordered after us is ordered after those that were before us. */
	for (unsigned int i = 0; i < span->n_reads; i++)
		if (!is_before(&span->reads[i], clock))
			span->reads[n++] = span->reads[i];
	if (n == READS) {
		memmove(&span->reads[0], &span->reads[1], (READS - 1) * sizeof(span->reads[0]));
		n--;
	}
	span->reads[n++] = *access;
	span->n_reads = n;
}

static void note_read(struct shadow *shadow, uint64_t begin, uint64_t end, const struct access *access, const struct clock *clock)
{
	size_t i = cut(shadow, begin);
	uint64_t at = begin;

	cut(shadow, end);
	while (at < end) {
		struct span fresh = { .begin = at, .end = end };

		if (i < shadow->n && shadow->spans[i].begin < end)
			fresh.end = shadow->spans[i].begin;
		if (fresh.begin < fresh.end)
			insert(shadow, i, &fresh);
		add_read(&shadow->spans[i], access, clock);
		at = shadow->spans[i++].end;
	}
}

static void note_write(struct shadow *shadow, uint64_t begin, uint64_t end, const struct access *access)
{
	struct span fresh = { .begin = begin, .end = end, .write = *access };
	size_t i = cut(shadow, begin), j = cut(shadow, end);

	erase(shadow, i, j - i);
	insert(shadow, i, &fresh);
}

/* The first access to these bytes that should have been ordered before `clock` and is not; NULL. */
static const struct access *find_conflict(const struct shadow *shadow, uint64_t begin, uint64_t end, bool is_written,
					  const struct clock *clock)
{
	for (size_t i = 0; i < shadow->n && shadow->spans[i].begin < end; i++) {
		const struct span *span = &shadow->spans[i];

		if (span->end <= begin)
			continue;
		if (span->write.stamp && !is_before(&span->write, clock))
			return &span->write;
		for (unsigned int k = 0; is_written && k < span->n_reads; k++)
			if (!is_before(&span->reads[k], clock))
				return &span->reads[k];
	}
	return NULL;
}

/* --- judging -------------------------------------------------------------------------------------------------------- */

/* The piece of [at, end) that lies in one memory: which, and where in it. */
static struct shadow *piece_of(uint64_t at, uint64_t end, uint64_t *ret_offset, uint64_t *ret_bytes)
{
	struct range *range = range_from(at);

	*ret_offset = at;
	*ret_bytes = end - at;
	if (!range || range->address >= end)
		return &pageable;
	if (range->address > at) {
		*ret_bytes = range->address - at;
		return &pageable;
	}
	*ret_offset = at - range->address;
	if (range->bytes - *ret_offset < *ret_bytes)
		*ret_bytes = range->bytes - *ret_offset;
	return range->shadow;
}

/* Returns whether something was reported, or `quiet`: one report for an operation is enough. */
static bool judge(const struct touch *touch, const struct op *op, const struct access *access, const struct clock *clock,
		  bool quiet)
{
	uint64_t end = touch->address + touch->bytes, bytes;

	for (uint64_t at = touch->address; at < end; at += bytes) {
		uint64_t offset;
		struct shadow *shadow = piece_of(at, end, &offset, &bytes);
		const struct access *other = find_conflict(shadow, offset, offset + bytes, touch->is_written, clock);

		if (other && !quiet) {
			violation("race: %s in stream %llu and %s%s%s in stream %llu touch [%#llx, +%zu) without an order",
				  op_names[other->kind], (unsigned long long)other->number, op_names[op->kind],
				  op->kernel ? " " : "", op->kernel ? op->kernel->name : "", (unsigned long long)access->number,
				  (unsigned long long)touch->address, touch->bytes);
			quiet = true;
		}
		if (shadow->n > SPANS_MAX)
			shadow->n = 0;
		if (touch->is_written)
			note_write(shadow, offset, offset + bytes, access);
		else
			note_read(shadow, offset, offset + bytes, access, clock);
	}
	return quiet;
}

bool race_check(const struct op *op, const struct clock *clock, unsigned int entity, uint64_t number)
{
	struct access access = { clock->at[entity], entity, op->kind, number };
	bool quiet = false;

	for (unsigned int i = 0; i < op->n_touches; i++)
		quiet = judge(&op->touches[i], op, &access, clock, quiet);
	return quiet;
}

void race_forget_pageable(const struct op *op)
{
	uint64_t end = op->to + op->bytes;
	size_t i = cut(&pageable, op->to), j = cut(&pageable, end);

	erase(&pageable, i, j - i);
}

/* --- value words ------------------------------------------------------------------------------------------------------ */

void word_written(uint64_t address, uint64_t value, const struct clock *clock)
{
	struct word *word = NULL;

	for (unsigned int i = 0; !word && i < WORDS; i++)
		if (words[i].address == address)
			word = &words[i];
	if (!word) {
		word = &words[n_words++ % WORDS];
		word->address = address;
		word->n_values = 0;
	}
	word->values[word->n_values % VALUES].value = value;
	word->values[word->n_values++ % VALUES].clock = *clock;
}

void word_seen(uint64_t address, uint64_t value, struct clock *clock)
{
	for (unsigned int i = 0; i < WORDS; i++)
		for (uint64_t k = 0; words[i].address == address && k < VALUES && k < words[i].n_values; k++)
			if (words[i].values[k].value == value)
				clock_join(clock, &words[i].values[k].clock);
}
