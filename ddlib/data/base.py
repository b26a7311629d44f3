"""A data set: a training and a test split, which share their normalisation and class names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch

from ddlib.data.normalise import Column, Normalisation, Whitening
from ddlib.devices import send

Kind = Literal["image", "vector", "sequence"]
"""What a sample is, and its shape: (channels, H, W), (D,), or T elements of E values, (T, E)."""

Rows = torch.Tensor | slice
"""Which samples: a tensor of indices (n,), a boolean mask (N,), or a slice."""


@dataclass(frozen=True)
class Pixels:
    """Images kept as bytes. `pixels[rows]` returns those rows normalised, as float32.

    values: (N, channels, H, W), uint8 in [0, white].
    """

    values: torch.Tensor
    normalisation: Normalisation
    white: int = 255

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def device(self) -> torch.device:
        return self.values.device

    def __getitem__(self, rows: Rows) -> torch.Tensor:
        is_indices = isinstance(rows, torch.Tensor) and rows.dtype == torch.int64
        # On a CPU, index_select takes a fifth of the time of indexing.
        values = self.values.index_select(0, rows) if is_indices else self.values[rows]
        return self.normalisation.normalise(values, self.white)

    def to(self, device: torch.device | str) -> "Pixels":
        return replace(self, values=self.values.to(device))


@dataclass(frozen=True)
class Subset:
    """The rows (n,) of some images. Nothing is copied until `subset[rows]` reads it."""

    samples: torch.Tensor | Pixels
    rows: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.samples.device

    def __getitem__(self, rows: Rows) -> torch.Tensor:
        return self.samples[self.rows[rows]]


@dataclass(frozen=True)
class Split:
    """Samples and labels (N,), int64.

    samples: Pixels, or a float32 tensor (N, ...) for whitened images and other kinds; see `at`.
    """

    samples: torch.Tensor | Pixels | Subset
    labels: torch.Tensor

    def at(self, rows: Rows) -> torch.Tensor:
        """Return the samples (n, ...) of some rows, normalised, on the split's device."""
        return self.samples[send(rows, self.device) if isinstance(rows, torch.Tensor) else rows]

    def subset(self, rows: torch.Tensor) -> "Split":
        """Return a split that holds only these rows (n,); no sample is copied."""
        return Split(Subset(self.samples, rows), self.labels[rows])

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.samples.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A training and a test split that share their normalisation and class names."""

    name: str
    train: Split
    test: Split
    normalisation: Normalisation | Whitening
    classes: tuple[str, ...]
    kind: Kind = "image"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of every sample, as its kind has it."""
        return tuple(self.train.samples.shape[1:])

    @property
    def class_count(self) -> int:
        return len(self.classes)

    @property
    def sizes(self) -> dict[str, Any]:
        """What a network must know of the data to be built: sample_shape and class_count."""
        return {"sample_shape": self.sample_shape, "class_count": self.class_count}


@dataclass(frozen=True)
class RawSplit:
    """A split as a reader of files returns it, before normalisation.

    values: images (N, H, W, channels), or (N, H, W) for grey, uint8 in [0, white]; for tables and
    texts floats, vectors (N, D) or sequences (N, T, E), see `Normalisation`. labels: (N,), integer.
    columns: of a table.
    """

    values: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    white: int = 255
    format: Literal["images", "tables", "texts"] = "images"
    columns: tuple[Column, ...] = ()

    @property
    def kind(self) -> Kind:
        if self.format == "images":
            return "image"
        return "vector" if self.values.ndim == 2 else "sequence"


Pair = list[RawSplit]  # training split, test split


def check_ipcs(ipcs: Sequence[int], dataset: DataSet) -> None:
    """Raise ValueError where a class has fewer training samples than one of `ipcs`."""
    counts = dataset.train.labels.cpu().bincount(minlength=dataset.class_count).tolist()
    fewest, largest = min(counts), max(ipcs, default=0)
    if largest > fewest:
        raise ValueError(
            f"k={largest * len(counts)} of {len(counts)} classes: ipc={largest} is more than the "
            f"{fewest} samples of class {dataset.classes[counts.index(fewest)]}; choose ipc <= "
            f"{fewest}, that is k <= {fewest * len(counts)}"
        )


def read_ipcs(ks: list[int], dataset: DataSet) -> list[int]:
    """Return the samples per class of the sizes `ks`, ascending; ValueError for an invalid k."""
    count = dataset.class_count
    for k in ks:
        if k % count:
            neighbours = [str(ipc * count) for ipc in (k // count, k // count + 1) if ipc]
            raise ValueError(
                f"k={k} is not a multiple of the {count} classes of {dataset.name}; choose "
                f"{' or '.join(neighbours)}"
            )
    ipcs = sorted({k // count for k in ks})
    check_ipcs(ipcs, dataset)
    return ipcs


def data_digest(dataset: DataSet) -> str:
    """Return a fingerprint of a data set's content. The name of the data set does not count.

    It covers kind, samples and labels, their shape and type, the class names and the normalisation.
    """
    content = hashlib.sha256(repr((dataset.kind, dataset.sample_shape, dataset.classes)).encode())
    for field in fields(dataset.normalisation):
        value = getattr(dataset.normalisation, field.name)
        is_tensor = isinstance(value, torch.Tensor)
        content.update(value.numpy().tobytes() if is_tensor else repr(value).encode())
    for split in (dataset.train, dataset.test):
        values, white = stored(split)
        content.update(repr((values.dtype, white)).encode())
        content.update(values.numpy().data)
        content.update(split.labels.numpy().data)
    return content.hexdigest()


def stored(split: Split) -> tuple[torch.Tensor, int | None]:
    """Return the tensor that holds a split's samples, and its white level (None if not pixels)."""
    if isinstance(split.samples, Pixels):
        return split.samples.values, split.samples.white
    return split.samples, None
