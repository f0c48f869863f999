/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.c - finds, checks and copies statistics files.
 *
 * The broker stores into them while we read: words may be of different moments. They are copied, not mapped: a file that somebody
 * cuts while we look would kill us by SIGBUS, and what was checked would change again. A file that is too short, foreign or of another
 * version is refused here, and every string of a copy has an end, so that no reader finds out later.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/stats.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLACES_MAX	2
#define SESSIONS_MAX	1000000u /* no broker has more */

/* Where a socket may be, in the library's order. */
static unsigned int places(const struct options *options, char paths[PLACES_MAX][PATH_MAX])
{
	const char *environment = getenv("INFBROKER_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
	const char *named = options->socket_path	  ? options->socket_path
			    : environment && *environment ? environment
							  : NULL;
	unsigned int n = 0;

	if (named) {
		snprintf(paths[0], PATH_MAX, "%s", named);
		return 1;
	}
	if (runtime && *runtime)
		snprintf(paths[n++], PATH_MAX, "%s/infbroker/socket", runtime);
	snprintf(paths[n++], PATH_MAX, "/run/infbroker/socket");
	return n;
}

/* What lies there is a regular file and begins like one of ours: its fd and its head; else the same errors as stats_open(). */
static int open_file(const char *path, struct inf_stats_head *ret_head)
{
	struct stat status;
	int r = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status) < 0)
		r = -errno;
	else if (!S_ISREG(status.st_mode) || pread(fd, ret_head, sizeof(*ret_head), 0) != (ssize_t)sizeof(*ret_head) ||
		 ret_head->magic != INF_STATS_MAGIC)
		r = -EBADMSG; /* also one that is just being made: the magic is stored last */
	else if (ret_head->version != INF_STATS_VERSION)
		r = -EPROTONOSUPPORT;
	else if (ret_head->bytes != (uint64_t)status.st_size)
		r = -EBADMSG;
	if (!r)
		return fd;
	close(fd);
	return r;
}

/* All of it, or -EBADMSG where the file ends before: somebody has cut it. */
static int read_at(int fd, void *to, size_t n_bytes, size_t offset)
{
	while (n_bytes) {
		ssize_t n = pread(fd, to, n_bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EBADMSG;
		to = (char *)to + n;
		offset += (size_t)n;
		n_bytes -= (size_t)n;
	}
	return 0;
}

#define END(text) ((text)[sizeof(text) - 1] = '\0')

/* Whoever reads the copy need not ask whether its strings have an end. */
static void end_strings(struct inf_stats_public *stats)
{
	END(stats->version_text);
	END(stats->loop);
	END(stats->socket_path);
	END(stats->models_path);
	END(stats->device);
	END(stats->device_asked);
	for (unsigned int i = 0; i < INF_STATS_LIMITS; i++)
		END(stats->limits[i].name);
	for (unsigned int i = 0; i < INF_STATS_EVENTS; i++)
		END(stats->events[i].text);
	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		END(stats->models[i].name);
		END(stats->models[i].text);
	}
}

/*
 * Events that were written while they were read get the number 0, as the broker itself has it meanwhile. pread(2) promises no
 * order within one call, so that the number alone does not tell: what is the same twice was whole.
 */
static int drop_torn_events(int fd, struct inf_stats_public *stats)
{
	static struct inf_stats_event again[INF_STATS_EVENTS];
	int r = read_at(fd, again, sizeof(again), offsetof(struct inf_stats_public, events));

	for (unsigned int i = 0; !r && i < INF_STATS_EVENTS; i++)
		if (memcmp(&again[i], &stats->events[i], sizeof(again[i])) != 0)
			stats->events[i].seq = 0;
	return r;
}

static int copy_public(int fd, struct inf_stats_public *stats)
{
	int r = read_at(fd, stats, sizeof(*stats), 0);

	if (!r)
		r = drop_torn_events(fd, stats);
	if (!r && (stats->head.magic != INF_STATS_MAGIC || stats->head.version != INF_STATS_VERSION ||
		   stats->head.bytes != sizeof(*stats)))
		r = -EBADMSG; /* it was another one when it was opened */
	end_strings(stats);
	return r;
}

/* What stats_close() kept for the next one: to ask the kernel for that much memory costs more than to copy the file. */
static void *spare;

static void *copy_new(void)
{
	void *copy = spare;

	spare = NULL;
	return copy ? copy : mmap(NULL, sizeof(struct inf_stats_public), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void copy_free(void *copy)
{
	if (spare)
		munmap(copy, sizeof(struct inf_stats_public));
	else
		spare = copy;
}

/* 0 and a copy, -EBADMSG for what is none of ours, -EPROTONOSUPPORT for another version's, -errno. */
static int read_public(const char *path, const struct inf_stats_public **ret_stats)
{
	struct inf_stats_head head;
	void *copy;
	int r, fd = open_file(path, &head);

	if (fd < 0)
		return fd;
	copy = copy_new();
	if (copy == MAP_FAILED)
		r = -errno;
	else
		r = head.bytes == sizeof(**ret_stats) ? copy_public(fd, copy) : -EBADMSG;
	close(fd);
	if (!r)
		*ret_stats = copy;
	else if (copy != MAP_FAILED)
		copy_free(copy);
	return r;
}

int stats_hold(const char *socket_path)
{
	char file[PATH_MAX + 8];
	struct inf_stats_head head;
	int fd;

	snprintf(file, sizeof(file), "%s.stats", socket_path);
	fd = open_file(file, &head);
	return fd < 0 ? -1 : fd;
}

const struct inf_stats_public *stats_held(int fd)
{
	void *copy = copy_new();

	if (copy == MAP_FAILED)
		return NULL;
	if (copy_public(fd, copy) == 0)
		return copy;
	copy_free(copy);
	return NULL;
}

void stats_close(const struct inf_stats_public *stats)
{
	if (stats)
		copy_free((void *)(uintptr_t)stats);
}

/* When the files were copied; 0 = they are the broker's own. */
static uint64_t snapshot_ns;

/* 0, or -ENODATA where it says that it is one, and no more. */
static int look_for_snapshot(const char *socket_path)
{
	char folder[PATH_MAX], path[2 * PATH_MAX];
	bool is_there;
	json_t *snapshot;

	snprintf(folder, sizeof(folder), "%s", socket_path);
	snprintf(path, sizeof(path), "%s/" SNAPSHOT_NAME, dirname(folder));
	/* A broker may have been started in its place. */
	is_there = access(socket_path, F_OK) < 0 && access(path, F_OK) == 0;
	snapshot = is_there ? json_load_file(path, 0, NULL) : NULL;
	snapshot_ns = (uint64_t)json_integer_value(json_object_get(snapshot, "monotonic_ns"));
	json_decref(snapshot);
	return is_there && !snapshot_ns ? -ENODATA : 0;
}

uint64_t stats_now_ns(void)
{
	return snapshot_ns ? snapshot_ns : monotonic_ns();
}

bool stats_are_snapshot(void)
{
	return snapshot_ns;
}

int stats_must_live(const struct options *options, const char *socket_path)
{
	if (!snapshot_ns)
		return EXIT_OK;
	return fail(options, EXIT_USAGE, "%s is a snapshot, in which nothing happens any more; name a broker's socket with --socket",
		    socket_path);
}

static int find(const struct options *options, char *ret_path,
		const struct inf_stats_public **ret_stats)
{
	char paths[PLACES_MAX][PATH_MAX], file[PATH_MAX + 8];
	unsigned int n = places(options, paths);
	int r = -ENOENT;

	for (unsigned int i = 0; i < n && r == -ENOENT; i++) {
		snprintf(file, sizeof(file), "%s.stats", paths[i]);
		r = read_public(file, ret_stats);
		snprintf(ret_path, PATH_MAX, "%s", paths[i]);
	}
	if (r)
		return r;
	r = look_for_snapshot(ret_path);
	if (r) {
		stats_close(*ret_stats);
		*ret_stats = NULL;
	}
	return r;
}

int stats_look(const struct options *options, char *ret_path, const struct inf_stats_public **ret_stats)
{
	char paths[PLACES_MAX][PATH_MAX];
	unsigned int n = places(options, paths);
	struct stat status;
	int r = find(options, ret_path, ret_stats);

	if (r != -ENOENT)
		return r;
	for (unsigned int i = n; i--;)
		if (i == 0 || lstat(paths[i], &status) == 0)
			snprintf(ret_path, PATH_MAX, "%s", paths[i]);
	return r;
}

const struct inf_stats_public *stats_find(const struct options *options, char *ret_path)
{
	const struct inf_stats_public *stats = NULL;

	return find(options, ret_path, &stats) ? NULL : stats;
}

/* No statistics file at any of the places: nobody there, or a broker that could not make one. */
static int fail_absent(const struct options *options)
{
	char paths[PLACES_MAX][PATH_MAX];
	unsigned int n = places(options, paths);
	struct stat status;

	if (n == 1 && strlen(paths[0]) > SOCKET_PATH_MAX)
		return fail(options, EXIT_UNHEALTHY, "%s: a socket's path has at most %zu bytes",
			    paths[0], SOCKET_PATH_MAX);
	for (unsigned int i = 0; i < n; i++)
		if (stat(paths[i], &status) == 0 && S_ISSOCK(status.st_mode))
			return fail(
				options, EXIT_UNHEALTHY,
				"there is a socket at %s, but no statistics file beside it; the "
				"broker's log says why",
				paths[i]);
	return fail(
		options, EXIT_NOT_RUNNING,
		"no broker runs at %s%s%s (no SOCKET.stats there); start infbroker, or name its "
		"socket with --socket or $INFBROKER_SOCKET",
		paths[0], n > 1 ? " or " : "", n > 1 ? paths[1] : "");
}

const struct inf_stats_public *stats_open(const struct options *options, char *ret_path,
					  int *ret_status)
{
	const struct inf_stats_public *stats = NULL;
	int r = find(options, ret_path, &stats);

	switch (r) {
	case 0:
		return stats;
	case -ENOENT:
	case -ENOTDIR:
	case -ENAMETOOLONG:
		*ret_status = fail_absent(options);
		break;
	case -EACCES:
	case -EPERM:
		*ret_status = fail(options, EXIT_NO_PERMISSION,
				   "%s.stats: %s; ask as the broker's user, or as root", ret_path,
				   strerror(-r));
		break;
	case -EPROTONOSUPPORT:
		*ret_status = fail(options, EXIT_OTHER_VERSION,
				   "%s.stats is of another version: use the shmctl that came with "
				   "that infbroker",
				   ret_path);
		break;
	case -EBADMSG:
		*ret_status = fail(options, EXIT_UNHEALTHY,
				   "%s.stats is not a statistics file of infbroker", ret_path);
		break;
	case -ENODATA:
		*ret_status = fail(options, EXIT_UNHEALTHY, SNAPSHOT_NAME " beside %s.stats is damaged; shmctl snapshot save makes another",
				   ret_path);
		break;
	default:
		*ret_status = fail(options, EXIT_UNHEALTHY, "%s.stats: %s", ret_path, strerror(-r));
	}
	return NULL;
}

int stats_must_have_model(const struct options *options, const struct inf_stats_public *stats, const char *name)
{
	if (stats_model(stats, name, 0))
		return EXIT_OK;
	return fail(options, EXIT_UNHEALTHY, "no model %s; shmctl models lists them", name);
}

/* Each session in a part of a user's file that was read. */
static void each_of_chunk(struct inf_stats_session *chunk, uint64_t n,
			  void (*each)(void *data, const struct inf_stats_session *entry), void *data)
{
	for (uint64_t i = 0; i < n; i++) {
		if (chunk[i].used != 1)
			continue;
		END(chunk[i].name);
		each(data, &chunk[i]);
	}
}

struct each_session {
	struct inf_stats_head broker;
	void (*each)(void *data, const struct inf_stats_session *entry);
	void *data;
};

/* All sessions of one user. Where the file is not for us, not there, not whole, or of an earlier broker, that is none. */
static void each_of_user(void *data, const char *path)
{
	const struct each_session *with = data;
	static struct inf_stats_session chunk[64];
	struct inf_stats_user user;
	int fd = open_file(path, &user.head);

	if (fd < 0)
		return;
	if (read_at(fd, &user, sizeof(user), 0) || user.head.pid != with->broker.pid || user.head.start_ns != with->broker.start_ns ||
	    user.n_entries > SESSIONS_MAX || user.head.bytes != inf_stats_user_bytes(user.n_entries))
		user.n_entries = 0;
	for (uint64_t i = 0, n; i < user.n_entries; i += n) {
		n = user.n_entries - i < 64 ? user.n_entries - i : 64;
		if (read_at(fd, chunk, n * sizeof(chunk[0]), inf_stats_user_bytes(i)))
			break;
		each_of_chunk(chunk, n, with->each, with->data);
	}
	close(fd);
}

/* Where the folder cannot be listed the user's own file is still known by name. */
void stats_each_file(const char *socket_path, void (*each)(void *data, const char *path), void *data)
{
	char path[2 * PATH_MAX], folder[PATH_MAX], prefix[PATH_MAX + 8];
	const char *slash = strrchr(socket_path, '/');
	struct dirent *entry;
	DIR *dir;

	snprintf(folder, sizeof(folder), "%s", socket_path);
	dir = opendir(dirname(folder));
	if (!dir) {
		snprintf(path, sizeof(path), "%s.stats.%u", socket_path, (unsigned int)geteuid());
		each(data, path);
		return;
	}
	snprintf(prefix, sizeof(prefix), "%s.stats.", slash ? slash + 1 : socket_path);
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		each(data, path);
	}
	closedir(dir);
}

/* A file that is just being made has no magic yet, and is refused like any other. */
void stats_each_session(const char *socket_path, void (*each)(void *data, const struct inf_stats_session *entry), void *data)
{
	struct each_session with = { .each = each, .data = data };
	char path[2 * PATH_MAX];
	int fd;

	/* One that was killed has left its files: those of users without a session now are not replaced. */
	snprintf(path, sizeof(path), "%s.stats", socket_path);
	fd = open_file(path, &with.broker);
	if (fd < 0)
		return;
	close(fd);
	stats_each_file(socket_path, each_of_user, &with);
}

const struct inf_stats_model *stats_model(const struct inf_stats_public *stats, const char *name, uint32_t version)
{
	for (unsigned int i = 0; i < INF_STATS_MODELS; i++)
		if (stats->models[i].name[0] && !strcmp(stats->models[i].name, name) && (!version || stats->models[i].model_version == version))
			return &stats->models[i];
	return NULL;
}

bool stats_has_device(const struct inf_stats_public *stats)
{
	return !strncmp(stats->device, "cuda:", 5) || stats->device_bytes;
}

enum life stats_life(const struct inf_stats_head *head)
{
	uint64_t ticks;
	char state;

	if (snapshot_ns)
		return LIFE_SNAPSHOT;
	if (head->pid == 0 || head->pid > INT_MAX ||
	    (kill((pid_t)head->pid, 0) < 0 && errno == ESRCH))
		return LIFE_GONE;
	if (inf_stats_process(head->pid, &state, &ticks) < 0)
		return LIFE_RUNNING; /* it exists, but /proc does not show it to us */
	if (ticks != head->start_ticks || state == 'Z' || state == 'X')
		return LIFE_GONE;
	return state == 'T' || state == 't' ? LIFE_STOPPED : LIFE_RUNNING;
}

bool stats_executor_is_stopped(const struct inf_stats_public *stats)
{
	uint64_t ticks;
	char state;

	return stats_life(&stats->head) == LIFE_RUNNING && stats->executor_pid && stats->executor_pid <= INT_MAX &&
	       inf_stats_process(stats->executor_pid, &state, &ticks) == 0 && (state == 'T' || state == 't');
}

const char *life_word(enum life life)
{
	static const char *const words[] = {
		[LIFE_RUNNING] = "running", [LIFE_STOPPED] = "stopped", [LIFE_GONE] = "gone",
		[LIFE_SNAPSHOT] = "snapshot",
	};

	return words[life];
}
