#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench-peers`: the broker beside what else a program could talk to, like with like.

    peers.py [--build DIR] [--only NAME[,NAME...]] [--quick]

Two-party rivals (pipes, sockets, ZeroMQ, nng, iceoryx) are held against a PING that the front answers; model servers (Triton,
mosec, MLServer) against the builtin identity model, through the executor and back. Broker and rival take turns in each round,
on the same cores: *near* = all processes on one core, *far* = the client on one core, the other party on a second one,
*default* = left to the kernel. The broker runs as it runs by default; rows *_parked hold one that sleeps at once
(--no-spin) against rivals that block. Each ratio is rival / broker: above 1 the broker is ahead.

Writes DIR/bench/peers.json, in the form of results.json, and DIR/bench/peers.svg.
"""

import argparse
import os
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "peers")]
import bench
import drivers
import rivals
import rows as declared
from drivers import FAR, NEAR
from rows import US, Group, Row, in_turn, p50

CPU = {"near": (int(NEAR),), "far": (int(NEAR), int(FAR)), "default": None}


class Brokers:
    """The broker's side, started once: loads by (what is asked, placement, how it waits)."""

    def __init__(self, setting):
        near, parked_near, default, parked_far, far = (
            setting.broker("--builtin", cpus=NEAR), setting.broker("--builtin", "--no-spin", cpus=NEAR),
            setting.broker("--builtin"), setting.broker("--builtin", "--no-spin", cpus=FAR),
            setting.broker("--builtin"))
        far.pin_front(FAR)
        on_near = ("--cpus", NEAR)
        self.loads = {
            ("pair", "near", False): setting.load(near, *on_near, "--ping"),
            ("pair", "near", True): setting.load(parked_near, *on_near, "--ping"),
            ("pair", "far", False): setting.load(far, *on_near, "--ping"),
            ("pair", "far", True): setting.load(parked_far, *on_near, "--ping"),
            ("server", "near", False): setting.load(near, *on_near, "identity"),
            ("server", "default", False): setting.load(default, "identity"),
        }

    def ask(self, kind, place, parked, seconds):
        return p50(self.loads[kind, place, parked].go(seconds))


class Peer(Group):
    """One rival in one placement."""

    def __init__(self, rival, place, brokers):
        self.rival, self.place, self.brokers = rival, place, brokers
        self.name = f"{rival.name}.{place}"
        self.parked = rival.kind == "pair" and rival.waits == "blocks"
        self.seconds = 0.3
        super().__init__()

    def declare(self):
        what = "PING" if self.rival.kind == "pair" else "identity"
        title = f"{what} beside {self.rival.title} ({self.rival.note})"
        for suffix in ("", "_parked") if self.parked else ("",):
            yield declared.row(f"ahead.{self.name}{suffix}", title, US, 1.0, self.rival.title, steady=False)

    def setup(self, setting):
        there, why = self.rival.available()
        if not there:
            raise drivers.Unavailable(why)
        try:
            self.rival.start(CPU[self.place])
        except (OSError, rivals.RivalError) as error:
            raise drivers.Unavailable(f"it does not run here: {error}") from error
        setting.keep(self.rival)

    def round(self, setting, idx, seconds):
        ours = [lambda parked=parked: self.brokers.ask(self.rival.kind, self.place, parked, seconds)
                for parked in ((False, True) if self.parked else (False,))]
        *broker, rival = in_turn(idx, *ours, lambda: self.rival.round(max(seconds, 0.2))["p50_us"])
        names = [row.name for row in self.rows]
        return {name: (value, rival) for name, value in zip(names, broker)}


def overhead(peers):
    """The two rows that compare with the best of the model servers, from the same rounds."""
    near = [peer.rows[0] for peer in peers if peer.rival.kind == "server" and peer.place == "near" and peer.rows[0].rounds]
    triton = [peer.rows[0] for peer in peers
              if peer.rival.name.startswith("triton") and peer.place == "default" and peer.rows[0].rounds]
    lines = []
    for name, title, found in (("overhead.near", "a lone null request, all on one core", near),
                               ("overhead.default", "a lone null request, placed by the kernel", triton)):
        row = Row(name, title, US, 0.1, "the best model server" if name.endswith("near") else "Triton", steady=False)
        if found:
            best = min(found, key=lambda peer: statistics.median(floor for _, floor in peer.rounds))
            row.floor_name += f" ({best.floor_name})"
            row.rounds = best.rounds
        else:
            row.unavailable = "no model server ran here"
        lines.append(bench.result(row))
    return lines


def choose(only, brokers):
    wanted = only.split(",") if only else None
    return [Peer(rival, place, brokers) for rival in rivals.RIVALS
            if not wanted or any(rival.name.startswith(name) for name in wanted)
            for place in (("near", "far") if rival.kind == "pair" else ("near", "default"))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--only", default="", help="names of rivals, or how they begin")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    os.chdir(os.path.join(HERE, "..", ".."))
    setting, served = drivers.Setting(options.build, options.quick), drivers.Setting(options.build)
    begin = time.monotonic()
    try:
        peers = choose(options.only, Brokers(served))
        results = bench.run(peers, setting, options.quick)
        results = overhead(peers) + results
    finally:
        setting.stop_all()
        served.stop_all()
    folder = bench.write(results, peers, setting, "peers")
    bench.draw(folder, "peers")
    print(bench.table(results))
    ahead = sum(line["holds"] is True for line in results)
    print(f"\n  {ahead} of {len(results)} rows hold; {time.monotonic() - begin:.0f} s; {folder}/peers.json")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, rivals.RivalError) as error:
        sys.exit(f"bench-peers: {error}")
    except KeyboardInterrupt:
        sys.exit("bench-peers: interrupted")
