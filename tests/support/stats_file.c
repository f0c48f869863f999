/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats_file.c - statistics files of a broker that there is not: SOCKET.stats and SOCKET.stats.UID with as many sessions as one likes,
 * written by the process PID (alive or not). All figures follow from the number of the session, so that a test knows them.
 *
 *   stats_file SOCKET N_SESSIONS PID [STEP [spin]]
 *
 * STEP (1 = the default) times as much has happened: two files that differ in it give rates. Written anew and renamed, as the
 * broker does. With spin it goes on for ever to write events, as the broker does: each letter of the text of event N follows from N.
 */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "shm/stats.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define N_MODELS 8u

static uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void head_fill(struct inf_stats_head *head, uint32_t pid, size_t n_bytes)
{
	char state;

	*head = (struct inf_stats_head){ .magic = INF_STATS_MAGIC, .version = INF_STATS_VERSION, .bytes = (uint32_t)n_bytes, .pid = pid,
					 .uid = geteuid(), .start_ns = 1000000000u, .beat_ns = monotonic_ns() };
	if (inf_stats_process(pid, &state, &head->start_ticks) < 0)
		head->start_ticks = 1;
}

static void model_fill(struct inf_stats_model *model, unsigned int i, uint64_t step)
{
	snprintf(model->name, sizeof(model->name), "model%u", i);
	model->model_version = 1;
	model->state = INF_MODEL_READY;
	model->batch_max = 64;
	model->n_requests = model->n_rows = 1000 * step;
	model->n_batches = 100 * step;
	model->n_errors = i == 3 ? 86900 : i;
	for (uint64_t k = 0; k < 1000 * step; k++)
		inf_histogram_add(&model->stages[INF_STAGE_SERVED], 1000000);
	for (uint64_t k = 0; k < 100 * step; k++) {
		inf_histogram_add(&model->stages[INF_STAGE_QUEUE], 200000);
		inf_histogram_add(&model->stages[INF_STAGE_WAIT], 100000);
		inf_histogram_add(&model->stages[INF_STAGE_RUN], 500000);
		inf_histogram_add(&model->batch, 500000);
	}
}

static void session_fill(struct inf_stats_session *session, uint32_t i, uint64_t step)
{
	session->id = i + 1;
	session->pid = 100000 + i;
	session->uid = geteuid();
	snprintf(session->name, sizeof(session->name), i % 50 ? "client%u" : i % 100 ? "csi\xc2\x9b%u\x7f" : "bad\033[2J\t%u\xff", i);
	session->connected_ns = 2000000000u;
	session->n_lanes = 2;
	session->request_bytes = 1 << 20;
	session->n_requests = 100 * step;
	session->start = 1000;
	for (unsigned int k = 0; k < INF_LANES; k++)
		session->lanes[k] = (struct inf_stats_lane){ .accepted = 1000 + (k < 2) * 50 * step, .posted = 1000 + (k < 2) * 50 * step,
							     .unread = 50 };
	session->regions[0] = (struct inf_stats_region){ .used = 1, .kind = INF_REGION_REQUEST, .state = 2, .bytes = 1 << 20 };
	session->handles[0] = (struct inf_stats_handle){ .model = i % N_MODELS + 1, .depth = 8, .n_requests = 100 * step };
	for (uint64_t k = 0; k < 100 * step; k++)
		inf_coarse_add_weighted(&session->served, 1000000, 1);
	session->used = 1;
}

static void public_fill(struct inf_stats_public *stats, uint32_t pid, uint64_t n_sessions, uint64_t step)
{
	head_fill(&stats->head, pid, sizeof(*stats));
	snprintf(stats->version_text, sizeof(stats->version_text), "0.0.0");
	snprintf(stats->loop, sizeof(stats->loop), "epoll");
	snprintf(stats->device, sizeof(stats->device), "cpu");
	stats->executor_state = INF_STATS_EXECUTOR_READY;
	stats->n_instances = 2;
	stats->n_sessions = n_sessions;
	stats->n_status[INF_OK] = 1000 * N_MODELS * step;
	snprintf(stats->limits[0].name, sizeof(stats->limits[0].name), "jobs_max");
	stats->limits[0].used = 3;
	for (unsigned int i = 0; i < 2; i++)
		stats->instances[i] = (struct inf_stats_instance){ .used = 1, .model = i, .rows = 8, .dispatched_ns = 5000000000u,
								   .n_batches = 50 * step, .n_rows = 500 * step, .busy_ns = 1000000 * step };
	for (unsigned int i = 0; i < N_MODELS; i++)
		model_fill(&stats->models[i], i, step);
	stats->n_events = INF_STATS_EVENTS + 44;
	for (uint64_t n = 44; n < stats->n_events; n++) {
		struct inf_stats_event *event = &stats->events[n % INF_STATS_EVENTS];

		*event = (struct inf_stats_event){ .seq = n + 1, .time_ns = 3000000000u, .kind = INF_EVENT_MODEL_READY };
		snprintf(event->text, sizeof(event->text), "event \033[7m %u", (unsigned int)n);
	}
}

static int write_file(const char *path, const void *bytes, size_t n_bytes)
{
	char temporary[4096];
	const char *at = bytes;
	int fd;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	while (n_bytes) {
		ssize_t n = write(fd, at, n_bytes);

		if (n <= 0)
			return -errno;
		at += n;
		n_bytes -= (size_t)n;
	}
	close(fd);
	return rename(temporary, path) ? -errno : 0;
}

static void event_write(struct inf_stats_public *stats, uint64_t n)
{
	struct inf_stats_event *event = &stats->events[n % INF_STATS_EVENTS];

	inf_store64(&event->seq, 0);
	__atomic_thread_fence(__ATOMIC_RELEASE); /* as in broker/stats.c */
	event->time_ns = n;
	event->kind = INF_EVENT_MODEL_READY;
	event->subject = (uint32_t)n;
	memset(event->text, 'a' + (int)(n % 26), sizeof(event->text) - 1);
	inf_store64_release(&event->seq, n + 1);
	inf_store64_release(&stats->n_events, n + 1);
}

static int spin(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct inf_stats_public *stats = mmap(NULL, sizeof(*stats), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (stats == MAP_FAILED)
		return 1;
	for (uint64_t n = stats->n_events;; n++) {
		event_write(stats, n);
		/* Long enough for some looks at what stands still. */
		if (n % 1024 == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	}
}

int main(int argc, char **argv)
{
	uint64_t n_sessions = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, step = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
	size_t user_bytes = inf_stats_user_bytes(n_sessions);
	struct inf_stats_public *stats = calloc(1, sizeof(*stats));
	struct inf_stats_user *user = calloc(1, user_bytes);
	char path[4096];
	uint32_t pid;
	int r;

	if (argc < 4 || !stats || !user) {
		fprintf(stderr, "stats_file SOCKET N_SESSIONS PID [STEP]\n");
		return 2;
	}
	pid = (uint32_t)strtoul(argv[3], NULL, 10);
	public_fill(stats, pid, n_sessions, step);
	head_fill(&user->head, pid, user_bytes);
	user->n_sessions = user->n_entries = n_sessions;
	for (uint32_t i = 0; i < n_sessions; i++)
		session_fill(&user->sessions[i], i, step);
	snprintf(path, sizeof(path), "%s.stats.%u", argv[1], (unsigned int)geteuid());
	r = write_file(path, user, user_bytes);
	snprintf(path, sizeof(path), "%s.stats", argv[1]);
	r = r ? r : write_file(path, stats, sizeof(*stats));
	free(stats);
	free(user);
	if (r)
		fprintf(stderr, "%s: %s\n", path, strerror(-r));
	if (!r && argc > 5)
		return spin(path);
	return r ? 1 : 0;
}
