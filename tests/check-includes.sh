#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# check-includes.sh - the direction of includes: include/inf <- shm <- client, tools, broker; inside broker:
# job.h <- stages <- pipeline <- main. Any other edge is a failure, and so is a public header that needs a private one.
set -u
cd "$(dirname "$0")/.." || exit 1
n=0 bad=0

# FOLDER-OF-FILE -> regular expression of what it may include. The first row that fits decides.
allowed() {
	case $1 in
	include/inf/*) echo '^inf/' ;;
	shm/*) echo '^(inf|shm)/' ;;
	client/python/*) echo '^(inf|client/python)/' ;; # public calls only
	client/*) echo '^(inf|shm|client)/' ;;
	broker/policy/*) echo '^broker/policy/' ;;
	broker/backends/builtin/*) echo '^(inf|shm/device|broker/cuda|broker/backends/builtin)/' ;;
	broker/cuda/*) echo '^(inf|shm|broker/cuda)/' ;;
	broker/backends/torch/*) echo '^(inf|broker/backends/torch)/' ;;
	broker/executor/backend.c) echo '^(inf|shm|broker/executor|broker/backends/builtin)/' ;;
	broker/executor/device.c | broker/executor/moves.[ch]) echo '^(inf|shm|broker/executor|broker/cuda)/' ;;
	broker/executor/*) echo '^(inf|shm|broker/executor)/' ;;
	broker/job.h) echo '^(inf/|shm/|broker/loop.h|broker/policy/)' ;;
	broker/*) echo '^(inf/|shm/|broker/[a-z_]+\.h$|broker/policy/|broker/executor/memory\.h$)' ;;
	tools/sim/*) echo '^(inf|tools/sim|broker/policy)/' ;;
	tools/shmctl/kernel*) echo '^(inf|shm|tools/(common|shmctl|bpf))/' ;;
	tools/*) echo "^(inf|shm|tools/common|$(dirname "$1"))/" ;;
	tests/bench/*) echo '^(inf/|shm/|tests/bench/|tests/support/|broker/executor/|broker/wake\.h$)' ;; # the part that is measured
	*) echo . ;;
	esac
}

# Stages of a request's way: each may know job.h and the helpers, none the others; pipeline.c knows them all.
stages='intake dispatch collect completion recovery'
# Callers that are above the stages, and two edges inside: who ends a request posts it.
stage_edges='pipeline:intake pipeline:dispatch pipeline:collect pipeline:completion pipeline:recovery
completion:intake recovery:intake recovery:collect recovery:completion lanes:intake attach:recovery open:recovery
watchdog:collect trace:intake'

is_stage_edge_wrong() {
	local from to
	from=$(basename "$1"); from=${from%.*}
	to=$(basename "$2" .h)
	[[ " $stages " == *" $to "* ]] || return 1
	[ "$from" != "$to" ] || return 1
	[[ " ${stage_edges//$'\n'/ } " != *" $from:$to "* ]]
}

fail() {
	echo "$1 includes $2: $3"
	bad=$((bad + 1))
}

while IFS=: read -r file _ line; do
	name=$(sed -E 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]([^>"]+)[>"].*/\1/' <<<"$line")
	# System headers are nobody's edge, ours are known by their folder.
	case $name in inf/* | shm/* | client/* | broker/* | tools/* | tests/*) ;; *)
		[[ $line == *\"* ]] && fail "$file" "$name" 'name it by its folder'
		continue ;;
	esac
	n=$((n + 1))
	[[ $name =~ $(allowed "$file") ]] || fail "$file" "$name" 'not an allowed edge'
	case $file in broker/*.[ch])
		[[ $file == broker/*/* ]] || ! is_stage_edge_wrong "$file" "$name" || fail "$file" "$name" 'stages do not include each other'
		;;
	esac
done < <(grep -nE '^[[:space:]]*#[[:space:]]*include' -r include shm client broker tools tests --include='*.[ch]' \
	--include='*.cc' --include='*.cpp')
echo "$((n - bad)) passed, $bad failed, 0 skipped"
[ $bad -eq 0 ]
