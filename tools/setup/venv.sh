#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# venv.sh - virtual environments for what Python runs here; quick and silent where they are.
#
#   venv.sh plot            what the benchmarks draw with (matplotlib)
#   venv.sh python          what the Python package is tested and measured with (pytest, mypy, uvloop, FastAPI, ...)
#   venv.sh schemas         what JSON is held against its schema with (jsonschema)
#   venv.sh cuda            cuobjdump, which shows what kernels a program has in it, and nvml.h
#   venv.sh peers           the rivals of `make bench-peers`: Debian's libraries, and an environment for each Python rival
#   venv.sh --python NAME   prints the Python that has NAME (plot, python, schemas, cuda, iceoryx2, triton, mosec, mlserver),
#                           or fails without a word
#
# What cannot be had here is said in a line and skipped: a rival is then missing from the table, tests are skipped
# by name, nothing is fatal. The environments (0.8 GB in all) lie in the user's cache folder and serve all clones.
# One counts as made when its file `complete`, written last, names the packages that it was made
# from; else it is begun anew.
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/infbroker

say() { echo "venv: $*"; }

# What pip is asked for: the releases that the settings in tests/bench/peers were tried with.
packages_of() { # NAME
	case $1 in
	plot) echo matplotlib==3.10.0 ;;
	python) echo numpy==2.4.6 ml_dtypes==0.6.0 setuptools==80.9.0 wheel==0.45.1 pytest==9.2.0 pytest-asyncio==1.5.0 \
		hypothesis==6.170.17 mypy==2.4.1 uvloop==0.23.0 tqdm==4.70.1 pillow==13.0.0 \
		fastapi==0.165.0 uvicorn==0.54.0 gunicorn==27.0.1 aiohttp==3.14.5 ;;
	schemas) echo jsonschema==4.26.0 ;;
	cuda) echo nvidia-cuda-cuobjdump==13.2.78 nvidia-nvml-dev==13.0.87 ;;
	iceoryx2) echo iceoryx2==0.10.0 ;;
	# The tritonserver program is in this wheel; only it is used, none of pytriton itself.
	triton) echo nvidia-pytriton==0.7.0 ;;
	mosec) echo mosec==0.9.8 ;;
	mlserver) echo mlserver==1.7.1 ;;
	*) return 1 ;;
	esac
}
disk_mb_of() { # NAME
	case $1 in
	triton | mlserver) echo 1000 ;;
	python) echo 400 ;;
	*) echo 200 ;;
	esac
}
venv_of() { echo "$cache/venv-$1"; }
is_complete() { # NAME
	wanted=$(packages_of "$1") || return 1
	[ "$(cat "$(venv_of "$1")/complete" 2>/dev/null)" = "$wanted" ]
}

# Asked of the compiler, like in apt.sh: what came from elsewhere counts.
header() { # PACKAGE FLAGS HEADER
	echo "#include <$3>" | ${CC:-cc} $2 -E -x c - >/dev/null 2>&1 || missing="$missing $1"
}

apt_missing() {
	missing=
	header libzmq3-dev "" zmq.h
	header libnng-dev "" nng/nng.h
	# Its headers lie in a folder named after its version.
	folder=$(ls -d /usr/include/iceoryx/v* 2>/dev/null | tail -n 1)
	header libiceoryx-binding-c-dev "-I$folder" iceoryx_binding_c/runtime.h
	command -v iox-roudi >/dev/null 2>&1 || missing="$missing iceoryx"
}

apt_install() {
	apt_missing
	[ -n "$missing" ] || return 0
	say "missing here:$missing"
	command -v apt-get >/dev/null 2>&1 || { say "no apt-get: skipped$missing"; return 0; }
	as_root=
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null 2>&1 || {
			say "neither root nor sudo: skipped$missing"
			return 0
		}
		as_root=sudo
	fi
	$as_root apt-get update -q || say "apt-get update failed; trying without it"
	# One at a time: one that this release does not have takes no other with it.
	for package in $missing; do
		say "installing with apt-get${as_root:+ (sudo)}: $package"
		$as_root env DEBIAN_FRONTEND=noninteractive \
			apt-get install -q -y --no-install-recommends "$package" ||
			say "skipped: $package cannot be installed here"
	done
}

make_venv() { # NAME
	venv=$(venv_of "$1")
	packages=$(packages_of "$1")
	free_mb=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
	if [ "$free_mb" -lt "$(disk_mb_of "$1")" ]; then
		say "skipped: $1, $cache has $free_mb MB free and $(disk_mb_of "$1") are needed" \
			"(XDG_CACHE_HOME= names another place)"
		return 0
	fi
	say "making $venv with $packages"
	rm -rf "$venv"
	mkdir -p "$venv.tmp"
	if python3 -m venv "$venv" >"$venv.log" 2>&1 &&
		TMPDIR=$venv.tmp "$venv/bin/python" -m pip install --disable-pip-version-check \
			--no-input --no-cache-dir --progress-bar off $packages >>"$venv.log" 2>&1; then
		echo "$packages" >"$venv/complete"
	else
		tail -n 3 "$venv.log" | sed 's/^/venv:   /'
		say "skipped: $1 cannot be installed here (all of it in $venv.log)"
		rm -rf "$venv"
	fi
	rm -rf "$venv.tmp"
}

install() { # NAME...
	mkdir -p "$cache"
	exec 9>"$cache/venv-lock"
	flock -n 9 || { say "another run is installing; waiting for it"; flock 9; }
	for name; do
		is_complete "$name" || make_venv "$name"
	done
}

case "${1-}" in
plot | python | schemas | cuda)
	install "$1"
	;;
peers)
	apt_install
	install plot iceoryx2 mosec triton mlserver
	;;
--python)
	is_complete "${2-}" && echo "$(venv_of "$2")/bin/python"
	;;
*)
	sed -n '3,16s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac
