/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair_socket.c - the kernel's own: a message and its answer over a Unix socket pair or two pipes,
 * blocking.
 *
 * --how seqpacket (the default), or pipe. What a library over one of these adds is seen against it.
 */
#define _GNU_SOURCE 1
#include "tests/bench/peers/loop.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int client_in, client_out, server_in, server_out;

static void prepare(void)
{
	int there[2], back[2];

	if (!strcmp(loop_options.how, "pipe")) {
		if (pipe(there) || pipe(back))
			loop_die("pipe");
		client_in = back[0];
		client_out = there[1];
		server_in = there[0];
		server_out = back[1];
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, there))
		loop_die("socketpair");
	client_in = client_out = there[0];
	server_in = server_out = there[1];
}

/* A pipe may give a message in pieces; these are far below the size where it does, but nothing says
 * that it must not. */
static void take(int fd, unsigned char *buffer)
{
	for (size_t have = 0; have < loop_options.message_bytes;) {
		ssize_t n = read(fd, buffer + have, loop_options.message_bytes - have);

		if (n <= 0)
			loop_die("the other side is gone");
		have += (size_t)n;
	}
}

static void give(int fd, const unsigned char *buffer)
{
	if (write(fd, buffer, loop_options.message_bytes) != (ssize_t)loop_options.message_bytes)
		loop_die("write");
}

static void nothing(void)
{
}

static void serve(void)
{
	for (;;) {
		take(server_in, loop_reply);
		give(server_out, loop_reply);
	}
}

static void ask(void)
{
	give(client_out, loop_message);
	take(client_in, loop_reply);
}

int main(int argc, char **argv)
{
	static const struct pair_ops ops = {
		.prepare = prepare,
		.listen = nothing,
		.serve = serve,
		.connect = nothing,
		.ask = ask,
	};

	return pair_main(argc, argv, &ops);
}
