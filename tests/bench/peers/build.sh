#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh - builds the rivals' programs into $BUILD/peers (BUILD: build); quick where nothing
# changed. One whose library is missing is skipped with a line.
set -eu

cd "$(dirname "$0")/../../.."
here=tests/bench/peers
out=${BUILD:-build}/peers
flags="-I. -std=c17 -O2 -g -Wall -Wextra"
mkdir -p "$out"

up_to_date() { # PROGRAM SOURCE...
	program=$1
	shift
	[ -x "$program" ] || return 1
	for source in "$@" $here/build.sh; do
		[ -z "$(find "$source" -newer "$program")" ] || return 1
	done
}

build() { # NAME LIBRARY HEADER FLAGS...
	name=$1 library=$2 probe=$3
	shift 3
	up_to_date "$out/$name" $here/$name.c $here/loop.c $here/loop.h && return 0
	if [ -n "$probe" ] &&
		! echo "#include <$probe>" | ${CC:-cc} "$@" -E -x c - >/dev/null 2>&1; then
		echo "peers: $name is skipped: no $library here (tools/setup/bench.sh peers installs it)"
		rm -f "$out/$name"
		return 0
	fi
	${CC:-cc} $flags -o "$out/$name" $here/$name.c $here/loop.c "$@"
}

build pair_socket libc ""
build pair_zmq libzmq zmq.h -lzmq
build pair_nng libnng nng/nng.h -lnng
# Its headers lie in a folder named after its version.
iceoryx=$(ls -d /usr/include/iceoryx/v* 2>/dev/null | tail -n 1)
build pair_iceoryx iceoryx iceoryx_binding_c/runtime.h "-isystem${iceoryx:-/nowhere}" \
	-liceoryx_binding_c
build http_client libc ""
build grpc_client libc ""
