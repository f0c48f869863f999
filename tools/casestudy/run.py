#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The case study: the same photographs, answered in six ways, in turns, and one table.

Each way ("row") is some processes that are started once and then driven by lines on stdin: "go SECONDS" makes
a process work for so long and answer with one line of JSON. Only one row works at a time; the rows take turns,
starting with another one in each round, so that what the machine does meanwhile hits all of them alike.

Two phases:
  alone   each row runs while no other process of ours exists: its memory is the sum of the PSS of all its
          processes (the broker's too). Where a row has variants, the one with the higher rate is kept.
  rounds  the rows that were kept are started together and take turns.

Nothing here is typed in but the guide's own numbers, which stand beside for comparison.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

GUIDE = (
    ("the guide: one process", "120", "8", "30"),
    ("the guide: batches", "85", "47", "85"),
    ("the guide: shared memory", "50", "200", "95"),
)
CORES = len(os.sched_getaffinity(0))
SETTLE_S = 0.1  # OpenMP's threads spin for some ms after their last work


def say(text):
    print(f"  {text}", file=sys.stderr, flush=True)


class Worker:
    """One process that obeys "go SECONDS"."""

    def __init__(self, command, env):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=dict(os.environ, **env))

    def start(self, seconds):
        self.process.stdin.write(f"go {seconds}\n")
        self.process.stdin.flush()

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.wait()}")

    def stop(self):
        try:
            self.process.stdin.close()
            self.process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Broker:
    """A front with its executor on a private socket, ready to answer."""

    def __init__(self, options, models):
        self.folder = tempfile.mkdtemp(prefix="infbroker-casestudy-")
        self.socket = os.path.join(self.folder, "socket")
        self.log = open(os.path.join(self.folder, "log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [f"{options.build}/infbroker", "--socket", self.socket, "--models", models], stderr=self.log)
        self.wait_ready(options)

    def wait_ready(self, options):
        for _ in range(1200):
            listing = subprocess.run(
                [f"{options.build}/shmctl", "models", "-j"], capture_output=True, text=True, check=False,
                env=dict(os.environ, INFBROKER_SOCKET=self.socket))
            if re.search(r'"state": *"ready"', listing.stdout):
                return
            if self.process.poll() is not None or re.search(r'"state": *"failed"', listing.stdout):
                break
            time.sleep(0.1)
        self.log.seek(0)
        raise RuntimeError("the broker does not serve the model:\n" + self.log.read() + listing.stdout)

    def pids(self):
        pid = self.process.pid
        return [pid] + children(pid)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def children(pid):
    """All descendants."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        direct = [int(child) for child in file.read().split()]
    return direct + [below for child in direct for below in children(child)]


class Row:
    """Some processes that answer photographs together. `leads`: the first process of each only hands on orders to its
    children, and its memory is not counted."""

    def __init__(self, key, title, commands, broker=False, leads=False):
        self.key, self.title, self.commands = key, title, commands
        self.needs_broker, self.leads = broker, leads
        self.workers, self.broker = [], None
        self.memory_mb = 0.0
        self.rounds = []

    def start(self, broker=None):
        self.broker = broker if self.needs_broker else None
        env = {"INFBROKER_SOCKET": broker.socket} if self.broker else {}
        self.workers = [Worker(command, env) for command in self.commands]

    def go(self, seconds):
        before = cpu_ticks()
        for worker in self.workers:
            worker.start(seconds)
        answers = [worker.answer() for worker in self.workers]
        return measure(answers, before, cpu_ticks())

    def measure_memory(self):
        pids = []
        for worker in self.workers:
            pids += ([] if self.leads else [worker.process.pid]) + children(worker.process.pid)
        pids += self.broker.pids() if self.broker else []
        self.memory_mb = sum(pss_mb(pid) for pid in pids)

    def stop(self):
        for worker in self.workers:
            worker.stop()
        self.workers = []

    def median(self, name):
        return statistics.median(entry[name] for entry in self.rounds)


def cpu_ticks():
    """(busy, all) ticks of the whole machine."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def pss_mb(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return int(re.search(r"^Pss: +(\d+) kB", file.read(), re.M).group(1)) / 1024


def percentile(values, share):
    return values[min(len(values) - 1, int(share * len(values)))]


def measure(answers, before, after):
    errors = sum(answer.get("errors", 0) for answer in answers)
    if errors:
        raise RuntimeError(f"{errors} answers were wrong")
    latencies = sorted(us for answer in answers for us in answer["latencies_us"])
    if not latencies:
        raise RuntimeError("not one image was answered in a round: make it longer (--seconds)")
    return {
        "images_per_s": sum(answer["images"] / answer["seconds"] for answer in answers),
        "p50_ms": percentile(latencies, 0.50) / 1000,
        "p99_ms": percentile(latencies, 0.99) / 1000,
        "busy_percent": 100 * (after[0] - before[0]) / max(1, after[1] - before[1]),
    }


def plan(options):
    """The rows, each with its variants."""
    def python(key, title, processes, threads):
        command = [options.setup, "--run", options.baseline, "--processes", str(processes), "--threads", str(threads)]
        return Row(key, "Python, " + title, [command + options.files], leads=True)

    def client(key, title, processes, depth):
        command = [f"{options.build}/infclassify", "--bench-stdin", "--model", options.name,
                   "--processes", str(processes), "--depth", str(depth)]
        return Row(key, "broker, " + title, [command + options.files], broker=True)

    def floor(title, way):
        return Row("floor", "plug-in in a loop, " + title,
                   [[f"{options.build}/tests/plugin_loop", options.plugin, options.model, way, "1x3x224x224"]])

    return [
        [python("a", "1 process, 1 thread", 1, 1)],
        [python("b", "4 processes, own copies", 4, 0)],
        [python("b2", "a process per core, default threads", CORES, 0),
         python("b2", "a process per core, 1 thread each", CORES, 1)],
        [client("c", "4 processes, synchronous", 4, 1)],
        [client("d", f"4 processes, {options.depth} in flight each", 4, options.depth)],
        [floor("a thread on each core", "each"), floor("one call on all cores", "all")],
    ]


def run_alone(options, variants):
    """Measures memory, and keeps the variant with the higher rate."""
    best, best_rate = None, -1.0
    for row in variants:
        broker = Broker(options, options.models) if row.needs_broker else None
        try:
            row.start(broker)
            row.go(1)  # the first images are warm-up
            rate = row.go(options.seconds)["images_per_s"]
            row.measure_memory()
        finally:
            row.stop()
            if broker:
                broker.stop()
        say(f"({row.key}) {row.title}: {rate:.1f} images/s alone, {row.memory_mb:.0f} MB")
        if rate > best_rate:
            best, best_rate = row, rate
    return best


def run_rounds(options, rows):
    broker = Broker(options, options.models)
    try:
        for row in rows:
            row.start(broker)
            row.go(1)
        for idx in range(options.rounds):
            first = idx % len(rows)
            for row in rows[first:] + rows[:first]:
                time.sleep(SETTLE_S)
                row.rounds.append(row.go(options.seconds))
            say(f"round {idx + 1} of {options.rounds}: " + "  ".join(
                f"{row.key} {row.rounds[-1]['images_per_s']:.1f}" for row in rows) + "  images/s")
    finally:
        for row in rows:
            row.stop()
        broker.stop()


def ratio(rows, over, under):
    """Per round, so that a slow moment of the machine cancels out: (median, least, most)."""
    pairs = zip(rows[over].rounds, rows[under].rounds)
    values = [a["images_per_s"] / b["images_per_s"] for a, b in pairs]
    return statistics.median(values), min(values), max(values)


def print_table(options, rows, ratios):
    heads = ("", "p50 ms", "p99 ms", "images/s", "CPU busy %", "memory MB (PSS)")
    line = "  {:52s} {:>8s} {:>8s} {:>9s} {:>11s} {:>16s}"
    print(f"\nMedians of {options.rounds} interleaved rounds of {options.seconds:g} s each, {CORES} cores, no GPU")
    print(line.format(*heads))
    for title, latency, rate, busy in GUIDE:
        print(line.format(title, latency, "-", rate, busy, "-"))
    for row in rows.values():
        print(line.format(f"({row.key}) {row.title}", f"{row.median('p50_ms'):.1f}", f"{row.median('p99_ms'):.1f}",
                          f"{row.median('images_per_s'):.1f}", f"{row.median('busy_percent'):.0f}",
                          f"{row.memory_mb:.0f}"))
    print("  The guide's lines are its own numbers, on its own machine with a GPU: there \"busy\" is the GPU.\n")
    for name, (middle, least, most) in ratios.items():
        print(f"  {name:14s} {middle:6.3f}   ({least:.3f} to {most:.3f} over the rounds)")
    print(f"  {'memory (c)/(b)':14s} {rows['c'].memory_mb / rows['b'].memory_mb:6.3f}\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--models", required=True, help="folder that the broker serves")
    parser.add_argument("--name", required=True, help="model in it")
    parser.add_argument("files", nargs="+", help="photographs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one row's turn")
    parser.add_argument("--depth", type=int, default=8, help="requests in flight of each process of row d")
    parser.add_argument("--only", help="keys of the rows to run, as in c,floor: no table, ratios alone")
    options = parser.parse_args()
    options.model = f"{options.models}/{options.name}.pt"
    here = os.path.dirname(os.path.abspath(__file__))
    options.baseline = os.path.join(here, "baseline.py")
    options.setup = os.path.join(here, "..", "setup", "torch.sh")
    options.plugin = f"{options.build}/backends/libinf-backend-torch.so"

    rows = {}
    for variants in plan(options):
        if options.only and variants[0].key not in options.only.split(","):
            continue
        row = run_alone(options, variants)
        rows[row.key] = row
    run_rounds(options, list(rows.values()))
    ratios = {f"({over})/({under})": ratio(rows, over, under)
              for over, under in (("c", "floor"), ("d", "floor"), ("c", "b2"), ("d", "b2"))
              if over in rows and under in rows}
    if options.only:
        print(json.dumps(ratios))
        return
    print_table(options, rows, ratios)
    os.makedirs(f"{options.build}/case-study", exist_ok=True)
    with open(f"{options.build}/case-study/results.json", "w", encoding="utf-8") as file:
        json.dump({"rounds": options.rounds, "seconds": options.seconds, "cores": CORES,
                   "rows": {row.key: {"title": row.title, "memory_mb": row.memory_mb, "rounds": row.rounds}
                            for row in rows.values()},
                   "ratios": ratios}, file, indent=1)


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, KeyboardInterrupt) as error:
        sys.exit(f"case study: {error or 'interrupted'}")
