/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake.h - a CUDA driver in software, for tests: the ABI of shm/device/abi.h, device memory that is a mapping of this
 * process, streams that are threads, and kernels that are their CPU twins.
 *
 *	calls.c    the exported symbols
 *	memory.c   device memory, pinned and registered host memory: what may be touched, by whom
 *	stream.c   queues, events, engines, the threads that run them
 *	order.c    finds operations that touch the same bytes without an order between them
 *	fault.c    errors by script, errors that stick, the report and the ledger
 *
 * It is stricter than a real driver: what that would let pass by luck is a violation here, one line in $FAKECUDA_REPORT
 * (else stderr). Not there yet: shareable memory (cuMemCreate and its kin), stream memory operations, graphs, several
 * contexts; they answer NOT_SUPPORTED.
 *
 *	FAKECUDA_DEVICES=N        how many (1)
 *	FAKECUDA_MEMORY=BYTES     of each (1 GiB)
 *	FAKECUDA_COPY_MBPS=N      bytes per microsecond of each copy engine (0: as fast as it goes)
 *	FAKECUDA_KERNEL_US=N      more time for each kernel
 *	FAKECUDA_JITTER_US=N      each operation begins up to so much later
 *	FAKECUDA_FAULTS=CALL:N:CODE,...   the Nth call of CALL in this process gives CODE ("hang": it never returns)
 *	FAKECUDA_FAULTS_ONCE=FILE only in the first process that comes by: it makes the file
 *	FAKECUDA_REPORT=FILE      violations, one a line
 *	FAKECUDA_LEDGER=FILE      struct ledger, as the last process that came by has it at this moment
 *
 * One lock for everything; operations run without it.
 */
#ifndef TESTS_FAKECUDA_FAKE_H
#define TESTS_FAKECUDA_FAKE_H

#include "shm/device/abi.h"
#include <pthread.h>
#include <stdbool.h>

#define ENTITIES 64u /* streams at once */

extern pthread_mutex_t fake_lock;

/* --- fault.c --- */

/* What there is now, and what was done. tests/gpu/device.sh knows the order. */
struct ledger {
	uint64_t calls, violations;
	uint64_t device_bytes, allocations, pinned_allocations, registrations, streams, events, modules;
	uint64_t in_bytes, out_bytes, device_copy_bytes, pageable_bytes, kernels;
};
extern struct ledger *ledger;

uint64_t setting(const char *name, uint64_t otherwise);
/* Begins a call: 0, or the error that it shall give. `needs_context`: a current one. Takes the lock on 0. */
CUresult call_begin(const char *name, bool needs_context);
CUresult call_end(CUresult result);
CUresult call_end_waiting(void); /* of a call that waited: the device may be lost by now */
/* Later calls give this error as well, and nothing that is queued runs any more, calls of the host included. */
void stick(CUresult error);
bool is_stuck(void);
/* With the lock held. */
void violation(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- memory.c --- */

enum memory_kind { MEMORY_DEVICE = 1, MEMORY_PINNED = 2, MEMORY_REGISTERED = 4 };

/* All with the lock held. */
CUresult memory_alloc(enum memory_kind kind, void **ret, size_t bytes);
CUresult memory_free(enum memory_kind kind, void *address);
CUresult memory_register(void *address, size_t bytes, bool read_only);
CUresult memory_unregister(void *address);
/* Does [address, +bytes) lie in one range of these kinds? *ret_read_only may be NULL. */
bool memory_has(unsigned int kinds, const void *address, size_t bytes, bool *ret_read_only);
/* Some of it in one of these kinds, but not all. */
bool memory_has_part(unsigned int kinds, const void *address, size_t bytes);

/* --- stream.c --- */

enum op_kind { OP_COPY_IN, OP_COPY_OUT, OP_COPY, OP_FILL, OP_KERNEL, OP_RECORD, OP_WAIT, OP_CALL };

struct touch {
	const char *address;
	size_t bytes;
	bool is_written;
};

#define TOUCHES 8u

struct clock {
	uint64_t at[ENTITIES];
};

struct op {
	struct op *next;
	enum op_kind kind;
	void *to;
	const void *from;
	size_t bytes;
	void *owned; /* freed after it ran */
	struct CUevent_st *event;
	uint64_t record; /* which of the event's */
	CUhostFn function;
	void *data;
	const struct inf_kernel *kernel;
	uint64_t params[8];
	struct touch touches[TOUCHES];
	unsigned int n_touches;
	struct clock clock;
};

struct CUstream_st {
	struct CUstream_st *next;
	pthread_t thread;
	pthread_cond_t changed;
	struct op *first, **last;
	uint64_t n_queued, n_done;
	unsigned int entity;
	struct clock clock; /* after what was queued last */
	bool is_ending;
};

struct CUevent_st {
	uint64_t n_recorded, n_done;
	struct clock clock; /* of the last record */
};

/* With the lock held. Takes a private copy of `op`. */
void stream_put(CUstream stream, const struct op *op);
CUstream stream_new(void);
void stream_end(CUstream stream);
void stream_wait_idle(CUstream stream); /* releases the lock meanwhile */
void streams_wake(void);
bool stream_is_known(const struct CUstream_st *stream);
/* Does queued work touch it? */
bool streams_use(const void *address, size_t bytes);
extern pthread_cond_t event_done;

/* --- order.c --- */

/* With the lock held. The calling host thread. */
struct clock *host_clock(void);
unsigned int entity_new(struct clock *clock);
void entity_end(unsigned int entity, const struct clock *clock); /* of an idle stream: the number may come again */
void clock_join(struct clock *clock, const struct clock *other);
/* A host function of that clock runs: every host thread may know of it from now on. */
void order_publish(const struct clock *clock);
/* Is everything that op touches ordered after whoever touched it before? */
void order_check(const struct op *op, unsigned int entity);
void order_forget(const void *address, size_t bytes);

#endif /* TESTS_FAKECUDA_FAKE_H */
