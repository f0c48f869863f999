# SPDX-License-Identifier: Apache-2.0
"""An image service as it is usually written: each worker process has the network.

    uvicorn service_before:app --workers 4         (TORCH_THREADS=1: threads of each worker's network)
"""

import asyncio
import os
import sys

import torch
from fastapi import FastAPI, Request

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../../tools/export"))
import efficientnet_lite0
from photo import best, prepare

if "TORCH_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["TORCH_THREADS"]))
app = FastAPI()
network = efficientnet_lite0.load_network()


def classify(jpeg: bytes) -> dict:
    with torch.inference_mode():
        return best(network(torch.from_numpy(prepare(jpeg)[None].copy()))[0].numpy())


@app.post("/classify")
async def post(request: Request) -> dict:
    return await asyncio.to_thread(classify, await request.body())
