#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# models.sh - files that are models, files that are none, and models that lie: what cannot be served is FAILED and says why, all
# others are served; files that come, change and go are found at SIGHUP; a file that kills its loader is left alone.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
torch() { tools/setup/torch.sh --run "$@"; }

if [ ! -e "$BUILD/backends/libinf-backend-torch.so" ] || ! torch -c '' 2>/dev/null; then
	skip "TorchScript models" "no torch plug-in in this build, or no Python with torch"
	finish
fi
torch tests/support/make_models.py "$RUN" >"$RUN/made" 2>&1 || { not_ok "make models" "$(tail -n 3 "$RUN/made")"; finish; }
broker_start --models "$RUN/models" || { not_ok "start"; finish; }

# state NAME: prints loading, ready, failed or nothing
state() {
	"$BUILD/shmctl" models -j >"$RUN/listing" 2>/dev/null
	python3 -c '
import json, sys
for model in json.load(open(sys.argv[1]))["models"]:
    if model["name"] == sys.argv[2]:
        print(model["state"], model["version"], model.get("error", ""))' "$RUN/listing" "$1"
}
becomes() { # NAME STATE-PATTERN
	local _
	for _ in $(seq 300); do
		state "$1" | grep -qE "^$2" && return 0
		read -r -t 0.1 <> <(:) || true
	done
	state "$1"
	return 1
}
gives() { # MODEL INPUTS... -- VALUES: the flat values of all outputs
	local model=$1 files=()
	shift
	while [ "$1" != -- ]; do files+=("$RUN/x-$1.npy") && shift; done
	shift
	"$BUILD/shmctl" infer "$model" "${files[@]}" -j >"$RUN/answer" || { cat "$RUN/answer"; return 1; }
	python3 -c '
import json, sys
answer = json.load(open(sys.argv[1]))
got = [float(value) for output in answer["outputs"] for value in output["data"]]
expected = [float(word) for word in sys.argv[2:]]
sys.exit(None if got == expected else f"got {got}, expected {expected}")' "$RUN/answer" "$@"
}
says() { # WORDS MODEL INPUT: the request ends with an error that has these words
	local words=$1
	shift
	! "$BUILD/shmctl" infer "$1" "$RUN/x-$2.npy" >"$RUN/answer" 2>&1 && grep -q "$words" "$RUN/answer" || { cat "$RUN/answer"; return 1; }
}

for bad in corrupt cut empty text; do
	check "bad-$bad.pt is FAILED" becomes bad-$bad 'failed 1 .*archive'
done
check "no description" becomes bad-undescribed 'failed 1 no description'
check "a description that is no JSON" becomes bad-json 'failed 1 the description is no JSON'
check "a signature that lies about a shape" becomes bad-shape 'failed 1 output y .*batch|failed 1 output y'
check "a signature that lies about a type" becomes bad-dtype 'failed 1 output y .*f64'
check "a model that is FAILED cannot be opened" says 'bad-cut' bad-cut rows

check "double.pt" gives double rows -- 0 2 4 6 8 10 12 14
check "two inputs, two outputs" gives two rows rows -- 0 2 4 6 8 10 12 14 0 0 0 0 0 0 0 0
check "a description beside the file" gives sidecar rows -- 0 5 10 15 20 25 30 35
check "the highest version" gives versions rows -- 0 3 6 9 12 15 18 21
check "a scalar" gives scalar scalar -- 2.5
check "an empty tensor" gives empty empty --
check "shapes that vary" gives prefix six -- 0 1 2
for dtype in bool u8 i8 i16 i32 i64 f16 bf16 f32 f64; do
	check "elements of $dtype" gives copy-$dtype $dtype -- 1 0 1 0 1 1
done
check "indexes in range" "$BUILD/shmctl" infer lookup "$RUN/x-index.npy"
check "an index out of range" says BAD_RANGE lookup index-past
check "a model that raises" says MODEL_ERROR moody negative
check "a model that breaks its signature now and then" says MODEL_ERROR moody large
check "and it serves on" gives moody rows -- 0 1 2 3 4 5 6 7

# Files come, change and go.
mv "$RUN/spare/new.pt" "$RUN/models/new.pt"
mv "$RUN/spare/double.pt" "$RUN/models/double.pt"
rm "$RUN/models/two.pt"
kill -HUP "$BROKER"
check "a new file is served" becomes new ready
check "new.pt" gives new rows -- 0 9 18 27 36 45 54 63
changed() {
	local _
	for _ in $(seq 100); do
		gives double rows -- 0 7 14 21 28 35 42 49 && return 0
		read -r -t 0.1 <> <(:) || true
	done
	return 1
}
check "a changed file takes the old one's place" changed
gone() {
	local _
	for _ in $(seq 100); do
		[ -z "$(state two)" ] && return 0
		read -r -t 0.1 <> <(:) || true
	done
	return 1
}
check "a removed file is gone" gone
check "and says so" says 'two' two rows

# A file whose loading kills the executor.
mv "$RUN/spare/slow.pt" "$RUN/models/slow.pt"
kill -HUP "$BROKER"
check "slow.pt is being loaded" becomes slow loading
check "others are served meanwhile" gives new rows -- 0 9 18 27 36 45 54 63
kill -KILL "$(executor_pid)"
check "its loader died: FAILED" becomes slow failed
check "the others are served again" becomes new ready
check "new.pt again" gives new rows -- 0 9 18 27 36 45 54 63
check "it is left alone" becomes slow failed
touch "$RUN/models/slow.pt"
kill -HUP "$BROKER"
check "changed, it is tried again" becomes slow loading
rm "$RUN/models/slow.pt"
kill -KILL "$(executor_pid)" # it would warm up for minutes
check "the broker ends cleanly" broker_stop
finish
