/* SPDX-License-Identifier: Apache-2.0 */
/* sd_notify.c - one datagram to the service manager. */
#include "broker/sd_notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int sd_notify_send(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t path_bytes = path ? strlen(path) : 0;
	ssize_t n;
	int fd, r;

	if (path_bytes == 0)
		return 0;
	if ((path[0] != '/' && path[0] != '@') || path_bytes >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, path, path_bytes);
	if (path[0] == '@') /* the abstract namespace */
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	n = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_bytes));
	r = n < 0 ? -errno : 0;
	close(fd);
	return r;
}
