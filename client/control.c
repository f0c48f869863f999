/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c - the control socket after the handshake: questions with one answer each, and what the
 * broker sends unasked (the output region of a new executor generation, the end of an old one).
 *
 * Nothing reads the socket in the background, for the library has no threads of its own. Whoever
 * asks something serves what lies in front of the answer; whoever meets a completion in a region
 * that is not mapped yet drains the socket, and finds it: the broker sends the region before the
 * first completion that names it.
 */
#define _GNU_SOURCE 1
#include "client/internal.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static _Thread_local char last_error[INF_CTL_TEXT_BYTES];

void infc_error_set(const char *text)
{
	unsigned int i;

	for (i = 0; text[i] && i < sizeof(last_error) - 1; i++)
		last_error[i] = (text[i] >= 0 && text[i] < ' ') || text[i] == 0x7f ? '?' : text[i];
	last_error[i] = 0;
}

int infc_error_tell(int r)
{
	static const struct {
		int error;
		const char *text;
	} words[] = {
		{ -EINVAL, "no such input or output, or the request is not in the state that this call needs: see its manual page" },
		{ -EBUSY, "the request is in flight: wait for it first" },
		{ -ENODEV, "inf_device_open() comes first" },
		{ -ENOBUFS, "1024 requests with device memory are taken: give some back" },
		{ -ESTALE, "the memory went with the broker's device: open a new client" },
		{ -EMSGSIZE, "that is more than the input has room for: inf_input_room() says how much" },
		{ -EFAULT, "that is no device memory of this process, or one allocation has not that much" },
		{ -EXDEV, "that memory is of another device than the broker's" },
		{ -EOWNERDEAD, "this process was forked: open a client of its own" },
		{ -ECONNRESET, "the broker is gone: open a new client" },
		{ -EPROTO, "the connection to the broker failed: open a new client" },
		{ -ENOMEM, "out of memory" },
	};

	for (size_t i = 0; r < 0 && !*last_error && i < sizeof(words) / sizeof(words[0]); i++)
		if (words[i].error == r)
			infc_error_set(words[i].text);
	return r;
}

const char *inf_error(const struct inf_client *client)
{
	(void)client;
	return last_error;
}

int infc_control_refusal(const struct inf_ctl_error *error)
{
	char text[INF_CTL_TEXT_BYTES + 1];

	memcpy(text, error->text, INF_CTL_TEXT_BYTES);
	text[INF_CTL_TEXT_BYTES] = 0;
	infc_error_set(text);
	return error->error < 0 && error->error > -4096 ? error->error : -EPROTO;
}

static void close_fds(const int *fds, unsigned int n_fds)
{
	for (unsigned int i = 0; i < n_fds; i++)
		close(fds[i]);
}

/* The connection is of no use any more; the broker sees the hang-up. */
static int give_up(struct inf_client *client, int error)
{
	shutdown(client->socket_fd, SHUT_RDWR);
	infc_mark_lost(client);
	return error;
}

static int send_mapped(struct inf_client *client, uint32_t region)
{
	struct inf_ctl_mapped msg;

	inf_ctl_init(&msg, INF_CTL_MAPPED, 0);
	msg.region = region;
	return inf_ctl_send(client->socket_fd, &msg, NULL, 0, false);
}

static int add_region(struct inf_client *client, const struct inf_ctl_region *msg, const int *fds,
		      unsigned int n_fds)
{
	int r;

	if (n_fds == 1 && msg->kind == INF_REGION_TWIN)
		return infc_device_add_twin(client, infc_region_at(client, msg->region & ~INF_TWIN_BIT), fds[0]);
	if (n_fds != 1 || (msg->kind != INF_REGION_REQUEST && msg->kind != INF_REGION_OUTPUT))
		return -EPROTO;
	r = infc_region_add(client, msg->region, msg->kind, fds[0], msg->bytes);
	/* Unasked: memory of a new executor, so there is some of an old one. */
	if (!r && !msg->head.cookie)
		inf_store32(&client->n_retiring, client->n_retiring + 1);
	if (r || msg->kind == INF_REGION_OUTPUT)
		return r;
	return send_mapped(client, msg->region);
}

/* A message that may come at any time. 0, 1 = it is none of those, or a negative errno. */
static int serve(struct inf_client *client, const union inf_ctl_any *msg, const int *fds,
		 unsigned int n_fds)
{
	switch (msg->head.type) {
	case INF_CTL_REGION:
		return add_region(client, &msg->region, fds, n_fds);
	case INF_CTL_READY:
		return infc_region_ready(client, msg->ready.region);
	case INF_CTL_RETIRE:
		if (client->n_retiring && !(msg->retire.region & INF_TWIN_BIT))
			inf_store32(&client->n_retiring, client->n_retiring - 1);
		infc_region_retire(client, msg->retire.region);
		return 0;
	}
	return 1;
}

/* One message. 0, -EAGAIN, or a negative errno after which the connection is gone. */
static int receive(struct inf_client *client, union inf_ctl_any *ret, int *ret_fds,
		   unsigned int *ret_n_fds, bool dont_wait)
{
	int r;

	do {
		r = inf_ctl_recv(client->socket_fd, INF_CTL_FROM_FRONT_TO_CLIENT, ret, ret_fds,
				 ret_n_fds, dont_wait);
	} while (r == -EINTR);
	if (!r || (r == -EAGAIN && dont_wait))
		return r;
	if (r == INF_CTL_E_CLOSED || r == -EPIPE)
		r = -ECONNRESET;
	else if (r > 0)
		r = -EPROTO;
	return give_up(client, r);
}

/* 1 = `msg` is the answer that is waited for, 0 = it was something else and is done with, or
 * -errno. */
static int judge(struct inf_client *client, const union inf_ctl_any *msg, const int *fds,
		 unsigned int n_fds, enum inf_ctl_type answer)
{
	int r = serve(client, msg, fds, n_fds);

	if (r < 0)
		return r;
	if (msg->head.type == answer)
		return answer == INF_CTL_READY || msg->head.cookie == client->cookie;
	return msg->head.type == INF_CTL_ERROR && msg->head.cookie == client->cookie;
}

int infc_control_ask(struct inf_client *client, void *msg, enum inf_ctl_type answer,
		     union inf_ctl_any *ret, int *ret_fd)
{
	struct inf_ctl_head *head = msg;
	unsigned int n_fds = 0;
	int fds[INF_CTL_FDS_MAX];
	int r;

	*ret_fd = -1;
	if (infc_is_lost(client))
		return -ECONNRESET;
	head->cookie = ++client->cookie ? client->cookie : ++client->cookie;
	do {
		r = inf_ctl_send(client->socket_fd, msg, NULL, 0, false);
	} while (r == -EINTR);
	if (r)
		return give_up(client, r == -EPIPE ? -ECONNRESET : r);
	for (;;) {
		r = receive(client, ret, fds, &n_fds, false);
		if (r)
			return r;
		r = judge(client, ret, fds, n_fds, answer);
		if (r > 0 && (ret->head.type == INF_CTL_FD || ret->head.type == INF_CTL_TIMELINE) && n_fds == 1) {
			*ret_fd = fds[0];
			return 0;
		}
		close_fds(fds, n_fds);
		if (r > 0)
			return 0;
		/* A region that we cannot map: the broker would wait for it for ever. */
		if (r < 0)
			return give_up(client, r);
	}
}

void infc_control_drain(struct inf_client *client)
{
	pthread_mutex_lock(&client->control_lock);
	while (!infc_is_lost(client)) {
		union inf_ctl_any msg;
		unsigned int n_fds = 0;
		int fds[INF_CTL_FDS_MAX];
		int r;

		if (receive(client, &msg, fds, &n_fds, true))
			break;
		r = serve(client, &msg, fds, n_fds);
		close_fds(fds, n_fds);
		if (r < 0)
			give_up(client, r);
	}
	infc_region_sweep(client);
	pthread_mutex_unlock(&client->control_lock);
}

bool infc_control_is_hung_up(const struct inf_client *client)
{
	char byte;
	ssize_t n = recv(client->socket_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}
