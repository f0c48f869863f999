# SPDX-License-Identifier: Apache-2.0
"""model(x): what goes in, what comes out, and what every wrong input is told."""

from __future__ import annotations

import array
import math
import pathlib
import pickle
import threading
import time

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import infclient

X = np.arange(64, dtype=np.uint8).reshape(1, 64)
DTYPES = {
    "bool": np.bool_,
    "u8": np.uint8,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f32": np.float32,
    "f64": np.float64,
}


def test_three_lines(client):
    y = client["identity"](X)
    assert isinstance(y, np.ndarray) and y.dtype == np.uint8 and y.shape == (1, 64) and (y == X).all()


def test_rows_and_single(client):
    model = client["identity"]
    rows = np.random.default_rng(0).integers(0, 256, (17, 64)).astype(np.uint8)
    assert (model(rows) == rows).all()
    assert model(rows[3]).shape == (64,) and (model(rows[3]) == rows[3]).all()


def test_more_rows_than_depth(client):
    rows = np.random.default_rng(0).integers(0, 256, (1000, 64)).astype(np.uint8)
    y = client["identity"](rows, timeout=30)
    assert (y == rows).all() and not y.flags.writeable
    a = np.random.default_rng(1).random((130, 16)).astype(np.float32)
    y = client["add_sub"](x=a, y=a)
    assert (y["out"] == a + a).all() and (y["out2"] == 0).all()


def test_several_inputs_and_outputs(client):
    model = client["add_sub"]
    a = np.random.default_rng(1).random((5, 16)).astype(np.float32)
    b = np.random.default_rng(2).random((5, 16)).astype(np.float32)
    for y in (model(a, b), model(x=a, y=b), model({"x": a, "y": b}), model(a, y=b)):
        assert isinstance(y, infclient.Outputs) and list(y.keys()) == ["out", "out2"]
        assert (y[0] == a + b).all() and (y["out2"] == a - b).all()
        total, difference = y
        assert (total == a + b).all() and (difference == a - b).all()
    with pytest.raises(KeyError):
        y["no"]
    again = pickle.loads(pickle.dumps(y))
    assert (again["out"] == y["out"]).all() and "out=" in repr(again)


def test_single_row_of_several(client):
    total, difference = client["add_sub"](np.ones(16, np.float32), np.ones((1, 16), np.float32))
    assert total.shape == (1, 16)  # one of them had its rows
    total, difference = client["add_sub"](np.ones(16, np.float32), np.ones(16, np.float32))
    assert total.shape == (16,)


def test_scalar_and_varying(client):
    assert client["scalar"](np.int32(21)) == 42
    assert client["scalar"](21).shape == ()
    v = np.arange(7, dtype=np.float32)
    model = client["varying"]
    assert (model(v) == v[::-1]).all()
    assert model(np.zeros(0, np.float32)).shape == (0,)
    assert (model(v) == v[::-1]).all()


def test_what_speaks_the_buffer_protocol(client):
    model = client["identity"]
    for x in (bytes(range(64)), bytearray(range(64)), memoryview(bytes(range(64))), array.array("B", range(64))):
        assert (model(x) == X[0]).all()


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes(client, name):
    rng = np.random.default_rng(3)
    values = {key: np.zeros((2, 6), kind) for key, kind in DTYPES.items()}
    values[name] = (rng.random((2, 6)) * 100).astype(DTYPES[name])
    y = client["dtypes"](values)
    for key, kind in DTYPES.items():
        assert y[key].dtype == kind and (y[key] == values[key]).all(), key


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_array(broker, data):
    """An array of any type, shape and strides is answered rightly, or named wrong."""
    with infclient.connect(broker.socket) as client:
        model = client["identity_f32"]
        kind = data.draw(hnp.scalar_dtypes() | st.just(np.dtype(object)) | st.just(np.dtype(np.float32)))
        shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3) | st.sampled_from([(1024,), (2, 1024)]))
        x = np.zeros(shape, kind)
        if data.draw(st.booleans()) and x.ndim:
            x = x[::-1]
        if x.dtype == np.float32 and shape in ((1024,), (2, 1024)):
            assert (model(x) == x).all()
        else:
            with pytest.raises((infclient.BadDtype, infclient.BadShape)) as error:
                model(x)
            assert "expected float32[rows, 1024]" in str(error.value)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    step=st.sampled_from([-3, -2, -1, 1, 2, 3]),
    order=st.sampled_from("CF"),
    seed=st.integers(0, 1000),
)
def test_strides_are_packed(broker, rows, step, order, seed):
    with infclient.connect(broker.socket) as client:
        base = np.random.default_rng(seed).random((rows * 3, 1024 * 3)).astype(np.float32)
        x = np.asarray(base, order=order)[::step][:rows, ::3]
        assert (client["identity_f32"](x) == x).all()
        for name in ("i8", "f16", "f64"):
            values = {key: np.zeros((2, 6), kind) for key, kind in DTYPES.items()}
            values[name] = (np.asarray(base[:6, :4], order=order) * 100).astype(DTYPES[name])[::step, ::2].T[:2, :6]
            values[name] = np.resize(values[name], (6, 2)).T
            assert (client["dtypes"](values)[name] == values[name]).all()


def says(call, kind, *words):
    with pytest.raises(kind) as error:
        call()
    for word in words:
        assert word in str(error.value), str(error.value)


def test_wrong_inputs_are_named(client):
    model = client["identity"]
    says(lambda: model(X.astype(np.float32)), infclient.BadDtype, "expected uint8[rows, 64], got float32[1, 64]", "astype('uint8')")
    says(lambda: model(X.astype(np.float32)), TypeError)
    says(lambda: model(X[:, :63]), infclient.BadShape, "got uint8[1, 63]")
    says(lambda: model(X[None]), ValueError, "got uint8[1, 1, 64]")
    says(lambda: model(X[:0]), infclient.BadShape, "at least one row")
    says(lambda: model(np.zeros((1, 64), object)), infclient.BadDtype, "object")
    says(lambda: model(np.zeros((1, 64), "S1")), infclient.BadDtype, "|S1")
    says(lambda: model(np.zeros(64, [("a", "u1")])), infclient.BadDtype)
    says(lambda: model([[1] * 64]), TypeError, "got list", "numpy.asarray")
    says(lambda: model("text"), TypeError, "str", "__dlpack__")
    says(lambda: model(None), TypeError, "NoneType")
    says(lambda: client["index"](np.zeros((1, 4), ">i8")), infclient.BadDtype, "big-endian")
    says(lambda: model.submit(np.zeros((65, 64), np.uint8)), infclient.TooManyRows, "depth=65")
    says(lambda: model.request(rows=65), infclient.TooManyRows, "depth=65")
    says(lambda: model.request(rows=2**32 + 1), infclient.BadShape)
    says(lambda: client.model("scalar", depth=-1), ValueError, "depth")
    says(lambda: model(np.zeros((1, 64), ml_dtypes.float8_e4m3fn)), infclient.BadDtype, "float8")
    says(lambda: model(np.zeros([1] * 9, np.uint8)), infclient.BadShape, "at most 8")
    says(lambda: client["varying"](np.zeros(1025, np.float32)), infclient.BadShape, "..1024")
    says(lambda: client["scalar"](1.5), TypeError, "int32")
    says(lambda: client["scalar"](True), TypeError)
    says(lambda: client["scalar"](2**40), OverflowError)
    says(lambda: client["add_sub"](np.ones((1, 16), np.float32), np.ones((2, 16), np.float32)), infclient.BadShape, "'y'", "rows")


def test_wrong_arguments_are_named(client):
    model = client["add_sub"]
    a = np.ones((1, 16), np.float32)
    says(lambda: model(a), TypeError, "misses input 'y'", "x=float32[rows, 16]")
    says(lambda: model(), TypeError, "misses input 'x'")
    says(lambda: model(a, a, a), TypeError, "more inputs")
    says(lambda: model(a, z=a), TypeError, "no input 'z'")
    says(lambda: model(a, x=a), TypeError, "'x' twice")
    says(lambda: model({"x": a, "w": a}), TypeError, "no input 'w'")
    says(lambda: model(a, a, timeout=1, deadline=1), ValueError, "not both")
    says(lambda: model(a, a, timeout=-1), ValueError, "negative")
    says(lambda: model(a, a, timeout=math.nan), ValueError)
    says(lambda: model(a, a, timeout="soon"), TypeError)


def test_the_broker_says_what_only_it_knows(client):
    says(lambda: client["index"](np.full((1, 4), 11)), infclient.BadRange)
    for value in (math.nan, -math.inf):
        says(lambda: client["finite"](np.array([[0, 1, value, 0]], np.float32)), infclient.BadRange)
    assert client["finite"].inputs["x"].finite and not client["add_sub"].inputs["x"].finite
    says(lambda: client["wrong_size"](np.ones((1, 1), np.uint8)), infclient.ModelError)
    says(lambda: client["nothing"], infclient.NoModel, "nothing")
    says(lambda: client["nothing"], LookupError)
    says(lambda: client["crash"](np.ones((1, 1), np.uint8)), infclient.Poison)
    # The executor is being started anew: its models load again.
    until = time.monotonic() + 20
    while True:
        try:
            assert (client["identity"](X) == X).all()
            break
        except infclient.RequestError:
            assert time.monotonic() < until


def test_deadlines(client):
    model = client["sleep"]
    x = np.zeros((16, 1), np.float32)
    says(lambda: model(x, timeout=0), infclient.DeadlineExceeded)
    says(lambda: model(x, deadline=time.monotonic() - 1), TimeoutError)
    says(lambda: model(x, deadline=0.0), TimeoutError)
    assert model(x, timeout=10).shape == (16, 1)
    assert model(x, deadline=math.inf).shape == (16, 1)
    hang = client["hang"].submit(np.zeros((1, 1), np.uint8))
    hang.result()


def test_timeout_while_it_runs(client):
    model = client["sleep"]
    start = time.monotonic()
    requests = [model.submit(np.zeros((16, 1), np.float32)) for _ in range(40)]
    says(lambda: requests[-1].result(timeout=0.005), infclient.DeadlineExceeded)
    assert time.monotonic() - start < 1
    for request in requests[:-1]:
        request.result()


def test_priorities(client):
    """What is urgent overtakes what waits, of its own client, of others, and of other models."""
    slow, other = client.model("sleep", depth=256), client["spin"]
    low = [slow.submit(np.zeros((16, 1), np.float32), priority=0) for _ in range(16)]
    urgent = [slow.submit(np.zeros((1, 1), np.float32), priority=3), other.submit(np.zeros((1, 1), np.float32), priority=2)]
    for request in urgent:
        request.result()
    assert sum(request.done() for request in low) < 12
    for request in low:
        request.result()
    with slow.request() as r:
        r.inputs["x"][...] = 0
        assert r(priority=3).shape == (1, 1)
    for wrong in (-1, 4, 2**40):
        says(lambda: slow(np.zeros((1, 1), np.float32), priority=wrong), ValueError, "0 to 3")
    says(lambda: slow(np.zeros((1, 1), np.float32), priority="high"), TypeError)


def test_cancel(client):
    model = client["sleep"]
    requests = [model.submit(np.zeros((16, 1), np.float32)) for _ in range(20)]
    assert requests[10].cancel() and requests[10].cancelled() and requests[10].done() and not requests[10].cancel()
    says(requests[10].result, infclient.Cancelled)
    says(requests[10].exception, infclient.Cancelled)
    assert requests[0].result().shape == (16, 1) and requests[0].exception() is None
    assert not requests[0].cancel()


def test_every_exception_pickles():
    for name in infclient.__all__:
        kind = getattr(infclient, name)
        if isinstance(kind, type) and issubclass(kind, infclient.RequestError):
            error = pickle.loads(pickle.dumps(kind("text", 0.25, True)))
            assert type(error) is kind and error.retry_after == 0.25 and error.maybe_executed and str(error) == "text"
        elif isinstance(kind, type) and issubclass(kind, Exception):
            assert str(pickle.loads(pickle.dumps(kind("text")))) == "text"


def test_no_broker():
    says(lambda: infclient.connect("/nowhere/socket"), infclient.ConnectError, "/nowhere/socket", "INFBROKER_SOCKET")
    says(lambda: infclient.connect("/nowhere/socket"), ConnectionError)
    says(lambda: infclient.connect("/nowhere/" + "é" * 600), infclient.ConnectError)
    says(lambda: infclient.connect(pathlib.Path("/nowhere/socket")), infclient.ConnectError)
    says(lambda: infclient.connect("/nowhere/\udcff"), infclient.ConnectError)


def test_use_after_close(broker):
    client = infclient.connect(broker.socket)
    model = client["identity"]
    y = model(X)
    client.close()
    for call in (lambda: model(X), lambda: model.submit(X), lambda: client["identity"], client.ping, client.models, model.request):
        says(call, infclient.ClosedError)
    assert (y == X).all()


def test_what_runs_python_while_it_is_read(client):
    """Inputs and options whose methods pull the rug away."""
    model = client["add_sub"]
    inputs = {}

    class Evil:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **keywords):
            inputs["y"] = None
            return self.array.__dlpack__()

        def __dlpack_device__(self):
            return (1, 0)

    for _ in range(50):
        inputs["x"], inputs["y"] = Evil(np.ones((1, 16), np.float32)), np.full((1, 16), 7, np.float32)
        assert (model(inputs)["out"] == 8).all()

    class Timeout:
        def __float__(self):
            client._handles.clear()
            model._handle = client["identity"]._handle
            return 1.0

    own = infclient.connect(client._socket)
    model = own["identity"]
    assert (model(X, timeout=Timeout()) == X).all()
    own.close()


def test_a_model_got_anew_for_each_call(client):
    """The memory of what was cancelled is counted, whoever holds the model."""
    for _ in range(30):
        try:
            client["sleep"](np.zeros((16, 1), np.float32), timeout=0.001)
        except infclient.DeadlineExceeded:
            pass
    client["sleep"](np.zeros((16, 1), np.float32))


def test_threads(client):
    """40 threads on 16 lanes, each answer its own."""
    model = client["identity"]
    errors = []

    def work(seed):
        try:
            rng = np.random.default_rng(seed)
            for _ in range(200):
                x = rng.integers(0, 256, (rng.integers(1, 4), 64)).astype(np.uint8)
                if not (model(x) == x).all():
                    errors.append("wrong bytes")
        except Exception as error:
            errors.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors, errors[:3]


def test_threads_with_more_rows_than_there_is_memory_for(client):
    """Each copies out what others wait for, while they look: nobody is told that the memory is full."""
    model = client["add_sub"]
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            rows = int(rng.choice([1, 7, 30, 64, 100, 300]))
            x, y = rng.random((rows, 16), np.float32), rng.random((rows, 16), np.float32)
            try:
                answer = model(x, y)
                if not ((answer["out"] == x + y).all() and (answer["out2"] == x - y).all()):
                    wrong.append(rows)
            except infclient.Full as error:
                wrong.append(str(error))
            answer = None

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def test_cancelled_by_another_thread(client):
    """Its memory must not be another request's before whoever waits for it is up."""
    slow, model = client["sleep"], client["identity"]
    seen = []

    def wait(request):
        try:
            seen.append(request.result())
        except infclient.Cancelled as error:
            seen.append(error)

    for _ in range(100):
        requests = [slow.submit(np.zeros((1, 1), np.float32)) for _ in range(4)]
        threads = [threading.Thread(target=wait, args=(request,)) for request in requests]
        for thread in threads:
            thread.start()
        for request in requests:
            request.cancel()
        again = [slow.submit(np.zeros((1, 1), np.float32)) for _ in range(4)]
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert (model(X) == X).all()
        del requests, again
    assert len(seen) == 400


def test_map(client):
    model = client["identity"]
    taken = 0

    def items():
        nonlocal taken
        for i in range(100):
            taken += 1
            yield np.full((1, 64), i, np.uint8)

    for i, y in enumerate(model.map(items(), depth=8)):
        assert (y == i).all() and taken <= i + 10
    assert i == 99
    some = model.map(items(), depth=4)
    next(some)
    some.close()
    with pytest.raises(ValueError):
        next(model.map([], depth=0))
    a = np.ones((1, 16), np.float32)
    assert [float(y[0][0, 0]) for y in client["add_sub"].map([(a, a), {"x": a, "y": a}])] == [2, 2]


def test_what_is_seen(client):
    model = client["add_sub"]
    assert model.inputs["x"].shape == (None, 16) and model.inputs["x"].dtype == "float32" and model.inputs["x"].batch
    assert "x: float32[rows, 16]" in repr(model) and model.depth == 64 and model.version == 1 and model.batchable
    assert client["index"].inputs["x"].range == (0, 9)
    assert client["varying"].inputs["x"].largest == (1024,)
    assert "identity" in client and "nothing" not in client and "add_sub" in list(client)
    assert 0 < client.ping() < 5
    model(np.ones(16, np.float32), np.ones(16, np.float32))
    stats = client.stats()
    assert stats["requests"] == 1 and stats["ended"] == {"OK": 1} and f"session {stats['session']}" in repr(client)
    request = model.submit(np.ones(16, np.float32), np.ones(16, np.float32))
    request.result()
    assert request.state == "ended" and request.rows == 1 and all(t >= 0 for t in request.times)
