/* SPDX-License-Identifier: Apache-2.0 */
/* test_broker_log.c - the log never blocks, whatever stderr is; what it drops is counted; hostile
 * text stays one line. */
#define _GNU_SOURCE 1
#include "broker/log.h"
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int saved_stderr;
static char text[1 << 20];

static void setup(void)
{
	saved_stderr = dup(STDERR_FILENO);
}

/* What is still buffered goes nowhere: without a process per test the next one would find it. */
static void teardown(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(null, STDERR_FILENO);
	close(null);
	log_init(50);
	log_flush();
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	log_init(50); /* lets go of the pipe */
}

/* stderr becomes `fd`, as a service manager or a shell would have it: blocking. */
static void begin(int fd, uint64_t rate_max)
{
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	close(fd);
	log_init(rate_max);
}

static void pipe_begin(int *ret_reader, uint64_t rate_max)
{
	int fds[2];

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	begin(fds[1], rate_max);
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	*ret_reader = fds[0];
}

/* All that is there now. */
static size_t drain(int fd)
{
	size_t n_bytes = 0;
	ssize_t n;

	while ((n = read(fd, text + n_bytes, sizeof(text) - 1 - n_bytes)) > 0)
		n_bytes += (size_t)n;
	text[n_bytes] = '\0';
	return n_bytes;
}

START_TEST(lines_arrive)
{
	int reader;

	pipe_begin(&reader, 50);
	log_line("session %d of uid %u ended", 7, 1000u);
	log_line("%s", "two");
	drain(reader);
	ck_assert_str_eq(text, ""); /* nothing before the flush */
	log_flush();
	drain(reader);
	ck_assert_str_eq(text, "infbroker: session 7 of uid 1000 ended\ninfbroker: two\n");
	log_flush();
	ck_assert_uint_eq(drain(reader), 0);
	close(reader);
}
END_TEST

START_TEST(long_lines_are_cut)
{
	int reader;
	size_t n_bytes;

	pipe_begin(&reader, 50);
	memset(text, 'x', 5000);
	text[5000] = '\0';
	log_line("%s", text);
	log_line("next");
	log_flush();
	n_bytes = drain(reader);
	ck_assert_uint_le(n_bytes, 512 + 2 * strlen("infbroker: ") + strlen("next\n"));
	ck_assert_ptr_nonnull(strstr(text, "xx\ninfbroker: next\n"));
	close(reader);
}
END_TEST

START_TEST(a_full_pipe_does_not_block)
{
	uint64_t n_dropped = log_dropped();
	size_t n_lines = 0;
	int reader;

	pipe_begin(&reader, UINT64_MAX);
	fcntl(reader, F_SETPIPE_SZ, 4096);
	for (int i = 0; i < 10000; i++) {
		log_line("line %d", i);
		log_flush();
	}
	ck_assert_uint_gt(log_dropped(), n_dropped);
	/* What was not dropped arrives, in order and whole, once someone reads. */
	for (int i = 0; i < 1000 && drain(reader) > 0; i++) {
		for (const char *at = text; (at = strchr(at, '\n')); at++)
			n_lines++;
		log_flush();
	}
	ck_assert_uint_eq(n_lines + log_dropped() - n_dropped, 10000);
	close(reader);
}
END_TEST

START_TEST(a_full_socket_does_not_block)
{
	uint64_t n_dropped = log_dropped();
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	begin(fds[1], UINT64_MAX);
	for (int i = 0; i < 20000; i++) {
		log_line("a line of some length for the journal, number %d", i);
		log_flush();
	}
	ck_assert_uint_gt(log_dropped(), n_dropped);
	close(fds[0]);
}
END_TEST

START_TEST(a_closed_pipe_is_survived)
{
	uint64_t n_dropped = log_dropped();
	int reader;

	signal(SIGPIPE, SIG_IGN);
	pipe_begin(&reader, 50);
	close(reader);
	log_line("one");
	log_line("two");
	log_flush();
	ck_assert_uint_eq(log_dropped(), n_dropped + 2);
}
END_TEST

START_TEST(the_rate_is_bounded)
{
	uint64_t n_dropped = log_dropped();
	size_t n_lines = 0;
	int reader;

	pipe_begin(&reader, 5);
	for (int i = 0; i < 100; i++)
		log_line("line %d", i);
	log_flush();
	drain(reader);
	for (const char *at = text; (at = strchr(at, '\n')); at++)
		n_lines++;
	/* Five, or ten where a second ended in between. */
	ck_assert_uint_ge(n_lines, 5);
	ck_assert_uint_le(n_lines, 11);
	ck_assert_uint_ge(log_dropped() - n_dropped, 90);
	close(reader);
}
END_TEST

START_TEST(a_file_is_shared_with_others)
{
	FILE *file = tmpfile();
	int fd = dup(fileno(file));

	begin(fd, 50);
	log_line("ours");
	log_flush();
	ck_assert_int_eq(write(STDERR_FILENO, "theirs\n", 7), 7);
	log_line("ours again");
	log_flush();
	rewind(file);
	text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
	ck_assert_str_eq(text, "infbroker: ours\ntheirs\ninfbroker: ours again\n");
	fclose(file);
}
END_TEST

START_TEST(escape)
{
	static const struct {
		const char *from;
		size_t from_bytes;
		const char *to;
	} cases[] = {
		{ "plain name", 10, "plain name" },
		{ "cut", 2, "cu" },
		{ "two\nlines\r", 10, "two\\x0alines\\x0d" },
		{ "\033[2J", 4, "\\x1b[2J" },
		{ "back\\slash", 10, "back\\x5cslash" },
		{ "\xc3\xa9\x7f\x80\xff", 5, "\\xc3\\xa9\\x7f\\x80\\xff" },
		{ "stops\0here", 10, "stops" },
		{ "", 0, "" },
	};
	char to[64];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ck_assert_str_eq(log_escape(to, sizeof(to), cases[i].from, cases[i].from_bytes),
				 cases[i].to);
}
END_TEST

START_TEST(escape_stays_in_its_buffer)
{
	char to[16];

	for (size_t room = 0; room < sizeof(to); room++) {
		memset(to, '#', sizeof(to));
		log_escape(to, room, "a\nb\nc\nd\ne\nf\n", 12);
		for (size_t i = room; i < sizeof(to); i++)
			ck_assert_int_eq(to[i], '#');
		if (room > 0)
			ck_assert_uint_lt(strnlen(to, room), room);
	}
}
END_TEST

Suite *suite_broker_log(void);
Suite *suite_broker_log(void)
{
	Suite *suite = suite_create("broker_log");
	TCase *output = tcase_create("output");
	TCase *text_case = tcase_create("escape");

	tcase_add_checked_fixture(output, setup, teardown);
	tcase_add_test(output, lines_arrive);
	tcase_add_test(output, long_lines_are_cut);
	tcase_add_test(output, a_full_pipe_does_not_block);
	tcase_add_test(output, a_full_socket_does_not_block);
	tcase_add_test(output, a_closed_pipe_is_survived);
	tcase_add_test(output, the_rate_is_bounded);
	tcase_add_test(output, a_file_is_shared_with_others);
	tcase_add_test(text_case, escape);
	tcase_add_test(text_case, escape_stays_in_its_buffer);
	suite_add_tcase(suite, output);
	suite_add_tcase(suite, text_case);
	return suite;
}
