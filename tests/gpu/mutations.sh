#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mutations.sh - ordering mistakes, one patch each in tests/gpu/mutations/, built into an executor of its own: the software
# driver's race detector must find each, under the same load in which it finds nothing in the code as it is.
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

# load EXECUTOR: small rows (by way of us) and large ones (straight out of the clients' memory)
load() {
	rm -f "$RUN/violations"
	broker_start --builtin --device cuda --executor "$1" || return 1
	"$BUILD/tests/requests" "$SOCKET" large_rows >"$RUN/said" 2>&1
	"$BUILD/tests/checked_load" "$SOCKET" 4 200 0.5 identity >>"$RUN/said" 2>&1
	# Clients are not what is looked at: nobody orders the memory of a request that a mutation has ended too early.
	FAKECUDA_REPORT=$RUN/of_clients "$BUILD/tests/tensors" "$SOCKET" mixed >>"$RUN/said" 2>&1
	kill -KILL "$BROKER" 2>/dev/null
	wait "$BROKER" 2>/dev/null
	BROKER=
}

load "$PWD/$BUILD/infbroker-executor"
if [ -s "$RUN/violations" ]; then
	not_ok "nothing is found in the code as it is" "$(head -n 3 "$RUN/violations")"
else
	ok "nothing is found in the code as it is"
fi
for patch in tests/gpu/mutations/*.patch; do
	name=$(basename "$patch" .patch)
	if ! build "$patch" >"$RUN/out" 2>&1; then
		not_ok "$name" "$(tail -n 3 "$RUN/out")"
		continue
	fi
	load "$RUN/executor"
	found='^race: |is still used by queued work'
	if grep -qE "$found" "$RUN/violations" 2>/dev/null; then
		ok "$name: $(grep -cE "$found" "$RUN/violations") x $(grep -m 1 -oE '^race: .* touch|.*is still used by queued work' "$RUN/violations")"
	else
		not_ok "$name" "nothing was found; $(tail -n 1 "$RUN/said")"
	fi
done
finish
