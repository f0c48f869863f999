#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# views.sh - what shmctl shows of a running broker: instances, rings, regions, show, stat, events, top. Figures against a load that is
# known, files that are hostile or large, and a terminal that is as it was afterwards, whatever happened.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
unset NO_COLOR CLICOLOR_FORCE
export TERM=xterm LC_ALL=C.UTF-8
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}handle_segv=1

# --- what is asked wrongly --------------------------------------------------------------------------------------------

while read -r words; do
	# shellcheck disable=SC2086
	says "usage: $words" 2 '^shmctl [a-z]+: ' "$CTL" $words
done <<-'X'
	rings -o xml
	rings --watch=x
	rings --watch=0
	rings --watc=1
	rings --sort=size
	sessions --sort=
	sessions --sort
	instances --filter=busy
	instances --filter=stat=busy
	regions --filter=kind=a --filter=kind=b --filter=kind=c --filter=kind=d --filter=kind=e
	show
	show 0
	show one
	show 1 2
	stat 0
	stat 1 0
	stat 1 2 3
	stat -1
	events -n 0
	events -n x
	events -n
	top --sort=size
	top --color=red
	top -d 0
	top -n 3
	top stray
X
says "no terminal, no --batch" 2 'standard output is no terminal; shmctl top --batch -n 10 is for files' "$CTL" top
for command in instances rings regions 'show 1' events stat 'top -b'; do
	# shellcheck disable=SC2086
	says "without a broker: $command" 3 "no broker runs at $SOCKET" "$CTL" $command
done

# --- figures against a load that is known -----------------------------------------------------------------------------

export INF_BUILTIN_COST=10000,0 # sleep: 10 ms a batch
broker_start --builtin --instances 1 || { not_ok "start"; finish; }
json "instances" 0 "d['schema'] == 'infbroker.instances/1' and d['state'] == 'running' and d['executor_pid'] == $(executor_pid) and
	[(i['instance'], i['state']) for i in d['instances']] == [(0, 'idle')]" "$CTL" instances -j
json "no sessions: no rings" 0 "d['rings'] == [] and d['sessions_not_shown'] == 0" "$CTL" rings -j
says "and people are told" 0 '^no lanes$' "$CTL" rings
json "events" 0 "d['schema'] == 'infbroker.events/1' and d['not_kept'] == 0 and d['pid'] == $BROKER and
	[e['event'] for e in d['events']] == ['started', 'executor-ready'] + ['model-ready'] * 14 and
	[e['seq'] for e in d['events']] == list(range(1, 17)) and
	all(abs(e['time_ns'] / 1e9 - __import__('time').time()) < 600 for e in d['events'])" "$CTL" events -j
says "events have the time of day" 0 "^$(date +%Y)-[0-9]+-[0-9]+ [0-9:]+\.[0-9]{3} started +version" "$CTL" events
says "the last one only" 0 '^.* model-ready +normalise, version 1$' "$CTL" events -n 1 --no-header
check "and that is one line" test "$(wc -l <"$RUN/said")" = 1

mkfifo "$RUN/orders"
exec 7<>"$RUN/orders"
background env ASK_NAME=$'ask \xff\x1b[2J\n' "$BUILD/tests/ask" identity <"$RUN/orders" >"$RUN/heard" 7>&-
client=$LAST
check "a client" within 10 grep -q open "$RUN/heard"
for i in 1 2 3; do echo $i >&7; done
answered() { [ "$(grep -cx OK "$RUN/heard")" -eq "$1" ]; }
check "it has three answers" within 10 answered 3
id=$("$CTL" sessions -o tsv --no-header | cut -f 1)
its_figures() { "$CTL" show "$id" -j | tr -d ' \n' | grep -q '"requests":3,.*"accepted":3,"posted":3,"in_flight":0,"unread":0'; }
check "show: they are counted" within 10 its_figures
json "show" 0 "d['schema'] == 'infbroker.show/1' and (d['id'], d['pid'], d['uid'], d['requests'], d['errors']) == ($id, $client, $(id -u), 3, 0) and
	d['name'].startswith('ask ') and d['name'].isprintable() and [(m['model'], m['requests']) for m in d['models']] == [('identity:1', 3)] and
	d['served_ns']['n'] == 3 == sum(n for _, n in d['served_ns']['buckets']) and 0 < d['served_ns']['p50_ns'] <= d['served_ns']['p99_ns'] and
	len(d['rings']) == 1 and {r['kind'] for r in d['regions']} >= {'request', 'output'} and
	sum(r['bytes'] for r in d['regions'] if r['kind'] == 'output') == d['output_bytes']" "$CTL" show "$id" -j
json "sessions: how long, and which models" 0 "[(s['requests'], [m['model'] for m in s['models']], 0 < s['p50_ns'] <= s['p99_ns']) for s in d['sessions']] ==
	[(3, ['identity:1'], True)]" "$CTL" sessions -j
says "show harms no terminal" 0 "^session +$id, pid $client, uid $(id -u), ask [^[:cntrl:]]*, connected for " "$CTL" show "$id"
says "a session that there is not" 1 'no session 7777 that you may see' "$CTL" show 7777
json "the same in JSON" 1 "d['exit_status'] == 1" "$CTL" show 7777 -j
says "a number that is no session's" 2 '4294967297: that is no session' "$CTL" show 4294967297
says "tabs" 0 "^$id	$client	ask [^	]*	0	3	3	0	0	(idle|active)\$" "$CTL" rings -o tsv --no-header
says "and the names of columns" 0 '^session	pid	name	lane	accepted	posted	in_flight	unread	state$' "$CTL" rings -o tsv
background "$BUILD/infbench" -q -t 60 -w 0 -d 8 sleep >/dev/null
parent=$LAST # of the one that asks
has_child() { bench=$(pgrep -P "$parent"); }
within 10 has_child || not_ok "infbench"
its_ring() { "$CTL" rings -j | "$PY" -I -c "import json, sys; sys.exit(not any(r['pid'] == $bench and $1 for r in json.load(sys.stdin)['rings']))"; }
check "a client with eight in flight" within 10 its_ring "r['posted'] > 8"
kill -STOP "$bench"
check "which is stopped, and does not read them" within 10 its_ring "r['in_flight'] == 0 and 1 <= r['unread'] <= 8"
kill -KILL "$bench" "$parent"
ends "$parent"
"$CTL" rings --watch=0.05 -j 2>/dev/null | head -n 3 >"$RUN/watched"
check "--watch: an object a line" "$PY" -I -c 'import json, sys
lines = open(sys.argv[1]).read().splitlines()
sys.exit(not (len(lines) == 3 and all(json.loads(l)["rings"][0]["accepted"] == 3 for l in lines)))' "$RUN/watched"

# One instance, 10 ms a batch, one request each: it is busy without a gap, and answers 100 a second.
background "$BUILD/infbench" -w 0 -t 60 -d 2 -r 16 sleep >"$RUN/bench" 2>&1
load=$LAST
busy() { "$CTL" instances -j | tr -d ' \n' | grep -q '"state":"busy","model":"sleep:1"'; }
check "instances: one is busy" within 10 busy
json "stat: what comes in an interval" 0 "d['schema'] == 'infbroker.stat/1' and 30 <= d['requests_per_s'] <= 110 and d['rows_per_batch'] == 16 and
	abs(d['rows_per_s'] - 16 * d['batches_per_s']) < 2 and d['busy'] > 0.8 and d['errors_per_s'] == 0 and d['sessions'] == 2 and d['in_flight'] in (1, 2) and
	10e6 <= d['p50_ns'] <= 60e6 and d['p50_ns'] <= d['p99_ns'] and 5e8 <= d['interval_ns'] <= 2e9" "$CTL" stat -j 0.5 1
says "stat for people" 0 '^ +[0-9.]+ +[0-9.]+k? +[0-9.]+ +16 +[0-9.]+ ms +[0-9.]+ ms ' "$CTL" stat 0.2 2
json "top: a tree of the same" 0 "d['schema'] == 'infbroker.top/1' and 30 <= d['requests_per_s'] <= 110 and d['busy'] > 0.8 and
	(lambda m: m['name'] == 'sleep:1' and m['state'] == 'R' and 10e6 <= m['batch_ns'] <= 30e6 and m['busy'] > 0.8 and m['rows_per_batch'] == 16 and
	0.3 < m['waiting'] < 1.7 and 2e6 < m['wait_ns'] < 50e6 and [i['instance'] for i in m['instances']] == [0] and m['instances'][0]['busy'] > 0.8 and
	[c['name'].split()[0] for c in m['clients']] == ['infbench'] and 30 <= m['clients'][0]['requests_per_s'] <= 110)(d['models'][0]) and
	[[c['pid'] for c in m['clients']] for m in d['models'] if m['name'] == 'identity:1'] == [[$client]]" "$CTL" top -j -n 1 -d 0.5
lines() { "$PY" -I -c 'import json, sys
busy = [json.loads(line)["busy"] for line in open(sys.argv[1])]
print(busy)
sys.exit(not (len(busy) == 40 and sum(busy) / len(busy) > 0.8))' "$1"; }
"$CTL" stat -j 0.004 40 >"$RUN/short"
check "a batch that is longer than the interval is work too" lines "$RUN/short"
says "top for a file" 0 '^sleep:1 +R +[0-9.]+ms +[0-9.]+ms +[01]\.[0-9]+ +[01]\.[0-9]+ +16 +[0-9.]+ +[0-9.]+ms +[0-9.]+ms +0' "$CTL" top --batch -n 1 -d 0.5
check "no line is longer than 80" bash -c "[ \"\$(wc -L <'$RUN/said')\" -le 80 ]"
check "no colours, no control characters" bash -c "! grep -qP '[\x00-\x08\x0b-\x1f\x7f]' '$RUN/said'"
says "a filter" 0 "^ \+ ask " "$CTL" top --batch -n 1 -d 0.05 --filter=$client
check "hides the others" bash -c "! grep -q '^sleep' '$RUN/said'"
for columns in 1 20 200; do
	COLUMNS=$columns "$CTL" top --batch -n 1 -d 0.05 >"$RUN/said"
	check "$columns columns" bash -c "[ \"\$(wc -L <'$RUN/said')\" -le $columns ]"
done
says "where there is no UTF-8: ASCII" 0 '^req/s [0-9.]+ +#' env LC_ALL=C "$CTL" top --batch -n 1 -d 0.1
colours() { # EXPECTED WORDS...
	local n
	n=$("${@:2}" | grep -c $'\033')
	if [ "$1" = none ]; then [ "$n" -eq 0 ]; else [ "$n" -gt 0 ]; fi
}
top="$CTL top -b -n 1 -d 0.02"
# shellcheck disable=SC2086
{
	check "colours: --color=always" colours some $top --color=always
	check "colours: it goes before NO_COLOR" colours some env NO_COLOR=1 $top --color=always
	check "colours: CLICOLOR_FORCE" colours some env CLICOLOR_FORCE=1 $top
	check "colours: CLICOLOR_FORCE=0 is none" colours none env CLICOLOR_FORCE=0 $top
	check "colours: NO_COLOR goes before that" colours none env NO_COLOR=1 CLICOLOR_FORCE=1 $top
	check "colours: --color=never" colours none env CLICOLOR_FORCE=1 $top --color=never
}
closed() { # WORDS...: whoever reads it reads one line
	local rc
	"$CTL" "$@" 2>"$RUN/closed.err" | head -n 1 >/dev/null
	rc=${PIPESTATUS[0]}
	{ [ "$rc" -eq 141 ] || [ "$rc" -le 1 ]; } && [ ! -s "$RUN/closed.err" ]
}
for words in 'top -b -d 0.01' 'top -j -d 0.01' 'stat 0.01' 'rings --watch=0.01' 'events -f'; do
	# shellcheck disable=SC2086
	check "a closed pipe ends it quietly: $words" closed $words
	# shellcheck disable=SC2086
	check "where SIGPIPE is ignored, too: $words" bash -c "trap '' PIPE; timeout 20 '$CTL' $words 2>'$RUN/closed.err' | head -n 1 >/dev/null; [ ! -s '$RUN/closed.err' ]"
done

for words in 'top -b -d 0.01' 'top -j -d 0.01' 'stat 0.01' 'stat 0.01 -j' 'rings --watch=0.01' 'events' 'events -f -j' 'latency --history=0.01'; do
	says "a full disk ends it: $words" 1 'cannot write the answer: No space left' bash -c "'$CTL' $words >/dev/full"
	check "which is said once: $words" test "$(grep -c 'cannot write' "$RUN/said")" = 1
done

# --- a terminal -------------------------------------------------------------------------------------------------------

on_terminal() { # NAME STEP... [-- COMMAND...]
	local name=$1 words=("${@:2}")
	[[ " ${words[*]} " == *' -- '* ]] || words+=(-- "$CTL" top -d 0.1)
	check "$name" "$PY" -I tests/support/terminal.py "${words[@]}"
}
on_terminal "q ends it" raw shows:sleep:1 key:q ends:0 given-back cooked
on_terminal "SIGINT" shows:sleep:1 signal:INT ends:-2 given-back
on_terminal "Ctrl-C" shows:sleep:1 'key:\x03' ends:-2 given-back
on_terminal "SIGTERM" shows:sleep:1 signal:TERM ends:-15 given-back
on_terminal "SIGHUP" shows:sleep:1 signal:HUP ends:-1 given-back
on_terminal "SIGQUIT" shows:sleep:1 signal:QUIT ends:-3 given-back
case $BUILD in
*asan*) crash='ends:1' ;; # its report, and its exit status
*) crash='ends:-11' ;;
esac
on_terminal "a crash" shows:sleep:1 signal:SEGV "$crash" given-back
on_terminal "an abort" shows:sleep:1 signal:ABRT ends:-6 given-back
on_terminal "Ctrl-Z, and on" shows:sleep:1 'key:\x1a' stops given-back cooked continues raw shows:sleep:1 key:q ends:0 given-back
on_terminal "SIGSTOP, and on" shows:sleep:1 signal:STOP stops continues raw shows:sleep:1 key:q ends:0 given-back
on_terminal "another size" shows:sleep:1 size:10x20 shows:MODEL shows:MODEL shows:MODEL narrow size:3x7 shows:infbrok shows:infbrok shows:infbrok narrow \
	size:1x1 shows:i shows:i shows:i narrow size:60x200 shows:ERR shows:ERR shows:ERR narrow key:q ends:0 given-back
on_terminal "another size is drawn at once" shows:sleep:1 shows:sleep:1 size:10x20 shows:MODEL key:q ends:0 given-back -- "$CTL" top -d 60
on_terminal "keys" shows:sleep:1 key:s shows:ort:p99 key:r 'shows:p99\^' key:t shows:ree:models key:f shows:filter: key:index 'key:\x7f' \
	shows:filter:\ inde_ 'key:\r' shows:ilter:inde 'shows:index:1' key:p shows:PAUSED key:p 'key:?' 'shows:W/Q ' key:x shows:ilter:inde \
	'key:\x1b' 'shows:ilter\]? ?\[p' 'key:\x1b[B\x1b[5~\x1b[1;5H\x1bOBq' ends:0 given-back
on_terminal "TERM=dumb: no colours" shows:sleep:1 shows:MODEL 'never:\x1b\[7m' key:q ends:0 -- env TERM=dumb "$CTL" top -d 0.1
on_terminal "NO_COLOR: none" shows:sleep:1 shows:MODEL 'never:\x1b\[7m' key:q ends:0 -- env NO_COLOR=1 "$CTL" top -d 0.1
on_terminal "else there are some" shows:sleep:1 'shows:\x1b\[7m' key:q ends:0 given-back

# --- a broker that is stopped, killed, started anew -----------------------------------------------------------------------

"$CTL" events -f -j -n 1 >"$RUN/followed" 2>"$RUN/followed.err" &
follower=$!
BACKGROUND+=("$follower")
check "events -f: the last one first" within 10 grep -q normalise "$RUN/followed"
kill -KILL "$(executor_pid)"
check "and the next when it happens" within 10 grep -q executor-died "$RUN/followed"
kill -STOP "$BROKER"
says "instances of a stopped broker" 0 "is stopped \(pid $BROKER\): nothing changes" "$CTL" instances
json "nobody knows how busy it is" 0 "d['busy'] is None" "$CTL" stat 0.05 1 -j
says "nor does top" 0 '^in flight ' "$CTL" top -b -n 1 -d 0.05
check "which has no share of it" bash -c "! grep -q 'busy [0-9]' '$RUN/said'"
json "rings of a stopped broker" 0 "d['state'] == 'stopped' and len(d['rings']) == 2" "$CTL" rings -j
kill -CONT "$BROKER"
cat >"$RUN/again" <<-X
	kill -KILL $BROKER
X
on_terminal "it dies while top runs, and another one comes" shows:sleep:1 'shows:  pid ' "do:sh '$RUN/again'" 'shows:gone[^,]*, waiting for a new one' \
	"do:'$BUILD/infbroker' --socket '$SOCKET' --builtin 2>>'$RUN/broker.log' & echo \$! >'$RUN/new'" shows:running 'shows:req/s 0' key:q ends:0 given-back
wait "$BROKER" 2>/dev/null
BROKER=$(cat "$RUN/new")
one_started() { grep -q "\"pid\":$BROKER,.*\"event\":\"started\"" "$RUN/followed"; }
check "events -f goes on with the new one" within 10 one_started
kill -TERM "$BROKER"
# Most often it is gone by the next look, and its file has no name any more.
its_last() { grep -q "\"pid\":$BROKER,.*\"event\":\"stop\"" "$RUN/followed"; }
check "events -f has the last words of a broker that ends" within 10 its_last
within 10 has_ended "$BROKER" # not our child
check "stat and lists wait for another one" bash -c "timeout 1 '$CTL' rings --watch=0.05 2>&1 | grep -c 'no broker runs' | grep -qE '[0-9]{2}|[5-9]'"
broker_start --builtin --instances 1 || not_ok "start"
kill "$follower"
json "sessions that the killed one left are not this one's" 0 "d['sessions'] == [] and d['not_shown'] == 0" "$CTL" sessions -j
exec 7>&-
kill -TERM "$load" "$client" 2>/dev/null
ends "$load"

# Three clients, one instance: while one is served the others wait, and share the next batch. None is counted as another.
fds=() loads=()
for depth in 2 3 5; do
	mkfifo "$RUN/go$depth"
	background "$BUILD/infbench" --commands -j -q -w 0 -d $depth sleep <>"$RUN/go$depth" >"$RUN/went$depth"
	loads+=("$LAST")
	exec {fd}>"$RUN/go$depth"
	fds+=("$fd")
	check "a load of $depth" within 10 grep -q ready "$RUN/went$depth"
done
for fd in "${fds[@]}"; do echo go 1 >&"$fd"; done
for depth in 2 3 5; do check "it went" within 10 grep -q requests "$RUN/went$depth"; done
json "who shares a batch is counted apart" 0 "sorted(s['requests'] for s in d['sessions']) == sorted(json.loads(
	open('$RUN/went%d' % n).read().split('\n')[1])['requests'] for n in (2, 3, 5))" "$CTL" sessions -j
ended() { # requests that end at their deadline, before they have run, have a latency as well
	"$BUILD/infbench" -q -w 0 -n 60 -r 16 -d 8 --deadline 1 sleep >"$RUN/late"
	"$CTL" models -j | "$PY" -I -c 'import json, sys
m = next(m for m in json.load(sys.stdin)["models"] if m["name"] == "sleep")
print(m["requests"], m["errors"], m["served_ns"])
sys.exit(not (m["errors"] >= 30 and m["served_ns"]["n"] == m["requests"]))'
}
check "served is of all requests, however they ended" ended
order() { # EXPECTED-NAMES OPTION...: what the loads have in flight at most, in that order
	local wanted=$1 n
	shift
	"$CTL" sessions -o tsv --no-header "$@" >"$RUN/order" || return 1
	n=$(while IFS=$'\t' read -r _ pid _; do echo -n "$(tr '\0' ' ' </proc/"$pid"/cmdline | sed 's/.* -d \([0-9]\) .*/\1/')"; done <"$RUN/order")
	echo "$n"
	[ "$n" = "$wanted" ]
}
check "--sort: the largest first" order 532 --sort=requests
check "--sort=-: the smallest" order 235 --sort=-requests
check "what is equal stays as it was" order 235 --sort=-errors
json "--filter: a part of a text" 0 "{r['kind'] for r in d['regions']} == {'request', 'response'}" "$CTL" regions -j --filter=kind=RE
child=$(tr -d ' ' <"/proc/${loads[1]}/task/${loads[1]}/children")
check "--filter: a number" order 3 --filter="pid=$child" --filter=name=infbench
requests=$("$CTL" sessions -o tsv --no-header --sort=-requests | cut -f 11 | head -n 1)
check "--filter: all of a number" order 2 --filter="requests=$requests"
check "and not a part of it" order '' --filter="requests=${requests%?}"
says "nothing is left" 0 '^nothing matches$' "$CTL" sessions --filter=name=nobody
json "JSON is sorted, too" 0 "[r['kind'] for r in d['regions']] == ['response'] * 3 + ['request'] * 3 + ['output'] * 3 and
	[r['session'] for r in d['regions'][:3]] == sorted(r['session'] for r in d['regions'][:3])" "$CTL" regions -j --sort=-kind
json "and whole" 0 "[s['requests'] for s in d['sessions']] == sorted((s['requests'] for s in d['sessions']), reverse=True) and
	all(s['models'][0]['requests'] == s['requests'] for s in d['sessions'])" "$CTL" sessions -j --sort=requests
json "regions are what is charged, but for room for the outputs of the next executor" 0 "sum(r['bytes'] for r in d['regions']) ==
	$("$CTL" status -j | jq '.limits.memory_max.used') - sum(r['bytes'] for r in d['regions'] if r['kind'] == 'output')" "$CTL" regions -j
for fd in "${fds[@]}"; do exec {fd}>&-; done
kill -TERM "${loads[@]}"
for load in "${loads[@]}"; do ends "$load"; done
ends "$client"
kill -KILL "$BROKER"
within 10 has_ended "$BROKER"
killed=$BROKER BROKER=
for command in sessions instances rings regions events 'top -b -n 1 -d 0.01'; do
	# shellcheck disable=SC2086
	says "of a killed broker: $command" 3 "is gone; start infbroker anew" "$CTL" $command
done
json "its events are there" 3 "d['state'] == 'gone' and d['pid'] == $killed and d['events'][0]['event'] == 'started'" "$CTL" events -j

# --- ten thousand sessions, and names that are none -------------------------------------------------------------------

big() { "$BUILD/tests/stats_file" "$RUN/big" "$@"; }
big 10000 $$ || not_ok "make a large file"
export EXPECT_SECONDS=30
quick() { # NAME COMMAND...: within 3 s, sanitizers included; 0.1 s is usual
	local start=${EPOCHREALTIME/./} ms
	"${@:2}" --socket "$RUN/big" >"$RUN/said" 2>&1
	ms=$(((${EPOCHREALTIME/./} - start) / 1000))
	echo "# $1: $ms ms, $(wc -l <"$RUN/said") lines"
	[ $ms -lt 3000 ] && ! grep -qP '[\x00-\x08\x0b-\x1f\x7f-\xff]' <(sed 's/[▁-█]//g' "$RUN/said")
}
for command in sessions rings 'rings -o tsv' 'regions -j' 'show 10000' instances events 'top -b -n 1 -d 0.01' 'top -b -n 1 -d 0.01 --sort=name' 'top -j -n 1 -d 0.01' 'stat 0.01 1'; do
	# shellcheck disable=SC2086
	check "10,000 sessions: $command" quick "$command" "$CTL" $command
	grep '^#' "$RUN/out"
done
json "all of them" 0 "len(d['sessions']) == 10000 and d['sessions'][6]['models'] == [{'model': 'model6:1', 'requests': 100, 'depth': 8}] and
	all(s['name'].isprintable() for s in d['sessions'])" "$CTL" sessions -j --socket "$RUN/big"
json "positions count from where the session began" 0 "all((r['accepted'], r['posted'], r['unread']) == (50, 50, 50) for r in d['rings']) and
	len(d['rings']) == 20000" "$CTL" rings -j --socket "$RUN/big"
json "events that are not kept any more" 0 "d['not_kept'] == 0 and [e['seq'] for e in d['events']] == list(range(45, 301))" "$CTL" events -j --socket "$RUN/big"

says "five letters of errors" 0 '^model3:1 .* 86\.9k( |$)' "$CTL" top -b -n 1 -d 0.01 --filter=model3 --socket "$RUN/big"

# What top costs with 100 sessions.
big 100 $$
"$PY" -I - "$CTL" "$RUN/big" <<-'X'
	import resource, subprocess, sys
	subprocess.run([sys.argv[1], "--socket", sys.argv[2], "top", "--batch", "-d", "0.05", "-n", "20"], stdout=subprocess.DEVNULL)
	used = resource.getrusage(resource.RUSAGE_CHILDREN)
	print("# top, 100 sessions: %.2f ms a look, so %.2f %% of a core at one a second" % ((used.ru_utime + used.ru_stime) * 50, (used.ru_utime + used.ru_stime) * 5))
X

# --- files that are hostile -------------------------------------------------------------------------------------------

# Events that are written without a pause: each is whole, or not shown.
background "$BUILD/tests/stats_file" "$RUN/big" 0 $$ 1 spin
pause
check "events that are being written are not shown" "$BUILD/tests/fuzz_views" 0 "$RUN/big" 3000
kill -KILL "$LAST"
ends "$LAST"

# Cut and scribbled over while they are read: an answer or an error, never a signal.
big 3000 $$
"$PY" -I - "$RUN/big" <<-'X' &
	import glob, os, random, sys
	files = [(path, open(path, "rb").read()) for path in glob.glob(sys.argv[1] + ".stats*")]
	while True:
	    path, whole = random.choice(files)
	    fd = os.open(path, os.O_WRONLY)
	    os.ftruncate(fd, random.randrange(len(whole)))
	    os.pwrite(fd, whole, 0)
	    for _ in range(50):
	        os.pwrite(fd, random.randbytes(8), random.randrange(64, len(whole)))
	    os.close(fd)
X
scribbler=$!
BACKGROUND+=("$scribbler")
survives() {
	local rc i
	for i in $(seq "$1"); do
		"${@:2}" --socket "$RUN/big" >/dev/null 2>"$RUN/said"
		rc=$?
		[ $rc -le 3 ] && ! grep -q Sanitizer "$RUN/said" || { echo "exit status $rc" && head -n 3 "$RUN/said" && return 1; }
	done
}
for command in sessions 'sessions -j' rings events 'top -b -n 30 -d 0.002' 'top -j -n 30 -d 0.002' 'stat 0.002 30' status 'show 1'; do
	# shellcheck disable=SC2086
	check "cut and changed while it is read: $command" survives 3 "$CTL" $command
done
kill "$scribbler"
wait "$scribbler" 2>/dev/null
big 5 $$
head -c 4096 "$RUN/big.stats.$(id -u)" >"$RUN/cut" && cp "$RUN/cut" "$RUN/big.stats.$(id -u)"
json "a user's file that is cut is nobody's" 0 "d['sessions'] == [] and d['not_shown'] == 5" "$CTL" sessions -j --socket "$RUN/big"
printf '\x63' | dd of="$RUN/big.stats" bs=1 seek=8 conv=notrunc 2>/dev/null
for command in instances rings regions 'show 1' events stat 'top -b'; do
	# shellcheck disable=SC2086
	says "another version: $command" 6 'is of another version' "$CTL" $command --socket "$RUN/big"
done
tr '\0' '\377' </dev/zero | head -c 4096 >"$RUN/big.stats"
json "all ones" 1 "d['exit_status'] == 1" "$CTL" rings -j --socket "$RUN/big"
if other_user; then
	big 5 $$
	chmod 600 "$RUN/big.stats.$(id -u)"
	json "another user's sessions" 0 "d['rings'] == [] and d['sessions_not_shown'] == 5" setpriv --reuid=65534 --regid=65534 --clear-groups "$RUN/bin/shmctl" rings -j --socket "$RUN/big"
	chmod 600 "$RUN/big.stats"
	says "another user's file" 4 'Permission denied' setpriv --reuid=65534 --regid=65534 --clear-groups "$RUN/bin/shmctl" top -b --socket "$RUN/big"
else
	skip "another user's file" "no second user here"
fi
finish
