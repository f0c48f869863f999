# SPDX-License-Identifier: Apache-2.0
"""Tensors on a CUDA device as inputs, from a library that speaks DLPack, on the software driver."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import weakref
from typing import Any, Iterator

import numpy as np
import pytest
from conftest import BUILD, Broker

import infclient

LIBRARY = BUILD / "tests" / "libfakecuda.so"
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the software driver is not built")


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    ]


HELD: dict[int, list[Any]] = {}  # what capsules keep, by their own address


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def capsule_ends(capsule: int) -> None:
    HELD.pop(capsule)


class CudaTensor:
    """What torch.Tensor.cuda() would be: memory of this process on the device, handed on as DLPack."""

    driver: Any = None

    def __init__(self, array: np.ndarray, strides: tuple[int, ...] | None = None, kind: int = 2) -> None:
        cls = type(self)
        if cls.driver is None:
            cls.driver = ctypes.CDLL(str(LIBRARY))
            context = ctypes.c_void_p()
            assert not cls.driver.cuInit(0)
            assert not cls.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
            cls.context = context
        assert not cls.driver.cuCtxSetCurrent(cls.context)
        self.address = ctypes.c_uint64()
        self.array = np.ascontiguousarray(array)
        assert not cls.driver.cuMemAlloc_v2(ctypes.byref(self.address), ctypes.c_size_t(max(self.array.nbytes, 1)))
        if self.array.nbytes:
            assert not cls.driver.cuMemcpyHtoDAsync_v2(
                self.address, ctypes.c_void_p(self.array.ctypes.data), ctypes.c_size_t(self.array.nbytes), None
            )
            assert not cls.driver.cuStreamSynchronize(None)
        code = {"f": 2, "i": 0, "u": 1}[self.array.dtype.kind]
        rank = self.array.ndim
        self.shape = (ctypes.c_int64 * max(rank, 1))(*self.array.shape)
        self.strides = (ctypes.c_int64 * rank)(*strides) if strides else None
        self.dl = DLTensor(self.address.value, kind, 0, rank, code, 8 * self.array.itemsize, 1, self.shape, self.strides, 0)
        self.kind = kind
        self.streams: list[Any] = []
        weakref.finalize(self, cls.driver.cuMemFree_v2, ctypes.c_uint64(self.address.value))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, type(capsule_ends)]
        capsule = new(ctypes.addressof(self.dl), b"dltensor", capsule_ends)
        HELD[id(capsule)] = [self]
        return capsule


@pytest.fixture(scope="module")
def cuda() -> Iterator[Broker]:
    names = {"INF_CUDA_LIBRARY": str(LIBRARY), "FAKECUDA_DEFAULT_STREAM": "1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    one = Broker("--device", "cuda").start()
    yield one
    one.close()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def random_rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(n).random((2, n, 16), dtype=np.float32)


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
        lie.dl.data = b.ctypes.data  # host memory
        with pytest.raises(BufferError, match="cannot be read on its device"):
            model(lie, b)
        assert np.array_equal(model(a, b)[0], a + b)


def test_a_broker_on_the_cpu_says_so(broker: Broker, cuda: Broker) -> None:
    a, b = random_rows(2)
    with infclient.connect(broker.socket) as client:
        with pytest.raises(BufferError, match="models run on the CPU.*copy it to the host"):
            client["add_sub"](CudaTensor(a), b)
        assert np.array_equal(client["add_sub"](a, b)[0], a + b)
