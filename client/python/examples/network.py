# SPDX-License-Identifier: Apache-2.0
"""The demo's network in this process, for the examples without a broker.

    TORCH_MODEL=FILE.pt   a TorchScript archive, frozen, instead of the module in eager mode
    TORCH_THREADS=1       threads of each call instead of PyTorch's default, one per core
"""

import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../../tools/export"))
import efficientnet_lite0


def load() -> torch.nn.Module:
    if "TORCH_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["TORCH_THREADS"]))
    if "TORCH_MODEL" not in os.environ:
        return efficientnet_lite0.load_network()
    network = torch.jit.freeze(torch.jit.load(os.environ["TORCH_MODEL"]).eval())
    with torch.inference_mode():
        for _ in range(3):  # compiled by what the first calls show
            network(torch.zeros(1, 3, 224, 224))
    return network
