#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""E10: what a broker adds on a device: it and an offline loop in one process on the same device, in turns.

    end_to_end.py [--build DIR] [--dry] throughput | latency | bandwidth | cpu | busy | resnet50 | bert | mlp

A line of JSON for each figure: {"key", "name", "value", "floor", "ratio", "spread", "unit"}; medians of rounds, the ratio taken
within each round, its spread the inter-quartile range over the median. Networks are exported with random weights and served by
the torch plug-in; with --dry in small, on the CPU, since libtorch cannot use a driver in software.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "bench"))
import drivers

ROUNDS = 5
IMAGE_ROWS = 147  # of identity_f32, 4 KiB each: the bytes of an image of 3 x 224 x 224 floats
BATCHES = {"resnet50": 32, "bert": 32, "mlp": 64}
SPIN_BASE_US, SPIN_ROW_US, SPIN_ROWS = 1000, 100, 16


def say(**row):
    print(json.dumps(row), flush=True)


def torch_command():
    """How a Python with torch is run: the project's, else the one that runs this; None where neither has it."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    for command in (["tools/setup/torch.sh", "--run"], [sys.executable]):
        if subprocess.run([*command, "-c", look], capture_output=True, check=False).returncode == 0:
            return command
    return None


def spread(values):
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / abs(statistics.median(values))


class Bench:
    """Workers that take turns, and what came of it."""

    def __init__(self, options):
        self.setting = drivers.Setting(options.build)
        self.dry = options.dry
        self.rounds = 3 if options.dry else ROUNDS
        self.seconds = 0.15 if options.dry else 0.6

    def loop(self, *arguments):
        return self.setting.keep(drivers.Worker([self.setting.program("device_loop"), *map(str, arguments)]))

    def load(self, broker, model, *arguments):
        """infbench: tensors on the host. Rows, not requests, are what is counted."""
        return self.setting.keep(drivers.Load(self.setting, broker, [*map(str, arguments), model]))

    def device_load(self, broker, model, rows, places):
        return self.setting.keep(drivers.Worker([self.setting.program("device_load"), broker.socket, model, str(rows), str(places)]))

    def pair(self, ours, floor, keys):
        """keys: {key: (name, unit, figure of a result)}"""
        figures = {key: [] for key in keys}
        for _ in range(self.rounds):
            results = ours.go(self.seconds), floor.go(self.seconds)
            for key, (_, _, figure) in keys.items():
                figures[key].append(tuple(map(figure, results)))
        ours.stop()
        floor.stop()
        for key, (name, unit, _) in keys.items():
            ratios = [value / beside for value, beside in figures[key]]
            say(key=key, name=f"E10 {name}", unit=unit, value=statistics.median(value for value, _ in figures[key]),
                floor=statistics.median(beside for _, beside in figures[key]), ratio=statistics.median(ratios), spread=spread(ratios))

    def alone(self, ours, key, name, unit, figure):
        values = [figure(ours.go(self.seconds)) for _ in range(self.rounds)]
        ours.stop()
        say(key=key, name=f"E10 {name}", unit=unit, value=statistics.median(values))


def rate(result):
    """Rows a second, of infbench or of a loop."""
    return result["requests"] * result["rows"] / result["seconds"] if "requests" in result else result["rows"] / result["seconds"]


def latency(quantile):
    return lambda result: result["latency_us"][quantile] if "latency_us" in result else result[f"{quantile}_us"]


def latencies(key, name):
    return {f"{key} {quantile}": (f"{name}, {quantile}", "us", latency(quantile)) for quantile in ("p50", "p99")}


# --- models that need no file --------------------------------------------------------------------------------------------


def builtin_broker(bench, *options, **more):
    broker = bench.setting.broker("--builtin", "--device", "cuda", *options, **more)
    need_device(broker)
    return broker


def need_device(broker):
    if broker.status()["executor"]["device"] != "cuda:0":
        with open(broker.log_path, encoding="utf-8") as log:
            raise RuntimeError(next((line.strip() for line in log if "CPU only" in line), "the broker has no device"))


def throughput(bench):
    broker, name = builtin_broker(bench), "identity_f32, batches of 256 rows (1 MiB)"
    bench.pair(bench.load(broker, "identity_f32", "-r", 256, "-d", 4), bench.loop("builtin", "identity_f32", 256, "host", 3),
               {"host": (f"{name}, host tensors", "rows/s", rate)})
    bench.pair(bench.device_load(broker, "identity_f32", 256, 4), bench.loop("builtin", "identity_f32", 256, "device", 3),
               {"device": (f"{name}, device tensors", "rows/s", rate)})


def one_client(bench):
    broker, spinning = builtin_broker(bench), ("-r", IMAGE_ROWS, "-d", 1, "--poll")
    bench.pair(bench.load(broker, "identity_f32", *spinning), bench.loop("builtin", "identity_f32", IMAGE_ROWS, "host", 1),
               latencies("host latency", "600 kB there and back, host tensors, one spinning client"))
    bench.pair(bench.device_load(broker, "identity_f32", IMAGE_ROWS, 1), bench.loop("builtin", "identity_f32", IMAGE_ROWS, "device", 1),
               latencies("device latency", "600 kB, device tensors, one spinning client"))
    bench.pair(bench.load(broker, "identity_f32", *spinning[:-1]), bench.load(broker, "identity_f32", *spinning),
               latencies("sleeping", "600 kB there and back, host tensors, a client that sleeps beside one that spins"))


def bandwidth(bench):
    broker = builtin_broker(bench)
    for kib, depth in ((256, 32), (64, 64)):
        rows = kib // 4
        bench.alone(bench.load(broker, "identity_f32", "-r", rows, "-d", depth), f"bandwidth {kib} KiB",
                    f"copied in, requests of {kib} KiB", "GB/s", lambda result: rate(result) * 4096 / 1e9)


def busy(bench):
    """A model whose time is known: what share of the time was it running? Of one instance: kernels of two would overlap."""
    cost_s = (SPIN_BASE_US + SPIN_ROW_US * SPIN_ROWS) / 1e6
    broker = builtin_broker(bench, "--instances", "1", env={"INF_BUILTIN_COST": f"{SPIN_BASE_US},{SPIN_ROW_US}"})
    bench.alone(bench.load(broker, "spin", "-r", SPIN_ROWS, "-d", 6), "busy", "share of the time in which a kernel runs, 2.6 ms each",
                "", lambda result: rate(result) / SPIN_ROWS * cost_s)


def cpu(bench):
    """Two batches of 32 take turns."""
    broker, values = builtin_broker(bench), []
    ours = bench.load(broker, "identity", "-d", 64)
    for _ in range(bench.rounds):
        begin_ns = drivers.cpu_ns(broker.pids())
        result = ours.go(bench.seconds)
        values.append((drivers.cpu_ns(broker.pids()) - begin_ns) / 1e3 / result["requests"])
    say(key="cpu", name="E10 CPU of front and executor for a request, 64 in flight", unit="us", value=statistics.median(values))


# --- networks ------------------------------------------------------------------------------------------------------------


def network(bench, name):
    """One row a request, as clients send them, four batches' worth of them outstanding; the offline loop has whole batches."""
    plugin = f"{bench.setting.build}/backends/libinf-backend-torch{'' if bench.dry else '-cuda'}.so"
    keys = f"{name} host", f"{name} device"

    def cannot(key, why):
        say(key=key, name=f"E10 {key} tensors", why=why)

    if not os.path.exists(plugin):
        for key in keys:
            cannot(key, f"{os.path.basename(plugin)} was not built: `make` found no torch for it, or no nvcc")
        return
    if bench.dry:
        cannot(keys[1], "libtorch cannot use a driver in software")
    with tempfile.TemporaryDirectory(prefix="inf-models-") as folder:
        export = [*torch_command(), f"{HERE}/networks.py", name, "export", f"{folder}/{name}.pt"]
        subprocess.run([*export, *(["--dry"] if bench.dry else [])], check=True, stdout=sys.stderr)
        rows = 4 if bench.dry else BATCHES[name]
        broker = bench.setting.broker("--models", folder, *([] if bench.dry else ["--device", "cuda"]))
        if not bench.dry:
            need_device(broker)
        what = f"{name}, random weights, batches of {rows}"
        file, places = f"{folder}/{name}.pt", 1 if bench.dry else 3
        bench.pair(bench.load(broker, name, "-d", 4 * rows), bench.loop(plugin, file, rows, "cpu" if bench.dry else "host", places),
                   {keys[0]: (f"{what}, host tensors{', ON THE CPU' if bench.dry else ''}", "rows/s", rate)})
        if not bench.dry:
            bench.pair(bench.device_load(broker, name, rows, 4), bench.loop(plugin, file, rows, "device", places),
                       {keys[1]: (f"{what}, device tensors", "rows/s", rate)})


def in_one_line(error):
    """What went wrong, and of a broker's log that comes with it the line that tells most."""
    first, *log = str(error).splitlines() or [""]
    for pattern in ("CUDA_ERROR|CPU only", "lost|cannot|fail", ""):
        telling = [line for line in log if re.search(pattern, line)]
        if telling:
            return f"{first} {telling[-1]}"
    return first


PARTS = {"throughput": throughput, "latency": one_client, "bandwidth": bandwidth, "cpu": cpu, "busy": busy,
         **{name: lambda bench, name=name: network(bench, name) for name in BATCHES}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("part", choices=PARTS)
    options = parser.parse_args()
    os.chdir(os.path.join(HERE, "..", ".."))
    bench = Bench(options)
    try:
        PARTS[options.part](bench)
    except RuntimeError as error:
        raise SystemExit(in_one_line(error)) from None
    finally:
        bench.setting.stop_all()


if __name__ == "__main__":
    main()
