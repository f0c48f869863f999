/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.h - what the parts of `shmctl doctor` share: one patient, one way to say what was found.
 *
 * The patient is the broker where one runs (its limits and control groups are looked at), else whoever would start one now.
 */
#ifndef SHMCTL_DOCTOR_H
#define SHMCTL_DOCTOR_H

#include "shm/stats.h"
#include "tools/shmctl/shmctl.h"
#include "tools/shmctl/stats.h"
#include <limits.h>

enum verdict {
	VERDICT_OK,
	VERDICT_WARN, /* it works, but worse than it could, or will fail under load */
	VERDICT_FAIL, /* it does not work */
};

struct doctor {
	const struct options *options;
	json_t *checks; /* NULL = lines for people */
	unsigned int n_warned, n_failed;
	char path[PATH_MAX];		      /* of the socket */
	const struct inf_stats_public *stats; /* NULL: */
	int stats_error;
	enum life life; /* where there are statistics */
	uint32_t pid;	/* of a broker that lives, 0 = none */
};

/* One finding; a second line of the text is its fix. Control characters are taken out: part of it may come from others. */
void doctor_say(struct doctor *doctor, const char *check, enum verdict verdict, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

struct doctor_answer {
	int error; /* 0 or negative errno; -ETIMEDOUT: none came */
	char text[512];
};
/*
 * Lets a process of its own do `work`, which may hang: with a broker, or with a driver. It is killed after some seconds
 * (--timeout, at most DOCTOR_WAIT_S).
 */
#define DOCTOR_WAIT_S 5u
void doctor_ask(const struct doctor *doctor, void (*work)(const struct doctor *doctor, struct doctor_answer *answer),
		struct doctor_answer *ret_answer);

/* What a limit of the broker is, or `otherwise` where no statistics say it. */
uint64_t doctor_limit(const struct doctor *doctor, const char *name, uint64_t otherwise);
/* "/proc/PID/NAME" of the patient. */
const char *doctor_proc(const struct doctor *doctor, char path[64], const char *name);

/* Processor time that the patient's control groups allow, in thousandths of a processor (UINT64_MAX: no quota), and which group
 * says so; and the bytes of memory. $INF_CGROUP_ROOT stands for /sys/fs/cgroup. */
#define DOCTOR_GROUP_BYTES 512
uint64_t doctor_cpu_quota(const struct doctor *doctor, char ret_group[DOCTOR_GROUP_BYTES]);
uint64_t doctor_memory_limit(const struct doctor *doctor, char ret_group[DOCTOR_GROUP_BYTES]);

void doctor_kernel(struct doctor *doctor);    /* what the system can do */
void doctor_resources(struct doctor *doctor); /* and what it lets the patient have */
void doctor_broker(struct doctor *doctor);    /* finds it: socket, life, version */
void doctor_service(struct doctor *doctor);   /* its executor and models */
void doctor_device(struct doctor *doctor);

#endif /* SHMCTL_DOCTOR_H */
