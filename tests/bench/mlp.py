# SPDX-License-Identifier: Apache-2.0
"""mlp.py FILE.pt - exports a small dense network: 256 -> 1024 -> 1024 -> 16, random weights.

Its 1.3 million weights are read once per call, whatever the number of rows, so that batching pays.
"""
import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "export"))
import infexport

torch.manual_seed(1)
network = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU(),
                              torch.nn.Linear(1024, 16))
infexport.export(network, sys.argv[1], inputs=[infexport.Tensor("x", torch.zeros(2, 256))], outputs=["y"], max_batch=32)
