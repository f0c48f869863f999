#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench`: what the machine charges, and what the broker adds, measured side by side.

    bench.py [--build DIR] [--only PREFIX[,PREFIX...]] [--quick]

Each row is measured round by round together with its floor, at least 7 times (a quick look: 3 short ones); the ratio is
taken in each round, so that what the machine does meanwhile hits both. What is printed are medians; the spread is the
inter-quartile range of the ratios over their median. A row whose spread is over 25 % is measured up to 25 times and then, if
it is still so unsteady, holds null (neither green nor red, counted as red), unless the goal is one that allows for it.

Writes DIR/bench/results.json and, where matplotlib is at hand, DIR/bench/*.svg. Exit status: 0 when it could measure, whatever
holds; 1 when something broke. tests/bench/BENCH.md says what each red row's time goes into.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import drivers
import rows as declared

SPREAD_MAX = 0.25
ROUNDS_MAX = 25
QUICK_ROUNDS = 3
QUICK_SHARE = 0.25  # of a measurement's time


def say(text, end="\n"):
    print(text, file=sys.stderr, end=end, flush=True)


def spread(values):
    """Inter-quartile range over the median."""
    middle = statistics.median(values)
    if len(values) < 3 or not middle:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / abs(middle)


def judged(row):
    """What the goal is about, per round: the ratio to the floor, or the value."""
    if row.absolute or row.floor_name is None:
        return [value for value, _ in row.rounds]
    return [value / floor for value, floor in row.rounds if floor]


def is_unsteady(row):
    return row.steady and spread(judged(row)) > SPREAD_MAX


def verdict(row):
    """(holds, why where it is None)"""
    figure = statistics.median(judged(row))
    floors = [floor for _, floor in row.rounds if floor is not None]
    if row.goal is None:
        return True, None
    if row.only_if and not row.only_if(statistics.median(value for value, _ in row.rounds), statistics.median(floors)):
        return None, row.why_not
    if is_unsteady(row):
        return None, f"unsteady: the ratios of {len(row.rounds)} rounds spread by {100 * spread(judged(row)):.0f} %"
    return (figure <= row.goal if row.at_most else figure >= row.goal), None


def result(row):
    """The row as it stands in results.json."""
    line = {"name": row.name, "title": row.title, "unit": row.unit, "floor_name": row.floor_name, "goal": row.goal,
            "goal_is": ("value" if row.absolute else "ratio") + (" at most" if row.at_most else " at least")}
    if not row.rounds:
        return {**line, "value": None, "floor": None, "ratio": None, "holds": None,
                "why": row.unavailable or "not measured", "rounds": 0, "spread": None}
    floors = [floor for _, floor in row.rounds if floor]
    holds, why = verdict(row)
    return {**line, "value": statistics.median(value for value, _ in row.rounds),
            "floor": statistics.median(floors) if floors else None,
            "ratio": statistics.median(value / floor for value, floor in row.rounds if floor) if floors else None,
            "holds": holds, "why": why, "rounds": len(row.rounds), "spread": spread(judged(row)),
            "all": row.rounds}


def measure(group, setting, quick):
    """Sets a group up, takes rounds until all its rows are steady or there were enough, takes it down."""
    begin = time.monotonic()
    try:
        say(f"  {group.name}: starting", end="\r")
        group.setup(setting)
        least = QUICK_ROUNDS if quick else group.rounds
        most = least if quick else max(least, ROUNDS_MAX)
        seconds = group.seconds * (QUICK_SHARE if quick else 1)
        for idx in range(most):
            for name, pair in group.round(setting, idx, seconds).items():
                group.row(name).rounds.append(pair)
            say(f"  {group.name}: round {idx + 1}, {time.monotonic() - begin:.0f} s\033[K", end="\r")
            if idx + 1 >= least and not any(is_unsteady(row) for row in group.rows if row.rounds):
                break
            if time.monotonic() - begin > (group.quick_seconds_max if quick else group.seconds_max):
                break
    except (drivers.Unavailable, RuntimeError) as error:
        for row in group.rows:
            row.unavailable = str(error)
    finally:
        setting.stop_all()
    say(f"  {group.name}: {len(group.rows[0].rounds)} rounds, {time.monotonic() - begin:.0f} s\033[K")


# --- for people ------------------------------------------------------------------------------------------------


def number(value):
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1)
    return f"{value:,.{digits if abs(value) >= 0.1 else 4}f}"


def table(results):
    mark = {True: "holds", False: "RED", None: "null"}
    lines = [f"  {'row':26s} {'value':>10s} {'unit':12s} {'floor':>10s} {'ratio':>7s} {'goal':>10s} {'':6s} spread"]
    for line in results:
        goal = "-" if line["goal"] is None else \
            f"{'<=' if 'most' in line['goal_is'] else '>='} {line['goal']:g}{'' if 'value' in line['goal_is'] else ' x'}"
        lines.append(f"  {line['name']:26s} {number(line['value']):>10s} {line['unit']:12s} {number(line['floor']):>10s} "
                     f"{'-' if line['ratio'] is None else '%.2f' % line['ratio']:>7s} {goal:>10s} {mark[line['holds']]:6s} "
                     f"{'-' if line['spread'] is None else '%.0f %%' % (100 * line['spread'])}")
        if line["why"]:
            lines.append(f"      {line['why']}")
    return "\n".join(lines)


def run(groups, setting, quick):
    for group in groups:
        measure(group, setting, quick)
    return [result(row) for group in groups for row in group.rows]


def choose(only):
    """All groups, or those of which a row's name (or their own) begins with one of the prefixes."""
    groups = [group() for group in declared.GROUPS]
    if not only:
        return groups
    prefixes = only.split(",")
    chosen = [group for group in groups
              if any(name.startswith(prefix) for prefix in prefixes
                     for name in [group.name] + [row.name for row in group.rows])]
    if not chosen:
        names = ", ".join(row.name for group in groups for row in group.rows)
        raise SystemExit(f"bench: no row is called {only}; there are {names}")
    return chosen


def write(results, groups, setting, name):
    folder = f"{setting.build}/bench"
    os.makedirs(folder, exist_ok=True)
    data = {"machine": drivers.machine(), "rows": results}
    with open(f"{folder}/{name}.json", "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
    latencies = {title: bins for group in groups for row in group.rows for title, bins in row.latencies.items()}
    with open(f"{folder}/{name}.latencies.json", "w", encoding="utf-8") as file:
        json.dump(latencies, file)
    return folder


def draw(folder, name):
    """Where the drawing library could not be had, the table must do."""
    found = subprocess.run(["tools/setup/venv.sh", "--python", "plot"], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        subprocess.run([found.stdout.strip(), f"{HERE}/draw.py", folder, name], check=True)
    else:
        say("  no drawing: tools/setup/venv.sh plot installs matplotlib")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--only", default="", help="names of rows or groups, or how they begin")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    os.chdir(os.path.join(HERE, "..", ".."))
    setting = drivers.Setting(options.build, options.quick)
    groups = choose(options.only)
    begin = time.monotonic()
    results = run(groups, setting, options.quick)
    folder = write(results, groups, setting, "results")
    draw(folder, "results")
    print(table(results))
    green = sum(line["holds"] is True for line in results)
    print(f"\n  {green} of {len(results)} rows hold; {time.monotonic() - begin:.0f} s; {folder}/results.json")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
