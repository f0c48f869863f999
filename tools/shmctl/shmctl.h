/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shmctl.h - what the commands of shmctl share: the global options, ways to fail, words for numbers.
 *
 * Data goes to standard output, talk to standard error. Where -j asks for JSON, errors are JSON too. One file per
 * command; a command returns an exit status.
 */
#ifndef SHMCTL_SHMCTL_H
#define SHMCTL_SHMCTL_H

#include "tools/common/json_text.h"
#include <inf/client.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

enum exit_status {
	EXIT_OK = 0,
	EXIT_UNHEALTHY = 1, /* answered, but not well; or not found */
	EXIT_USAGE = 2,
	EXIT_NOT_RUNNING = 3,
	EXIT_NO_PERMISSION = 4,
	EXIT_TIMED_OUT = 5,
	EXIT_OTHER_VERSION = 6,
};

struct options {
	const char *socket_path; /* --socket, NULL = the default places */
	const char *command;
	unsigned int timeout_s; /* 0 = wait for ever */
	bool json;
	bool one_line;	  /* each object of JSON on a line of its own */
	bool round_reals; /* JSON has figures that were rounded: 15 digits say all, 17 would say 0.20000000000000001 */
	json_t *into;	  /* each object becomes a member of this one, named by its schema, and is not printed; NULL = none */
};

/*
 * An option. What it takes is named by `value`, for --help and for completion: FILE and FOLDER are completed as those, MODEL and SESSION
 * from the broker's statistics, alternatives ("bash|zsh") as their words, any other (TIME) not at all. NULL: it takes nothing. A long one in
 * brackets ("[TIME]") may be left out.
 */
struct command_option {
	char letter;	  /* 0 = none */
	const char *name; /* NULL = none; neither: past the last */
	const char *value;
	const char *text;
};

/* From `arguments` and `options` come --help, "did you mean", and what shells complete. */
struct command {
	const char *name;
	const char *summary;
	const char *usage;
	int (*run)(const struct options *options, int argc, char **argv);
	const char *arguments;		      /* a word for each, like `value` above; the last may end in "..."; NULL = none */
	const struct command_option *options; /* its own; NULL = none */
};

extern const struct command command_status;
extern const struct command command_models;
extern const struct command command_sessions;
extern const struct command command_show;
extern const struct command command_instances;
extern const struct command command_rings;
extern const struct command command_regions;
extern const struct command command_events;
extern const struct command command_stat;
extern const struct command command_top;
extern const struct command command_devices;
extern const struct command command_latency;
extern const struct command command_trace;
extern const struct command command_profile;
extern const struct command command_snapshot;
extern const struct command command_infer;
extern const struct command command_drain;
extern const struct command command_resume;
extern const struct command command_kick;
extern const struct command command_doctor;
extern const struct command command_completion;
extern const struct command command_version;

/* The commands in the order of --help, NULL past the last; and the options that all of them take. */
const struct command *command_at(size_t idx);
extern const struct command_option global_options[];

/*
 * The next of a command's own options: its index in command->options, with what it takes in optarg; each word of the command
 * line is looked at, arguments come last. OPTIONS_END: arguments begin at optind. OPTIONS_BAD: it was said what is wrong, the
 * command returns EXIT_USAGE.
 */
#define OPTIONS_END (-1)
#define OPTIONS_BAD (-2)
int next_option(const struct options *options, const struct command *command, int argc, char **argv);

/* For a command that takes neither options nor arguments: EXIT_OK, or EXIT_USAGE after an error line. */
int no_arguments(const struct options *options, int argc, char **argv);

/* How many letters are wrong: for "did you mean", where it is at most MISTYPED_MAX. */
#define MISTYPED_MAX 2
size_t word_distance(const char *a, const char *b);

/* Says what failed and what to do next; returns `status`. */
int fail(const struct options *options, enum exit_status status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* 0 when all that was printed has arrived, else the -errno of the first write that did not: a command ends then, and run() in main.c
 * says why. */
int output_flush(void);
/* Waits, and is false at once where nobody reads any more what is printed: a pipe whose other end is closed, a terminal that is gone. */
bool output_is_read(int wait_ms);

/* Prints and frees `object`, with its "schema". Takes over the reference. Returns EXIT_OK, or EXIT_UNHEALTHY where the
 * output could not be written. */
int print_json(const struct options *options, const char *schema, json_t *object);

/* Connects; on failure has said why and *ret_status is the exit status. A broker that does not answer within the
 * timeout ends the program. */
struct inf_client *connect_broker(const struct options *options, int *ret_status);

/*
 * A connection to what listens at `path`, without a word said: its fd, or -errno. `flags` as for socket(2); no call on it takes
 * longer than limit_s (0 = for ever), -EAGAIN then, and where it does not wait and there is no place in the queue.
 */
#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)
int connect_path(const char *path, int flags, unsigned int limit_s);

/* CLOCK_MONOTONIC, ns, and the moment --timeout ends (INF_FOREVER: none). */
uint64_t monotonic_ns(void);
uint64_t timeout_ns(const struct options *options);
/* "5ms", "200us", "1.5s", "30" (seconds) in ns. False for what is none, or longer than a year. */
bool parse_duration(const char *text, uint64_t *ret_ns);
/*
 * SIGINT and SIGTERM end what runs, and what it has is printed: from then on is_interrupted() is true. A second one ends the
 * program.
 */
void catch_interrupts(void);
bool is_interrupted(void);
/* What an option or argument called `what` takes: EXIT_OK, or EXIT_USAGE after an error line. A TIME is what parse_duration() takes,
 * at least `min_ns` and at most a day; a number goes from 1 to `max`. */
#define TIME_MIN_NS 1000000u
int parse_time(const struct options *options, const char *what, const char *text, uint64_t min_ns, uint64_t *ret_ns);
int parse_number(const struct options *options, const char *what, const char *text, uint64_t max, uint64_t *ret_n);
/* The number of a session; false for what is none. */
bool parse_session(const char *text, uint32_t *ret_session);
/* Between two tries of what will be there soon. */
void pause_briefly(void);

/* Words for people; each returns `text`. */
#define WORD_BYTES 32
const char *word_time(char text[WORD_BYTES], uint64_t ns);
const char *word_bytes(char text[WORD_BYTES], uint64_t n_bytes);
/* "f32[batch,3,224,224]"; a dimension that varies is written "0..MAX". */
#define SHAPE_BYTES 256
const char *word_shape(char text[SHAPE_BYTES], const struct inf_tensor_spec *spec);
/* `text` without what harms a terminal or a column, cut to what `clean` has room for; of a name, WORD_BYTES. */
const char *word_clean(char *clean, size_t clean_bytes, const char *text);
const char *word_name(char text[WORD_BYTES], const char *name);
/* Wall-clock time (ns) of a moment on the monotonic clock, as both run now; "[2026-11-30 ]12:34:56.789" of it, local time. */
uint64_t wall_ns(uint64_t monotonic_time_ns);
const char *word_wall(char text[WORD_BYTES], bool with_date, uint64_t ns);

/* May text have the block characters? As LC_ALL, LC_CTYPE and LANG say. */
bool has_utf8(void);
/* A column's mark: level 0 is empty, PLOT_LEVELS - 1 and more are full. */
#define PLOT_LEVELS 9u
const char *plot_mark(bool utf8, unsigned int level);
/* A mark for each count: full for the largest, never empty where there is one. */
void print_plot(const uint64_t *columns, unsigned int n_columns);

#endif /* SHMCTL_SHMCTL_H */
