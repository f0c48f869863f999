# SPDX-License-Identifier: Apache-2.0
"""What the rows of the benchmark start and ask: brokers, infbench, small C programs, perf."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

CPUS = sorted(os.sched_getaffinity(0))
NEAR = str(CPUS[0])
FAR = str(CPUS[1]) if len(CPUS) > 1 else NEAR
APART = f"{NEAR},{FAR}"  # one party on each of two cores
TOGETHER = f"{NEAR},{NEAR}"


class Unavailable(Exception):
    """This machine cannot measure that; the text says why."""


class Setting:
    """Where things are, and what is started and must be stopped."""

    def __init__(self, build, quick=False):
        self.build, self.quick = os.path.abspath(build), quick
        self.things = []

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def stop_all(self):
        while self.things:
            self.things.pop().stop()

    def tool(self, name):
        return f"{self.build}/{name}"

    def program(self, name):
        return f"{self.build}/tests/{name}"

    # --- what rows call ---

    def broker(self, *options, cpus=None, env=None):
        return self.keep(Broker(self, options, cpus, env or {}))

    def load(self, broker, *options):
        return self.keep(Load(self, broker, options))

    def floor(self, name, seconds, *options):
        """One round of a bare exchange: {"n", "p50_ns", "p99_ns", "mean_ns"}."""
        return self.run("floors", name, seconds, *options)

    def run(self, program, name, seconds, *options, env=None, lines=1):
        command = [self.program(program), name, "--ms", str(max(1, int(seconds * 1000))), *options]
        result = subprocess.run(command, capture_output=True, text=True, check=False,
                                env={**os.environ, **(env or {})})
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.returncode}")
        found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
        return found[0] if lines == 1 else found


class Broker:
    """A front with its executor on a private socket, all its models ready."""

    def __init__(self, setting, options, cpus, env):
        self.setting = setting
        self.folder = tempfile.mkdtemp(prefix="infbench-")
        self.socket = f"{self.folder}/socket"
        self.log_path = f"{self.folder}/log"
        pinned = ["taskset", "-c", cpus] if cpus else []
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*pinned, setting.tool("infbroker"), "--socket", self.socket, *options],
                stderr=log, env={**os.environ, **env})
        self.env = {"INFBROKER_SOCKET": self.socket}
        try:
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def _await_ready(self):
        for _ in range(1200):
            states = [model["state"] for model in self.models()]
            if states and all(state == "ready" for state in states):
                return
            if self.process.poll() is not None or "failed" in states:
                break
            time.sleep(0.05)
        with open(self.log_path, encoding="utf-8") as log:
            raise RuntimeError("the broker does not serve its models:\n" + log.read()[-2000:])

    def _shmctl(self, what):
        result = subprocess.run([self.setting.tool("shmctl"), what, "-j"], capture_output=True, text=True,
                                check=False, env={**os.environ, **self.env})
        return json.loads(result.stdout) if result.returncode == 0 else {}

    def models(self):
        return self._shmctl("models").get("models", [])

    def model(self, name):
        return next(model for model in self.models() if model["name"] == name)

    def status(self):
        return self._shmctl("status")

    def pin_front(self, cpu):
        """After the start: a front that finds itself on one CPU from the start would not spin."""
        os.sched_setaffinity(self.process.pid, {int(cpu)})

    def pids(self):
        return [self.process.pid] + children(self.process.pid)

    def cpu_ticks(self):
        """Clock ticks that front and executor have used."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Worker:
    """A process that stays connected and runs a round for each line "go SECONDS"."""

    def __init__(self, command, env=None):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **(env or {})})
        for line in self.process.stdout:
            if line.startswith("ready"):
                return
        raise RuntimeError(f"{' '.join(command)} ended with {self.process.wait()}")

    def start(self, seconds):
        self.process.stdin.write(f"go {seconds}\n")
        self.process.stdin.flush()

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.wait()}")

    def go(self, seconds):
        self.start(seconds)
        return self.answer()

    def stop(self):
        try:
            self.process.stdin.close()
            self.process.wait(timeout=15)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Load(Worker):
    """infbench, connected to a broker."""

    def __init__(self, setting, broker, options):
        super().__init__([setting.tool("infbench"), "--commands", *options], broker.env)

    def answer(self):
        result = super().answer()
        if result["errors"]:
            raise RuntimeError(f"{' '.join(self.command)}: {result['statuses']}")
        return result

    def pids(self):
        return children(self.process.pid)


def children(pid):
    """All descendants."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            direct = [int(child) for child in file.read().split()]
    except OSError:
        return []
    return direct + [below for child in direct for below in children(child)]


def cpu_ns(pids):
    """CPU time of all their threads, as the scheduler counts it."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
    return total


EVENTS = "raw_syscalls:sys_enter,syscalls:sys_enter_sched_yield"


def can_count_calls():
    if not shutil.which("perf"):
        raise Unavailable("perf is not installed (Debian: linux-perf)")
    result = subprocess.run(["perf", "stat", "-e", EVENTS, "--", "true"], capture_output=True, check=False)
    if result.returncode:
        raise Unavailable("perf may not count the kernel's tracepoints here (run as root)")


def count_calls(pids, seconds, meanwhile=lambda: None):
    """(system calls but sched_yield, sched_yields) of these processes while `meanwhile` runs."""
    with tempfile.NamedTemporaryFile("r", prefix="infbench-perf-") as out:
        perf = subprocess.Popen(["perf", "stat", "-x,", "-e", EVENTS, "-p", ",".join(map(str, pids)),
                                 "-o", out.name, "--", "sleep", str(seconds)])
        meanwhile()
        perf.wait()
        counts = dict.fromkeys(EVENTS.split(","), 0)
        for line in out:
            fields = line.split(",")
            if len(fields) > 2 and fields[2] in counts and fields[0].isdigit():
                counts[fields[2]] += int(fields[0])
    calls, yields = (counts[event] for event in EVENTS.split(","))
    return calls - yields, yields


def machine():
    """What the figures were measured on."""
    info = {"cpus": len(CPUS), "kernel": os.uname().release, "arch": os.uname().machine}
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        found = re.search(r"^model name\s*: (.*)$", file.read(), re.M)
    info["cpu"] = found.group(1) if found else "unknown"
    with open("/proc/meminfo", encoding="ascii") as file:
        info["memory_mb"] = int(re.search(r"MemTotal: +(\d+)", file.read()).group(1)) // 1024
    hypervisor = os.path.exists("/sys/hypervisor") or "hypervisor" in open("/proc/cpuinfo", encoding="utf-8").read()
    info["virtual"] = bool(hypervisor)
    return info
