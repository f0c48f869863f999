# SPDX-License-Identifier: Apache-2.0
"""Client and Model: what is cold. The calls that cost are in the C half (core/)."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, AsyncIterator, Callable, Iterable, Iterator, Mapping, TypeVar

from . import _core
from ._convert import Outputs, join, numpy_name, outputs
from ._errors import BadShape, ClosedError, ConnectError, Loading, NoModel

# A broker that has just started, or whose executor was lost, loads its models.
LOADING_SECONDS = 30.0
ROWS_MAX = 4096  # INF_ROWS_MAX

T = TypeVar("T")

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: connections are the parent's, and so may be whoever held a lock."""
    _core.forked()
    for client in list(_clients):
        client._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _interruptibly(call: Callable[..., T], *args: Any) -> T:
    """call(*args), so that Ctrl-C ends it although a broker that is stopped never answers.

    Signal handlers run in the main thread, which therefore has another one wait inside the library.
    """
    if threading.current_thread() is not threading.main_thread():
        return call(*args)
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call(*args))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="infclient")
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()


@dataclass(frozen=True)
class TensorSpec:
    """One input or output, as the model's signature has it.

    Attributes:
        name: as in ``model(image=x)``
        dtype: numpy's name of the element type, ``"bfloat16"`` included
        shape: row-major; None where a dimension varies, also for the batch dimension, which comes first
        largest: the same with the most that a varying dimension may be (None: the batch dimension)
        batch: True where the first dimension is rows
        range: (least, most) that an integer may be, or None
        finite: True where NaN and infinity are refused (BadRange)
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    largest: tuple[int | None, ...]
    batch: bool
    range: tuple[int, int] | None
    finite: bool

    def __str__(self) -> str:
        dims = ["rows" if self.batch and i == 0 else f"..{self.largest[i]}" if n is None else str(n) for i, n in enumerate(self.shape)]
        return f"{self.name}: {self.dtype}[{', '.join(dims)}]"


def _spec(raw: tuple[Any, ...]) -> TensorSpec:
    name, dtype, shape, largest, batch, limits, finite = raw
    most = tuple(None if batch and i == 0 else n for i, n in enumerate(largest))
    return TensorSpec(name, numpy_name(dtype), tuple(None if n < 0 else n for n in shape), most, batch, limits, finite)


@dataclass(frozen=True)
class ModelInfo:
    """A line of Client.models().

    Attributes:
        name, version: of the model
        state: "loading", "ready" or "failed"
        text: why it failed
        batch_seconds: time of a batch by its rows, as the broker measured it
    """

    name: str
    version: int
    state: str
    text: str
    batch_seconds: dict[int, float]


class Inputs(Mapping[str, Any]):
    """Writable numpy views of a request's inputs, by name or position; made anew at each look."""

    def __init__(self, request: _core.Request, names: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._request, self._names, self._shapes = request, names, shapes

    def __getitem__(self, which: str | int) -> Any:
        name = self._names[which] if isinstance(which, int) else which
        if name not in self._names:
            raise KeyError(which)
        return self._request._input(self._names.index(name), self._shapes.get(name))

    def __setitem__(self, which: str | int, value: Any) -> None:
        """``r.inputs["x"] = array`` copies it in."""
        self[which][...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Filling:
    """What model.request() gives: memory of a request, to be filled in place, submitted, and submitted again.

    ``with model.request() as r: r.inputs["image"][...] = pixels; y = r.submit().result()``

    At the end of the block the memory goes back, or with the last view of it. One thread at a time.
    """

    def __init__(self, request: _core.Request, names: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.request = request
        self.inputs = Inputs(request, names, shapes)

    @property
    def rows(self) -> int:
        """Rows of the batch dimension."""
        return self.request.rows

    def submit(self, *, timeout: float | None = None, deadline: float | None = None, priority: int | None = None) -> _core.Request:
        """Hands it to the broker. Await what it returns, or call its result(). Never blocks.

        Errors: BufferError where views of its last answer are alive; asyncio.InvalidStateError while in flight.
        """
        return self.request.submit(timeout=timeout, deadline=deadline, priority=priority)

    def __call__(self, *, timeout: float | None = None, deadline: float | None = None, priority: int | None = None) -> Any:
        """submit() and result() in one."""
        return self.submit(timeout=timeout, deadline=deadline, priority=priority).result()

    def close(self) -> None:
        """Gives the memory back, now or with the last view of it. Cancels it where it is in flight."""
        self.request.close()

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Model(_core.Model):
    """A model of the broker; ``client["name"]`` makes one. Any thread, any forked or spawned process.

    ``y = model(x)`` runs it: x is an array (numpy, DLPack, the buffer protocol), y a read-only numpy array in
    the memory that the broker wrote it to, which is given back when y and all that was made of it are gone.
    With several inputs: ``model(a, b)``, ``model(left=a, right=b)``, ``model({"left": a, "right": b})``; several
    outputs come as a tuple that knows their names (``y["boxes"]``).

    Shapes are the signature's (`inputs`). Where the model batches, the first dimension is rows: any number in a call
    (in parts of at most `depth`, where there are more), up to `depth` in submit(). One row may come without that
    dimension, and its answer then does too.

    Options of each call: ``timeout`` in seconds or ``deadline`` in time.monotonic() seconds; ``priority`` from 0 to 3, where
    the broker takes all that wait of a higher one before any of a lower one (default 1); ``device=True`` leaves the results on
    the broker's CUDA device, as a DeviceTensor each, for ``torch.from_dlpack(y)`` and the like.

    Errors: BadDtype, BadShape (said before anything is sent), RequestError's others, Full, ConnectError, NoDevice.
    """

    def __init__(self, client: Client, name: str, depth: int = 0) -> None:
        self._client, self._name, self._depth = client, name, depth
        self._handle = client._open(name, depth)
        raw = self._handle.signature()
        self._hash: int = raw[4]
        self.version: int = raw[1]
        self.batchable: bool = raw[2]
        self.batch_max: int = raw[3]
        self.inputs: dict[str, TensorSpec] = {spec[0]: _spec(spec) for spec in raw[5]}
        self.outputs: dict[str, TensorSpec] = {spec[0]: _spec(spec) for spec in raw[6]}

    @property
    def name(self) -> str:
        """Its name at the broker."""
        return self._name

    @property
    def depth(self) -> int:
        """Rows that can be in flight or held at once, as the broker granted them."""
        return self._usable().depth

    def _renew(self) -> _core.Handle:
        """The connection broke, this process is a forked child, or the file changed: called by the C half."""
        handle = self._client._open(self._name, self._depth)
        if handle.signature()[4] != self._hash:
            raise NoModel(
                f"model {self._name!r} was replaced by one that takes or gives something else: get it again, as client[{self._name!r}]"
            )
        return handle

    def _open_device(self, session: _core.Session) -> None:
        """The first device=True of a connection: called by the C half. Loads the driver, and makes a CUDA context where none is."""
        until = time.monotonic() + LOADING_SECONDS
        while True:
            try:
                _interruptibly(session.device)
                return
            except Loading:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.01)

    def request(self, rows: int = 1, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Filling:
        """Memory of a request, to be written where the model reads it.

        Args:
            rows: 1..depth; 1 where the model does not batch
            shapes: for inputs with varying dimensions, their shapes (batch dimension included); else the largest

        Errors: Full, BadShape.
        """
        if not 1 <= rows <= ROWS_MAX:
            raise BadShape(f"a request has 1 to {ROWS_MAX} rows, got {rows}")
        request = self._request(rows)
        return Filling(request, tuple(self.inputs), dict(shapes or {}))

    def map(self, items: Iterable[Any], depth: int = 16, *, timeout: float | None = None, device: bool = False) -> Iterator[Any]:
        """Answers for each of `items`, in order, with at most `depth` requests in flight.

        An item is one input, or a tuple or dict of them. Nothing is taken from `items` before there is room for it.
        An error ends the iteration and cancels what is in flight.
        """
        pending: deque[_core.Request] = deque()
        _check_depth(depth)
        try:
            for item in items:
                if len(pending) >= depth:
                    yield pending.popleft().result()
                pending.append(self._submit_item(item, timeout, device))
            while pending:
                yield pending.popleft().result()
        finally:
            for request in pending:
                request.cancel()

    async def amap(
        self, items: Iterable[Any] | AsyncIterator[Any], depth: int = 16, *, timeout: float | None = None, device: bool = False
    ) -> AsyncIterator[Any]:
        """map() for asyncio: ``async for y in model.amap(items)``. `items` may be asynchronous too."""
        pending: deque[_core.Request] = deque()
        _check_depth(depth)
        try:
            async for item in _each(items):
                if len(pending) >= depth:
                    yield await pending.popleft()
                pending.append(self._submit_item(item, timeout, device))
            while pending:
                yield await pending.popleft()
        finally:
            for request in pending:
                request.cancel()

    def _in_parts(self, args: tuple[Any, ...], keywords: dict[str, Any], error: Exception) -> Any:
        """model(x) of more rows than there is memory for at once, or side by side: called by the C half with why."""
        # Parts on the device would have to be joined there, which is a library's business that we do not load.
        if keywords.get("device") is True and "device" not in self.inputs:
            raise error
        options = {name: keywords[name] for name in ("timeout", "deadline", "priority", "device") if name in keywords and name not in self.inputs}
        if options.get("timeout") is not None:
            options["deadline"] = time.monotonic() + options.pop("timeout")
        inputs = dict(args[0]) if len(args) == 1 and isinstance(args[0], dict) else dict(zip(self.inputs, args))
        inputs |= {name: value for name, value in keywords.items() if name in self.inputs}
        rows = max((value.shape[0] for name, value in inputs.items() if len(value.shape) == len(self.inputs[name].shape)), default=1)
        if rows < 2:
            raise error
        step = min(self.depth, (rows + 1) // 2)
        parts = [self({name: value[i : i + step] for name, value in inputs.items()}, **options) for i in range(0, rows, step)]
        if not isinstance(parts[0], Outputs):
            return join(parts)
        return outputs(tuple(self.outputs), tuple(join([part[i] for part in parts]) for i in range(len(self.outputs))))

    def _submit_item(self, item: Any, timeout: float | None, device: bool) -> _core.Request:
        # An input of that name takes the keyword: the option is then left at what it is without.
        options = {"device": device} if device else {}
        if isinstance(item, tuple):
            return self.submit(*item, timeout=timeout, **options)
        return self.submit(item, timeout=timeout, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self._client, self._name, self._depth)

    def __repr__(self) -> str:
        takes = ", ".join(map(str, self.inputs.values()))
        gives = ", ".join(map(str, self.outputs.values()))
        return f"<infclient.Model {self._name!r}: ({takes}) -> ({gives})>"


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")


async def _each(items: Iterable[Any] | AsyncIterator[Any]) -> AsyncIterator[Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class Client:
    """A connection to the broker; connect() makes one. Any thread; a forked child gets a connection of its own.

    ``client["name"]`` is a Model; iterating gives the names of all models.
    """

    _STATES = ("?", "loading", "ready", "failed")

    def __init__(self, socket: str | os.PathLike[str] | None = None, name: str | None = None) -> None:
        self._socket, self._name = socket, name
        self._lock = threading.Lock()
        self._closed = False
        # Kept: one of its own time has the memory that is in use counted, a new one of the same model would not.
        self._handles: dict[str, _core.Handle] = {}
        self._session = _interruptibly(_core.open, socket, name)
        _clients.add(self)

    def _up(self) -> _core.Session:
        """The session; a new one where the broker was restarted, or in a forked child."""
        if self._closed:
            raise ClosedError("this client was closed")
        if not self._session.is_up:
            self._session = _interruptibly(_core.open, self._socket, self._name)
            self._handles.clear()
        return self._session

    def _open(self, name: str, depth: int, patience: float = LOADING_SECONDS) -> _core.Handle:
        until = time.monotonic() + patience
        while True:
            try:
                # Two handles of one model would each believe that all of its memory is theirs.
                with self._lock:
                    session = self._up()
                    handle = self._handles.get(name)
                    if handle is None or handle.is_stale or handle.session is not session:
                        handle = _interruptibly(session.model, name, depth)
                        self._handles[name] = handle
                    return handle
            except Loading:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.01)

    def model(self, name: str, depth: int = 0) -> Model:
        """Opens a model.

        Args:
            name: as in models()
            depth: rows that shall be in flight or held at once, charged to this user; 0 = the broker's default.
                The first to open a model in this client decides.

        Blocks: some ms, while memory is made; a model that is being loaded is waited for, up to 30 s. Errors: NoModel,
        Loading (it still is), Quota (ask for less depth), ConnectError.
        """
        if not 0 <= depth <= ROWS_MAX:
            raise ValueError(f"depth must be 0 to {ROWS_MAX}, got {depth}")
        return Model(self, name, depth)

    def __getitem__(self, name: str) -> Model:
        return self.model(name)

    def __iter__(self) -> Iterator[str]:
        return iter([info.name for info in self.models()])

    def __contains__(self, name: object) -> bool:
        return any(info.name == name for info in self.models())

    def models(self) -> list[ModelInfo]:
        """What the broker has. Blocks for a message there and back, each."""
        with self._lock:
            raw = _interruptibly(self._up().models)
        return [
            ModelInfo(name, version, self._STATES[state], text, {rows: ns / 1e9 for rows, ns in times.items()})
            for name, version, state, text, times in raw
        ]

    def ping(self, timeout: float | None = 10.0) -> float:
        """Seconds of an empty request there and back, which the broker itself answers."""
        with self._lock:
            session = self._up()
        return _interruptibly(session.ping, timeout)

    def stats(self) -> dict[str, Any]:
        """Counts of this connection: session (as in shmctl sessions), requests sent, ended (by status), live_views, live_requests."""
        return self._session.stats()

    def close(self) -> None:
        """No more calls. Answers that are alive stay valid; the session ends when the last of them is gone."""
        self._closed = True
        self._session.close()
        self._handles.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Client, (self._socket, self._name)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "session %d" % self._session.stats()["session"]
        return f"<infclient.Client {self._socket or 'default socket'}, {state}>"


def connect(socket: str | os.PathLike[str] | None = None, *, name: str | None = None, wait: float = 0.0) -> Client:
    """Connects to the broker of this machine.

    Args:
        socket: path of its socket; None = $INFBROKER_SOCKET, else $XDG_RUNTIME_DIR/infbroker/socket, else
            /run/infbroker/socket
        name: shown in `shmctl sessions`; None = the program's
        wait: seconds to go on trying where no broker is there yet

    Blocks: up to a few ms, or until a socket-activated broker has started. Errors: ConnectError, which says where it looked.
    """
    until = time.monotonic() + wait
    while True:
        try:
            return Client(socket, name)
        except ConnectError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.02)


__all__ = ["Client", "Filling", "Inputs", "Model", "ModelInfo", "Outputs", "TensorSpec", "connect"]
