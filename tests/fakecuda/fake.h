/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake.h - what the parts of the software driver know of each other. fakecuda.h is for those who use it.
 *
 *	call.c     how every call begins and ends: the lock, the context, faults, handles
 *	fault.c    errors by script
 *	ledger.c   settings, the report, what lives and what happened
 *	device.c   devices and primary contexts
 *	range.c    the map of all memory that a device may touch
 *	memory.c   cuMemAlloc, pinned and registered host memory, questions about addresses
 *	vmm.c      cuMemCreate and its kin
 *	stream.c   queues and their threads; engine.c what these do
 *	touch.c    which memory an operation touches, and that it stays as it is until then
 *	copy.c     copies, fills and value words: what they check before they are queued
 *	ipc.c      memory of cuMemAlloc, and events, in other processes
 *	event.c, launch.c, graph.c
 *	race.c     who is ordered after whom
 *
 * One lock for everything (`fake.lock`); it is held in all functions here but those that say otherwise. Operations run
 * without it. Handles are numbers that are never used twice and point nowhere: whoever uses one after its end is found out.
 */
#ifndef TESTS_FAKECUDA_FAKE_H
#define TESTS_FAKECUDA_FAKE_H

#include "broker/cuda/kernels.h"
#include "shm/device/abi.h"
#include "tests/fakecuda/fakecuda.h"
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))
#define PROTOTYPE(member, symbol, params) EXPORT CUresult symbol params;
INF_DRIVER_CALLS(PROTOTYPE)
INF_DRIVER_IPC_CALLS(PROTOTYPE)
#undef PROTOTYPE

/* Of cuda.h, beyond those that abi.h needs. */
#define CU_STREAM_LEGACY	   ((CUstream)0x1)
#define CU_STREAM_PER_THREAD	   ((CUstream)0x2)
#define ERROR_ALREADY_MAPPED	   ((CUresult)208)
#define ERROR_CAPTURE_MERGE	   ((CUresult)902)
#define ERROR_CAPTURE_UNMATCHED	   ((CUresult)903)
#define ERROR_CAPTURE_UNJOINED	   ((CUresult)904)
#define ERROR_CAPTURE_ISOLATION	   ((CUresult)905)
#define ERROR_CAPTURED_EVENT	   ((CUresult)907)
#define ERROR_CAPTURE_WRONG_THREAD ((CUresult)908)

#define DEVICES_MAX	  16u
#define ENTITIES	  128u /* streams and graph branches at once */
#define KERNEL_PARAMS_MAX 32u
#define BRANCHES_MAX	  16u /* of a graph */
#define PAGE		  4096u
#define PRIORITY_LEAST	  0
#define PRIORITY_GREATEST (-5)
#define POISON		  0xa5

/* --- race.c: clocks --- */

struct clock {
	uint64_t at[ENTITIES];
};

struct op;
struct shadow; /* who touched which bytes of one piece of memory */

struct shadow *shadow_new(void);
void shadow_free(struct shadow *shadow);
void clock_join(struct clock *clock, const struct clock *other);
/* What the calling host thread knows. */
struct clock *host_clock(void);
/* Every host thread may know of it from now on. */
void clock_publish(const struct clock *clock);
/* 0: there are too many. A number comes again; what its last owner did counts as ordered before the new one. */
unsigned int entity_new(struct clock *clock);
void entity_end(unsigned int entity, const struct clock *clock);
/*
 * `op` has that clock, in the stream of that number: is it ordered after all that touched the same bytes?
 * True: it is not, which was reported.
 */
bool race_check(const struct op *op, const struct clock *clock, unsigned int entity, uint64_t number);
/* A pageable copy has ended: what lies there is the program's own again. */
void race_forget_pageable(const struct op *op);
/* A word in memory that streams hand over: whoever sees the value is ordered after its writer. */
void word_written(uint64_t address, uint64_t value, const struct clock *clock);
void word_seen(uint64_t address, uint64_t value, struct clock *clock);

/* --- ledger.c --- */

extern struct fakecuda_ledger *ledger;

struct settings {
	unsigned int n_devices;
	uint64_t memory_bytes, version, seed;
	bool has_vmm, has_posix_fd, has_ipc, has_read_only, has_default_stream, aborts;
	double copy_ns_per_byte;
	uint64_t copy_ns, launch_ns, jitter_ns;
	char kernel_us[512];
};
extern struct settings settings;

uint64_t kernel_ns(const char *name);
uint64_t now_ns(void);
void violation(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* After device_bytes or imported_bytes changed. */
void state_update(void);
void state_open(void);
/* When it began, in clock ticks: pids come again. 0: it is dead, though perhaps not waited for. */
uint64_t process_ticks(uint64_t pid);

/* --- call.c --- */

enum call {
#define CALL(member, symbol, params) CALL_##symbol,
	INF_DRIVER_CALLS(CALL)
	INF_DRIVER_IPC_CALLS(CALL)
#undef CALL
	CALLS
};

enum needs {
	NEEDS_NOTHING = 0,
	NEEDS_INIT = 1,
	NEEDS_CONTEXT = 2 | NEEDS_INIT,
	IS_QUEUED = 4,		/* it ends in stream_put() */
	IS_UNSAFE_IN_CAPTURE = 8, /* in the sense of cuThreadExchangeStreamCaptureMode() */
	NEEDS_NO_ERROR = 16 | NEEDS_INIT, /* works without a context, but not in one that is lost */
};

struct context {
	int device;
	uint64_t handle; /* 0 = none now */
	unsigned int n_retained;
	CUresult error; /* that sticks */
};

/* A fault that waits for the operation that this call queues. */
struct pending_fault {
	bool is_stalled;
	CUresult error;
};

enum kind { KIND_CONTEXT = 1, KIND_STREAM, KIND_EVENT, KIND_MODULE, KIND_FUNCTION, KIND_GRAPH, KIND_EXEC, KIND_HANDLE, KINDS };

struct object {
	struct object *next;
	uint64_t handle;
	enum kind kind;
	struct context *context;
};

extern struct fake {
	pthread_mutex_t lock;
	pthread_cond_t done; /* an operation ended, a record came, or a context was lost */
	bool is_initialized, is_child; /* of fork() */
} fake;
extern _Thread_local struct pending_fault pending_fault;
extern _Thread_local bool is_in_host_function;
extern _Thread_local uint64_t current_handle; /* of the context */

/*
 * call_begin - every call's first line. On 0 the lock is held and *ret_context is the current one, where it is needed. Anything
 * else is what the call shall return, and the lock is not held.
 */
CUresult call_begin(enum call call, unsigned int needs, struct context **ret_context);
CUresult call_end(CUresult result); /* gives the lock back */

#define BEGIN(symbol, needs)                                                              \
	struct context *context __attribute__((unused)) = NULL;                           \
	do {                                                                              \
		CUresult early = call_begin(CALL_##symbol, needs, &context);              \
		if (early)                                                                \
			return early;                                                     \
	} while (0)

uint64_t handle_new(enum kind kind);
void object_add(struct object *object, enum kind kind, struct context *context);
void object_remove(struct object *object);
/* NULL where there is none of that handle; then it was a violation, which says `what` was tried. */
void *object_get(enum kind kind, uint64_t handle, const char *what);
void *object_find(enum kind kind, uint64_t handle);
/* The next one of that kind and context after `after` (NULL = first). */
struct object *object_next(enum kind kind, const struct context *context, const struct object *after);

/* --- fault.c --- */

void fault_read(const char *text);
/* What this call, the nth of its name, shall return; may never return. The lock is held. */
CUresult fault_of(enum call call, uint64_t n, bool is_queued);
const char *call_name(enum call call);
/* -1: no such call. */
int call_by_name(const char *name);
extern uint64_t call_counts[CALLS];

/* --- device.c --- */

enum engine_kind { ENGINE_IN, ENGINE_OUT, ENGINE_COMPUTE, ENGINES };

/* One operation at a time, in the order in which they came. */
struct engine {
	pthread_cond_t changed;
	uint64_t n_came, n_served;
	uint64_t free_ns; /* when the last one ended */
};

struct device {
	struct context context;
	uint64_t used_bytes;
	struct engine engines[ENGINES];
};
extern struct device devices[DEVICES_MAX];

/* NULL: there is none now. */
struct context *context_find(uint64_t handle);
bool is_device_number(int device);
/* Every later call of it gives this error; what is queued there ends without having run. */
void context_stick(struct context *context, CUresult error);

/* --- range.c --- */

enum range_kind { RANGE_DEVICE = 1, RANGE_MAPPED = 2, RANGE_PINNED = 4, RANGE_REGISTERED = 8, RANGE_OPENED = 16 };
#define RANGE_OF_DEVICE (RANGE_DEVICE | RANGE_MAPPED | RANGE_OPENED)
#define RANGE_OF_HOST	(RANGE_PINNED | RANGE_REGISTERED)

struct physical; /* vmm.c */
struct block; /* ipc.c */
struct opened;
struct shared_event;

struct range {
	enum range_kind kind;
	uint64_t address;
	size_t bytes;
	struct context *context; /* NULL for mapped ones */
	int device;
	uint64_t id; /* never the same again */
	bool is_read_only; /* registered so */
	unsigned char access[DEVICES_MAX]; /* of mapped ones: CUmemAccess_flags */
	struct physical *physical;
	struct block *block; /* of RANGE_DEVICE: where its pages are, */
	size_t block_offset; /* and there */
	struct opened *opened; /* of RANGE_OPENED */
	struct shadow *shadow; /* of mapped ones it is their memory's */
};

enum look { LOOK_GOOD, LOOK_NOTHING, LOOK_PARTLY, LOOK_DENIED, LOOK_OTHER_DEVICE };

/* How do [address, +bytes) look to `device`? Several mapped ranges side by side are as good as one, others are not. */
enum look range_look(unsigned int kinds, uint64_t address, size_t bytes, int device, bool is_written);
const char *look_text(enum look look, uint64_t address, size_t bytes);
/* Aborts where it overlaps another. */
struct range *range_add(enum range_kind kind, uint64_t address, size_t bytes, struct context *context, int device);
/* Reports queued work that uses it, waits for that, and forgets it. Its memory is the caller's to unmap. */
void range_remove(struct range *range, const char *what);
/* The same without removing: before something about it changes. */
void range_settle(uint64_t address, size_t bytes, const char *what);
/* The one that has this address, or the first one after it. */
struct range *range_at(uint64_t address);
struct range *range_from(uint64_t address);
struct range *range_of_context(const struct context *context);

/* --- memory.c, vmm.c --- */

/* Poisoned memory of a memfd of that name; -1. */
int memory_fd(const char *name, size_t bytes);
void memory_drop(struct range *range, const char *what);
/* `bytes` (whole pages) with a page on each side that nobody may touch, of a file or of nothing (-1). NULL: there is no memory. */
char *map_guarded(size_t bytes, int fd, size_t offset);
void unmap_guarded(char *at, size_t bytes);
bool physical_is_exportable(const struct physical *physical);
struct shadow *physical_shadow(struct physical *physical);

/* --- stream.c --- */

enum op_kind {
	OP_COPY_IN,
	OP_COPY_OUT,
	OP_COPY,
	OP_FILL,
	OP_KERNEL,
	OP_RECORD,
	OP_WAIT,
	OP_WAIT_OTHER, /* for an event of another process */
	OP_CALL,
	OP_WRITE_WORD,
	OP_WAIT_WORD,
	OP_GRAPH,
};
extern const char *const op_names[];

struct touch {
	uint64_t address;
	size_t bytes;
	bool is_written;
	bool is_summed; /* `sum` is of these bytes, when it was queued */
	uint64_t sum;
};

/* One record of an event, or a mark of our own in a stream. */
struct record {
	unsigned int n_refs;
	bool is_done;
	bool is_known; /* `clock` is what it will be */
	bool is_told;  /* as stream_is_told() */
	uint64_t end_ns;
	struct clock clock;
	struct shared_event *shared; /* NULL = of no other process's interest */
	uint64_t number;	     /* of its records */
};

struct op {
	struct op *next;
	enum op_kind kind;
	uint64_t to, from;
	size_t bytes;
	uint64_t value;
	void *staging;
	bool is_pageable, is_stalled;
	CUresult late_error;
	struct record *record;
	struct shared_event *shared; /* and its record number `value` */
	CUhostFn function;
	void *data;
	const struct inf_kernel *kernel;
	uint64_t params[KERNEL_PARAMS_MAX];
	struct exec *exec;
	struct touch *touches;
	unsigned int n_touches;
	struct clock clock; /* what its caller knew; once it is judged, all that it comes after */
	bool is_judged, is_racing;
	bool is_open; /* what it touches is known no sooner than it runs */
	uint64_t queued_ns;
	struct op *nodes; /* of this launch of `exec` */
	/* In graphs. */
	unsigned int branch, slot;
	uint64_t seen[BRANCHES_MAX]; /* of each branch, how many operations come before it */
};

struct stream {
	struct object object;
	struct stream *next;
	uint64_t number; /* for messages */
	pthread_cond_t changed;
	struct op *first, **last;
	uint64_t n_queued, n_done;
	bool is_ending, is_default;
	int priority;
	pid_t thread; /* whose default stream it is; 0 = everybody's */
	unsigned int entity;
	struct clock clock; /* after what ran last */
	struct clock known; /* after what was queued last, where that is known: */
	bool is_unsure;	    /* not behind a wait for a value, or a graph, that has not run */
	uint64_t end_ns;    /* when that ended */
	uint64_t random;
	struct capture *capture;
	unsigned int branch;
};

struct op *op_new(enum op_kind kind);
void op_free(struct op *op);
void ops_free(struct op *first);
struct record *record_new(void);
struct record *record_ref(struct record *record);
void record_unref(struct record *record);
/* Gives up the reference. Returns the error that stuck to the context meanwhile. */
CUresult record_wait(struct record *record, const struct context *context);
struct record *stream_mark(struct stream *stream);
/* Takes `op`: into the queue, or into the graph that is being captured. */
CUresult stream_submit(struct stream *stream, struct op *op);
void stream_put(struct stream *stream, struct op *op);
/* For a call that queues something: of this context. NULL and *ret_error, after a violation. */
struct stream *stream_get(CUstream handle, struct context *context, const char *what, CUresult *ret_error);
void stream_end(struct stream *stream);
/* The next of all streams, those that were destroyed and still run as well; NULL = first, and after the last. */
struct stream *stream_next(const struct stream *stream);
bool streams_use(uint64_t address, size_t bytes);
void streams_wake(const struct context *context);

/* --- touch.c --- */

void op_touch(struct op *op, uint64_t address, size_t bytes, bool is_written);
/* Violation and error where one of its ranges is not there for it any more. */
CUresult op_check(const struct op *op, const struct context *context);
/* It is put into a queue now, or as one of `nodes` of a graph that is launched. */
void op_queued(struct op *op, const struct op *nodes, const struct stream *stream);
/* It begins. Violations where what it reads is not what it was. */
void op_runs(struct op *op, const struct stream *stream);
/* What is put there now comes after something that tells the host that it may write, or waits for it. */
bool stream_is_told(const struct stream *stream);

/* --- engine.c --- */

/* Runs the first operation of a stream; gives the lock up meanwhile. */
void engine_run(struct stream *stream, struct op *op);
/* One of a graph, which has a clock of its own. */
void engine_run_node(struct stream *stream, struct op *op, struct clock *clock, unsigned int entity);

/* --- event.c --- */

struct event {
	struct object object;
	struct record *last; /* NULL = never recorded */
	uint64_t capture_id; /* not 0: its last record is in that capture, */
	unsigned int slot;   /* there */
	struct shared_event *shared; /* NULL = none of another process, and for none */
};

void event_end(struct event *event);

/* --- ipc.c --- */

/* The part of a block that `range` shall have: mapped, poisoned. NULL: there is no memory. */
char *block_take(size_t bytes, int device, struct block **ret_block, size_t *ret_offset);
/* The range has gone, or goes with its context. */
void block_give(struct block *block, size_t offset, const char *what);
/* Memory of another process: forgotten here, however often it was opened. */
void opened_drop(struct range *range, const char *what);
/* Does `op` touch memory of another process which that one has freed, or has died with? */
bool op_touches_gone(const struct op *op);
/* NULL: there is no memory. */
struct shared_event *shared_event_new(void);
struct shared_event *shared_event_ref(struct shared_event *shared);
void shared_event_unref(struct shared_event *shared);
bool shared_event_is_other(const struct shared_event *shared);
uint64_t shared_event_record(struct shared_event *shared); /* its number */
void shared_event_done(struct shared_event *shared, uint64_t number);
uint64_t shared_event_recorded(const struct shared_event *shared);
bool shared_event_is_done(const struct shared_event *shared, uint64_t number);
void shared_event_waits(struct shared_event *shared, int more);
/* Of our own: a violation where another process waits for it. */
void shared_event_check_end(const struct shared_event *shared);

/* --- launch.c --- */

void module_end(struct object *module);

/* --- graph.c --- */

struct exec {
	struct object object;
	unsigned int n_refs;
	struct op *first; /* as they were captured: each launch has its own */
	unsigned int n_branches, n_slots;
	unsigned int entities[BRANCHES_MAX]; /* [0] is the stream's */
	struct clock clocks[BRANCHES_MAX];
	struct clock *slots;
	struct record *last; /* launch */
};

void exec_unref(struct exec *exec);
/* On the stream's thread: one launch of it. */
void exec_run(struct stream *stream, const struct op *launch);
/* The stream is captured: takes `op`. */
CUresult capture_add(struct stream *stream, struct op *op);
CUresult capture_record(struct stream *stream, struct event *event);
/* Also of a stream that is not captured yet, by an event that is. */
CUresult capture_wait(struct stream *stream, const struct event *event);
/* A call that may not be: the capture is lost. Returns its error. */
CUresult capture_breaks(struct stream *stream, const char *what);
/* A call that is not safe while somebody captures: 0, or its error. */
CUresult capture_forbids(const struct context *context, const char *what);
bool capture_is_live(uint64_t capture_id);
void capture_breaks_by_event(const struct event *event, const char *what);
void graph_end(struct object *graph);
void exec_end(struct exec *exec);

#endif /* TESTS_FAKECUDA_FAKE_H */
