/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - one line per event to stderr, through a fixed buffer that drops and counts.
 *
 * The front must never block on a full pipe: lines go into a buffer (never from the request path), which is
 * written without blocking once per turn of the loop, at most log_rate_max lines a second. Client-supplied text
 * goes through log_escape().
 */
#ifndef BROKER_LOG_H
#define BROKER_LOG_H

#include <stddef.h>
#include <stdint.h>

void log_init(uint64_t rate_max);
/* printf-like, without a newline. Truncated at 512 bytes. */
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Writes what is buffered without blocking; called before the front parks and when it ends. */
void log_flush(void);
uint64_t log_dropped(void);
/* Copies at most `bytes` - 1 printable ASCII characters, others as \xNN. Returns `to`. */
const char *log_escape(char *to, size_t to_bytes, const char *from, size_t from_bytes);

#endif /* BROKER_LOG_H */
