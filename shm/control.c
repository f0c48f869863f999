/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - one table of messages; everything that does not fit it exactly ends the connection. */
#define _GNU_SOURCE 1
#include "shm/control.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct message {
	uint16_t type;
	uint8_t peer; /* enum inf_ctl_peer: who sends it */
	uint8_t n_fds;
	uint32_t bytes;
} messages[] = {
	{ INF_CTL_HELLO, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_hello) },
	{ INF_CTL_MAPPED, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_mapped) },
	{ INF_CTL_OPEN, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_open) },
	{ INF_CTL_GROW, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_grow) },
	{ INF_CTL_LANE_FD, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_lane_fd) },
	{ INF_CTL_LIST, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_list) },
	{ INF_CTL_DEVICE, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_device) },
	{ INF_CTL_TWIN, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_twin) },
	{ INF_CTL_IMPORT, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_import) },
	{ INF_CTL_OPERATE, INF_CTL_FROM_CLIENT, 0, sizeof(struct inf_ctl_operate) },
	{ INF_CTL_WELCOME, INF_CTL_FROM_FRONT_TO_CLIENT, 3, sizeof(struct inf_ctl_welcome) },
	{ INF_CTL_REGION, INF_CTL_FROM_FRONT_TO_CLIENT, 1, sizeof(struct inf_ctl_region) },
	{ INF_CTL_READY, INF_CTL_FROM_FRONT_TO_CLIENT, 0, sizeof(struct inf_ctl_ready) },
	{ INF_CTL_MODEL, INF_CTL_FROM_FRONT_TO_CLIENT, 0, sizeof(struct inf_ctl_model) },
	{ INF_CTL_ERROR, INF_CTL_FROM_FRONT_TO_CLIENT, 0, sizeof(struct inf_ctl_error) },
	{ INF_CTL_FD, INF_CTL_FROM_FRONT_TO_CLIENT, 1, sizeof(struct inf_ctl_fd) },
	{ INF_CTL_INFO, INF_CTL_FROM_FRONT_TO_CLIENT, 0, sizeof(struct inf_ctl_info) },
	{ INF_CTL_RETIRE, INF_CTL_FROM_FRONT_TO_CLIENT, 0, sizeof(struct inf_ctl_retire) },
	{ INF_CTL_TIMELINE, INF_CTL_FROM_FRONT_TO_CLIENT, 1, sizeof(struct inf_ctl_timeline) },
	{ INF_CTL_IMPORTED, INF_CTL_FROM_FRONT_TO_CLIENT, 0, sizeof(struct inf_ctl_imported) },
	{ INF_CTL_OPERATED, INF_CTL_FROM_FRONT_TO_CLIENT, 0, sizeof(struct inf_ctl_operated) },
	{ INF_CTL_TRACE, INF_CTL_FROM_FRONT_TO_CLIENT, 1, sizeof(struct inf_ctl_trace) },
	{ INF_CTL_SLAB, INF_CTL_FROM_EXECUTOR_TO_CLIENT, 1, sizeof(struct inf_ctl_slab) },
	{ INF_CTL_HELLO_EXECUTOR, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_hello_executor) },
	{ INF_CTL_INSTANCE_MAPPED, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_instance_mapped) },
	{ INF_CTL_FOUND, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_found) },
	{ INF_CTL_SCANNED, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_scanned) },
	{ INF_CTL_LOADING, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_loading) },
	{ INF_CTL_LOADED, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_loaded) },
	{ INF_CTL_FAILED, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_failed) },
	{ INF_CTL_ATTACHED, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_attached) },
	{ INF_CTL_DETACHED, INF_CTL_FROM_EXECUTOR, 0, sizeof(struct inf_ctl_detached) },
	{ INF_CTL_INSTANCE, INF_CTL_FROM_FRONT_TO_EXECUTOR, 3, sizeof(struct inf_ctl_instance) },
	{ INF_CTL_SCAN, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0, sizeof(struct inf_ctl_scan) },
	{ INF_CTL_LOAD, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0, sizeof(struct inf_ctl_load) },
	{ INF_CTL_UNLOAD, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0, sizeof(struct inf_ctl_unload) },
	{ INF_CTL_ATTACH, INF_CTL_FROM_FRONT_TO_EXECUTOR, 1, sizeof(struct inf_ctl_attach) },
	{ INF_CTL_DETACH, INF_CTL_FROM_FRONT_TO_EXECUTOR, 0, sizeof(struct inf_ctl_detach) },
	{ INF_CTL_FETCHED, INF_CTL_FROM_IMPORTER, 0, sizeof(struct inf_ctl_fetched) },
	{ INF_CTL_FETCH, INF_CTL_FROM_FRONT_TO_IMPORTER, 1, sizeof(struct inf_ctl_fetch) },
};

static const struct message *find(uint16_t type)
{
	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++)
		if (messages[i].type == type)
			return &messages[i];
	return NULL;
}

uint32_t inf_ctl_bytes(uint16_t type)
{
	const struct message *message = find(type);

	return message ? message->bytes : 0;
}

const char *inf_ctl_fault_name(int fault)
{
	switch (fault) {
	case INF_CTL_E_CLOSED:
		return "the peer hung up";
	case INF_CTL_E_TRUNCATED:
		return "a message longer than any";
	case INF_CTL_E_SHORT:
		return "a message shorter than its header";
	case INF_CTL_E_TYPE:
		return "an unknown message, or one that this peer may not send";
	case INF_CTL_E_SIZE:
		return "a message of the wrong size for its type";
	case INF_CTL_E_FDS:
		return "more or fewer file descriptors than the message carries";
	case INF_CTL_E_RESERVED:
		return "a reserved header field is not zero";
	default:
		return fault < 0 ? strerror(-fault) : "unknown fault";
	}
}

void inf_ctl_init(void *msg, enum inf_ctl_type type, uint32_t cookie)
{
	struct inf_ctl_head *head = msg;
	uint32_t bytes = inf_ctl_bytes((uint16_t)type);

	memset(msg, 0, bytes);
	head->type = (uint16_t)type;
	head->bytes = bytes;
	head->cookie = cookie;
}

/* Room for exactly what we ask for: CMSG_SPACE's padding would admit one more fd. */
union control_buffer {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(INF_CTL_FDS_MAX * sizeof(int))];
};

int inf_ctl_send(int socket_fd, const void *msg, const int *fds, unsigned int n_fds, bool dont_wait)
{
	const struct inf_ctl_head *head = msg;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg, .iov_len = head->bytes };
	union control_buffer control = { 0 };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (n_fds > INF_CTL_FDS_MAX)
		return -EINVAL;
	if (n_fds) {
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
	}
	do {
		n = sendmsg(socket_fd, &header, MSG_NOSIGNAL | (dont_wait ? MSG_DONTWAIT : 0));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == head->bytes ? 0 : -EMSGSIZE;
}

/* Takes the fds out of the control data; more than INF_CTL_FDS_MAX cannot fit and show as MSG_CTRUNC. */
static unsigned int take_fds(struct msghdr *header, int fds[INF_CTL_FDS_MAX])
{
	unsigned int n_fds = 0;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(header); cmsg; cmsg = CMSG_NXTHDR(header, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= cmsg->cmsg_len; at += sizeof(int)) {
			int fd;

			memcpy(&fd, (uint8_t *)cmsg + at, sizeof(fd));
			if (n_fds < INF_CTL_FDS_MAX)
				fds[n_fds++] = fd;
			else
				close(fd);
		}
	}
	return n_fds;
}

/* 0, an enum inf_ctl_fault, or -EMFILE. */
static int judge(const struct inf_ctl_head *head, size_t bytes, int flags, enum inf_ctl_peer peer, unsigned int n_fds)
{
	const struct message *message;

	if (flags & MSG_TRUNC)
		return INF_CTL_E_TRUNCATED;
	if (bytes < sizeof(*head))
		return INF_CTL_E_SHORT;
	message = find(head->type);
	if (!message || message->peer != (uint8_t)peer)
		return INF_CTL_E_TYPE;
	if (head->bytes != bytes || message->bytes != bytes)
		return INF_CTL_E_SIZE;
	if (head->reserved || head->reserved1)
		return INF_CTL_E_RESERVED;
	/* There was room for all that its type carries, so the rest did not fit below our own RLIMIT_NOFILE. */
	if (flags & MSG_CTRUNC && n_fds < message->n_fds)
		return -EMFILE;
	return flags & MSG_CTRUNC || n_fds != message->n_fds ? INF_CTL_E_FDS : 0;
}

static int receive(int socket_fd, enum inf_ctl_peer peer, union inf_ctl_any *ret_msg, int *ret_fds,
		   unsigned int *ret_n_fds, int how)
{
	struct iovec iov = { .iov_base = ret_msg, .iov_len = sizeof(*ret_msg) };
	union control_buffer control = { 0 };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fds[INF_CTL_FDS_MAX], fault;
	unsigned int n_fds;
	ssize_t n;

	/* Peers of the front may send none: without a control buffer the kernel drops them and says MSG_CTRUNC. */
	if (peer != INF_CTL_FROM_CLIENT && peer != INF_CTL_FROM_EXECUTOR && peer != INF_CTL_FROM_IMPORTER) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_LEN(INF_CTL_FDS_MAX * sizeof(int));
	}
	do {
		n = recvmsg(socket_fd, &header, MSG_CMSG_CLOEXEC | how);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	n_fds = take_fds(&header, fds);
	if (!n && !(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		fault = INF_CTL_E_CLOSED;
	else
		fault = judge(&ret_msg->head, (size_t)n, header.msg_flags, peer, n_fds);
	if (fault) {
		for (unsigned int i = 0; i < n_fds; i++)
			close(fds[i]);
		return fault;
	}
	memcpy(ret_fds, fds, n_fds * sizeof(int));
	*ret_n_fds = n_fds;
	return 0;
}

int inf_ctl_recv(int socket_fd, enum inf_ctl_peer peer, union inf_ctl_any *ret_msg, int *ret_fds,
		 unsigned int *ret_n_fds, bool dont_wait)
{
	return receive(socket_fd, peer, ret_msg, ret_fds, ret_n_fds, dont_wait ? MSG_DONTWAIT : 0);
}

int inf_ctl_peek_slab(int socket_fd, struct inf_ctl_slab *ret_slab, int *ret_fd)
{
	union inf_ctl_any msg;
	int fds[INF_CTL_FDS_MAX];
	unsigned int n_fds;
	int r = receive(socket_fd, INF_CTL_FROM_EXECUTOR_TO_CLIENT, &msg, fds, &n_fds, MSG_DONTWAIT | MSG_PEEK);

	if (r)
		return r;
	*ret_slab = msg.slab;
	*ret_fd = fds[0];
	return 0;
}
