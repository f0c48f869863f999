/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_loop.c - the same promises on io_uring and on epoll: edges, deletion at any moment,
 * late events, no wait lost. */
#define _GNU_SOURCE 1
#include "broker/loop.h"
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_KINDS 2
#define N_MANY	1000u

static const enum loop_kind kinds[N_KINDS] = { LOOP_URING, LOOP_EPOLL };
static const char *const names[N_KINDS] = { "io_uring", "epoll" };

/* A watched descriptor that counts; `victim` is deleted by its callback. */
struct probe {
	struct loop_source source; /* first */
	uint32_t n_events;
	struct loop_source *victim;
	bool free_self, add_again;
};

static struct loop *loop;

static void on_probe(struct loop_source *source, void *context)
{
	struct probe *probe = (struct probe *)source;

	ck_assert_ptr_eq(context, &loop);
	probe->n_events++;
	if (probe->victim)
		loop_del(loop, probe->victim);
	if (probe->free_self) {
		loop_del(loop, source);
		close(source->fd);
		memset(probe, 0x5a, sizeof(*probe));
		free(probe);
	} else if (probe->add_again) {
		loop_del(loop, source);
		ck_assert_int_eq(loop_add(loop, source), 0);
	}
}

static bool loop_begin(int kind, uint32_t n_sources)
{
	int r = loop_new(&loop, kinds[kind], n_sources, &loop);

	if (r < 0 && kinds[kind] == LOOP_URING) {
		printf("skip - loop/io_uring: %s\n", strerror(-r));
		return false;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_str_eq(loop_name(loop), names[kind]);
	return true;
}

static void loop_end(void)
{
	loop = loop_free(loop);
}

static struct probe probe_make(void)
{
	struct probe probe = { .source.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
			       .source.on_event = on_probe };

	ck_assert_int_ge(probe.source.fd, 0);
	return probe;
}

static void probe_end(struct probe *probe)
{
	loop_del(loop, &probe->source);
	close(probe->source.fd);
}

static void ring(const struct probe *probe)
{
	ck_assert_int_eq(eventfd_write(probe->source.fd, 1), 0);
}

/* What is there, without sleeping. Returns how many callbacks ran. */
static uint32_t settle(void)
{
	uint32_t n = 0;

	for (int idle = 0; idle < 4; idle++) {
		int r = loop_poll(loop);

		ck_assert_int_ge(r, 0);
		n += (uint32_t)r;
		if (r > 0)
			idle = 0;
	}
	return n;
}

START_TEST(each_write_of_an_unread_eventfd_fires)
{
	struct probe probe;

	if (!loop_begin(_i, 4))
		return;
	probe = probe_make();
	ck_assert_int_eq(loop_add(loop, &probe.source), 0);
	ck_assert_uint_eq(settle(), 0);
	for (uint32_t i = 1; i <= 50; i++) {
		ring(&probe);
		ck_assert_int_ge(loop_wait(loop), 1);
		ck_assert_uint_eq(probe.n_events, i);
		ck_assert(probe.source.events & EPOLLIN);
	}
	probe_end(&probe);
	loop_end();
}
END_TEST

START_TEST(readable_before_add_fires_at_once)
{
	struct probe probe;

	if (!loop_begin(_i, 4))
		return;
	probe = probe_make();
	ring(&probe);
	ck_assert_int_eq(loop_add(loop, &probe.source), 0);
	ck_assert_int_ge(loop_wait(loop), 1);
	ck_assert_uint_eq(probe.n_events, 1);
	probe_end(&probe);
	loop_end();
}
END_TEST

START_TEST(hangup_is_told)
{
	struct probe probe = { .source.on_event = on_probe };
	int fds[2];

	if (!loop_begin(_i, 4))
		return;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	probe.source.fd = fds[0];
	ck_assert_int_eq(loop_add(loop, &probe.source), 0);
	close(fds[1]);
	ck_assert_int_ge(loop_wait(loop), 1);
	ck_assert(probe.source.events & (EPOLLIN | EPOLLHUP));
	/* It does not fire for ever. */
	settle();
	ck_assert_uint_le(probe.n_events, 2);
	probe_end(&probe);
	loop_end();
}
END_TEST

START_TEST(the_peer_sees_our_close)
{
	struct probe probe = { .source.on_event = on_probe };
	struct pollfd peer;
	int fds[2];

	if (!loop_begin(_i, 4))
		return;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	probe.source.fd = fds[0];
	ck_assert_int_eq(loop_add(loop, &probe.source), 0);
	/* Also where an event is on its way: this made POLL_REMOVE fail. */
	ck_assert_int_eq(send(fds[1], "x", 1, 0), 1);
	loop_del(loop, &probe.source);
	close(fds[0]);
	settle();
	peer = (struct pollfd){ .fd = fds[1], .events = POLLIN };
	ck_assert_int_eq(poll(&peer, 1, 2000), 1);
	ck_assert(peer.revents & POLLHUP);
	ck_assert_uint_eq(probe.n_events, 0);
	close(fds[1]);
	loop_end();
}
END_TEST

START_TEST(a_callback_deletes_another)
{
	struct probe probes[2];

	if (!loop_begin(_i, 4))
		return;
	for (int i = 0; i < 2; i++) {
		probes[i] = probe_make();
		ck_assert_int_eq(loop_add(loop, &probes[i].source), 0);
	}
	/* Both are ready in one turn; whichever comes first deletes the other. */
	probes[0].victim = &probes[1].source;
	probes[1].victim = &probes[0].source;
	ring(&probes[0]);
	ring(&probes[1]);
	settle();
	ck_assert_uint_eq(probes[0].n_events + probes[1].n_events, 1);
	probe_end(&probes[0]);
	probe_end(&probes[1]);
	loop_end();
}
END_TEST

START_TEST(a_callback_frees_its_owner)
{
	if (!loop_begin(_i, 4))
		return;
	for (int i = 0; i < 100; i++) {
		struct probe *probe = malloc(sizeof(*probe));

		*probe = probe_make();
		probe->free_self = true;
		ck_assert_int_eq(loop_add(loop, &probe->source), 0);
		ring(probe);
		ring(probe);
		ck_assert_uint_eq(settle(), 1);
	}
	loop_end();
}
END_TEST

START_TEST(a_callback_adds_itself_again)
{
	struct probe probe;

	if (!loop_begin(_i, 4))
		return;
	probe = probe_make();
	probe.add_again = true;
	ck_assert_int_eq(loop_add(loop, &probe.source), 0);
	ring(&probe);
	/* Still readable: it fires at once each time, as the listener relies on. */
	for (uint32_t i = 1; i <= 20; i++)
		ck_assert_int_ge(loop_wait(loop), 1);
	ck_assert_uint_ge(probe.n_events, 20);
	probe_end(&probe);
	loop_end();
}
END_TEST

START_TEST(a_late_event_is_dropped)
{
	struct probe *old;
	struct probe new;

	if (!loop_begin(_i, 1)) /* one slot: the new source gets the old one's */
		return;
	old = malloc(sizeof(*old));
	*old = probe_make();
	ck_assert_int_eq(loop_add(loop, &old->source), 0);
	settle();
	ring(old); /* on its way */
	loop_del(loop, &old->source);
	close(old->source.fd);
	memset(old, 0x5a, sizeof(*old));
	free(old);
	new = probe_make(); /* gets the same descriptor, too */
	ck_assert_int_eq(loop_add(loop, &new.source), 0);
	ck_assert_uint_eq(settle(), 0);
	ring(&new);
	ck_assert_uint_eq(settle(), 1);
	ck_assert_uint_eq(new.n_events, 1);
	probe_end(&new);
	loop_end();
}
END_TEST

START_TEST(full_and_twice)
{
	struct probe probes[3];

	if (!loop_begin(_i, 2))
		return;
	for (int i = 0; i < 3; i++)
		probes[i] = probe_make();
	ck_assert_int_eq(loop_add(loop, &probes[0].source), 0);
	ck_assert_int_eq(loop_add(loop, &probes[0].source), -EEXIST);
	ck_assert_int_eq(loop_add(loop, &probes[1].source), 0);
	ck_assert_int_eq(loop_add(loop, &probes[2].source), -ENOSPC);
	loop_del(loop, &probes[2].source); /* nothing where it was not added */
	loop_del(loop, &probes[0].source);
	ck_assert_int_eq(loop_add(loop, &probes[2].source), 0);
	for (int i = 0; i < 3; i++)
		probe_end(&probes[i]);
	loop_end();
}
END_TEST

START_TEST(a_thousand_sources)
{
	struct rlimit limit;
	struct probe *probes;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < N_MANY + 64) {
		printf("skip - loop/many: RLIMIT_NOFILE is too low\n");
		return;
	}
	if (!loop_begin(_i, N_MANY))
		return;
	probes = calloc(N_MANY, sizeof(*probes));
	for (uint32_t i = 0; i < N_MANY; i++) {
		probes[i] = probe_make();
		ck_assert_int_eq(loop_add(loop, &probes[i].source), 0);
	}
	for (uint32_t round = 1; round <= 8; round++) {
		uint32_t n_events = 0;

		for (uint32_t i = 0; i < N_MANY; i++)
			ring(&probes[i]);
		while (n_events < N_MANY)
			n_events += (uint32_t)loop_wait(loop);
		for (uint32_t i = 0; i < N_MANY; i++)
			ck_assert_uint_eq(probes[i].n_events, round);
	}
	for (uint32_t i = 0; i < N_MANY; i++)
		probe_end(&probes[i]);
	free(probes);
	settle();
	loop_end();
}
END_TEST

/* More events than completions fit: nothing is lost, polls that ended are armed again. */
START_TEST(a_full_completion_queue)
{
	struct probe probes[64];
	uint32_t n_before[64];

	if (!loop_begin(_i, 64))
		return;
	for (int i = 0; i < 64; i++) {
		probes[i] = probe_make();
		ck_assert_int_eq(loop_add(loop, &probes[i].source), 0);
	}
	settle();
	for (int burst = 0; burst < 200; burst++) {
		for (int i = 0; i < 64; i++)
			ring(&probes[i]);
		/* Brings the events into the queue without emptying it: an add submits, and submits
		 * only. */
		struct probe extra = probe_make();

		loop_add(loop, &extra.source);
		loop_del(loop, &extra.source);
		close(extra.source.fd);
	}
	settle();
	for (int i = 0; i < 64; i++)
		n_before[i] = probes[i].n_events;
	for (int i = 0; i < 64; i++)
		ring(&probes[i]);
	settle();
	for (int i = 0; i < 64; i++) {
		ck_assert_uint_ge(n_before[i], 1);
		ck_assert_uint_eq(probes[i].n_events, n_before[i] + 1);
		probe_end(&probes[i]);
	}
	loop_end();
}
END_TEST

START_TEST(pending_says_so_before_poll_finds_it)
{
	struct probe probe;
	uint32_t n_asked = 0;

	if (!loop_begin(_i, 4))
		return;
	probe = probe_make();
	ck_assert_int_eq(loop_add(loop, &probe.source), 0);
	settle();
	/* A busy front asks and asks; only io_uring knows, epoll says "maybe" now and then. */
	for (int i = 0; i < 640; i++)
		n_asked += loop_pending(loop);
	ck_assert_uint_le(n_asked, 10);
	ring(&probe);
	for (n_asked = 0; !loop_pending(loop) && n_asked < 64; n_asked++)
		;
	ck_assert_uint_lt(n_asked, 64);
	ck_assert_int_eq(loop_poll(loop), 1);
	ck_assert_uint_eq(probe.n_events, 1);
	probe_end(&probe);
	loop_end();
}
END_TEST

START_TEST(signals_and_timers)
{
	struct probe signals = { .source.on_event = on_probe },
		     timer = { .source.on_event = on_probe };
	struct itimerspec soon = { .it_value.tv_nsec = 2000000 };
	sigset_t set, old;

	if (!loop_begin(_i, 4))
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	signals.source.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	timer.source.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	ck_assert_int_eq(loop_add(loop, &signals.source), 0);
	ck_assert_int_eq(loop_add(loop, &timer.source), 0);
	for (uint32_t i = 1; i <= 3; i++) {
		struct signalfd_siginfo info;

		kill(getpid(), SIGUSR1);
		while (signals.n_events < i)
			ck_assert_int_ge(loop_wait(loop), 0);
		ck_assert_int_eq(read(signals.source.fd, &info, sizeof(info)), sizeof(info));
		timerfd_settime(timer.source.fd, 0, &soon, NULL); /* never read */
		while (timer.n_events < i)
			ck_assert_int_ge(loop_wait(loop), 0);
	}
	probe_end(&signals);
	probe_end(&timer);
	sigprocmask(SIG_SETMASK, &old, NULL);
	loop_end();
}
END_TEST

static void ignore(int signal_number)
{
	(void)signal_number;
}

START_TEST(an_interrupted_wait_is_no_error)
{
	struct sigaction action = { .sa_handler = ignore };
	struct itimerspec soon = { .it_value.tv_nsec = 5000000 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	timer_t timer;

	if (!loop_begin(_i, 4))
		return;
	sigaction(SIGALRM, &action, NULL);
	ck_assert_int_eq(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	timer_settime(timer, 0, &soon, NULL);
	ck_assert_int_eq(loop_wait(loop), 0);
	timer_delete(timer);
	loop_end();
}
END_TEST

static unsigned long switches(pid_t pid)
{
	char path[64], line[128];
	unsigned long n = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file))
		if (strstr(line, "ctxt_switches:"))
			n += strtoul(strchr(line, ':') + 1, NULL, 10);
	fclose(file);
	return n;
}

/* Asleep means asleep: no wake-up, hence no system call, in 200 ms with ten idle sources. */
START_TEST(idle_does_nothing)
{
	unsigned long n_before, n_after;
	int pipe_fds[2], status;
	pid_t pid;
	char byte;

	ck_assert_int_eq(pipe(pipe_fds), 0);
	pid = fork();
	if (pid == 0) {
		struct probe probes[10];

		if (!loop_begin(_i, 16))
			_exit(77);
		for (int i = 0; i < 10; i++) {
			probes[i] = probe_make();
			loop_add(loop, &probes[i].source);
		}
		settle();
		if (write(pipe_fds[1], "x", 1) != 1)
			_exit(1);
		loop_wait(loop);
		_exit(1);
	}
	close(pipe_fds[1]);
	if (read(pipe_fds[0], &byte, 1) == 1) {
		poll(NULL, 0, 50);
		n_before = switches(pid);
		poll(NULL, 0, 200);
		n_after = switches(pid);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		ck_assert_uint_eq(n_after, n_before);
		ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	} else {
		waitpid(pid, &status, 0);
		ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 77);
	}
	close(pipe_fds[0]);
}
END_TEST

START_TEST(automatic_choice_always_works)
{
	ck_assert_int_eq(loop_new(&loop, LOOP_AUTO, 4, &loop), 0);
	loop_end();
	ck_assert_ptr_null(loop_free(NULL));
}
END_TEST

Suite *suite_broker_loop(void);
Suite *suite_broker_loop(void)
{
	Suite *suite = suite_create("broker_loop");
	TCase *edges = tcase_create("edges");
	TCase *deletion = tcase_create("deletion");
	TCase *many = tcase_create("many");
	TCase *waiting = tcase_create("waiting");

	tcase_set_timeout(many, 20);
	tcase_add_loop_test(edges, each_write_of_an_unread_eventfd_fires, 0, N_KINDS);
	tcase_add_loop_test(edges, readable_before_add_fires_at_once, 0, N_KINDS);
	tcase_add_loop_test(edges, hangup_is_told, 0, N_KINDS);
	tcase_add_loop_test(edges, signals_and_timers, 0, N_KINDS);
	tcase_add_loop_test(deletion, the_peer_sees_our_close, 0, N_KINDS);
	tcase_add_loop_test(deletion, a_callback_deletes_another, 0, N_KINDS);
	tcase_add_loop_test(deletion, a_callback_frees_its_owner, 0, N_KINDS);
	tcase_add_loop_test(deletion, a_callback_adds_itself_again, 0, N_KINDS);
	tcase_add_loop_test(deletion, a_late_event_is_dropped, 0, N_KINDS);
	tcase_add_loop_test(many, full_and_twice, 0, N_KINDS);
	tcase_add_loop_test(many, a_thousand_sources, 0, N_KINDS);
	tcase_add_loop_test(many, a_full_completion_queue, 0, N_KINDS);
	tcase_add_loop_test(waiting, pending_says_so_before_poll_finds_it, 0, N_KINDS);
	tcase_add_loop_test(waiting, an_interrupted_wait_is_no_error, 0, N_KINDS);
	tcase_add_loop_test(waiting, idle_does_nothing, 0, N_KINDS);
	tcase_add_test(waiting, automatic_choice_always_works);
	suite_add_tcase(suite, edges);
	suite_add_tcase(suite, deletion);
	suite_add_tcase(suite, many);
	suite_add_tcase(suite, waiting);
	return suite;
}
