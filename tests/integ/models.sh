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
check "the exporter's command line" env PYTHONPATH=tests/support tools/setup/torch.sh --run tools/export/infexport.py \
	make_models:make_scale "$RUN/models/command.pt" --input x:f32:2x4 --output y --max-batch 8
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

within_30() {
	local _
	for _ in $(seq 300); do
		"$@" && return 0
		read -r -t 0.1 <> <(:) || true
	done
	return 1
}

for bad in corrupt cut empty text; do
	check "bad-$bad.pt is FAILED" becomes bad-$bad 'failed 1 .*archive'
done
check "no description" becomes bad-undescribed 'failed 1 no description'
check "a description that is no JSON" becomes bad-json 'failed 1 the description is no JSON'
check "a signature that lies about a shape" becomes bad-shape 'failed 1 output y .*batch|failed 1 output y'
check "a signature that lies about a type" becomes bad-dtype 'failed 1 output y .*f64'
check "a signature that lies about the number of outputs" becomes bad-count 'failed 1 .*2'
check "a signature that lies about the input" becomes bad-input 'failed 1 '
check "a model that swallows the batch" becomes bad-batch 'failed 1 output y of 2 rows: .*the model gave f32\[1,4\]'
check "a model that gives no tensors" becomes bad-result 'failed 1 '
check "an unknown key" becomes bad-key 'failed 1 .*colour'
check "another format" becomes bad-format 'failed 1 .*"format" must be 1'
check "too large a batch" becomes bad-max-batch 'failed 1 .*"max_batch" is 1 to 256'
check "a range of floats" becomes bad-range 'failed 1 .*range is for integers'
check "finite integers" becomes bad-finite 'failed 1 .*only floating-point tensors'
check "nine dimensions" becomes bad-rank 'failed 1 y: "shape" is a list of at most 8'
check "rows larger than any memory" becomes bad-huge 'failed 1 .*larger than 1 GiB'
check "a batch on one side only" becomes bad-unbatched 'failed 1 .*batch'
check "no outputs" becomes bad-nothing 'failed 1 "outputs" is a list of 1 to 16'
check "two outputs of one name" becomes bad-twice 'failed 1 .*two tensors have the same name'
check "a tensor whose name is a path" becomes bad-name "failed 1 .*tensor's name is not"
check "a model that is FAILED cannot be opened" says 'bad-cut' bad-cut rows

check "double.pt" gives double rows -- 0 2 4 6 8 10 12 14
check "two inputs, two outputs" gives two rows rows -- 0 2 4 6 8 10 12 14 0 0 0 0 0 0 0 0
check "a description beside the file" gives sidecar rows -- 0 5 10 15 20 25 30 35
check "the highest version" gives versions rows -- 0 3 6 9 12 15 18 21
check "a corrupt version leaves the next lower one" gives fallback rows -- 0 5 10 15 20 25 30 35
check "folders that are no versions are passed over" gives odd rows -- 0 4 8 12 16 20 24 28
served_or_not() { [ -z "$(state zeros)" ] || gives zeros rows -- 0 4 8 12 16 20 24 28; }
check "a version with zeros in front is served, or passed over" served_or_not
others() { # names that must not be listed
	"$BUILD/shmctl" models -j | grep -E '"name": "(notes|\.hidden|not a name|dangling|fifo|folder|folder\.pt|hollow|x{63,})"'
}
check "what is no model is passed over" bash -c "! $(declare -f others); ! BUILD='$BUILD' others"
check "a name that cannot be served is in the log" grep -q "not a name.pt: a model's name is 1 to 63 of" "$RUN/broker.log"
check "exported on the command line" gives command rows -- 0 11 22 33 44 55 66 77
many=() products=()
for i in $(seq 0 15); do many+=(rows) && for x in 0 1 2 3 4 5 6 7; do products+=($((i * x))); done; done
check "16 inputs, 16 outputs" gives many "${many[@]}" -- "${products[@]}"
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

mkdir "$RUN/models/versions/4"
mv "$RUN/spare/version-4.pt" "$RUN/models/versions/4/model.pt"
kill -HUP "$BROKER"
check "a higher version is served" becomes versions 'ready 4'
check "version 4" gives versions rows -- 0 13 26 39 52 65 78 91
rm -r "$RUN/models/versions/4"
kill -HUP "$BROKER"
check "without it the lower one is" becomes versions 'ready 3'
check "version 3" gives versions rows -- 0 3 6 9 12 15 18 21

# Who has a model open when its file changes goes on where the signature is the same, else is told.
mkfifo "$RUN/orders"
exec 7<>"$RUN/orders"
"$BUILD/tests/ask" double <"$RUN/orders" >"$RUN/heard" 2>&1 7>&- &
heard() { # N LINE: the Nth answer is LINE
	local _
	for _ in $(seq 300); do
		[ "$(grep -vcE '^(open|submitted)$' "$RUN/heard")" -ge "$1" ] && break
		read -r -t 0.1 <> <(:) || true
	done
	grep -vE '^(open|submitted)$' "$RUN/heard" | sed -n "$1p" | grep -qx "$2" || { cat "$RUN/heard"; return 1; }
}
echo 0 >&7
check "a client with an open model" heard 1 OK
touch "$RUN/models/double.pt"
kill -HUP "$BROKER"
loads() { [ "$(grep -c 'model double (version 1) is ready' "$RUN/broker.log")" -ge "$1" ]; }
check "its file changes" within_30 loads 3
echo 0 >&7
check "it goes on" heard 2 OK
mv "$RUN/spare/double-wide.pt" "$RUN/models/double.pt"
kill -HUP "$BROKER"
check "its signature changes" within_30 loads 4
echo 0 >&7
check "it is told to open it again" heard 3 NO_MODEL
exec 7>&-

# A file that kills whoever loads it, by itself.
deaths() { "$BUILD/shmctl" status -j | sed -n 's/^ *"deaths": \([0-9]*\),*/\1/p'; }
mv "$RUN/spare/killer.pt" "$RUN/models/killer.pt"
kill -HUP "$BROKER"
check "a file that kills its loader is FAILED" becomes killer 'failed 1 it killed the executor that loaded it; .*when its file changes'
check "the others are served again" becomes new ready
check "new.pt after the death" gives new rows -- 0 9 18 27 36 45 54 63
check "it has killed one executor, no more" [ "$(deaths)" = 1 ]
kill -HUP "$BROKER"
cp "$RUN/models/new.pt" "$RUN/models/newer.pt"
kill -HUP "$BROKER"
check "the next look at the folder" becomes newer ready
check "leaves it alone" [ "$(deaths)" = 1 ]
cp "$RUN/models/new.pt" "$RUN/models/killer.pt"
kill -HUP "$BROKER"
check "its file changes: it is served" becomes killer ready
check "killer.pt, repaired" gives killer rows -- 0 9 18 27 36 45 54 63

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
