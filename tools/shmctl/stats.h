/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - the statistics files of a broker, found and checked; needs nothing from the broker itself.
 */
#ifndef SHMCTL_STATS_H
#define SHMCTL_STATS_H

#include "shm/stats.h"
#include "tools/shmctl/shmctl.h"
#include <stdbool.h>

/* In what state the process is that wrote a file. */
enum life {
	LIFE_RUNNING,
	LIFE_STOPPED, /* SIGSTOP, or a debugger */
	LIFE_GONE,
	LIFE_SNAPSHOT, /* the files are copies: snapshot.c */
};

/*
 * A private copy of SOCKET.stats as it is now, of the first place that has one; its strings have ends. NULL after an error line,
 * *ret_status is the exit status then. `ret_path` gets the socket's path, PATH_MAX bytes. To see what changes, open it again: a
 * broker that was started anew has a new file.
 */
const struct inf_stats_public *stats_open(const struct options *options, char *ret_path,
					  int *ret_status);

/* The same without a word: NULL where there is none. */
const struct inf_stats_public *stats_find(const struct options *options, char *ret_path);

/*
 * The same for who wants to know more: 0 and *ret_stats, or -ENOENT, -EACCES, -EBADMSG (none of ours), -EPROTONOSUPPORT
 * (another version's), -errno. Without a file, ret_path is the first place that has a socket, else the first of all.
 */
int stats_look(const struct options *options, char *ret_path, const struct inf_stats_public **ret_stats);

/*
 * The file itself, so that it can be read once more when it has no name any more: a broker that ends unlinks it. An fd, or -1; a
 * copy of what it has now, or NULL.
 */
int stats_hold(const char *socket_path);
const struct inf_stats_public *stats_held(int fd);

/* Takes NULL; for who looks again and again. */
void stats_close(const struct inf_stats_public *stats);

/*
 * Calls `each` with a copy of every session whose file this user may read, of the broker whose socket is there; it is good until
 * `each` returns.
 */
void stats_each_session(const char *socket_path, void (*each)(void *data, const struct inf_stats_session *entry), void *data);
/* The model of that name; `version` 0: whichever comes first. NULL = none. */
const struct inf_stats_model *stats_model(const struct inf_stats_public *stats, const char *name, uint32_t version);
/* EXIT_OK, or EXIT_UNHEALTHY after an error line where there is none of that name. */
int stats_must_have_model(const struct options *options, const struct inf_stats_public *stats, const char *name);
/* Does it serve on a device, or hold memory there still? */
bool stats_has_device(const struct inf_stats_public *stats);
/* Does the broker run, and its executor, as the kernel says, do nothing at all (SIGSTOP, a debugger)? */
bool stats_executor_is_stopped(const struct inf_stats_public *stats);

/* The names of the files of users. That of this user alone, where the folder cannot be listed. */
void stats_each_file(const char *socket_path, void (*each)(void *data, const char *path), void *data);

/* CLOCK_MONOTONIC, ns: when the files that were opened last were true. Now, unless they are a snapshot. */
uint64_t stats_now_ns(void);
/* What a snapshot keeps beside the files: SNAPSHOT_NAME in their folder. */
#define SNAPSHOT_NAME "snapshot.json"

/* Was the last file that was found a snapshot's (`shmctl snapshot save`)? Nothing will ever change in it. */
bool stats_are_snapshot(void);
/* For a command that waits for something to happen: EXIT_OK, or EXIT_USAGE after an error line where it is a snapshot. */
int stats_must_live(const struct options *options, const char *socket_path);

enum life stats_life(const struct inf_stats_head *head);
const char *life_word(enum life life);

#endif /* SHMCTL_STATS_H */
