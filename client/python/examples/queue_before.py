# SPDX-License-Identifier: Apache-2.0
"""The guide's asyncio example: a queue of 100 requests, ten at a time, PyTorch in a pool of threads.

    queue_before.py PHOTO.jpg        prints {"seconds", "latencies_ms"} as JSON (network.py has what the environment may say)
"""

import asyncio
import json
import pathlib
import sys
import time

import network
import torch
from photo import prepare

model = network.load()
image = prepare(pathlib.Path(sys.argv[1]).read_bytes())


def infer(x) -> int:
    with torch.inference_mode():
        return int(model(torch.from_numpy(x[None].copy())).argmax())


async def main() -> None:
    loop, at_once, latencies = asyncio.get_running_loop(), asyncio.Semaphore(10), []
    queue: asyncio.Queue = asyncio.Queue(100)
    for _ in range(100):
        queue.put_nowait(image)

    async def ask(x) -> None:
        begin = time.perf_counter()
        async with at_once:
            await loop.run_in_executor(None, infer, x)
            latencies.append((time.perf_counter() - begin) * 1e3)

    await loop.run_in_executor(None, infer, image)
    begin = time.perf_counter()
    await asyncio.gather(*[ask(queue.get_nowait()) for _ in range(100)])
    print(json.dumps({"seconds": time.perf_counter() - begin, "latencies_ms": latencies}))


asyncio.run(main())
