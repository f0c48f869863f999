#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""npy.py - .npy files without NumPy, for tests/integ/shmctl.sh: its reader and writer must not judge themselves.

    npy.py make FOLDER                  good and bad files, from the list below
    npy.py has FILE DESCR SHAPE VALUES  exit 0 where FILE is exactly that: SHAPE like 2x3 ("" = a scalar), VALUES with commas
    npy.py numpy FOLDER                 the same data as NumPy saves it, in each version of the format (needs NumPy)
    npy.py numpy-reads FILE...          exit 0 where NumPy takes each of these
"""
import ast
import os
import struct
import sys

KINDS = {"b1": "?", "u1": "B", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "f2": "e", "f4": "f", "f8": "d"}


def pack(descr, values):
    order = ">" if descr[0] == ">" else "<"
    return struct.pack(f"{order}{len(values)}{KINDS[descr[1:]]}", *values)


def head(descr, shape, fortran=False, version=1):
    text = repr({"descr": descr, "fortran_order": fortran, "shape": tuple(shape)}).encode()
    return head_of(text, version)


def head_of(text, version=1):
    n_length = 2 if version == 1 else 4
    padding = -(8 + n_length + len(text) + 1) % 64
    text += b" " * padding + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(n_length, "little") + text


def array(descr, shape, values, **options):
    return head(descr, shape, **options) + pack(descr, values)


def files():
    rows = [i % 256 for i in range(128)]
    floats = [i / 3 for i in range(1024)]
    good = array("|u1", (2, 64), rows)
    yield "rows", good
    yield "one-row", array("|u1", (1, 64), rows[:64])
    yield "rows-v2", array("|u1", (2, 64), rows, version=2)
    yield "rows-v3", array("|u1", (2, 64), rows, version=3)
    yield "rows=x", good
    for n in (64, 65, 300, 4096, 4097):
        yield f"rows-{n}", array("|u1", (n, 64), [i % 251 for i in range(n * 64)])
    yield "floats", array("<f4", (1, 1024), floats)
    yield "odd-floats", array("<f4", (1, 1024), [float("nan"), float("inf"), float("-inf"), -0.0, 1e-45] + floats[5:])
    yield "a", array("<f4", (2, 16), [float(i) for i in range(32)])
    yield "b", array("<f4", (2, 16), [1.0] * 32)
    yield "three-rows", array("<f4", (3, 16), [1.0] * 48)
    yield "index", array("<i8", (2, 4), [0, 1, 2, 3, 4, 5, 6, 9])
    yield "index-10", array("<i8", (1, 4), [0, 1, 2, 10])
    yield "index--1", array("<i8", (1, 4), [0, -1, 2, 3])
    yield "index-huge", array("<i8", (1, 4), [0, 1, 2, -(1 << 63)])
    yield "scalar", array("<i4", (), [21])
    yield "scalar-1000", array("<i4", (), [1000])
    yield "scalar-1001", array("<i4", (), [1001])
    yield "scalar--1001", array("<i4", (), [-1001])
    for n in (0, 1, 5, 1024, 1025):
        yield f"vary-{n}", array("<f4", (n,), [float(i) for i in range(n)])
    yield "vary-fortran", array("<f4", (5,), [0.0, 1.0, 2.0, 3.0, 4.0], fortran=True)
    yield "zero", array("|u1", (1, 1), [0])
    yield "one", array("|u1", (1, 1), [1])
    # What no model takes, or not this one.
    yield "bad-f64", array("<f8", (2, 64), rows)
    yield "bad-i8", array("|i1", (2, 64), [0] * 128)
    yield "bad-bool", array("|b1", (2, 64), [True] * 128)
    yield "bad-f16", array("<f2", (2, 64), [0.0] * 128)
    yield "bad-bf16", head("|V2", (2, 64)) + bytes(256)
    yield "bad-width", array("|u1", (2, 63), rows[:126])
    yield "bad-rank-1", array("|u1", (128,), rows)
    yield "bad-rank-3", array("|u1", (1, 2, 64), rows)
    yield "bad-rank-0", array("|u1", (), [1])
    yield "bad-rank-9", array("|u1", (1,) * 9, [1])
    yield "bad-no-rows", array("|u1", (0, 64), [])
    yield "bad-fortran", array("|u1", (2, 64), rows, fortran=True)
    yield "bad-big-endian", array(">i8", (1, 4), [0, 1, 2, 3])
    yield "bad-complex", head("<c8", (2, 64)) + bytes(1024)
    yield "bad-text", head("<U4", (2, 64)) + bytes(2048)
    yield "bad-object", head("|O", (2, 64)) + bytes(1024)
    yield "bad-record", head_of(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 64), }") + bytes(512)
    yield "bad-negative", head_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-2, 64), }") + bytes(128)
    yield "bad-shape-word", head_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, x), }") + bytes(128)
    yield "bad-open-shape", head_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 64") + bytes(128)
    yield "bad-no-shape", head_of(b"{'descr': '|u1', 'fortran_order': False, }") + bytes(128)
    yield "bad-no-order", head_of(b"{'descr': '|u1', 'shape': (2, 64), }") + bytes(128)
    yield "bad-no-descr", head_of(b"{'fortran_order': False, 'shape': (2, 64), }") + bytes(128)
    yield "bad-overflow", head("|u1", (1 << 62, 1 << 62))
    yield "bad-huge-number", head_of(b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999, 64), }")
    yield "bad-version", good[:6] + b"\x09" + good[7:]
    yield "bad-head-length", good[:6] + b"\x02\0" + struct.pack("<I", 1 << 31) + good[10:]
    yield "bad-binary-head", head_of(bytes(range(256)))
    yield "bad-cut", good[:-1]
    yield "bad-no-data", good[:-128]
    yield "bad-cut-head", good[:40]
    yield "bad-cut-magic", good[:5]
    yield "bad-empty", b""
    yield "bad-words", b"this is no array\n"


def make(folder):
    for name, content in files():
        with open(os.path.join(folder, name + ".npy"), "wb") as file:
            file.write(content)
    rows = bytes(range(128))
    for name, content in (("rows", rows), ("one-row", rows[:64]), ("cut", rows[:100]), ("empty", b""), ("seven", b"\x07\0\0\0"),
                          ("five-bytes", bytes(5)), ("a", struct.pack("<16f", *range(16)))):
        with open(os.path.join(folder, name + ".raw"), "wb") as file:
            file.write(content)


def has(path, descr, shape, values):
    with open(path, "rb") as file:
        content = file.read()
    assert content[:8] == b"\x93NUMPY\x01\x00", "magic and version"
    n_head = int.from_bytes(content[8:10], "little")
    assert (10 + n_head) % 64 == 0 and content[9 + n_head:10 + n_head] == b"\n", "the data are not aligned"
    found = ast.literal_eval(content[10:10 + n_head].decode("ascii").strip())
    dims = tuple(int(n) for n in shape.split("x")) if shape else ()
    assert found == {"descr": descr, "fortran_order": False, "shape": dims}, found
    data = content[10 + n_head:]
    numbers = [float(word) for word in values.split(",")] if values else []
    got = list(struct.unpack(f"<{len(data) // int(descr[2])}{KINDS[descr[1:]]}", data))
    expected = list(struct.unpack(f"<{len(numbers)}{KINDS[descr[1:]]}", pack("<" + descr[1:], [
        number if "f" in descr else int(number) for number in numbers])))
    assert got == expected, f"got {got}, expected {expected}"


def numpy_saves(folder):
    import numpy

    rows = numpy.arange(128, dtype=numpy.uint8).reshape(2, 64)
    wide = numpy.arange(256, dtype=numpy.uint8).reshape(2, 128)
    numpy.save(f"{folder}/numpy-rows.npy", rows)
    numpy.save(f"{folder}/numpy-view.npy", wide[:, ::2])
    numpy.save(f"{folder}/numpy-fortran.npy", numpy.asfortranarray(rows))
    numpy.save(f"{folder}/numpy-big-endian.npy", numpy.zeros((1, 4), ">i8"))
    numpy.save(f"{folder}/numpy-scalar.npy", numpy.int32(21))
    for version in (1, 2, 3):
        with open(f"{folder}/numpy-v{version}.npy", "wb") as file:
            numpy.lib.format.write_array(file, rows, version=(version, 0))


def numpy_reads(paths):
    import numpy

    for path in paths:
        loaded = numpy.load(path, allow_pickle=False)
        print(path, loaded.dtype, loaded.shape)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(sys.argv[2])
    elif sys.argv[1:2] == ["has"]:
        has(*sys.argv[2:6])
    elif sys.argv[1:2] == ["numpy"]:
        numpy_saves(sys.argv[2])
    elif sys.argv[1:2] == ["numpy-reads"]:
        numpy_reads(sys.argv[2:])
    else:
        sys.exit(__doc__)
