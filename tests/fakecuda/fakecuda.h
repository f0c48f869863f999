/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fakecuda.h - a CUDA driver in software: how a test runs it and what it can ask of it.
 *
 * libfakecuda.so exports the symbols of shm/device/abi.h and the functions below, which a test finds with dlsym(). Product
 * code knows neither. Without a test program it is ruled and read through the environment alone:
 *
 *	FAKECUDA_DEVICES=N		how many (1, at most 16)
 *	FAKECUDA_MEMORY=BYTES		of each (1 GiB)
 *	FAKECUDA_VERSION=N		what cuDriverGetVersion() says (13000)
 *	FAKECUDA_VMM=0			no virtual memory management
 *	FAKECUDA_POSIX_FD=0		no export as file descriptors
 *	FAKECUDA_IPC=0			no memory of cuMemAlloc in other processes
 *	FAKECUDA_READ_ONLY=0		no read-only registration of host memory
 *	FAKECUDA_DEFAULT_STREAM=1	the default stream (NULL, 1) is one like others, and so are those of threads (2)
 *
 *	FAKECUDA_COPY_NS_PER_BYTE=X	what a copy in or out takes (0: as long as it takes), or one of
 *	FAKECUDA_COPY_BYTES_PER_S=N, FAKECUDA_COPY_MBPS=N (bytes per microsecond)
 *	FAKECUDA_COPY_US=N		and this much more for each, whatever its size
 *	FAKECUDA_LAUNCH_US=N		what each kernel takes before it begins
 *	FAKECUDA_KERNEL_US=N | NAME=N,...,*=N	what a kernel takes
 *	FAKECUDA_JITTER_US=N, FAKECUDA_SEED=N	each operation begins up to so much later
 *
 *	FAKECUDA_FAULTS=CALL:N:CODE,...	the Nth call of CALL in this process (with or without its _v2) gives CODE.
 *		Fatal codes stick to the context. CODE may be
 *			hang	what is queued never ends, and its stream stops; a call that queues nothing never returns
 *			block	the call never returns, whatever it is
 *			~CODE	the call succeeds, and the error comes when what it queued runs
 *	FAKECUDA_FAULTS_ONCE=FILE	only in the first process that comes by: it makes the file
 *
 *	FAKECUDA_REPORT=FILE		violations, one a line (stderr)
 *	FAKECUDA_ABORT=1		abort() on the first
 *	FAKECUDA_LEDGER=FILE		at the end of the process, one line of JSON: struct fakecuda_ledger
 *	FAKECUDA_LEDGER_LIVE=FILE	struct fakecuda_ledger, as the last process that came by has it at this moment
 *	FAKECUDA_STATE=FILE		struct fakecuda_state, shared by all processes that name it
 *
 * A violation is a use that a real driver might let pass by luck, or that it would answer with an error: freed memory,
 * ranges that are too long, destroyed handles, wrong contexts, memory that goes while queued work uses it, work that
 * touches the same bytes without an order (race.c says how that is known), one launch whose parts do (inf_move), and pinned
 * memory that the host writes before queued work has read it (touch.c).
 *
 * Between processes it is a violation to free memory that another one has open, and to destroy an event for which another
 * one waits. Who uses memory that was freed elsewhere, or whose maker died, gets CUDA_ERROR_ILLEGAL_ADDRESS, always. Forged
 * and stale handles are errors and no violations: they are what the other process gave.
 *
 * Stricter than the real one on purpose: the default stream (NULL) is none, unless asked for; device addresses of host memory
 * are for kernels and stream_write/stream_wait, not for copies; a copy of 0 bytes is a mistake; a capture takes no
 * stream_write/stream_wait and no launch of a graph (the real one makes nodes of them, and the value stays that of the capture
 * for ever); memory that a copy or a fill in a graph needs has to be there when it is launched; of one block of another
 * process only one allocation can be open at a time. Simpler than the real one: the
 * branches of a graph run one after the other; with several devices there are no copies from one to another; nothing is
 * compiled, so any module has all kernels.
 */
#ifndef TESTS_FAKECUDA_FAKECUDA_H
#define TESTS_FAKECUDA_FAKECUDA_H

#include <stdint.h>

#define FAKECUDA_GRANULARITY (2ul << 20)

#define FAKECUDA_HANG  (-1)
#define FAKECUDA_BLOCK (-2)
#define FAKECUDA_LATE(code) (-1000 - (int)(code)) /* ~CODE */

/* X(member): what lives in this process now, and (those that say so) what happened in it so far. Scripts know the order. */
#define FAKECUDA_LEDGER(X)                                                                                  \
	X(calls)	      /* so far */                                                                  \
	X(violations)	      /* so far */                                                                  \
	X(device_bytes)	      /* of cuMemAlloc and cuMemCreate, while a handle or a mapping is here */      \
	X(allocations)	      /* of cuMemAlloc */                                                           \
	X(pinned_allocations) /* of cuMemAllocHost */                                                       \
	X(registrations)      /* of host memory */                                                          \
	X(streams)                                                                                          \
	X(events)                                                                                           \
	X(modules)                                                                                          \
	X(in_bytes)	      /* copied so far, to the device, */                                           \
	X(out_bytes)	      /* from it, */                                                                \
	X(device_copy_bytes)  /* and there; */                                                              \
	X(pageable_bytes)     /* of in_bytes and out_bytes, what was in no pinned memory */                 \
	X(kernels)	      /* run so far */                                                              \
	X(contexts)                                                                                         \
	X(imported_bytes)     /* created by somebody else, held by a handle or a mapping here */            \
	X(handles)	      /* of cuMemCreate and imports */                                              \
	X(mappings)                                                                                         \
	X(reservations)                                                                                     \
	X(pinned_bytes)	      /* allocated and registered */                                                \
	X(graphs)                                                                                           \
	X(graph_execs)                                                                                      \
	X(device_bytes_most)  /* so far */                                                                  \
	X(exported_fds)	      /* made so far; who closes them is not seen */                                \
	X(graph_launches)     /* so far */                                                                  \
	X(urgent_kernels)     /* of kernels, those on streams of more than the least priority */                        \
	X(abandoned)	      /* things that a context took along when it was released for the last time */     \
	X(opened)	      /* memory of other processes, as often as it was opened; in imported_bytes once */

struct fakecuda_ledger {
#define FAKECUDA_MEMBER(name) uint64_t name;
	FAKECUDA_LEDGER(FAKECUDA_MEMBER)
#undef FAKECUDA_MEMBER
};

/*
 * $FAKECUDA_STATE, a file of this size. Each process writes its own entry, and nobody takes one back: what a killed process
 * held stays readable. What it means then is the reader's to say: device memory of a dead process is gone, because the memfd
 * goes with its last descriptor and mapping, unless somebody else imported it (it is in that one's imported_bytes) or
 * has its descriptor open without having imported it, or one lies unread in a socket: those two are seen by nobody here.
 * An entry whose process is dead is used again when no free one is left.
 */
#define FAKECUDA_STATE_MAGIC   0x656b616661647563ull
#define FAKECUDA_STATE_ENTRIES 127

struct fakecuda_state {
	uint64_t magic, unused[3];
	struct fakecuda_state_entry {
		uint64_t pid; /* 0 = free */
		uint64_t start_ticks; /* of that process, as /proc/PID/stat has it: pids come again */
		uint64_t device_bytes, imported_bytes;
	} entries[FAKECUDA_STATE_ENTRIES];
};

void fakecuda_ledger(struct fakecuda_ledger *ledger);
/* How often it was called, with or without _v2; UINT64_MAX: there is no such call. */
uint64_t fakecuda_calls(const char *name);
/* As FAKECUDA_FAULTS; n = 0 is the next call. Returns -1 where there is no such call. */
int fakecuda_fault(const char *name, uint64_t n, int code);
/* Reads sizes, switches and delays of the environment again (not devices, faults and files). */
void fakecuda_reload(void);
/* 1: nothing that is queued begins any more; 0: it goes on. So that a test knows what has not run yet. */
void fakecuda_hold(int hold);
/* Of a stream, as it was rounded to what there is; INT_MAX: there is no such stream. */
struct CUstream_st;
int fakecuda_priority(struct CUstream_st *stream);

#endif /* TESTS_FAKECUDA_FAKECUDA_H */
