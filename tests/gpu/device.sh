#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# device.sh - the broker with its models on a device, end to end between real processes, on the software driver: every answer is
# checked, and the driver counts what it saw. DRIVER=libcuda.so.1 runs the same on a real one.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/gpu.sh
export FAKECUDA_LEDGER_LIVE=$RUN/ledger

cases="identity many_rows large_rows scalar_and_varying normalise named_errors deadline cancel quota too_many_in_flight event_fd threads after_fork
	infer_in_one_line pairs"
hammer() { # NAME: one row and many, one client and several
	local case
	for case in $cases; do
		check "$1: requests $case" "$BUILD/tests/requests" "$SOCKET" "$case"
	done
	check "$1: 2 threads x 16 in flight" "$BUILD/tests/checked_load" "$SOCKET" 2 16 1
	check "$1: 4 threads x 64 in flight of one model" "$BUILD/tests/checked_load" "$SOCKET" 4 64 1 identity
	no_violation "$1"
}

need_driver "models on a device"
broker_start --builtin --device cuda || { not_ok "start"; finish; }
need_device "models"
check "models are on cuda:0" is_on_device
check "status says that no GPU has run this" bash -c "'$BUILD/shmctl' status | grep -q 'no GPU has run them yet'"
check "what loading took of the device is told" bash -c "'$BUILD/shmctl' models | grep -q 'device memory that loading it took: [1-9]' &&
	'$BUILD/shmctl' models -j | grep -q '\"device_bytes\": *[1-9]'"
[ -z "$is_software" ] || check "no kernel has run on a stream of a higher priority" [ "$(ledger urgent_kernels)" = " 0 " ]
check "requests of all priorities" "$BUILD/tests/requests" "$SOCKET" priorities
[ -z "$is_software" ] || check "those of the upper two of four have: $(ledger urgent_kernels)" [ "$(ledger urgent_kernels)" = " 100 " ]
hammer "cuda"
check "the broker ends cleanly" broker_stop
no_violation "at the end"

broker_start --builtin --device cuda:0 --instances 1 || { not_ok "start"; finish; }
hammer "one instance"
check "the broker ends cleanly" broker_stop

[ -n "$is_software" ] || finish

# Clients and executors are killed: what they held is given back, and nobody else notices.
held="device_bytes allocations pinned_allocations registrations streams events"
broker_start --builtin --device cuda || { not_ok "start"; finish; }
# shellcheck disable=SC2086
before=$(ledger $held)
check "200 clients are killed" "$BUILD/tests/kill_clients" "$SOCKET" 200 kill
for _ in $(seq 100); do
	# shellcheck disable=SC2086
	[ "$(ledger $held)" != "$before" ] || break
	read -r -t 0.05 <> <(:) || true
done
# shellcheck disable=SC2086
check "all that the driver gave is given back ($held:$before)" [ "$(ledger $held)" = "$before" ]
"$BUILD/tests/checked_load" "$SOCKET" 2 64 4 identity >"$RUN/load" 2>&1 &
load=$!
n_killed=0
for _ in 1 2 3 4 5; do
	read -r -t 0.5 <> <(:) || true
	kill -KILL "$(executor_pid)" 2>/dev/null && n_killed=$((n_killed + 1))
done
wait $load
check "$n_killed executors are killed, no answer is wrong or lost: $(cat "$RUN/load")" grep -q '"wrong": 0.*"error": 0' "$RUN/load"
check "models are on the device again" is_on_device
check "the broker ends cleanly" broker_stop
no_violation "kills"

# A device that is lost with the first memory of a client, again and again: after three times the CPU serves.
FAKECUDA_FAULTS=cuMemHostRegister_v2:1:700 broker_start --builtin --device cuda || { not_ok "start"; finish; }
check "a device that is always lost: right answers in the end" "$BUILD/tests/checked_load" "$SOCKET" 2 16 1 identity
check "on the CPU" bash -c "'$BUILD/shmctl' status | grep -q 'device cpu' && grep -q 'was lost 3 times in a row' '$RUN/broker.log'"
check "the broker ends cleanly" broker_stop

# A device that hangs, once: while a batch is on it, while a model is loaded, before anything is.
hangs() { # CALL:N:CODE OPTIONS...
	: >"$RUN/broker.log"
	rm -f "$RUN/once"
	FAKECUDA_FAULTS=$1 FAKECUDA_FAULTS_ONCE=$RUN/once broker_start --builtin --device cuda "${@:2}" || { not_ok "start"; finish; }
}
hangs cuGraphLaunch:2000:hang --batch-ms-max 500
check "a device that hangs in a batch: every answer is right" "$BUILD/tests/checked_load" "$SOCKET" 2 16 3 identity
check "a line names the model" grep -q 'model identity has not ended a batch of .* in 500 ms' "$RUN/broker.log"
check "models are on the device again" is_on_device
check "the broker ends cleanly" broker_stop
hangs cuLaunchKernel:1:hang --load-s-max 1 --batch-ms-max 400
check "a device that hangs in a load: a line says so" grep -q 'has not ended loading a model .* in 1000 ms' "$RUN/broker.log"
check "that model has failed" bash -c "'$BUILD/shmctl' models -j | grep -q '\"failed\"'"
head -c 64 /dev/zero >"$RUN/row"
check "the others are served" "$BUILD/shmctl" infer add_sub "$RUN/row" "$RUN/row"
check "the broker ends cleanly" broker_stop
hangs cuInit:1:block --start-s-max 1 --batch-ms-max 400
check "a driver that hangs: a line says so" grep -q 'has not ended its start .* in 1000 ms' "$RUN/broker.log"
check "models are on the device in the end" is_on_device
check "the broker ends cleanly" broker_stop
no_violation "hangs"

# Less memory for models than all of them want: who does not fit is named, the others are served.
broker_start --builtin --device cuda --device-model-memory 1000000 || { not_ok "start"; finish; }
check "a model that is over the budget has failed, and says why" \
	bash -c "'$BUILD/shmctl' models -j | grep -q 'it needs [0-9]* bytes on cuda:0, where models have [0-9]* of 1000000'"
check "the others are served" "$BUILD/tests/checked_load" "$SOCKET" 2 16 0.5 identity
check "the broker ends cleanly" broker_stop

# Slow and irregular: what waits for what shows.
FAKECUDA_JITTER_US=300 broker_start --builtin --device cuda || { not_ok "start"; finish; }
hammer "jitter"
check "the broker ends cleanly" broker_stop

# No memory of a client can be pinned: it goes through the executor's own.
: >"$RUN/broker.log"
FAKECUDA_FAULTS="$(for i in $(seq 200); do printf 'cuMemHostRegister_v2:%d:801,' "$i"; done)" \
	broker_start --builtin --device cuda || { not_ok "start"; finish; }
hammer "nothing pinned"
check "one line says so" [ "$(grep -c 'pinning a client' "$RUN/broker.log")" = 1 ]
check "the broker ends cleanly" broker_stop

# What the administrator asked for is not there: the models are served all the same, and a line says why.
cpu_only() { # DEVICE WORDS
	: >"$RUN/broker.log"
	if broker_start --builtin --device "$1" >"$RUN/out" 2>&1 && "$BUILD/shmctl" status | grep -q 'device cpu' &&
		"$BUILD/shmctl" status | grep -q "note .*--device $1 was asked for" &&
		"$BUILD/tests/requests" "$SOCKET" identity >"$RUN/out" 2>&1 && grep -q "CPU only: .*$2" "$RUN/broker.log"; then
		ok "$1: CPU only, $2"
	else
		not_ok "$1: CPU only, $2" "$(tail -n 3 "$RUN/out" "$RUN/broker.log" | tr '\n' ' ')"
	fi
	check "the broker ends cleanly" broker_stop
}
INF_CUDA_LIBRARY=libnowhere.so cpu_only cuda "no CUDA driver"
INF_CUDA_LIBRARY=libm.so.6 cpu_only cuda "lacks cuInit"
FAKECUDA_DEVICES=0 cpu_only cuda "sees no device"
FAKECUDA_VERSION=11080 cpu_only cuda "CUDA 11.8"
FAKECUDA_FAULTS=cuInit:1:800 cpu_only cuda "may this user open /dev/nvidia"
cpu_only cuda:7 "there is no device cuda:7"
cpu_only GPU-0bad "fits 0 of 1 devices"
for word in cuda:-1 cuda:x GPU-nonsense cuda9; do
	check "$word is no device" bash -c "'$BUILD/infbroker' --device $word 2>&1 | grep -q 'must be cpu, cuda'"
done
check "a word that is no device" bash -c "! '$BUILD/infbroker' --device gpu0 2>&1 | grep -q listening && '$BUILD/infbroker' --device gpu0 2>&1 | grep -q 'must be cpu, cuda'"
finish
