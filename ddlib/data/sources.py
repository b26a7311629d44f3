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

from ddlib.data.base import Pair, RawSplit
from ddlib.data.folders import first_of, read_folder, read_images
from ddlib.data.normalise import Normalisation
from ddlib.data.options import Options
from ddlib.data.tables import read_table

IMAGENETTE = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette2-80")


@dataclass(frozen=True)
class Source:
    """A named data set: how to read it from a root folder and how to download it there.

    read(root, options) raises FileNotFoundError if the root lacks the set, and ValueError if it
    holds a part. A set that has its own folder in the root, in a layout of `read_folder`, needs no
    such function. Without a normalisation, the statistics of the training samples are used.
    """

    read: Callable[[Path, Options], Pair] | None = None
    download: Callable[[Path], object] | None = None
    normalisation: Normalisation | None = None
    image_size: int | None = None


def roots() -> list[Path]:
    """Return the folders that are searched for named sets: DDLIB_DATA, and ~/.cache/ddlib."""
    places = (os.environ.get("DDLIB_DATA"), "~/.cache/ddlib")
    return [Path(place).expanduser() for place in places if place]


def find(name: str, source: Source, options: Options) -> Pair:
    """Read a named set from the first root that has it; download it if none has and it is asked.

    A root that holds a part of the set is not passed over. Raises FileNotFoundError if no root has
    the set, ValueError if the first one has a part, ConnectionError if the download fails.
    """
    for root in roots():
        if source.read:
            with suppress(FileNotFoundError):
                return source.read(root, options)
        if (root / name).is_dir():
            try:
                return read_folder(root / name, options)
            except FileNotFoundError as error:
                raise ValueError(f"{error}; complete the folder, or delete it") from error
    if not options.download or source.download is None:
        ways = ["name the path of your own data"]
        if source.download:
            ways.insert(0, "say download: true")
        raise FileNotFoundError(
            f"data set {name} is not in {' or '.join(map(str, roots()))}: set DDLIB_DATA to a "
            f"folder that holds it; the parameters of a new study may instead {', or '.join(ways)}"
        )
    root = roots()[0]
    try:
        source.download(root)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"downloading {name} to {root} failed: {error}") from error
    return find(name, source, options.replace(download=False))


def _read_digits(_root: Path, _options: Options) -> Pair:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (15 * digits.images).astype(np.uint8)  # 0..16 become 0..240, so resizing rounds less
    train, test = train_test_split(
        np.arange(len(images)), test_size=1 / 3, stratify=digits.target, random_state=0
    )
    names = tuple("0123456789")
    return [RawSplit(images[rows], digits.target[rows], names, white=240) for rows in (train, test)]


def _torchvision(name: str) -> type:
    from torchvision import datasets

    return getattr(datasets, name)


def _read_published(name: str, folder: str, root: Path, _options: Options) -> Pair:
    place, published = first_of(root, folder), _torchvision(name)
    try:  # torchvision compares the checksums of CIFAR before it unpickles anything
        parts = [published(root, train=True), published(root, train=False)]
    except (RuntimeError, AssertionError, LookupError, ValueError) as error:
        raise ValueError(f"{place} is damaged; delete it and pass download: true") from error
    names = tuple(name.split(" - ")[0] for name in parts[0].classes)  # MNIST's are "0 - zero"
    return [RawSplit(np.asarray(part.data), np.asarray(part.targets), names) for part in parts]


def _read_table(name: str, _root: Path, options: Options) -> Pair:
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    table = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = table.data.assign(label=table.target_names[table.target])
    frames = train_test_split(frame, test_size=1 / 3, stratify=frame["label"], random_state=0)
    return read_table(name, frames, options.label, options.missing)


def _fetch_table(name: str, openml: str, version: int, root: Path) -> None:
    """Write a table of OpenML to the folder `name`; a fixed fifth of its rows tests."""
    from sklearn.datasets import fetch_openml
    from sklearn.model_selection import train_test_split

    table = fetch_openml(openml, version=version, as_frame=True)
    frame = table.data.assign(label=table.target)
    frames = train_test_split(frame, test_size=0.2, stratify=frame["label"], random_state=0)
    (root / name).mkdir(parents=True, exist_ok=True)
    for part, rows in zip(("train", "test"), frames, strict=True):
        rows.to_csv(root / name / f"{part}.csv", index=False)


def _read_imagenette(root: Path, options: Options) -> Pair:
    words = _torchvision("Imagenette")._WNID_TO_CLASS  # "n01440764": ("tench", "Tinca tinca"), ...
    folder = first_of(root, *IMAGENETTE)
    try:
        splits = read_images(folder, options.image_size)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; complete the folder, or delete it") from error
    return [
        replace(split, classes=tuple(words.get(name, (name,))[0] for name in split.classes))
        for split in splits
    ]


def _fetch(name: str, root: Path, **options: str) -> None:
    _torchvision(name)(root, download=True, **options)


def _published(name: str, folder: str, mean: Sequence[float], std: Sequence[float]) -> Source:
    return Source(
        partial(_read_published, name, folder), partial(_fetch, name), Normalisation(mean, std)
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
    "breast_cancer": Source(partial(_read_table, "breast_cancer")),
    "wine": Source(partial(_read_table, "wine")),
    "adult": Source(download=partial(_fetch_table, "adult", "adult", 2)),
    "magic_telescope": Source(
        download=partial(_fetch_table, "magic_telescope", "MagicTelescope", 1)
    ),
    "letter": Source(download=partial(_fetch_table, "letter", "letter", 1)),
    "sst2": Source(),
    "trec6": Source(),
}
