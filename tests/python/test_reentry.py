# SPDX-License-Identifier: Apache-2.0
"""Python that runs in the middle of ours: loops, callbacks and comparisons that cancel, submit, close, raise and let go.

The package calls methods of event loops while it walks its lists of loops and requests. Here they do what they like.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from typing import Any, Callable

import numpy as np
import pytest
import uvloop
from conftest import Broker, standstill, stop

import infclient

X = np.arange(16, dtype=np.float32).reshape(1, 16)


class Loop(asyncio.SelectorEventLoop):
    """Runs `hooks[method]`, once, at the beginning of that method."""

    def __init__(self) -> None:
        self.hooks: dict[str, Callable[[], None]] = {}
        self.readers: list[Callable[[], None]] = []
        super().__init__()

    def _hook(self, name: str) -> None:
        hook = self.hooks.pop(name, None)
        if hook:
            hook()

    def is_closed(self) -> bool:
        self._hook("is_closed")
        return super().is_closed()

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        self._hook("add_reader")
        self.readers.append(callback)
        super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        self._hook("remove_reader")
        return super().remove_reader(fd)

    def call_soon_threadsafe(self, *args: Any, **named: Any) -> Any:
        self._hook("call_soon_threadsafe")
        return super().call_soon_threadsafe(*args, **named)

    def call_later(self, *args: Any, **named: Any) -> Any:
        self._hook("call_later")
        return super().call_later(*args, **named)


def ask(broker: Broker, loop: asyncio.AbstractEventLoop, model: infclient.Model) -> None:
    """One request in that loop, which then watches the thread's lane."""

    async def one() -> None:
        with standstill(broker):
            request = model.submit(X, X)
            request.add_done_callback(lambda _: None)
        assert (await request)[0].sum() == 2 * X.sum()

    loop.run_until_complete(asyncio.wait_for(one(), 30))


def test_a_watch_leaves_while_it_is_asked_whether_it_is_closed(broker: Broker, client: infclient.Client) -> None:
    model = client["add_sub"]
    loops = [Loop() for _ in range(3)]
    for loop in loops:
        ask(broker, loop, model)
    loops[1].close()
    called: list[Any] = []

    async def mischief() -> None:
        with standstill(broker):
            first, second = model.submit(X, X), model.submit(X, X)
            # Looks for closed loops itself, while the one before is about to be taken off the list.
            loops[1].hooks["is_closed"] = lambda: first.add_done_callback(called.append)
            second.add_done_callback(called.append)
        assert not loops[1].hooks
        while len(called) < 2:
            await asyncio.sleep(0.001)

    loops[0].run_until_complete(asyncio.wait_for(mischief(), 30))
    for loop in (loops[2], loops[0]):
        ask(broker, loop, model)
        loop.close()
    called.clear()


def test_a_loop_runs_its_reader_while_the_session_goes(broker: Broker) -> None:
    client = infclient.connect(broker.socket)
    model = client["add_sub"]
    loops = [Loop(), Loop()]
    for loop in loops:
        ask(broker, loop, model)
    for loop, other in zip(loops, reversed(loops)):
        loop.hooks["remove_reader"] = other.readers[0]
    client.close()
    del client, model
    gc.collect()
    assert not any(loop.hooks for loop in loops)
    for loop in loops:
        loop.close()


def test_the_last_request_of_a_session_is_one_that_its_thread_leaves_behind(broker: Broker) -> None:
    def work() -> None:
        async def leave() -> None:
            client = infclient.connect(broker.socket)
            model = client.model("sleep", depth=1)
            stop(broker)
            first = model.submit(np.float32([[50]]))
            waits = model.submit(np.float32([[0]]))
            assert waits.state == "queued"
            waits.add_done_callback(lambda _: None)
            client.close()
            del first, waits

        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        os.kill(broker.executor(), signal.SIGCONT)
        gc.collect()


def test_what_is_cancelled_while_room_is_looked_for_is_not_sent(broker: Broker, client: infclient.Client) -> None:
    model = client.model("sleep", depth=1)
    started, over = threading.Event(), threading.Event()
    loop = Loop()

    def work() -> None:
        async def hold() -> None:
            request = model.submit(np.float32([[1]]))
            request.add_done_callback(lambda _: None)
            del request
            started.set()
            over.wait(60)

        loop.run_until_complete(hold())
        loop.close()

    with standstill(broker):
        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        queued = model.submit(np.float32([[0]]))
        assert queued.state == "queued"
    # The end of the other thread's request, which gives the room, is found on the way.
    loop.hooks["call_soon_threadsafe"] = lambda: queued.cancel()
    while loop.hooks:
        queued.done()
    assert queued.cancelled() and queued.state == "cancelled"
    with pytest.raises(infclient.Cancelled):
        queued.result()
    over.set()
    thread.join()
    assert model(np.float32([[0]])).shape == (1, 1)


def test_a_callback_that_was_called_is_not_removed(broker: Broker, client: infclient.Client) -> None:
    class Callback:
        def __init__(self) -> None:
            self.n = 0
            self.request: Any = None

        def __call__(self, request: Any) -> None:
            self.n += 1

        def __eq__(self, other: object) -> bool:
            while self.request and not self.request.done():
                pass
            return True

        __hash__ = None  # type: ignore[assignment]

    async def main() -> None:
        callback, model = Callback(), client["add_sub"]
        with standstill(broker):
            request = model.submit(X, X)
            request.add_done_callback(callback)
        callback.request = request
        removed = request.remove_done_callback(Callback())
        callback.request = None
        await asyncio.sleep(0.01)
        assert removed + callback.n == 1

    asyncio.run(main())


def test_two_threads_begin_to_wait_for_one_request_at_once(broker: Broker, client: infclient.Client) -> None:
    model = client["add_sub"]
    called: list[str] = []
    both = threading.Event()
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()

    def note(name: str) -> None:
        called.append(name)
        if len(called) == 2:
            both.set()

    async def add(request: infclient.Request, name: str) -> None:
        request.add_done_callback(lambda _: note(name))

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with standstill(broker):
            request = model.submit(X, X)
            loop.hooks["add_reader"] = lambda: asyncio.run_coroutine_threadsafe(add(request, "other"), other).result(30)
            await add(request, "mine")
        assert not loop.hooks
        while not request.done():
            await asyncio.sleep(0.001)

    loop = Loop()
    loop.run_until_complete(main())
    # Those of both are called, in whatever loop.
    loop.run_until_complete(loop.run_in_executor(None, both.wait, 30))
    assert sorted(called) == ["mine", "other"]
    other.call_soon_threadsafe(other.stop)
    thread.join()
    other.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


# --- who is told, and by whom ---

ROW = np.arange(64, dtype=np.uint8).reshape(1, 64)
REST = np.zeros((1, 1), np.float32)


def test_much_that_ended_unawaited_is_not_a_lost_broker(broker: Broker, client: infclient.Client) -> None:
    """More than a loop takes at a time lies there when nobody waits any more: that says nothing about the broker."""
    model, slow = client.model("identity", depth=1000), client["sleep"]

    async def main() -> None:
        first, told = model.submit(ROW), asyncio.Event()
        first.add_done_callback(lambda _: told.set())
        others = []
        for _ in range(5):
            others += [model.submit(ROW) for _ in range(180)]
            while not others[-1].done():
                pass
        # Of the same connection, and in flight: nobody collects them where the loop watches no more.
        with standstill(broker):
            late = [slow.submit(np.zeros((16, 1), np.float32)) for _ in range(3)]
            await told.wait()
            await asyncio.sleep(0.05)
            is_up = client._session.is_up
        _, pending = await asyncio.wait(late, timeout=5)
        assert not pending and is_up

    asyncio.run(main())


@pytest.mark.parametrize("how", ["loop", "thread"])
def test_what_an_ended_thread_left_in_flight_gives_its_room(broker: Broker, client: infclient.Client, how: str) -> None:
    model, left = client.model("sleep", depth=1), []
    with standstill(broker):
        thread = threading.Thread(target=lambda: left.append(model.submit(np.float32([[20]]))))
        thread.start()
        thread.join()
        waits = model.submit(REST)
        assert waits.state == "queued"
    if how == "thread":
        assert waits.result(timeout=20).shape == (1, 1)
        return

    async def main() -> None:
        assert (await asyncio.wait_for(waits, 20)).shape == (1, 1)

    asyncio.run(main())


def test_a_thread_waits_for_what_a_loop_was_to_send(broker: Broker, client: infclient.Client) -> None:
    """The loop does not run any more."""
    model = client.model("sleep", depth=1)
    answers: list[Any] = []

    async def leave() -> tuple[infclient.Request, infclient.Request]:
        first, waits = model.submit(np.float32([[20]])), model.submit(REST)
        waits.add_done_callback(lambda _: None)
        return first, waits

    loop = asyncio.new_event_loop()
    with standstill(broker):
        first, waits = loop.run_until_complete(leave())
        assert waits.state == "queued"
    thread = threading.Thread(target=lambda: answers.append(waits.result(timeout=20)))
    thread.start()
    thread.join()
    assert len(answers) == 1 and first.done()
    loop.close()


def test_each_callback_comes_in_the_loop_that_added_it(broker: Broker, client: infclient.Client) -> None:
    model = client["sleep"]

    async def main() -> None:
        told = asyncio.Event()
        with standstill(broker):
            request = model.submit(REST)
            request.add_done_callback(lambda _: told.set())

            async def add() -> None:
                request.add_done_callback(lambda _: None)

            def work() -> None:
                other = asyncio.new_event_loop()
                other.run_until_complete(add())
                other.close()

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        await asyncio.wait_for(told.wait(), 20)

    asyncio.run(main())


class AtOnce(asyncio.SelectorEventLoop):
    """Calls done callbacks of requests from within the package, where that is in its own thread."""

    thread = threading.get_ident()

    def _now(self, callback: Any, args: Any, context: Any) -> bool:
        if not args or not isinstance(args[0], infclient.Request):
            return False
        context.run(callback, *args)
        return True

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self._now(callback, args, context) or super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        is_here = threading.get_ident() == self.thread
        return (is_here and self._now(callback, args, context)) or super().call_soon_threadsafe(callback, *args, context=context)


STRESS_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop, "at once": AtOnce}


@pytest.mark.parametrize("who", ["loop", "threads too"])
@pytest.mark.parametrize("kind", ["cancel", "submit", "raise", "close", "drop", "all"])
@pytest.mark.parametrize("loop_kind", STRESS_LOOPS)
def test_callbacks_that_do_what_they_like(broker: Broker, loop_kind: str, kind: str, who: str) -> None:
    """All of them come, once each: of what is in flight and of what waits for room, whoever else waits for it."""
    n, called, threads = 60, [], []
    client = infclient.connect(broker.socket)
    model = client.model("sleep", depth=4)

    def wait(some: list[infclient.Request]) -> None:
        for request in some:
            with contextlib.suppress(infclient.Error, asyncio.CancelledError):
                request.result()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        alive = [model.submit(np.float32([[i % 3]])) for i in range(n)]
        wanted, done = n, asyncio.Event()

        def on_end(number: int) -> None:
            nonlocal wanted
            called.append(number)
            if kind in ("cancel", "all") and number % 3 == 0 and alive:
                alive[number % len(alive)].cancel()
            if kind in ("submit", "all") and number < n and number % 2:
                with contextlib.suppress(infclient.Error):
                    more = model.submit(REST)
                    wanted += 1
                    more.add_done_callback(lambda _: on_end(number + n))
            if kind == "close" and number == 20:
                client.close()
            if kind in ("drop", "all") and alive:
                alive.pop(number % len(alive))
            if len(called) >= wanted:
                done.set()
            if kind in ("raise", "all"):
                raise ValueError(number)

        for i, request in enumerate(alive[:]):
            request.add_done_callback(lambda _, i=i: on_end(i))
        del request
        if who == "threads too":
            for k in range(2):
                threads.append(threading.Thread(target=wait, args=(alive[k::3],)))
                threads[-1].start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 20)
        missing = {i: request.state for i, request in enumerate(alive) if i not in called}
        assert done.is_set(), (sorted(called), wanted, missing)
        assert len(called) == len(set(called)) == wanted

    loop = STRESS_LOOPS[loop_kind]()
    try:
        loop.run_until_complete(main())
    finally:
        for thread in threads:
            thread.join(60)
        loop.close()
    assert not any(thread.is_alive() for thread in threads)
    gc.collect()
    assert client.stats()["live_requests"] == 0
