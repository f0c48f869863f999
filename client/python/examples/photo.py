# SPDX-License-Identifier: Apache-2.0
"""What both services and both queues do to a photograph before the network sees it."""

import io

import numpy as np
from PIL import Image

MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


def prepare(jpeg: bytes) -> np.ndarray:
    """float32[3, 224, 224]: shorter side to 256, centre crop, ImageNet's mean and deviation."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def best(logits: np.ndarray) -> dict[str, float | int]:
    """The most likely class of float32[1000], and how likely it is."""
    likely = np.exp(logits - logits.max())
    return {"class": int(logits.argmax()), "probability": round(float(likely.max() / likely.sum()), 4)}
