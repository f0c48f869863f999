/* SPDX-License-Identifier: Apache-2.0 */
/*
 * screen.h - the terminal of a live view: alternate screen, keys as they are typed, and as it was before whatever happens. One at a
 * time; owner thread only, but for the signals that it handles itself.
 */
#ifndef SHMCTL_SCREEN_H
#define SHMCTL_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 0, or -errno: -ENOTTY where standard output is no terminal. */
int screen_open(void);
/* As it was before; also where it was never opened. */
void screen_close(void);

/* Columns and lines now; 80 and 24 where the terminal does not tell. */
void screen_extent(unsigned int *ret_n_columns, unsigned int *ret_n_lines);

/* 0, or -errno: who is at the terminal has gone. */
int screen_write(const char *text, size_t n_bytes);

/*
 * Waits until there is a key, the terminal has changed (another size, or we were stopped meanwhile), or `until_ns` of
 * CLOCK_MONOTONIC. The key; else SCREEN_TIME, SCREEN_CHANGED, or SCREEN_GONE where no key will ever come.
 */
enum {
	SCREEN_TIME = 0x1000,
	SCREEN_CHANGED,
	SCREEN_GONE,
	KEY_UP,
	KEY_DOWN,
	KEY_PAGE_UP,
	KEY_PAGE_DOWN,
	KEY_ESCAPE,
	KEY_UNKNOWN,
};
int screen_wait(uint64_t until_ns);

/* By --color (NULL = auto), NO_COLOR, CLICOLOR_FORCE, TERM, and whether standard output is a terminal. */
bool screen_has_colours(const char *asked);

#endif /* SHMCTL_SCREEN_H */
