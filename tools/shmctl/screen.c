/* SPDX-License-Identifier: Apache-2.0 */
/*
 * screen.c - a terminal that is always given back as it was: at the end, on each signal that ends us (a crash too), and while we are
 * stopped. Everything that handlers call is in signal-safety(7)'s list.
 *
 * A handler puts the terminal back, gives the signal its former action, and sends it again: the exit status, the core and a
 * sanitizer's report are what they were without us. SIGWINCH and SIGCONT are let in only while screen_wait() waits: none is missed
 * between a look at a flag and sleep.
 */
#define _GNU_SOURCE 1
#include "tools/shmctl/screen.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Alternate screen, no cursor, no wrapping at the right edge; and back, with plain letters. */
#define ENTER "\033[?1049h\033[?25l\033[?7l\033[2J"
#define LEAVE "\033[m\033[?7h\033[?25h\033[?1049l"

static const int ending[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM, SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGSYS };
#define N_ENDING (sizeof(ending) / sizeof(ending[0]))

static struct {
	bool is_open;
	bool has_keys; /* standard input is the terminal */
	struct termios before;
	struct sigaction old[N_ENDING];
	sigset_t waiting; /* the mask while we wait */
	unsigned char keys[64];
	size_t n_keys;
} screen;

/* What a handler tells the loop. */
static sig_atomic_t has_changed;

static void enter(void)
{
	struct termios raw = screen.before;

	/* Keys at once and unseen; Ctrl-C and Ctrl-Z stay signals. */
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	if (screen.has_keys)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	(void)!write(STDOUT_FILENO, ENTER, sizeof(ENTER) - 1);
}

static void leave(void)
{
	(void)!write(STDOUT_FILENO, LEAVE, sizeof(LEAVE) - 1);
	if (screen.has_keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &screen.before);
}

static void on_ending(int signal)
{
	int error = errno;

	if (screen.is_open) {
		screen.is_open = false;
		leave();
	}
	for (size_t i = 0; i < N_ENDING; i++)
		if (ending[i] == signal)
			sigaction(signal, &screen.old[i], NULL);
	raise(signal); /* blocked until we return */
	errno = error;
}

/* Stops like any program; what comes after raise() happens when we go on. */
static void on_stop(int signal)
{
	struct sigaction plain = { .sa_handler = SIG_DFL }, ours;
	sigset_t set;
	int error = errno;

	leave();
	sigaction(signal, &plain, &ours);
	sigemptyset(&set);
	sigaddset(&set, signal);
	raise(signal);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	sigaction(signal, &ours, NULL);
	enter();
	has_changed = 1;
	errno = error;
}

/* SIGCONT too: after SIGSTOP, which asks nobody, the shell has its own modes on the terminal. */
static void on_change(int signal)
{
	int error = errno;

	if (signal == SIGCONT)
		enter();
	has_changed = 1;
	errno = error;
}

static void catch(int signal, void (*handler)(int), struct sigaction *old)
{
	struct sigaction action = { .sa_handler = handler };

	sigfillset(&action.sa_mask);
	sigaction(signal, &action, old);
}

int screen_open(void)
{
	sigset_t kept_back;

	if (!isatty(STDOUT_FILENO))
		return -ENOTTY;
	screen.has_keys = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &screen.before) == 0;
	sigemptyset(&kept_back);
	sigaddset(&kept_back, SIGWINCH);
	sigaddset(&kept_back, SIGCONT);
	sigprocmask(SIG_BLOCK, &kept_back, &screen.waiting);
	for (size_t i = 0; i < N_ENDING; i++) {
		catch(ending[i], on_ending, &screen.old[i]);
		/* Who started us with nohup(1) wants that. */
		if (screen.old[i].sa_handler == SIG_IGN)
			sigaction(ending[i], &screen.old[i], NULL);
	}
	catch(SIGTSTP, on_stop, NULL);
	catch(SIGWINCH, on_change, NULL);
	catch(SIGCONT, on_change, NULL);
	screen.is_open = true;
	enter();
	return 0;
}

void screen_close(void)
{
	if (!screen.is_open)
		return;
	screen.is_open = false;
	leave();
	for (size_t i = 0; i < N_ENDING; i++)
		sigaction(ending[i], &screen.old[i], NULL);
	signal(SIGTSTP, SIG_DFL);
	signal(SIGWINCH, SIG_DFL);
	signal(SIGCONT, SIG_DFL);
	sigprocmask(SIG_SETMASK, &screen.waiting, NULL);
}

void screen_extent(unsigned int *ret_n_columns, unsigned int *ret_n_lines)
{
	struct winsize size = { 0 };
	bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;

	*ret_n_columns = known && size.ws_col ? size.ws_col : 80;
	*ret_n_lines = known && size.ws_row ? size.ws_row : 24;
}

int screen_write(const char *text, size_t n_bytes)
{
	while (n_bytes) {
		ssize_t n = write(STDOUT_FILENO, text, n_bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		text += n;
		n_bytes -= (size_t)n;
	}
	return 0;
}

/* Bytes of the key that begins with Escape: ESC, ESC O letter, ESC [ numbers letter (ECMA-48). */
static size_t sequence_bytes(void)
{
	size_t n = 2;

	if (screen.n_keys > 2 && screen.keys[1] == 'O')
		return 3;
	if (screen.n_keys < 3 || screen.keys[1] != '[')
		return 1;
	while (n < screen.n_keys && (screen.keys[n] < '@' || screen.keys[n] > '~'))
		n++;
	return n < screen.n_keys ? n + 1 : n;
}

/* Takes the first key out of those that were read. */
static int take_key(void)
{
	static const struct {
		const char *bytes;
		int key;
	} sequences[] = {
		{ "\033[A", KEY_UP },	    { "\033[B", KEY_DOWN },	 { "\033OA", KEY_UP },
		{ "\033OB", KEY_DOWN }, { "\033[5~", KEY_PAGE_UP }, { "\033[6~", KEY_PAGE_DOWN },
	};
	size_t n = screen.keys[0] == '\033' ? sequence_bytes() : 1;
	int key = screen.keys[0];

	for (size_t i = 0; i < sizeof(sequences) / sizeof(sequences[0]); i++)
		if (strlen(sequences[i].bytes) == n && !memcmp(screen.keys, sequences[i].bytes, n))
			key = sequences[i].key;
	if (key == '\033') /* alone; else a key that we do not know */
		key = n == 1 ? KEY_ESCAPE : KEY_UNKNOWN;
	screen.n_keys -= n;
	memmove(screen.keys, screen.keys + n, screen.n_keys);
	return key;
}

/* How long until then; NULL = for ever. */
static struct timespec *time_left(uint64_t until_ns, struct timespec *left)
{
	struct timespec now;
	uint64_t now_ns, left_ns;

	if (until_ns == UINT64_MAX)
		return NULL;
	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
	*left = (struct timespec){ .tv_sec = (time_t)(left_ns / 1000000000u), .tv_nsec = (long)(left_ns % 1000000000u) };
	return left;
}

int screen_wait(uint64_t until_ns)
{
	struct pollfd input = { .fd = screen.has_keys ? STDIN_FILENO : -1, .events = POLLIN };
	struct timespec left;
	ssize_t n;
	int r;

	if (screen.n_keys)
		return take_key();
	r = ppoll(&input, 1, time_left(until_ns, &left), &screen.waiting);
	if (has_changed) {
		has_changed = 0;
		return SCREEN_CHANGED;
	}
	if (r < 0)
		return errno == EINTR ? SCREEN_CHANGED : SCREEN_GONE;
	if (r == 0)
		return SCREEN_TIME;
	n = read(STDIN_FILENO, screen.keys, sizeof(screen.keys));
	if (n <= 0)
		return n < 0 && (errno == EINTR || errno == EAGAIN) ? SCREEN_CHANGED : SCREEN_GONE;
	screen.n_keys = (size_t)n;
	return take_key();
}

static bool is_set(const char *name)
{
	const char *value = getenv(name);

	return value && *value;
}

bool screen_has_colours(const char *asked)
{
	const char *terminal = getenv("TERM"), *force = getenv("CLICOLOR_FORCE");

	if (asked && strcmp(asked, "auto") != 0)
		return !strcmp(asked, "always");
	if (is_set("NO_COLOR"))
		return false;
	if (force && *force && strcmp(force, "0") != 0)
		return true;
	return isatty(STDOUT_FILENO) && terminal && *terminal && strcmp(terminal, "dumb") != 0;
}
