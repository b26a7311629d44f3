"""Load a named data set or a folder of your own, whole and normalised."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ddlib.data.base import DataSet, Pair, Pictures, Split
from ddlib.data.folders import read_folder, resize
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.data.sources import DATASETS, Source, find
from ddlib.devices import one_thread
from ddlib.parameters import check_names, check_value

LARGEST_WHITENED = 4096  # values an image; twice as many take eight times as long


def load(
    name: str | os.PathLike,
    *,
    classes: Sequence[str] | None = None,
    per_class: int | None = None,
    held_out: int | None = None,
    image_size: int | None = None,
    zca: bool = False,
    download: bool = False,
) -> DataSet:
    """Load a named data set or a folder of your own, whole and normalised.

    name: a key of DATASETS, searched in the folder DDLIB_DATA and then in ~/.cache/ddlib; or the
        path of a folder with train.npz and test.npz (images uint8 (N, H, W, channels) or
        (N, H, W), labels, class_names) or train/ and test/ (else val/), one folder of images a
        class. Grey images keep their one channel, unless others have colours; their 16 bits
        become 8, and colours of 16 bits are refused; a camera's orientation is applied. A warning
        counts what is skipped or rescaled.
    classes: names of classes to keep; labels become 0..C-1 in this order.
    per_class: keep the first per_class training images of every class (all, if it has fewer).
    held_out: test on the last held_out training images of every class, which are then not trained
        on: for choosing a method's parameters without a look at the test set.
    image_size: pixels; the shorter side is resized to it (bilinear, antialiased), then the centre
        is cropped. Named sets use published statistics, others those of all their training images.
    zca: whiten (see `Whitening`, fitted to all training images) instead of normalising channels.
    download: fetch a named set that is not found.
    Raises ValueError for bad options or data, FileNotFoundError for what is not there,
    ConnectionError for a download that fails.
    """
    _check_options(zca, per_class=per_class, held_out=held_out, image_size=image_size)
    source = DATASETS.get(name)
    if source:
        image_size = image_size or source.image_size
        pair = find(name, source, image_size, download)
    else:
        folder = _own_folder(name)
        name, source = folder.resolve().name, Source(read_folder)
        pair = source.read(folder, image_size)
    train, test = _checked(f"{name} train", pair[0]), _checked(f"{name} test", pair[1])
    _check_alike(name, train, test, image_size)
    chosen = _chosen_labels(classes, train.classes)
    rest, tested = _hold_out(name, train, held_out) if held_out else (train, test)
    kept = _select(f"{name} train", rest, chosen, per_class)
    tests = _select(f"{name} test", tested, chosen, None)
    with one_thread():
        whitening = _whitening(name, train, image_size) if zca else None
        normalisation = whitening or source.normalisation or _measure(train)
        return DataSet(
            name,
            train=_split(kept, image_size, normalisation),
            test=_split(tests, image_size, normalisation),
            normalisation=normalisation,
            classes=tuple(train.classes[label] for label in chosen),
        )


def _own_folder(name: str | os.PathLike) -> Path:
    folder = Path(str(name)).expanduser()
    if not name or not folder.is_dir():
        if os.sep in str(name):
            raise FileNotFoundError(f"data folder {name} does not exist; give an existing folder")
        check_names([name], DATASETS, "data set, nor the path of a folder of your own data")
    return folder


def _check_options(zca: bool, **counts: int | None) -> None:
    for option, value in counts.items():
        check_value(option, value, kind=int, least=1, optional=True)
    if not isinstance(zca, bool):
        raise ValueError(f"zca={zca!r} is neither true nor false; choose one")


def _checked(where: str, pictures: Pictures) -> Pictures:
    """Return the pictures, grey ones with a channel axis, if images and labels fit each other."""
    images, labels, last = pictures.images, pictures.labels, len(pictures.classes) - 1
    shape = f"{images.dtype} {images.shape}"
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"{where}: images are {shape}; give uint8 (N, H, W, 1 or 3 channels)")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        given = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"{where}: labels are {given}; give integers ({len(images)},)")
    wrong = labels[(labels < 0) | (labels > last)]
    if len(wrong):
        raise ValueError(f"{where}: label {wrong[0]} has no class name; give labels 0 to {last}")
    return replace(pictures, images=images)


def _check_alike(name: str, train: Pictures, test: Pictures, image_size: int | None) -> None:
    if train.classes != test.classes:
        raise ValueError(
            f"{name}: the training classes ({', '.join(train.classes)}) differ from the test "
            f"classes ({', '.join(test.classes)}); give both the same names in the same order"
        )
    here, there = train.images.shape[1:], test.images.shape[1:]
    if here[-1] != there[-1] or (image_size is None and here != there):
        raise ValueError(
            f"{name}: training images are {here} but test images are {there} (height, width, "
            "channels); make them alike (image_size does so for height and width)"
        )


def _chosen_labels(chosen: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    if chosen is None:
        return list(range(len(names)))
    if not isinstance(chosen, list | tuple) or not 0 < len(chosen) == len(set(map(str, chosen))):
        raise ValueError(f"classes={chosen!r} is not a list of class names, each once; give one")
    chosen = list(map(str, chosen))  # YAML reads the names of digits as numbers
    check_names(chosen, names, "class of this data set")
    return [names.index(name) for name in chosen]


def _hold_out(name: str, train: Pictures, count: int) -> Pair:
    """Return the training set without the last `count` images of every class, and those."""
    held = np.zeros(len(train.labels), dtype=bool)
    for label, class_name in enumerate(train.classes):
        members = np.flatnonzero(train.labels == label)
        if 0 < len(members) <= count:
            raise ValueError(
                f"held_out={count} leaves nothing of the {len(members)} training images of class "
                f"{class_name} of {name}; choose held_out < {len(members)}"
            )
        held[members[-count:]] = True
    parts = (~held, held)
    return [replace(train, images=train.images[at], labels=train.labels[at]) for at in parts]


def _select(where: str, pictures: Pictures, chosen: list[int], per_class: int | None) -> Pictures:
    absent = [pictures.classes[label] for label in chosen if label not in pictures.labels]
    if absent:
        raise ValueError(f"{where}: no images of class {', '.join(absent)}; add some or drop it")
    rows = [np.flatnonzero(pictures.labels == label)[:per_class] for label in chosen]
    rows = np.sort(np.concatenate(rows))  # the order of the file, whatever that of the classes
    labels = np.array([chosen.index(label) for label in pictures.labels[rows]])
    return replace(pictures, images=pictures.images[rows], labels=labels)


def _measure(pictures: Pictures) -> Normalisation:
    """Mean and deviation of each channel from exact counts of the grey levels."""
    levels = np.arange(256) / pictures.white
    mean, std = [], []
    for channel in np.moveaxis(pictures.images, -1, 0):
        counts = sum(np.bincount(image.ravel(), minlength=256) for image in channel)
        average = np.average(levels, weights=counts)
        deviation = np.sqrt(np.average((levels - average) ** 2, weights=counts))
        mean.append(float(average))
        std.append(max(float(deviation), 1 / 255))  # a constant channel must not divide by 0
    return Normalisation(tuple(mean), tuple(std))


def _whitening(name: str, pictures: Pictures, image_size: int | None) -> Whitening:
    channels, (height, width) = pictures.images.shape[-1], pictures.images.shape[1:3]
    values = channels * (image_size**2 if image_size else height * width)
    if values > LARGEST_WHITENED:
        raise ValueError(
            f"zca: true needs a matrix of {values} x {values} values for {name}, too large to "
            f"decompose; choose an image_size of at most {math.isqrt(LARGEST_WHITENED // channels)}"
        )
    return Whitening.fit(_pixels(pictures, image_size).flatten(1), pictures.white)


def _pixels(pictures: Pictures, image_size: int | None) -> torch.Tensor:
    """Return the resized images (N, channels, H, W), uint8."""
    images = np.stack([resize(image, image_size) for image in pictures.images])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _split(
    pictures: Pictures, image_size: int | None, normalisation: Normalisation | Whitening
) -> Split:
    pixels = _pixels(pictures, image_size)
    normalised = torch.empty(pixels.shape, dtype=torch.float32)
    # In chunks, so that the floats are in memory only once.
    for chunk, target in zip(pixels.split(1024), normalised.split(1024), strict=True):
        target.copy_(normalisation.normalise(chunk.float() / pictures.white))
    return Split(normalised, torch.from_numpy(pictures.labels))
