# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# expect.sh - to be sourced after broker.sh: what a command must say and how it must end.
#
#   pause                               a moment, between two looks
#   within SECONDS COMMAND...           looks again and again until COMMAND succeeds; fails when the time is over
#   says NAME STATUS REGEX COMMAND...   counts: COMMAND ends with STATUS, and what it prints has a line that matches
#   json NAME STATUS EXPR COMMAND...    counts: the standard output is JSON (strictly), of which the Python EXPR holds (as d)
#   background COMMAND...               starts it; its pid is in $LAST; the end of the test kills what is left
#   ends PID                            waits for one of those; its exit status
#   other_user                          makes $RUN/bin, programs that any uid may run; fails without a second user
#   as_other COMMAND...                 as uid 65534;  as_third: as 65533

BACKGROUND=()
PY=$(python3 -c 'import sys; print(sys.executable)') # what a wrapper called python3 would find anew each time
EXPECT_SECONDS=${EXPECT_SECONDS:-30} # for one command; sanitizers make it slow

pause() { read -r -t 0.05 <> <(:) || true; }

within() {
	local until=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $until ] || return 1
		pause
	done
}

said() { head -c 600 "$RUN/said" | tr '\n' '~'; }

says() {
	local name=$1 status=$2 regex=$3 rc=0
	shift 3
	timeout "$EXPECT_SECONDS" "$@" >"$RUN/said" 2>&1 </dev/null || rc=$?
	if [ "$rc" -ne "$status" ]; then
		not_ok "$name" "exit status $rc, not $status: $(said)"
	elif ! grep -aqE -- "$regex" "$RUN/said"; then
		not_ok "$name" "nothing matches $regex: $(said)"
	else
		ok "$name"
	fi
}

json() {
	local name=$1 status=$2 expression=$3 rc=0
	shift 3
	timeout "$EXPECT_SECONDS" "$@" >"$RUN/said" 2>"$RUN/said.err" </dev/null || rc=$?
	if [ "$rc" -ne "$status" ]; then
		not_ok "$name" "exit status $rc, not $status: $(said) $(head -c 300 "$RUN/said.err")"
	elif ! "$PY" -I - "$RUN/said" "$expression" >"$RUN/said.err" 2>&1 <<-'PYTHON'; then
		import json, sys
		def no_constant(name): raise ValueError(name + " is no JSON")
		with open(sys.argv[1], encoding="utf-8") as file: d = json.load(file, parse_constant=no_constant)
		sys.exit(0 if eval("(" + sys.argv[2] + ")") else "it does not hold: " + sys.argv[2])
	PYTHON
		not_ok "$name" "$(tail -n 1 "$RUN/said.err"): $(said)"
	else
		ok "$name"
	fi
}

background() {
	"$@" <&0 & # else its standard input would be /dev/null
	LAST=$!
	BACKGROUND+=("$LAST")
}

ends() {
	local rc=0 pid kept=()
	within "$EXPECT_SECONDS" has_ended "$1" || return 99
	wait "$1" 2>/dev/null || rc=$?
	for pid in "${BACKGROUND[@]}"; do [ "$pid" = "$1" ] || kept+=("$pid"); done
	BACKGROUND=("${kept[@]}")
	return $rc
}

other_user() {
	[ "$(id -u)" = 0 ] && command -v setpriv >/dev/null || return 1
	mkdir -p "$RUN/bin"
	cp "$BUILD/infbroker" "$BUILD/infbroker-executor" "$BUILD/shmctl" "$BUILD/infclassify" "$BUILD/libinfclient.so.0" \
		"$BUILD/tests/ask" "$RUN/bin"
	chmod 711 "$RUN"
	chmod 755 "$RUN/bin" "$RUN"/bin/*
	as_other "$RUN/bin/shmctl" --version >/dev/null 2>&1
}
as_other() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
as_third() { setpriv --reuid=65533 --regid=65533 --clear-groups "$@"; }

expect_cleanup() {
	local pid
	[ "$BASHPID" = $$ ] || return 0
	for pid in "${BACKGROUND[@]}"; do kill -KILL "$pid" 2>/dev/null; done
	cleanup
}
trap expect_cleanup EXIT
