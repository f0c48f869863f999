/* SPDX-License-Identifier: Apache-2.0 */
/*
 * importer.h - the executor's program as an importer: it opens memory of one client by its legacy IPC handles, copies from there
 * into device memory of that client's session, and closes it before it answers. What a client may do to whoever has its memory
 * open is done to this process, and to nothing else.
 */
#ifndef BROKER_EXECUTOR_IMPORTER_H
#define BROKER_EXECUTOR_IMPORTER_H

/*
 * Serves FETCH on EXECUTOR_SOCKET_FD until the front hangs up. `device` is a UUID; driver and context are made when the first
 * one comes. Returns the exit status; ends the process itself where its state is not known any more.
 */
int importer_run(const char *device);

#endif /* BROKER_EXECUTOR_IMPORTER_H */
