#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fences.sh - removes each load-bearing fence in turn and wants to see a wake-up get lost within 240 s; then runs with all
# of them and wants none lost.
#
# Needs a build with MUTATE=1 ($BUILD). ROUND_TRIPS (100000; INF_LONG=1: 10^6) with all fences; SECONDS_EACH (240) to find
# a missing one: some seconds as a rule, but chance decides. What takes 200 ms was lost; with all fences what takes 500:
# before the front's timer of a second finds it, and longer than a busy machine keeps anybody waiting (20 ms were seen).
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
ROUND_TRIPS=${ROUND_TRIPS:-$([ -n "${INF_LONG-}" ] && echo 1000000 || echo 100000)}
SECONDS_EACH=${SECONDS_EACH:-240}
LOOPS=${LOOPS:-io_uring epoll}

# lost FENCE MODE THINK_NS SPIN_NS...: true when one of the front's spin budgets shows a lost wake-up in time
lost() {
	local fence=$1 mode=$2 think=$3 end=$((SECONDS + SECONDS_EACH)) spin rc
	shift 3
	while [ $SECONDS -lt $end ]; do
		for spin in "$@"; do
			INF_DROP_FENCES=$fence broker_start --builtin --spin-ns "$spin" || return 1
			INF_DROP_FENCES=$fence "$BUILD/tests/parked" "$SOCKET" "$mode" 100000000 4 "$think" 200 >"$RUN/parked" 2>&1
			rc=$?
			kill -KILL "$BROKER" 2>/dev/null
			wait "$BROKER" 2>/dev/null
			BROKER=
			[ $rc -eq 3 ] && { sed "s/^/    spin $spin ns: /" "$RUN/parked"; return 0; }
			[ $SECONDS -lt $end ] || break
		done
	done
	return 1
}

found() {
	if lost "$@"; then ok "without $1 a wake-up is lost"; else not_ok "without $1" "nothing was lost in $SECONDS_EACH s"; fi
}

found client_publish ping 6000 0 1000 2000
found front_park ping 6000 0 1000 2000
found lane_retire retire 30000 300000
found executor_publish identity 3000 4000 5000 3000 2500 2000 1500 1000 500

for loop in $LOOPS; do
	export INF_LOOP=$loop
	for mode in "ping 6000" "identity 3000" "retire 30000"; do
		n=$ROUND_TRIPS
		[ "${mode% *}" = retire ] && n=$((ROUND_TRIPS / 20))
		spin=1000
		[ "${mode% *}" = retire ] && spin=300000
		broker_start --builtin --spin-ns $spin || { not_ok "$loop start"; continue; }
		# shellcheck disable=SC2086
		if "$BUILD/tests/parked" "$SOCKET" ${mode% *} $n 600 ${mode#* } 500 >"$RUN/parked"; then
			ok "$loop $(cat "$RUN/parked")"
		else
			not_ok "$loop ${mode% *}" "$(cat "$RUN/parked")"
		fi
		broker_stop || not_ok "$loop end" "not clean"
	done
done
finish
