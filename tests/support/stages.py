# SPDX-License-Identifier: Apache-2.0
"""stages.py TIMES TRACE N: holds what `shmctl trace -j` said of N requests against what `timed` measured itself.

Each time that the trace names lies where the client's clock says it must: submitted within the call of inf_submit(), all stages
after it and after one another, answered before the client had the answer. Prints what fails, else how much of the client's time
the stages explain.
"""

import json
import sys

times = [tuple(map(int, line.split())) for line in open(sys.argv[1])]
records = [json.loads(line) for line in open(sys.argv[2])]
wanted = int(sys.argv[3])
STAGES = ("ring_ns", "queue_ns", "wait_ns", "run_ns", "post_ns")


def wrong() -> str | None:
    if len(times) != wanted or len(records) != wanted:
        return f"{len(times)} were measured and {len(records)} traced, not {wanted}"
    for i, ((before, after, returned), record) in enumerate(zip(times, records)):
        stages = record["stages"]
        if record["position"] != records[0]["position"] + i:
            return f"{i}: position {record['position']} is not the next one"
        if record["status"] != "OK" or any(name not in stages for name in STAGES):
            return f"{i}: {record}"
        # In steps of 16 ns. One that comes while the front is at work is accepted by a clock that was read before: 0 in the ring.
        if not before - 16 <= record["submitted_ns"] <= after + 16 and (stages["ring_ns"] or record["submitted_ns"] > after):
            return f"{i}: submitted at {record['submitted_ns']}, not in {before}..{after}"
        if sum(stages[name] for name in STAGES) != stages["total_ns"]:
            return f"{i}: the stages are not the whole: {stages}"
        if record["submitted_ns"] + stages["total_ns"] != record["answered_ns"] or record["answered_ns"] > returned:
            return f"{i}: answered at {record['answered_ns']}, after the client had it at {returned}"
    return None


error = wrong()
if error:
    sys.exit(error)
rest = sorted((returned - before) - record["stages"]["total_ns"] for (before, _, returned), record in zip(times, records))
within = sum(
    abs((returned - before) - record["stages"]["total_ns"]) <= 0.02 * (returned - before) + 500
    for (before, _, returned), record in zip(times, records)
)
print(
    f"{wanted} requests; between the broker's answer and the client that has it: p50 {rest[wanted // 2]} ns, "
    f"p99 {rest[wanted * 99 // 100]} ns; the stages are within 2 % + 0.5 us of the client's time in {within}"
)
