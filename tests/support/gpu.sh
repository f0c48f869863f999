# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# gpu.sh - to be sourced after broker.sh by tests of devices: the software driver, or with DRIVER=libcuda.so.1 a real one.
#
#   need_driver NAME       skips all where neither is there
#   need_device NAME       skips all, loudly, where the broker that was started has no device
#   no_violation NAME      counts whether the software driver saw something wrong since the last time
#   ledger FIELD...        what the process that was started with FAKECUDA_LEDGER_LIVE=$RUN/ledger holds, or has done:
#                          fields of FAKECUDA_LEDGER in tests/fakecuda/fakecuda.h

export INF_CUDA_LIBRARY=${DRIVER:-$PWD/$BUILD/tests/libfakecuda.so} FAKECUDA_REPORT=$RUN/violations
is_software=$([ -z "${DRIVER-}" ] && echo yes)

need_driver() {
	"$BUILD/infbroker-executor" --help >/dev/null && { [ -z "$is_software" ] || [ -e "$INF_CUDA_LIBRARY" ]; } && return
	skip "$1" "no software driver in this build"
	finish
}

is_on_device() { "$BUILD/shmctl" status | grep -q 'device cuda:0'; }

need_device() {
	[ -n "$is_software" ] || is_on_device && return
	skip "$1 on a real device: NOTHING WAS TESTED" "$(grep -m 1 'CPU only' "$RUN/broker.log")"
	finish
}

no_violation() {
	[ -n "$is_software" ] || return
	if [ -s "$RUN/violations" ]; then
		not_ok "$1: the driver saw nothing wrong" "$(sort "$RUN/violations" | uniq -c | sort -rn | head -n 5 | tr '\n' ';')"
		rm -f "$RUN/violations"
	else
		ok "$1: the driver saw nothing wrong"
	fi
}

ledger() {
	local field at
	for field; do
		at=$(sed -n '/^#define FAKECUDA_LEDGER(X)/,/^$/s/^\tX(\([a-z_]*\)).*/\1/p' tests/fakecuda/fakecuda.h | grep -nx "$field" | cut -d: -f1)
		od -An -t u8 -v -w8 "$RUN/ledger" | sed -n "${at}p"
	done | tr -s ' \n' ' '
}
