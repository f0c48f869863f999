/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_internal.h - what the parts of a session share:
 *
 *	session.c   life: connection, which message is allowed when, end, reaping
 *	handshake.c HELLO .. READY(0), and the small questions (LANE_FD, LIST)
 *	open.c      OPEN and GROW: memory charged, offered, sealed, attached, then the handle
 *	attach.c    what the executor knows: ATTACH, DETACH, outputs of a new generation
 *	regions.c   the table of regions, each with its charge
 *	twins.c     DEVICE and TWIN: device memory
 *	operate.c   OPERATE: drain, resume, kick, trace
 *	imports.c   IMPORT: a client's own device memory, copied by a process for that
 *
 * Every function that may send may end the session: afterwards its state is SESSION_ZOMBIE and its
 * memory still there.
 */
#ifndef BROKER_SESSION_INTERNAL_H
#define BROKER_SESSION_INTERNAL_H

#include "broker/job.h"

/* --- session.c */

/* Never blocks. 0, or -errno: the session has ended then. */
int session_send(struct broker *broker, struct session *session, const void *msg, const int *fds,
		 unsigned int n_fds);

/* ERROR with a printf-like text; the session goes on. */
int session_refuse(struct broker *broker, struct session *session, uint32_t cookie, int error,
		   enum inf_status status, const char *format, ...)
	__attribute__((format(printf, 6, 7)));

/* "name (pid 1, uid 2)" for log lines; a static buffer. */
const char *session_text(const struct session *session);

/* --- handshake.c: handlers of messages */

void handshake_hello(struct broker *broker, struct session *session, const union inf_ctl_any *msg);
void handshake_mapped(struct broker *broker, struct session *session, const union inf_ctl_any *msg);
void handshake_lane_fd(struct broker *broker, struct session *session,
		       const union inf_ctl_any *msg);
void handshake_list(struct broker *broker, struct session *session, const union inf_ctl_any *msg);

/* A session has begun to connect, or has done so or ended: counts, and keeps the timer that ends
 * slow ones. */
int handshake_begin(struct broker *broker, struct session *session);
void handshake_end(struct broker *broker, struct session *session);

/* --- open.c: handlers of messages */

/* An OPEN, GROW, DEVICE or TWIN in progress: one at a time per session. */
struct session_open {
	uint32_t cookie;
	bool grow;
	bool attaching;	     /* waits for the executor, not for the client */
	struct model *model; /* NULL = no OPEN, or it went meanwhile */
	uint64_t hash;
	uint32_t depth;
	struct region *request; /* NULL = none needed */
	struct region *output;
	struct region *device;	/* DEVICE, TWIN: the timeline region, or the twin */
	uint64_t reserve_bytes; /* charged for the output region of the next generation */
};

/* Starts one; NULL = it was refused, or the session has ended. open_drop() ends it. */
struct session_open *open_begin(struct broker *broker, struct session *session, uint32_t cookie);

void open_model(struct broker *broker, struct session *session, const union inf_ctl_any *msg);
void open_grow(struct broker *broker, struct session *session, const union inf_ctl_any *msg);
void open_mapped(struct broker *broker, struct session *session, const union inf_ctl_any *msg);

/* An ATTACHED has arrived, or it turned out that none is needed: goes on where that was waited
 * for. */
void open_advance(struct broker *broker, struct session *session);
/* The executor cannot map a region of this session: -errno. */
void open_attach_failed(struct broker *broker, struct session *session, const struct region *region, int error);
/* No executor any more: an OPEN is undone and answered, a GROW goes on. */
void open_executor_died(struct broker *broker, struct session *session);
/* The handle goes on with another model that has its signature; NULL = with none. */
void handle_replace_model(struct broker *broker, struct handle *handle, struct model *model);
/* The model is not served any more. */
void open_forget_model(struct session *session, const struct model *model);
/* The session ends: frees what is not in the table of regions. */
void open_drop(struct session *session);

/* --- attach.c */

/* The executor shall know this region: sent when the window has room. attach_pump() sends. */
void attach_want(struct broker *broker, struct session *session, struct region *region);
void attach_pump(struct broker *broker);
/* The session ends: nothing more is sent for it but DETACH, once nothing is in flight. */
void attach_session_end(struct broker *broker, struct session *session);
/* A zombie without jobs: true where the executor knows nothing of it (any more). Asks for DETACH
 * otherwise. */
bool attach_is_detached(struct broker *broker, struct session *session);
/* Frees output pools of earlier generations that hold nothing any more: RETIRE. */
void attach_retire_empty(struct broker *broker, struct session *session);
/* Looks at retired pools now and then, for sessions that have room and so do not look
 * themselves. */
void attach_retire_some(struct broker *broker);
/* The handle's pool gets no new blocks; its region goes when the last one is released. */
void attach_retire_pool(struct broker *broker, struct handle *handle);

/* --- twins.c */

void twins_device(struct broker *broker, struct session *session, const union inf_ctl_any *msg);
void twins_twin(struct broker *broker, struct session *session, const union inf_ctl_any *msg);
/* Is there an executor with a device now? Refuses otherwise. */
bool twins_check_executor(struct broker *broker, struct session *session, uint32_t cookie);
/* The executor has what session->opening->device asked for. */
void twins_finish(struct broker *broker, struct session *session);
/* An executor that came later cannot have it: -errno. */
void twins_lost(struct broker *broker, struct session *session, struct region *region, int error);

/* --- imports.c */

void imports_import(struct broker *broker, struct session *session, const union inf_ctl_any *msg);
/* Kills the session's importer, where there is one: the session is settled when that is gone. */
void imports_stop(struct broker *broker, struct session *session);
/* At the broker's end: waits for it. */
void imports_free(struct broker *broker, struct session *session);

/* --- operate.c */

void operate(struct broker *broker, struct session *session, const union inf_ctl_any *msg);

/* --- regions.c */

/* An unused entry, NULL where there is none. */
struct region *regions_entry(struct session *session);

/*
 * Charges the user, makes a region of `bytes` (a page multiple) and puts it in the table. `charge`
 * = 0: it is paid for already. 0, -EDQUOT (bytes), -ENOSPC (table), or -errno of making it;
 * nothing is left behind on failure.
 */
int regions_make(struct broker *broker, struct session *session, uint32_t kind, uint64_t bytes,
		 bool charge, struct region **ret_region);
struct region *regions_find(struct session *session, uint32_t id); /* NULL where unknown */
/* REGION to the client; cookie 0 = it did not ask. As session_send(). */
int regions_send(struct broker *broker, struct session *session, const struct region *region, uint32_t cookie);
/* Closes, unmaps, gives the charge back, frees the entry. One that the executor may still reach
 * stays until it is gone. */
void regions_drop(struct session *session, struct region *region);
/* Frees those that were only kept because the executor could reach them. */
void regions_drop_kept(struct session *session);
void regions_free_all(struct session *session);
/* Seals, checks, maps a request region that its client says it has populated. 0, -ENODATA (not
 * so), -errno. */
int regions_seal_request(struct session *session, struct region *region);
/* From now on submissions may name it. */
void regions_admit_request(struct session *session, struct region *region, uint64_t arena_offset);
/* Room for `n` more entries, those kept free for the next generation of each open model not
 * counted? */
bool regions_have_room(const struct broker *broker, const struct session *session, uint32_t n);

#endif /* BROKER_SESSION_INTERNAL_H */
