# SPDX-License-Identifier: Apache-2.0
"""iceoryx2 from Python on both ends, its C library not being packaged: a message there and back.

Usage: iceoryx2_pair.py --dir DIR --prefix WORD [--how spin|wait] [--cpus CLIENT,SERVER]
                        [--ms N] [--bytes N] [--warm N]

spin: both ends look again and again (and yield where they share a CPU); wait: both sleep in the
library's own event. The same loop and the same line of JSON as the C programs (loop.c). DIR and
WORD keep the library's files apart from others'.
"""

import argparse
import ctypes
import json
import os
import signal
import time

import iceoryx2 as iox

STUCK_S = 30


class End:
    """One end: publishes what the other takes, and the reverse."""

    def __init__(self, options, outgoing, incoming):
        self.message_type = ctypes.c_uint8 * options.bytes
        self.waits = options.how == "wait"
        self.yields = options.cpus[0] >= 0 and options.cpus[0] == options.cpus[1]
        config = iox.config.default()
        config.global_cfg.root_path = iox.Path.new(options.dir)
        config.global_cfg.prefix = iox.FileName.new(options.prefix)
        self.node = iox.NodeBuilder.new().config(config).create(iox.ServiceType.Ipc)
        self.publisher = self.messages(outgoing).publisher_builder().create()
        self.subscriber = self.messages(incoming).subscriber_builder().create()
        self.notifier = self.events(outgoing).notifier_builder().create()
        self.listener = self.events(incoming).listener_builder().create()

    def messages(self, name):
        service = self.node.service_builder(iox.ServiceName.new(f"infbroker/{name}"))
        return service.publish_subscribe(self.message_type).open_or_create()

    def events(self, name):
        return (
            self.node.service_builder(iox.ServiceName.new(f"infbroker/{name}"))
            .event()
            .open_or_create()
        )

    def give(self, message):
        self.publisher.send_copy(message)
        if self.waits:
            self.notifier.notify()

    def take(self):
        while (sample := self.subscriber.receive()) is None:
            if self.waits:
                self.listener.blocking_wait()
            elif self.yields:
                os.sched_yield()
        message = self.message_type.from_buffer_copy(sample.payload().contents)
        sample.delete()
        return message


def serve(options, ready_fd):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the client
    if options.cpus[1] >= 0:
        os.sched_setaffinity(0, {options.cpus[1]})
    end = End(options, "back", "there")
    os.write(ready_fd, b"r")
    signal.alarm(options.ms // 1000 + STUCK_S)
    while True:
        message = end.take()
        if not message[0]:  # told to leave; a killed process leaves files behind
            return
        end.give(message)


def run(options, end):
    message = end.message_type(*((i * 7 + 1) % 256 for i in range(options.bytes)))

    def ask():
        end.give(message)
        return end.take()

    def check(answer):
        if bytes(answer) != bytes(message):
            raise SystemExit("iceoryx2_pair: the answer is not what was sent")

    check(ask())
    end_ns = time.monotonic_ns() + options.ms * 200_000
    for _ in range(options.warm):
        if time.monotonic_ns() > end_ns:
            break
        ask()
    samples = []
    start_ns = last_ns = time.monotonic_ns()
    end_ns = start_ns + options.ms * 1_000_000
    while last_ns < end_ns:
        answer = ask()
        now_ns = time.monotonic_ns()
        samples.append(now_ns - last_ns)
        last_ns = now_ns
    check(answer)
    end.give(end.message_type())
    n = len(samples)
    samples.sort()
    print(
        json.dumps(
            {
                "n": n,
                "p50_ns": samples[n // 2],
                "p99_ns": samples[n * 99 // 100],
                "mean_ns": (last_ns - start_ns) // n,
            }
        )
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--how", choices=("spin", "wait"), default="spin")
    parser.add_argument(
        "--cpus", type=lambda text: tuple(int(cpu) for cpu in text.split(",")), default=(-1, -1)
    )
    parser.add_argument("--ms", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=64)
    parser.add_argument("--warm", type=int, default=1000)
    options = parser.parse_args()
    iox.set_log_level(iox.LogLevel.Error)
    ready_out, ready_in = os.pipe()
    server = os.fork()
    if not server:
        serve(options, ready_in)
        return
    os.close(ready_in)
    signal.alarm(options.ms // 1000 + STUCK_S)
    if options.cpus[0] >= 0:
        os.sched_setaffinity(0, {options.cpus[0]})
    try:
        if os.read(ready_out, 1) != b"r":
            raise SystemExit("iceoryx2_pair: the echo server did not start")
        run(options, End(options, "there", "back"))
    except BaseException:
        os.kill(server, signal.SIGKILL)
        raise
    finally:
        os.waitpid(server, 0)


if __name__ == "__main__":
    main()
