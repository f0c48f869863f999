# SPDX-License-Identifier: Apache-2.0
"""Forks, spawns, signals, the end of the interpreter; deaths of the broker, the executor and of clients."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing.resource_tracker
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

import numpy as np
import pytest
from conftest import PACKAGE, Broker

import infclient

X = np.arange(64, dtype=np.uint8).reshape(1, 64)


def script(text, broker, **keywords):
    """Runs a Python of its own on the package."""
    environment = dict(os.environ, PYTHONPATH=str(PACKAGE), INFBROKER_SOCKET=broker.socket)
    prelude = "import infclient, numpy as np, asyncio, threading, time, sys, os, signal\nX = np.arange(64, dtype=np.uint8).reshape(1, 64)\n"
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", prelude + text], env=environment, capture_output=True, text=True, timeout=120, **keywords
    )


def ask(model, x):
    return np.array(model(x))


multiprocessing.resource_tracker.ensure_running()  # keeps a descriptor


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_processes(client, method):
    model = client["identity"]
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
        answers = list(pool.map(ask, [model] * 30, [np.full((1, 64), i, np.uint8) for i in range(30)]))
    assert all((y == i).all() for i, y in enumerate(answers))
    assert (model(X) == X).all()


def in_child(work):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_connects_by_itself(client):
    model = client["identity"]
    y = model(X)
    outstanding = [client["sleep"].submit(np.zeros((16, 1), np.float32)) for _ in range(10)]

    def work():
        session = client.stats()["session"]
        assert (y == X).all()  # the parent's answer, inherited
        assert (model(X) == X).all() and client.stats()["session"] != session
        assert (client["identity"](X) == X).all()

        async def main():
            return await model.submit(X)

        assert (asyncio.run(main()) == X).all()
        for request in (outstanding[0], outstanding[-1]):  # in flight, queued
            with pytest.raises(infclient.ConnectError, match="parent"):
                request.result(timeout=5)
        in_child(lambda: model(X))

    in_child(work)
    assert (model(X) == X).all()
    for request in outstanding:
        request.result()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_connects(client):
    model = client["identity"]
    with client._lock:
        in_child(lambda: model(X))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_inside_a_loop(client):
    model = client["identity"]

    async def main():
        await model.submit(X)
        flying = [model.submit(X) for _ in range(100)]

        def child():
            asyncio.events._set_running_loop(None)
            assert (asyncio.run(again()) == X).all()

        in_child(child)
        for y in await asyncio.gather(*flying):
            assert (y == X).all()

    async def again():
        return await model.submit(X)

    asyncio.run(main())


def test_pickles(client):
    model = pickle.loads(pickle.dumps(client["identity"]))
    assert (model(X) == X).all()
    other = pickle.loads(pickle.dumps(client))
    assert other.stats()["session"] != client.stats()["session"]
    other.close()
    model._client.close()


def test_interrupt():
    broker = Broker().start()  # of its own: the model hangs for ever
    try:
        done = script(
            "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            "model = infclient.connect()['hang']\n"
            "try:\n model(np.ones((1, 1), np.uint8))\n"
            "except KeyboardInterrupt: print('interrupted')\n",
            broker,
        )
    finally:
        broker.kill()
        broker.close()
    assert done.stdout == "interrupted\n" and not done.stderr, done.stderr


@pytest.mark.parametrize("call", ["infclient.connect()", "client['add_sub']", "client.models()", "client.ping(None)"])
def test_interrupt_while_the_broker_is_stopped(call):
    broker = Broker().start()
    assert broker.process
    try:
        done = script(
            "client = infclient.connect()\n"
            f"os.kill({broker.process.pid}, signal.SIGSTOP)\n"
            "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            f"try:\n {call}\n"
            "except KeyboardInterrupt: print('interrupted')\n",
            broker,
        )
    finally:
        broker.process.send_signal(signal.SIGCONT)
        broker.close()
    assert done.stdout == "interrupted\n" and not done.stderr, done.stderr


@pytest.mark.parametrize(
    "ending",
    [
        "kept = [model(X) for _ in range(5)]",
        "kept = [model.submit(X) for _ in range(200)]",
        "threading.Thread(target=lambda: [model(X) for _ in iter(int, 1)], daemon=True).start(); time.sleep(0.1)",
        "[threading.Thread(target=lambda: slow(np.zeros((16, 1), np.float32)), daemon=True).start() for _ in range(20)]; time.sleep(0.002)",
        "r = model.request(); v = r.inputs['x']; r.close()",
        "async def main(): await model.submit(X); globals()['kept'] = [model.submit(X) for _ in range(100)]\nasyncio.run(main())",
        "client.close()",
        "sys.modules['infclient']._kept = model(X)",
        "class C: pass\nc = C(); c.me = c; c.y = model(X); c.r = model.submit(X)",
    ],
)
def test_the_end_of_the_interpreter(broker, ending):
    done = script("client = infclient.connect(); model = client['identity']; slow = client['sleep']\n" + ending, broker)
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stderr)


def test_command_line(broker, tmp_path):
    def command(*args):
        return subprocess.run(
            [sys.executable, "-m", "infclient", "--socket", broker.socket, *args],
            env=dict(os.environ, PYTHONPATH=str(PACKAGE)), capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    listing = command("ls").stdout
    assert "add_sub (version 1, ready)" in listing and "    x: float32[rows, 16]" in listing and "-> out2" in listing
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "a.npy", np.full((2, 16), 2, np.float32))
    assert "uint8[1, 64]" in command("run", "identity", str(tmp_path / "x.npy")).stdout
    assert command("run", "identity", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")).returncode == 0
    assert (np.load(tmp_path / "y.npy") == X).all()
    a = str(tmp_path / "a.npy")
    assert command("run", "add_sub", a, a, "-o", str(tmp_path / "y.npz")).returncode == 0
    assert (np.load(tmp_path / "y.npz")["out"] == 4).all()
    for how in (["-t", "2"], ["--asyncio", "16"], ["-r", "4"]):
        bench = command("bench", "add_sub", "-n", "300", *how)
        assert "requests/s" in bench.stdout and "p99" in bench.stdout, bench
    wrong = command("run", "identity", a)
    assert wrong.returncode == 1 and "expected uint8[rows, 64]" in wrong.stderr and "Traceback" not in wrong.stderr
    assert command("run", "nothing", a).returncode == 1 and command("fly").returncode == 2
    assert "0.1" in command("--version").stdout


def patiently(call, seconds=30.0):
    """Until the broker is back."""
    until = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (infclient.Error, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def test_the_broker_is_killed_and_comes_back():
    broker = Broker().start()
    try:
        client = infclient.connect(broker.socket)
        model, slow = client["identity"], client["sleep"]
        kept = model(X)
        stop = threading.Event()
        wrong = []

        def work():
            while not stop.is_set():
                try:
                    if not (model(X) == X).all():
                        wrong.append("bytes")
                except (infclient.BrokerLost, infclient.ConnectError, infclient.Loading):
                    time.sleep(0.01)
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            flying = [slow.submit(np.zeros((16, 1), np.float32)) for _ in range(20)]
            time.sleep(0.05)
            broker.kill()
            for request in flying:
                assert request.exception(timeout=10) is None or isinstance(request.exception(), infclient.BrokerLost)
            os.unlink(broker.socket)
            broker.start()
            assert (patiently(lambda: model(X)) == X).all()
            patiently(lambda: slow(np.zeros((1, 1), np.float32)))
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong, wrong[:3]
        assert (kept == X).all()
    finally:
        broker.close()


def test_the_broker_is_killed_under_a_loop():
    broker = Broker().start()
    try:
        client = infclient.connect(broker.socket)
        model, slow = client["identity"], client["sleep"]

        async def main():
            for _ in range(3):
                flying = [slow.submit(np.zeros((16, 1), np.float32)) for _ in range(200)]
                await flying[0]
                broker.kill()
                results = await asyncio.wait_for(asyncio.gather(*flying, return_exceptions=True), 20)
                assert all(isinstance(r, (np.ndarray, infclient.BrokerLost)) for r in results), results
                assert sum(isinstance(r, infclient.BrokerLost) for r in results) > 50
                os.unlink(broker.socket)
                broker.start()
                patiently(lambda: model(X))
                assert (await model.submit(X) == X).all()
                patiently(lambda: slow(np.zeros((1, 1), np.float32)))

        asyncio.run(main())
    finally:
        broker.close()


def test_the_broker_is_killed_before_the_first_await():
    broker = Broker().start()
    try:
        slow = infclient.connect(broker.socket)["sleep"]

        async def main():
            flying = [slow.submit(np.zeros((16, 1), np.float32)) for _ in range(200)]
            broker.kill()
            results = await asyncio.wait_for(asyncio.gather(*flying, return_exceptions=True), 20)
            assert all(isinstance(r, (np.ndarray, infclient.BrokerLost)) for r in results), results

        asyncio.run(main())
    finally:
        broker.close()


def test_the_executor_is_killed():
    broker = Broker().start()
    try:
        client = infclient.connect(broker.socket)
        model = client["identity"]
        for _ in range(3):
            os.kill(broker.executor(), signal.SIGKILL)
            until = time.monotonic() + 30
            for _ in range(200):
                assert (patiently(lambda: model(X)) == X).all() and time.monotonic() < until
    finally:
        broker.close()


def test_clients_are_killed(broker, request):
    """Forked clients, killed at random moments (1,000; 30 in a quick run): the broker and a client beside them never notice."""
    n = 30 if request.config.getoption("--quick") else 1000
    template = infclient.connect(broker.socket)["identity"]
    witness = infclient.connect(broker.socket)["identity"]
    rng = random.Random(11)
    killed, alive = 0, []

    def child(seed):
        own = random.Random(seed)
        kept = []

        async def main():
            while True:
                kept[:] = [await template.submit(np.full((own.randint(1, 3), 64), i, np.uint8)) for i in range(10)]
                [template.submit(X) for _ in range(own.randint(0, 50))]

        if own.random() < 0.5:
            asyncio.run(main())
        while True:
            kept.append(template(X)[0, 5:])
            del kept[: own.randint(0, 2)]

    while killed < n:
        pid = os.fork()
        if not pid:
            try:
                child(killed)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(3)
        alive.append((time.monotonic() + rng.random() * 0.05, pid))
        while alive and (len(alive) > 5 or killed + len(alive) >= n):
            when, victim = alive.pop(0)
            time.sleep(max(0.0, when - time.monotonic()))
            os.kill(victim, signal.SIGKILL)
            assert os.WIFSIGNALED(os.waitpid(victim, 0)[1])
            killed += 1
            x = np.full((2, 64), killed % 251, np.uint8)
            assert (witness(x) == x).all()
    patiently(lambda: infclient.connect(broker.socket)["identity"](X))
