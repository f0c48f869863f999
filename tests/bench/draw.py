# SPDX-License-Identifier: Apache-2.0
"""draw.py FOLDER NAME - draws FOLDER/NAME.json as FOLDER/NAME.svg, and its latencies as FOLDER/NAME-latency.svg.

Bars: each row against its floor (1 = what the machine itself charges), on a log axis, green where the goal holds, red where it
does not, grey where it cannot be told; the goal is a tick. Latencies: the share of requests that took longer, on log axes.
"""
import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

GREEN, RED, GREY, INK = "#3a9d5d", "#c8443c", "#a0a4ab", "#26292e"
COLOURS = {True: GREEN, False: RED, None: GREY}


def style(axes):
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", which="both", linewidth=0.3, alpha=0.5)
    axes.tick_params(colors=INK)


def bars(data, path):
    rows = [row for row in data["rows"] if row["ratio"]][::-1]
    figure, axes = plt.subplots(figsize=(10, 0.8 + 0.32 * len(rows)))
    places = range(len(rows))
    axes.barh(places, [row["ratio"] - 1 for row in rows], left=1, color=[COLOURS[row["holds"]] for row in rows], height=0.6)
    for place, row in zip(places, rows):
        if row["goal"] and "ratio" in row["goal_is"]:
            axes.plot([row["goal"]] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=2)
        axes.text(row["ratio"], place, f" {row['ratio']:.2f} ", va="center", fontsize=8,
                  ha="left" if row["ratio"] >= 1 else "right", color=INK)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(places, [f"{row['name']}  |  {row['floor_name'].split(' (')[0][:44]}" for row in rows], fontsize=8)
    axes.set_xlabel("ratio to what it is held against, of the same rounds (log); the thick tick is the goal")
    axes.set_title(f"{data['machine']['cpu']}, {data['machine']['cpus']} CPUs, Linux {data['machine']['kernel']}", fontsize=9)
    style(axes)
    figure.savefig(path, bbox_inches="tight")


def latencies(found, path):
    if not found:
        return
    figure, axes = plt.subplots(figsize=(10, 5))
    for title, bins in found.items():
        left = total = sum(count for _, count in bins)
        points = []
        for upper, count in bins:
            points.append((upper, left / total))
            left -= count
        axes.step(*zip(*points), where="pre", label=title, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("latency, us")
    axes.set_ylabel("share of requests that took longer")
    axes.legend(fontsize=8, frameon=False)
    style(axes)
    figure.savefig(path, bbox_inches="tight")


def main():
    folder, name = sys.argv[1:]
    with open(f"{folder}/{name}.json", encoding="utf-8") as file:
        bars(json.load(file), f"{folder}/{name}.svg")
    with open(f"{folder}/{name}.latencies.json", encoding="utf-8") as file:
        latencies(json.load(file), f"{folder}/{name}-latency.svg")


main()
