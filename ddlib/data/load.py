"""Load a named data set or your own folder. Pixels stay bytes until they are read."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddlib.data.base import DataSet, Pair, Pixels, RawSplit, Split
from ddlib.data.folders import CONTENT, first_of, read_folder, resize
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.data.options import Options
from ddlib.data.sources import DATASETS, Source, find, roots
from ddlib.data.tables import read_frame
from ddlib.data.text import texts_of
from ddlib.devices import one_thread
from ddlib.parameters import check_names


def load(name: str | os.PathLike, **options: Any) -> DataSet:
    """Return a named data set, or the one in a folder of your own.

    name: a key of DATASETS, searched in the folder DDLIB_DATA and then in ~/.cache/ddlib; or the
        path of a folder. That folder holds one of:
        - train.npz and test.npz: images uint8 (N, H, W, channels) or (N, H, W), labels and
          class_names;
        - train/ and test/ (or val/) with one subfolder of images per class. Grey images keep one
          channel unless other images have colours. 16-bit grey becomes 8-bit; 16-bit colours are
          refused. The orientation that a camera stored is applied. A warning counts the files that
          are skipped or rescaled;
        - train and test as .csv or .parquet, with a column of labels. With a column `text` they are
          texts (see `read_text`), otherwise tables (see `read_table`).
    options: see `Options`.
    Raises ValueError for bad options or data, FileNotFoundError for missing data,
    ConnectionError if the download fails.
    """
    options = Options.read(options, "data")
    name, source, options, pair = _read(name, options)
    form = pair[0].format
    options.check_format(name, form)
    name = f"{name}_{options.form}" if form == "texts" else name
    train, test = _checked(name, pair, options.image_size)
    chosen = _chosen_labels(options.classes, train.classes)
    rest, tested = train, test
    if options.held_out:
        rest, tested = _hold_out(name, train, chosen, options.held_out)
    kept = _select(f"{name} train", rest, chosen, options.per_class)
    tests = _select(f"{name} test", tested, chosen, None)
    with one_thread():
        published = None if options.zca else source.normalisation
        normalisation = published or _fit(train, options)
        splits = [_split(raw, options.image_size, normalisation) for raw in (kept, tests)]
    classes = tuple(train.classes[label] for label in chosen)
    return DataSet(name, *splits, normalisation, classes, train.kind)


def _fit(train: RawSplit, options: Options) -> Normalisation | Whitening:
    if train.kind != "image":
        return Normalisation.fit_last_axis(train.values, train.columns)
    fitted = Whitening if options.zca else Normalisation
    return fitted.fit(_bytes(train, options.image_size), train.white)


def _read(name: str | os.PathLike, options: Options) -> tuple[str, Source, Options, Pair]:
    if source := DATASETS.get(name):
        options = options.replace(image_size=options.image_size or source.image_size)
        return name, source, options, find(name, source, options)
    folder = Path(str(name)).expanduser()
    if not name or not folder.is_dir():
        if os.sep in str(name):
            raise FileNotFoundError(f"data folder {name} does not exist; give an existing folder")
        check_names([name], DATASETS, "data set, nor the path of a folder of your own data")
    return folder.resolve().name, Source(), options, read_folder(folder, options)


def training_texts(name: str | os.PathLike) -> list[str]:
    """Return the training texts of a named set or a folder, for `nearest_texts`."""
    folders = [root / name for root in roots()] if name in DATASETS else [Path(name).expanduser()]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return texts_of(read_frame(first_of(folder, *CONTENT[0]), "label"))


def _checked(name: str, pair: Pair, image_size: int | None) -> Pair:
    """Return both splits, images with a channel axis; ValueError if they do not fit together."""
    train, test = (
        _checked_split(f"{name} {part}", raw)
        for part, raw in zip(("train", "test"), pair, strict=True)
    )
    if train.classes != test.classes:
        raise ValueError(
            f"{name}: the training classes ({', '.join(train.classes)}) differ from the test "
            f"classes ({', '.join(test.classes)}); give both the same names in the same order"
        )
    shape, test_shape = train.values.shape[1:], test.values.shape[1:]
    if shape[-1] != test_shape[-1] or (image_size is None and shape != test_shape):
        raise ValueError(
            f"{name}: training {train.format} are {shape} but test {test.format} are {test_shape}; "
            "make them alike (image_size does so for the height and width of images)"
        )
    return [train, test]


def _checked_split(where: str, raw: RawSplit) -> RawSplit:
    values, labels, last = raw.values, np.asarray(raw.labels), len(raw.classes) - 1
    if repeated := [name for name, count in Counter(raw.classes).items() if count > 1]:
        raise ValueError(f"{where}: class_names holds {repeated[0]!r} twice; name each class once")
    content = f"{where}: {raw.format} are {values.dtype} {values.shape}"
    if raw.kind == "image":
        values = values[..., None] if values.ndim == 3 else values
        shape = values.shape[1:]
        if values.dtype != np.uint8 or len(shape) != 3 or 0 in shape or shape[-1] not in (1, 3):
            raise ValueError(
                f"{content}; give uint8 (N, H, W, 1 or 3 channels), H and W at least 1, or write "
                "tables and texts to train.csv and test.csv"
            )
        if values.size and values.max() <= 1 < raw.white:
            raise ValueError(f"{content} of values up to {values.max()}; give 0 (black) to 255")
        if not 0 < raw.white >= values.max(initial=0):
            raise ValueError(
                f"{content} of values up to {values.max(initial=0)}, but white={raw.white}; give "
                "the value of a white pixel"
            )
    elif values.dtype.kind != "f" or values.ndim not in (2, 3):
        raise ValueError(
            f"{content}; give floats: vectors (N, D), or the embeddings of tokens (N, T, E)"
        )
    elif not np.isfinite(values).all():
        raise ValueError(f"{content} with missing or infinite values; replace these values")
    if labels.shape != values.shape[:1] or labels.dtype.kind not in "iu":
        content = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"{where}: labels are {content}; give integers ({len(values)},)")
    wrong = labels[(labels < 0) | (labels > last)]
    if len(wrong):
        raise ValueError(f"{where}: label {wrong[0]} has no class name; give labels 0 to {last}")
    return replace(raw, values=values, labels=labels)


def _chosen_labels(chosen: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    if chosen is None:
        return list(range(len(names)))
    if not 0 < len(chosen) == len(set(map(str, chosen))):
        raise ValueError(f"classes={chosen!r} is not a list of class names, each once; give one")
    chosen = list(map(str, chosen))  # YAML reads the names of digits as numbers
    check_names(chosen, names, "class of this data set")
    return [names.index(name) for name in chosen]


def _hold_out(name: str, train: RawSplit, chosen: list[int], count: int) -> Pair:
    """Split off the last `count` training samples of chosen classes; return the rest, and those."""
    is_held_out = np.zeros(len(train.labels), dtype=bool)
    for label in chosen:
        members = np.flatnonzero(train.labels == label)
        if 0 < len(members) <= count:
            raise ValueError(
                f"held_out={count} leaves nothing of the {len(members)} training samples of class "
                f"{train.classes[label]} of {name}; choose held_out < {len(members)}"
            )
        is_held_out[members[-count:]] = True
    parts = (~is_held_out, is_held_out)
    return [replace(train, values=train.values[at], labels=train.labels[at]) for at in parts]


def _select(where: str, raw: RawSplit, chosen: list[int], per_class: int | None) -> RawSplit:
    """Return the samples of the chosen classes, in the order of the file."""
    absent = [raw.classes[label] for label in chosen if label not in raw.labels]
    if absent:
        raise ValueError(
            f"{where}: no {raw.format} of class {', '.join(absent)}; add some or drop it"
        )
    rows = [np.flatnonzero(raw.labels == label)[:per_class] for label in chosen]
    rows = np.sort(np.concatenate(rows))
    labels = np.array([chosen.index(label) for label in raw.labels[rows]])
    return replace(raw, values=raw.values[rows], labels=labels)


def _split(
    raw: RawSplit, image_size: int | None, normalisation: Normalisation | Whitening
) -> Split:
    labels = torch.from_numpy(raw.labels)
    values = _bytes(raw, image_size) if raw.kind == "image" else torch.from_numpy(raw.values)
    if raw.kind == "image" and isinstance(normalisation, Normalisation):
        return Split(Pixels(values, normalisation, raw.white), labels)
    normalised = torch.empty(values.shape, dtype=torch.float32)
    # In chunks: otherwise all samples would be in memory twice as floats.
    for chunk, target in zip(values.split(1024), normalised.split(1024), strict=True):
        target.copy_(normalisation.normalise(chunk, raw.white if raw.kind == "image" else 1.0))
    return Split(normalised, labels)


def _bytes(raw: RawSplit, image_size: int | None) -> torch.Tensor:
    """Return the images, resized, as a tensor (N, channels, H, W), uint8."""
    images = np.stack([resize(image, image_size) for image in raw.values])
    # Not contiguous(): with one channel it keeps strides that look like channels_last.
    return torch.from_numpy(images).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
