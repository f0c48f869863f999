#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# completion.sh - lines are typed into bash, zsh and fish that have what `shmctl completion` prints, and completed with a tab; every
# command and option of --help is offered; a mistyped one is answered with the one that was meant.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
PATH=$(cd "$BUILD" && pwd):$PATH
mkdir "$RUN/files" "$RUN/files/folder"
touch "$RUN/files/a b.npy" "$RUN/files/picture.npy"

says "for no shell" 2 'for which shell\? bash, zsh or fish' shmctl completion
says "for an unknown shell" 2 'tcsh: only bash, zsh and fish are known' shmctl completion tcsh
check "a broker" broker_start --builtin
background "$BUILD/infbench" -q -t 600 -w 0 sleep >/dev/null 2>&1
check "a session" within 10 sh -c "shmctl sessions | grep -q infbench"
ID=$(shmctl -j sessions | "$PY" -I -c 'import json, sys; print(json.load(sys.stdin)["sessions"][0]["id"])')

completes() { # SHELL LINE REGEX
	says "$1: $2" 0 "$3" "$PY" -I tests/tools/complete.py "$1" "$RUN/script.$1" "$2"
}
n_shells=0
for shell in bash zsh fish; do
	if ! command -v "$shell" >/dev/null; then
		skip "$shell" "not installed"
		continue
	fi
	n_shells=$((n_shells + 1))
	shmctl completion $shell >"$RUN/script.$shell"
	check "$shell takes the script" "$shell" -n "$RUN/script.$shell"
	completes $shell 'shmctl inf' '^(shmctl )?infer'
	completes $shell 'shmctl -j --timeout 3 dev' '^(shmctl -j --timeout 3 )?devices'
	completes $shell 'shmctl infer --soc' '^(shmctl infer )?--socket'
	completes $shell 'shmctl infer add_' '^(shmctl infer )?add_sub'
	completes $shell "shmctl infer add_sub $RUN/files/pic" 'files/picture.npy'
	completes $shell "shmctl infer -o $RUN/files/fol" 'files/folder/'
	completes $shell "shmctl --socket $RUN/files/pic" 'files/picture.npy'
	completes $shell 'shmctl completion fi' '^(shmctl completion )?fish'
	completes $shell 'shmctl kick ' "(^|kick )$ID\\b"
	completes $shell 'shmctl kick --yes ' "(^|yes )$ID\\b"
	completes $shell 'shmctl show --watch ' "(^|watch )$ID\\b"
	completes $shell 'shmctl trace -s ' "(^|-s )$ID\\b"
	completes $shell 'shmctl trace -m slee' '(^|-m )sleep'
	completes $shell 'shmctl latency slee' '(^|latency )sleep'
	completes $shell 'shmctl snapshot sa' '(^|snapshot )save'
	completes $shell 'shmctl snapshot di' '(^|snapshot )diff'
	completes $shell "shmctl snapshot show $RUN/files/fol" 'files/folder/'
	completes $shell "shmctl snapshot diff $RUN/files/folder $RUN/files/fol" 'folder .*files/folder/|^.*files/folder/'
	completes $shell "shmctl profile -o $RUN/files/pic" 'files/picture.npy'
	completes $shell 'shmctl rings -o t' '(^|-o )tsv'
	completes $shell 'shmctl top --sort p' '(^|sort )p99'
	completes $shell 'shmctl --vers' '^(shmctl )?--version'
done
check "bash at least is here" [ $n_shells -gt 0 ]

# --- all of it is offered: what --help lists, and not a word more -----------------------------------------------------

offered() ( # WORD...: what bash offers after these
	. "$RUN/script.bash"
	COMP_WORDS=(shmctl "$@") COMP_CWORD=$#
	_shmctl
	printf '%s\n' "${COMPREPLY[@]}" | sort
)
options_of() { sed -nE 's/^  (-[a-zA-Z])?(, )?(--[a-z-]+)?.*/\1 \3/p' | tr ' ' '\n' | grep '^-' | sort -u; }
same() { [ -n "$1" ] && [ "$1" = "$2" ]; }
commands=$(shmctl --help | sed -nE 's/^  ([a-z]+) +.*/\1/p')
check "each command" same "$(offered '' 2>/dev/null)" "$(sort <<<"$commands")"
for command in $commands; do
	check "each option of $command" same "$(offered "$command" - 2>/dev/null | sort -u)" \
		"$({ shmctl --help; shmctl "$command" --help; } | options_of)"
done

# --- what is mistyped -----------------------------------------------------------------------------------------------

says "an option of no command" 2 '-x: what is that\? Try shmctl infer --help' shmctl infer -x
says "a value is missing" 2 '-o: it takes a value; try shmctl infer --help' shmctl infer identity -o
says "an option where there are none" 2 '--frob: status takes no argument' shmctl status --frob

# --- version --------------------------------------------------------------------------------------------------------

says "version" 0 "^shmctl +$(shmctl --version | cut -d' ' -f2)\$" shmctl version
json "version -j" 0 "d['schema'] == 'infbroker.version/1' and d['version'] == d['library'] and d['protocol']['min'] <= d['protocol']['max'] and
	'extension-blocks' in d['features']" shmctl version -j
says "version takes no argument" 2 'stray: version takes no argument' shmctl version stray
finish
