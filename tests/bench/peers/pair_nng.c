/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair_nng.c - nng over ipc://, both ends blocking as the library does by default.
 *
 * --how req (REQ and REP, the default) or pair (PAIR version 0: no envelope, the least that the
 * library can do).
 */
#define _GNU_SOURCE 1
#include "tests/bench/peers/loop.h"
#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <stdio.h>
#include <string.h>

static nng_socket endpoint;

static void must(const char *what, int error)
{
	errno = 0;
	if (error)
		loop_die("%s: %s", what, nng_strerror(error));
}

static const char *url(void)
{
	static char text[256];

	snprintf(text, sizeof(text), "ipc://%s/nng", loop_options.dir);
	return text;
}

static bool is_pair(void)
{
	return !strcmp(loop_options.how, "pair");
}

static void listen_nng(void)
{
	must("open", is_pair() ? nng_pair0_open(&endpoint) : nng_rep0_open(&endpoint));
	must("nng_listen", nng_listen(endpoint, url(), NULL, 0));
}

static void connect_nng(void)
{
	must("open", is_pair() ? nng_pair0_open(&endpoint) : nng_req0_open(&endpoint));
	must("nng_dial", nng_dial(endpoint, url(), NULL, 0));
}

static void take(void)
{
	size_t n_bytes = sizeof(loop_reply);

	must("nng_recv", nng_recv(endpoint, loop_reply, &n_bytes, 0));
	if (n_bytes != loop_options.message_bytes)
		loop_die("a message of %zu bytes", n_bytes);
}

static void give(unsigned char *buffer)
{
	must("nng_send", nng_send(endpoint, buffer, loop_options.message_bytes, 0));
}

static void serve(void)
{
	for (;;) {
		take();
		give(loop_reply);
	}
}

static void ask(void)
{
	give(loop_message);
	take();
}

int main(int argc, char **argv)
{
	static const struct pair_ops ops = {
		.listen = listen_nng,
		.serve = serve,
		.connect = connect_nng,
		.ask = ask,
	};

	return pair_main(argc, argv, &ops);
}
