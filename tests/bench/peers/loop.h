/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - the closed loop that every rival's program runs: one request at a time, each round trip
 * timed.
 *
 * A client program gives one `ask` (one message there and back) and calls loop_run(). A pair, which
 * brings its own echo server, gives the five calls of struct pair_ops and lets pair_main() do all:
 * it forks the server before any library has made a thread, pins both ends, and ends the server
 * afterwards. One line of JSON is all that goes to stdout.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOOP_BYTES_MAX 65536u

struct loop_options {
	int client_cpu; /* -1: left to the kernel */
	int server_cpu;
	unsigned int run_ms;
	unsigned int n_warm;
	size_t message_bytes;
	const char *how; /* --how WORD: what a program offers besides its default */
	const char *dir; /* where the pair may make sockets; private to this run */
};

/* Both ends fill and read these; client and server are two processes, so each has its own. */
extern unsigned char loop_message[LOOP_BYTES_MAX];
extern unsigned char loop_reply[LOOP_BYTES_MAX];
extern struct loop_options loop_options;

struct pair_ops {
	/* Before the fork, where both ends inherit something (a pipe); NULL: nothing. */
	void (*prepare)(void);
	/* In the server: to be reached from here on; then echo until killed. */
	void (*listen)(void);
	void (*serve)(void);
	/* In the client, when the server listens; and one round trip, leaving the answer in
	 * loop_reply. */
	void (*connect)(void);
	void (*ask)(void);
	/* In the client, after the last answer; NULL: nothing. */
	void (*disconnect)(void);
};

int pair_main(int argc, char **argv, const struct pair_ops *ops);

/* For programs that are a client only. loop_run() warms up, runs and prints; the process must be
 * pinned before. */
void loop_pin(int cpu);
void loop_run(void (*ask)(void), void (*check)(void));

/* Takes one of the common options and its value; false: not one of them. */
bool loop_take_option(const char *option, const char *value);
unsigned long loop_number(const char *option, const char *text, unsigned long max);

/* Says what failed, with errno's text where that is not 0, and ends the program. */
_Noreturn void loop_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
