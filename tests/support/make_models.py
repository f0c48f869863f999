#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_models.py FOLDER - small models, good and bad, for tests/integ/models.sh, and inputs x-*.npy for them.

FOLDER/models is what the broker serves; FOLDER/spare holds files that the test moves there later.
"""
import json
import os
import shutil
import sys
import warnings
import zipfile

import numpy
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "export"))
import infexport  # noqa: E402

Tensor = infexport.Tensor


class Scale(torch.nn.Module):
    """x * factor; the factor tells versions apart."""

    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(float(factor)))

    def forward(self, x):
        return x * self.factor


class Copy(torch.nn.Module):
    def forward(self, x):
        return x.clone()


class SumAndDifference(torch.nn.Module):
    def forward(self, a, b):
        return a + b, a - b


class Lookup(torch.nn.Module):
    """Reads out of bounds where an index is not in 0..9, unless somebody checks it before."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)

    def forward(self, index):
        return self.table(index)


class Moody(torch.nn.Module):
    """Raises for a negative sum of the batch, gives too narrow rows for one over 1000."""

    def forward(self, x):
        if bool(x.sum() < 0):
            raise RuntimeError("the sum is negative")
        if bool(x.sum() > 1000):
            return x[:, :2]
        return x


class Slow(torch.nn.Module):
    """Warms up for about as long as the test needs to kill its executor."""

    def forward(self, x):
        for _ in range(30000000):
            x = x + 0
        return x


class Prefix(torch.nn.Module):
    """f32[n], n up to 8: the first half of the elements."""

    def forward(self, x):
        return x[: x.shape[0] // 2].clone()


class Many(torch.nn.Module):
    """As many inputs and outputs as there may be: output k is input k times k."""

    def forward(self, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p):
        return tuple(x * w for w, x in enumerate((a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)))


class FirstRow(torch.nn.Module):
    """A trace that has swallowed the batch size gives such a thing."""

    def forward(self, x):
        return x[:1] * 1


class ListOfNumbers(torch.nn.Module):
    def forward(self, x):
        return [float(x.sum())]


def make_scale():
    """What the exporter's command line calls."""
    return Scale(11)


def description(output_shape, dtype="f32", **changes):
    return json.dumps({"format": 1, "batchable": True, "max_batch": 4,
                       "inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", 4]}],
                       "outputs": [{"name": "y", "dtype": dtype, "shape": output_shape}]} | changes)


def save_raw(module, path, text=None):
    """Without the exporter's own checks."""
    script = torch.jit.script(module.eval())
    torch.jit.save(script, path, _extra_files={"infbroker.json": text} if text else {})


def good_models(folder):
    rows = torch.ones(2, 4)
    infexport.export(Scale(2), f"{folder}/double.pt", [Tensor("x", rows)], ["y"], max_batch=4)
    infexport.export(SumAndDifference(), f"{folder}/two.pt", [Tensor("a", rows), Tensor("b", rows)], ["sum", "difference"])
    infexport.export(Lookup(), f"{folder}/lookup.pt", [Tensor("index", torch.ones(2, 3, dtype=torch.int64), range=(0, 9))], ["y"])
    infexport.export(Copy(), f"{folder}/scalar.pt", [Tensor("x", torch.tensor(1.5))], ["y"], batchable=False)
    infexport.export(Copy(), f"{folder}/empty.pt", [Tensor("x", torch.ones(2, 0))], ["y"])
    infexport.export(Prefix(), f"{folder}/prefix.pt", [Tensor("x", torch.ones(8), varying={0: 8})], ["y"], batchable=False,
                     script=True, output_varying={"y": {0: 4}})
    infexport.export(Moody(), f"{folder}/moody.pt", [Tensor("x", rows)], ["y"], script=True)
    for dtype, name in infexport.DTYPES.items():
        example = torch.ones(2, 3).to(dtype)
        infexport.export(Copy(), f"{folder}/copy-{name}.pt", [Tensor("x", example)], ["y"])
    for version in (1, 3):
        os.makedirs(f"{folder}/versions/{version}")
        infexport.export(Scale(version), f"{folder}/versions/{version}/model.pt", [Tensor("x", rows)], ["y"])
    infexport.export(Many(), f"{folder}/many.pt", [Tensor(f"in{i}", rows) for i in range(16)], [f"out{i}" for i in range(16)])
    save_raw(Scale(5), f"{folder}/sidecar.pt")
    with open(f"{folder}/sidecar.json", "w", encoding="utf-8") as file:
        file.write(description(["batch", 4]))


def bad_models(folder):
    save_raw(Scale(1), f"{folder}/bad-undescribed.pt")
    save_raw(Scale(1), f"{folder}/bad-shape.pt", description(["batch", 5]))
    save_raw(Scale(1), f"{folder}/bad-dtype.pt", description(["batch", 4], "f64"))
    save_raw(Scale(1), f"{folder}/bad-json.pt", "{ this is no JSON")
    save_raw(FirstRow(), f"{folder}/bad-batch.pt", description(["batch", 4]))
    save_raw(ListOfNumbers(), f"{folder}/bad-result.pt", description(["batch", 4]))
    save_raw(Lookup(), f"{folder}/bad-input.pt", description(["batch", 4, 4]))
    y = {"name": "y", "dtype": "f32", "shape": ["batch", 4]}
    descriptions = {
        "count": {"outputs": [y, y | {"name": "z"}]},
        "twice": {"outputs": [y, y]},
        "key": {"colour": "red"},
        "format": {"format": 2},
        "max-batch": {"max_batch": 257},
        "range": {"inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", 4], "range": [0, 1]}]},
        "finite": {"inputs": [{"name": "x", "dtype": "i64", "shape": ["batch", 4], "finite": True}]},
        "rank": {"outputs": [y | {"shape": ["batch"] + [1] * 8}]},
        "huge": {"outputs": [y | {"shape": ["batch", 1 << 40]}]},
        "unbatched": {"outputs": [y | {"shape": [4]}]},
        "nothing": {"outputs": []},
        "name": {"inputs": [{"name": "../x", "dtype": "f32", "shape": ["batch", 4]}]},
    }
    for name, changes in descriptions.items():
        save_raw(Scale(1), f"{folder}/bad-{name}.pt", description(["batch", 4], **changes))
    with open(f"{folder}/double.pt", "rb") as file:
        whole = file.read()
    contents = {"corrupt": os.urandom(4096), "empty": b"", "text": b"hello\n", "cut": whole[: len(whole) // 2]}
    for name, content in contents.items():
        with open(f"{folder}/bad-{name}.pt", "wb") as file:
            file.write(content)


def folders(folder):
    """NAME/VERSION/model.pt where VERSION is not what it should be, or what it holds is not."""
    with open(f"{folder}/bad-corrupt.pt", "rb") as file:
        corrupt = file.read()
    for name, versions in {"fallback": ("1", "2"), "odd": ("5", "0", "-7", "+8", " 9", "x", "10x", "99999999999"), "zeros": ("007",)}.items():
        for at, version in enumerate(versions):
            os.makedirs(f"{folder}/{name}/{version}")
            infexport.export(Scale(4 + at), f"{folder}/{name}/{version}/model.pt", [Tensor("x", torch.ones(2, 4))], ["y"])
    os.makedirs(f"{folder}/fallback/3")
    with open(f"{folder}/fallback/3/model.pt", "wb") as file:
        file.write(corrupt)


def no_models(folder):
    """Must be passed over without harm."""
    shutil.copy(f"{folder}/double.pt", f"{folder}/.hidden.pt")
    shutil.copy(f"{folder}/double.pt", f"{folder}/not a name.pt")
    shutil.copy(f"{folder}/double.pt", f"{folder}/{'x' * 64}.pt")
    os.makedirs(f"{folder}/folder.pt")
    os.makedirs(f"{folder}/hollow/1")
    os.symlink("nothing", f"{folder}/dangling.pt")
    os.mkfifo(f"{folder}/fifo.pt")
    with open(f"{folder}/notes.txt", "w", encoding="utf-8") as file:
        file.write("no model\n")


def make_killer(source, path):
    """Its code is nested so deep that libtorch's parser runs out of stack: whoever loads it dies."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("code/__torch__.py"):
                head, _, tail = content.rpartition(b"return ")
                word, _, rest = tail.partition(b"\n")
                content = head + b"return " + b"(" * 1000000 + word + b")" * 1000000 + b"\n" + rest
            new.writestr(entry.filename, content)


def refuses(what, *args, **options):
    try:
        infexport.export(*args, **options)
    except Exception:  # whatever it is, nothing may be served
        return
    sys.exit(f"the exporter took {what}")


def exporter_refuses(path):
    rows = torch.ones(2, 4)
    refuses("one name for two outputs", SumAndDifference(), path, [Tensor("a", rows), Tensor("b", rows)], ["sum"])
    refuses("a type that is not served", Copy(), path, [Tensor("x", rows.to(torch.complex64))], ["y"])
    refuses("a scalar with a batch", Copy(), path, [Tensor("x", torch.tensor(1.0))], ["y"])
    refuses("a model that swallows the batch", FirstRow(), path, [Tensor("x", rows)], ["y"])


def spare_models(folder):
    make_killer(f"{folder}/../models/double.pt", f"{folder}/killer.pt")
    infexport.export(Scale(13), f"{folder}/version-4.pt", [Tensor("x", torch.ones(2, 4))], ["y"])
    infexport.export(Scale(7), f"{folder}/double-wide.pt", [Tensor("x", torch.ones(2, 5))], ["y"], max_batch=4)
    save_raw(Slow(), f"{folder}/slow.pt", description(["batch", 4]))
    infexport.export(Scale(7), f"{folder}/double.pt", [Tensor("x", torch.ones(2, 4))], ["y"], max_batch=4)
    infexport.export(Scale(9), f"{folder}/new.pt", [Tensor("x", torch.ones(2, 4))], ["y"])


def inputs(folder):
    numpy.save(f"{folder}/x-rows.npy", numpy.arange(8, dtype=numpy.float32).reshape(2, 4))
    numpy.save(f"{folder}/x-negative.npy", -numpy.ones((1, 4), numpy.float32))
    numpy.save(f"{folder}/x-large.npy", 1000 * numpy.ones((1, 4), numpy.float32))
    numpy.save(f"{folder}/x-scalar.npy", numpy.float32(2.5))
    numpy.save(f"{folder}/x-empty.npy", numpy.ones((3, 0), numpy.float32))
    numpy.save(f"{folder}/x-six.npy", numpy.arange(6, dtype=numpy.float32))
    numpy.save(f"{folder}/x-index.npy", numpy.array([[0, 5, 9]]))
    numpy.save(f"{folder}/x-index-past.npy", numpy.array([[0, 5, 10]]))
    for dtype, name in infexport.DTYPES.items():
        values = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype)
        array = values.view(torch.int16).numpy().view("V2") if name == "bf16" else values.numpy()
        numpy.save(f"{folder}/x-{name}.npy", array)


def main():
    warnings.filterwarnings("ignore")  # TorchScript is deprecated; it is what we serve
    folder = sys.argv[1]
    for name in ("models", "spare"):
        os.makedirs(os.path.join(folder, name))
    good_models(os.path.join(folder, "models"))
    bad_models(os.path.join(folder, "models"))
    folders(os.path.join(folder, "models"))
    no_models(os.path.join(folder, "models"))
    exporter_refuses(os.path.join(folder, "refused.pt"))
    spare_models(os.path.join(folder, "spare"))
    inputs(folder)


if __name__ == "__main__":
    main()
