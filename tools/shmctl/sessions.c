/* SPDX-License-Identifier: Apache-2.0 */
/* sessions.c - `shmctl sessions`: who is connected, from the per-user statistics files that this user may read. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "tools/shmctl/shmctl.h"
#include "tools/shmctl/stats.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct listing {
	json_t *json; /* NULL = lines for people */
	uint64_t n_shown;
};

static void show(struct listing *listing, const struct inf_stats_session *entry)
{
	char name[sizeof(entry->name) + 1], word[WORD_BYTES], in[WORD_BYTES], out[WORD_BYTES],
		up[WORD_BYTES];
	uint64_t now_ns = monotonic_ns();

	snprintf(name, sizeof(name), "%.*s", (int)strnlen(entry->name, sizeof(entry->name)),
		 entry->name);
	listing->n_shown++;
	if (listing->json) {
		json_array_append_new(
			listing->json,
			json_pack("{s:i, s:i, s:i, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
				  "id", (int)entry->id, "pid", (int)entry->pid, "uid",
				  (int)entry->uid, "name", json_text(name), "connected_for_ns",
				  (json_int_t)(now_ns - entry->connected_ns), "lanes",
				  (json_int_t)inf_load64(&entry->n_lanes), "in_flight",
				  (json_int_t)inf_load64(&entry->in_flight), "held_outputs",
				  (json_int_t)inf_load64(&entry->held_outputs), "request_bytes",
				  (json_int_t)inf_load64(&entry->request_bytes), "output_bytes",
				  (json_int_t)inf_load64(&entry->output_bytes), "requests",
				  (json_int_t)inf_load64(&entry->n_requests), "errors",
				  (json_int_t)inf_load64(&entry->n_errors)));
		return;
	}
	if (listing->n_shown == 1)
		printf("%6s %8s %6s %-16s %5s %9s %6s %9s %9s %10s %8s %9s\n", "ID", "PID", "UID",
		       "NAME", "LANES", "IN FLIGHT", "HELD", "INPUTS", "OUTPUTS", "REQUESTS",
		       "ERRORS", "SINCE");
	printf("%6" PRIu32 " %8" PRIu32 " %6" PRIu32 " %-16.16s %5" PRIu64 " %9" PRIu64 " %6" PRIu64
	       " %9s %9s %10" PRIu64 " %8" PRIu64 " %9s\n",
	       entry->id, entry->pid, entry->uid, word_name(word, name),
	       inf_load64(&entry->n_lanes), inf_load64(&entry->in_flight),
	       inf_load64(&entry->held_outputs), word_bytes(in, inf_load64(&entry->request_bytes)),
	       word_bytes(out, inf_load64(&entry->output_bytes)), inf_load64(&entry->n_requests),
	       inf_load64(&entry->n_errors), word_time(up, now_ns - entry->connected_ns));
}

/* All sessions of one user. 0 or -errno. */
static int show_user(struct listing *listing, const char *path)
{
	const struct inf_stats_user *user;
	int r;

	user = stats_open_user(path, &r);
	if (!user)
		return r;
	for (unsigned int i = 0; i < INF_STATS_SESSIONS; i++)
		/* Acquire: the rest of the entry was stored before. */
		if (inf_load32_acquire(&user->sessions[i].used) == 1)
			show(listing, &user->sessions[i]);
	return 0;
}

/*
 * All that may be read. Where the folder cannot be listed the user's own file is still known by
 * name. A file that is just being made has no magic yet, and is refused like any other.
 */
static void show_users(struct listing *listing, const char *socket_path)
{
	char path[2 * PATH_MAX], folder[PATH_MAX], prefix[PATH_MAX + 8];
	const char *slash = strrchr(socket_path, '/');
	struct dirent *entry;
	DIR *dir;

	snprintf(folder, sizeof(folder), "%s", socket_path);
	dir = opendir(dirname(folder));
	if (!dir) {
		snprintf(path, sizeof(path), "%s.stats.%u", socket_path, (unsigned int)geteuid());
		show_user(listing, path);
		return;
	}
	snprintf(prefix, sizeof(prefix), "%s.stats.", slash ? slash + 1 : socket_path);
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		show_user(listing, path);
	}
	closedir(dir);
}

static int run(const struct options *options, int argc, char **argv)
{
	const struct inf_stats_public *stats;
	struct listing listing = { 0 };
	char path[PATH_MAX];
	uint64_t n_all, n_hidden;
	int r;

	if (argc > 1)
		return fail(options, EXIT_USAGE, "%s: sessions takes no argument", argv[1]);
	stats = stats_open(options, path, &r);
	if (!stats)
		return r;
	if (stats_life(&stats->head) == LIFE_GONE)
		return fail(options, EXIT_NOT_RUNNING,
			    "the broker at %s is gone; start infbroker anew", path);
	if (options->json)
		listing.json = json_array();
	n_all = inf_load64(&stats->n_sessions);
	show_users(&listing, path);
	n_hidden = n_all > listing.n_shown ? n_all - listing.n_shown : 0;
	if (options->json)
		return print_json(options, "sessions",
				  json_pack("{s:o, s:I}", "sessions", listing.json, "not_shown",
					    (json_int_t)n_hidden));
	if (!listing.n_shown)
		puts(n_hidden ? "no sessions of yours" : "no sessions");
	if (n_hidden)
		fprintf(stderr,
			"%" PRIu64 " of other users; ask as the broker's user, or as root\n",
			n_hidden);
	return EXIT_OK;
}

const struct command command_sessions = {
	.name = "sessions",
	.summary = "who is connected, what they have in flight and hold",
	.usage = "Usage: shmctl sessions [-j]\n"
		 "One line per session that you may see: yours, or all where you are the broker's "
		 "user or root. Needs no answer\n"
		 "from the broker. HELD is answers that the client has not released yet; INPUTS "
		 "and OUTPUTS are its memory.\n",
	.run = run,
};
