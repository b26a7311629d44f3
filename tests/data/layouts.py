"""Small data sets on disk, in every layout that is read."""

import os

import numpy as np
import pytest
from PIL import Image

real_data = pytest.mark.skipif(
    not os.environ.get("DDLIB_DATA"), reason="DDLIB_DATA names no folder of real data"
)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def images(split):
    """All images of a split (N, channels, H, W), normalised."""
    return split.at(slice(None))


def grey_levels(loaded):
    """The training images (N, channels, H, W) as grey levels of 8 bits."""
    return (loaded.normalisation.denormalise(images(loaded.train)) * 255).round().int()


def write_npz(folder, *, train=None, test=None):
    """Two classes, 6 training and 4 test images of 5 x 5, changed by train=... and test=..."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, changes in (("train", 6, train), ("test", 4, test)):
        arrays = {
            "images": pixels(count, 5, 5, 3, seed=count),
            "labels": np.arange(count) % 2,
            "class_names": np.array(["cat", "dog"]),
        }
        arrays |= changes or {}
        kept = {key: value for key, value in arrays.items() if value is not None}
        np.savez(folder / f"{split}.npz", **kept)
    return folder


def write_images(folder, *, size=(8, 6), test="test", classes=("ant", "bee")):
    """ImageFolder of PNG files: three training and two test images a class; size is (W, H)."""
    for split, count in (("train", 3), (test, 2)):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(pixels(size[1], size[0], 3, seed=10 * label + i))
                picture.save(folder / split / name / f"{i}.png")
    return folder


def write_pictures(folder, **pictures):
    """Two classes; every split of class ant holds the pictures, saved as name.suffix."""
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
        pictures["bee"].save(folder / split / "bee" / "0.png")
        for name, picture in pictures.items():
            if name != "bee":
                picture.save(folder / split / "ant" / name.replace("_", "."))
    return folder


def write_mnist(raw):
    """torchvision's layout of MNIST with 20 training and 10 test images of 4 x 4."""
    raw.mkdir(parents=True)
    for split, count in (("train", 20), ("t10k", 10)):
        for part, array in (
            ("images-idx3", pixels(count, 4, 4, seed=count)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (raw / f"{split}-{part}-ubyte").write_bytes(header + array.tobytes())
    return raw
