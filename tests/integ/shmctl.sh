#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# shmctl.sh - every command of shmctl, for people and for programs (-j), with every exit status that --help lists; inputs from
# files of every kind that is taken, and of every kind that is not: those get an error with its name.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
. tests/support/expect.sh
CTL=$BUILD/shmctl
X=$RUN/x
npy() { "$PY" -I tests/support/npy.py "$@"; }
mkdir "$X" "$RUN/out.d"
npy make "$X" || { not_ok "make files"; finish; }

# --- what is asked wrongly, without a broker ------------------------------------------------------------------------

says "without a command: the usage" 2 '^Usage: shmctl' "$CTL"
says "--help" 0 'Exit status: 0 well, 1 ' "$CTL" --help
says "-h" 0 '^Usage: shmctl \[OPTION\]' "$CTL" -h
says "--version" 0 '^shmctl [0-9]+\.[0-9]+\.[0-9]+$' "$CTL" --version
for command in status models sessions show instances rings regions events stat top devices infer; do
	says "$command --help" 0 "^Usage: shmctl $command" "$CTL" $command --help
	says "--help $command" 0 "^Usage: shmctl $command" "$CTL" --help $command
	says "infbroker's commands are in --help: $command" 0 "^  $command " "$CTL" --help
done
while read -r typed meant; do
	says "$typed: $meant was meant" 2 "no command $typed; did you mean $meant\?" "$CTL" "$typed"
done <<-'X'
	statsu status
	statuss status
	ring rings
	modles models
	model models
	session sessions
	infre infer
X
says "far from any command" 2 'no command frobnicate; try shmctl --help$' "$CTL" frobnicate
says "a command of 1000 characters" 2 'no command xxx' "$CTL" "$(printf 'x%.0s' $(seq 1000))"
says "an empty command" 2 'no command' "$CTL" ""
for command in status models sessions instances rings regions events; do says "$command takes no argument" 2 "stray: $command takes no argument" "$CTL" $command stray; done
says "infer without a model" 2 'which model\? shmctl models lists them' "$CTL" infer
says "an unknown option" 2 '--frob' "$CTL" --frob status
says "an unknown option of infer" 2 '-x: what is that\?' "$CTL" infer -x
says "--socket without a path" 2 '--socket' "$CTL" status --socket
says "-o without a path" 2 '-o' "$CTL" infer identity -o
for seconds in x -1 '' 1s 99999999999; do
	says "--timeout \"$seconds\"" 2 "--timeout takes a number of seconds, not \"$seconds\"" "$CTL" --timeout "$seconds" status
done
json "errors are JSON with -j" 2 "d['exit_status'] == 2 and 'did you mean status' in d['error'] and d['schema'] == 'infbroker.error/1'" \
	"$CTL" -j statsu
json "no broker, with -j" 3 "d['exit_status'] == 3 and '$SOCKET' in d['error']" "$CTL" models -j
json "a path that is no UTF-8, with -j" 3 "d['exit_status'] == 3 and r'\\xff' in d['error']" "$CTL" --socket $'/nowhere/\xff' models -j
json "the same, status" 3 "d['exit_status'] == 3 and r'\\xff' in d['error']" "$CTL" --socket $'/nowhere/\xff' status -j

# --- brokers that are none ------------------------------------------------------------------------------------------

fake() { # MODE STATUS REGEX [TIMEOUT]
	rm -f "$RUN/fake"
	background "$PY" -I tests/support/fake_broker.py "$RUN/fake" "$1" >"$RUN/fake.said"
	within 10 grep -q listens "$RUN/fake.said" || not_ok "a fake broker" "$1"
	says "a broker that is none: $1" "$2" "$3" "$CTL" --socket "$RUN/fake" --timeout "${4-10}" models
	json "with -j: $1" "$2" "d['exit_status'] == $2" "$CTL" --socket "$RUN/fake" --timeout "${4-10}" models -j
	kill -TERM "$LAST"
	ends "$LAST"
}
fake version 6 'refused: the library speaks protocol 1..1, the broker 2..2: update the client library'
fake quota 1 'too many sessions'
fake hangup 1 'did not welcome us'
fake garbage 1 'did not welcome us'
fake type 1 'message type 66'
fake no-fds 1 'did not welcome us'
fake null-fds 1 'cannot map|did not welcome us'
fake silent 5 'does not answer; shmctl status says in what state it is' 1

# --- a broker that is one -------------------------------------------------------------------------------------------

broker_start --builtin || { not_ok "start"; finish; }
says "status" 0 "^broker +running, pid $BROKER, version .*, loop ${INF_LOOP:-(io_uring|epoll)}, up " "$CTL" status
json "status -j" 0 "d['schema'] == 'infbroker.status/1' and d['state'] == 'running' and d['pid'] == $BROKER and
	d['socket'] == '$SOCKET' and d['loop'] == ('${INF_LOOP-}' or d['loop']) and d['executor']['state'] == 'ready' and
	d['executor']['pid'] == $(executor_pid) and d['models'] == {'ready': 14, 'loading': 0, 'failed': 0} and
	not d['draining'] and d['limits']['models_max'] == {'limit': 64, 'used': 14} and d['requests']['OK'] == 0" "$CTL" status -j
json "no device, no device memory" 0 "d['sessions']['device_bytes'] == 0" "$CTL" status -j
check "and not a word of it" bash -c "! '$CTL' status | grep -q 'of device memory'"
json "global options before the command" 0 "d['pid'] == $BROKER" env -u INFBROKER_SOCKET "$CTL" --json --socket="$SOCKET" --timeout=3 status
json "and behind it" 0 "d['pid'] == $BROKER" env -u INFBROKER_SOCKET "$CTL" status --timeout 0 --socket "$SOCKET" -j
says "models" 0 '^index +1 ready +64/64 |^index +1 ready +[0-9]+/64 ' "$CTL" models
says "models: inputs with their ranges" 0 '^  in +x +i64\[batch,4\] values 0\.\.9$' "$CTL" models
says "models: inputs that must be finite" 0 '^  in +x +f32\[batch,4\] finite$' "$CTL" models
says "models: shapes that vary" 0 '^  in +x +f32\[0\.\.1024\]$' "$CTL" models
json "models -j" 0 "{m['name'] for m in d['models']} == set('identity identity_f32 dtypes add_sub sleep spin crash hang wrong_size index scalar varying finite normalise'.split())
	and all(m['state'] == 'ready' and m['builtin'] and m['time_ns']['1'] > 0 for m in d['models'])" "$CTL" models -j
json "models -j: a signature" 0 "[(m['batchable'], m['batch_max'], m['inputs'], m['outputs']) for m in d['models'] if m['name'] == 'index'] ==
	[(True, 64, [{'name': 'x', 'dtype': 'i64', 'shape': ['batch', 4], 'range': [0, 9]}], [{'name': 'out', 'dtype': 'f32', 'shape': ['batch', 4]}])]" \
	"$CTL" models -j
json "models -j: bounds of shapes that vary" 0 "[m['inputs'][0] for m in d['models'] if m['name'] == 'varying'] ==
	[{'name': 'x', 'dtype': 'f32', 'shape': [-1], 'shape_max': [1024]}]" "$CTL" models -j
says "sessions: none" 0 '^no sessions' "$CTL" sessions
json "sessions -j: none" 0 "d['sessions'] == [] and d['not_shown'] == 0" "$CTL" sessions -j

# --- infer: what is answered ----------------------------------------------------------------------------------------

infer() { "$CTL" infer "$@"; }
# The answer, written as .npy, is exactly that.
gives() { # MODEL INPUT... -- DESCR SHAPE VALUES
	local words=()
	while [ "$1" != -- ]; do words+=("$1") && shift; done
	rm -f "$RUN/y.npy"
	infer "${words[@]}" -o "$RUN/y.npy" && npy has "$RUN/y.npy" "$2" "$3" "$4"
}
comma() { local IFS=,; echo "$*"; }
check "u8, two rows" gives identity "$X/rows.npy" -- '|u1' 2x64 "$(comma $(seq 0 127))"
check "u8, a raw file" gives identity "$X/rows.raw" -- '|u1' 2x64 "$(comma $(seq 0 127))"
check "u8, one row" gives identity "$X/one-row.raw" -- '|u1' 1x64 "$(comma $(seq 0 63))"
check ".npy version 2" gives identity "$X/rows-v2.npy" -- '|u1' 2x64 "$(comma $(seq 0 127))"
check ".npy version 3" gives identity "$X/rows-v3.npy" -- '|u1' 2x64 "$(comma $(seq 0 127))"
check "i64 to f32" gives index "$X/index.npy" -- '<f4' 2x4 0,1,4,9,16,25,36,81
check "i32, a scalar" gives scalar "$X/scalar.npy" -- '<i4' '' 42
check "i32, a raw scalar" gives scalar "$X/seven.raw" -- '<i4' '' 14
check "the ends of a range belong to it" gives scalar "$X/scalar-1000.npy" -- '<i4' '' 2000
check "f32, varying" gives varying "$X/vary-5.npy" -- '<f4' 5 4,3,2,1,0
check "f32, nothing at all" gives varying "$X/vary-0.npy" -- '<f4' 0 ''
check "one dimension has no order" gives varying "$X/vary-fortran.npy" -- '<f4' 5 4,3,2,1,0
check "the largest shape" gives varying "$X/vary-1024.npy" -- '<f4' 1024 "$(comma $(seq 1023 -1 0))"
same_floats() { infer identity_f32 "$X/$1.npy" -o "$RUN/y.npy" && cmp <(tail -c 4096 "$X/$1.npy") <(tail -c 4096 "$RUN/y.npy"); }
check "f32, bit by bit" same_floats floats
check "infinities, NaN, -0 and denormals, bit by bit" same_floats odd-floats
same_rows() {
	infer identity "$X/rows-$1.npy" -o "$RUN/y.npy" && npy has "$RUN/y.npy" '|u1' "$1x64" "$("$PY" -I -c "print(','.join(str(i % 251) for i in range($1 * 64)))")"
}
for n in 64 65 300; do check "$n rows at once" same_rows $n; done
check "4096 rows at once" infer identity "$X/rows-4096.npy" -o "$RUN/y.npy"

sum=$(comma $(seq 1 32)) difference=$(comma $(seq -1 30))
gives_both() { # INPUT...
	rm -f "$RUN"/out.d/*
	infer add_sub "$@" -o "$RUN/out.d" && npy has "$RUN/out.d/out.npy" '<f4' 2x16 "$sum" && npy has "$RUN/out.d/out2.npy" '<f4' 2x16 "$difference"
}
check "two inputs in order, outputs into a folder" gives_both "$X/a.npy" "$X/b.npy"
check "two inputs by name" gives_both "y=$X/b.npy" "x=$X/a.npy"
check "one by name, one by its place" gives_both "y=$X/b.npy" "$X/a.npy"
check "a file whose name has a =" gives identity "$X/rows=x.npy" -- '|u1' 2x64 "$(comma $(seq 0 127))"
check "and by name" gives identity "x=$X/rows=x.npy" -- '|u1' 2x64 "$(comma $(seq 0 127))"
says "raw and .npy mixed" 0 '^out2 f32\[1,16\]: 0 0 0' "$CTL" infer add_sub "y=$X/a.raw" "$X/a.raw"
says "to the terminal" 0 '^out f32\[2,4\]: 0 1 4 9 16 25 36 81$' "$CTL" infer index "$X/index.npy"
says "long outputs are cut" 0 '^out u8\[2,64\]: 0 1 2 3 4 5 6 7 \.\.\. 120 121 122 123 124 125 126 127$' "$CTL" infer identity "$X/rows.npy"
says "what is not finite" 0 '^out f32\[1,1024\]: \(not finite\) \(not finite\) \(not finite\) -0 1\.4.*e-45' "$CTL" infer identity_f32 "$X/odd-floats.npy"
json "infer -j" 0 "d['schema'] == 'infbroker.infer/1' and d['status'] == 'OK' and d['run_ns'] >= 0 and
	d['outputs'] == [{'name': 'out', 'dtype': 'f32', 'shape': [2, 4], 'data': [0, 1, 4, 9, 16, 25, 36, 81]}]" "$CTL" infer index "$X/index.npy" -j
json "infer -j: a scalar, an integer" 0 "d['outputs'] == [{'name': 'out', 'dtype': 'i32', 'shape': [], 'data': [42]}]" "$CTL" infer scalar "$X/scalar.npy" -j
json "infer -j: what JSON has no number for is null" 0 "d['outputs'][0]['data'][:3] == [None] * 3 and
	abs(d['outputs'][0]['data'][1023] - 341) < 1e-5" "$CTL" infer identity_f32 "$X/odd-floats.npy" -j
json "infer -j -o: valid, and the files are there" 0 "d['status'] == 'OK' and __import__('os').path.getsize('$RUN/out.d/out2.npy') > 128" \
	"$CTL" infer -j add_sub "$X/a.npy" "$X/b.npy" -o "$RUN/out.d"

if numpy=$(tools/setup/torch.sh --run tests/support/npy.py numpy "$X" 2>&1); then
	for kind in rows view v1 v2 v3; do check "as NumPy saves it: $kind" gives identity "$X/numpy-$kind.npy" -- '|u1' 2x64 \
		"$([ $kind = view ] && comma $(seq 0 2 254) || comma $(seq 0 127))"; done
	check "as NumPy saves it: a scalar" gives scalar "$X/numpy-scalar.npy" -- '<i4' '' 42
	says "as NumPy saves it: column-major" 1 'numpy-fortran.npy: it is column-major; save it with numpy.ascontiguousarray' "$CTL" infer identity "$X/numpy-fortran.npy"
	says "as NumPy saves it: big-endian" 1 'numpy-big-endian.npy: it is big-endian' "$CTL" infer index "$X/numpy-big-endian.npy"
	infer index "$X/index.npy" -o "$RUN/out.d/index.npy"
	infer varying "$X/vary-0.npy" -o "$RUN/out.d/none.npy"
	infer scalar "$X/scalar.npy" -o "$RUN/out.d/scalar.npy"
	says "NumPy reads what shmctl writes" 0 'scalar.npy int32 \(\)$' tools/setup/torch.sh --run tests/support/npy.py numpy-reads "$RUN"/out.d/*.npy
else
	skip "NumPy's own files" "no Python with numpy: ${numpy##*$'\n'}"
fi

# --- infer: what is not ---------------------------------------------------------------------------------------------

bad() { # FILE REGEX [MODEL]
	says "$1" 1 "$2" "$CTL" infer "${3:-identity}" "$X/$1"
}
takes='x of model identity is u8\[batch,64\]'
bad bad-f64.npy "BAD_DTYPE: .*bad-f64.npy is f64\[2,64\]; $takes"
bad bad-i8.npy "BAD_DTYPE: .* is i8\[2,64\]; $takes"
bad bad-bool.npy "BAD_DTYPE: .* is bool\[2,64\]; $takes"
bad bad-f16.npy "BAD_DTYPE: .* is f16\[2,64\]; $takes"
bad bad-bf16.npy "BAD_DTYPE: .*\[2,64\]; $takes"
bad index.npy "BAD_DTYPE: .* is i64\[2,4\]; $takes"
bad bad-width.npy "BAD_SHAPE: .* is u8\[2,63\]; $takes"
bad bad-rank-0.npy "BAD_SHAPE: .* is u8\[\]; $takes"
bad bad-rank-1.npy "BAD_SHAPE: .* is u8\[128\]; $takes"
bad bad-rank-3.npy "BAD_SHAPE: .* is u8\[1,2,64\]; $takes"
bad bad-rank-9.npy 'more than 8 dimensions'
bad bad-no-rows.npy "BAD_SHAPE: .* is u8\[0,64\]; $takes"
bad rows-4097.npy "BAD_SHAPE: .* is u8\[4097,64\]; $takes"
bad vary-1025.npy 'BAD_SHAPE: .* is f32\[1025\]; x of model varying is f32\[0\.\.1024\]' varying
bad vary-1.npy 'BAD_DTYPE|BAD_SHAPE' scalar
bad bad-fortran.npy 'bad-fortran.npy: it is column-major; save it with numpy.ascontiguousarray'
bad bad-no-order.npy 'bad-no-order.npy: '
bad bad-big-endian.npy 'it is big-endian; save it with' index
bad bad-complex.npy 'no model takes elements of kind <c8'
bad bad-text.npy 'no model takes elements of kind <U4'
bad bad-object.npy 'no model takes elements of kind \|O'
bad bad-record.npy 'its elements are records'
bad bad-no-descr.npy 'bad-no-descr.npy: '
for kind in negative shape-word open-shape no-shape; do bad bad-$kind.npy "bad-$kind.npy: its header has no shape"; done
bad bad-overflow.npy 'larger than any memory|BAD_SHAPE'
bad bad-huge-number.npy 'bad-huge-number.npy.*(shape|BAD_SHAPE)'
bad bad-version.npy '.npy version 9'
bad bad-head-length.npy 'its header says it has 2147483648 bytes|cut off in its header|its header says'
bad bad-binary-head.npy 'bad-binary-head.npy: '
bad bad-cut.npy 'bad-cut.npy: it is cut off: its shape needs 128 bytes'
bad bad-no-data.npy 'it is cut off: its shape needs 128 bytes'
bad bad-cut-head.npy 'cut off in its header'
bad bad-cut-magic.npy 'it is not an .npy file'
bad bad-empty.npy 'it is not an .npy file'
bad bad-words.npy 'it is not an .npy file'
mkdir "$X/folder" "$X/folder.npy"
bad folder 'folder: not a file'
bad folder.npy 'folder.npy: it is not an .npy file'
bad missing.npy 'missing.npy: No such file'
bad missing 'missing: No such file'
bad cut.raw 'BAD_SHAPE: .*cut.raw has 100 bytes; a row of x is 64 bytes'
bad empty.raw 'BAD_SHAPE: .*empty.raw'
bad five-bytes.raw 'BAD_SHAPE: .*five-bytes.raw has 5 bytes; a row of x is 4 bytes' scalar
says "a raw file for a shape that varies" 2 'five-bytes.raw: the shape of x varies, and a raw file does not say it; use .npy' \
	"$CTL" infer varying "$X/five-bytes.raw"
for file in index-10 index--1 index-huge; do bad $file.npy 'BAD_RANGE: .*its signature forbids' index; done
for file in scalar-1001 scalar--1001; do bad $file.npy 'BAD_RANGE: ' scalar; done
json "with -j, too" 1 "d['exit_status'] == 1 and d['error'].startswith('BAD_RANGE: ')" "$CTL" -j infer index "$X/index-10.npy"
json "a file name that is no UTF-8" 1 "r'\\xff' in d['error'] and 'No such file' in d['error']" "$CTL" infer -j identity $'\xff.npy'
says "two inputs of different rows" 1 'BAD_SHAPE: .*three-rows.npy has 3 rows, the inputs before 2' "$CTL" infer add_sub "$X/a.npy" "$X/three-rows.npy"
says "an input without a file" 2 'add_sub takes 2 input\(s\): x f32\[batch,16\], y f32\[batch,16\]' "$CTL" infer add_sub "$X/a.npy"
says "too many files" 2 'identity takes 1 input' "$CTL" infer identity "$X/rows.npy" "$X/rows.npy"
says "one input twice" 2 'takes 2 input' "$CTL" infer add_sub "x=$X/a.npy" "x=$X/b.npy"
says "a model that is not there" 1 'no model named nothing; shmctl models lists them' "$CTL" infer nothing "$X/rows.npy"
says "a name that no model can have" 1 'no model|no such model' "$CTL" infer ../../etc/passwd "$X/rows.npy"
says "a name of 100 characters" 1 'no model' "$CTL" infer "$(printf 'x%.0s' $(seq 100))" "$X/rows.npy"
json "a name that is no UTF-8" 1 "'no model' in d['error']" "$CTL" -j infer $'\xff\x1b[31m' "$X/rows.npy"
says "several outputs into one file" 2 'has several outputs: -o must name a folder' "$CTL" infer add_sub "$X/a.npy" "$X/b.npy" -o "$RUN/one.npy"
says "outputs into a folder that is not there" 1 'none/out.npy: No such file' "$CTL" infer identity "$X/rows.npy" -o "$RUN/none"
ln -s /dev/full "$RUN/full.npy"
says "an output on a full disk" 1 'full.npy: No space left' "$CTL" infer identity "$X/rows.npy" -o "$RUN/full.npy"
for words in "status -j" "status" "models" "sessions -j" "infer scalar $X/scalar.npy" "infer scalar $X/scalar.npy -j"; do
	says "nobody can read the answer: ${words%% /*}" 1 'cannot write the answer: No space left' bash -c "'$CTL' $words >/dev/full"
done
says "a model that gives what it must not" 1 'MODEL_ERROR: ' "$CTL" infer wrong_size "$X/one.npy"
says "its other rows are answered" 0 '^out u8\[1,1\]: 0$' "$CTL" infer wrong_size "$X/zero.npy"
json "requests are counted by how they ended" 0 "d['requests']['BAD_RANGE'] == 6 and d['requests']['MODEL_ERROR'] == 1 and
	d['requests']['OK'] > 20 and d['sessions']['total'] > 60 and d['sessions']['ended_by_broker'] == 0" "$CTL" status -j
says "the broker logs no complaint about shmctl" 1 '^$|^0$' grep -c 'ended the session' "$RUN/broker.log"

# --- sessions -------------------------------------------------------------------------------------------------------

mkfifo "$RUN/orders"
exec 7<>"$RUN/orders"
background env ASK_NAME=$'ask \xff\x1b"\n' "$BUILD/tests/ask" identity <"$RUN/orders" >"$RUN/heard" 7>&-
client=$LAST
check "a client" within 10 grep -q open "$RUN/heard"
json "sessions -j" 0 "[(s['pid'], s['uid'], s['lanes'], s['in_flight'], s['requests'], s['errors']) for s in d['sessions']] == [($client, $(id -u), 0, 0, 0, 0)] or
	[(s['pid'], s['uid'], s['lanes'], s['in_flight'], s['requests'], s['errors']) for s in d['sessions']] == [($client, $(id -u), 1, 0, 0, 0)]" "$CTL" sessions -j
json "a session without a device" 0 "[s['device_bytes'] for s in d['sessions']] == [0] and d['sessions'][0]['request_bytes'] > 0" "$CTL" sessions -j
says "has no column for one" 0 '^ +ID .* OUTPUTS +REQUESTS' "$CTL" sessions
json "a name that is no text is shown as text" 0 "d['sessions'][0]['name'].startswith('ask ') and d['sessions'][0]['name'].isprintable()" "$CTL" sessions -j
says "and harms no terminal" 0 "^ +[0-9]+ +$client +$(id -u) ask [^[:cntrl:]]*\$" "$CTL" sessions
echo 5 >&7
check "it is answered" within 10 grep -qx OK "$RUN/heard"
# The front brings the file up to date when it is about to sleep.
check "its lane is shown" within 10 bash -c "'$CTL' sessions -j | grep -q '\"lanes\": 1'"
json "its request is counted" 0 "[(s['requests'], s['errors'], s['lanes']) for s in d['sessions']] == [(1, 0, 1)]" "$CTL" sessions -j
executor=$(executor_pid)
all_stopped() { ! grep -h '^State' /proc/"$1"/task/*/status | grep -qv stopped; }
kill -STOP "$executor"
check "the executor is stopped" within 10 all_stopped "$executor"
echo 6 >&7
in_flight() { "$CTL" sessions -j | grep -q '"in_flight": *1'; }
check "a request in flight is shown" within 10 in_flight
says "infer gives up in time: exit status 5" 5 'does not answer' "$CTL" --timeout 1 infer varying "$X/vary-1.npy"
json "and says so in JSON" 5 "d['exit_status'] == 5" "$CTL" --timeout 1 -j infer varying "$X/vary-1.npy"
kill -CONT "$executor"
answered() { [ "$(grep -cx OK "$RUN/heard")" -eq 2 ]; }
check "it is answered in the end" within 10 answered
exec 7>&-
ends "$client"
no_sessions() { "$CTL" sessions -j | tr -d '\n ' | grep -q '"sessions":\[\]'; }
check "a session ends with its process" within 10 no_sessions

# --- models that die and hang ---------------------------------------------------------------------------------------

says "a model that kills its executor" 1 'POISON: ' "$CTL" infer crash "$X/one.npy"
says "a model that is being loaded again is waited for" 0 '^out u8\[1,1\]: 0$' "$CTL" infer crash "$X/zero.npy"
json "deaths are counted" 0 "d['executor']['deaths'] == 2 and d['executor']['state'] == 'ready' and d['requests']['POISON'] == 1" "$CTL" status -j
says "a model that hangs: exit status 5" 5 'no answer within 1 s \(--timeout\)' "$CTL" --timeout 1 infer hang "$X/one.npy"
kill -KILL "$(executor_pid)"
says "it serves by itself again" 0 '^out i32\[\]: 42$' "$CTL" infer scalar "$X/scalar.npy"

# --- files and sockets that one may not use -------------------------------------------------------------------------

denied() { # RUN-AS SHMCTL
	for command in status models sessions rings events; do
		says "$command in a closed folder" 4 'Permission denied' $1 "$2" --socket "$RUN/closed/socket" $command
		json "the same with -j" 4 "d['exit_status'] == 4" $1 "$2" --socket "$RUN/closed/socket" -j $command
	done
}
mkdir "$RUN/closed"
chmod 0 "$RUN/closed"
if [ "$(id -u)" != 0 ]; then
	denied "" "$CTL"
elif other_user; then
	denied "setpriv --reuid=65534 --regid=65534 --clear-groups" "$RUN/bin/shmctl"
else
	skip "a closed folder" "no second user here"
fi
chmod 700 "$RUN/closed"

# A statistics file with one field changed: OFFSET is that of shm/stats.h's head.
changed() { # OFFSET VALUE
	cp "$SOCKET.stats" "$RUN/changed.stats"
	printf '%b' "$2" | dd of="$RUN/changed.stats" bs=1 seek="$1" conv=notrunc 2>/dev/null
}
changed 8 '\x63\0\0\0'
says "statistics of another version" 6 'changed.stats is of another version' "$CTL" --socket "$RUN/changed" status
json "the same with -j" 6 "d['exit_status'] == 6" "$CTL" --socket "$RUN/changed" sessions -j
changed 0 '\0'
says "statistics that are none" 1 'is not a statistics file of infbroker' "$CTL" --socket "$RUN/changed" status
changed 12 '\0\0\0\0'
says "statistics with another size inside" 1 'is not a statistics file' "$CTL" --socket "$RUN/changed" status
changed 16 '\xff\xff\xff\x7f'
says "statistics of a process that is gone" 3 '^broker +gone' "$CTL" --socket "$RUN/changed" status
changed 32 '\x01'
says "statistics of an earlier process with this pid" 3 '^broker +gone' "$CTL" --socket "$RUN/changed" status
head -c 100000 "$SOCKET.stats" >"$RUN/changed.stats"
says "statistics that are cut off" 1 'is not a statistics file' "$CTL" --socket "$RUN/changed" status
: >"$RUN/changed.stats"
says "statistics that are empty" 1 'is not a statistics file' "$CTL" --socket "$RUN/changed" status
tr '\0' '\377' </dev/zero | head -c "$(stat -c %s "$SOCKET.stats")" >"$RUN/changed.stats"
says "statistics that are noise" 1 'is not a statistics file' "$CTL" --socket "$RUN/changed" status
head -c 48 "$SOCKET.stats" >"$RUN/noise"
tr '\0' '\377' </dev/zero | head -c "$(($(stat -c %s "$SOCKET.stats") - 48))" >>"$RUN/noise"
mv "$RUN/noise" "$RUN/changed.stats"
json "noise behind a good head does no harm" 0 "d['pid'] == $BROKER" "$CTL" --socket "$RUN/changed" status -j
says "nor for people" 0 "pid $BROKER" "$CTL" --socket "$RUN/changed" status

# --- stopped, killed ------------------------------------------------------------------------------------------------

kill -STOP "$BROKER"
says "status of a stopped broker" 1 "^broker +stopped, pid $BROKER" "$CTL" status
json "status -j of a stopped broker" 1 "d['state'] == 'stopped' and d['pid'] == $BROKER and d['requests']['OK'] > 20" "$CTL" status -j
says "models of a stopped broker" 0 '^identity +1 ready' "$CTL" models
json "models -j of a stopped broker" 0 "len(d['models']) == 14" "$CTL" models -j
says "sessions of a stopped broker" 0 '^no sessions' "$CTL" sessions
says "infer asks a stopped broker in vain" 5 'does not answer; shmctl status says in what state it is' "$CTL" --timeout 1 infer identity "$X/rows.npy"
json "and says so in JSON" 5 "d['exit_status'] == 5 and 'does not answer' in d['error']" "$CTL" --timeout 1 -j infer identity "$X/rows.npy"
kill -CONT "$BROKER"
says "it goes on where it was" 0 '^broker +running' "$CTL" status
says "and answers" 0 '^out i32\[\]: 42$' "$CTL" infer scalar "$X/scalar.npy"
kill -KILL "$BROKER"
wait "$BROKER" 2>/dev/null
killed=$BROKER BROKER=
says "status of a killed broker" 3 "^broker +gone, pid $killed" "$CTL" status
json "status -j of a killed broker" 3 "d['state'] == 'gone' and d['pid'] == $killed and d['requests']['OK'] > 20 and d['uptime_ns'] == 0" "$CTL" status -j
says "models of a killed broker, from its file" 3 "^add_sub +1 ready" "$CTL" models
json "the same for programs" 3 "sum(m['requests'] for m in d['models']) > 20" "$CTL" models -j
says "sessions of a killed broker" 3 "the broker at $SOCKET is gone; start infbroker anew" "$CTL" sessions
json "infer -j with a killed broker" 3 "d['exit_status'] == 3 and '$SOCKET' in d['error']" "$CTL" infer -j identity "$X/rows.npy"

# A broker at a path that is no UTF-8.
INFBROKER_SOCKET=$RUN/$'odd \xff' SOCKET=$INFBROKER_SOCKET
check "a socket whose path is no UTF-8 is served" broker_start --builtin
json "status -j shows it as text" 0 "d['pid'] == $BROKER and r'\\xff' in d['socket']" "$CTL" status -j
check "the broker ends cleanly" broker_stop
finish
