#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# nvml.sh - `shmctl devices` on an NVML in software: what it shows, what it does where a device does not tell, or none is there.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
export INF_NVML_LIBRARY=$PWD/$BUILD/tests/libfakenvml.so FAKECUDA_REPORT=$RUN/violations
devices() { "$BUILD/shmctl" devices "$@"; }
json() { devices -j | python3 -c "import json, sys
d = json.load(sys.stdin)
sys.exit(0 if ($1) else repr(d))"; }

if [ ! -e "$INF_NVML_LIBRARY" ]; then
	skip "shmctl devices" "no software NVML in this build"
	finish
fi
check "a table" bash -c "'$BUILD/shmctl' devices | grep -E '^  0 NVIDIA Software 1 +GPU-00000001-.* +20.0 GiB +80.0 GiB +37 % +31[23] W 1980 MHz$'"
check "who is on it" bash -c "FAKENVML_PID=77 '$BUILD/shmctl' devices | grep -qE '^    pid 77 +1.0 GiB$'"
check "the driver" bash -c "'$BUILD/shmctl' devices | grep -qx '1 device(s), driver 580.65'"
check "JSON: bytes, mW, MHz" json 'd["schema"] == "infbroker.devices/1" and d["driver"] == "580.65" and d["devices"] == [dict(index=0,
	uuid="GPU-00000001-fafa-fafa-fafa-fafafafafafa", name="NVIDIA Software 1", memory_total_bytes=80 << 30,
	memory_used_bytes=20 << 30, busy_percent=37, memory_busy_percent=12, power_mw=312500, sm_mhz=1980, memory_mhz=2619,
	processes=[dict(pid=1, memory_bytes=1 << 30, executor=False)])]'
FAKENVML_DEVICES=3 check "three devices" json '[x["index"] for x in d["devices"]] == [0, 1, 2] and d["devices"][2]["name"].endswith("3")'
FAKENVML_DEVICES=0 check "no device" json 'd["devices"] == []'
FAKENVML_PROCESSES=500 check "more processes than were asked for; one of unknown memory" json 'len(d["devices"][0]["processes"]) == 500 and
	d["devices"][0]["processes"][499]["memory_bytes"] is None'
FAKENVML_PROCESSES=5000 check "too many processes are unknown" json 'd["devices"][0]["processes"] is None'
all=nvmlDeviceGetMemoryInfo=3,nvmlDeviceGetUtilizationRates=3,nvmlDeviceGetPowerUsage=3,nvmlDeviceGetClockInfo=3,nvmlDeviceGetUUID=3,nvmlDeviceGetComputeRunningProcesses_v3=4
FAKENVML_ERRORS=$all check "what it does not tell is null" json 'd["devices"] == [dict(index=0, name="NVIDIA Software 1", **{k: None for k in
	("uuid", "memory_total_bytes", "memory_used_bytes", "busy_percent", "memory_busy_percent", "power_mw", "sm_mhz", "memory_mhz", "processes")})]'
FAKENVML_ERRORS=$all check "and -" bash -c "'$BUILD/shmctl' devices | grep -qE '^  0 NVIDIA Software 1 +- +- +- +- +- +-$'"
FAKENVML_DEVICES=2 FAKENVML_ERRORS=nvmlDeviceGetHandleByIndex_v2=15 check "a lost one is a number" json 'len(d["devices"]) == 2 and d["devices"][1]["name"] is None'

says() { # STATUS WORDS ENVIRONMENT...
	local status=$1 words=$2
	shift 2
	env "$@" "$BUILD/shmctl" devices >"$RUN/out" 2>&1
	[ $? -eq "$status" ] && grep -q "$words" "$RUN/out" && ! env "$@" "$BUILD/shmctl" devices -j | python3 -c 'import json, sys; json.load(sys.stdin)["devices"]' 2>/dev/null
}
check "no library" says 1 "no NVIDIA driver" INF_NVML_LIBRARY=libnowhere.so
check "a library that is none" says 1 "lacks nvmlInit_v2" INF_NVML_LIBRARY=libm.so.6
check "no driver behind it" says 1 "Driver Not Loaded" FAKENVML_ERRORS=nvmlInit_v2=9
check "not permitted" says 4 "does not answer" FAKENVML_ERRORS=nvmlInit_v2=4
check "an argument" bash -c "'$BUILD/shmctl' devices all; [ \$? -eq 2 ]"

INF_CUDA_LIBRARY=$PWD/$BUILD/tests/libfakecuda.so broker_start --builtin --device cuda || { not_ok "start"; finish; }
FAKENVML_PID=$(executor_pid) check "the broker's executor is named" bash -c "'$BUILD/shmctl' devices | grep -q 'the broker.s executor'"
FAKENVML_PID=$(executor_pid) check "in JSON too" json 'd["devices"][0]["processes"][0]["executor"] is True'
check "the broker ends cleanly" broker_stop
finish
