/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listener.c - makes or takes over the listening socket, and accepts.
 *
 * Who may serve a path is decided by an flock on PATH.lock, held until the end. Whoever holds it
 * may remove a socket file that nobody answers on; one that somebody answers on (who does not lock)
 * is left alone. The lock file is removed while the lock is held, so a newcomer checks that what it
 * locked is still what the path names.
 *
 * Who may connect is decided by the directory: the socket itself is 0666, since the broker serves
 * many uids and judges each by its credentials.
 *
 * Out of file descriptors: accepting pauses, so that the front does not spin on a backlog it cannot
 * take; it goes on when a session has gone. With no session left to go, waiting clients are turned
 * away instead, with a descriptor that was kept for that.
 */
#define _GNU_SOURCE 1
#include "broker/listener.h"
#include "broker/config.h"
#include "broker/log.h"
#include "broker/loop.h"
#include "broker/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG		  4096
#define ACCEPTS_PER_EVENT 64
#define LISTEN_FDS_START  3
#define PATH_BYTES	  sizeof(((struct sockaddr_un *)NULL)->sun_path)
#define DEFAULT_DIRECTORY "/run/infbroker"

/* Linux 6.16: whether peers may send fds here. Ours may not. */
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

static struct {
	struct loop_source source;
	char path[PATH_BYTES];
	int lock_fd;
	int spare_fd;
	bool ours;   /* made here: remove it at the end */
	bool paused; /* out of fds */
} listener = { .source.fd = -1, .lock_fd = -1, .spare_fd = -1 };

static int fail(const char *path, int error, const char *next_step)
{
	log_line("cannot listen at %s: %s; %s", path, strerror(-error), next_step);
	return error;
}

/* --socket, else the default place. 0 or -ENAMETOOLONG. */
static int path_choose(const struct config *config)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (config->socket_path)
		n = snprintf(listener.path, PATH_BYTES, "%s", config->socket_path);
	else if (runtime && runtime[0] == '/')
		n = snprintf(listener.path, PATH_BYTES, "%s/infbroker/socket", runtime);
	else
		n = snprintf(listener.path, PATH_BYTES, DEFAULT_DIRECTORY "/socket");
	if (n == 0) {
		log_line("--socket: the path is empty");
		return -EINVAL;
	}
	if ((size_t)n < PATH_BYTES)
		return 0;
	log_line("the socket path has %d characters, the kernel takes %zu: give a shorter --socket "
		 "PATH (%.60s...)",
		 n, PATH_BYTES - 1, listener.path);
	return -ENAMETOOLONG;
}

/* The last directory of a default place: private in the user's runtime directory, open in /run. */
static int directory_make(const struct config *config)
{
	char directory[PATH_BYTES];
	char *slash;

	if (config->socket_path)
		return 0;
	memcpy(directory, listener.path, sizeof(directory));
	slash = strrchr(directory, '/');
	*slash = '\0';
	if (mkdir(directory, strcmp(directory, DEFAULT_DIRECTORY) == 0 ? 0755 : 0700) == 0 ||
	    errno == EEXIST)
		return 0;
	return fail(listener.path, -errno,
		    "make its directory, set XDG_RUNTIME_DIR or give --socket PATH");
}

/* True where the locked file is the one that the path names. */
static bool lock_is_current(int fd, const char *path)
{
	struct stat ours, theirs;

	return fstat(fd, &ours) == 0 && stat(path, &theirs) == 0 && ours.st_ino == theirs.st_ino &&
	       ours.st_dev == theirs.st_dev;
}

static int lock_take(void)
{
	char path[PATH_BYTES + sizeof(".lock")];

	snprintf(path, sizeof(path), "%s.lock", listener.path);
	for (int i = 0; i < 16; i++) { /* again where the holder has just ended and removed it */
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		bool locked, current;

		if (fd < 0)
			return fail(listener.path, -errno,
				    "its lock file cannot be made: check the directory, or give "
				    "--socket PATH");
		locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
		current = lock_is_current(fd, path);
		if (locked && current) {
			listener.lock_fd = fd;
			return 0;
		}
		close(fd);
		if (current)
			break;
	}
	return fail(listener.path, -EADDRINUSE,
		    "another broker serves it: stop that one, or give --socket PATH");
}

static void lock_give(void)
{
	char path[PATH_BYTES + sizeof(".lock")];

	if (listener.lock_fd < 0)
		return;
	snprintf(path, sizeof(path), "%s.lock", listener.path);
	unlink(path);
	close(listener.lock_fd);
	listener.lock_fd = -1;
}

static struct sockaddr_un address_make(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memcpy(address.sun_path, listener.path, sizeof(address.sun_path));
	return address;
}

/* Does anyone answer there? Only -ECONNREFUSED says no: a full backlog or another type of socket is
 * someone. */
static bool socket_is_served(void)
{
	struct sockaddr_un address = address_make();
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	bool served;

	if (fd < 0)
		return true;
	served = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ||
		 errno != ECONNREFUSED;
	close(fd);
	return served;
}

/* Removes what an earlier broker left behind; refuses to remove anything else. */
static int leftover_remove(void)
{
	struct stat st;

	if (lstat(listener.path, &st) < 0)
		return errno == ENOENT ? 0 : fail(listener.path, -errno, "check --socket PATH");
	if (!S_ISSOCK(st.st_mode))
		return fail(listener.path, -EEXIST,
			    "that is not a socket: remove it, or give --socket PATH");
	if (socket_is_served())
		return fail(listener.path, -EADDRINUSE,
			    "another program serves it: stop that one, or give --socket PATH");
	if (unlink(listener.path) < 0 && errno != ENOENT)
		return fail(listener.path, -errno, "the old socket cannot be removed");
	return 0;
}

static int socket_bind(int fd)
{
	struct sockaddr_un address = address_make();
	mode_t mask = umask(0111);
	int r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;

	umask(mask);
	return r;
}

static int socket_make(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return fail(listener.path, -errno, "no socket can be made");
	r = socket_bind(fd);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return fail(listener.path, r, "check its directory, or give --socket PATH");
	}
	listener.source.fd = fd;
	listener.ours = true;
	return 0;
}

static bool option_is(int fd, int option, int expected)
{
	int value = 0;
	socklen_t value_bytes = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &value_bytes) == 0 && value == expected;
}

/* "@..." for the abstract namespace; "" where it has no name. */
static void inherited_path(int fd)
{
	struct sockaddr_un address = { 0 };
	socklen_t address_bytes = sizeof(address);

	listener.path[0] = '\0';
	if (getsockname(fd, (struct sockaddr *)&address, &address_bytes) < 0 ||
	    address_bytes <= offsetof(struct sockaddr_un, sun_path))
		return;
	memcpy(listener.path, address.sun_path, PATH_BYTES - 1);
	listener.path[PATH_BYTES - 1] = '\0';
	if (listener.path[0] == '\0')
		listener.path[0] = '@';
}

/* The service manager's sockets, as in sd_listen_fds(3): how many. The environment is not for
 * executors. */
static unsigned long inherited_count(void)
{
	const char *pid = getenv("LISTEN_PID");
	const char *n_fds = getenv("LISTEN_FDS");
	unsigned long n = 0;

	if (pid && n_fds && strtoul(pid, NULL, 10) == (unsigned long)getpid())
		n = strtoul(n_fds, NULL, 10);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return n;
}

static int inherited_take(unsigned long n_fds)
{
	int fd = LISTEN_FDS_START;

	if (n_fds != 1) {
		log_line("LISTEN_FDS hands over %lu sockets, one is needed: give the unit one "
			 "ListenSequentialPacket=",
			 n_fds);
		return -EINVAL;
	}
	if (!option_is(fd, SO_DOMAIN, AF_UNIX) || !option_is(fd, SO_TYPE, SOCK_SEQPACKET) ||
	    !option_is(fd, SO_ACCEPTCONN, 1)) {
		log_line("LISTEN_FDS hands over no listening SEQPACKET unix socket: "
			 "use ListenSequentialPacket= (or systemd-socket-activate --seqpacket)");
		return -EINVAL;
	}
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
	    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
		return fail("the socket of LISTEN_FDS", -errno, "it cannot be set up");
	inherited_path(fd);
	listener.source.fd = fd;
	return 0;
}

static int socket_get(const struct config *config)
{
	unsigned long n_inherited = inherited_count();
	int r;

	if (!config->socket_path && n_inherited > 0)
		return inherited_take(n_inherited);
	/* --socket counts more; what was handed over is not for executors. */
	for (unsigned long i = 0; i < n_inherited && i < 64; i++)
		fcntl(LISTEN_FDS_START + (int)i, F_SETFD, FD_CLOEXEC);
	r = path_choose(config);
	if (r == 0)
		r = directory_make(config);
	if (r == 0)
		r = lock_take();
	if (r == 0)
		r = leftover_remove();
	return r < 0 ? r : socket_make();
}

static int spare_open(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static int accept_one(void)
{
	int fd = accept4(listener.source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Others come first, then the source fires again where more wait. */
static void fire_again(struct broker *broker)
{
	loop_del(broker->loop, &listener.source);
	if (loop_add(broker->loop, &listener.source) < 0)
		listener.paused = true;
}

/* Accepts with the spare descriptor and closes: better than waiting for nobody. */
static void turn_away(struct broker *broker)
{
	for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
		int fd;

		close(listener.spare_fd);
		fd = accept_one();
		if (fd >= 0)
			close(fd);
		listener.spare_fd = spare_open();
		if (fd < 0 || listener.spare_fd < 0)
			return;
	}
	fire_again(broker);
}

static void out_of_fds(struct broker *broker, int error)
{
	if (broker->n_sessions == 0 && listener.spare_fd >= 0) {
		log_line("out of file descriptors (%s): turned new clients away; raise "
			 "RLIMIT_NOFILE",
			 strerror(-error));
		turn_away(broker);
		return;
	}
	log_line("out of file descriptors (%s): new clients wait until one ends; raise "
		 "RLIMIT_NOFILE",
		 strerror(-error));
	loop_del(broker->loop, &listener.source);
	listener.paused = true;
}

/* One connection. 0, or -errno where accepting should stop for now. */
static int take_one(struct broker *broker)
{
	int fd = accept_one();
	int r;

	/* The peer's own failures are not ours; look at the next one. */
	if (fd < 0)
		return fd == -EINTR || fd == -ECONNABORTED ? 0 : fd;
	if (broker->draining) {
		close(fd);
		return 0;
	}
	r = session_new(broker, fd);
	return r == -EMFILE || r == -ENFILE ? r : 0;
}

static void on_connection(struct loop_source *source, void *context)
{
	struct broker *broker = context;
	int r = 0;

	if (broker->draining && !listener.ours) { /* the next broker on this socket takes them */
		loop_del(broker->loop, source);
		return;
	}
	for (int i = 0; i < ACCEPTS_PER_EVENT && r == 0; i++)
		r = take_one(broker);
	if (r == -EMFILE || r == -ENFILE)
		out_of_fds(broker, r);
	else if (r == 0)
		fire_again(broker);
	else if (r != -EAGAIN)
		log_line("accept: %s", strerror(-r));
}

int listener_open(struct broker *broker)
{
	int r = socket_get(broker->config);
	int off = 0;

	if (r < 0) {
		listener_close(broker);
		return r;
	}
	/* Inherited by what is accepted. Older kernels don't know it; there a received fd is closed
	 * and ends the session. */
	setsockopt(listener.source.fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
	listener.spare_fd = spare_open();
	listener.source.on_event = on_connection;
	broker->listen_fd = listener.source.fd;
	r = loop_add(broker->loop, &listener.source);
	if (r < 0) {
		fail(listener.path, r, "the loop does not take the socket");
		listener_close(broker);
	}
	return r;
}

const char *listener_path(void)
{
	return listener.path;
}

void listener_close(struct broker *broker)
{
	if (listener.source.fd >= 0) {
		loop_del(broker->loop, &listener.source);
		if (listener.ours)
			unlink(listener.path);
		close(listener.source.fd);
	}
	if (listener.spare_fd >= 0)
		close(listener.spare_fd);
	lock_give();
	listener.source.fd = -1;
	listener.spare_fd = -1;
	listener.ours = false;
	listener.paused = false;
	broker->listen_fd = -1;
}

void listener_resume(struct broker *broker)
{
	if (!listener.paused || listener.source.fd < 0)
		return;
	if (listener.spare_fd < 0)
		listener.spare_fd = spare_open();
	if (loop_add(broker->loop, &listener.source) == 0)
		listener.paused = false;
}
