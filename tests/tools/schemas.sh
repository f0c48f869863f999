#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# schemas.sh - what shmctl prints with -j is JSON, to jq too, and is what tests/schemas/NAME.json says, in every state that a broker can
# be in. The schemas are strict: a new member is written down there. A new command needs its schema and a line below; one that takes
# -j and has none is found.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
PY=$(tools/setup/venv.sh --python schemas) || { skip "schemas" "no jsonschema: tools/setup/venv.sh schemas"; finish; }
SEEN=" "

# SCHEMA STATUS ARGUMENT...: shmctl -j ARGUMENT... ends so and prints that. Each command has at least one such line.
valid() {
	local schema=$1 status=$2 rc=0 name
	shift 2
	name="$(tr '\n' ' ' <<<"$*")$STATE"
	timeout "$EXPECT_SECONDS" "$CTL" -j "$@" >"$RUN/said" 2>/dev/null </dev/null || rc=$?
	if [ $rc -ne "$status" ]; then
		not_ok "$name" "exit status $rc, not $status: $(said)"
	elif ! jq -e . "$RUN/said" >"$RUN/jq" 2>&1; then
		not_ok "$name" "jq: $(head -c 200 "$RUN/jq")"
	elif ! "$PY" tests/tools/validate.py tests/schemas "$schema" "$RUN/said" >"$RUN/faults" 2>&1; then
		not_ok "$name" "$(head -c 600 "$RUN/faults")"
	else
		ok "$name"
		cp "$RUN/said" "$RUN/last.$schema"
		SEEN="$SEEN$schema "
	fi
}

check "the schemas are strict" "$PY" tests/tools/validate.py tests/schemas

STATE=", without a broker"
valid error 3 status
valid error 3 models
valid error 3 sessions
valid error 2 statsu
valid error 2 infer
valid doctor 1 doctor
valid version 0 version
valid error 1 devices
export INF_NVML_LIBRARY=$PWD/$BUILD/tests/libfakenvml.so
valid devices 0 devices

mkdir "$RUN/models"
echo "no TorchScript" >"$RUN/models/broken.pt"
head -c 64 /dev/zero >"$RUN/x.raw"
broker_start --builtin --models "$RUN/models" || { not_ok "start"; finish; }
mkfifo "$RUN/orders"
exec 7<>"$RUN/orders"
background "$BUILD/tests/ask" identity <"$RUN/orders" >"$RUN/heard" 7>&-
check "a client" within 10 grep -q open "$RUN/heard"
echo 5 >&7
check "it is answered" within 10 grep -qx OK "$RUN/heard"
STATE=", with a broker"
valid infer 0 infer add_sub "$RUN/x.raw" "$RUN/x.raw"
valid error 1 infer nothing "$RUN/x.raw"
valid status 0 status
valid models 0 models
valid sessions 0 sessions
valid devices 0 devices
valid doctor 1 doctor
exec 7>&-

STATE=", while it is stopped"
kill -STOP "$BROKER"
stopped() { grep -q '^State:.*stopped' /proc/"$BROKER"/status; }
check "it is stopped" within 10 stopped
valid status 1 status
valid models 0 models
valid sessions 0 sessions
valid doctor 1 doctor
valid error 5 --timeout 1 infer identity "$RUN/x.raw"
kill -CONT "$BROKER"

STATE=", after it was killed"
kill -KILL "$BROKER"
wait "$BROKER" 2>/dev/null
BROKER=
valid status 3 status
valid error 3 models
valid error 3 sessions
valid doctor 1 doctor

STATE=", on a device (in software)"
export INF_CUDA_LIBRARY=$PWD/$BUILD/tests/libfakecuda.so
if broker_start --builtin --device cuda; then
	valid status 0 status
	valid models 0 models
	valid devices 0 devices
	valid doctor 0 doctor
else
	not_ok "a broker on a device" "see above"
fi

# --- none is forgotten, and each can be broken ----------------------------------------------------------------------

for command in $("$CTL" --help | sed -nE 's/^  ([a-z]+) +.*/\1/p'); do
	"$CTL" "$command" --help | head -n 1 | grep -q -- '-j' || continue
	check "$command has a schema and a line here" grep -q " $command " <<<"$SEEN"
done
for schema in tests/schemas/*.json; do
	name=$(basename "$schema" .json)
	[ -e "$RUN/last.$name" ] || { not_ok "schema $name" "nothing above prints it"; continue; }
	check "$name: a member more or less is refused" "$PY" tests/tools/validate.py --broken tests/schemas "$name" "$RUN/last.$name"
done
finish
