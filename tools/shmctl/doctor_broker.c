/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_broker.c - is there a broker, may one reach it, does it answer, is it of this version; its executor and models. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "shm/control.h"
#include "tools/shmctl/doctor.h"
#include <errno.h>
#include <fcntl.h>
#include <inf/version.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- the socket --- */

/* 0, or -errno of connect(); never waits. */
static int try_connect(const char *path)
{
	int fd = connect_path(path, SOCK_NONBLOCK, 0);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

/* Which part of the path is closed to us, and to whom it is open. */
static void say_denied(struct doctor *doctor)
{
	char part[PATH_MAX];
	struct stat status;
	const char *path = doctor->path;

	for (size_t n = 1; n <= strlen(path); n++) {
		bool is_whole = !path[n];

		if (!is_whole && path[n] != '/')
			continue;
		snprintf(part, sizeof(part), "%.*s", (int)n, path);
		if (faccessat(AT_FDCWD, part, is_whole ? W_OK : X_OK, AT_EACCESS) == 0 || errno != EACCES || stat(part, &status) < 0)
			continue;
		doctor_say(doctor, "socket", VERDICT_FAIL,
			   "%s: permission denied to uid %u: %s belongs to uid %u, gid %u and has mode %04o\n"
			   "run it as that user (sudo -u '#%u'), or as root: chmod %s %s",
			   path, (unsigned int)geteuid(), part, (unsigned int)status.st_uid, (unsigned int)status.st_gid,
			   (unsigned int)status.st_mode & 07777, (unsigned int)status.st_uid, is_whole ? "0666" : "o+x", part);
		return;
	}
	doctor_say(doctor, "socket", VERDICT_FAIL, "%s: permission denied to uid %u\nrun it as the broker's user, or as root",
		   path, (unsigned int)geteuid());
}

static bool is_named(const struct doctor *doctor)
{
	const char *environment = getenv("INFBROKER_SOCKET");

	return doctor->options->socket_path || (environment && *environment);
}

static void say_absent(struct doctor *doctor)
{
	const char *places = is_named(doctor) ? "" : ", nor where else a broker listens by itself";

	doctor_say(doctor, "socket", VERDICT_FAIL,
		   "no broker: there is no socket at %s%s\nstart infbroker (systemctl start infbroker.socket), or name its socket "
		   "with --socket or $INFBROKER_SOCKET",
		   doctor->path, places);
}

/* Whether it took the connection. */
static bool check_socket(struct doctor *doctor)
{
	const char *path = doctor->path;
	struct stat status;
	int r = try_connect(path);

	if (r != -EACCES && r != -ENAMETOOLONG && r != -ENOENT && lstat(path, &status) == 0 && !S_ISSOCK(status.st_mode) &&
	    !S_ISLNK(status.st_mode)) {
		doctor_say(doctor, "socket", VERDICT_FAIL, "%s is not a socket\nremove it, or start infbroker with another --socket",
			   path);
		return false;
	}
	switch (r) {
	case 0:
		doctor_say(doctor, "socket", VERDICT_OK, "%s takes connections", path);
		break;
	case -ENOENT:
	case -ENOTDIR:
		say_absent(doctor);
		break;
	case -ECONNREFUSED:
		doctor_say(doctor, "socket", VERDICT_FAIL,
			   "%s is stale: nobody listens there, the broker that made it is gone\n"
			   "start infbroker at that path, it replaces the file; or: rm %s",
			   path, path);
		break;
	case -EACCES:
	case -EPERM:
		say_denied(doctor);
		break;
	case -EAGAIN:
		doctor_say(doctor, "socket", VERDICT_FAIL,
			   "%s takes no more connections: its backlog is full\nsee whether the broker hangs, or was stopped: shmctl status",
			   path);
		break;
	case -EPROTOTYPE:
		doctor_say(doctor, "socket", VERDICT_FAIL,
			   "%s is a socket of another kind: another program listens there\ngive infbroker another --socket", path);
		break;
	case -ENAMETOOLONG:
		doctor_say(doctor, "socket", VERDICT_FAIL, "the path of the socket has %zu bytes, the kernel takes %zu\ngive a shorter --socket",
			   strlen(path), sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
		break;
	default:
		doctor_say(doctor, "socket", VERDICT_FAIL, "%s: %s\nstart infbroker at another --socket", path, strerror(-r));
	}
	return r == 0;
}

/* Who may take the socket's place, and whether statistics have room beside it. */
static void check_directory(struct doctor *doctor)
{
	char copy[PATH_MAX];
	const char *directory;
	struct stat status;

	snprintf(copy, sizeof(copy), "%s", doctor->path);
	directory = dirname(copy);
	if (stat(directory, &status) < 0) {
		/* The default ones are made by the broker. */
		if (errno == ENOENT && is_named(doctor))
			doctor_say(doctor, "directory", VERDICT_WARN, "%s, where the socket belongs, does not exist\nmkdir -m 755 %s",
				   directory, directory);
		return;
	}
	if (status.st_mode & S_IWOTH && !(status.st_mode & S_ISVTX))
		doctor_say(doctor, "directory", VERDICT_FAIL,
			   "everybody may write to %s (mode %04o), and put a socket of their own in the broker's place\nchmod o-w %s",
			   directory, (unsigned int)status.st_mode & 07777, directory);
	else
		doctor_say(doctor, "directory", VERDICT_OK, "%s belongs to uid %u, mode %04o", directory,
			   (unsigned int)status.st_uid, (unsigned int)status.st_mode & 07777);
}

/* --- does it live, and answer --- */

static void ask_broker(const struct doctor *doctor, struct doctor_answer *answer)
{
	struct inf_options options = { .size = sizeof(options), .socket = doctor->path, .name = "shmctl doctor",
				       .error = answer->text, .error_bytes = sizeof(answer->text) };
	struct inf_client *client;

	answer->error = inf_open(&client, &options);
}

static void check_answer(struct doctor *doctor)
{
	struct doctor_answer answer;

	doctor_ask(doctor, ask_broker, &answer);
	switch (answer.error) {
	case 0:
		doctor_say(doctor, "protocol", VERDICT_OK, "the broker answers, and speaks protocol %u as this shmctl does", INF_CTL_VERSION);
		break;
	case -EPROTONOSUPPORT:
		doctor_say(doctor, "protocol", VERDICT_FAIL, "%s\nuse the shmctl and libinfclient that came with that infbroker",
			   answer.text);
		break;
	case -ETIMEDOUT:
		doctor_say(doctor, "protocol", VERDICT_FAIL,
			   "the broker takes a connection and does not answer within %u s\nlook at its log; if it hangs, start it anew",
			   doctor->options->timeout_s && doctor->options->timeout_s < DOCTOR_WAIT_S ? doctor->options->timeout_s :
												      DOCTOR_WAIT_S);
		break;
	case -EDQUOT:
		doctor_say(doctor, "protocol", VERDICT_FAIL,
			   "the broker takes no further session: %s\nend some (shmctl sessions), or raise --user-sessions-max",
			   answer.text);
		break;
	default:
		doctor_say(doctor, "protocol", VERDICT_FAIL, "%s\nlook at the broker's log",
			   answer.text[0] ? answer.text : strerror(-answer.error));
	}
}

static void say_no_statistics(struct doctor *doctor, bool is_served)
{
	switch (doctor->stats_error) {
	case -ENOENT:
	case -ENOTDIR:
	case -ENAMETOOLONG:
		if (is_served)
			doctor_say(doctor, "broker", VERDICT_WARN,
				   "there is no statistics file %s.stats: shmctl cannot look into the broker\n"
				   "its log says why; the broker's user must be able to write to that directory",
				   doctor->path);
		return;
	case -EACCES:
	case -EPERM:
		doctor_say(doctor, "broker", VERDICT_FAIL, "%s.stats: %s\nrun it as the broker's user, or as root", doctor->path,
			   strerror(-doctor->stats_error));
		return;
	case -EPROTONOSUPPORT:
		doctor_say(doctor, "version", VERDICT_FAIL,
			   "%s.stats is of another version than the %u of this shmctl %s\nuse the shmctl that came with that infbroker",
			   doctor->path, INF_STATS_VERSION, INF_VERSION_STRING);
		return;
	case -EBADMSG:
		doctor_say(doctor, "broker", VERDICT_FAIL, "%s.stats is not a statistics file of infbroker\nremove it, and start infbroker anew",
			   doctor->path);
		return;
	default:
		doctor_say(doctor, "broker", VERDICT_FAIL, "%s.stats: %s\nlook at the broker's log", doctor->path,
			   strerror(-doctor->stats_error));
	}
}

static void check_version(struct doctor *doctor)
{
	char version[sizeof(doctor->stats->version_text) + 1];

	snprintf(version, sizeof(version), "%.*s", (int)sizeof(doctor->stats->version_text), doctor->stats->version_text);
	if (strcmp(version, INF_VERSION_STRING))
		doctor_say(doctor, "version", VERDICT_WARN,
			   "the broker is of version %s, this shmctl of %s\nuse the shmctl that came with that infbroker", version,
			   INF_VERSION_STRING);
	else if (strcmp(inf_version(), INF_VERSION_STRING))
		doctor_say(doctor, "version", VERDICT_WARN,
			   "this shmctl is of version %s, the libinfclient that it found of %s\ninstall both from one release; is "
			   "LD_LIBRARY_PATH set?",
			   INF_VERSION_STRING, inf_version());
	else
		doctor_say(doctor, "version", VERDICT_OK, "broker, libinfclient and shmctl are of version %s", version);
}

static void check_life(struct doctor *doctor)
{
	const struct inf_stats_public *stats = doctor->stats;
	uint32_t pid = stats->head.pid;

	switch (doctor->life) {
	case LIFE_STOPPED:
		doctor_say(doctor, "broker", VERDICT_FAIL, "the broker, pid %" PRIu32 ", is stopped (SIGSTOP, or a debugger)\nkill -CONT %" PRIu32,
			   pid, pid);
		break;
	case LIFE_GONE:
		doctor_say(doctor, "broker", VERDICT_FAIL,
			   "the broker, pid %" PRIu32 ", is gone: it was killed, or crashed\nits log says why; start infbroker anew", pid);
		break;
	default:
		if (inf_load32(&stats->draining) == INF_STATS_DRAINS)
			doctor_say(doctor, "broker", VERDICT_WARN,
				   "the broker, pid %" PRIu32 ", refuses new requests: somebody said shmctl drain\nshmctl resume", pid);
		else if (inf_load32(&stats->draining))
			doctor_say(doctor, "broker", VERDICT_WARN,
				   "the broker, pid %" PRIu32 ", is draining: it ends when what is in flight has ended\nstart infbroker anew then",
				   pid);
		else
			doctor_say(doctor, "broker", VERDICT_OK, "it runs, pid %" PRIu32, pid);
	}
}

static void say_snapshot(struct doctor *doctor)
{
	doctor_say(doctor, "broker", VERDICT_WARN,
		   "%s is a snapshot of a broker that had pid %" PRIu32 ": nothing runs there, and this system is not looked at\n"
		   "shmctl doctor without that --socket looks at the broker itself",
		   doctor->path, doctor->stats->head.pid);
}

void doctor_broker(struct doctor *doctor)
{
	bool is_served;

	doctor->stats_error = stats_look(doctor->options, doctor->path, &doctor->stats);
	if (doctor->stats && stats_life(&doctor->stats->head) == LIFE_SNAPSHOT) {
		doctor->life = LIFE_SNAPSHOT;
		say_snapshot(doctor);
		check_version(doctor);
		return;
	}
	is_served = check_socket(doctor);
	check_directory(doctor);
	if (doctor->stats)
		doctor->life = stats_life(&doctor->stats->head);
	/* A stopped one would let us wait; where there are no statistics, that is found out here. */
	if (is_served && !(doctor->stats && doctor->life == LIFE_STOPPED)) {
		check_answer(doctor);
		/* One behind an activated socket was just started. */
		if (doctor->stats_error == -ENOENT || (doctor->stats && doctor->life == LIFE_GONE))
			doctor->stats_error = stats_look(doctor->options, doctor->path, &doctor->stats);
	}
	if (!doctor->stats) {
		say_no_statistics(doctor, is_served);
		return;
	}
	doctor->life = stats_life(&doctor->stats->head);
	if (doctor->life != LIFE_GONE)
		doctor->pid = doctor->stats->head.pid;
	check_life(doctor);
	check_version(doctor);
}
