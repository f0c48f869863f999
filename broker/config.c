/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - the command line. Limits come from the one table CONFIG_LIMITS: options, defaults and
 * --help are generated from it, so that none can be forgotten. What is given twice: the last one
 * counts.
 */
#define _GNU_SOURCE 1
#include "broker/config.h"
#include "broker/job.h"

#include <errno.h>
#include <getopt.h>
#include <inf/version.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define OPTION_NAME_BYTES 32

/* What a value may be at most where the code, not the administrator, sets the bound. */
#define SESSIONS_CEILING 32768u
#define BYTES_CEILING	 (1ull << 50)
#define COUNT_CEILING	 1000000u

struct limit {
	const char *name;
	const char *unit;
	const char *text;
	uint64_t value; /* default */
	size_t offset;	/* in struct config */
};

static const struct limit limits[] = {
#define LIMIT(name_, value_, unit_, text_) \
	{ #name_, unit_, text_, value_, offsetof(struct config, name_) },
	CONFIG_LIMITS(LIMIT)
#undef LIMIT
};

#define N_LIMITS ARRAY_SIZE(limits)

struct bounds {
	const char *name;
	uint64_t min, max;
};

static const struct bounds bounds[] = {
	{ "sessions_max", 1, SESSIONS_CEILING },
	{ "user_sessions_max", 1, SESSIONS_CEILING },
	{ "handshakes_max", 1, SESSIONS_CEILING },
	{ "depth_default", 1, INF_ROWS_MAX },
	{ "depth_max", 1, INF_ROWS_MAX },
	{ "jobs_max", 1, JOBS_MAX },
	{ "lane_slots", INF_SLOTS, INF_SLOTS },
	{ "lanes", INF_LANES, INF_LANES },
	{ "models_max", 1, MODELS_MAX },
	{ "handles_max", 1, HANDLES_MAX },
	{ "regions_max", 3, INF_REGIONS }, /* request, response, one output */
};

enum option_id {
	OPTION_SOCKET = 256,
	OPTION_MODELS,
	OPTION_BUILTIN,
	OPTION_EXECUTOR,
	OPTION_DEVICE,
	OPTION_CUDA_IPC_USERS,
	OPTION_INSTANCES,
	OPTION_THREADS,
	OPTION_LOOP,
	OPTION_SPIN_NS,
	OPTION_NO_SPIN,
	OPTION_NO_GRAPHS,
	OPTION_DEVICE_MODEL_MEMORY,
	OPTION_VERBOSE,
	OPTION_DEBUG,
	OPTION_HELP,
	OPTION_VERSION,
	OPTION_LIMITS, /* + index in limits[] */
};

static const struct option fixed_options[] = {
	{ "socket", required_argument, NULL, OPTION_SOCKET },
	{ "models", required_argument, NULL, OPTION_MODELS },
	{ "builtin", no_argument, NULL, OPTION_BUILTIN },
	{ "executor", required_argument, NULL, OPTION_EXECUTOR },
	{ "device", required_argument, NULL, OPTION_DEVICE },
	{ "cuda-ipc-users", required_argument, NULL, OPTION_CUDA_IPC_USERS },
	{ "instances", required_argument, NULL, OPTION_INSTANCES },
	{ "threads", required_argument, NULL, OPTION_THREADS },
	{ "loop", required_argument, NULL, OPTION_LOOP },
	{ "spin-ns", required_argument, NULL, OPTION_SPIN_NS },
	{ "no-spin", no_argument, NULL, OPTION_NO_SPIN },
	{ "no-graphs", no_argument, NULL, OPTION_NO_GRAPHS },
	{ "device-model-memory", required_argument, NULL, OPTION_DEVICE_MODEL_MEMORY },
	{ "verbose", no_argument, NULL, OPTION_VERBOSE },
	{ "debug", no_argument, NULL, OPTION_DEBUG },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ "version", no_argument, NULL, OPTION_VERSION },
};

#define N_FIXED ARRAY_SIZE(fixed_options)

static const char help_head[] =
	"Usage: infbroker [OPTION]...\n"
	"\n"
	"Lets the processes of this machine share its models and accelerators through shared\n"
	"memory. Clients connect with libinfclient (shmctl, infclassify, your own program).\n"
	"\n"
	"Where it listens, the first of:\n"
	"  --socket PATH\n"
	"  the socket that systemd hands over (LISTEN_FDS)\n"
	"  $XDG_RUNTIME_DIR/infbroker/socket\n"
	"  /run/infbroker/socket\n"
	"Beside the socket it keeps PATH.lock, PATH.stats and PATH.stats.UID (read by shmctl).\n"
	"\n"
	"Models:\n"
	"  --models DIR        serve DIR/NAME.pt and DIR/NAME/VERSION/model.pt\n"
	"  --builtin           serve the builtin test models too (identity, sleep, crash, ...)\n"
	"\n"
	"Executor (the process that runs the models):\n"
	"  --executor FILE     its program; default: infbroker-executor beside this program\n"
	"  --device NAME       cpu, cuda, cuda:N or GPU-UUID; default: cpu\n"
	"  --cuda-ipc-users LIST\n"
	"                      names or numbers, with commas: whose memory of cudaMalloc is opened\n"
	"                      and copied, by a process for each client; default: nobody's\n"
	"  --instances N       batches that run at once; default: from the cores it may use,\n"
	"                      2 on a device\n"
	"  --threads N         threads of each instance; default: from the cores it may use\n"
	"  --no-graphs         on a device: models run call by call, not as CUDA graphs\n"
	"  --device-model-memory N  of a device's memory, for models and their batches;\n"
	"                      default: what there is\n"
	"\n"
	"Running:\n"
	"  --loop KIND         io_uring or epoll; default: $INF_LOOP, else io_uring if it works\n"
	"  --spin-ns N         the front looks for work so long before it sleeps; default:\n"
	"                      measured\n"
	"  --no-spin           front, executor and clients sleep at once: less CPU, later answers\n"
	"  --verbose           log each session\n"
	"  --debug             allow debuggers and core dumps (clients of the same user could\n"
	"                      then reach into the broker's memory)\n"
	"  --help, --version   print this, or the version, and exit\n"
	"\n"
	"Limits; N takes a suffix K, M or G (times 1024, 1024^2, 1024^3):\n";

static const char help_tail[] =
	"\n"
	"Signals: TERM and INT finish what is in flight and exit; a second one exits at once.\n"
	"         HUP looks for new, changed and removed models.\n"
	"Exit status: 0 after an orderly end, 1 after an error (the last line says which).\n"
	"See also: infbroker(8), shmctl status\n";

static uint64_t *limit_value(struct config *config, const struct limit *limit)
{
	return (uint64_t *)((char *)config + limit->offset);
}

static void option_name(char name[OPTION_NAME_BYTES], const struct limit *limit)
{
	snprintf(name, OPTION_NAME_BYTES, "%s", limit->name);
	for (char *c = name; *c; c++)
		if (*c == '_')
			*c = '-';
}

static void value_text(char *text, size_t text_bytes, const struct limit *limit)
{
	uint64_t value = limit->value;

	if (strcmp(limit->unit, "bytes") == 0 && value % (1ull << 30) == 0)
		snprintf(text, text_bytes, "%" PRIu64 "G", value >> 30);
	else
		snprintf(text, text_bytes, "%" PRIu64, value);
}

static void help_print(void)
{
	fputs(help_head, stdout);
	for (size_t i = 0; i < N_LIMITS; i++) {
		char name[OPTION_NAME_BYTES], value[24];

		option_name(name, &limits[i]);
		value_text(value, sizeof(value), &limits[i]);
		printf("  --%-19s N %6s %-8s %s\n", name, value, limits[i].unit, limits[i].text);
	}
	fputs(help_tail, stdout);
}

static uint64_t suffix_shift(char suffix)
{
	switch (suffix) {
	case 'K':
		return 10;
	case 'M':
		return 20;
	case 'G':
		return 30;
	default:
		return 0;
	}
}

/* Digits and at most one suffix; nothing else. 0, or -EINVAL with *ret_value untouched. */
static int number_parse(const char *text, uint64_t *ret_value)
{
	unsigned long long value;
	uint64_t shift;
	char *end;

	if (*text < '0' || *text > '9') /* strtoull takes blanks and signs */
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0)
		return -EINVAL;
	shift = suffix_shift(*end);
	if (shift > 0)
		end++;
	if (*end != '\0' || value > UINT64_MAX >> shift)
		return -EINVAL;
	*ret_value = value << shift;
	return 0;
}

static int option_number(const char *name, const char *text, uint64_t min, uint64_t max,
			 uint64_t *ret_value)
{
	uint64_t value;

	if (number_parse(text, &value) < 0) {
		fprintf(stderr,
			"infbroker: --%s %s: not a number (digits, then K, M or G if you like)\n",
			name, text);
		return -EINVAL;
	}
	if (min == max && value != min) {
		fprintf(stderr,
			"infbroker: --%s %s: fixed at %" PRIu64 " by the layout of shared memory\n",
			name, text, min);
		return -EINVAL;
	}
	if (value < min || value > max) {
		fprintf(stderr, "infbroker: --%s %s: must be %" PRIu64 " to %" PRIu64 "\n", name,
			text, min, max);
		return -EINVAL;
	}
	*ret_value = value;
	return 0;
}

static int limit_parse(struct config *config, const struct limit *limit, const char *text)
{
	uint64_t min = 1, max = strcmp(limit->unit, "bytes") == 0 ? BYTES_CEILING : COUNT_CEILING;
	char name[OPTION_NAME_BYTES];

	for (size_t i = 0; i < ARRAY_SIZE(bounds); i++) {
		if (strcmp(bounds[i].name, limit->name) == 0) {
			min = bounds[i].min;
			max = bounds[i].max;
		}
	}
	option_name(name, limit);
	return option_number(name, text, min, max, limit_value(config, limit));
}

static int loop_parse(struct config *config, const char *name, const char *text)
{
	if (strcmp(text, "io_uring") == 0)
		config->loop = LOOP_URING;
	else if (strcmp(text, "epoll") == 0)
		config->loop = LOOP_EPOLL;
	else if (strcmp(text, "auto") == 0)
		config->loop = LOOP_AUTO;
	else {
		fprintf(stderr, "infbroker: %s %s: must be io_uring, epoll or auto\n", name, text);
		return -EINVAL;
	}
	return 0;
}

static int models_parse(struct config *config, const char *text)
{
	static char path[PATH_MAX];

	struct stat st;

	if (!realpath(text, path) || stat(path, &st) < 0 ||
	    (!S_ISDIR(st.st_mode) && (errno = ENOTDIR))) {
		fprintf(stderr, "infbroker: --models %s: %s; name a directory that exists\n", text,
			strerror(errno));
		return -EINVAL;
	}
	config->models_path = path;
	return 0;
}

/* Beside this program, wherever that was installed or built. */
static const char *executor_default(void)
{
	static char path[PATH_MAX];
	static const char name[] = "infbroker-executor";
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path));
	char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;

	if (!slash || slash + 1 + sizeof(name) > path + sizeof(path))
		return name;
	memcpy(slash + 1, name, sizeof(name));
	return path;
}

/* Which devices there are only the executor knows; a word that can be none is the administrator's typing error. */
static int device_parse(struct config *config, const char *text)
{
	if (!strcmp(text, "cpu")) {
		config->device = NULL;
		return 0;
	}
	bool is_ordinal = !strncmp(text, "cuda:", 5) && text[5] && strspn(text + 5, "0123456789") == strlen(text + 5);
	bool is_uuid = !strncmp(text, "GPU-", 4) && text[4] && strspn(text + 4, "0123456789abcdefABCDEF-") == strlen(text + 4);

	if (strcmp(text, "cuda") && !is_ordinal && !is_uuid) {
		fprintf(stderr, "infbroker: --device %s: must be cpu, cuda, cuda:N or GPU-UUID\n", text);
		return -EINVAL;
	}
	config->device = text;
	return 0;
}

static int ipc_user_parse(struct config *config, const char *name)
{
	const struct passwd *user = NULL;
	uint64_t uid;

	if (number_parse(name, &uid) < 0) {
		errno = 0;
		user = getpwnam(name);
	}
	if (number_parse(name, &uid) < 0 && !user) {
		fprintf(stderr, "infbroker: --cuda-ipc-users: %s: %s\n", name,
			!strcmp(name, "*") ? "there is no word for everybody: name them" :
			errno		   ? strerror(errno) :
					     "no such user");
		return -EINVAL;
	}
	if (!user && uid >= (uid_t)-1) {
		fprintf(stderr, "infbroker: --cuda-ipc-users: %s: not the number of a user\n", name);
		return -EINVAL;
	}
	if (config->n_cuda_ipc_users == CONFIG_IPC_USERS_MAX) {
		fprintf(stderr, "infbroker: --cuda-ipc-users: more than %u\n", CONFIG_IPC_USERS_MAX);
		return -EINVAL;
	}
	config->cuda_ipc_users[config->n_cuda_ipc_users++] = user ? user->pw_uid : (uid_t)uid;
	return 0;
}

static int ipc_users_parse(struct config *config, const char *text)
{
	char name[64];
	int r = 0;

	config->n_cuda_ipc_users = 0;
	for (const char *at = text; r == 0; at++) {
		size_t n = strcspn(at, ",");

		if (!n || n >= sizeof(name)) {
			fprintf(stderr, "infbroker: --cuda-ipc-users %s: must be names or numbers with commas between them\n", text);
			return -EINVAL;
		}
		memcpy(name, at, n);
		name[n] = '\0';
		r = ipc_user_parse(config, name);
		at += n;
		if (!*at)
			break;
	}
	return r;
}

static int option_apply(struct config *config, int id, const char *text)
{
	uint64_t value;
	int r = 0;

	switch (id) {
	case OPTION_SOCKET:
		config->socket_path = text;
		return 0;
	case OPTION_MODELS:
		return models_parse(config, text);
	case OPTION_BUILTIN:
		config->builtin = true;
		return 0;
	case OPTION_EXECUTOR:
		config->executor_path = text;
		return 0;
	case OPTION_DEVICE:
		return device_parse(config, text);
	case OPTION_CUDA_IPC_USERS:
		return ipc_users_parse(config, text);
	case OPTION_INSTANCES:
		r = option_number("instances", text, 1, INF_INSTANCES, &value);
		if (r == 0)
			config->instances = (uint32_t)value;
		return r;
	case OPTION_THREADS:
		r = option_number("threads", text, 1, 1024, &value);
		if (r == 0)
			config->threads = (uint32_t)value;
		return r;
	case OPTION_LOOP:
		return loop_parse(config, "--loop", text);
	case OPTION_SPIN_NS:
		r = option_number("spin-ns", text, 0, 1000000000, &value);
		if (r == 0)
			config->spin_ns = (int32_t)value;
		return r;
	case OPTION_NO_SPIN:
		config->no_spin = true;
		return 0;
	case OPTION_NO_GRAPHS:
		config->no_graphs = true;
		return 0;
	case OPTION_DEVICE_MODEL_MEMORY:
		return option_number("device-model-memory", text, 1, BYTES_CEILING, &config->device_model_memory);
	case OPTION_VERBOSE:
		config->verbose = true;
		return 0;
	case OPTION_DEBUG:
		config->debug = true;
		return 0;
	case OPTION_HELP:
		help_print();
		return 1;
	case OPTION_VERSION:
		printf("infbroker %s\n", INF_VERSION_STRING);
		return 1;
	case '?': /* getopt has said what is wrong */
		return -EINVAL;
	default:
		return limit_parse(config, &limits[id - OPTION_LIMITS], text);
	}
}

static int defaults_set(struct config *config)
{
	const char *loop = getenv("INF_LOOP");

	*config = (struct config){ .executor_path = executor_default(),
				   .loop = LOOP_AUTO,
				   .spin_ns = -1 };
	for (size_t i = 0; i < N_LIMITS; i++)
		*limit_value(config, &limits[i]) = limits[i].value;
	return loop && *loop ? loop_parse(config, "$INF_LOOP", loop) : 0;
}

/* glibc would take --memory for --memory-max: no word may stand for another one. */
static int refuse_abbreviations(const struct option *options, int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
		size_t n = strncmp(argv[i], "--", 2) ? 0 : strcspn(argv[i] + 2, "=");
		const char *longer = NULL;
		bool is_known = false;

		for (const struct option *option = options; n && option->name && !is_known; option++) {
			bool begins = !strncmp(option->name, argv[i] + 2, n);

			is_known = begins && !option->name[n];
			if (begins && !longer)
				longer = option->name;
		}
		if (!longer || is_known)
			continue;
		fprintf(stderr, "infbroker: %.*s: not an option; --%s?\n", (int)n + 2, argv[i], longer);
		return -EINVAL;
	}
	return 0;
}

static int options_walk(struct config *config, int argc, char **argv)
{
	struct option options[N_FIXED + N_LIMITS + 1] = { 0 };
	char names[N_LIMITS][OPTION_NAME_BYTES];
	int id, r;

	memcpy(options, fixed_options, sizeof(fixed_options));
	for (size_t i = 0; i < N_LIMITS; i++) {
		option_name(names[i], &limits[i]);
		options[N_FIXED + i] = (struct option){ names[i], required_argument, NULL,
							OPTION_LIMITS + (int)i };
	}
	r = refuse_abbreviations(options, argc, argv);
	if (r != 0)
		return r;
	optind = 0; /* glibc: start anew */
	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
		r = option_apply(config, id, optarg);
		if (r != 0)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "infbroker: %s: not an option\n", argv[optind]);
		return -EINVAL;
	}
	return 0;
}

int config_parse(struct config *config, int argc, char **argv)
{
	struct config parsed;
	int r = defaults_set(&parsed);

	if (r == 0)
		r = options_walk(&parsed, argc, argv);
	if (r < 0)
		fputs("infbroker: see infbroker --help\n", stderr);
	if (r != 0)
		return r;
	if (parsed.depth_default > parsed.depth_max)
		parsed.depth_default = parsed.depth_max;
	*config = parsed;
	return 0;
}
