# SPDX-License-Identifier: Apache-2.0
"""The software CUDA driver for tests: a broker on it, tensors that another library made there, and one that reads them.

The driver is loaded once into this process, so what it is told by the environment is the same for all modules.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Any, Iterator

import numpy as np
import pytest
from conftest import BUILD, Broker

LIBRARY = BUILD / "tests" / "libfakecuda.so"
NAMES = {"INF_CUDA_LIBRARY": str(LIBRARY), "FAKECUDA_DEFAULT_STREAM": "1"}
needs_driver = pytest.mark.skipif(not LIBRARY.exists(), reason="the software driver is not built")


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p), ("deleter", DELETER),
        ("flags", ctypes.c_uint64), ("tensor", DLTensor),
    ]  # fmt: skip


HELD: dict[int, list[Any]] = {}  # what capsules keep, by their own address


@DELETER
def capsule_ends(capsule: int) -> None:
    HELD.pop(capsule)


def python_call(name: str, result: Any, *arguments: Any) -> Any:
    """A call of Python's C interface, of its own prototype."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


new_capsule = python_call("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, DELETER)
capsule_pointer = python_call("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
rename_capsule = python_call("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)

USED_NAMES = ((b"dltensor", b"used_dltensor"), (b"dltensor_versioned", b"used_dltensor_versioned"))  # a capsule copies none

_driver: Any = None


def driver() -> Any:
    """The driver, with the primary context of device 0 current."""
    global _driver
    if _driver is None:
        _driver = ctypes.CDLL(str(LIBRARY))
        _driver.context = ctypes.c_void_p()
        assert not _driver.cuInit(0)
        assert not _driver.cuDevicePrimaryCtxRetain(ctypes.byref(_driver.context), 0)
    assert not _driver.cuCtxSetCurrent(_driver.context)
    return _driver


def violations() -> int:
    """What the driver found wrong in this process so far."""
    ledger = (ctypes.c_uint64 * 64)()
    driver().fakecuda_ledger(ledger)
    return ledger[1]


class CudaTensor:
    """What torch.Tensor.cuda() would be: memory of this process on the device, handed on as DLPack."""

    def __init__(self, array: np.ndarray, strides: tuple[int, ...] | None = None, kind: int = 2) -> None:
        cuda = driver()
        self.address = ctypes.c_uint64()
        self.array = np.ascontiguousarray(array)
        assert not cuda.cuMemAlloc_v2(ctypes.byref(self.address), ctypes.c_size_t(max(self.array.nbytes, 1)))
        if self.array.nbytes:
            # Not in the default stream, which a test may hold up.
            with Stream() as stream:
                assert not cuda.cuMemcpyHtoDAsync_v2(
                    self.address, ctypes.c_void_p(self.array.ctypes.data), ctypes.c_size_t(self.array.nbytes), stream.handle
                )
        code = {"f": 2, "i": 0, "u": 1}[self.array.dtype.kind]
        rank = self.array.ndim
        self.shape = (ctypes.c_int64 * max(rank, 1))(*self.array.shape)
        self.strides = (ctypes.c_int64 * rank)(*strides) if strides else None
        self.dl = Managed(
            DLTensor(self.address.value, kind, 0, rank, code, 8 * self.array.itemsize, 1, self.shape, self.strides, 0), None, DELETER()
        )
        self.kind = kind
        self.streams: list[Any] = []
        weakref.finalize(self, cuda.cuMemFree_v2, ctypes.c_uint64(self.address.value))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, stream: Any = None) -> Any:
        self.streams.append(stream)
        capsule = new_capsule(ctypes.addressof(self.dl), b"dltensor", capsule_ends)
        HELD[id(capsule)] = [self]
        return capsule


class Stream:
    """One of the test's own; None is the default one."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        assert not driver().cuStreamCreateWithPriority(ctypes.byref(self.handle), 1, 0)

    @property
    def number(self) -> int:
        return self.handle.value or 0

    def synchronize(self) -> None:
        assert not driver().cuStreamSynchronize(self.handle)

    def close(self) -> None:
        self.synchronize()
        assert not driver().cuStreamDestroy_v2(self.handle)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Gate:
    """Holds up a stream (None: the default one) until it is opened."""

    def __init__(self, stream: Stream | None) -> None:
        self._open = threading.Event()
        self._call = DELETER(lambda _: (self._open.wait(60), None)[1])
        assert not driver().cuLaunchHostFunc(stream and stream.handle, self._call, None)
        self._stream = stream

    def open(self) -> None:
        self._open.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.set()
        assert not driver().cuStreamSynchronize(self._stream and self._stream.handle)


class Reader:
    """What torch.from_dlpack() makes: holds the tensor, and reads it in the stream that it named. No host thread waits."""

    def __init__(self, tensor: Any, stream: Stream | None = None, number: int | None = None, version: int = 0) -> None:
        self.stream = stream
        kind: Any = Versioned if version else Managed
        name, used = USED_NAMES[version]
        number = number if number is not None else stream.number if stream else 1
        self.device = tensor.__dlpack_device__()
        capsule = tensor.__dlpack__(stream=number, **({"max_version": (1, 0)} if version else {}))
        self.managed = kind.from_address(capsule_pointer(capsule, name))
        assert not rename_capsule(capsule, used)
        dl = self.managed.tensor
        assert (dl.device_type, dl.device_id) == self.device and not dl.byte_offset and dl.lanes == 1
        self.shape = tuple(dl.shape[: dl.ndim])
        strides, step = [], 1
        for n in reversed(self.shape):
            strides.insert(0, step)
            step *= n
        assert not dl.strides or dl.strides[: dl.ndim] == strides
        self.dtype = np.dtype({0: "int", 1: "uint", 2: "float", 6: "bool"}[dl.code] + (str(dl.bits) if dl.code != 6 else ""))
        self.address = dl.data
        self._end = weakref.finalize(self, self.managed.deleter, ctypes.addressof(self.managed))

    def read(self) -> np.ndarray:
        """Pinned memory in which the values are once the stream has come so far."""
        n = int(np.prod(self.shape, dtype=np.int64))
        memory = ctypes.c_void_p()
        cuda = driver()
        assert not cuda.cuMemAllocHost_v2(ctypes.byref(memory), ctypes.c_size_t(max(n * self.dtype.itemsize, 1)))
        if n:
            assert not cuda.cuMemcpyDtoHAsync_v2(
                memory, ctypes.c_uint64(self.address), ctypes.c_size_t(n * self.dtype.itemsize), self.stream and self.stream.handle
            )
        buffer = (ctypes.c_uint8 * (n * self.dtype.itemsize)).from_address(memory.value or 0)
        return np.frombuffer(buffer, self.dtype).reshape(self.shape)

    def close(self) -> None:
        """Lets go of the tensor, whatever the stream still has to do."""
        self._end()


def values(tensor: Any, stream: Stream | None = None, number: int | None = None, version: int = 0) -> np.ndarray:
    """Reads it, waits, and lets go of it."""
    reader = Reader(tensor, stream, number, version)
    array = reader.read()
    assert not driver().cuStreamSynchronize(stream and stream.handle)
    reader.close()
    return array


def random_rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(n).random((2, n, 16), dtype=np.float32))


@pytest.fixture(scope="module")
def cuda() -> Iterator[Broker]:
    before = {name: os.environ.get(name) for name in NAMES}
    os.environ.update(NAMES)
    one = Broker("--device", "cuda", ledger=True).start()
    yield one
    one.close()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
