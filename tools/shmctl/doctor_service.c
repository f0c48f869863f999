/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_service.c - does what runs models run, and which models do not. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "tools/shmctl/doctor.h"
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXECUTOR "infbroker-executor"
#define OPTION	 "--executor"

/* The folder of a process's program. False where we may not know. */
static bool program_folder(const struct doctor *doctor, char ret_folder[PATH_MAX])
{
	char link[64], path[PATH_MAX];
	ssize_t n = readlink(doctor_proc(doctor, link, "exe"), path, sizeof(path) - 1);

	if (n < 0)
		return false;
	path[n] = '\0';
	snprintf(ret_folder, PATH_MAX, "%s", dirname(path));
	return true;
}

/* What --executor said, seen from us: a relative one is so to the broker's folder. */
static void executor_asked(const struct doctor *doctor, const char *said, char ret_path[PATH_MAX])
{
	char cwd[64];

	if (said[0] == '/')
		snprintf(ret_path, PATH_MAX, "%s", said);
	else
		snprintf(ret_path, PATH_MAX, "%s/%s", doctor_proc(doctor, cwd, "cwd"), said);
}

/*
 * The program that a running broker starts: what its command line names, else the one beside it. Its command line may be read
 * by anybody, where it lies (it is not dumpable) only by root. False: unknown.
 */
static bool executor_path(const struct doctor *doctor, char ret_path[PATH_MAX])
{
	char words[8192], name[64], folder[PATH_MAX];
	FILE *file = fopen(doctor_proc(doctor, name, "cmdline"), "re");
	size_t n = file ? fread(words, 1, sizeof(words) - 1, file) : 0;
	bool is_next = false;

	if (file)
		fclose(file);
	words[n] = '\0';
	ret_path[0] = '\0';
	for (const char *word = words; word < words + n; word += strlen(word) + 1) { /* the last one counts */
		if (is_next)
			executor_asked(doctor, word, ret_path);
		else if (!strncmp(word, OPTION "=", sizeof(OPTION)))
			executor_asked(doctor, word + sizeof(OPTION), ret_path);
		is_next = !is_next && !strcmp(word, OPTION);
	}
	if (ret_path[0])
		return true;
	if (program_folder(doctor, folder))
		return snprintf(ret_path, PATH_MAX, "%.*s/" EXECUTOR, PATH_MAX - 32, folder) > 0;
	if (words[0] != '/')
		return false;
	snprintf(ret_path, PATH_MAX, "%.*s/" EXECUTOR, PATH_MAX - 32, dirname(words));
	return true;
}

/* Whom to send a signal: another process may have the number of one that is gone. */
static const char *pid_word(const struct doctor *doctor, char word[16])
{
	if (doctor->pid)
		snprintf(word, 16, "%" PRIu32, doctor->pid);
	else
		snprintf(word, 16, "the broker");
	return word;
}

static void say_unstartable(struct doctor *doctor)
{
	char path[PATH_MAX], word[16];
	const char *pid = pid_word(doctor, word);

	if (doctor->pid && executor_path(doctor, path) && access(path, X_OK) < 0 && (errno == ENOENT || errno == ENOTDIR))
		doctor_say(doctor, "executor", VERDICT_FAIL,
			   "its program %s is missing: no model runs\nput it there (install infbroker anew) and kill -HUP %s"
			   ", or start infbroker with --executor FILE",
			   path, pid);
	else if (doctor->pid && executor_path(doctor, path) && access(path, X_OK) < 0)
		doctor_say(doctor, "executor", VERDICT_FAIL, "its program %s cannot be run: %s\nchmod 755 it, then kill -HUP %s", path,
			   strerror(errno), pid);
	else
		doctor_say(doctor, "executor", VERDICT_FAIL,
			   "it cannot be started: no model runs\nthe broker's log says why; kill -HUP %s tries again", pid);
}

static void check_executor(struct doctor *doctor)
{
	const struct inf_stats_public *stats = doctor->stats;
	uint64_t n_deaths = inf_load64(&stats->n_executor_deaths);
	char device[sizeof(stats->device) + 1];

	snprintf(device, sizeof(device), "%.*s", (int)sizeof(stats->device), stats->device);
	if (stats_executor_is_stopped(stats)) {
		doctor_say(doctor, "executor", VERDICT_FAIL, "it is stopped, and nothing runs\nkill -CONT %" PRIu32,
			   inf_load32(&stats->executor_pid));
		return;
	}
	switch (inf_load32(&stats->executor_state)) {
	case INF_STATS_EXECUTOR_FAILED:
		say_unstartable(doctor);
		break;
	case INF_STATS_EXECUTOR_WAITING:
		doctor_say(doctor, "executor", VERDICT_WARN,
			   "it died, and is started again in some seconds (%" PRIu64 " deaths so far)\nthe broker's log says of what it died",
			   n_deaths);
		break;
	case INF_STATS_EXECUTOR_READY:
		if (n_deaths)
			doctor_say(doctor, "executor", VERDICT_WARN,
				   "it is ready, but died %" PRIu64 " times before\nthe broker's log says of what; a model that kills it says POISON",
				   n_deaths);
		else
			doctor_say(doctor, "executor", VERDICT_OK, "it is ready, on %s, %" PRIu32 " batches at once", device,
				   inf_load32(&stats->n_instances));
		break;
	case INF_STATS_EXECUTOR_STARTING:
		doctor_say(doctor, "executor", VERDICT_OK, "it is just starting");
		break;
	default:
		doctor_say(doctor, "executor", VERDICT_WARN, "there is none\nthe broker's log says why");
	}
}

static void check_models(struct doctor *doctor)
{
	unsigned int n[INF_MODEL_FAILED + 1] = { 0 };
	char pid[16];

	for (unsigned int i = 0; i < INF_STATS_MODELS; i++) {
		const struct inf_stats_model *model = &doctor->stats->models[i];
		uint32_t state = inf_load32(&model->state);

		if (!model->name[0] || state > INF_MODEL_FAILED)
			continue;
		n[state]++;
		if (state == INF_MODEL_FAILED)
			doctor_say(doctor, "model", VERDICT_FAIL,
				   "%.*s cannot be loaded: %.*s\nreplace its file (tools/export/infexport.py writes them) and kill -HUP %s",
				   (int)sizeof(model->name), model->name, (int)sizeof(model->text), model->text, pid_word(doctor, pid));
	}
	if (doctor->life == LIFE_GONE || inf_load32(&doctor->stats->executor_state) == INF_STATS_EXECUTOR_FAILED)
		return;
	if (!n[INF_MODEL_READY] && !n[INF_MODEL_LOADING] && !n[INF_MODEL_FAILED])
		doctor_say(doctor, "models", VERDICT_WARN, "none are served\nstart infbroker with --models DIR, or with --builtin");
	else
		doctor_say(doctor, "models", VERDICT_OK, "%u ready, %u loading, %u failed", n[INF_MODEL_READY], n[INF_MODEL_LOADING],
			   n[INF_MODEL_FAILED]);
}

/* Without a broker: would one that was installed with this shmctl find its executor? */
static void check_installed(struct doctor *doctor)
{
	char folder[PATH_MAX], path[PATH_MAX + 32];

	if (!program_folder(doctor, folder))
		return;
	snprintf(path, sizeof(path), "%s/infbroker", folder);
	if (access(path, X_OK) < 0)
		return;
	snprintf(path, sizeof(path), "%s/" EXECUTOR, folder);
	if (access(path, X_OK) < 0)
		doctor_say(doctor, "executor", VERDICT_FAIL,
			   "%s, which infbroker starts, %s\ninstall infbroker anew, or start it with --executor FILE", path,
			   errno == ENOENT ? "is missing" : "cannot be run");
	else
		doctor_say(doctor, "executor", VERDICT_OK, "%s is there", path);
}

void doctor_service(struct doctor *doctor)
{
	if (!doctor->stats || doctor->life == LIFE_GONE)
		check_installed(doctor);
	if (!doctor->stats)
		return;
	if (doctor->life != LIFE_GONE)
		check_executor(doctor);
	check_models(doctor);
}
