"""The registry of named data sets. To add one, write a reader and an entry here.

The functions import torchvision and scikit-learn themselves, because these load slowly.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ddlib.data.base import Pair, Pictures
from ddlib.data.folders import first_of, read_folder
from ddlib.data.normalise import Normalisation

IMAGENETTE = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette2-80")


@dataclass(frozen=True)
class Source:
    """A named data set: how to read it from a root folder and how to download it there.

    read(root, image_size) raises FileNotFoundError if the root lacks the set. Without a
    normalisation, the statistics of the training images are used.
    """

    read: Callable[[Path, int | None], Pair]
    download: Callable[[Path], object] | None = None
    normalisation: Normalisation | None = None
    image_size: int | None = None


def find(name: str, source: Source, image_size: int | None, download: bool) -> Pair:
    """Read a named set from the first folder that has it; with `download`, fetch it if none has.

    Raises FileNotFoundError if no folder has it, ConnectionError if the download fails.
    """
    places = (os.environ.get("DDLIB_DATA"), "~/.cache/ddlib")
    roots = [Path(place).expanduser() for place in places if place]
    for root in roots:
        for read, folder in ((source.read, root), (read_folder, root / name)):
            with suppress(FileNotFoundError):
                return read(folder, image_size)
    if not download or source.download is None:
        raise FileNotFoundError(
            f"data set {name} is not in {' or '.join(map(str, roots))}: set DDLIB_DATA to a folder "
            "that holds it, pass download: true, or give the path of your own data"
        )
    try:
        source.download(roots[0])
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"downloading {name} to {roots[0]} failed: {error}") from error
    return source.read(roots[0], image_size)


def _read_digits(_root: Path, _size: int | None) -> Pair:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (15 * digits.images).astype(np.uint8)  # 0..16 become 0..240, so resizing rounds less
    train, test = train_test_split(
        np.arange(len(images)), test_size=1 / 3, stratify=digits.target, random_state=0
    )
    names = tuple("0123456789")
    return [Pictures(images[rows], digits.target[rows], names, white=240) for rows in (train, test)]


def _torchvision(name: str) -> type:
    from torchvision import datasets

    return getattr(datasets, name)


def _read_published(name: str, folder: str, root: Path, _size: int | None) -> Pair:
    place, published = first_of(root, folder), _torchvision(name)
    try:  # torchvision compares the checksums of CIFAR before it unpickles anything
        parts = [published(root, train=True), published(root, train=False)]
    except (RuntimeError, AssertionError, LookupError, ValueError) as error:
        raise ValueError(f"{place} is damaged; delete it and pass download: true") from error
    names = tuple(name.split(" - ")[0] for name in parts[0].classes)  # MNIST's are "0 - zero"
    return [Pictures(np.asarray(part.data), np.asarray(part.targets), names) for part in parts]


def _read_imagenette(root: Path, image_size: int) -> Pair:
    words = _torchvision("Imagenette")._WNID_TO_CLASS  # "n01440764": ("tench", "Tinca tinca"), ...
    return [
        replace(split, classes=tuple(words.get(name, (name,))[0] for name in split.classes))
        for split in read_folder(first_of(root, *IMAGENETTE), image_size)
    ]


def _fetch(name: str, root: Path, **options: str) -> None:
    _torchvision(name)(root, download=True, **options)


def _published(name: str, folder: str, mean: Sequence[float], std: Sequence[float]) -> Source:
    return Source(
        partial(_read_published, name, folder),
        partial(_fetch, name),
        Normalisation(mean, std),
    )


DATASETS: dict[str, Source] = {
    "digits": Source(_read_digits),
    "mnist": _published("MNIST", "MNIST", (0.1307,), (0.3081,)),
    "fashion_mnist": _published("FashionMNIST", "FashionMNIST", (0.2861,), (0.3530,)),
    "cifar10": _published(
        "CIFAR10", "cifar-10-batches-py", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    ),
    "cifar100": _published(
        "CIFAR100", "cifar-100-python", (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
    "imagenette": Source(
        _read_imagenette,
        partial(_fetch, "Imagenette", size="160px"),
        Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        image_size=64,
    ),
}
