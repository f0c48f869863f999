/* SPDX-License-Identifier: Apache-2.0 */
/* spawn.h - makes an executor process, or an importer. */
#ifndef BROKER_SPAWN_H
#define BROKER_SPAWN_H

#include "broker/config.h"
#include <signal.h>
#include <sys/types.h>

#define SPAWN_PATH_BYTES 4096u
#define SPAWN_END_BYTES	 64u

/* The program: --executor, else infbroker-executor beside our own. */
void spawn_path(const struct config *config, char path[SPAWN_PATH_BYTES]);

/*
 * Starts it with `socket_fd` as its fd 3; its instances look for work for `spin_ns` before they
 * sleep. 0, or -errno; -ENOENT, -EACCES and the like where the program cannot be executed.
 */
int spawn_executor(const struct config *config, const char *path, bool on_device, uint32_t spin_ns, int socket_fd,
		   pid_t *ret_pid);

/* Likewise, for a client's imports into memory of that device. */
int spawn_importer(const char *path, const char *uuid, int socket_fd, pid_t *ret_pid);

/* How a process that was waited for has ended: "died of Killed", "ended with code 3". */
void spawn_end_text(char text[SPAWN_END_BYTES], const siginfo_t *info);

#endif /* BROKER_SPAWN_H */
