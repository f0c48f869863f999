/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checked_load.c - checked_load SOCKET THREADS DEPTH SECONDS [identity]: honest load, every answer checked, one JSON line at the end,
 * which SIGINT brings about early.
 * Exit 0 where nothing was wrong or lost.
 */
#define _GNU_SOURCE 1
#include "tests/support/load.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct load load;

static void stop_load(int signal_number)
{
	(void)signal_number;
	__atomic_store_n(&load.until_ns, 0, __ATOMIC_RELAXED);
}

int main(int argc, char **argv)
{
	int r;

	if (argc != 5 && (argc != 6 || strcmp(argv[5], "identity") != 0))
		return 2;
	load.socket_path = argv[1];
	load.n_threads = (uint32_t)strtoul(argv[2], NULL, 10);
	load.depth = (uint32_t)strtoul(argv[3], NULL, 10);
	load.until_ns = load_now_ns() + (uint64_t)(strtod(argv[4], NULL) * 1e9);
	load.identity = argc == 6;
	signal(SIGINT, stop_load);
	r = load_run(&load);
	if (r)
		fprintf(stderr, "checked_load: %s\n", strerror(-r));
	load_print(&load);
	return r || load.n_wrong || !load.n;
}
