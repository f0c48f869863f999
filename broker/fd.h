/* SPDX-License-Identifier: Apache-2.0 */
/* fd.h - descriptors that are closed once. */
#ifndef BROKER_FD_H
#define BROKER_FD_H

#include <unistd.h>

/* -1 = none, before and after. */
static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#endif /* BROKER_FD_H */
