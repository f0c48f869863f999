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
#include "shm/layout.h"
#include <stdint.h>

#define INF_STATS_MAGIC 0x5441545342464e49ull /* "INFBSTAT" */
#define INF_STATS_VERSION 5u
#define INF_STATS_MODELS 64u
#define INF_STATS_LIMITS 32u
#define INF_STATS_EVENTS 256u  /* the last ones are kept */
#define INF_STATS_HANDLES 8u   /* models of a session that are shown, in the order in which it opened them */
#define INF_STATS_REGIONS 32u  /* regions of a session that are shown */

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

/*
 * What the time of a request is made of, between readings of the clock that are taken anyway: the client's at submission, the
 * front's once per turn, the executor's at either end of a batch. Of a request that was run in several parts, the last.
 */
enum inf_stage {
	INF_STAGE_RING = 0, /* submitted -> accepted: in its slot */
	INF_STAGE_QUEUE,    /* accepted -> dispatched: in its model's queue */
	INF_STAGE_WAIT,	    /* dispatched -> begun: behind another batch, or the instance slept */
	INF_STAGE_RUN,	    /* begun -> ended: gathered, run, scattered */
	INF_STAGE_POST,	    /* ended -> answered: until the front saw it */
	INF_STAGE_SERVED,   /* accepted -> answered: all that the broker sees of it */
	INF_STAGES
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
	uint64_t n_errors;   /* of them, with another status than OK */
	uint64_t n_rows;     /* rows that ran */
	uint64_t n_batches;
	uint64_t device_bytes; /* of device memory, that loading it took: weights, what runs use, larger batches */
	char text[INF_CTL_TEXT_BYTES]; /* why FAILED */
	/*
	 * SERVED is of every request that was accepted, however it ended. The others are of those that were dispatched, and of these
	 * of what came into an empty lane, and of every 16th position of a lane that was not (INF_STAMP_EVERY), which counts as 16:
	 * five histograms for each cost more than all else that is done for a request in a burst. RING is of those of them that have
	 * a stamp.
	 */
	struct inf_histogram stages[INF_STAGES];
	struct inf_histogram batch; /* one batch in its instance: gather, run, scatter */
};

/* An instance thread of the executor. */
struct inf_stats_instance {
	uint32_t used;
	uint32_t n_in_flight;	/* batches: one that runs, one behind it */
	uint32_t model;		/* of the batch that was dispatched last: index in `models` */
	uint32_t rows;		/* of that batch */
	uint64_t dispatched_ns; /* when that was */
	uint64_t n_batches;	/* that have ended */
	uint64_t n_rows;
	uint64_t busy_ns; /* of them all: begun -> ended */
};

/* What happened that is no request. */
enum inf_event {
	INF_EVENT_STARTED = 1,
	INF_EVENT_EXECUTOR_READY,
	INF_EVENT_EXECUTOR_DIED,
	INF_EVENT_MODEL_READY,
	INF_EVENT_MODEL_FAILED,
	INF_EVENT_SESSION_ENDED, /* by the front, for broken or hostile bytes, or by shmctl kick */
	INF_EVENT_DRAIN,
	INF_EVENT_RESUME,
	INF_EVENT_STOP,
	INF_EVENTS
};

/* Entry n % INF_STATS_EVENTS is event n. */
struct inf_stats_event {
	uint64_t seq; /* n + 1, stored last; 0 while the entry is written */
	uint64_t time_ns; /* CLOCK_MONOTONIC */
	uint32_t kind;	  /* enum inf_event */
	uint32_t subject; /* a pid, a model's index, or a session's id, as the kind has it */
	char text[104];	  /* for people; with a 0 at its end */
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
	uint32_t draining; /* enum inf_stats_draining */
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
	uint64_t n_events;     /* so far */
	struct inf_stats_limit limits[INF_STATS_LIMITS];
	struct inf_stats_instance instances[INF_INSTANCES];
	struct inf_stats_event events[INF_STATS_EVENTS];
	struct inf_stats_model models[INF_STATS_MODELS];
};

enum inf_stats_draining {
	INF_STATS_SERVES = 0,
	INF_STATS_ENDS = 1,   /* SIGTERM: ends when nothing is in flight */
	INF_STATS_DRAINS = 2, /* shmctl drain: until shmctl resume */
};

enum inf_stats_executor {
	INF_STATS_EXECUTOR_NONE = 0,
	INF_STATS_EXECUTOR_STARTING = 1,
	INF_STATS_EXECUTOR_READY = 2,
	INF_STATS_EXECUTOR_WAITING = 3, /* back-off before the next start */
	INF_STATS_EXECUTOR_FAILED = 4,	/* cannot be started */
};

/* A lane: positions count from the session's `start`. */
struct inf_stats_lane {
	uint64_t accepted; /* submissions taken out of their slots */
	uint64_t posted;   /* completions put into theirs */
	uint64_t unread;   /* of those posted when the front looked, within the last second, the client had not read so many */
	uint32_t in_flight;
	uint32_t active; /* 1 = the front looks at it in each turn */
};

struct inf_stats_region {
	uint32_t used;
	uint32_t id;	/* 0 of RESPONSE, which has none */
	uint32_t kind;	/* enum inf_region_kind */
	uint32_t state; /* 1 = being made, 2 = in use, 3 = retired: of an earlier executor */
	uint64_t bytes;
};

struct inf_stats_handle {
	uint32_t model; /* index in the public file's `models`, + 1; 0 = none */
	uint32_t depth; /* rows that memory was made for */
	uint64_t n_requests;
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
	uint64_t start;	   /* first position of every lane */
	struct inf_coarse_histogram served; /* accepted -> answered */
	uint32_t reserved;
	struct inf_stats_handle handles[INF_STATS_HANDLES];
	struct inf_stats_lane lanes[INF_LANES];
	struct inf_stats_region regions[INF_STATS_REGIONS];
};

/* SOCKET.stats.UID */
struct inf_stats_user {
	struct inf_stats_head head;
	uint64_t n_sessions;
	uint64_t n_entries; /* of `sessions`: what one user may have at once */
	struct inf_stats_session sessions[];
};

/* Bytes of a user's file. */
static inline uint64_t inf_stats_user_bytes(uint64_t n_entries)
{
	return sizeof(struct inf_stats_user) + n_entries * sizeof(struct inf_stats_session);
}

/* "ring", "queue", ...; "executor-died", ... Never NULL. */
const char *inf_stage_name(enum inf_stage stage);
const char *inf_event_name(uint32_t kind);

/*
 * State letter and start time (clock ticks since boot) of a process: fields 3 and 22 of proc(5)'s stat.
 * 0, or -errno: -ENOENT where there is none, or /proc does not show it. Cold.
 */
int inf_stats_process(uint32_t pid, char *ret_state, uint64_t *ret_start_ticks);

#endif /* INF_SHM_STATS_H */
