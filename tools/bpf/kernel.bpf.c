// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * kernel.bpf.c - follows each request through the probes of shm/probes.h, and the threads that it depends on over the CPUs.
 *
 * Two kinds of program. Those of the scheduler's tracepoints keep, for each followed thread, how long it has been without a
 * CPU and asleep so far; for the front and the executor's threads also a history of that, so that it can be asked for a
 * moment in the past. Those of the probes make stages of it: nearly all when the front completes a request, the rest when the
 * client has it. Where the scheduler is not watched, all threads count as running.
 *
 * Acceptance, dispatch, begin and end of a batch need no trap of their own: `complete` tells them, by the clocks of front and executor.
 *
 * Kernel types are declared by hand, with the members that are used (CO-RE): building needs no kernel's BTF. Requires Linux
 * 5.15 (attach cookies).
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>
#include "tools/bpf/kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SLOTS 256u /* INF_SLOTS: more cannot be in flight on a lane */
#define SEARCH_STEPS 12 /* log2(STEPS) */
#define FORGOTTEN_NS 60000000000ull /* a guess: few requests take longer, those of killed clients for ever */
#define LOOK_AHEAD 16
#define LATE_NS 20000u /* a guess: shorter waits are not worth asking what the front did meanwhile */
#define EVENTS_BYTES (4u << 20)
#define LINE 64u
#define REGISTERS (sizeof(struct pt_regs) / sizeof(__u64))

/* What we read of the kernel's; `state` is __state since 5.14. */
struct task_struct {
	int pid;
	unsigned int __state;
} __attribute__((preserve_access_index));

struct kernel_config config;
struct kernel_counts counts;
/* Its entry in `threads`, 0 = none: most threads of a machine are not followed, and looking for one in a hash table takes 40 ns. */
__u16 thread_at[THREAD_IDS];
__u32 n_client_threads; /* so far */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HISTORIES);
	__type(key, __u32);
	__type(value, struct thread_history);
} histories SEC(".maps");

/* Not a hash table: a request's place follows from its key (slot_of()), and a later one in the same place overwrites it. No
 * lock, no room to be given back, nothing left of clients that were killed; 100 ns less a request. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REQUESTS);
	__type(key, __u32);
	__type(value, struct request);
} requests SEC(".maps");

/* Of each instance the one that ended last: they end in their order. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, INSTANCES);
	__type(key, __u32);
	__type(value, struct batch_times);
} batches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the loader makes it one more than there are models: the last is of those that have none */
	__type(key, __u32);
	__type(value, struct kernel_histograms);
} histograms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_BYTES);
} events SEC(".maps");

/* A cache line of user memory: the arguments of one object are mostly in one, and a read costs 100 ns at any length. */
struct line {
	__u64 address; /* 0 = none */
	__u64 words[LINE / sizeof(__u64)];
};

/* `bits` of user memory, and what lies behind them. A line does not cross pages: if any of it can be read, so can all. */
static __always_inline bool peek(struct line *line, __u64 address, __u32 bits, __u64 *ret)
{
	__u64 begin = address & ~(__u64)(LINE - 1);
	__u32 shift = address % sizeof(__u64) * 8;

	if (shift + bits > 64) /* no compiler puts one there */
		return !bpf_probe_read_user(ret, sizeof(*ret), (const void *)address);
	if (line->address != begin) {
		if (bpf_probe_read_user(line->words, LINE, (const void *)begin))
			return false;
		line->address = begin;
	}
	*ret = line->words[address / sizeof(__u64) % (LINE / sizeof(__u64))] >> shift;
	return true;
}

/*
 * The arguments of a probe, as libbpf's description of them says; false where there are fewer. What BPF_USDT() would do looks
 * the description up anew for each argument, and calls for each register and each word: three times as slow. One copy of the
 * code for all programs, and a loop: a program that runs after a sleep finds little of it in a cache.
 */
static __noinline bool read_arguments(struct pt_regs *ctx, __u64 *arguments, __u32 n)
{
	__u64 registers[REGISTERS];
	struct line line = {};
	int id = __bpf_usdt_spec_id(ctx);
	struct __bpf_usdt_spec *spec = id < 0 ? NULL : bpf_map_lookup_elem(&__bpf_usdt_specs, &id);

	if (!spec || spec->arg_cnt < (short)n)
		return false;
#pragma unroll
	for (__u32 i = 0; i < REGISTERS; i++)
		registers[i] = ((const __u64 *)(const void *)ctx)[i];
/* Unrolled it is 5 KB of code, which a program that runs after a sleep finds in no cache. */
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < n; i++) {
		const struct __bpf_usdt_arg_spec *at = &spec->args[i];
		__u32 idx = (__u16)at->reg_off / sizeof(__u64);
		__u64 value = at->val_off;

		/* The verifier must see that it is within, the compiler not that it is a multiple of eight bytes. */
		asm volatile("" : "+r"(idx));
		if (idx >= REGISTERS)
			return false;
		if (at->arg_type != BPF_USDT_ARG_CONST)
			value = registers[idx];
		__u32 unused = at->arg_bitshift & 63; /* bits */

		if (at->arg_type == BPF_USDT_ARG_REG_DEREF && !peek(&line, value + at->val_off, 64 - unused, &value))
			return false;
		value <<= unused;
		arguments[i] = at->arg_signed ? (__u64)((__s64)value >> unused) : value >> unused;
	}
	return true;
}

static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

static __always_inline bool is_front(void)
{
	return !config.front_tgid || bpf_get_current_pid_tgid() >> 32 == config.front_tgid;
}

/* --- threads over CPUs --------------------------------------------------------------------------------------- */

static __always_inline void remember(struct thread *thread)
{
	__u32 idx = thread->history;
	struct thread_history *history;

	if (idx == HISTORY_NONE)
		return;
	history = bpf_map_lookup_elem(&histories, &idx);
	if (!history)
		return;
	history->steps[history->n & (STEPS - 1)] = thread->last;
	/* After the step: a probe on another CPU may be searching. */
	__sync_fetch_and_add(&history->n, 1);
}

static __always_inline void step(struct thread *thread, enum thread_state state, __u64 now_ns)
{
	__u64 took_ns = now_ns - thread->last.ts_ns;

	if (thread->last.state == THREAD_RUNNABLE)
		thread->last.runq_ns += took_ns;
	else if (thread->last.state == THREAD_ASLEEP)
		thread->last.asleep_ns += took_ns;
	thread->last.state = state;
	thread->last.ts_ns = now_ns;
	remember(thread);
}

/* NULL where it is not followed. */
static __always_inline struct thread *thread_of(__u32 tid)
{
	__u32 idx = thread_at[tid % THREAD_IDS];
	struct thread *thread = idx ? bpf_map_lookup_elem(&threads, &idx) : NULL;

	return thread && thread->tid == tid ? thread : NULL;
}

static __always_inline void switched(__u32 prev, bool is_runnable, __u32 next)
{
	struct thread *from = thread_of(prev), *to = thread_of(next);
	__u64 now_ns;

	if (!from && !to)
		return;
	now_ns = bpf_ktime_get_ns();
	if (from)
		step(from, is_runnable ? THREAD_RUNNABLE : THREAD_ASLEEP, now_ns);
	if (to)
		step(to, THREAD_RUNNING, now_ns);
}

static __always_inline void woken(__u32 pid)
{
	struct thread *thread = thread_of(pid);

	if (!thread || thread->last.state != THREAD_ASLEEP)
		return;
	step(thread, THREAD_RUNNABLE, bpf_ktime_get_ns());
	thread->woken_ns = thread->last.ts_ns;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	switched(prev->pid, preempt || !prev->__state, next->pid);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task)
{
	woken(task->pid);
	return 0;
}

/* The same without the kernel's BTF: as /sys/kernel/tracing/events/sched/NAME/format says. */
struct switch_format {
	__u64 common;
	char prev_comm[16];
	__s32 prev_pid;
	__s32 prev_prio;
	__s64 prev_state; /* the low byte is 0 where it could go on running */
	char next_comm[16];
	__s32 next_pid;
	__s32 next_prio;
};

struct wakeup_format {
	__u64 common;
	char comm[16];
	__s32 pid;
};

SEC("tp/sched/sched_switch")
int on_switch_classic(struct switch_format *args)
{
	switched(args->prev_pid, !(args->prev_state & 0xff), args->next_pid);
	return 0;
}

SEC("tp/sched/sched_wakeup")
int on_wakeup_classic(struct wakeup_format *args)
{
	woken(args->pid);
	return 0;
}

SEC("raw_tp/io_uring_cqring_wait")
int on_uring_wait(void *ctx)
{
	if (is_front())
		count(&counts.n_parks);
	return 0;
}

SEC("raw_tp/io_uring_complete")
int on_uring_complete(void *ctx)
{
	if (is_front())
		count(&counts.n_cqes);
	return 0;
}

/* --- asking the past ------------------------------------------------------------------------------------------- */

/* How long a thread had been without a CPU, and asleep, at some moment; `at` is the step before it. */
struct moment {
	__u64 runq_ns;
	__u64 asleep_ns;
	__u64 at;
	__u64 state;
};

static __always_inline struct thread_history *history_of(__u32 idx)
{
	return config.has_sched ? bpf_map_lookup_elem(&histories, &idx) : NULL;
}

static __always_inline void since(const struct thread_step *step, __u64 ts_ns, struct moment *ret)
{
	ret->runq_ns = step->runq_ns;
	ret->asleep_ns = step->asleep_ns;
	ret->state = step->state;
	if (ts_ns <= step->ts_ns)
		return;
	if (step->state == THREAD_RUNNABLE)
		ret->runq_ns += ts_ns - step->ts_ns;
	else if (step->state == THREAD_ASLEEP)
		ret->asleep_ns += ts_ns - step->ts_ns;
}

/* The last step that is not after ts_ns; the oldest where all are. Global, like bucket_of(): a second less at each start. */
__noinline int find(struct thread_history *history, __u64 ts_ns, struct moment *ret)
{
	__u64 n, low, oldest, high;

	if (!history || !ret)
		return 0;
	n = history->n;
	oldest = n > STEPS - 1 ? n - (STEPS - 1) : 0;
	low = high = n;
	/* Mostly it is one of the last few: in ever longer strides. */
	for (__u64 stride = 1; stride < STEPS; stride *= 2) {
		high = low;
		low = n - oldest > stride ? n - stride : oldest;
		if (low == oldest || history->steps[low & (STEPS - 1)].ts_ns <= ts_ns)
			break;
	}
	for (int i = 0; i < SEARCH_STEPS; i++) {
		__u64 middle = (low + high) / 2;

		if (high - low < 2)
			break;
		if (history->steps[middle & (STEPS - 1)].ts_ns <= ts_ns)
			low = middle;
		else
			high = middle;
	}
	since(&history->steps[low & (STEPS - 1)], ts_ns, ret);
	ret->at = low;
	if (oldest && history->steps[low & (STEPS - 1)].ts_ns > ts_ns)
		count(&counts.n_too_old);
	return 0;
}

/* From one moment on to a later one: mostly of the same step, or of one of the next. */
__noinline int advance(struct thread_history *history, __u64 ts_ns, struct moment *moment)
{
	if (!history || !moment)
		return 0;
	for (int i = 0; i < LOOK_AHEAD; i++) {
		__u64 next = moment->at + 1;

		if (next < history->n && history->steps[next & (STEPS - 1)].ts_ns <= ts_ns) {
			moment->at = next;
			continue;
		}
		since(&history->steps[moment->at & (STEPS - 1)], ts_ns, moment);
		return 0;
	}
	return find(history, ts_ns, moment);
}

static __always_inline __u64 later(__u64 a, __u64 b)
{
	return a > b ? a : b;
}

static __always_inline __u64 less(__u64 a, __u64 b)
{
	return a > b ? a - b : 0;
}

/* --- the way of a request ---------------------------------------------------------------------------------------- */

static __always_inline void follow_client(__u64 now_ns, __u32 tid)
{
	struct thread *thread;
	__u32 idx;

	if (!config.has_sched || thread_of(tid))
		return;
	idx = thread_at[tid % THREAD_IDS];
	thread = bpf_map_lookup_elem(&threads, &idx);
	/* Another one with such an id: its entry is taken, but for the front's and the executor's. */
	if (!idx || !thread || thread->tid % THREAD_IDS != tid % THREAD_IDS) {
		/* Whose entry this is is followed again with its next submission, if it still is. */
		idx = THREAD_CLIENT + __sync_fetch_and_add(&n_client_threads, 1) % (THREADS - THREAD_CLIENT);
		thread = bpf_map_lookup_elem(&threads, &idx);
	}
	if (!thread || idx < THREAD_CLIENT)
		return;
	*thread = (struct thread){ .last = { .ts_ns = now_ns }, .history = HISTORY_NONE, .tid = tid };
	thread_at[tid % THREAD_IDS] = idx;
}

/* The time without a CPU of a thread that may be on another CPU right now. */
static __always_inline __u64 runq_of(__u32 tid, __u64 now_ns)
{
	struct thread *thread = config.has_sched ? thread_of(tid) : NULL;
	struct moment moment = {};

	if (!thread)
		return 0;
	since(&thread->last, now_ns, &moment);
	return moment.runq_ns;
}

static __always_inline bool is_same(const struct request_key *a, const struct request_key *b)
{
	return a->position == b->position && a->session == b->session && a->lane == b->lane && a->tgid == b->tgid;
}

/* All slots of a lane, one after the other; those of 512 sessions' first lanes, or of 32 sessions with 16, without overlap. */
static __always_inline struct request *slot_of(const struct request_key *key)
{
	__u32 idx = ((key->session ^ key->lane << 5) * SLOTS + key->position % SLOTS) % REQUESTS;

	return bpf_map_lookup_elem(&requests, &idx);
}

/* NULL where it is not followed. */
static __always_inline struct request *request_of(const struct request_key *key)
{
	struct request *request = slot_of(key);

	return request && request->submit_ns && is_same(&request->key, key) ? request : NULL;
}

SEC("usdt")
int on_submit(struct pt_regs *ctx)
{
	__u64 now_ns = bpf_ktime_get_ns(), id = bpf_get_current_pid_tgid(), arguments[4];
	struct request_key key = { .tgid = config.knows_tgids ? id >> 32 : 0 };

	if ((config.client_tgid && id >> 32 != config.client_tgid) || !read_arguments(ctx, arguments, 4))
		return 0;
	if (config.session && (__u32)arguments[0] != config.session)
		return 0;
	key.session = arguments[0];
	key.lane = arguments[1];
	key.position = arguments[2];
	follow_client(now_ns, (__u32)id);
	for (__u32 i = 0; i < SLOTS && i < (__u32)arguments[3]; i++) {
		struct request *request = slot_of(&key);

		if (!request)
			break;
		/* Another one that has not ended; one of this lane's own was never taken by the front (-EAGAIN). */
		if (request->submit_ns && request->complete_ns == 0 && request->key.session != key.session &&
		    now_ns - request->submit_ns < FORGOTTEN_NS)
			count(&counts.n_no_room);
		request->submit_ns = now_ns;
		request->complete_ns = 0;
		request->key = key;
		request->tgid = id >> 32;
		request->tid = (__u32)id;
		key.position++;
	}
	return 0;
}

/* When a thread that slept at that moment was woken; the moment itself where it did not sleep. */
static __always_inline __u64 woken_after(struct thread_history *history, const struct moment *moment, __u64 ts_ns)
{
	__u64 next = moment->at + 1;

	return moment->state == THREAD_ASLEEP && next < history->n ? history->steps[next & (STEPS - 1)].ts_ns : ts_ns;
}

/* What the front did without a CPU from the dispatch on: before it had woken the executor, and when the batch had ended. */
static __noinline void end_batch_front(struct batch_times *batch, __u64 woken_ns, __u64 now_ns)
{
	struct thread_history *front = history_of(HISTORY_FRONT);
	struct moment moment = {};

	batch->front_runq_ns = batch->late_ns = batch->done_runq_ns = 0;
	if (!front)
		return;
	find(front, batch->dispatch_ns, &moment);
	batch->front_runq_ns = moment.runq_ns;
	if (woken_ns > batch->dispatch_ns) {
		advance(front, woken_ns, &moment);
		batch->late_ns = less(moment.runq_ns, batch->front_runq_ns);
	}
	advance(front, batch->end_ns, &moment);
	batch->done_runq_ns = less(runq_of((__u32)bpf_get_current_pid_tgid(), now_ns), moment.runq_ns);
}

/* With the first of its requests that is completed: what its thread did in it, and before. */
static __noinline void end_batch(struct batch_times *batch, __u32 instance, __u64 now_ns)
{
	struct thread_history *own = history_of(HISTORY_INSTANCE + instance);
	__u64 free_ns = later(batch->dispatch_ns, batch->free_ns), woken_ns = 0, runq_ns = 0;
	struct moment begin = {}, end;

	if (own && own->n) {
		find(own, free_ns, &begin);
		runq_ns = begin.runq_ns;
		woken_ns = woken_after(own, &begin, free_ns);
		advance(own, batch->begin_ns, &begin);
	}
	if (woken_ns > batch->begin_ns)
		woken_ns = 0;
	end = begin;
	if (own && own->n)
		advance(own, batch->end_ns, &end);
	end_batch_front(batch, woken_ns, now_ns);
	batch->wait_runq_ns = less(begin.runq_ns, runq_ns);
	batch->wait_ns = less(less(batch->begin_ns, batch->dispatch_ns), batch->wait_runq_ns + batch->late_ns);
	batch->preempted_ns = end.runq_ns - begin.runq_ns;
	batch->blocked_ns = end.asleep_ns - begin.asleep_ns;
	batch->cpu_ns = less(batch->end_ns - batch->begin_ns, batch->preempted_ns + batch->blocked_ns);
}

/* From submission to dispatch (or, without a batch, to completion). */
static __noinline void split_before(struct request *request, __u64 accept_ns, __u64 free_ns, __u64 until_ns,
					 __u64 until_runq_ns)
{
	struct thread_history *front = history_of(HISTORY_FRONT);
	struct moment submit = {}, accept = {}, is_free = {};
	__u64 ring_ns, late_ns = 0;

	/* The front's clock is read once a turn: a submission in the middle of one is accepted before it was there. */
	accept_ns = later(accept_ns, request->submit_ns);
	if (accept_ns > until_ns)
		accept_ns = until_ns;
	free_ns = later(free_ns, accept_ns);
	if (free_ns > until_ns)
		free_ns = until_ns;
	if (front && front->n) {
		find(front, request->submit_ns, &submit);
		accept = submit;
		advance(front, accept_ns, &accept);
		/* While no instance is free the front may do without a CPU: that costs nobody anything. */
		is_free = accept;
		if (free_ns > accept_ns)
			advance(front, free_ns, &is_free);
		late_ns = less(until_runq_ns, is_free.runq_ns);
	}
	ring_ns = accept_ns - request->submit_ns;
	request->stages[STAGE_BROKER_ASLEEP] = accept.asleep_ns - submit.asleep_ns;
	request->stages[STAGE_BROKER_RUNQ] = accept.runq_ns - submit.runq_ns + late_ns;
	request->stages[STAGE_RING] = less(ring_ns, accept.asleep_ns - submit.asleep_ns + accept.runq_ns - submit.runq_ns);
	request->stages[STAGE_QUEUED] = less(until_ns - accept_ns, late_ns);
}

/* The front reads its clock once a turn, and so may have dispatched what was submitted after that: until the batch began this
 * request was there for so much less time than its batch. */
static __always_inline __u64 less_early(__u64 ns, __u64 *early_ns)
{
	__u64 left_ns = less(ns, *early_ns);

	*early_ns -= ns - left_ns;
	return left_ns;
}

/* The arguments of `complete`, in their order. */
struct completion {
	__u64 session, pid, lane, position, accepted_ns, status, model, instance, batch, work_ns, dispatched_ns, begun_ns;
};
#define COMPLETION_ARGUMENTS (sizeof(struct completion) / sizeof(__u64))

/* Each batch, also those whose requests are none of ours: the next one on its instance begins at its end. */
static __always_inline struct batch_times *ended_batch(const struct completion *done, __u64 now_ns)
{
	__u32 instance = done->instance;
	struct batch_times *batch;

	if (instance >= INSTANCES)
		return NULL;
	batch = bpf_map_lookup_elem(&batches, &instance);
	if (!batch || (batch->position == done->batch && batch->dispatch_ns == done->dispatched_ns))
		return batch;
	batch->position = done->batch;
	batch->free_ns = batch->end_ns;
	batch->dispatch_ns = done->dispatched_ns;
	batch->begin_ns = done->begun_ns;
	batch->end_ns = done->begun_ns + done->work_ns < now_ns ? done->begun_ns + done->work_ns : now_ns;
	end_batch(batch, instance, now_ns);
	return batch;
}

SEC("usdt")
int on_complete(struct pt_regs *ctx)
{
	__u64 now_ns = bpf_ktime_get_ns(), arguments[COMPLETION_ARGUMENTS];
	const struct completion *done = (const void *)arguments;
	struct request_key key = {};
	struct request *request;
	struct batch_times *batch;
	__u64 early_ns;

	if (!is_front() || !read_arguments(ctx, arguments, COMPLETION_ARGUMENTS))
		return 0;
	batch = ended_batch(done, now_ns);
	if ((config.client_tgid && config.knows_tgids && (__u32)done->pid != config.client_tgid) ||
	    (config.session && (__u32)done->session != config.session))
		return 0;
	key.session = done->session;
	key.lane = done->lane;
	key.position = done->position;
	key.tgid = config.knows_tgids ? done->pid : 0;
	request = request_of(&key);
	if (!request || request->complete_ns) {
		count(&counts.n_no_submit);
		return 0;
	}
	if (config.model != MODEL_NONE && (__u32)done->model != config.model) {
		request->submit_ns = 0;
		return 0;
	}
	request->model = done->model;
	request->status = done->status;
	request->instance = done->instance;
	request->batch = done->batch;
	request->complete_ns = now_ns;
	request->client_runq_ns = runq_of(request->tid, now_ns);
	if (!batch) {
		/* What was there before it is of another request. */
		__builtin_memset(request->stages, 0, sizeof(request->stages));
		split_before(request, done->accepted_ns, 0, now_ns, runq_of((__u32)bpf_get_current_pid_tgid(), now_ns));
		return 0;
	}
	early_ns = less(request->submit_ns, batch->dispatch_ns);
	split_before(request, done->accepted_ns, batch->free_ns, batch->dispatch_ns + early_ns, batch->front_runq_ns);
	request->stages[STAGE_BATCH_WAIT] = less_early(batch->wait_ns, &early_ns);
	request->stages[STAGE_EXECUTOR_RUNQ] = less_early(batch->wait_runq_ns, &early_ns);
	request->stages[STAGE_BROKER_RUNQ] += less_early(batch->late_ns, &early_ns);
	request->stages[STAGE_RUN_CPU] = batch->cpu_ns;
	request->stages[STAGE_RUN_PREEMPTED] = batch->preempted_ns;
	request->stages[STAGE_RUN_BLOCKED] = batch->blocked_ns;
	request->stages[STAGE_DONE_RUNQ] = batch->done_runq_ns;
	request->stages[STAGE_DONE] = less(now_ns - batch->end_ns, batch->done_runq_ns);
	return 0;
}

/* Global: the verifier looks at it once, and not for each value that each stage might have. */
__noinline __u32 bucket_of(__u64 ns)
{
	__u64 scaled = ns >> HISTOGRAM_LOW;
	__u32 log2 = 0;

	if (!scaled)
		return 0;
	for (__u32 shift = 32; shift; shift /= 2)
		if (scaled >> shift) {
			scaled >>= shift;
			log2 += shift;
		}
	log2 = (log2 + 1) * HISTOGRAM_STEPS + (ns >> (log2 + HISTOGRAM_LOW - 3) & (HISTOGRAM_STEPS - 1));
	return log2 < HISTOGRAM_BUCKETS ? log2 : HISTOGRAM_BUCKETS - 1;
}

static __always_inline void add(struct kernel_histograms *of, __u32 stage, __u64 ns)
{
	if (!ns)
		return;
	of->sum_ns[stage] += ns;
	if (ns > of->max_ns[stage])
		of->max_ns[stage] = ns;
	of->buckets[stage][bucket_of(ns) & (HISTOGRAM_BUCKETS - 1)]++;
}

static __always_inline void tell(const struct request *request, __u64 now_ns)
{
	struct kernel_event *event;

	if (!config.wants_events || now_ns - request->submit_ns < config.slow_ns)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count(&counts.n_dropped);
		return;
	}
	event->request = *request;
	event->wake_ns = now_ns;
	/* Who reads looks by itself now and then: woken by each request it would take the CPU from the client, 30 us each time. */
	bpf_ringbuf_submit(event, bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > EVENTS_BYTES / 4 ? BPF_RB_FORCE_WAKEUP :
												      BPF_RB_NO_WAKEUP);
}

/* How long the front was without a CPU after it had posted, and before it had woken that thread. */
static __noinline __u64 front_late_ns(__u32 tid, __u64 complete_ns, __u64 most_ns)
{
	struct thread *thread = config.has_sched ? thread_of(tid) : NULL;
	struct thread_history *front = history_of(HISTORY_FRONT);
	struct moment moment = {};
	__u64 late_ns;

	if (!thread || !front || thread->woken_ns <= complete_ns)
		return 0;
	find(front, complete_ns, &moment);
	late_ns = moment.runq_ns;
	advance(front, thread->woken_ns, &moment);
	late_ns = moment.runq_ns - late_ns;
	return late_ns < most_ns ? late_ns : most_ns;
}

SEC("usdt")
int on_wake(struct pt_regs *ctx)
{
	__u64 now_ns = bpf_ktime_get_ns(), id = bpf_get_current_pid_tgid(), runq_ns = 0, left_ns, late_ns, arguments[3];
	struct request_key key = { .tgid = config.knows_tgids ? id >> 32 : 0 };
	struct kernel_histograms *of;
	struct request *request;
	__u32 model;

	if (!read_arguments(ctx, arguments, 3))
		return 0;
	key.session = arguments[0];
	key.lane = arguments[1];
	key.position = arguments[2];
	request = request_of(&key);
	/* Not completed: of another broker, or of one whose probes were not there yet. */
	if (!request || !request->complete_ns)
		return 0;
	left_ns = now_ns - request->complete_ns;
	/* Where another thread collects than the one that submitted, only the whole is known. */
	if (request->tid == (__u32)id)
		runq_ns = less(runq_of((__u32)id, now_ns), request->client_runq_ns);
	if (runq_ns > left_ns)
		runq_ns = left_ns;
	request->stages[STAGE_CLIENT_RUNQ] = runq_ns;
	left_ns -= runq_ns;
	late_ns = left_ns > LATE_NS ? front_late_ns((__u32)id, request->complete_ns, left_ns) : 0;
	request->stages[STAGE_DONE_RUNQ] += late_ns;
	request->stages[STAGE_WAKE] = left_ns - late_ns;
	model = request->model < config.n_models ? request->model : config.n_models;
	of = bpf_map_lookup_elem(&histograms, &model);
	if (of) {
		of->n_requests++;
		for (__u32 i = 0; i < KERNEL_STAGES; i++)
			add(of, i, request->stages[i]);
		add(of, HISTOGRAM_TOTAL, now_ns - request->submit_ns);
	}
	tell(request, now_ns);
	count(&counts.n_requests);
	request->submit_ns = 0;
	return 0;
}

/* What a probe costs that does nothing: the tool's own. */
SEC("usdt")
int on_self(struct pt_regs *ctx)
{
	return 0;
}
