/* SPDX-License-Identifier: Apache-2.0 */
/*
 * completion.c - `shmctl completion SHELL`: what a shell needs to complete shmctl, made from the commands' own tables.
 *
 * A word of `arguments` or of an option's `value` says how to complete (see struct command). What only a broker knows, its
 * models and sessions, the scripts ask for with `shmctl completion MODEL`: from the statistics, so that a broker that hangs
 * holds up nobody's shell.
 */
#define _GNU_SOURCE 1
#include "shm/atomics.h"
#include "tools/shmctl/shmctl.h"
#include "tools/shmctl/stats.h"
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define WORDS_BYTES 128

static bool is_kind(const char *value, const char *kind)
{
	return !strncmp(value, kind, strlen(kind));
}

/* "bash|zsh" */
static bool is_choice(const char *value)
{
	return value[0] >= 'a' && value[0] <= 'z';
}

static const char *spaced(char text[WORDS_BYTES], const char *choice)
{
	size_t n = 0;

	for (; choice[n] && n < WORDS_BYTES - 1; n++)
		text[n] = choice[n] == '|' ? ' ' : choice[n];
	text[n] = '\0';
	return text;
}

static bool is_last(const struct command_option *option)
{
	return !option->letter && !option->name;
}

/* "[TIME]" stands behind a "=", or not at all: the next word is none of its. */
static bool takes_word(const struct command_option *option)
{
	return option->value && option->value[0] != '[';
}

/* Calls `each` for every argument; `idx` is -1 for the one that stands for all further ones. */
static void each_argument(const struct command *command, void (*each)(const struct command *command, int idx, const char *value))
{
	const char *at = command->arguments ? command->arguments : "";
	char value[WORDS_BYTES];

	for (int idx = 0; *at; idx++) {
		size_t n = strcspn(at, " ");
		bool is_rest = n > 3 && !strncmp(at + n - 3, "...", 3);

		snprintf(value, sizeof(value), "%.*s", (int)(is_rest ? n - 3 : n), at);
		each(command, is_rest ? -1 : idx, value);
		at += n + strspn(at + n, " ");
	}
}

static void each_command(void (*each)(const struct command *command))
{
	const struct command *command;

	for (size_t i = 0; (command = command_at(i)); i++)
		each(command);
}

/* --- bash --- */

static void bash_values(const char *command, const struct command_option *options)
{
	for (; options && !is_last(options); options++) {
		if (options->value && options->letter)
			printf("\t%s:-%c) echo '%s' ;;\n", command, options->letter, options->value);
		if (takes_word(options) && options->name)
			printf("\t%s:--%s) echo '%s' ;;\n", command, options->name, options->value);
	}
}

static void bash_command_values(const struct command *command)
{
	bash_values(command->name, command->options);
}

static void bash_argument(const struct command *command, int idx, const char *value)
{
	if (idx < 0)
		printf("\t%s:*) echo '%s' ;;\n", command->name, value);
	else
		printf("\t%s:%d) echo '%s' ;;\n", command->name, idx, value);
}

static void bash_arguments(const struct command *command)
{
	each_argument(command, bash_argument);
}

static void bash_names(const struct command_option *options)
{
	for (; options && !is_last(options); options++) {
		if (options->letter)
			printf(" -%c", options->letter);
		if (options->name)
			printf(" --%s", options->name);
	}
}

static void bash_options(const struct command *command)
{
	if (!command->options)
		return;
	printf("\t%s) echo '", command->name);
	bash_names(command->options);
	puts("' ;;");
}

static void bash_command(const struct command *command)
{
	printf(" %s", command->name);
}

static void print_bash(void)
{
	puts("# shmctl completion bash: source it, or put it into ~/.local/share/bash-completion/completions/shmctl\n"
	     "_shmctl_value() { # COMMAND OPTION: what it takes\n"
	     "\tcase $1:$2 in");
	bash_values("*", global_options);
	each_command(bash_command_values);
	puts("\tesac\n}\n"
	     "_shmctl_argument() { # COMMAND NUMBER: what it is\n"
	     "\tcase $1:$2 in");
	each_command(bash_arguments);
	puts("\tesac\n}\n"
	     "_shmctl_options() { # COMMAND: its own\n"
	     "\tcase $1 in");
	each_command(bash_options);
	puts("\tesac\n}\n"
	     "_shmctl_reply() { # WHAT WORD\n"
	     "\tcase $1 in\n"
	     "\tFILE*) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$2\") ;;\n"
	     "\tFOLDER*) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- \"$2\") ;;\n"
	     "\tMODEL* | SESSION*) mapfile -t COMPREPLY < <(compgen -W \"$(shmctl completion \"$1\" 2>/dev/null)\" -- \"$2\") ;;\n"
	     "\t[a-z]*) mapfile -t COMPREPLY < <(compgen -W \"${1//|/ }\" -- \"$2\") ;;\n"
	     "\tesac\n}\n"
	     "_shmctl() {\n"
	     "\tlocal word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' n=0 i value\n"
	     "\tCOMPREPLY=()\n"
	     "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	     "\t\tif [ -n \"$(_shmctl_value \"$command\" \"${COMP_WORDS[i]}\")\" ]; then\n"
	     "\t\t\t((i++))\n"
	     "\t\telif [[ ${COMP_WORDS[i]} != -* ]]; then\n"
	     "\t\t\t[ -z \"$command\" ] && command=${COMP_WORDS[i]} || ((n++))\n"
	     "\t\tfi\n"
	     "\tdone\n"
	     "\tvalue=$(_shmctl_value \"$command\" \"$before\")\n"
	     "\tif [ -n \"$value\" ]; then\n"
	     "\t\t_shmctl_reply \"$value\" \"$word\"\n"
	     "\telif [[ $word == -* ]]; then");
	fputs("\t\tmapfile -t COMPREPLY < <(compgen -W \"$(_shmctl_options \"$command\")", stdout);
	bash_names(global_options);
	puts("\" -- \"$word\")\n"
	     "\telif [ -z \"$command\" ]; then");
	fputs("\t\tmapfile -t COMPREPLY < <(compgen -W '", stdout);
	each_command(bash_command);
	puts("' -- \"$word\")\n"
	     "\telse\n"
	     "\t\t_shmctl_reply \"$(_shmctl_argument \"$command\" $n)\" \"$word\"\n"
	     "\tfi\n}\n"
	     "complete -F _shmctl shmctl");
}

/* --- zsh --- */

/* Inside '...[TEXT]': one line, without what ends it. */
static void zsh_text(const char *text)
{
	for (; *text && *text != '\n'; text++)
		if (*text == '\'')
			fputs("'\\''", stdout);
		else if (strchr("[]:\\", *text))
			printf("\\%c", *text);
		else
			putchar(*text);
}

static void zsh_action(const char *value)
{
	char words[WORDS_BYTES];

	if (is_kind(value, "FILE"))
		fputs("_files", stdout);
	else if (is_kind(value, "FOLDER"))
		fputs("_files -/", stdout);
	else if (is_kind(value, "MODEL") || is_kind(value, "SESSION"))
		printf("{compadd -- ${(f)\"$(shmctl completion %s 2>/dev/null)\"}}", value);
	else if (is_choice(value))
		printf("(%s)", spaced(words, value));
	else
		putchar(' ');
}

/* An argument of _arguments, which lines go on to. */
static void zsh_option(const struct command_option *option, const char *dashes, const char *name)
{
	printf(" \\\n\t\t'%s%s%s[", dashes, name, option->value && !takes_word(option) ? "=-" : "");
	zsh_text(option->text);
	putchar(']');
	if (takes_word(option)) {
		printf(":%s:", option->value);
		zsh_action(option->value);
	} else if (option->value) {
		printf("::%s: ", option->value);
	}
	putchar('\'');
}

static void zsh_options(const struct command_option *options)
{
	for (; options && !is_last(options); options++) {
		const char letter[2] = { options->letter };

		if (options->letter)
			zsh_option(options, "-", letter);
		if (options->name)
			zsh_option(options, "--", options->name);
	}
}

static void zsh_argument(const struct command *command, int idx, const char *value)
{
	(void)command;
	if (idx < 0)
		printf(" \\\n\t\t'*:%s:", value);
	else
		printf(" \\\n\t\t'%d:%s:", idx + 1, value);
	zsh_action(value);
	putchar('\'');
}

static void zsh_command(const struct command *command)
{
	printf("\t%s)\n\t\t_arguments $options_of_all", command->name);
	zsh_options(command->options);
	each_argument(command, zsh_argument);
	puts("\n\t\t;;");
}

static void zsh_summary(const struct command *command)
{
	printf("\t\t'%s:", command->name);
	zsh_text(command->summary);
	puts("'");
}

static void print_zsh(void)
{
	puts("#compdef shmctl\n"
	     "# shmctl completion zsh: put it as _shmctl into a folder of $fpath, or source it after compinit\n"
	     "_shmctl() {\n"
	     "\tlocal curcontext=$curcontext state line\n"
	     "\tlocal -a commands=(");
	each_command(zsh_summary);
	fputs("\t)\n"
	      "\tlocal -a options_of_all=(",
	      stdout);
	zsh_options(global_options);
	puts("\n\t)\n"
	     "\t_arguments -C $options_of_all '1:command:->command' '*::argument:->argument'\n"
	     "\t[[ $state != command ]] || _describe command commands\n"
	     "\t[[ $state == argument ]] || return 0\n"
	     "\tcase $line[1] in");
	each_command(zsh_command);
	puts("\tesac\n}\n"
	     "if [[ $funcstack[1] == _shmctl ]]; then _shmctl \"$@\"; else compdef _shmctl shmctl; fi");
}

/* --- fish --- */

static void fish_text(const char *text)
{
	putchar('\'');
	for (; *text && *text != '\n'; text++)
		if (*text == '\'' || *text == '\\')
			printf("\\%c", *text);
		else
			putchar(*text);
	putchar('\'');
}

static void fish_action(const char *value)
{
	char words[WORDS_BYTES];

	if (is_kind(value, "FILE"))
		fputs(" -F", stdout);
	else if (is_kind(value, "FOLDER"))
		fputs(" -a '(__fish_complete_directories)'", stdout);
	else if (is_kind(value, "MODEL") || is_kind(value, "SESSION"))
		printf(" -a '(shmctl completion %s 2>/dev/null)'", value);
	else if (is_choice(value))
		printf(" -a '%s'", spaced(words, value));
}

static void fish_options(const char *command, const struct command_option *options)
{
	for (; options && !is_last(options); options++) {
		printf("complete -c shmctl");
		if (command)
			printf(" -n '__shmctl_is %s'", command);
		if (options->letter)
			printf(" -s %c", options->letter);
		if (options->name)
			printf(" -l %s", options->name);
		if (takes_word(options)) {
			fputs(is_kind(options->value, "FILE") ? " -r" : " -x", stdout);
			fish_action(options->value);
		}
		fputs(" -d ", stdout);
		fish_text(options->text);
		putchar('\n');
	}
}

/* Which of several arguments it is, fish is not asked: all of a command's kinds are offered. */
static void fish_argument(const struct command *command, int idx, const char *value)
{
	(void)idx;
	printf("complete -c shmctl -n '__shmctl_is %s'", command->name);
	fish_action(value);
	putchar('\n');
}

static void fish_command(const struct command *command)
{
	printf("complete -c shmctl -n __shmctl_is -a %s -d ", command->name);
	fish_text(command->summary);
	putchar('\n');
	fish_options(command->name, command->options);
	each_argument(command, fish_argument);
}

static void print_fish(void)
{
	puts("# shmctl completion fish: put it into ~/.config/fish/completions/shmctl.fish\n"
	     "function __shmctl_is # COMMAND: is that the one; without: is there none yet\n"
	     "\tset -l command; set -l is_value no\n"
	     "\tfor word in (commandline -opc)[2..]\n"
	     "\t\tif test $is_value = yes\n"
	     "\t\t\tset is_value no");
	fputs("\t\telse if contains -- $word", stdout);
	for (const struct command_option *option = global_options; !is_last(option); option++)
		if (option->value && option->name)
			printf(" --%s", option->name);
	puts("\n"
	     "\t\t\tset is_value yes\n"
	     "\t\telse if not string match -q -- '-*' $word\n"
	     "\t\t\tset command $word; break\n"
	     "\t\tend\n"
	     "\tend\n"
	     "\ttest \"$command\" = \"$argv\"\n"
	     "end\n"
	     "complete -c shmctl -f");
	fish_options(NULL, global_options);
	each_command(fish_command);
}

/* --- what only a broker knows --- */

static void print_session(void *data, const struct inf_stats_session *entry)
{
	(void)data;
	printf("%" PRIu32 "\n", entry->id);
}

/* Shells expand what they are told: nothing but a plain name gets there. */
static void print_model(const struct inf_stats_model *model)
{
	char name[sizeof(model->name) + 1];

	snprintf(name, sizeof(name), "%.*s", (int)sizeof(model->name), model->name);
	if (name[0] && !name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")])
		puts(name);
}

static int print_known(const struct options *options, bool sessions)
{
	const struct inf_stats_public *stats;
	char path[PATH_MAX];

	stats = stats_find(options, path);
	if (!stats)
		return EXIT_OK;
	if (sessions)
		stats_each_session(path, print_session, NULL);
	for (unsigned int i = 0; !sessions && i < INF_STATS_MODELS; i++)
		print_model(&stats->models[i]);
	return EXIT_OK;
}

static int run(const struct options *options, int argc, char **argv)
{
	if (argc != 2)
		return fail(options, EXIT_USAGE, "for which shell? bash, zsh or fish");
	if (!strcmp(argv[1], "bash"))
		print_bash();
	else if (!strcmp(argv[1], "zsh"))
		print_zsh();
	else if (!strcmp(argv[1], "fish"))
		print_fish();
	else if (!strcmp(argv[1], "MODEL") || !strcmp(argv[1], "SESSION"))
		return print_known(options, argv[1][0] == 'S');
	else
		return fail(options, EXIT_USAGE, "%s: only bash, zsh and fish are known", argv[1]);
	return EXIT_OK;
}

const struct command command_completion = {
	.name = "completion",
	.summary = "prints what bash, zsh or fish need to complete shmctl",
	.usage = "Usage: shmctl completion bash|zsh|fish\n"
		 "A script for that shell, for instance:  source <(shmctl completion bash)\n"
		 "Models and sessions are completed from the statistics of the broker that is there.\n",
	.run = run,
	.arguments = "bash|zsh|fish",
};
