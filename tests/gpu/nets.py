# SPDX-License-Identifier: Apache-2.0
"""Networks like ResNet-50 and BERT-base, and a small one that only launches cost, of torch's own modules, with random weights: a network's time does not depend on them."""

import torch
from torch import nn
from torch.nn import functional

NAMES = ("resnet50", "bert", "mlp")
VOCABULARY, DRY_VOCABULARY = 30522, 100
TOKENS, DRY_TOKENS = 128, 8
CLASSES = 1000
MLP_FEATURES = 128


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut."""

    def __init__(self, width_in, width, stride):
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
        self.shortcut = nn.Identity()
        if stride > 1 or width_in != 4 * width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        return functional.relu(self.way(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages of bottlenecks: (3, 4, 6, 3) of 64 channels and more is ResNet-50."""

    def __init__(self, blocks, width):
        super().__init__()
        layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        width_in = width
        for stage, n in enumerate(blocks):
            for idx in range(n):
                layers.append(Bottleneck(width_in, width << stage, 2 if stage and not idx else 1))
                width_in = 4 * (width << stage)
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(width_in, CLASSES)

    def forward(self, x):
        return self.last(self.layers(x).mean((2, 3)))


class Block(nn.Module):
    """Attention and two layers, each normalised after it is added."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.joined(attended))
        return self.norm2(x + self.narrow(functional.gelu(self.wide(x))))


class Bert(nn.Module):
    """12 blocks of 768 with 12 heads is BERT-base; its answer is two numbers of the first token."""

    def __init__(self, vocabulary, tokens, n_blocks, width, heads):
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(n_blocks)])
        self.last = nn.Linear(width, 2)

    def forward(self, ids):
        return self.last(self.blocks(self.norm(self.words(ids) + self.places))[:, 0])


def mlp(width_in, width, width_out):
    return nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width_out))


class Half(nn.Module):
    """Half precision inside, f32 outside, as a client sends it."""

    def __init__(self, network):
        super().__init__()
        self.network = network.half()

    def forward(self, x):
        return self.network(x.half() if x.is_floating_point() else x).float()


def make(name, dry):
    """In eval mode, on the CPU."""
    if name == "resnet50":
        network = ResNet((1, 1), 4) if dry else ResNet((3, 4, 6, 3), 64)
    elif name == "mlp":
        network = mlp(MLP_FEATURES, 32 if dry else 512, 64)
    else:
        network = Bert(DRY_VOCABULARY, DRY_TOKENS, 1, 16, 2) if dry else Bert(VOCABULARY, TOKENS, 12, 768, 12)
    return network.eval()


def example(name, n, dry, dtype):
    """A batch of n rows."""
    if name == "resnet50":
        return torch.randn(n, 3, *([32, 32] if dry else [224, 224])).to(dtype)
    if name == "mlp":
        return torch.randn(n, MLP_FEATURES).to(dtype)
    return torch.randint(0, DRY_VOCABULARY if dry else VOCABULARY, (n, DRY_TOKENS if dry else TOKENS))


def allowed(name, dry):
    """The values that an input may have, where it is an index."""
    return (0, (DRY_VOCABULARY if dry else VOCABULARY) - 1) if name == "bert" else None
