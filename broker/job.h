/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.h - the state of the front: who owns what, in one page. Hot file: nothing here is allocated, locked
 * or logged on the request path.
 *
 *	broker 1──* session 1──16 lane ──* job (in flight)      broker 1──* model ── queue of jobs
 *	           │ 1──* handle (opened model: output pool)    broker 1── executor 1──* instance ── batches of jobs
 *	           └ 1──* region (fds)
 *
 * States of a job and who moves each edge:
 *
 *	FREE ──intake──► QUEUED ──dispatch──► RUNNING ──completion──► FREE
 *	                   │ ▲                  │ │
 *	                   │ └──executor died───┘ └ cancelled or session gone: posted (or dropped) at once,
 *	                   └─cancel, drop──► FREE   the job stays until its last part has ended
 *
 * Everything belongs to the front's one thread.
 */
#ifndef BROKER_JOB_H
#define BROKER_JOB_H

#include "broker/loop.h"
#include "broker/policy/batch.h"
#include "broker/policy/timing.h"
#include "shm/check.h"
#include "shm/control.h"
#include "shm/lane.h"
#include "shm/layout.h"
#include "shm/stats.h"
#include <assert.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct broker;
struct session;
struct handle;
struct model;

#define HANDLES_MAX 64u	    /* models opened by one session */
#define MODELS_MAX 64u	    /* models of the broker */
#define JOBS_MAX 16384u	    /* requests in flight, of all */
#define EXT_BLOCKS_MAX 1024u /* of them with extension tensors */
#define PARTS_MAX INF_BATCH_MAX

struct lane {
	struct session *session;
	uint32_t idx;
	uint32_t session_id; /* as there, and so is its pid: probes read all three at once */
	pid_t pid;
	bool active; /* in broker.active[] */
	bool dirty;  /* in broker.dirty[]: completions pushed, word not bumped */
	uint32_t active_at; /* index there */
	struct inf_sq_reader sq;
	struct inf_cq_writer cq;
	uint64_t cq_head;   /* last validated */
	uint32_t in_flight; /* accepted, not posted */
	uint64_t worked_ns; /* last time something was found */
	struct job *jobs;   /* in flight, newest first */
	int event_fd;	    /* our end of the socketpair, -1 = none */
	struct inf_stats_lane *stats; /* never NULL while its session is READY */
	uint32_t woken_parked; /* its `parked` at our last wake, and when that was */
	uint64_t woken_ns;
	uint32_t hinted_event; /* the last `event` that we sent a byte for */
};

struct job {
	struct queue_item item; /* first: queue parts lead back to the job */
	struct job *next, *prev; /* of the lane; next also links the free list */
	struct lane *lane;	 /* NULL = posted or its session is gone: drop the result */
	struct session *session; /* whose zombie it keeps alive */
	struct handle *handle;

	/* What the probe `complete` tells, in one line of the cache: who watches reads it at once. The second half is of the
	 * part that ended last: when its batch was dispatched and began, how long it took, its position on which instance. */
	alignas(64) uint64_t pos; /* submission position: cancel word is pos + 1 */
	uint64_t accepted_ns;
	uint32_t session_id;
	pid_t pid;
	uint16_t lane_idx, model_id;
	uint32_t instance; /* INF_PROBE_NONE = none has ended */
	uint64_t dispatched_ns, begun_ns, work_ns, batch;

	uint32_t in_region;
	uint64_t tag;
	uint64_t deadline_ns;
	uint64_t in_offset;
	uint64_t ready_at, done_at; /* see timeline.h */
	uint32_t twin_flags; /* INF_SUB_TWIN_OUT, and the bits of the inputs that lie in twins */
	uint16_t timeline;   /* index + 1, 0 = none */
	uint32_t rows;
	uint32_t rows_ended;  /* of rows */
	uint32_t rows_running; /* dispatched, not ended */
	uint32_t class;	      /* priority, < QUEUE_CLASSES */
	uint32_t out_idx;     /* of session.outputs */
	int32_t ext;	      /* index of its extension block, -1 = packed */
	uint32_t stamp;	      /* when its client says it was submitted: inf_stamp() */
	uint16_t batch_rows, batch_parts; /* of that part's batch */
	uint16_t status;      /* worst so far */
	uint8_t weight;	      /* of how many requests its stages are counted, 0 = of none: see stats.h */
	bool executed;	      /* some part was dispatched: the model may have run */
	bool alone;	      /* was in a dying batch: is run with nothing beside it */
	bool poison;	      /* killed its executor while it was run so */
	bool restart;	      /* recovery.c: to be looked at after a death */
};

static_assert(offsetof(struct job, in_region) == offsetof(struct job, pos) + 64, "what a probe tells lies in one line");

/* Extension tensors of one job, validated copies. */
struct ext_block {
	struct inf_ext_tensor tensors[INF_INPUTS_MAX];
};

enum region_state {
	REGION_UNUSED = 0,
	REGION_OFFERED,	  /* request: sent, waits for MAPPED; output: sent to the executor, waits for ATTACHED */
	REGION_ATTACHING, /* request: sealed and checked, waits for the executor's ATTACHED */
	REGION_READY,
	REGION_RETIRED, /* output of an earlier executor generation */
};

/* What the present executor knows of a region: attach.c. */
enum attach_state {
	ATTACH_NONE = 0,
	ATTACH_WANTED, /* waits for room in the window */
	ATTACH_SENT,   /* waits for ATTACHED */
	ATTACH_DONE,
};

struct region {
	uint32_t id; /* never reused within the session */
	uint32_t kind;
	enum region_state state;
	enum attach_state attach;
	int fd;	     /* kept for respawned executors; of a twin the socket that its SLAB lies in */
	int make_fd; /* of a twin that no executor has made yet, the end that it writes SLAB into; else -1 */
	uint64_t bytes;
	uint64_t charge; /* what the user pays for it, of device memory where it is a twin */
	uint64_t generation; /* of the executor that writes it; outputs */
	struct handle *handle; /* whose outputs it holds */
	void *map;	       /* the front's mapping: requests read-only, the timeline writable */
};

/* Blocks of one output region: units of one row each, a bit set = free. */
struct output_pool {
	uint32_t region;     /* id, valid when n_units > 0 */
	uint64_t unit_bytes; /* inf_output_bytes(signature, 1), a multiple of 64 */
	uint32_t n_units;
	uint32_t n_free;
	uint32_t cursor; /* word to look at first */
	uint64_t *free;  /* bitmap, allocated when the region is made */
	bool retired;	 /* on session.retired: no new blocks, freed with its last one */
	struct output_pool *next_retired; /* pools of earlier generations with held blocks */
};

/* A reserved output block. */
struct output {
	uint32_t generation; /* counts uses of this index; the completion tells it */
	uint32_t n_units;    /* 0 = unused index */
	uint32_t first;
	struct output_pool *pool;
};

/* A model opened by a session. */
struct handle {
	struct model *model; /* NULL = unused */
	struct session *session;
	struct inf_check_model check;
	struct queue_client clients[QUEUE_CLASSES]; /* its requests that wait, by class */
	struct output_pool *pool; /* of the current executor generation */
	uint64_t hash;
	uint32_t depth;
	uint64_t reserve_bytes; /* charged for the output region of the next executor generation */
};

enum session_state {
	SESSION_UNUSED = 0,
	SESSION_CONNECTED, /* waits for HELLO */
	SESSION_OFFERED,   /* WELCOME sent, waits for MAPPED(0) */
	SESSION_READY,
	SESSION_TRACER, /* no client of models: watches a trace, see operate.c */
	SESSION_ZOMBIE, /* gone; waits for jobs in flight, then for DETACHED */
};

struct session {
	uint32_t id; /* never reused */
	uint32_t at; /* index in broker.sessions */
	enum session_state state;
	uid_t uid;
	pid_t pid;
	char name[32];
	int control_fd, pid_fd, bell_fd;
	const struct inf_request_region *request; /* region 0, read-only */
	struct inf_response_region *response;	  /* with its robust-list page below */
	uint64_t start;
	uint32_t n_lanes;
	uint32_t n_cancels; /* last seen */
	uint32_t n_jobs;    /* in flight, posted or not */
	struct lane lanes[INF_LANES];
	struct region regions[INF_REGIONS];
	struct inf_check_region check_regions[INF_REGIONS]; /* READY request regions, dense */
	const uint8_t *request_maps[INF_REGIONS];	    /* the front's read-only mappings, same index */
	uint32_t n_check_regions;
	struct handle handles[HANDLES_MAX];
	struct output outputs[INF_OUTPUTS];
	struct inf_timeline *timeline;	    /* NULL = no device memory in this session */
	uint64_t *timeline_done;	    /* what was signalled last, of each entry */
	uint16_t free_outputs[INF_OUTPUTS]; /* stack */
	uint16_t posted[INF_OUTPUTS];	    /* held by the client, to be swept */
	uint32_t n_free_outputs, n_posted;
	struct output_pool *retired;
	bool retire_due; /* a retired pool has become empty: session_retire_empty() */
	bool attached; /* an executor knows of it */
	struct inf_stats_session *stats; /* never NULL while READY */
	struct user *user;		 /* quota account */
	struct inf_trace_region *trace;	 /* of a TRACER: we write */
	uint64_t trace_next;		 /* position of its next record */
	struct session *next_tracer;
	struct session_open *opening;	 /* OPEN or GROW in progress, see open.c */
	struct importer *importer;	 /* NULL = none now, see imports.c */
	uint32_t n_importer_deaths;	 /* in a row */

	/* cold: session.c, handshake.c, open.c, attach.c */
	struct loop_source control_source, pid_source, bell_source;
	struct session *next_reap;
	bool reap_due;
	bool handshaking; /* counted in broker.n_handshakes and the user's */
	enum attach_state detach; /* of the DETACH of a zombie: NONE, WANTED, SENT */
	uint16_t robust_lanes;	  /* bit set = its liveness word is in the robust list */
	uint64_t features;
	uint64_t connected_ns;
	uint32_t region_ids;
	uint32_t n_handles;    /* handles given out, never reused */
	uint32_t n_unattached; /* regions WANTED or SENT */
};

struct model {
	uint32_t id; /* index in broker.models, as the executor knows it */
	char name[INF_NAME_BYTES];
	uint32_t version;
	uint32_t state;	     /* enum inf_model_state, 0 = unused entry */
	bool loaded;	     /* in the present executor */
	bool superseded;     /* a newer one took its name: drain, then UNLOAD */
	bool builtin, in_place, split;
	struct inf_signature signature;
	uint64_t time_ns[INF_CTL_BUCKETS]; /* t[b], refined by each batch */
	uint64_t base_ns[INF_CTL_BUCKETS]; /* t[b] as warm-up measured it */
	struct timing_history history;
	uint32_t n_learned;
	uint32_t batch_best;
	uint32_t rows_running;
	uint32_t n_handles;
	struct queue queue;
	uint64_t inode, mtime_ns, file_bytes;
	uint64_t load_sent;	/* executor generation that was told to load it */
	uint32_t n_load_deaths; /* executors in a row that died loading it */
	bool was_ready;		/* in this identity */
	uint64_t device_bytes;	/* that loading it took, in the present executor */
	char text[INF_CTL_TEXT_BYTES]; /* why it FAILED */
	struct inf_stats_model *stats; /* its entry in the public file */
};

/* One dispatched batch, the front's private truth. */
struct batch {
	struct model *model;
	uint64_t dispatched_ns;
	uint64_t predicted_ns;
	uint32_t n_parts;
	uint32_t n_rows;
	struct batch_part parts[PARTS_MAX]; /* parts[i].item is a struct job */
};

struct instance {
	uint32_t idx;
	bool ready; /* INSTANCE_MAPPED arrived, done region sealed */
	struct inf_dispatch_region *dispatch; /* we write */
	const struct inf_done_region *done;   /* the executor writes: hostile */
	int dispatch_fd, done_fd, bell_fd;
	struct loop_source bell_source;
	uint64_t tail; /* next batch position to publish */
	uint64_t head; /* next to be done; tail - head <= 2 */
	uint64_t ended_ns; /* when we saw the one before that end */
	struct batch batches[INF_BATCHES];
};

enum executor_state {
	EXECUTOR_NONE = INF_STATS_EXECUTOR_NONE,
	EXECUTOR_STARTING = INF_STATS_EXECUTOR_STARTING,
	EXECUTOR_READY = INF_STATS_EXECUTOR_READY,
	EXECUTOR_WAITING = INF_STATS_EXECUTOR_WAITING,
	EXECUTOR_FAILED = INF_STATS_EXECUTOR_FAILED,
};

/* Answers of one batch that are counted alike: completion.c. */
struct tally {
	const struct handle *handle;
	uint64_t accepted_ns;
	uint32_t n;
};

struct executor {
	enum executor_state state;
	pid_t pid;
	int pid_fd, control_fd;
	uint64_t generation; /* counts starts */
	uint64_t started_ns;
	uint32_t n_deaths_in_row; /* since one was READY for a while */
	int32_t loading;	  /* model id it said LOADING for, -1 = none */
	uint64_t loading_ns;	  /* since when */
	uint32_t n_instances;
	uint32_t n_threads;
	char device[32];
	char uuid[INF_CTL_UUID_BYTES]; /* empty where its device shares no memory */

	/* cold: supervisor.c */
	bool killed;   /* SIGKILL is on its way, nothing more is sent */
	bool scan_due; /* models are looked for when every session is attached */
	uint32_t n_start_failures; /* in a row that did not become READY */
	uint32_t n_device_losses;  /* in a row, like n_deaths_in_row */
	struct loop_source control_source, pid_source, timer_source;

	struct instance instances[INF_INSTANCES];
};

struct broker {
	const struct config *config;
	struct loop *loop;
	uint64_t now_ns; /* CLOCK_MONOTONIC, taken once per turn */
	uint64_t epoch;
	uint32_t wake_ns; /* W: one park + wake, calibrated at start */
	bool one_cpu;	  /* of our own: whoever looks for work must yield in between */
	uint64_t no_spin_until_ns; /* a yield took too long */
	uint32_t spin_ns; /* how long each party looks for work before it sleeps: W, or 0 where that cannot win */
	uint32_t tid;
	int listen_fd;
	bool draining; /* SIGTERM: no new sessions, no new requests; end when nothing is in flight */
	bool paused;   /* shmctl drain: no new requests until shmctl resume */
	bool stop;

	struct session **sessions; /* config->sessions_max entries, NULL = free */
	uint32_t n_sessions;
	uint32_t session_ids;

	struct lane **active; /* lanes that are scanned */
	uint32_t n_active;
	struct session *tracers; /* sessions that watch a trace: trace.c */
	struct lane **dirty; /* lanes with completions to be announced */
	uint32_t n_dirty;

	struct model *models[MODELS_MAX]; /* NULL = unused */
	uint32_t models_end;		  /* no model has this index or a higher one */
	uint32_t model_turn;
	uint32_t last_model;	 /* id of the one whose batch was dispatched last */
	uint64_t mixed_until_ns; /* several models are being asked for */
	uint32_t n_superseded; /* models that wait to be freed by registry_reap() */
	struct registry *registry; /* what the last scan found, see registry.c */
	struct executor executor;

	struct job *jobs; /* JOBS_MAX */
	struct job *free_jobs;
	uint32_t n_jobs; /* in use */
	struct ext_block *ext_blocks;
	uint16_t *free_ext;
	uint32_t n_free_ext;
	uint32_t n_running; /* batches dispatched, not done */
	struct queue suspects; /* jobs of dying batches: each is run with nothing beside it */
	struct queue_client suspect_client;
	bool suspect_running;
	struct queue uncommitted; /* jobs whose inputs a device is still writing: timeline.h */
	struct queue_client uncommitted_client;
	uint64_t timeline_pause_ns;
	struct loop_source timeline_timer; /* runs only while there are some */
	struct loop_source watchdog_timer; /* runs only while the executor has something to do */
	uint64_t watchdog_set_ns; /* when it was, 0 = it does not run */

	/* cold: session.c, attach.c */
	struct session *reap;		  /* to be freed by session_reap() */
	uint32_t n_handshakes;		  /* sessions that have not finished connecting */
	struct loop_source handshake_timer; /* only while there are some */
	uint32_t n_attach_wanted, n_attach_sent; /* ATTACH and DETACH messages, see attach.c */
	uint64_t attach_ns; /* since when the executor has not answered any of those that were sent */
	uint32_t attach_cursor;
	uint32_t n_retired;	 /* output pools of earlier generations with held blocks */
	uint64_t retired_seen_ns; /* when they were last looked at */

	uint64_t refreshed_ns, news_refreshed; /* of the last stats_refresh(): when, and loop_news() then */
	struct inf_stats_public *stats; /* never NULL: private memory where the file cannot be made */
	struct tally tally;
};

#endif /* BROKER_JOB_H */
