# SPDX-License-Identifier: Apache-2.0
"""An image service as it is usually written: each worker process has the network.

    uvicorn service_before:app --workers 4         (network.py has what the environment may say)
"""

import asyncio

import network
import torch
from fastapi import FastAPI, Request
from photo import best, prepare

app = FastAPI()
model = network.load()


def classify(jpeg: bytes) -> dict:
    with torch.inference_mode():
        return best(model(torch.from_numpy(prepare(jpeg)[None].copy()))[0].numpy())


@app.post("/classify")
async def post(request: Request) -> dict:
    return await asyncio.to_thread(classify, await request.body())
