# SPDX-License-Identifier: Apache-2.0
"""python -m infclient: a first look at a broker.

    python -m infclient ls                          the models, their inputs and outputs
    python -m infclient run MODEL a.npy b.npy       one request; rows as the arrays have them
    python -m infclient run MODEL x.npy -o y.npy    the same, the answer into a file (.npz where there are several)
    python -m infclient bench MODEL -t 4 -n 10000   requests of random inputs: rate, latency
    python -m infclient bench MODEL --asyncio 64    the same from one event loop, 64 in flight

The broker is looked for at --socket, else $INFBROKER_SOCKET, else the default places. Exit status: 0, 1 where a request
or the connection failed, 2 where the command line did.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from typing import Any, Callable

import numpy as np

from . import Client, Error, Model, Outputs, __version__, connect
from ._convert import dtype_named


def _ls(client: Client, _: argparse.Namespace) -> int:
    for info in client.models():
        line = f"{info.name} (version {info.version}, {info.state})"
        if info.state != "ready":
            print(f"{line} {info.text}")
            continue
        model = client[info.name]
        best = min(info.batch_seconds.items(), key=lambda item: item[1] / item[0], default=None)
        print(line + (f", best batch {best[0]}: {best[1] * 1e3:.3g} ms" if best else ""))
        for spec in model.inputs.values():
            print(f"    {spec}")
        for spec in model.outputs.values():
            print(f"    -> {spec}")
    return 0


def _run(client: Client, options: argparse.Namespace) -> int:
    model = client[options.model]
    answer = model(*[np.load(path, allow_pickle=False) for path in options.input])
    names = list(model.outputs)
    arrays = dict(zip(names, answer)) if isinstance(answer, Outputs) else {names[0]: answer}
    if options.output and len(arrays) == 1:
        np.save(options.output, answer)
    elif options.output:
        # Through a file of our own: no name of an output can be taken for an argument of savez.
        with open(options.output, "wb") as file:
            np.savez(file, **arrays)
    else:
        for name, array in arrays.items():
            print(f"{name}: {array.dtype}{list(array.shape)}\n{array}")
    return 0


def _random_inputs(model: Model, rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    result = {}
    for spec in model.inputs.values():
        shape = [rows if spec.batch and i == 0 else most or 0 for i, most in enumerate(spec.largest)]
        if spec.dtype == "bool":
            result[spec.name] = rng.integers(0, 2, shape).astype(bool)
        elif "int" in spec.dtype:
            low, high = spec.range or (0, 1)
            result[spec.name] = rng.integers(low, high, shape, endpoint=True).astype(spec.dtype)
        else:
            result[spec.name] = rng.random(shape).astype(dtype_named(spec.dtype))
    return result


def _progress(total: int) -> tuple[Callable[[int], None], Callable[[], None]]:
    """(advance, close): a bar where there is a terminal, tqdm's where it is installed."""
    if not sys.stderr.isatty():
        return (lambda n: None), (lambda: None)
    try:
        from tqdm import tqdm
    except ImportError:
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            print(f"\r{done * 100 // total:3d} %", end="", file=sys.stderr, flush=True)

        return advance, lambda: print("\r     \r", end="", file=sys.stderr, flush=True)
    bar = tqdm(total=total, unit="req", leave=False)
    return lambda n: (bar.update(n), None)[1], bar.close


def _bench_threads(model: Model, options: argparse.Namespace, advance: Callable[[int], None]) -> list[float]:
    inputs = _random_inputs(model, options.rows)
    share = max(1, options.requests // options.threads)
    times: list[list[float]] = [[] for _ in range(options.threads)]
    errors: list[Exception] = []

    def work(mine: list[float]) -> None:
        try:
            for _ in range(share):
                start = time.perf_counter()
                model(inputs)
                mine.append(time.perf_counter() - start)
                if len(mine) % 100 == 0:
                    advance(100)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [one for mine in times for one in mine]


def _bench_asyncio(model: Model, options: argparse.Namespace, advance: Callable[[int], None]) -> list[float]:
    inputs = _random_inputs(model, options.rows)
    share = max(1, options.requests // options.asyncio)
    times: list[float] = []

    async def work() -> None:
        for _ in range(share):
            start = time.perf_counter()
            await model.submit(inputs)
            times.append(time.perf_counter() - start)
            if len(times) % 100 == 0:
                advance(100)

    async def main() -> None:
        await asyncio.gather(*[work() for _ in range(options.asyncio)])

    asyncio.run(main())
    return times


def _bench(client: Client, options: argparse.Namespace) -> int:
    model = client[options.model]
    model(_random_inputs(model, options.rows))
    advance, close = _progress(options.requests)
    start = time.perf_counter()
    try:
        times = (_bench_asyncio if options.asyncio else _bench_threads)(model, options, advance)
    finally:
        close()
    took = time.perf_counter() - start
    p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1e6
    how = f"{options.asyncio} in flight in one loop" if options.asyncio else f"{options.threads} threads"
    print(f"{options.model}: {len(times):,} requests of {options.rows} rows, {how}, {took:.2f} s")
    print(f"  {len(times) / took:,.0f} requests/s; latency p50 {p50:,.1f} us, p95 {p95:,.1f} us, p99 {p99:,.1f} us")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infclient", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"infclient {__version__}")
    parser.add_argument("--socket", help="path of the broker's socket")
    commands = parser.add_subparsers(required=True, metavar="ls|run|bench")
    commands.add_parser("ls", help="list the models").set_defaults(call=_ls)
    run = commands.add_parser("run", help="one request from .npy files")
    run.add_argument("model")
    run.add_argument("input", nargs="*", help=".npy file per input, in order")
    run.add_argument("-o", "--output", help="where the answer goes (.npy; .npz for several outputs)")
    run.set_defaults(call=_run)
    bench = commands.add_parser("bench", help="rate and latency of random inputs")
    bench.add_argument("model")
    bench.add_argument("-n", "--requests", type=_positive, default=10000)
    bench.add_argument("-t", "--threads", type=_positive, default=1)
    bench.add_argument("-r", "--rows", type=_positive, default=1)
    bench.add_argument("--asyncio", type=_positive, metavar="N", help="one event loop, N in flight")
    bench.set_defaults(call=_bench)
    options = parser.parse_args(args)
    try:
        with connect(options.socket) as client:
            return int(options.call(client, options))
    except BrokenPipeError:  # a reader that had enough: head(1)
        sys.stdout = None
        return 1
    except (Error, OSError, ValueError, TypeError) as error:
        print(f"infclient: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
