/* SPDX-License-Identifier: Apache-2.0 */
/* look.h - all statistics files of a broker at one moment, and what happened between two such looks. */
#ifndef SHMCTL_LOOK_H
#define SHMCTL_LOOK_H

#include "tools/shmctl/stats.h"
#include <limits.h>

struct look {
	char path[PATH_MAX];			/* of the socket */
	const struct inf_stats_public *public; /* NULL = no broker was found */
	enum life life;
	uint64_t taken_ns;
	struct inf_stats_session *sessions; /* by id */
	size_t n_sessions, n_room;
};

/* EXIT_OK; else an exit status after an error line, and nothing to free. `with_sessions`: of those this user may see. */
int look_take(const struct options *options, bool with_sessions, struct look *look);
/* The same without a word: false where there is no broker, or none that can be read. */
bool look_try(const struct options *options, bool with_sessions, struct look *look);
/* Takes what is empty. */
void look_free(struct look *look);

/* A word on standard error where the figures are old. What a command that shows them returns: EXIT_NOT_RUNNING for a broker that
 * is gone, else EXIT_OK. */
int look_status(const struct options *options, const struct look *look);
/* NULL where it had none with this id. */
const struct inf_stats_session *look_session(const struct look *look, uint32_t id);
/* Do both show the same broker? A later one counts from 0. */
bool look_continues(const struct look *now, const struct look *before);

/* now - before, 0 where it went back: what was counted anew, and garbage. */
uint64_t counted(uint64_t now, uint64_t before);
/* `model`, at place `idx` of another look: NULL where that has another one there. */
const struct inf_stats_model *look_same_model(const struct look *look, const struct inf_stats_model *model, unsigned int idx);
/* "NAME:VERSION" of a model of the file, "?" past its last. */
#define MODEL_WORD_BYTES 80
const char *look_model_word(char text[MODEL_WORD_BYTES], const struct look *look, uint32_t idx);
bool look_has_model(const struct look *look, uint32_t idx);
/* Sessions that a look with sessions has not seen; and a word on standard error of how many, and why, as far as is known. */
uint64_t look_n_hidden(const struct look *look);
void look_say_hidden(const struct look *look);
const char *region_kind_word(uint32_t kind);
const char *region_state_word(uint32_t state);

/* What happened from one look to the next. Without any, a quantile is 0 and rows per batch NAN. */
struct rates {
	double seconds;
	double requests, errors, rows, batches, wakes, parks; /* per second */
	double rows_per_batch;
	uint64_t p50_ns, p99_ns; /* accepted -> answered */
	uint64_t n_in_flight;	 /* requests, now */
	uint64_t n_queued_rows, n_running_rows;
	uint64_t n_sessions;
	double busy; /* share of all instances' time in which they ran a batch; NAN without an instance, or where the broker is stopped */
};
void look_rates(const struct look *now, const struct look *before, struct rates *ret_rates);
/* An instance's share of the time between two looks in which it ran batches; NAN where the broker is stopped. */
double look_instance_busy(const struct look *now, const struct look *before, unsigned int idx);
/* to += now - before (NULL = nothing), bucket by bucket. Of the largest value between two only the bucket is known. */
void histogram_add_since(struct inf_histogram *to, const struct inf_histogram *now, const struct inf_histogram *before);
json_t *histogram_json(const struct inf_histogram *histogram);

#endif /* SHMCTL_LOOK_H */
