# SPDX-License-Identifier: Apache-2.0
"""client/python/TUTORIAL.md, run as a doctest by the Python that has torch."""

from __future__ import annotations

import os
import site
import subprocess

import pytest
from conftest import BUILD, PACKAGE, ROOT

RUN = """
import doctest, sys
failed, n = doctest.testfile(sys.argv[1], module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
print(n, "examples")
sys.exit(bool(failed))
"""


def test_tutorial(tmp_path):
    if not (BUILD / "backends/libinf-backend-torch.so").exists():
        pytest.skip("built without the torch backend")
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "INFBROKER_SOCKET")}
    environment |= {
        "PATH": f"{BUILD}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(runtime),
        # torch's own packages come first where both have one.
        "PYTHONPATH": f"{PACKAGE}:{ROOT / 'tools/export'}:{site.getsitepackages()[0]}",
        "PYTHONWARNINGS": "ignore",
    }
    (runtime / "infbroker").mkdir(mode=0o700)
    done = subprocess.run(
        [ROOT / "tools/setup/torch.sh", "--run", "-c", RUN, ROOT / "client/python/TUTORIAL.md"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
