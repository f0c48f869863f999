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
	uint32_t session;  /* 0 = all */
	uint64_t slow_ns;  /* requests that took at least so long */
	uint64_t duration_ns; /* 0 = until interrupted */
	uint64_t n_max;	      /* requests to show, 0 = any number */
	enum kernel_sched sched; /* the most that is tried */
	const char *client_paths[KERNEL_PATHS_MAX]; /* files with the library in them, besides those that are found */
	uint32_t n_client_paths;
	bool is_asked; /* --sched or --client was given */
};

/* What --sched and --client take: EXIT_OK, or EXIT_USAGE after an error line. */
int kernel_take_sched(const struct options *options, struct kernel_filter *filter, const char *text);
int kernel_take_client(const struct options *options, struct kernel_filter *filter, const char *path);
/* What both commands say of them in --help. */
#define KERNEL_SCHEDS	   "btf|tracepoint|none"
#define KERNEL_SCHED_TEXT  "with the kernel's programs: how the scheduler is watched, at most"
#define KERNEL_CLIENT_TEXT "with the kernel's programs: a file that has libinfclient in it, besides\nthose that clients have mapped"

/* A line for each request. An exit status. */
int kernel_trace(const struct options *options, const struct kernel_filter *filter);
/* A table of stages at the end. */
int kernel_latency(const struct options *options, const struct kernel_filter *filter);

/* The last steps: what the broker itself traces (trace.c) and counts, over filter->duration_ns (latency.c). */
int kernel_requests(const struct options *options, const struct kernel_filter *filter);
int kernel_statistics(const struct options *options, const struct kernel_filter *filter);

#endif /* SHMCTL_KERNEL_H */
