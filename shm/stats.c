/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - names in the statistics files, and whether the process that wrote one is still that one. */
#include "shm/stats.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int inf_stats_process(uint32_t pid, char *ret_state, uint64_t *ret_start_ticks)
{
	char path[64], text[1024];
	const char *at, *state;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%" PRIu32 "/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return -ESRCH;
	text[n] = '\0';
	/* Field 2 is a name in parentheses that may hold anything. */
	at = strrchr(text, ')');
	if (!at || strlen(at) < 4)
		return -EBADMSG;
	state = at + 2;
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	if (!at)
		return -EBADMSG;
	*ret_state = *state;
	*ret_start_ticks = strtoull(at, NULL, 10);
	return 0;
}

const char *inf_stage_name(enum inf_stage stage)
{
	static const char *const names[INF_STAGES] = {
		[INF_STAGE_RING] = "ring", [INF_STAGE_QUEUE] = "queue", [INF_STAGE_WAIT] = "wait",
		[INF_STAGE_RUN] = "run",   [INF_STAGE_POST] = "post",	[INF_STAGE_SERVED] = "served",
	};

	return (unsigned int)stage < INF_STAGES ? names[stage] : "?";
}

const char *inf_event_name(uint32_t kind)
{
	static const char *const names[INF_EVENTS] = {
		[INF_EVENT_STARTED] = "started",
		[INF_EVENT_EXECUTOR_READY] = "executor-ready",
		[INF_EVENT_EXECUTOR_DIED] = "executor-died",
		[INF_EVENT_MODEL_READY] = "model-ready",
		[INF_EVENT_MODEL_FAILED] = "model-failed",
		[INF_EVENT_SESSION_ENDED] = "session-ended",
		[INF_EVENT_DRAIN] = "drain",
		[INF_EVENT_RESUME] = "resume",
		[INF_EVENT_STOP] = "stop",
	};

	return kind < INF_EVENTS && names[kind] ? names[kind] : "?";
}
