#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# startup.sh - the ways in which a broker is not there, cannot start, starts in odd surroundings, and ends: each with its name,
# and nobody else notices.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
unset XDG_RUNTIME_DIR LISTEN_FDS LISTEN_PID NOTIFY_SOCKET

sanitized() { ldd "$BUILD/infbroker" | grep -q libasan; }
answers() { "$CTL" --timeout 10 --socket "$1" models -j 2>/dev/null | grep -q '"name"'; }
# A broker of this script's own beside $BROKER: its pid in $LAST, its log in $RUN/log.
start_at() { # PATH OPTION...
	local path=$1
	shift
	background "$BUILD/infbroker" --socket "$path" "$@" 2>"$RUN/log"
}
stop_last() {
	kill -TERM "$LAST"
	ends "$LAST"
}
# The broker $LAST answers, or has ended with status 1 and a line that matches.
serves_or_ends() { # PATH REGEX
	settled() { has_ended "$LAST" || answers "$1"; }
	within 20 settled "$1" || { echo "neither"; return 1; }
	has_ended "$LAST" || return 0
	wait "$LAST"
	[ $? -eq 1 ] && log_says "$2"
}
log_says() { grep -qE -- "$1" "$RUN/log" || { cat "$RUN/log"; return 1; }; }

# --- on a full disk: run by the test itself in a mount namespace, see below ---------------------------------------

full_disk() {
	mkdir "$RUN/full"
	mount -t tmpfs -o size=64k none "$RUN/full" || { not_ok "a small file system" "mount"; finish; }
	dd if=/dev/zero of="$RUN/full/filler" bs=4k 2>/dev/null
	start_at "$RUN/full/socket" --builtin
	check "no disk for statistics: it serves" within 20 answers "$RUN/full/socket"
	check "its log names the file and the reason" log_says 'no statistics file .*full/socket\.stats: No space left'
	says "and a request is answered" 0 'i32\[\]: 14' "$CTL" --socket "$RUN/full/socket" infer scalar "$RUN/seven"
	says "status does not say that no broker runs" 1 'no statistics file' "$CTL" --socket "$RUN/full/socket" status
	check "it ends by itself" stop_last
	umount "$RUN/full"
}
printf '\x07\0\0\0' >"$RUN/seven"
if [ "${1-}" = on-a-full-disk ]; then
	full_disk
	finish
fi

# --- nobody there ---------------------------------------------------------------------------------------------------

nowhere="no broker .*$SOCKET.*start infbroker"
says "status without a broker" 3 "$nowhere" "$CTL" status
says "models without a broker" 3 "$nowhere" "$CTL" models
says "sessions without a broker" 3 "$nowhere" "$CTL" sessions
says "infer without a broker" 3 "$nowhere" "$CTL" infer identity "$RUN/seven"
says "shmctl says who named the place" 3 'from \$INFBROKER_SOCKET' "$CTL" models
says "--socket counts more than the environment" 3 'no broker at /dev/null/x:' "$CTL" --socket /dev/null/x models
says "infclassify without a broker" 1 "$nowhere" "$BUILD/infclassify" "$RUN/seven"
says "infclassify in several processes without a broker" 1 "$nowhere" "$BUILD/infclassify" --processes 2 "$RUN/seven"
says "the library without a broker" 1 "ENOENT: $nowhere" "$BUILD/tests/ask"
says "the library, a socket that nobody listens to" 1 "ECONNREFUSED: no broker at $RUN/seven: Connection refused" \
	"$BUILD/tests/ask" --socket "$RUN/seven"
if [ -e /run/infbroker/socket ]; then
	skip "the default places, nobody there" "a broker of the system listens at /run/infbroker/socket"
else
	both="$RUN/xdg/infbroker/socket.*/run/infbroker/socket"
	says "both default places are named by the library" 1 "$both" env -u INFBROKER_SOCKET XDG_RUNTIME_DIR="$RUN/xdg" "$BUILD/tests/ask"
	says "both default places are named by shmctl models" 3 "$both" env -u INFBROKER_SOCKET XDG_RUNTIME_DIR="$RUN/xdg" "$CTL" models
	says "both default places are named by shmctl status" 3 "$both" env -u INFBROKER_SOCKET XDG_RUNTIME_DIR="$RUN/xdg" "$CTL" status
	says "one default place without XDG_RUNTIME_DIR" 1 'no broker at /run/infbroker/socket' env -u INFBROKER_SOCKET "$BUILD/infclassify" x.jpg
fi

# --- the path -------------------------------------------------------------------------------------------------------

pad() { printf '%s/%s' "$RUN" "$(printf 'x%.0s' $(seq $(($1 - ${#RUN} - 1))))"; }
longest=$(pad 107) longer=$(pad 108)
says "a path that is too long: infbroker" 1 'the socket path has 108 characters, the kernel takes 107' "$BUILD/infbroker" --builtin --socket "$longer"
says "a path that is too long: the library" 1 'ENAMETOOLONG: .*at most 107 bytes' "$BUILD/tests/ask" --socket "$longer"
says "a path that is too long: shmctl models" 1 'at most 107 bytes' "$CTL" --socket "$longer" models
says "a path that is too long: shmctl status" 1 'at most 107 bytes' "$CTL" --socket "$longer" status
says "a path that is too long: infclassify" 1 'at most 107 bytes' "$BUILD/infclassify" --socket "$longer" x.jpg
check "nothing was made there" bash -c "! ls '$longer'*"
start_at "$longest" --builtin
check "the longest path is served" within 20 answers "$longest"
says "and its statistics are found" 0 "socket +$longest" "$CTL" --socket "$longest" status
check "it ends" stop_last
check "and leaves nothing behind" bash -c "! ls '$longest'*"

echo "a letter" >"$RUN/letter"
says "a file that is no socket is left alone" 1 "letter: .*that is not a socket" "$BUILD/infbroker" --builtin --socket "$RUN/letter"
check "it is unharmed" grep -q letter "$RUN/letter"
says "a folder is left alone" 1 "that is not a socket" "$BUILD/infbroker" --builtin --socket "$RUN"
says "a folder that is not there" 1 "cannot listen at $RUN/no/where: No such file" "$BUILD/infbroker" --builtin --socket "$RUN/no/where"
says "an empty path" 1 "the path is empty" "$BUILD/infbroker" --builtin --socket=
says "a default place whose folder cannot be made" 1 "/no/where/infbroker/socket: No such file.*XDG_RUNTIME_DIR" \
	env XDG_RUNTIME_DIR=/no/where "$BUILD/infbroker" --builtin
mkdir "$RUN/locked"
chmod 555 "$RUN/locked"
denied="cannot listen at $RUN/locked/socket: Permission denied"
if [ "$(id -u)" != 0 ]; then
	says "a folder that one may not write to" 1 "$denied" "$BUILD/infbroker" --builtin --socket "$RUN/locked/socket"
elif other_user; then
	says "a folder that one may not write to" 1 "$denied" setpriv --reuid=65534 --regid=65534 --clear-groups \
		"$RUN/bin/infbroker" --builtin --socket "$RUN/locked/socket"
else
	skip "a folder that one may not write to" "no second user here"
fi

# --- options --------------------------------------------------------------------------------------------------------

bad_option() { # REGEX OPTION...
	local regex=$1
	shift
	says "bad options: $*" 1 "$regex" "$BUILD/infbroker" --builtin --socket "$RUN/never" "$@"
	check "the error and where to look: $*" [ "$(wc -l <"$RUN/said")" -le 2 ]
}
bad_option 'sockt' --sockt x
bad_option 'infbroker:.*stray' stray
bad_option 'builtin' --builtin=1
bad_option "'?-?x" -x
bad_option 'loop-?' --loop
bad_option '--loop kqueue: must be io_uring, epoll or auto' --loop kqueue
bad_option '--instances 0: must be 1 to' --instances 0
bad_option '--threads many: not a number' --threads many
bad_option '--spin-ns -1: not a number' --spin-ns -1
bad_option '--sessions-max 0: must be 1 to' --sessions-max 0
bad_option '--memory-max 5X: not a number' --memory-max 5X
bad_option '--depth-max 5000: must be 1 to 4096' --depth-max 5000
bad_option '--lanes 8: fixed at 16' --lanes 8
bad_option "--models $RUN/no/where: No such file or directory" --models "$RUN/no/where"
bad_option "--models $RUN/letter: Not a directory" --models "$RUN/letter"
says "a wrong \$INF_LOOP" 1 '\$INF_LOOP kqueue: must be' env INF_LOOP=kqueue "$BUILD/infbroker" --builtin --socket "$RUN/never"
check "nothing was made by any of them" bash -c "! ls '$RUN'/never*"
says "infbroker --version" 0 '^infbroker [0-9]+\.[0-9]+\.[0-9]+$' "$BUILD/infbroker" --version
if sanitized; then
	skip "infbroker needs libc and liburing alone" "a sanitizer brings libraries of its own"
else
	needs_little() { ! ldd "$BUILD/infbroker" | grep -vE 'linux-vdso|ld-linux|libc\.so|liburing\.so'; }
	check "infbroker needs libc and liburing alone" needs_little
fi

# --- two brokers ----------------------------------------------------------------------------------------------------

broker_start --builtin || { not_ok "start"; finish; }
json "--help prints every limit with its default" 0 "len(d['limits']) >= 16 and all(
	__import__('re').search('--' + name.replace('_', '-') + r' +N +(%d|%dG) ' % (limit['limit'], limit['limit'] >> 30), open('$RUN/help').read())
	for name, limit in d['limits'].items())" bash -c "'$BUILD/infbroker' --help >'$RUN/help' && '$CTL' status -j"

served() { stat -c %i "$SOCKET"; "$CTL" status | grep -oE 'running, pid [0-9]+'; }
served >"$RUN/before"
busy="cannot listen at $SOCKET: Address already in use; another broker serves it"
says "a second broker on the same path" 1 "$busy" "$BUILD/infbroker" --builtin --socket "$SOCKET"
kill -STOP "$BROKER"
says "also while the first one is stopped" 1 "$busy" "$BUILD/infbroker" --builtin --socket "$SOCKET"
kill -CONT "$BROKER"
served >"$RUN/after"
check "the first one is unharmed" diff "$RUN/before" "$RUN/after"
check "and answers" answers "$SOCKET"
kill -KILL "$BROKER"
wait "$BROKER" 2>/dev/null
check "a killed broker leaves its socket" [ -S "$SOCKET" ]
killed=$BROKER BROKER=
check "a new one takes it over" broker_start --builtin
says "and is the one that answers" 0 "running, pid $BROKER" "$CTL" status
check "not the killed one" [ "$killed" != "$BROKER" ]
check "it ends with status 0" broker_stop
check "and leaves nothing behind" bash -c "! ls '$SOCKET'*"

# Five at once on a path with a stale socket: one serves, four say why not.
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(sys.argv[1])' "$SOCKET"
racers=()
for i in 1 2 3 4 5; do
	background "$BUILD/infbroker" --builtin --socket "$SOCKET" 2>"$RUN/racer.$i"
	racers+=("$LAST")
done
one_left() { local pid n=0; for pid in "${racers[@]}"; do has_ended "$pid" || n=$((n + 1)); done; [ $n -eq 1 ]; }
check "of five at once one stays" within 20 one_left
check "it serves" within 20 answers "$SOCKET"
check "the other four say why not" [ "$(cat "$RUN"/racer.* | grep -c 'Address already in use')" -eq 4 ]
winners=0
for pid in "${racers[@]}"; do
	has_ended "$pid" || kill -TERM "$pid"
	ends "$pid" && winners=$((winners + 1))
done
check "one ends with 0, four with 1" [ $winners -eq 1 ]

background python3 -c 'import socket, sys, signal
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1]); listener.listen(); print("listens", flush=True); signal.pause()' "$SOCKET" >"$RUN/listener"
within 10 grep -q listens "$RUN/listener"
inode=$(stat -c %i "$SOCKET")
says "a path that another program serves" 1 "Address already in use; another program serves it" "$BUILD/infbroker" --builtin --socket "$SOCKET"
check "that one is unharmed" [ "$inode" = "$(stat -c %i "$SOCKET")" ]
kill -KILL "$LAST"
ends "$LAST"
rm -f "$SOCKET"

# --- limits of the surroundings -------------------------------------------------------------------------------------

hard=$(ulimit -Hn)
if [ "$hard" = unlimited ] || [ "$hard" -ge 1024 ]; then
	(ulimit -Sn 64 && exec "$BUILD/infbroker" --builtin --socket "$SOCKET" 2>"$RUN/log") &
	LAST=$!
	BACKGROUND+=("$LAST")
	check "a low soft RLIMIT_NOFILE: it serves" within 20 answers "$SOCKET"
	check "raised to the hard one" bash -c "awk '/Max open files/ { exit \$4 != \$5 }' /proc/$LAST/limits"
	check "it ends" stop_last
else
	skip "a low soft RLIMIT_NOFILE" "the hard one is $hard"
fi

# Whatever the hard limit is: a line that names it and exit 1, or it serves; nothing else, and never for ever.
with_fds() { # N
	(ulimit -n "$1" && exec "$BUILD/infbroker" --builtin --socket "$SOCKET" 2>"$RUN/log") &
	LAST=$!
	BACKGROUND+=("$LAST")
	serves_or_ends "$SOCKET" 'RLIMIT_NOFILE' || return 1
	has_ended "$LAST" ||
		{ "$CTL" --timeout 10 --socket "$SOCKET" infer scalar "$RUN/seven" | grep -q 14 && log_says 'hard RLIMIT_NOFILE of' &&
			stop_last; }
}
for n in 10 16 24 40 64 96 103 104 110 128 256; do
	check "a hard RLIMIT_NOFILE of $n" with_fds "$n"
	kill -KILL "$LAST" 2>/dev/null
done

# More clients than it has descriptors for: they are told so, and when some go it serves again.
(ulimit -n 128 && exec "$BUILD/infbroker" --builtin --socket "$SOCKET" 2>"$RUN/log") &
crowded=$!
BACKGROUND+=("$crowded")
check "it starts with 128 descriptors" within 20 answers "$SOCKET"
crowd=()
for i in $(seq 64); do
	background "$BUILD/tests/ask" identity < <(exec tail -f /dev/null) >"$RUN/crowd.$i" 2>&1
	crowd+=("$LAST")
done
check "more clients than descriptors: it says so" within 20 log_says 'Too many open files'
for pid in "${crowd[@]}"; do kill -KILL "$pid" 2>/dev/null; done
check "and serves again when they are gone" within 20 answers "$SOCKET"
LAST=$crowded
check "it ends" stop_last

# Kernels charge io_uring's rings to that limit: left to itself the broker takes epoll where they do.
(ulimit -l 0 && unset INF_LOOP && exec "$BUILD/infbroker" --builtin --socket "$SOCKET" 2>"$RUN/log") &
LAST=$!
BACKGROUND+=("$LAST")
check "RLIMIT_MEMLOCK 0: it serves" within 20 answers "$SOCKET"
check "it ends" stop_last

# --- started by others ----------------------------------------------------------------------------------------------

mkdir "$RUN/xdg"
chmod 700 "$RUN/xdg"
background env -u INFBROKER_SOCKET XDG_RUNTIME_DIR="$RUN/xdg" "$BUILD/infbroker" --builtin 2>"$RUN/log"
check "the default place in XDG_RUNTIME_DIR is served" within 20 answers "$RUN/xdg/infbroker/socket"
check "its folder is the user's alone" [ "$(stat -c %a "$RUN/xdg/infbroker")" = 700 ]
says "and found by shmctl" 0 "socket +$RUN/xdg/infbroker/socket" env -u INFBROKER_SOCKET XDG_RUNTIME_DIR="$RUN/xdg" "$CTL" status
says "and by the library" 0 open env -u INFBROKER_SOCKET XDG_RUNTIME_DIR="$RUN/xdg" "$BUILD/tests/ask" identity
check "it ends" stop_last

# hand_over KIND N_SOCKETS PID OPTION...: a listening socket as fd 3, as systemd does it.
cat >"$RUN/hand_over" <<'PYTHON'
import os, socket, sys
path, kind, n_sockets, pid, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX, getattr(socket, kind))
listener.bind(path)
listener.listen()
for fd in range(3, 3 + int(n_sockets)):
    if listener.fileno() != fd:
        os.dup2(listener.fileno(), fd)
    os.set_inheritable(fd, True)
os.environ.update(LISTEN_FDS=n_sockets, LISTEN_PID=pid if pid != "own" else str(os.getpid()))
os.execvp(command[0], command)
PYTHON
hand_over() { python3 "$RUN/hand_over" "$SOCKET" "$@"; }
says "LISTEN_FDS with two sockets" 1 'LISTEN_FDS hands over 2 sockets, one is needed' \
	python3 "$RUN/hand_over" "$RUN/two" SOCK_SEQPACKET 2 own "$BUILD/infbroker" --builtin
says "LISTEN_FDS with a stream socket" 1 'no listening SEQPACKET unix socket' \
	python3 "$RUN/hand_over" "$RUN/stream" SOCK_STREAM 1 own "$BUILD/infbroker" --builtin
background hand_over SOCK_SEQPACKET 1 own "$BUILD/infbroker" --builtin 2>"$RUN/log"
handed=$LAST
check "a socket handed over by LISTEN_FDS is served" within 20 answers "$SOCKET"
says "with statistics beside it" 0 "running" "$CTL" status
kill -TERM "$("$CTL" status -j | sed -n 's/^  "pid": \([0-9]*\),*/\1/p')"
check "it ends" ends "$handed"
check "and leaves the socket to who made it" [ -S "$SOCKET" ]
rm -f "$SOCKET"
background hand_over SOCK_SEQPACKET 1 own "$BUILD/infbroker" --builtin --socket "$RUN/wins" 2>"$RUN/log"
handed=$LAST
check "--socket counts more than LISTEN_FDS" within 20 answers "$RUN/wins"
kill -TERM "$("$CTL" --socket "$RUN/wins" status -j | sed -n 's/^  "pid": \([0-9]*\),*/\1/p')"
check "it ends" ends "$handed"
rm -f "$SOCKET"
background hand_over SOCK_SEQPACKET 1 1 env XDG_RUNTIME_DIR="$RUN/xdg" "$BUILD/infbroker" --builtin 2>"$RUN/log"
handed=$LAST
check "LISTEN_FDS for another process is not ours" within 20 answers "$RUN/xdg/infbroker/socket"
kill -TERM "$("$CTL" --socket "$RUN/xdg/infbroker/socket" status -j | sed -n 's/^  "pid": \([0-9]*\),*/\1/p')"
check "it ends" ends "$handed"
rm -f "$SOCKET"

background python3 -c 'import socket, sys
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(sys.argv[1])
print("listens", flush=True)
while True: print(notify.recv(4096).decode(), flush=True)' "$RUN/notify" >"$RUN/notified"
notified=$LAST
within 10 grep -q listens "$RUN/notified"
background env NOTIFY_SOCKET="$RUN/notify" "$BUILD/infbroker" --builtin --socket "$SOCKET" 2>"$RUN/log"
check "readiness is told to NOTIFY_SOCKET" within 20 grep -q '^READY=1' "$RUN/notified"
check "and it does listen then" answers "$SOCKET"
check "it ends" stop_last
check "and has said so" within 10 grep -q '^STOPPING=1' "$RUN/notified"
kill -KILL "$notified"

# --- the end --------------------------------------------------------------------------------------------------------

# A request is on its way when the executor is stopped: the end must wait for it.
converse() { # MODEL: a client that does what it reads from fd 7
	mkfifo "$RUN/orders.$1"
	exec 7<>"$RUN/orders.$1" # both ends: opening one would wait for the other
	background "$BUILD/tests/ask" "$1" <"$RUN/orders.$1" >"$RUN/heard.$1" 2>&1 7>&-
	within 10 grep -q open "$RUN/heard.$1"
}
all_stopped() { ! grep -h '^State' /proc/"$1"/task/*/status | grep -qv stopped; }
is_draining() { "$CTL" status -j | grep -q '"draining": *true'; }
for signal in TERM INT; do
	broker_start --builtin || { not_ok "start"; finish; }
	rm -f "$RUN/orders.identity"
	check "a client" converse identity
	client=$LAST
	executor=$(executor_pid)
	kill -STOP "$executor"
	check "the executor is stopped" within 10 all_stopped "$executor"
	echo 3 >&7
	check "its request is submitted" within 10 grep -q submitted "$RUN/heard.identity"
	check "and in flight" within 10 bash -c "'$CTL' status -j | tr -d '\n ' | grep -q '\"jobs_max\":{[^}]*\"used\":1'"
	kill -s $signal "$BROKER"
	check "SIG$signal drains" within 10 is_draining
	says "no new client is let in" 1 'broker' "$CTL" --timeout 10 models
	check "it has not ended" kill -0 "$BROKER"
	check "the request has not, either" bash -c "! grep -qE 'OK|LOST' '$RUN/heard.identity'"
	kill -CONT "$executor"
	check "the request gets its answer" within 10 grep -qx OK "$RUN/heard.identity"
	drained=$BROKER
	check "then the broker ends by itself" within 10 has_ended "$drained"
	rc=0
	wait "$drained" || rc=$?
	BROKER=
	check "with status 0" [ $rc -eq 0 ]
	check "and leaves nothing behind" bash -c "! ls '$SOCKET'*"
	echo 3 >&7
	check "its client is told" within 10 grep -qE 'BROKER_LOST|ECONNRESET' "$RUN/heard.identity"
	exec 7>&-
	ends "$client"
done

broker_start --builtin || { not_ok "start"; finish; }
check "a client with a request that hangs" converse hang
client=$LAST
echo 1 >&7
check "it is in flight" within 10 bash -c "'$CTL' status -j | tr -d '\n ' | grep -q '\"jobs_max\":{[^}]*\"used\":1'"
kill -TERM "$BROKER"
check "SIGTERM waits for it" within 10 is_draining
kill -TERM "$BROKER"
hung=$BROKER
check "a second SIGTERM does not" within 20 has_ended "$hung"
rc=0
wait "$hung" || rc=$?
BROKER=
check "its end is still an orderly one" [ $rc -eq 0 ]
check "the client is told" within 10 grep -qx BROKER_LOST "$RUN/heard.hang"
exec 7>&-
ends "$client"

# The executor is told by the hang-up, and ends by itself; who has to be killed never writes its status.
cat >"$RUN/executor" <<X
#!/bin/sh
"$(realpath "$BUILD")/infbroker-executor" "\$@"
echo \$? >"$RUN/executor.status"
X
chmod 755 "$RUN/executor"
broker_start --builtin --executor "$RUN/executor" || { not_ok "start"; finish; }
check "the broker ends" broker_stop
check "and its executor has ended by itself" grep -qx 0 "$RUN/executor.status"

# --- several users --------------------------------------------------------------------------------------------------

several_users() {
	local root=$1
	broker_start --builtin || { not_ok "start"; finish; }
	says "another uid is answered" 0 'i32\[\]: 14' setpriv --reuid=65534 --clear-groups "$root/shmctl" --socket "$SOCKET" infer scalar "$RUN/seven"
	says "another uid sees the status" 0 running setpriv --reuid=65534 --clear-groups "$root/shmctl" --socket "$SOCKET" status
	background as_other "$root/ask" identity < <(exec tail -f /dev/null) >"$RUN/heard.other"
	local other=$LAST
	background "$BUILD/tests/ask" identity < <(exec tail -f /dev/null) >"$RUN/heard.own"
	local own=$LAST
	check "two users are connected" within 10 grep -q open "$RUN/heard.other"
	check "two users are connected" within 10 grep -q open "$RUN/heard.own"
	json "the broker's user sees both" 0 "sorted(s['uid'] for s in d['sessions']) == [0, 65534] and d['not_shown'] == 0" \
		"$CTL" sessions -j
	check "another user's file is closed" bash -c "! setpriv --reuid=65533 --regid=65533 --clear-groups cat '$SOCKET.stats.65534'"
	check "the broker's user's, too" bash -c "! setpriv --reuid=65534 --regid=65534 --clear-groups cat '$SOCKET.stats.0'"
	json "a third user sees nobody" 0 "d['sessions'] == [] and d['not_shown'] == 2" \
		setpriv --reuid=65533 --regid=65533 --clear-groups "$root/shmctl" --socket "$SOCKET" sessions -j
	if has_acls; then
		json "a user sees the own session alone" 0 "[s['uid'] for s in d['sessions']] == [65534] and d['not_shown'] == 1" \
			setpriv --reuid=65534 --regid=65534 --clear-groups "$root/shmctl" --socket "$SOCKET" sessions -j
		check "and cannot write the file" bash -c "! setpriv --reuid=65534 --regid=65534 --clear-groups truncate -s 0 '$SOCKET.stats.65534'"
	else
		skip "a user sees the own session" "the file system has no ACLs"
	fi
	kill -KILL "$other" "$own"
	no_sessions() { "$CTL" sessions -j | tr -d '\n ' | grep -q '"sessions":\[\]'; }
	check "sessions end with their processes" within 10 no_sessions
	check "and the users' files with them" bash -c "! ls '$SOCKET'.stats.*"
	check "the broker ends" broker_stop

	# A broker that is not root, with no memory to lock; root itself is a guest there.
	mkdir "$RUN/guest"
	chown 65534:65534 "$RUN/guest"
	(ulimit -l 0 && unset INF_LOOP && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
		"$root/infbroker" --builtin --socket "$RUN/guest/socket" 2>"$RUN/log") &
	LAST=$!
	BACKGROUND+=("$LAST")
	check "a broker without privileges, RLIMIT_MEMLOCK 0: it serves" within 20 answers "$RUN/guest/socket"
	check "on a loop that works there" log_says 'listening at .*/guest/socket \((epoll|io_uring),'
	says "and answers a third user" 0 'i32\[\]: 14' setpriv --reuid=65533 --regid=65533 --clear-groups \
		"$root/shmctl" --socket "$RUN/guest/socket" infer scalar "$RUN/seven"
	check "it ends" stop_last
	without_memory_for_rings() {
		(ulimit -l 0 && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
			"$root/infbroker" --loop=io_uring --builtin --socket "$RUN/guest/socket" 2>"$RUN/log") &
		LAST=$!
		BACKGROUND+=("$LAST")
		serves_or_ends "$RUN/guest/socket" 'loop: .*try --loop=epoll' && { has_ended "$LAST" || stop_last; }
	}
	check "forced to io_uring it serves, or names the way out" without_memory_for_rings
}
has_acls() {
	touch "$RUN/acl"
	python3 -c 'import os, struct, sys
entry = lambda tag, rights, uid=0xffffffff: struct.pack("<HHI", tag, rights, uid)
os.setxattr(sys.argv[1], "system.posix_acl_access", struct.pack("<I", 2) + entry(1, 6) + entry(2, 4, 65534) + entry(4, 0) + entry(16, 4) + entry(32, 0))' \
		"$RUN/acl" 2>/dev/null
}
if other_user; then
	several_users "$RUN/bin"
else
	skip "several users" "not root, no setpriv, or \$TMPDIR is closed to others"
fi

# --- no disk --------------------------------------------------------------------------------------------------------

if unshare --mount true 2>/dev/null && unshare --mount mount -t tmpfs -o size=64k none "$RUN/locked" 2>/dev/null; then
	unshare --mount "$0" on-a-full-disk >"$RUN/full" 2>&1
	cat "$RUN/full"
	n_passed=$((n_passed + $(grep -c '^ok - ' "$RUN/full"))) n_failed=$((n_failed + $(grep -c '^NOT OK - ' "$RUN/full")))
	grep -qE '^[0-9]+ passed' "$RUN/full" || not_ok "on a full disk" "it did not get to its end"
else
	skip "no disk for statistics" "no file system can be mounted here"
fi
finish
