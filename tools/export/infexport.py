#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a model that infbroker serves: a TorchScript archive with its description inside.

    import infexport
    infexport.export(module, "classifier.pt",
                     inputs=[infexport.Tensor("image", torch.zeros(2, 3, 224, 224))],
                     outputs=["logits"], max_batch=16)

The module is put into eval mode, traced (or scripted) with the example inputs, described, saved, loaded again and compared
with the original. The first dimension of every example is the batch unless `batchable=False`; give examples of two rows or
more, so that a trace that has swallowed the batch size is found out.

The description (`infbroker.json` in the archive):

    {"format": 1, "batchable": true, "stateful": false, "max_batch": 16,
     "inputs":  [{"name": "image", "dtype": "f32", "shape": ["batch", 3, 224, 224]}],
     "outputs": [{"name": "logits", "dtype": "f32", "shape": ["batch", 1000]}]}

Integer inputs may have a `range` of allowed values: the executor checks it, on its own copy, before the model sees them. Give
one wherever a value is an index, or a client can make the model read out of bounds. Floating-point inputs may be declared
`finite`: no NaN, no infinity.
"""
import argparse
import dataclasses
import importlib
import json
import sys

import torch

DTYPES = {
    torch.bool: "bool", torch.uint8: "u8", torch.int8: "i8", torch.int16: "i16", torch.int32: "i32",
    torch.int64: "i64", torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32", torch.float64: "f64",
}


@dataclasses.dataclass
class Tensor:
    """An input: its name, an example, the allowed values of an integer one, bounds of dimensions that vary {dim: max}."""

    name: str
    example: torch.Tensor
    range: tuple | None = None
    finite: bool = False
    varying: dict = dataclasses.field(default_factory=dict)


def _describe(name, tensor, batchable, value_range=None, varying=None, finite=False):
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name}: {tensor.dtype} is not served (only {', '.join(DTYPES.values())})")
    shape = [{"max": varying[i]} if varying and i in varying else size for i, size in enumerate(tensor.shape)]
    if batchable:
        if not shape:
            raise ValueError(f"{name}: a scalar has no batch dimension; export with batchable=False")
        shape[0] = "batch"
    entry = {"name": name, "dtype": DTYPES[tensor.dtype], "shape": shape}
    if value_range is not None:
        entry["range"] = [int(value_range[0]), int(value_range[1])]
    if finite:
        entry["finite"] = True
    return entry


def _as_tuple(result):
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def _rows(tensors, n):
    return [tensor[:n] for tensor in tensors]


def _check_rows(named):
    """Every tensor has as many rows as the first one."""
    for name, tensor in named:
        if not tensor.shape or tensor.shape[0] != named[0][1].shape[0]:
            raise ValueError(f"{name} is {list(tensor.shape)}: its first dimension is not the batch of {named[0][0]}, "
                             f"{list(named[0][1].shape)}; export with batchable=False")


def _check(module, path, examples, batchable, tolerance):
    """The archive gives what the module gives, for the examples and, where it batches, for their first row alone."""
    loaded = torch.jit.load(path)
    cases = [examples] + ([_rows(examples, 1)] if batchable else [])
    with torch.inference_mode():
        for case in cases:
            for expected, got in zip(_as_tuple(module(*case)), _as_tuple(loaded(*case)), strict=True):
                torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def export(module, path, inputs, outputs, *, max_batch=16, batchable=True, stateful=False, script=False, output_varying=None,
           tolerance=1e-4):
    """Exports `module` to `path`. `inputs`: list of Tensor; `outputs`: their names, in the order of the result."""
    module = module.eval()
    examples = [tensor.example for tensor in inputs]
    with torch.inference_mode():
        results = _as_tuple(module(*examples))
    if len(results) != len(outputs):
        raise ValueError(f"the model gives {len(results)} tensors, {len(outputs)} names were given")
    if batchable:
        _check_rows([(tensor.name, tensor.example) for tensor in inputs] + list(zip(outputs, results)))
    description = {
        "format": 1,
        "batchable": batchable,
        "stateful": stateful,
        "inputs": [_describe(t.name, t.example, batchable, t.range, t.varying, t.finite) for t in inputs],
        "outputs": [_describe(name, result, batchable, None, (output_varying or {}).get(name))
                    for name, result in zip(outputs, results)],
    }
    if batchable:
        description["max_batch"] = max_batch
    with torch.no_grad():
        archive = torch.jit.script(module) if script else torch.jit.trace(module, tuple(examples), check_trace=False)
    torch.jit.save(archive, path, _extra_files={"infbroker.json": json.dumps(description)})
    _check(module, path, examples, batchable, tolerance)
    return description


def _parse_tensor(text):
    """name:dtype:2x3x224x224[:lo..hi or :finite]"""
    name, dtype, shape, *rest = text.split(":")
    torch_dtype = {v: k for k, v in DTYPES.items()}[dtype]
    size = [int(n) for n in shape.split("x")] if shape else []
    finite = rest == ["finite"]
    value_range = tuple(int(n) for n in rest[0].split("..")) if rest and not finite else None
    fill = value_range[0] if value_range else 0
    return Tensor(name, torch.full(size, fill, dtype=torch_dtype), value_range, finite)


def main():
    parser = argparse.ArgumentParser(description="Export an nn.Module for infbroker.", epilog=(
        "example: infexport.py mypackage.models:make_classifier classifier.pt "
        "--input image:f32:2x3x224x224 --output logits"))
    parser.add_argument("factory", help="MODULE:CALLABLE that returns the nn.Module")
    parser.add_argument("path", help="file to write, NAME.pt")
    parser.add_argument("--input", action="append", required=True, type=_parse_tensor, metavar="NAME:DTYPE:SHAPE[:LO..HI|:finite]",
                        help="one per input, in order; the first number of SHAPE is an example batch size of 2 or more")
    parser.add_argument("--output", action="append", required=True, metavar="NAME", help="one per output, in order")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--no-batch", action="store_true", help="shapes are complete; one request at a time")
    parser.add_argument("--script", action="store_true", help="torch.jit.script instead of trace")
    args = parser.parse_args()
    module_name, _, factory = args.factory.partition(":")
    module = getattr(importlib.import_module(module_name), factory)()
    json.dump(export(module, args.path, args.input, args.output, max_batch=args.max_batch,
                     batchable=not args.no_batch, script=args.script), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
