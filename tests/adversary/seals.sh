#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# seals.sh - nobody writes what he may only read: tried at every step of the handshake, by a client of the broker's own user.
# Root could (ptrace is its right), so where we are root broker and client run as another user.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
ROUNDS=${ROUNDS:-200}
NOBODY=65534

as_user=()
if [ "$(id -u)" = 0 ]; then
	as_user=(setpriv "--reuid=$NOBODY" "--regid=$NOBODY" --clear-groups)
	if ! "${as_user[@]}" test -x "$BUILD/infbroker"; then
		skip "seals against the broker's own user" "the build folder is closed to other users"
		finish
	fi
	chown "$NOBODY:$NOBODY" "$RUN"
fi
"${as_user[@]}" "$BUILD/infbroker" --builtin --socket "$SOCKET" --log-rate-max 100000 2>>"$RUN/broker.log" &
BROKER=$!
for _ in $(seq 100); do
	"$BUILD/shmctl" models 2>/dev/null | grep -q identity_f32 && break
	read -r -t 0.1 <> <(:) || true
done
check "every try fails" "${as_user[@]}" "$BUILD/tests/seals" "$SOCKET" "$ROUNDS" "$BROKER" "$(executor_pid)"
cat "$RUN/out"
check "an honest request is answered" "$BUILD/tests/checked_load" "$SOCKET" 1 1 0.1
check "the broker ends cleanly" broker_stop
finish
