# SPDX-License-Identifier: Apache-2.0
"""Element types, descriptions, and the inputs that speak neither the buffer protocol nor DLPack."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

ml_dtypes: Any = None
try:
    import ml_dtypes as _ml_dtypes

    ml_dtypes = _ml_dtypes
except ImportError:
    pass

# The library's names of dtypes -> numpy's.
_NUMPY = {
    "bool": "bool",
    "u8": "uint8",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
}


def numpy_name(name: str) -> str:
    return _NUMPY[name]


def dtype_named(name: str) -> np.dtype[Any]:
    """By numpy's name, "bfloat16" included."""
    if name == "bfloat16" and ml_dtypes is None:
        raise ImportError("bfloat16 arrays need the package ml_dtypes")
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def dtype(name: str) -> np.dtype[Any] | None:
    """None: bfloat16, and no ml_dtypes."""
    if name == "bf16":
        return np.dtype(ml_dtypes.bfloat16) if ml_dtypes else None
    return np.dtype(_NUMPY[name])


def adapt(value: Any, rank: int, name: str) -> tuple[Any, bool]:
    """Something with a buffer, and whether its uint16 are bfloat16. `rank` is the signature's, without the batch.

    Python's numbers stand for scalars where they are exactly representable. Lists are not guessed at.
    """
    if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16":
        return value.view(np.uint16), True
    if isinstance(value, (bool, int, float)) and rank == 0:
        return _scalar(value, name)
    if isinstance(value, (list, tuple, int, float)):
        raise TypeError(f"got {describe(value)}, not an array; numpy.asarray(x, {_NUMPY[name]!r}) makes one")
    if isinstance(value, np.ndarray):
        return np.empty(value.shape, "V1"), False  # a type without a buffer: reported as a wrong dtype
    raise TypeError(f"got {describe(value)}, which has neither the buffer protocol nor __dlpack__")


def _scalar(value: bool | int | float, name: str) -> tuple[Any, bool]:
    wanted = dtype(name)
    if wanted is None:
        raise TypeError("a bfloat16 scalar needs the package ml_dtypes")
    if (
        (isinstance(value, bool) and name != "bool")
        or (not isinstance(value, bool) and name == "bool")
        or (isinstance(value, float) and name[0] in "iu")
    ):
        raise TypeError(f"expected a scalar of type {_NUMPY[name]}, got {describe(value)}")
    array = np.asarray(value).astype(wanted)
    if name[0] in "iu" and int(array) != value:
        raise OverflowError(f"{value} does not fit in {_NUMPY[name]}")
    return (array.view(np.uint16), True) if name == "bf16" else (array, False)


def describe(value: Any) -> str:
    """"float64[1, 3]" for anything that has a dtype and a shape, else its type."""
    kind, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if kind is None or shape is None:
        try:
            view = memoryview(value)
        except TypeError:
            return f"{type(value).__name__} ({value!r})" if isinstance(value, (int, float)) else type(value).__name__
        return f"format {view.format!r}{list(view.shape or ())}"
    name = str(kind)
    if isinstance(kind, np.dtype) and kind.byteorder == ">":
        name += " (big-endian)"
    return f"{name}[{', '.join(str(n) for n in shape)}]"


def describe_spec(spec: tuple[Any, ...]) -> str:
    """Of a tensor as Handle.signature() has it: "float32[rows, 3, ..8]"."""
    _, name, shape, largest, batch, *_ = spec
    dims = [f"..{most}" if dim < 0 else str(dim) for dim, most in zip(shape, largest)]
    if batch:
        dims[0] = "rows"
    return f"{_NUMPY[name]}[{', '.join(dims)}]"


class Outputs(tuple[Any, ...]):
    """Answers of a model with several outputs: a tuple, also indexed by name."""

    _names: tuple[str, ...] = ()

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, str):
            try:
                return super().__getitem__(self._names.index(which))
            except ValueError:
                raise KeyError(which) from None
        return super().__getitem__(which)

    def keys(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self._names

    def items(self) -> list[tuple[str, Any]]:
        """(name, array) pairs, in order."""
        return list(zip(self._names, self))

    def __repr__(self) -> str:
        return "Outputs(" + ", ".join(f"{name}={value!r}" for name, value in self.items()) + ")"

    def __reduce__(self) -> tuple[Any, ...]:
        return outputs, (self._names, tuple(self))


def outputs(names: tuple[str, ...], arrays: tuple[Any, ...]) -> Outputs:
    result = Outputs(arrays)
    result._names = names
    return result


def join(parts: list[Any]) -> Any:
    """Rows of several answers as one read-only array."""
    array = np.concatenate(parts)
    array.setflags(write=False)
    return array


def bridge(loop: asyncio.AbstractEventLoop, request: Any) -> Any:
    """For a request that another thread submitted: its hints go to that thread, so a worker waits for it."""

    def wait() -> None:
        try:
            request.exception()
        except BaseException:
            pass  # cancelled: its callbacks were scheduled by whoever did it

    return loop.run_in_executor(None, wait)
