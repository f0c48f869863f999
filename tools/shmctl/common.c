/* SPDX-License-Identifier: Apache-2.0 */
/* common.c - failing, connecting, and words for numbers. */
#define _GNU_SOURCE 1
#include "tools/shmctl/shmctl.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int fail(const struct options *options, enum exit_status status, const char *format, ...)
{
	struct options alone = *options;
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	alone.into = NULL;
	alone.one_line = true; /* it may be one of many */
	if (options->json)
		print_json(&alone, "error",
			   json_pack("{s:o,s:i}", "error", json_text(text), "exit_status",
				     (int)status));
	else
		fprintf(stderr, "shmctl%s%s: %s\n", options->command ? " " : "",
			options->command ? options->command : "", text);
	return (int)status;
}

int output_flush(void)
{
	static int error; /* of the first write that failed: what comes later may say nothing of it */

	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	if (!error)
		error = errno ? errno : EIO;
	return -error;
}

bool output_is_read(int wait_ms)
{
	struct pollfd output = { .fd = STDOUT_FILENO };

	return poll(&output, 1, wait_ms) <= 0;
}

int print_json(const struct options *options, const char *schema, json_t *object)
{
	char text[64];
	bool is_named;
	int r = -1;

	snprintf(text, sizeof(text), "infbroker.%s/1", schema);
	is_named = object && json_object_set_new(object, "schema", json_string(text)) == 0;
	if (is_named && options->into)
		return json_object_set_new(options->into, schema, object) ? EXIT_UNHEALTHY : EXIT_OK;
	if (is_named)
		r = json_dumpf(object, stdout, (options->one_line ? JSON_COMPACT : JSON_INDENT(2)) |
						       (options->round_reals ? JSON_REAL_PRECISION(15) : 0));
	json_decref(object);
	if (r == 0)
		putchar('\n');
	if (output_flush() < 0)
		return EXIT_UNHEALTHY;
	if (r < 0)
		fprintf(stderr, "shmctl %s: out of memory\n", options->command ? options->command : "");
	return r < 0 ? EXIT_UNHEALTHY : EXIT_OK;
}

uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static volatile sig_atomic_t interrupted; /* set by on_interrupt() alone */

static void on_interrupt(int signal)
{
	(void)signal;
	interrupted = 1;
}

void catch_interrupts(void)
{
	/* No SA_RESTART: it ends a wait too. */
	struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

bool is_interrupted(void)
{
	return interrupted;
}

bool parse_duration(const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *unit;
		double ns;
	} units[] = { { "", 1e9 }, { "s", 1e9 }, { "ms", 1e6 }, { "us", 1e3 }, { "ns", 1 }, { "min", 60e9 }, { "h", 3600e9 } };
	char *end;
	double value = strtod(text, &end);

	if (end == text || !(value >= 0) || *text == '-' || *text == '+')
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (!strcmp(end, units[i].unit) && value * units[i].ns < 365.0 * 24 * 3600e9) {
			*ret_ns = (uint64_t)(value * units[i].ns);
			return true;
		}
	return false;
}

void pause_briefly(void)
{
	struct timespec pause = { .tv_nsec = 50000000 };

	nanosleep(&pause, NULL);
}

uint64_t timeout_ns(const struct options *options)
{
	return options->timeout_s ? monotonic_ns() + options->timeout_s * 1000000000ull
				  : INF_FOREVER;
}

/* What on_alarm() writes and where to; set before the alarm is. */
static struct {
	const char *text;
	int fd;
} last_words;

/* Only write() and _exit() are allowed here (signal-safety(7)). */
static void on_alarm(int signal)
{
	(void)signal;
	(void)!write(last_words.fd, last_words.text, strlen(last_words.text));
	_exit(EXIT_TIMED_OUT);
}

/* The library has no timeouts while it opens: a broker that is stopped is found out here. */
static void set_alarm(const struct options *options)
{
#define NO_ANSWER "the broker does not answer; shmctl status says in what state it is"
	last_words.text = options->json ? "{\n  \"error\": \"" NO_ANSWER
					  "\",\n  \"exit_status\": 5,\n"
					  "  \"schema\": \"infbroker.error/1\"\n}\n"
					: "shmctl: " NO_ANSWER "\n";
	last_words.fd = options->json ? STDOUT_FILENO : STDERR_FILENO;
#undef NO_ANSWER
	static_assert(EXIT_TIMED_OUT == 5, "it stands in the text");
	signal(SIGALRM, on_alarm);
	alarm(options->timeout_s);
}

static enum exit_status exit_status_of(int error)
{
	switch (error) {
	case -ENOENT:
	case -ENOTDIR:
	case -ECONNREFUSED:
		return EXIT_NOT_RUNNING;
	case -EACCES:
	case -EPERM:
		return EXIT_NO_PERMISSION;
	case -EPROTONOSUPPORT:
		return EXIT_OTHER_VERSION;
	default:
		return EXIT_UNHEALTHY;
	}
}

struct inf_client *connect_broker(const struct options *options, int *ret_status)
{
	char error[512] = "";
	struct inf_options open_options = { .size = sizeof(open_options),
					    .socket = options->socket_path,
					    .name = "shmctl",
					    .error = error,
					    .error_bytes = sizeof(error) };
	struct inf_client *client;
	int r;

	set_alarm(options);
	r = inf_open(&client, &open_options);
	if (r == 0)
		return client;
	*ret_status = fail(options, exit_status_of(r), "%s", error[0] ? error : strerror(-r));
	return NULL;
}

int connect_path(const char *path, int flags, unsigned int limit_s)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = limit_s };
	int r, fd;

	if (strlen(path) > SOCKET_PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static const char *word_scaled(char text[WORD_BYTES], uint64_t n, double step,
			       const char *const *units, unsigned int n_units)
{
	double value = (double)n;
	unsigned int unit = 0;

	for (; unit + 1 < n_units && value >= step; unit++)
		value /= step;
	snprintf(text, WORD_BYTES, "%.*f %s", unit && value < 100 ? 1 : 0, value, units[unit]);
	return text;
}

const char *word_time(char text[WORD_BYTES], uint64_t ns)
{
	static const char *const units[] = { "ns", "us", "ms", "s" };

	return word_scaled(text, ns, 1000, units, 4);
}

const char *word_bytes(char text[WORD_BYTES], uint64_t n_bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };

	return word_scaled(text, n_bytes, 1024, units, 5);
}

const char *word_shape(char text[SHAPE_BYTES], const struct inf_tensor_spec *spec)
{
	size_t n = (size_t)snprintf(text, SHAPE_BYTES, "%s[",
				    inf_dtype_name((enum inf_dtype)spec->dtype));

	for (uint32_t i = 0; i < spec->rank && i < INF_RANK_MAX && n < SHAPE_BYTES; i++) {
		const char *comma = i ? "," : "";

		if (i == 0 && spec->flags & INF_SPEC_BATCH)
			n += (size_t)snprintf(text + n, SHAPE_BYTES - n, "batch");
		else if (spec->dims[i] < 0)
			n += (size_t)snprintf(text + n, SHAPE_BYTES - n, "%s0..%" PRId64, comma,
					      spec->dims_max[i]);
		else
			n += (size_t)snprintf(text + n, SHAPE_BYTES - n, "%s%" PRId64, comma,
					      spec->dims[i]);
	}
	if (n < SHAPE_BYTES)
		n += (size_t)snprintf(text + n, SHAPE_BYTES - n, "]");
	if (spec->flags & INF_SPEC_RANGE && n < SHAPE_BYTES)
		snprintf(text + n, SHAPE_BYTES - n, " values %" PRId64 "..%" PRId64,
			 spec->value_min, spec->value_max);
	if (spec->flags & INF_SPEC_FINITE && n < SHAPE_BYTES)
		snprintf(text + n, SHAPE_BYTES - n, " finite");
	return text;
}

const char *word_clean(char *clean, size_t clean_bytes, const char *text)
{
	size_t n = 0;

	for (; text[n] && n < clean_bytes - 1; n++)
		clean[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
	clean[n] = '\0';
	return clean;
}

const char *word_name(char text[WORD_BYTES], const char *name)
{
	return word_clean(text, WORD_BYTES, name);
}

uint64_t wall_ns(uint64_t monotonic_time_ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec - monotonic_ns() + monotonic_time_ns;
}

const char *word_wall(char text[WORD_BYTES], bool with_date, uint64_t ns)
{
	time_t seconds = (time_t)(ns / 1000000000u);
	struct tm tm;
	size_t n;

	if (!localtime_r(&seconds, &tm))
		return "?";
	n = strftime(text, WORD_BYTES, with_date ? "%Y-%m-%d %H:%M:%S" : "%H:%M:%S", &tm);
	if (!n)
		return "?";
	snprintf(text + n, WORD_BYTES - n, ".%03u", (unsigned int)(ns / 1000000u % 1000u));
	return text;
}

bool has_utf8(void)
{
	return setlocale(LC_CTYPE, "") && !strcmp(nl_langinfo(CODESET), "UTF-8");
}

const char *plot_mark(bool utf8, unsigned int level)
{
	static const char *const blocks[PLOT_LEVELS] = { " ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
	static const char *const letters[PLOT_LEVELS] = { " ", ".", ":", "-", "=", "+", "*", "%", "#" };

	level = level < PLOT_LEVELS ? level : PLOT_LEVELS - 1;
	return utf8 ? blocks[level] : letters[level];
}

void print_plot(const uint64_t *columns, unsigned int n_columns)
{
	bool utf8 = has_utf8();
	uint64_t most = 0;

	for (unsigned int i = 0; i < n_columns; i++)
		most = columns[i] > most ? columns[i] : most;
	for (unsigned int i = 0; i < n_columns; i++)
		fputs(plot_mark(utf8, columns[i] ? (unsigned int)(1 + columns[i] * (PLOT_LEVELS - 2) / most) : 0), stdout);
}
