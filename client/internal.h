/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - the objects of libinfclient, who may touch them, and what its files offer to each
 * other.
 *
 *	inf_client --- regions[]    mapped memory                     control lock; read without
 *	    |     \--- arena        input blocks                      its own lock
 *	    |     \--- requests[]   tag -> request                    table lock; read without
 *	    |     \--- models       opened models, their free lists   control lock; lists: cache lock
 *	    +--- lanes[16]          a thread's ring pair
 *	             submit side    submit lock   (contended only where threads share the lane)
 *	             reap side      reap lock     (any thread may collect for any other)
 *
 * Order of locks: control, then submit, then reap, then cache, then table, then the arena's. Nothing
 * on the request path takes the control lock but a completion that names memory we have not been sent
 * yet: who holds the control lock takes no submit and no reap lock, so that is allowed too.
 *
 * A request's state moves so; whoever makes the last move owns the request:
 *	IDLE/ENDED -> FLIGHT     inf_submit, its caller
 *	FLIGHT     -> ENDED      the thread that collects its completion, or finds the broker dead
 *	FLIGHT     -> ABANDONED  inf_request_give; ABANDONED -> FREE by the thread that collects
 *	IDLE/ENDED -> FREE       inf_request_give; FREE -> IDLE inf_request_take
 *
 * Names that start with infc_ are private to the library; the prefix keeps the static one from
 * clashing.
 */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include "client/arena.h"
#include "shm/device/slab.h"
#include "shm/control.h"
#include "shm/lane.h"
#include "shm/signature.h"
#include <inf/client.h>
#include <pthread.h>
#include <stdalign.h>

/* Constants that were guessed or measured; nothing else in the library has any. */
#define INFC_SPIN_PAUSE_NS   2000u   /* about two context switches: pause first, then yield */
#define INFC_SPIN_NS_MAX     200000u /* no broker makes us spin longer */
#define INFC_SLICE_NS	     250000000ull /* between looks at the socket, where nobody tells of a death */
#define INFC_GROW_BYTES_MIN (1ull << 20)  /* least that is asked for when the arena is full */
#define INFC_GROW_FACTOR    16u		  /* else this many of what did not fit */
#define INFC_GROW_BYTES_MAX (64ull << 20) /* but no more, unless one block needs it */
#define INFC_GROW_RETRY_NS  100000000ull  /* after a refusal: don't ask again on every take */
#define INFC_REQUESTS_MAX   65536u	  /* request objects per client */
#define INFC_ALIVE	    0x4556494c41464e49ull /* "INFALIVE", in the page that a fork wipes */
#define INFC_REGION_NONE    UINT32_MAX

enum infc_state {
	INFC_FREE = 0,
	INFC_IDLE = 1,
	INFC_FLIGHT = 2,
	INFC_ENDED = 3,
	INFC_ABANDONED = 4,
};

struct region {
	uint32_t id; /* stored last with release; INFC_REGION_NONE = unused entry */
	uint32_t kind;
	uint8_t *base;
	uint64_t bytes;
	bool ready;   /* request regions: READY came, the arena has it */
	bool retired; /* output regions: unmap when nobody holds an output there */
	/* Request regions whose twin was asked for; device.c. */
	bool has_twin;	    /* the broker has one, mapped here or not; control lock */
	uint64_t twin;	    /* atomic: its device address, 0 = none */
	uint32_t twin_lost; /* atomic: the broker has it no more */
	struct inf_slab slab;
};

struct lane;

struct inf_request {
	struct inf_client *client;
	struct inf_model *model;
	struct lane *lane;	   /* of the last submission */
	struct arena_block *block; /* packed inputs; NULL for pings */
	struct arena_block *ext;   /* struct inf_ext_tensor per input, or NULL */
	uint64_t tag;		   /* atomic: times submitted << 32 | index in requests[] */
	uint64_t pos;		   /* of the submission on its lane */
	uint64_t deadline_ns;
	uint32_t priority;
	void *data;
	uint32_t rows;
	uint32_t home;	  /* lane whose free list it goes back to */
	uint32_t tenancy; /* of the lane when it was submitted */
	bool is_ext;	  /* submitted with INF_SUB_EXT */
	uint16_t timeline;   /* entry + 1 that it holds, 0 = it has no device memory */
	uint32_t twin_flags; /* INF_SUB_TWIN_OUT, and the bits of inputs in twins */

	/* Written by who collects, before state becomes ENDED (release); then read (acquire). */
	uint32_t state; /* enum infc_state, atomic */
	uint16_t status;
	uint16_t flags;
	uint32_t queue_us;
	uint32_t run_us;
	uint32_t retry_after_us;
	uint32_t out_held; /* atomic: region of the output it holds, or INFC_REGION_NONE */
	uint32_t out_idx;
	uint32_t out_generation;

	/* The lane's list of ended requests: the reap lock of `listed_on`, which is atomic. */
	struct lane *listed_on;
	struct inf_request *prev_ended, *next_ended;

	/* A declared output (INF_OUT_DECLARED) that outputs[] describe: the next one differs in its
	 * address alone. Rows 0 = none. */
	const uint8_t *declared_block;
	uint64_t declared_bytes;
	uint32_t declared_rows;

	struct inf_request *next_free; /* cache lock of lane `home` */
	struct inf_tensor outputs[];   /* n_outputs of the model, valid where an output is held */
};

struct inf_model {
	struct inf_client *client;
	struct inf_model *next;
	uint16_t handle;
	uint32_t depth; /* granted: rows in flight or held */
	bool is_ping; /* the pseudo-model of inf_ping() */
	bool is_packed;
	uint32_t is_stale; /* atomic: an answer was NO_MODEL, so the next open asks again */
	uint64_t run_ns;   /* atomic: run of recent requests, averaged */
	uint64_t total_ns; /* atomic: queue and run */
	uint64_t input_offset[INF_INPUTS_MAX]; /* for one row */
	uint64_t input_bytes;		       /* for one row */
	struct inf_request *free[INF_LANES];   /* each: that lane's cache lock */
	struct inf_signature signature;
};

struct lane {
	struct inf_client *client;
	const struct inf_response_lane *response;
	struct inf_request_lane *request;
	uint32_t idx;
	uint32_t session; /* as in the client */
	/* client->lanes_lock */
	bool is_up;
	uint32_t n_users; /* atomic, for who asks without the lock */
	int event_fd;	  /* -1 = none; ours */
	uint32_t n_arms;  /* atomic: even, counts up to the next number for the event word */

	alignas(INF_LINE) struct inf_sq_writer sq; /* submit lock */
	pthread_mutex_t submit_lock;
	uint64_t submitted; /* atomic copy of sq.tail for others */

	alignas(INF_LINE) pthread_mutex_t reap_lock;
	struct inf_cq_reader cq;
	struct inf_request *ended_first, *ended_last;
	uint32_t n_ended; /* atomic: length of that list */
	uint32_t tenancy; /* atomic: moves when the last user leaves */
	uint64_t taken;	  /* atomic copy of cq.head, stored after the slots were given back */
	uint32_t is_dead; /* atomic: all was ended with BROKER_LOST, nothing more will come */
	const struct inf_model *last_model; /* atomic: of the last answer */

	alignas(INF_LINE) pthread_mutex_t cache_lock; /* of model->free[idx] */
};

struct inf_client {
	/* Written by inf_open, then constant. */
	const uint64_t *alive; /* INFC_ALIVE; 0 in a forked child */
	struct inf_request_region *request;
	const struct inf_response_region *response;
	uint64_t request_bytes;
	uint64_t start;
	uint64_t features;
	uint64_t spin_ns; /* how long to look before sleeping: W, or 0 */
	bool must_yield;  /* between two looks: the broker has one core, perhaps ours */
	uint32_t session;
	int socket_fd;
	int bell_fd;
	pthread_key_t lane_key;
	bool has_key;

	uint32_t lost;	     /* atomic: the broker is gone */
	uint64_t no_spin_until_ns; /* atomic: a yield took too long */
	uint32_t n_retiring; /* atomic: outputs of old executors that the broker will retire;
				control lock writes */

	pthread_mutex_t control_lock; /* socket, regions[], models */
	uint32_t cookie;
	uint64_t grow_not_before_ns;
	struct region regions[INF_REGIONS];
	struct inf_model *models;
	struct inf_model ping_model;

	struct device *device; /* atomic; NULL before inf_device_open() */

	pthread_mutex_t table_lock;
	struct inf_request **requests; /* INFC_REQUESTS_MAX */
	uint32_t n_requests;	       /* atomic */

	struct arena arena;
	pthread_mutex_t lanes_lock;
	uint32_t n_lanes;
	struct lane lanes[INF_LANES];
};

/* --- state of the whole (connect.c, fork.c) --- */

static inline bool infc_is_forked(const struct inf_client *client)
{
	return *client->alive != INFC_ALIVE;
}

static inline bool infc_is_lost(const struct inf_client *client)
{
	return inf_load32_acquire(&client->lost);
}

/* The broker is gone: no more submissions, all sleepers are woken. */
void infc_mark_lost(struct inf_client *client);
/* The page that tells a forked child that it is one. NULL = no memory. */
const uint64_t *infc_fork_guard_new(void);
void infc_fork_guard_free(const uint64_t *guard);
/* Rings are not inherited, arenas are. 0 or -errno. */
int infc_fork_hide_rings(struct inf_client *client);
uint64_t infc_now_ns(void);

/* --- regions of the session (mapping.c); all but find: control lock --- */

/* Any thread, no lock. NULL = not (yet) mapped. */
const struct region *infc_region_find(const struct inf_client *client, uint32_t id, uint32_t kind);
/* Maps a received fd (stays the caller's), faults it in. `id` must be new. 0 or -errno. */
int infc_region_add(struct inf_client *client, uint32_t id, uint32_t kind, int fd, uint64_t bytes);
/* Its entry, NULL where there is none. */
struct region *infc_region_at(struct inf_client *client, uint32_t id);
/* READY: the arena may use it. 0, -EPROTO, -ENOMEM. */
int infc_region_ready(struct inf_client *client, uint32_t id);
void infc_region_retire(struct inf_client *client, uint32_t id);
/* Unmaps retired regions in which nobody holds an output any more. */
void infc_region_sweep(struct inf_client *client);
void infc_region_unmap_all(struct inf_client *client);

/* --- the control socket (control.c) --- */

/*
 * Sends `msg` (its cookie is set here), serves what comes in between, returns the answer of type
 * `answer` or ERROR in *ret. *ret_fd is the answer's fd or -1. 0 or a negative errno; control lock
 * held.
 */
int infc_control_ask(struct inf_client *client, void *msg, enum inf_ctl_type answer,
		     union inf_ctl_any *ret, int *ret_fd);
/* The negative errno in an ERROR, and its text for inf_error(). */
int infc_control_refusal(const struct inf_ctl_error *error);
/* Serves everything that has arrived unasked. Takes the control lock. */
void infc_control_drain(struct inf_client *client);
/* True = the other end is closed. No lock. */
bool infc_control_is_hung_up(const struct inf_client *client);
/* Text for inf_error() of this thread. */
void infc_error_set(const char *text);
/* Returns `r`; where that is an error and nobody has set a text since it was emptied, there is a common one. */
int infc_error_tell(int r);

/* --- lanes (lane.c) --- */

int infc_lanes_init(struct inf_client *client);
void infc_lanes_deinit(struct inf_client *client);
/* The calling thread's lane; takes one if it has none. Never NULL. */
struct lane *infc_lane_mine(struct inf_client *client);

/* Submissions of this lane that have no collected completion. */
static inline uint64_t infc_lane_in_flight(const struct lane *lane)
{
	uint64_t taken = inf_load64_acquire(&lane->taken);

	return inf_load32(&lane->is_dead) ? 0 : inf_load64(&lane->submitted) - taken;
}

/* A hint: there is a completion that nobody has collected. */
static inline bool infc_lane_has_news(const struct lane *lane)
{
	uint64_t pos = inf_load64(&lane->taken);

	return inf_load64_acquire(&lane->response->slots[pos % INF_SLOTS].seq) == pos + 1;
}

/* --- requests (request.c) --- */

/* The request with that index, or NULL; whether it is in flight under that tag is for the caller to
 * see. */
struct inf_request *infc_request_find(const struct inf_client *client, uint64_t tag);
/* A request of the model without memory: recycled or new. NULL = no memory. */
struct inf_request *infc_request_get(struct inf_model *model, struct lane *lane);
/* Puts a request that nobody uses on its free list. */
void infc_request_recycle(struct inf_request *req);
/* Tells the broker that the output may be reused. */
void infc_request_release_output(struct inf_request *req);
void infc_requests_free(struct inf_client *client);

/* Offset of an input in the request's block. */
uint64_t infc_input_offset(const struct inf_request *req, uint32_t idx);
/* Room behind what is submitted, for results where twin_flags say so; contents are lost. 0 or -ENOBUFS. */
int infc_request_make_room(struct inf_request *req);

/* --- device memory (device.c) --- */

/* The broker is gone: streams that wait for it go on. */
void infc_device_release_waits(struct inf_client *client);
/* Waits for the device, then unmaps all. */
void infc_device_close(struct inf_client *client);
/* The twin of a region has come (NULL = of none that we know). Control lock held. 0 or -EPROTO. */
int infc_device_add_twin(struct inf_client *client, struct region *region, int socket_fd);
/* The request, which holds an entry of the timeline, is given back. */
void infc_device_forget(struct inf_request *req);
/* The same request is submitted. */
void infc_device_fill_slot(struct inf_submission *slot, const struct inf_request *req);

/* --- models (model.c) --- */

void infc_model_prepare(struct inf_model *model);

static inline uint64_t infc_packed_bytes(const struct inf_model *model, uint32_t rows)
{
	return rows == 1 ? model->input_bytes : inf_input_bytes(&model->signature, rows);
}

void infc_models_free(struct inf_client *client);

/* --- submission (submit.c) --- */

void infc_ring(const struct inf_client *client);

/* --- completion (reap.c, wait.c, output.c) --- */

/* Collects what there is on the lane; `must` waits for another thread that is doing so. */
void infc_reap(struct lane *lane, bool must);
/* Ends what is in flight on the lane with BROKER_LOST. */
void infc_reap_lost(struct lane *lane);
/* Takes `req` off the list of ended requests it is on. */
void infc_reap_unlist(struct inf_request *req);
/* The next ended request of the lane's present users, or NULL. */
struct inf_request *infc_reap_next(struct lane *lane);
/* Looks at the liveness word; true = the broker is gone (and marked so). */
bool infc_lane_is_dead(struct lane *lane);
/* Until `req` has ended, or (NULL) the lane has something to return or nothing in flight. 0 or
 * -ETIMEDOUT. */
int infc_wait(struct lane *lane, struct inf_request *req, uint64_t until_ns);

/*
 * Copies and checks the table at the head of an output block: it must be what the signature allows
 * for `rows`. Fills tensors[n_outputs]. 0; 1 where the block says that all is as declared, so that
 * another such block differs in addresses alone; or -EBADMSG. Pure.
 */
int infc_output_read(const struct inf_signature *signature, uint32_t rows, const uint8_t *block,
		     uint64_t length, struct inf_tensor *ret_tensors);

#endif /* CLIENT_INTERNAL_H */
