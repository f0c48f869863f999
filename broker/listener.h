/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listener.h - the socket that clients connect to: --socket, else one handed over by systemd (LISTEN_FDS),
 * else $XDG_RUNTIME_DIR/infbroker/socket, else /run/infbroker/socket.
 */
#ifndef BROKER_LISTENER_H
#define BROKER_LISTENER_H

#include "broker/job.h"

/*
 * Makes or takes over the socket and watches it; each connection becomes a session (session_new()). A socket file
 * that nobody serves is replaced; one that is served is -EADDRINUSE. A lock file SOCKET.lock (flock) decides, so
 * that two brokers starting at once cannot both win. On failure one log line says which path and what to do.
 * Out of fds: accepting pauses until one is free, without spinning.
 */
int listener_open(struct broker *broker);
/* Where it listens; for messages and statistics. */
const char *listener_path(void);
/* Removes what listener_open() made (not a socket of systemd's). */
void listener_close(struct broker *broker);
/* Called when a session has gone: resumes a paused listener. */
void listener_resume(struct broker *broker);

#endif /* BROKER_LISTENER_H */
