/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http_client.c - the least that a client of an HTTP model server can cost: one keep-alive
 * connection to 127.0.0.1, one fixed request written in one go, a blocking read, and no more
 * looking at the answer than its status and length need.
 *
 * Usage: http_client --port N --path /PATH --body FILE [--header 'Name: value']... [--echo BYTES]
 * [the loop's options]
 * --echo: the last BYTES bytes of the answer must be those of the request (checked on the first and
 * on the last answer). An answer in chunks is refused: no server measured here sends one.
 */
#define _GNU_SOURCE 1
#include "tests/bench/peers/loop.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES_MAX 4096u

static int connection;
static unsigned short port;
static const char *path = "/", *body_file = "";
static size_t echo_bytes;
static char headers[HEAD_BYTES_MAX / 2];
static unsigned char request[HEAD_BYTES_MAX + LOOP_BYTES_MAX];
static size_t request_bytes;
static unsigned char answer[HEAD_BYTES_MAX + LOOP_BYTES_MAX + 1];
static size_t answer_bytes, body_off;

static void add_header(const char *text)
{
	size_t have = strlen(headers);
	int n = snprintf(headers + have, sizeof(headers) - have, "%s\r\n", text);

	if (n < 0 || (size_t)n >= sizeof(headers) - have)
		loop_die("too many headers");
}

static void take_options(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		const char *option = argv[i], *value = argv[i + 1];

		errno = 0;
		if (i + 1 == argc)
			loop_die("%s wants a value", option);
		if (!strcmp(option, "--port"))
			port = (unsigned short)loop_number(option, value, 65535);
		else if (!strcmp(option, "--path"))
			path = value;
		else if (!strcmp(option, "--body"))
			body_file = value;
		else if (!strcmp(option, "--header"))
			add_header(value);
		else if (!strcmp(option, "--echo"))
			echo_bytes = loop_number(option, value, LOOP_BYTES_MAX);
		else if (!loop_take_option(option, value))
			loop_die("unknown option %s", option);
	}
}

static void make_request(void)
{
	FILE *file = fopen(body_file, "rb");
	size_t body_bytes;
	int n;

	if (!file)
		loop_die("%s", body_file);
	body_bytes = fread(loop_message, 1, sizeof(loop_message), file);
	fclose(file);
	n = snprintf((char *)request, HEAD_BYTES_MAX,
		     "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%sContent-Length: %zu\r\n\r\n",
		     path, port, headers, body_bytes);
	errno = 0;
	if (n < 0 || (size_t)n >= HEAD_BYTES_MAX || echo_bytes > body_bytes)
		loop_die("the request does not fit");
	memcpy(request + n, loop_message, body_bytes);
	request_bytes = (size_t)n + body_bytes;
}

static void open_connection(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int on = 1;

	connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection < 0 || setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) ||
	    connect(connection, (struct sockaddr *)&address, sizeof(address)))
		loop_die("cannot connect to port %u", port);
}

static void read_more(void)
{
	ssize_t n = read(connection, answer + answer_bytes, sizeof(answer) - 1 - answer_bytes);

	if (n <= 0)
		loop_die("the connection ended after %zu bytes of an answer: %.*s", answer_bytes,
			 (int)answer_bytes, (char *)answer);
	answer_bytes += (size_t)n;
	answer[answer_bytes] = 0;
}

/* Reads until the head is whole; returns the length of the body that it announces. */
static size_t read_head(void)
{
	char *end, *length;

	answer_bytes = 0;
	do {
		read_more();
		end = memmem(answer, answer_bytes, "\r\n\r\n", 4);
	} while (!end && answer_bytes < HEAD_BYTES_MAX);
	errno = 0;
	if (!end)
		loop_die("no end of the answer's head");
	body_off = (size_t)(end - (char *)answer) + 4;
	length = strcasestr((char *)answer, "\r\ncontent-length:");
	if (!length || length > end)
		loop_die("an answer without Content-Length: %.*s", (int)body_off, (char *)answer);
	return strtoul(length + 17, NULL, 10);
}

static void ask(void)
{
	size_t body_bytes;

	if (write(connection, request, request_bytes) != (ssize_t)request_bytes)
		loop_die("write");
	body_bytes = read_head();
	if (body_bytes > LOOP_BYTES_MAX)
		loop_die("an answer of %zu bytes", body_bytes);
	while (answer_bytes < body_off + body_bytes)
		read_more();
	errno = 0;
	if (memcmp(answer, "HTTP/1.1 200 ", 13))
		loop_die("not answered with 200: %.*s",
			 (int)(answer_bytes > 600 ? 600 : answer_bytes), (char *)answer);
}

static void check(void)
{
	errno = 0;
	if (answer_bytes - body_off < echo_bytes || answer_bytes == body_off ||
	    memcmp(answer + answer_bytes - echo_bytes, request + request_bytes - echo_bytes,
		   echo_bytes))
		loop_die("the answer is not what was sent: %.*s", (int)answer_bytes,
			 (char *)answer);
}

int main(int argc, char **argv)
{
	take_options(argc, argv);
	loop_pin(loop_options.client_cpu);
	make_request();
	open_connection();
	loop_run(ask, check);
	return 0;
}
