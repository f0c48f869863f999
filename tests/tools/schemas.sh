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

# SCHEMA FILE: a file that a command has written is that.
valid_file() {
	check "$2$STATE" "$PY" tests/tools/validate.py tests/schemas "$1" "$2"
	cp "$2" "$RUN/last.$1"
	SEEN="$SEEN$1 "
}

# What is read from the statistics files alone, in a state in which it ends with STATUS; FOLDER is for a snapshot.
valid_files() { # STATUS FOLDER
	local status=$1 folder=$2 session
	valid models "$status" models
	valid sessions "$status" sessions
	session=$(jq '.sessions[0].id' "$RUN/last.sessions")
	valid show "$status" show "$session"
	valid error 1 show 4000000000
	valid instances "$status" instances
	valid rings "$status" rings
	valid regions "$status" regions
	valid events "$status" events
	valid events "$status" events -n 1
	valid latency "$status" latency
	valid latency "$status" latency identity
	valid error 1 latency nothing
	valid snapshot-save 0 snapshot save "$folder"
	valid_file snapshot "$folder/snapshot.json"
}
# COMMAND... that goes on until it is ended: what it has written after LINES lines.
stream() { # SCHEMA LINES COMMAND...
	local schema=$1 n=$2 name
	shift 2
	name="$*$STATE"
	background "$CTL" -j "$@" >"$RUN/stream"
	if within 10 sh -c "[ \$(wc -l <'$RUN/stream') -ge $n ]"; then ok "$name: a line for each"; else not_ok "$name: a line for each" "$(head -c 300 "$RUN/stream")"; fi
	kill "$LAST"
	head -n "$n" "$RUN/stream" >"$RUN/lines"
	check "$name: each line is an object" "$PY" -I -c 'import json, sys; [json.loads(line)["schema"] for line in open(sys.argv[1])]' "$RUN/lines"
	check "$name" "$PY" tests/tools/validate.py tests/schemas "$schema" "$RUN/lines"
}

check "the schemas are strict" "$PY" tests/tools/validate.py tests/schemas

STATE=", without a broker"
stream error 2 sessions --watch=0.05
for command in status models sessions "show 1" instances rings regions events "events -f" stat top latency "latency --history=1s" \
	"latency -d 1s" trace profile "snapshot save $RUN/none" "snapshot diff $RUN/none $RUN/none" "drain --yes" resume \
	"kick 1 --yes"; do
	# shellcheck disable=SC2086
	valid error 3 $command
done
for command in statsu infer show kick "kick x" "show x" snapshot drain "stat x" "top stray" "events -n x" "latency -n 1" "trace -n x" "profile -d x" "resume x" \
	"rings stray" "regions -o x" "instances --watch=x"; do
	# shellcheck disable=SC2086
	valid error 2 $command
done
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
background "$BUILD/infbench" -q -t 600 -w 0 sleep >"$RUN/bench" 2>&1
BENCH=$LAST
check "load" within 10 sh -c "'$CTL' -j sessions | grep -q infbench"
valid status 0 status
valid_files 0 "$RUN/loaded"
valid devices 0 devices
valid doctor 1 doctor
valid stat 0 stat 0.1 3
valid top 0 top -n 3 -d 0.1
valid latency 0 latency -d 0.2
valid latency-history 0 latency --history=0.1 -n 3
valid latency-history 0 latency sleep --history=0.1 -n 1
valid trace 0 trace -n 5
valid trace 0 trace -m sleep --slow 1us -d 0.3
valid profile 0 profile -d 0.3 -o "$RUN/profile.json"
json "what profile writes says what it is$STATE" 0 "d['otherData']['schema'] == 'infbroker.profile/1' and
	sorted(d['otherData']) == ['batches', 'lost', 'requests', 'schema']" cat "$RUN/profile.json"
valid error 1 profile -d 0.3 -o "$RUN/nowhere/x"
for list in sessions instances rings regions; do stream $list 2 $list --watch=0.05; done
stream stat 2 stat 0.05
stream top 2 top -d 0.05
stream trace 2 trace
stream latency-history 2 latency --history=0.05
stream events 1 events -f
valid snapshot-save 0 snapshot save "$RUN/later"
valid snapshot-diff 0 snapshot diff "$RUN/loaded" "$RUN/later"
"$CTL" -j --socket "$RUN/loaded/socket" sessions >"$RUN/loaded.sessions"
valid error 2 snapshot diff "$RUN/later" "$RUN/loaded"
valid snapshot-show 0 snapshot show "$RUN/loaded"
json "each as its own command has it" 0 "d['sessions'] == json.load(open('$RUN/loaded.sessions')) and d['status']['state'] == 'snapshot' and
	d['models']['models'] != [] and d['folder'] == '$RUN/loaded'" cat "$RUN/last.snapshot-show"
valid error 1 snapshot show "$RUN/nowhere"
valid error 1 snapshot save "$RUN/loaded"
valid drain 0 drain --yes
valid resume 0 resume
valid kick 0 kick "$("$CTL" -j sessions | jq '.sessions[] | select(.name == "infbench").id')" --yes
valid error 1 kick 4000000000 --yes
valid error 1 show 4000000000 --watch
valid error 2 kick 1
within 10 has_ended "$BENCH"
valid sessions 0 sessions
valid events 0 events

STATE=", while it is stopped"
kill -STOP "$BROKER"
stopped() { grep -q '^State:.*stopped' /proc/"$BROKER"/status; }
check "it is stopped" within 10 stopped
valid status 1 status
valid_files 0 "$RUN/stopped"
valid doctor 1 doctor
valid stat 0 stat 0.1 2
valid top 0 top -n 2 -d 0.1
valid latency 0 latency -d 0.1
valid latency-history 0 latency --history=0.1 -n 2
valid snapshot-diff 0 snapshot diff "$RUN/loaded" "$RUN/stopped"
for command in "infer identity $RUN/x.raw" trace profile "drain --yes" resume "kick 1 --yes"; do
	# shellcheck disable=SC2086
	valid error 5 --timeout 1 $command
done
kill -CONT "$BROKER"

STATE=", after it was killed"
kill -KILL "$BROKER"
wait "$BROKER" 2>/dev/null
BROKER=
valid status 3 status
valid_files 3 "$RUN/killed"
valid doctor 1 doctor
for command in "infer identity $RUN/x.raw" stat "top -n 1 -d 0.1" "latency --history=0.1" trace profile "drain --yes" resume "kick 1 --yes"; do
	# shellcheck disable=SC2086
	valid error 3 $command
done

STATE=", of a snapshot"
INFBROKER_SOCKET=$RUN/loaded/socket
valid status 0 status
for command in models sessions instances rings regions events latency "latency sleep"; do
	# shellcheck disable=SC2086
	valid "${command%% *}" 0 $command
done
valid show 0 show "$(jq '.sessions[0].id' "$RUN/last.sessions")"
for list in sessions instances rings regions; do valid $list 0 $list --watch; done
valid top 0 top
valid top 0 top -n 3
valid devices 0 devices
valid doctor 1 doctor
for command in stat "events -f" "latency -d 1" "latency --history=1" trace profile "drain --yes" resume "kick 1 --yes" "snapshot save $RUN/again"; do
	# shellcheck disable=SC2086
	valid error 2 $command
	check "$command says that it is a snapshot" grep -q 'is a snapshot' "$RUN/said"
done
valid error 3 infer identity "$RUN/x.raw"
INFBROKER_SOCKET=$SOCKET

STATE=", on a device (in software)"
export INF_CUDA_LIBRARY=$PWD/$BUILD/tests/libfakecuda.so
if broker_start --builtin --device cuda; then
	valid status 0 status
	"$BUILD/infbench" -q -n 20 -w 0 add_sub >/dev/null
	background "$BUILD/infbench" -q -t 600 -w 0 sleep >/dev/null 2>&1
	check "load" within 10 sh -c "'$CTL' -j sessions | grep -q infbench"
	valid_files 0 "$RUN/device"
	valid devices 0 devices
	valid doctor 0 doctor
	valid stat 0 stat 0.1 2
	valid top 0 top -n 2 -d 0.1
	valid trace 0 trace -n 3
	valid profile 0 profile -d 0.2 -o "$RUN/profile.json"
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
	[[ $name != kernel.* ]] || continue # tests/kernel/kernel.sh, where the kernel lets us
	[ -e "$RUN/last.$name" ] || { not_ok "schema $name" "nothing above prints it"; continue; }
	check "$name: a member more or less is refused" "$PY" tests/tools/validate.py --broken tests/schemas "$name" "$RUN/last.$name"
done
finish
