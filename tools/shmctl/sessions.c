/* SPDX-License-Identifier: Apache-2.0 */
/* sessions.c - `shmctl sessions`: who is connected, from the per-user statistics files that this user may read. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "tools/shmctl/shmctl.h"
#include "tools/shmctl/stats.h"
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

struct listing {
	json_t *json; /* NULL = lines for people */
	bool has_device;
	uint64_t n_shown;
};

/* Where there is no device, there is no column for it. */
static const char *device_column(const struct listing *listing, char column[WORD_BYTES + 2], const char *word)
{
	snprintf(column, WORD_BYTES + 2, listing->has_device ? " %9s" : "", word);
	return column;
}

static void show(void *data, const struct inf_stats_session *entry)
{
	struct listing *listing = data;
	char name[sizeof(entry->name) + 1], word[WORD_BYTES], in[WORD_BYTES], out[WORD_BYTES],
		up[WORD_BYTES], device[WORD_BYTES], column[WORD_BYTES + 2];
	uint64_t now_ns = stats_now_ns();

	snprintf(name, sizeof(name), "%.*s", (int)strnlen(entry->name, sizeof(entry->name)),
		 entry->name);
	listing->n_shown++;
	if (listing->json) {
		json_array_append_new(
			listing->json,
			json_pack("{s:i, s:i, s:i, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
				  "id", (int)entry->id, "pid", (int)entry->pid, "uid",
				  (int)entry->uid, "name", json_text(name), "connected_for_ns",
				  (json_int_t)(now_ns - entry->connected_ns), "lanes",
				  (json_int_t)inf_load64(&entry->n_lanes), "in_flight",
				  (json_int_t)inf_load64(&entry->in_flight), "held_outputs",
				  (json_int_t)inf_load64(&entry->held_outputs), "request_bytes",
				  (json_int_t)inf_load64(&entry->request_bytes), "output_bytes",
				  (json_int_t)inf_load64(&entry->output_bytes), "device_bytes",
				  (json_int_t)inf_load64(&entry->device_bytes), "requests",
				  (json_int_t)inf_load64(&entry->n_requests), "errors",
				  (json_int_t)inf_load64(&entry->n_errors)));
		return;
	}
	if (listing->n_shown == 1)
		printf("%6s %8s %6s %-16s %5s %9s %6s %9s %9s%s %10s %8s %9s\n", "ID", "PID", "UID",
		       "NAME", "LANES", "IN FLIGHT", "HELD", "INPUTS", "OUTPUTS",
		       device_column(listing, column, "DEVICE"), "REQUESTS", "ERRORS", "SINCE");
	printf("%6" PRIu32 " %8" PRIu32 " %6" PRIu32 " %-16.16s %5" PRIu64 " %9" PRIu64 " %6" PRIu64
	       " %9s %9s%s %10" PRIu64 " %8" PRIu64 " %9s\n",
	       entry->id, entry->pid, entry->uid, word_name(word, name),
	       inf_load64(&entry->n_lanes), inf_load64(&entry->in_flight),
	       inf_load64(&entry->held_outputs), word_bytes(in, inf_load64(&entry->request_bytes)),
	       word_bytes(out, inf_load64(&entry->output_bytes)),
	       device_column(listing, column, word_bytes(device, inf_load64(&entry->device_bytes))),
	       inf_load64(&entry->n_requests), inf_load64(&entry->n_errors), word_time(up, now_ns - entry->connected_ns));
}

static int run(const struct options *options, int argc, char **argv)
{
	const struct inf_stats_public *stats;
	struct listing listing = { 0 };
	char path[PATH_MAX];
	uint64_t n_all, n_hidden;
	int r, status = EXIT_OK;

	r = no_arguments(options, argc, argv);
	if (r)
		return r;
	stats = stats_open(options, path, &r);
	if (!stats)
		return r;
	if (stats_life(&stats->head) == LIFE_GONE) {
		fprintf(stderr, "the broker at %s is gone: this is how it was; start infbroker anew\n", path);
		status = EXIT_NOT_RUNNING;
	}
	if (options->json)
		listing.json = json_array();
	listing.has_device = stats_has_device(stats);
	n_all = inf_load64(&stats->n_sessions);
	stats_each_session(path, show, &listing);
	n_hidden = n_all > listing.n_shown ? n_all - listing.n_shown : 0;
	if (options->json) {
		r = print_json(options, "sessions",
			       json_pack("{s:o, s:I}", "sessions", listing.json, "not_shown", (json_int_t)n_hidden));
		return r == EXIT_OK ? status : r;
	}
	if (!listing.n_shown)
		puts(n_hidden ? "no sessions of yours" : "no sessions");
	if (n_hidden)
		fprintf(stderr,
			"%" PRIu64 " of other users; ask as the broker's user, or as root\n",
			n_hidden);
	return status;
}

const struct command command_sessions = {
	.name = "sessions",
	.summary = "who is connected, what they have in flight and hold",
	.usage = "Usage: shmctl sessions [-j]\n"
		 "One line per session that you may see: yours, or all where you are the broker's "
		 "user or root. Needs no answer\n"
		 "from the broker. HELD is answers whose memory has not been used again yet; INPUTS "
		 "and OUTPUTS are its memory,\n"
		 "DEVICE what it holds of the device that models run on.\n",
	.run = run,
};
