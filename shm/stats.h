/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - the statistics files: what shmctl reads, also while the broker hangs, is stopped, or is gone.
 *
 * The front creates them anew at each start (a new inode) beside its socket: SOCKET.stats, public, with
 * totals; SOCKET.stats.UID, the front's own, mode 0600 plus an ACL entry that lets that user read (an owner could
 * truncate it under the front's feet), with that user's sessions. The front is the one writer and stores
 * plainly; every word is a relaxed 64-bit (or smaller) store. Readers map read-only, check magic, version, size, and believe no string or count further than its
 * array. `beat_ns` moves whenever the front parks or reports; a front that is alive but asleep does not move
 * it (sleeping costs nothing), so readers judge life by `pid` and `start_ticks`, not by age.
 */
#ifndef INF_SHM_STATS_H
#define INF_SHM_STATS_H

#include "shm/control.h"
#include "shm/histogram.h"
#include <stdint.h>

#define INF_STATS_MAGIC 0x5441545342464e49ull /* "INFBSTAT" */
#define INF_STATS_VERSION 3u
#define INF_STATS_MODELS 64u
#define INF_STATS_SESSIONS 1024u
#define INF_STATS_LIMITS 32u

struct inf_stats_head {
	uint64_t magic;
	uint32_t version;
	uint32_t bytes;	      /* of the file */
	uint32_t pid;	      /* of the front */
	uint32_t uid;	      /* whose sessions, for a user file; the broker's for the public one */
	uint64_t start_ns;    /* CLOCK_MONOTONIC at start; also the epoch in WELCOME */
	uint64_t start_ticks; /* field 22 of /proc/PID/stat: tells a recycled pid */
	uint64_t beat_ns;
};

struct inf_stats_model {
	char name[INF_NAME_BYTES]; /* "" = unused */
	uint32_t model_version;
	uint32_t state; /* enum inf_model_state */
	uint32_t batch_max;
	uint32_t batch_best; /* rows per batch with the best measured rate */
	uint64_t time_ns[INF_CTL_BUCKETS]; /* t[b] now */
	uint64_t queued;     /* rows waiting */
	uint64_t in_flight;  /* rows dispatched */
	uint64_t n_requests; /* completed, any status */
	uint64_t n_rows;     /* rows that ran */
	uint64_t n_batches;
	uint64_t device_bytes; /* of device memory, that loading it took: weights, what runs use, larger batches */
	char text[INF_CTL_TEXT_BYTES]; /* why FAILED */
	struct inf_histogram queue;    /* accept -> dispatch */
	struct inf_histogram run;      /* dispatch -> done */
	struct inf_histogram batch;    /* one batch in its instance: gather, run, scatter */
};

/* What a limit is, and how much of it is used: filled from the one table in broker/config.c. */
struct inf_stats_limit {
	char name[32]; /* "" = past the last */
	uint64_t limit;
	uint64_t used;
};

/* SOCKET.stats */
struct inf_stats_public {
	struct inf_stats_head head;
	char version_text[16];
	char loop[16];	      /* "io_uring" or "epoll" */
	char socket_path[112];
	char models_path[256];
	char device[32];
	char device_asked[48]; /* --device; "" = cpu */
	uint32_t executor_pid; /* 0 = none */
	uint32_t executor_state; /* enum inf_stats_executor */
	uint32_t n_instances;
	uint32_t draining;
	uint32_t wake_ns; /* one park and wake, as measured at start */
	uint32_t spin_ns; /* how long front, executor and clients look for work before they sleep */
	uint64_t executor_generation;
	uint64_t n_executor_deaths;
	uint64_t n_sessions; /* now */
	uint64_t n_sessions_total;
	uint64_t n_sessions_ended; /* by the front, for broken or hostile bytes */
	uint64_t n_status[INF_STATUS_N]; /* requests by how they ended */
	uint64_t n_pings;
	uint64_t n_wakes;  /* clients woken */
	uint64_t n_parks;  /* times the front went to sleep */
	uint64_t n_log_dropped;
	uint64_t device_bytes; /* of device memory, as charged to all sessions, those that ended and still hold it too */
	struct inf_stats_limit limits[INF_STATS_LIMITS];
	struct inf_stats_model models[INF_STATS_MODELS];
};

enum inf_stats_executor {
	INF_STATS_EXECUTOR_NONE = 0,
	INF_STATS_EXECUTOR_STARTING = 1,
	INF_STATS_EXECUTOR_READY = 2,
	INF_STATS_EXECUTOR_WAITING = 3, /* back-off before the next start */
	INF_STATS_EXECUTOR_FAILED = 4,	/* cannot be started */
};

struct inf_stats_session {
	uint32_t used; /* 1 = this entry is a session */
	uint32_t id;
	uint32_t uid;
	uint32_t pid; /* as the kernel told at connect: informational */
	char name[32]; /* as the client says: escape it */
	uint64_t connected_ns;
	uint64_t n_lanes;
	uint64_t in_flight;
	uint64_t held_outputs;
	uint64_t request_bytes; /* of the host */
	uint64_t output_bytes;	/* of the host */
	uint64_t device_bytes;	/* of device memory, in whole units of it, as charged: its twins */
	uint64_t n_requests;
	uint64_t n_errors; /* completions other than OK */
};

/* SOCKET.stats.UID */
struct inf_stats_user {
	struct inf_stats_head head;
	uint64_t n_sessions;
	struct inf_stats_session sessions[INF_STATS_SESSIONS];
};

/*
 * State letter and start time (clock ticks since boot) of a process: fields 3 and 22 of proc(5)'s stat.
 * 0, or -errno: -ENOENT where there is none, or /proc does not show it. Cold.
 */
int inf_stats_process(uint32_t pid, char *ret_state, uint64_t *ret_start_ticks);

#endif /* INF_SHM_STATS_H */
