/* SPDX-License-Identifier: Apache-2.0 */
/* operator.c - OPERATE on the broker's control socket, and the trace region that it may be answered with. */
#define _GNU_SOURCE 1
#include "tools/shmctl/operator.h"
#include "shm/atomics.h"
#include "shm/control.h"
#include "shm/region.h"
#include "tools/shmctl/stats.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The socket beside the statistics file: an activated broker that does not run yet has nothing to be changed. */
static int connect_operator(const struct options *options, char path[PATH_MAX], int *ret_fd)
{
	const struct inf_stats_public *stats;
	int r, fd;

	stats = stats_open(options, path, &r);
	if (!stats)
		return r;
	stats_close(stats);
	r = stats_must_live(options, path);
	if (r)
		return r;
	fd = connect_path(path, 0, options->timeout_s);
	if (fd >= 0) {
		*ret_fd = fd;
		return EXIT_OK;
	}
	switch (fd) {
	case -ENAMETOOLONG:
		return fail(options, EXIT_UNHEALTHY, "%s: a socket's path has at most %zu bytes", path, SOCKET_PATH_MAX);
	case -EAGAIN:
		return fail(options, EXIT_TIMED_OUT, "the broker at %s does not answer; shmctl status says in what state it is", path);
	case -EACCES:
	case -EPERM:
		return fail(options, EXIT_NO_PERMISSION, "%s: %s; ask as a user who may connect", path, strerror(-fd));
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
		return fail(options, EXIT_UNHEALTHY, "no socket: %s", strerror(-fd));
	default:
		return fail(options, EXIT_NOT_RUNNING, "no broker runs at %s: %s; start infbroker", path, strerror(-fd));
	}
}

static int refusal(const struct options *options, const struct inf_ctl_error *error)
{
	char text[sizeof(error->text) + 1];

	snprintf(text, sizeof(text), "%.*s", (int)strnlen(error->text, sizeof(error->text)), error->text);
	return fail(options, error->error == -EPERM ? EXIT_NO_PERMISSION : EXIT_UNHEALTHY, "%s", text);
}

/* Sends OPERATE; *ret_msg is what was answered, of that type; *ret_fd (if not NULL) the fd it carries. */
static int ask(const struct options *options, int socket_fd, const struct inf_ctl_operate *msg, enum inf_ctl_type type,
	       union inf_ctl_any *ret_msg, int *ret_fd)
{
	int fds[INF_CTL_FDS_MAX], r = inf_ctl_send(socket_fd, msg, NULL, 0, false);
	unsigned int n_fds = 0;

	if (r == 0)
		r = inf_ctl_recv(socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, ret_msg, fds, &n_fds, false);
	if (r == -EAGAIN)
		return fail(options, EXIT_TIMED_OUT, "the broker does not answer; shmctl status says in what state it is");
	if (r)
		return fail(options, EXIT_UNHEALTHY, "the broker broke off: %s; its log says why", inf_ctl_fault_name(r));
	if (ret_msg->head.type == type && n_fds == (ret_fd ? 1u : 0u)) {
		if (ret_fd)
			*ret_fd = fds[0];
		return EXIT_OK;
	}
	for (unsigned int i = 0; i < n_fds; i++)
		close(fds[i]);
	if (ret_msg->head.type != INF_CTL_ERROR)
		return fail(options, EXIT_UNHEALTHY, "the broker answered with message type %u", ret_msg->head.type);
	/* An older one ends the connection over a message that it does not know. */
	if (ret_msg->error.error == -EPROTO)
		return fail(options, EXIT_OTHER_VERSION, "this broker is older than shmctl, and cannot do that");
	return refusal(options, &ret_msg->error);
}

int operate(const struct options *options, uint32_t operation, uint32_t subject, uint32_t *ret_in_flight)
{
	char path[PATH_MAX];
	struct inf_ctl_operate msg;
	union inf_ctl_any answer;
	int fd, r = connect_operator(options, path, &fd);

	if (r)
		return r;
	inf_ctl_init(&msg, INF_CTL_OPERATE, 1);
	msg.operation = operation;
	msg.subject = subject;
	r = ask(options, fd, &msg, INF_CTL_OPERATED, &answer, NULL);
	if (r == EXIT_OK)
		*ret_in_flight = answer.operated.in_flight;
	close(fd);
	return r;
}

int confirm(const struct options *options, bool yes, const char *question)
{
	char line[16];

	if (yes)
		return EXIT_OK;
	if (!isatty(STDIN_FILENO))
		return fail(options, EXIT_USAGE, "nobody to ask here: say --yes");
	fprintf(stderr, "%s [y/N] ", question);
	if (fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y'))
		return EXIT_OK;
	return fail(options, EXIT_UNHEALTHY, "nothing was changed");
}

/* --- a trace --- */

static int map_trace(const struct options *options, struct trace *trace, int fd, uint64_t bytes)
{
	void *map = NULL;
	int r = bytes == sizeof(*trace->region) ? 0 : -EPROTO;

	if (r == 0)
		r = inf_region_check_received(fd, bytes, true);
	if (r == 0)
		r = inf_region_map(fd, bytes, false, 0, &map);
	close(fd);
	if (r)
		return fail(options, EXIT_UNHEALTHY, "the broker's trace cannot be mapped: %s", strerror(-r));
	trace->region = map;
	/* Acquire: pairs with the broker's release, the head is whole. */
	if (inf_load64_acquire(&trace->region->magic) != INF_TRACE_MAGIC || trace->region->version != INF_TRACE_VERSION ||
	    trace->region->n_records != INF_TRACE_RECORDS) {
		inf_region_unmap(map, bytes, 0);
		return fail(options, EXIT_OTHER_VERSION, "the broker's trace is of another version: use the shmctl that came with it");
	}
	return EXIT_OK;
}

int trace_open(const struct options *options, struct trace *trace)
{
	char path[PATH_MAX];
	struct inf_ctl_operate msg;
	union inf_ctl_any answer;
	int fd, r = connect_operator(options, path, &trace->socket_fd);

	if (r)
		return r;
	trace->next = trace->n_lost = 0;
	inf_ctl_init(&msg, INF_CTL_OPERATE, 1);
	msg.operation = INF_OPERATION_TRACE;
	r = ask(options, trace->socket_fd, &msg, INF_CTL_TRACE, &answer, &fd);
	if (r == EXIT_OK)
		r = map_trace(options, trace, fd, answer.trace.bytes);
	if (r)
		close(trace->socket_fd);
	return r;
}

/* One look at the slot: see trace.h. */
static bool copy_record(const struct inf_trace_record *slot, uint64_t pos, struct inf_trace_record *ret_record)
{
	const uint64_t *from = (const uint64_t *)(const void *)slot;
	uint64_t *to = (uint64_t *)(void *)ret_record;

	if (inf_load64_acquire(&slot->seq) != pos + 1)
		return false;
	for (size_t i = 0; i < sizeof(*slot) / sizeof(*from); i++)
		to[i] = inf_load64(&from[i]);
	/* Acquire fence: pairs with the writer's release fence behind seq = 0. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return inf_load64(&slot->seq) == pos + 1;
}

bool trace_next(struct trace *trace, struct inf_trace_record *ret_record)
{
	for (;;) {
		uint64_t end = inf_load64_acquire(&trace->region->next.v);

		if (trace->next >= end)
			return false;
		if (end - trace->next > INF_TRACE_RECORDS) {
			trace->n_lost += end - trace->next - INF_TRACE_RECORDS;
			trace->next = end - INF_TRACE_RECORDS;
		}
		if (copy_record(&trace->region->records[trace->next % INF_TRACE_RECORDS], trace->next, ret_record)) {
			trace->next++;
			return true;
		}
		trace->next++;
		trace->n_lost++;
	}
}

bool trace_is_over(const struct trace *trace, int wait_ms)
{
	struct pollfd poll_fd = { .fd = trace->socket_fd, .events = POLLIN };

	return poll(&poll_fd, 1, wait_ms) > 0;
}

void trace_close(struct trace *trace)
{
	inf_region_unmap((void *)(uintptr_t)trace->region, sizeof(*trace->region), 0);
	close(trace->socket_fd);
}

const char *trace_model_name(const struct inf_stats_public *stats, uint32_t model)
{
	if (model >= INF_STATS_MODELS)
		return "ping";
	return stats->models[model].name[0] ? stats->models[model].name : "?";
}

/* Between two of its times; one that is missing makes no stage. */
static bool between(uint64_t from_ns, uint64_t to_ns, uint64_t *ret_ns)
{
	if (!from_ns || !to_ns || to_ns < from_ns)
		return false;
	*ret_ns = to_ns - from_ns;
	return true;
}

bool trace_stage(const struct inf_trace_record *record, enum inf_stage stage, uint64_t *ret_ns)
{
	uint64_t first_ns = record->submitted_ns ? record->submitted_ns : record->accepted_ns;

	switch (stage) {
	case INF_STAGE_RING:
		return between(record->submitted_ns, record->accepted_ns, ret_ns);
	case INF_STAGE_QUEUE:
		/* One that was never dispatched has waited until it was answered. */
		return between(record->accepted_ns, record->dispatched_ns ? record->dispatched_ns : record->answered_ns, ret_ns);
	case INF_STAGE_WAIT:
		return between(record->dispatched_ns, record->begun_ns, ret_ns);
	case INF_STAGE_RUN:
		return between(record->begun_ns, record->ended_ns, ret_ns);
	case INF_STAGE_POST:
		return between(record->ended_ns, record->answered_ns, ret_ns);
	case INF_STAGE_SERVED:
		return between(first_ns, record->answered_ns, ret_ns);
	default:
		return false;
	}
}
