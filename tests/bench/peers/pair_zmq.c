/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair_zmq.c - ZeroMQ over ipc://, both ends blocking as the library does by default.
 *
 * --how req (REQ and REP, the default) or pair (PAIR sockets: no envelope, the least that the
 * library can do).
 */
#define _GNU_SOURCE 1
#include "tests/bench/peers/loop.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

static void *endpoint;

static void fail(const char *what)
{
	int error = errno;

	errno = 0;
	loop_die("%s: %s", what, zmq_strerror(error));
}

static void open_socket(int request_type, int (*attach)(void *, const char *))
{
	char url[256];
	void *context = zmq_ctx_new();

	snprintf(url, sizeof(url), "ipc://%s/zmq", loop_options.dir);
	if (!context)
		fail("zmq_ctx_new");
	endpoint = zmq_socket(context, strcmp(loop_options.how, "pair") ? request_type : ZMQ_PAIR);
	if (!endpoint || attach(endpoint, url))
		fail(url);
}

static void listen_zmq(void)
{
	open_socket(ZMQ_REP, zmq_bind);
}

static void connect_zmq(void)
{
	open_socket(ZMQ_REQ, zmq_connect);
}

static void take(void)
{
	if (zmq_recv(endpoint, loop_reply, sizeof(loop_reply), 0) !=
	    (int)loop_options.message_bytes)
		fail("zmq_recv");
}

static void give(const unsigned char *buffer)
{
	if (zmq_send(endpoint, buffer, loop_options.message_bytes, 0) !=
	    (int)loop_options.message_bytes)
		fail("zmq_send");
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
		.listen = listen_zmq,
		.serve = serve,
		.connect = connect_zmq,
		.ask = ask,
	};

	return pair_main(argc, argv, &ops);
}
