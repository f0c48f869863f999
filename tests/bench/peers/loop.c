/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - see loop.h. A round trip lasts from the end of the one before to its own end, so that
 * the client's own work between two requests (a few nanoseconds, and the reading of the clock) is
 * counted for every rival alike.
 */
#define _GNU_SOURCE 1
#include "tests/bench/peers/loop.h"
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The longest that can be recorded, 64 MB; a run that fills it ends early and says so by its n. */
#define SAMPLES_MAX (1u << 24)
#define RUN_MS_MAX  600000u
/* A rival that stops answering would hold the bench forever. */
#define STUCK_S 30u

unsigned char loop_message[LOOP_BYTES_MAX];
unsigned char loop_reply[LOOP_BYTES_MAX];
struct loop_options loop_options = {
	.client_cpu = -1,
	.server_cpu = -1,
	.run_ms = 1000,
	.n_warm = 1000,
	.message_bytes = 64,
	.how = "",
};

static pid_t server_pid;

void loop_die(const char *format, ...)
{
	int error = errno;
	va_list args;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, error ? ": %s\n" : "\n", strerror(error));
	if (server_pid > 0)
		kill(server_pid, SIGKILL);
	_exit(1);
}

unsigned long loop_number(const char *option, const char *text, unsigned long max)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || end == text || *end || text[0] == '-' || value > max) {
		errno = 0;
		loop_die("%s: a number up to %lu is wanted, not '%s'", option, max, text);
	}
	return value;
}

static void take_cpus(const char *text)
{
	if (sscanf(text, "%d,%d", &loop_options.client_cpu, &loop_options.server_cpu) != 2) {
		errno = 0;
		loop_die("--cpus: CLIENT,SERVER is wanted, not '%s'", text);
	}
}

bool loop_take_option(const char *option, const char *value)
{
	if (!strcmp(option, "--cpus"))
		take_cpus(value);
	else if (!strcmp(option, "--ms"))
		loop_options.run_ms = (unsigned int)loop_number(option, value, RUN_MS_MAX);
	else if (!strcmp(option, "--warm"))
		loop_options.n_warm = (unsigned int)loop_number(option, value, 1000000);
	else if (!strcmp(option, "--bytes"))
		loop_options.message_bytes = loop_number(option, value, LOOP_BYTES_MAX);
	else if (!strcmp(option, "--how"))
		loop_options.how = value;
	else if (!strcmp(option, "--dir"))
		loop_options.dir = value;
	else
		return false;
	return true;
}

void loop_pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		loop_die("cannot stay on CPU %d", cpu);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print(uint32_t *samples, uint32_t n, uint64_t total_ns)
{
	qsort(samples, n, sizeof(*samples), compare);
	printf("{\"n\": %" PRIu32 ", \"p50_ns\": %" PRIu32 ", \"p99_ns\": %" PRIu32
	       ", \"mean_ns\": %" PRIu64 "}\n",
	       n, samples[n / 2], samples[(uint64_t)n * 99 / 100], total_ns / n);
}

void loop_run(void (*ask)(void), void (*check)(void))
{
	uint32_t *samples = malloc(SAMPLES_MAX * sizeof(*samples));
	uint64_t start_ns, last_ns, end_ns;
	uint32_t n = 0;

	if (!samples)
		loop_die("no memory for the samples");
	alarm(loop_options.run_ms / 1000 + STUCK_S);
	ask();
	check();
	/* The warm-up has a limit in time too: a spinning pair on one core does a hundred round
	 * trips per second. */
	start_ns = now_ns();
	end_ns = start_ns + loop_options.run_ms * 200000ull;
	for (unsigned int i = 0; i < loop_options.n_warm && now_ns() < end_ns; i++)
		ask();

	start_ns = last_ns = now_ns();
	end_ns = start_ns + loop_options.run_ms * 1000000ull;
	do {
		uint64_t t_ns, took_ns;

		ask();
		t_ns = now_ns();
		took_ns = t_ns - last_ns;
		samples[n++] = took_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)took_ns;
		last_ns = t_ns;
	} while (last_ns < end_ns && n < SAMPLES_MAX);
	check();
	print(samples, n, last_ns - start_ns);
	free(samples);
}

static void check_echo(void)
{
	errno = 0;
	if (memcmp(loop_message, loop_reply, loop_options.message_bytes))
		loop_die("the answer is not what was sent");
}

static void take_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		errno = 0;
		if (i + 1 == argc || !loop_take_option(argv[i], argv[i + 1]))
			loop_die("usage: [--cpus CLIENT,SERVER] [--ms N] [--warm N] [--bytes N] "
				 "[--how WORD] --dir DIR");
	}
}

static _Noreturn void be_server(const struct pair_ops *ops, int ready_fd)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	loop_pin(loop_options.server_cpu);
	ops->listen();
	if (write(ready_fd, "r", 1) != 1)
		loop_die("the client is gone");
	close(ready_fd);
	ops->serve();
	_exit(1);
}

int pair_main(int argc, char **argv, const struct pair_ops *ops)
{
	int ready[2];
	char byte;

	take_options(argc, argv);
	for (size_t i = 0; i < loop_options.message_bytes; i++)
		loop_message[i] = (unsigned char)(i * 7 + 1);
	errno = 0;
	if (!loop_options.dir)
		loop_die("--dir is missing");
	if (pipe(ready))
		loop_die("pipe");
	if (ops->prepare)
		ops->prepare();
	server_pid = fork();
	if (server_pid < 0)
		loop_die("fork");
	if (!server_pid) {
		close(ready[0]);
		be_server(ops, ready[1]);
	}
	close(ready[1]);
	loop_pin(loop_options.client_cpu);
	alarm(STUCK_S);
	errno = 0;
	if (read(ready[0], &byte, 1) != 1)
		loop_die("the echo server did not start");
	ops->connect();
	loop_run(ops->ask, check_echo);
	if (ops->disconnect)
		ops->disconnect();
	kill(server_pid, SIGKILL);
	waitpid(server_pid, NULL, 0);
	return 0;
}
