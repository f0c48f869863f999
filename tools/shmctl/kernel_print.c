/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_print.c - requests as lines, stages as a table, and what watching them cost. */
#define _GNU_SOURCE 1
#include "shm/status.h"
#include "tools/shmctl/kernel_internal.h"
#include "tools/shmctl/table.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <kernel.skel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAR 16u /* columns; each is two powers of two */

/* Programs read the first, people the second; an indented one is a part that was taken out of the one above. */
static const struct {
	const char *name, *column;
} stages[KERNEL_STAGES + 1] = {
	[STAGE_RING] = { "ring", "ring" },
	[STAGE_BROKER_ASLEEP] = { "broker_asleep", "asleep" },
	[STAGE_BROKER_RUNQ] = { "broker_runq", "+runq" },
	[STAGE_QUEUED] = { "queued", "queued" },
	[STAGE_BATCH_WAIT] = { "batch_wait", "batch" },
	[STAGE_EXECUTOR_RUNQ] = { "executor_runq", "+runq" },
	[STAGE_RUN_CPU] = { "run_cpu", "run" },
	[STAGE_RUN_PREEMPTED] = { "run_preempted", "+preem" },
	[STAGE_RUN_BLOCKED] = { "run_blocked", "+block" },
	[STAGE_DONE] = { "done", "done" },
	[STAGE_DONE_RUNQ] = { "done_runq", "+runq" },
	[STAGE_WAKE] = { "wake", "wake" },
	[STAGE_CLIENT_RUNQ] = { "client_runq", "+runq" },
	[HISTOGRAM_TOTAL] = { "total", "total" },
};

static const char *model_name(const struct kernel *kernel, uint32_t id)
{
	return id < INF_STATS_MODELS ? kernel->stats->models[id].name : "-";
}

/* --- one request ------------------------------------------------------------------------------------------------- */

static void print_event_json(const struct kernel *kernel, const struct kernel_event *event)
{
	json_t *of = json_object(), *object;

	for (unsigned int i = 0; i < KERNEL_STAGES; i++)
		json_object_set_new(of, stages[i].name, json_integer((json_int_t)event->request.stages[i]));
	object = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:I, s:I, s:I, s:o}", "schema",
			   "infbroker.kernel.trace/1", "submit_ns", (json_int_t)event->request.submit_ns, "session",
			   (json_int_t)event->request.key.session, "lane", (json_int_t)event->request.key.lane, "position",
			   (json_int_t)event->request.key.position, "pid", (json_int_t)event->request.tgid, "tid",
			   (json_int_t)event->request.tid, "model", json_text(model_name(kernel, event->request.model)),
			   "status", inf_shm_status_name(event->request.status), "instance",
			   (json_int_t)(event->request.instance < INSTANCES ? (json_int_t)event->request.instance : -1),
			   "batch", (json_int_t)(event->request.instance < INSTANCES ? (json_int_t)event->request.batch : -1), "total_ns",
			   (json_int_t)(event->wake_ns - event->request.submit_ns), "stages_ns", of);
	if (object)
		json_dumpf(object, stdout, JSON_COMPACT);
	json_decref(object);
	putchar('\n');
}

static void print_header(struct kernel *kernel)
{
	if (kernel->has_header)
		return;
	kernel->has_header = true;
	printf("%7s %8s %-12s %-8s %6s =", "SESSION", "PID", "MODEL", "STATUS", "total");
	for (unsigned int i = 0; i < KERNEL_STAGES; i++)
		printf(" %6s", stages[i].column);
	puts("  BATCH");
}

static void print_event_line(struct kernel *kernel, const struct kernel_event *event)
{
	char name[WORD_BYTES], word[WORD_BYTES];

	print_header(kernel);
	printf("%7u %8u %-12s %-8s %6s =", event->request.key.session, event->request.tgid,
	       word_name(name, model_name(kernel, event->request.model)), inf_shm_status_name(event->request.status),
	       word_short_time(word, event->wake_ns - event->request.submit_ns));
	for (unsigned int i = 0; i < KERNEL_STAGES; i++)
		printf(" %6s", word_short_time(word, event->request.stages[i]));
	if (event->request.instance < INSTANCES)
		printf("  %" PRIu64 " on %u", (uint64_t)event->request.batch, event->request.instance);
	putchar('\n');
}

int kernel_print_event(void *context, void *data, size_t bytes)
{
	struct kernel *kernel = context;

	if (bytes < sizeof(struct kernel_event) || (kernel->filter->n_max && kernel->n_shown >= kernel->filter->n_max))
		return 0;
	if (kernel->options->json)
		print_event_json(kernel, data);
	else
		print_event_line(kernel, data);
	kernel->n_shown++;
	output_flush();
	return 0;
}

/* --- the table --------------------------------------------------------------------------------------------------- */

static void merge(struct kernel_histograms *into, const struct kernel_histograms *from)
{
	into->n_requests += from->n_requests;
	for (unsigned int i = 0; i <= KERNEL_STAGES; i++) {
		into->sum_ns[i] += from->sum_ns[i];
		if (from->max_ns[i] > into->max_ns[i])
			into->max_ns[i] = from->max_ns[i];
		for (unsigned int k = 0; k < HISTOGRAM_BUCKETS; k++)
			into->buckets[i][k] += from->buckets[i][k];
	}
}

static uint64_t upper_edge_ns(uint32_t bucket)
{
	uint32_t octave = bucket / HISTOGRAM_STEPS, step = bucket % HISTOGRAM_STEPS;

	if (!octave)
		return (1u << HISTOGRAM_LOW) - 1;
	return ((uint64_t)(HISTOGRAM_STEPS + step + 1) << (octave - 1 + HISTOGRAM_LOW - 3)) - 1;
}

static uint64_t n_in(const struct kernel_histograms *of, unsigned int stage)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		n += of->buckets[stage][i];
	return n;
}

/* Of all requests: those that did not go through the stage took no time there. */
static uint64_t quantile_ns(const struct kernel_histograms *of, unsigned int stage, double q)
{
	uint64_t n = n_in(of, stage), wanted = (uint64_t)(q * (double)of->n_requests), max_ns = of->max_ns[stage];
	uint64_t seen = of->n_requests > n ? of->n_requests - n : 0;

	if (seen > wanted)
		return 0;
	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += of->buckets[stage][i];
		if (seen > wanted)
			return upper_edge_ns(i) < max_ns ? upper_edge_ns(i) : max_ns;
	}
	return max_ns;
}

/* From 64 ns on, two powers of two a column. */
static void print_bar(const uint32_t *buckets)
{
	uint64_t columns[BAR] = { 0 };

	for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint32_t octave = i / HISTOGRAM_STEPS;

		columns[octave / 2 < BAR ? octave / 2 : BAR - 1] += buckets[i];
	}
	putchar('|');
	print_plot(columns, BAR);
	puts("|");
}

static void print_model_table(const char *name, const struct kernel_histograms *of, double seconds)
{
	char word[4][WORD_BYTES];

	printf("%s  %" PRIu64 " requests in %.1f s\n", name,
	       (uint64_t)of->n_requests, seconds);
	printf("  %-16s %8s %8s %8s %8s %6s   64n 16u 4m  1s\n", "stage", "mean", "p50", "p99", "max", "share");
	for (unsigned int i = 0; i <= KERNEL_STAGES; i++) {
		printf("  %-16s %8s %8s %8s %8s %5.1f%%  ", stages[i].name,
		       word_short_time(word[0], of->sum_ns[i] / of->n_requests), word_short_time(word[1], quantile_ns(of, i, 0.5)),
		       word_short_time(word[2], quantile_ns(of, i, 0.99)), word_short_time(word[3], of->max_ns[i]),
		       100.0 * (double)of->sum_ns[i] /
			       (double)(of->sum_ns[HISTOGRAM_TOTAL] ? of->sum_ns[HISTOGRAM_TOTAL] : 1));
		print_bar(of->buckets[i]);
	}
}

static json_t *table_json(const char *name, const struct kernel_histograms *of)
{
	json_t *all = json_object();

	for (unsigned int i = 0; i <= KERNEL_STAGES; i++)
		json_object_set_new(all, stages[i].name,
				    json_pack("{s:I, s:I, s:I, s:I, s:I}", "n", (json_int_t)n_in(of, i), "sum_ns",
					      (json_int_t)of->sum_ns[i], "p50_ns", (json_int_t)quantile_ns(of, i, 0.5),
					      "p99_ns", (json_int_t)quantile_ns(of, i, 0.99), "max_ns",
					      (json_int_t)of->max_ns[i]));
	return json_pack("{s:o, s:I, s:o}", "model", json_text(name), "requests", (json_int_t)of->n_requests, "stages", all);
}

/* --- what it cost ------------------------------------------------------------------------------------------------ */

struct cost {
	uint64_t n, run_ns;
};

static void add_cost(struct cost *cost, const struct kernel *kernel, const struct bpf_program *program)
{
	struct bpf_prog_info info = { 0 };
	__u32 bytes = sizeof(info);
	int fd = bpf_program__fd(program);

	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &bytes))
		return;
	cost->n += info.run_cnt;
	if (info.run_time_ns > info.run_cnt * kernel->empty_ns)
		cost->run_ns += info.run_time_ns - info.run_cnt * kernel->empty_ns;
}

struct costs {
	struct cost probes, sched, uring;
	uint64_t n_requests; /* all, also those that are none of ours */
};

static struct costs costs_of(const struct kernel *kernel)
{
	const struct kernel_bpf *bpf = kernel->bpf;
	struct costs costs = { 0 };
	struct cost wake = { 0 };

	add_cost(&wake, kernel, bpf->progs.on_wake);
	costs.n_requests = wake.n;
	add_cost(&costs.probes, kernel, bpf->progs.on_submit);
	add_cost(&costs.probes, kernel, bpf->progs.on_complete);
	add_cost(&costs.probes, kernel, bpf->progs.on_wake);
	add_cost(&costs.sched, kernel, bpf->progs.on_switch);
	add_cost(&costs.sched, kernel, bpf->progs.on_wakeup);
	add_cost(&costs.sched, kernel, bpf->progs.on_switch_classic);
	add_cost(&costs.sched, kernel, bpf->progs.on_wakeup_classic);
	add_cost(&costs.uring, kernel, bpf->progs.on_uring_wait);
	add_cost(&costs.uring, kernel, bpf->progs.on_uring_complete);
	return costs;
}

static uint64_t per(uint64_t sum, uint64_t n)
{
	return n ? sum / n : 0;
}

static json_t *cost_json(const struct kernel *kernel)
{
	struct costs costs = costs_of(kernel);

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "probe_trap_ns", (json_int_t)kernel->trap_ns, "probes",
			 (json_int_t)costs.probes.n, "probe_programs_ns", (json_int_t)costs.probes.run_ns, "sched_programs_ns",
			 (json_int_t)(costs.sched.run_ns + costs.uring.run_ns), "requests", (json_int_t)costs.n_requests,
			 "per_request_ns",
			 (json_int_t)per(costs.probes.n * kernel->trap_ns + costs.probes.run_ns + costs.sched.run_ns +
						 costs.uring.run_ns,
					 costs.n_requests));
}

static void print_cost(const struct kernel *kernel)
{
	struct costs costs = costs_of(kernel);
	uint64_t n = costs.n_requests, traps_ns = costs.probes.n * kernel->trap_ns, sched_ns = costs.sched.run_ns + costs.uring.run_ns;
	char word[5][WORD_BYTES];

	if (!n || kernel->stats_fd < 0)
		return;
	fprintf(stderr,
		"cost per request: %.1f probes: traps %s (%s each), programs %s; scheduler and io_uring, of the whole machine: %s; in all %s\n",
		(double)costs.probes.n / (double)n, word_time(word[0], per(traps_ns, n)), word_time(word[1], kernel->trap_ns),
		word_time(word[2], per(costs.probes.run_ns, n)), word_time(word[3], per(sched_ns, n)),
		word_time(word[4], per(traps_ns + costs.probes.run_ns + sched_ns, n)));
}

void kernel_print_end(struct kernel *kernel)
{
	const struct kernel_counts *counts = &kernel->bpf->bss->counts;
	uint64_t n_requests = costs_of(kernel).n_requests; /* ours or not */

	if (counts->n_dropped)
		fprintf(stderr, "%" PRIu64 " requests were not shown: we were too slow; --slow or -m show fewer\n",
			(uint64_t)counts->n_dropped);
	if (counts->n_no_room)
		fprintf(stderr, "%" PRIu64 " requests were not followed: too many lanes at once\n", (uint64_t)counts->n_no_room);
	if (counts->n_no_submit)
		fprintf(stderr, "%" PRIu64 " requests ended whose submission was not seen: in flight when we began, or of a "
				"client whose library is not watched (--client PATH)\n", (uint64_t)counts->n_no_submit);
	if (counts->n_too_old)
		fprintf(stderr, "%" PRIu64 " times a thread's history did not go back far enough: parts of run queues are "
				"missing\n", (uint64_t)counts->n_too_old);
	if (n_requests && counts->n_parks)
		fprintf(stderr, "the front waited in io_uring %.2f times a request, and was told %.2f events\n",
			(double)counts->n_parks / (double)n_requests, (double)counts->n_cqes / (double)n_requests);
	print_cost(kernel);
}

static json_t *counts_json(const struct kernel *kernel)
{
	const struct kernel_counts *counts = &kernel->bpf->bss->counts;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "no_submit", (json_int_t)counts->n_no_submit, "no_room",
			 (json_int_t)counts->n_no_room, "dropped", (json_int_t)counts->n_dropped, "too_old",
			 (json_int_t)counts->n_too_old, "parks", (json_int_t)counts->n_parks, "cqes",
			 (json_int_t)counts->n_cqes);
}

int kernel_print_table(struct kernel *kernel)
{
	static const char *const words[] = {
		[KERNEL_SCHED_BTF] = "btf", [KERNEL_SCHED_TRACEPOINT] = "tracepoint", [KERNEL_SCHED_NONE] = "none"
	};
	uint32_t n_models = kernel->bpf->bss->config.n_models, n_seen = 0;
	int n_cpus = libbpf_num_possible_cpus(), fd = bpf_map__fd(kernel->bpf->maps.histograms);
	struct kernel_histograms *of = calloc((size_t)(n_cpus > 0 ? n_cpus : 1) + 1, sizeof(*of));
	json_t *models = json_array();
	const char *name;

	for (uint32_t i = 0; of && n_cpus > 0 && i <= n_models; i++) {
		if (bpf_map_lookup_elem(fd, &i, of + 1))
			continue;
		memset(of, 0, sizeof(*of));
		for (int cpu = 0; cpu < n_cpus; cpu++)
			merge(of, of + 1 + cpu);
		if (!of->n_requests)
			continue;
		name = model_name(kernel, i < n_models ? i : MODEL_NONE);
		if (!kernel->options->json)
			print_model_table(name, of, (double)(kernel->end_ns - kernel->begin_ns) / 1e9);
		else
			json_array_append_new(models, table_json(name, of));
		n_seen++;
	}
	free(of);
	if (kernel->options->json)
		return print_json(kernel->options, "kernel.latency",
				  json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "source", "bpf", "sched", words[kernel->sched],
					    "duration_ns", (json_int_t)(kernel->end_ns - kernel->begin_ns), "models", models,
					    "not_seen", counts_json(kernel), "cost", cost_json(kernel)));
	json_decref(models);
	if (!n_seen)
		puts("no requests");
	return EXIT_OK;
}
