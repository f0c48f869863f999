/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - the life of a session: connection, which message is allowed when, end.
 *
 *	session_new ─► CONNECTED ─HELLO─► OFFERED ─MAPPED(0)─► READY
 *	                   │                 │                   │
 *	                   └───session_end───┴───────────────────┴─► ZOMBIE ─► session_reap
 *
 * A session may end anywhere in a turn, also in the middle of handling its own message. So ending
 * only takes it off every list and closes what the client could notice; memory and quota stay with
 * a zombie until nothing in flight and no executor can reach them (session_settle), and the struct
 * until the turn's end (session_reap).
 *
 * Hostile messages end the session, with one log line. Nothing a client sends makes the front wait
 * or allocate without a charge; of one socket only so many messages are read per event, so that
 * nobody monopolises a turn.
 */
#define _GNU_SOURCE 1
#include "broker/session.h"
#include "broker/clock.h"
#include "broker/config.h"
#include "broker/fd.h"
#include "broker/listener.h"
#include "broker/log.h"
#include "broker/output.h"
#include "broker/pipeline.h"
#include "broker/quota.h"
#include "broker/registry.h"
#include "broker/robust.h"
#include "broker/session_internal.h"
#include "broker/stats.h"
#include "broker/trace.h"
#include "shm/region.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MESSAGES_PER_EVENT 16u
#define TEXT_BYTES	   256u

/* Linux 6.5. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define SESSION_OF(source, member) \
	((struct session *)(void *)((char *)(source)-offsetof(struct session, member)))

/* --- sending --- */

const char *session_text(const struct session *session)
{
	static char text[TEXT_BYTES];
	char name[4 * sizeof(session->name) + 1];

	log_escape(name, sizeof(name), session->name, sizeof(session->name));
	snprintf(text, sizeof(text), "session %" PRIu32 " (%s%spid %d, uid %u)", session->id, name,
		 name[0] ? ", " : "", (int)session->pid, (unsigned int)session->uid);
	return text;
}

int session_send(struct broker *broker, struct session *session, const void *msg, const int *fds,
		 unsigned int n_fds)
{
	int r = inf_ctl_send(session->control_fd, msg, fds, n_fds, true);

	if (r == 0)
		return 0;
	if (r == -EPIPE || r == -ECONNRESET)
		session_end(broker, session, NULL);
	else if (r == -EAGAIN)
		session_end(broker, session, "it does not read its control socket");
	else
		session_end(broker, session, "a message cannot be sent to it");
	return r;
}

static void error_fill(struct inf_ctl_error *msg, uint32_t cookie, int error,
		       enum inf_status status, const char *format, va_list args)
{
	inf_ctl_init(msg, INF_CTL_ERROR, cookie);
	msg->error = error;
	msg->status = status;
	vsnprintf(msg->text, sizeof(msg->text), format, args);
}

int session_refuse(struct broker *broker, struct session *session, uint32_t cookie, int error,
		   enum inf_status status, const char *format, ...)
{
	struct inf_ctl_error msg;
	va_list args;

	va_start(args, format);
	error_fill(&msg, cookie, error, status, format, args);
	va_end(args);
	return session_send(broker, session, &msg, NULL, 0);
}

/* Says why, then closes so that the peer can still read it: closing over unread data would make
 * that -ECONNRESET. */
static void turn_away(int control_fd, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static void turn_away(int control_fd, int error, const char *format, ...)
{
	struct inf_ctl_error msg;
	union inf_ctl_any unread;
	va_list args;

	va_start(args, format);
	error_fill(&msg, 0, error, INF_OK, format, args);
	va_end(args);
	inf_ctl_send(control_fd, &msg, NULL, 0, true);
	shutdown(control_fd, SHUT_RDWR);
	while (recv(control_fd, &unread, sizeof(unread), MSG_DONTWAIT) > 0)
		;
	close(control_fd);
}

/* --- receiving --- */

#define IN(state) (1u << (state))

/* Which message is allowed in which state, and who handles it. All else ends the session. */
static const struct {
	uint16_t type;
	uint32_t states;
	void (*handle)(struct broker *broker, struct session *session,
		       const union inf_ctl_any *msg);
} client_messages[] = {
	{ INF_CTL_HELLO, IN(SESSION_CONNECTED), handshake_hello },
	{ INF_CTL_MAPPED, IN(SESSION_OFFERED), handshake_mapped },
	{ INF_CTL_MAPPED, IN(SESSION_READY), open_mapped },
	{ INF_CTL_OPEN, IN(SESSION_READY), open_model },
	{ INF_CTL_GROW, IN(SESSION_READY), open_grow },
	{ INF_CTL_LANE_FD, IN(SESSION_READY), handshake_lane_fd },
	{ INF_CTL_LIST, IN(SESSION_READY), handshake_list },
	{ INF_CTL_DEVICE, IN(SESSION_READY), twins_device },
	{ INF_CTL_TWIN, IN(SESSION_READY), twins_twin },
	{ INF_CTL_IMPORT, IN(SESSION_READY), imports_import },
	{ INF_CTL_OPERATE, IN(SESSION_CONNECTED), operate },
};

static void handle_message(struct broker *broker, struct session *session,
			   const union inf_ctl_any *msg)
{
	for (size_t i = 0; i < sizeof(client_messages) / sizeof(client_messages[0]); i++) {
		if (client_messages[i].type != msg->head.type ||
		    !(client_messages[i].states & IN(session->state)))
			continue;
		client_messages[i].handle(broker, session, msg);
		return;
	}
	session_end(broker, session,
		    session->state == SESSION_READY ? "a message that is not allowed any more"
						    : "a message before its handshake allows it");
}

/* One message. False where there is none, or no session any more. */
static bool receive(struct broker *broker, struct session *session)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;
	int r = inf_ctl_recv(session->control_fd, INF_CTL_FROM_CLIENT, &msg, fds, &n_fds, true);

	if (r == -EAGAIN)
		return false;
	if (r == INF_CTL_E_CLOSED || r == -ECONNRESET)
		session_end(broker, session, NULL);
	else if (r > 0)
		session_end(broker, session, inf_ctl_fault_name(r));
	else if (r < 0)
		session_end(broker, session, "its control socket failed");
	else
		handle_message(broker, session, &msg);
	return session->state != SESSION_ZOMBIE;
}

static void on_control(struct loop_source *source, void *context)
{
	struct session *session = SESSION_OF(source, control_source);
	struct broker *broker = context;

	for (uint32_t i = 0; i < MESSAGES_PER_EVENT; i++)
		if (!receive(broker, session))
			return;
	/* Others first. Events are edges: watched anew, it fires again for what is left. */
	loop_del(broker->loop, source);
	if (loop_add(broker->loop, source) < 0)
		session_end(broker, session, "its control socket cannot be watched");
}

/* The process that connected is gone; a forked child may still have the socket. */
static void on_exit_of_peer(struct loop_source *source, void *context)
{
	session_end(context, SESSION_OF(source, pid_source), NULL);
}

/* --- begin --- */

/* A pidfd of the peer: -ESRCH where it is gone, -1 where the kernel has none. */
static int peer_pidfd(int control_fd, pid_t pid)
{
	int fd = -1;
	socklen_t fd_bytes = sizeof(fd);

	if (getsockopt(control_fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &fd_bytes) == 0)
		return fd;
	if (errno != ENOPROTOOPT)
		return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? -errno : -ESRCH;
	/* Before 6.5: the pid may be another process's by now, which then only ends this session
	 * too late. */
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd >= 0)
		return fd;
	return errno == ENOSYS ? -1 : -errno;
}

static struct session *session_make(int control_fd, const struct ucred *peer)
{
	struct session *session = calloc(1, sizeof(*session));

	if (!session)
		return NULL;
	session->user = user_ref(peer->uid);
	if (!session->user) {
		free(session);
		return NULL;
	}
	session->uid = peer->uid;
	session->pid = peer->pid;
	session->control_fd = control_fd;
	session->pid_fd = session->bell_fd = -1;
	session->connected_ns = clock_ns();
	session->state = SESSION_CONNECTED;
	for (uint32_t i = 0; i < INF_LANES; i++)
		session->lanes[i].event_fd = -1;
	for (uint32_t i = 0; i < INF_REGIONS; i++)
		session->regions[i].fd = session->regions[i].make_fd = -1;
	return session;
}

static int watch(struct broker *broker, struct session *session)
{
	int r;

	session->control_source =
		(struct loop_source){ .fd = session->control_fd, .on_event = on_control };
	session->pid_source =
		(struct loop_source){ .fd = session->pid_fd, .on_event = on_exit_of_peer };
	r = loop_add(broker->loop, &session->control_source);
	if (r == 0 && session->pid_fd >= 0)
		r = loop_add(broker->loop, &session->pid_source);
	return r;
}

/* A place in broker.sessions, or sessions_max. */
static uint32_t place_free(const struct broker *broker)
{
	uint32_t at = 0;

	while (at < broker->config->sessions_max && broker->sessions[at])
		at++;
	return at;
}

/* Charges and watches a session that is not in the table yet. Says itself why not. 0 or -errno. */
static int session_admit(struct broker *broker, struct session *session)
{
	const struct config *config = broker->config;
	int r = user_charge_session(session->user, config);

	if (r < 0) {
		turn_away(session->control_fd, r,
			  "user %u has %" PRIu64 " sessions, the limit: close some",
			  (unsigned int)session->uid, config->user_sessions_max);
		return r;
	}
	r = handshake_begin(broker, session);
	if (r < 0) {
		user_discharge_session(session->user);
		turn_away(session->control_fd, r,
			  "user %u has %" PRIu64 " connections that did not finish their "
			  "handshake, the limit: try again",
			  (unsigned int)session->uid, config->handshakes_max);
		return r;
	}
	session->pid_fd = peer_pidfd(session->control_fd, session->pid);
	r = session->pid_fd < -1 ? session->pid_fd : watch(broker, session);
	if (r == 0)
		return 0;
	loop_del(broker->loop, &session->control_source);
	loop_del(broker->loop, &session->pid_source);
	if (session->pid_fd >= 0)
		close(session->pid_fd);
	handshake_end(broker, session);
	user_discharge_session(session->user);
	turn_away(session->control_fd, r, "the broker is out of resources: %s", strerror(-r));
	return r;
}

int session_new(struct broker *broker, int control_fd)
{
	struct ucred peer;
	socklen_t peer_bytes = sizeof(peer);
	uint32_t at = place_free(broker);
	struct session *session;
	int r;

	if (getsockopt(control_fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes) < 0) {
		r = -errno;
		close(control_fd);
		return r;
	}
	if (at == broker->config->sessions_max) {
		turn_away(control_fd, -EDQUOT,
			  "the broker has %" PRIu64 " sessions, its limit (--sessions-max)",
			  broker->config->sessions_max);
		return -EDQUOT;
	}
	session = session_make(control_fd, &peer);
	if (!session) {
		turn_away(control_fd, -ENOMEM, "the broker is out of memory");
		return -ENOMEM;
	}
	r = session_admit(broker, session);
	if (r < 0) {
		user_unref(session->user);
		free(session);
		return r;
	}
	session->id = ++broker->session_ids;
	session->at = at;
	broker->sessions[at] = session;
	broker->n_sessions++;
	broker->stats->n_sessions_total++;
	return 0;
}

struct session *session_find(struct broker *broker, uint32_t id)
{
	for (uint32_t i = 0; i < broker->config->sessions_max; i++)
		if (broker->sessions[i] && broker->sessions[i]->id == id)
			return broker->sessions[i];
	return NULL;
}

/* --- end --- */

/* Tells a client that is still there; it may find that out anyway, so nothing depends on it. */
static void say_why(const struct session *session, const char *reason)
{
	struct inf_ctl_error msg;

	inf_ctl_init(&msg, INF_CTL_ERROR, 0);
	msg.error = -EPROTO;
	msg.status = INF_BROKER_LOST;
	snprintf(msg.text, sizeof(msg.text), "the broker ended this session: %s", reason);
	inf_ctl_send(session->control_fd, &msg, NULL, 0, true);
}

static void close_connection(struct broker *broker, struct session *session)
{
	union inf_ctl_any unread;

	loop_del(broker->loop, &session->control_source);
	loop_del(broker->loop, &session->pid_source);
	loop_del(broker->loop, &session->bell_source);
	shutdown(session->control_fd, SHUT_RDWR);
	/* What is unread would cost the client our last message: see turn_away(). Bounded by the
	 * socket's buffer. */
	while (recv(session->control_fd, &unread, sizeof(unread), MSG_DONTWAIT) > 0)
		;
	close_fd(&session->control_fd);
	close_fd(&session->pid_fd);
	close_fd(&session->bell_fd);
	for (uint32_t i = 0; i < INF_LANES; i++)
		close_fd(&session->lanes[i].event_fd);
}

void session_end(struct broker *broker, struct session *session, const char *reason)
{
	bool was_ready = session->state == SESSION_READY;

	if (session->state == SESSION_ZOMBIE)
		return;
	if (reason) {
		log_line("%s ended: %s", session_text(session), reason);
		broker->stats->n_sessions_ended++;
		stats_event(broker, INF_EVENT_SESSION_ENDED, session->id, "session %" PRIu32 " of user %u: %s", session->id,
			    (unsigned int)session->uid, reason);
		say_why(session, reason);
	} else if (broker->config->verbose) {
		log_line("%s has left", session_text(session));
	}
	if (was_ready)
		pipeline_session_end(broker, session);
	session->state = SESSION_ZOMBIE;
	handshake_end(broker, session);
	open_drop(session);
	imports_stop(broker, session);
	trace_end(broker, session);
	attach_session_end(broker, session);
	close_connection(broker, session);
	if (was_ready) {
		robust_session_end(session);
		stats_session_del(broker, session);
	}
	session_settle(broker, session);
}

void session_settle(struct broker *broker, struct session *session)
{
	if (session->state != SESSION_ZOMBIE || session->n_jobs > 0 || session->reap_due)
		return;
	if (!attach_is_detached(broker, session) || session->importer)
		return;
	session->reap_due = true;
	session->next_reap = broker->reap;
	broker->reap = session;
}

static void pools_free(struct broker *broker, struct session *session)
{
	for (uint32_t i = 0; i < session->n_handles; i++)
		session->handles[i].pool = output_pool_free(session->handles[i].pool);
	while (session->retired) {
		struct output_pool *pool = session->retired;

		session->retired = pool->next_retired;
		broker->n_retired--;
		output_pool_free(pool);
	}
}

static void session_free(struct broker *broker, struct session *session)
{
	assert(!session->importer); /* session_settle() */
	pools_free(broker, session);
	for (uint32_t i = 0; i < session->n_handles; i++) {
		struct handle *handle = &session->handles[i];

		if (handle->model)
			handle->model->n_handles--;
		handle->model = NULL;
		user_discharge_bytes(session->user, handle->reserve_bytes);
	}
	regions_free_all(session);
	if (session->response) {
		inf_region_unmap(session->response, INF_RESPONSE_BYTES, 1);
		user_discharge_bytes(session->user, INF_RESPONSE_BYTES);
	}
	user_discharge_session(session->user);
	user_unref(session->user);
	broker->sessions[session->at] = NULL;
	broker->n_sessions--;
	free(session);
	listener_resume(broker);
}

void session_reap(struct broker *broker)
{
	while (broker->reap) {
		struct session *session = broker->reap;

		broker->reap = session->next_reap;
		session_free(broker, session);
	}
	if (broker->n_retired)
		attach_retire_some(broker);
	if (broker->n_superseded)
		registry_reap(broker);
}

void session_free_all(struct broker *broker)
{
	for (uint32_t i = 0; i < broker->config->sessions_max; i++)
		if (broker->sessions[i])
			session_end(broker, broker->sessions[i], NULL);
	broker->reap = NULL;
	/* Jobs in flight and an executor that still writes do not matter any more: all memory
	 * goes, theirs is their own. */
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		if (!broker->sessions[i])
			continue;
		imports_free(broker, broker->sessions[i]);
		session_free(broker, broker->sessions[i]);
	}
}

/* --- models --- */

void session_model_replaced(struct broker *broker, struct model *old, struct model *model)
{
	for (uint32_t i = 0; i < broker->config->sessions_max; i++) {
		struct session *session = broker->sessions[i];

		if (!session)
			continue;
		for (uint32_t k = 0; k < session->n_handles; k++)
			if (session->handles[k].model == old)
				handle_replace_model(broker, &session->handles[k], model);
		if (!model)
			open_forget_model(session, old);
	}
}
