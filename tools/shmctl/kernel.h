/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel.h - `shmctl trace --kernel` and `shmctl latency --source=bpf`: requests followed by programs in the kernel, from the
 * outside, in release binaries that run already.
 *
 * What may be watched depends on rights and on the kernel, step by step: probes and the scheduler's typed tracepoints; probes
 * and its classic tracepoints; probes alone; the broker's statistics alone. Which it is, why, and what would give more, is
 * said on standard error.
 */
#ifndef SHMCTL_KERNEL_H
#define SHMCTL_KERNEL_H

#include "tools/shmctl/shmctl.h"
#include <sys/types.h>

#define KERNEL_PATHS_MAX 16u

/* How the scheduler is watched. */
enum kernel_sched {
	KERNEL_SCHED_BTF,	 /* typed tracepoints */
	KERNEL_SCHED_TRACEPOINT, /* classic ones */
	KERNEL_SCHED_NONE,
};

struct kernel_filter {
	const char *model; /* NULL = all */
	pid_t pid;	   /* of the client, 0 = all */
	uint64_t slow_ns;  /* requests that took at least so long */
	uint64_t duration_ns; /* 0 = until interrupted */
	uint64_t n_max;	      /* requests to show, 0 = any number */
	enum kernel_sched sched; /* the most that is tried */
	const char *client_paths[KERNEL_PATHS_MAX]; /* files with the library in them, besides those that are found */
	uint32_t n_client_paths;
};

#define KERNEL_OPTIONS_HELP                                                                             \
	"  -m, --model NAME    requests for that model alone\n"                                         \
	"  -c, --pid PID       requests of that process alone\n"                                        \
	"      --slow TIME     requests that took at least so long: 300us, 5ms, 1s\n"                   \
	"  -d, --duration S    seconds; 0: until interrupted\n"                                         \
	"  -n, --requests N    at most so many\n"                                                       \
	"      --client PATH   a program or library that has libinfclient in it, besides those that\n"  \
	"                      the broker's clients have mapped\n"                                      \
	"      --sched HOW     btf, tracepoint or none: the most that is tried\n"

/* Reads a command's own options into *filter, which holds the defaults. EXIT_OK, or what fail() returned. */
int kernel_parse(const struct options *options, int argc, char **argv, struct kernel_filter *filter);

/* A line for each request. An exit status. */
int kernel_trace(const struct options *options, const struct kernel_filter *filter);
/* A table of stages at the end. */
int kernel_latency(const struct options *options, const struct kernel_filter *filter);

/* The last step: what the broker itself counts, over filter->duration_ns. */
int kernel_statistics(const struct options *options, const struct kernel_filter *filter);

/* SIGINT and SIGTERM end what runs, and what it has is printed: from then on this is true. */
void kernel_catch_signals(void);
bool kernel_is_interrupted(void);

#endif /* SHMCTL_KERNEL_H */
