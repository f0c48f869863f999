# SPDX-License-Identifier: Apache-2.0
"""The same queue of 100 requests on a broker: no pool, no semaphore to tune, the loop awaits the answers.

    queue_after.py PHOTO.jpg         prints {"seconds", "latencies_ms"} as JSON
"""

import asyncio
import json
import pathlib
import sys
import time

import infclient
from photo import prepare

model = infclient.connect(wait=30)["efficientnet-lite0"]
image = prepare(pathlib.Path(sys.argv[1]).read_bytes())


async def main() -> None:
    latencies = []
    queue: asyncio.Queue = asyncio.Queue(100)
    for _ in range(100):
        queue.put_nowait(image)

    async def ask(x) -> None:
        begin = time.perf_counter()
        await model.submit(x)
        latencies.append((time.perf_counter() - begin) * 1e3)

    await model.submit(image)
    begin = time.perf_counter()
    await asyncio.gather(*[ask(queue.get_nowait()) for _ in range(100)])
    print(json.dumps({"seconds": time.perf_counter() - begin, "latencies_ms": latencies}))


asyncio.run(main())
