/* SPDX-License-Identifier: Apache-2.0 */
/* walkthrough.c - the walk-through of client.h as a program: asks a model for one row of zeros.
 * Links libinfclient alone. */
#include <inf/client.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	char error[256];
	struct inf_options options = { .size = sizeof(options),
				       .error = error,
				       .error_bytes = sizeof(error) };
	struct inf_client *client;
	struct inf_model *model;
	struct inf_request *req;
	struct inf_tensor y;
	int r = inf_open(&client, &options);

	if (r)
		return fprintf(stderr, "%s\n", error), 1;
	do
		r = inf_model_open(client, argc > 1 ? argv[1] : "identity", 0, &model);
	while (r == -EAGAIN); /* still loading */
	if (r || inf_request_take(model, 1, &req))
		return fprintf(stderr, "%s\n", inf_error(client)), 1;
	memset(inf_input(req, 0), 0, inf_input_room(req, 0));
	inf_submit(req);
	if (inf_wait(req, INF_FOREVER) == 0 && inf_output_tensor(req, 0, &y) == 0)
		printf("%s: %llu bytes of %s\n", inf_status_name(inf_request_status(req)),
		       (unsigned long long)y.bytes, inf_dtype_name(y.dtype));
	else
		printf("%s: %s\n", inf_status_name(inf_request_status(req)),
		       inf_status_text(inf_request_status(req)));
	inf_request_give(req);
	inf_close(client);
	return 0;
}
