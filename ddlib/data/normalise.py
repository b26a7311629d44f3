"""Normalise samples for networks: zero mean and unit deviation, or ZCA whitening of images."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ddlib.devices import send, unrounded

LARGEST_WHITENED = 4096  # values per image; the time grows with their cube


Column = tuple[str, tuple[str, ...]]
"""A column of a table: its name, and its words, one-hot; no words for a column of numbers."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation: of each channel of images, of each value of vectors and tokens.

    Images are pixels in [0, 1], (N, channels, H, W). Vectors are (N, D), and sequences (N, T, E):
    their rows of zeros pad, and stay zeros. columns: of a table; one-hot values have mean 0 and
    deviation 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    columns: tuple[Column, ...] = ()

    @classmethod
    def fit(cls, pixels: torch.Tensor, white: int) -> "Normalisation":
        """Return the statistics of pixels (N, channels, H, W), uint8, divided by white.

        They are computed exactly, from the counts of grey levels.
        """
        levels, mean, std = np.arange(256) / white, [], []
        for channel in pixels.unbind(1):
            counts = channel.flatten().bincount(minlength=256).numpy()
            average = np.average(levels, weights=counts)
            deviation = np.sqrt(np.average((levels - average) ** 2, weights=counts))
            mean.append(float(average))
            std.append(max(float(deviation), 1 / 255))  # a constant channel must not divide by 0
        return cls(tuple(mean), tuple(std))

    @classmethod
    def fit_last_axis(cls, values: np.ndarray, columns: tuple[Column, ...] = ()) -> "Normalisation":
        """Return the statistics of vectors (N, D), or of the tokens of sequences (N, T, E)."""
        rows = values.reshape(-1, values.shape[-1])
        rows = rows[rows.any(1)] if values.ndim == 3 else rows
        is_number = [repeat for _, words in columns for repeat in [not words] * max(1, len(words))]
        is_number = np.array(is_number or [True] * rows.shape[1])
        std = rows.std(0, dtype=np.float64)
        mean = np.where(is_number, rows.mean(0, dtype=np.float64), 0.0)
        std = np.where(is_number & (std > 0), std, 1.0)
        return cls(tuple(mean.tolist()), tuple(std.tolist()), columns)

    def normalise(self, samples: torch.Tensor, white: float = 1.0) -> torch.Tensor:
        """Pixels in [0, white], vectors or sequences -> zero mean, unit deviation, float."""
        mean, std = self._constants(samples)
        return _unpadded(samples, _unit(samples, white).sub_(mean).div_(std))

    def denormalise(self, samples: torch.Tensor) -> torch.Tensor:
        """Undo `normalise`; pixels are clamped to [0, 1]."""
        mean, std = self._constants(samples)
        values = samples * std + mean
        return values.clamp(0, 1) if samples.ndim == 4 else _unpadded(samples, values)

    def _constants(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        is_image = samples.ndim == 4
        axis, what, parts = (-3, "images", "channels") if is_image else (-1, "samples", "values")
        count, wanted = samples.shape[axis], len(self.mean)
        if count != wanted:
            raise ValueError(f"{what} have {count} {parts}, but the normalisation has {wanted}")
        return _per_channel(self.mean, samples), _per_channel(self.std, samples)


def _unpadded(samples: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return values computed from samples, with zeros where sequences (N, T, E) are padded."""
    if samples.ndim != 3:
        return values
    return values.masked_fill((samples == 0).all(-1, keepdim=True), 0.0)


@dataclass(frozen=True, eq=False)
class Whitening:
    """ZCA whitening: decorrelates the pixels of an image and changes them as little as possible.

    mean: (P,) for the P = channels x H x W values of an image; matrix: (P, P), symmetric.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Whitening):
            return NotImplemented
        return torch.equal(self.mean, other.mean) and torch.equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash(self.mean.numpy().tobytes())

    @classmethod
    def fit(cls, pixels: torch.Tensor, white: int) -> "Whitening":
        """Return the whitening of pixels (N, channels, H, W), uint8, divided by white.

        Its matrix is U (S + 0.1)^-1/2 U^T, where U S U^T is the covariance. The 0.1 limits the
        gain along directions of little variance. Sums of whole numbers are exact in float64, in
        any order. Source: Cazenavette et al. (CVPR 2022), kornia's ZCAWhitening with eps=0.1.
        """
        rows, (channels, height, width) = pixels.flatten(1), pixels.shape[1:]
        count, values = rows.shape
        if values > LARGEST_WHITENED:
            raise ValueError(
                f"zca: true needs a matrix of {values} x {values} values for images {height} x "
                f"{width}, too large to decompose; choose an image_size of at most "
                f"{math.isqrt(LARGEST_WHITENED // channels)}"
            )
        products = torch.zeros(values, values, dtype=torch.float64)
        for chunk in map(torch.Tensor.double, rows.split(1024)):
            products.addmm_(chunk.T, chunk)
        mean = rows.sum(0).double() / count
        covariance = (products - count * mean.outer(mean)) / max(count - 1, 1) / white**2
        variances, axes = torch.linalg.eigh(covariance)
        matrix = axes * (variances + 0.1).rsqrt() @ axes.T
        return cls((mean / white).float(), matrix.float())

    def normalise(self, pixels: torch.Tensor, white: float = 1.0) -> torch.Tensor:
        """Pixels (N, channels, H, W) in [0, white] -> zero mean, decorrelated, float."""
        self._check(pixels)
        unit = _unit(pixels, white)
        with unrounded(unit.device):
            mean, matrix = self.mean.to(unit), self.matrix.to(unit)
            return ((unit.flatten(1) - mean) @ matrix).view(unit.shape)

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Whitened images (N, channels, H, W) -> pixels in [0, 1], clamped."""
        self._check(images)
        with unrounded(images.device):
            mean, inverse = self.mean.to(images), _inverse(self).to(images)
            return (images.flatten(1) @ inverse + mean).view(images.shape).clamp(0, 1)

    def _check(self, images: torch.Tensor) -> None:
        values, wanted = images.shape[1:].numel(), len(self.mean)
        if values != wanted:
            raise ValueError(f"images have {values} values each, but the whitening has {wanted}")


@lru_cache(maxsize=1)  # the sets of a study share one whitening
def _inverse(whitening: Whitening) -> torch.Tensor:
    return torch.linalg.inv(whitening.matrix.double()).to(whitening.matrix.dtype)


def _unit(pixels: torch.Tensor, white: float) -> torch.Tensor:
    """Return a copy of pixels / white: float32, unless they are floats of another kind."""
    # A tensor: a GPU replaces a division by a Python number with an inexact multiplication.
    divisor = _per_channel((white,), pixels)
    return pixels.to(divisor.dtype, copy=True).div_(divisor)


def _per_channel(values: tuple[float, ...], samples: torch.Tensor) -> torch.Tensor:
    """Return values as a tensor that broadcasts over samples, of their type and device.

    One value per channel of images, (channels, 1, 1); else one per value of the last axis.
    """
    dtype = samples.dtype if samples.is_floating_point() else torch.float32
    return _sent(values, (-1, 1, 1) if samples.ndim == 4 else (-1,), dtype, samples.device)


@lru_cache(maxsize=16)  # so each tensor is sent to a GPU once
def _sent(
    values: tuple[float, ...], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    return send(torch.tensor(values, dtype=dtype).view(shape), device)


def pack(normalisation: Normalisation | Whitening) -> tuple[dict[str, torch.Tensor], Any]:
    """Return a normalisation as tensors by name and as plain data (None for a whitening)."""
    if isinstance(normalisation, Whitening):
        return {"mean": normalisation.mean, "matrix": normalisation.matrix}, None
    return {}, asdict(normalisation)


def unpack(plain: Any, tensor: Callable[[str], torch.Tensor]) -> Normalisation | Whitening:
    """Undo `pack`; tensor(name): returns the packed tensor of that name."""
    if plain is None:
        return Whitening(tensor("mean"), tensor("matrix"))
    columns = tuple((name, tuple(words)) for name, words in plain["columns"])
    return Normalisation(tuple(plain["mean"]), tuple(plain["std"]), columns)
