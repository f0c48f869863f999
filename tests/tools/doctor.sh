#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# doctor.sh - each fault that `shmctl doctor` knows is made, must be found and its fix be named; where the fix can be followed
# here, it is, and the fault must be gone then. A broker that is well has none.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
SOCKET=$RUN/run/socket
export INFBROKER_SOCKET=$SOCKET
mkdir -m 700 "$RUN/run" "$RUN/models" "$RUN/empty" "$RUN/programs"
EXECUTOR=$RUN/programs/infbroker-executor

# NAME STATUS CHECK VERDICT FINDING FIX COMMAND...: one line of it is so; FIX is a regular expression, "" = there is none.
finds() {
	json "$1" "$2" "any(c['check'] == '$3' and c['verdict'] == '$4' and __import__('re').search(r'''$5''', c['finding']) and
		(__import__('re').search(r'''$6''', c['fix'] or '') if r'''$6''' else c['fix'] is None) for c in d['checks'])" "${@:7}"
}
well() { json "$1" 0 "d['failures'] == 0 and not any(c['verdict'] == 'fail' for c in d['checks'])" "${@:2}"; }

# --- no broker, stale socket ----------------------------------------------------------------------------------------

finds "no broker" 1 socket fail "there is no socket at $SOCKET" '^start infbroker' "$CTL" doctor -j
says "for people: verdict, what, finding, fix" 1 "^fail  socket +no broker: .*$SOCKET  → start infbroker" "$CTL" doctor
says "and a sum" 1 '^1 failure, [0-9]+ warnings?$' "$CTL" doctor
finds "no directory" 1 directory warn "$RUN/none, where the socket belongs, does not exist" "mkdir -m 755 $RUN/none" \
	"$CTL" --socket "$RUN/none/socket" doctor -j
says "it takes no argument" 2 'stray: doctor takes no argument' "$CTL" doctor stray
"$PY" -I -c 'import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(sys.argv[1])' "$SOCKET"
finds "a stale socket" 1 socket fail "$SOCKET is stale: nobody listens there" "start infbroker at that path, .*rm $SOCKET" "$CTL" doctor -j
echo >"$RUN/file"
finds "what is no socket" 1 socket fail "$RUN/file is not a socket" 'remove it' "$CTL" --socket "$RUN/file" doctor -j
finds "a path that is too long" 1 socket fail 'the path of the socket has [0-9]+ bytes' 'shorter' "$CTL" --socket "/$(printf 'x%.0s' $(seq 150))" doctor -j

# --- a broker that is well: the stale socket is mended as was said --------------------------------------------------

cp "$BUILD/infbroker-executor" "$EXECUTOR"
broker_start --builtin --instances 2 --models "$RUN/models" --executor "$EXECUTOR" || { not_ok "start"; finish; }
well "a broker that is well" "$CTL" doctor -j
says "for people, too" 0 '^0 failures, [0-9]+ warnings?$' "$CTL" doctor
finds "its socket" 0 socket ok "$SOCKET takes connections" '' "$CTL" doctor -j
finds "the broker" 0 broker ok "it runs, pid $BROKER" '' "$CTL" doctor -j
finds "its protocol" 0 protocol ok 'speaks protocol [0-9]+' '' "$CTL" doctor -j
finds "its version" 0 version ok 'of version [0-9.]+$' '' "$CTL" doctor -j
finds "its executor" 0 executor ok 'it is ready, on cpu, 2 batches' '' "$CTL" doctor -j
finds "its models" 0 models ok '^14 ready, 0 loading, 0 failed' '' "$CTL" doctor -j
stopped=$(executor_pid)
kill -STOP "$stopped"
finds "an executor that is stopped" 1 executor fail 'it is stopped, and nothing runs' "^kill -CONT $stopped\$" "$CTL" doctor -j
json "status says it, too" 1 "d['executor']['state'] == 'stopped' and d['state'] == 'running'" "$CTL" status -j
kill -CONT "$stopped"
finds "and one that goes on" 0 executor ok 'it is ready' '' "$CTL" doctor -j
for call in kernel memfd pidfd hugepages; do
	json "the kernel: $call" 0 "[c['verdict'] for c in d['checks'] if c['check'] == '$call'] in (['ok'], [])" "$CTL" doctor -j
done
says "a full disk is no answer" 1 'cannot write the answer' bash -c "'$CTL' doctor >/dev/full"
well "the doctor's session ends" "$CTL" doctor -j
no_sessions() { "$CTL" sessions -j | tr -d '\n ' | grep -q '"sessions":\[\]'; }
check "and is seen no more" within 10 no_sessions

# --- one that somebody drains; a snapshot, which is no broker -------------------------------------------------------

"$CTL" drain --yes >/dev/null
finds "one that is drained" 0 broker warn "pid $BROKER, refuses new requests: somebody said shmctl drain" '^shmctl resume$' "$CTL" doctor -j
"$CTL" resume >/dev/null
finds "and resumed, as was said" 0 broker ok "it runs, pid $BROKER" '' "$CTL" doctor -j
"$CTL" snapshot save "$RUN/snapshot" >/dev/null
OF_SNAPSHOT=("$CTL" --socket "$RUN/snapshot/socket")
finds "a snapshot" 0 broker warn "^$RUN/snapshot/socket is a snapshot of a broker that had pid $BROKER: nothing runs there" \
	'shmctl doctor without that --socket' "${OF_SNAPSHOT[@]}" doctor -j
json "nothing but what it has kept is judged" 0 "sorted({c['check'] for c in d['checks']}) == ['broker', 'executor', 'models', 'version'] and
	d['failures'] == 0" "${OF_SNAPSHOT[@]}" doctor -j
background "$BUILD/infbroker" --builtin --socket "$RUN/snapshot/socket" 2>/dev/null
check "a broker in a snapshot's folder" within 10 test -S "$RUN/snapshot/socket"
runs_there() { "${OF_SNAPSHOT[@]}" status | grep -q "^broker    running, pid $LAST,"; }
check "is a broker" within 10 runs_there
kill "$LAST"

# --- io_uring -------------------------------------------------------------------------------------------------------

loop=$("$PY" -I -c 'import json, sys; print(json.load(sys.stdin)["loop"])' < <("$CTL" status -j))
tried=$("$CTL" doctor -j | "$PY" -I -c 'import json, sys; print(next(c["verdict"] for c in json.load(sys.stdin)["checks"] if c["check"] == "io_uring"))')
if [ "$loop" = epoll ]; then
	finds "a broker on epoll" 0 io_uring warn 'the broker runs on epoll|io_uring is refused' '.' "$CTL" doctor -j
else
	check "io_uring works, which the broker uses" [ "$tried" = ok ]
fi
if "$PY" -I tests/support/without_io_uring.py true 2>/dev/null; then
	finds "io_uring refused" 0 io_uring warn 'io_uring is refused \(Operation not permitted\).*; the broker uses epoll' \
		'allow io_uring_setup|sysctl kernel.io_uring_disabled=0' "$PY" -I tests/support/without_io_uring.py "$CTL" doctor -j
else
	skip "io_uring refused" "no seccomp here"
fi

# --- limits ---------------------------------------------------------------------------------------------------------

capless=()
[ "$(id -u)" != 0 ] || capless=(setpriv --bounding-set=-ipc_lock)
if "${capless[@]}" true 2>/dev/null; then
	finds "a small RLIMIT_MEMLOCK" 1 memlock warn 'RLIMIT_MEMLOCK here is 64.0 KiB; 8.0 MiB may be needed' 'LimitMEMLOCK=64M in the unit, or ulimit -l 8192' \
		"${capless[@]}" bash -c "ulimit -l 64; exec '$CTL' --socket '$RUN/empty/socket' doctor -j"
	finds "and one that is enough" 1 memlock ok 'RLIMIT_MEMLOCK here is' '' \
		"${capless[@]}" bash -c "ulimit -S -l 8192 || ulimit -l unlimited; exec '$CTL' --socket '$RUN/empty/socket' doctor -j"
else
	skip "a small RLIMIT_MEMLOCK" "CAP_IPC_LOCK cannot be dropped here"
fi
if prlimit --pid "$BROKER" --memlock=65536: 2>/dev/null; then
	json "the broker's limit is what counts" 0 "any(c['check'] == 'memlock' and c['finding'].startswith('RLIMIT_MEMLOCK of the broker is 64.0 KiB')
		for c in d['checks'])" "$CTL" doctor -j
else
	skip "the broker's limit is what counts" "prlimit is refused"
fi
finds "few descriptors" 1 nofile warn 'hard RLIMIT_NOFILE here is 600: about 72 of 1024 sessions' 'LimitNOFILE=65536' \
	bash -c "ulimit -n 600; exec '$CTL' --socket '$RUN/empty/socket' doctor -j"

# --- control groups -------------------------------------------------------------------------------------------------

groups=$RUN/groups
mkdir -p "$groups/cpu" "$groups/memory"
quota() { # NAME FINDING FIX
	finds "$1" 0 cpus warn "$2" "$3" env INF_CGROUP_ROOT="$groups" "$CTL" doctor -j
}
if grep -q '^0::' /proc/self/cgroup; then
	echo "50000 100000" >"$groups/cpu.max"
	quota "a quota below one processor, cgroup v2" "$groups.* allows 0.50 processors: all stand still" 'raise CPUQuota='
	echo "150000 100000" >"$groups/cpu.max"
	quota "a quota below the instances" "allows 1.50 processors, fewer than batches run at once" 'fewer --instances'
	echo "200000 100000" >"$groups/cpu.max"
	finds "a quota that is enough" 0 cpus ok '2.00 by the quota' '' env INF_CGROUP_ROOT="$groups" "$CTL" doctor -j
	echo "max 100000" >"$groups/cpu.max"
	finds "no quota" 0 cpus ok 'no quota of the broker' '' env INF_CGROUP_ROOT="$groups" "$CTL" doctor -j
	echo 1073741824 >"$groups/memory.max"
	finds "little memory" 0 memory warn "$groups.* has 1.0 GiB, less than the 8.0 GiB" '--memory-max' env INF_CGROUP_ROOT="$groups" "$CTL" doctor -j
	rm "$groups/cpu.max" "$groups/memory.max"
else
	skip "cgroup v2" "no such group here"
fi
if grep -qE '^[0-9]+:([^:]*,)?cpu(,[^:]*)?:' /proc/self/cgroup; then
	echo 25000 >"$groups/cpu/cpu.cfs_quota_us"
	echo 100000 >"$groups/cpu/cpu.cfs_period_us"
	quota "a quota below one processor, cgroup v1" "$groups/cpu.* allows 0.25 processors" 'raise CPUQuota='
	echo -1 >"$groups/cpu/cpu.cfs_quota_us"
	finds "no quota, cgroup v1" 0 cpus ok 'no quota of the broker' '' env INF_CGROUP_ROOT="$groups" "$CTL" doctor -j
else
	skip "cgroup v1" "no such group here"
fi
# A real one, where we may make it.
own=/sys/fs/cgroup/cpu/inf-test.$$
in_group() { bash -c "echo \$\$ >'$own/cgroup.procs' && exec '$CTL' --socket '$RUN/empty/socket' doctor -j"; }
if mkdir "$own" 2>/dev/null && echo 30000 2>/dev/null >"$own/cpu.cfs_quota_us"; then
	export -f in_group
	export own CTL RUN
	finds "a real group with a quota" 1 cpus warn "$own allows 0.30 processors" 'raise CPUQuota=' bash -c in_group
	rmdir "$own" 2>/dev/null || within 5 rmdir "$own"
else
	skip "a real group with a quota" "no group can be made here"
fi

# --- permissions ----------------------------------------------------------------------------------------------------

other=(setpriv --reuid=65534 --regid=65534 --clear-groups)
if other_user; then
	finds "a closed folder" 1 socket fail "permission denied to uid 65534: $RUN/run belongs to uid 0, gid 0 and has mode 0700" \
		"sudo -u '#0'\), or as root: chmod o\+x $RUN/run" "${other[@]}" "$RUN/bin/shmctl" doctor -j
	chmod o+x "$RUN/run"
	well "mended as was said, for any user" "${other[@]}" "$RUN/bin/shmctl" doctor -j
	chmod 600 "$SOCKET"
	finds "a closed socket" 1 socket fail "$SOCKET belongs to uid 0, gid 0 and has mode 0600" "chmod 0666 $SOCKET" "${other[@]}" "$RUN/bin/shmctl" doctor -j
	chmod 0666 "$SOCKET"
	well "mended as was said" "${other[@]}" "$RUN/bin/shmctl" doctor -j
elif [ "$(id -u)" != 0 ]; then
	chmod 0 "$RUN/run"
	finds "a closed folder" 1 socket fail "permission denied to uid $(id -u): $RUN/run belongs to uid $(id -u), .* mode 0000" 'chmod o\+x' "$CTL" doctor -j
	chmod 700 "$RUN/run"
else
	skip "permissions" "no second user here"
fi
chmod o+w "$RUN/run"
finds "a folder open to all" 1 directory fail "everybody may write to $RUN/run" "chmod o-w $RUN/run" "$CTL" doctor -j
chmod o-w "$RUN/run"

# --- models, executor -----------------------------------------------------------------------------------------------

echo "this is no TorchScript" >"$RUN/models/broken.pt"
kill -HUP "$BROKER"
has_failed() { "$CTL" models -j | grep -q '"failed"'; }
check "a broken model is looked at" within 20 has_failed
finds "a broken model" 1 model fail '^broken cannot be loaded: .{5}' "infexport.py.* kill -HUP $BROKER" "$CTL" doctor -j
rm "$RUN/models/broken.pt"
kill -HUP "$BROKER"
has_none_failed() { ! has_failed; }
check "it is taken away" within 20 has_none_failed
well "and all is well" "$CTL" doctor -j

mv "$EXECUTOR" "$EXECUTOR.away"
kill -KILL "$(executor_pid)"
state_is() { "$CTL" status | grep -q "^executor  $1,"; }
check "the executor's program is missed" within 20 state_is failed
finds "a missing executor" 1 executor fail "its program $EXECUTOR is missing" "kill -HUP $BROKER, or start infbroker with --executor FILE" "$CTL" doctor -j
: >"$EXECUTOR"
finds "one that cannot be run" 1 executor fail "its program $EXECUTOR cannot be run: Permission denied" 'chmod 755' "$CTL" doctor -j
mv "$EXECUTOR.away" "$EXECUTOR"
kill -HUP "$BROKER"
check "it is put back, as was said" within 20 state_is ready
well "and all is well" "$CTL" doctor -j
finds "its death is not forgotten" 0 executor warn 'it is ready, but died 1 times' 'log' "$CTL" doctor -j
mkdir "$RUN/install"
cp "$BUILD/infbroker" "$BUILD/shmctl" "$BUILD/libinfclient.so.0" "$RUN/install"
finds "an installation without an executor" 1 executor fail "$RUN/install/infbroker-executor, which infbroker starts, is missing" 'install infbroker anew' \
	"$RUN/install/shmctl" --socket "$RUN/empty/socket" doctor -j

# --- other versions, and brokers that are none ----------------------------------------------------------------------

changed() { # OFFSET BYTES, as of shm/stats.h
	cp "$SOCKET.stats" "$RUN/changed.stats"
	printf '%b' "$2" | dd of="$RUN/changed.stats" bs=1 seek="$1" conv=notrunc 2>/dev/null
}
changed 8 '\x63\0\0\0'
finds "statistics of another version" 1 version fail 'changed.stats is of another version' 'use the shmctl that came with that infbroker' \
	"$CTL" --socket "$RUN/changed" doctor -j
changed 48 '9.9.9\0'
finds "a broker of another version" 1 version warn 'the broker is of version 9.9.9, this shmctl of' 'use the shmctl that came with that infbroker' \
	"$CTL" --socket "$RUN/changed" doctor -j
changed 0 '\0'
finds "statistics that are none" 1 broker fail 'is not a statistics file' 'remove it' "$CTL" --socket "$RUN/changed" doctor -j
head -c 48 "$SOCKET.stats" >"$RUN/changed.stats"
tr '\0' '\377' </dev/zero | head -c "$(($(stat -c %s "$SOCKET.stats") - 48))" >>"$RUN/changed.stats"
finds "noise behind a good head does no harm" 1 socket fail 'no socket' '.' "$CTL" --socket "$RUN/changed" doctor -j

fake() { # MODE CHECK FINDING FIX [TIMEOUT]
	rm -f "$RUN/fake"
	background "$PY" -I tests/support/fake_broker.py "$RUN/fake" "$1" >"$RUN/fake.said"
	within 10 grep -q listens "$RUN/fake.said" || not_ok "a fake broker" "$1"
	finds "a broker that is none: $1" 1 "$2" fail "$3" "$4" "$CTL" --socket "$RUN/fake" --timeout "${5-10}" doctor -j
	kill -TERM "$LAST"
	ends "$LAST"
}
fake version protocol 'the library speaks protocol 1..1, the broker 2..2' 'use the shmctl and libinfclient that came with that infbroker'
fake quota protocol 'takes no further session: .*too many sessions' 'shmctl sessions'
fake hangup protocol 'did not welcome us' 'log'
fake silent protocol 'does not answer within 1 s' 'start it anew' 1
background "$PY" -I -c 'import signal, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print("listens", flush=True); signal.pause()' "$RUN/stream" >"$RUN/stream.said"
check "another program" within 10 grep -q listens "$RUN/stream.said"
finds "another program's socket" 1 socket fail 'a socket of another kind' 'another --socket' "$CTL" --socket "$RUN/stream" doctor -j

# --- stopped, killed ------------------------------------------------------------------------------------------------

kill -STOP "$BROKER"
stopped() { grep -q '^State:.*stopped' /proc/"$BROKER"/status; }
check "a broker is stopped" within 10 stopped
finds "is found" 1 broker fail "the broker, pid $BROKER, is stopped" "^kill -CONT $BROKER\$" "$CTL" doctor -j
json "and not asked" 1 "not any(c['check'] == 'protocol' for c in d['checks'])" "$CTL" doctor -j
kill -CONT "$BROKER"
well "mended as was said" "$CTL" doctor -j
kill -KILL "$BROKER"
wait "$BROKER" 2>/dev/null
killed=$BROKER BROKER=
finds "a killed broker" 1 broker fail "the broker, pid $killed, is gone" 'start infbroker anew' "$CTL" doctor -j
json "its models are not counted as ready" 1 "not any(c['check'] in ('models', 'executor') and c['verdict'] == 'ok' and 'ready' in c['finding']
	for c in d['checks'])" "$CTL" doctor -j
finds_stale() { "$CTL" doctor | grep -q "^fail  socket .*is stale"; }
check "what it left" within 10 finds_stale # its ring lets go of the socket a little later

# --- a device (the driver in software) ------------------------------------------------------------------------------

driver=$PWD/$BUILD/tests/libfakecuda.so
rm -f "$SOCKET"*
INF_CUDA_LIBRARY=$driver broker_start --builtin --device cuda || { not_ok "start on a device"; finish; }
json "a device that works" 0 "any(c['check'] == 'device' and c['verdict'] == 'ok' and 'cuda:0' in c['finding'] for c in d['checks'])" \
	env INF_CUDA_LIBRARY="$driver" "$CTL" doctor -j
finds "a driver that is not there" 1 device fail '--device cuda was asked for: .*nothing.so' 'mend the driver, or start infbroker with --device cpu' \
	env INF_CUDA_LIBRARY="$RUN/nothing.so" "$CTL" doctor -j
finds "one that hangs" 1 device fail '--device cuda was asked for: the CUDA driver does not answer' 'mend the driver' \
	env INF_CUDA_LIBRARY="$driver" FAKECUDA_FAULTS=cuInit:1:hang "$CTL" --timeout 1 doctor -j
check "the broker ends" broker_stop
INF_CUDA_LIBRARY=$RUN/nothing.so broker_start --builtin --device cuda || { not_ok "start without a driver"; finish; }
finds "a broker that found no device" 1 device fail '--device cuda was asked for, but models run on the CPU' 'log' \
	env INF_CUDA_LIBRARY="$driver" "$CTL" doctor -j
check "the broker ends" broker_stop
finds "one that ended well leaves no fault but that" 1 socket fail 'there is no socket' 'start infbroker' "$CTL" doctor -j
finish
