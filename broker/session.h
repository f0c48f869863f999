/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.h - a client's connection: handshake, regions, opened models, end. Cold code: allocates,
 * maps, logs.
 */
#ifndef BROKER_SESSION_H
#define BROKER_SESSION_H

#include "broker/job.h"

/* Takes over a connected socket (closes it on failure). Peer's uid, pid and pidfd come from the
 * kernel. */
int session_new(struct broker *broker, int control_fd);

/*
 * Ends a session: lanes leave the scan, queued jobs are dropped, its sleepers are woken (liveness
 * words 0, FUTEX_WAKE), memory and quota stay until nothing in flight can reach them. `reason` is
 * logged with uid and pid, NULL = hung up. Safe to call from anywhere in a turn; idempotent.
 * Counted in n_sessions_ended where reason is not NULL.
 */
void session_end(struct broker *broker, struct session *session, const char *reason);

/* Called when a session's last job in flight has ended, and when DETACHED arrives: frees a zombie
 * that is due. */
void session_settle(struct broker *broker, struct session *session);

/* From the supervisor: answers of the executor about a session's regions. 0, or -EPROTO where none
 * was due. */
int session_attached(struct broker *broker, uint32_t session, uint32_t region, int32_t error);
int session_detached(struct broker *broker, uint32_t session);

/*
 * From the supervisor, when a new executor generation is there, before its models load: makes a
 * new output region per handle, moves the jobs in flight there, retires the old ones, sends ATTACH
 * for everything, a window at a time. When session_is_reattached(), every session is known to the
 * executor: models may be loaded then, and so batches be made.
 */
void session_reattach_all(struct broker *broker);
bool session_is_reattached(const struct broker *broker);
bool session_handle_is_attached(const struct handle *handle);

/* From the supervisor, when an executor is gone, after pipeline_executor_died(): nothing is
 * attached any more, OPENs in progress are answered, zombies that waited for DETACHED are freed. */
void session_executor_died(struct broker *broker);

/*
 * From the registry: handles of `old` whose signature `model` shares go on with that
 * (recovery_move_model()). NULL = no model does: handles and OPENs of `old` forget it, their
 * requests get NO_MODEL; nothing of it is in flight then.
 */
void session_model_replaced(struct broker *broker, struct model *old, struct model *model);

struct session *session_find(struct broker *broker, uint32_t id); /* NULL where gone */

/* Once per turn: frees sessions that are due, outside of the callbacks that ended them. Cheap
 * where there are none. */
void session_reap(struct broker *broker);

/* Frees everything at the broker's end. */
void session_free_all(struct broker *broker);

#endif /* BROKER_SESSION_H */
