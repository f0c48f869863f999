# SPDX-License-Identifier: Apache-2.0
"""A real broker for the tests, and the check that nothing is left behind.

$BUILD names the build to test: its broker, and its package under $BUILD/python (or that of $INF_PYTHON_BUILD: one under ASan). Each test module gets a broker; `client`
is a connection of the test's own, after which no request, view or descriptor may be alive.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BUILD", "build")
PACKAGE = ROOT / os.environ.get("INF_PYTHON_BUILD", str(BUILD)) / "python"
sys.path.insert(0, str(PACKAGE))

import infclient  # noqa: E402


class Broker:
    """infbroker with its builtin models on a private socket."""

    def __init__(self, *options: str, ledger: bool = False) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="inf-py.")
        self.socket = self.folder.name + "/socket"
        self.options = options
        # What the software driver of the executor, which is the last to come by, says of itself.
        self.environment = {"FAKECUDA_LEDGER_LIVE": self.folder.name + "/ledger"} if ledger else {}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = open(self.folder.name + "/log", "ab")

    def start(self) -> Broker:
        # The sanitizer that is preloaded for Python is not the broker's matter.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | self.environment
        self.process = subprocess.Popen(
            [BUILD / "infbroker", "--builtin", "--socket", self.socket, *self.options], stderr=self.log, env=environment
        )
        until = time.monotonic() + 30
        while True:
            try:
                with infclient.connect(self.socket) as client:
                    if all(info.state != "loading" for info in client.models()):
                        return self
            except (infclient.ConnectError, infclient.Loading):
                pass
            assert self.process.poll() is None and time.monotonic() < until, pathlib.Path(self.log.name).read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def executor(self) -> int:
        assert self.process
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def ledger(self) -> dict[str, int]:
        """struct fakecuda_ledger of its executor."""
        text = (ROOT / "tests/fakecuda/fakecuda.h").read_text()
        names = re.findall(r"^\s*X\((\w+)\)", text, re.MULTILINE)
        data = pathlib.Path(self.environment["FAKECUDA_LEDGER_LIVE"]).read_bytes()
        return dict(zip(names, struct.unpack(f"{len(names)}Q", data[: 8 * len(names)])))

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)
        self.log.close()
        self.folder.cleanup()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    one = Broker().start()
    yield one
    one.close()


def stop(broker: Broker) -> int:
    """The executor does nothing from here on, so no request ends."""
    pid = broker.executor()
    os.kill(pid, signal.SIGSTOP)
    while any(path.read_text().rpartition(")")[2].split()[0] != "T" for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")):
        time.sleep(0.001)
    return pid


@contextlib.contextmanager
def standstill(broker: Broker) -> Iterator[None]:
    pid = stop(broker)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def client(broker: Broker) -> Iterator[infclient.Client]:
    gc.collect()
    before = open_files()
    one = infclient.connect(broker.socket)
    yield one
    gc.collect()
    left = one.stats()
    assert left["live_views"] == 0 and left["live_requests"] == 0, left
    for name in list(one._handles):
        assert one._handles[name].rows_busy == 0
    one.close()
    session: Any = one._session
    one._session = None
    assert sys.getrefcount(session) == 2, gc.get_referrers(session)
    del session
    gc.collect()
    assert open_files() <= before


def pytest_unconfigure() -> None:
    """A thread that a failed test left behind does not keep Python from its end."""
    left = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    if left:
        print("still running:", left)
        sys.stdout.flush()
        faulthandler.dump_traceback()
        os._exit(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="smaller numbers (the ASan run)")
