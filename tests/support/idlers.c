/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idlers.c - idlers SOCKET N: N processes connect one after another, ask once, say "ready" together and then do nothing.
 * Exits with 1 where one of them cannot.
 */
#define _GNU_SOURCE 1
#include <inf/client.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static int be_idle(const char *path, int ready_fd)
{
	struct inf_options options = { .size = sizeof(options), .socket = path };
	struct inf_client *client;
	struct inf_model *model;
	struct inf_request *req;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (inf_open(&client, &options) || inf_model_open(client, "identity", 1, &model) ||
	    inf_request_take(model, 1, &req) || inf_submit(req) || inf_wait(req, INF_FOREVER) ||
	    inf_request_status(req) != INF_OK)
		return 1;
	inf_request_give(req);
	if (write(ready_fd, "", 1) != 1)
		return 1;
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	int fds[2], n = argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0;
	char byte;

	if (!n || pipe(fds))
		return 2;
	for (int i = 0; i < n; i++) {
		if (!fork()) {
			close(fds[0]);
			_exit(be_idle(argv[1], fds[1]));
		}
		/* One that fails says nothing: its end of the pipe is closed after it, ours before. */
		close(fds[1]);
		if (read(fds[0], &byte, 1) != 1) {
			fprintf(stderr, "idlers: client %d was not served\n", i + 1);
			return 1;
		}
		close(fds[0]);
		if (pipe(fds))
			return 1;
	}
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}
