/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - starts the front's parts in order, runs the pipeline, ends them in reverse.
 *
 * Signals are read from a signalfd in the loop, so that no handler ever interrupts a turn. TERM and
 * INT drain; a second one stops at once. HUP scans for models.
 */
#define ONE_CPU_WAKES 4u /* two parties' turns, each way */
#define _GNU_SOURCE 1
#include "broker/calibrate.h"
#include "broker/clock.h"
#include "broker/config.h"
#include "broker/cpus.h"
#include "broker/job.h"
#include "broker/listener.h"
#include "broker/log.h"
#include "broker/loop.h"
#include "broker/sd_notify.h"
#include "broker/pipeline.h"
#include "broker/registry.h"
#include "broker/session.h"
#include "broker/stats.h"
#include "broker/supervisor.h"

#include <errno.h>
#include <inf/version.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* Descriptors: of the broker itself, and of one session with one model (control, pid, bell, two
 * request regions, one output region, and the response region while it connects). */
#define FDS_OWN		(32u + 4u * INF_INSTANCES)
#define FDS_PER_SESSION 7u
#define PER_IMPORTER	3u /* of either: its socket, pid and timer */

/* Watched descriptors: control, pid and bell of each session; the executor's; signals, listener,
 * timers. */
#define SOURCES_PER_SESSION 3u
#define SOURCES_OWN	    (16u + INF_INSTANCES)

#define NOTIFY_BYTES 256

static void drain(struct broker *broker)
{
	log_line("draining: %" PRIu32 " requests in flight; a second signal stops at once",
		 broker->n_jobs);
	stats_event(broker, INF_EVENT_STOP, (uint32_t)getpid(), "%" PRIu32 " requests in flight", broker->n_jobs);
	sd_notify_send("STOPPING=1\nSTATUS=finishing what is in flight");
	broker->draining = true;
}

static void on_signal(struct loop_source *source, void *context)
{
	struct broker *broker = context;
	struct signalfd_siginfo info;

	while (read(source->fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP)
			registry_scan(broker);
		else if (broker->draining)
			broker->stop = true;
		else
			drain(broker);
	}
}

/* Blocks what the loop will read. Executors get an empty mask and default actions when they are
 * started. */
static int signals_open(void)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN); /* a closed log */
	signal(SIGXFSZ, SIG_IGN); /* RLIMIT_FSIZE: an error code is enough */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int failed(const char *part, int error, const char *next_step)
{
	log_line("cannot start: %s: %s; %s", part, strerror(-error), next_step);
	return error;
}

/* Few have one: nobody, unless some are named. */
static uint32_t for_importer(const struct config *config)
{
	return config->n_cuda_ipc_users ? PER_IMPORTER : 0;
}

/* Raises the soft limit, and says so where the hard one does not carry sessions_max. 0, or -EMFILE
 * for none at all. */
static int fd_limit_raise(const struct config *config)
{
	struct rlimit limit;
	uint64_t n_sessions;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	n_sessions = limit.rlim_cur > FDS_OWN ? (limit.rlim_cur - FDS_OWN) / (FDS_PER_SESSION + for_importer(config)) : 0;
	if (n_sessions >= config->sessions_max)
		return 0;
	log_line("the hard RLIMIT_NOFILE of %" PRIu64 " is enough for about %" PRIu64
		 " sessions of %" PRIu64 "; raise it (LimitNOFILE= in the unit, ulimit -Hn)",
		 (uint64_t)limit.rlim_cur, n_sessions, config->sessions_max);
	return n_sessions > 0 ? 0 : failed("file descriptors", -EMFILE, "raise RLIMIT_NOFILE");
}

static void ready_tell(const struct broker *broker)
{
	char state[NOTIFY_BYTES];

	if (!broker->config->models_path && !broker->config->builtin)
		log_line("serves no models: give --models DIR or --builtin");
	log_line("listening at %s (%s, wake %" PRIu32 " ns, spin %" PRIu32 " ns)", listener_path(),
		 loop_name(broker->loop), broker->wake_ns, broker->spin_ns);
	snprintf(state, sizeof(state), "READY=1\nSTATUS=listening at %s", listener_path());
	if (sd_notify_send(state) < 0)
		log_line("NOTIFY_SOCKET does not take the readiness message");
}

/* From here on sessions may come: run until the end, then free what they left. */
static int serve(struct broker *broker)
{
	int r = stats_open(broker);

	if (r < 0)
		return failed("statistics", r, "free some memory");
	stats_event(broker, INF_EVENT_STARTED, (uint32_t)getpid(), "version %s, %s", INF_VERSION_STRING, loop_name(broker->loop));
	r = supervisor_start(broker);
	if (r < 0)
		log_line("the executor does not start: %s; trying again", strerror(-r));
	ready_tell(broker);
	log_flush();
	r = pipeline_run(broker);
	if (r < 0)
		log_line("the %s loop failed: %s; try --loop=epoll", loop_name(broker->loop),
			 strerror(-r));
	if (!broker->draining)
		sd_notify_send("STOPPING=1");
	session_free_all(broker);
	supervisor_stop(broker);
	stats_close(broker);
	return r;
}

static int serve_on_loop(struct broker *broker, struct loop_source *signals)
{
	int r = loop_add(broker->loop, signals);

	if (r < 0)
		return failed("signals", r, "try --loop=epoll");
	r = pipeline_init(broker);
	if (r < 0)
		return failed("request memory", r, "free some memory or lower --sessions-max");
	r = listener_open(broker); /* says itself what is wrong */
	if (r == 0)
		r = serve(broker);
	listener_close(broker);
	pipeline_deinit(broker);
	return r;
}

/*
 * On one processor all parties take turns: a look costs a yield, and the next thing to be seen is up to a round of them away.
 * A quota of processor time is not to be spent on looking.
 */
static void set_spin(struct broker *broker)
{
	uint32_t usable = cpus_usable_milli();

	broker->one_cpu = usable == 1000;
	if (broker->config->no_spin || usable < 1000 || (usable > 1000 && usable < 2000))
		return;
	broker->spin_ns = broker->one_cpu ? ONE_CPU_WAKES * broker->wake_ns : broker->wake_ns;
}

static int start(struct broker *broker)
{
	const struct config *config = broker->config;
	struct loop_source signals = { .on_event = on_signal };
	int r = fd_limit_raise(config);

	if (r < 0)
		return r;
	signals.fd = signals_open();
	if (signals.fd < 0)
		return failed("signals", signals.fd, "raise RLIMIT_NOFILE");
	broker->wake_ns = calibrate_wake_ns();
	set_spin(broker);
	r = loop_new(&broker->loop, config->loop,
		     (uint32_t)config->sessions_max * (SOURCES_PER_SESSION + for_importer(config)) + SOURCES_OWN, broker);
	if (r < 0)
		failed("loop", r,
		       config->loop == LOOP_URING ? "try --loop=epoll" : "raise RLIMIT_NOFILE");
	else
		r = serve_on_loop(broker, &signals);
	if (broker->loop)
		loop_del(broker->loop, &signals);
	broker->loop = loop_free(broker->loop);
	close(signals.fd);
	return r;
}

int main(int argc, char **argv)
{
	struct config config;
	struct broker *broker;
	int r = config_parse(&config, argc, argv);

	if (r != 0)
		return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	log_init(config.log_rate_max);
	/* Neither rings nor memfds that are not sealed yet may be reached through /proc/PID/fd. */
	if (!config.debug)
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	broker = calloc(1, sizeof(*broker));
	if (!broker) {
		failed("broker", -ENOMEM, "free some memory");
		log_flush();
		return EXIT_FAILURE;
	}
	broker->config = &config;
	broker->now_ns = broker->epoch = clock_ns();
	broker->tid = (uint32_t)gettid();
	broker->listen_fd = -1;
	r = start(broker);
	if (r == 0 && config.verbose)
		log_line("ended");
	log_flush();
	free(broker);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
