# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmark, in groups that share what they start.

A group is set up once and then asked for rounds; one round measures each of its rows once, floor and broker side by
side, and returns {row's name: (value, floor)}. Orders alternate, so that neither always goes first.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time

import drivers
from drivers import APART, FAR, NEAR, TOGETHER, Unavailable

US, NS, RATE, SHARE = "us", "ns", "requests/s", "x"


class Row:
    """One line of the table. `goal` is a ratio to the floor or, with absolute=True, a value; at_most or at_least.
    `only_if(value, floor)` False = the goal does not apply on this machine."""

    def __init__(self, name, title, unit, goal, floor_name=None, at_most=True, absolute=False, steady=True,
                 only_if=None, why_not=""):
        self.name, self.title, self.unit, self.goal = name, title, unit, goal
        self.floor_name, self.at_most, self.absolute, self.steady = floor_name, at_most, absolute, steady
        self.only_if, self.why_not = only_if, why_not
        self.rounds = []  # (value, floor or None)
        self.latencies = {}  # title -> [[upper_us, n], ...] for the drawing
        self.unavailable = None


class Group:
    """Some rows. `rounds`: how many at least, time permitting; `seconds`: of one measurement in a round."""

    name, rounds, seconds = "", 7, 0.3
    seconds_max, quick_seconds_max = 45, 10  # of the group: all of them end in 10 minutes, a quick look in 90 seconds
    rows = ()

    def __init__(self):
        self.rows = [Row(*args, **options) for args, options in self.declare()]

    def row(self, name):
        return next(row for row in self.rows if row.name == name)

    def setup(self, setting):
        pass

    def round(self, setting, idx, seconds):
        raise NotImplementedError

    def declare(self):
        raise NotImplementedError


def row(*args, **options):
    return args, options


def in_turn(idx, *measures, settle=0.0):
    """Calls all of them, beginning with another one each time; the results in their own order."""
    results = [None] * len(measures)
    for step in range(len(measures)):
        at = (idx + step) % len(measures)
        time.sleep(settle)
        results[at] = measures[at]()
    return results


def p50(result):
    return result["latency_us"]["p50"]


def p99(result):
    return result["latency_us"]["p99"]


def floor_p50_us(setting, name, seconds, *options):
    return setting.floor(name, seconds, *options)["p50_ns"] / 1000


# --- without a broker -------------------------------------------------------------------------------------------


class Ring(Group):
    name = "ring"

    def declare(self):
        yield row("ring.rtt", "a descriptor there and back, both ends spinning", NS, 1.6,
                  "cache-line ping-pong on the same two cores")
        yield row("ring.rate", "submissions of one lane, bursts of 8, fences on", "M/s", 40,
                  "one hop of a cache line, as a rate", at_most=False, absolute=True,
                  only_if=lambda value, floor: 1e3 / floor <= 60, why_not="a hop takes more than 60 ns here")

    def round(self, setting, idx, seconds):
        line, rtt, rate = in_turn(idx, lambda: setting.floor("line", seconds, "--cpus", APART)["p50_ns"],
                                  lambda: setting.run("ring", "rtt", seconds, "--cpus", APART)["p50_ns"],
                                  lambda: setting.run("ring", "rate", seconds, "--cpus", APART)["p50_ns"])
        return {"ring.rtt": (rtt, line), "ring.rate": (1e3 / rate, 1e3 / (line / 2))}


class Costs(Group):
    name = "costs"

    def declare(self):
        yield row("connect", "open a session until its first answer", US, 3.0, "fork and exec of /bin/true")
        yield row("alloc", "take and give an input block", NS, 30, absolute=True)
        yield row("alloc.calls", "system calls of that, after warm-up", "per pair", 0.001, absolute=True,
                  steady=False)
        yield row("probe.cost", "a USDT probe that nobody watches", NS, 1.0, "the same loop without it: less its time",
                  absolute=True, steady=False)
        yield row("copy.rate", "600 kB rows: gather in and copy out", "GB/s", 0.9, "memcpy", at_most=False)

    def setup(self, setting):
        self.broker = setting.broker("--builtin")

    def cost(self, setting, name, seconds):
        return setting.run("client_costs", name, seconds, "--cpus", NEAR, env=self.broker.env)

    def calls(self, setting, seconds):
        try:
            drivers.can_count_calls()
        except Unavailable as error:
            self.row("alloc.calls").unavailable = str(error)
            return 0
        short, long = self.traced(setting, 0.02), self.traced(setting, 0.02 + seconds)
        return max(0, long[0] - short[0]) / max(1, long[1] - short[1])

    def traced(self, setting, seconds):
        """(system calls, pairs) of a whole run."""
        command = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", setting.program("client_costs"), "alloc",
                   "--ms", str(int(seconds * 1000))]
        result = subprocess.run(command, capture_output=True, text=True, check=True,
                                env={**os.environ, **self.broker.env})
        calls = int(next(line for line in result.stderr.splitlines() if "sys_enter" in line).split(",")[0])
        chunks = json.loads(result.stdout)["n"]
        return calls, chunks * 256

    def round(self, setting, idx, seconds):
        connect, spawn = in_turn(idx, lambda: self.cost(setting, "connect", seconds)["p50_ns"] / 1000,
                                 lambda: floor_p50_us(setting, "spawn", seconds, "--cpus", TOGETHER))
        copies, memcpy = in_turn(idx, lambda: setting.run("copies", "run", seconds, "--cpus", NEAR)["p50_ns"],
                                 lambda: setting.floor("memcpy", seconds, "--cpus", TOGETHER)["p50_ns"])
        return {
            "connect": (connect, spawn),
            "alloc": (self.cost(setting, "alloc", seconds)["p50_ns"], None),
            "alloc.calls": (self.calls(setting, seconds), None),
            "probe.cost": (self.cost(setting, "probe", seconds)["p50_ns"], 0.0),
            "copy.rate": (2 * 600000 / copies, 600000 / memcpy),
        }


class Wakes(Group):
    name = "wake"

    def declare(self):
        floor = "32 sleepers woken by a write to an eventfd each"
        yield row("wake.32", "32 parked clients' batch completes: until the front is free", US, 0.9, floor)
        yield row("wake.32_last", "until the last of the 32 is awake", US, 1.1, floor)

    def round(self, setting, idx, seconds):
        ours, floor = in_turn(idx, lambda: setting.run("wakes", "32", seconds, lines=2),
                              lambda: setting.run("floors", "wakes", seconds, lines=2))
        pairs = [(a["p50_ns"] / 1000, b["p50_ns"] / 1000) for a, b in zip(ours, floor)]
        return {"wake.32": pairs[0], "wake.32_last": pairs[1]}


# --- the front alone --------------------------------------------------------------------------------------------


class Front(Group):
    name = "front"

    def declare(self):
        yield row("front.rtt_parked_near", "PING, client and front asleep, on one core", US, 1.20, "eventfd ping-pong")
        yield row("front.rtt_parked_far", "the same on two cores", US, 1.15, "eventfd ping-pong")
        yield row("front.rtt_spin", "PING, both spinning", US, 2.5, "cache-line ping-pong")

    def setup(self, setting):
        near = setting.broker("--builtin", "--no-spin", cpus=NEAR)
        far = setting.broker("--builtin", "--no-spin", cpus=FAR)
        spin = setting.broker("--builtin")
        spin.pin_front(FAR)
        self.near = setting.load(near, "--ping", "--cpus", NEAR)
        self.far = setting.load(far, "--ping", "--cpus", NEAR)
        self.spin = setting.load(spin, "--ping", "--cpus", NEAR)

    def round(self, setting, idx, seconds):
        near, near_floor, far, far_floor, spin, line = in_turn(
            idx, lambda: self.near.go(seconds),
            lambda: floor_p50_us(setting, "eventfd", seconds, "--cpus", TOGETHER),
            lambda: self.far.go(seconds),
            lambda: floor_p50_us(setting, "eventfd", seconds, "--cpus", APART),
            lambda: self.spin.go(seconds),
            lambda: floor_p50_us(setting, "line", seconds, "--cpus", APART))
        for name, result in (("front.rtt_parked_near", near), ("front.rtt_parked_far", far), ("front.rtt_spin", spin)):
            self.row(name).latencies[name] = result["histogram_us"]
        return {"front.rtt_parked_near": (p50(near), near_floor), "front.rtt_parked_far": (p50(far), far_floor),
                "front.rtt_spin": (p50(spin), line)}


# --- through the executor ------------------------------------------------------------------------------------------


class Null(Group):
    """Default placement is multimodal here: many short rounds."""

    name, rounds, seconds = "null", 25, 0.06

    def declare(self):
        relay = "three processes that wake each other by eventfd"
        yield row("null.rtt_parked_near", "identity, everybody asleep, on one core", US, 1.20, relay)
        yield row("null.rtt_parked_default", "the same, placed by the kernel", US, 1.25, relay, steady=False)
        yield row("null.rtt_spin", "identity, default wait rules, nobody asleep", US, 1.3,
                  "three processes with the same wait rules", steady=False)
        yield row("null.rtt_spin_us", "the same in microseconds", US, 6, absolute=True, steady=False,
                  floor_name="the same relay", only_if=lambda value, floor: floor <= 4,
                  why_not="the bare relay takes more than 4 us here")
        yield row("null.rate_64", "identity, one thread, 64 in flight", "M/s", 3, absolute=True, at_most=False,
                  steady=False)
        yield row("null.rate_256", "identity, one thread, 256 in flight", "M/s", 5, absolute=True, at_most=False,
                  steady=False)
        yield row("null.rate_parked", "256 in flight, everybody sleeps at once", "M/s", 1.5, absolute=True,
                  at_most=False, steady=False)
        yield row("null.rate_4", "four processes, 256 in flight each", "M/s", 0.9, "null.rate_256 of the same round",
                  at_most=False, steady=False)
        yield row("loop.epoll", "null.rtt_parked_near on the epoll loop", US, 1.2, "on io_uring")

    def setup(self, setting):
        near = setting.broker("--builtin", "--no-spin", cpus=NEAR)
        epoll = setting.broker("--builtin", "--no-spin", "--loop", "epoll", cpus=NEAR)
        parked = setting.broker("--builtin", "--no-spin")
        default = setting.broker("--builtin")
        self.loads = {
            "near": setting.load(near, "--cpus", NEAR, "identity"),
            "epoll": setting.load(epoll, "--cpus", NEAR, "identity"),
            "parked": setting.load(parked, "identity"),
            "spin": setting.load(default, "identity"),
            "64": setting.load(default, "-d", "64", "--sample", "64", "identity"),
            "256": setting.load(default, "-d", "256", "--sample", "64", "identity"),
            "256 parked": setting.load(parked, "-d", "256", "--sample", "64", "identity"),
            "256 x 4": setting.load(default, "-P", "4", "-d", "256", "--sample", "64", "identity"),
        }

    def round(self, setting, idx, seconds):
        measures = [lambda load=load: load.go(seconds) for load in self.loads.values()]
        measures += [lambda: floor_p50_us(setting, "relay", seconds, "--cpus", TOGETHER),
                     lambda: floor_p50_us(setting, "relay", seconds),
                     lambda: floor_p50_us(setting, "relay-spin", seconds)]
        near, epoll, parked, spin, r64, r256, rparked, r4, relay_near, relay, relay_spin = in_turn(idx, *measures)
        for name, result in (("null.rtt_parked_near", near), ("null.rtt_parked_default", parked),
                             ("null.rtt_spin", spin)):
            self.row(name).latencies[name] = result["histogram_us"]
        return {
            "null.rtt_parked_near": (p50(near), relay_near),
            "null.rtt_parked_default": (p50(parked), relay),
            "null.rtt_spin": (p50(spin), relay_spin),
            "null.rtt_spin_us": (p50(spin), relay_spin),
            "null.rate_64": (r64["rate"] / 1e6, None),
            "null.rate_256": (r256["rate"] / 1e6, None),
            "null.rate_parked": (rparked["rate"] / 1e6, None),
            "null.rate_4": (r4["rate"] / 1e6, r256["rate"] / 1e6),
            "loop.epoll": (p50(epoll), p50(near)),
        }


class Counting(Group):
    """The same load on a broker that counts, and on one that was built not to, with its own client.

    Two brokers of one build differ by up to 3 % for as long as they run (where their memory lies), so several pairs are asked."""

    name, rounds, seconds = "stats", 40, 0.1
    ROUNDS_PER_PAIR = 4

    def declare(self):
        yield row("stats.cost", "requests/s with statistics, 256 in flight", "M/s", 0.98, "a build without them", at_most=False,
                  steady=False)
        yield row("stats.cost_4", "4 in flight", "M/s", 0.98, "a build without them", at_most=False, steady=False)
        yield row("stats.traced", "256 in flight while somebody traces (no goal)", "M/s", None, "nobody does", at_most=False,
                  steady=False)

    def setup(self, setting):
        uncounted = drivers.Setting(setting.build + "/nostats")
        self.brokers = [setting.keep(drivers.Broker(which, ["--builtin"], None, {})) for which in (setting, uncounted)]
        self.loads = {depth: [setting.keep(drivers.Load(which, broker, ("-d", depth, "--sample", "64", "identity")))
                              for which, broker in zip((setting, uncounted), self.brokers)] for depth in ("256", "4")}

    def rates(self, idx, depth, seconds):
        counted, uncounted = in_turn(idx, *[lambda load=load: load.go(seconds) for load in self.loads[depth]])
        return counted["rate"] / 1e6, uncounted["rate"] / 1e6

    def traced(self, setting, seconds):
        command = [setting.tool("shmctl"), "trace", "--slow", "1h", "-d", str(seconds + 0.2)]
        with subprocess.Popen(command, env={**os.environ, **self.brokers[0].env}, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL):
            time.sleep(0.1)
            return self.loads["256"][0].go(seconds)["rate"] / 1e6

    def round(self, setting, idx, seconds):
        if idx and idx % self.ROUNDS_PER_PAIR == 0:
            setting.stop_all()
            self.setup(setting)
        all_in = self.rates(idx, "256", seconds)
        return {"stats.cost": all_in, "stats.cost_4": self.rates(idx, "4", seconds),
                "stats.traced": (self.traced(setting, seconds), all_in[0])}


class Syscalls(Group):
    name, seconds = "syscalls", 0.4

    def declare(self):
        where = "of client, front and executor"
        yield row("syscalls.hot", f"calls {where}, 256 in flight", "per request", 0.01, absolute=True, steady=False)
        yield row("syscalls.hot_yields", "sched_yields beside them (no goal)", "per request", None, absolute=True,
                  steady=False)
        yield row("syscalls.parked", f"calls {where}, everybody asleep, on one core", "per request", 8, absolute=True)
        yield row("syscalls.parked_default", "the same, placed by the kernel", "per request", 7, absolute=True,
                  steady=False)

    def setup(self, setting):
        drivers.can_count_calls()
        self.near = setting.broker("--builtin", "--no-spin", cpus=NEAR)
        self.parked = setting.broker("--builtin", "--no-spin")
        self.hot = setting.broker("--builtin")
        self.loads = [(self.hot, setting.load(self.hot, "-d", "256", "--sample", "64", "identity")),
                      (self.near, setting.load(self.near, "--cpus", NEAR, "identity")),
                      (self.parked, setting.load(self.parked, "identity"))]

    def count(self, broker, load, seconds):
        """perf counts in the middle of a round, so that its requests are those of the same time."""
        asked = broker.model("identity")["requests"]
        load.start(seconds + 0.6)
        time.sleep(0.2)
        before = broker.model("identity")["requests"]
        after = [0]

        def wait():
            time.sleep(seconds)
            after[0] = broker.model("identity")["requests"]

        calls, yields = drivers.count_calls(broker.pids() + load.pids(), seconds, wait)
        load.answer()
        done = max(1, after[0] - before)
        assert after[0] > asked
        return calls / done, yields / done

    def round(self, setting, idx, seconds):
        hot, near, parked = in_turn(
            idx, *[lambda broker=broker, load=load: self.count(broker, load, seconds) for broker, load in self.loads])
        return {"syscalls.hot": (hot[0], None), "syscalls.hot_yields": (hot[1], None),
                "syscalls.parked": (near[0], None), "syscalls.parked_default": (parked[0], None)}


class Idle(Group):
    name, seconds, many = "idle", 0.2, 1000

    def declare(self):
        yield row("idle.1000", "CPU of front and executor, 1,000 clients connected and idle, over 10 s", "%", 0.0,
                  absolute=True, steady=False)
        for name, title in (("spin_p50", "one active client beside them, spinning"), ("spin_p99", "its p99"),
                            ("parked_p50", "one active client beside them, parked"), ("parked_p99", "its p99")):
            yield row(f"idle.1000_{name}", title, US, 1.1, "with no other client", steady=name.endswith("p50"))

    def setup(self, setting):
        self.loads = {}
        self.cpu = None
        for kind, options in (("spin", []), ("parked", ["--no-spin"])):
            for n in (1, self.many):
                limit = ["--sessions-max", "1100", "--user-sessions-max", "1100", "--memory-max", "64G",
                         "--user-memory-max", "64G"]
                cpus = NEAR if kind == "parked" else None
                broker = setting.broker("--builtin", *options, *limit, cpus=cpus)
                if n > 1:
                    setting.keep(Idlers(setting, broker, n))
                pin = ["--cpus", NEAR] if kind == "parked" else []
                self.loads[kind, n] = setting.load(broker, *pin, "identity")
                if n > 1 and kind == "spin":
                    self.busiest = broker

    def round(self, setting, idx, seconds):
        if self.cpu is None:
            span = 10 if seconds >= self.seconds else 2
            time.sleep(0.5)
            before = self.busiest.cpu_ticks()
            time.sleep(span)
            self.cpu = 100 * (self.busiest.cpu_ticks() - before) / os.sysconf("SC_CLK_TCK") / span
        found = dict(zip(self.loads, in_turn(idx, *[lambda load=load: load.go(seconds)
                                                    for load in self.loads.values()])))
        result = {"idle.1000": (self.cpu, None)}
        for kind in ("spin", "parked"):
            for word, of in (("p50", p50), ("p99", p99)):
                result[f"idle.1000_{kind}_{word}"] = (of(found[kind, self.many]), of(found[kind, 1]))
        return result


class Idlers:
    """N processes that have connected and do nothing."""

    def __init__(self, setting, broker, n):
        self.process = subprocess.Popen([setting.program("idlers"), broker.socket, str(n)], stdout=subprocess.PIPE,
                                        text=True)
        if not self.process.stdout.readline().startswith("ready"):
            raise RuntimeError(f"{n} idle clients cannot be made here")

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Harm(Group):
    name, seconds = "spin.harm", 0.25

    def declare(self):
        for us in (5, 50):
            yield row(f"spin.harm_{us}", f"4 clients, {us} us of work per request: requests/s", RATE, 1.0,
                      "the same with --no-spin", at_most=False, steady=False)
            yield row(f"spin.harm_{us}_p99", "their p99", US, 1.2, "the same with --no-spin", steady=False)

    def setup(self, setting):
        self.loads = {}
        for us in (5, 50):
            for options in ((), ("--no-spin",)):
                broker = setting.broker("--builtin", *options, env={"INF_BUILTIN_COST": f"0,{us}"})
                self.loads[us, bool(options)] = setting.load(broker, "-P", "4", "spin")

    def round(self, setting, idx, seconds):
        found = dict(zip(self.loads, in_turn(idx, *[lambda load=load: load.go(seconds)
                                                    for load in self.loads.values()])))
        result = {}
        for us in (5, 50):
            ours, parked = found[us, False], found[us, True]
            result[f"spin.harm_{us}"] = (ours["rate"], parked["rate"])
            result[f"spin.harm_{us}_p99"] = (p99(ours), p99(parked))
        return result


# --- the Python package ------------------------------------------------------------------------------------------------


class Python(Group):
    name = "py"

    def declare(self):
        yield row("py.sync_cpu", "CPU that a null request from Python costs beyond the C library's", US, 2.0,
                  "a null request of the C library, everybody asleep on one core", absolute=True, steady=False)
        yield row("py.async_rate", "64 tasks of one asyncio loop await null requests", RATE, 0.2,
                  "the same tasks await bare futures", at_most=False, steady=False)
        yield row("py.submit_cpu", "CPU of submit() of 600 kB filled in place", US, 10.0, absolute=True, steady=False)

    def setup(self, setting):
        found = subprocess.run(["tools/setup/venv.sh", "--python", "python"], capture_output=True, text=True, check=False)
        package = setting.tool("python")
        if found.returncode or not os.path.exists(f"{package}/infclient"):
            raise Unavailable("no virtual environment for Python here (make python)")
        # On one core and asleep: the CPU time of waiting is the same for both, and steady.
        parked = setting.broker("--builtin", "--no-spin", cpus=NEAR)
        broker = setting.broker("--builtin")

        def worker(what, of, *pinned):
            return setting.keep(drivers.Worker(
                [*pinned, found.stdout.strip(), "tests/bench/pyclient.py", package, what], of.env))

        self.c = setting.load(parked, "--cpus", NEAR, "identity")
        self.sync, self.submit = worker("sync", parked, "taskset", "-c", NEAR), worker("submit", broker)
        self.awaiting, self.bare = worker("await", broker), worker("bare", broker)

    def c_cpu_us(self, seconds):
        before = drivers.cpu_ns(self.c.pids())
        n = self.c.go(seconds)["requests"]
        return (drivers.cpu_ns(self.c.pids()) - before) / 1e3 / n

    def round(self, setting, idx, seconds):
        c, sync, submit, awaiting, bare = in_turn(
            idx, lambda: self.c_cpu_us(seconds), lambda: self.sync.go(seconds)["cpu_us"],
            lambda: self.submit.go(seconds)["cpu_us"], lambda: self.awaiting.go(seconds), lambda: self.bare.go(seconds))
        return {"py.sync_cpu": (sync - c, c), "py.submit_cpu": (submit, None),
                "py.async_rate": (awaiting["n"] / awaiting["seconds"], bare["n"] / bare["seconds"])}


# --- real models -----------------------------------------------------------------------------------------------------


class Models(Group):
    """One broker with both networks and the builtin models: one warm-up for all rows."""

    name, seconds = "model", 1.0
    seconds_max, quick_seconds_max = 240, 40
    network, shape = "efficientnet-lite0", "1x3x224x224"

    def declare(self):
        yield row("model.efficiency", "EfficientNet-Lite0 through the broker, all cores", "images/s", 0.98,
                  "the plug-in in a loop, fill and gather included", at_most=False)
        yield row("model.vs_plain", "the same against plain PyTorch", "images/s", 1.1,
                  "PyTorch in Python, a process per core", at_most=False)
        yield row("model.vs_plain_rows16", "16 rows per request", "images/s", 1.5,
                  "PyTorch in Python, a process per core, batches of 16", at_most=False)
        yield row("model.mlp_efficiency", "a small dense network on which batching pays, 32 in flight", "rows/s", 0.95,
                  "best batch size of the plug-in in a loop", at_most=False)
        yield row("mixed.p99", "a sparse client of identity beside a flood of images: its p99", "ms", 1.2,
                  "its p99 alone + p99 of one batch under that flood", steady=False)

    def setup(self, setting):
        build = need_torch(setting, "tools/demo/export.sh", "tests/bench/export_mlp.sh")
        images, mlp = f"{build}/demo/models/{self.network}.pt", f"{build}/bench/models/mlp.pt"
        self.folder = setting.keep(Folder(images, mlp))
        self.broker = setting.broker("--builtin", "--models", self.folder.path)
        check_answers(setting, self.broker, self.network, images, self.shape)
        cores = str(len(drivers.CPUS))
        self.one = setting.load(self.broker, "-P", cores, "-d", "4", "--fill", self.network)
        self.many = setting.load(self.broker, "-P", cores, "-d", "2", "-r", "16", "--fill", self.network)
        self.mlp = setting.load(self.broker, "-d", "32", "--sample", "8", "mlp")
        self.sparse = setting.load(self.broker, "--rate", "50", "--poisson", "-d", "32", "identity")
        self.flood = setting.load(self.broker, "-d", "32", self.network)
        ways, threads = ("each", "all"), (0, 1)
        loops = [("each", batch) for batch in (1, 2, 4, 8, 16)] + [("all", batch) for batch in (8, 16, 32)]
        if setting.quick:  # what usually wins here
            ways, threads, loops = ("each",), (1,), [("each", 16), ("all", 32)]
        self.floor = best_of([setting.keep(plugin_loop(setting, images, way, self.shape)) for way in ways])
        # No more than 32 rows at once, as in the broker.
        self.mlp_floor = best_of([setting.keep(plugin_loop(setting, mlp, way, f"{batch}x256")) for way, batch in loops], 0.3)
        self.plain = best_of([setting.keep(plain(n, self.shape)) for n in threads])
        self.plain16 = best_of([setting.keep(plain(n, self.shape.replace("1x", "16x", 1))) for n in threads], 2.0)

    def mixed(self, seconds):
        """(the sparse client's p99, the same alone + that of a batch), ms"""
        alone = p99(self.sparse.go(seconds))
        before = self.broker.model(self.network)["batch_ns"]["buckets"]
        self.flood.start(seconds + 0.6)
        time.sleep(0.3)
        beside = p99(self.sparse.go(seconds))
        self.flood.answer()
        batch_ns = histogram_p99(before, self.broker.model(self.network)["batch_ns"]["buckets"])
        return beside / 1e3, alone / 1e3 + batch_ns / 1e6

    def round(self, setting, idx, seconds):
        long = 2 * seconds
        one, floor, plain_one, many, plain_many, mlp, mlp_floor, mixed = in_turn(
            idx, lambda: self.one.go(seconds)["rate"], lambda: rows_rate(self.floor.go(seconds)),
            lambda: rows_rate(self.plain.go(seconds)), lambda: 16 * self.many.go(long)["rate"],
            lambda: rows_rate(self.plain16.go(long)), lambda: self.mlp.go(seconds / 2)["rate"],
            lambda: rows_rate(self.mlp_floor.go(seconds / 2)), lambda: self.mixed(long),
            settle=0.15)  # OpenMP's threads spin for some ms after their last work
        return {"model.efficiency": (one, floor), "model.vs_plain": (one, plain_one),
                "model.vs_plain_rows16": (many, plain_many), "model.mlp_efficiency": (mlp, mlp_floor),
                "mixed.p99": mixed}


class Devices(Group):
    """On the software driver, whose copies and kernels take 10 ms each: does the pipeline keep the device busy?"""

    name, rounds, seconds = "device", 3, 3.0
    STAGE_MS, BATCH = 10, 256

    def declare(self):
        return [row("device.overlap", "rows/s through copy in, compute, copy out of 10 ms each", "rows/s", 0.95,
                    "one batch of 256 per stage", at_most=False)]

    def setup(self, setting):
        driver = setting.program("libfakecuda.so")
        if not os.path.exists(driver):
            raise Unavailable("the software driver is not built")
        stage_us = str(1000 * self.STAGE_MS)
        broker = setting.broker("--builtin", "--device", "cuda",
                                env={"INF_CUDA_LIBRARY": driver, "FAKECUDA_COPY_US": stage_us,
                                     "FAKECUDA_KERNEL_US": f"inf_copy={stage_us}"})
        self.load = setting.load(broker, "identity", "-P", "5", "-d", "256")
        self.load.go(1.0)

    def round(self, setting, idx, seconds):
        return {"device.overlap": (self.load.go(seconds)["rate"], 1000 * self.BATCH / self.STAGE_MS)}


class Folder:
    """Links to the files that one broker shall serve."""

    def __init__(self, *files):
        self.path = tempfile.mkdtemp(prefix="infbench-models-")
        for file in files:
            os.symlink(file, f"{self.path}/{os.path.basename(file)}")

    def stop(self):
        shutil.rmtree(self.path, ignore_errors=True)


def histogram_p99(before, after):
    """Upper edge of the bucket that holds the 99th percentile of what came in between."""
    earlier = {upper: n for upper, n in before}
    counts = [(upper, n - earlier.get(upper, 0)) for upper, n in after]
    left = 0.99 * sum(n for _, n in counts)
    for upper, n in counts:
        left -= n
        if left <= 0:
            return upper
    return 0


def need_torch(setting, *exports):
    """Exports what a group serves; the folder that it lies in."""
    if not os.path.exists(setting.tool("backends/libinf-backend-torch.so")):
        raise Unavailable("built without the torch backend (make deps fetches torch)")
    for export in exports:
        subprocess.run([export], check=True, env={**os.environ, "BUILD": setting.build}, stdout=subprocess.DEVNULL)
    return setting.build


def plugin_loop(setting, model, way, shape):
    return drivers.Worker([setting.program("plugin_loop"), setting.tool("backends/libinf-backend-torch.so"), model, way,
                           shape, "--gather"])


def plain(threads, shape):
    return drivers.Worker(["tools/setup/torch.sh", "--run", "tools/casestudy/baseline.py", "--processes",
                           str(len(drivers.CPUS)), "--threads", str(threads), "--shape", shape])


def rows_rate(answer):
    return answer["images"] / answer["seconds"]


def best_of(workers, seconds=1.0):
    """The fastest of the variants; the others are stopped."""
    if len(workers) == 1:
        return workers[0]
    for worker in workers:
        worker.go(seconds / 2)
    rates = [rows_rate(worker.go(seconds)) for worker in workers]
    best = workers[rates.index(max(rates))]
    for worker in workers:
        if worker is not best:
            worker.stop()
    return best


def check_answers(setting, broker, name, path, shape):
    """The broker's answer is PyTorch's own to 1e-4: a fast wrong answer is no answer."""
    subprocess.run(["tools/setup/torch.sh", "--run", "tests/bench/same_answers.py", setting.tool("shmctl"), name, path,
                    shape], check=True, env={**os.environ, **broker.env})


GROUPS = (Ring, Costs, Wakes, Front, Null, Counting, Syscalls, Idle, Harm, Python, Models, Devices)
