/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - `shmctl status`: one screen about the broker, from its statistics file alone. */
#define _GNU_SOURCE 1
#include "shm/status.h"
#include "tools/shmctl/shmctl.h"
#include "tools/shmctl/stats.h"
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char *executor_word(const struct inf_stats_public *stats)
{
	static const char *const words[] = {
		[INF_STATS_EXECUTOR_NONE] = "none",	[INF_STATS_EXECUTOR_STARTING] = "starting",
		[INF_STATS_EXECUTOR_READY] = "ready",	[INF_STATS_EXECUTOR_WAITING] = "waiting",
		[INF_STATS_EXECUTOR_FAILED] = "failed",
	};

	if (stats_executor_is_stopped(stats))
		return "stopped";
	return stats->executor_state < sizeof(words) / sizeof(words[0]) ? words[stats->executor_state] : "?";
}

static const char *draining_word(uint32_t draining)
{
	if (draining == INF_STATS_DRAINS)
		return ", drains: new requests are refused until shmctl resume";
	return draining ? ", ends when nothing is in flight" : "";
}

/* Limits are bytes where their name says so: the file has no units. */
static bool is_bytes(const char *limit_name)
{
	return strstr(limit_name, "memory") || !strcmp(limit_name, "region_max");
}

static void count_models(const struct inf_stats_public *stats, unsigned int n[INF_MODEL_FAILED + 1])
{
	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		uint32_t state = stats->models[i].state;

		if (stats->models[i].name[0] && state <= INF_MODEL_FAILED)
			n[state]++;
	}
}

static int print_as_json(const struct options *options, const struct inf_stats_public *stats,
			 enum life life, const char *path)
{
	unsigned int n_models[INF_MODEL_FAILED + 1] = { 0 };
	json_t *statuses = json_object(), *limits = json_object();

	count_models(stats, n_models);
	for (uint32_t i = 0; i < INF_STATUS_N; i++)
		json_object_set_new(statuses, inf_shm_status_name(i),
				    json_integer((json_int_t)stats->n_status[i]));
	for (unsigned int i = 0; i < INF_STATS_LIMITS && stats->limits[i].name[0]; i++)
		json_object_set_new(limits, stats->limits[i].name,
				    json_pack("{s:I,s:I}", "limit",
					      (json_int_t)stats->limits[i].limit, "used",
					      (json_int_t)stats->limits[i].used));
	return print_json(
		options, "status",
		json_pack(
			"{s:s, s:o, s:i, s:o, s:o, s:I, s:b, s:i, s:i,"
			" s:{s:s, s:i, s:o, s:o, s:i, s:I, s:I},"
			" s:{s:I, s:I, s:I, s:I}, s:{s:i, s:i, s:i}, s:o, s:I, s:I, s:I, s:I, s:o}",
			"state", life_word(life), "socket", json_text(path), "pid", (int)stats->head.pid,
			"version", json_text(stats->version_text), "loop",
			json_string(stats->loop[0] == 'e' ? "epoll" : "io_uring"), "uptime_ns",
			(json_int_t)(life == LIFE_GONE ? 0 : stats_now_ns() - stats->head.start_ns),
			"draining", stats->draining != INF_STATS_SERVES, "wake_ns", (int)stats->wake_ns,
			"spin_ns", (int)stats->spin_ns,
			/* executor */
			"executor", "state", executor_word(stats),
			"pid", (int)stats->executor_pid, "device",
			json_text(stats->device), "device_asked",
			json_text(stats->device_asked), "instances",
			(int)stats->n_instances, "generation",
			(json_int_t)stats->executor_generation, "deaths",
			(json_int_t)stats->n_executor_deaths,
			/* sessions */
			"sessions", "now", (json_int_t)stats->n_sessions, "total",
			(json_int_t)stats->n_sessions_total, "ended_by_broker",
			(json_int_t)stats->n_sessions_ended, "device_bytes",
			(json_int_t)stats->device_bytes,
			/* models */
			"models", "ready", (int)n_models[INF_MODEL_READY], "loading",
			(int)n_models[INF_MODEL_LOADING], "failed", (int)n_models[INF_MODEL_FAILED],
			/* counters */
			"requests", statuses, "pings", (json_int_t)stats->n_pings,
			"wakes", (json_int_t)stats->n_wakes, "parks",
			(json_int_t)stats->n_parks, "log_lines_dropped",
			(json_int_t)stats->n_log_dropped, "limits", limits));
}

static void print_requests(const struct inf_stats_public *stats)
{
	bool any = false;

	printf("requests  ");
	for (uint32_t i = 0; i < INF_STATUS_N; i++) {
		uint64_t n = stats->n_status[i];

		if (n)
			printf("%s%s %" PRIu64, any ? ", " : "", inf_shm_status_name(i), n);
		any |= n != 0;
	}
	printf("%s\n", any ? "" : "none yet");
}

static void print_limits(const struct inf_stats_public *stats)
{
	char used[WORD_BYTES], limit[WORD_BYTES];

	printf("limits    %-22s %12s %12s\n", "", "used", "limit");
	for (unsigned int i = 0; i < INF_STATS_LIMITS && stats->limits[i].name[0]; i++) {
		const struct inf_stats_limit *entry = &stats->limits[i];
		uint64_t n = entry->used;

		if (is_bytes(entry->name)) {
			word_bytes(used, n);
			word_bytes(limit, entry->limit);
		} else {
			snprintf(used, sizeof(used), "%" PRIu64, n);
			snprintf(limit, sizeof(limit), "%" PRIu64, entry->limit);
		}
		printf("          %-22s %12s %12s\n", entry->name, n ? used : "-", limit);
	}
}

static void print_for_people(const struct inf_stats_public *stats, enum life life, const char *path)
{
	char up[WORD_BYTES], name[WORD_BYTES], held[WORD_BYTES];
	unsigned int n_models[INF_MODEL_FAILED + 1] = { 0 };

	count_models(stats, n_models);
	word_time(up, stats_now_ns() - stats->head.start_ns);
	printf("broker    %s, pid %" PRIu32 ", version %s, loop %s%s%s%s\n", life_word(life),
	       stats->head.pid, word_name(name, stats->version_text),
	       stats->loop[0] == 'e' ? "epoll" : "io_uring", life == LIFE_GONE ? "" : ", up ",
	       life == LIFE_GONE ? "" : up, draining_word(stats->draining));
	printf("socket    %s\n", path);
	if (stats->models_path[0])
		printf("models    %s: ", stats->models_path);
	else
		printf("models    ");
	printf("%u ready, %u loading, %u failed\n", n_models[INF_MODEL_READY],
	       n_models[INF_MODEL_LOADING], n_models[INF_MODEL_FAILED]);
	printf("executor  %s, pid %" PRIu32 ", device %s, %" PRIu32
	       " instance(s), generation %" PRIu64 ", %" PRIu64 " death(s)\n",
	       executor_word(stats), stats->executor_pid,
	       word_name(name, stats->device), stats->n_instances,
	       stats->executor_generation, stats->n_executor_deaths);
	printf("sessions  %" PRIu64 " now, %" PRIu64 " in all, %" PRIu64 " ended by the broker",
	       stats->n_sessions, stats->n_sessions_total,
	       stats->n_sessions_ended);
	if (stats_has_device(stats))
		printf(", %s of device memory", word_bytes(held, stats->device_bytes));
	putchar('\n');
	if (stats->device_asked[0] && !strcmp(stats->device, "cpu"))
		printf("note      --device %s was asked for, and cannot be used: the broker's log says why\n",
		       word_name(name, stats->device_asked));
	if (stats_has_device(stats))
		puts("note      models on a device are proven on a CUDA driver in software; no GPU has run them yet");
	printf("waiting   looks for work for %.1f us before it sleeps; a wake-up takes %.1f us here\n",
	       stats->spin_ns / 1e3, stats->wake_ns / 1e3);
	print_requests(stats);
	print_limits(stats);
}

static int run(const struct options *options, int argc, char **argv)
{
	const struct inf_stats_public *stats;
	char path[PATH_MAX];
	enum life life;
	bool is_failed;
	int r;

	r = no_arguments(options, argc, argv);
	if (r)
		return r;
	stats = stats_open(options, path, &r);
	if (!stats)
		return r;
	life = stats_life(&stats->head);
	is_failed = stats->executor_state == INF_STATS_EXECUTOR_FAILED || stats_executor_is_stopped(stats);
	r = EXIT_OK;
	if (options->json)
		r = print_as_json(options, stats, life, path);
	else
		print_for_people(stats, life, path);
	stats_close(stats);
	if (r)
		return r;
	if (life == LIFE_GONE)
		return EXIT_NOT_RUNNING;
	return (life == LIFE_RUNNING || life == LIFE_SNAPSHOT) && !is_failed ? EXIT_OK : EXIT_UNHEALTHY;
}

const struct command command_status = {
	.name = "status",
	.summary = "the broker on one screen; also when it is stopped or gone",
	.usage = "Usage: shmctl status [-j]\n"
		 "State of the broker, its executor, sessions, requests by how they ended, limits. "
		 "Reads the statistics file\n"
		 "beside the socket and needs no answer from the broker: a stopped or killed one "
		 "is shown as it was.\n"
		 "Exit status 1: it or its executor is stopped, or none can be started; 3: gone.\n",
	.run = run,
};
