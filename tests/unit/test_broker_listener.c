/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_broker_listener.c - who gets the path, what is left alone, what systemd may hand over, and
 * that running out of descriptors neither spins nor forgets anyone. Connections are only accepted
 * while draining (refused at once): what becomes of others is the session's part.
 */
#define _GNU_SOURCE 1
#include "broker/listener.h"
#include "broker/config.h"
#include "broker/log.h"
#include "broker/loop.h"
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char directory[64], path[96], lock_path[112];
static char said[8192];
static struct config config;
static struct broker broker;
static FILE *log_file;
static int saved_stderr;

static void setup(void)
{
	snprintf(directory, sizeof(directory), "/tmp/inf-listener-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/socket", directory);
	snprintf(lock_path, sizeof(lock_path), "%s.lock", path);
	config = (struct config){ .socket_path = path };
	broker = (struct broker){ .config = &config, .listen_fd = -1 };
	ck_assert_int_eq(loop_new(&broker.loop, LOOP_AUTO, 8, &broker), 0);
	saved_stderr = dup(STDERR_FILENO);
	log_file = tmpfile();
	dup2(fileno(log_file), STDERR_FILENO);
	log_init(1000);
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
}

/* The log up to now. */
static const char *log_text(void)
{
	log_flush();
	rewind(log_file);
	said[fread(said, 1, sizeof(said) - 1, log_file)] = '\0';
	return said;
}

#define ck_assert_said(text) ck_assert_msg(strstr(log_text(), text) != NULL, "said: %s", said)

static void teardown(void)
{
	listener_close(&broker);
	broker.loop = loop_free(broker.loop);
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	fclose(log_file);
	/* Nothing is left: the directory is empty. */
	ck_assert_int_eq(rmdir(directory), 0);
}

static struct sockaddr_un address(void)
{
	struct sockaddr_un result = { .sun_family = AF_UNIX };

	snprintf(result.sun_path, sizeof(result.sun_path), "%s", path);
	return result;
}

/* A blocking connection, or -errno. */
static int connect_to_path(void)
{
	struct sockaddr_un to = address();
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	close(fd);
	return -errno;
}

static int bind_at_path(int type)
{
	struct sockaddr_un at = address();
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

static bool is_hung_up(int fd)
{
	struct pollfd peer = { .fd = fd, .events = POLLIN };

	return poll(&peer, 1, 0) == 1 && peer.revents & POLLHUP;
}

static void turns(int n)
{
	while (n--)
		ck_assert_int_ge(loop_poll(broker.loop), 0);
}

START_TEST(makes_a_socket_for_everyone)
{
	mode_t mask = umask(0077);
	struct stat st;

	ck_assert_int_eq(listener_open(&broker), 0);
	ck_assert_uint_eq(umask(mask), 0077); /* put back */
	ck_assert_str_eq(listener_path(), path);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert(S_ISSOCK(st.st_mode));
	ck_assert_uint_eq(st.st_mode & 0777, 0666);
	ck_assert_int_eq(stat(lock_path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	ck_assert_int_ge(broker.listen_fd, 0);
	ck_assert(fcntl(broker.listen_fd, F_GETFD) & FD_CLOEXEC);
	ck_assert(fcntl(broker.listen_fd, F_GETFL) & O_NONBLOCK);
}
END_TEST

START_TEST(opens_again_after_close)
{
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(listener_open(&broker), 0);
		listener_close(&broker);
		ck_assert_int_lt(access(path, F_OK), 0);
		ck_assert_int_lt(access(lock_path, F_OK), 0);
	}
}
END_TEST

START_TEST(a_leftover_is_replaced)
{
	close(bind_at_path(SOCK_SEQPACKET)); /* as after SIGKILL */
	close(open(lock_path, O_CREAT | O_CLOEXEC, 0600));
	ck_assert_int_eq(listener_open(&broker), 0);
	int fd = connect_to_path();

	ck_assert_int_ge(fd, 0);
	close(fd);
}
END_TEST

START_TEST(a_served_path_is_left_alone)
{
	int fd = bind_at_path(SOCK_SEQPACKET);

	listen(fd, 1);
	ck_assert_int_eq(listener_open(&broker), -EADDRINUSE);
	ck_assert_said("another program serves it");
	ck_assert_int_eq(access(path, F_OK), 0);
	close(fd);
	unlink(path);
}
END_TEST

START_TEST(a_socket_of_another_type_is_left_alone)
{
	int fd = bind_at_path(SOCK_STREAM);

	listen(fd, 1);
	ck_assert_int_eq(listener_open(&broker), -EADDRINUSE);
	ck_assert_int_eq(access(path, F_OK), 0);
	close(fd);
	unlink(path);
}
END_TEST

/* Whoever holds the lock serves, even where its socket does not answer yet. */
START_TEST(a_second_broker_is_refused)
{
	int fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
	ck_assert_int_eq(listener_open(&broker), -EADDRINUSE);
	ck_assert_said("another broker serves it");
	ck_assert_int_eq(access(lock_path, F_OK), 0); /* the winner's */
	close(fd);
	ck_assert_int_eq(listener_open(&broker), 0);
}
END_TEST

START_TEST(a_file_is_not_removed)
{
	close(open(path, O_CREAT | O_CLOEXEC, 0600));
	ck_assert_int_eq(listener_open(&broker), -EEXIST);
	ck_assert_said("that is not a socket");
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(a_missing_directory_is_named)
{
	config.socket_path = "/does/not/exist/socket";
	ck_assert_int_eq(listener_open(&broker), -ENOENT);
	ck_assert_said("/does/not/exist/socket: No such file or directory");
}
END_TEST

START_TEST(a_long_path_is_named_with_the_limit)
{
	char long_path[300];

	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	config.socket_path = long_path;
	ck_assert_int_eq(listener_open(&broker), -ENAMETOOLONG);
	ck_assert_said("299 characters, the kernel takes 107");
	long_path[107] = '\0'; /* fits, but does not exist as a directory */
	long_path[0] = '/';
	long_path[1] = 'y';
	long_path[2] = '/';
	ck_assert_int_eq(listener_open(&broker), -ENOENT);
	config.socket_path = "";
	ck_assert_int_eq(listener_open(&broker), -EINVAL);
}
END_TEST

START_TEST(the_runtime_directory_is_made_private)
{
	char made[96];
	struct stat st;

	config.socket_path = NULL;
	setenv("XDG_RUNTIME_DIR", directory, 1);
	ck_assert_int_eq(listener_open(&broker), 0);
	snprintf(made, sizeof(made), "%s/infbroker", directory);
	ck_assert_int_eq(stat(made, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0700);
	ck_assert_int_eq(strncmp(listener_path(), made, strlen(made)), 0);
	listener_close(&broker);
	ck_assert_int_eq(listener_open(&broker), 0); /* it may exist */
	listener_close(&broker);
	ck_assert_int_eq(rmdir(made), 0);
}
END_TEST

/* As systemd does it: descriptor 3. Returns what was at 3. */
static int hand_over(int fd, const char *n_fds)
{
	char pid[16];
	int saved = fcntl(3, F_DUPFD_CLOEXEC, 64);

	dup2(fd, 3);
	if (fd != 3)
		close(fd);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", n_fds, 1);
	setenv("LISTEN_FDNAMES", "infbroker.socket", 1);
	config.socket_path = NULL;
	return saved;
}

static void hand_back(int saved)
{
	listener_close(&broker);
	if (saved >= 0) {
		dup2(saved, 3);
		close(saved);
	} else {
		close(3);
	}
	ck_assert_ptr_null(getenv("LISTEN_FDS"));
	ck_assert_ptr_null(getenv("LISTEN_PID"));
	ck_assert_ptr_null(getenv("LISTEN_FDNAMES"));
}

START_TEST(systemd_hands_a_socket_over)
{
	int fd = bind_at_path(SOCK_SEQPACKET);
	int saved;

	listen(fd, 16);
	saved = hand_over(fd, "1");
	ck_assert_int_eq(listener_open(&broker), 0);
	ck_assert_int_eq(broker.listen_fd, 3);
	ck_assert_str_eq(listener_path(), path);
	ck_assert(fcntl(3, F_GETFL) & O_NONBLOCK);
	listener_close(&broker);
	ck_assert_int_eq(access(path, F_OK), 0); /* not ours to remove */
	ck_assert_int_lt(access(lock_path, F_OK), 0);
	hand_back(saved);
	unlink(path);
}
END_TEST

START_TEST(systemd_hands_something_else_over)
{
	static const int types[] = { SOCK_SEQPACKET /* not listening */, SOCK_STREAM, SOCK_DGRAM };
	int fd = bind_at_path(types[_i]);
	int saved;

	if (types[_i] == SOCK_STREAM)
		listen(fd, 16);
	saved = hand_over(fd, "1");
	ck_assert_int_eq(listener_open(&broker), -EINVAL);
	ck_assert_said("ListenSequentialPacket=");
	hand_back(saved);
	unlink(path);
}
END_TEST

START_TEST(systemd_hands_two_over)
{
	int saved = hand_over(open("/dev/null", O_RDONLY | O_CLOEXEC), "2");

	ck_assert_int_eq(listener_open(&broker), -EINVAL);
	ck_assert_said("hands over 2 sockets");
	hand_back(saved);
}
END_TEST

START_TEST(another_process_was_meant)
{
	setenv("LISTEN_PID", "1", 1);
	setenv("LISTEN_FDS", "1", 1);
	ck_assert_int_eq(listener_open(&broker), 0);
	ck_assert_str_eq(listener_path(), path);
}
END_TEST

START_TEST(draining_refuses_at_once)
{
	int fds[200];

	ck_assert_int_eq(listener_open(&broker), 0);
	broker.draining = true;
	for (int i = 0; i < 200; i++)
		ck_assert_int_ge(fds[i] = connect_to_path(), 0);
	turns(20); /* 64 per event: it fires again by itself */
	for (int i = 0; i < 200; i++) {
		ck_assert(is_hung_up(fds[i]));
		close(fds[i]);
	}
}
END_TEST

/* Leaves no descriptor for accept(). */
static void exhaust(struct rlimit *ret_old)
{
	struct rlimit limit;
	int next = dup(STDIN_FILENO);

	close(next);
	getrlimit(RLIMIT_NOFILE, ret_old);
	limit = *ret_old;
	limit.rlim_cur = (rlim_t)next;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

START_TEST(out_of_descriptors_pauses)
{
	struct rlimit old;
	int fd;

	ck_assert_int_eq(listener_open(&broker), 0);
	broker.draining = true;
	broker.n_sessions = 1; /* one that will go and resume us */
	ck_assert_int_ge(fd = connect_to_path(), 0);
	exhaust(&old);
	turns(4);
	ck_assert_said("new clients wait");
	ck_assert(!is_hung_up(fd));
	/* Paused: nothing fires any more. */
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(loop_poll(broker.loop), 0);
	setrlimit(RLIMIT_NOFILE, &old);
	listener_resume(&broker);
	turns(4);
	ck_assert(is_hung_up(fd));
	listener_resume(&broker); /* nothing where it runs */
	close(fd);
}
END_TEST

START_TEST(out_of_descriptors_with_nobody_to_go)
{
	struct rlimit old;
	int fds[3];

	ck_assert_int_eq(listener_open(&broker), 0);
	broker.draining = true;
	for (int i = 0; i < 3; i++)
		ck_assert_int_ge(fds[i] = connect_to_path(), 0);
	exhaust(&old);
	turns(4);
	ck_assert_said("turned new clients away");
	for (int i = 0; i < 3; i++)
		ck_assert(is_hung_up(fds[i]));
	setrlimit(RLIMIT_NOFILE, &old);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}
END_TEST

Suite *suite_broker_listener(void);
Suite *suite_broker_listener(void)
{
	Suite *suite = suite_create("broker_listener");
	TCase *path_case = tcase_create("path");
	TCase *systemd = tcase_create("systemd");
	TCase *accepting = tcase_create("accepting");

	tcase_add_checked_fixture(path_case, setup, teardown);
	tcase_add_checked_fixture(systemd, setup, teardown);
	tcase_add_checked_fixture(accepting, setup, teardown);
	tcase_add_test(path_case, makes_a_socket_for_everyone);
	tcase_add_test(path_case, opens_again_after_close);
	tcase_add_test(path_case, a_leftover_is_replaced);
	tcase_add_test(path_case, a_served_path_is_left_alone);
	tcase_add_test(path_case, a_socket_of_another_type_is_left_alone);
	tcase_add_test(path_case, a_second_broker_is_refused);
	tcase_add_test(path_case, a_file_is_not_removed);
	tcase_add_test(path_case, a_missing_directory_is_named);
	tcase_add_test(path_case, a_long_path_is_named_with_the_limit);
	tcase_add_test(path_case, the_runtime_directory_is_made_private);
	tcase_add_test(systemd, systemd_hands_a_socket_over);
	tcase_add_loop_test(systemd, systemd_hands_something_else_over, 0, 3);
	tcase_add_test(systemd, systemd_hands_two_over);
	tcase_add_test(systemd, another_process_was_meant);
	tcase_add_test(accepting, draining_refuses_at_once);
	tcase_add_test(accepting, out_of_descriptors_pauses);
	tcase_add_test(accepting, out_of_descriptors_with_nobody_to_go);
	suite_add_tcase(suite, path_case);
	suite_add_tcase(suite, systemd);
	suite_add_tcase(suite, accepting);
	return suite;
}
