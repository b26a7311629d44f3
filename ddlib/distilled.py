"""A distilled set: its samples, labels and origin, in one safetensors file."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F

from ddlib.data.base import DataSet
from ddlib.data.normalise import Normalisation, Whitening, pack, unpack
from ddlib.files import write_atomically
from ddlib.parameters import whole_keys

SUM_TOLERANCE = 1e-3  # of the sum of a row of soft labels


def hard_labels(class_count: int, ipc: int) -> torch.Tensor:
    """Return the labels (ipc x C,) of a distilled set, int64: grouped by class, ascending."""
    return torch.arange(class_count).repeat_interleave(ipc)


@dataclass(frozen=True)
class DistilledSet:
    """A synthetic set S of k = ipc x C samples, grouped by class in ascending label.

    samples: (k, ...) float32, normalised as the real set is; labels: (k,) int64, or soft ones that
    the method learned, (k, C) float32 probabilities. The class of a sample is decided by its place,
    also where another class has the largest soft label. data, method, parameters, seed and network
    (name and options; empty outside a study) say how S was made. learned: numbers that the method
    learned along with the samples, by name. factor: each stored image holds factor^2 smaller ones;
    networks are trained on the `decoded` set.
    """

    samples: torch.Tensor
    labels: torch.Tensor
    normalisation: Normalisation | Whitening
    classes: tuple[str, ...]
    data: str
    method: str
    parameters: dict[str, Any]
    seed: int
    network: dict[str, Any] = field(default_factory=dict)
    learned: dict[str, float] = field(default_factory=dict)
    factor: int = 1

    @property
    def k(self) -> int:
        return len(self.labels)

    @property
    def ipc(self) -> int:
        return self.k // len(self.classes)

    @property
    def hard_labels(self) -> torch.Tensor:
        """The class (k,) of each sample, int64, also where the labels are soft."""
        return hard_labels(len(self.classes), self.ipc)

    @property
    def decoded(self) -> "DistilledSet":
        """The set of k factor^2 samples that networks see: see `decode`."""
        labels = self.labels.repeat_interleave(self.factor**2, 0)
        return replace(self, samples=decode(self.samples, self.factor), labels=labels, factor=1)

    def pixels(self) -> torch.Tensor:
        """Return the stored images to look at: (k, H, W, channels) uint8."""
        unit = self.normalisation.denormalise(self.samples)
        return unit.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def save(self, path: Path) -> None:
        """Write the set to one safetensors file, atomically; equal sets give equal bytes.

        The file of a whitened set also holds `mean` and `matrix`: pixels are samples @ matrix^-1 +
        mean.
        """
        whitening, normalisation = pack(self.normalisation)
        tensors = {"samples": self.samples.contiguous(), "labels": self.labels, **whitening}
        described = {**vars(self), "normalisation": normalisation}
        described = {name: value for name, value in described.items() if name not in tensors}
        text = json.dumps(described, sort_keys=True)
        write_atomically(path, safetensors.torch.save(tensors, metadata={"distilled": text}))


def decode(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Cut images (k, channels, H, W) into factor x factor tiles, and enlarge these bilinearly.

    Returns (k factor^2, channels, H, W), the tiles of an image row by row; differentiable. With
    factor 1, samples of any kind are returned as they are. Source: Kim et al., "Dataset
    Condensation via Efficient Synthetic-Data Parameterization" (ICML 2022), section 4.1.
    """
    if factor == 1:
        return images
    tiles = images.unflatten(3, (factor, -1)).unflatten(2, (factor, -1))  # (k, c, f, h, f, w)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return F.interpolate(tiles, images.shape[2:], mode="bilinear", align_corners=False)


def encode(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Put each factor^2 images of (k factor^2, channels, H, W) into one, as the tiles of `decode`.

    Each is shrunken by averaging squares of factor x factor pixels. Returns (k, channels, H, W).
    """
    if factor == 1:
        return images
    tiles = F.avg_pool2d(images, factor).unflatten(0, (-1, factor, factor))
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def load_distilled(path: Path) -> DistilledSet:
    """Return the distilled set that `DistilledSet.save` wrote to `path`.

    Raises FileNotFoundError for a missing file, ValueError for a damaged or different one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no distilled set at {path}; check the path")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            described = json.loads(file.metadata()["distilled"])
            samples, labels = file.get_tensor("samples"), file.get_tensor("labels")
            described["normalisation"] = unpack(described["normalisation"], file.get_tensor)
        described["classes"] = tuple(described["classes"])
        described["parameters"] = {
            name: whole_keys(value) for name, value in described["parameters"].items()
        }
        return DistilledSet(samples, labels, **described)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole distilled set ({error}); delete it and distil again"
        ) from error


def check_set(synthetic: object, dataset: DataSet, method: str, ipc: int, seed: int) -> None:
    """Raise ValueError unless `synthetic` is a set of this data set, method, size and seed.

    It must hold `ipc` finite, normalised float32 samples of every class, in ascending label, and
    hard labels or probabilities. Pixels of 0 to 255 are recognised by their range: none is
    negative, and some are five times as bright as white. Pixels of 0 to 1 cannot be recognised.
    """
    if not isinstance(synthetic, DistilledSet):
        raise ValueError(
            f"it should be a DistilledSet of ipc={ipc}, not {type(synthetic).__name__}"
        )
    samples, labels = synthetic.samples, hard_labels(dataset.class_count, ipc)
    is_soft = synthetic.labels.ndim == 2
    shape = (len(labels), dataset.class_count) if is_soft else (len(labels),)
    expected = {
        "data": (dataset.name, synthetic.data),
        "method": (method, synthetic.method),
        "seed": (seed, synthetic.seed),
        "samples of shape": ((len(labels), *dataset.sample_shape), tuple(samples.shape)),
        "samples of type": (torch.float32, samples.dtype),
        "labels of shape": (shape, tuple(synthetic.labels.shape)),
        "labels of type": (torch.float32 if is_soft else torch.int64, synthetic.labels.dtype),
    }
    for name, (wanted, value) in expected.items():
        if wanted != value:
            raise ValueError(f"it should hold {name} {wanted!r}, not {value!r}")
    if synthetic.classes != dataset.classes:
        raise ValueError("it should have the classes of the data set, in their order")
    if is_soft:
        _check_soft(synthetic.labels)
    elif not torch.equal(synthetic.labels.cpu(), labels):
        raise ValueError(f"it should hold {ipc} samples of every class, in ascending label")
    if not samples.isfinite().all():
        raise ValueError("it should be finite, and some of its values are NaN or infinite")
    if synthetic.normalisation != dataset.normalisation:
        raise ValueError("it should be normalised as the data set is")
    if dataset.kind != "image":
        return
    low, high = (bound.item() for bound in samples.aminmax())
    bright = dataset.normalisation.normalise(torch.full((1, *dataset.sample_shape), 5.0)).max()
    if low >= 0 and high > bright:
        raise ValueError(
            f"it should hold normalised images, and its values of {low:.4g} to {high:.4g} are like "
            "pixels of 0 to 255; divide those by 255, and normalise them as the data set is"
        )


def _check_soft(labels: torch.Tensor) -> None:
    """Raise ValueError unless soft labels (k, C) are probabilities."""
    least, (low, high) = labels.min(), labels.sum(1).aminmax()
    if not (least >= 0 and low > 1 - SUM_TOLERANCE and high < 1 + SUM_TOLERANCE):
        raise ValueError(
            "its soft labels should be probabilities, at least 0 and with sum 1 in every row, but "
            f"the least is {least:.4g}, and rows sum to {low:.4g} to {high:.4g}; take the softmax "
            "of logits"
        )
