#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# apt.sh [check] - installs the Debian packages that building and testing need and this machine lacks.
#
# Each package is probed by what it is for (a program, or a header that compiles), so what came from elsewhere
# counts, and nothing is asked of the network or of dpkg where all is there. WITH_TORCH=0 asks for no C++ compiler, WITH_BPF=0
# for nothing that makes programs for the kernel.
set -eu

missing=
program() { # PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
header() { # FLAGS PACKAGE HEADER...
	flags=$1 package=$2
	shift 2
	for header; do echo "#include <$header>"; done |
		${CC:-cc} $flags -E -x c - >/dev/null 2>&1 || missing="$missing $package"
}

program gcc gcc
program make make
program pkg-config pkg-config
program pgrep procps
program python3 python3
CC=${CC:-gcc}
if command -v "$CC" >/dev/null 2>&1; then
	header "" libc6-dev stdlib.h linux/futex.h
	header "" liburing-dev liburing.h
	header "" libjansson-dev jansson.h
	header "" libjpeg62-turbo-dev stdio.h jpeglib.h
	header -I/usr/include/stb libstb-dev stb_image_resize.h
	header "" check check.h
	header "" systemtap-sdt-dev sys/sdt.h
	header "" libdlpack-dev dlpack/dlpack.h
else
	missing="$missing libc6-dev liburing-dev libjansson-dev libjpeg62-turbo-dev libstb-dev check systemtap-sdt-dev libdlpack-dev"
fi
if [ "${WITH_TORCH:-auto}" != 0 ]; then
	program "${CXX:-g++}" g++
	python3 -c 'import ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
fi
if [ "${1-}" = check ]; then
	program perf linux-perf
	program systemd-analyze systemd
	program systemd-socket-activate systemd
	program setpriv util-linux
	program mandoc mandoc
	program jq jq
	program zsh zsh
	program fish fish
	program taskset util-linux
	if [ "${WITH_BPF:-auto}" != 0 ]; then # programs for the kernel: shmctl trace --kernel
		program clang clang
		PATH=$PATH:/usr/sbin program bpftool bpftool # not in everybody's path
		header "" libbpf-dev bpf/libbpf.h
	fi
fi

[ -n "$missing" ] || exit 0
echo "missing here:$missing"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "This machine has no apt-get: please install what Debian calls$missing, then run make again." >&2
	exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null 2>&1 || {
		echo "Installing needs root, and there is no sudo. Please run as root:  apt-get install$missing" >&2
		exit 1
	}
	as_root=sudo
fi
# Words on purpose: one package each.
set -- $missing
echo "installing with apt-get${as_root:+ (sudo)}: $*"
$as_root apt-get update -q
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
