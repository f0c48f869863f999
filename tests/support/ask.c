/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ask.c - ask [--socket PATH] [MODEL]: a client for scripts. Says "open", or "cannot open: ERRNO: the library's words" and ends
 * with 1. Then for each line on standard input, a number, asks the model with all bytes of its inputs set to it:
 * says "submitted", and how it ended. Without a model it only connects. $ASK_NAME is what it calls itself, else its program's name.
 */
#define _GNU_SOURCE 1
#include <inf/client.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>

#define ERROR_BYTES 512

/* The text is cut to the room it has, and ended, whatever that is. */
static int check_short_text(struct inf_options options)
{
	for (size_t bytes = 0; bytes < 40; bytes++) {
		char text[48];
		struct inf_client *client;

		memset(text, '#', sizeof(text));
		options.error = text;
		options.error_bytes = bytes;
		if (!inf_open(&client, &options)) {
			inf_close(client);
			return 0; /* it is there by now */
		}
		if (text[bytes] != '#' || (bytes && !memchr(text, 0, bytes)))
			return -1;
	}
	return 0;
}

static int ask(struct inf_model *model, int byte)
{
	const struct inf_signature *signature = inf_model_signature(model);
	struct inf_request *req;
	int r = inf_request_take(model, 1, &req);

	for (uint32_t i = 0; !r && i < signature->n_inputs; i++)
		memset(inf_input(req, i), byte, inf_input_room(req, i));
	if (!r)
		r = inf_submit(req);
	if (r) {
		printf("cannot submit: %s\n", strerrorname_np(-r));
		return r;
	}
	puts("submitted");
	fflush(stdout);
	inf_wait(req, INF_FOREVER);
	puts(inf_status_name(inf_request_status(req)));
	inf_request_give(req);
	return 0;
}

int main(int argc, char **argv)
{
	char error[ERROR_BYTES] = "", line[64];
	struct inf_options options = { .size = sizeof(options), .name = getenv("ASK_NAME"), .error = error, .error_bytes = sizeof(error) };
	struct inf_client *client;
	struct inf_model *model = NULL;
	int at = 1, r;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (argc > 2 && !strcmp(argv[1], "--socket")) {
		options.socket = argv[2];
		at = 3;
	}
	r = inf_open(&client, &options);
	if (r) {
		if (check_short_text(options))
			puts("the error text is not cut to the room that it has");
		printf("cannot open: %s: %s\n", strerrorname_np(-r), error);
		return 1;
	}
	if (at < argc) {
		r = inf_model_open(client, argv[at], 4, &model);
		if (r) {
			printf("cannot open model: %s: %s\n", strerrorname_np(-r), inf_error(client));
			return 1;
		}
	}
	puts("open");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (model)
			ask(model, (int)strtol(line, NULL, 10));
		fflush(stdout);
	}
	inf_close(client);
	return 0;
}
