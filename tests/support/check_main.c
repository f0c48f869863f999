/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_main.c - main() of every unit test: runs the one Check suite of its file and prints, as its last line,
 * "N passed, N failed, N skipped".
 *
 * The file defines `Suite *suite_SOMETHING(void)`; the Makefile links that name to test_suite(). A test that
 * cannot run here prints "skip - NAME: why" and returns: it is counted as skipped, not as passed. CK_RUN_CASE=
 * and CK_FORK=no are Check's own. Descriptors that a suite leaves open (without a fork per test) fail it.
 */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Suite *test_suite(void);

static unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Copies what the tests said to stdout and counts the skips in it: forked tests have no other way to tell. */
static int replay(FILE *said)
{
	char line[1024];
	int n_skipped = 0;

	rewind(said);
	while (fgets(line, sizeof(line), said)) {
		if (!strncmp(line, "skip - ", 7))
			n_skipped++;
		fputs(line, stdout);
	}
	return n_skipped;
}

int main(void)
{
	SRunner *runner = srunner_create(test_suite());
	unsigned int n_fds = count_fds();
	FILE *said = tmpfile();
	int out = dup(STDOUT_FILENO);
	int n_run, n_failed, n_skipped;

	if (!said || out < 0 || dup2(fileno(said), STDOUT_FILENO) < 0) {
		perror("check_main");
		return 1;
	}
	srunner_run_all(runner, CK_NORMAL);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	close(out);
	n_skipped = replay(said);
	fclose(said);
	n_run = srunner_ntests_run(runner);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (count_fds() != n_fds) {
		printf("descriptors left open: %u at the start, %u now\n", n_fds, count_fds());
		n_failed++;
		n_run++;
	}
	printf("%d passed, %d failed, %d skipped\n", n_run - n_failed - n_skipped, n_failed, n_skipped);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
