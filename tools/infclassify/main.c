/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - infclassify: JPEG files in, one JSON line per image out. */
#define _GNU_SOURCE 1
#include "tools/infclassify/classify.h"
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
	"Usage: infclassify [OPTION]... FILE.jpg...\n"
	"Classifies photographs with a model that infbroker serves. Prints one JSON line per "
	"image:\n"
	"  {\"image\": ..., \"top\": [{\"label\": ..., \"class\": N, \"probability\": P}, ...], "
	"\"latency_us\": T}\n"
	"latency_us is from submission to answer; decoding is not in it. A file that is no JPEG "
	"gets\n"
	"{\"image\": ..., \"error\": ...}, the others go on, and the exit status is 1.\n\n"
	"  --model NAME     f32[batch,3,224,224] -> f32[batch,classes]; default: "
	"efficientnet-lite0\n"
	"  --labels FILE    one label per line, in the order of the classes; default: "
	"$INFCLASSIFY_LABELS, else numbers\n"
	"  --top K          how many classes to print; default: 5\n"
	"  -P, --processes P\n"
	"                   share the files among P processes with a session each; default: 1\n"
	"  -d, --depth N    images in flight per process; default: 1\n"
	"  --repeat N       classify every file N times; default: 1\n"
	"  --socket PATH    default: $INFBROKER_SOCKET, else $XDG_RUNTIME_DIR/infbroker/socket, "
	"else /run/infbroker/socket\n"
	"  --bench-stdin    decode once, then for each line \"go SECONDS\" on standard input "
	"classify that long and print\n"
	"                   {\"images\": N, \"seconds\": S, \"errors\": N, \"latencies_us\": "
	"[...]}\n"
	"  --help, --version\n\n"
	"Exit status: 0 all classified, 1 some were not, 2 usage.\n";

static uint32_t parse_count(const char *name, const char *text, uint32_t max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || end == text || !value || value > max) {
		fprintf(stderr, "infclassify: --%s takes a number from 1 to %u, not \"%s\"\n", name,
			max, text);
		exit(2);
	}
	return (uint32_t)value;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "model", required_argument, NULL, 'm' },
		{ "labels", required_argument, NULL, 'l' },
		{ "top", required_argument, NULL, 't' },
		{ "processes", required_argument, NULL, 'P' },
		{ "depth", required_argument, NULL, 'd' },
		{ "repeat", required_argument, NULL, 'r' },
		{ "socket", required_argument, NULL, 's' },
		{ "bench-stdin", no_argument, NULL, 'b' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	struct classify_options options = {
		.model = "efficientnet-lite0", .n_processes = 1, .depth = 1, .repeat = 1, .top = 5
	};
	bool bench = false;
	int c;

	options.labels_path = getenv("INFCLASSIFY_LABELS");
	while ((c = getopt_long(argc, argv, "P:d:", longs, NULL)) != -1) {
		switch (c) {
		case 'm':
			options.model = optarg;
			break;
		case 'l':
			options.labels_path = optarg;
			break;
		case 't':
			options.top = parse_count("top", optarg, 100);
			break;
		case 'P':
			options.n_processes = parse_count("processes", optarg, 1024);
			break;
		case 'd':
			options.depth = parse_count("depth", optarg, 256);
			break;
		case 'r':
			options.repeat = parse_count("repeat", optarg, 1000000);
			break;
		case 's':
			options.socket_path = optarg;
			break;
		case 'b':
			bench = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'V':
			printf("infclassify %s\n", inf_version());
			return 0;
		default:
			return 2;
		}
	}
	options.files = argv + optind;
	options.n_files = (uint32_t)(argc - optind);
	if (!options.n_files) {
		fprintf(stderr, "infclassify: no files; try infclassify --help\n");
		return 2;
	}
	return bench ? classify_bench(&options) : classify_files(&options);
}
