/* SPDX-License-Identifier: Apache-2.0 */
/*
 * costs.h - what the experiments of gpu_costs have in common: the device, how a figure is said, and a second process.
 *
 * An experiment is a function without parameters; main.c has the list. It says one line of JSON per figure, at once, so that
 * what it had found before it hung or died is not lost: {"name", "value", "unit"}, or {"name", "why"} where a call was
 * refused. An error after which nothing works in this process any more ends it: whoever wants the other experiments all the
 * same runs each in a process of its own (tests/gpu/bench.py).
 */
#ifndef TESTS_GPU_COSTS_H
#define TESTS_GPU_COSTS_H

#include "shm/device/driver.h"
#include <sys/types.h>

#define PAGE	      4096u
#define MIB	      (1ull << 20)
#define ROUNDS_MAX    1000u /* latencies of one row */
#define STREAM_ROUNDS 200u  /* what a stream holds without making its caller wait */
#define EXIT_LOST     3	    /* of the process: the context is of no use any more */

/* The device, after open_gpu(). One thread uses it. */
struct gpu {
	struct inf_driver driver;
	CUdevice device;
	CUcontext context; /* NULL = not opened yet */
	CUstream stream;
	CUfunction move, spin;
};
extern struct gpu gpu;
extern bool is_quick; /* little of everything: what is wanted is that it runs */

/* cuda:0, its primary context, a stream and the kernels. 0, or -1 after a row that says why not. Again = 0. */
int open_gpu(void);

uint64_t now_ns(void);

void row(const char *name, double value, const char *unit);
void row_why(const char *name, const char *why);
/* Does not return where the error is the context's. */
void row_error(const char *name, CUresult result);

/* Returns from the calling function after a row that says what was refused. */
#define TRY(name, call)                          \
	do {                                     \
		CUresult try_ = gpu.driver.call; \
		if (try_) {                      \
			row_error(name, try_);   \
			return;                  \
		}                                \
	} while (0)

/* The value below which that share of them lies; sorts them. */
double at_share(double *values, unsigned int n, double share);
/* Median and 99th percentile. */
void rows_of_latency(const char *name, double *us, unsigned int n);
const char *size_text(char text[32], uint64_t bytes);

/* A page that two processes write; each registers it in its own context. */
struct words {
	uint64_t there, back; /* by a device or a CPU of this side, of the other side */
	CUipcEventHandle event; /* of this side's */
	CUipcMemHandle memory; /* likewise */
	uint64_t open_ns, close_ns; /* what that took the other side */
	uint8_t pad[PAGE - 160];
};

/* A page of words in a new memfd, registered; NULL after a row that says why not. The caller closes *ret_fd. */
struct words *words_new(const char *name, int *ret_fd, CUdeviceptr *ret_address);
void words_free(struct words *words);

/* --- peer.c: what a client is to an executor ------------------------------------------------------------------ */

struct peer {
	pid_t pid;
	int socket_fd;
};

/* Another process of this program, which does what letters ask for and ends with this one. False after a row. */
bool peer_new(const char *name, struct peer *ret_peer);
/* Kills it; that is how all of them end. */
void peer_end(struct peer *peer);
/* A letter, with a descriptor, which stays the caller's; -1 = none that matters. */
int say(int socket_fd, char letter, int fd, uint64_t bytes);
/* The next letter, with its descriptor; 0 = the other side is gone. */
char hear(int socket_fd, int *ret_fd, uint64_t *ret_bytes);
/* What it answers when it has done what was asked. */
bool peer_says_yes(const struct peer *peer);
/* In the other process: never returns. */
void peer_main(int socket_fd) __attribute__((noreturn));

/* --- the experiments ------------------------------------------------------------------------------------------ */

enum way_back { BY_CPU_OF_PEER, BY_STREAM_OF_PEER, BY_EVENT };

/* A word by our stream to another process, and one back; `of` and `when` go into the name of the row. */
void signals_there(const char *of, const char *when, const struct peer *peer, enum way_back way);

void device_facts(void);
void e1_sharing(void);
void e2_host_memory(void);
void e3_gathers(void);
void e4_mapping(void);
void e5_signals(void);
void e6_busy_device(void);
void e7_death(void);

#endif /* TESTS_GPU_COSTS_H */
