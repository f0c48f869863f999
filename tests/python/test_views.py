# SPDX-License-Identifier: Apache-2.0
"""Views of shared memory: who may write, how long they live, what happens when there is no more."""

from __future__ import annotations

import asyncio
import gc
import random

import ml_dtypes
import numpy as np
import pytest
from conftest import standstill

import infclient

X = np.arange(64, dtype=np.uint8).reshape(1, 64)


def test_answers_are_read_only(client):
    y = client["identity"](X)
    assert not y.flags.writeable and not y.flags.owndata
    with pytest.raises(ValueError):
        y[0, 0] = 1
    with pytest.raises(ValueError):
        y.flags.writeable = True
    with pytest.raises(ValueError):
        y[0, 1:].flags.writeable = True
    assert memoryview(y).readonly
    z = y.copy()
    z[0, 0] = 9
    assert y[0, 0] == 0


@pytest.mark.parametrize(
    "derive",
    [
        lambda y: y[0, 10:20],
        lambda y: y.T,
        lambda y: y.reshape(8, 8)[::2],
        memoryview,
        lambda y: memoryview(y)[0:1],
        lambda y: np.asarray(y),
        lambda y: np.frombuffer(y, np.uint8),
        lambda y: np.from_dlpack(y),
    ],
    ids=["slice", "transpose", "reshape", "memoryview", "memoryview-slice", "asarray", "frombuffer", "dlpack"],
)
def test_memory_lives_as_long_as_what_was_made_of_it(client, derive):
    model = client["identity"]
    kept = derive(model(X))
    expected = np.array(kept, copy=True)
    assert client.stats()["live_requests"] == 1
    for i in range(300):  # more than there is memory for: it would be reused
        model(np.full((1, 64), i % 251, np.uint8))
    assert (np.array(kept) == expected).all()
    del kept
    gc.collect()
    assert client.stats()["live_requests"] == 0


def test_views_outlive_their_connection(broker):
    client = infclient.connect(broker.socket)
    model = client["identity"]
    y = model(X)
    z = y[0, 5:]
    client.close()
    del client, model, y
    gc.collect()
    assert (z == X[0, 5:]).all()


def test_tensor(client):
    request = client["dtypes"].submit(
        {spec.name: np.zeros((1, 6), ml_dtypes.bfloat16 if spec.dtype == "bfloat16" else spec.dtype) for spec in client["dtypes"].inputs.values()}
    )
    request.result()
    tensor = request.tensor("bf16")
    assert tensor.shape == (1, 6) and tensor.dtype == "bf16" and tensor.readonly and tensor.__dlpack_device__() == (1, 0)
    assert memoryview(tensor).format == "H"
    assert (np.from_dlpack(request.tensor(8)) == 0).all()
    capsules = [request.tensor("f32").__dlpack__(), request.tensor("f32").__dlpack__(max_version=(1, 0))]
    assert client.stats()["live_views"] == 3  # bf16 and two capsules
    del capsules, tensor
    for wrong in ("no", 10):
        with pytest.raises(KeyError):
            request.tensor(wrong)
    for device, error in (((2, 0), BufferError), ((1, 1), BufferError), (1, TypeError)):
        with pytest.raises(error):
            request.tensor(0).__dlpack__(dl_device=device)
    request.tensor(0).__dlpack__(dl_device=(1, 0), max_version=(1, 0))
    del request
    gc.collect()


def test_tensor_of_an_answer_that_was_copied_out(client):
    model = client.model("dtypes", depth=4)
    inputs = [
        {s.name: np.full((1, 6), i % 2, ml_dtypes.bfloat16 if s.dtype == "bfloat16" else s.dtype) for s in model.inputs.values()} for i in range(40)
    ]
    requests = [model.submit(x) for x in inputs]
    answers = [request.result() for request in requests]
    assert client.stats()["live_requests"] < 5
    for i, request in enumerate(requests):
        for name, spec in model.outputs.items():
            tensor = request.tensor(name)
            assert tensor.readonly and tensor.shape == (1, 6)
            array = np.asarray(tensor) if spec.dtype == "bfloat16" else np.from_dlpack(tensor)
            assert (array == (0x3F80 * (i % 2) if spec.dtype == "bfloat16" else i % 2)).all()
    del request, requests, answers, array, tensor
    gc.collect()


def test_request_in_place(client):
    model = client["add_sub"]
    with model.request(rows=2) as r:
        assert r.rows == 2 and list(r.inputs) == ["x", "y"] and len(r.inputs) == 2
        r.inputs["x"][...] = 3
        r.inputs["y"] = np.full((2, 16), 2, np.float32)
        total, difference = r()
        assert (total == 5).all() and (difference == 1).all()
        with pytest.raises(BufferError, match="2 views of the last answer"):
            r.submit()
        del total, difference
        r.inputs[0][...] = 7
        assert (r.submit().result()["out"] == 9).all()
        with pytest.raises(KeyError):
            r.inputs["z"]
    with pytest.raises(ValueError, match="given back"):
        r.inputs["x"]
    with pytest.raises(ValueError, match="given back"):
        r.submit()


def test_request_with_shapes(client):
    model = client["varying"]
    with model.request(shapes={"x": (5,)}) as r:
        r.inputs["x"][...] = range(5)
        assert (r() == [4, 3, 2, 1, 0]).all()
    with model.request(shapes={"x": (2000,)}) as r, pytest.raises(infclient.BadShape, match="2000"):
        r.inputs["x"]


def test_request_states(broker, client):
    model = client["sleep"]
    r = model.request()
    with pytest.raises(asyncio.InvalidStateError, match="submit"):
        r.request.result()
    r.inputs["x"][...] = 0
    with standstill(broker):
        flight = r.submit()
        with pytest.raises(asyncio.InvalidStateError, match="in flight"):
            r.submit()
    flight.result()
    r.submit()
    r.close()
    r.close()
    kept = model.request()
    view = kept.inputs["x"]
    kept.close()
    view[...] = 1  # still its own
    del view, kept
    gc.collect()


def test_answers_kept_for_ever(client):
    """Kept answers become private copies before memory runs out; what awaits them never stops."""
    model = client["identity"]
    kept = [model(np.full((1, 64), i % 251, np.uint8)) for i in range(500)]
    for i, y in enumerate(kept):
        assert (y == i % 251).all() and not y.flags.writeable
    assert client.stats()["live_requests"] <= model.depth // 2


def test_requests_kept_for_ever(client):
    model = client["identity"]
    requests = [model.submit(np.full((1, 64), i % 251, np.uint8)) for i in range(500)]
    for i in reversed(range(500)):
        assert (requests[i].result() == i % 251).all()
    for i in range(500):
        assert (requests[i].result() == i % 251).all()


def test_full_names_what_holds_the_memory(client):
    model = client.model("add_sub", depth=4)
    held = [model.request() for _ in range(4)]
    for r in held:
        r.inputs["x"][...] = 1
        r.inputs["y"][...] = 1
    answers = [r() for r in held]
    with pytest.raises(infclient.Full, match="4 rows.*live views.*4 requests"):
        model(np.ones(16, np.float32), np.ones(16, np.float32))
    for r in held:
        r.close()
    del answers, r, held
    gc.collect()
    model(np.ones(16, np.float32), np.ones(16, np.float32))


def test_full_arena(client):
    model = client["identity_f32"]
    held = []
    with pytest.raises(infclient.Full, match="requests"):
        for _ in range(100000):
            held.append(model.request(rows=64))
    del held
    gc.collect()
    model(np.zeros((64, 1024), np.float32))


def test_depth_one(client):
    model = client.model("identity", depth=1)
    assert model.depth == 1
    kept = [model(np.full((1, 64), i, np.uint8)) for i in range(50)]
    assert all((y == i).all() for i, y in enumerate(kept))
    requests = [model.submit(np.full((1, 64), i, np.uint8)) for i in range(50)]
    assert all((r.result() == i).all() for i, r in enumerate(requests))


def test_views_kept_and_dropped_at_random(client, request):
    """10^5 requests (10^4 in a quick run), views kept and dropped at random, each answer checked."""
    model = client["identity"]
    rng = random.Random(5)
    kept = []
    n = 10_000 if request.config.getoption("--quick") else 100_000
    for i in range(n):
        rows = rng.choice((1, 1, 1, 2, 5))
        x = np.full((rows, 64), i % 251, np.uint8)
        x[:, 0] = range(rows)
        kept.append((x, model(x)[:, : rng.randint(1, 64)]))
        while len(kept) > 60 or (kept and rng.random() < 0.5):
            expected, y = kept.pop(rng.randrange(len(kept)))
            assert (y == expected[:, : y.shape[1]]).all()
    for expected, y in kept:
        assert (y == expected[:, : y.shape[1]]).all()
    kept.clear()
    del expected, y
