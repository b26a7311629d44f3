"""One copy of a data set for all processes of a study: a file that each maps into its memory.

What is mapped is read as it is needed, and kept once however many processes see it; nobody decodes
images again, or loads the libraries that do.
"""

import json
from pathlib import Path

import safetensors
import safetensors.torch

from ddlib.data.base import DataSet, Split, images_digest
from ddlib.data.normalise import pack, unpack
from ddlib.files import reading, write_atomically

SPLITS = ("train", "test")


def one_copy(dataset: DataSet, digest: str, path: Path) -> DataSet:
    """Return the data set of that `images_digest` as `path` holds it, written if it is not there.

    Raises ValueError as `read` does.
    """
    if not path.exists():
        write(dataset, path)
    return read(path, digest)


def write(dataset: DataSet, path: Path) -> None:
    """Write images, labels, normalisation and names to one safetensors file."""
    tensors, normalisation = pack(dataset.normalisation)
    for name in SPLITS:
        split = getattr(dataset, name)
        tensors |= {f"{name}.images": split.images, f"{name}.labels": split.labels}
    described = {"name": dataset.name, "normalisation": normalisation, "classes": dataset.classes}
    write_atomically(path, safetensors.torch.save(tensors, {"data": json.dumps(described)}))


def read(path: Path, digest: str) -> DataSet:
    """Return the data set of the file, mapped into memory.

    Raises ValueError, with the path, unless it is a whole file of that `images_digest`.
    """
    with reading(path):
        with safetensors.safe_open(str(path), "pt") as file:
            described = json.loads(file.metadata()["data"])
            splits = {
                name: Split(file.get_tensor(f"{name}.images"), file.get_tensor(f"{name}.labels"))
                for name in SPLITS
            }
            normalisation = unpack(described["normalisation"], file.get_tensor)
        classes = tuple(described["classes"])
        dataset = DataSet(described["name"], **splits, normalisation=normalisation, classes=classes)
        if images_digest(dataset) != digest:
            raise ValueError("it holds other images than this study's")
    return dataset
