#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# demo.sh [--table-only] - what `make demo` and `make case-study` run once everything is built.
#
# Exports the network, starts a broker on a private socket, classifies photographs (IMAGE=my.jpg: that one), stops the broker
# and prints the case study's table (ROUNDS=3 here, 9 for `make case-study`). Leaves nothing running.
set -eu
cd "$(dirname "$0")/../.."
BUILD=${BUILD:-build}
demo=$BUILD/demo
model=efficientnet-lite0
run=$(mktemp -d "${TMPDIR:-/tmp}/infbroker-demo.XXXXXX")
broker=

stop() {
	[ -z "$broker" ] || kill "$broker" 2>/dev/null || true
	[ -z "$broker" ] || wait "$broker" || true
	broker=
}
trap 'stop; rm -rf "$run"' EXIT
trap 'exit 130' INT TERM
headline() { printf '\n== %s\n' "$*"; }

start() {
	export INFBROKER_SOCKET=$run/socket
	"$BUILD/infbroker" --socket "$INFBROKER_SOCKET" --models "$demo/models" 2>"$run/log" &
	broker=$!
	printf 'warming up (every batch size is run and timed) '
	for _ in $(seq 1200); do
		"$BUILD/shmctl" models -j >"$run/models" 2>/dev/null || true
		if grep -q '"ready"' "$run/models"; then
			echo
			return 0
		fi
		if grep -q '"failed"' "$run/models" || ! kill -0 "$broker" 2>/dev/null; then break; fi
		printf .
		read -r -t 0.5 <> <(:) || true
	done
	echo
	cat "$run/models" "$run/log" >&2
	echo "the broker does not serve $model: see above" >&2
	exit 1
}

# One line for people from the JSON line for programs.
human() {
	python3 -c '
import json, sys
for line in sys.stdin:
    print(line, end="")
    answer = json.loads(line)
    if "top" in answer:
        best = ", ".join("%s %.0f %%" % (top["label"], 100 * top["probability"]) for top in answer["top"][:3])
        print("   %s: %s (%.1f ms)" % (answer["image"], best, answer["latency_us"] / 1000))'
}

classify() {
	headline "a broker on a private socket"
	start
	"$BUILD/shmctl" models
	headline "photographs, written into shared memory and answered in place"
	if [ -n "${IMAGE-}" ]; then
		"$BUILD/infclassify" --labels "$demo/labels.txt" "$IMAGE" | human
	else
		"$BUILD/infclassify" --labels "$demo/labels.txt" "$demo/china.jpg" "$demo/flower.jpg" | human
	fi
	stop
}

tools/demo/export.sh
[ "${1-}" = --table-only ] || classify
headline "case study: the same photographs in six ways (ROUNDS=${ROUNDS:-3}; make case-study takes 9)"
python3 tools/casestudy/run.py --build "$BUILD" --models "$demo/models" --name "$model" --rounds "${ROUNDS:-3}" \
	"$demo/china.jpg" "$demo/flower.jpg"
