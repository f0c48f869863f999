/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - infbroker-executor: the process that holds models. The front starts it with its socket as fd 3.
 *
 * A model may crash, hang or corrupt this process; the front, the clients and the other requests survive. So nothing here
 * tries to survive: it exits when the front hangs up, and leaves nothing behind but memory that the front made.
 */
#define _GNU_SOURCE 1
#include "broker/executor/backend.h"
#include "broker/executor/control.h"
#include "broker/executor/device.h"
#include "broker/executor/importer.h"
#include "broker/executor/loader.h"
#include "broker/executor/memory.h"
#include "broker/executor/pins.h"
#include "broker/executor/slabs.h"
#include <inf/version.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Four batches on the device: one is copied in, one computes, one is copied out, and one waits. */
#define DEVICE_INSTANCES 2u

static const char usage[] =
	"Usage: infbroker-executor [OPTION]...\n"
	"Loads and runs models for infbroker, which starts it with its socket as file descriptor 3.\n\n"
	"  --device NAME    cpu, cuda, cuda:N or GPU-UUID; default: cpu\n"
	"  --models DIR     serve NAME.pt and NAME/VERSION/model.pt from DIR\n"
	"  --builtin        serve the builtin test models\n"
	"  --plugins DIR    where backends (libinf-backend-*.so) are; default: beside the program, else as installed\n"
	"  --instances N    batches that run at once; default: one per CPU that the process may use; 2 on a device\n"
	"  --threads N      threads inside one batch; default: 1\n"
	"  --spin-ns N      look for a batch so long before sleeping; default: 0\n"
	"  --no-graphs      on a device: models run call by call, not as CUDA graphs\n"
	"  --device-model-memory BYTES\n"
	"                   of a device's memory, for models and their batches; default: what there is\n"
	"  --memory BYTES   freed activation memory to keep; default: 2 GiB\n"
	"  --importer       copy memory of one client, by its handles, into device memory of its session, and nothing else\n"
	"  --verbose        say what is loaded and how fast it is\n"
	"  --help, --version\n";

static uint32_t cpus_allowed(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 1;
	return CPU_COUNT(&set) > (int)INF_INSTANCES ? INF_INSTANCES : (uint32_t)CPU_COUNT(&set);
}

static uint64_t parse_number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (*end || end == text || text[0] == '-') {
		fprintf(stderr, "infbroker-executor: \"%s\" is not a number\n", text);
		exit(2);
	}
	return value;
}

static void parse(struct options *options, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "device", required_argument, NULL, 'd' },
		{ "models", required_argument, NULL, 'm' },  { "builtin", no_argument, NULL, 'b' },
		{ "plugins", required_argument, NULL, 'p' }, { "instances", required_argument, NULL, 'i' },
		{ "threads", required_argument, NULL, 't' }, { "memory", required_argument, NULL, 'y' },
		{ "no-graphs", no_argument, NULL, 'g' },
		{ "device-model-memory", required_argument, NULL, 'D' },
		{ "spin-ns", required_argument, NULL, 's' }, { "verbose", no_argument, NULL, 'v' },
		{ "importer", no_argument, NULL, 'I' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'd':
			options->device = strcmp(optarg, "cpu") ? optarg : NULL;
			break;
		case 'm':
			options->models_path = optarg;
			break;
		case 'b':
			options->builtin = true;
			break;
		case 'p':
			options->plugins_path = optarg;
			break;
		case 'i':
			options->n_instances = (uint32_t)parse_number(optarg);
			break;
		case 't':
			options->n_threads = (uint32_t)parse_number(optarg);
			break;
		case 'y':
			options->memory_bytes = parse_number(optarg);
			break;
		case 's':
			options->spin_ns = parse_number(optarg);
			break;
		case 'D':
			options->device_model_bytes = parse_number(optarg);
			break;
		case 'g':
			options->no_graphs = true;
			break;
		case 'I':
			options->is_importer = true;
			break;
		case 'v':
			options->verbose = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		case 'V':
			puts("infbroker-executor " INF_VERSION_STRING);
			exit(0);
		default:
			exit(2);
		}
	}
}

/* Signals are for the front, which decides; a terminal's Ctrl-C reaches the whole group. */
static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static bool has_front(void)
{
	int type = 0;
	socklen_t bytes = sizeof(type);

	return !getsockopt(EXECUTOR_SOCKET_FD, SOL_SOCKET, SO_TYPE, &type, &bytes) && type == SOCK_SEQPACKET;
}

/* Without the device that was asked for the models are still served, and a line says how. */
static void open_device(struct executor *executor)
{
	static struct device device;
	char text[INF_DRIVER_TEXT_BYTES];
	int r;

	if (!executor->options.device)
		return;
	r = device_open(&device, executor->options.device, text);
	if (r) {
		executor_log("CPU only: %s", text);
		return;
	}
	device.backend.memory_bytes = executor->options.device_model_bytes;
	executor->device = &device;
	executor_log("%s is %s (%s), driver for CUDA %d.%d", device.name, device.model, device.uuid, device.driver.version / 1000,
		     device.driver.version % 1000 / 10);
}

/* Likewise where it is there, and no backend can use it. */
static void open_backends(struct executor *executor)
{
	int r;

	executor->n_instances = executor->options.n_instances;
	if (!executor->n_instances)
		executor->n_instances = executor->device ? DEVICE_INSTANCES : cpus_allowed();
	if (executor->n_instances > INF_INSTANCES)
		executor->n_instances = INF_INSTANCES;
	backend_open_all(executor);
	if (executor->device && !executor->n_backends) {
		executor_log("CPU only: no backend works on %s", executor->device->name);
		executor->device = NULL;
		open_backends(executor);
		return;
	}
	if (executor->device)
		device_calibrate(executor->device);
	if (executor->device && executor->options.verbose)
		executor_log("%s: from %llu bytes on by DMA from where they lie", executor->device->name,
			     (unsigned long long)executor->device->direct_bytes_min);
	slabs_start(executor->device);
	r = executor->device ? pins_start(executor->device) : 0;
	if (r)
		executor_log("clients' memory is not pinned: %s", strerror(-r));
}

int main(int argc, char **argv)
{
	static struct executor executor = { .send_lock = PTHREAD_MUTEX_INITIALIZER };
	int r;

	parse(&executor.options, argc, argv);
	if (!has_front()) {
		fprintf(stderr, "infbroker-executor: file descriptor 3 is no socket of a front: start infbroker instead\n");
		return 2;
	}
	/* Regions on their way to their seals must be out of reach of clients of the same user. */
	if (!getenv("INF_DEBUG"))
		prctl(PR_SET_DUMPABLE, 0);
	block_signals();
	if (executor.options.is_importer)
		_exit(importer_run(executor.options.device));
	memory_keep(executor.options.memory_bytes);
	open_device(&executor);
	executor.n_threads = executor.options.n_threads ? executor.options.n_threads : 1;
	open_backends(&executor);
	r = loader_start(&executor);
	if (r) {
		executor_log("cannot start a thread: %s", strerror(-r));
		return 1;
	}
	_exit(control_run(&executor));
}
