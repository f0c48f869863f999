/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot.c - `shmctl snapshot save|show|diff`: the statistics files as they are now, to be looked at later or elsewhere.
 *
 * A snapshot is a folder with copies of the files beside a socket that is not there, and SNAPSHOT_NAME, which says when. So every
 * command that reads statistics reads a snapshot as well: shmctl --socket FOLDER/socket sessions.
 */
#define _GNU_SOURCE 1
#include "shm/status.h"
#include "tools/shmctl/stats.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct saving {
	const char *folder;
	unsigned int n_files;
	int error;
	char path[2 * PATH_MAX]; /* of what failed */
};

/* --- save --- */

static int copy_file(const char *from, const char *to)
{
	char bytes[65536];
	ssize_t n = 0;
	int r = 0, in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), out;

	if (in < 0)
		return -errno;
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0) {
		r = -errno;
		close(in);
		return r;
	}
	while (r == 0 && (n = read(in, bytes, sizeof(bytes))) > 0)
		if (write(out, bytes, (size_t)n) != n)
			r = errno ? -errno : -EIO;
	if (r == 0 && n < 0)
		r = -errno;
	if (close(out) < 0 && r == 0)
		r = -errno;
	close(in);
	return r;
}

/* SOCKET.stats becomes FOLDER/socket.stats, SOCKET.stats.UID FOLDER/socket.stats.UID. What is another user's is left out. */
static void save_file(void *data, const char *path)
{
	struct saving *saving = data;
	const char *name = strrchr(path, '.');
	char to[2 * PATH_MAX];
	int r;

	/* Not one that a broker is just making: SOCKET.stats.UID.tmp.PID. */
	if (!name || strspn(name + 1, "0123456789") != strlen(name + 1) || saving->error || strstr(path, ".tmp."))
		return;
	snprintf(to, sizeof(to), "%s/socket.stats%s", saving->folder, name);
	r = copy_file(path, to);
	if (r == 0)
		saving->n_files++;
	else if (r != -EACCES && r != -EPERM && r != -ENOENT) {
		saving->error = r;
		snprintf(saving->path, sizeof(saving->path), "%s", to);
	}
}

static int write_facts(const char *folder, const char *socket_path, enum life life)
{
	char path[2 * PATH_MAX], when[64];
	time_t now = time(NULL);
	struct tm parts;
	json_t *facts;
	int r;

	gmtime_r(&now, &parts);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &parts);
	facts = json_pack("{s:s, s:s, s:I, s:s, s:o}", "schema", "infbroker.snapshot/1", "taken_at", when, "monotonic_ns",
			  (json_int_t)monotonic_ns(), "state", life_word(life), "socket", json_text(socket_path));
	snprintf(path, sizeof(path), "%s/" SNAPSHOT_NAME, folder);
	r = json_dump_file(facts, path, JSON_INDENT(2));
	json_decref(facts);
	return r;
}

static int save(const struct options *options, const char *folder)
{
	const struct inf_stats_public *stats;
	struct saving saving = { .folder = folder };
	char socket_path[PATH_MAX], from[PATH_MAX + 8];
	enum life life;
	int r;

	stats = stats_open(options, socket_path, &r);
	if (!stats)
		return r;
	life = stats_life(&stats->head);
	if (life == LIFE_SNAPSHOT)
		return fail(options, EXIT_USAGE, "%s is a snapshot already; copy its folder", socket_path);
	if (mkdir(folder, 0700) < 0)
		return fail(options, EXIT_UNHEALTHY, "%s: %s; name a folder that is not there yet", folder, strerror(errno));
	snprintf(from, sizeof(from), "%s.stats", socket_path);
	snprintf(saving.path, sizeof(saving.path), "%s/socket.stats", folder);
	saving.error = copy_file(from, saving.path);
	if (!saving.error)
		stats_each_file(socket_path, save_file, &saving);
	if (saving.error)
		return fail(options, EXIT_UNHEALTHY, "%s: %s; name another folder", saving.path, strerror(-saving.error));
	if (write_facts(folder, socket_path, life) < 0)
		return fail(options, EXIT_UNHEALTHY, "%s/" SNAPSHOT_NAME " cannot be written: %s", folder, strerror(errno));
	if (options->json)
		return print_json(options, "snapshot-save", json_pack("{s:o, s:s, s:i}", "folder", json_text(folder), "state",
								      life_word(life), "users", (int)saving.n_files));
	printf("%s: a broker that was %s, sessions of %u user(s); shmctl snapshot show %s\n", folder, life_word(life), saving.n_files,
	       folder);
	return EXIT_OK;
}

/* --- show --- */

/* The other commands, on the copies. With -j each one's object is a member of ours. */
static int show(const struct options *options, const char *folder)
{
	static const struct command *const commands[] = { &command_status, &command_models, &command_sessions };
	const struct inf_stats_public *stats;
	struct options on_copy = *options;
	char path[PATH_MAX], found[PATH_MAX], word[] = "snapshot", *argv[] = { word, NULL };
	int r, worst = EXIT_OK;

	snprintf(path, sizeof(path), "%s/" SNAPSHOT_NAME, folder);
	if (access(path, R_OK) < 0)
		return fail(options, errno == EACCES ? EXIT_NO_PERMISSION : EXIT_UNHEALTHY, "%s: %s; shmctl snapshot save makes one", path,
			    strerror(errno));
	snprintf(path, sizeof(path), "%s/socket", folder);
	on_copy.socket_path = path;
	/* Where there is nothing to be shown, that is said once. */
	stats = stats_open(&on_copy, found, &r);
	if (!stats)
		return r;
	stats_close(stats);
	if (options->json)
		on_copy.into = json_pack("{s:o}", "folder", json_text(folder));
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (i && !options->json)
			putchar('\n');
		on_copy.command = commands[i]->name;
		r = commands[i]->run(&on_copy, 1, argv);
		if (r != EXIT_OK && r != EXIT_UNHEALTHY) {
			json_decref(on_copy.into);
			return r;
		}
		worst = r > worst ? r : worst;
	}
	return options->json && print_json(options, "snapshot-show", on_copy.into) ? EXIT_UNHEALTHY : worst;
}

/* --- diff --- */

struct side {
	const struct inf_stats_public *stats;
	uint64_t at_ns;
};

static int open_side(const struct options *options, const char *folder, struct side *side)
{
	struct options on_copy = *options;
	char path[PATH_MAX], found[PATH_MAX];
	int r;

	snprintf(path, sizeof(path), "%s/socket", folder);
	on_copy.socket_path = path;
	side->stats = stats_open(&on_copy, found, &r);
	side->at_ns = stats_now_ns();
	return side->stats ? EXIT_OK : r;
}

/* One figure that only grows. */
static void print_figure(json_t *json, const char *name, uint64_t before, uint64_t after, double seconds)
{
	if (json)
		json_object_set_new(json, name, json_integer((json_int_t)(after - before)));
	else if (after != before)
		printf("  %-28s %+14" PRId64 " %14.1f/s\n", name, (int64_t)(after - before), (double)(after - before) / seconds);
}

static json_t *diff_models(bool as_json, const struct side *a, const struct side *b, double seconds)
{
	static const struct inf_stats_model none;
	json_t *models = as_json ? json_array() : NULL;

	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *after = &b->stats->models[i], *before = stats_model(a->stats, after->name, after->model_version);
		char word[WORD_BYTES];
		json_t *json;

		before = before ? before : &none;
		if (!after->name[0] || (after->n_requests == before->n_requests && after->n_batches == before->n_batches))
			continue;
		json = as_json ? json_pack("{s:o, s:I}", "name", json_text(after->name), "version", (json_int_t)after->model_version) : NULL;
		if (!as_json)
			printf("%s:%" PRIu32 "\n", word_name(word, after->name), after->model_version);
		print_figure(json, "requests", before->n_requests, after->n_requests, seconds);
		print_figure(json, "errors", before->n_errors, after->n_errors, seconds);
		print_figure(json, "rows", before->n_rows, after->n_rows, seconds);
		print_figure(json, "batches", before->n_batches, after->n_batches, seconds);
		if (json) /* a sum of times says nothing to people */
			print_figure(json, "served_ns", before->stages[INF_STAGE_SERVED].sum_ns,
				     after->stages[INF_STAGE_SERVED].sum_ns, seconds);
		if (json)
			json_array_append_new(models, json);
	}
	return models;
}

/* Requests by how they ended. */
static json_t *diff_statuses(bool as_json, const struct side *a, const struct side *b, double seconds)
{
	json_t *statuses = as_json ? json_object() : NULL;

	for (uint32_t i = 0; i < INF_STATUS_N; i++)
		if (as_json || b->stats->n_status[i] != a->stats->n_status[i])
			print_figure(statuses, inf_shm_status_name(i), a->stats->n_status[i], b->stats->n_status[i], seconds);
	return statuses;
}

static int diff(const struct options *options, const char *first, const char *second)
{
	struct side a, b;
	json_t *json = options->json ? json_object() : NULL, *statuses, *models;
	double seconds;
	int r = open_side(options, first, &a);

	if (r == EXIT_OK)
		r = open_side(options, second, &b);
	if (r == EXIT_OK && (a.stats->head.start_ns != b.stats->head.start_ns || a.stats->head.pid != b.stats->head.pid))
		r = fail(options, EXIT_UNHEALTHY, "two brokers, or one that was started anew in between: nothing to be compared; name two "
					     "snapshots of one broker");
	if (r == EXIT_OK && b.at_ns == a.at_ns)
		r = fail(options, EXIT_USAGE, "%s and %s are the same; name two snapshots of one broker", first, second);
	if (r == EXIT_OK && b.at_ns < a.at_ns)
		r = fail(options, EXIT_USAGE, "%s is the later one; name it second: shmctl snapshot diff %s %s", first, second, first);
	if (r) {
		json_decref(json);
		return r;
	}
	seconds = (double)(b.at_ns - a.at_ns) / 1e9;
	if (!json)
		printf("%.1f s between them\nbroker\n", seconds);
	statuses = diff_statuses(options->json, &a, &b, seconds);
	print_figure(json, "sessions", a.stats->n_sessions_total, b.stats->n_sessions_total, seconds);
	print_figure(json, "sessions_ended", a.stats->n_sessions_ended, b.stats->n_sessions_ended, seconds);
	print_figure(json, "executor_deaths", a.stats->n_executor_deaths, b.stats->n_executor_deaths, seconds);
	print_figure(json, "wakes", a.stats->n_wakes, b.stats->n_wakes, seconds);
	print_figure(json, "parks", a.stats->n_parks, b.stats->n_parks, seconds);
	models = diff_models(options->json, &a, &b, seconds);
	if (!json)
		return EXIT_OK;
	json_object_set_new(json, "between_ns", json_integer((json_int_t)(b.at_ns - a.at_ns)));
	json_object_set_new(json, "requests", statuses);
	json_object_set_new(json, "models", models);
	return print_json(options, "snapshot-diff", json);
}

static int run(const struct options *options, int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "save"))
		return save(options, argv[2]);
	if (argc == 3 && !strcmp(argv[1], "show"))
		return show(options, argv[2]);
	if (argc == 4 && !strcmp(argv[1], "diff"))
		return diff(options, argv[2], argv[3]);
	return fail(options, EXIT_USAGE, "what to do? save FOLDER, show FOLDER, or diff FOLDER FOLDER; try shmctl snapshot --help");
}

const struct command command_snapshot = {
	.name = "snapshot",
	.summary = "keep the statistics as they are now, look at them later, compare two",
	.usage = "Usage: shmctl snapshot save FOLDER | show FOLDER | diff FOLDER FOLDER [-j]\n"
		 "save copies the statistics files that you may read into a new FOLDER, also of a broker that is stopped or gone. show\n"
		 "is status, models and sessions of it (with -j a member each); every other command that shows something takes\n"
		 "--socket FOLDER/socket. diff says what was counted between two snapshots of one broker, the earlier one first.\n",
	.run = run,
	.arguments = "save|show|diff FOLDER...",
};
