#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""E8 and E9: what torch itself makes of a network on the device: eager, TorchScript frozen, AOTInductor, each also as a CUDA graph.

    networks.py resnet50|bert|mlp eager|script|aoti [--dry]		measures one engine, batches of 1 to 64
    networks.py resnet50|bert|mlp export FILE [--dry]		writes what a broker serves; on the CPU

A line of JSON for each figure: the median time of one batch from its launch to its end. A graph that cannot be captured costs
its own row, which says why; an error that the device does not survive ends the process. --dry: in small, on the CPU, where a
"graph" is the call itself, so that every line of this but the capture runs.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "tools", "export")]
import nets

BATCHES, DRY_BATCHES = (1, 2, 4, 8, 16, 32, 64), (1, 4)
WARM_RUNS = 5  # the profiling executor specialises in its first ones; capture needs three
TOLERANCE = 0.05  # of the largest output, fp16 against itself by another engine
OTHER_RESULTS = "its results are not those of eager mode"


def say(name, value=None, why=None):
    row = {"name": name, "why": why} if why else {"name": name, "value": value, "unit": "us"}
    print(json.dumps(row), flush=True)


def first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]


class Cuda:
    """The device: half precision, as it is served there."""

    name, dtype, seconds, batches = "cuda", torch.float16, 0.3, BATCHES

    @staticmethod
    def synchronize():
        torch.cuda.synchronize()

    @staticmethod
    def capture(call, example):
        """(replay, its output): `call` on the memory of `example`, for ever."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_RUNS):
                call(example)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = call(example)
        return graph.replay, output


class Rehearsal:
    """The CPU, in small."""

    name, dtype, seconds, batches = "cpu", torch.float32, 0.02, DRY_BATCHES

    @staticmethod
    def synchronize():
        pass

    @staticmethod
    def capture(call, example):
        output = call(example)
        return lambda: output.copy_(call(example)), output


def median_us(device, call):
    """Of single batches, one after the other."""
    values, until = [], time.monotonic() + device.seconds
    for _ in range(WARM_RUNS):
        call()
    device.synchronize()
    while time.monotonic() < until or len(values) < 5:
        begin_ns = time.perf_counter_ns()
        call()
        device.synchronize()
        values.append((time.perf_counter_ns() - begin_ns) / 1e3)
    return statistics.median(values)


# --- engines: network and examples to a function of an example ------------------------------------------------------------


def eager(network, examples):
    return network, network


def script(network, examples):
    frozen = torch.jit.freeze(torch.jit.trace(network, examples(2), check_trace=False).eval())
    return frozen, frozen


def aoti(network, examples):
    """One package for all batches; the second way to run it is the one that a capture needs."""
    batch = torch.export.Dim("batch", min=1, max=max(BATCHES))
    with tempfile.TemporaryDirectory(prefix="inf-aoti-") as folder:
        program = torch.export.export(network, (examples(2),), dynamic_shapes=({0: batch},))
        path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/network.pt2")
        return torch._inductor.aoti_load_package(path), torch._inductor.aoti_load_package(path, run_single_threaded=True)


def is_near(output, expected):
    return (output.float() - expected.float()).abs().max() <= TOLERANCE * expected.float().abs().max()


def plain(device, title, call, example, expected):
    if not is_near(call(example), expected):
        return say(f"E8 {title}", why=OTHER_RESULTS)
    return say(f"E8 {title}", median_us(device, lambda: call(example)))


def as_graph(device, title, call, example, expected):
    """What it gives is what the network gives without a graph."""
    try:
        replay, output = device.capture(call, example)
        output.zero_()
        replay()
        device.synchronize()
    except Exception as error:  # whatever torch raises: a capture that is refused is a finding
        return say(f"E9 {title}, graph", why=first_line(error))
    if not is_near(output, expected):
        return say(f"E9 {title}, graph", why=OTHER_RESULTS)
    return say(f"E9 {title}, graph", median_us(device, replay))


def run(name, engine, device, dry):
    """All sizes without graphs first: a capture that fails may spoil what comes after it."""
    network = nets.make(name, dry).to(device.name, device.dtype)

    def examples(n):
        return nets.example(name, n, dry, device.dtype).to(device.name)

    with torch.inference_mode() if engine != "aoti" else torch.no_grad():
        try:
            call, single = {"eager": eager, "script": script, "aoti": aoti}[engine](network, examples)
        except Exception as error:  # a compiler that is missing, an operator that is not supported
            return say(f"E8 {name}, {engine}", why=first_line(error))
        cases = [(f"{name}, {engine}, batch {n}", examples(n)) for n in device.batches]
        cases = [(title, example, network(example).clone()) for title, example in cases]
        for title, example, expected in cases:
            plain(device, title, call, example, expected)
        for title, example, expected in cases:
            as_graph(device, title, single, example, expected)
    return None


def export(name, path, dry):
    """Host tensors are f32 (or indexes); inside it is what the device would run."""
    import infexport

    network = nets.Half(nets.make(name, dry)) if not dry else nets.make(name, dry)
    with torch.inference_mode():
        infexport.export(network, path, [infexport.Tensor("x", nets.example(name, 2, dry, torch.float32), range=nets.allowed(name, dry))],
                         ["logits"], max_batch=4 if dry else 64 if name == "mlp" else 32, tolerance=1e-2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=nets.NAMES)
    parser.add_argument("engine", choices=["eager", "script", "aoti", "export"])
    parser.add_argument("path", nargs="?")
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(1)
    if options.engine == "export":
        export(options.network, options.path, options.dry)
    elif not options.dry and not torch.cuda.is_available():
        say(f"E8 {options.network}, {options.engine}", why=f"torch {torch.__version__} sees no CUDA device")
    else:
        run(options.network, options.engine, Rehearsal if options.dry else Cuda, options.dry)


if __name__ == "__main__":
    main()
