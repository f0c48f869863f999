/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_stats.c - files that readers can trust, for the right readers, and no failure where
 * they cannot be made. */
#define _GNU_SOURCE 1
#include "broker/stats.h"
#include "broker/config.h"
#include "broker/listener.h"
#include "broker/log.h"
#include "broker/loop.h"
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OTHER_UID 4242u
#define USER_SESSIONS 7u

static char directory[64], path[96], stats_path[112], user_path[128];
static struct config config;
static struct broker broker;
static struct session *sessions[2];
static struct session *session;

static void setup(void)
{
	snprintf(directory, sizeof(directory), "/tmp/inf-stats-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(chmod(directory, 0755), 0);
	snprintf(path, sizeof(path), "%s/socket", directory);
	snprintf(stats_path, sizeof(stats_path), "%s.stats", path);
	snprintf(user_path, sizeof(user_path), "%s.%u", stats_path, OTHER_UID);
	config = (struct config){
		.socket_path = path, .sessions_max = 2, .user_sessions_max = USER_SESSIONS, .jobs_max = 77, .models_path = "/m"
	};
	broker = (struct broker){
		.config = &config, .listen_fd = -1, .sessions = sessions, .epoch = 5, .now_ns = 6
	};
	ck_assert_int_eq(loop_new(&broker.loop, LOOP_EPOLL, 8, &broker), 0);
	ck_assert_int_eq(listener_open(&broker), 0);
	session = calloc(1, sizeof(*session));
	session->uid = OTHER_UID;
	session->id = 9;
	session->pid = 123;
	memcpy(session->name, "name", 5);
	log_init(0); /* lines that say what could not be made are not for the terminal */
}

static void teardown(void)
{
	stats_close(&broker);
	listener_close(&broker);
	broker.loop = loop_free(broker.loop);
	free(session);
	memset(sessions, 0, sizeof(sessions));
	ck_assert_int_eq(rmdir(directory), 0); /* nothing is left */
}

/* As shmctl sees it. */
static const void *reader_map(const char *file, size_t n_bytes)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	const void *map;
	struct stat st;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq((size_t)st.st_size, n_bytes);
	map = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(map, MAP_FAILED);
	close(fd);
	return map;
}

START_TEST(public_file)
{
	const struct inf_stats_public *seen;
	struct stat st;

	ck_assert_int_eq(stats_open(&broker), 0);
	ck_assert_int_eq(stat(stats_path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0644);
	seen = reader_map(stats_path, sizeof(*seen));
	ck_assert_uint_eq(seen->head.magic, INF_STATS_MAGIC);
	ck_assert_uint_eq(seen->head.bytes, sizeof(*seen));
	ck_assert_uint_eq(seen->head.pid, (uint32_t)getpid());
	ck_assert_uint_eq(seen->head.start_ns, 5);
	ck_assert_uint_gt(seen->head.start_ticks, 0);
	ck_assert_str_eq(seen->loop, "epoll");
	ck_assert_str_eq(seen->socket_path, path);
	ck_assert_str_eq(seen->models_path, "/m");
	ck_assert_str_eq(seen->limits[0].name, "sessions_max");
	ck_assert_uint_eq(seen->limits[0].limit, 2);
	broker.stats->n_pings++;
	broker.n_sessions = 0;
	broker.n_jobs = 3;
	broker.draining = true;
	broker.now_ns = 99;
	stats_refresh(&broker);
	ck_assert_uint_eq(seen->n_pings, 1);
	ck_assert_uint_eq(seen->head.beat_ns, 99);
	ck_assert_uint_eq(seen->draining, 1);
	for (int i = 0; i < (int)INF_STATS_LIMITS; i++)
		if (strcmp(seen->limits[i].name, "jobs_max") == 0)
			ck_assert(seen->limits[i].limit == 77 && seen->limits[i].used == 3);
	munmap((void *)seen, sizeof(*seen));
}
END_TEST

START_TEST(a_new_inode_per_start)
{
	struct inf_stats_public *old;
	struct stat first, second;

	ck_assert_int_eq(stats_open(&broker), 0);
	stat(stats_path, &first);
	old = (struct inf_stats_public *)reader_map(stats_path, sizeof(*old));
	broker.stats = NULL; /* as a killed broker leaves it */
	ck_assert_int_eq(stats_open(&broker), 0);
	stat(stats_path, &second);
	ck_assert_uint_ne(first.st_ino, second.st_ino);
	ck_assert_uint_eq(old->head.magic, INF_STATS_MAGIC); /* still whole */
	munmap(old, sizeof(*old));
}
END_TEST

START_TEST(sessions_of_a_user)
{
	const struct inf_stats_user *seen;

	ck_assert_int_eq(stats_open(&broker), 0);
	session->stats = stats_session_add(&broker, session);
	session->n_lanes = 4;
	session->n_jobs = 5;
	session->n_posted = 6;
	session->regions[3] =
		(struct region){ .state = REGION_READY, .kind = INF_REGION_OUTPUT, .bytes = 700 };
	session->regions[5] =
		(struct region){ .state = REGION_READY, .kind = INF_REGION_REQUEST, .bytes = 30 };
	/* Whole units of the device, and nothing of the host. */
	session->regions[6] = (struct region){ .state = REGION_READY, .kind = INF_REGION_TWIN, .bytes = 30, .charge = 4096 };
	session->regions[7] = (struct region){ .state = REGION_RETIRED, .kind = INF_REGION_TWIN, .bytes = 31, .charge = 8192 };
	sessions[1] = session;
	broker.n_sessions = 1;
	stats_refresh(&broker);
	seen = reader_map(user_path, inf_stats_user_bytes(USER_SESSIONS));
	ck_assert_uint_eq(seen->head.magic, INF_STATS_MAGIC);
	ck_assert_uint_eq(seen->head.uid, OTHER_UID);
	ck_assert_uint_eq(seen->n_sessions, 1);
	ck_assert_uint_eq(seen->sessions[0].used, 1);
	ck_assert_uint_eq(seen->sessions[0].id, 9);
	ck_assert_uint_eq(seen->sessions[0].pid, 123);
	ck_assert_str_eq(seen->sessions[0].name, "name");
	ck_assert_uint_eq(seen->sessions[0].n_lanes, 4);
	ck_assert_uint_eq(seen->sessions[0].in_flight, 5);
	ck_assert_uint_eq(seen->sessions[0].held_outputs, 6);
	ck_assert_uint_eq(seen->sessions[0].output_bytes, 700);
	ck_assert_uint_eq(seen->sessions[0].request_bytes, 30);
	ck_assert_uint_eq(seen->sessions[0].device_bytes, 3 * 4096);
	ck_assert_uint_eq(seen->n_entries, USER_SESSIONS);
	ck_assert_uint_eq(seen->sessions[0].regions[1].kind, INF_REGION_REQUEST);
	ck_assert_uint_eq(seen->sessions[0].regions[1].bytes, 30);
	ck_assert_uint_eq(seen->sessions[0].regions[3].state, 3);
	ck_assert_uint_eq(seen->sessions[0].regions[4].used, 0);
	stats_session_del(&broker, session);
	ck_assert_ptr_nonnull(session->stats); /* a zombie may count on */
	session->stats->n_errors++;
	ck_assert_int_lt(access(user_path, F_OK), 0);
	stats_refresh(&broker);
	broker.n_sessions = 0;
	munmap((void *)seen, inf_stats_user_bytes(USER_SESSIONS));
}
END_TEST

START_TEST(more_sessions_than_entries)
{
	struct inf_stats_session **entries = calloc(USER_SESSIONS + 2, sizeof(*entries));

	ck_assert_int_eq(stats_open(&broker), 0);
	for (uint32_t i = 0; i < USER_SESSIONS + 2; i++)
		ck_assert_ptr_nonnull(entries[i] = stats_session_add(&broker, session));
	ck_assert_ptr_eq(entries[USER_SESSIONS], entries[USER_SESSIONS + 1]);
	for (uint32_t i = 0; i < USER_SESSIONS + 2; i++) {
		session->stats = entries[i];
		stats_session_del(&broker, session);
		stats_session_del(&broker, session); /* twice is once */
	}
	ck_assert_int_lt(access(user_path, F_OK), 0);
	free(entries);
}
END_TEST

/* As another user: exit 0 where the file could be read and neither written nor truncated. */
static int judge_as(uid_t uid)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		char byte;
		int fd;

		if (setresuid(uid, uid, uid) < 0)
			_exit(2);
		fd = open(user_path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			_exit(errno == EACCES ? 3 : 4);
		if (read(fd, &byte, 1) != 1)
			_exit(5);
		_exit(open(user_path, O_RDWR | O_CLOEXEC) >= 0 || truncate(user_path, 0) == 0 ||
				      chmod(user_path, 0666) == 0 ? 6 : 0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* An owner could truncate it and kill the front by SIGBUS: the user only reads. */
START_TEST(the_user_reads_and_no_more)
{
	int r;

	if (geteuid() != 0) {
		printf("skip - stats/users: needs root to become another user\n");
		return;
	}
	ck_assert_int_eq(stats_open(&broker), 0);
	session->stats = stats_session_add(&broker, session);
	r = judge_as(OTHER_UID);
	if (r == 3)
		printf("skip - stats/users: no ACLs on this file system\n");
	else
		ck_assert_int_eq(r, 0);
	ck_assert_int_eq(judge_as(OTHER_UID + 1), 3);
	stats_session_del(&broker, session);
}
END_TEST

START_TEST(no_disk_is_no_failure)
{
	struct rlimit limit = { 4096, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &limit);
	ck_assert_int_eq(stats_open(&broker), 0);
	broker.stats->n_parks++;
	stats_refresh(&broker);
	ck_assert_int_lt(access(stats_path, F_OK), 0);
	session->stats = stats_session_add(&broker, session);
	session->stats->n_requests++;
	stats_session_del(&broker, session);
	limit.rlim_cur = RLIM_INFINITY;
	setrlimit(RLIMIT_FSIZE, &limit);
}
END_TEST

START_TEST(models)
{
	struct model model = { .name = "classifier",
			       .version = 3,
			       .state = INF_MODEL_READY,
			       .queue.rows = 8,
			       .rows_running = 4,
			       .batch_best = 16 };
	const struct inf_stats_model *entry;

	ck_assert_int_eq(stats_open(&broker), 0);
	entry = &broker.stats->models[2];
	broker.models[2] = &model;
	stats_refresh(&broker);
	ck_assert_str_eq(entry->name, "classifier");
	ck_assert_uint_eq(entry->model_version, 3);
	ck_assert_uint_eq(entry->queued, 8);
	ck_assert_uint_eq(entry->in_flight, 4);
	ck_assert_uint_eq(entry->batch_best, 16);
	broker.models[2] = NULL;
	stats_refresh(&broker);
	ck_assert_str_eq(entry->name, "");
}
END_TEST

Suite *suite_broker_stats(void);
Suite *suite_broker_stats(void)
{
	Suite *suite = suite_create("broker_stats");
	TCase *files = tcase_create("files");
	TCase *trouble = tcase_create("trouble");

	tcase_add_checked_fixture(files, setup, teardown);
	tcase_add_checked_fixture(trouble, setup, teardown);
	tcase_add_test(files, public_file);
	tcase_add_test(files, a_new_inode_per_start);
	tcase_add_test(files, sessions_of_a_user);
	tcase_add_test(files, models);
	tcase_add_test(trouble, more_sessions_than_entries);
	tcase_add_test(trouble, the_user_reads_and_no_more);
	tcase_add_test(trouble, no_disk_is_no_failure);
	suite_add_tcase(suite, files);
	suite_add_tcase(suite, trouble);
	return suite;
}
