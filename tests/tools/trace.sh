#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# trace.sh - shmctl trace, profile, latency, snapshot, drain, resume, kick: against what clients measure themselves, on brokers
# that are stopped and killed, by users who may and who may not.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
TESTS=$BUILD/tests
N=${REQUESTS:-20000}

# --- asked wrongly ---------------------------------------------------------------------------------------------------

for command in trace profile latency snapshot drain resume kick; do
	says "$command --help" 0 "^Usage: shmctl $command" "$CTL" $command --help
done
while IFS='|' read -r words said; do
	# shellcheck disable=SC2086
	says "shmctl $words" 2 "$said" "$CTL" $words
done <<-'X'
	trace --frob|--frob: what is that\?
	trace -n|-n: it takes a value
	trace -n 0|-n takes a number from 1 on, not "0"
	trace -n -1|-n takes a number from 1 on, not "-1"
	trace --slow 5parsecs|--slow takes a time, as 5s or 200ms, not "5parsecs"
	trace --slwo 5ms|Did you mean --slow\?
	trace -d 0|-d takes a time from 1.0 ms to 24h, not "0"
	trace -p x|-p takes a number from 1 on, not "x"
	trace -p 99999999999|-p takes a number from 1 on, not "99999999999"
	trace stray|stray: trace takes no argument
	profile -d never|-d takes a time, as 5s or 200ms, not "never"
	profile stray|stray: profile takes no argument
	latency -d x|-d takes a time, as 5s or 200ms, not "x"
	latency --history=x|--history takes a time, as 5s or 200ms, not "x"
	latency -n 2|-n goes with --history
	latency --history 1 --dist|--history goes with neither -d nor --dist
	latency a b|b: one model, or all
	snapshot|what to do\? save FOLDER, show FOLDER
	snapshot save|what to do\? save FOLDER, show FOLDER
	snapshot keep x|save FOLDER, show FOLDER
	kick|which session\?
	kick x|x: that is no session
	kick -3|-3: what is that\?
	kick 99999999999|that is no session
	kick 1 2|2: one session at a time
	show|which session\?
	show 0|0: that is no session
	show x|x: that is no session
	show 1 2|2: one session at a time
	stat x|stat takes a time
	sessions --watch=0|--watch takes a time from
	drain stray|stray: drain takes no argument
	resume stray|takes no argument
X
for command in "trace" "profile -o $RUN/none" "latency" "snapshot save $RUN/none" "drain --yes" "resume" "kick 1 --yes"; do
	# shellcheck disable=SC2086
	says "without a broker: $command" 3 "no broker runs at $SOCKET" "$CTL" $command
done

broker_start --builtin || { not_ok "start"; finish; }
says "no requests yet" 0 '^no requests yet$' "$CTL" latency
json "no requests yet, -j" 0 "d['models'] == [] and d['schema'] == 'infbroker.latency/1'" "$CTL" latency -j
says "a model that is none" 1 'no model nothing; shmctl models lists them' "$CTL" latency nothing

# --- a trace is true -------------------------------------------------------------------------------------------------

tracer() { # NAME ARGUMENT...: starts shmctl trace -j into $RUN/NAME.json, which has begun when this returns
	local name=$1
	shift
	background "$CTL" trace -j "$@" >"$RUN/$name.json" 2>"$RUN/$name.err"
	TRACER=$LAST
	within 10 test -e "/proc/$TRACER/map_files" && within 10 sh -c "grep -q infbroker-trace /proc/$TRACER/maps"
}
tracer true -n "$N" -m add_sub
"$TESTS/timed" add_sub "$N" >"$RUN/times" || not_ok "timed"
ends "$TRACER" && ok "trace -n ends by itself" || not_ok "trace -n ends by itself" "$(cat "$RUN/true.err")"
check "each time of $N requests lies where the client's clock says" "$PY" -I tests/support/stages.py "$RUN/times" "$RUN/true.json" "$N"
cat "$RUN/out"
"$PY" -I - "$RUN/true.json" >"$RUN/bad.json" <<-'PYTHON'
	import json, sys
	for line in open(sys.argv[1]):
	    record = json.loads(line)
	    if record["position"] % 1000 == 7:
	        record["stages"]["run_ns"] += 3000
	        record["stages"]["total_ns"] += 3000
	    print(json.dumps(record))
PYTHON
check "(3 us more in one of them would be found)" bash -c "! '$PY' -I tests/support/stages.py '$RUN/times' '$RUN/bad.json' $N"

tracer batch -n 8 -m sleep
for _ in 1 2 3 4 5 6 7 8; do background "$TESTS/timed" sleep 1 7 >>"$RUN/eight"; done
ends "$TRACER" || not_ok "eight are traced" "$(cat "$RUN/batch.err")"
lines() { # NAME FILE EXPR: holds of the list of its objects, d
	check "$1" "$PY" -I -c "import json, sys; d = [json.loads(line) for line in open(sys.argv[1])]; sys.exit(0 if ($3) else repr(d)[:600])" "$2"
}
lines "what ran in one batch says so" "$RUN/batch.json" "len(d) == 8 and all(r['batch']['requests'] == sum(
	q['batch']['position'] == r['batch']['position'] and q['batch']['instance'] == r['batch']['instance'] for q in d) for r in d)"
lines "schema, process, session" "$RUN/batch.json" "all(r['schema'] == 'infbroker.trace/1' and r['pid'] > 0 and r['session'] > 0 for r in d)"

tracer slow --slow 1ms -d 2
"$TESTS/timed" add_sub 50 >/dev/null
"$TESTS/timed" sleep 2 >/dev/null
ends "$TRACER" || not_ok "trace -d ends" "$(cat "$RUN/slow.err")"
lines "--slow shows those alone" "$RUN/slow.json" "sum(r['model'] == 'sleep' for r in d) == 2 and all(r['stages']['total_ns'] >= 1e6 for r in d)"

tracer refused -m index -d 1
background "$TESTS/timed" index 1 255 2>/dev/null
ends "$TRACER"
lines "one that is refused has its status" "$RUN/refused.json" "len(d) == 1 and d[0]['status'] == 'BAD_RANGE'"
background "$CTL" trace >"$RUN/people" 2>&1
TRACER=$LAST
within 10 grep -q "infbroker-trace" "/proc/$TRACER/maps"
"$TESTS/timed" add_sub 3 >/dev/null
within 10 grep -q 'add_sub' "$RUN/people"
kill -INT "$TRACER"
check "Ctrl-C ends a trace with status 0" ends "$TRACER"
says "its head and its lines" 0 '^[0-9:.]{12} +[0-9]+ +[0-9]+ add_sub +1 OK +[0-9.]+ [um]s ' cat "$RUN/people"
# Also where SIGPIPE is ignored, as services have it.
background bash -c "exec env --ignore-signal=PIPE '$CTL' trace > >(head -n 1 >'$RUN/head')"
within 10 grep -q "infbroker-trace" "/proc/$LAST/maps"
"$TESTS/timed" add_sub 2000 >/dev/null
check "a closed pipe ends it" within 10 has_ended "$LAST"
says "also where nothing comes" 0 '^ANSWERED' bash -c "timeout 10 '$CTL' trace 2>/dev/null | head -n 1; exit \${PIPESTATUS[0]}"

# --- nobody traces: nobody stamps more than he must, and the trace's memory has come back ------------------------------

used() { "$CTL" status -j | "$PY" -I -c "import json, sys; print(json.load(sys.stdin)['limits']['memory_max']['used'])"; }
is_used() { [ "$(used)" -eq "$1" ]; }
check "what a trace takes is given back" within 10 is_used 0
tracer memory -d 30
check "and it is charged" test "$(used)" -ge 2000000
kill -KILL "$TRACER"
check "also by one that is killed" within 10 is_used 0

# --- latency ----------------------------------------------------------------------------------------------------------

says "latency" 0 '^served +[0-9]+ +[0-9.]+ [num]s' "$CTL" latency add_sub
says "latency --dist draws" 0 '\|.*(█|#).*\|' "$CTL" latency add_sub --dist
json "latency -j counts every request" 0 "[m for m in d['models'] if m['name'] == 'add_sub'][0]['stages']['served']['n'] == $((N + 50 + 3 + 2000)) and
	all(sum(b[1] for b in s['buckets']) == s['n'] for m in d['models'] for s in m['stages'].values())" "$CTL" latency -j
"$BUILD/infbench" -q -t 1 -w 0 -d 32 scalar >/dev/null &
"$TESTS/timed" scalar 2000 >/dev/null
wait $!
json "the stages stand for as many requests as there were, whoever sent them" 0 "(lambda s: s['served']['n'] > 10000 and
	abs(s['queue']['n'] / s['served']['n'] - 1) < 0.2 and s['served']['p999_ns'] <= s['served']['max_ns'])(d['models'][0]['stages'])" \
	"$CTL" latency scalar -j
background "$CTL" latency add_sub -d 2 -j >"$RUN/window.json"
pause; pause; pause; pause; pause; pause
"$TESTS/timed" add_sub 300 >/dev/null
ends "$LAST"
json "a window counts what is in it" 0 "d['window_ns'] >= 2000000000 and d['models'][0]['stages']['served']['n'] == 300" cat "$RUN/window.json"
says "latency --history" 0 '^add_sub +0 +- +- +-$' "$CTL" latency add_sub --history=50ms -n 2
says "without UTF-8, ASCII" 0 '\|.*#.*\|' env LC_ALL=C "$CTL" latency add_sub --dist

# --- profile ----------------------------------------------------------------------------------------------------------

background "$CTL" profile -d 2 -o "$RUN/profile.json" -j >"$RUN/profile.said"
within 10 grep -q "infbroker-trace" "/proc/$LAST/maps"
"$TESTS/timed" add_sub 200 >/dev/null
for _ in 1 2 3; do "$TESTS/timed" sleep 5 5 >/dev/null & done
ends "$LAST" && ok "profile" || not_ok "profile"
json "its file has each request, each stage, each batch, and arrows between them" 0 "(lambda e:
	sum(x['ph'] == 'b' and x['cat'] == 'request' and x['name'] in ('add_sub', 'sleep') for x in e) == 215 and
	all(sum(x['ph'] == p and x.get('cat') == 'request' for x in e) == 215 * 6 for p in 'be') and
	sum(x['ph'] == 's' for x in e) == sum(x['ph'] == 'f' for x in e) == 215 and
	sum(x['args']['requests'] for x in e if x['ph'] == 'X') == 215 and
	{x['args']['name'] for x in e if x['ph'] == 'M'} >= {'infbroker', 'infbroker-executor', 'instance 0', 'timed'} and
	any(x['ph'] == 'C' for x in e) and all(x['ts'] >= 0 or x['ph'] in 'be' for x in e) and
	d['otherData']['requests'] == 215)(d['traceEvents'])" cat "$RUN/profile.json"
json "what it says of it" 0 "d['requests'] == 215 and d['lost'] == 0 and d['schema'] == 'infbroker.profile/1'" cat "$RUN/profile.said"
says "a file that cannot be written" 1 'No such file or directory; name another file with -o' "$CTL" profile -d 0.1 -o "$RUN/nowhere/x"

# --- drain, resume, kick ----------------------------------------------------------------------------------------------

head -c 4 /dev/zero >"$RUN/zero"
says "drain asks for --yes where nobody can answer" 2 'say --yes' "$CTL" drain
json "drain" 0 "d['state'] == 'drains' and d['in_flight'] == 0" "$CTL" drain --yes --wait -j
says "status says so" 0 'drains: new requests are refused until shmctl resume' "$CTL" status
says "a request is refused" 1 'BUSY' "$CTL" infer sleep "$RUN/zero"
says "of a session that is none" 1 'no session 4000000000; shmctl sessions lists them' "$CTL" trace -s 4000000000
says "a ping is not" 0 'requests' "$BUILD/infbench" --ping -q -t 0.1 -w 0
json "resume" 0 "d['state'] == 'serves'" "$CTL" resume -j
check "and they are served again" "$TESTS/timed" add_sub 1
EXECUTOR=$("$CTL" status -j | "$PY" -I -c "import json, sys; print(json.load(sys.stdin)['executor']['pid'])")
background "$TESTS/timed" sleep 1000000 >/dev/null 2>&1 # one after the other, until one is refused
is_in_flight() { [ "$("$CTL" stat 0.01 1 -j | "$PY" -I -c "import json, sys; print(json.load(sys.stdin)['in_flight'])")" -ge 1 ]; }
within 10 is_in_flight || not_ok "one is in flight"
kill -STOP "$EXECUTOR"
pause
within 10 is_in_flight || not_ok "one stays in flight" # the first may have been answered, and the next may come after the drain
background "$CTL" drain --yes --wait -j >"$RUN/drained"
drains() { "$CTL" status -j | grep -q '"draining": true'; }
within 10 drains || not_ok "it drains"
size() { awk '/^VmSize:/ { print $2 }' "/proc/$LAST/status"; }
pause
SIZE=$(size)
for _ in 1 2 3 4 5 6 7 8 9 10; do pause; done
check "drain --wait takes no more memory the longer it waits" test "$SIZE" -gt 0 -a "$(size)" -eq "$SIZE"
kill -CONT "$EXECUTOR"
ends "$LAST" || not_ok "drain --wait ends when that one is answered" "$?"
json "and says so" 0 "d['in_flight'] == 0" cat "$RUN/drained"
"$CTL" resume >/dev/null
background "$TESTS/timed" sleep 1000000 >/dev/null 2>&1
CLIENT=$LAST
session_of() { "$CTL" sessions -j | "$PY" -I -c "import json, sys; print(*[s['id'] for s in json.load(sys.stdin)['sessions'] if s['pid'] == $1])"; }
within 10 test -n "$(session_of "$CLIENT")"
within 10 sh -c "'$CTL' sessions | grep -q timed"
VICTIM=$(session_of "$CLIENT")
says "kick asks as well" 2 'say --yes' "$CTL" kick "$VICTIM"
json "kick" 0 "d['session'] == $VICTIM" "$CTL" kick "$VICTIM" --yes -j
check "its client has lost its broker" bash -c "! wait $CLIENT"
within 10 has_ended "$CLIENT" && ok "and ends" || not_ok "and ends"
says "it is gone" 1 "no session $VICTIM of yours" "$CTL" kick "$VICTIM" --yes
if other_user; then
	OTHER=(setpriv --reuid=65534 --regid=65534 --clear-groups) THIRD=(setpriv --reuid=65533 --regid=65533 --clear-groups)
	cp "$TESTS/timed" "$RUN/bin"
	chmod 755 "$RUN/bin/timed"
	background "${THIRD[@]}" env LD_LIBRARY_PATH="$RUN/bin" "$RUN/bin/timed" sleep 1000000 >/dev/null 2>&1
	CLIENT=$LAST
	within 10 sh -c "'$CTL' sessions | grep -q timed"
	VICTIM=$(session_of "$CLIENT")
	says "another user may not drain" 4 'for root and for user' "${OTHER[@]}" "$RUN/bin/shmctl" drain --yes
	says "nor resume" 4 'for root and for user' "${OTHER[@]}" "$RUN/bin/shmctl" resume
	says "nor kick a third one's session" 1 "no session $VICTIM of yours" "${OTHER[@]}" "$RUN/bin/shmctl" kick "$VICTIM" --yes
	as_other "$RUN/bin/shmctl" trace -j -d 0.5 >"$RUN/others.json" 2>&1
	check "nor sees a third one's requests" test ! -s "$RUN/others.json"
	as_third "$RUN/bin/shmctl" trace -j -d 0.5 >"$RUN/own.json" 2>&1
	lines "but his own" "$RUN/own.json" "len(d) > 10 and all(r['uid'] == 65533 for r in d)"
	json "and kicks his own" 0 "d['session'] == $VICTIM" "${THIRD[@]}" "$RUN/bin/shmctl" kick "$VICTIM" --yes -j
else
	skip "who may what" "no second user here (root and setpriv)"
fi

# --- snapshots, of brokers that are stopped and killed ------------------------------------------------------------------

says "snapshot save" 0 'a broker that was running' "$CTL" snapshot save "$RUN/first"
says "into a folder that is there" 1 'name a folder that is not there yet' "$CTL" snapshot save "$RUN/first"
"$TESTS/timed" add_sub 77 >/dev/null
background "$CTL" trace -d 20 >/dev/null
tracer=$LAST
traces() { [ "$("$CTL" status -j | jq '.limits.sessions_max.used - .sessions.now')" -gt 0 ]; }
check "who watches takes a place, and is no session" within 10 traces
json "that is not shown" 0 "d['not_shown'] == 0" "$CTL" sessions -j
kill -INT "$tracer"
ends "$tracer"
background "$BUILD/infbench" -q -t 30 -w 0 sleep >/dev/null
within 10 sh -c "'$CTL' rings | grep -qE ' infbench +0 +[1-9]'"
kill -STOP "$BROKER"
quick() { # NAME STATUS COMMAND...: ends with STATUS, and says how long that took; 0.1 s is the bar, 2 s the limit under any load
	local name=$1 status=$2 rc=0 start=$EPOCHREALTIME
	shift 2
	timeout 2 "$@" >"$RUN/quick" 2>&1 || rc=$?
	[ $rc -eq "$status" ] && ok "$name ($(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f ms", (b - a) * 1e3 }'))" || not_ok "$name" "$rc: $(head -c 300 "$RUN/quick")"
}
quick "status of a stopped broker" 1 "$CTL" status
quick "its sessions" 0 "$CTL" sessions
check "with the right one" grep -q infbench "$RUN/quick"
quick "its rings" 0 "$CTL" rings
check "with the same one" grep -qE " infbench +0 +[1-9]" "$RUN/quick"
quick "its models" 0 "$CTL" models
quick "a snapshot of it" 0 "$CTL" snapshot save "$RUN/stopped"
says "which says that it was" 0 '"state": "stopped"' cat "$RUN/stopped/snapshot.json"
says "latency of a stopped broker" 0 '^served' "$CTL" latency add_sub
says "drain of a stopped broker" 5 'does not answer' "$CTL" --timeout 1 drain --yes
kill -CONT "$BROKER"
json "which does not drain later, when nobody waits for it any more" 0 "not d['draining']" "$CTL" status -j
json "diff: what came in between" 0 "[m['requests'] for m in d['models'] if m['name'] == 'add_sub'] == [77] and d['sessions'] >= 2" "$CTL" snapshot diff "$RUN/first" "$RUN/stopped" -j
says "for people" 0 '^  requests +\+77 ' "$CTL" snapshot diff "$RUN/first" "$RUN/stopped"
says "the wrong way round" 2 'is the later one; name it second' "$CTL" snapshot diff "$RUN/stopped" "$RUN/first"
says "one twice" 2 'are the same; name two snapshots' "$CTL" snapshot diff "$RUN/first" "$RUN/first"
cp -r "$RUN/stopped" "$RUN/damaged"
: >"$RUN/damaged/snapshot.json"
for command in 'snapshot show' 'status --socket' 'sessions --socket'; do
	[ "${command#snapshot}" = "$command" ] && of=$RUN/damaged/socket || of=$RUN/damaged
	# shellcheck disable=SC2086
	says "a snapshot that is damaged: $command" 1 'snapshot.json beside .* is damaged' "$CTL" $command "$of"
done
says "show" 0 '^broker +snapshot, pid' "$CTL" snapshot show "$RUN/stopped"
says "its models" 0 '^add_sub +1 ready' "$CTL" snapshot show "$RUN/stopped"
says "its sessions" 0 ' infbench ' "$CTL" snapshot show "$RUN/stopped"
json "other commands read it as well" 0 "d['state'] == 'snapshot'" "$CTL" --socket "$RUN/stopped/socket" status -j
for command in stat 'events -f' 'latency -d 1' 'latency --history 1' trace "profile -o $RUN/none" 'drain --yes' resume 'kick 1 --yes' \
	"snapshot save $RUN/none"; do
	# shellcheck disable=SC2086
	says "of a snapshot: $command" 2 "$RUN/stopped/socket is a snapshot" "$CTL" --socket "$RUN/stopped/socket" $command
done
for command in 'instances --watch' 'sessions --watch=1' 'top --batch' 'top --batch -n 3'; do
	# shellcheck disable=SC2086
	says "one picture of a snapshot: $command" 0 . timeout 5 "$CTL" --socket "$RUN/stopped/socket" $command
	check "and not a second one: $command" test "$(grep -c '^ *ID \|^infbroker ' "$RUN/said")" = 1
done
says "a model of a snapshot" 0 'is a snapshot: this is from its statistics' "$CTL" --socket "$RUN/stopped/socket" models
says "a folder that is none" 1 'shmctl snapshot save makes one' "$CTL" snapshot show "$RUN/nowhere"
tracer last -d 30
kill -KILL "$BROKER"
wait "$BROKER" 2>/dev/null
BROKER=
ends "$TRACER"
check "a trace of a broker that is killed says so" test $? -eq 3
says "in words" 0 'the broker has ended the trace, or is gone' tail -n 5 "$RUN/last.json" "$RUN/last.err"
quick "status of a killed broker" 3 "$CTL" status
quick "its sessions" 3 "$CTL" sessions
quick "its rings" 3 "$CTL" rings
quick "its models" 3 "$CTL" models
check "with the right figures" grep -qE "^add_sub +1 ready .* $((N + 50 + 3 + 2000 + 300 + 200 + 1 + 77)) " "$RUN/quick"
quick "a snapshot of it" 0 "$CTL" snapshot save "$RUN/killed"
says "latency of a killed broker" 3 '^served' "$CTL" latency add_sub
finish
