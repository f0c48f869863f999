# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# broker.sh - to be sourced by test scripts: starts the real broker on a private socket, and stops it.
#
#   broker_start --builtin ...     starts $BUILD/infbroker with these options, waits until it listens and its models settled
#   broker_stop                    SIGTERM, waits; fails where it does not end by itself with status 0
#   ok NAME / not_ok NAME WHY      count a result;  check NAME COMMAND...  runs and counts
#   has_ended PID                  is it no more, or a zombie
#   finish                         prints "N passed, N failed, N skipped" and exits
#
# $BUILD (build), $INF_LOOP (io_uring | epoll) choose what is tested. Everything lives in $RUN, removed at the end.

BUILD=${BUILD:-build}
RUN=$(mktemp -d "${TMPDIR:-/tmp}/inf-test.XXXXXX")
SOCKET=$RUN/socket
export INFBROKER_SOCKET=$SOCKET
BROKER=
n_passed=0 n_failed=0 n_skipped=0

ok() { n_passed=$((n_passed + 1)); echo "ok - $1"; }
not_ok() { n_failed=$((n_failed + 1)); echo "NOT OK - $1: ${2-}"; }
skip() { n_skipped=$((n_skipped + 1)); echo "skip - $1: ${2-}"; }

check() {
	local name=$1
	shift
	if "$@" >"$RUN/out" 2>&1; then ok "$name"; else not_ok "$name" "$(tail -n 5 "$RUN/out" | tr '\n' ' ')"; fi
}

broker_start() {
	"$BUILD/infbroker" --socket "$SOCKET" "$@" 2>>"$RUN/broker.log" &
	BROKER=$!
	local _
	for _ in $(seq 600); do
		if "$BUILD/shmctl" models -j >"$RUN/.models" 2>/dev/null && grep -q '"name"' "$RUN/.models" &&
			! grep -q '"loading"' "$RUN/.models"; then
			return 0
		fi
		kill -0 "$BROKER" 2>/dev/null || break
		read -r -t 0.1 <> <(:) || true
	done
	echo "the broker did not get ready:"
	cat "$RUN/broker.log"
	return 1
}

broker_stop() {
	[ -n "$BROKER" ] || return 0
	kill -TERM "$BROKER" 2>/dev/null
	local rc=0
	wait "$BROKER" || rc=$?
	BROKER=
	[ $rc -eq 0 ] || { echo "the broker ended with $rc:"; tail -n 20 "$RUN/broker.log"; }
	return $rc
}

# Whoever is its parent now may take its time to bury it: a zombie has ended.
has_ended() { case $(ps -o stat= -p "$1") in '' | Z*) ;; *) false ;; esac }

executor_pid() { pgrep -P "$BROKER" -f infbroker-executor | head -n 1; }

cleanup() {
	[ "$BASHPID" = $$ ] || return 0 # a subshell's end is not the test's
	[ -z "$BROKER" ] || kill -KILL "$BROKER" 2>/dev/null
	rm -rf "$RUN"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

finish() {
	if grep -qE 'Sanitizer|runtime error' "$RUN/broker.log" 2>/dev/null; then
		not_ok "no sanitizer report" "see the broker's log"
		grep -E -A 40 -m 1 'Sanitizer|runtime error' "$RUN/broker.log"
	fi
	if [ $n_failed -ne 0 ] && [ -s "$RUN/broker.log" ]; then
		echo "--- broker's log, last lines"
		tail -n 20 "$RUN/broker.log"
	fi
	echo "$n_passed passed, $n_failed failed, $n_skipped skipped"
	[ $n_failed -eq 0 ]
	exit $?
}
