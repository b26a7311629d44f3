"""Normalise pixels for networks: zero mean and unit deviation per channel, or ZCA whitening."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ddlib.devices import send, unrounded

LARGEST_WHITENED = 4096  # values per image; the time grows with their cube


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of every channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

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

    def normalise(self, pixels: torch.Tensor, white: float = 1.0) -> torch.Tensor:
        """Pixels (N, channels, H, W) in [0, white] -> zero mean, unit deviation, float."""
        mean, std = self._constants(pixels)
        return _unit(pixels, white).sub_(mean).div_(std)

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, channels, H, W) -> pixels in [0, 1], clamped."""
        mean, std = self._constants(images)
        return (images * std + mean).clamp(0, 1)

    def _constants(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        channels, wanted = images.shape[-3], len(self.mean)
        if channels != wanted:
            raise ValueError(f"images have {channels} channels, but the normalisation has {wanted}")
        return _per_channel(self.mean, images), _per_channel(self.std, images)


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


def _per_channel(values: tuple[float, ...], images: torch.Tensor) -> torch.Tensor:
    """Return one value per channel as a tensor (channels, 1, 1), of the images' type and device."""
    return _sent(
        values, images.dtype if images.is_floating_point() else torch.float32, images.device
    )


@lru_cache(maxsize=16)  # so each tensor is sent to a GPU once
def _sent(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return send(torch.tensor(values, dtype=dtype).view(-1, 1, 1), device)


def pack(normalisation: Normalisation | Whitening) -> tuple[dict[str, torch.Tensor], Any]:
    """Return a normalisation as tensors by name and as plain data (None for a whitening)."""
    if isinstance(normalisation, Whitening):
        return {"mean": normalisation.mean, "matrix": normalisation.matrix}, None
    return {}, asdict(normalisation)


def unpack(plain: Any, tensor: Callable[[str], torch.Tensor]) -> Normalisation | Whitening:
    """Undo `pack`; tensor(name): returns the packed tensor of that name."""
    if plain is None:
        return Whitening(tensor("mean"), tensor("matrix"))
    return Normalisation(tuple(plain["mean"]), tuple(plain["std"]))
