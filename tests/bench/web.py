#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench-web`: an image service of four worker processes, with the network in each and with a broker beside them.

    web.py [--build DIR] [--quick]

client/python/examples has both services and both queues. Each round loads the two services in turn with 16 connections of the demo's
photographs, and checks every answer. The floor is the fastest of four ways to run the network without a broker: eager
or TorchScript, with PyTorch's default threads or one. Memory is the proportional set size of all processes of a service,
executor and broker included, each alone on the machine: what both map would else be halved between them. Writes
DIR/bench/web.json in the form of results.json.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import bench
import drivers
import rows

EXAMPLES = os.path.normpath(os.path.join(HERE, "../../client/python/examples"))
CONNECTIONS = 16
PHOTOS = ("china.jpg", "flower.jpg")


def python_of(what):
    found = subprocess.run(["tools/setup/venv.sh", "--python", what], capture_output=True, text=True, check=False)
    if found.returncode:
        raise drivers.Unavailable(f"no virtual environment {what} here (make python)")
    return found.stdout.strip()


def packages_of(python):
    return subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True,
                          check=True).stdout.strip()


def pss_mb(pids):
    """Each page counted as the share that a process has of it."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except OSError:
            continue
    return total / 1024


def ways_before(build):
    """Environments of the examples without a broker: see examples/network.py."""
    script, single = {"TORCH_MODEL": os.path.abspath(f"{build}/demo/models/efficientnet-lite0.pt")}, {"TORCH_THREADS": "1"}
    return {"eager": {}, "eager, 1 thread": single, "TorchScript": script, "TorchScript, 1 thread": script | single}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Service:
    """uvicorn with four workers."""

    def __init__(self, setting, app, env):
        self.port = free_port()
        # torch's own Python for both, so that the two differ in nothing else.
        self.process = subprocess.Popen(
            ["tools/setup/torch.sh", "--run", "-m", "uvicorn", "--app-dir", EXAMPLES, f"{app}:app", "--workers", "4", "--port",
             str(self.port), "--log-level", "warning"],
            env={**os.environ, "PYTHONPATH": f"{setting.tool('python')}:{packages_of(python_of('python'))}", **env},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pids(self):
        return [self.process.pid] + drivers.children(self.process.pid)

    def stop(self):
        if self.process.poll() is not None:
            return
        for pid in reversed(self.pids()):
            try:
                os.kill(pid, 15)
            except OSError:
                pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            for pid in self.pids():
                os.kill(pid, 9)


class Photo:
    """A JPEG and the class that PyTorch itself sees in it."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.jpeg = file.read()
        said = subprocess.run(["tools/setup/torch.sh", "--run", "tools/export/efficientnet_lite0.py", "predict", path],
                              capture_output=True, text=True, check=True)
        self.top = json.loads(said.stdout.splitlines()[-1])["top"][0]["class"]


async def load(port, photos, seconds):
    """16 connections for that long: requests/s. A wrong answer ends the bench."""
    import aiohttp

    url, until, n = f"http://127.0.0.1:{port}/classify", time.monotonic() + seconds, 0

    async def one(session, i):
        nonlocal n
        while time.monotonic() < until:
            photo = photos[i % len(photos)]
            async with session.post(url, data=photo.jpeg) as answer:
                found = await answer.json()
            if found["class"] != photo.top:
                raise RuntimeError(f"a photograph of class {photo.top} was answered with {found}")
            n, i = n + 1, i + 1

    async with aiohttp.ClientSession() as session:
        begin = time.monotonic()
        await asyncio.gather(*[one(session, i) for i in range(CONNECTIONS)])
        return n / (time.monotonic() - begin)


def await_up(service, photos):
    until = time.monotonic() + 60
    while True:
        try:
            asyncio.run(load(service.port, photos, 0.1))
            break
        except OSError:
            if time.monotonic() > until or service.process.poll() is not None:
                raise RuntimeError(f"the service at port {service.port} does not come up") from None
            time.sleep(0.3)
    # Each of the four has seen some requests: its memory is as it will be.
    asyncio.run(load(service.port, photos, 2))


class Web(rows.Group):
    name, seconds, rounds, seconds_max = "web", 4.0, 5, 200

    def declare(self):
        yield rows.row("web.throughput", "4 workers, 16 connections: photographs/s", "requests/s", 1.1,
                       "the network in each worker", at_most=False, steady=False)
        yield rows.row("web.memory", "memory of all processes of the service", "MB", 0.5, "the network in each worker")

    def setup(self, setting):
        build = rows.need_torch(setting, "tools/demo/export.sh")
        self.photos = [Photo(f"{build}/demo/{name}") for name in PHOTOS]
        found = {}
        for way, env in ways_before(build).items():
            service = setting.keep(Service(setting, "service_before", env))
            await_up(service, self.photos)
            rate = asyncio.run(load(service.port, self.photos, 3))
            found[way] = rate, pss_mb(service.pids()), env
            service.stop()
            print(f"web: {way}: {rate:.1f} photographs/s, {found[way][1]:.0f} MB", flush=True)
        _, before_mb, env = max(found.values(), key=lambda one: one[0])
        self.broker = setting.broker("--models", f"{build}/demo/models")
        self.after = setting.keep(Service(setting, "service_after", self.broker.env))
        await_up(self.after, self.photos)
        self.memory = pss_mb(self.after.pids() + self.broker.pids()), before_mb
        self.before = setting.keep(Service(setting, "service_before", env))
        await_up(self.before, self.photos)

    def round(self, setting, idx, seconds):
        after, before = rows.in_turn(idx, *[lambda s=s: asyncio.run(load(s.port, self.photos, seconds))
                                            for s in (self.after, self.before)], settle=0.2)
        return {"web.throughput": (after, before), "web.memory": self.memory}


class Queue(rows.Group):
    name, rounds, seconds_max = "queue", 3, 120

    def declare(self):
        yield rows.row("queue.throughput", "the guide's queue of 100 in one asyncio loop", "images/s", None,
                       "PyTorch in a pool of threads, Semaphore(10)", at_most=False, steady=False)
        yield rows.row("queue.p99", "its p99", "ms", None, "the same", steady=False)

    def setup(self, setting):
        build = rows.need_torch(setting, "tools/demo/export.sh")
        self.photo = f"{build}/demo/china.jpg"
        rates = {way: self.ask(setting, "queue_before", env)[0] for way, env in ways_before(build).items()}
        for way, rate in rates.items():
            print(f"queue: {way}: {rate:.1f} images/s", flush=True)
        self.way = ways_before(build)[max(rates, key=rates.get)]
        self.broker = setting.broker("--models", f"{build}/demo/models")

    def ask(self, setting, which, env):
        result = subprocess.run(
            ["tools/setup/torch.sh", "--run", f"{EXAMPLES}/{which}.py", self.photo], capture_output=True, text=True, check=True,
            env={**os.environ, **env, "PYTHONPATH": setting.tool("python")})
        answer = json.loads(result.stdout.splitlines()[-1])
        return 100 / answer["seconds"], statistics.quantiles(answer["latencies_ms"], n=100)[98]

    def round(self, setting, idx, seconds):
        after, before = rows.in_turn(idx, lambda: self.ask(setting, "queue_after", self.broker.env),
                                     lambda: self.ask(setting, "queue_before", self.way))
        return {"queue.throughput": (after[0], before[0]), "queue.p99": (after[1], before[1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    sys.path.append(packages_of(python_of("python")))  # aiohttp, for the load
    setting = drivers.Setting(options.build, options.quick)
    groups = [Web(), Queue()]
    found = bench.run(groups, setting, options.quick)
    print(bench.table(found))
    print(f"  {bench.write(found, groups, setting, 'web')}/web.json")
    return 0 if all(line["rounds"] for line in found) else 1


if __name__ == "__main__":
    sys.exit(main())
