/* SPDX-License-Identifier: Apache-2.0 */
/* classify.h - what the two modes of infclassify share. */
#ifndef INFCLASSIFY_CLASSIFY_H
#define INFCLASSIFY_CLASSIFY_H

#include <inf/client.h>
#include <stdint.h>

struct classify_options {
	const char *socket_path;
	const char *model;
	const char *labels_path;
	char **files;
	uint32_t n_files;
	uint32_t n_processes;
	uint32_t depth;
	uint32_t repeat;
	uint32_t top;
};

/* Opens client and model, waiting while the model loads; complains on stderr. 0 or -errno. */
int classify_open(const struct classify_options *options, struct inf_client **ret_client,
		  struct inf_model **ret_model);

/* Classifies the files; one JSON line each. The exit status. */
int classify_files(const struct classify_options *options);

/* --bench-stdin, see bench.c. The exit status. */
int classify_bench(const struct classify_options *options);

uint64_t classify_now_ns(void);
uint32_t classify_argmax(const struct inf_request *req);

#endif /* INFCLASSIFY_CLASSIFY_H */
