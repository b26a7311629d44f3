"""A data set: a training and a test split, which share their normalisation and class names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from ddlib.data.normalise import Normalisation, Whitening


@dataclass(frozen=True)
class Split:
    """Images (N, channels, H, W), float32, normalised and contiguous; labels (N,), int64."""

    images: torch.Tensor
    labels: torch.Tensor


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


def images_digest(dataset: DataSet) -> str:
    """Return a fingerprint of a data set, so that other data never passes for these.

    It holds every image and label, their shape, the class names and the normalisation.
    """
    content = hashlib.sha256(repr((dataset.image_shape, dataset.classes)).encode())
    for declared in fields(dataset.normalisation):
        value = getattr(dataset.normalisation, declared.name)
        is_tensor = isinstance(value, torch.Tensor)
        content.update(value.numpy().tobytes() if is_tensor else repr(value).encode())
    for split in (dataset.train, dataset.test):
        content.update(split.images.numpy().data)
        content.update(split.labels.numpy().data)
    return content.hexdigest()
