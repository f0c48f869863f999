#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""validate.py FOLDER [SCHEMA FILE]... - each FILE holds JSON values, one after the other, which the FOLDER's SCHEMA.json describes.

With --broken before the FOLDER: each object of FILE gets a member more, each required one of the outermost is taken away, and
all of that must be refused.

Without files: the schemas of FOLDER are judged themselves. Each is a schema, and strict: an object says whether it may have other
members than those listed, so that a new one has to be written down. Exit status 1 and a line for each that is not so.
"""
import glob
import json
import os
import sys

from jsonschema import Draft202012Validator
from referencing import Registry, Resource


def read_schema(folder, name):
    with open(os.path.join(folder, name + ".json"), encoding="utf-8") as file:
        return json.load(file)


def validator_of(folder, name):
    """A schema may name another one, as in {"$ref": "status.json"}."""
    others = [(os.path.basename(path), Resource.from_contents(read_schema(folder, os.path.basename(path)[:-5])))
              for path in glob.glob(os.path.join(folder, "*.json"))]
    return Draft202012Validator(read_schema(folder, name), registry=Registry().with_resources(others))


def values(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    decoder, at, n = json.JSONDecoder(parse_constant=lambda name: sys.exit(f"{path}: {name} is no JSON")), 0, 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        n += 1
        yield value
    if not n:
        sys.exit(f"{path}: nothing there")


def loose(schema, where):
    """Where in a schema an object is open, or does not say what it must have."""
    if isinstance(schema, list):
        for i, part in enumerate(schema):
            yield from loose(part, f"{where}[{i}]")
    if not isinstance(schema, dict):
        return
    if "object" in schema.get("type", ()) and "additionalProperties" not in schema:
        yield f"{where}: no additionalProperties"
    if "properties" in schema and "required" not in schema:
        yield f"{where}: no list of what is required"
    for name, part in schema.items():
        yield from loose(part, f"{where}.{name}")


def judge(folder):
    faults = []
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        name = os.path.basename(path)[:-5]
        schema = read_schema(folder, name)
        Draft202012Validator.check_schema(schema)
        faults += loose(schema, name)
        if schema["properties"]["schema"] != {"const": f"infbroker.{name}/1"}:
            faults.append(f"{name}: another name inside")
    return faults


def objects(value):
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(part)


def accepted(validator, name, value):
    """What is wrong in it, and is not refused."""
    for i, part in enumerate(objects(value)):
        part["something_new"] = 1
        if validator.is_valid(value):
            yield f"{name}: a new member is accepted in object {i}, beside {', '.join(part)}"
        del part["something_new"]
    for member in validator.schema["required"]:
        kept = value.pop(member)
        if validator.is_valid(value):
            yield f"{name}: it is accepted without {member}"
        value[member] = kept


def main():
    is_broken = sys.argv[1] == "--broken"
    folder, *pairs = sys.argv[1 + is_broken :]
    faults = [] if pairs else judge(folder)
    for name, path in zip(pairs[::2], pairs[1::2]):
        validator = validator_of(folder, name)
        for value in values(path):
            if is_broken:
                faults += accepted(validator, name, value)
                continue
            faults += [f"{name}: {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]
    print("\n".join(faults[:20]))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
