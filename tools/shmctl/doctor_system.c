/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_system.c - what the kernel can do, tried; and what it lets the broker have. */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "shm/layout.h"
#include "tools/shmctl/doctor.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* Linux 5.16 */
#endif

#define KERNEL_MAJOR_MIN 5
#define KERNEL_MINOR_MIN 14
#define CAP_IPC_LOCK_BIT 14

/* --- the kernel --- */

static void check_release(struct doctor *doctor)
{
	struct utsname name;
	unsigned int major = 0, minor = 0;

	uname(&name);
	if (sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
	    (major > KERNEL_MAJOR_MIN || (major == KERNEL_MAJOR_MIN && minor >= KERNEL_MINOR_MIN)))
		doctor_say(doctor, "kernel", VERDICT_OK, "Linux %s", name.release);
	else
		doctor_say(doctor, "kernel", VERDICT_FAIL, "Linux %s, older than %d.%d\nboot a newer kernel", name.release, KERNEL_MAJOR_MIN,
			   KERNEL_MINOR_MIN);
}

/* Memory that is sealed as all of the broker's is, of a size that has to be found. */
static void check_memfd(struct doctor *doctor)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
	int fd = memfd_create("shmctl-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	bool is_noexec = fd >= 0;
	int r = 0;

	if (fd < 0)
		fd = memfd_create("shmctl-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		r = errno;
	if (fd >= 0)
		r = posix_fallocate(fd, 0, 2 << 20);
	if (r)
		doctor_say(doctor, "memfd", VERDICT_FAIL, "no shared memory is to be had: %s\nfree some memory; look at the control group's limit "
			   "and at the seccomp profile", strerror(r));
	else if (fcntl(fd, F_ADD_SEALS, seals) < 0)
		doctor_say(doctor, "memfd", VERDICT_FAIL, "shared memory cannot be sealed: %s\nboot a newer kernel, or allow fcntl in the "
			   "seccomp profile", strerror(errno));
	else
		doctor_say(doctor, "memfd", VERDICT_OK, "shared memory can be had and sealed%s",
			   is_noexec ? "" : " (it may be executed: that can be forbidden from Linux 6.3 on)");
	if (fd >= 0)
		close(fd);
}

/* Asked with nothing to do: what exists says that the arguments are wrong. */
static void check_calls(struct doctor *doctor)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (fd < 0)
		doctor_say(doctor, "pidfd", VERDICT_FAIL, "pidfd_open is refused: %s\nallow it in the seccomp profile", strerror(errno));
	else
		doctor_say(doctor, "pidfd", VERDICT_OK, "processes can be watched");
	if (fd >= 0)
		close(fd);
	syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0);
	if (errno == EINVAL)
		doctor_say(doctor, "futex_waitv", VERDICT_OK, "clients learn at once that the broker died");
	else
		doctor_say(doctor, "futex_waitv", VERDICT_WARN,
			   "futex_waitv is refused: %s: clients look every 250 ms whether the broker lives\n"
			   "boot Linux 5.16 or newer, or allow it in the seccomp profile",
			   strerror(errno));
}

/* Settings of one number; -1 where there is none. */
static long read_setting(const char *path)
{
	FILE *file = fopen(path, "re");
	long value = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &value) != 1)
		value = -1;
	fclose(file);
	return value;
}

static void say_refused(struct doctor *doctor, int error)
{
	long disabled = read_setting("/proc/sys/kernel/io_uring_disabled");

	if (disabled > 0)
		doctor_say(doctor, "io_uring", VERDICT_WARN,
			   "io_uring is refused (%s): kernel.io_uring_disabled is %ld; the broker uses epoll, which costs latency\n"
			   "sysctl kernel.io_uring_disabled=0",
			   strerror(error), disabled);
	else
		doctor_say(doctor, "io_uring", VERDICT_WARN,
			   "io_uring is refused (%s); the broker uses epoll, which costs latency\n%s", strerror(error),
			   error == ENOSYS ? "build the kernel with CONFIG_IO_URING, or allow io_uring_setup in the seccomp profile" :
			   error == ENOMEM ? "raise RLIMIT_MEMLOCK (LimitMEMLOCK= in the unit), or free some memory" :
					     "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of the "
					     "container or unit");
}

/* As large a ring as the broker's. Tried here, under our own limits and filters: the broker may have others. */
static void check_io_uring(struct doctor *doctor)
{
	struct io_uring_params params = { .flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP, .cq_entries = 16384 };
	int fd = (int)syscall(SYS_io_uring_setup, 256, &params);
	bool on_epoll = doctor->pid && !strncmp(doctor->stats->loop, "epoll", sizeof(doctor->stats->loop));

	if (fd < 0) {
		say_refused(doctor, errno);
		return;
	}
	close(fd);
	if (on_epoll)
		doctor_say(doctor, "io_uring", VERDICT_WARN,
			   "io_uring works for us, but the broker runs on epoll, which costs latency\n"
			   "start it without --loop=epoll and INF_LOOP, and allow io_uring in its container or unit");
	else
		doctor_say(doctor, "io_uring", VERDICT_OK, "io_uring works");
}

void doctor_kernel(struct doctor *doctor)
{
	check_release(doctor);
	check_memfd(doctor);
	check_calls(doctor);
	check_io_uring(doctor);
}

/* --- limits --- */

static const char *whose(const struct doctor *doctor)
{
	return doctor->pid ? "of the broker" : "here";
}

/* Soft and hard, of the broker where one runs. */
static bool read_limit(const struct doctor *doctor, int resource, struct rlimit *ret_limit)
{
	return prlimit(doctor->pid ? (pid_t)doctor->pid : 0, (enum __rlimit_resource)resource, NULL, ret_limit) == 0;
}

/* prlimit() of another's process is forbidden, its file in /proc is not. */
static bool read_proc_limit(const struct doctor *doctor, const char *name, struct rlimit *ret_limit)
{
	char path[64], line[256], soft[32], hard[32];
	FILE *file = fopen(doctor_proc(doctor, path, "limits"), "re");
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, name, strlen(name)) && sscanf(line + strlen(name), "%31s %31s", soft, hard) == 2;
	if (file)
		fclose(file);
	if (!found)
		return false;
	ret_limit->rlim_cur = soft[0] == 'u' ? RLIM_INFINITY : strtoull(soft, NULL, 10);
	ret_limit->rlim_max = hard[0] == 'u' ? RLIM_INFINITY : strtoull(hard, NULL, 10);
	return true;
}

static bool may_lock(const struct doctor *doctor)
{
	char path[64], line[256];
	FILE *file = fopen(doctor_proc(doctor, path, "status"), "re");
	uint64_t capabilities = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %" SCNx64, &capabilities) == 1)
			break;
	if (file)
		fclose(file);
	return capabilities >> CAP_IPC_LOCK_BIT & 1;
}

/*
 * On a device, all memory of sessions may be pinned, and what counts as locked then is the driver's choice. On the CPU nothing
 * is locked by us; but a kernel may charge rings to it, and those of the broker do not fit into what kernels before 5.16 gave.
 */
#define MEMLOCK_CPU_BYTES (8u << 20)
static void check_memlock(struct doctor *doctor)
{
	bool on_device = doctor->stats && doctor->stats->device_asked[0];
	uint64_t needed = on_device ? doctor_limit(doctor, "memory_max", 8ull << 30) : MEMLOCK_CPU_BYTES;
	char word[WORD_BYTES], needs[WORD_BYTES];
	struct rlimit limit;

	if (!read_limit(doctor, RLIMIT_MEMLOCK, &limit) && !read_proc_limit(doctor, "Max locked memory", &limit))
		return;
	if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= needed)
		doctor_say(doctor, "memlock", VERDICT_OK, "RLIMIT_MEMLOCK %s is %s", whose(doctor),
			   limit.rlim_cur == RLIM_INFINITY ? "unlimited" : word_bytes(word, limit.rlim_cur));
	else if (may_lock(doctor))
		doctor_say(doctor, "memlock", VERDICT_OK, "RLIMIT_MEMLOCK %s is %s, which CAP_IPC_LOCK lifts", whose(doctor),
			   word_bytes(word, limit.rlim_cur));
	else
		doctor_say(doctor, "memlock", VERDICT_WARN, "RLIMIT_MEMLOCK %s is %s; %s may be needed%s\nLimitMEMLOCK=%s in the unit, or ulimit -l %" PRIu64,
			   whose(doctor), word_bytes(word, limit.rlim_cur), word_bytes(needs, needed),
			   on_device ? " to pin memory for the device (memory_max)" : "", on_device ? "infinity" : "64M", needed >> 10);
}

/* As broker/main.c counts them. */
#define FDS_OWN		(32u + 4u * INF_INSTANCES)
#define FDS_PER_SESSION 7u
static void check_nofile(struct doctor *doctor)
{
	uint64_t n_sessions = doctor_limit(doctor, "sessions_max", 1024), needed = FDS_OWN + FDS_PER_SESSION * n_sessions;
	struct rlimit limit;

	if (!read_limit(doctor, RLIMIT_NOFILE, &limit) && !read_proc_limit(doctor, "Max open files", &limit))
		return;
	if (limit.rlim_max >= needed)
		doctor_say(doctor, "nofile", VERDICT_OK, "RLIMIT_NOFILE %s carries %" PRIu64 " sessions", whose(doctor), n_sessions);
	else
		doctor_say(doctor, "nofile", VERDICT_WARN,
			   "the hard RLIMIT_NOFILE %s is %" PRIu64 ": about %" PRIu64 " of %" PRIu64
			   " sessions\nLimitNOFILE=65536 in the unit, or ulimit -Hn %" PRIu64,
			   whose(doctor), (uint64_t)limit.rlim_max,
			   limit.rlim_max > FDS_OWN ? (limit.rlim_max - FDS_OWN) / FDS_PER_SESSION : 0, n_sessions, needed);
}

static void check_cpus(struct doctor *doctor)
{
	uint64_t n_cpus = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN), instances = doctor->pid ? inf_load32(&doctor->stats->n_instances) : 0, quota;
	char group[DOCTOR_GROUP_BYTES];
	cpu_set_t set;

	if (sched_getaffinity((pid_t)doctor->pid, sizeof(set), &set) == 0)
		n_cpus = (uint64_t)CPU_COUNT(&set);
	quota = doctor_cpu_quota(doctor, group);
	if (quota == UINT64_MAX)
		doctor_say(doctor, "cpus", VERDICT_OK, "%" PRIu64 " processor%s, no quota %s", n_cpus, n_cpus == 1 ? "" : "s", whose(doctor));
	else if (quota < 1000 || quota < 1000 * instances)
		doctor_say(doctor, "cpus", VERDICT_WARN,
			   "the control group %s allows %.2f processors%s: all stand still for the rest of each 100 ms once that is used up\n"
			   "raise CPUQuota= (or docker's --cpus, a pod's limit)%s",
			   group, (double)quota / 1000, quota < 1000 ? "" : ", fewer than batches run at once",
			   quota < 1000 ? "" : ", or start infbroker with fewer --instances");
	else
		doctor_say(doctor, "cpus", VERDICT_OK, "%" PRIu64 " processors, %.2f by the quota of %s", n_cpus, (double)quota / 1000, group);
}

static uint64_t total_memory(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void check_memory(struct doctor *doctor)
{
	uint64_t most = doctor_limit(doctor, "memory_max", 8ull << 30), total = total_memory(), limit;
	char group[DOCTOR_GROUP_BYTES], word[WORD_BYTES], needs[WORD_BYTES];

	limit = doctor_memory_limit(doctor, group);
	if (limit >= total) {
		limit = total;
		snprintf(group, sizeof(group), "this machine");
	}
	if (limit < most)
		doctor_say(doctor, "memory", VERDICT_WARN, "%s has %s, less than the %s that sessions may take\nstart infbroker with a lower --memory-max",
			   group, word_bytes(word, limit), word_bytes(needs, most));
	else
		doctor_say(doctor, "memory", VERDICT_OK, "%s for what sessions may take, %s", word_bytes(word, limit), word_bytes(needs, most));
}

/* For information: it is the administrator's choice, and helps large tensors only. */
static void check_huge_pages(struct doctor *doctor)
{
	char line[128] = "", *word, *end;
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");

	if (!file)
		return;
	if (fgets(line, sizeof(line), file) && (word = strchr(line, '[')) && (end = strchr(word, ']'))) {
		*end = '\0';
		doctor_say(doctor, "hugepages", VERDICT_OK, "huge pages for shared memory: %s", word + 1);
	}
	fclose(file);
}

void doctor_resources(struct doctor *doctor)
{
	check_memlock(doctor);
	check_nofile(doctor);
	check_cpus(doctor);
	check_memory(doctor);
	check_huge_pages(doctor);
}
