/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - lines wait in a fixed buffer until stderr takes them; a full one drops and counts.
 *
 * stderr is shared with others (the shell, the executors), so its own O_NONBLOCK flag is not ours
 * to set:
 * - a socket (journald) is sent to with MSG_DONTWAIT;
 * - a pipe or a terminal is opened again through /proc, which gives a description of our own;
 * - a file takes what it gets.
 * Where opening again fails, poll() is asked first and at most PIPE_BUF bytes are written.
 *
 * Counting starts anew each second; the first line after a gap says how many were dropped.
 */
#include "broker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES   512u
#define BUFFER_BYTES (64u * 1024)
#define SECOND_NS    1000000000ull

static struct {
	char text[BUFFER_BYTES];
	uint32_t n_bytes;
	int fd; /* ours, or STDERR_FILENO */
	bool is_socket, may_block;
	uint64_t rate_max, n_this_second, second_ns;
	uint64_t n_dropped, n_reported;
} logger = { .fd = STDERR_FILENO, .may_block = true, .rate_max = 50 };

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

void log_init(uint64_t rate_max)
{
	struct stat st;

	if (logger.fd != STDERR_FILENO)
		close(logger.fd);
	logger.fd = STDERR_FILENO;
	logger.rate_max = rate_max;
	logger.n_this_second = 0;
	if (fstat(STDERR_FILENO, &st) < 0)
		return;
	logger.is_socket = S_ISSOCK(st.st_mode);
	logger.may_block = S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode);
	if (logger.may_block) {
		int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

		if (fd >= 0) {
			logger.fd = fd;
			logger.may_block = false;
		}
	}
}

static bool append(const char *line, size_t n_bytes)
{
	if (n_bytes > BUFFER_BYTES - logger.n_bytes)
		return false;
	memcpy(logger.text + logger.n_bytes, line, n_bytes);
	logger.n_bytes += (uint32_t)n_bytes;
	return true;
}

static void report_dropped(void)
{
	char line[LINE_BYTES];
	uint64_t n = logger.n_dropped - logger.n_reported;
	int n_bytes;

	if (n == 0)
		return;
	n_bytes = snprintf(line, sizeof(line), "infbroker: %" PRIu64 " log lines dropped\n", n);
	if (append(line, (size_t)n_bytes))
		logger.n_reported = logger.n_dropped;
}

static bool rate_admits(void)
{
	uint64_t now_ns = clock_ns();

	if (now_ns - logger.second_ns >= SECOND_NS) {
		logger.second_ns = now_ns;
		logger.n_this_second = 0;
		report_dropped();
	}
	return logger.n_this_second++ < logger.rate_max;
}

void log_line(const char *format, ...)
{
	static const char prefix[] = "infbroker: ";
	char line[LINE_BYTES + sizeof(prefix)];
	const size_t start = sizeof(prefix) - 1;
	size_t n_bytes;
	va_list args;
	int n;

	if (!rate_admits()) {
		logger.n_dropped++;
		return;
	}
	memcpy(line, prefix, start);
	va_start(args, format);
	n = vsnprintf(line + start, LINE_BYTES, format, args);
	va_end(args);
	n_bytes = start + (n < 0 ? 0 : n < (int)LINE_BYTES ? (size_t)n : LINE_BYTES - 1);
	line[n_bytes++] = '\n';
	if (!append(line, n_bytes))
		logger.n_dropped++;
}

static ssize_t write_some(void)
{
	size_t n_bytes = logger.n_bytes;

	if (logger.is_socket)
		return send(logger.fd, logger.text, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (logger.may_block) {
		struct pollfd ready = { .fd = logger.fd, .events = POLLOUT };

		if (poll(&ready, 1, 0) != 1) {
			errno = EAGAIN;
			return -1;
		}
		if (n_bytes > PIPE_BUF)
			n_bytes = PIPE_BUF;
	}
	return write(logger.fd, logger.text, n_bytes);
}

/* Nobody will ever read them: a closed pipe or terminal. */
static void give_up(void)
{
	for (uint32_t i = 0; i < logger.n_bytes; i++)
		logger.n_dropped += logger.text[i] == '\n';
	logger.n_bytes = 0;
}

void log_flush(void)
{
	while (logger.n_bytes > 0) {
		ssize_t n = write_some();

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			give_up();
		if (n <= 0)
			return;
		logger.n_bytes -= (uint32_t)n;
		memmove(logger.text, logger.text + n, logger.n_bytes);
	}
}

uint64_t log_dropped(void)
{
	return logger.n_dropped;
}

const char *log_escape(char *to, size_t to_bytes, const char *from, size_t from_bytes)
{
	static const char hex[] = "0123456789abcdef";
	size_t at = 0;

	for (size_t i = 0; i < from_bytes && from[i]; i++) {
		unsigned char c = (unsigned char)from[i];
		bool plain = c >= 0x20 && c < 0x7f && c != '\\';

		if (at + (plain ? 1 : 4) >= to_bytes)
			break;
		if (plain) {
			to[at++] = (char)c;
			continue;
		}
		to[at++] = '\\';
		to[at++] = 'x';
		to[at++] = hex[c >> 4];
		to[at++] = hex[c & 15];
	}
	if (to_bytes > 0)
		to[at] = '\0';
	return to;
}
