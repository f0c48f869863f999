#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mutations.sh - ordering mistakes, one patch each in tests/gpu/mutations/, built into an executor of its own: the software
# driver's race detector, or an answer that is wrong, must find each, under the same load in which neither finds anything in
# the code as it is. (The detector knows one process. What an executor's streams tell a client's is for the answers to show.)
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
export INF_CUDA_LIBRARY=$PWD/$BUILD/tests/libfakecuda.so FAKECUDA_REPORT=$RUN/violations INF_BUILTIN_COST=10,1 FAKECUDA_JITTER_US=200
if [ -n "${DRIVER-}" ] || [ ! -e "$INF_CUDA_LIBRARY" ] || [ "$BUILD" != "${BUILD%asan}" ]; then
	skip "ordering mistakes" "built without a sanitizer, and only the software driver finds them"
	finish
fi

# build PATCH: an executor with it; the patched file's object goes before the archive's
build() {
	local file
	file=$(sed -n 's|^+++ b/||p' "$1")
	rm -rf "$RUN/source"
	mkdir -p "$RUN/source/${file%/*}"
	cp "$file" "$RUN/source/$file"
	patch -s -d "$RUN/source" -p1 <"$1" || return 1
	"${CC:-gcc}" -std=gnu17 -O2 -g -fPIC -I. -Iinclude -Wno-unused -c "$RUN/source/$file" -o "$RUN/mutated.o" &&
		"${CC:-gcc}" -pie -o "$RUN/executor" "$BUILD/obj/broker/executor/main.o" "$RUN/mutated.o" "$BUILD/lib/executor.a" \
			"$BUILD/lib/shm.a" -ljansson -ldl -lpthread -lm
}

broker_kill() {
	kill -KILL "$BROKER" 2>/dev/null
	wait "$BROKER" 2>/dev/null
	BROKER=
}

# load_early EXECUTOR: the first model while the others are loaded, for which its memory is taken anew, and calls that fail
# now and then, so that batches which are on the device already are run once more, entry by entry
load_early() {
	FAKECUDA_FAULTS=$(printf 'cuLaunchHostFunc:%d:2,' $(seq 200 100 3000)) "$BUILD/infbroker" --socket "$SOCKET" --builtin \
		--device cuda --executor "$1" 2>>"$RUN/broker.log" &
	BROKER=$!
	for _ in $(seq 200); do
		# Of one that was killed before, its status says that it is gone.
		! "$BUILD/shmctl" models >"$RUN/listing" 2>/dev/null || ! grep -q '^identity ' "$RUN/listing" || break
		read -r -t 0.05 <> <(:) || true
	done
	timeout 60 "$BUILD/tests/checked_load" "$SOCKET" 4 200 1.5 identity >>"$RUN/said" 2>&1
	broker_kill
}

# load EXECUTOR: that, then small rows (by way of us) and large ones (straight out of the clients' memory), and clients' tensors
load() {
	rm -f "$RUN/violations" "$RUN/said"
	load_early "$1"
	broker_start --builtin --device cuda --executor "$1" || return 1
	"$BUILD/tests/requests" "$SOCKET" large_rows >>"$RUN/said" 2>&1
	"$BUILD/tests/checked_load" "$SOCKET" 4 200 0.5 identity >>"$RUN/said" 2>&1
	# Clients are not what is looked at: nobody orders the memory of a request that a mutation has ended too early.
	FAKECUDA_REPORT=$RUN/of_clients "$BUILD/tests/tensors" "$SOCKET" judged >"$RUN/said_too" 2>&1 &
	other=$!
	FAKECUDA_REPORT=$RUN/of_clients "$BUILD/tests/tensors" "$SOCKET" judged >>"$RUN/said" 2>&1
	FAKECUDA_REPORT=$RUN/of_clients "$BUILD/tests/tensors" "$SOCKET" mixed >>"$RUN/said" 2>&1
	wait $other
	cat "$RUN/said_too" >>"$RUN/said"
	broker_kill
}

wrong='"wrong": *[1-9]|^NOT OK'
load "$PWD/$BUILD/infbroker-executor"
if [ -s "$RUN/violations" ] || grep -qE "$wrong" "$RUN/said"; then
	not_ok "nothing is found in the code as it is" "$(head -qn 3 "$RUN/violations" "$RUN/said")"
else
	ok "nothing is found in the code as it is"
fi
for patch in tests/gpu/mutations/*.patch; do
	name=$(basename "$patch" .patch)
	if ! build "$patch" >"$RUN/out" 2>&1; then
		not_ok "$name" "$(tail -n 3 "$RUN/out")"
		continue
	fi
	found='^race: |is still used by queued work|which is not there any more'
	# Some need two streams to meet, which they do by chance.
	for _ in 1 2 3; do
		load "$RUN/executor"
		! grep -qE "$found" "$RUN/violations" 2>/dev/null && ! grep -qE "$wrong" "$RUN/said" || break
	done
	if grep -qE "$found" "$RUN/violations" 2>/dev/null; then
		ok "$name: $(grep -cE "$found" "$RUN/violations") x $(grep -m 1 -oE '^race: .* touch|.*(is still used by queued work|which is not there any more)' "$RUN/violations")"
	elif grep -qE "$wrong" "$RUN/said"; then
		ok "$name: $(grep -m 1 -E "$wrong" "$RUN/said")"
	else
		not_ok "$name" "nothing was found; $(tail -n 1 "$RUN/said")"
	fi
done
finish
