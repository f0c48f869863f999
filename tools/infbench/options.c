/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the command line of infbench. */
#define _GNU_SOURCE 1
#include "tools/infbench/infbench.h"
#include <errno.h>
#include <getopt.h>
#include <inf/version.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"Usage: infbench [OPTION]... MODEL\n"
	"       infbench [OPTION]... --ping\n"
	"\n"
	"Loads a broker with requests for MODEL and says how fast it answers: requests per\n"
	"second and the distribution of latencies. --ping: empty requests that the broker\n"
	"answers itself, without a model.\n"
	"\n"
	"Who asks:\n"
	"  -P, --processes N   client processes, each with a session of its own (1)\n"
	"  -T, --threads N     threads of each process (1)\n"
	"  -d, --depth N       requests that each thread keeps in flight, at most 256 (1)\n"
	"  -r, --rows N        rows of each request (1)\n"
	"  -s, --shape DIMS    shape of the inputs where the model leaves it open, batch\n"
	"                      dimension included: 1x3x224x224\n"
	"      --cpus LIST     put the threads on these CPUs, in turn: 0,1\n"
	"      --fill          write the inputs anew before each request, as a real client does\n"
	"      --poll          never sleep for an answer: look for it all the time\n"
	"\n"
	"How fast they ask. Closed loop, unless one of these is given: each answer is followed by\n"
	"the next request.\n"
	"      --rate R        open loop: R requests per second of all together, at absolute times\n"
	"                      that do not wait for answers. A latency counts from the time at\n"
	"                      which its request was due (no coordinated omission).\n"
	"      --poisson       with random (exponential) gaps instead of even ones\n"
	"      --trace FILE    open loop at the times in FILE: one a line, seconds since the start\n"
	"      --seed N        of random gaps and inputs (1)\n"
	"      --deadline MS   each request ends with DEADLINE if it waits longer than this\n"
	"\n"
	"How long:\n"
	"  -t, --seconds S     (5)\n"
	"  -n, --requests N    or until so many requests were sent\n"
	"  -w, --warm-up S     before that, not counted (0.5)\n"
	"\n"
	"What is printed:\n"
	"  -j, --json          one JSON object; latencies in microseconds\n"
	"  -H, --histogram     draw the latencies as well\n"
	"  -q, --quiet         no progress while it runs\n"
	"      --sample N      take only every Nth latency (1)\n"
	"      --commands      stay connected and read commands: for each line \"go SECONDS\" on\n"
	"                      standard input run so long and print one JSON object; for\n"
	"                      comparisons that take turns\n"
	"\n"
	"      --socket PATH   of the broker; default: $INFBROKER_SOCKET, else the default places\n"
	"      --help, --version\n"
	"\n"
	"Latencies are kept up to 262,144 of each thread, beyond that a uniform sample of so many.\n"
	"Times include what the client library costs. Inputs: random numbers from -2 to 2 for f32,\n"
	"zeros for other types. Exit status: 0, or 1 where something failed or a request ended with\n"
	"another status than OK, 2 for a wrong command line.\n"
	"\n"
	"Examples:\n"
	"  infbench --ping                        how far away is the broker?\n"
	"  infbench -d 64 identity                how many requests per second can it take?\n"
	"  infbench -P 4 -d 8 -H classifier       four busy clients\n"
	"  infbench --rate 100 --poisson classifier   latency at a load that it can carry\n";

enum {
	OPTION_RATE = 256,
	OPTION_POISSON,
	OPTION_TRACE,
	OPTION_SEED,
	OPTION_DEADLINE,
	OPTION_CPUS,
	OPTION_PING,
	OPTION_POLL,
	OPTION_FILL,
	OPTION_SAMPLE,
	OPTION_COMMANDS,
	OPTION_SOCKET,
	OPTION_HELP,
	OPTION_VERSION,
};

static const struct option longs[] = {
	{ "processes", required_argument, NULL, 'P' },
	{ "threads", required_argument, NULL, 'T' },
	{ "depth", required_argument, NULL, 'd' },
	{ "rows", required_argument, NULL, 'r' },
	{ "shape", required_argument, NULL, 's' },
	{ "seconds", required_argument, NULL, 't' },
	{ "requests", required_argument, NULL, 'n' },
	{ "warm-up", required_argument, NULL, 'w' },
	{ "json", no_argument, NULL, 'j' },
	{ "histogram", no_argument, NULL, 'H' },
	{ "quiet", no_argument, NULL, 'q' },
	{ "rate", required_argument, NULL, OPTION_RATE },
	{ "poisson", no_argument, NULL, OPTION_POISSON },
	{ "trace", required_argument, NULL, OPTION_TRACE },
	{ "seed", required_argument, NULL, OPTION_SEED },
	{ "deadline", required_argument, NULL, OPTION_DEADLINE },
	{ "cpus", required_argument, NULL, OPTION_CPUS },
	{ "ping", no_argument, NULL, OPTION_PING },
	{ "poll", no_argument, NULL, OPTION_POLL },
	{ "fill", no_argument, NULL, OPTION_FILL },
	{ "sample", required_argument, NULL, OPTION_SAMPLE },
	{ "commands", no_argument, NULL, OPTION_COMMANDS },
	{ "socket", required_argument, NULL, OPTION_SOCKET },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ 0 },
};

static void __attribute__((noreturn, format(printf, 1, 2))) wrong(const char *format, ...)
{
	va_list args;

	fputs("infbench: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs(" (infbench --help)\n", stderr);
	exit(2);
}

static uint64_t whole(const char *name, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-')
		wrong("--%s %s: not a number", name, text);
	if (value < min || value > max)
		wrong("--%s %s: must be %llu to %llu", name, text, (unsigned long long)min,
		      (unsigned long long)max);
	return value;
}

static double real(const char *name, const char *text, double min, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= min && value <= max))
		wrong("--%s %s: must be a number from %g to %g", name, text, min, max);
	return value;
}

static void parse_shape(struct options *options, const char *text)
{
	const char *at = text;

	options->n_dims = 0;
	for (;;) {
		char *end;
		long long dim = strtoll(at, &end, 10);

		if (end == at || dim < 0 || options->n_dims == INF_RANK_MAX)
			wrong("--shape %s: must be up to %u numbers with x between, as in 1x3x224x224",
			      text, INF_RANK_MAX);
		options->dims[options->n_dims++] = dim;
		if (!*end)
			return;
		if (*end != 'x')
			wrong("--shape %s: must be numbers with x between, as in 1x3x224x224", text);
		at = end + 1;
	}
}

static void parse_cpus(struct options *options, const char *text)
{
	const char *at = text;

	options->n_cpus = 0;
	for (;;) {
		char *end;
		long cpu = strtol(at, &end, 10);

		if (end == at || cpu < 0 || cpu >= CPU_SETSIZE || options->n_cpus == CPUS_MAX)
			wrong("--cpus %s: must be numbers of CPUs with commas between, as in 0,1",
			      text);
		options->cpus[options->n_cpus++] = (int)cpu;
		if (!*end)
			return;
		if (*end != ',')
			wrong("--cpus %s: must be numbers of CPUs with commas between, as in 0,1",
			      text);
		at = end + 1;
	}
}

static void parse_one(struct options *options, int c)
{
	switch (c) {
	case 'P':
		options->n_processes = (uint32_t)whole("processes", optarg, 1, WORKERS_MAX);
		break;
	case 'T':
		options->n_threads = (uint32_t)whole("threads", optarg, 1, WORKERS_MAX);
		break;
	case 'd':
		options->depth = (uint32_t)whole("depth", optarg, 1, DEPTH_MAX);
		break;
	case 'r':
		options->rows = (uint32_t)whole("rows", optarg, 1, INF_ROWS_MAX);
		break;
	case 's':
		parse_shape(options, optarg);
		break;
	case 't':
		options->seconds = real("seconds", optarg, 0.001, 1e6);
		break;
	case 'n':
		options->requests_max = whole("requests", optarg, 1, UINT64_MAX / 2);
		break;
	case 'w':
		options->warm_up_s = real("warm-up", optarg, 0, 1e6);
		break;
	case 'j':
		options->json = true;
		break;
	case 'H':
		options->histogram = true;
		break;
	case 'q':
		options->quiet = true;
		break;
	case OPTION_RATE:
		options->rate = real("rate", optarg, 1e-3, 1e9);
		break;
	case OPTION_POISSON:
		options->poisson = true;
		break;
	case OPTION_TRACE:
		options->trace_path = optarg;
		break;
	case OPTION_SEED:
		options->seed = whole("seed", optarg, 0, UINT64_MAX / 2);
		break;
	case OPTION_DEADLINE:
		options->deadline_s = real("deadline", optarg, 1e-3, 1e9) / 1e3;
		break;
	case OPTION_CPUS:
		parse_cpus(options, optarg);
		break;
	case OPTION_PING:
		options->ping = true;
		break;
	case OPTION_POLL:
		options->poll = true;
		break;
	case OPTION_FILL:
		options->fill = true;
		break;
	case OPTION_SAMPLE:
		options->sparse = (uint32_t)whole("sample", optarg, 1, UINT32_MAX);
		break;
	case OPTION_COMMANDS:
		options->commands = options->quiet = true;
		break;
	case OPTION_SOCKET:
		options->socket = optarg;
		break;
	case OPTION_HELP:
		fputs(help, stdout);
		exit(0);
	case OPTION_VERSION:
		puts("infbench " INF_VERSION_STRING);
		exit(0);
	default:
		exit(2);
	}
}

void options_parse(struct options *options, int argc, char **argv)
{
	int c;

	*options = (struct options){
		.n_processes = 1,
		.n_threads = 1,
		.depth = 1,
		.rows = 1,
		.sparse = 1,
		.seconds = 5,
		.warm_up_s = 0.5,
		.seed = 1,
	};
	while ((c = getopt_long(argc, argv, "P:T:d:r:s:t:n:w:jHq", longs, NULL)) != -1)
		parse_one(options, c);
	if (optind < argc)
		options->model = argv[optind++];
	if (optind < argc)
		wrong("%s: one model at a time", argv[optind]);
	if (!options->model == !options->ping)
		wrong(options->ping ? "--ping asks no model" : "which model? `shmctl models` lists them");
	if (options->rate > 0 && options->trace_path)
		wrong("--rate and --trace: one of them");
	if (options->poisson && !(options->rate > 0))
		wrong("--poisson needs --rate");
	if (options->ping && (options->rate > 0 || options->trace_path || options->depth > 1))
		wrong("--ping is one request at a time");
	if (options->n_processes * options->n_threads > WORKERS_MAX)
		wrong("more than %u threads", WORKERS_MAX);
}
