#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# install.sh - what `make install` puts down works without the source tree: the README's program compiles with pkg-config
# alone and is answered, tools carry no path of the build, systemd likes the units, and socket activation starts a broker.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/support/broker.sh
ROOT=$RUN/root
USR=$ROOT/usr
unset INFBROKER_SOCKET

check "make install" make --no-print-directory install BUILD="$BUILD" DESTDIR="$ROOT" PREFIX=/usr

# The README's program is the first C block with a main().
awk '/^```c$/ { block = ""; inside = 1; next } /^```$/ && inside { if (block ~ /int main/) { printf "%s", block; exit } inside = 0 }
	inside { block = block $0 "\n" }' README.md >"$RUN/readme.c"
check "the README has a C program" test -s "$RUN/readme.c"
# No option but what pkg-config says: and warnings, so that the example is a clean one.
flags() { PKG_CONFIG_SYSROOT_DIR=$ROOT PKG_CONFIG_PATH=$USR/lib/pkgconfig pkg-config --cflags --libs libinfclient; }
compile_readme() {
	# shellcheck disable=SC2046
	"${CC:-gcc}" -Wall -Wextra -o "$RUN/readme" "$RUN/readme.c" $(flags)
}
check "it compiles with pkg-config alone" compile_readme

export LD_LIBRARY_PATH=$USR/lib
start_installed() {
	"$USR/bin/infbroker" --builtin --socket "$SOCKET" 2>>"$RUN/broker.log" &
	BROKER=$!
	local _
	for _ in $(seq 100); do
		INFBROKER_SOCKET=$SOCKET "$USR/bin/shmctl" models 2>/dev/null | grep -q add_sub && return 0
		read -r -t 0.1 <> <(:) || true
	done
	return 1
}
check "the installed broker serves, the installed shmctl sees it" start_installed
check "the README's program is answered" env INFBROKER_SOCKET="$SOCKET" "$RUN/readme"
check "it ends cleanly" broker_stop

no_path_inside() { ! readelf -d "$USR"/bin/* "$USR"/lib/libinfclient.so.0 | grep -E 'RPATH|RUNPATH'; }
check "no run path in what is installed" no_path_inside
needs_little() { [ "$(ldd "$USR/bin/infbroker" | grep -cE '=>')" -eq "$(ldd "$USR/bin/infbroker" | grep -cE 'lib(c|uring)\.so')" ]; }
check "infbroker needs libc and liburing alone" needs_little

if command -v systemd-analyze >/dev/null; then
	# The programs that units name must exist, so here the prefix is a real place.
	quiet_units() {
		make --no-print-directory install BUILD="$BUILD" PREFIX="$RUN/prefix" >/dev/null || return 1
		! systemd-analyze verify "$RUN"/prefix/lib/systemd/system/infbroker.* 2>&1 | grep .
	}
	check "systemd-analyze verify has nothing to say" quiet_units
else
	skip "systemd-analyze verify" "not installed"
fi

if command -v systemd-socket-activate >/dev/null; then
	activated() {
		systemd-socket-activate --seqpacket -l "$RUN/activated" "$USR/bin/infbroker" --builtin 2>>"$RUN/broker.log" &
		local pid=$! rc=1 _
		for _ in $(seq 50); do
			[ -S "$RUN/activated" ] && break
			read -r -t 0.1 <> <(:) || true
		done
		INFBROKER_SOCKET=$RUN/activated timeout 20 "$USR/bin/shmctl" models | grep -q add_sub && rc=0
		kill "$pid"
		wait "$pid"
		return $rc
	}
	check "the first client starts a socket-activated broker" activated
else
	skip "socket activation" "systemd-socket-activate is not installed"
fi

check "make uninstall" make --no-print-directory uninstall BUILD="$BUILD" DESTDIR="$ROOT" PREFIX=/usr
nothing_left() { ! find "$ROOT" -type f -o -type l | grep .; }
check "nothing is left" nothing_left
finish
