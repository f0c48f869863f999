/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel_internal.h - the parts of kernel.c: what is attached to what (kernel_attach.c), and how it looks (kernel_print.c).
 */
#ifndef SHMCTL_KERNEL_INTERNAL_H
#define SHMCTL_KERNEL_INTERNAL_H

#include "shm/layout.h"
#include "shm/stats.h"
#include "tools/bpf/kernel.h"
#include "tools/shmctl/kernel.h"
#include <limits.h>
#include <sys/stat.h>

#define FILES_MAX 512u

struct kernel_bpf;
struct bpf_link;

/* A file that was looked at, and what holds on to its probes (NULL = none of ours). */
struct watched_file {
	dev_t device;
	ino_t inode;
	struct bpf_link *links[2];
};

struct kernel {
	const struct options *options;
	const struct kernel_filter *filter;
	struct kernel_bpf *bpf;
	const struct inf_stats_public *stats; /* of the broker that is watched */
	char socket_path[PATH_MAX];
	bool is_gone;	   /* that one is, and no other has come */
	bool is_namespace; /* we are in a pid namespace: the kernel's process ids are others */
	enum kernel_sched sched;
	struct watched_file files[FILES_MAX];
	uint32_t n_files;
	uint32_t followed[HISTORIES]; /* thread ids, 0 = none */
	struct bpf_link *links[4];
	uint32_t n_links;
	int stats_fd; /* the kernel counts run times while it is open */
	uint64_t trap_ns; /* what a probe costs that does nothing; 0 = not measured */
	uint64_t empty_ns; /* how long its program runs, as the kernel counts it: in trap_ns already */
	uint64_t begin_ns, end_ns;
	uint64_t n_shown;
	bool has_header;
};

/* --- kernel_attach.c --- */

/* Loads the programs, as many as may be, and says on standard error what is left out. EXIT_OK, or an exit status without a
 * word said and the reason in `why`: statistics are left. */
int kernel_load(struct kernel *kernel, char *why, size_t why_bytes);
/* The broker and its clients as they are now: attaches to what is new, follows its threads. To be called now and then. */
int kernel_refresh(struct kernel *kernel, char *why, size_t why_bytes);
void kernel_unload(struct kernel *kernel);

/* --- kernel_print.c --- */

/* For ring_buffer__new(); the context is the struct kernel. */
int kernel_print_event(void *context, void *data, size_t bytes);
/* EXIT_OK, or EXIT_UNHEALTHY where nothing was seen. */
int kernel_print_table(struct kernel *kernel);
/* What was not seen, and what it all cost. */
void kernel_print_end(struct kernel *kernel);

#endif /* SHMCTL_KERNEL_INTERNAL_H */
