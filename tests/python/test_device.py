# SPDX-License-Identifier: Apache-2.0
"""Tensors on a CUDA device as inputs, from a library that speaks DLPack, on the software driver."""

from __future__ import annotations

import asyncio
import gc

import numpy as np
import pytest
from conftest import Broker
from on_device import HELD, CudaTensor, cuda, needs_driver, random_rows

import infclient

__all__ = ["cuda"]
pytestmark = needs_driver


def test_device_and_host_inputs_mix(cuda: Broker) -> None:
    with infclient.connect(cuda.socket) as client:
        model = client["add_sub"]
        for n in (1, 3, 40):
            a, b = random_rows(n)
            device = CudaTensor(a)
            total, difference = model(device, b)
            assert device.streams == [1]  # the legacy default stream
            assert np.array_equal(total, a + b) and np.array_equal(difference, a - b)
            total, difference = model(CudaTensor(a), CudaTensor(b))
            assert np.array_equal(total, a + b) and np.array_equal(difference, a - b)


def test_many_in_flight_and_asyncio(cuda: Broker) -> None:
    with infclient.connect(cuda.socket) as client:
        model = client["add_sub"]
        rows = [random_rows(1 + i % 4) for i in range(200)]
        futures = [model.submit(CudaTensor(a), b) for a, b in rows]  # their tensors live as long as they
        gc.collect()
        for (a, b), future in zip(rows, futures):
            assert np.array_equal(future.result()[0], a + b)

        async def ask(a: np.ndarray, b: np.ndarray) -> None:
            assert np.array_equal((await model.submit(CudaTensor(a), CudaTensor(b)))[1], a - b)

        async def ask_all() -> None:
            await asyncio.gather(*(ask(a, b) for a, b in rows))

        asyncio.run(ask_all())
        del futures


def test_tensor_is_kept_and_let_go(cuda: Broker) -> None:
    with infclient.connect(cuda.socket) as client:
        a, b = random_rows(2)
        future = client["add_sub"].submit(CudaTensor(a), b)
        assert len(HELD) == 1
        assert np.array_equal(future.result()[0], a + b)
        del future
        gc.collect()
        assert not HELD
        # Requests that wait for room hold theirs too.
        futures = [client["add_sub"].submit(CudaTensor(a), b) for _ in range(400)]
        assert len(HELD) == 400
        assert all(np.array_equal(future.result()[0], a + b) for future in futures)
        del futures
        gc.collect()
        assert not HELD


def test_forbidden_values_are_found_on_the_device(cuda: Broker) -> None:
    with infclient.connect(cuda.socket) as client:
        assert np.array_equal(client["index"](CudaTensor(np.array([[1, 2, 3, 9]]))), [[1, 4, 9, 81]])
        with pytest.raises(infclient.BadRange):
            client["index"](CudaTensor(np.array([[1, 2, 3, 10]])))


def test_what_cannot_be_read_says_so(cuda: Broker) -> None:
    a, b = random_rows(2)
    with infclient.connect(cuda.socket) as client:
        model = client["add_sub"]
        with pytest.raises(BufferError, match="contiguous"):
            model(CudaTensor(a, strides=(1, 2)), b)
        with pytest.raises(BufferError, match="neither in host memory nor on a CUDA device"):
            model(CudaTensor(a, kind=4), b)
        with pytest.raises(infclient.BadShape):
            model(CudaTensor(a[:, :8]), b)
        with pytest.raises(infclient.BadDtype):
            model(CudaTensor(a.astype(np.float64)), b)
        lie = CudaTensor(a)
        lie.dl.tensor.data = b.ctypes.data  # host memory
        with pytest.raises(BufferError, match="cannot be read on its device"):
            model(lie, b)
        assert np.array_equal(model(a, b)[0], a + b)


def test_a_broker_on_the_cpu_says_so(broker: Broker, cuda: Broker) -> None:
    a, b = random_rows(2)
    with infclient.connect(broker.socket) as client:
        with pytest.raises(BufferError, match="models run on the CPU.*copy it to the host"):
            client["add_sub"](CudaTensor(a), b)
        assert np.array_equal(client["add_sub"](a, b)[0], a + b)
