# SPDX-License-Identifier: Apache-2.0
"""The ceilings to aim at (reference/gpu-and-libtorch.md, 5.8), and which rows of bench.py say how near we are."""

NOT_BUILT = "not built: "


class Ceiling:
    """`find(rows by key)` gives (what is compared with the goal, both figures in words), or raises KeyError with what lacks."""

    def __init__(self, metric, goal, find=None, *experiments, at_most=False, why=None):
        self.metric, self.goal, self.find, self.at_most, self.why = metric, goal, find, at_most, why
        self.experiments = experiments  # whose rows it needs


def ratio_of(key):
    def find(rows):
        row = rows[key]
        return row["ratio"], f"{row['value']:,.0f} of {row['floor']:,.0f} {row['unit']}"
    return find


def added(key, quantile):
    """A latency less that of the same in one process."""
    def find(rows):
        row = rows[f"{key} {quantile}"]
        return row["value"] - row["floor"], f"{row['value']:.1f} - {row['floor']:.1f} us"
    return find


def value_of(key, text):
    def find(rows):
        row = rows[key]
        return row["value"], text
    return find


def quicker(slow, fast):
    """How many times."""
    def find(rows):
        return rows[slow]["value"] / rows[fast]["value"], f"{rows[slow]['value']:,.0f} to {rows[fast]['value']:,.0f} us"
    return find


def bandwidth(key):
    """Of the best copy in that E2 has found, of any size."""
    def find(rows):
        best = [row["value"] for name, row in rows.items() if name.startswith("E2 copy in, pinned")]
        if not best:
            raise KeyError("E2 copy in, pinned")
        return rows[key]["value"] / max(best), f"{rows[key]['value']:.2f} of {max(best):.2f} GB/s"
    return find


LATENCY, BANDWIDTH, RESNET50, BERT, MLP = "E10 latency", "E10 bandwidth", "E10 resnet50", "E10 bert", "E10 mlp"

CEILINGS = [
    Ceiling("ResNet-50 fp16, batches of 32, host tensors / offline", 0.97, ratio_of("resnet50 host"), RESNET50),
    Ceiling("the same, device tensors in place", 0.99, why=NOT_BUILT + "device tensors are always gathered (next line)"),
    Ceiling("the same, device tensors gathered", 0.985, ratio_of("resnet50 device"), RESNET50),
    Ceiling("BERT-base, 128 tokens, batches of 32, host / offline", 0.97, ratio_of("bert host"), BERT),
    Ceiling("a tiny MLP, batches of 64, with graphs / replay loop", 0.7, ratio_of("mlp device"), MLP),
    Ceiling("graph on / off, one image, ResNet-50 TorchScript", 1.8,
            quicker("E8 resnet50, script, batch 1", "E9 resnet50, script, batch 1, graph"), "E8/E9 resnet50 script"),
    Ceiling("added to host tensors of 600 kB, spinning, us", 10, added("host latency", "p50"), LATENCY, at_most=True),
    Ceiling("the same, p99", 25, added("host latency", "p99"), LATENCY, at_most=True),
    Ceiling("added to device tensors of 600 kB, spinning, us", 12, added("device latency", "p50"), LATENCY, at_most=True),
    Ceiling("more for a client that sleeps, us", 15, added("sleeping", "p50"), LATENCY, at_most=True),
    Ceiling("copy in / best pinned copy, requests of 256 KiB", 0.95, bandwidth("bandwidth 256 KiB"), "E2", BANDWIDTH),
    Ceiling("the same, requests of 64 KiB", 0.8, bandwidth("bandwidth 64 KiB"), "E2", BANDWIDTH),
    Ceiling("share of time that the device computes, saturated", 0.97, value_of("busy", "time of kernels / time"), "E10 busy"),
    Ceiling("CPU of the broker for a request, batches of 32, us", 3, value_of("cpu", "front and executor"), "E10 cpu", at_most=True),
    Ceiling("CPU engine / in process", 0.99, why="no device's figure: `make bench` has it"),
]


def why_missing(key, ceiling, rows, why_of):
    """A row that says why it has no figure, or what became of the experiment whose row it is."""
    for row in rows:
        if key == row.get("key", row["name"]) and "why" in row:
            return row["why"]
    for name in ceiling.experiments:
        if why_of.get(name, "it was not asked for"):
            return f"{name}: {why_of.get(name, 'it was not asked for')}"
    return f"no row {key}"


def judge(rows, why_of, is_software):
    """`why_of`: experiments by name, and why they did not run to their end (None = they did). All ceilings, as in the JSON;
    of a driver in software nothing holds, and nothing fails."""
    by_key = {row.get("key", row["name"]): row for row in rows if "value" in row}
    found = []
    for ceiling in CEILINGS:
        line = {"metric": ceiling.metric, "goal": ceiling.goal, "at_most": ceiling.at_most, "found": None, "of": None,
                "holds": None, "why": ceiling.why}
        if ceiling.find:
            try:
                line["found"], line["of"] = ceiling.find(by_key)
                holds = line["found"] <= ceiling.goal if ceiling.at_most else line["found"] >= ceiling.goal
                line["holds"] = None if is_software else holds
            except KeyError as error:
                line["why"] = why_missing(error.args[0], ceiling, rows, why_of)
        found.append(line)
    return found
