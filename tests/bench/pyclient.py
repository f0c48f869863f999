#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the Python client costs: a worker of tests/bench/drivers.py.

    pyclient.py PACKAGE sync      requests of the builtin identity, one after the other
    pyclient.py PACKAGE submit    submit() of 600 kB that were filled in place, timed alone
    pyclient.py PACKAGE await     one asyncio loop, 64 tasks that await model.submit(x)
    pyclient.py PACKAGE bare      the same loop and tasks, awaiting futures that the loop itself resolves

Says "ready", then answers each line "go SECONDS" with {"n", "seconds", "cpu_us" (of this process, per request)}.
"""

import asyncio
import json
import sys
import time

IN_FLIGHT = 64


def measured(ask, seconds):
    """ask(until) -> how many."""
    cpu, begin = time.process_time_ns(), time.monotonic()
    n = ask(begin + seconds)
    took = time.monotonic() - begin
    return {"n": n, "seconds": took, "cpu_us": (time.process_time_ns() - cpu) / 1e3 / n}


def sync(infclient, np):
    model = infclient.connect()["identity"]
    x = np.zeros((1, 64), np.uint8)

    def ask(until):
        n = 0
        while time.monotonic() < until:
            for _ in range(100):
                model(x)
            n += 100
        return n

    return lambda seconds: measured(ask, seconds)


def submit(infclient, np):
    rows = 147  # of 4 KiB
    model = infclient.connect().model("identity_f32", depth=2 * rows)
    filling = model.request(rows)
    filling.inputs["x"][...] = 1

    def go(seconds):
        until, cpu, n = time.monotonic() + seconds, 0, 0
        while time.monotonic() < until:
            before = time.thread_time_ns()
            request = filling.submit()
            cpu += time.thread_time_ns() - before
            n += 1
            request.result()
        return {"n": n, "seconds": seconds, "cpu_us": cpu / 1e3 / n}

    return go


def tasks(awaitable):
    """`awaitable()` is awaited by 64 tasks over and over."""

    async def work(until):
        n = 0
        while time.monotonic() < until:
            for _ in range(20):
                await awaitable()
            n += 20
        return n

    async def main(until):
        return sum(await asyncio.gather(*[work(until) for _ in range(IN_FLIGHT)]))

    return lambda seconds: measured(lambda until: asyncio.run(main(until)), seconds)


def awaiting(infclient, np):
    model = infclient.connect().model("identity", depth=256)
    x = np.zeros((1, 64), np.uint8)
    return tasks(lambda: model.submit(x))


def bare(_infclient, _np):
    def future():
        loop = asyncio.get_running_loop()
        one = loop.create_future()
        loop.call_soon(one.set_result, None)
        return one

    return tasks(future)


def main():
    sys.path.insert(0, sys.argv[1])
    import infclient
    import numpy as np

    go = {"sync": sync, "submit": submit, "await": awaiting, "bare": bare}[sys.argv[2]](infclient, np)
    go(0.05)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(go(float(line.split()[1]))), flush=True)


main()
