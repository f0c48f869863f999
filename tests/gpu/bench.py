#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench-gpu`: what the CUDA device of this machine charges, what the broker adds, and how that compares with the ceilings.

    bench.py [--build DIR] [--dry] [--only NAME[,NAME...]] [--limit NAME=SECONDS]... [--seconds N]

Every experiment is a process with a limit of its own, which prints a line of JSON per figure. One that hangs, loses its context
or dies costs what it had not said yet, and is named; so is what could not be measured, and why. --dry runs all of it in small on
the software driver, whose figures mean nothing and say so. The table is last; all of it is in DIR/bench/gpu.json (gpu-dry.json).

Exit status: 0 whatever was found out, also that there is no device; 1 where this program itself has failed.
"""

import argparse
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path[:0] = [HERE, os.path.join(HERE, "..", "bench")]
import ceilings
import drivers
import end_to_end

PR_SET_CHILD_SUBREAPER = 36
EXIT_LOST = 3  # of gpu_costs
WHY_CHARS = 300  # of the last words of a process
BURY_SECONDS = 10  # how long a killed process may take to go: a driver may hold it


class Experiment:
    """A command and how long it may take."""

    def __init__(self, name, seconds, command, label="", before=None, after=None):
        self.name, self.seconds, self.command = name, seconds, command
        self.label = label  # goes to the end of its rows' names
        self.before = before  # called first: (more of an environment, None), or (None, why it cannot run)
        self.after = after  # called when it has ended, or was killed
        self.rows, self.facts, self.state, self.why, self.took = [], {}, "not run", None, 0.0


# --- one process ---------------------------------------------------------------------------------------------------------


def kill_children():
    """Kills all that is left of what was started, wherever it has moved to: orphans come to us. Says whether they are gone."""
    until = time.monotonic() + BURY_SECONDS
    while time.monotonic() < until:
        for pid in drivers.children(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        time.sleep(0.05)
    return False


def take_line(experiment, line):
    """One line of a process: a figure, or why there is none; a fact; or something for people."""
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return
    if "name" in said:
        said["name"] += experiment.label
        experiment.rows.append(said)
        print_row(said)
    else:
        experiment.facts.update(said)


def read_until(process, experiment, until):
    """Takes its lines until it closes its output; False where the time was over before."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return False
            if not selector.select(left):
                continue
            read = os.read(process.stdout.fileno(), 65536)
            if not read:
                return True
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                take_line(experiment, line.decode(errors="replace"))


def verdict(experiment, is_over, seconds, status, errors):
    """(state, why)"""
    if not is_over:
        return "hung", f"it had not ended after {seconds:.0f} s"
    if status == EXIT_LOST:
        return "lost", f"the context was lost: {experiment.facts.get('lost', 'unknown error')}"
    if status:
        died = f"signal {-status}" if status < 0 else f"status {status}"
        return "died", f"it ended with {died}: {'; '.join(errors.split(chr(10))[-3:]).strip('; ')[-WHY_CHARS:] or 'and said nothing'}"
    return "ran", None


def run(experiment, env, seconds):
    """Runs it to its end or to its limit; nothing of it is left afterwards."""
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(experiment.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                   env=env)
        is_over, status = False, None
        try:
            if read_until(process, experiment, begin + seconds):
                status = process.wait(timeout=max(0.1, begin + seconds - time.monotonic()))
                is_over = True
        except subprocess.TimeoutExpired:
            pass  # it has closed its output, and stays
        finally:
            if not is_over:
                process.kill()
            if experiment.after:
                experiment.after()
            are_gone = kill_children()
        process.returncode = process.returncode or 0  # buried by us
        process.stdout.close()
        errors.seek(0)
        experiment.state, experiment.why = verdict(experiment, is_over, seconds, status, errors.read())
    if not are_gone:
        experiment.why = (experiment.why or "") + "; a process of it could not be killed"
    experiment.took = time.monotonic() - begin


# --- MPS -----------------------------------------------------------------------------------------------------------------


class Mps:
    """NVIDIA's server by which processes share a device at the same time, on a folder of its own. Without its folder's server
    a process uses none: that is how the other experiments are kept from one that is there."""

    def __init__(self, folder):
        self.env = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        self.is_running = False

    def control(self, *arguments, **options):
        """(status, what it says); into a file, as a daemon may keep a pipe open."""
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            result = subprocess.run(["nvidia-cuda-mps-control", *arguments], env={**os.environ, **self.env}, stdout=said,
                                    stderr=said, text=True, timeout=20, check=False, **options)
            said.seek(0)
            return result.returncode, said.read().strip()

    def start(self):
        """(environment, None), or (None, why not)"""
        if not shutil.which("nvidia-cuda-mps-control"):
            return None, "nvidia-cuda-mps-control is not installed"
        for folder in self.env.values():
            os.makedirs(folder, exist_ok=True)
        try:
            status, said = self.control("-d")
        except subprocess.TimeoutExpired:
            return None, "nvidia-cuda-mps-control -d hangs"
        if status:
            return None, f"nvidia-cuda-mps-control -d: {said or status}"
        self.is_running = True
        return self.env, None

    def stop(self):
        if not self.is_running:
            return
        self.is_running = False
        try:
            self.control(input="quit\n")
        except subprocess.TimeoutExpired:
            pass


# --- what there is to run ------------------------------------------------------------------------------------------------


def experiments_of(options, mps):
    """In order: what can change the design first."""
    torch = end_to_end.torch_command()
    build, quick = options.build, ["--quick"] if options.dry else []
    dry = ["--dry"] if options.dry else []

    def costs(name, seconds, **more):
        return Experiment(name, seconds, [f"{build}/tests/gpu_costs", *quick, name.split()[0]], **more)

    def torch_is_there():
        return ({}, None) if torch else (None, "there is no Python with torch here (make deps, or PYTHON=)")

    def network(name, engine, seconds):
        return Experiment(f"E8/E9 {name} {engine}", seconds,
                          [*(torch or []), f"{HERE}/networks.py", name, engine, *dry], before=torch_is_there)

    def whole_way(what, seconds, before=None):
        return Experiment(f"E10 {what}", seconds, [sys.executable, f"{HERE}/end_to_end.py", "--build", build, what, *dry],
                          before=before)

    return [costs("E1", 30), costs("E3", 30), costs("E5", 30), costs("E7", 30), costs("E2", 45), costs("E4", 30),
            costs("E6", 30, label=", MPS off" if not options.dry else ""),
            costs("E6 under MPS", 30, label=", MPS on", before=mps.start, after=mps.stop),
            *[whole_way(part, seconds) for part, seconds in (("throughput", 40), ("latency", 45), ("bandwidth", 40), ("cpu", 30), ("busy", 30))],
            *[network(name, engine, seconds) for engine, seconds in (("eager", 60), ("script", 60), ("aoti", 150))
              for name in ("resnet50", "bert")],
            *[whole_way(name, 100, torch_is_there) for name in ("resnet50", "bert", "mlp")]]


def environment(options, mps):
    env = {**os.environ, "BUILD": options.build, "PYTHONUNBUFFERED": "1"}
    if options.dry:
        env["INF_CUDA_LIBRARY"] = os.path.abspath(f"{options.build}/tests/libfakecuda.so")
        env["INF_NVML_LIBRARY"] = os.path.abspath(f"{options.build}/tests/libfakenvml.so")
    else:
        env["CUDA_MPS_PIPE_DIRECTORY"] = mps.env["CUDA_MPS_PIPE_DIRECTORY"]
    return env


def clocks(options, env, uuid):
    """What NVML says of that device at this moment, or why it says nothing."""
    result = subprocess.run([f"{options.build}/shmctl", "devices", "-j"], env=env, capture_output=True, text=True, check=False)
    try:
        said = json.loads(result.stdout)
    except ValueError:
        said = {"error": result.stderr.strip()}
    for found in said.get("devices", []):
        if found["uuid"] == uuid:
            return {"driver": said.get("driver"), **{key: found[key] for key in ("sm_mhz", "memory_mhz", "temperature_c", "power_mw")}}
    return {"why": said.get("error") or "NVML does not know this device"}


def run_all(options, chosen, env, uuid, samples):
    until = time.monotonic() + options.seconds
    for experiment in chosen:
        seconds = min(options.limits.get(experiment.name, experiment.seconds), until - time.monotonic())
        more, why = experiment.before() if experiment.before else ({}, None)
        if why:
            experiment.state, experiment.why = "skipped", why
        elif seconds < 1:
            experiment.state, experiment.why = "skipped", f"the {options.seconds} s of all of them were over"
        else:
            print(f"{experiment.name}:", flush=True)
            run(experiment, {**env, **more}, seconds)
            samples.append(clocks(options, env, uuid))
        if experiment.state != "ran":
            print(f"{experiment.name}: {experiment.state}: {experiment.why}", flush=True)


# --- for people ----------------------------------------------------------------------------------------------------------


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def print_row(row):
    if "why" in row:
        text = f"{'-':>12s} {row['why']}"
    else:
        text = f"{number(row['value']):>12s} {row['unit']}"
        if row.get("floor") is not None:
            text += f"; beside it {number(row['floor'])}, ratio {row['ratio']:.3f}, spread {100 * row['spread']:.0f} %"
    print(f"  {row['name']:84s} {text}", flush=True)


def span(samples, key):
    values = [sample[key] for sample in samples if sample.get(key) is not None]
    if not values:
        return "unknown"
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def title(facts, samples):
    version = f"{facts['cuda'] // 1000}.{facts['cuda'] % 1000 // 10}"
    driver = next((sample["driver"] for sample in samples if sample.get("driver")), None) or samples[0].get("why", "unknown")
    line = (f"{facts['device']} ({facts['uuid']}), driver {driver}, CUDA {version}, SM clock {span(samples, 'sm_mhz')} MHz, "
            f"memory clock {span(samples, 'memory_mhz')} MHz, {span(samples, 'temperature_c')} C")
    if facts["software"]:
        return f"A SOFTWARE DRIVER, NOT A GPU: THE FIGURES MEAN NOTHING. {line}"
    return line


def table(facts, samples, chosen, found):
    lines = ["", title(facts, samples), ""]
    for experiment in chosen:
        lines.append(f"  {experiment.name:26s} {experiment.state:8s} {experiment.took:6.1f} s  {experiment.why or ''}".rstrip())
    lines += ["", f"  {'what to aim at':58s} {'goal':>9s} {'found':>9s} {'':8s} of"]
    for line in found:
        goal = f"{'<=' if line['at_most'] else '>='} {line['goal']:g}"
        if line["why"]:
            lines.append(f"  {line['metric']:58s} {goal:>9s} {'-':>9s} {'':8s} {line['why']}")
            continue
        mark = "software" if facts["software"] else "holds" if line["holds"] else "RED"
        lines.append(f"  {line['metric']:58s} {goal:>9s} {number(line['found']):>9s} {mark:8s} {line['of']}")
    return "\n".join(lines)


def write(options, facts, samples, chosen, found):
    os.makedirs(f"{options.build}/bench", exist_ok=True)
    path = f"{options.build}/bench/{'gpu-dry' if options.dry or facts['software'] else 'gpu'}.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"schema": "infbroker.bench-gpu/1", "title": title(facts, samples), **facts, "clocks": samples,
                   "machine": drivers.machine(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                   "experiments": [{"name": e.name, "state": e.state, "why": e.why, "seconds": round(e.took, 2), **e.facts}
                                   for e in chosen],
                   "rows": [{"experiment": e.name, **row} for e in chosen for row in e.rows], "ceilings": found}, file, indent=1)
    return path


def choose(experiments, only):
    names = [experiment.name for experiment in experiments]
    wanted = only.split(",") if only else names
    unknown = [name for name in wanted if not any(other == name or other.startswith(f"{name} ") for other in names)]
    if unknown:
        raise SystemExit(f"bench-gpu: there is no experiment {unknown[0]}; there are {', '.join(names)}")
    return [experiment for experiment in experiments
            if any(experiment.name == name or experiment.name.startswith(f"{name} ") for name in wanted)]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--only", default="", help="names of experiments, or how they begin: E3,E10")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=SECONDS")
    parser.add_argument("--seconds", type=float, default=570, help="all experiments together")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    options.limits = {name: float(seconds) for name, _, seconds in (limit.rpartition("=") for limit in options.limit)}
    return options


def main():
    options = parse()
    os.chdir(ROOT)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of what cleans up
    with tempfile.TemporaryDirectory(prefix="inf-mps-") as folder:
        mps = Mps(folder)
        env = environment(options, mps)
        chosen = choose(experiments_of(options, mps), options.only)
        device = Experiment("device", 60, [f"{options.build}/tests/gpu_costs", "device"])
        run(device, env, device.seconds)
        if "device" not in device.facts:
            said = next((row["why"] for row in device.rows if "why" in row), None)
            print(f"skip - bench-gpu: NOTHING WAS MEASURED: {said or device.why or 'gpu_costs does not say which device there is'}")
            return
        samples = [clocks(options, env, device.facts["uuid"])]
        print(title(device.facts, samples), flush=True)
        run_all(options, chosen, env, device.facts["uuid"], samples)
    rows = [row for experiment in chosen for row in experiment.rows]
    found = ceilings.judge(rows, {experiment.name: experiment.why for experiment in chosen}, device.facts["software"])
    print(table(device.facts, samples, chosen, found))
    print(f"\n  all of it: {os.path.relpath(write(options, device.facts, samples, chosen, found))}")


if __name__ == "__main__":
    main()
