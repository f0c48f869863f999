/* SPDX-License-Identifier: Apache-2.0 */
/*
 * touch.c - what operations touch: noted as they are queued, and looked at again as they run.
 *
 * A kernel may find in memory what it touches (the list of inf_move). That is read when it is queued, or when the graph is
 * launched that has it; where the device itself has yet to write the list, not before it runs.
 *
 * From then until it has run, what an operation reads in memory of cuMemAllocHost is not the host's to write. That the host
 * does so is seen by a sum of those bytes, taken when the operation is queued and compared as it begins: not where something
 * that is queued will still write there, nor behind what tells the host that it may, or waits for it to have done so (a host
 * function, a wait for a value). Registered memory may be another process's too, which writes when it likes.
 */
#define _GNU_SOURCE 1
#include "tests/fakecuda/fake.h"
#include <stdlib.h>
#include <string.h>

void op_touch(struct op *op, uint64_t address, size_t bytes, bool is_written)
{
	if (!bytes)
		return;
	op->touches = realloc(op->touches, (op->n_touches + 1) * sizeof(op->touches[0]));
	if (!op->touches)
		abort();
	op->touches[op->n_touches++] = (struct touch){ address, bytes, is_written, false, 0 };
}

CUresult op_check(const struct op *op, const struct context *context)
{
	for (unsigned int i = 0; i < op->n_touches; i++) {
		const struct touch *touch = &op->touches[i];
		enum look look = range_look(RANGE_OF_DEVICE | RANGE_OF_HOST, touch->address, touch->bytes, context->device,
					    touch->is_written);

		if (look == LOOK_GOOD)
			continue;
		violation("%s %s[%#llx, +%zu), which %s", op->kernel ? op->kernel->name : op_names[op->kind],
			  op->kernel ? "touches " : "of ", (unsigned long long)touch->address, touch->bytes,
			  look_text(look, touch->address, touch->bytes));
		return op->kernel ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_INVALID_VALUE;
	}
	return CUDA_SUCCESS;
}

/* --- what may still change ------------------------------------------------------------------------------------------ */

static bool is_overlapping(const struct touch *touch, uint64_t address, size_t bytes)
{
	return address < touch->address + touch->bytes && touch->address < address + bytes;
}

static bool is_written_by(const struct op *first, const struct op *end, uint64_t address, size_t bytes)
{
	for (const struct op *op = first; op && op != end; op = op->next)
		for (unsigned int i = 0; i < op->n_touches; i++)
			if (op->touches[i].is_written && is_overlapping(&op->touches[i], address, bytes))
				return true;
	return false;
}

static bool tells_host(const struct op *first, const struct op *end)
{
	for (const struct op *op = first; op && op != end; op = op->next)
		if (op->kind == OP_CALL || op->kind == OP_WAIT_WORD || tells_host(op->nodes, NULL) ||
		    (op->kind == OP_WAIT && op->record && op->record->is_told && !op->record->is_done))
			return true;
	return false;
}

bool stream_is_told(const struct stream *stream)
{
	return tells_host(stream->first, NULL);
}

/* Will these bytes be at the end of the queue what they are now? `op` is put there, or comes after some of `nodes`. */
static bool is_settled(const struct op *op, const struct op *nodes, const struct stream *stream, uint64_t address, size_t bytes)
{
	const struct stream *other = NULL;

	if (stream_is_told(stream) || tells_host(nodes, op) || is_written_by(nodes, op, address, bytes))
		return false;
	while ((other = stream_next(other)))
		if (is_written_by(other->first, NULL, address, bytes))
			return false;
	return true;
}

/* --- kernels -------------------------------------------------------------------------------------------------------- */

struct look_at {
	struct op *op;
	const struct op *nodes;
	const struct stream *stream;
	bool is_queued; /* else it runs */
};

static bool take_touch(void *data, const void *address, size_t bytes, bool is_written)
{
	const struct look_at *at = data;
	uint64_t begin = (uintptr_t)address;

	op_touch(at->op, begin, bytes, is_written);
	return range_look(RANGE_OF_DEVICE | RANGE_OF_HOST, begin, bytes, at->stream->object.context->device, false) ==
		       LOOK_GOOD &&
	       (!at->is_queued || is_settled(at->op, at->nodes, at->stream, begin, bytes));
}

static bool read_touches(struct look_at *at)
{
	void *params[KERNEL_PARAMS_MAX];
	struct op *op = at->op;

	for (unsigned int i = 0; i < op->kernel->n_params; i++)
		params[i] = &op->params[i];
	return op->kernel->touch(params, take_touch, at);
}

static int by_address(const void *a, const void *b)
{
	const struct touch *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

/* The threads of a launch run in any order: what one part of it writes, no other part may write or read. */
static void check_overlap(const struct op *op)
{
	uint64_t end = 0, written_end = 0; /* of what begins earlier */
	struct touch *touches;

	if (op->n_touches < 2)
		return;
	touches = malloc(op->n_touches * sizeof(*touches));
	if (!touches)
		abort();
	memcpy(touches, op->touches, op->n_touches * sizeof(*touches));
	qsort(touches, op->n_touches, sizeof(*touches), by_address);
	for (unsigned int i = 0; i < op->n_touches; i++) {
		const struct touch *touch = &touches[i];

		if (op->kernel->is_elementwise && !touch->is_written)
			continue;
		if (touch->address < written_end || (touch->is_written && touch->address < end)) {
			violation("%s: [%#llx, +%zu) is written by one part of the launch and touched by another", op->kernel->name,
				  (unsigned long long)touch->address, touch->bytes);
			break;
		}
		if (end < touch->address + touch->bytes)
			end = touch->address + touch->bytes;
		if (touch->is_written && written_end < touch->address + touch->bytes)
			written_end = touch->address + touch->bytes;
	}
	free(touches);
}

/* --- sums ------------------------------------------------------------------------------------------------------------ */

/* FNV-1a by words. */
static uint64_t sum_of(uint64_t address, size_t bytes)
{
	const unsigned char *at = (const unsigned char *)(uintptr_t)address;
	uint64_t sum = 0xcbf29ce484222325ull;

	for (; bytes >= sizeof(sum); at += sizeof(sum), bytes -= sizeof(sum)) {
		uint64_t word;

		memcpy(&word, at, sizeof(word));
		sum = (sum ^ word) * 0x100000001b3ull;
		sum ^= sum >> 29;
	}
	while (bytes--)
		sum = (sum ^ *at++) * 0x100000001b3ull;
	return sum;
}

static void take_sums(struct op *op, const struct op *nodes, const struct stream *stream)
{
	for (unsigned int i = 0; i < op->n_touches; i++) {
		struct touch *touch = &op->touches[i];
		const struct range *range = touch->is_written ? NULL : range_at(touch->address);

		if (!range || range->kind != RANGE_PINNED || touch->address + touch->bytes > range->address + range->bytes ||
		    !is_settled(op, nodes, stream, touch->address, touch->bytes))
			continue;
		touch->is_summed = true;
		touch->sum = sum_of(touch->address, touch->bytes);
	}
}

static void compare_sums(const struct op *op)
{
	for (unsigned int i = 0; i < op->n_touches; i++) {
		const struct touch *touch = &op->touches[i];

		if (!touch->is_summed || sum_of(touch->address, touch->bytes) == touch->sum)
			continue;
		violation("%s%s%s: the host has written [%#llx, +%zu), which it reads, since it was queued", op_names[op->kind],
			  op->kernel ? " " : "", op->kernel ? op->kernel->name : "", (unsigned long long)touch->address,
			  touch->bytes);
		return;
	}
}

/* --- both ------------------------------------------------------------------------------------------------------------ */

void op_queued(struct op *op, const struct op *nodes, const struct stream *stream)
{
	struct look_at at = { op, nodes, stream, true };

	if (op->kind > OP_KERNEL)
		return;
	if (op->kernel) {
		op->n_touches = 0;
		op->is_open = !read_touches(&at);
		check_overlap(op);
	}
	take_sums(op, nodes, stream);
}

/* Where the host has changed a list, it is the new one that counts. */
void op_runs(struct op *op, const struct stream *stream)
{
	struct look_at at = { op, NULL, stream, false };
	struct touch *before = op->touches;
	unsigned int n_before = op->n_touches;
	bool is_same;

	compare_sums(op);
	if (!op->kernel)
		return;
	op->touches = NULL;
	op->n_touches = 0;
	read_touches(&at);
	is_same = op->n_touches == n_before;
	for (unsigned int i = 0; is_same && i < n_before; i++)
		is_same = op->touches[i].address == before[i].address && op->touches[i].bytes == before[i].bytes;
	free(before);
	if (is_same)
		return;
	if (!op->is_open)
		violation("%s: what it touches is not what it was when it was queued", op->kernel->name);
	check_overlap(op);
	op->is_judged = false;
}
