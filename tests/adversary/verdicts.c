/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verdicts.c - every row of the bad-input table, sent to the real broker.
 *
 * For each row one client sends exactly that; the broker must answer with the row's status, or end this session and
 * say the row's text in its log. After each row an honest request must be answered. A row without a case fails; one that
 * needs a device is skipped where the broker has none.
 *
 * Usage: verdicts SOCKET BROKER_LOG
 */
#define _GNU_SOURCE 1
#include "shm/check.h"
#include "shm/signature.h"
#include "tests/support/raw.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WAIT_MS 3000u

static const char *socket_path, *log_path;

/* --- what each case does to a good submission, or to the session ------------------------------------------- */

static void bad_opcode(struct inf_submission *sub) { sub->opcode = 99; }
static void bad_mem_kind(struct inf_submission *sub) { sub->mem_kind = 7; }
static void later_mem_kind(struct inf_submission *sub) { sub->mem_kind = INF_MEM_OUTPUT; }
static void bad_flags(struct inf_submission *sub) { sub->flags |= 1u << 31; }
static void bad_reserved(struct inf_submission *sub) { sub->priority = 99; }
static void bad_timeline(struct inf_submission *sub) { sub->timeline = 1; }
static void bad_twin(struct inf_submission *sub)
{
	sub->mem_kind = INF_MEM_DEVICE;
	sub->flags = 1u << (INF_SUB_TWIN_SHIFT + 7);
}
static void bad_twin_out(struct inf_submission *sub)
{
	sub->mem_kind = INF_MEM_DEVICE;
	sub->flags = INF_SUB_TWIN_OUT;
	sub->offset = INF_REQUEST_BYTES - sub->length;
}
static void twins(struct inf_submission *sub)
{
	sub->mem_kind = INF_MEM_DEVICE;
	sub->flags |= 3u << INF_SUB_TWIN_SHIFT;
}
static void bad_model(struct inf_submission *sub) { sub->model = 63; }
static void bad_rows(struct inf_submission *sub) { sub->rows = 0; }
static void bad_region(struct inf_submission *sub) { sub->region = 999; }
static void bad_offset(struct inf_submission *sub) { sub->offset = 1ull << 40; }
static void bad_align(struct inf_submission *sub) { sub->offset += 1; }
static void bad_length(struct inf_submission *sub) { sub->length += 64; }
static void bad_count(struct inf_submission *sub) { sub->length += sizeof(struct inf_ext_tensor); }

static void ext_reserved(struct inf_ext_tensor *ext) { ext->reserved = 1; }
static void ext_dtype(struct inf_ext_tensor *ext) { ext->dtype = INF_F64; }
static void ext_rank(struct inf_ext_tensor *ext) { ext->rank++; }
static void ext_dims(struct inf_ext_tensor *ext) { ext->dims[ext->rank - 1]++; }
static void ext_length(struct inf_ext_tensor *ext) { ext->length += 64; }
static void ext_region(struct inf_ext_tensor *ext) { ext->region = 77; }
static void ext_offset(struct inf_ext_tensor *ext) { ext->offset = ~0ull << 6; }
static void ext_align(struct inf_ext_tensor *ext) { ext->offset += 4; }
static void no_change(struct inf_ext_tensor *ext) { (void)ext; }
static void ext_overlap(struct inf_ext_tensor *ext) { ext[1].offset = ext[0].offset; }

static void bad_seq(struct raw *raw)
{
	inf_store64_release(&inf_sq_slot(&raw->sq)->seq, raw->sq.tail + 1000);
	raw_ring(raw);
}

static void bad_lanes(struct raw *raw)
{
	inf_store32_release(&raw->request->head.n_lanes.v, INF_LANES + 1);
	raw_ring(raw);
}

/* Fills the lane with pings whose completions are never read. */
static void fill_lane(struct raw *raw)
{
	struct inf_submission ping = { .opcode = INF_OP_PING };

	for (uint32_t i = 0; i < INF_SLOTS; i++)
		raw_submit(raw, &ping);
	for (int i = 0; i < 3000 && inf_load64(&raw->response->lanes[0].sq_head.v) != raw->sq.tail; i++)
		usleep(1000);
}

static void bad_credits(struct raw *raw)
{
	struct inf_submission ping = { .opcode = INF_OP_PING };

	fill_lane(raw);
	raw_submit(raw, &ping);
	raw_ring(raw);
}

static void bad_cq_head(struct raw *raw)
{
	struct inf_submission ping = { .opcode = INF_OP_PING };

	fill_lane(raw);
	inf_store64(&raw->request->lanes[0].cq_head.v, raw->sq.tail + 1000);
	raw_submit(raw, &ping);
	raw_ring(raw);
}

struct row {
	enum inf_verdict verdict;
	const char *model;
	void (*on_submission)(struct inf_submission *);
	void (*on_ext)(struct inf_ext_tensor *);
	void (*on_session)(struct raw *);
	bool ext; /* send as an extension request */
	enum { NO_DEVICE, DEVICE, DEVICE_AND_TWIN } device; /* of region 0 */
};

static void nothing(struct inf_submission *sub) { (void)sub; }

#define SUB(name, change) { INF_VERDICT_##name, "add_sub", change, NULL, NULL, false, NO_DEVICE }
#define EXT(name, change) { INF_VERDICT_##name, "add_sub", nothing, change, NULL, true, NO_DEVICE }
#define SES(name, change) { INF_VERDICT_##name, "add_sub", NULL, NULL, change, false, NO_DEVICE }

static const struct row rows[] = {
	SES(SEQ, bad_seq),
	SES(CREDITS, bad_credits),
	SES(CQ_HEAD, bad_cq_head),
	SES(LANES, bad_lanes),
	SUB(OPCODE, bad_opcode),
	SUB(MEM_KIND_UNKNOWN, bad_mem_kind),
	SUB(FLAGS, bad_flags),
	SUB(RESERVED, bad_reserved),
	EXT(EXT_RESERVED, ext_reserved),
	SUB(MEM_KIND, later_mem_kind),
	SUB(TIMELINE, bad_timeline),
	{ INF_VERDICT_TWIN, "add_sub", bad_twin, NULL, NULL, false, DEVICE_AND_TWIN },
	{ INF_VERDICT_TWIN_OUT, "add_sub", bad_twin_out, NULL, NULL, false, DEVICE_AND_TWIN },
	{ INF_VERDICT_EXT_TWIN, "add_sub", twins, no_change, NULL, true, DEVICE },
	SUB(MODEL, bad_model),
	SUB(ROWS, bad_rows),
	SUB(REGION, bad_region),
	SUB(OFFSET, bad_offset),
	SUB(ALIGN, bad_align),
	SUB(LENGTH, bad_length),
	{ INF_VERDICT_EXT_MISSING, "varying", nothing, NULL, NULL, false, NO_DEVICE },
	{ INF_VERDICT_EXT_COUNT, "add_sub", bad_count, NULL, NULL, true, NO_DEVICE },
	EXT(EXT_DTYPE, ext_dtype),
	EXT(EXT_RANK, ext_rank),
	EXT(EXT_DIMS, ext_dims),
	EXT(EXT_LENGTH, ext_length),
	EXT(EXT_REGION, ext_region),
	EXT(EXT_OFFSET, ext_offset),
	EXT(EXT_ALIGN, ext_align),
	EXT(EXT_OVERLAP, ext_overlap),
};

/* Describes the inputs of a one-row request in an extension block at the start of the arena. */
static void make_ext(struct raw *raw, struct inf_submission *sub, void (*change)(struct inf_ext_tensor *))
{
	struct inf_ext_tensor *ext = (void *)((uint8_t *)raw->request + INF_ARENA_OFFSET);
	uint64_t at = INF_ARENA_OFFSET + 4096;

	for (uint32_t i = 0; i < raw->signature.n_inputs; i++) {
		const struct inf_tensor_spec *spec = &raw->signature.inputs[i];

		ext[i] = (struct inf_ext_tensor){
			.dtype = spec->dtype, .rank = spec->rank, .offset = at, .length = inf_spec_row_bytes(spec)
		};
		for (uint32_t k = 0; k < spec->rank; k++)
			ext[i].dims[k] = spec->dims[k] < 0 ? 1 : spec->dims[k];
		at += inf_align64(ext[i].length);
	}
	if (change)
		change(ext);
	sub->flags = INF_SUB_EXT;
	sub->length = raw->signature.n_inputs * sizeof(*ext);
}

static bool log_says(const char *text, long from)
{
	static char buffer[1 << 20];

	for (int i = 0; i < 300; i++) {
		FILE *file = fopen(log_path, "r");
		size_t n = 0;

		if (file && !fseek(file, from, SEEK_SET))
			n = fread(buffer, 1, sizeof(buffer) - 1, file);
		if (file)
			fclose(file);
		buffer[n] = 0;
		if (strstr(buffer, text))
			return true;
		usleep(10000);
	}
	return false;
}

static long log_size(void)
{
	FILE *file = fopen(log_path, "r");
	long size = 0;

	if (file && !fseek(file, 0, SEEK_END))
		size = ftell(file);
	if (file)
		fclose(file);
	return size;
}

static const char no_device[] = "no device";

/* NULL where the row has its effect, else what went wrong. */
static const char *try_row(const struct row *row)
{
	int effect = inf_verdict_effect(row->verdict);
	struct inf_completion completion;
	const char *wrong = NULL;
	long from = log_size();
	struct raw raw;

	if (raw_open(&raw, socket_path) || raw_model(&raw, row->model, 4))
		return "cannot open";
	if (row->device) {
		int r = raw_device(&raw, row->device == DEVICE_AND_TWIN);

		if (r) {
			raw_close(&raw);
			return r == -ENODEV ? no_device : "no device memory";
		}
	}
	if (row->on_session) {
		row->on_session(&raw);
	} else {
		struct inf_submission sub = raw_submission(&raw);

		if (row->ext)
			make_ext(&raw, &sub, row->on_ext);
		row->on_submission(&sub);
		raw_submit(&raw, &sub);
	}
	if (effect == INF_SESSION_END) {
		if (!raw_is_ended(&raw, WAIT_MS))
			wrong = "the session goes on";
		else if (!log_says(inf_verdict_text(row->verdict), from))
			wrong = "the log does not say why";
	} else if (raw_wait(&raw, &completion, WAIT_MS)) {
		wrong = "no answer";
	} else if (completion.status != effect) {
		wrong = "another status";
	}
	raw_close(&raw);
	return wrong;
}

static const char *honest(void)
{
	struct inf_completion completion;
	const char *wrong = NULL;
	struct raw raw;

	if (raw_open(&raw, socket_path) || raw_model(&raw, "add_sub", 4))
		return "an honest client cannot open";

	struct inf_submission sub = raw_submission(&raw);

	raw_submit(&raw, &sub);
	if (raw_wait(&raw, &completion, WAIT_MS) || completion.status != INF_OK)
		wrong = "an honest request was not answered";
	raw_close(&raw);
	return wrong;
}

int main(int argc, char **argv)
{
	unsigned int n_passed = 0, n_failed = 0, n_skipped = 0;
	bool seen[INF_VERDICT_N] = { false };

	if (argc != 3)
		return 2;
	socket_path = argv[1];
	log_path = argv[2];
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *wrong = try_row(&rows[i]);

		seen[rows[i].verdict] = true;
		if (wrong == no_device) {
			printf("skip - %s: the broker has no device\n", inf_verdict_name(rows[i].verdict));
			n_skipped++;
			continue;
		}
		if (!wrong)
			wrong = honest();
		printf("%s - %s%s%s\n", wrong ? "NOT OK" : "ok", inf_verdict_name(rows[i].verdict), wrong ? ": " : "",
		       wrong ? wrong : "");
		n_passed += !wrong;
		n_failed += !!wrong;
	}
	for (int i = 1; i < INF_VERDICT_N; i++) {
		if (!seen[i]) {
			printf("NOT OK - no case for %s\n", inf_verdict_name((enum inf_verdict)i));
			n_failed++;
		}
	}
	printf("%u passed, %u failed, %u skipped\n", n_passed, n_failed, n_skipped);
	return n_failed != 0;
}
