#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compare.py A.npy B.npy TOLERANCE - says the largest difference; exit 0 where it is within TOLERANCE of B's largest value."""
import sys

import numpy

a, b = numpy.load(sys.argv[1]), numpy.load(sys.argv[2])
if a.shape != b.shape or a.dtype != b.dtype:
    sys.exit(f"{a.dtype}{a.shape} and {b.dtype}{b.shape}")
worst = float(abs(a.astype(float) - b.astype(float)).max() / abs(b.astype(float)).max())
print(f"largest difference {worst:.2e} of the largest value")
sys.exit(not worst <= float(sys.argv[3]))
