/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what a round came to: quantiles are exact as long as all latencies were kept. */
#include "tools/infbench/infbench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BARS	     56 /* characters of the longest bar */
#define BIN_RATIO    1.25
#define HISTOGRAM_ROWS_MAX 40

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double quantile_us(const struct report *report, double q)
{
	uint64_t at = (uint64_t)(q * (double)report->n_sorted);

	if (!report->n_sorted)
		return 0;
	return report->sorted_ns[at < report->n_sorted ? at : report->n_sorted - 1] / 1000.0;
}

/* A worker that had to thin its latencies out stands for more requests than it kept: all workers
 * are thinned alike, to the share that the busiest one kept. */
static void merge(struct report *report, const struct board *board)
{
	double share = 1;
	uint64_t n = 0;

	for (uint32_t i = 0; i < board->n_workers; i++) {
		uint64_t n_samples = board->tallies[i].n_samples;

		if (n_samples > SAMPLES_MAX && (double)SAMPLES_MAX / (double)n_samples < share)
			share = (double)SAMPLES_MAX / (double)n_samples;
	}
	for (uint32_t i = 0; i < board->n_workers; i++) {
		const struct tally *tally = &board->tallies[i];
		uint64_t n_kept = tally->n_samples < SAMPLES_MAX ? tally->n_samples : SAMPLES_MAX;
		uint64_t n_taken = (uint64_t)(share * (double)tally->n_samples);

		if (n_taken > n_kept)
			n_taken = n_kept;
		memcpy(report->sorted_ns + n, tally->samples_ns, n_taken * sizeof(uint32_t));
		n += n_taken;
	}
	report->n_sorted = n;
	qsort(report->sorted_ns, n, sizeof(uint32_t), compare);
}

void report_make(struct report *report, const struct board *board)
{
	uint64_t sum_ns = 0, max_ns = 0, cpu_ns = 0, longest_ns = 0;

	*report = (struct report){ 0 };
	report->sorted_ns = malloc((size_t)board->n_workers * SAMPLES_MAX * sizeof(uint32_t));
	for (uint32_t i = 0; i < board->n_workers; i++) {
		const struct tally *tally = &board->tallies[i];

		report->n_requests += tally->n_requests;
		report->n_samples += tally->n_samples;
		sum_ns += tally->sum_ns;
		cpu_ns += tally->cpu_ns;
		if (tally->max_ns > max_ns)
			max_ns = tally->max_ns;
		if (tally->elapsed_ns > longest_ns)
			longest_ns = tally->elapsed_ns;
		if (tally->elapsed_ns)
			report->rate +=
				(double)tally->n_requests * 1e9 / (double)tally->elapsed_ns;
		for (uint32_t k = 0; k < STATUSES_MAX; k++)
			report->n_status[k] += tally->n_status[k];
	}
	report->n_errors = report->n_requests - report->n_status[INF_OK];
	report->seconds = (double)longest_ns / 1e9;
	report->client_cpu_s = (double)cpu_ns / 1e9;
	report->max_us = (double)max_ns / 1000;
	if (report->n_samples)
		report->mean_us = (double)sum_ns / (double)report->n_samples / 1000;
	if (!report->sorted_ns)
		return;
	merge(report, board);
	report->p50_us = quantile_us(report, 0.50);
	report->p90_us = quantile_us(report, 0.90);
	report->p99_us = quantile_us(report, 0.99);
	report->p999_us = quantile_us(report, 0.999);
}

void report_free(struct report *report)
{
	free(report->sorted_ns);
	report->sorted_ns = NULL;
}

/* --- histogram: bins of equal ratio --- */

struct bin {
	double upper_us;
	uint64_t n;
};

/* The next bin that holds something; `at` is the first latency that is in none yet. */
static bool next_bin(const struct report *report, uint64_t *at, struct bin *bin)
{
	uint64_t begin = *at;

	if (begin >= report->n_sorted)
		return false;
	while (report->sorted_ns[begin] / 1000.0 > bin->upper_us)
		bin->upper_us *= BIN_RATIO;
	while (*at < report->n_sorted && report->sorted_ns[*at] / 1000.0 <= bin->upper_us)
		++*at;
	bin->n = *at - begin;
	return true;
}

static void print_histogram(const struct report *report)
{
	struct bin bin = { .upper_us = 0.05 };
	uint64_t at = 0, most = 1;
	uint32_t n_rows = 0;

	while (next_bin(report, &at, &bin))
		most = bin.n > most ? bin.n : most;
	at = 0;
	bin = (struct bin){ .upper_us = 0.05 };
	while (n_rows++ < HISTOGRAM_ROWS_MAX && next_bin(report, &at, &bin)) {
		int length = (int)lround((double)bin.n * BARS / (double)most);

		printf("  <= %10.2f us %7.3f %%  ", bin.upper_us,
		       100.0 * (double)bin.n / (double)report->n_sorted);
		for (int i = 0; i < length; i++)
			fputs("\u2588", stdout);
		putchar('\n');
	}
}

/* --- text --- */

void report_text(const struct report *report, const struct options *options)
{
	printf("%s: %u process%s x %u thread%s x depth %u, ", options->ping ? "ping" : options->model,
	       options->n_processes, options->n_processes == 1 ? "" : "es", options->n_threads,
	       options->n_threads == 1 ? "" : "s", options->ping ? 1 : options->depth);
	if (options->trace_path)
		printf("open loop after %s", options->trace_path);
	else if (options->rate > 0)
		printf("open loop, %.0f requests/s%s", options->rate,
		       options->poisson ? " (Poisson)" : "");
	else
		printf("closed loop");
	printf(", %.2f s\n", report->seconds);
	printf("  requests     %llu, %.0f /s, %llu errors, %.2f us of CPU each in the clients\n",
	       (unsigned long long)report->n_requests, report->rate,
	       (unsigned long long)report->n_errors,
	       report->n_requests ? report->client_cpu_s * 1e6 / (double)report->n_requests : 0.0);
	for (uint32_t k = 1; k < STATUSES_MAX; k++)
		if (report->n_status[k])
			printf("  %-12s %llu: %s\n", inf_status_name((enum inf_status)k),
			       (unsigned long long)report->n_status[k],
			       inf_status_text((enum inf_status)k));
	printf("  latency us   mean %.2f   p50 %.2f   p90 %.2f   p99 %.2f   p99.9 %.2f   max %.2f\n",
	       report->mean_us, report->p50_us, report->p90_us, report->p99_us, report->p999_us,
	       report->max_us);
	if (options->histogram)
		print_histogram(report);
}

/* --- JSON --- */

json_t *report_json(const struct report *report, const struct options *options)
{
	json_t *statuses = json_object(), *histogram = json_array();
	struct bin bin = { .upper_us = 0.05 };
	uint64_t at = 0;

	for (uint32_t k = 0; k < STATUSES_MAX; k++)
		if (report->n_status[k])
			json_object_set_new(statuses, inf_status_name((enum inf_status)k),
					    json_integer((json_int_t)report->n_status[k]));
	while (next_bin(report, &at, &bin))
		json_array_append_new(histogram, json_pack("[f, I]", bin.upper_us, (json_int_t)bin.n));
	return json_pack(
		"{s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:I, s:I, s:f, s:f, s:o, "
		"s:{s:f, s:f, s:f, s:f, s:f, s:f}, s:o}",
		"model", options->ping ? "" : options->model, "processes", (int)options->n_processes,
		"threads", (int)options->n_threads, "depth", (int)(options->ping ? 1 : options->depth),
		"rows", (int)options->rows, "asked_rate", options->rate, "seconds", report->seconds,
		"requests", (json_int_t)report->n_requests, "errors", (json_int_t)report->n_errors,
		"rate", report->rate, "client_cpu_s", report->client_cpu_s, "statuses", statuses,
		"latency_us", "mean", report->mean_us, "p50", report->p50_us, "p90", report->p90_us,
		"p99", report->p99_us, "p999", report->p999_us, "max", report->max_us, "histogram_us",
		histogram);
}
