/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - messages on the SEQPACKET sockets (client <-> front, front <-> executor, importer) and fd passing.
 *
 * One packet is one message: a header and a body whose exact size, number of fds and direction follow
 * from the type (one table in control.c). Fds travel from the front only; a received fd that the table
 * does not announce is closed and ends the connection. Nothing here is on the request path.
 *
 * A session is made so (C client, F front, E executor):
 *
 *   C HELLO ------------> F  version, features
 *   C <---------- WELCOME F  + request fd, response fd (already sealed read-only), doorbell
 *   C maps, populates; MAPPED(0) -> F  adds FUTURE_WRITE|SEAL, then checks st_blocks
 *   C <-------- READY(0)  F  from here on the rings may be used
 *   C OPEN(name, depth) -> F  charges the user's quota
 *   C <--- REGION(request) F  more arena, if needed;  MAPPED(id) -> F seals, checks; READY(id)
 *                          F  ATTACH(request), ATTACH(output) -> E maps RW;  ATTACHED -> F seals
 *   C <---- REGION(output) F  + fd, sealed read-only
 *   C <------------ MODEL  F  handle, signature
 *
 * Device memory is the executor's to make and the client's to map; the front, which knows nothing of devices, only makes
 * a pair of sockets. What the executor writes into the one end lies ready in the other, where client and later executors
 * look at it with MSG_PEEK: so a slab outlives the executor that made it, and no fd ever comes in from outside.
 *
 *   C DEVICE -----------> F  ATTACH(timeline) -> E maps, registers;  ATTACHED
 *   C <---------- TIMELINE F  + fd, the device's UUID
 *   C TWIN(region) -----> F  charges;  ATTACH(twin, + one end) -> E makes, scrubs, exports, writes SLAB + fd into it; ATTACHED
 *   C <------ REGION(twin) F  + the other end, which has SLAB in it
 *
 * Memory of the client itself, by handles that anybody may open who has them: a process for this session alone, an importer,
 * does so and copies. It is made when it is first needed.
 *
 *   C IMPORT -----------> F  is it allowed?  FETCH(+ the end with SLAB) -> I opens, waits, copies, closes;  FETCHED
 *   C <---------- IMPORTED F
 *
 * Who operates the broker (shmctl) says OPERATE where others say HELLO, and is no client of models. A trace goes on until
 * its connection ends.
 *
 *   O OPERATE ----------> F  is this user allowed to?
 *   O <------- OPERATED   F  done;  TRACE + fd (sealed read-only), where a trace was asked for;  or ERROR
 *
 * An executor is started with the other end of a socketpair as fd 3:
 *
 *   E HELLO_EXECUTOR ---> F  version, instances
 *   E <-------- INSTANCE  F  + dispatch fd (sealed), done fd, bell;   INSTANCE_MAPPED -> F seals done
 *   E <------------ SCAN  F  (also after SIGHUP)
 *   E FOUND ... SCANNED -> F  identity of each model file
 *   E <------------ LOAD  F  those that are new and not known to kill their loader
 *   E LOADING ----------> F  before the file is opened: a death now marks that file FAILED
 *   E LOADED / FAILED --> F
 */
#ifndef INF_SHM_CONTROL_H
#define INF_SHM_CONTROL_H

#include <inf/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INF_CTL_VERSION_MIN 2u
#define INF_CTL_VERSION 2u /* of messages and layout together */
#define INF_CTL_FDS_MAX 3u
#define INF_CTL_TEXT_BYTES 160u
#define INF_CTL_UUID_BYTES 48u /* "GPU-..." */
#define INF_CTL_IPC_BYTES 64u /* of a handle of cuIpcGetMemHandle() or cuIpcGetEventHandle() */
/* Exit status of an executor whose device is lost to its process. */
#define INF_EXIT_DEVICE_LOST 3
#define INF_CTL_BUCKETS 9u /* batch sizes 1, 2, 4, ... 256 */

/* features, agreed in HELLO (intersection) */
#define INF_FEATURE_EXT 0x1ull	    /* extension blocks */
#define INF_FEATURE_EVENT_FD 0x2ull /* LANE_FD */
#define INF_FEATURE_DEVICE 0x4ull   /* DEVICE, TWIN */
#define INF_FEATURE_IMPORT 0x8ull   /* IMPORT; whether a user may, its answer says */
#define INF_FEATURE_STAMP 0x10ull   /* inf_submission.stamp */
#ifdef INF_NO_STATS /* see broker/stats.h */
#undef INF_FEATURE_STAMP
#define INF_FEATURE_STAMP 0ull
#endif
#define INF_FEATURES_ALL \
	(INF_FEATURE_EXT | INF_FEATURE_EVENT_FD | INF_FEATURE_DEVICE | INF_FEATURE_IMPORT | INF_FEATURE_STAMP)

enum inf_ctl_type {
	/* client -> front */
	INF_CTL_HELLO = 1,
	INF_CTL_MAPPED = 2,
	INF_CTL_OPEN = 3,
	INF_CTL_GROW = 4,
	INF_CTL_LANE_FD = 5,
	INF_CTL_LIST = 6,
	INF_CTL_DEVICE = 7,
	INF_CTL_TWIN = 8,
	INF_CTL_IMPORT = 9,
	INF_CTL_OPERATE = 10,
	/* front -> client */
	INF_CTL_WELCOME = 64,
	INF_CTL_REGION = 65,
	INF_CTL_READY = 66,
	INF_CTL_MODEL = 67,
	INF_CTL_ERROR = 68,
	INF_CTL_FD = 69,
	INF_CTL_INFO = 70,
	INF_CTL_RETIRE = 71,
	INF_CTL_TIMELINE = 72,
	INF_CTL_IMPORTED = 73,
	INF_CTL_OPERATED = 74,
	INF_CTL_TRACE = 75,
	/* executor -> client, through a pair that the front made: see TWIN */
	INF_CTL_SLAB = 96,
	/* executor -> front */
	INF_CTL_HELLO_EXECUTOR = 128,
	INF_CTL_INSTANCE_MAPPED = 129,
	INF_CTL_FOUND = 130,
	INF_CTL_SCANNED = 131,
	INF_CTL_LOADING = 132,
	INF_CTL_LOADED = 133,
	INF_CTL_FAILED = 134,
	INF_CTL_ATTACHED = 135,
	INF_CTL_DETACHED = 136,
	/* importer -> front */
	INF_CTL_FETCHED = 160,
	/* front -> executor */
	INF_CTL_INSTANCE = 192,
	INF_CTL_SCAN = 193,
	INF_CTL_LOAD = 194,
	INF_CTL_UNLOAD = 195,
	INF_CTL_ATTACH = 196,
	INF_CTL_DETACH = 197,
	/* front -> importer */
	INF_CTL_FETCH = 224,
};

struct inf_ctl_head {
	uint16_t type;
	uint16_t reserved; /* 0 */
	uint32_t bytes;	   /* of the whole message */
	uint32_t cookie;   /* client's, echoed in the answer; 0 in unsolicited messages */
	uint32_t reserved1; /* 0 */
};

struct inf_ctl_hello {
	struct inf_ctl_head head;
	uint32_t version_min;
	uint32_t version_max;
	uint64_t features;
	char name[32]; /* of the program; escaped before it is shown */
};

struct inf_ctl_welcome { /* fds: request, response, doorbell */
	struct inf_ctl_head head;
	uint32_t version;
	uint32_t session;
	uint64_t features;
	uint64_t epoch;
	uint64_t start;
	uint64_t request_bytes;
	uint64_t response_bytes;
};

struct inf_ctl_mapped {
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t reserved;
};

struct inf_ctl_open {
	struct inf_ctl_head head;
	char model[INF_NAME_BYTES];
	uint32_t depth; /* rows in flight or held that memory is asked for; 0 = default */
	uint32_t reserved;
};

struct inf_ctl_grow { /* one more request region; answered by REGION .. READY or ERROR */
	struct inf_ctl_head head;
	uint64_t bytes;
};

struct inf_ctl_lane_fd {
	struct inf_ctl_head head;
	uint32_t lane;
	uint32_t reserved;
};

struct inf_ctl_list { /* the idx-th model; answered by INFO, past the end by ERROR(-ENOENT) */
	struct inf_ctl_head head;
	uint32_t idx;
	uint32_t reserved;
};

struct inf_ctl_device { /* device memory shall be used: answered by TIMELINE or ERROR */
	struct inf_ctl_head head;
};

struct inf_ctl_twin { /* device memory for a request region that is READY; answered by REGION or ERROR */
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t reserved;
};

#define INF_IMPORT_EVENT 0x1u /* `event` names one to wait for */

/*
 * What to copy into the twin of a request region, by legacy IPC handles of the client: answered by IMPORTED when it is there,
 * or by ERROR. One at a time.
 */
struct inf_ctl_import {
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t flags;
	uint64_t offset;      /* in the region */
	uint64_t bytes;	      /* not 0 */
	uint64_t from_offset; /* behind the beginning of the allocation that `memory` names */
	uint8_t memory[INF_CTL_IPC_BYTES];
	uint8_t event[INF_CTL_IPC_BYTES]; /* 0 without the flag */
};

struct inf_ctl_imported {
	struct inf_ctl_head head;
};

enum inf_operation {
	INF_OPERATION_DRAIN = 1,  /* new requests get BUSY; what is in flight ends */
	INF_OPERATION_RESUME = 2, /* no more of that */
	INF_OPERATION_KICK = 3,	  /* ends session `subject` */
	INF_OPERATION_TRACE = 4,  /* answered by TRACE */
};

/* Root and the broker's own user may do all of it; others may KICK their own sessions and TRACE their own requests. */
struct inf_ctl_operate {
	struct inf_ctl_head head;
	uint32_t operation;
	uint32_t subject; /* session, or 0 */
};

struct inf_ctl_operated {
	struct inf_ctl_head head;
	uint32_t in_flight; /* requests, of all */
	uint32_t reserved;
};

struct inf_ctl_trace { /* fds: a struct inf_trace_region */
	struct inf_ctl_head head;
	uint64_t bytes;
};

struct inf_ctl_timeline { /* fds: the timeline region */
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t reserved;
	uint64_t bytes;
	char uuid[INF_CTL_UUID_BYTES]; /* of the device */
};

struct inf_ctl_slab { /* fds: the memory, as cuMemExportToShareableHandle() gave it */
	struct inf_ctl_head head;
	uint64_t bytes; /* of all of it: a multiple of the device's granularity */
	char uuid[INF_CTL_UUID_BYTES];
};

struct inf_ctl_region { /* fds: the region */
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t kind; /* REQUEST, OUTPUT or TWIN */
	uint64_t bytes;
	uint64_t generation; /* of the executor, for outputs */
};

struct inf_ctl_ready {
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t reserved;
};

struct inf_ctl_model {
	struct inf_ctl_head head;
	uint32_t handle;
	uint32_t depth; /* granted */
	struct inf_signature signature;
};

struct inf_ctl_error {
	struct inf_ctl_head head;
	int32_t error;	 /* negative errno */
	uint32_t status; /* enum inf_status, or 0 */
	char text[INF_CTL_TEXT_BYTES];
};

struct inf_ctl_fd { /* fds: one end of a socketpair, readable when the lane has completions */
	struct inf_ctl_head head;
	uint32_t lane;
	uint32_t reserved;
};

enum inf_model_state {
	INF_MODEL_LOADING = 1,
	INF_MODEL_READY = 2,
	INF_MODEL_FAILED = 3,
};

struct inf_ctl_info {
	struct inf_ctl_head head;
	uint32_t idx;
	uint32_t state; /* enum inf_model_state */
	uint64_t time_ns[INF_CTL_BUCKETS]; /* t[b]; 0 = not measured */
	struct inf_signature signature;	   /* only name and version unless READY */
	char text[INF_CTL_TEXT_BYTES];	   /* why it FAILED */
};

struct inf_ctl_retire { /* an old output region: unmap it when its last output is released */
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t reserved;
};

struct inf_ctl_hello_executor {
	struct inf_ctl_head head;
	uint32_t version;
	uint32_t n_instances;
	uint32_t n_threads; /* intra-op threads of each */
	uint32_t reserved;
	char device[32]; /* "cpu", "cuda:0" */
	char uuid[INF_CTL_UUID_BYTES]; /* of a device that can share its memory, else empty */
};

struct inf_ctl_instance { /* fds: dispatch, done, bell; answered by INSTANCE_MAPPED */
	struct inf_ctl_head head;
	uint32_t instance;
	uint32_t reserved;
	uint64_t dispatch_bytes;
	uint64_t done_bytes;
};

struct inf_ctl_instance_mapped {
	struct inf_ctl_head head;
	uint32_t instance;
	uint32_t reserved;
};

struct inf_ctl_scan {
	struct inf_ctl_head head;
};

struct inf_ctl_found {
	struct inf_ctl_head head;
	char name[INF_NAME_BYTES];
	uint32_t version;
	uint32_t builtin; /* 1 = no file */
	uint64_t inode;
	uint64_t mtime_ns;
	uint64_t file_bytes;
};

struct inf_ctl_scanned {
	struct inf_ctl_head head;
	uint32_t n_found;
	int32_t error; /* of reading the directory, 0 or negative errno */
};

struct inf_ctl_load {
	struct inf_ctl_head head;
	uint32_t model; /* id chosen by the front, small, dense */
	uint32_t version;
	char name[INF_NAME_BYTES];
};

struct inf_ctl_loading {
	struct inf_ctl_head head;
	uint32_t model;
	uint32_t reserved;
};

struct inf_ctl_loaded {
	struct inf_ctl_head head;
	uint32_t model;
	uint32_t in_place; /* 1 = a lone request is read where the client wrote it */
	uint64_t time_ns[INF_CTL_BUCKETS];
	uint64_t device_bytes; /* of device memory, that loading it took: weights, what runs use, larger batches */
	struct inf_signature signature;
};

struct inf_ctl_failed {
	struct inf_ctl_head head;
	uint32_t model;
	int32_t error;
	char text[INF_CTL_TEXT_BYTES];
};

struct inf_ctl_unload {
	struct inf_ctl_head head;
	uint32_t model;
	uint32_t reserved;
};

struct inf_ctl_attach { /* fds: the region; answered by ATTACHED */
	struct inf_ctl_head head;
	uint32_t session;
	uint32_t region;
	uint32_t kind; /* REQUEST (map read-only), OUTPUT, TIMELINE (map read-write), TWIN (the fd is a socket) */
	uint32_t reserved;
	uint64_t bytes;
};

struct inf_ctl_attached {
	struct inf_ctl_head head;
	uint32_t session;
	uint32_t region;
	int32_t error; /* 0 or negative errno */
	uint32_t reserved;
};

struct inf_ctl_detach { /* all regions of a session; answered by DETACHED */
	struct inf_ctl_head head;
	uint32_t session;
	uint32_t reserved;
};

struct inf_ctl_detached {
	struct inf_ctl_head head;
	uint32_t session;
	uint32_t reserved;
};

struct inf_ctl_fetch { /* fds: the socket in which the twin's SLAB lies; IMPORT, judged; answered by FETCHED */
	struct inf_ctl_head head;
	uint32_t region;
	uint32_t flags;
	uint64_t offset;
	uint64_t bytes;
	uint64_t from_offset;
	uint8_t memory[INF_CTL_IPC_BYTES];
	uint8_t event[INF_CTL_IPC_BYTES];
};

struct inf_ctl_fetched { /* nothing of it uses the client's memory any more */
	struct inf_ctl_head head;
	int32_t error; /* 0 or negative errno */
	uint32_t ends; /* 1 = and the importer ends now */
	char text[INF_CTL_TEXT_BYTES];
};

/* Room for any message, aligned. */
union inf_ctl_any {
	struct inf_ctl_head head;
	struct inf_ctl_hello hello;
	struct inf_ctl_welcome welcome;
	struct inf_ctl_mapped mapped;
	struct inf_ctl_open open;
	struct inf_ctl_grow grow;
	struct inf_ctl_lane_fd lane_fd;
	struct inf_ctl_list list;
	struct inf_ctl_device device;
	struct inf_ctl_twin twin;
	struct inf_ctl_import import;
	struct inf_ctl_imported imported;
	struct inf_ctl_operate operate;
	struct inf_ctl_operated operated;
	struct inf_ctl_trace trace;
	struct inf_ctl_timeline timeline;
	struct inf_ctl_slab slab;
	struct inf_ctl_region region;
	struct inf_ctl_ready ready;
	struct inf_ctl_model model;
	struct inf_ctl_error error;
	struct inf_ctl_fd fd;
	struct inf_ctl_info info;
	struct inf_ctl_retire retire;
	struct inf_ctl_hello_executor hello_executor;
	struct inf_ctl_instance instance;
	struct inf_ctl_instance_mapped instance_mapped;
	struct inf_ctl_scan scan;
	struct inf_ctl_found found;
	struct inf_ctl_scanned scanned;
	struct inf_ctl_load load;
	struct inf_ctl_loading loading;
	struct inf_ctl_loaded loaded;
	struct inf_ctl_failed failed;
	struct inf_ctl_unload unload;
	struct inf_ctl_attach attach;
	struct inf_ctl_attached attached;
	struct inf_ctl_detach detach;
	struct inf_ctl_detached detached;
	struct inf_ctl_fetch fetch;
	struct inf_ctl_fetched fetched;
};

/* Who may send a type: the receiver passes the peer it reads from. */
enum inf_ctl_peer {
	INF_CTL_FROM_CLIENT,
	INF_CTL_FROM_FRONT_TO_CLIENT,
	INF_CTL_FROM_EXECUTOR,
	INF_CTL_FROM_FRONT_TO_EXECUTOR,
	INF_CTL_FROM_EXECUTOR_TO_CLIENT,
	INF_CTL_FROM_IMPORTER,
	INF_CTL_FROM_FRONT_TO_IMPORTER,
};

/* Outcomes of inf_ctl_recv() other than 0 and a negative errno: all of them end the connection. */
enum inf_ctl_fault {
	INF_CTL_E_CLOSED = 1,	 /* orderly end */
	INF_CTL_E_TRUNCATED = 2, /* longer than any message */
	INF_CTL_E_SHORT = 3,	 /* shorter than its header or its type's size */
	INF_CTL_E_TYPE = 4,	 /* unknown, or not from this peer */
	INF_CTL_E_SIZE = 5,	 /* header's size, packet's size and type's size differ */
	INF_CTL_E_FDS = 6,	 /* more or fewer fds than the type carries */
	INF_CTL_E_RESERVED = 7,	 /* a reserved header field is not 0 */
};

/* Starts a message: zeroes it, sets type, size and cookie. `msg` has room for the type. */
void inf_ctl_init(void *msg, enum inf_ctl_type type, uint32_t cookie);

/*
 * Sends one message with its fds (borrowed). Never blocks where the socket is non-blocking or
 * `dont_wait` is set. Returns 0, -EAGAIN when the peer does not read, or a negative errno.
 */
int inf_ctl_send(int socket_fd, const void *msg, const int *fds, unsigned int n_fds, bool dont_wait);

/*
 * Receives one message. `ret_fds` has INF_CTL_FDS_MAX entries; on 0 the caller owns the first
 * *ret_n_fds, on anything else no fd is left open. A peer of the front (client, executor, importer) may never
 * send fds to it. Returns 0, an enum inf_ctl_fault, -EAGAIN, -EMFILE (the fds did not fit below RLIMIT_NOFILE;
 * the message is lost), or a negative errno.
 */
int inf_ctl_recv(int socket_fd, enum inf_ctl_peer peer, union inf_ctl_any *ret_msg, int *ret_fds,
		 unsigned int *ret_n_fds, bool dont_wait);

/*
 * Looks at a SLAB that lies ready in a socket and leaves it there. *ret_fd is the caller's. Returns as inf_ctl_recv();
 * -EAGAIN = there is none (yet).
 */
int inf_ctl_peek_slab(int socket_fd, struct inf_ctl_slab *ret_slab, int *ret_fd);

/* Fixed text of a fault, never NULL. */
const char *inf_ctl_fault_name(int fault);

/* Exact size of a type's message in bytes, 0 where the type is unknown. */
uint32_t inf_ctl_bytes(uint16_t type);

#endif /* INF_SHM_CONTROL_H */
