/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernel_attach.c - which files have our probes, which threads matter, and how much of that the kernel lets us watch.
 *
 * Probes belong to a file, not to a process: attached once, they are those of every process that has it mapped, also of those
 * that start later. The broker's is /proc/PID/exe, right even where the file was replaced. Clients' are found among what the
 * processes of its sessions have mapped; our own libinfclient is attached to at once, so that a program that uses the same
 * and lives for a moment is seen.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/kernel_internal.h"
#include "shm/probes.h"
#include "tools/shmctl/stats.h"
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <kernel.skel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SELF_PROBES 5000u
#define SELF_ROUNDS 8u
#define INIT_PID_NAMESPACE 0xeffffffcu /* its inode: PROC_PID_INIT_INO, fixed in the kernel */

/* --- does a file have probes of ours? ------------------------------------------------------------------------- */

static bool notes_name(const uint8_t *map, size_t bytes, const char *provider, size_t provider_bytes)
{
	const Elf64_Ehdr *head = (const void *)map;
	const Elf64_Shdr *sections;

	if (bytes < sizeof(*head) || memcmp(head->e_ident, ELFMAG, SELFMAG) || head->e_ident[EI_CLASS] != ELFCLASS64 ||
	    head->e_shentsize != sizeof(*sections) || head->e_shoff % 8 || head->e_shoff > bytes ||
	    head->e_shnum > (bytes - head->e_shoff) / sizeof(*sections))
		return false;
	sections = (const void *)(map + head->e_shoff);
	for (unsigned int i = 0; i < head->e_shnum; i++)
		if (sections[i].sh_type == SHT_NOTE && sections[i].sh_offset <= bytes &&
		    sections[i].sh_size <= bytes - sections[i].sh_offset &&
		    memmem(map + sections[i].sh_offset, sections[i].sh_size, provider, provider_bytes))
			return true;
	return false;
}

/* Of an ELF file of 64 bits: is there a note of that provider? */
static bool has_provider(const char *path, const char *provider)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool has = false;
	struct stat status;
	void *map;

	if (fd < 0)
		return false;
	if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
		map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (map != MAP_FAILED) {
			has = notes_name(map, (size_t)status.st_size, provider, strlen(provider) + 1);
			munmap(map, (size_t)status.st_size);
		}
	}
	close(fd);
	return has;
}

/* --- probes ------------------------------------------------------------------------------------------------------- */

/* NULL with *ret_new: it is known, or there is no place for more. */
static struct watched_file *file_of(struct kernel *kernel, const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0 || !S_ISREG(status.st_mode) || kernel->n_files == FILES_MAX)
		return NULL;
	for (uint32_t i = 0; i < kernel->n_files; i++)
		if (kernel->files[i].device == status.st_dev && kernel->files[i].inode == status.st_ino)
			return NULL;
	kernel->files[kernel->n_files] =
		(struct watched_file){ .device = status.st_dev, .inode = status.st_ino };
	return &kernel->files[kernel->n_files++];
}

/* A probe in that file, for all processes. 0 or -errno. */
static int attach(struct bpf_link **ret_link, const char *path, const char *provider, const char *name,
		  const struct bpf_program *program)
{
	*ret_link = bpf_program__attach_usdt(program, -1, path, provider, name, NULL);
	return *ret_link ? 0 : -errno;
}

/* 1 = attached, 0 = known or none of ours, else -errno. */
static int watch_client(struct kernel *kernel, const char *path)
{
	struct watched_file *file = file_of(kernel, path);
	int r;

	if (!file || !has_provider(path, "infclient"))
		return 0;
	r = attach(&file->links[0], path, "infclient", "submit", kernel->bpf->progs.on_submit);
	if (r == 0)
		r = attach(&file->links[1], path, "infclient", "wake", kernel->bpf->progs.on_wake);
	return r ? r : 1;
}

static int watch_front(struct kernel *kernel, uint32_t pid)
{
	struct watched_file *file;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/exe", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC); /* access(2) would not count our capabilities */
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno; /* -ENOENT is for a probe that is not there */
	close(fd);
	file = file_of(kernel, path);
	return file ? attach(&file->links[0], path, "infbroker", "complete", kernel->bpf->progs.on_complete) : 0;
}

/* Every file that the process may execute code of. */
static void watch_process(struct kernel *kernel, uint32_t pid)
{
	char path[PATH_MAX + 64], line[PATH_MAX + 128], mode[5];
	FILE *maps;
	int n;

	snprintf(path, sizeof(path), "/proc/%u/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return;
	while (fgets(line, sizeof(line), maps)) {
		char *end = strchr(line, '\n');

		if (end)
			*end = '\0';
		n = 0;
		if (sscanf(line, "%*x-%*x %4s %*x %*s %*u %n", mode, &n) != 1 || !n || mode[2] != 'x' || line[n] != '/')
			continue;
		/* As that process sees the path; a deleted one is what a client that runs on has mapped, and cannot be named. */
		snprintf(path, sizeof(path), "/proc/%u/root%s", pid, line + n);
		watch_client(kernel, path);
	}
	fclose(maps);
	/* Static ones, also where the file was replaced. */
	snprintf(path, sizeof(path), "/proc/%u/exe", pid);
	watch_client(kernel, path);
}

static void watch_session(void *data, const struct inf_stats_session *session)
{
	watch_process(data, session->pid);
}

/* --- threads -------------------------------------------------------------------------------------------------------- */

static char state_of(uint32_t pid, uint32_t tid)
{
	char path[64], line[512], *close_at;
	FILE *file;
	char state = '?';

	snprintf(path, sizeof(path), "/proc/%u/task/%u/stat", pid, tid);
	file = fopen(path, "re");
	if (!file)
		return state;
	if (fgets(line, sizeof(line), file) && (close_at = strrchr(line, ')')) && close_at[1] == ' ')
		state = close_at[2];
	fclose(file);
	return state;
}

static void follow(struct kernel *kernel, uint32_t idx, uint32_t pid, uint32_t tid)
{
	int fd = bpf_map__fd(kernel->bpf->maps.threads);
	char state;
	struct thread thread = { .history = idx, .tid = tid };
	uint32_t at = 1 + idx;

	if (idx >= HISTORIES || kernel->followed[idx] == tid)
		return;
	kernel->followed[idx] = tid;
	state = state_of(pid, tid);
	thread.last.state = state == 'R' ? THREAD_RUNNING : THREAD_ASLEEP;
	thread.last.ts_ns = monotonic_ns();
	bpf_map_update_elem(fd, &at, &thread, BPF_ANY);
	__atomic_store_n(&kernel->bpf->bss->thread_at[tid % THREAD_IDS], (uint16_t)at, __ATOMIC_RELEASE);
}

static void follow_executor(struct kernel *kernel, uint32_t pid)
{
	char path[64], name[32];
	struct dirent *entry;
	unsigned int idx;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%u/task", pid);
	dir = pid ? opendir(path) : NULL;
	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		FILE *file;
		unsigned long tid = strtoul(entry->d_name, NULL, 10);

		snprintf(path, sizeof(path), "/proc/%u/task/%lu/comm", pid, tid);
		file = tid ? fopen(path, "re") : NULL;
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && sscanf(name, "inf-inst-%u", &idx) == 1)
			follow(kernel, HISTORY_INSTANCE + idx, pid, (uint32_t)tid);
		fclose(file);
	}
	closedir(dir);
}

/* --- the broker, as it comes and goes --------------------------------------------------------------------------------- */

/* The statistics as they are now: models are added, executors replaced, and another broker may have started where ours was. */
static bool look_again(struct kernel *kernel)
{
	const struct inf_stats_public *stats = stats_find(kernel->options, kernel->socket_path);

	if (!stats || stats_life(&stats->head) == LIFE_GONE) {
		stats_close(stats);
		return false;
	}
	if (stats->head.pid != kernel->stats->head.pid || stats->head.start_ns != kernel->stats->head.start_ns)
		fprintf(stderr, "shmctl %s: another broker has started, pid %u\n", kernel->options->command, stats->head.pid);
	stats_close(kernel->stats);
	kernel->stats = stats;
	return true;
}

/* The model's id, which may be unknown as yet: then that of none. */
static uint32_t model_id(const struct kernel *kernel)
{
	const struct inf_stats_model *model = stats_model(kernel->stats, kernel->filter->model, 0);

	return model ? (uint32_t)(model - kernel->stats->models) : MODEL_NONE - 1;
}

int kernel_refresh(struct kernel *kernel, char *why, size_t why_bytes)
{
	struct kernel_config *config = &kernel->bpf->bss->config;
	uint32_t pid;
	int r;

	if (!look_again(kernel) && stats_life(&kernel->stats->head) == LIFE_GONE) {
		if (!kernel->is_gone)
			fprintf(stderr, "shmctl %s: the broker is gone; waiting for another\n", kernel->options->command);
		kernel->is_gone = true;
		return EXIT_OK;
	}
	kernel->is_gone = false;
	pid = kernel->stats->head.pid;
	config->front_tgid = kernel->is_namespace ? 0 : pid;
	if (kernel->filter->model)
		config->model = model_id(kernel);
	r = watch_front(kernel, pid);
	if (r == -ENOENT) {
		snprintf(why, why_bytes, "this broker has no probes: it was built without systemtap-sdt-dev, or is of another version");
		return EXIT_OTHER_VERSION;
	}
	if (r == -ESRCH) /* it ends just now: the next look says so */
		return EXIT_OK;
	if (r) {
		snprintf(why, why_bytes, "cannot attach to the broker, pid %u: %s; it takes CAP_SYS_ADMIN for probes "
			 "(perf_event_open) and CAP_SYS_PTRACE for a process that is no one's to look at", pid, strerror(-r));
		return EXIT_NO_PERMISSION;
	}
	if (kernel->sched != KERNEL_SCHED_NONE) {
		follow(kernel, HISTORY_FRONT, pid, pid);
		follow_executor(kernel, kernel->stats->executor_pid);
	}
	stats_each_session(kernel->socket_path, watch_session, kernel);
	return EXIT_OK;
}

/* --- what the kernel lets us do ---------------------------------------------------------------------------------------- */

static bool is_locked_down(void)
{
	char line[128] = "";
	FILE *file = fopen("/sys/kernel/security/lockdown", "re");

	if (!file)
		return false;
	(void)!fgets(line, sizeof(line), file);
	fclose(file);
	return strstr(line, "[confidentiality]");
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

static int loud(enum libbpf_print_level level, const char *format, va_list args)
{
	return level == LIBBPF_DEBUG ? 0 : vfprintf(stderr, format, args);
}

/*
 * A file with the types of no kernel. libbpf wants a kernel's for each object in which any program has relocations by type, loaded
 * or not, and there are kernels that tell none. Its fd, or -errno.
 */
static int no_types(void)
{
	struct btf *btf = btf__new_empty();
	const void *bytes = NULL;
	__u32 n_bytes = 0;
	int fd;

	if (!btf)
		return -ENOMEM;
	bytes = btf__raw_data(btf, &n_bytes);
	fd = bytes ? memfd_create("infbroker-no-types", MFD_CLOEXEC) : -1;
	if (fd >= 0 && write(fd, bytes, n_bytes) != (ssize_t)n_bytes) {
		close(fd);
		fd = -1;
		errno = EIO;
	}
	btf__free(btf);
	return fd < 0 ? -errno : fd;
}

/* `types`: a file to be read when it is loaded, NULL = the kernel's own. */
static struct kernel_bpf *open_bpf(const struct kernel *kernel, enum kernel_sched sched, const char *types)
{
	LIBBPF_OPTS(bpf_object_open_opts, how, .btf_custom_path = types);
	struct kernel_bpf *bpf = kernel_bpf__open_opts(&how);
	uint32_t n_models = 1;

	if (!bpf)
		return NULL;
	for (uint32_t i = 0; i < INF_STATS_MODELS; i++)
		if (kernel->stats->models[i].name[0])
			n_models = i + 8 < INF_STATS_MODELS ? i + 8 : INF_STATS_MODELS; /* some may be added */
	bpf_map__set_max_entries(bpf->maps.histograms, n_models + 1);
	bpf_program__set_autoload(bpf->progs.on_switch, sched == KERNEL_SCHED_BTF);
	bpf_program__set_autoload(bpf->progs.on_wakeup, sched == KERNEL_SCHED_BTF);
	bpf_program__set_autoload(bpf->progs.on_switch_classic, sched == KERNEL_SCHED_TRACEPOINT);
	bpf_program__set_autoload(bpf->progs.on_wakeup_classic, sched == KERNEL_SCHED_TRACEPOINT);
	bpf->bss->config = (struct kernel_config){
		.client_tgid = kernel->is_namespace ? 0 : (uint32_t)kernel->filter->pid,
		.model = MODEL_NONE,
		.knows_tgids = !kernel->is_namespace,
		.has_sched = sched != KERNEL_SCHED_NONE,
		.n_models = n_models,
		.session = kernel->filter->session,
		.slow_ns = kernel->filter->slow_ns,
	};
	return bpf;
}

/* 0, or -errno with nothing left behind. */
static int try_sched(struct kernel *kernel, enum kernel_sched sched)
{
	struct bpf_program *programs[2];
	char types[32];
	int r, fd = sched == KERNEL_SCHED_BTF ? -1 : no_types();

	if (sched != KERNEL_SCHED_BTF && fd < 0)
		return fd;
	snprintf(types, sizeof(types), "/proc/self/fd/%d", fd);
	kernel->n_links = 0;
	kernel->bpf = open_bpf(kernel, sched, fd < 0 ? NULL : types);
	r = kernel->bpf ? kernel_bpf__load(kernel->bpf) : -errno;
	if (fd >= 0)
		close(fd);
	if (!kernel->bpf)
		return r;
	programs[0] = sched == KERNEL_SCHED_BTF ? kernel->bpf->progs.on_switch : kernel->bpf->progs.on_switch_classic;
	programs[1] = sched == KERNEL_SCHED_BTF ? kernel->bpf->progs.on_wakeup : kernel->bpf->progs.on_wakeup_classic;
	for (unsigned int i = 0; !r && sched != KERNEL_SCHED_NONE && i < 2; i++) {
		struct bpf_link *link = bpf_program__attach(programs[i]);

		if (link)
			kernel->links[kernel->n_links++] = link;
		else
			r = -errno;
	}
	if (!r) {
		kernel->sched = sched;
		return 0;
	}
	while (kernel->n_links)
		bpf_link__destroy(kernel->links[--kernel->n_links]);
	kernel_bpf__destroy(kernel->bpf);
	kernel->bpf = NULL;
	return r;
}

static const char *sched_hint(enum kernel_sched sched, int error)
{
	if (sched == KERNEL_SCHED_BTF && access("/sys/kernel/btf/vmlinux", R_OK))
		return "this kernel tells no types (CONFIG_DEBUG_INFO_BTF)";
	if (sched == KERNEL_SCHED_TRACEPOINT && error == -ENOENT && access("/sys/kernel/tracing/events", R_OK) &&
	    access("/sys/kernel/debug/tracing/events", R_OK))
		return "tracefs is not mounted or not ours to read (mount -t tracefs tracefs /sys/kernel/tracing, as root)";
	return strerror(-error);
}

/* From the most down to the probes alone. */
static int load_best(struct kernel *kernel)
{
	static const char *const names[] = { "typed tracepoints", "classic tracepoints", "" };
	enum kernel_sched sched = kernel->filter->sched;
	int r;

	if (kernel->is_namespace && sched != KERNEL_SCHED_NONE) {
		fprintf(stderr, "shmctl %s: in a process-id namespace threads cannot be followed: without run queues; "
				"outside of it they can\n", kernel->options->command);
		sched = KERNEL_SCHED_NONE;
	}
	for (;; sched++) {
		r = try_sched(kernel, sched);
		if (!r || sched == KERNEL_SCHED_NONE)
			return r;
		fprintf(stderr, "shmctl %s: no %s of the scheduler: %s\n", kernel->options->command, names[sched],
			sched_hint(sched, r));
		if (sched + 1 == KERNEL_SCHED_NONE)
			fprintf(stderr, "shmctl %s: without run queues: who slept and who waited for a CPU is not told apart\n",
				kernel->options->command);
	}
}

/* Where io_uring has those. */
static void attach_uring(struct kernel *kernel)
{
	struct bpf_program *const programs[2] = { kernel->bpf->progs.on_uring_wait, kernel->bpf->progs.on_uring_complete };

	for (unsigned int i = 0; i < 2; i++) {
		struct bpf_link *link = bpf_program__attach(programs[i]);

		if (link)
			kernel->links[kernel->n_links++] = link;
	}
}

/* A probe of our own, n times. */
static uint64_t time_probes(void)
{
	uint64_t begin_ns = monotonic_ns();

	for (uint32_t i = 0; i < SELF_PROBES; i++)
		DTRACE_PROBE(shmctl, self);
	return (monotonic_ns() - begin_ns) / SELF_PROBES;
}

/* What a watched probe costs that does nothing: the best of some rounds, others may be using the CPU. Then once more, with the
 * kernel counting: what it counts for a program that does nothing is its own. */
static void measure_trap(struct kernel *kernel)
{
	const struct bpf_program *program = kernel->bpf->progs.on_self;
	struct bpf_prog_info info = { 0 };
	__u32 bytes = sizeof(info);
	uint64_t idle_ns = time_probes(), best_ns = UINT64_MAX;
	struct bpf_link *link = bpf_program__attach_usdt(program, getpid(), "/proc/self/exe", "shmctl", "self", NULL);

	if (!link)
		return;
	for (unsigned int i = 0; i < SELF_ROUNDS; i++) {
		uint64_t took_ns = time_probes();

		best_ns = took_ns < best_ns ? took_ns : best_ns;
	}
	kernel->trap_ns = best_ns > idle_ns ? best_ns - idle_ns : 0;
	kernel->stats_fd = bpf_enable_stats(BPF_STATS_RUN_TIME);
	time_probes();
	if (kernel->stats_fd >= 0 && !bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &bytes) && info.run_cnt)
		kernel->empty_ns = info.run_time_ns / info.run_cnt;
	bpf_link__destroy(link);
}

static void watch_own_library(struct kernel *kernel)
{
	watch_process(kernel, (uint32_t)getpid());
}

static bool is_in_namespace(void)
{
	struct stat status;

	return stat("/proc/self/ns/pid", &status) < 0 || status.st_ino != INIT_PID_NAMESPACE;
}

int kernel_load(struct kernel *kernel, char *why, size_t why_bytes)
{
	int r;

	kernel->stats_fd = -1;
	libbpf_set_print(getenv("SHMCTL_LIBBPF") ? loud : quiet);
	kernel->is_namespace = is_in_namespace();
	r = load_best(kernel);
	if (r) {
		snprintf(why, why_bytes, "the kernel takes no programs from us: %s; %s", strerror(-r),
			 is_locked_down() ? "it is locked down (lockdown=confidentiality), also for root" :
			 r == -EPERM ?
				"it takes CAP_BPF and CAP_PERFMON: as root, or setcap cap_bpf,cap_perfmon,cap_sys_admin,cap_sys_ptrace,cap_dac_read_search+ep shmctl" :
				"SHMCTL_LIBBPF=1 shows what it says");
		return r == -EPERM ? EXIT_NO_PERMISSION : EXIT_UNHEALTHY;
	}
	for (uint32_t i = 0; i < kernel->filter->n_client_paths; i++) {
		r = watch_client(kernel, kernel->filter->client_paths[i]);
		if (r <= 0)
			fprintf(stderr, "shmctl %s: %s: %s\n", kernel->options->command, kernel->filter->client_paths[i],
				r ? strerror(-r) : "no probes of libinfclient in there");
	}
	measure_trap(kernel);
	watch_own_library(kernel);
	attach_uring(kernel);
	return kernel_refresh(kernel, why, why_bytes);
}

void kernel_unload(struct kernel *kernel)
{
	for (uint32_t i = 0; i < kernel->n_files; i++)
		for (unsigned int k = 0; k < 2; k++)
			if (kernel->files[i].links[k])
				bpf_link__destroy(kernel->files[i].links[k]);
	while (kernel->n_links)
		bpf_link__destroy(kernel->links[--kernel->n_links]);
	if (kernel->stats_fd >= 0)
		close(kernel->stats_fd);
	kernel_bpf__destroy(kernel->bpf);
}
