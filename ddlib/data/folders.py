"""Read your own data from a folder: two npz, CSV or Parquet files, or images by class."""

import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ddlib.data.base import Pair, RawSplit
from ddlib.data.options import Options
from ddlib.data.tables import TEXT, read_frame, read_table
from ddlib.data.text import read_text

FRAMES = (".csv", ".parquet")
CONTENT = (
    ("train.npz", "train.csv", "train.parquet", "train"),
    ("test.npz", "test.csv", "test.parquet", "test", "val"),
)
"""Allowed names of the training and of the test data; the first that exists is read."""
LEFTOVERS = ("~", "#", "thumbs.db", "desktop.ini")  # endings of files that programs leave
UNALTERED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Pillow modes that convert to 8-bit grey or RGB without loss, if no pixel is transparent."""


def read_folder(folder: Path, options: Options) -> Pair:
    """Return the training and the test data in a folder.

    Raises FileNotFoundError if the data are missing, ValueError if they cannot be used.
    """
    paths = [first_of(folder, *names) for names in CONTENT]
    if not any(path.suffix in FRAMES for path in paths):
        return read_images(folder, options.image_size)
    train = read_frame(paths[0], options.label)
    words = train.select_dtypes(exclude="number")  # 01 is a word in test, too
    frames = [train, read_frame(paths[1], options.label, words)]
    name = folder.resolve().name
    if all(TEXT in frame for frame in frames):
        return read_text(name, frames, options)
    return read_table(name, frames, options.label, options.missing)


def read_images(folder: Path, image_size: int | None) -> Pair:
    """Return the training and the test images in a folder, resized to image_size."""
    paths = [first_of(folder, *names) for names in CONTENT]
    return [read_classes(path, image_size) if path.is_dir() else _read_npz(path) for path in paths]


def first_of(folder: Path, *names: str) -> Path:
    """Return the first of these names that exists in `folder`; FileNotFoundError if none does."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} holds no {' or '.join(names)}")


def resize(image: np.ndarray, size: int | None) -> np.ndarray:
    """Resize the shorter side of an image (H, W, channels), uint8, and cut out the centre."""
    if size is None or image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    width, height = (round(side * size / min(picture.size)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    # Pillow's bilinear filter widens with the scale, so it antialiases.
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    centre = resized.crop((left, top, left + size, top + size))
    return np.asarray(centre).reshape(size, size, -1)


def _read_npz(path: Path) -> RawSplit:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels, names = (arrays[key] for key in ("images", "labels", "class_names"))
        if names.ndim != 1:
            raise ValueError(
                f"class_names has the shape {names.shape}, but must be a list of names"
            )
        names = tuple(map(str, names.astype(str)))
    except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it is truncated or not an npz of the plain arrays "
            "images, labels and class_names; write it again with numpy.savez"
        ) from error
    return RawSplit(images, labels, names)


def read_classes(folder: Path, image_size: int | None) -> RawSplit:
    """Return the images in a folder with one subfolder a class, resized to image_size."""
    names = sorted(entry.name for entry in folder.glob("[!.]*/"))
    notes: Counter[str] = Counter()
    files = _image_files(folder, names, notes)
    if not files:
        raise ValueError(f"{folder} holds no images; give it one folder of images a class")
    images = []
    for path, _ in files:
        images.append(resize(_decode(path, notes), image_size))
        first, last = images[0].shape[:2], images[-1].shape[:2]
        if first != last:
            raise ValueError(
                f"{path} is {last} but {files[0][0]} is {first} (height, width); "
                "pass image_size to make them alike"
            )
    grey = sum(image.shape[2] == 1 for image in images)
    if 0 < grey < len(images):
        images = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in images]
        notes["grey images repeated in three channels, as others have colours"] = grey
    if notes := +notes:  # without zeros
        counts = "; ".join(f"{note}: {count}" for note, count in sorted(notes.items()))
        warnings.warn(f"{folder}: {counts}", stacklevel=2)
    return RawSplit(np.stack(images), np.array([label for _, label in files]), tuple(names))


def _image_files(folder: Path, names: list[str], notes: Counter[str]) -> list[tuple[Path, int]]:
    """Return the image files below `folder` with their labels, in order; count skipped files.

    Hidden files and LEFTOVERS are ignored. A class folder may be a symbolic link. Links inside it
    are skipped and counted, because they may form a loop.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    paths = [(path, None) for path in folder.glob("*") if path.is_file()]
    for label, name in enumerate(names):
        paths += [(path, label) for path in sorted((folder / name).rglob("*"))]
    files = []
    for path, label in paths:
        suffix, parts = path.suffix.lower(), path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or path.name.lower().endswith(LEFTOVERS):
            continue
        if path.is_dir():
            notes["links to folders within a class skipped"] += path.is_symlink()
        elif suffix not in IMG_EXTENSIONS:
            notes[f"files skipped for their suffix {suffix or '(none)'}"] += 1
        elif label is None:
            notes["images skipped for being in no class's folder"] += 1
        else:
            files.append((path, label))
    return files


def _decode(path: Path, notes: Counter[str]) -> np.ndarray:
    """Return the pixels of an image file, (H, W, 1 or 3), uint8; count images that are rescaled."""
    try:
        with Image.open(path) as picture:
            deep_colour, odd_grey = _has_deep_colour(picture), _has_odd_grey(picture)
            # An MPO file of a camera holds several views of one picture; Pillow reads the first.
            several = getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO"
            in_int32 = picture.mode == "I" and picture.format in ("PNG", "PPM")
            image = ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} cannot be read ({error}); replace or remove it") from error
    deep = in_int32 or image.mode.startswith("I;16")
    unaltered = deep or image.mode in UNALTERED
    problems = {
        "holds several pictures; save each to a file": several,
        "is 16-bit colour, of which only 8 bits a channel would be read; save it with 8 bits a "
        "channel": deep_colour,
        "is a TIFF of 12-bit grey, or one in which white is zero, which would be read as other "
        "levels; save it as grey of 8 or 16 bits in which black is zero": odd_grey,
        f"has pixels of mode {image.mode}, which 8 bits a channel cannot hold unaltered; save it "
        "as grey of 8 or 16 bits, or as RGB": not unaltered,
        "has transparent pixels, which have no colour; save it over the background that it should "
        "have": unaltered
        and image.has_transparency_data
        and (deep or image.convert("RGBA").getextrema()[3][0] < 255),
    }
    for problem, applies in problems.items():
        if applies:
            raise ValueError(f"image {path} {problem}")
    if deep:
        notes["images of 16 bits scaled from 0..65535 to 0..255"] += 1
        return ((np.asarray(image, np.uint32)[..., None] + 128) // 257).astype(np.uint8)
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def _has_deep_colour(picture: Image.Image) -> bool:
    """Return whether Pillow will cut 16-bit colours to 8 bits. Call it before pixels are read."""
    if picture.mode.startswith("I"):
        return False
    if picture.format == "PPM":
        return any(isinstance(tile.args, tuple) and tile.args[-1] > 255 for tile in picture.tile)
    # In BMP, "BGR;16" means 16 bits for all channels together.
    return picture.format in ("PNG", "TIFF") and ";16" in str(picture.tile)


def _has_odd_grey(picture: Image.Image) -> bool:
    """Return whether Pillow reads the deep grey of a TIFF file as other levels than 0..65535."""
    if picture.format != "TIFF" or not picture.mode.startswith("I;16"):
        return False
    bits, zero = (picture.tag_v2.get(tag) for tag in (258, 262))  # zero: 0 is white, 1 is black
    return bits != (16,) or zero != 1
