"""Load a named data set or your own folder. Pixels stay bytes until they are read."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ddlib.data.base import DataSet, Pair, Pictures, Pixels, Split
from ddlib.data.folders import read_folder, resize
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.data.sources import DATASETS, Source, find
from ddlib.devices import one_thread
from ddlib.parameters import check_names, options_of


def load(
    name: str | os.PathLike,
    *,
    classes: Sequence[str | int] | None = None,
    per_class: int | None = None,
    held_out: int | None = None,
    image_size: int | None = None,
    zca: bool = False,
    download: bool = False,
) -> DataSet:
    """Return a named data set, or the one in a folder of your own.

    name: a key of DATASETS, searched in the folder DDLIB_DATA and then in ~/.cache/ddlib; or the
        path of a folder. That folder holds train.npz and test.npz (images uint8
        (N, H, W, channels) or (N, H, W), labels, class_names), or train/ and test/ (or val/) with
        one subfolder of images per class. Grey images keep one channel unless other images have
        colours. 16-bit grey becomes 8-bit; 16-bit colours are refused. The orientation that a
        camera stored is applied. A warning counts the files that are skipped or rescaled.
    classes: names of the classes to keep; labels become 0..C-1 in this order.
    per_class: keep the first per_class training images of every class (all, if it has fewer).
    held_out: test on the last held_out training images of every class, and train on the rest. Use
        it to choose a method's parameters without looking at the test set.
    image_size: pixels. The shorter side is resized to it (bilinear, antialiased), then the centre
        is cropped. Named sets are normalised by published statistics, other sets by those of all
        their training images.
    zca: whiten (see `Whitening`, fitted to all training images) instead of normalising channels.
    download: download a named set that is not found.
    Raises ValueError for bad options or data, FileNotFoundError for missing data,
    ConnectionError if the download fails.
    """
    counts = {"per_class": per_class, "held_out": held_out, "image_size": image_size}
    options_of(load).read({"zca": zca, **counts}, "data")
    name, source, size, pair = _read(name, image_size, download)
    train, test = _checked(name, pair, size)
    chosen = _chosen_labels(classes, train.classes)
    rest, tested = _hold_out(name, train, held_out) if held_out else (train, test)
    kept = _select(f"{name} train", rest, chosen, per_class)
    tests = _select(f"{name} test", tested, chosen, None)
    with one_thread():
        if zca:
            normalisation = Whitening.fit(_bytes(train, size), train.white)
        else:
            normalisation = source.normalisation or Normalisation.fit(_bytes(train), train.white)
        splits = [_split(pictures, size, normalisation) for pictures in (kept, tests)]
    return DataSet(name, *splits, normalisation, tuple(train.classes[label] for label in chosen))


def _read(
    name: str | os.PathLike, image_size: int | None, download: bool
) -> tuple[str, Source, int | None, Pair]:
    """Return the name, the source, the image size and both splits of a data set."""
    if source := DATASETS.get(name):
        size = image_size or source.image_size
        return name, source, size, find(name, source, size, download)
    folder = Path(str(name)).expanduser()
    if not name or not folder.is_dir():
        if os.sep in str(name):
            raise FileNotFoundError(f"data folder {name} does not exist; give an existing folder")
        check_names([name], DATASETS, "data set, nor the path of a folder of your own data")
    return folder.resolve().name, Source(read_folder), image_size, read_folder(folder, image_size)


def _checked(name: str, pair: Pair, image_size: int | None) -> Pair:
    """Return both splits with a channel axis; ValueError if they do not fit together."""
    train, test = (
        _with_channels(f"{name} {part}", pictures)
        for part, pictures in zip(("train", "test"), pair, strict=True)
    )
    if train.classes != test.classes:
        raise ValueError(
            f"{name}: the training classes ({', '.join(train.classes)}) differ from the test "
            f"classes ({', '.join(test.classes)}); give both the same names in the same order"
        )
    shape, test_shape = train.images.shape[1:], test.images.shape[1:]
    if shape[-1] != test_shape[-1] or (image_size is None and shape != test_shape):
        raise ValueError(
            f"{name}: training images are {shape} but test images are {test_shape} (height, width, "
            "channels); make them alike (image_size does so for height and width)"
        )
    return [train, test]


def _with_channels(where: str, pictures: Pictures) -> Pictures:
    images, labels, last = pictures.images, pictures.labels, len(pictures.classes) - 1
    content = f"{images.dtype} {images.shape}"
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"{where}: images are {content}; give uint8 (N, H, W, 1 or 3 channels)")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        content = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"{where}: labels are {content}; give integers ({len(images)},)")
    wrong = labels[(labels < 0) | (labels > last)]
    if len(wrong):
        raise ValueError(f"{where}: label {wrong[0]} has no class name; give labels 0 to {last}")
    return replace(pictures, images=images)


def _chosen_labels(chosen: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    if chosen is None:
        return list(range(len(names)))
    if not isinstance(chosen, list | tuple) or not 0 < len(chosen) == len(set(map(str, chosen))):
        raise ValueError(f"classes={chosen!r} is not a list of class names, each once; give one")
    chosen = list(map(str, chosen))  # YAML reads the names of digits as numbers
    check_names(chosen, names, "class of this data set")
    return [names.index(name) for name in chosen]


def _hold_out(name: str, train: Pictures, count: int) -> Pair:
    """Split off the last `count` training images of every class; return the rest, and those."""
    is_held_out = np.zeros(len(train.labels), dtype=bool)
    for label, class_name in enumerate(train.classes):
        members = np.flatnonzero(train.labels == label)
        if 0 < len(members) <= count:
            raise ValueError(
                f"held_out={count} leaves nothing of the {len(members)} training images of class "
                f"{class_name} of {name}; choose held_out < {len(members)}"
            )
        is_held_out[members[-count:]] = True
    parts = (~is_held_out, is_held_out)
    return [replace(train, images=train.images[at], labels=train.labels[at]) for at in parts]


def _select(where: str, pictures: Pictures, chosen: list[int], per_class: int | None) -> Pictures:
    """Return the images of the chosen classes, in the order of the file."""
    absent = [pictures.classes[label] for label in chosen if label not in pictures.labels]
    if absent:
        raise ValueError(f"{where}: no images of class {', '.join(absent)}; add some or drop it")
    rows = [np.flatnonzero(pictures.labels == label)[:per_class] for label in chosen]
    rows = np.sort(np.concatenate(rows))
    labels = np.array([chosen.index(label) for label in pictures.labels[rows]])
    return replace(pictures, images=pictures.images[rows], labels=labels)


def _split(
    pictures: Pictures, image_size: int | None, normalisation: Normalisation | Whitening
) -> Split:
    values, labels = _bytes(pictures, image_size), torch.from_numpy(pictures.labels)
    if isinstance(normalisation, Normalisation):
        return Split(Pixels(values, normalisation, pictures.white), labels)
    whitened = torch.empty(values.shape, dtype=torch.float32)
    # In chunks: otherwise all images would be in memory twice as floats.
    for chunk, target in zip(values.split(1024), whitened.split(1024), strict=True):
        target.copy_(normalisation.normalise(chunk, pictures.white))
    return Split(whitened, labels)


def _bytes(pictures: Pictures, image_size: int | None = None) -> torch.Tensor:
    """Return the images, resized, as a tensor (N, channels, H, W), uint8."""
    images = np.stack([resize(image, image_size) for image in pictures.images])
    # Not contiguous(): with one channel it keeps strides that look like channels_last.
    return torch.from_numpy(images).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
