/* SPDX-License-Identifier: Apache-2.0 */
/*
 * operate.c - what shmctl asks for that changes something: drain, resume, kick, trace.
 *
 * Who may: root and the broker's own user all of it; everybody kicks sessions and traces requests of their own. Uids come from the
 * kernel. A connection that operates is no client of models: it has no rings and no regions of the executor's.
 */
#include "broker/config.h"
#include "broker/log.h"
#include "broker/quota.h"
#include "broker/session.h"
#include "broker/session_internal.h"
#include "broker/stats.h"
#include "broker/trace.h"
#include "shm/trace.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool may_all(const struct session *session)
{
	return session->uid == 0 || session->uid == geteuid();
}

/* OPERATED; the connection ends, in its own time, by the peer. */
static void answer(struct broker *broker, struct session *session, uint32_t cookie)
{
	struct inf_ctl_operated msg;

	inf_ctl_init(&msg, INF_CTL_OPERATED, cookie);
	msg.in_flight = broker->n_jobs;
	session_send(broker, session, &msg, NULL, 0);
}

static void deny(struct broker *broker, struct session *session, uint32_t cookie, const char *what)
{
	session_refuse(broker, session, cookie, -EPERM, INF_OK, "%s is for root and for user %u, whose broker this is", what,
		       (unsigned int)geteuid());
}

static void set_paused(struct broker *broker, struct session *session, uint32_t cookie, bool paused)
{
	const char *word = paused ? "drain" : "resume";

	if (!may_all(session)) {
		deny(broker, session, cookie, word);
		return;
	}
	if (broker->draining) {
		session_refuse(broker, session, cookie, -ESHUTDOWN, INF_OK, "the broker is about to end");
		return;
	}
	if (broker->paused != paused) {
		broker->paused = paused;
		log_line("%s, by user %u (pid %d)", paused ? "no new requests: shmctl drain" : "serves again: shmctl resume",
			 (unsigned int)session->uid, (int)session->pid);
		stats_event(broker, paused ? INF_EVENT_DRAIN : INF_EVENT_RESUME, (uint32_t)session->pid, "by user %u, pid %d",
			    (unsigned int)session->uid, (int)session->pid);
		stats_refresh(broker);
	}
	answer(broker, session, cookie);
}

static void kick(struct broker *broker, struct session *session, const struct inf_ctl_operate *ask)
{
	struct session *victim = session_find(broker, ask->subject);

	/* Of others' sessions nobody learns whether they are there. */
	if (!victim || victim->state == SESSION_ZOMBIE || (!may_all(session) && victim->uid != session->uid)) {
		session_refuse(broker, session, ask->head.cookie, -ESRCH, INF_OK, "no session %" PRIu32 " of yours",
			       ask->subject);
		return;
	}
	if (victim == session) {
		session_refuse(broker, session, ask->head.cookie, -EINVAL, INF_OK, "session %" PRIu32 " is this very connection",
			       ask->subject);
		return;
	}
	session_end(broker, victim, session->uid == victim->uid ? "its user ended it: shmctl kick" : "the administrator ended it: shmctl kick");
	answer(broker, session, ask->head.cookie);
}

static void trace(struct broker *broker, struct session *session, uint32_t cookie)
{
	struct inf_ctl_trace msg;
	int fd = trace_begin(broker, session, may_all(session));

	if (fd < 0) {
		session_refuse(broker, session, cookie, fd, INF_OK, "no trace: %s",
			       fd == -EDQUOT  ? "its memory is over this user's or the broker's limit"
			       : fd == -EBUSY ? "too many are watched already; end one of them"
					      : strerror(-fd));
		return;
	}
	session->state = SESSION_TRACER;
	handshake_end(broker, session);
	inf_ctl_init(&msg, INF_CTL_TRACE, cookie);
	msg.bytes = sizeof(struct inf_trace_region);
	session_send(broker, session, &msg, &fd, 1);
	close(fd);
}

void operate(struct broker *broker, struct session *session, const union inf_ctl_any *msg)
{
	const struct inf_ctl_operate *ask = &msg->operate;
	char byte;

	/* Who has given up, because this broker was stopped, has been told that nothing was done. */
	if (recv(session->control_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
		session_end(broker, session, NULL);
		return;
	}
	memcpy(session->name, "operator", sizeof("operator"));
	switch (ask->operation) {
	case INF_OPERATION_DRAIN:
	case INF_OPERATION_RESUME:
		set_paused(broker, session, ask->head.cookie, ask->operation == INF_OPERATION_DRAIN);
		break;
	case INF_OPERATION_KICK:
		kick(broker, session, ask);
		break;
	case INF_OPERATION_TRACE:
		trace(broker, session, ask->head.cookie);
		break;
	default:
		session_refuse(broker, session, ask->head.cookie, -EOPNOTSUPP, INF_OK,
			       "this broker knows no operation %" PRIu32, ask->operation);
	}
}
