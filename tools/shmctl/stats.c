/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.c - finds, checks and maps statistics files.
 *
 * The broker has mapped the same pages and stores into them while we read: each word is whole, words may be of different
 * moments. A file that is too short, foreign or of another version is refused here, so that no reader finds out later.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/stats.h"
#include "shm/atomics.h"
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
#include <sys/un.h>
#include <unistd.h>

#define PLACES_MAX	2
#define SESSIONS_MAX	1000000u /* no broker has more */
#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

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

/*
 * 0 and the mapping, -EBADMSG for what is none of ours, -EPROTONOSUPPORT for another version's, -errno. It is as long as its
 * head says, and at least as long as `bytes_min`.
 */
static int map_file(const char *path, size_t bytes_min, const void **ret_map)
{
	const struct inf_stats_head *head;
	struct stat status;
	void *map;
	int r = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status) < 0)
		r = -errno;
	else if (!S_ISREG(status.st_mode) || (size_t)status.st_size < sizeof(*head))
		r = -EBADMSG;
	map = r ? MAP_FAILED : mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (!r && map == MAP_FAILED)
		r = -errno;
	close(fd);
	if (r)
		return r;
	head = map;
	/* Acquire: the broker stores the magic last. */
	if (inf_load64_acquire(&head->magic) != INF_STATS_MAGIC)
		r = -EBADMSG;
	else if (head->version != INF_STATS_VERSION)
		r = -EPROTONOSUPPORT;
	else if ((size_t)status.st_size < bytes_min || head->bytes != (uint64_t)status.st_size)
		r = -EBADMSG;
	if (r)
		munmap(map, (size_t)status.st_size);
	else
		*ret_map = map;
	return r;
}

/* When the files were copied; 0 = they are the broker's own. */
static uint64_t snapshot_ns;

static void look_for_snapshot(const char *socket_path)
{
	char folder[PATH_MAX], path[2 * PATH_MAX];
	json_t *snapshot;

	snprintf(folder, sizeof(folder), "%s", socket_path);
	snprintf(path, sizeof(path), "%s/" SNAPSHOT_NAME, dirname(folder));
	snapshot = json_load_file(path, 0, NULL);
	snapshot_ns = (uint64_t)json_integer_value(json_object_get(snapshot, "monotonic_ns"));
	json_decref(snapshot);
}

uint64_t stats_now_ns(void)
{
	return snapshot_ns ? snapshot_ns : monotonic_ns();
}

static int find(const struct options *options, char *ret_path,
		const struct inf_stats_public **ret_stats)
{
	char paths[PLACES_MAX][PATH_MAX], file[PATH_MAX + 8];
	unsigned int n = places(options, paths);
	int r = -ENOENT;

	for (unsigned int i = 0; i < n && r == -ENOENT; i++) {
		snprintf(file, sizeof(file), "%s.stats", paths[i]);
		r = map_file(file, sizeof(**ret_stats), (const void **)ret_stats);
		if (r == 0 && (*ret_stats)->head.bytes != sizeof(**ret_stats)) {
			munmap((void *)(uintptr_t)*ret_stats, (*ret_stats)->head.bytes);
			r = -EBADMSG;
		}
		snprintf(ret_path, PATH_MAX, "%s", paths[i]);
	}
	if (r == 0)
		look_for_snapshot(ret_path);
	return r;
}

const struct inf_stats_public *stats_find(const struct options *options, char *ret_path)
{
	const struct inf_stats_public *stats = NULL;

	return find(options, ret_path, &stats) ? NULL : stats;
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
	default:
		*ret_status = fail(options, EXIT_UNHEALTHY, "%s.stats: %s", ret_path, strerror(-r));
	}
	return NULL;
}

const struct inf_stats_user *stats_open_user(const char *path, int *ret_error)
{
	const struct inf_stats_user *stats = NULL;

	*ret_error = map_file(path, sizeof(*stats), (const void **)&stats);
	if (*ret_error)
		return NULL;
	if (stats->n_entries > SESSIONS_MAX || stats->head.bytes != inf_stats_user_bytes(stats->n_entries)) {
		munmap((void *)(uintptr_t)stats, stats->head.bytes);
		*ret_error = -EBADMSG;
		return NULL;
	}
	return stats;
}

struct each_session {
	void (*each)(void *data, const struct inf_stats_session *entry);
	void *data;
};

/* All sessions of one user. Where the file is not for us, or not there, that is none. */
static void each_of_user(void *data, const char *path)
{
	const struct each_session *with = data;
	const struct inf_stats_user *user;
	uint64_t n_entries;
	int r;

	user = stats_open_user(path, &r);
	if (!user)
		return;
	n_entries = user->n_entries;
	for (uint64_t i = 0; i < n_entries; i++)
		/* Acquire: the rest of the entry was stored before. */
		if (inf_load32_acquire(&user->sessions[i].used) == 1)
			with->each(with->data, &user->sessions[i]);
	munmap((void *)(uintptr_t)user, inf_stats_user_bytes(n_entries));
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
	struct each_session with = { each, data };

	stats_each_file(socket_path, each_of_user, &with);
}

bool stats_has_device(const struct inf_stats_public *stats)
{
	return !strncmp(stats->device, "cuda:", 5) || inf_load64(&stats->device_bytes);
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

const char *life_word(enum life life)
{
	static const char *const words[] = {
		[LIFE_RUNNING] = "running", [LIFE_STOPPED] = "stopped", [LIFE_GONE] = "gone",
		[LIFE_SNAPSHOT] = "snapshot",
	};

	return words[life];
}
