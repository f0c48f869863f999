#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# import.sh - memory of cudaMalloc that a broker opens for clients: right bytes, in order, nothing that is not theirs; and whatever
# a client or an importer does, only that importer suffers. DRIVER=libcuda.so.1 runs what can be run on a real one.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/gpu.sh
export RUN
me=$(id -u)

# The importer alone has a ledger, and the faults that $RUN/faults names; INF_DEBUG lets its descriptors be counted.
cat >"$RUN/executor" <<END
#!/bin/bash
if [ "\$1" = --importer ]; then
	export FAKECUDA_LEDGER_LIVE=$RUN/ledger INF_DEBUG=1
	name=$RUN/importer
	[ ! -e $RUN/faults ] || export FAKECUDA_FAULTS=\$(cat $RUN/faults) FAKECUDA_FAULTS_ONCE=$RUN/once
	[ ! -e $RUN/library ] || export INF_CUDA_LIBRARY=$RUN/library
fi
exec -a "\${name:-infbroker-executor}" $(readlink -f "$BUILD")/infbroker-executor "\$@"
END
chmod +x "$RUN/executor"

start() {
	broker_start --builtin --device cuda --executor "$RUN/executor" --commit-ms-max 30000 --cuda-ipc-users "root,$me" "$@" ||
		{ not_ok "start"; finish; }
}
import() { timeout 60 "$BUILD/tests/import" "$SOCKET" "$@"; }
importers() { pgrep -P "$BROKER" -f -- --importer; }
soon() { # COMMAND...: within 5 s
	local _
	for _ in $(seq 100); do
		! "$@" >/dev/null 2>&1 || return 0
		read -r -t 0.05 <> <(:) || true
	done
	return 1
}
no_importers() { ! importers; }
nothing_open() { [ "$(ledger opened events | tr -d ' ')" = 00 ]; }
deaths() { "$BUILD/shmctl" status | sed -n 's/.*, \([0-9]*\) death.*/\1/p'; }

need_driver "imports"
start
need_device "imports"
check "no importer before the first import" no_importers
for case in bits order refused; do check "$case" import $case; done
check "an importer goes with its session" soon no_importers
no_violation "imports"
[ -n "$is_software" ] || { broker_stop; finish; }

check "a process that cannot map the broker's memory" env FAKECUDA_VMM=0 timeout 60 "$BUILD/tests/import" "$SOCKET" unmapped
check "forged handles, offsets, events" import forged
check "the importer has nothing open after them" nothing_open
check "but the memory of its session" [ "$(ledger imported_bytes | tr -d ' ')" = 2097152 ]
COUNT="ls /proc/\$(pgrep -f $RUN/[i]mporter)/fd | wc -l" check "many, good and bad, leave nothing behind" import many
check "nothing of the client's" nothing_open
check "messages that end a session" import hostile
check "no importer is left" soon no_importers
check "a driver in the client that gives no handles" env FAKECUDA_IPC=0 WORDS=NOT_SUPPORTED timeout 60 "$BUILD/tests/import" "$SOCKET" unsupported
sed 's/cuIpcGetMemHandle/cuIpcNotMemHandle/g' "$INF_CUDA_LIBRARY" >"$RUN/without"
check "one that lacks the calls" env INF_CUDA_LIBRARY="$RUN/without" WORDS="lets other processes open no memory" \
	timeout 60 "$BUILD/tests/import" "$SOCKET" unsupported
mv "$RUN/without" "$RUN/library"
check "one at the broker that lacks them" env WORDS="opens no memory of other processes" timeout 60 "$BUILD/tests/import" "$SOCKET" unsupported
rm "$RUN/library"
no_violation "refusals"

check "memory that is freed under the importer" import freed
check "which its owner is told of" grep -q 'has the memory open' "$RUN/violations"
rm -f "$RUN/violations"

# Somebody else all the while.
while [ ! -e "$RUN/enough" ]; do timeout 60 "$BUILD/tests/tensors" "$SOCKET" mixed; done >"$RUN/other" 2>&1 &
other=$!
for step in 0 1 2 3 4; do
	for _ in 1 2 3; do
		STEP=$step import dies >"$RUN/died" 2>&1
		[ $? = 137 ] || not_ok "step $step" "$(cat "$RUN/died")"
	done
	check "clients die at step $step: no importer is left" soon no_importers
done
for _ in $(seq "${CLIENT_KILLS:-20}"); do
	"$BUILD/tests/import" "$SOCKET" bits >/dev/null 2>&1 &
	client=$!
	read -r -t "0.$((RANDOM % 2))$((RANDOM % 10))" <> <(:) || true
	kill -KILL $client 2>/dev/null
	wait $client 2>/dev/null
done
check "or anywhere" soon no_importers
rm -f "$RUN/violations" # of clients that were killed
KILL_IMPORTER="pkill -KILL -f $RUN/[i]mporter" check "importers die" import importer_dies
: >"$RUN/enough"
wait $other
check "somebody else meanwhile" [ "$(grep -c '^ok - ' "$RUN/other")" -gt 0 ]
check "every time" [ "$(grep -c 'NOT OK' "$RUN/other")" = 0 ]
check "bits as before" import bits
check "no executor has died" [ "$(deaths)" = 0 ]
no_violation "deaths"

# Each call that an importer makes fails once, so that it can go on, and so that it cannot.
for call in cuInit cuDeviceGetCount cuDevicePrimaryCtxSetFlags cuDevicePrimaryCtxRetain cuCtxSetCurrent cuStreamCreateWithPriority \
	cuMemImportFromShareableHandle cuMemAddressReserve cuMemMap cuMemSetAccess cuMemRelease cuIpcOpenMemHandle cuMemGetAddressRange \
	cuIpcOpenEventHandle cuStreamWaitEvent cuMemcpyDtoDAsync cuStreamSynchronize cuEventDestroy cuIpcCloseMemHandle; do
	for code in 2 700; do
		echo "$call:1:$code" >"$RUN/faults"
		rm -f "$RUN/once"
		if import faulty >"$RUN/said" 2>&1 && nothing_open; then
			ok "$call:$code: $(sed -n 's/^# //p' "$RUN/said")"
		else
			not_ok "$call:$code" "$(tail -n 3 "$RUN/said" | tr '\n' ' ') opened, events: $(ledger opened events)"
		fi
		[ -e "$RUN/once" ] || not_ok "$call:$code" "no importer had this fault"
	done
done
rm -f "$RUN/faults"
no_violation "faults"
check "no executor has died of it" [ "$(deaths)" = 0 ]
EXECUTOR="pkill -KILL -P $BROKER -f [i]nfbroker-executor" check "executors die" import executor_dies
no_violation "executors die"
check "the broker ends cleanly" broker_stop

start --commit-ms-max 1500
check "an event that never comes" import never
check "three of them in a row" import closed_door
for fault in cuMemcpyDtoDAsync:1:hang cuIpcOpenMemHandle:1:block; do
	echo $fault >"$RUN/faults"
	rm -f "$RUN/once"
	check "$fault" import faulty
done
rm -f "$RUN/faults"
check "no importer is left" soon no_importers
no_violation "deadlines"
check "the broker ends cleanly" broker_stop

start
KILL_BROKER="kill -KILL $BROKER" check "the broker dies while an importer waits" import broker_dies
wait "$BROKER" 2>/dev/null
BROKER=
rm -f "$RUN/violations"
start --user-importers-max 1
check "as many importers as the user may have" import quota
check "bits with the next broker" import bits
KILL_BROKER="kill -TERM $BROKER" check "the broker is told to end while an importer waits" import broker_dies
check "and ends cleanly" broker_stop
start --cuda-ipc-users $((me + 1))
check "a user whom nobody named" import not_allowed
check "has no importer" no_importers
check "the broker ends cleanly" broker_stop
FAKECUDA_JITTER_US=300 start
FAKECUDA_JITTER_US=300 check "jitter: bits" import bits
FAKECUDA_JITTER_US=300 check "jitter: order" import order
check "the broker ends cleanly" broker_stop
no_violation "jitter"
check "no sanitizer has spoken" bash -c "! grep -A 12 -m 1 -E 'Sanitizer|runtime error' '$RUN/broker.log'"
finish
