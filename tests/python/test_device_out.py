# SPDX-License-Identifier: Apache-2.0
"""Results that stay on the CUDA device: DLPack out, ordered by streams, on the software driver.

A Gate holds up a stream, so that what must not have happened yet cannot have, and what must not happen meanwhile would show.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE, Broker
from on_device import HELD, LIBRARY, NAMES, CudaTensor, Gate, Reader, Stream, cuda, driver, needs_driver, random_rows, values, violations

import infclient

__all__ = ["cuda"]
pytestmark = needs_driver


@pytest.fixture(autouse=True)
def nothing_wrong() -> Any:
    before = violations()
    yield
    gc.collect()
    assert violations() == before


@pytest.fixture
def client(cuda: Broker) -> Any:
    """One whose memory has all come back at the end."""
    with infclient.connect(cuda.socket) as one:
        yield one
        gc.collect()
        # One that read another's results lets go of them as it goes itself, and only then does the stream's mark for those come.
        until, busy = time.monotonic() + 20, [1]
        while any(busy) and time.monotonic() < until:
            assert not driver().cuStreamSynchronize(None)
            busy = [handle.rows_busy for handle in one._handles.values()]
        assert not any(busy)
        assert one.stats()["live_views"] == one.stats()["live_requests"] == 0


def child(code: str, *args: str, **environment: str) -> str:
    """What a program of its own prints."""
    result = subprocess.run(
        [sys.executable, "-c", "import sys, infclient, numpy as np; x = np.arange(16, dtype=np.float32).reshape(1, 16)\n" + code, *args],
        env=os.environ | NAMES | {"PYTHONPATH": str(PACKAGE)} | environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_answers_are_right_in_every_stream_and_the_host_copies_nothing(cuda: Broker, client: infclient.Client) -> None:
    model = client["add_sub"]
    copied = [cuda.ledger()[name] for name in ("in_bytes", "out_bytes")]
    with Stream() as stream:
        for n in (1, 3, 40, 64):
            a, b = random_rows(n)
            for how in ({"stream": stream}, {"number": 1}, {"number": 2}, {"number": -1}, {"stream": stream, "version": 1}):
                total, difference = answer = model(CudaTensor(a), CudaTensor(b), device=True)
                assert isinstance(total, infclient.DeviceTensor) and answer.keys() == ("out", "out2")
                assert total.__dlpack_device__() == (2, 0) and total.shape == (n, 16) and total.dtype == "f32"
                assert values(total, **how).tobytes() == (a + b).tobytes()
                assert values(difference, **how).tobytes() == (a - b).tobytes()
                del answer, total, difference
    assert copied == [cuda.ledger()[name] for name in ("in_bytes", "out_bytes")]
    assert cuda.ledger()["violations"] == 0
    # What this test would miss if those figures did not count host inputs.
    values(model(a, b, device=True)[0])
    assert copied != [cuda.ledger()[name] for name in ("in_bytes", "out_bytes")]


def test_shapes_and_types(client: infclient.Client) -> None:
    with Stream() as stream:
        single = client["add_sub"](*(x[0] for x in random_rows(1)), device=True)["out"]
        assert single.shape == (16,) and repr(single) == "<infclient.DeviceTensor f32(16,) on cuda:0>" and not single.readonly
        reader = Reader(single, stream, version=1)
        assert reader.shape == (16,) and reader.dtype == np.float32 and not reader.managed.flags & 1
        squares = client["index"](np.array([[1, 2, 3, 9]]), device=True)
        assert np.array_equal(values(squares, stream), [[1, 4, 9, 81]])
        for n in (0, 1, 77):
            x = np.arange(n, dtype=np.float32)
            request = client["varying"].submit(x, device=True)
            y = request.result()
            assert y.shape == (n,) and np.array_equal(values(y, stream), x[::-1])
            assert np.array_equal(values(request.tensor(0), stream), x[::-1])
        # Of an output whose shape varies nobody knows it before the end.
        with Gate(None):
            request = client["varying"].submit(CudaTensor(x), device=True)
            with pytest.raises(asyncio.InvalidStateError, match="varies"):
                request.tensor(0)
        assert np.array_equal(values(request.result(), stream), x[::-1])
        reader.close()


def test_a_stream_waits_for_a_request_in_flight_and_nobody_cancels_it(client: infclient.Client) -> None:
    a, b = random_rows(5)
    with Stream() as stream:
        with Gate(None):  # the inputs are not there before it opens
            request = client["add_sub"].submit(CudaTensor(a), b, device=True)
            reader = Reader(request.tensor("out2"), stream, version=1)
            total = Reader(request.tensor(0), stream)
            got, more = reader.read(), total.read()
            assert request.state == "in flight" and not request.done()
            # The last references go, as of temporaries in an expression of torch.
            reader.close()
            total.close()
            del request
            gc.collect()
            assert len(HELD) == 1  # whose copy into the request has not run
            assert client["add_sub"](a, b)[0].tobytes() == (a + b).tobytes()
        stream.synchronize()
        assert got.tobytes() == (a - b).tobytes() and more.tobytes() == (a + b).tobytes()
        # The stream goes on a little before the client is told.
        until = time.monotonic() + 30
        while client["add_sub"]._handle.rows_busy and time.monotonic() < until:
            time.sleep(0.001)
        assert not HELD


def test_memory_is_not_used_again_while_a_stream_reads_it(client: infclient.Client) -> None:
    model = client["add_sub"]
    a, b = random_rows(4)
    with Stream() as one, Stream() as other:
        with Gate(one), Gate(other) as gate:
            y = model(a, b, device=True)[0]
            readers = [Reader(y, one), Reader(y, other)]
            got = [reader.read() for reader in readers]
            del y
            for reader in readers:
                reader.close()
            gc.collect()
            assert model._handle.rows_busy == 4
            for i in range(30):
                assert values(model(a + i, b, device=True)[0])[0, 0] == a[0, 0] + i + b[0, 0]
        with Gate(one):  # `other` has passed
            one_more = Reader(model(a, b, device=True)[0], one)
            one_more.close()
            other.synchronize()
            assert model._handle.rows_busy == 4
        assert all(array.tobytes() == (a + b).tobytes() for array in got)
        del gate


def test_requests_wait_until_streams_have_read(client: infclient.Client) -> None:
    model = client.model("add_sub", depth=8)
    a, b = random_rows(8)
    with Stream() as stream, Gate(stream) as gate:
        Reader(model(a, b, device=True)[0], stream).close()
        assert model._handle.rows_busy == model.depth == 8
        future = model.submit(a, b)
        assert future.state == "queued"
        with pytest.raises(infclient.DeadlineExceeded):
            model(a, b, timeout=0.05)
        threading.Timer(0.05, gate.open).start()
        assert np.array_equal(future.result()[0], a + b)
        del future
    # A loop is told by nobody either.
    with Stream() as stream, Gate(stream) as gate:
        Reader(model(a, b, device=True)[0], stream).close()

        async def ask() -> None:
            asyncio.get_running_loop().call_later(0.05, gate.open)
            assert np.array_equal((await asyncio.wait_for(model.submit(a, b), 30))[0], a + b)

        asyncio.run(ask())


def test_held_results_fill_the_memory_and_that_is_said(client: infclient.Client) -> None:
    model = client.model("add_sub", depth=8)
    a, b = random_rows(4)
    held = [model(a, b, device=True), model(a + 1, b, device=True)]
    with pytest.raises(infclient.Full, match="2 requests"):
        model(a, b)
    with pytest.raises(infclient.TooManyRows, match="opened for 8 rows"):
        model(*random_rows(9), device=True)
    assert values(held[1][0]).tobytes() == (a + 1 + b).tobytes()
    del held[0]
    assert np.array_equal(model(a, b)[0], a + b)


def test_numpy_is_not_had_by_accident(client: infclient.Client) -> None:
    y = client["add_sub"](*random_rows(2), device=True)["out"]
    for ask in (np.asarray, np.array, lambda y: y.numpy(), lambda y: np.zeros(16, np.float32) + y):
        with pytest.raises(TypeError, match=r"CUDA device.*from_dlpack\(y\)\.cpu\(\)\.numpy\(\)"):
            ask(y)
    with pytest.raises(TypeError, match="bytes-like"):
        memoryview(y)
    with pytest.raises(BufferError, match=r"\(2, 0\).*host"):
        y.__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="no copy"):
        y.__dlpack__(dl_device=(2, 1))
    with pytest.raises(BufferError, match="no copy"):
        y.__dlpack__(copy=True)
    y.__dlpack__(copy=False, dl_device=(2, 0))
    for number in (0, -2, -(1 << 70)):
        with pytest.raises(ValueError, match="stream must be"):
            y.__dlpack__(stream=number)
    for number in (1 << 70, "1", 1.0):
        with pytest.raises((TypeError, OverflowError)):
            y.__dlpack__(stream=number)
    for device in ("cpu", "cuda:0", 0, 1):
        with pytest.raises(TypeError, match="device must be True"):
            client["add_sub"](*random_rows(2), device=device)
    assert isinstance(client["add_sub"](*random_rows(2), device=None)[0], np.ndarray)


def test_results_are_inputs_of_the_next_model(cuda: Broker, client: infclient.Client) -> None:
    a, b = random_rows(3)
    model = client["add_sub"]
    first = model(CudaTensor(a), CudaTensor(b), device=True)
    copied = [cuda.ledger()[name] for name in ("in_bytes", "out_bytes")]
    second = model(first["out"], first["out2"], device=True)
    # Of one that is in flight too.
    with Gate(None):
        request = model.submit(CudaTensor(a), second[1], device=True)
        third = model.submit(request.tensor("out"), request.tensor("out2"), device=True)
        del first, second, request
        assert not third.done()
    total, difference = third.result()
    second_one = (a + b) - (a - b)
    assert values(total).tobytes() == ((a + second_one) + (a - second_one)).tobytes()
    assert values(difference).tobytes() == ((a + second_one) - (a - second_one)).tobytes()
    assert copied == [cuda.ledger()[name] for name in ("in_bytes", "out_bytes")]
    del total, difference, third


def test_asyncio_threads_and_map(cuda: Broker, client: infclient.Client) -> None:
    model = client["add_sub"]
    rows = [random_rows(1 + i % 4) for i in range(60)]

    async def ask(stream: Stream, a: np.ndarray, b: np.ndarray) -> None:
        assert values((await model.submit(a, CudaTensor(b), device=True))[1], stream).tobytes() == (a - b).tobytes()

    async def ask_all() -> None:
        with Stream() as stream:
            await asyncio.gather(*(ask(stream, a, b) for a, b in rows))
            i = 0
            async for y in model.amap(rows, depth=4, device=True):
                assert values(y[0], stream).tobytes() == (rows[i][0] + rows[i][1]).tobytes()
                i += 1

    errors: list[BaseException] = []

    def work() -> None:
        try:
            # A connection each: the driver does not see that threads tell each other when a stream has passed.
            with Stream() as stream, infclient.connect(cuda.socket) as own:
                for (a, b), y in zip(rows, own["add_sub"].map(rows, depth=4, device=True)):
                    assert values(y[0], stream).tobytes() == (a + b).tobytes()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(ask_all())
    for thread in threads:
        thread.join()
    assert not errors


def test_what_fails_says_so(client: infclient.Client) -> None:
    a, b = random_rows(2)
    model = client["add_sub"]
    with Gate(None):
        request = model.submit(CudaTensor(a), b, device=True)
        tensor = request.tensor(0)
        request.cancel()
        with pytest.raises(infclient.Cancelled):
            tensor.__dlpack__(stream=1)
        with pytest.raises(infclient.Cancelled):
            request.tensor(0)
        with pytest.raises(asyncio.InvalidStateError, match="in flight"):
            model.submit(CudaTensor(a), b).tensor(0)
        late = model.submit(CudaTensor(a), b, device=True)
        with pytest.raises(infclient.DeadlineExceeded):
            late.result(timeout=0.01)
        futures = [model.submit(CudaTensor(a), b, device=True) for _ in range(40)]
        assert futures[-1].state == "queued"
        with pytest.raises(asyncio.InvalidStateError, match="waits for room"):
            futures[-1].tensor(0)
        with pytest.raises(KeyError):
            futures[0].tensor("nothing")
        del futures, tensor
    with pytest.raises(infclient.BadRange):
        client["index"](CudaTensor(np.array([[1, 2, 3, 10]])), device=True)


def test_results_outlive_the_client(cuda: Broker) -> None:
    a, b = random_rows(2)
    client = infclient.connect(cuda.socket)
    y = client["add_sub"](a, b, device=True)[0]
    client.close()
    del client
    gc.collect()
    assert values(y).tobytes() == (a + b).tobytes()
    with Stream() as stream, Stream() as other:
        # The end of the session waits for the device, whose streams here want the GIL.
        with Gate(stream) as gate, Gate(other) as unrelated:
            reader = Reader(y, stream)
            got = reader.read()
            threading.Timer(0.05, gate.open).start()
            threading.Timer(0.1, unrelated.open).start()
            del y
            reader.close()
        assert got.tobytes() == (a + b).tobytes()


def test_a_forked_child_has_no_part_in_it(client: infclient.Client) -> None:
    a, b = random_rows(2)
    y = client["add_sub"](a, b, device=True)[0]
    with Stream() as stream:
        reader = Reader(y, stream)
        pid = os.fork()
        if not pid:
            try:
                with pytest.raises(infclient.ConnectError, match="parent"):
                    y.__dlpack__(stream=stream.number)
                reader.close()
                del y
                gc.collect()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert values(y, stream).tobytes() == (a + b).tobytes()
        reader.close()


def test_a_stream_that_is_none_is_an_error(cuda: Broker) -> None:
    code = """
with infclient.connect(sys.argv[1]) as client:
    y = client["add_sub"](x, x, device=True)[0]
    try:
        y.__dlpack__(stream=12345)
    except ValueError as error:
        print(error)
"""
    assert "no such CUDA stream (the CUDA driver says CUDA_ERROR_INVALID_HANDLE" in child(code, cuda.socket, FAKECUDA_REPORT="/dev/null")


ASK = """
with infclient.connect(sys.argv[1]) as client:
    try:
        print(client["add_sub"](x, x, device=True)[0].__dlpack_device__())
    except infclient.NoDevice as error:
        print("NoDevice", isinstance(error, BufferError), error)
    print(client["add_sub"](x, x)[0].sum())
"""


def test_without_a_device_it_is_an_error_of_that_name(cuda: Broker, broker: Broker) -> None:
    for socket, names, words in (
        (broker.socket, {}, "run on the CPU"),
        (cuda.socket, {"INF_CUDA_LIBRARY": "libnowhere.so"}, "no CUDA driver"),
        (cuda.socket, {"FAKECUDA_VERSION": "11080"}, "12.0 or newer"),
        (cuda.socket, {"FAKECUDA_DEVICES": "0"}, "sees no device"),
    ):
        said, total = child(ASK, socket, **names).splitlines()
        assert said.startswith("NoDevice True results cannot stay on a device (") and words in said and "device=True" in said
        assert total == "240.0"


def test_the_ordinal_is_that_of_this_process(cuda: Broker) -> None:
    os.environ["FAKECUDA_DEVICES"] = "2"
    try:
        second = Broker("--device", "cuda:1", ledger=True).start()
        try:
            assert child(ASK, second.socket).splitlines()[0] == "(2, 1)"
        finally:
            second.close()
    finally:
        del os.environ["FAKECUDA_DEVICES"]


def test_nothing_is_loaded_that_nobody_asked_for(cuda: Broker) -> None:
    code = "client = infclient.connect(sys.argv[1]); client['add_sub'](x, x); print('fakecuda' in open('/proc/self/maps').read())"
    assert child(code, cuda.socket) == "False\n"
    assert child(code.replace("(x, x)", "(x, x, device=True)"), cuda.socket) == "True\n"
    assert LIBRARY.exists() and driver()
