# SPDX-License-Identifier: Apache-2.0
"""The same service, its workers sharing the network that a broker serves.

    uvicorn service_after:app --workers 4
"""

import infclient
from fastapi import FastAPI, Request
from photo import best, prepare

app = FastAPI()
model = infclient.connect(wait=30)["efficientnet-lite0"]


@app.post("/classify")
async def post(request: Request) -> dict:
    return best(await model.submit(prepare(await request.body())))
