/* SPDX-License-Identifier: Apache-2.0 */
/*
 * views.c - shmctl's whole way from statistics files to text, with files that hold anything. Its main() runs in this process (as
 * shmctl_main), so that a sanitizer sees all of it.
 *
 *   fuzz_views N [SEED]     N changed files, always the same for a seed; prints "N passed, N failed, N skipped"
 *   fuzz_views 0 SOCKET N   N looks at a file in which stats_file writes events: each is whole, or has no number
 *   with -DINF_LIBFUZZER    what libFuzzer makes of it (make fuzz)
 *
 * An input is a byte that names a command, then changes: 1 byte which file and how, 3 where, 1 what. They are made in two good
 * files, and taken back afterwards. What is wrong shows itself: a sanitizer, a crash, an exit status that --help does not list, or
 * a letter that would harm a terminal.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/stats.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define N_SESSIONS   6u
#define CHANGES_MAX  16u
#define CHANGE_BYTES 5u
#define OUTPUT_MAX   (1u << 20)

int shmctl_main(int argc, char **argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const char *const commands[][8] = {
	{ "top", "--batch", "-n", "1", "-d", "0.001" },
	{ "top", "-j", "-n", "1", "-d", "0.001" },
	{ "sessions" },
	{ "sessions", "-j" },
	{ "show", "1" },
	{ "show", "1", "-j" },
	{ "instances" },
	{ "rings", "-o", "tsv" },
	{ "regions", "-j" },
	{ "events" },
	{ "events", "-j", "-n", "300" },
	{ "stat", "0.001", "1" },
	{ "top", "--batch", "-n", "1", "-d", "0.001", "--sort=name", "--filter=m" },
	{ "status" },
	{ "status", "-j" },
	{ "sessions", "--sort=name", "--filter=name=i" },
	{ "regions", "-j", "--sort=-bytes", "--filter=kind=re" },
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* A good file, and the one that is changed. */
static struct target {
	char path[64];
	uint8_t *bytes;
	size_t n_bytes;
} targets[2];
static char folder[40], socket_path[56], output_path[56];

static int target_make(struct target *target, const char *suffix, size_t n_bytes)
{
	int fd;

	snprintf(target->path, sizeof(target->path), "%s%s", socket_path, suffix);
	fd = open(target->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)n_bytes) < 0)
		return -errno;
	target->n_bytes = n_bytes;
	target->bytes = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return target->bytes == MAP_FAILED ? -errno : 0;
}

/* Of this process: it runs. */
static struct inf_stats_head head_of(size_t n_bytes)
{
	struct inf_stats_head head = { .magic = INF_STATS_MAGIC, .version = INF_STATS_VERSION, .bytes = (uint32_t)n_bytes,
				       .pid = (uint32_t)getpid(), .start_ns = 1000 };
	char state;

	if (inf_stats_process(head.pid, &state, &head.start_ticks) < 0)
		abort();
	return head;
}

static void public_fill(struct inf_stats_public *stats)
{
	stats->head = head_of(sizeof(*stats));
	stats->n_sessions = N_SESSIONS;
	stats->n_events = INF_STATS_EVENTS;
	for (unsigned int i = 0; i < INF_STATS_EVENTS; i++)
		stats->events[i] = (struct inf_stats_event){ .seq = i + 1, .kind = i % INF_EVENTS, .text = "something happened" };
	for (unsigned int i = 0; i < 4; i++) {
		snprintf(stats->models[i].name, INF_NAME_BYTES, "model%u", i);
		stats->models[i].state = INF_MODEL_READY;
		stats->instances[i] = (struct inf_stats_instance){ .used = 1, .model = i, .dispatched_ns = 5 };
		inf_histogram_add(&stats->models[i].stages[INF_STAGE_SERVED], 1000u << i);
	}
}

static void user_fill(struct inf_stats_user *user, size_t n_bytes)
{
	user->head = head_of(n_bytes);
	user->n_sessions = user->n_entries = N_SESSIONS;
	for (uint32_t i = 0; i < N_SESSIONS; i++) {
		struct inf_stats_session *session = &user->sessions[i];

		session->used = 1;
		session->id = i + 1;
		session->n_lanes = 2;
		session->regions[0].used = 1;
		session->handles[0] = (struct inf_stats_handle){ .model = i + 1 };
		snprintf(session->name, sizeof(session->name), "client%u", i);
	}
}

static void at_exit(void)
{
	for (unsigned int i = 0; i < 2; i++)
		unlink(targets[i].path);
	unlink(output_path);
	rmdir(folder);
}

/* Once: the files, and standard output and error into one that is looked at. */
static bool set_up(void)
{
	const char *parent = getenv("TMPDIR");
	char suffix[32];

	snprintf(folder, sizeof(folder), "%.24s/fuzz.XXXXXX", parent && strlen(parent) <= 24 ? parent : "/tmp");
	if (!mkdtemp(folder))
		return false;
	snprintf(socket_path, sizeof(socket_path), "%s/s", folder);
	snprintf(output_path, sizeof(output_path), "%s/output", folder);
	snprintf(suffix, sizeof(suffix), ".stats.%u", (unsigned int)geteuid());
	atexit(at_exit);
	if (target_make(&targets[0], ".stats", sizeof(struct inf_stats_public)) ||
	    target_make(&targets[1], suffix, inf_stats_user_bytes(N_SESSIONS)))
		return false;
	public_fill((struct inf_stats_public *)(void *)targets[0].bytes);
	user_fill((struct inf_stats_user *)(void *)targets[1].bytes, targets[1].n_bytes);
	return freopen(output_path, "w+", stdout) != NULL;
}

/* Where and what: from the top of a file, or anywhere in it; a byte, or a whole word of it. */
static void change(const uint8_t *input, struct target **ret_target, size_t *ret_at, uint64_t *ret_word)
{
	static const uint64_t words[] = { 0, 1, 0xffffffff, 0x80000000, UINT64_MAX, 1ull << 63, 0x1b5b324a1b5b324a, 100000 };
	struct target *target = &targets[input[0] & 1];
	size_t where = (size_t)input[1] << 16 | (size_t)input[2] << 8 | input[3], span = target->n_bytes;
	uint64_t word;

	if (!(input[0] & 2))
		span = span < 8192 ? span : 8192;
	*ret_at = where % (span / sizeof(word)) * sizeof(word);
	*ret_target = target;
	memcpy(&word, target->bytes + *ret_at, sizeof(word));
	*ret_word = word;
	word = input[0] & 4 ? words[input[4] % 8] : word ^ (uint64_t)input[4] << (input[0] >> 3 & 7) * 8;
	memcpy(target->bytes + *ret_at, &word, sizeof(word));
}

static int run_command(const char *const *words)
{
	char *argv[16] = { (char *)(uintptr_t)"shmctl", (char *)(uintptr_t)"--socket", socket_path };
	int argc = 3;

	for (; argc < 11 && words[argc - 3]; argc++)
		argv[argc] = (char *)(uintptr_t)words[argc - 3];
	optind = 1;
	return shmctl_main(argc, argv);
}

/* What it said is text: ASCII, lines, tabs, and the blocks of the history. */
static bool is_harmless(void)
{
	static char said[OUTPUT_MAX];
	ssize_t n;

	fflush(stdout);
	n = pread(STDOUT_FILENO, said, sizeof(said), 0);
	rewind(stdout);
	if (ftruncate(STDOUT_FILENO, 0) < 0)
		return false;
	for (ssize_t i = 0; i < n; i++)
		if ((unsigned char)said[i] < ' ' ? said[i] != '\n' && said[i] != '\t' : said[i] == 0x7f) {
			dprintf(STDERR_FILENO, "at %zd of %zd: %02x in \"%.*s\"\n", i, n, said[i], (int)(n - i < 60 ? n - i : 60), said + i);
			return false;
		}
	for (ssize_t i = 0; i + 1 < n; i++)
		if (said[i] == '\xc2' && (unsigned char)said[i + 1] < 0xa0) /* U+0080 to U+009F */
			return false;
	return n >= 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	static bool is_set_up;
	struct target *changed[CHANGES_MAX];
	size_t at[CHANGES_MAX], n = 0;
	uint64_t before[CHANGES_MAX];
	int status;

	if (!is_set_up && !set_up())
		abort();
	is_set_up = true;
	if (!n_bytes)
		return 0;
	for (; n < CHANGES_MAX && (n + 1) * CHANGE_BYTES < n_bytes; n++)
		change(data + 1 + n * CHANGE_BYTES, &changed[n], &at[n], &before[n]);
	status = run_command(commands[data[0] % N_COMMANDS]);
	for (size_t i = n; i--;)
		memcpy(changed[i]->bytes + at[i], &before[i], sizeof(before[i]));
	if (status < 0 || status > 6 || !is_harmless()) {
		dprintf(STDERR_FILENO, "%s: exit status %d, or what it says harms a terminal\n", commands[data[0] % N_COMMANDS][0], status);
		abort();
	}
	return 0;
}

#ifdef INF_LIBFUZZER
const struct command command_infer = { .name = "infer", .summary = "not here", .usage = "" };
#else
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static bool is_whole(const struct inf_stats_event *event)
{
	uint64_t n = event->seq - 1;

	for (size_t i = 0; i < sizeof(event->text) - 1; i++)
		if (event->text[i] != (char)('a' + n % 26))
			return false;
	return event->subject == (uint32_t)n && event->time_ns == n;
}

static int check_events(const char *socket, unsigned long n)
{
	const struct options options = { .socket_path = socket };
	unsigned long n_whole = 0, n_torn = 0;
	char path[PATH_MAX];

	for (unsigned long i = 0; i < n; i++) {
		const struct inf_stats_public *stats = stats_find(&options, path);

		/* The first 300 were there before. */
		for (unsigned int k = 0; stats && k < INF_STATS_EVENTS; k++)
			if (stats->events[k].seq > 300)
				*(is_whole(&stats->events[k]) ? &n_whole : &n_torn) += 1;
		stats_close(stats);
	}
	printf("%lu events, of them %lu not whole\n", n_whole + n_torn, n_torn);
	return n_torn || n_whole < n;
}

int main(int argc, char **argv)
{
	unsigned long n = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
	uint64_t state = (argc > 2 ? strtoull(argv[2], NULL, 10) : 1) * 0x9e3779b97f4a7c15 | 1;
	int report = dup(STDOUT_FILENO);
	uint8_t input[1 + CHANGES_MAX * CHANGE_BYTES];

	if (argc == 4)
		return check_events(argv[2], strtoul(argv[3], NULL, 10));
	/* Shmctl's talk, once for each; a sanitizer's goes to the file descriptor. */
	stderr = fopen("/dev/null", "w");
	if (!stderr)
		return 1;
	for (unsigned long i = 0; i < n; i++) {
		for (size_t k = 0; k < sizeof(input); k++)
			input[k] = (uint8_t)(next_random(&state) >> 24);
		/* Mostly few: a file of which much is wrong is refused at its head. */
		LLVMFuzzerTestOneInput(input, 1 + (1 + next_random(&state) % (i % 4 ? 3 : CHANGES_MAX)) * CHANGE_BYTES);
	}
	dprintf(report, "%lu passed, 0 failed, 0 skipped\n", n);
	return 0;
}
#endif
