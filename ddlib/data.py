"""Named data sets and folders of your own, whole in memory, with one normalisation each.

Every reader returns the same small intermediate (`Pictures`: uint8 arrays, labels, class names);
checks and options then take one path for all of them.
"""

import difflib
import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets as published
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

GREY_LEVEL = 1 / 255
CHUNK = 1024  # images turned into floats at once, so that the floats are in memory only once


@dataclass(frozen=True)
class Split:
    """Images (N, channels, H, W), float32, normalised and contiguous; labels (N,), int64."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of every channel, for pixel values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, unit_images: torch.Tensor) -> torch.Tensor:
        """Images (N, channels, H, W) with values in [0, 1] -> zero mean, unit deviation."""
        mean, std = self._per_channel(unit_images)
        return (unit_images - mean) / std

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, channels, H, W) -> values in [0, 1], clamped."""
        mean, std = self._per_channel(images)
        return (images * std + mean).clamp(0, 1)

    def _per_channel(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        if images.shape[-3] != len(self.mean):
            raise ValueError(
                f"images of {images.shape[-3]} channels do not fit a normalisation of "
                f"{len(self.mean)} channels; give images (N, {len(self.mean)}, H, W)"
            )
        return (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))


@dataclass(frozen=True)
class DataSet:
    """A training and a test split that share their normalisation and class names."""

    name: str
    train: Split
    test: Split
    normalisation: Normalisation
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, H, W) of every image."""
        return tuple(self.train.images.shape[1:])

    @property
    def channels(self) -> int:
        return self.image_shape[0]

    @property
    def image_size(self) -> int:
        """Height in pixels; also the width, unless the set is of your own non-square images."""
        return self.image_shape[1]

    @property
    def class_count(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Pictures:
    """What a reader returns: (images, labels) of each split, class names, value of white.

    images: (N, H, W, channels) or (N, H, W) for grey, uint8 in [0, white]; labels: (N,), integer.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]
    white: int = 255


@dataclass(frozen=True)
class Source:
    """A named data set: how to read it from a root folder and how to fetch it into one.

    read(root, image_size) returns Pictures and raises FileNotFoundError where the root lacks them.
    A normalisation of None is measured on the training images.
    """

    read: Callable[[Path, int | None], Pictures]
    download: Callable[[Path], object] | None = None
    normalisation: Normalisation | None = None
    image_size: int | None = None


def load(
    name: str | os.PathLike,
    *,
    classes: Sequence[str | int] | None = None,
    per_class: int | None = None,
    image_size: int | None = None,
    download: bool = False,
) -> DataSet:
    """Load a named data set or a folder of your own, whole and normalised.

    name: a key of DATASETS, searched in the folder DDLIB_DATA and then in ~/.cache/ddlib; or the
        path of a folder that holds train.npz and test.npz (images uint8 (N, H, W, channels) or
        (N, H, W), labels, class_names), or train/ and test/ (else val/) with one folder of images
        a class, which are read as RGB.
    classes: names or integer labels to keep; labels become 0..C-1 in this order.
    per_class: keep the first per_class training images of every class (all, if it has fewer).
    image_size: pixels; the shorter side is resized to it (bilinear, antialiased), then the centre
        is cropped. Named sets use published statistics, others those of all their training images.
    download: fetch a named set that is not found.
    Raises ValueError for bad options or data, FileNotFoundError for what is not there,
    ConnectionError for a download that fails.
    """
    for option, value in (("per_class", per_class), ("image_size", image_size)):
        if value is not None:
            _check_positive(option, value)
    if isinstance(name, str) and name in DATASETS:
        source = DATASETS[name]
        image_size = image_size or source.image_size
        pictures = _find(name, source, image_size, download)
    else:
        folder = _own_folder(name)
        source, name = Source(_read_own), folder.resolve().name
        pictures = source.read(folder, image_size)
    train = _checked(f"{name} train", *pictures.train, pictures.classes)
    test = _checked(f"{name} test", *pictures.test, pictures.classes)
    _check_same_shape(name, train[0].shape[1:], test[0].shape[1:], image_size)
    chosen = _chosen_labels(classes, pictures.classes)
    _check_every_class(f"{name} train", train[1], chosen, pictures.classes)
    _check_every_class(f"{name} test", test[1], chosen, pictures.classes)
    normalisation = source.normalisation or _measure(train[0], pictures.white)
    finish = partial(_tensors, pictures.white, normalisation, image_size)
    return DataSet(
        name,
        train=finish(*_select(*train, chosen, per_class)),
        test=finish(*_select(*test, chosen, None)),
        normalisation=normalisation,
        classes=tuple(pictures.classes[label] for label in chosen),
    )


def check_ipc(dataset: DataSet, ipc: int) -> None:
    """Raise ValueError unless 1 <= ipc <= the images of the smallest class of the training split.

    ipc: images per class, a whole number.
    """
    _check_positive("ipc", ipc)
    counts = torch.bincount(dataset.train.labels, minlength=dataset.class_count).tolist()
    fewest = min(counts)
    if ipc > fewest:
        raise ValueError(
            f"ipc={ipc} is more than the {fewest} images of class "
            f"{dataset.classes[counts.index(fewest)]}; choose ipc <= {fewest}"
        )


def _find(name: str, source: Source, image_size: int | None, download: bool) -> Pictures:
    given = os.environ.get("DDLIB_DATA")
    roots = [Path(given).expanduser()] if given else []
    roots.append(Path.home() / ".cache" / "ddlib")
    missing = []
    for root in roots:
        for read in (source.read, lambda root, _: _read_npz(root / name)):
            try:
                return read(root, image_size)
            except FileNotFoundError as error:
                missing.append(str(error))
    if not download:
        raise FileNotFoundError(
            f"data set {name} was not found ({', '.join(missing)}): set DDLIB_DATA to a folder "
            "that holds it, pass download: true, or give the path of your own data"
        )
    try:
        source.download(roots[0])
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"downloading {name} to {roots[0]} failed: {error}") from error
    return source.read(roots[0], image_size)


def _own_folder(name: str | os.PathLike) -> Path:
    if name and isinstance(name, str | os.PathLike) and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if isinstance(name, os.PathLike) or (isinstance(name, str) and os.sep in name):
        raise FileNotFoundError(f"data folder {name} does not exist; give an existing folder")
    close = difflib.get_close_matches(str(name).lower(), DATASETS, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"unknown data set {name!r}; {guess}choose one of {', '.join(DATASETS)}, or give the path "
        "of a folder of your own data"
    )


def _first(*paths: Path) -> Path:
    for path in paths:
        if path.exists():
            return path
    others = "".join(f" or {path.name}" for path in paths[1:])
    raise FileNotFoundError(f"{paths[0]}{others} does not exist")


# Readers: one a layout, each returns Pictures.


def _read_digits(_root: Path, _image_size: int | None) -> Pictures:
    digits = load_digits()
    images = (15 * digits.images).astype(
        np.uint8
    )  # 0..16 become 0..240: still exact, finer to resize
    train, test = train_test_split(
        np.arange(len(images)), test_size=1 / 3, stratify=digits.target, random_state=0
    )
    splits = [(images[rows], digits.target[rows]) for rows in (train, test)]
    return Pictures(*splits, classes=tuple("0123456789"), white=240)


def _read_mnist(folder: str, classes: Sequence[str], root: Path, _size: int | None) -> Pictures:
    raw = root / folder / "raw"
    train, test = (
        tuple(_read_idx(raw / f"{split}-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))
        for split in ("train", "t10k")
    )
    return Pictures(train, test, tuple(classes))


def _read_idx(path: Path) -> np.ndarray:
    path = _first(path, path.with_name(path.name + ".gz"))
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); fetch it again") from error
    # The idx format: 0, 0, type (8 is uint8), rank, each length as big-endian uint32, values.
    start = 4 + 4 * content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if not start or len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} is truncated or not an idx file of uint8 ({len(content)} bytes, its header "
            f"promises the shape {tuple(shape)}); fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_cifar(reader: type, root: Path, _image_size: int | None) -> Pictures:
    folder = _first(root / reader.base_folder)
    try:  # torchvision compares checksums before it unpickles anything
        train, test = reader(root, train=True), reader(root, train=False)
    except RuntimeError as error:
        raise ValueError(
            f"{folder} is incomplete or damaged; delete it and pass download: true"
        ) from error
    splits = [(split.data, np.array(split.targets)) for split in (train, test)]
    return Pictures(*splits, classes=tuple(train.classes))


def _read_imagenette(root: Path, image_size: int) -> Pictures:
    copies = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette2-80")
    pictures = _read_image_folder(_first(*(root / copy for copy in copies)), image_size)
    names = tuple(IMAGENETTE_CLASSES.get(name, name) for name in pictures.classes)
    return replace(pictures, classes=names)


def _read_own(folder: Path, image_size: int | None) -> Pictures:
    try:
        train = _first(folder / "train.npz", folder / "train")
        return _read_image_folder(folder, image_size) if train.is_dir() else _read_npz(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; a data folder holds train.npz and test.npz, or train/ and test/ (else val/) "
            "with one folder of images a class"
        ) from error


def _read_npz(folder: Path) -> Pictures:
    train, test = (_read_arrays(_first(folder / f"{split}.npz")) for split in ("train", "test"))
    if train[2] != test[2]:
        raise ValueError(
            f"{folder}: class_names of train.npz {train[2]} and of test.npz {test[2]} differ; "
            "write the same names in the same order"
        )
    return Pictures(train[:2], test[:2], train[2])


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    wanted = ("images", "labels", "class_names")
    try:
        with zipfile.ZipFile(path) as archive:  # np.load would take a damaged npz for a pickle
            held = {name.removesuffix(".npy") for name in archive.namelist()}
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in wanted if name in held}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it is truncated or not an npz of plain arrays; "
            "write it again with numpy.savez"
        ) from error
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}; it needs {', '.join(wanted)}")
    names = tuple(str(name) for name in found["class_names"].ravel())
    return found["images"], found["labels"], names


def _read_image_folder(folder: Path, image_size: int | None) -> Pictures:
    folders = [_first(folder / "train"), _first(folder / "test", folder / "val")]
    classes = tuple(sorted({entry.name for split in folders for entry in split.glob("[!.]*/")}))
    return Pictures(*(_read_images(split, classes, image_size) for split in folders), classes)


def _read_images(
    folder: Path, classes: Sequence[str], image_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    labels = {name: label for label, name in enumerate(classes)}
    files = make_dataset(folder, labels, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not files:
        raise ValueError(f"{folder} holds no images; give it one folder of images a class")
    images = []
    for path, _ in files:
        image = _resize(_decode(path), image_size)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{path} is {image.shape[:2]} but {files[0][0]} is {images[0].shape[:2]} "
                "(height, width); pass image_size to make them alike"
            )
        images.append(image)
    labels = np.array([label for _, label in files])
    return np.stack(images), labels


def _decode(path: str) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):  # PIL would clip them to white
                raise ValueError(f"its pixels are {picture.mode}, not 8-bit")
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} cannot be read ({error}); replace or remove it") from error


# One path of checks and options for what the readers return.


def _check_positive(option: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{option}={value!r} is not a positive whole number; choose 1 or more")


def _checked(
    where: str, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    shape = f"{images.dtype} {images.shape}"
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{where}: images are {shape}; give uint8 (N, H, W), or (N, H, W, channels) with 1 or "
            "3 channels"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{where}: labels are {labels.dtype} {labels.shape}; give integers (N,)")
    if len(labels) != len(images):
        raise ValueError(
            f"{where}: {len(images)} images but {len(labels)} labels; give one label an image"
        )
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise ValueError(
            f"{where}: label {wrong[0]} is out of range; {len(classes)} class names allow "
            f"0 to {len(classes) - 1}"
        )
    return images, labels.astype(np.int64)


def _check_same_shape(name: str, train: tuple, test: tuple, image_size: int | None) -> None:
    if train[-1] != test[-1] or (image_size is None and train != test):
        raise ValueError(
            f"{name}: training images are {train} but test images are {test} (height, width, "
            "channels); make them alike (image_size does so for height and width)"
        )


def _check_every_class(
    where: str, labels: np.ndarray, chosen: Sequence[int], classes: Sequence[str]
) -> None:
    absent = [classes[label] for label in chosen if not np.any(labels == label)]
    if absent:
        raise ValueError(
            f"{where}: no images of class {', '.join(absent)}; add some, or choose other classes"
        )


def _chosen_labels(chosen: Sequence[str | int] | None, classes: Sequence[str]) -> list[int]:
    if chosen is None:
        return list(range(len(classes)))
    if not isinstance(chosen, list | tuple) or not chosen:
        raise ValueError(f"classes={chosen!r} is not a list of class names or labels; give a list")
    allowed = [*range(len(classes)), *classes]
    for item in chosen:
        if item not in allowed:
            raise ValueError(
                f"unknown class {item!r}; choose from {', '.join(classes)}, or labels 0 to "
                f"{len(classes) - 1}"
            )
    labels = [allowed.index(item) % len(classes) for item in chosen]
    if len(set(labels)) < len(labels):
        raise ValueError(f"classes={chosen} names a class twice; name each once")
    return labels


def _select(
    images: np.ndarray, labels: np.ndarray, chosen: Sequence[int], per_class: int | None
) -> tuple[np.ndarray, np.ndarray]:
    rows = [np.flatnonzero(labels == label)[:per_class] for label in chosen]
    renumbered = np.repeat(np.arange(len(chosen)), [len(some) for some in rows])
    rows = np.concatenate(rows)
    order = np.argsort(rows)  # the order of the file, whatever the order of the classes
    return images[rows[order]], renumbered[order]


def _measure(images: np.ndarray, white: int) -> Normalisation:
    """Mean and deviation of each channel from exact counts of the grey levels."""
    levels = np.arange(256) / white
    mean, std = [], []
    for channel in range(images.shape[-1]):
        counts = sum(np.bincount(image[..., channel].ravel(), minlength=256) for image in images)
        mean.append(float(np.average(levels, weights=counts)))
        variance = float(np.average((levels - mean[-1]) ** 2, weights=counts))
        std.append(max(math.sqrt(variance), GREY_LEVEL))  # a constant channel must not divide by 0
    return Normalisation(tuple(mean), tuple(std))


def _resize(image: np.ndarray, size: int | None) -> np.ndarray:
    """One image (H, W, channels), uint8: shorter side to size, then the centre."""
    if size is None or image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    width, height = (round(side * size / min(picture.size)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    # Pillow's bilinear filter widens with the scale, which is what antialiasing means.
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    centre = resized.crop((left, top, left + size, top + size))
    return np.asarray(centre).reshape(size, size, -1)


def _tensors(
    white: int,
    normalisation: Normalisation,
    image_size: int | None,
    images: np.ndarray,
    labels: np.ndarray,
) -> Split:
    if image_size is not None:
        images = np.stack([_resize(image, image_size) for image in images])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    normalised = torch.empty(pixels.shape)
    for chunk, target in zip(pixels.split(CHUNK), normalised.split(CHUNK), strict=True):
        target.copy_(normalisation.normalise(chunk / white))
    return Split(normalised, torch.from_numpy(labels))


IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}

DATASETS: dict[str, Source] = {
    "digits": Source(_read_digits),
    "mnist": Source(
        partial(_read_mnist, "MNIST", "0123456789"),
        partial(published.MNIST, download=True),
        Normalisation((0.1307,), (0.3081,)),
    ),
    "fashion_mnist": Source(
        partial(_read_mnist, "FashionMNIST", published.FashionMNIST.classes),
        partial(published.FashionMNIST, download=True),
        Normalisation((0.2861,), (0.3530,)),
    ),
    "cifar10": Source(
        partial(_read_cifar, published.CIFAR10),
        partial(published.CIFAR10, download=True),
        Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ),
    "cifar100": Source(
        partial(_read_cifar, published.CIFAR100),
        partial(published.CIFAR100, download=True),
        Normalisation((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
    "imagenette": Source(
        _read_imagenette,
        partial(published.Imagenette, size="160px", download=True),
        Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        image_size=64,
    ),
}
