#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_models.py FOLDER - small models, good and bad, for tests/integ/models.sh, and inputs x-*.npy for them.

FOLDER/models is what the broker serves; FOLDER/spare holds files that the test moves there later.
"""
import json
import os
import sys
import warnings

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


def description(output_shape, dtype="f32"):
    return json.dumps({"format": 1, "batchable": True, "max_batch": 4,
                       "inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", 4]}],
                       "outputs": [{"name": "y", "dtype": dtype, "shape": output_shape}]})


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
    save_raw(Scale(5), f"{folder}/sidecar.pt")
    with open(f"{folder}/sidecar.json", "w", encoding="utf-8") as file:
        file.write(description(["batch", 4]))


def bad_models(folder):
    save_raw(Scale(1), f"{folder}/bad-undescribed.pt")
    save_raw(Scale(1), f"{folder}/bad-shape.pt", description(["batch", 5]))
    save_raw(Scale(1), f"{folder}/bad-dtype.pt", description(["batch", 4], "f64"))
    save_raw(Scale(1), f"{folder}/bad-json.pt", "{ this is no JSON")
    with open(f"{folder}/double.pt", "rb") as file:
        whole = file.read()
    contents = {"corrupt": os.urandom(4096), "empty": b"", "text": b"hello\n", "cut": whole[: len(whole) // 2]}
    for name, content in contents.items():
        with open(f"{folder}/bad-{name}.pt", "wb") as file:
            file.write(content)


def spare_models(folder):
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
    spare_models(os.path.join(folder, "spare"))
    inputs(folder)


if __name__ == "__main__":
    main()
