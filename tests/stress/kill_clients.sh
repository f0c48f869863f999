#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kill_clients.sh - clients are killed at random moments under load: nobody else gets a wrong or lost answer, and front and
# executor have the same descriptors, mappings and (within 1 MiB) memory afterwards. The victim's p99 beside that of the same
# load with clients that end cleanly is printed; it is a bar of the project, not of this test: make bench judges time.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
KILLS=${KILLS:-1000}

resources() { # descriptors, mappings, kB of private memory
	echo "$(find "/proc/$1/fd" | wc -l) $(wc -l <"/proc/$1/maps") $(awk '/^Private/ {sum += $2} END {print sum}' "/proc/$1/smaps_rollup")"
}

broker_start --builtin || { not_ok "start"; finish; }
executor=$(executor_pid)
"$BUILD/tests/kill_clients" "$SOCKET" 50 kill >/dev/null 2>&1 # whatever grows once has grown
read -r -t 0.5 <> <(:) || true
read -r front_fds front_maps front_kb <<<"$(resources "$BROKER")"
read -r exec_fds exec_maps exec_kb <<<"$(resources "$executor")"
for way in kill close; do
	if "$BUILD/tests/kill_clients" "$SOCKET" "$KILLS" $way >"$RUN/$way" 2>&1; then
		ok "$way: $(tr -d '\n' <"$RUN/$way")"
	else
		not_ok "$way" "$(cat "$RUN/$way")"
	fi
done
p99() { sed -n 's/.*"p99_us": \([0-9.]*\).*/\1/p' "$RUN/$1" | head -n 1; }
awk -v a="$(p99 kill)" -v b="$(p99 close)" 'BEGIN { printf "p99 of the others: %.2f x that with clients that end cleanly\n", a / b }'
in_flight=$(grep -oE '"kills_in_flight": [0-9]+' "$RUN/kill" | grep -oE '[0-9]+')
check "at least half of the kills hit requests in flight" [ "${in_flight:-0}" -ge $((KILLS / 2)) ]
read -r -t 1 <> <(:) || true
read -r fds maps kb <<<"$(resources "$BROKER")"
check "front: descriptors $front_fds -> $fds" [ "$fds" -eq "$front_fds" ]
check "front: mappings $front_maps -> $maps" [ "$maps" -le $((front_maps + 2)) ]
check "front: private memory $front_kb -> $kb kB" [ "$kb" -le $((front_kb + 1024)) ]
read -r fds maps kb <<<"$(resources "$executor")"
check "executor: descriptors $exec_fds -> $fds" [ "$fds" -eq "$exec_fds" ]
check "executor: mappings $exec_maps -> $maps" [ "$maps" -le $((exec_maps + 2)) ]
check "executor: private memory $exec_kb -> $kb kB" [ "$kb" -le $((exec_kb + 1024)) ]
check "the broker ends cleanly" broker_stop
finish
