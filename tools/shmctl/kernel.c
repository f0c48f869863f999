/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel.c - follows requests from the kernel until it is told to stop; tools/bpf/kernel.bpf.c does the work.
 *
 * Histograms are kept in the kernel, so that a table costs the same at any rate; single requests come through a ring buffer,
 * and what it has no room for is counted. A broker that ends is waited for, and its successor is watched.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/kernel.h"
#include "tools/shmctl/kernel_internal.h"
#include "tools/shmctl/stats.h"
#include <bpf/libbpf.h>
#include <errno.h>
#include <kernel.skel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_MS 50
#define REFRESH_NS 200000000u

static bool is_over(const struct kernel *kernel, bool wants_events, uint64_t now_ns)
{
	const struct kernel_filter *filter = kernel->filter;
	uint64_t n = wants_events ? kernel->n_shown : kernel->bpf->bss->counts.n_requests;

	return is_interrupted() || ferror(stdout) || !output_is_read(0) ||
	       (filter->duration_ns && now_ns >= kernel->begin_ns + filter->duration_ns) || (filter->n_max && n >= filter->n_max);
}

static void follow(struct kernel *kernel, struct ring_buffer *ring)
{
	uint64_t refreshed_ns = monotonic_ns(), now_ns = refreshed_ns;
	char why[256];

	for (; !is_over(kernel, ring, now_ns); now_ns = monotonic_ns()) {
		/* Woken only where much has come; else we look. */
		if (ring) {
			ring_buffer__poll(ring, POLL_MS);
			ring_buffer__consume(ring);
		} else {
			pause_briefly();
		}
		if (now_ns - refreshed_ns >= REFRESH_NS) {
			refreshed_ns = now_ns;
			if (kernel_refresh(kernel, why, sizeof(why)))
				fprintf(stderr, "shmctl %s: %s\n", kernel->options->command, why);
		}
	}
	kernel->end_ns = now_ns;
	if (ring)
		ring_buffer__consume(ring);
}

static void say_what(const struct kernel *kernel)
{
	static const char *const words[] = {
		[KERNEL_SCHED_BTF] = "probes, and the scheduler's typed tracepoints",
		[KERNEL_SCHED_TRACEPOINT] = "probes, and the scheduler's classic tracepoints",
		[KERNEL_SCHED_NONE] = "probes alone",
	};

	fprintf(stderr, "shmctl %s: broker pid %u; source: %s\n", kernel->options->command, kernel->stats->head.pid,
		words[kernel->sched]);
}

static int run(struct kernel *kernel, bool wants_events)
{
	struct ring_buffer *ring = NULL;

	if (wants_events) {
		ring = ring_buffer__new(bpf_map__fd(kernel->bpf->maps.events), kernel_print_event, kernel, NULL);
		if (!ring)
			return fail(kernel->options, EXIT_UNHEALTHY, "no ring buffer: %s", strerror(errno));
	}
	say_what(kernel);
	catch_interrupts();
	kernel->begin_ns = monotonic_ns();
	kernel->bpf->bss->config.wants_events = wants_events;
	follow(kernel, ring);
	ring_buffer__free(ring);
	return EXIT_OK;
}

/* One that was gone at the end may have been for long. */
static int status_of(const struct kernel *kernel, int status)
{
	return status == EXIT_OK && kernel->is_gone ? EXIT_NOT_RUNNING : status;
}

/* Loads and watches; where that is not to be, -1 with the reason said. Else an exit status. */
static int watch(struct kernel *kernel, bool wants_events, int *ret_status, char *why, size_t why_bytes)
{
	int r;

	kernel->stats = stats_open(kernel->options, kernel->socket_path, ret_status);
	if (!kernel->stats)
		return 0;
	if (stats_life(&kernel->stats->head) == LIFE_GONE) {
		*ret_status = fail(kernel->options, EXIT_NOT_RUNNING, "the broker at %s is gone; start infbroker anew",
				   kernel->socket_path);
		return 0;
	}
	*ret_status = kernel->filter->model ? stats_must_have_model(kernel->options, kernel->stats, kernel->filter->model) : EXIT_OK;
	if (*ret_status)
		return 0;
	if (stats_life(&kernel->stats->head) == LIFE_STOPPED)
		fprintf(stderr, "shmctl %s: the broker is stopped (pid %u): nothing happens before kill -CONT %u\n",
			kernel->options->command, kernel->stats->head.pid, kernel->stats->head.pid);
	r = kernel_load(kernel, why, why_bytes);
	*ret_status = r ? r : run(kernel, wants_events);
	return r ? -1 : 1;
}

static struct kernel *kernel_new(const struct options *options, const struct kernel_filter *filter)
{
	struct kernel *kernel = calloc(1, sizeof(*kernel));

	if (!kernel)
		return NULL;
	kernel->options = options;
	kernel->filter = filter;
	kernel->stats_fd = -1;
	return kernel;
}

static void kernel_free(struct kernel *kernel)
{
	if (kernel->bpf)
		kernel_unload(kernel);
	stats_close(kernel->stats);
	free(kernel);
}

int kernel_trace(const struct options *options, const struct kernel_filter *filter)
{
	struct kernel *kernel = kernel_new(options, filter);
	char why[512] = "";
	int r, status;

	if (!kernel)
		return fail(options, EXIT_UNHEALTHY, "out of memory");
	r = watch(kernel, true, &status, why, sizeof(why));
	if (r > 0) {
		kernel_print_end(kernel);
		status = status_of(kernel, status);
	}
	kernel_free(kernel);
	if (r >= 0)
		return status;
	fprintf(stderr, "shmctl %s: %s\nshmctl %s: source: the broker's own trace\n", options->command, why, options->command);
	return kernel_requests(options, filter);
}

int kernel_latency(const struct options *options, const struct kernel_filter *filter)
{
	struct kernel *kernel = kernel_new(options, filter);
	char why[512] = "";
	int r, status;

	if (!kernel)
		return fail(options, EXIT_UNHEALTHY, "out of memory");
	r = watch(kernel, false, &status, why, sizeof(why));
	if (r > 0 && !status) {
		status = kernel_print_table(kernel);
		kernel_print_end(kernel);
		status = status_of(kernel, status);
	}
	kernel_free(kernel);
	if (r >= 0)
		return status;
	fprintf(stderr, "shmctl %s: %s\nshmctl %s: source: the broker's statistics alone\n", options->command, why,
		options->command);
	return kernel_statistics(options, filter);
}
