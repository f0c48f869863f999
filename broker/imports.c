/* SPDX-License-Identifier: Apache-2.0 */
/*
 * imports.c - IMPORT: memory of a client's cudaMalloc, copied into its own device memory by an importer.
 *
 * Legacy IPC handles are the one thing that the broker takes from a client: bearer tokens, whose memory a client may free or
 * take along when it dies, while somebody here has it open. Whoever has is lost then. So that is a process for each session
 * (the executor's program, started when the first IMPORT comes), which knows the session's twins and nothing else, copies and
 * closes before it answers; neither front nor executor ever opens a handle. Only users whom the administrator named may have
 * one, and each only so many: it costs a context on the device.
 *
 *	(none) ─IMPORT─► busy ─FETCHED─► idle ─IMPORT─► busy ...
 *	                  │               │
 *	                  └─ it dies, is too late, or the session ends: killed ─► its pidfd says: gone ─► answered ─► (none)
 *
 * As long as it lives it can write to the twins. So an import that it does not answer itself has its answer when it is gone,
 * and a session stays until then. An importer that dies is followed by another one, IMPORTER_DEATHS_MAX times in a row.
 */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/fd.h"
#include "broker/log.h"
#include "broker/quota.h"
#include "broker/session.h"
#include "broker/session_internal.h"
#include "broker/spawn.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMPORTER_DEATHS_MAX 3u

struct importer {
	struct session *session;
	pid_t pid;
	int pid_fd, control_fd;
	bool is_busy; /* an IMPORT waits for its answer */
	bool is_killed;
	bool is_late; /* that is why */
	bool is_ours; /* it ends because the front wants it to: no death that counts */
	uint32_t cookie;
	struct inf_ctl_fetched last; /* words: what it said before it ended; error 0 = nothing */
	struct loop_source control_source, pid_source, timer_source;
};

#define IMPORTER_OF(source, member) \
	((struct importer *)(void *)((char *)(source)-offsetof(struct importer, member)))

/* --- end --- */

/* It is gone, or never was. */
static void importer_free(struct broker *broker, struct importer *importer)
{
	loop_del(broker->loop, &importer->control_source);
	loop_del(broker->loop, &importer->pid_source);
	loop_timer_close(broker->loop, &importer->timer_source);
	close_fd(&importer->control_fd);
	close_fd(&importer->pid_fd);
	user_discharge_importer(importer->session->user);
	importer->session->importer = NULL;
	free(importer);
}

static void importer_kill(struct broker *broker, struct importer *importer)
{
	if (importer->is_killed)
		return;
	importer->is_killed = true;
	syscall(SYS_pidfd_send_signal, importer->pid_fd, SIGKILL, NULL, 0);
	loop_del(broker->loop, &importer->control_source);
	loop_timer_close(broker->loop, &importer->timer_source);
	close_fd(&importer->control_fd);
}

/* --- answers --- */

static void answer(struct broker *broker, struct importer *importer, const struct inf_ctl_fetched *said)
{
	struct session *session = importer->session;
	struct inf_ctl_imported msg;

	importer->is_busy = false;
	loop_timer_set(&importer->timer_source, 0);
	if (said->error) {
		session_refuse(broker, session, importer->cookie, said->error, INF_BAD_MEMORY, "%s", said->text);
		return;
	}
	session->n_importer_deaths = 0;
	inf_ctl_init(&msg, INF_CTL_IMPORTED, importer->cookie);
	session_send(broker, session, &msg, NULL, 0);
}

static bool is_answer(const struct importer *importer, const struct inf_ctl_fetched *said)
{
	return importer->is_busy && !importer->last.error && said->error <= 0 && said->ends <= 1 && (said->error || !said->ends) &&
	       memchr(said->text, '\0', sizeof(said->text));
}

/* One message. False where there is none, or it is being killed. */
static bool hear(struct broker *broker, struct importer *importer)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;
	int r = inf_ctl_recv(importer->control_fd, INF_CTL_FROM_IMPORTER, &msg, fds, &n_fds, true);

	if (r == -EAGAIN)
		return false;
	if (r || !is_answer(importer, &msg.fetched)) {
		if (r != INF_CTL_E_CLOSED)
			log_line("%s: importer %d is killed: it says what it should not", session_text(importer->session),
				 (int)importer->pid);
		importer_kill(broker, importer);
		return false;
	}
	/* Until it is gone it may write: then the client hears. */
	if (msg.fetched.ends)
		importer->last = msg.fetched;
	else
		answer(broker, importer, &msg.fetched);
	return !importer->is_killed;
}

static void on_control(struct loop_source *source, void *context)
{
	while (hear(context, IMPORTER_OF(source, control_source)))
		;
}

static void on_timer(struct loop_source *source, void *context)
{
	struct importer *importer = IMPORTER_OF(source, timer_source);
	struct broker *broker = context;
	uint64_t n_expired;

	/* Nothing to read: it was set anew meanwhile, or is not needed any more. */
	if (read(source->fd, &n_expired, sizeof(n_expired)) != sizeof(n_expired))
		return;
	/* Where we stood still ourselves, it may have answered in time. */
	on_control(&importer->control_source, broker);
	if (!importer->is_busy || importer->is_killed)
		return;
	importer->is_late = true;
	log_line("%s: importer %d is killed: it took longer than %" PRIu64 " ms (--commit-ms-max)", session_text(importer->session),
		 (int)importer->pid, broker->config->commit_ms_max);
	importer_kill(broker, importer);
}

/* --- death --- */

/* Of the import that it did not answer itself. */
static void answer_for_the_dead(struct broker *broker, struct session *session, const struct importer *dead, const siginfo_t *info)
{
	char how[SPAWN_END_BYTES];

	spawn_end_text(how, info);
	if (dead->is_late)
		session_refuse(broker, session, dead->cookie, -ETIMEDOUT, INF_DEADLINE,
			       "the import took longer than %" PRIu64 " ms (--commit-ms-max)", broker->config->commit_ms_max);
	else if (dead->last.error)
		session_refuse(broker, session, dead->cookie, dead->last.error, INF_BAD_MEMORY, "%s", dead->last.text);
	else
		session_refuse(broker, session, dead->cookie, -EIO, INF_EXECUTOR_LOST, "its importer %s", how);
}

static void on_exit_of_importer(struct loop_source *source, void *context)
{
	struct broker *broker = context;
	struct importer *importer = IMPORTER_OF(source, pid_source), dead = *importer;
	struct session *session = importer->session;
	siginfo_t info = { 0 };
	char how[SPAWN_END_BYTES];

	if (waitid(P_PIDFD, (id_t)source->fd, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
		return;
	importer_free(broker, importer);
	if (session->state == SESSION_ZOMBIE) {
		session_settle(broker, session);
		return;
	}
	if (!dead.is_ours) {
		session->n_importer_deaths++;
		spawn_end_text(how, &info);
		log_line("%s: importer %d %s", session_text(session), (int)dead.pid, how);
	}
	if (dead.is_busy)
		answer_for_the_dead(broker, session, &dead, &info);
}

/* --- begin --- */

static int watch(struct broker *broker, struct importer *importer)
{
	int r;

	importer->control_source = (struct loop_source){ .fd = importer->control_fd, .on_event = on_control };
	importer->pid_source = (struct loop_source){ .fd = importer->pid_fd, .on_event = on_exit_of_importer };
	importer->timer_source.on_event = on_timer;
	r = loop_timer_open(broker->loop, &importer->timer_source);
	if (r == 0)
		r = loop_add(broker->loop, &importer->control_source);
	return r < 0 ? r : loop_add(broker->loop, &importer->pid_source);
}

static int importer_start(struct broker *broker, struct importer *importer)
{
	char path[SPAWN_PATH_BYTES];
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	importer->control_fd = pair[0];
	spawn_path(broker->config, path);
	r = spawn_importer(path, broker->executor.uuid, pair[1], &importer->pid);
	close(pair[1]);
	if (r < 0)
		return r;
	/* Our child, and not waited for: the pid is its own. */
	importer->pid_fd = (int)syscall(SYS_pidfd_open, importer->pid, 0);
	r = importer->pid_fd < 0 ? -errno : watch(broker, importer);
	if (r < 0) {
		kill(importer->pid, SIGKILL);
		waitpid(importer->pid, NULL, 0);
	}
	return r;
}

/* The session's importer, of now on. 0 or -errno. */
static int importer_new(struct broker *broker, struct session *session)
{
	struct importer *importer;
	int r = user_charge_importer(session->user, broker->config);

	if (r < 0)
		return r;
	importer = calloc(1, sizeof(*importer));
	if (!importer) {
		user_discharge_importer(session->user);
		return -ENOMEM;
	}
	importer->session = session;
	importer->pid_fd = importer->control_fd = -1;
	session->importer = importer;
	r = importer_start(broker, importer);
	if (r < 0)
		importer_free(broker, importer);
	return r;
}

/* --- IMPORT --- */

/* Why only a broken or hostile client can have sent that, or NULL. */
static const char *judge(struct session *session, const struct inf_ctl_import *ask, struct region **ret_region)
{
	static const uint8_t none[INF_CTL_IPC_BYTES];
	struct region *region = ask->region & INF_TWIN_BIT ? NULL : regions_find(session, ask->region);

	*ret_region = region;
	if (!(session->features & INF_FEATURE_IMPORT))
		return "IMPORT without that feature";
	if (ask->flags & ~INF_IMPORT_EVENT || (!ask->flags && memcmp(ask->event, none, sizeof(none))))
		return "IMPORT with unknown flags, or an event without its flag";
	if (!region || region->kind != INF_REGION_REQUEST || region->state != REGION_READY || !session->timeline)
		return "IMPORT into a region that it does not have, or before DEVICE";
	if (!ask->bytes || ask->bytes > region->bytes || ask->offset > region->bytes - ask->bytes)
		return "IMPORT of nothing, or beyond its region";
	if (session->importer && session->importer->is_busy)
		return "IMPORT before the last one was answered";
	return NULL;
}

static bool is_allowed(const struct config *config, uid_t uid)
{
	for (uint32_t i = 0; i < config->n_cuda_ipc_users; i++)
		if (config->cuda_ipc_users[i] == uid)
			return true;
	return false;
}

/* Answers where it cannot be done now. */
static bool check_now(struct broker *broker, struct session *session, uint32_t cookie, const struct region *twin)
{
	if (!is_allowed(broker->config, session->uid))
		session_refuse(broker, session, cookie, -EACCES, INF_NOT_ALLOWED,
			       "the broker opens no memory of user %u (--cuda-ipc-users): use inf_input_copy", (unsigned int)session->uid);
	else if (!twin || twin->state != REGION_READY)
		session_refuse(broker, session, cookie, -ESTALE, INF_BAD_MEMORY, "the region has no device memory");
	else if (session->n_importer_deaths >= IMPORTER_DEATHS_MAX)
		session_refuse(broker, session, cookie, -EIO, INF_NOT_ALLOWED,
			       "%u importers of this session have died in a row: there is no other one", IMPORTER_DEATHS_MAX);
	else if (session->importer && session->importer->is_killed)
		session_refuse(broker, session, cookie, -EAGAIN, INF_BUSY, "the last importer is just ending: try again");
	else
		return twins_check_executor(broker, session, cookie);
	return false;
}

static int send_fetch(const struct importer *importer, const struct inf_ctl_import *ask, const struct region *twin)
{
	struct inf_ctl_fetch msg;

	inf_ctl_init(&msg, INF_CTL_FETCH, 0);
	msg.region = ask->region;
	msg.flags = ask->flags;
	msg.offset = ask->offset;
	msg.bytes = ask->bytes;
	msg.from_offset = ask->from_offset;
	memcpy(msg.memory, ask->memory, sizeof(msg.memory));
	memcpy(msg.event, ask->event, sizeof(msg.event));
	return inf_ctl_send(importer->control_fd, &msg, &twin->fd, 1, true);
}

void imports_import(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	uint32_t cookie = msg->head.cookie;
	const struct region *twin;
	struct region *region;
	const char *fault = judge(session, &msg->import, &region);
	int r = 0;

	if (fault) {
		session_end(broker, session, fault);
		return;
	}
	twin = regions_find(session, region->id | INF_TWIN_BIT);
	if (!check_now(broker, session, cookie, twin))
		return;
	if (!session->importer)
		r = importer_new(broker, session);
	if (r == -EDQUOT) {
		session_refuse(broker, session, cookie, r, INF_QUOTA, "user %u has %" PRIu64 " importers, the limit (--user-importers-max)",
			       (unsigned int)session->uid, broker->config->user_importers_max);
		return;
	}
	if (r < 0) {
		session_refuse(broker, session, cookie, r, INF_BUSY, "no importer can be started: %s", strerror(-r));
		return;
	}
	session->importer->is_busy = true;
	session->importer->cookie = cookie;
	loop_timer_set(&session->importer->timer_source, broker->config->commit_ms_max * 1000000u);
	/* It has died, or does not read: then its end is the answer. */
	if (send_fetch(session->importer, &msg->import, twin) < 0)
		importer_kill(broker, session->importer);
}

void imports_stop(struct broker *broker, struct session *session)
{
	if (!session->importer)
		return;
	session->importer->is_ours = true;
	importer_kill(broker, session->importer);
}

void imports_free(struct broker *broker, struct session *session)
{
	if (!session->importer)
		return;
	imports_stop(broker, session);
	waitid(P_PIDFD, (id_t)session->importer->pid_fd, &(siginfo_t){ 0 }, WEXITED);
	importer_free(broker, session->importer);
}
