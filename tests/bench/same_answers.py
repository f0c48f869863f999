# SPDX-License-Identifier: Apache-2.0
"""same_answers.py SHMCTL MODEL FILE.pt SHAPE - asks the broker and PyTorch the same; fails beyond 1e-4."""
import os
import subprocess
import sys
import tempfile

import numpy
import torch

shmctl, name, path, shape = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    x = numpy.random.default_rng(1).standard_normal([int(dim) for dim in shape.split("x")], dtype="float32")
    numpy.save(f"{folder}/x.npy", x)
    subprocess.run([shmctl, "infer", name, f"{folder}/x.npy", "-o", folder], check=True, stdout=subprocess.DEVNULL)
    outputs = [file for file in os.listdir(folder) if file != "x.npy"]
    answer = numpy.load(f"{folder}/{outputs[0]}")
with torch.inference_mode():
    wanted = torch.jit.load(path)(torch.from_numpy(x)).numpy()
off = float(numpy.abs(answer - wanted).max())
if answer.shape != wanted.shape or off > 1e-4:
    sys.exit(f"{name}: the broker's answer differs from PyTorch's by {off:g}")
