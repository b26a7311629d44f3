"""Pixels in [0, 1] -> what networks see: a mean and a deviation a channel, or ZCA whitening."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from ddlib.devices import send, unrounded


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
