#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_images.py PHOTOGRAPH.jpg FOLDER - JPEG files that are none, or unusual ones, for tests/integ/classify.sh."""
import os
import sys

from PIL import Image


def main():
    photograph, folder = sys.argv[1], sys.argv[2]
    image = Image.open(photograph).convert("RGB")
    with open(photograph, "rb") as file:
        whole = file.read()

    def put(name, content):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)

    put("truncated.jpg", whole[: len(whole) // 2])
    put("head.jpg", whole[:100])
    put("empty.jpg", b"")
    put("text.jpg", b"this is no photograph\n")
    put("huge-claim.jpg", whole.replace(whole[whole.index(b"\xff\xc0"):][:9],
                                        whole[whole.index(b"\xff\xc0"):][:5] + b"\xff\xdc\xff\xdc", 1))
    image.save(os.path.join(folder, "png.jpg"), "PNG")
    image.convert("L").save(os.path.join(folder, "gray.jpg"), "JPEG")
    image.convert("CMYK").save(os.path.join(folder, "cmyk.jpg"), "JPEG")
    image.crop((0, 0, 1, 1)).save(os.path.join(folder, "one-pixel.jpg"), "JPEG")
    Image.new("RGB", (2, 60000)).save(os.path.join(folder, "sliver.jpg"), "JPEG")
    for name in (b'with "quotes".jpg', b"with\nnewline.jpg", b"no \xff\xfe utf-8.jpg"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(whole)


if __name__ == "__main__":
    main()
