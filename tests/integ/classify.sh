#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# classify.sh - the image classification service with the real network: what it answers is what PyTorch answers, and what is no
# photograph gets a named error while the others go on.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
torch() { tools/setup/torch.sh --run "$@"; }
network=efficientnet-lite0

if [ ! -e "$BUILD/backends/libinf-backend-torch.so" ] || ! torch -c '' 2>/dev/null; then
	skip "the real network" "no torch plug-in in this build, or no Python with torch"
	finish
fi
tools/demo/export.sh >"$RUN/export" 2>&1 || { not_ok "export" "$(tail -n 3 "$RUN/export")"; finish; }
demo=$BUILD/demo
broker_start --models "$demo/models" || { not_ok "start"; finish; }

# The same tensor through PyTorch's own network and through the broker.
check "PyTorch prepares and answers" torch tools/export/efficientnet_lite0.py dump "$demo/china.jpg" "$RUN/x.npy" "$RUN/expected.npy"
check "the broker answers the same tensor" "$BUILD/shmctl" infer $network "$RUN/x.npy" -o "$RUN/y.npy"
check "within 1e-4 of PyTorch" torch tests/support/compare.py "$RUN/y.npy" "$RUN/expected.npy" 1e-4
cat "$RUN/out"
# The archive that is served, run by PyTorch itself: what the plug-in adds (freezing, memory formats, kept memory) changes no answer.
check "PyTorch runs the archive" torch -c '
import sys, numpy, torch
with torch.inference_mode():
    numpy.save(sys.argv[3], torch.jit.load(sys.argv[1])(torch.from_numpy(numpy.load(sys.argv[2]))).numpy())' \
	"$demo/models/$network.pt" "$RUN/x.npy" "$RUN/archive.npy"
check "within 1e-4 of the archive" torch tests/support/compare.py "$RUN/y.npy" "$RUN/archive.npy" 1e-4
cat "$RUN/out"

# The whole way, from the file: our decoder and filter against Pillow's.
"$BUILD/infclassify" --labels "$demo/labels.txt" "$demo/china.jpg" "$demo/flower.jpg" >"$RUN/ours" 2>"$RUN/errors"
torch tools/export/efficientnet_lite0.py predict "$demo/china.jpg" "$demo/flower.jpg" >"$RUN/theirs" 2>>"$RUN/errors"
same_answers() {
	python3 -c '
import json, sys
ours, theirs = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
assert len(ours) == len(theirs) == 2
assert ours[0]["top"][0]["label"] == "palace"
assert abs(ours[0]["top"][0]["probability"] - 0.2825) <= 0.02, ours[0]
for a, b in zip(ours, theirs):
    assert a["top"][0]["label"] == b["top"][0]["label"], (a, b)
    difference = abs(a["top"][0]["probability"] - b["top"][0]["probability"])
    print(a["top"][0]["label"], "differs by", round(difference, 4))
    assert difference <= 0.02, (a, b)' "$RUN/ours" "$RUN/theirs"
}
check "china.jpg is a palace, probabilities within 0.02 of PyTorch" same_answers
cat "$RUN/out"

# Every file once per repetition, whatever the number of processes and the depth.
exactly_once() {
	"$BUILD/infclassify" --processes 3 --depth 4 --repeat 5 "$demo/china.jpg" "$demo/flower.jpg" >"$RUN/many" &&
		[ "$(wc -l <"$RUN/many")" -eq 10 ] && [ "$(grep -c china.jpg "$RUN/many")" -eq 5 ]
}
check "3 processes, depth 4, 5 repetitions: each answer once" exactly_once

mkdir "$RUN/images"
torch tests/support/make_images.py "$demo/china.jpg" "$RUN/images"
is_error() { # FILE WORDS: an error by name, and the photograph beside it is answered
	local rc=0
	"$BUILD/infclassify" "$1" "$demo/china.jpg" >"$RUN/answers" 2>"$RUN/errors" || rc=$?
	cat "$RUN/answers" "$RUN/errors"
	[ $rc -eq 1 ] && [ "$(grep -c '"error"' "$RUN/answers")" -eq 1 ] && [ "$(grep -c '"top"' "$RUN/answers")" -eq 1 ] &&
		grep -q "$2" "$RUN/errors"
}
check "a truncated JPEG" is_error "$RUN/images/truncated.jpg" 'not a whole JPEG'
check "a JPEG of 100 bytes" is_error "$RUN/images/head.jpg" 'not a whole JPEG'
check "an empty file" is_error "$RUN/images/empty.jpg" 'not a whole JPEG'
check "a text file" is_error "$RUN/images/text.jpg" 'not a whole JPEG'
check "a PNG" is_error "$RUN/images/png.jpg" 'not a whole JPEG'
check "a CMYK JPEG" is_error "$RUN/images/cmyk.jpg" 'JPEG'
check "a header that claims 65500 x 65500" is_error "$RUN/images/huge-claim.jpg" 'pixels are too many'
check "an image of 2 x 60000" is_error "$RUN/images/sliver.jpg" 'too different'
check "a file that is not there" is_error "$RUN/images/missing.jpg" 'No such file'
check "a folder" is_error "$RUN/images" 'JPEG\|directory'
check "a gray JPEG is answered" "$BUILD/infclassify" "$RUN/images/gray.jpg"
check "a JPEG of one pixel is answered" "$BUILD/infclassify" "$RUN/images/one-pixel.jpg"
odd_names() {
	"$BUILD/infclassify" "$RUN"/images/with*.jpg "$RUN"/images/no*.jpg >"$RUN/odd" &&
		python3 -c '
import json, sys
answers = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
assert len(answers) == 3 and all(answer["top"] for answer in answers), answers' "$RUN/odd"
}
check "odd file names: one line of JSON each" odd_names
odd_errors() { # names and labels that are no UTF-8, in answers and in errors
	printf 'caf\xe9 "\\\x01\n%.0s' $(seq 1000) >"$RUN/labels"
	"$BUILD/infclassify" --labels "$RUN/labels" --processes 2 $'no\xffthing\n"x".jpg' "$demo/china.jpg" $'\x01\x7f\\' >"$RUN/odd"
	[ $? -eq 1 ] && python3 -c '
import json, sys
answers = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
assert len(answers) == 3 and sum("error" in answer for answer in answers) == 2, answers
assert all(top["label"].startswith("caf") for answer in answers for top in answer.get("top", [])), answers' "$RUN/odd"
}
check "odd names in errors, odd labels: one line of JSON each" odd_errors
check "no labels file" bash -c "! '$BUILD/infclassify' --labels '$RUN/none' '$demo/china.jpg' 2>&1 | grep -q top"
wrong_model() { # another exit than 0, and the model is named
	! "$BUILD/infclassify" --model nothing "$demo/china.jpg" >"$RUN/answers" 2>&1 && grep -q nothing "$RUN/answers"
}
check "a model that is not there" wrong_model
check "the broker ends cleanly" broker_stop
finish
