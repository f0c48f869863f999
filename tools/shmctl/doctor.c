/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.c - `shmctl doctor`: what is wrong here, and what to do about it.
 *
 * It tries things rather than reading settings where it can: a refused io_uring is refused by whatever refuses it. It works
 * without a broker, on one that is stopped and on what a killed one left, for any user, and waits for nobody longer than some
 * seconds: what may hang is done by a child. What it may not see it says nothing about.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/doctor.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const verdict_words[] = { [VERDICT_OK] = "ok", [VERDICT_WARN] = "warn", [VERDICT_FAIL] = "fail" };

static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == '\x7f')
			*text = '?';
}

void doctor_say(struct doctor *doctor, const char *check, enum verdict verdict, const char *format, ...)
{
	char text[1024], *fix;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fix = strchr(text, '\n');
	if (fix)
		*fix++ = '\0';
	make_printable(text);
	if (fix)
		make_printable(fix);
	doctor->n_warned += verdict == VERDICT_WARN;
	doctor->n_failed += verdict == VERDICT_FAIL;
	if (doctor->checks)
		json_array_append_new(doctor->checks, json_pack("{s:s, s:s, s:o, s:o}", "check", check, "verdict",
								verdict_words[verdict], "finding", json_text(text), "fix",
								fix ? json_text(fix) : json_null()));
	else
		printf("%-5s %-11s %s%s%s\n", verdict_words[verdict], check, text, fix ? "  → " : "", fix ? fix : "");
}

/* The child's answer comes through a pipe, whole: it is smaller than PIPE_BUF. */
void doctor_ask(const struct doctor *doctor, void (*work)(const struct doctor *doctor, struct doctor_answer *answer),
		struct doctor_answer *ret_answer)
{
	unsigned int wait_s = doctor->options->timeout_s;
	struct doctor_answer answer = { .error = -ETIMEDOUT };
	int pipe_fds[2];
	pid_t child;

	*ret_answer = answer;
	if (!wait_s || wait_s > DOCTOR_WAIT_S)
		wait_s = DOCTOR_WAIT_S;
	fflush(stdout);
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return;
	child = fork();
	if (child == 0) {
		answer.error = 0;
		work(doctor, &answer);
		_exit(write(pipe_fds[1], &answer, sizeof(answer)) != sizeof(answer));
	}
	close(pipe_fds[1]);
	if (child > 0) {
		struct pollfd pollfd = { .fd = pipe_fds[0], .events = POLLIN };

		if (poll(&pollfd, 1, (int)wait_s * 1000) == 1 && read(pipe_fds[0], &answer, sizeof(answer)) == sizeof(answer))
			*ret_answer = answer;
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	close(pipe_fds[0]);
}

uint64_t doctor_limit(const struct doctor *doctor, const char *name, uint64_t otherwise)
{
	for (unsigned int i = 0; doctor->stats && i < INF_STATS_LIMITS; i++)
		if (!strncmp(doctor->stats->limits[i].name, name, sizeof(doctor->stats->limits[i].name)))
			return doctor->stats->limits[i].limit;
	return otherwise;
}

const char *doctor_proc(const struct doctor *doctor, char path[64], const char *name)
{
	snprintf(path, 64, "/proc/%ju/%s", (uintmax_t)(doctor->pid ? (pid_t)doctor->pid : getpid()), name);
	return path;
}

static int finish(struct doctor *doctor)
{
	unsigned int n_failed = doctor->n_failed, n_warned = doctor->n_warned;
	int r = EXIT_OK;

	if (doctor->checks)
		r = print_json(doctor->options, "doctor",
			       json_pack("{s:o, s:i, s:i, s:o}", "checks", doctor->checks, "failures", (int)n_failed, "warnings",
					 (int)n_warned, "socket", json_text(doctor->path)));
	else
		printf("%u failure%s, %u warning%s\n", n_failed, n_failed == 1 ? "" : "s", n_warned, n_warned == 1 ? "" : "s");
	return n_failed ? EXIT_UNHEALTHY : r;
}

static int run(const struct options *options, int argc, char **argv)
{
	struct doctor doctor = { .options = options };
	int r = no_arguments(options, argc, argv);

	if (r)
		return r;
	if (options->json)
		doctor.checks = json_array();
	doctor_broker(&doctor);
	doctor_service(&doctor);
	/* What a snapshot has kept says nothing of the system that it is looked at on. */
	if (doctor.life != LIFE_SNAPSHOT) {
		doctor_kernel(&doctor);
		doctor_resources(&doctor);
		doctor_device(&doctor);
	}
	return finish(&doctor);
}

const struct command command_doctor = {
	.name = "doctor",
	.summary = "what is wrong here, and what to do about it",
	.usage = "Usage: shmctl doctor [-j]\n"
		 "Looks at the broker, its socket, executor and models, at the kernel, the limits and the devices: a line for each,\n"
		 "ok, warn or fail, what was found and how to mend it. Works without a broker, on a stopped and on a killed one;\n"
		 "of a snapshot (--socket FOLDER/socket) it says what the broker's files had kept.\n"
		 "Exit status 1: something failed; warnings do not count.\n",
	.run = run,
};
