"""Named data sets and folders of your own, whole in memory, with one normalisation each.

Every reader returns the same small intermediate, `Pictures` of uint8 for each split; checks and
options then take one path for all of them. The libraries that read are imported where they do:
loading them takes longer than reading does.
"""

import math
import os
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ddlib.devices import send, unrounded
from ddlib.parameters import check_names, options_of

OWN = (("train.npz", "train"), ("test.npz", "test", "val"))
"""What a folder of one's own holds: to train and to test on, the first that is there of each."""
LEFTOVERS = ("~", "#", "thumbs.db", "desktop.ini")  # how the names of editors' files end
IMAGENETTE = ("imagenette2", "imagenette2-320", "imagenette2-160", "imagenette2-80")
UNALTERED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Pillow's modes whose pixels grey or RGB of 8 bits hold unaltered, where they are opaque."""
LARGEST_WHITENED = 4096  # values an image; twice as many take eight times as long


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
        given, wanted = images.shape[-3], len(self.mean)
        if given != wanted:
            raise ValueError(f"images have {given} channels, but the normalisation has {wanted}")
        made = (torch.tensor(values, dtype=images.dtype) for values in (self.mean, self.std))
        return (send(values.view(-1, 1, 1), images.device) for values in made)


@dataclass(frozen=True, eq=False)
class Whitening:
    """ZCA: values in [0, 1] decorrelated over an image, and left as near to it as that allows.

    mean: (P,) of the P = channels x H x W values of an image; matrix: (P, P), symmetric.
    Whitenings of equal values are equal.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Whitening):
            return NotImplemented
        return torch.equal(self.mean, other.mean) and torch.equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash(self.mean.numpy().tobytes())

    @property
    def inverse(self) -> torch.Tensor:
        """The inverse (P, P) of the matrix, computed once for equal whitenings."""
        return _inverse(self)

    @classmethod
    def fit(cls, pixels: torch.Tensor, white: int) -> "Whitening":
        """Return U (S + 0.1)^-1/2 U^T of the covariance U S U^T of pixels (N, P) / white.

        pixels: whole numbers, whose sums are exact in float64 in any order. The 0.1 keeps
        directions of hardly any variance from being blown up. Source: Cazenavette et al. (CVPR
        2022), whose code takes kornia's ZCAWhitening with eps=0.1.
        """
        count, values = pixels.shape
        sums = torch.zeros(values, dtype=torch.float64)
        products = torch.zeros(values, values, dtype=torch.float64)
        for chunk in pixels.split(1024):
            exact = chunk.double()
            sums += exact.sum(0)
            products.addmm_(exact.T, exact)
        mean = sums / count
        covariance = (products - count * mean.outer(mean)) / max(count - 1, 1) / white**2
        variances, axes = torch.linalg.eigh(covariance)
        matrix = axes * (variances + 0.1).rsqrt() @ axes.T
        return cls((mean / white).float(), matrix.float())

    def normalise(self, unit_images: torch.Tensor) -> torch.Tensor:
        """Images (N, channels, H, W) with values in [0, 1] -> zero mean, decorrelated."""
        mean, matrix = self._on(unit_images, self.mean, self.matrix)
        with unrounded(unit_images.device):
            return ((unit_images.flatten(1) - mean) @ matrix).view(unit_images.shape)

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Whitened images (N, channels, H, W) -> values in [0, 1], clamped."""
        mean, inverse = self._on(images, self.mean, self.inverse)
        with unrounded(images.device):
            return (images.flatten(1) @ inverse + mean).view(images.shape).clamp(0, 1)

    def _on(self, images: torch.Tensor, *values: torch.Tensor) -> Iterator[torch.Tensor]:
        given, wanted = images.shape[1:].numel(), len(self.mean)
        if given != wanted:
            raise ValueError(f"images have {given} values each, but the whitening has {wanted}")
        return (send(value.to(images.dtype), images.device) for value in values)


@lru_cache(maxsize=1)  # sets that are shown together share one whitening
def _inverse(whitening: Whitening) -> torch.Tensor:
    return torch.linalg.inv(whitening.matrix.double()).to(whitening.matrix.dtype)


def pack(normalisation: Normalisation | Whitening) -> tuple[dict[str, torch.Tensor], Any]:
    """Return a normalisation for a file: tensors by name, and plain data, None for a whitening."""
    if isinstance(normalisation, Whitening):
        return {"mean": normalisation.mean, "matrix": normalisation.matrix}, None
    return {}, asdict(normalisation)


def unpack(plain: Any, tensor: Callable[[str], torch.Tensor]) -> Normalisation | Whitening:
    """Return the normalisation that `pack` packed; tensor(name): one of its tensors."""
    if plain is None:
        return Whitening(tensor("mean"), tensor("matrix"))
    return Normalisation(tuple(plain["mean"]), tuple(plain["std"]))


@dataclass(frozen=True)
class DataSet:
    """A training and a test split that share their normalisation and class names."""

    name: str
    train: Split
    test: Split
    normalisation: Normalisation | Whitening
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, H, W) of every image."""
        return tuple(self.train.images.shape[1:])

    @property
    def class_count(self) -> int:
        return len(self.classes)


def check_ipcs(ipcs: Sequence[int], dataset: DataSet) -> None:
    """Raise ValueError where a class has fewer training images than one of `ipcs`."""
    counts = dataset.train.labels.cpu().bincount(minlength=dataset.class_count).tolist()
    fewest, largest = min(counts), max(ipcs, default=0)
    if largest > fewest:
        raise ValueError(
            f"k={largest * len(counts)} of {len(counts)} classes: ipc={largest} is more than the "
            f"{fewest} images of class {dataset.classes[counts.index(fewest)]}; choose ipc <= "
            f"{fewest}, that is k <= {fewest * len(counts)}"
        )


@dataclass(frozen=True)
class Pictures:
    """A split as a reader returns it.

    images: (N, H, W, channels) or (N, H, W) for grey, uint8 in [0, white]; labels: (N,), integer.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    white: int = 255


Pair = list[Pictures]  # to train and to test on


@dataclass(frozen=True)
class Source:
    """A named data set: how to read it from a root folder and how to fetch it into one.

    read(root, image_size) raises FileNotFoundError where the root lacks the set. A normalisation
    of None is measured on the training images.
    """

    read: Callable[[Path, int | None], Pair]
    download: Callable[[Path], object] | None = None
    normalisation: Normalisation | None = None
    image_size: int | None = None


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
    counts = {"per_class": per_class, "held_out": held_out, "image_size": image_size}
    options_of(load).read({"zca": zca, **counts}, "data")
    source = DATASETS.get(name)
    if source:
        image_size = image_size or source.image_size
        pair = _find(name, source, image_size, download)
    else:
        folder = _own_folder(name)
        name, source = folder.resolve().name, Source(_read_own)
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


def _roots() -> list[Path]:
    places = (os.environ.get("DDLIB_DATA"), "~/.cache/ddlib")
    return [Path(place).expanduser() for place in places if place]


def _find(name: str, source: Source, image_size: int | None, download: bool) -> Pair:
    roots = _roots()
    for root in roots:
        for read, folder in ((source.read, root), (_read_own, root / name)):
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


def _own_folder(name: str | os.PathLike) -> Path:
    folder = Path(str(name)).expanduser()
    if not name or not folder.is_dir():
        if os.sep in str(name):
            raise FileNotFoundError(f"data folder {name} does not exist; give an existing folder")
        check_names([name], DATASETS, "data set, nor the path of a folder of your own data")
    return folder


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} holds no {' or '.join(names)}")


def _read_digits(_root: Path, _size: int | None) -> Pair:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (15 * digits.images).astype(np.uint8)  # 0..16 become 0..240: exact, finer to resize
    train, test = train_test_split(
        np.arange(len(images)), test_size=1 / 3, stratify=digits.target, random_state=0
    )
    names = tuple("0123456789")
    return [Pictures(images[rows], digits.target[rows], names, white=240) for rows in (train, test)]


def _torchvision(name: str) -> type:
    """Return the data set of torchvision that is called `name`."""
    from torchvision import datasets

    return getattr(datasets, name)


def _read_published(name: str, folder: str, root: Path, _size: int | None) -> Pair:
    place, published = _first(root, folder), _torchvision(name)
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
        for split in _read_own(_first(root, *IMAGENETTE), image_size)
    ]


def _read_own(folder: Path, image_size: int | None) -> Pair:
    paths = [_first(folder, *names) for names in OWN]
    return [_read_images(path, image_size) if path.is_dir() else _read_npz(path) for path in paths]


def _read_npz(path: Path) -> Pictures:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels, names = (arrays[key] for key in ("images", "labels", "class_names"))
    except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it is truncated or not an npz of the plain arrays "
            "images, labels and class_names; write it again with numpy.savez"
        ) from error
    return Pictures(images, labels, tuple(map(str, names)))


def _read_images(folder: Path, image_size: int | None) -> Pictures:
    names = sorted(entry.name for entry in folder.glob("[!.]*/"))
    notes: Counter[str] = Counter()
    files = _image_files(folder, names, notes)
    if not files:
        raise ValueError(f"{folder} holds no images; give it one folder of images a class")
    images = []
    for path, _ in files:
        images.append(_resize(_decode(path, notes), image_size))
        first, last = images[0].shape[:2], images[-1].shape[:2]
        if first != last:
            raise ValueError(
                f"{path} is {last} but {files[0][0]} is {first} (height, width); "
                "pass image_size to make them alike"
            )
    grey = sum(image.shape[2] == 1 for image in images)
    if grey < len(images):
        images = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in images]
        notes["grey images repeated in three channels, as others have colours"] += grey
    if notes := +notes:  # without zeros
        said = "; ".join(f"{note}: {count}" for note, count in sorted(notes.items()))
        warnings.warn(f"{folder}: {said}", stacklevel=2)
    return Pictures(np.stack(images), np.array([label for _, label in files]), tuple(names))


def _image_files(folder: Path, names: list[str], notes: Counter[str]) -> list[tuple[Path, int]]:
    """Return the images below `folder` with their labels, in order; count what else is there.

    Hidden files and folders, and what editors and file managers leave, are passed over. Links are
    followed, but no class holds a folder twice, or one that holds all classes.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    files, root, seen = [], folder.resolve(), set()
    for path, below, inside in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        place, real = Path(path), Path(path).resolve()
        parts = place.relative_to(folder).parts
        label = names.index(parts[0]) if parts else None
        if (label, real) in seen or (parts and root.is_relative_to(real)):
            below.clear()
            notes["folders skipped because a link leads to them again"] += 1
            continue
        seen.add((label, real))
        for name in sorted(inside):
            if name.startswith(".") or name.lower().endswith(LEFTOVERS):
                continue
            suffix = Path(name).suffix.lower()
            if suffix not in IMG_EXTENSIONS:
                notes[f"files skipped for their suffix {suffix or '(none)'}"] += 1
            elif label is None:
                notes["images skipped for being in no class's folder"] += 1
            else:
                files.append((place / name, label))
    return files


def _decode(path: Path, notes: Counter[str]) -> np.ndarray:
    """Return an image file as it is looked at, (H, W, 1 or 3), uint8; note what is rescaled."""
    try:
        with Image.open(path) as picture:
            # A camera's MPO holds views of one picture, the first of which is the picture.
            if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
                raise ValueError("it holds several pictures; save each to a file")
            deep_colour = _has_deep_colour(picture)
            image = ImageOps.exif_transpose(picture)
            in_int32 = image.mode == "I" and picture.format in ("PNG", "PPM")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"image {path} cannot be read ({error}); replace or remove it") from error
    if deep_colour:
        raise ValueError(
            f"image {path} is 16-bit colour, of which only 8 bits a channel would be read; save it "
            "with 8 bits a channel"
        )
    deep = in_int32 or image.mode.startswith("I;16")
    if not deep and image.mode not in UNALTERED:
        raise ValueError(
            f"image {path} has pixels of mode {image.mode}, which 8 bits a channel cannot hold "
            "unaltered; save it as grey of 8 or 16 bits, or as RGB"
        )
    if image.has_transparency_data and (deep or image.convert("RGBA").getextrema()[3][0] < 255):
        raise ValueError(
            f"image {path} has transparent pixels, which have no colour; save it over the "
            "background that it should have"
        )
    if deep:
        notes["images of 16 bits scaled from 0..65535 to 0..255"] += 1
        return ((np.asarray(image, np.uint32)[..., None] + 128) // 257).astype(np.uint8)
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def _has_deep_colour(picture: Image.Image) -> bool:
    """Return whether Pillow, yet to read the pixels, will cut several channels down to 8 bits."""
    if picture.mode.startswith("I"):
        return False
    if picture.format == "PPM":
        return any(isinstance(tile.args, tuple) and tile.args[-1] > 255 for tile in picture.tile)
    # Not in BMP, where "BGR;16" has 16 bits for all channels.
    return picture.format in ("PNG", "TIFF") and ";16" in str(picture.tile)


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute to the same bytes in every process: sums depend on how threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


def _pixels(pictures: Pictures, image_size: int | None) -> torch.Tensor:
    """Return the resized images (N, channels, H, W), uint8."""
    images = np.stack([_resize(image, image_size) for image in pictures.images])
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
