# SPDX-License-Identifier: Apache-2.0
"""The rivals that `make bench-peers` measures beside the broker: starting, asking, ending them.

    with rival.at(cpus):            # or rival.start(cpus) ... rival.stop()
        figures = rival.round(1.0)  # {"n", "p50_us", "p99_us", "mean_us"}

A *pair* is two parties and a message of 64 bytes there and back, to be held against the broker's
front. A *server* has an identity model behind it, asked for 64 bytes, to be held against the
broker's null path. All are asked by a C program (build.sh makes them in $BUILD/peers) in a closed
loop over one connection, so no Python client's cost is counted against them; iceoryx2 alone is
Python on both ends, and says so.

cpus: None leaves all to the kernel; (0,) puts every process of the rival on that CPU; (0, 1) puts
the client on the first and all of the server on the second. tools/setup/venv.sh peers installs what
this finds missing. Start a rival from the main thread: what it runs ends when that thread does.

By itself it tries all rivals once: rivals.py [--only NAME] [--seconds S] [--cpus 0,1]
"""

import argparse
import contextlib
import ctypes
import glob
import http.client
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).resolve().parent
SETUP = ROOT / "tools/setup/venv.sh"
SHM = pathlib.Path("/dev/shm")

MESSAGE_BYTES = 64
START_S = 60  # Triton takes 3 s here; a loaded machine many times that
STOP_S = 10
STUCK_S = 45  # beyond the round itself; the C programs give up by themselves after 30
LOG_LINES = 40
LOG_COLUMNS = 300
MARK = "INFBROKER_PEER"  # in the environment of all that a rival starts: so it is found again


class RivalError(Exception):
    """A rival did not start, or did not answer as it must."""


def build_folder():
    return ROOT / os.environ.get("BUILD", "build") / "peers"


def python_of(name):
    """The Python of a rival's virtual environment, or None."""
    found = subprocess.run([SETUP, "--python", name], capture_output=True, text=True)
    return pathlib.Path(found.stdout.strip()) if found.returncode == 0 else None


def site_of(python):
    return pathlib.Path(glob.glob(f"{python.parent.parent}/lib/python3*/site-packages")[0])


def pip_version(name, package):
    python = python_of(name)
    found = python and glob.glob(f"{site_of(python)}/{package}-*.dist-info")
    return os.path.basename(found[0])[len(package) + 1 : -len(".dist-info")] if found else ""


def debian_version(package):
    with contextlib.suppress(OSError):
        found = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True
        )
        return found.stdout.strip().split("-")[0].split("+")[0]
    return ""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_ports(count):
    """Different ones: all are held until the last is known."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def tail_of(path):
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(line[:LOG_COLUMNS].rstrip() for line in lines)
    return ""


def shm_of(pid):
    """The names in shared memory that a process has mapped."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
        return {
            pathlib.Path(line.split(maxsplit=5)[5])
            for line in lines
            if f"{SHM}/" in line and "(deleted)" not in line
        }
    return set()


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _child_setup(cpu, end_signal):
    """Between fork and exec: stay on the CPU; get the signal when the starting thread is gone."""

    def setup():
        _libc.prctl(_PR_SET_PDEATHSIG, end_signal)
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})

    return setup


class Rival:
    """What all have in common: a folder of its own while it runs, an end that leaves nothing."""

    name = ""  # short, the key of its row
    kind = ""  # "pair" or "server"
    waits = "blocks"  # how both ends wait: "blocks" or "spins"
    note = ""  # for the reader of the row
    product = ""
    program = ""  # of build.sh

    def __init__(self):
        self.cpus = None
        self.folder = None
        self.mark = ""
        self.daemon = None
        self.shm = set()

    @property
    def title(self):
        return f"{self.product} {self.version()}".strip()

    def version(self):
        return ""

    def available(self):
        """(True, "") or (False, why)."""
        if not os.access(build_folder() / self.program, os.X_OK):
            return False, f"{self.program} is not built (tools/setup/venv.sh peers, then build.sh)"
        return True, ""

    def start(self, cpus=None):
        possible, why = self.available()
        if not possible:
            raise RivalError(f"{self.name}: {why}")
        self.stop()
        self.cpus = cpus
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="infbroker-peer-"))
        self.mark = f"{self.name}-{os.getpid()}-{secrets.token_hex(6)}"
        try:
            self.start_server()
            self.note_shm()
        except BaseException:
            self.stop()
            raise

    @contextlib.contextmanager
    def at(self, cpus=None):
        self.start(cpus)
        try:
            yield self
        finally:
            self.stop()

    def round(self, seconds):
        """One closed loop of that length, warm-up not counted."""
        command = (*self.client_command(), "--ms", int(seconds * 1000), *self.cpu_options())
        try:
            done = subprocess.run(
                [str(word) for word in command],
                capture_output=True,
                text=True,
                timeout=seconds + STUCK_S,
                cwd=self.folder,
                env=self.environment(),
                preexec_fn=_child_setup(None, signal.SIGKILL),
            )
        except subprocess.TimeoutExpired:
            raise RivalError(f"{self.name}: no answer for {STUCK_S} s\n{self.log_tail()}") from None
        if done.returncode:
            said = "\n".join(done.stderr.splitlines()[-LOG_LINES:])
            said = said or f"ended with {done.returncode}"
            raise RivalError(f"{self.name}: {said}\n{self.log_tail()}".rstrip())
        figures = json.loads(done.stdout.splitlines()[-1])
        return {
            "n": figures["n"],
            "p50_us": figures["p50_ns"] / 1e3,
            "p99_us": figures["p99_ns"] / 1e3,
            "mean_us": figures["mean_ns"] / 1e3,
        }

    def stop(self):
        """Safe at any time and any number of times."""
        if self.folder is None:
            return
        self.note_shm()
        self.end_processes()
        for path in self.shm | set(self.leftovers()):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.shm = set()
        self.folder = self.daemon = None

    # What the single rivals fill in.

    def start_server(self):
        """Nothing to start, where the client's program brings its own echo server."""

    def client_command(self):
        raise NotImplementedError

    def leftovers(self):
        """Files outside its folder that only this run can have made."""
        return ()

    # Helpers.

    def cpu_options(self):
        return () if self.cpus is None else ("--cpus", f"{self.cpus[0]},{self.cpus[-1]}")

    def environment(self, **more):
        return {
            **os.environ,
            "TMPDIR": str(self.folder),
            MARK: self.mark,
            **{key: str(more[key]) for key in more},
        }

    @property
    def log(self):
        return self.folder / "log"

    def log_tail(self):
        text = tail_of(self.log)
        return f"the end of its log:\n{text}" if text else ""

    def spawn(self, command, **environment):
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment(**environment),
                start_new_session=True,
                preexec_fn=_child_setup(self.cpus[-1] if self.cpus else None, signal.SIGTERM),
            )

    def note_shm(self):
        """Once it runs and again at its end: a process killed meanwhile tells nothing."""
        self.shm = self.shm.union(*(shm_of(pid) for pid in self.processes()))

    def wait_until(self, is_ready):
        end = time.monotonic() + START_S
        while not is_ready():
            if self.daemon.poll() is not None:
                raise RivalError(
                    f"{self.name}: ended with {self.daemon.returncode} while it started\n"
                    f"{self.log_tail()}"
                )
            if time.monotonic() > end:
                raise RivalError(f"{self.name}: not ready within {START_S} s\n{self.log_tail()}")
            time.sleep(0.1)

    def processes(self):
        """All that carry this run's mark: by their id, whatever group or session they moved to."""
        mark = f"{MARK}={self.mark}".encode()
        found = []
        for folder in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def end_processes(self):
        """The server is asked first; what is there after the time limit is killed."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.wait(STOP_S)
        end = time.monotonic() + 1
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.daemon is not None:
            self.daemon.wait()


class Pair(Rival):
    kind = "pair"

    def __init__(self, name, product, program, package="", **more):
        super().__init__()
        self.name, self.product, self.program, self.package = name, product, program, package
        self.how = more.get("how", "")
        self.waits = more.get("waits", "blocks")
        self.note = more.get("note", "")

    def version(self):
        return debian_version(self.package) if self.package else ""

    def client_command(self):
        return (
            build_folder() / self.program,
            "--how",
            self.how,
            "--dir",
            self.folder,
            "--bytes",
            MESSAGE_BYTES,
        )


class Iceoryx(Pair):
    """Needs its daemon. That has fixed names, so it is one for the whole machine."""

    def available(self):
        if not shutil.which("iox-roudi"):
            return False, "its daemon iox-roudi is missing (tools/setup/venv.sh peers)"
        return super().available()

    def start_server(self):
        config = (
            self.folder / "roudi.toml"
        )  # as built in it takes 150 MB of shared memory, most for chunks of megabytes
        config.write_text(
            "[general]\nversion = 1\n[[segment]]\n[[segment.mempool]]\nsize = 128\ncount = 1000\n"
        )
        self.spawn(("iox-roudi", "--log-level", "warning", "--config-file", config))
        self.wait_until(self.is_up)

    def is_up(self):
        return "ready for clients" in self.log.read_text(errors="replace")

    def leftovers(self):
        """Its files lie in /tmp whatever TMPDIR says, and stay after a party that was killed."""
        files = list(pathlib.Path("/tmp").glob(f"{self.folder.name}-*"))
        if self.daemon is not None and self.daemon.returncode and self.is_up():
            files += [pathlib.Path("/tmp/roudi"), pathlib.Path("/tmp/roudi.lock")]
        return files


class Iceoryx2(Pair):
    def available(self):
        return (
            (True, "") if python_of("iceoryx2") else (False, "not installed (tools/setup/venv.sh peers)")
        )

    def version(self):
        return pip_version("iceoryx2", "iceoryx2")

    def prefix(self):
        return f"peer{self.mark.rsplit('-', 1)[1]}_"

    def client_command(self):
        return (
            python_of("iceoryx2"),
            HERE / "iceoryx2_pair.py",
            "--how",
            self.how,
            "--dir",
            self.folder,
            "--prefix",
            self.prefix(),
            "--bytes",
            MESSAGE_BYTES,
        )

    def leftovers(self):
        return SHM.glob(f"{self.prefix()}*")


class HttpServer(Rival):
    """A model server asked over HTTP/1.1; the last `echo` bytes of `request` must come back."""

    kind = "server"
    program = "http_client"
    environment_name = ""  # of bench.sh
    path = "/v2/models/identity/infer"
    headers = {}
    echo = 0

    def available(self):
        if not python_of(self.environment_name):
            return False, "not installed (tools/setup/venv.sh peers)"
        return super().available()

    def request(self):
        return bytes(range(1, MESSAGE_BYTES + 1))

    def answers(self):
        """Whether one request is answered: the model is asked, not a health page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", self.path, self.request(), self.headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def start_server(self):
        (self.folder / "request").write_bytes(self.request())
        self.launch()
        self.wait_until(self.answers)

    def launch(self):
        raise NotImplementedError

    def client_command(self):
        command = [
            build_folder() / self.program,
            "--port",
            self.port,
            "--path",
            self.path,
            "--body",
            self.folder / "request",
            "--echo",
            self.echo,
        ]
        for name, value in self.headers.items():
            command += ["--header", f"{name}: {value}"]
        return command


class TritonHttp(HttpServer):
    name = "triton-http"
    note = (
        "v2 with binary tensors; identity in the Python backend, all that the wheel has; C client"
    )
    environment_name = "triton"
    echo = MESSAGE_BYTES
    protocol = "HTTP"
    server_version = ""

    @property
    def title(self):
        return " ".join(filter(None, ("Triton", self.server_version, self.protocol)))

    def header_json(self):
        tensor = {
            "name": "INPUT",
            "shape": [MESSAGE_BYTES // 4],
            "datatype": "INT32",
            "parameters": {"binary_data_size": MESSAGE_BYTES},
        }
        return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()

    @property
    def headers(self):
        return {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(self.header_json())),
        }

    def request(self):
        return self.header_json() + super().request()

    def launch(self):
        """The server by itself, out of the wheel and without the wheel's own proxy in Python."""
        python = python_of("triton")
        site = site_of(python)
        wheel = site / "pytriton/tritonserver"
        version, library_folder = subprocess.run(
            [
                python,
                "-c",
                "import sys, sysconfig; print('%d.%d' % sys.version_info[:2]); "
                "print(sysconfig.get_config_var('LIBDIR'))",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        # The stub for this Python has to lie beside the backend. It links libpython and would find
        # another one's first, whose C parts then do not fit the environment's library in Python:
        # hence LD_LIBRARY_PATH.
        backends = self.folder / "backends"
        shutil.copytree(wheel / "backends", backends)
        shutil.copy2(
            wheel / "python_backend_stubs" / version / "triton_python_backend_stub",
            backends / "python",
        )
        # Its Python writes compiled files beside the model, whatever the environment says.
        shutil.copytree(HERE / "triton", self.folder / "models")
        self.port, self.grpc_port = free_ports(2)
        self.spawn(
            (
                wheel / "bin/tritonserver",
                f"--model-repository={self.folder / 'models'}",
                f"--backend-directory={backends}",
                "--model-control-mode=explicit",
                "--load-model=identity",
                "--allow-metrics=false",
                "--http-address=127.0.0.1",
                f"--http-port={self.port}",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={self.grpc_port}",
                f"--backend-config=python,shm-region-prefix-name={self.shm_prefix()}",
            ),
            PATH=f"{python.parent}:{os.environ['PATH']}",
            PYTHONPATH=site,
            LD_LIBRARY_PATH=f"{library_folder}:{site / 'nvidia_pytriton.libs'}",
        )

    def start_server(self):
        super().start_server()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/v2")
        self.server_version = json.loads(connection.getresponse().read())["version"]
        connection.close()

    def shm_prefix(self):
        return f"infbroker_peer_{self.mark.rsplit('-', 1)[1]}_"

    def leftovers(self):
        return SHM.glob(f"{self.shm_prefix()}*")


class TritonGrpc(TritonHttp):
    name = "triton-grpc"
    note = "v2 with raw tensors; identity in the Python backend; C client, HTTP/2 by hand"
    protocol = "gRPC"
    program = "grpc_client"

    def client_command(self):
        return (build_folder() / self.program, "--port", self.grpc_port)


class Mosec(HttpServer):
    name = "mosec"
    product = "mosec"
    note = "raw bytes over HTTP, one worker in Python, no batching; C client"
    environment_name = "mosec"
    path = "/inference"
    headers = {"Content-Type": "application/octet-stream"}
    echo = MESSAGE_BYTES

    def version(self):
        return pip_version("mosec", "mosec")

    def launch(self):
        self.port = free_port()
        self.spawn(
            (
                python_of("mosec"),
                HERE / "mosec_identity.py",
                "--address",
                "127.0.0.1",
                "--port",
                self.port,
                "--path",
                self.folder / "mosec",
            )
        )


class MLServer(HttpServer):
    name = "mlserver"
    product = "MLServer"
    note = "v2 in JSON (it has no binary tensors), model in the server's own process; C client"
    environment_name = "mlserver"
    headers = {"Content-Type": "application/json"}

    def version(self):
        return pip_version("mlserver", "mlserver")

    def request(self):
        tensor = {
            "name": "INPUT",
            "shape": [MESSAGE_BYTES // 4],
            "datatype": "INT32",
            "data": list(range(MESSAGE_BYTES // 4)),
        }
        return json.dumps({"inputs": [tensor]}).encode()

    def launch(self):
        self.port, grpc_port, metrics_port = free_ports(3)
        # It writes files beside its models, and expects their folder to have the model's name.
        shutil.copytree(HERE / "mlserver", self.folder / "identity")
        self.spawn(
            (python_of("mlserver").parent / "mlserver", "start", self.folder / "identity"),
            MLSERVER_HTTP_PORT=self.port,
            MLSERVER_GRPC_PORT=grpc_port,
            MLSERVER_METRICS_PORT=metrics_port,
            PYTHONDONTWRITEBYTECODE=1,
        )


ICEORYX_NOTE = "classic, through its C binding, its daemon beside it"
ICEORYX2_NOTE = "Python on both ends: its C library is not packaged"
SPIN_NOTE = "both ends spin (and yield where they share a CPU)"

RIVALS = [
    Pair("pipe", "two pipes", "pair_socket", how="pipe", note="the kernel's own"),
    Pair(
        "seqpacket",
        "Unix socket SEQPACKET",
        "pair_socket",
        how="seqpacket",
        note="the kernel's own",
    ),
    Pair(
        "zeromq",
        "ZeroMQ ipc://",
        "pair_zmq",
        "libzmq5",
        how="pair",
        note="PAIR sockets, which have no envelope",
    ),
    Pair(
        "nng",
        "nng ipc://",
        "pair_nng",
        "libnng1",
        how="pair",
        note="PAIR sockets, which have no envelope",
    ),
    Iceoryx(
        "iceoryx",
        "iceoryx",
        "pair_iceoryx",
        "iceoryx",
        how="wait",
        note=f"{ICEORYX_NOTE}; wait sets",
    ),
    Iceoryx(
        "iceoryx-spin",
        "iceoryx",
        "pair_iceoryx",
        "iceoryx",
        how="spin",
        waits="spins",
        note=f"{ICEORYX_NOTE}; {SPIN_NOTE}",
    ),
    Iceoryx2("iceoryx2", "iceoryx2", "", how="wait", note=f"{ICEORYX2_NOTE}; listeners"),
    Iceoryx2(
        "iceoryx2-spin",
        "iceoryx2",
        "",
        how="spin",
        waits="spins",
        note=f"{ICEORYX2_NOTE}; {SPIN_NOTE}",
    ),
    TritonHttp(),
    TritonGrpc(),
    Mosec(),
    MLServer(),
]


def main():
    parser = argparse.ArgumentParser(description="Tries all rivals once.")
    parser.add_argument("--only", metavar="NAME", choices=[rival.name for rival in RIVALS])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument(
        "--cpus", help="0: all on that CPU; 0,1: client on the first, server on the second"
    )
    options = parser.parse_args()
    cpus = tuple(int(cpu) for cpu in options.cpus.split(",")) if options.cpus else None
    failed = False
    print(f"{'rival':<15}{'n':>9}{'p50 us':>10}{'p99 us':>10}{'mean us':>10}  what it is")
    for rival in RIVALS:
        if options.only and rival.name != options.only:
            continue
        possible, why = rival.available()
        if not possible:
            print(f"{rival.name:<15}not here: {why}")
            continue
        try:
            with rival.at(cpus):
                figures = rival.round(options.seconds)
        except RivalError as error:
            failed = True
            print(f"{rival.name:<15}failed: {error}")
            continue
        print(
            f"{rival.name:<15}{figures['n']:>9}{figures['p50_us']:>10.1f}{figures['p99_us']:>10.1f}"
            f"{figures['mean_us']:>10.1f}  {rival.title}: {rival.note}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a rival's end runs
    sys.exit(main())
