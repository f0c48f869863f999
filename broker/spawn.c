/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn.c - how an executor process is made, or an importer, which is the same program.
 *
 * It gets nothing but its socket as fd 3 (all else is closed), default signals, a process group of
 * its own (Ctrl-C on a terminal is for the front, which drains), and the allocator settings that
 * keep activations' memory.
 */
#define _GNU_SOURCE 1
#include "broker/spawn.h"
#include "broker/executor/memory.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXECUTOR_FD	3
#define EXECUTOR_NAME	"infbroker-executor"
#define ENVIRONMENT_MAX 1024u
#define ARGUMENTS_MAX	20u
#define NUMBERS		4u

extern char **environ;

void spawn_path(const struct config *config, char path[SPAWN_PATH_BYTES])
{
	char *slash;
	ssize_t n;

	if (config->executor_path) {
		snprintf(path, SPAWN_PATH_BYTES, "%s", config->executor_path);
		return;
	}
	n = readlink("/proc/self/exe", path, SPAWN_PATH_BYTES - sizeof(EXECUTOR_NAME) - 1);
	path[n > 0 ? n : 0] = '\0';
	slash = strrchr(path, '/');
	snprintf(slash ? slash + 1 : path, sizeof(EXECUTOR_NAME), "%s", EXECUTOR_NAME);
}

/* posix_spawn() writes to none of them, its prototype is older than const. */
static char *argument(const char *text)
{
	return (char *)(uintptr_t)text;
}

/* What it is to be started with; `numbers` has room for what argv points to. */
static void fill_arguments(const struct config *config, const char *path, bool on_device, uint32_t spin_ns,
			   char numbers[NUMBERS][24], char *argv[ARGUMENTS_MAX])
{
	uint32_t n = 0;

	argv[n++] = argument(path);
	if (config->models_path) {
		argv[n++] = argument("--models");
		argv[n++] = argument(config->models_path);
	}
	if (config->builtin)
		argv[n++] = argument("--builtin");
	if (config->device && on_device) {
		argv[n++] = argument("--device");
		argv[n++] = argument(config->device);
	}
	if (config->instances) {
		snprintf(numbers[0], sizeof(numbers[0]), "%" PRIu32, config->instances);
		argv[n++] = argument("--instances");
		argv[n++] = numbers[0];
	}
	if (config->threads) {
		snprintf(numbers[1], sizeof(numbers[1]), "%" PRIu32, config->threads);
		argv[n++] = argument("--threads");
		argv[n++] = numbers[1];
	}
	snprintf(numbers[2], sizeof(numbers[2]), "%" PRIu32, spin_ns);
	argv[n++] = argument("--spin-ns");
	argv[n++] = numbers[2];
	if (config->device_model_memory) {
		snprintf(numbers[3], sizeof(numbers[3]), "%" PRIu64, config->device_model_memory);
		argv[n++] = argument("--device-model-memory");
		argv[n++] = numbers[3];
	}
	if (config->no_graphs)
		argv[n++] = argument("--no-graphs");
	if (config->verbose)
		argv[n++] = argument("--verbose");
	argv[n] = NULL;
}

/* Our own environment, with the allocator's settings (an administrator's go first). */
static void fill_environment(char *environment[ENVIRONMENT_MAX])
{
	static char tunables[] = EXECUTOR_MALLOC_TUNABLES;
	uint32_t n = 0;

	for (char **entry = environ; entry && *entry && n < ENVIRONMENT_MAX - 2; entry++)
		environment[n++] = *entry;
	if (!getenv("GLIBC_TUNABLES"))
		environment[n++] = tunables;
	environment[n] = NULL;
}

static int fill_actions(posix_spawn_file_actions_t *actions, int socket_fd)
{
	int r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);

	if (r == 0)
		r = posix_spawn_file_actions_adddup2(actions, socket_fd, EXECUTOR_FD);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
	/* Everything of ours is CLOEXEC; this is for what we inherited. */
	if (r == 0)
		r = posix_spawn_file_actions_addclosefrom_np(actions, EXECUTOR_FD + 1);
#endif
	return r;
}

static int fill_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	r = posix_spawnattr_setsigmask(attributes, &none);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(attributes, &all);
	if (r == 0)
		r = posix_spawnattr_setpgroup(attributes, 0);
	if (r == 0)
		r = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK |
								 POSIX_SPAWN_SETSIGDEF |
								 POSIX_SPAWN_SETPGROUP);
	return r;
}

static int spawn(const char *path, char *const argv[], int socket_fd, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	char *environment[ENVIRONMENT_MAX];
	int r = posix_spawn_file_actions_init(&actions);

	if (r)
		return -r;
	r = posix_spawnattr_init(&attributes);
	if (r) {
		posix_spawn_file_actions_destroy(&actions);
		return -r;
	}
	fill_environment(environment);
	r = fill_actions(&actions, socket_fd);
	if (r == 0)
		r = fill_attributes(&attributes);
	if (r == 0)
		r = posix_spawn(ret_pid, path, &actions, &attributes, argv, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

int spawn_executor(const struct config *config, const char *path, bool on_device, uint32_t spin_ns, int socket_fd,
		   pid_t *ret_pid)
{
	char *argv[ARGUMENTS_MAX], numbers[NUMBERS][24];

	fill_arguments(config, path, on_device, spin_ns, numbers, argv);
	return spawn(path, argv, socket_fd, ret_pid);
}

int spawn_importer(const char *path, const char *uuid, int socket_fd, pid_t *ret_pid)
{
	char *argv[] = { argument(path), argument("--importer"), argument("--device"), argument(uuid), NULL };

	return spawn(path, argv, socket_fd, ret_pid);
}

void spawn_end_text(char text[SPAWN_END_BYTES], const siginfo_t *info)
{
	if (info->si_code == CLD_EXITED)
		snprintf(text, SPAWN_END_BYTES, "ended with code %d", info->si_status);
	else
		snprintf(text, SPAWN_END_BYTES, "died of %s", strsignal(info->si_status));
}
