# SPDX-License-Identifier: Apache-2.0
"""What `shmctl trace --kernel -j` said, held against what is known.

    kernel_stages.py same TRACE TIMED PERCENT  as many requests as lines of TIMED, in their order; the stages of each sum up to its total,
                                        and that is the client's own time within 2 % + 0.5 us (of so many of them: the rest may have
                                        lost the CPU between the two clocks)
    kernel_stages.py share TRACE FROM_NS SHARE STAGE[+STAGE...]
                                        of what requests of at least FROM_NS took more than the median, those stages have the share
    kernel_stages.py most TRACE SHARE STAGE[+STAGE...]
                                        of all time, those stages have the share
"""
import json
import statistics
import sys


def load(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.startswith("{")]


def same(events, timed, percent):
    with open(timed, encoding="utf-8") as file:
        own = [int(returned) - int(before) for before, _, returned in (line.split() for line in file)]
    if len(events) != len(own):
        return f"{len(events)} requests were seen, {len(own)} were made"
    for event in events:
        if sum(event["stages_ns"].values()) != event["total_ns"]:
            return f"the stages are not the whole: {event}"
        if min(event["stages_ns"].values()) < 0:
            return f"a stage is less than nothing: {event}"
    off = sorted(abs(ns - event["total_ns"]) - 0.02 * ns for event, ns in zip(events, own))
    differences = sorted(ns - event["total_ns"] for event, ns in zip(events, own))
    at = len(off) * int(percent) // 100
    print(f"own less seen: median {differences[len(off) // 2]} ns, p{percent} {differences[at]} ns of {statistics.median(own)} ns")
    return None if off[at] <= 500 else f"{100 - int(percent)} % are off by 2 % and at least {off[at]:.0f} ns"


def share(events, from_ns, least, stages):
    median = statistics.median(event["total_ns"] for event in events)
    slow = [event for event in events if event["total_ns"] >= from_ns]
    if len(slow) < 5:
        return f"only {len(slow)} of {len(events)} requests took {from_ns} ns"
    return most(slow, least, stages, sum(event["total_ns"] - median for event in slow))


def most(events, least, stages, total=None):
    total = total or sum(event["total_ns"] for event in events)
    sums = {stage: sum(event["stages_ns"][stage] for event in events) for stage in events[0]["stages_ns"]}
    found = sum(sums[stage] for stage in stages) / total
    print(f"{'+'.join(stages)}: {100 * found:.1f} % in {len(events)} requests")
    if found >= least:
        return None
    return f"{100 * found:.1f} %; " + ", ".join(f"{stage} {100 * ns / total:.1f} %" for stage, ns in sums.items() if ns)


def main(what, trace, *rest):
    events = load(trace)
    if not events:
        return "nothing was seen"
    if what == "same":
        return same(events, *rest)
    if what == "share":
        return share(events, int(rest[0]), float(rest[1]), rest[2].split("+"))
    return most(events, float(rest[0]), rest[1].split("+"))


sys.exit(main(*sys.argv[1:]))
