/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc_client.c - the least that a gRPC client of the v2 protocol can cost: HTTP/2 by hand over one
 * connection to 127.0.0.1, one ModelInfer of "identity" at a time, a blocking read.
 *
 * Usage: grpc_client --port N [the loop's options]
 *
 * A request is two frames, HEADERS and DATA, written in one go. The first one's header fields enter
 * the server's HPACK table, so that all later ones are six bytes, as from a real client. Answers'
 * header blocks are not decoded: one that failed has no DATA. A message is protocol buffers written
 * by hand; the raw tensor is the last field in both directions, so the answer's last bytes must be
 * the request's.
 */
#define _GNU_SOURCE 1
#include "tests/bench/peers/loop.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* RFC 9113, sections 4.1 and 6. */
#define FRAME_HEAD_BYTES 9u
#define FRAME_BYTES_MAX	 16384u
enum {
	F_DATA = 0,
	F_HEADERS = 1,
	F_RST_STREAM = 3,
	F_SETTINGS = 4,
	F_PING = 6,
	F_GOAWAY = 7,
	F_WINDOW_UPDATE = 8,
};

#define FLAG_END_STREAM	 0x1u
#define FLAG_ACK	 0x1u
#define FLAG_END_HEADERS 0x4u
#define WINDOW_INITIAL	 65535

/* The tensor's two lengths in the message are one byte each. */
#define TENSOR_BYTES_MAX 124u

struct writer {
	unsigned char bytes[1024];
	size_t n;
};

struct frame {
	unsigned int type, flags;
	uint32_t stream;
	size_t payload_bytes;
	unsigned char *payload;
};

static int connection;
static unsigned short port;
static uint32_t stream_id = 1;
static int64_t send_window_bytes = WINDOW_INITIAL;
static struct writer first_fields, later_fields, message;
static unsigned char input[FRAME_HEAD_BYTES + FRAME_BYTES_MAX];
static size_t input_bytes, input_off;
static unsigned char answer_tail[TENSOR_BYTES_MAX];

static void put(struct writer *w, const void *bytes, size_t n)
{
	errno = 0;
	if (n > sizeof(w->bytes) - w->n)
		loop_die("a frame does not fit");
	memcpy(w->bytes + w->n, bytes, n);
	w->n += n;
}

static void put_byte(struct writer *w, unsigned int byte)
{
	put(w, &(unsigned char){ (unsigned char)byte }, 1);
}

static void put_be32(struct writer *w, uint32_t value)
{
	put(w, &(uint32_t){ htonl(value) }, 4);
}

/* Text with its length in one byte before it: what HPACK and protocol buffers both do below 127. */
static void put_text(struct writer *w, const char *text)
{
	put_byte(w, (unsigned int)strlen(text));
	put(w, text, strlen(text));
}

static void put_frame(struct writer *w, unsigned int type, unsigned int flags, uint32_t stream,
		      const struct writer *load)
{
	put_be32(w, (uint32_t)load->n << 8 | type);
	put_byte(w, flags);
	put_be32(w, stream);
	put(w, load->bytes, load->n);
}

static void send_all(const struct writer *w)
{
	if (write(connection, w->bytes, w->n) != (ssize_t)w->n)
		loop_die("write");
}

/* RFC 7541: 0x80|i is a field of the table, 0x40|i a new value for name i of the table, to be
 * entered into it. */
static void make_fields(void)
{
	char authority[32];

	snprintf(authority, sizeof(authority), "127.0.0.1:%u", port);
	put(&first_fields, "\x83\x86\x44", 3); /* :method POST, :scheme http, :path */
	put_text(&first_fields, "/inference.GRPCInferenceService/ModelInfer");
	put_byte(&first_fields, 0x41); /* :authority */
	put_text(&first_fields, authority);
	put_byte(&first_fields, 0x5f); /* content-type */
	put_text(&first_fields, "application/grpc");
	put_byte(&first_fields, 0x40); /* a new name */
	put_text(&first_fields, "te");
	put_text(&first_fields, "trailers");
	/* The four entered are 65 (the oldest) to 62. */
	put(&later_fields, "\x83\x86\xc1\xc0\xbf\xbe", 6);
}

/* ModelInferRequest: model_name = 1, inputs = 5 (name = 1, datatype = 2, shape = 3),
 * raw_input_contents = 7. */
static void make_message(void)
{
	size_t tensor_bytes = loop_options.message_bytes;
	struct writer tensor = { .n = 0 }, body = { .n = 0 };

	errno = 0;
	if (!tensor_bytes || tensor_bytes % 4 || tensor_bytes > TENSOR_BYTES_MAX)
		loop_die("--bytes: a multiple of 4 up to %u is wanted", TENSOR_BYTES_MAX);
	for (size_t i = 0; i < tensor_bytes; i++)
		loop_message[i] = (unsigned char)(i + 1);
	put_byte(&tensor, 1 << 3 | 2);
	put_text(&tensor, "INPUT");
	put_byte(&tensor, 2 << 3 | 2);
	put_text(&tensor, "INT32");
	put(&tensor, "\x1a\x01", 2);
	put_byte(&tensor, (unsigned int)tensor_bytes / 4);

	put_byte(&body, 1 << 3 | 2);
	put_text(&body, "identity");
	put_byte(&body, 5 << 3 | 2);
	put_byte(&body, (unsigned int)tensor.n);
	put(&body, tensor.bytes, tensor.n);
	put_byte(&body, 7 << 3 | 2);
	put_byte(&body, (unsigned int)tensor_bytes);
	put(&body, loop_message, tensor_bytes);

	put_byte(&message, 0); /* gRPC's own head: not compressed, length */
	put_be32(&message, (uint32_t)body.n);
	put(&message, body.bytes, body.n);
}

static void read_until(size_t n_bytes)
{
	if (input_off + n_bytes > sizeof(input)) {
		memmove(input, input + input_off, input_bytes - input_off);
		input_bytes -= input_off;
		input_off = 0;
	}
	while (input_bytes - input_off < n_bytes) {
		ssize_t n = read(connection, input + input_bytes, sizeof(input) - input_bytes);

		if (n <= 0)
			loop_die("the connection ended");
		input_bytes += (size_t)n;
	}
}

static struct frame read_frame(void)
{
	struct frame frame;
	unsigned char *head;
	uint32_t stream;

	if (input_off == input_bytes)
		input_off = input_bytes = 0;
	read_until(FRAME_HEAD_BYTES);
	head = input + input_off;
	frame.payload_bytes = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
	frame.type = head[3];
	frame.flags = head[4];
	memcpy(&stream, head + 5, sizeof(stream));
	frame.stream = ntohl(stream) & 0x7fffffff;
	errno = 0;
	if (frame.payload_bytes > FRAME_BYTES_MAX)
		loop_die("a frame of %zu bytes", frame.payload_bytes);
	read_until(FRAME_HEAD_BYTES + frame.payload_bytes);
	frame.payload = input + input_off + FRAME_HEAD_BYTES;
	input_off += FRAME_HEAD_BYTES + frame.payload_bytes;
	return frame;
}

/* SETTINGS and PING want an answer: the server measures the connection with the latter and stops
 * when it gets none. */
static void acknowledge(const struct frame *frame)
{
	struct writer load = { .n = 0 }, w = { .n = 0 };

	if (frame->flags & FLAG_ACK)
		return;
	if (frame->type == F_PING)
		put(&load, frame->payload, frame->payload_bytes);
	put_frame(&w, frame->type, FLAG_ACK, 0, &load);
	send_all(&w);
}

static void take_connection_frame(const struct frame *frame)
{
	uint32_t value;

	errno = 0;
	switch (frame->type) {
	case F_SETTINGS:
	case F_PING:
		acknowledge(frame);
		break;
	case F_WINDOW_UPDATE:
		if (frame->stream || frame->payload_bytes != 4)
			break;
		memcpy(&value, frame->payload, sizeof(value));
		send_window_bytes += ntohl(value) & 0x7fffffff;
		break;
	case F_RST_STREAM:
		loop_die("the server reset the stream");
	case F_GOAWAY:
		loop_die("the server says goodbye: %.*s", (int)frame->payload_bytes,
			 (char *)frame->payload);
	}
}

static void send_request(void)
{
	struct writer w = { .n = 0 };

	while (send_window_bytes < (int64_t)message.n) {
		struct frame frame = read_frame();

		take_connection_frame(&frame);
	}
	put_frame(&w, F_HEADERS, FLAG_END_HEADERS, stream_id,
		  stream_id == 1 ? &first_fields : &later_fields);
	put_frame(&w, F_DATA, FLAG_END_STREAM, stream_id, &message);
	send_window_bytes -= (int64_t)message.n;
	send_all(&w);
}

static void ask(void)
{
	size_t tensor_bytes = loop_options.message_bytes;
	struct frame frame;
	bool has_tensor = false;

	send_request();
	do {
		frame = read_frame();
		if (frame.type == F_DATA && frame.payload_bytes >= tensor_bytes) {
			memcpy(answer_tail, frame.payload + frame.payload_bytes - tensor_bytes,
			       tensor_bytes);
			has_tensor = true;
		} else if (frame.type != F_DATA && frame.type != F_HEADERS) {
			take_connection_frame(&frame);
		}
	} while (frame.type > F_HEADERS || frame.stream != stream_id ||
		 !(frame.flags & FLAG_END_STREAM));
	errno = 0;
	if (!has_tensor)
		loop_die("an answer without a tensor; its last header block: %.*s",
			 (int)frame.payload_bytes, (char *)frame.payload);
	stream_id += 2;
}

static void check(void)
{
	errno = 0;
	if (memcmp(answer_tail, loop_message, loop_options.message_bytes))
		loop_die("the answer is not what was sent");
}

static void open_connection(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct writer w = { .n = 0 }, none = { .n = 0 }, window = { .n = 0 };
	int on = 1;

	connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection < 0 || setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) ||
	    connect(connection, (struct sockaddr *)&address, sizeof(address)))
		loop_die("cannot connect to port %u", port);
	put(&w, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	put_frame(&w, F_SETTINGS, 0, 0, &none);
	/* As wide as it gets: enough for all answers of one run, so that none is ever acknowledged.
	 */
	put_be32(&window, 0x7fffffff - WINDOW_INITIAL);
	put_frame(&w, F_WINDOW_UPDATE, 0, 0, &window);
	send_all(&w);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		errno = 0;
		if (i + 1 == argc)
			loop_die("%s wants a value", argv[i]);
		if (!strcmp(argv[i], "--port"))
			port = (unsigned short)loop_number(argv[i], argv[i + 1], 65535);
		else if (!loop_take_option(argv[i], argv[i + 1]))
			loop_die("unknown option %s", argv[i]);
	}
	loop_pin(loop_options.client_cpu);
	make_fields();
	make_message();
	open_connection();
	loop_run(ask, check);
	return 0;
}
