# SPDX-License-Identifier: Apache-2.0
"""Awaiting: thousands at once, cancellations, timeouts, loops that end, both kinds of loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import threading
import time

import numpy as np
import pytest
import uvloop
from conftest import standstill

import infclient

X = np.arange(64, dtype=np.uint8).reshape(1, 64)
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


uvloop.new_event_loop().close()  # it keeps two descriptors from its first loop on


@pytest.fixture(params=LOOPS)
def run(request):
    def call(main):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main)

    return call


def row(i):
    return np.full((1, 64), i % 251, np.uint8)


def test_await(client, run):
    async def main():
        request = client["identity"].submit(X)
        assert asyncio.isfuture(request)
        y = await request
        assert (y == X).all() and request.done() and (await request == X).all()

    run(main())


def test_thousands_at_once(client, run):
    """Far more than the ring and the model's memory hold: none fails, each has its own answer."""

    async def main():
        model = client["identity"]
        answers = await asyncio.gather(*[model.submit(row(i)) for i in range(5000)])
        assert all((y == i % 251).all() for i, y in enumerate(answers))

        async def one(i):
            return (await model.submit(row(i)) == i % 251).all()

        assert all(await asyncio.gather(*[one(i) for i in range(5000)]))

    run(main())


def test_workers_that_hold_their_last_answer(client, run):
    async def main():
        model = client.model("add_sub", depth=8)

        async def work():
            for i in range(50):
                y = await model.submit(np.full(16, i, np.float32), np.ones(16, np.float32))
                assert (y["out"] == i + 1).all()

        await asyncio.gather(*[work() for _ in range(40)])

    run(main())


def test_asyncio_functions_take_it(client, run):
    async def main():
        model = client["identity"]
        done, pending = await asyncio.wait([model.submit(row(i)) for i in range(10)])
        assert len(done) == 10 and not pending
        assert (await asyncio.wait_for(model.submit(X), 5) == X).all()
        assert (await asyncio.shield(model.submit(X)) == X).all()
        assert asyncio.ensure_future(request := model.submit(X)) is request
        await request
        for next_one in asyncio.as_completed([model.submit(row(1)) for _ in range(5)]):
            assert (await next_one == 1).all()

    run(main())


def test_callbacks(client, run):
    variable = contextvars.ContextVar("variable", default=0)

    async def main():
        seen = []
        before = [client["sleep"].submit(np.zeros((16, 1), np.float32)) for _ in range(20)]
        request = client["sleep"].submit(np.zeros((1, 1), np.float32))
        variable.set(5)
        request.add_done_callback(lambda r: seen.append((r is request, variable.get())))
        variable.set(6)
        context = contextvars.copy_context()
        context.run(variable.set, 7)
        request.add_done_callback(lambda r: seen.append(variable.get()), context=context)
        never = seen.clear
        request.add_done_callback(never)
        assert request.remove_done_callback(never) == 1 and request.remove_done_callback(never) == 0
        await request
        await asyncio.sleep(0)
        request.add_done_callback(lambda r: seen.append("late"))
        await asyncio.sleep(0)
        assert seen == [(True, 5), 7, "late"] and len(before) == 20

    run(main())


def test_a_comparison_that_ends_the_request(client, run):
    async def main():
        before = [client["sleep"].submit(np.zeros((16, 1), np.float32)) for _ in range(20)]
        request = client["sleep"].submit(np.zeros((1, 1), np.float32))

        class Callback:
            def __call__(self, _):
                pass

            def __eq__(self, other):
                request.cancel()
                return False

        for _ in range(3):
            request.add_done_callback(Callback())
        assert request.remove_done_callback(Callback()) == 0 and request.cancelled() and len(before) == 20

    run(main())


def test_gather_of_a_cancelled_request(client, run):
    async def main():
        # Behind so many that it has not ended by the time it is cancelled.
        before = [client["sleep"].submit(np.zeros((16, 1), np.float32)) for _ in range(50)]
        requests = [client["sleep"].submit(np.zeros((1, 1), np.float32)) for _ in range(3)]
        asyncio.get_running_loop().call_soon(requests[1].cancel)
        done = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 10)
        assert isinstance(done[1], asyncio.CancelledError) and isinstance(done[0], np.ndarray) and len(before) == 50

    run(main())


def test_models_do_not_wait_for_each_other(client, run):
    async def main():
        slow, fast = client.model("sleep", depth=1), client["identity"]
        queue = [slow.submit(np.zeros((1, 1), np.float32)) for _ in range(200)]
        await fast.submit(X)
        assert not queue[100].done()
        await asyncio.gather(*queue)

    run(main())


def test_cancelled_task_cancels_its_request(broker, client, run):
    async def main():
        model = client["sleep"]
        with standstill(broker):
            tasks = [asyncio.ensure_future(asyncio.wait_for(model.submit(np.zeros((16, 1), np.float32)), 60)) for _ in range(50)]
            await asyncio.sleep(0)
            for task in tasks[5:]:
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(y, np.ndarray) for y in done[:5])
        assert all(isinstance(error, asyncio.CancelledError) for error in done[5:])

    run(main())


def test_timeouts(client, run):
    async def main():
        model = client["sleep"]
        requests = [model.submit(np.zeros((16, 1), np.float32)) for _ in range(30)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await requests[-1]
        with pytest.raises(infclient.DeadlineExceeded):
            await model.submit(np.zeros((16, 1), np.float32), timeout=0.005)
        with pytest.raises(infclient.DeadlineExceeded):
            await asyncio.gather(model.submit(np.zeros((16, 1), np.float32), timeout=0.005))
        await asyncio.gather(*requests[:-1])
        assert (await model.submit(np.zeros((16, 1), np.float32), timeout=30)).shape == (16, 1)

    run(main())


def test_errors_reach_the_awaiting_one(client, run):
    async def main():
        with pytest.raises(infclient.BadRange):
            await client["index"].submit(np.full((1, 4), 99))
        results = await asyncio.gather(*[client["index"].submit(np.full((1, 4), i)) for i in range(12)], return_exceptions=True)
        assert [isinstance(r, infclient.BadRange) for r in results] == [i > 9 for i in range(12)]

    run(main())


def test_cancellations_at_random(client, run, request):
    """10^4 (10^3 quick) tasks of which half are cancelled at some moment: the others are answered rightly, nothing leaks."""
    n = 1000 if request.config.getoption("--quick") else 10_000

    async def main():
        model = client["identity"]
        rng = random.Random(7)

        async def one(i):
            for _ in range(3):
                assert (await model.submit(row(i)) == i % 251).all()

        tasks = set()
        for i in range(n):
            tasks.add(asyncio.create_task(one(i)))
            if rng.random() < 0.5:
                rng.choice(list(tasks)[:50]).cancel()
            if len(tasks) > 200:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                assert all(task.cancelled() or task.exception() is None for task in done)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await model.submit(X) == X).all()

    run(main())


def test_dropped_requests(client, run):
    async def main():
        model = client["identity"]
        for i in range(2000):
            model.submit(row(i))  # nobody waits: cancelled
        assert (await model.submit(X) == X).all()

    run(main())


def test_tasks_that_nobody_holds_are_not_lost(client, run):
    async def main():
        model = client["sleep"]
        seen = []

        async def one(i):
            await model.submit(np.zeros((1, 1), np.float32))
            seen.append(i)

        for i in range(20):
            asyncio.ensure_future(one(i))
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0.5)
        assert len(seen) == 20

    run(main())


def test_a_loop_after_another(client, run):
    async def main():
        assert (await client["identity"].submit(X) == X).all()

    for _ in range(20):
        run(main())
    client["identity"](X)
    run(main())


def test_loops_in_turns(client, run, request):
    """Two loops of one thread, each run while requests of the other are outstanding: both get their answers."""
    make = LOOPS[request.node.callspec.params["run"]]
    loops = [make(), make()]
    model, slow = client.model("identity", depth=8), client["sleep"]

    async def start(i):
        requests = [slow.submit(np.full((1, 1), i, np.float32)), *[model.submit(row(i)) for _ in range(40)]]
        return [asyncio.ensure_future(wait(one)) for one in requests]

    async def wait(one):
        return float((await one).flat[0])

    async def finish(tasks):
        return await asyncio.wait_for(asyncio.gather(*tasks), 20)

    for turn in range(10):
        tasks = [loop.run_until_complete(start(i)) for i, loop in enumerate(loops, turn)]
        for k in (turn % 2, 1 - turn % 2):
            assert loops[k].run_until_complete(finish(tasks[k])) == [turn + k] * 41
        if turn % 3 == 2:
            loops[turn % 2].close()
            loops[turn % 2] = make()
    for loop in loops:
        loop.close()


def test_run_until_complete_takes_it(client, run, request):
    """Outside of a running loop it is any awaitable: the loop that is asked makes a task of it."""
    loop = LOOPS[request.node.callspec.params["run"]]()
    one = client["sleep"].submit(np.full((1, 1), 3, np.float32))
    assert not asyncio.isfuture(one)
    assert loop.run_until_complete(one) == 3
    assert loop.run_until_complete(asyncio.ensure_future(client["identity"].submit(X), loop=loop)).shape == X.shape
    loop.close()


def test_a_loop_closed_with_requests_outstanding(client):
    model = client["sleep"]
    loop = asyncio.new_event_loop()

    async def leave():
        request = model.submit(np.zeros((16, 1), np.float32))
        request.add_done_callback(lambda r: None)

    loop.run_until_complete(leave())
    loop.close()

    async def main():
        return await model.submit(np.zeros((16, 1), np.float32))

    assert asyncio.run(main()).shape == (16, 1)
    until = time.monotonic() + 20
    while client.stats()["live_requests"] and time.monotonic() < until:  # two instances: they end in any order
        model(np.zeros((16, 1), np.float32))


def test_loops_in_threads(client, run):
    """More loops than lanes, so that some share a descriptor."""
    errors = []
    model = client["identity"]

    def work(i):
        async def main():
            for _ in range(20):
                answers = await asyncio.gather(*[model.submit(row(i)) for _ in range(5)])
                assert all((y == i % 251).all() for y in answers)

        try:
            run(main())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[:3]


def test_submitted_in_a_thread_that_ended(client, run):
    """Its number may be ours now."""
    model, box = client["sleep"], []

    def first():
        box.append(model.submit(np.zeros((4, 1), np.float32)))

    def second():
        async def main():
            assert (await asyncio.wait_for(box[0], 10)).shape == (4, 1)

        run(main())
        box.clear()

    for work in (first, second):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not box


def test_submitted_in_another_thread(client, run):
    async def main():
        model = client["sleep"]
        request = await asyncio.to_thread(model.submit, np.zeros((1, 1), np.float32))
        assert (await request).shape == (1, 1)
        # Behind so many that it has not ended by the time this thread gets to it.
        many = await asyncio.to_thread(lambda: [model.submit(np.zeros((16, 1), np.float32)) for _ in range(50)])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(many[-1], 0.0005)

    run(main())


def test_queued_in_another_thread(client, run):
    """More than there is room for, submitted by a thread that never looks again: whoever waits sees to it."""

    async def main():
        model = client["identity"]
        many = await asyncio.to_thread(lambda: [model.submit(row(i)) for i in range(300)])
        assert (await many[290] == 290 % 251).all()
        assert all((y == i % 251).all() for i, y in enumerate(await asyncio.wait_for(asyncio.gather(*many), 20)))
        many = await asyncio.to_thread(lambda: [model.submit(row(i)) for i in range(300)])
        assert (many[299].result(timeout=20) == 299 % 251).all()
        assert all((r.result() == i % 251).all() for i, r in enumerate(many))

    run(main())


def test_blocking_calls_beside_a_loop(client, run):
    async def main():
        model = client["identity"]

        async def ask(i):
            for _ in range(50):
                assert (await model.submit(row(i)) == i % 251).all()
                assert (model(row(i + 1)) == (i + 1) % 251).all()

        def block():
            for i in range(200):
                assert (model(row(i)) == i % 251).all()

        await asyncio.gather(*[ask(i) for i in range(20)], *[asyncio.to_thread(block) for _ in range(3)])

    run(main())


def test_amap(client, run):
    async def main():
        model = client["identity"]
        assert [int(y[0, 0]) async for y in model.amap((row(i) for i in range(100)), depth=7)] == list(range(100))

        async def items():
            for i in range(50):
                await asyncio.sleep(0)
                yield row(i)

        assert [int(y[0, 0]) async for y in model.amap(items())] == list(range(50))

    run(main())


def test_request_in_place(client, run):
    async def main():
        with client["identity"].request() as r:
            for i in range(300):
                r.inputs["x"][...] = i % 251
                assert (await r.submit() == i % 251).all()

    run(main())


def test_not_submitted(client, run):
    async def main():
        with client["identity"].request() as r:
            with pytest.raises(asyncio.InvalidStateError):
                await r.request

    run(main())
