/* SPDX-License-Identifier: Apache-2.0 */
/*
 * supervisor.c - the executor process: started with posix_spawn, spoken to over a socketpair,
 * started again when it dies.
 *
 *	NONE ─start─► STARTING ─HELLO, INSTANCE ... INSTANCE_MAPPED─► READY ─SCAN─► (models load)
 *	  ▲              │                                              │
 *	  │ at once, or  └──────────── its pidfd says: gone ────────────┤
 *	  └─ WAITING (timer) ◄──────────────────────────────────────────┴─► FAILED
 *
 * Only the pidfd says that it is gone: a socket that hangs up, a wrong message or garbage in a
 * done region only have it killed, and until the kernel confirms that, nothing that it can reach
 * is used again. The executor is trusted with the memory of all sessions, but its messages and
 * done regions may be the work of a model gone wild: each is judged.
 */
#define _GNU_SOURCE 1
#include "broker/supervisor.h"
#include "broker/clock.h"
#include "broker/config.h"
#include "broker/fd.h"
#include "broker/log.h"
#include "broker/pipeline.h"
#include "broker/registry.h"
#include "broker/session.h"
#include "broker/spawn.h"
#include "broker/stats.h"
#include "shm/region.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MESSAGES_PER_EVENT 64u
#define BACK_OFF_MIN_NS	   100000000ull
#define BACK_OFF_MAX_NS	   5000000000ull
#define STOP_MS		   1000
/* Then models run on the CPU: a device that is broken would be lost with the next request again, for ever. */
#define DEVICE_LOSSES_MAX  3u
#define STEADY_NS	   10000000000ull /* READY for so long: its death is not one in a row */

/* --- memory of the instances --- */

static void instance_free(struct broker *broker, struct instance *instance)
{
	loop_del(broker->loop, &instance->bell_source);
	inf_region_unmap(instance->dispatch, inf_region_round(sizeof(*instance->dispatch)), 0);
	inf_region_unmap((void *)(uintptr_t)instance->done,
			 inf_region_round(sizeof(*instance->done)), 0);
	close_fd(&instance->dispatch_fd);
	close_fd(&instance->done_fd);
	close_fd(&instance->bell_fd);
	instance->dispatch = NULL;
	instance->done = NULL;
	instance->ready = false;
	instance->head = instance->tail = 0;
}

static void instances_free(struct broker *broker)
{
	for (uint32_t i = 0; i < broker->executor.n_instances; i++)
		instance_free(broker, &broker->executor.instances[i]);
	broker->executor.n_instances = 0;
}

/* The pipeline looks at the done regions of its own accord: the bell only ends the front's
 * sleep. */
static void on_bell(struct loop_source *source, void *context)
{
	(void)source;
	(void)context;
}

/* The dispatch region is sealed before the executor gets it; the done region after it has mapped
 * it. */
static int instance_make(struct broker *broker, struct instance *instance)
{
	uint64_t dispatch_bytes = inf_region_round(sizeof(*instance->dispatch));
	void *map = NULL;
	int r;

	instance->dispatch_fd = inf_region_create("infbroker-dispatch", dispatch_bytes);
	instance->done_fd =
		inf_region_create("infbroker-done", inf_region_round(sizeof(*instance->done)));
	instance->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (instance->dispatch_fd < 0 || instance->done_fd < 0 || instance->bell_fd < 0)
		return instance->dispatch_fd < 0 ? instance->dispatch_fd
		       : instance->done_fd < 0	 ? instance->done_fd
						 : -EMFILE;
	r = inf_region_map(instance->dispatch_fd, dispatch_bytes, true, 0, &map);
	instance->dispatch = map;
	if (r == 0)
		r = inf_region_populate(map, dispatch_bytes, true);
	if (r == 0)
		r = inf_region_close_writes(instance->dispatch_fd);
	if (r < 0)
		return r;
	instance->bell_source =
		(struct loop_source){ .fd = instance->bell_fd, .on_event = on_bell, .is_bell = true };
	return loop_add(broker->loop, &instance->bell_source);
}

static int instance_send(struct broker *broker, struct instance *instance)
{
	int fds[] = { instance->dispatch_fd, instance->done_fd, instance->bell_fd };
	struct inf_ctl_instance msg;
	int r;

	inf_ctl_init(&msg, INF_CTL_INSTANCE, 0);
	msg.instance = instance->idx;
	msg.dispatch_bytes = inf_region_round(sizeof(*instance->dispatch));
	msg.done_bytes = inf_region_round(sizeof(*instance->done));
	r = supervisor_send(broker, &msg, fds, 3);
	close_fd(&instance->dispatch_fd);
	return r;
}

/* --- messages of the executor --- */

static int handle_hello(struct broker *broker, const union inf_ctl_any *msg)
{
	const struct inf_ctl_hello_executor *hello = &msg->hello_executor;
	struct executor *executor = &broker->executor;
	char device[sizeof(executor->device)];

	if (executor->n_instances || !hello->n_instances || hello->n_instances > INF_INSTANCES ||
	    hello->reserved)
		return -EPROTO;
	if (hello->version != INF_CTL_VERSION) {
		log_line("the executor speaks protocol %" PRIu32
			 ", not %u: install both programs of one version",
			 hello->version, INF_CTL_VERSION);
		executor->n_start_failures = (uint32_t)broker->config->executor_deaths_max;
		return -EPROTONOSUPPORT;
	}
	log_escape(device, sizeof(device), hello->device, sizeof(hello->device));
	memcpy(executor->device, device, sizeof(executor->device));
	log_escape(executor->uuid, sizeof(executor->uuid), hello->uuid, sizeof(hello->uuid));
	executor->n_threads = hello->n_threads;
	executor->n_instances = hello->n_instances;
	for (uint32_t i = 0; i < executor->n_instances; i++) {
		executor->instances[i].idx = i;
		executor->instances[i].dispatch_fd = executor->instances[i].done_fd =
			executor->instances[i].bell_fd = -1;
	}
	for (uint32_t i = 0; i < executor->n_instances; i++) {
		int r = instance_make(broker, &executor->instances[i]);

		if (r == 0)
			r = instance_send(broker, &executor->instances[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static void become_ready(struct broker *broker)
{
	struct executor *executor = &broker->executor;

	executor->state = EXECUTOR_READY;
	executor->started_ns = clock_ns();
	executor->n_start_failures = 0;
	executor->scan_due = true;
	log_line("executor %d is ready: %s, %" PRIu32 " x %" PRIu32 " threads", (int)executor->pid,
		 executor->device, executor->n_instances, executor->n_threads);
	stats_event(broker, INF_EVENT_EXECUTOR_READY, (uint32_t)executor->pid, "executor %d on %s, %" PRIu32 " instances",
		    (int)executor->pid, executor->device, executor->n_instances);
	session_reattach_all(broker);
}

static int handle_instance_mapped(struct broker *broker, const union inf_ctl_any *msg)
{
	const struct inf_ctl_instance_mapped *mapped = &msg->instance_mapped;
	struct executor *executor = &broker->executor;
	uint64_t bytes = inf_region_round(sizeof(struct inf_done_region));
	struct instance *instance;
	void *map = NULL;
	int r;

	if (mapped->instance >= executor->n_instances ||
	    executor->instances[mapped->instance].ready)
		return -EPROTO;
	instance = &executor->instances[mapped->instance];
	r = inf_region_close_writes(instance->done_fd);
	if (r == 0)
		r = inf_region_map(instance->done_fd, bytes, false, 0, &map);
	instance->done = map;
	if (r == 0)
		r = inf_region_populate(map, bytes, false);
	close_fd(&instance->done_fd);
	if (r < 0)
		return r;
	instance->ready = true;
	for (uint32_t i = 0; i < executor->n_instances; i++)
		if (!executor->instances[i].ready)
			return 0;
	become_ready(broker);
	return 0;
}

static int handle_found(struct broker *broker, const union inf_ctl_any *msg)
{
	return registry_found(broker, &msg->found);
}

static int handle_scanned(struct broker *broker, const union inf_ctl_any *msg)
{
	return registry_scanned(broker, &msg->scanned);
}

static int handle_loading(struct broker *broker, const union inf_ctl_any *msg)
{
	return registry_loading(broker, &msg->loading);
}

static int handle_loaded(struct broker *broker, const union inf_ctl_any *msg)
{
	return registry_loaded(broker, &msg->loaded);
}

static int handle_failed(struct broker *broker, const union inf_ctl_any *msg)
{
	return registry_failed(broker, &msg->failed);
}

static int handle_attached(struct broker *broker, const union inf_ctl_any *msg)
{
	return session_attached(broker, msg->attached.session, msg->attached.region,
				msg->attached.error);
}

static int handle_detached(struct broker *broker, const union inf_ctl_any *msg)
{
	return session_detached(broker, msg->detached.session);
}

#define IN(state) (1u << (state))

/* Which message is allowed in which state, and who judges it. All else has the executor killed. */
static const struct {
	uint16_t type;
	uint32_t states;
	int (*handle)(struct broker *broker, const union inf_ctl_any *msg);
} executor_messages[] = {
	{ INF_CTL_HELLO_EXECUTOR, IN(EXECUTOR_STARTING), handle_hello },
	{ INF_CTL_INSTANCE_MAPPED, IN(EXECUTOR_STARTING), handle_instance_mapped },
	{ INF_CTL_ATTACHED, IN(EXECUTOR_READY), handle_attached },
	{ INF_CTL_DETACHED, IN(EXECUTOR_READY), handle_detached },
	{ INF_CTL_FOUND, IN(EXECUTOR_READY), handle_found },
	{ INF_CTL_SCANNED, IN(EXECUTOR_READY), handle_scanned },
	{ INF_CTL_LOADING, IN(EXECUTOR_READY), handle_loading },
	{ INF_CTL_LOADED, IN(EXECUTOR_READY), handle_loaded },
	{ INF_CTL_FAILED, IN(EXECUTOR_READY), handle_failed },
};

static int handle_message(struct broker *broker, const union inf_ctl_any *msg)
{
	for (size_t i = 0; i < sizeof(executor_messages) / sizeof(executor_messages[0]); i++)
		if (executor_messages[i].type == msg->head.type &&
		    executor_messages[i].states & IN(broker->executor.state))
			return executor_messages[i].handle(broker, msg);
	return -EPROTO;
}

/* A new executor knows all sessions: now it may load models, so that no batch names what it does
 * not know. */
static void scan_if_due(struct broker *broker)
{
	struct executor *executor = &broker->executor;

	if (executor->state != EXECUTOR_READY || !executor->scan_due ||
	    !session_is_reattached(broker))
		return;
	executor->scan_due = false;
	registry_scan(broker);
}

/* One message. False where there is none, or the executor is being killed. */
static bool receive(struct broker *broker)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;
	char reason[64];
	int r = inf_ctl_recv(broker->executor.control_fd, INF_CTL_FROM_EXECUTOR, &msg, fds, &n_fds,
			     true);

	if (r == -EAGAIN)
		return false;
	if (r == INF_CTL_E_CLOSED || r == -ECONNRESET) {
		supervisor_kill(broker, NULL);
		return false;
	}
	if (r > 0) {
		supervisor_kill(broker, inf_ctl_fault_name(r));
		return false;
	}
	if (r == 0)
		r = handle_message(broker, &msg);
	if (r < 0) {
		snprintf(reason, sizeof(reason), "message %u: %s", msg.head.type, strerror(-r));
		supervisor_kill(broker, reason);
	}
	return !broker->executor.killed;
}

static void on_control(struct loop_source *source, void *context)
{
	struct broker *broker = context;
	uint32_t i = 0;

	while (i < MESSAGES_PER_EVENT && receive(broker))
		i++;
	scan_if_due(broker);
	if (i < MESSAGES_PER_EVENT || broker->executor.killed)
		return;
	/* Clients first. Events are edges: watched anew, it fires again for what is left. */
	loop_del(broker->loop, source);
	if (loop_add(broker->loop, source) < 0)
		supervisor_kill(broker, "its socket cannot be watched");
}

int supervisor_send(struct broker *broker, const void *msg, const int *fds, unsigned int n_fds)
{
	struct executor *executor = &broker->executor;
	int r;

	if (executor->killed || executor->control_fd < 0 || executor->pid <= 0)
		return -EPIPE;
	r = inf_ctl_send(executor->control_fd, msg, fds, n_fds, true);
	if (r < 0)
		supervisor_kill(broker,
				r == -EAGAIN ? "it does not read its socket" : "its socket failed");
	return r;
}

/* --- start --- */

static void on_exit_of_executor(struct loop_source *source, void *context);

static int watch(struct broker *broker)
{
	struct executor *executor = &broker->executor;
	int r;

	executor->control_source =
		(struct loop_source){ .fd = executor->control_fd, .on_event = on_control };
	executor->pid_source =
		(struct loop_source){ .fd = executor->pid_fd, .on_event = on_exit_of_executor };
	r = loop_add(broker->loop, &executor->pid_source);
	return r < 0 ? r : loop_add(broker->loop, &executor->control_source);
}

/* Before it is known to the loop: waits for its end. */
static void abandon(struct broker *broker)
{
	struct executor *executor = &broker->executor;

	kill(executor->pid, SIGKILL);
	waitpid(executor->pid, NULL, 0);
	loop_del(broker->loop, &executor->control_source);
	loop_del(broker->loop, &executor->pid_source);
	close_fd(&executor->pid_fd);
	close_fd(&executor->control_fd);
	executor->pid = 0;
}

static int start(struct broker *broker, const char *path)
{
	struct executor *executor = &broker->executor;
	int pair[2];
	int r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	r = spawn_executor(broker->config, path, executor->n_device_losses < DEVICE_LOSSES_MAX, broker->spin_ns, pair[1],
			   &executor->pid);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		executor->pid = 0;
		return r;
	}
	executor->control_fd = pair[0];
	/* It is our child and not waited for: the pid is its own. */
	executor->pid_fd = (int)syscall(SYS_pidfd_open, executor->pid, 0);
	r = executor->pid_fd < 0 ? -errno : watch(broker);
	if (r < 0)
		abandon(broker);
	return r;
}

static void give_up(struct broker *broker, const char *why)
{
	broker->executor.state = EXECUTOR_FAILED;
	log_line("no executor: %s; requests get EXECUTOR_LOST (SIGHUP tries again)", why);
	pipeline_executor_unavailable(broker);
}

static void start_later(struct broker *broker, uint64_t delay_ns);

/* After a death or a failed start. */
static void start_again(struct broker *broker)
{
	struct executor *executor = &broker->executor;
	uint64_t delay_ns = BACK_OFF_MIN_NS;

	if (broker->stop)
		return;
	if (executor->n_start_failures >= broker->config->executor_deaths_max) {
		give_up(broker, "it does not start, see the lines above");
		return;
	}
	for (uint32_t i = 2; i < executor->n_deaths_in_row && delay_ns < BACK_OFF_MAX_NS; i++)
		delay_ns *= 2;
	if (executor->n_deaths_in_row > 1)
		start_later(broker, delay_ns < BACK_OFF_MAX_NS ? delay_ns : BACK_OFF_MAX_NS);
	else
		supervisor_start(broker);
}

static bool is_hopeless(int error)
{
	return error == -ENOENT || error == -EACCES || error == -ENOEXEC || error == -ENOTDIR ||
	       error == -EISDIR || error == -ELOOP || error == -ENAMETOOLONG || error == -EPERM;
}

int supervisor_start(struct broker *broker)
{
	struct executor *executor = &broker->executor;
	char path[SPAWN_PATH_BYTES];
	int r;

	if (executor->pid > 0)
		return -EALREADY;
	if (executor->state == EXECUTOR_FAILED || executor->state == EXECUTOR_NONE)
		executor->n_start_failures = executor->n_deaths_in_row = 0;
	executor->pid_fd = executor->control_fd = -1;
	executor->loading = -1;
	executor->killed = executor->scan_due = false;
	executor->generation++;
	executor->started_ns = clock_ns();
	executor->state = EXECUTOR_STARTING;
	spawn_path(broker->config, path);
	r = start(broker, path);
	if (r == 0)
		return 0;
	log_line("cannot start %s: %s%s", path, strerror(-r),
		 r == -ENOENT ? "; give --executor FILE" : "");
	executor->n_start_failures++;
	executor->n_deaths_in_row++;
	if (is_hopeless(r))
		executor->n_start_failures = (uint32_t)broker->config->executor_deaths_max;
	executor->n_deaths_in_row +=
		executor->n_deaths_in_row == 1; /* never at once: what failed will fail */
	start_again(broker);
	return 0;
}

/* --- back-off --- */

static void on_timer(struct loop_source *source, void *context)
{
	struct broker *broker = context;

	loop_timer_close(broker->loop, source);
	supervisor_start(broker);
}

static void start_later(struct broker *broker, uint64_t delay_ns)
{
	struct loop_source *timer = &broker->executor.timer_source;

	broker->executor.state = EXECUTOR_WAITING;
	timer->on_event = on_timer;
	if (loop_timer_open(broker->loop, timer) == 0)
		loop_timer_set(timer, delay_ns);
	else
		give_up(broker, "no timer for its next start can be made");
}

/* --- death --- */

void supervisor_kill(struct broker *broker, const char *reason)
{
	struct executor *executor = &broker->executor;

	if (executor->pid <= 0 || executor->killed)
		return;
	executor->killed = true;
	if (reason)
		log_line("executor %d is killed: %s", (int)executor->pid, reason);
	syscall(SYS_pidfd_send_signal, executor->pid_fd, SIGKILL, NULL, 0);
	loop_del(broker->loop, &executor->control_source);
	close_fd(&executor->control_fd);
}

static void log_death(struct broker *broker, const siginfo_t *info)
{
	const struct executor *executor = &broker->executor;
	const char *doing = executor->loading >= 0		   ? " while it loaded a model"
			    : executor->state == EXECUTOR_STARTING ? " before it was ready"
								   : "";
	char how[SPAWN_END_BYTES];

	spawn_end_text(how, info);
	log_line("executor %d %s%s", (int)executor->pid, how, doing);
	stats_event(broker, INF_EVENT_EXECUTOR_DIED, (uint32_t)executor->pid, "executor %d %s%s", (int)executor->pid, how,
		    doing);
}

static void bury(struct broker *broker)
{
	struct executor *executor = &broker->executor;

	loop_del(broker->loop, &executor->control_source);
	loop_del(broker->loop, &executor->pid_source);
	close_fd(&executor->control_fd);
	close_fd(&executor->pid_fd);
	executor->pid = 0;
}

static void count_death(struct broker *broker, const siginfo_t *info)
{
	struct executor *executor = &broker->executor;
	bool is_steady = clock_ns() - executor->started_ns > STEADY_NS;

	broker->stats->n_executor_deaths++;
	if (executor->state == EXECUTOR_STARTING)
		executor->n_start_failures++;
	else if (is_steady)
		executor->n_deaths_in_row = 0;
	executor->n_deaths_in_row++;
	if (info->si_code != CLD_EXITED || info->si_status != INF_EXIT_DEVICE_LOST || !broker->config->device)
		return;
	executor->n_device_losses = is_steady ? 1 : executor->n_device_losses + 1;
	if (executor->n_device_losses == DEVICE_LOSSES_MAX)
		log_line("%s was lost %u times in a row: models run on the CPU until infbroker is started anew", broker->config->device,
			 DEVICE_LOSSES_MAX);
}

/* How often a file may have been there when this happened: batches that were running, or the device, may be to blame. */
static uint32_t chances(const siginfo_t *info, bool was_busy)
{
	if (was_busy)
		return REGISTRY_CHANCES_SHARED;
	/* The device is given up with the last loss in a row: a file that always loses it must be given up before. */
	return info->si_code == CLD_EXITED && info->si_status == INF_EXIT_DEVICE_LOST ? DEVICE_LOSSES_MAX - 1 : 1;
}

static void on_exit_of_executor(struct loop_source *source, void *context)
{
	struct broker *broker = context;
	struct executor *executor = &broker->executor;
	bool was_busy = broker->n_running > 0;
	siginfo_t info = { 0 };

	if (waitid(P_PIDFD, (id_t)source->fd, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
		return;
	log_death(broker, &info);
	executor->killed = true;
	count_death(broker, &info);
	bury(broker);
	executor->state = EXECUTOR_NONE;
	/* The order matters: jobs leave the batches, then models leave the jobs, then sessions are
	 * settled. */
	pipeline_executor_died(broker);
	registry_executor_died(broker, chances(&info, was_busy));
	session_executor_died(broker);
	instances_free(broker);
	executor->state = EXECUTOR_WAITING;
	start_again(broker);
}

/* --- end --- */

void supervisor_stop(struct broker *broker)
{
	struct executor *executor = &broker->executor;
	struct pollfd gone = { .fd = executor->pid_fd, .events = POLLIN };

	loop_timer_close(broker->loop, &executor->timer_source);
	if (executor->pid > 0) {
		loop_del(broker->loop, &executor->control_source);
		/* Hang-up: it ends by itself. Closing is not enough: a poll of the ring that is not cancelled
		 * yet holds the socket open. */
		if (executor->control_fd >= 0)
			shutdown(executor->control_fd, SHUT_RDWR);
		close_fd(&executor->control_fd);
		if (poll(&gone, 1, executor->killed ? -1 : STOP_MS) != 1)
			syscall(SYS_pidfd_send_signal, executor->pid_fd, SIGKILL, NULL, 0);
		waitid(P_PIDFD, (id_t)executor->pid_fd, &(siginfo_t){ 0 }, WEXITED);
		bury(broker);
	}
	instances_free(broker);
	executor->state = EXECUTOR_NONE;
	registry_free(broker);
}
