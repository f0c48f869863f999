/* SPDX-License-Identifier: Apache-2.0 */
/* stats.h - makes the statistics files of shm/stats.h; the counters are written in place by those who count. */
#ifndef BROKER_STATS_H
#define BROKER_STATS_H

#include "broker/job.h"

/* SOCKET.stats, 0644, a new inode; falls back to private memory with one log line where it cannot be made. 0 or -ENOMEM. */
int stats_open(struct broker *broker);
void stats_close(struct broker *broker); /* unlinks */

/* An entry in SOCKET.stats.UID (made with the user's first session, unlinked with the last). Never NULL: falls back too. */
struct inf_stats_session *stats_session_add(struct broker *broker, const struct session *session);
void stats_session_del(struct broker *broker, struct session *session);

/* Copies what lives elsewhere (limits used, executor, models, in flight) into the file: before the front parks, at most
 * every 100 ms while it is busy. */
void stats_refresh(struct broker *broker);

#endif /* BROKER_STATS_H */
