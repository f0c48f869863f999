# SPDX-License-Identifier: Apache-2.0
"""The exceptions, one per way to fail, and how the C half makes them.

    Error
    ├── ConnectError (ConnectionError)     no broker there, or it is gone; .tried says where it was looked for
    ├── ClosedError                        the client was closed
    ├── NoDevice (BufferError)             tensors on a CUDA device are not to be had: broker on the CPU, no driver here, ...
    ├── Full (BufferError)                 views or requests hold all memory of the model
    └── RequestError                       a request ended with a status other than OK
        ├── BadShape (ValueError; TooManyRows is one), BadDtype (TypeError), BadRange (ValueError), BadMemory, NoModel (LookupError)
        ├── Loading, NotAllowed (PermissionError), Quota, Busy, Shed
        ├── DeadlineExceeded (TimeoutError), Cancelled
        └── ModelError, Poison, ExecutorLost, BrokerLost (ConnectionError)

All of them pickle. `RequestError.retry_after` is the broker's advice in seconds, or None.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any


class Error(Exception):
    """Whatever infclient raises of its own."""


class ConnectError(Error, ConnectionError):
    """No broker answers, or the connection broke."""


class ClosedError(Error):
    """The client was closed."""


class Full(Error, BufferError):
    """All memory that the model has is held by views or by request() objects: let some go, or open it with more depth."""


class NoDevice(Error, BufferError):
    """Tensors cannot lie on a CUDA device: the broker has none that this process could use, or this process has no driver for it."""


class RequestError(Error):
    """A request failed.

    Attributes:
        status: the broker's name for it, as ``"BUSY"``
        retry_after: seconds after which trying again makes sense, or None
        maybe_executed: True where the model may have run all the same
    """

    status: str = "?"

    def __init__(self, message: str = "", retry_after: float | None = None, maybe_executed: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.maybe_executed = maybe_executed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0] if self.args else "", self.retry_after, self.maybe_executed)


class BadShape(RequestError, ValueError):
    """Shape or rows differ from the signature."""

    status = "BAD_SHAPE"


class TooManyRows(BadShape):
    """More rows than the model was opened for."""


class BadDtype(RequestError, TypeError):
    """The element type differs from the signature."""

    status = "BAD_DTYPE"


class BadRange(RequestError, ValueError):
    """An input holds what its signature forbids: an integer out of range, a NaN or an infinity."""

    status = "BAD_RANGE"


class BadMemory(RequestError):
    """The broker does not accept the memory of a tensor."""

    status = "BAD_MEMORY"


class NoModel(RequestError, LookupError):
    """Unknown, removed, failed to load, or replaced by one with another signature."""

    status = "NO_MODEL"


class Loading(RequestError):
    """The model is not ready yet: try again."""

    status = "LOADING"


class NotAllowed(RequestError, PermissionError):
    """This user may not do that."""

    status = "NOT_ALLOWED"

    __str__ = Exception.__str__


class Quota(RequestError):
    """The client's own limit: let answers go, ask for less depth."""

    status = "QUOTA"


class Busy(RequestError):
    """The broker's limit: try again after `retry_after` seconds."""

    status = "BUSY"


class Shed(RequestError):
    """Dropped so that others meet their deadlines."""

    status = "SHED"


class DeadlineExceeded(RequestError, TimeoutError):
    """Its deadline passed."""

    status = "DEADLINE"

    __str__ = Exception.__str__


class Cancelled(RequestError):
    """It was cancelled (an awaited one raises asyncio.CancelledError instead)."""

    status = "CANCELLED"


class ModelError(RequestError):
    """The model failed, or produced what its signature forbids."""

    status = "MODEL_ERROR"


class Poison(RequestError):
    """Run alone, it killed the process that runs models."""

    status = "POISON"


class ExecutorLost(RequestError):
    """No process that runs models can be started."""

    status = "EXECUTOR_LOST"


class BrokerLost(RequestError, ConnectionError):
    """The broker died or ended the session; the next call connects anew."""

    status = "BROKER_LOST"

    __str__ = Exception.__str__


# By number: enum inf_status.
_BY_STATUS: tuple[type[RequestError], ...] = (
    RequestError,
    BadShape,
    BadDtype,
    BadRange,
    BadMemory,
    NoModel,
    Loading,
    NotAllowed,
    Quota,
    Busy,
    Shed,
    DeadlineExceeded,
    Cancelled,
    ModelError,
    Poison,
    ExecutorLost,
    BrokerLost,
)

# For so many rows; fewer may find room.
NO_ROOM = (Full, Quota)

# --- what the C half calls: each returns an exception ---


def from_status(status: int, model: str, retry_after_us: int, maybe_executed: bool) -> Exception:
    kind = _BY_STATUS[status]
    message = f"model {model!r}: {(kind.__doc__ or '').splitlines()[0]}"
    return kind(message, retry_after_us / 1e6 if retry_after_us else None, maybe_executed)


def from_errno(number: int, what: str) -> Exception:
    message = f"{what}: {os.strerror(number)}"
    if number in (errno.ECONNRESET, errno.EPROTO, errno.EPIPE):
        return BrokerLost(f"{what}: the broker is gone")
    if number == errno.EOWNERDEAD:
        return ConnectError(f"{what}: it belongs to the parent of this process")
    if number == errno.ENOMEM:
        return MemoryError(message)
    if number == errno.EAGAIN:
        return Loading(f"{what}: the broker is still looking for its models; try again")
    return OSError(number, message)


def cannot_connect(number: int, text: str) -> Exception:
    if number in (errno.ENOMEM, errno.EMFILE):
        return OSError(number, text or os.strerror(number))
    return ConnectError(text or os.strerror(number))


def cannot_open(number: int, name: str, text: str) -> Exception:
    message = text or os.strerror(number)
    if number == errno.ENOENT:
        return NoModel(message)
    if number == errno.EAGAIN:
        return Loading(message)
    if number == errno.ENOEXEC:
        return NoModel(message)
    if number == errno.EDQUOT:
        return Quota(message)
    if number == errno.EHOSTDOWN:
        return ExecutorLost(message)
    return from_errno(number, f"opening model {name!r}")


def closed() -> Exception:
    return ClosedError("this client was closed")


def thread_ended() -> Exception:
    return Cancelled("the thread that submitted this request ended before there was room for it")


def full(model: str, depth: int, n_views: int, n_requests: int) -> Exception:
    return Full(
        f"model {model!r} has memory for {depth} rows (its depth), and {n_views} live views and {n_requests} requests "
        f"hold it: copy() what is kept, close() requests, or open it with more: client.model({model!r}, depth=...)"
    )


def raise_full(model: str, depth: int, n_views: int, n_requests: int) -> Exception:
    return full(model, depth, n_views, n_requests)


def timed_out(model: str) -> Exception:
    return DeadlineExceeded(f"model {model!r}: no answer in time", None, True)


def cancelled(model: str, was_awaited: bool) -> BaseException:
    return asyncio.CancelledError() if was_awaited else Cancelled(f"model {model!r}: the request was cancelled", None, True)


def not_submitted() -> Exception:
    return asyncio.InvalidStateError("submit() the request first")


def in_flight() -> Exception:
    return asyncio.InvalidStateError("the request is in flight")


def given_back() -> Exception:
    return ValueError("the memory of this request was given back")


def answer_in_use(n_views: int) -> Exception:
    return BufferError(f"{n_views} views of the last answer are alive: let them go, or copy() them, before submitting again")


def needs_ml_dtypes() -> Exception:
    return ImportError("bfloat16 arrays need the package ml_dtypes (pip install ml_dtypes); request.tensor() works without")


def not_on_host() -> Exception:
    return BufferError("this tensor is neither in host memory nor on a CUDA device: copy it there first (tensor.cpu())")


def not_contiguous() -> Exception:
    return BufferError("this tensor on a device has gaps between its elements: pass tensor.contiguous()")


# ENODEV, ENOENT, ENOSYS, EACCES, EOPNOTSUPP: as include/inf/device.h has them. ESTALE: memory that the broker lost.
_NO_DEVICE = (errno.ENODEV, errno.ENOENT, errno.ENOSYS, errno.EACCES, errno.EOPNOTSUPP, errno.ESTALE)


def device_input(number: int, text: str) -> Exception:
    kind = NoDevice if number in _NO_DEVICE else BufferError
    return kind(f"this tensor cannot be read on its device ({text or os.strerror(number)}): copy it to the host (tensor.cpu())")


def no_device(number: int, text: str) -> Exception:
    why = text or os.strerror(number)
    if number in _NO_DEVICE:
        return NoDevice(f"results cannot stay on a device ({why}): ask without device=True")
    if number == errno.EAGAIN:
        return Loading(f"the broker's device is not ready: {why}")
    if number == errno.EDQUOT:
        return Quota(f"no memory on the device: {why}")
    if number == errno.ENOMEM:
        return MemoryError(f"no memory on the device: {why}")
    return from_errno(number, f"results on the device ({why})" if text else "results on the device")


def shape_unknown(name: str) -> Exception:
    return asyncio.InvalidStateError(f"the shape of output {name!r} varies: it is known once the request has ended (await it, or result())")


def in_queue() -> Exception:
    return asyncio.InvalidStateError("the request waits for room in this client and has no memory yet: await it, or call result(), first")


def bad_stream(number: int, text: str) -> Exception:
    if number == errno.EINVAL:
        return ValueError(f"no such CUDA stream ({text or os.strerror(number)})")
    return from_errno(number, f"a result on the device ({text})" if text else "a result on the device")


def not_numpy() -> Exception:
    return TypeError(
        "this result lies on a CUDA device, and numpy is on the host: copy it there, as torch.from_dlpack(y).cpu().numpy() or "
        "cupy.from_dlpack(y).get(), or ask without device=True"
    )


def other_device(kind: int, ordinal: int) -> Exception:
    if kind == 1:
        return BufferError("this is host memory, (1, 0), and no copy is made to another device")
    return BufferError(
        f"this is memory of a CUDA device, (2, {ordinal}), and no copy is made to another one or to the host: "
        "torch.from_dlpack(y).cpu() makes one"
    )


def bad_rank(rank: int, most: int) -> Exception:
    return BadShape(f"{rank} dimensions; tensors have at most {most}")


def bad_rows(model: str, rows: int, depth: int) -> Exception:
    if rows < 1:
        return BadShape(f"model {model!r}: a request has at least one row, got {rows}")
    return TooManyRows(
        f"model {model!r} was opened for {depth} rows at once, got {rows}: split them, "
        f"or open it with client.model({model!r}, depth={rows})"
    )


def bad_described(number: int, name: str, shape: Any) -> Exception:
    why = "needs more memory than the signature's largest shape" if number == errno.EMSGSIZE else os.strerror(number)
    return BadShape(f"input {name!r}: shape {tuple(shape)} {why}")


def _describe_input(spec: tuple[Any, ...]) -> str:
    from ._convert import describe_spec

    return f"{spec[0]}={describe_spec(spec)}"


def bad_input(what: str, signature: tuple[Any, ...], idx: int, got: Any) -> Exception:
    """`signature` as Handle.signature() has it."""
    from ._convert import describe, describe_spec, numpy_name

    spec = signature[5][idx]
    where = f"input {spec[0]!r} of model {signature[0]!r}"
    text = f"{where}: expected {describe_spec(spec)}, got {describe(got)}"
    if what == "dtype":
        if hasattr(got, "astype") or hasattr(got, "to"):
            text += f"; convert it first, as x.astype({numpy_name(spec[1])!r})"
        return BadDtype(text)
    if what == "rows":
        return BadShape(f"{where}: {describe(got)} has another number of rows than the inputs before it")
    return BadShape(text)


def bad_arguments(signature: tuple[Any, ...], what: str, name: str | None) -> Exception:
    inputs = ", ".join(_describe_input(spec) for spec in signature[5])
    problem = {
        "unknown": f"has no input {name!r}",
        "twice": f"got input {name!r} twice",
        "many": "got more inputs than it has",
        "missing": f"misses input {name!r}",
    }[what]
    return TypeError(f"model {signature[0]!r} {problem}; it takes ({inputs})")
