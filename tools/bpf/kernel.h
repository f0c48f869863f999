/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * kernel.h - what the programs in the kernel and the tool that loads them agree on.
 *
 * The time of one request, from the library's `submit` to its `wake`, is the sum of its stages:
 *
 *	submit       accept      dispatch       start         end         complete       wake
 *	  │ ring       │ queued     │ batch_wait  │ run_cpu     │ done         │ wake       │
 *	  │ broker_asleep           │             │ run_blocked │              │            │
 *	  │ broker_runq             │ executor_   │ run_        │ done_runq    │ client_    │
 *	  │            (either side)│ runq        │ preempted   │              │ runq       │
 *
 * Names in the lower lines are parts taken out of those above them. A run queue is where a thread stands that could run and
 * has no CPU.
 */
#ifndef BPF_KERNEL_H
#define BPF_KERNEL_H

#include <linux/types.h>

enum kernel_stage {
	STAGE_RING,	     /* published, the front awake: until it takes it */
	STAGE_BROKER_ASLEEP, /* the front asleep, until it was woken */
	STAGE_BROKER_RUNQ,
	STAGE_QUEUED,	  /* accepted: until it is in a batch */
	STAGE_BATCH_WAIT, /* in a batch: behind another one, or until its thread in the executor was woken */
	STAGE_EXECUTOR_RUNQ,
	STAGE_RUN_CPU,
	STAGE_RUN_PREEMPTED, /* in the middle of it, without a CPU */
	STAGE_RUN_BLOCKED,   /* in the middle of it, asleep: waits for other threads, a device, a page */
	STAGE_DONE,	     /* the batch has ended: until the front posts the completion */
	STAGE_DONE_RUNQ,
	STAGE_WAKE, /* posted: until the client has it */
	STAGE_CLIENT_RUNQ,
	KERNEL_STAGES,
};

/* --- threads whose way over the CPUs is followed --- */

enum thread_state {
	THREAD_RUNNING,
	THREAD_RUNNABLE, /* in a run queue */
	THREAD_ASLEEP,
};

/* What a thread became at ts_ns, and how long it had been without a CPU, and asleep, by then. */
struct thread_step {
	__u64 ts_ns;
	__u64 runq_ns;
	__u64 asleep_ns;
	__u64 state;
};

#define STEPS 4096u /* of one thread that are remembered; a power of two */

struct thread_history {
	__u64 n; /* steps ever; the last one is steps[(n - 1) % STEPS] */
	struct thread_step steps[STEPS];
};

#define HISTORY_NONE 0xffffffffu
#define HISTORY_FRONT 0u
#define HISTORY_INSTANCE 1u /* + the instance's index */
#define INSTANCES 16u	    /* INF_INSTANCES */
#define HISTORIES (HISTORY_INSTANCE + INSTANCES)

#define THREADS 8192u	      /* that are followed; entry 0 is nobody's, the histories' come next, then clients in turn */
#define THREAD_IDS 65536u     /* of two that are the same modulo this one is followed */
#define THREAD_CLIENT (1u + HISTORIES) /* first entry of a client */

struct thread {
	struct thread_step last;
	__u64 woken_ns; /* when it was last */
	__u32 history;
	__u32 tid; /* 0 = unused */
};

/* --- requests and batches --- */

struct request_key {
	__u64 position;
	__u32 session;
	__u32 lane;
	__u32 tgid; /* of the client; sessions of two brokers have the same numbers. 0 in a pid namespace */
	__u32 reserved;
};

#define MODEL_NONE 0xffffffffu

#define REQUESTS 131072u /* that are remembered; a power of two */

struct request {
	__u64 submit_ns;	/* 0 = unused */
	struct request_key key;
	__u64 complete_ns; /* 0 = in flight */
	__u64 client_runq_ns; /* of the thread that submitted, then */
	__u32 tgid, tid;
	__u32 model, status;
	__u32 instance;
	__u32 reserved;
	__u64 batch; /* its position there */
	__u64 stages[KERNEL_STAGES];
};

struct batch_times {
	__u64 position;
	__u64 dispatch_ns;
	__u64 front_runq_ns; /* then */
	__u64 begin_ns, end_ns;
	__u64 free_ns; /* the end of the batch before it on its instance */
	__u64 late_ns; /* the front, without a CPU before it had woken the executor */
	__u64 wait_ns, wait_runq_ns, cpu_ns, preempted_ns, blocked_ns, done_runq_ns; /* of all in it */
};

/* --- out --- */

struct kernel_event {
	struct request request;
	__u64 wake_ns;
};

/* 8 steps per power of two from 64 ns to 2^38 ns: 12 % wide. */
#define HISTOGRAM_STEPS 8u
#define HISTOGRAM_LOW 6u
#define HISTOGRAM_BUCKETS 256u
#define HISTOGRAM_TOTAL KERNEL_STAGES /* behind the stages */

/* Of one model, on one CPU: the kernel allows 32 KiB. Values of 0 are in no bucket. */
struct kernel_histograms {
	__u64 n_requests;
	__u64 sum_ns[KERNEL_STAGES + 1];
	__u64 max_ns[KERNEL_STAGES + 1];
	__u32 buckets[KERNEL_STAGES + 1][HISTOGRAM_BUCKETS];
};

/* What user space sets, at any time. */
struct kernel_config {
	__u32 front_tgid; /* 0 = any */
	__u32 client_tgid; /* 0 = any */
	__u32 model;	   /* MODEL_NONE = any */
	__u32 knows_tgids; /* 0 = the front speaks of other process ids than the kernel does */
	__u32 has_sched;
	__u32 wants_events;
	__u32 n_models; /* that have histograms of their own */
	__u32 session;	/* 0 = any */
	__u64 slow_ns; /* events of requests that took at least this long */
};

/* What was not seen, and why. */
struct kernel_counts {
	__u64 n_no_submit;   /* ended, but its submission was not seen: a library that is not watched */
	__u64 n_no_room;     /* lost its place to another one */
	__u64 n_dropped;     /* events that the ring buffer had no room for */
	__u64 n_too_old;     /* went so far back that no history remembers: stages without run queues */
	__u64 n_parks;	     /* times the front went to sleep in io_uring */
	__u64 n_cqes;	     /* what io_uring told the front */
	__u64 n_requests;
};

#endif /* BPF_KERNEL_H */
