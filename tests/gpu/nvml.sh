#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# nvml.sh - `shmctl devices` on an NVML in software (fake_nvml.c): what it shows, what it does where a device does not tell, is
# lost, or none is there, and which device the broker serves on. DRIVER=libcuda.so.1 asks the machine's own NVML instead.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
shows() { says "$1" "$2" "$3" "$CTL" devices; } # NAME STATUS REGEX
tells() { json "$1" "$2" "$3" "$CTL" devices -j; } # NAME STATUS EXPR
# The processes of device N.
of() { echo "[(p['pid'], p['memory_bytes']) for p in d['devices'][$1]['processes']]"; }

if [ -n "${DRIVER-}" ]; then
	if ! "$CTL" devices >"$RUN/devices" 2>&1 && grep -q 'no NVIDIA driver: ' "$RUN/devices"; then
		skip "the machine's own NVML: NOTHING WAS TESTED" "$(cat "$RUN/devices")"
		finish
	fi
	tells "the machine's own NVML" 0 "all(x['uuid'].startswith('GPU-') and x['name'] and x['error'] is None and
		all(v is None or type(v) is int and 0 <= v < 1 << 50 for k, v in x.items() if k.endswith(('bytes', 'percent', 'mw', '_c', 'mhz')))
		for x in d['devices'])"
	finish
fi

# --- no library, no driver -------------------------------------------------------------------------------------------

for library in libnowhere.so /dev/null; do
	INF_NVML_LIBRARY=$library shows "no library: $library" 1 "^shmctl devices: no NVIDIA driver: .*$library"
	INF_NVML_LIBRARY=$library tells "the same with -j" 1 "d['schema'] == 'infbroker.error/1' and d['exit_status'] == 1 and
		d['error'].startswith('no NVIDIA driver: $library')"
done
if ldconfig -p 2>/dev/null | grep -q libnvidia-ml.so.1; then
	skip "the default library is not there" "it is"
else
	INF_NVML_LIBRARY='' shows "the default library is not there" 1 'no NVIDIA driver: libnvidia-ml.so.1: '
fi
INF_NVML_LIBRARY=libm.so.6 shows "a library that is another" 1 'libm.so.6 lacks nvmlInit_v2: a newer driver is needed'

export INF_NVML_LIBRARY=$PWD/$BUILD/tests/libfakenvml.so FAKECUDA_REPORT=$RUN/violations
if [ ! -e "$INF_NVML_LIBRARY" ]; then
	skip "shmctl devices" "no software NVML in this build"
	finish
fi
for call in $(sed -n 's/^\tX([a-z_]*, \(nvml[A-Za-z0-9_]*\),.*/\1/p' shm/device/nvml.h); do
	# In its tables of symbols the call has another name of the same length.
	sed "s/\x00$call\x00/\x00${call/nvml/mlvn}\x00/g" "$INF_NVML_LIBRARY" >"$RUN/old.so"
	INF_NVML_LIBRARY=$RUN/old.so shows "a library without $call" 1 "old.so lacks $call: a newer driver is needed"
done
for row in 9:1 999:1 18:1 4:4 17:4; do
	FAKENVML_ERRORS=nvmlInit_v2=${row%:*} shows "it starts with error ${row%:*}" "${row#*:}" "the NVIDIA driver does not answer: fake error ${row%:*}"
done
FAKENVML_ERRORS=nvmlInit_v2=4 tells "the same with -j" 4 "d['exit_status'] == 4 and 'does not answer' in d['error']"
FAKENVML_ERRORS=nvmlDeviceGetCount_v2=999 shows "the devices cannot be counted" 1 'does not count its devices: fake error 999'
FAKENVML_ERRORS=nvmlSystemGetDriverVersion=3 tells "a driver without a version" 0 "d['driver'] is None and len(d['devices']) == 1"
says "an argument" 2 'all: devices takes no argument' "$CTL" devices all

# --- what it shows ---------------------------------------------------------------------------------------------------

device="dict(index=0, uuid='GPU-00fafafa-fafa-fafa-fafa-fafafafafafa', name='software device 0 (no GPU)', memory_total_bytes=80 << 30,
	memory_used_bytes=5 << 30, busy_percent=37, memory_busy_percent=12, power_mw=310250, temperature_c=54, sm_mhz=1980, memory_mhz=2619,
	processes=[], serves_models=None, error=None)"
figures="'memory_total_bytes memory_used_bytes busy_percent memory_busy_percent power_mw temperature_c sm_mhz memory_mhz'.split()"
shows "a table" 0 '^  0 software device 0 \(no GPU\) +GPU-00fafafa-fafa-fafa-fafa-fafafafafafa +5.0 GiB +80.0 GiB +37 % +12 % +310 W +54 C 1980 MHz 2619 MHz -$'
shows "the driver" 0 '^1 device\(s\), driver 580.65$'
tells "JSON: bytes, mW, C, MHz" 0 "d == dict(schema='infbroker.devices/1', driver='580.65', devices=[$device], clients=None)"
FAKENVML_DEVICES=3 tells "three devices" 0 "[(x['index'], x['uuid'][:6]) for x in d['devices']] == [(0, 'GPU-00'), (1, 'GPU-01'), (2, 'GPU-02')]"
FAKENVML_DEVICES=0 tells "no device" 0 "d['devices'] == []"
FAKENVML_DEVICES=0 shows "no device, for people" 0 '^0 device\(s\), driver 580.65$'
FAKENVML_NONE=1 FAKENVML_PROCESSES=compute:0:77:5 tells "figures of all ones are null" 0 "all(d['devices'][0][k] is None for k in $figures) and $(of 0) == [(77, None)]"
FAKENVML_NONE=1 FAKENVML_PROCESSES=compute:0:77:5 shows "and -" 0 '^  0 .*fafa( +-){9}$'
FAKENVML_NONE=1 FAKENVML_PROCESSES=compute:0:77:5 shows "that of a process, too" 0 '^    pid 77 +-$'

# --- what a device does not tell -------------------------------------------------------------------------------------

# As a device in MIG mode for somebody without rights: no load, no list.
FAKENVML_ERRORS=nvmlDeviceGetUtilizationRates=3,nvmlDeviceGetComputeRunningProcesses_v3=4 tells "no load, no processes: null" 0 \
	"d['devices'] == [{**$device, 'busy_percent': None, 'memory_busy_percent': None, 'processes': None}]"
FAKENVML_ERRORS=nvmlDeviceGetComputeRunningProcesses_v3=4 shows "and -" 0 '^    processes -$'
while read -r call code keys; do
	FAKENVML_ERRORS=$call=$code tells "$call gives $code: null" 0 "[k for k, v in d['devices'][0].items() if v is None] == '$keys serves_models error'.split()"
done <<-'X'
	nvmlDeviceGetName 3 name
	nvmlDeviceGetUUID 3 uuid
	nvmlDeviceGetMemoryInfo_v2 3 memory_total_bytes memory_used_bytes
	nvmlDeviceGetUtilizationRates 3 busy_percent memory_busy_percent
	nvmlDeviceGetPowerUsage 3 power_mw
	nvmlDeviceGetPowerUsage 4 power_mw
	nvmlDeviceGetPowerUsage 13 power_mw
	nvmlDeviceGetTemperature 3 temperature_c
	nvmlDeviceGetClockInfo 3 sm_mhz memory_mhz
	nvmlDeviceGetComputeRunningProcesses_v3 3 processes
	nvmlDeviceGetGraphicsRunningProcesses_v3 4 processes
	nvmlDeviceGetMPSComputeRunningProcesses_v3 4 processes
X
FAKENVML_PROCESSES=compute:0:7:1 FAKENVML_ERRORS=nvmlDeviceGetGraphicsRunningProcesses_v3=3,nvmlDeviceGetMPSComputeRunningProcesses_v3=3 \
	tells "a device that cannot draw has no such processes" 0 "$(of 0) == [(7, 1)]"

# --- devices that are lost -------------------------------------------------------------------------------------------

export FAKENVML_DEVICES=3
FAKENVML_ERRORS=nvmlDeviceGetPowerUsage=15@1 tells "a device is lost on the way: what it told, and the error" 1 \
	"[x['error'] for x in d['devices']] == [None, 'fake error 15', None] and
	[k for k, v in d['devices'][1].items() if v is None] == 'power_mw temperature_c sm_mhz memory_mhz processes serves_models'.split()"
FAKENVML_ERRORS=nvmlDeviceGetPowerUsage=15@1 shows "for people" 1 '^    error: fake error 15$'
FAKENVML_ERRORS=nvmlDeviceGetHandleByIndex_v2=15@1 tells "lost before: a number and the error" 1 \
	"[x['name'] is None for x in d['devices']] == [False, True, False] and all(d['devices'][1][k] is None for k in $figures)"
FAKENVML_ERRORS=nvmlDeviceGetHandleByIndex_v2=4@0 tells "one that is not for us" 1 "[x['error'] for x in d['devices']] == ['fake error 4', None, None]"
FAKENVML_ERRORS=nvmlDeviceGetHandleByIndex_v2=4@0 shows "and the head of the table is there" 1 '^GPU NAME '
FAKENVML_ERRORS=nvmlDeviceGetMPSComputeRunningProcesses_v3=999@2 tells "any other error, in the last call" 1 "d['devices'][2]['error'] == 'fake error 999' and
	d['devices'][2]['processes'] is None and d['devices'][2]['power_mw'] == 310250"

# --- processes -------------------------------------------------------------------------------------------------------

FAKENVML_PROCESSES=compute:0:7:1073741824,compute:2:8:5,graphics:0:9:6,mps:0:10:7 tells "who computes, draws, or comes by MPS" 0 \
	"[$(of 0), $(of 1), $(of 2)] == [[(7, 1 << 30), (9, 6), (10, 7)], [], [(8, 5)]]"
FAKENVML_PROCESSES=compute:0:7:1073741824 shows "for people" 0 '^    pid 7 +1.0 GiB$'
FAKENVML_PROCESSES=compute:0:7:5,graphics:0:7:5,mps:0:7:5,graphics:0:8:1 tells "who is in several lists is shown once" 0 "$(of 0) == [(7, 5), (8, 1)]"
FAKENVML_PROCESSES=compute:0:7:5:1,compute:0:7:6:2,mps:0:7:5:1,mps:0:7:9:3 tells "once for each MIG instance" 0 "$(of 0) == [(7, 5), (7, 6), (7, 9)]"
FAKENVML_PROCESSES=compute:0:4294967295:9223372036854775807 tells "the largest numbers" 0 "$(of 0) == [(2**32 - 1, 2**63 - 1)]"
newcomers() { # NUMBERS LISTED
	FAKENVML_NEWCOMERS=$1 FAKENVML_PROCESSES=${3-} tells "a list of $1${3:+ and one that draws}: ${2/None/unknown}" 0 \
		"(lambda p: p if p is None else len({x['pid'] for x in p}))(d['devices'][0]['processes']) == $2 and d['devices'][0]['error'] is None"
}
newcomers 32 32
newcomers 33 33
newcomers 40,90,300,300 300
newcomers 33,20 20
newcomers 4096 4096
newcomers 4097 None
newcomers 4000,4000,4000,4000,4000,4000,4000,5000 None
newcomers 4095 4096 graphics:0:7:1
newcomers 4096 None graphics:0:7:1
unset FAKENVML_DEVICES

# --- which one the broker serves on -----------------------------------------------------------------------------------

serves() { # NAME LIST
	tells "$1: $2" 0 "[x['serves_models'] for x in d['devices']] == $2"
}
. tests/support/gpu.sh
serves "no broker" '[None]'
FAKECUDA_LEDGER_LIVE=$RUN/ledger broker_start --builtin --device cuda || { not_ok "start"; finish; }
pid=$(executor_pid)
serves "the only device" '[True]'
shows "for people" 0 '^  0 .* cuda:0$'
FAKENVML_PROCESSES=compute:0:$pid:5,compute:0:7:5 tells "the broker's executor is named" 0 "[p['executor'] for p in d['devices'][0]['processes']] == [True, False]"
FAKENVML_PROCESSES=compute:0:$pid:5 shows "for people" 0 "^    pid $pid +5 B  the broker's executor$"

# A client's memory on the device is the executor's, to NVML; whose it is, the broker knows.
of_all() { # NAME NUMBER-EXPR: what the three commands say of it, and the limit's use
	json "$1: status" 0 "d['sessions']['device_bytes'] == d['limits']['device_memory_max']['used'] == $2" "$CTL" status -j
	json "$1: sessions" 0 "sum(s['device_bytes'] for s in d['sessions']) == $2" "$CTL" sessions -j
	tells "$1: devices" 0 "d['clients']['device_bytes'] == sum(s['device_bytes'] for s in d['clients']['sessions']) == $2 and
		d['clients']['not_shown_bytes'] == 0"
}
device_bytes() { "$CTL" status -j | sed -n 's/^ *"device_bytes": \([0-9]*\).*/\1/p'; }
of_all "nobody" 0
says "nobody, for people: status" 0 '^sessions  0 now, .*, 0 B of device memory$' "$CTL" status
shows "nobody, for people: devices" 0 "^the broker's executor holds 0 B for clients$"
before=$(ledger device_bytes)
mkfifo "$RUN/hold1" "$RUN/hold2"
exec 8<>"$RUN/hold1" 9<>"$RUN/hold2"
background "$BUILD/tests/tensors" "$SOCKET" holds <"$RUN/hold1" >"$RUN/holds1" 8>&- 9>&-
one=$LAST
within 20 grep -q '^holds' "$RUN/holds1"
within 20 [ "$(device_bytes)" -gt 0 ]
bytes=$(device_bytes)
check "memory of a client is counted in whole units" [ $((bytes > 0 && bytes % (2 << 20) == 0)) = 1 ]
check "and is what the executor has more than before" [ $(($(ledger device_bytes) - before)) = "$bytes" ]
of_all "one client" "$bytes"
tells "whose it is" 0 "[(s['pid'], s['uid'], s['name'], s['device_bytes']) for s in d['clients']['sessions']] == [($one, $(id -u), 'tensors', $bytes)]"
json "none of it is memory of the host" 0 "[s['request_bytes'] + s['output_bytes'] > 0 for s in d['sessions']] == [True]" "$CTL" sessions -j
says "a column for it" 0 '^ +ID .* INPUTS +OUTPUTS +DEVICE +REQUESTS' "$CTL" sessions
says "with its figure" 0 "^ +[0-9]+ +$one +$(id -u) tensors .* [0-9.]+ MiB +[0-9.]+ [KM]?i?B +$((bytes >> 20)).0 MiB +0 " "$CTL" sessions
says "for people: status" 0 "^sessions  1 now, .*, $((bytes >> 20)).0 MiB of device memory\$" "$CTL" status
shows "for people: devices" 0 "^    session [0-9]+ +pid $one +tensors +$((bytes >> 20)).0 MiB$"
background "$BUILD/tests/tensors" "$SOCKET" holds <"$RUN/hold2" >"$RUN/holds2" 8>&- 9>&-
two=$LAST
within 20 grep -q '^holds' "$RUN/holds2"
holds_twice() { [ "$(device_bytes)" = $((2 * bytes)) ]; }
check "a second client holds as much" within 20 holds_twice
of_all "two clients" $((2 * bytes))
if [ "$(id -u)" = 0 ] && other_user; then
	chmod 755 "$RUN" # one may pass, and read what is public
	as_other "$RUN/bin/shmctl" devices -j >"$RUN/other" 2>&1
	json "somebody else sees how much, and not whose" 0 "d['clients'] == {'device_bytes': 2 * $bytes, 'sessions': [], 'not_shown_bytes': 2 * $bytes}" cat "$RUN/other"
else
	skip "somebody else sees how much, and not whose" "no second user here"
fi
exec 8>&-
check "one goes by itself" ends "$one"
holds_once() { [ "$(device_bytes)" = "$bytes" ]; }
check "and what it held" within 20 holds_once
of_all "the other" "$bytes"
kill -KILL "$two"
ends "$two"
exec 9>&-
holds_nothing() { [ "$(device_bytes)" = 0 ] && [ "$(ledger device_bytes)" -eq "$before" ]; }
check "the other is killed: nothing is held, nor by the executor" within 20 holds_nothing
of_all "nobody again" 0

export FAKENVML_DEVICES=3
serves "three, and nobody says" '[None, None, None]'
shows "for people" 0 '^  2 .* unknown$'
FAKENVML_PROCESSES=compute:0:7:5,compute:2:$pid:5 serves "the executor is on one" '[False, False, True]'
FAKENVML_PROCESSES=compute:2:$pid:5 shows "the others, for people" 0 '^  1 .* no$'
FAKENVML_PROCESSES=compute:1:$pid:5,compute:2:$pid:5 serves "the executor is on two" '[None, None, None]'
FAKENVML_PROCESSES=compute:2:$pid:5 FAKENVML_ERRORS=nvmlDeviceGetComputeRunningProcesses_v3=4@1 serves "one does not say who is on it" '[None, None, None]'
check "the broker ends cleanly" broker_stop
serves "the broker has ended" '[None, None, None]'
FAKENVML_DEVICES=1
broker_start --builtin || { not_ok "start"; finish; }
serves "on the CPU" '[False]'
tells "and no device memory" 0 "d['clients'] is None"
check "the broker ends cleanly" broker_stop
broker_start --builtin --device cuda || { not_ok "start"; finish; }
serves "on the device again" '[True]'
kill -KILL "$BROKER"
wait "$BROKER" 2>/dev/null
BROKER=
serves "killed" '[False]'
finish
